//! Packed (varlen) batches: sequences one after the other without padding, and the prefix sums of their lengths.

use super::Result;
use super::error::require;
use crate::device::{Buffer, Device, View};

/// Sequences of a packed batch: row `cu_seqlens[b] + p` is position `p` of sequence `b`.
///
/// A [`PackedBatch`] gives one that was checked. One of prefix sums that are in device memory already is not: values there cannot be checked
/// without waiting for them. In builds with debug assertions the operations do wait, and refuse values out of range, unless the stream is being
/// captured; attention on the CPU emulator, which has nothing to wait for, refuses them in every build. In all builds nothing outside the
/// arguments is read or written, whatever the values.
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a> {
    /// `[B + 1]` prefix sums of the lengths, from 0 to at most `tokens`; rows after the last one belong to no sequence.
    pub cu_seqlens: View<'a, i32>,
    /// Rows of the batch, T. Below 2^31.
    pub tokens: usize,
    /// Length of the longest sequence, or more.
    pub max_seqlen: usize,
}

impl Packed<'_> {
    /// Number of sequences, B.
    #[must_use]
    pub fn sequences(&self) -> usize {
        self.cu_seqlens.len().saturating_sub(1)
    }
}

/// A packed batch that was made from the lengths of its sequences, and whose prefix sums therefore are right.
#[derive(Debug)]
pub struct PackedBatch {
    cu_seqlens: Buffer<i32>,
    tokens: usize,
    max_seqlen: usize,
}

impl PackedBatch {
    /// Uploads the prefix sums of `lengths`; a sequence may be empty.
    ///
    /// # Errors
    /// When there are 2^31 tokens or more, or the device has not enough memory.
    pub fn new(device: &Device, lengths: &[usize]) -> Result<Self> {
        let cu_seqlens = Self::prefix_sums(lengths)?;
        let tokens = cu_seqlens[lengths.len()] as usize;
        let max_seqlen = lengths.iter().copied().max().unwrap_or(0);
        Ok(Self { cu_seqlens: device.upload(&cu_seqlens)?, tokens, max_seqlen })
    }

    /// `[B + 1]` prefix sums of `lengths`, for memory of one's own.
    ///
    /// # Errors
    /// When there are 2^31 tokens or more.
    pub fn prefix_sums(lengths: &[usize]) -> Result<Vec<i32>> {
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
        Ok(std::iter::once(0).chain(ends).collect())
    }

    /// The batch as an argument of operations.
    #[must_use]
    pub fn view(&self) -> Packed<'_> {
        Packed { cu_seqlens: self.cu_seqlens.view(), tokens: self.tokens, max_seqlen: self.max_seqlen }
    }

    /// Rows of the batch, T.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_sums_follow_from_lengths() {
        let device = Device::host().unwrap();
        let batch = PackedBatch::new(&device, &[3, 0, 5]).unwrap();
        let view = batch.view();
        assert_eq!(view.cu_seqlens.read().unwrap(), [0, 3, 3, 8]);
        assert_eq!((view.tokens, view.max_seqlen, view.sequences()), (8, 5, 3));
        let empty = PackedBatch::new(&device, &[]).unwrap();
        assert_eq!((empty.tokens(), empty.view().sequences()), (0, 0));
        let error = PackedBatch::new(&device, &[1, usize::MAX]).unwrap_err().to_string();
        assert!(error.starts_with("lengths is of 18446744073709551615 tokens"), "{error}");
    }
}
