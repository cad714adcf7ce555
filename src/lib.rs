//! RetroMAE pre-training as a library of hand-written kernels.
pub mod device;
pub mod model;
pub mod ops;
pub mod random;
pub mod reference;
