//! Gradients of the hidden states of encoder and decoder.

use super::{Capacity, ModelConfig};
use crate::device::{Device, MatrixBuffer, ModelFloat};
use crate::ops::Result;

/// `[T, H]` gradients, each of what its field names.
#[derive(Debug)]
pub(super) struct HiddenGradients<T: ModelFloat> {
    /// The encoder's output; in its backward pass, each layer's
    pub encoder: MatrixBuffer<T>,
    /// The decoder's output
    pub decoder: MatrixBuffer<T>,
    /// The decoder's content stream
    pub content: MatrixBuffer<T>,
    /// The query stream, or the only one, of the layer whose backward pass runs
    pub query: MatrixBuffer<T>,
}

impl<T: ModelFloat> HiddenGradients<T> {
    pub(super) fn new(device: &Device, config: &ModelConfig, capacity: Capacity) -> Result<Self> {
        let matrix = || device.matrix(capacity.tokens, config.hidden_size);
        Ok(Self { encoder: matrix()?, decoder: matrix()?, content: matrix()?, query: matrix()? })
    }
}
