//! Tests of the simulation, with a client that finds it as any client would: by the names of NVIDIA's libraries.

mod blas;
mod capture;
mod client;
mod context;
mod memory;
mod process;
mod streams;
