//! The functions of `include/retromae.h`, called as C calls them: the same bits as Rust's, and a status and a text for every bad call.

mod cases;
mod common;
mod cuda;
mod equality;
mod handles;
mod host_functions;
mod refusals;
mod threads;
