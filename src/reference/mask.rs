//! Whole-word masks as a pure function of (seed, step, sentence): which tokens the encoder and the `basic` decoder
//! lose, and the bank of position-specific masks of the `enhanced` decoder.

use crate::model::VisibilityBank;
use crate::random::{Stream, bounded, key, philox};

/// A token that continues the word of the token before it (`##…`); after a special token it is special too.
pub const CONTINUATION: u8 = 0;
/// The first token of a word.
pub const WORD_START: u8 = 1;
/// `[CLS]`, `[SEP]`: never chosen.
pub const SPECIAL: u8 = 2;

/// One sentence to be masked.
#[derive(Clone, Copy, Debug)]
pub struct MaskedSentence<'a> {
    /// Which sentence of the corpus or step this is: its draws depend on it, not on its place in the batch.
    pub index: u32,
    /// `[L]`: [`CONTINUATION`], [`WORD_START`] or [`SPECIAL`] for each token.
    pub word_starts: &'a [u8],
}

/// A masking ratio in 1/2^32, so that every device computes the same budget in integers.
#[must_use]
pub fn ratio_q32(ratio: f32) -> u32 {
    (f64::from(ratio) * 4_294_967_296.0).round() as u32
}

/// How many tokens of `length`, specials included, may be chosen: `max(1, round(length * ratio))`.
#[must_use]
pub fn budget(length: usize, ratio_q32: u32) -> usize {
    let rounded = (length as u64 * u64::from(ratio_q32) + (1 << 31)) >> 32;
    rounded.max(1) as usize
}

/// The tokens that one mask hides, `[L]`.
///
/// Words are visited in a random order; a word is chosen unless it would overflow the [`budget`].
/// `bank_row` is 0 except for [`Stream::MaskBank`].
#[must_use]
pub fn whole_word_mask(
    seed: u64,
    step: u32,
    sentence_index: u32,
    stream: Stream,
    bank_row: u32,
    word_starts: &[u8],
    ratio_q32: u32,
) -> Vec<bool> {
    let draw = |k: usize| {
        let counter = [(bank_row << 16) | (k as u32 / 4), sentence_index, stream as u32, step];
        philox(key(seed), counter)[k % 4]
    };
    let mut words = words(word_starts);
    let budget = budget(word_starts.len(), ratio_q32);
    let mut hidden = vec![false; word_starts.len()];
    let mut chosen = 0;
    for k in 0..words.len() {
        if chosen == budget {
            break;
        }
        let other = k + bounded(draw(k), (words.len() - k) as u32) as usize;
        words.swap(k, other);
        let word = words[k].clone();
        if chosen + word.len() <= budget {
            chosen += word.len();
            hidden[word].fill(true);
        }
    }
    hidden
}

/// The token range of every word, specials and their continuations left out.
fn words(word_starts: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut words: Vec<std::ops::Range<usize>> = Vec::new();
    for (token, &start) in word_starts.iter().enumerate() {
        match start {
            WORD_START => words.push(token..token + 1),
            CONTINUATION => {
                if let Some(word) = words.last_mut().filter(|word| word.end == token) {
                    word.end += 1;
                }
            }
            _ => {}
        }
    }
    words
}

/// The position-specific masks of a pack of sentences.
///
/// Each sentence of L tokens gets `min(L, max_rows)` independent masks of `ceil(L / 32)` words, a bit being 1 where the
/// token is visible, and each of its tokens draws one of them with replacement.
///
/// # Panics
/// When `max_rows` is 0 or above 65536: a bank row must fit the 16-bit index of [`VisibilityBank::rows`].
#[must_use]
pub fn mask_bank(
    seed: u64,
    step: u32,
    sentences: &[MaskedSentence],
    ratio_q32: u32,
    max_rows: usize,
) -> VisibilityBank {
    assert!((1..=1 << 16).contains(&max_rows), "max_rows is {max_rows}, it must be in 1..=65536");
    let mut bank = VisibilityBank { bits: Vec::new(), offsets: vec![0], rows: Vec::new() };
    for sentence in sentences {
        let length = sentence.word_starts.len();
        let bank_rows = length.min(max_rows) as u32;
        for row in 0..bank_rows {
            let stream = Stream::MaskBank;
            let hidden =
                whole_word_mask(seed, step, sentence.index, stream, row, sentence.word_starts, ratio_q32);
            bank.bits.extend(visible_bits(&hidden));
        }
        bank.offsets.push(bank.bits.len() as u32);
        bank.rows.extend((0..length as u32).map(|slot| {
            let counter = [slot / 4, sentence.index, Stream::BankRow as u32, step];
            bounded(philox(key(seed), counter)[slot as usize % 4], bank_rows) as u16
        }));
    }
    bank
}

