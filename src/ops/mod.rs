//! The operations: one file each, with a safe, typed interface to its kernels.
//!
//! An operation checks its arguments, builds the kernel's params struct and enqueues the launch. It never allocates, waits or reads
//! device memory: buffers and workspace are the caller's, and a `workspace` query says how much is needed.

pub mod adamw;
pub mod attention;
pub mod bag_of_words;
pub mod bias_gelu;
pub mod column_sum;
pub mod cross_entropy;
mod dropout;
pub mod embedding;
mod error;
pub mod group_by_key;
pub mod layer_norm;
pub mod linear;
mod logits;
pub mod masks;
pub mod matmul;
mod packed;
pub mod reduce;
pub mod rows;
pub mod segment_sum;
#[cfg(feature = "test-kernels")]
#[doc(hidden)]
pub mod tutorial;
mod workspace;

pub use dropout::{Dropout, rng_state};
pub use error::{Error, Result};
pub(crate) use error::{require_length, wrong};
pub use packed::{Packed, PackedBatch};
pub use workspace::Workspace;
