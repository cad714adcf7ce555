//! One module an operation. Each states what its bound counts; e is the size of an element, f32 gradients and masters take 4 bytes.

mod adamw;
mod attention;
mod bag_of_words;
mod ceiling;
mod cross_entropy;
mod embedding;
mod layer_norm;
mod masks;
mod mma_emulation;
mod step;
mod tutorial;

use retromae::device::ModelFloat;

use crate::harness::Bench;

/// Benchmarks all operations, with elements of `T`.
pub fn all<T: ModelFloat>(bench: &mut Bench) {
    ceiling::bench::<T>(bench);
    attention::bench::<T>(bench);
    cross_entropy::bench::<T>(bench);
    bag_of_words::bench::<T>(bench);
    layer_norm::bench::<T>(bench);
    embedding::bench::<T>(bench);
    adamw::bench(bench);
    masks::bench(bench);
    mma_emulation::bench(bench);
    step::bench::<T>(bench);
    tutorial::bench::<T>(bench);
}
