//! The whole training step in plain f64, forward and backward: slow, obvious, and the oracle of every kernel.
//!
//! All tensors are row-major slices. Nothing here is parallel, fused or cached beyond what the mathematics needs; the gradients are themselves
//! checked by finite differences in `tests/suite/gradients.rs`. Sizes and ids are not validated: a wrong one panics on an index.

pub mod attention;
pub mod bag_of_words;
pub mod cross_entropy;
pub mod embedding;
pub mod gelu;
pub mod head;
pub mod layer;
pub mod layer_norm;
pub mod linear;
pub mod mask;
pub mod model;
pub mod optimizer;
pub mod parameters;
pub mod tensor;

pub use model::{Step, embed, step};
pub use parameters::{Parameters, parameter_shapes};
