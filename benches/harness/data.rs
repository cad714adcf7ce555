//! Inputs, identical in every run.

use rayon::prelude::*;
use retromae::device::{Buffer, Float};
use retromae::model::MaskPool;
use retromae::model::PoolRows;
use retromae::random::{key, philox};
use retromae::reference::mask::{MaskCountLimit, MaskedSentence, mask_pool};

use super::{Outcome, Results};

/// Most rows of a pool, and the share of the tokens that a row hides: the training defaults.
pub const POOL_ROWS_MAX: usize = 128;
pub const RATIO: f64 = 0.5;

/// Tokens of a word, in turn: most words of a text are one token.
const WORD_LENGTHS: [usize; 7] = [1, 1, 2, 1, 1, 3, 1];

const MIXED_LENGTHS: [usize; 12] = [16, 24, 32, 48, 64, 80, 96, 128, 160, 192, 256, 512];

/// Returns `count` values in [-1, 1), the same for the same `seed`.
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

/// Returns [`values`], rounded to `T`.
pub fn typed<T: Float>(seed: u64, count: usize) -> Vec<T> {
    values(seed, count).into_par_iter().with_min_len(4096).map(T::from_f32).collect()
}

/// Returns `[vocabulary, hidden_size]` embeddings, small like trained ones, so that logits are of the order of 1.
pub fn embeddings<T: Float>(vocabulary: usize, hidden_size: usize) -> Vec<T> {
    let scale = (hidden_size as f32).powf(-0.5);
    values(2, vocabulary * hidden_size).into_iter().map(|value| T::from_f32(value * scale)).collect()
}

/// Returns the results of a head by name.
pub fn head_results(losses: Vec<f32>, d_hidden: Vec<f32>, d_weight: Vec<f32>, d_bias: Vec<f32>) -> Results {
    let arrays = [("losses", losses), ("d_hidden", d_hidden), ("d_weight", d_weight), ("d_bias", d_bias)];
    arrays.into_iter().map(|(name, values)| (name.to_string(), values)).collect()
}

/// Returns a buffer's elements in f32.
pub fn widened<T: Float>(buffer: &Buffer<T>) -> Outcome<Vec<f32>> {
    Ok(buffer.read()?.into_iter().map(T::to_f32).collect())
}

/// Returns the prefix sums of the lengths.
pub fn cu_seqlens(lengths: &[usize]) -> Vec<i32> {
    let mut sums = vec![0];
    lengths.iter().for_each(|&length| sums.push(sums[sums.len() - 1] + length as i32));
    sums
}

/// Returns the lengths of a mixed pack: [`MIXED_LENGTHS`] in turn, the last cut where the tokens end.
pub fn mixed_lengths(tokens: usize) -> Vec<usize> {
    let mut lengths = Vec::new();
    let mut left = tokens;
    while left > 0 {
        let length = MIXED_LENGTHS[lengths.len() % MIXED_LENGTHS.len()].min(left);
        lengths.push(length);
        left -= length;
    }
    lengths
}

/// Returns the word starts in a sentence of `length` tokens: most words are one token.
pub fn word_starts(length: usize) -> Vec<bool> {
    let mut starts = vec![false; length];
    let mut position = 1;
    for word in WORD_LENGTHS.into_iter().cycle() {
        let Some(start) = starts.get_mut(position) else { break };
        *start = true;
        position += word;
    }
    starts
}

/// Returns the masks of a training step for sentences of [`word_starts`].
pub fn visibility(lengths: &[usize], pool_rows_max: usize) -> MaskPool {
    let starts: Vec<Vec<bool>> = lengths.iter().map(|&length| word_starts(length)).collect();
    let sentence = |(index, word_starts)| MaskedSentence { index: index as u32, word_starts };
    let sentences: Vec<_> = starts.iter().map(Vec::as_slice).enumerate().map(sentence).collect();
    let count_limit = MaskCountLimit { ratio: RATIO, cap: None };
    mask_pool(1, 1, &sentences, count_limit, PoolRows::AtMost(pool_rows_max))
}
