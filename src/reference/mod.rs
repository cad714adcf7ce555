//! The whole training step in plain f64, forward and backward: slow, obvious, and the judge of every kernel.
//!
//! All tensors are row-major slices. Nothing here is parallel, fused or cached beyond what the mathematics needs; the
//! gradients are themselves judged by finite differences in `tests/gradients.rs`. Sizes and ids are not validated:
//! a wrong one panics on an index.

pub mod attention;
pub mod cross_entropy;
pub mod embedding;
pub mod gelu;
pub mod layer_norm;
pub mod linear;
pub mod mask;
pub mod optimizer;
pub mod tensor;
