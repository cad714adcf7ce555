//! Inputs, the same from run to run.

use rayon::prelude::*;
use retromae::device::{Buffer, Float};
use retromae::model::VisibilityBank;
use retromae::random::{bounded, key, philox};
use retromae::reference::mask::{MaskedSentence, SPECIAL, WORD_START, mask_bank, ratio_q32};

use super::Outcome;

/// Rows of a bank at most, and the share of the tokens that a row hides: the training defaults.
pub const BANK_ROWS_MAX: usize = 128;
pub const RATIO: f32 = 0.5;

/// `count` values in [-1, 1), the same for the same `seed`.
pub fn values(seed: u64, count: usize) -> Vec<f32> {
    let mut values = vec![0.0; count];
    values.par_chunks_mut(4).with_min_len(1024).enumerate().for_each(|(group, values)| {
        let words = philox(key(seed), [group as u32, 0, 0, 0]);
        values
            .iter_mut()
            .zip(words)
            .for_each(|(value, word)| *value = word as f32 / (1u32 << 31) as f32 - 1.0);
    });
    values
}

/// [`values`], rounded.
pub fn typed<T: Float>(seed: u64, count: usize) -> Vec<T> {
    values(seed, count).into_par_iter().with_min_len(4096).map(T::from_f32).collect()
}

/// A buffer's elements in f32.
pub fn widened<T: Float>(buffer: &Buffer<T>) -> Outcome<Vec<f32>> {
    Ok(buffer.read()?.into_iter().map(T::to_f32).collect())
}

/// Prefix sums of the lengths.
pub fn cu_seqlens(lengths: &[usize]) -> Vec<i32> {
    let mut sums = vec![0];
    lengths.iter().for_each(|&length| sums.push(sums[sums.len() - 1] + length as i32));
    sums
}

/// Lengths from 16 to `longest` that add up to `tokens`; the last may be shorter.
pub fn mixed_lengths(tokens: usize, longest: usize) -> Vec<usize> {
    let mut lengths = Vec::new();
    let mut left = tokens;
    while left > 0 {
        let draw = philox(key(7), [lengths.len() as u32, 0, 0, 0])[0];
        let length = 16 + bounded(draw, (longest - 15) as u32) as usize;
        lengths.push(length.min(left));
        left -= length.min(left);
    }
    lengths
}

/// Words of one token between two special tokens.
pub fn word_starts(length: usize) -> Vec<u8> {
    let mut starts = vec![WORD_START; length];
    (starts[0], starts[length - 1]) = (SPECIAL, SPECIAL);
    starts
}

/// The masks of a training step for sentences of [`word_starts`].
pub fn visibility(lengths: &[usize]) -> VisibilityBank {
    let starts: Vec<Vec<u8>> = lengths.iter().map(|&length| word_starts(length)).collect();
    let sentence = |(index, word_starts)| MaskedSentence { index: index as u32, word_starts };
    let sentences: Vec<_> = starts.iter().map(Vec::as_slice).enumerate().map(sentence).collect();
    mask_bank(1, 1, &sentences, ratio_q32(RATIO), BANK_ROWS_MAX)
}
