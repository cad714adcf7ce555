//! Whole-word masks and the corruption of chosen tokens.
//!
//! Each decision is a pure function of (seed, step, sentence index, what is drawn), so it is the same in any batch order
//! and after a resume; the kernel that draws the decoder's banks uses the same definitions.

use crate::random::{Stream, bounded, key, philox};

use crate::ops::masks::Budget;

/// 80 % of 2^32: below it a chosen token becomes `[MASK]`.
const MASK_BELOW: u32 = 3_435_973_837;
/// 90 % of 2^32: from [`MASK_BELOW`] to here a chosen token becomes a random id, above it stays.
const RANDOM_BELOW: u32 = 3_865_470_567;

/// The tokens that one mask chooses: `[L]`, true where chosen.
///
/// Words are shuffled and taken until the budget is reached; a word that would overflow it is passed over, so fewer
/// tokens may be chosen, and none when every word is longer than the budget. Special tokens are never chosen.
/// `word_starts` is `[L]`, true where a word starts; the first and the last token are special whatever it says.
#[must_use]
pub fn whole_word_mask(
    seed: u64,
    step: u32,
    sentence_index: u32,
    stream: Stream,
    word_starts: &[bool],
    budget: Budget,
) -> Vec<bool> {
    let budget = budget.tokens(word_starts.len());
    let mut words = word_ranges(word_starts);
    let mut chosen = vec![false; word_starts.len()];
    let mut taken = 0;
    let mut draws = [0; 4];
    for k in 0..words.len() {
        if taken == budget {
            break;
        }
        if k % 4 == 0 {
            draws = philox(key(seed), [(k / 4) as u32, sentence_index, stream as u32, step]);
        }
        let other = k + bounded(draws[k % 4], (words.len() - k) as u32) as usize;
        words.swap(k, other);
        let (start, end) = words[k];
        if taken + (end - start) <= budget {
            chosen[start..end].fill(true);
            taken += end - start;
        }
    }
    chosen
}

/// The slots of each word between the first and the last token: a token that starts one and those after it that do not.
fn word_ranges(word_starts: &[bool]) -> Vec<(usize, usize)> {
    let mut words: Vec<(usize, usize)> = Vec::with_capacity(word_starts.len());
    let inner = word_starts.len().saturating_sub(1);
    for (slot, &starts) in word_starts[..inner].iter().enumerate().skip(1) {
        if starts {
            words.push((slot, slot + 1));
        } else if let Some(word) = words.last_mut() {
            word.1 += 1;
        }
    }
    words
}

/// What the chosen token `id` at `slot` of a sentence becomes in the encoder's input: in 80 % of the draws `mask_id`, in
/// 10 % an id of `0..vocab_size`, else itself.
#[must_use]
pub fn corrupted(
    seed: u64,
    step: u32,
    sentence_index: u32,
    slot: u32,
    id: u32,
    mask_id: u32,
    vocab_size: u32,
) -> u32 {
    let [what, which, ..] = philox(key(seed), [slot, sentence_index, Stream::Corruption as u32, step]);
    match what {
        ..MASK_BELOW => mask_id,
        MASK_BELOW..RANDOM_BELOW => bounded(which, vocab_size),
        _ => id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thresholds_are_the_ratios() {
        let below = |ratio: f64| (ratio * 4_294_967_296.0).ceil() as u32;
        assert_eq!((MASK_BELOW, RANDOM_BELOW), (below(0.8), below(0.9)));
    }

    #[test]
    fn words_lie_between_the_special_tokens() {
        let ranges = |starts: &[u8]| word_ranges(&starts.iter().map(|&start| start == 1).collect::<Vec<_>>());
        assert_eq!(ranges(&[1, 1, 0, 0, 1, 1]), [(1, 4), (4, 5)]);
        assert_eq!(ranges(&[0, 0, 1, 0]), [(2, 3)]);
        assert!(ranges(&[1, 1]).is_empty() && ranges(&[1]).is_empty());
    }
}
