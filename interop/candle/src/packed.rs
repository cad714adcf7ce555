//! Packed (varlen) batches: sentences one after the other without padding.

use std::sync::Arc;

use candle_core::{Device, Result};
use retromae::ops::Packed;

use crate::memory::{Memory, Read};
use crate::refuse::require;

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
        let tokens = lengths.iter().fold(0usize, |sum, &length| sum.saturating_add(length));
        require(
            i32::try_from(tokens).is_ok(),
            "lengths",
            format_args!("of {tokens} tokens"),
            "of below 2^31",
        )?;
        let ends = lengths.iter().scan(0, |end, &length| {
            *end += length as i32;
            Some(*end)
        });
        let cu_seqlens: Vec<i32> = std::iter::once(0).chain(ends).collect();
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
