//! RetroMAE pre-training as a library of hand-written kernels.
#[cfg(feature = "train")]
pub mod data;
#[cfg(feature = "train")]
pub mod eval;
pub mod model;
pub mod random;
#[cfg(feature = "train")]
pub mod train;
