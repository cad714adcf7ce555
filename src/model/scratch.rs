//! Buffers that every layer uses in turn and that hold nothing between them.

use super::head::HEAD_ALGORITHM;
use super::shape::labelled_capacity;
use super::{Capacity, ModelConfig};
use crate::device::{Buffer, Device, ModelFloat};
use crate::ops::{
    Result, bag_of_words, column_sum, cross_entropy, embedding, layer_norm, reduce, segment_sum,
};

/// Bytes of logits that exist at once on the host device: a share of a processor's last-level cache.
const HOST_LOGIT_BYTES: usize = 8 << 20;
/// Rows of logits that exist at once on a GPU: each chunk reads and writes the whole f32 gradient of the embeddings, which costs as much as a
/// thousand rows of products, so chunks are several thousand rows.
const CUDA_LOGIT_ROWS: usize = 4096;

/// Workspace of the cross-entropy for chunks of `rows` rows.
fn head_bytes<T: ModelFloat>(config: &ModelConfig, rows: usize) -> usize {
    cross_entropy::workspace(HEAD_ALGORITHM, T::DTYPE, rows, config.hidden_size, config.vocab_size)
}

fn logit_rows<T: ModelFloat>(device: &Device, config: &ModelConfig, capacity: Capacity) -> usize {
    let row_bytes = head_bytes::<T>(config, 1);
    let rows = if device.name() == "host" { (HOST_LOGIT_BYTES / row_bytes).max(64) } else { CUDA_LOGIT_ROWS };
    rows.min(labelled_capacity(capacity))
}

#[derive(Debug)]
pub(super) struct Scratch<T: ModelFloat> {
    /// `[T, H]`: a product before its LayerNorm
    pub projection: Buffer<T>,
    pub d_projection: Buffer<T>,
    pub d_attention_output: Buffer<T>,
    pub d_context: Buffer<T>,
    pub d_query_key_value: Buffer<T>,
    /// `[T, F]`
    pub d_wide: Buffer<T>,
    pub d_activated: Buffer<T>,
    /// The workspace of the heads' losses.
    pub head: Buffer<u8>,
    /// The workspace of whatever sums columns or reduces.
    pub floats: Buffer<f32>,
}

/// Sizes in elements, in the order of the fields.
struct Sizes {
    hidden: usize,
    wide: usize,
    /// Bytes
    head: usize,
    floats: usize,
}

impl Sizes {
    fn new<T: ModelFloat>(
        device: &Device,
        config: &ModelConfig,
        capacity: Capacity,
        parameters: usize,
    ) -> Self {
        let (tokens, hidden) = (capacity.tokens, config.hidden_size);
        let labelled = labelled_capacity(capacity);
        let logit_rows = logit_rows::<T>(device, config, capacity);
        let bag_bytes = if config.has_bag_of_words() {
            bag_of_words::workspace(
                HEAD_ALGORITHM,
                T::DTYPE,
                capacity.sentences,
                logit_rows,
                config.vocab_size,
            )
        } else {
            0
        };
        let floats = [
            column_sum::workspace(tokens, config.intermediate_size.max(3 * hidden)),
            column_sum::workspace(labelled, hidden),
            layer_norm::backward_workspace(labelled, hidden),
            embedding::backward_workspace(tokens, hidden),
            segment_sum::workspace(tokens.max(capacity.sentences), hidden),
            reduce::workspace(capacity.sentences),
            reduce::workspace(parameters),
        ];
        Self {
            hidden: tokens * hidden,
            wide: tokens * config.intermediate_size,
            head: head_bytes::<T>(config, logit_rows).max(bag_bytes),
            floats: floats.into_iter().max().unwrap_or(0),
        }
    }
}

impl<T: ModelFloat> Scratch<T> {
    /// `parameters` is the size of the arena, whose gradient norm is reduced here.
    pub(super) fn new(
        device: &Device,
        config: &ModelConfig,
        capacity: Capacity,
        parameters: usize,
    ) -> Result<Self> {
        let sizes = Sizes::new::<T>(device, config, capacity, parameters);
        Ok(Self {
            projection: device.zeros(sizes.hidden)?,
            d_projection: device.zeros(sizes.hidden)?,
            d_attention_output: device.zeros(sizes.hidden)?,
            d_context: device.zeros(sizes.hidden)?,
            d_query_key_value: device.zeros(3 * sizes.hidden)?,
            d_wide: device.zeros(sizes.wide)?,
            d_activated: device.zeros(sizes.wide)?,
            head: device.zeros(sizes.head)?,
            floats: device.zeros(sizes.floats)?,
        })
    }

    pub(super) fn bytes(
        device: &Device,
        config: &ModelConfig,
        capacity: Capacity,
        parameters: usize,
    ) -> usize {
        let sizes = Sizes::new::<T>(device, config, capacity, parameters);
        (7 * sizes.hidden + 2 * sizes.wide) * T::DTYPE.bytes() + sizes.head + 4 * sizes.floats
    }
}
