//! The driver's exported functions: arguments in, the model's answer out.
//!
//! All of them are `unsafe` for the reasons of the driver itself: pointers must be valid for what the function reads or writes. Handles need
//! not be; they are looked up.
#![allow(clippy::missing_safety_doc)]

mod context;
mod copy;
mod error;
mod event;
mod graph;
mod launch;
mod memory;
mod module;
mod pool;
mod stream;