/// Packs a mask into words: bit `j % 32` of word `j / 32` is 1 where token `j` is not hidden, 0 beyond the end.
fn visible_bits(hidden: &[bool]) -> Vec<u32> {
    let word = |tokens: &[bool]| {
        tokens.iter().enumerate().fold(0, |word, (bit, &hidden)| word | u32::from(!hidden) << bit)
    };
    hidden.chunks(32).map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: u32 = 1 << 31;

    fn mask(index: u32, word_starts: &[u8], ratio_q32: u32) -> Vec<bool> {
        whole_word_mask(9, 4, index, Stream::EncoderMask, 0, word_starts, ratio_q32)
    }

    fn count(mask: &[bool]) -> usize {
        mask.iter().filter(|&&hidden| hidden).count()
    }

    /// `[CLS]`, `words` words of one token, `[SEP]`.
    fn short_words(words: usize) -> Vec<u8> {
        [vec![SPECIAL], vec![WORD_START; words], vec![SPECIAL]].concat()
    }

    #[test]
    fn ratios_and_budgets_round_to_nearest() {
        assert_eq!((ratio_q32(0.5), ratio_q32(0.0), ratio_q32(1.0)), (HALF, 0, u32::MAX));
        assert_eq!([1, 2, 3, 4, 5].map(|length| budget(length, HALF)), [1, 1, 2, 2, 3]);
        assert_eq!(budget(100, 0), 1);
        assert_eq!(budget(10, ratio_q32(0.3)), 3);
        assert_eq!(budget(100, u32::MAX), 100);
    }

    #[test]
    fn specials_are_never_chosen_and_the_budget_is_met_by_one_token_words() {
        for index in 0..200 {
            let hidden = mask(index, &short_words(18), HALF);
            assert_eq!(count(&hidden), 10);
            assert!(!hidden[0] && !hidden[19]);
        }
        assert_eq!(mask(0, &[SPECIAL, SPECIAL], HALF), [false, false]);
        assert_eq!(mask(0, &[SPECIAL, CONTINUATION, CONTINUATION, SPECIAL], HALF), [false; 4]);
        assert_eq!(mask(0, &[CONTINUATION, SPECIAL], HALF), [false; 2]);
    }

    #[test]
    fn words_are_hidden_whole_and_the_budget_is_never_exceeded() {
        let word_starts = [2, 1, 0, 0, 1, 1, 0, 1, 0, 0, 0, 1, 2];
        for index in 0..200 {
            let hidden = mask(index, &word_starts, ratio_q32(0.3));
            assert!(count(&hidden) <= 4 && count(&hidden) > 0);
            for token in 1..word_starts.len() {
                assert!(word_starts[token] != CONTINUATION || hidden[token] == hidden[token - 1]);
            }
        }
    }

    /// A budget of 2 with words of 3 and 1: the long one is skipped, whichever comes first.
    #[test]
    fn a_word_that_would_overflow_is_skipped() {
        for index in 0..50 {
            assert_eq!(mask(index, &[2, 1, 0, 0, 1], ratio_q32(0.4)), [false, false, false, false, true]);
            assert_eq!(mask(index, &[2, 1, 0, 0, 2], ratio_q32(0.4)), [false; 5]);
        }
    }

    #[test]
    fn every_word_is_chosen_equally_often() {
        let mut counts = [0; 12];
        for index in 0..4000 {
            let hidden = mask(index, &short_words(10), ratio_q32(0.25));
            counts.iter_mut().zip(hidden).for_each(|(count, hidden)| *count += i32::from(hidden));
        }
        // 3 of 10 words: 1200 expected with a deviation of 29.
        assert!(counts[1..11].iter().all(|count| (count - 1200).abs() < 150), "{counts:?}");
    }

    #[test]
    fn a_mask_depends_on_each_of_its_coordinates_and_on_nothing_else() {
        let words = short_words(40);
        let draw =
            |seed, step, index, stream, row| whole_word_mask(seed, step, index, stream, row, &words, HALF);
        let base = draw(1, 2, 3, Stream::MaskBank, 4);
        assert_eq!(base, draw(1, 2, 3, Stream::MaskBank, 4));
        assert_ne!(base, draw(1 << 32, 2, 3, Stream::MaskBank, 4));
        assert_ne!(base, draw(1, 0, 3, Stream::MaskBank, 4));
        assert_ne!(base, draw(1, 2, 0, Stream::MaskBank, 4));
        assert_ne!(base, draw(1, 2, 3, Stream::DecoderMask, 4));
        assert_ne!(base, draw(1, 2, 3, Stream::MaskBank, 5));
    }

    #[test]
    fn bank_bits_are_the_masks_and_visibility_follows() {
        let (long, short) = (short_words(38), short_words(0));
        let sentences = [
            MaskedSentence { index: 7, word_starts: &long },
            MaskedSentence { index: 3, word_starts: &[SPECIAL] },
            MaskedSentence { index: 5, word_starts: &short },
        ];
        let bank = mask_bank(11, 6, &sentences, HALF, 8);
        assert_eq!(bank.offsets, [0, 8 * 2, 8 * 2 + 1, 8 * 2 + 1 + 2]);
        assert_eq!((bank.bits.len(), bank.rows.len()), (19, 43));
        assert!(bank.rows[..40].iter().all(|&row| row < 8));
        assert!(bank.rows[..40].iter().any(|&row| row != bank.rows[0]), "rows are drawn, not fixed");
        for row in 0..8 {
            assert_eq!(bank.bits[2 * row + 1] >> 8, 0, "bits beyond the sentence are 0");
        }
        for query in 0..40 {
            let row = u32::from(bank.rows[query]);
            let hidden = whole_word_mask(11, 6, 7, Stream::MaskBank, row, &long, HALF);
            assert_eq!(count(&hidden), 20);
            for (key, &hidden) in hidden.iter().enumerate() {
                let expected = key != query && (key == 0 || !hidden);
                assert_eq!(bank.visible(0, 0, 40, query, key), expected, "query {query}, key {key}");
            }
        }
        assert!(!bank.visible(1, 40, 1, 0, 0), "a lone [CLS] sees nothing");
        assert!(bank.visible(2, 41, 2, 1, 0) && !bank.visible(2, 41, 2, 1, 1));
    }

    #[test]
    fn a_sentence_keeps_its_masks_in_any_batch() {
        let words = short_words(20);
        let [first, second] = [1, 2].map(|index| MaskedSentence { index, word_starts: &words });
        let (both, alone) =
            (mask_bank(0, 0, &[first, second], HALF, 128), mask_bank(0, 0, &[second], HALF, 128));
        assert_eq!(both.bits[22..], alone.bits);
        assert_eq!(both.rows[22..], alone.rows);
    }

    /// Known answers of an independent implementation in Python, so that no later change moves a draw unseen.
    #[test]
    fn known_answers() {
        let (seed, step, index) = (0x1234_5678_9abc_def0, 1000, 70_000);
        let kind = |slot| if slot == 0 || slot == 37 { SPECIAL } else { u8::from(slot % 3 != 2) };
        let word_starts: Vec<u8> = (0..38).map(kind).collect();
        let bank = mask_bank(seed, step, &[MaskedSentence { index, word_starts: &word_starts }], HALF, 3);
        assert_eq!(bank.bits, [0xcf00_11f9, 0x2f, 0x8e23_8e37, 0x23, 0x30dc_8db7, 0x30]);
        assert_eq!(bank.rows[..19], [2, 1, 0, 0, 1, 1, 1, 1, 0, 2, 0, 1, 2, 2, 0, 2, 0, 0, 0]);
        assert_eq!(bank.rows[19..], [0, 1, 0, 1, 1, 2, 1, 1, 0, 1, 2, 0, 2, 2, 0, 1, 2, 0, 1]);
        let hidden = whole_word_mask(seed, step, index, Stream::EncoderMask, 0, &word_starts, ratio_q32(0.3));
        let hidden: Vec<usize> = (0..38).filter(|&token| hidden[token]).collect();
        assert_eq!(hidden, [9, 13, 14, 18, 21, 24, 28, 29, 30, 34, 35]);
    }
}
