//! A CUDA driver and cuBLASLt in software.
#![allow(non_snake_case)]

mod blas;
mod call;
mod driver;
mod machine;
mod settings;
