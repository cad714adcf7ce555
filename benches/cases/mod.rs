//! The operations' cases: one module an operation with its sizes, inputs and bound, its launch, and the unfused composition beside it. Benches time
//! them, and tests run them at sizes of their own.
//!
//! Each module states what its bound counts; e is the size of an element, f32 gradients and masters take 4 bytes.
#![allow(dead_code)]

pub mod adamw;
pub mod attention;
pub mod bag_of_words;
#[path = "../baseline/mod.rs"]
pub mod baseline;
pub mod ceiling;
pub mod cross_entropy;
pub mod data;
pub mod embedding;
mod export;
pub mod layer_norm;
pub mod masks;
pub mod mma_emulation;
pub mod step;
mod tutorial;
pub mod work;

use retromae::device::ModelFloat;

pub use export::export;
pub use work::{
    Bound, Case, FUSED, OWN_PRODUCT, Operation, Outcome, Pass, Rank, Results, Scale, UNFUSED, Variant, Work,
    named,
};

/// Returns every operation, in the order in which they are measured.
pub fn operations<T: ModelFloat>(scale: Scale) -> Vec<Operation<T>> {
    [
        ceiling::operations,
        attention::operations,
        cross_entropy::operations,
        bag_of_words::operations,
        layer_norm::operations,
        embedding::operations,
        adamw::operations,
        masks::operations,
        mma_emulation::operations,
        step::operations,
        tutorial::operations,
    ]
    .into_iter()
    .flat_map(|operations| operations(scale))
    .collect()
}
