//! Inputs, identical in every run.

use rayon::prelude::*;
use retromae::device::{Buffer, Float};
use retromae::model::MaskPool;
use retromae::model::PoolRows;
use retromae::random::{key, philox};
use retromae::reference::mask::{MaskCountLimit, MaskedSentence, mask_pool};

use super::Outcome;

/// Random state of masks and dropout.
pub const SEED: u64 = 1;
pub const STEP: u32 = 1;

/// Most rows of a pool, and the share of the tokens that a row hides: the training defaults.
pub const POOL_ROWS_MAX: usize = 128;
pub const RATIO: f64 = 0.5;

/// Tokens of a word, in turn: most words of a text are one token.
pub const WORD_LENGTHS: [usize; 7] = [1, 1, 2, 1, 1, 3, 1];

/// Sentence lengths of a mixed pack.
pub const MIXED_LENGTHS: [usize; 12] = [16, 24, 32, 48, 64, 80, 96, 128, 160, 192, 256, 512];

/// Values that one thread makes at least.
const CHUNK: usize = 4096;

/// Returns value `index` of a sequence: in about [-2, 2], nearly normal, the same for the same `seed`.
fn value(seed: u64, index: usize) -> f64 {
    let uniform = |word: u32| f64::from(word) / f64::from(u32::MAX) - 0.5;
    philox(key(seed), [index as u32, 0, 0, 0]).map(uniform).iter().sum::<f64>() * 1.7
}

/// Returns `count` values in about [-2, 2], nearly normal, the same for the same `seed`.
pub fn values(seed: u64, count: usize) -> Vec<f64> {
    (0..count).into_par_iter().with_min_len(CHUNK).map(|index| value(seed, index)).collect()
}

/// Returns [`values`], rounded to `T`.
pub fn typed<T: Float>(seed: u64, count: usize) -> Vec<T> {
    let typed = |index| T::from_f32(value(seed, index) as f32);
    (0..count).into_par_iter().with_min_len(CHUNK).map(typed).collect()
}

/// Rounds to the element type, so that all that compute with the values see the same ones.
pub fn rounded<T: Float>(values: &[f64]) -> Vec<T> {
    values.iter().map(|&value| T::from_f32(value as f32)).collect()
}

/// Returns `count` integers below `bound`.
pub fn integers(seed: u64, count: usize, bound: u32) -> Vec<i32> {
    let draw = |i: usize| philox(key(seed), [i as u32, 1, 0, 0])[0];
    (0..count).map(|i| retromae::random::bounded(draw(i), bound) as i32).collect()
}

/// Returns `[vocabulary, hidden_size]` embeddings, small like trained ones, so that logits are of the order of 1.
pub fn embeddings<T: Float>(vocabulary: usize, hidden_size: usize) -> Vec<T> {
    let scale = (hidden_size as f64).powf(-0.5);
    let values = values(2, vocabulary * hidden_size);
    values.into_par_iter().map(|value| T::from_f32((value * scale) as f32)).collect()
}

/// Returns a buffer's elements in f32.
pub fn read<T: Float>(buffer: &Buffer<T>) -> Outcome<Vec<f32>> {
    Ok(buffer.read()?.into_iter().map(T::to_f32).collect())
}

/// Returns the number with the fewest digits that is this one in f32.
pub fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::NAN)
}

/// Returns the prefix sums of lengths, from 0.
pub fn prefix_sums(lengths: &[usize]) -> Vec<i32> {
    let ends = lengths.iter().scan(0, |sum, &length| {
        *sum += length as i32;
        Some(*sum)
    });
    std::iter::once(0).chain(ends).collect()
}

/// Returns sentence lengths: `lengths` in turn, the last cut where the tokens end.
pub fn in_turn(lengths: &[usize], tokens: usize) -> Vec<usize> {
    let mut left = tokens;
    let cut = lengths.iter().cycle().map_while(|&length| {
        let length = length.min(left);
        left -= length;
        (length > 0).then_some(length)
    });
    cut.collect()
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
    mask_pool(SEED, STEP, &sentences, count_limit, PoolRows::AtMost(pool_rows_max))
}
