//! Scratch buffers shared by all layers; nothing in them lives from one layer to the next.

use super::{Capacity, ModelConfig};
use crate::device::{Device, MatrixBuffer, ModelFloat};
use crate::ops::Result;

#[derive(Debug)]
pub(super) struct Scratch<T: ModelFloat> {
    /// `[T, H]` output of a linear layer, before LayerNorm
    pub projection: MatrixBuffer<T>,
    pub d_projection: MatrixBuffer<T>,
    pub d_attention_output: MatrixBuffer<T>,
    pub d_head_outputs: MatrixBuffer<T>,
    /// `[T, 3H]`
    pub d_query_key_value: MatrixBuffer<T>,
    /// `[T, F]` gradient of the feed-forward network's first layer, before bias and GELU
    pub d_wide: MatrixBuffer<T>,
    /// `[T, F]` the same after GELU
    pub d_activated: MatrixBuffer<T>,
}

impl<T: ModelFloat> Scratch<T> {
    pub(super) fn new(device: &Device, config: &ModelConfig, capacity: Capacity) -> Result<Self> {
        let hidden = config.hidden_size;
        let matrix = |columns| device.matrix(capacity.tokens, columns);
        Ok(Self {
            projection: matrix(hidden)?,
            d_projection: matrix(hidden)?,
            d_attention_output: matrix(hidden)?,
            d_head_outputs: matrix(hidden)?,
            d_query_key_value: matrix(3 * hidden)?,
            d_wide: matrix(config.intermediate_size)?,
            d_activated: matrix(config.intermediate_size)?,
        })
    }
}
