//! Packed (varlen) batches: sentences one after the other without padding.

use std::sync::Arc;

use candle_core::{Device, Error, Result};
use retromae::ops::Packed;

use crate::memory::{Memory, Read};

/// Sentences of a packed batch: the rows of a tensor `[T, …]` are the tokens of the first sentence, then those of the second, and so on. Cloning is
/// cheap.
#[derive(Clone)]
pub struct PackedBatch {
    /// `[B + 1]` prefix sums of the lengths.
    pub(crate) cu_seqlens: Arc<Memory<i32>>,
    tokens: usize,
    max_seqlen: usize,
}

impl PackedBatch {
    /// Copies the prefix sums of `lengths` to a device; a sentence may be empty.
    ///
    /// # Errors
    /// When there are 2^31 tokens or more; an error of the device.
    pub fn new(lengths: &[usize], device: &Device) -> Result<Self> {
        let cu_seqlens = retromae::ops::PackedBatch::prefix_sums(lengths).map_err(Error::wrap)?;
        let tokens = cu_seqlens[lengths.len()] as usize;
        let max_seqlen = lengths.iter().copied().max().unwrap_or(0);
        Ok(Self { cu_seqlens: Arc::new(Memory::upload(device, &cu_seqlens)?), tokens, max_seqlen })
    }

    /// Rows of the batch, T.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The batch as an argument of an operation.
    pub(crate) fn view<'a>(&self, cu_seqlens: &'a Read<'_, i32>) -> Result<Packed<'a>> {
        Ok(Packed { cu_seqlens: cu_seqlens.view()?, tokens: self.tokens, max_seqlen: self.max_seqlen })
    }
}
