//! RetroMAE pre-training as a library of hand-written kernels that run on GPUs and, the same source, on the CPU.
//!
//! RetroMAE (Xiao et al., [arXiv 2205.12035](https://arxiv.org/abs/2205.12035)) trains a BERT encoder for retrieval: a one-layer decoder
//! must rebuild each sentence from its vector. This crate holds every kernel of that step, fused by hand, with an interface for each; a
//! [`Model`](model::Model) that runs the step without allocating; and the same mathematics in plain f64 as the reference for both. Kernels are
//! CUDA C++. The *CPU emulator* runs each thread of a block on the CPU, so everything can be run, tested and debugged without a GPU.
//!
//! Bias and GELU of one row, forward, in the CPU emulator:
//!
//! ```
//! use retromae::device::Device;
//! use retromae::ops::bias_gelu;
//!
//! let device = Device::host()?;
//! let input = device.upload(&[-3.0f32, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0])?;
//! let bias = device.upload(&[1.0f32; 8])?;
//! let mut output = device.zeros::<f32>(8)?;
//! let forward = bias_gelu::Forward {
//!     input: input.matrix(1, 8)?,
//!     bias: bias.view(),
//!     output: output.matrix_mut(1, 8)?,
//! };
//! bias_gelu::forward(&device.stream(), forward)?;
//! let output = output.read()?;
//! assert_eq!(output[2], 0.0);
//! assert!((output[3] - 0.841_345).abs() < 1e-5);
//! # Ok::<(), retromae::ops::Error>(())
//! ```
//!
//! `examples/` takes one idea each: an operation, attention with your own mask, two-stream attention, linear + cross-entropy, a training step, a
//! trainer of your own, a CUDA graph, a Hugging Face checkpoint, a trainer over operations alone.
//!
//! # Modules
//!
//! | module | contents |
//! |---|---|
//! | [`device`] | memory, streams and kernel launches, on the host or a CUDA device |
//! | [`ops`] | one safe, typed interface for each operation: attention, cross-entropy, LayerNorm, … |
//! | [`model`] | sizes, batches, the [parameter arena](model::ParameterArena), parameters by their Hugging Face names, the training step, [`model::io`] to save and load |
//! | [`random`] | counter-based samples: dropout and masks are the same on every device |
//! | [`mod@reference`] | the step in f64, slow and obvious, the oracle for every kernel |
//! | `data` | corpus, tokenizer, token stores and packed batches (feature `train`) |
//! | `train` | the learning-rate schedule and the record of a run (feature `train`) |
//! | `eval` | retrieval scores beside BM25 (feature `train`) |
//!
//! # Environment
//!
//! [`Device::host`](device::Device::host) reads its options from the environment, and [`HostOptions`](device::HostOptions) sets the same in code.
//! `docs/environment.md` lists all variables.
#![deny(missing_docs)]

mod common;
#[cfg(feature = "train")]
pub mod data;
pub mod device;
#[cfg(feature = "train")]
pub mod eval;
pub mod model;
pub mod ops;
pub mod reference;
#[cfg(feature = "train")]
pub mod train;

pub use common::random;

/// The README's code, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
