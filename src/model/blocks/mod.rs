//! The blocks of a transformer, each with its parameters, the activations that its forward pass saves, and a backward pass that adds to the
//! gradients of its parameters.

mod add_norm;
mod attention;
mod dense_gelu;
mod embeddings;
mod feed_forward;
mod head;
mod layer;
mod linear;
mod norm;
mod transform;

pub(super) use attention::Streams;
pub(super) use embeddings::{EmbeddingKind, EmbeddingTables, Embeddings};
pub(super) use head::{Head, HeadOutputs};
pub(super) use layer::Layer;
