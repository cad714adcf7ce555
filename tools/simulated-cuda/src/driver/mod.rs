//! The driver's exported functions: each passes its arguments to the simulated machine and stores the result.
//!
//! All of them are `unsafe` for the same reason as the driver's: pointers must be valid for the function's reads and writes. Handles need
//! not be valid; they are looked up.
#![allow(clippy::missing_safety_doc)]

mod context;
mod copy;
mod error;
mod event;
mod graph;
mod launch;
mod memory;
mod module;
mod pointer;
mod pool;
mod stream;
