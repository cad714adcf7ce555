//! One module an operation. Each states what its bound counts; e is the size of an element, f32 gradients and masters take 4 bytes.

pub mod adamw;
pub mod attention;
pub mod bag_of_words;
pub mod ceiling;
pub mod cross_entropy;
pub mod embedding;
pub mod layer_norm;
pub mod masks;
pub mod mma_emulation;
pub mod step;
pub mod tutorial;
