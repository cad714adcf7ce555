//! RetroMAE pre-training as a library of hand-written kernels.
#[cfg(feature = "train")]
pub mod data;
pub mod device;
#[cfg(feature = "train")]
pub mod eval;
pub mod model;
pub mod ops;
pub mod random;
pub mod reference;
#[cfg(feature = "train")]
pub mod train;
