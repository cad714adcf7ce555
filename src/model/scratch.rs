//! Scratch buffers shared by all layers; nothing in them lives from one layer to the next.

use super::shape::labeled_capacity;
use super::{Capacity, ModelConfig};
use crate::device::{Buffer, Device, ModelFloat};
use crate::ops::cross_entropy::Algorithm;
use crate::ops::{Result, Workspace, bag_of_words, column_sum, cross_entropy, embedding, layer_norm, reduce};

/// The algorithm of the losses: it supports every dtype, and is the faster one in the CPU emulator.
pub(super) const HEAD_ALGORITHM: Algorithm = Algorithm::Library;
/// Bytes of logits that exist at once in the CPU emulator: a fraction of a processor's last-level cache.
const HOST_LOGIT_BYTES: usize = 8 << 20;
/// Rows of logits that exist at once on a GPU: each chunk reads and writes the whole f32 gradient of the embeddings, which costs as much as the
/// matmuls of a thousand rows, so chunks are several thousand rows.
const CUDA_LOGIT_ROWS: usize = 4096;

/// Workspace of the cross-entropy for chunks of `rows` rows.
fn head_workspace<T: ModelFloat>(config: &ModelConfig, rows: usize) -> Workspace {
    cross_entropy::workspace(HEAD_ALGORITHM, T::DTYPE, rows, config.hidden_size, config.vocab_size)
}

fn logit_rows<T: ModelFloat>(device: &Device, config: &ModelConfig, capacity: Capacity) -> usize {
    let row_bytes = head_workspace::<T>(config, 1).bytes();
    let rows = if device.name() == "host" { (HOST_LOGIT_BYTES / row_bytes).max(64) } else { CUDA_LOGIT_ROWS };
    rows.min(labeled_capacity(capacity))
}

#[derive(Debug)]
pub(super) struct Scratch<T: ModelFloat> {
    /// `[T, H]` output of a linear layer, before LayerNorm
    pub projection: Buffer<T>,
    pub d_projection: Buffer<T>,
    pub d_attention_output: Buffer<T>,
    pub d_context: Buffer<T>,
    pub d_query_key_value: Buffer<T>,
    /// `[T, F]`
    pub d_wide: Buffer<T>,
    pub d_activated: Buffer<T>,
    /// Workspace of the heads' losses.
    pub head: Buffer<u8>,
    /// Workspace of all other operations.
    pub workspace: Buffer<u8>,
}

impl<T: ModelFloat> Scratch<T> {
    /// Allocates the buffers. `parameters` is the size of the arena, whose gradient norm is reduced in `workspace`.
    pub(super) fn new(
        device: &Device,
        config: &ModelConfig,
        capacity: Capacity,
        parameters: usize,
    ) -> Result<Self> {
        let Capacity { tokens, sentences, .. } = capacity;
        let (hidden, labeled) = (config.hidden_size, labeled_capacity(capacity));
        let zeros = |columns| device.zeros(tokens * columns);
        let rows = logit_rows::<T>(device, config, capacity);
        let bag_of_words = if config.has_bag_of_words() {
            bag_of_words::workspace(HEAD_ALGORITHM, T::DTYPE, sentences, rows, config.vocab_size)
        } else {
            Workspace::NONE
        };
        let workspace = column_sum::workspace(tokens, config.intermediate_size.max(3 * hidden))
            .either(column_sum::workspace(labeled, hidden))
            .either(layer_norm::workspace(labeled, hidden))
            .either(embedding::workspace(T::DTYPE, tokens.max(sentences), hidden))
            .either(reduce::workspace(sentences))
            .either(reduce::workspace(parameters));
        Ok(Self {
            projection: zeros(hidden)?,
            d_projection: zeros(hidden)?,
            d_attention_output: zeros(hidden)?,
            d_context: zeros(hidden)?,
            d_query_key_value: zeros(3 * hidden)?,
            d_wide: zeros(config.intermediate_size)?,
            d_activated: zeros(config.intermediate_size)?,
            head: head_workspace::<T>(config, rows).either(bag_of_words).allocate(device)?,
            workspace: workspace.allocate(device)?,
        })
    }
}
