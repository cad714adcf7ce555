//! Buffers that every layer uses in turn and that hold nothing between them.

use super::inputs::labelled_capacity;
use super::{Capacity, ModelConfig};
use crate::device::{Buffer, Device, Float};
use crate::ops::{Result, column_sum, cross_entropy, embedding, layer_norm, reduce};

/// Rows of logits that exist at once, unless the whole batch has fewer.
const LOGIT_ROWS: usize = 1024;

#[derive(Debug)]
pub(super) struct Scratch<T: Float> {
    /// `[T, H]`: a product before its LayerNorm
    pub projection: Buffer<T>,
    pub d_projection: Buffer<T>,
    pub d_attention_output: Buffer<T>,
    pub d_context: Buffer<T>,
    pub d_query_key_value: Buffer<T>,
    /// `[T, F]`
    pub d_wide: Buffer<T>,
    pub d_activated: Buffer<T>,
    pub logits: Buffer<T>,
    /// The workspace of whatever sums columns or reduces.
    pub floats: Buffer<f32>,
}

/// Sizes in elements, in the order of the fields.
struct Sizes {
    hidden: usize,
    wide: usize,
    logits: usize,
    floats: usize,
}

impl Sizes {
    fn new(config: &ModelConfig, capacity: Capacity, parameters: usize) -> Self {
        let (tokens, hidden) = (capacity.tokens, config.hidden_size);
        let labelled = labelled_capacity(capacity);
        let logit_rows = LOGIT_ROWS.min(labelled);
        let floats = [
            column_sum::workspace(tokens, config.intermediate_size.max(3 * hidden)),
            column_sum::workspace(labelled, hidden),
            layer_norm::backward_workspace(labelled, hidden),
            embedding::backward_workspace(tokens, hidden),
            cross_entropy::workspace_sums(logit_rows, config.vocab_size),
            reduce::workspace(labelled),
            reduce::workspace(parameters),
        ];
        Self {
            hidden: tokens * hidden,
            wide: tokens * config.intermediate_size,
            logits: cross_entropy::workspace_logits(logit_rows, config.vocab_size),
            floats: floats.into_iter().max().unwrap_or(0),
        }
    }
}

impl<T: Float> Scratch<T> {
    /// `parameters` is the size of the arena, whose gradient norm is reduced here.
    pub(super) fn new(
        device: &Device,
        config: &ModelConfig,
        capacity: Capacity,
        parameters: usize,
    ) -> Result<Self> {
        let sizes = Sizes::new(config, capacity, parameters);
        Ok(Self {
            projection: device.zeros(sizes.hidden)?,
            d_projection: device.zeros(sizes.hidden)?,
            d_attention_output: device.zeros(sizes.hidden)?,
            d_context: device.zeros(sizes.hidden)?,
            d_query_key_value: device.zeros(3 * sizes.hidden)?,
            d_wide: device.zeros(sizes.wide)?,
            d_activated: device.zeros(sizes.wide)?,
            logits: device.zeros(sizes.logits)?,
            floats: device.zeros(sizes.floats)?,
        })
    }

    pub(super) fn bytes(config: &ModelConfig, capacity: Capacity, parameters: usize) -> usize {
        let sizes = Sizes::new(config, capacity, parameters);
        (7 * sizes.hidden + 2 * sizes.wide + sizes.logits) * T::DTYPE.bytes() + 4 * sizes.floats
    }
}
