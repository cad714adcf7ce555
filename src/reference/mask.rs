//! Whole-word masks as a pure function of (seed, step, sentence): the tokens that are hidden from the encoder and the `basic` decoder, their
//! replacements, and the pool of position-specific masks of the `enhanced` decoder.

use crate::common::random::{Stream, bounded, key, philox};
use crate::common::{
    self, Batch, DecoderKind, IGNORE_INDEX, MaskPool, Masking, ModelConfig, PackedSentences, PoolRows,
};

/// One sentence to be masked. Its first and its last token, `[CLS]` and `[SEP]`, belong to no word and are never chosen.
#[derive(Clone, Copy, Debug)]
pub struct MaskedSentence<'a> {
    /// Index of the sentence in the corpus or step: its samples depend on it, not on its position in the batch.
    pub index: u32,
    /// `[L]`: `true` for the first token of a word; not read for the first and the last token.
    pub word_starts: &'a [bool],
}

/// Limit on the number of tokens that a mask chooses.
#[derive(Clone, Copy, Debug)]
pub struct MaskCountLimit {
    /// Share of the tokens, specials included.
    pub ratio: f64,
    /// Maximum for a sentence of any length; the public code has 512.
    pub cap: Option<usize>,
}

impl MaskCountLimit {
    /// `min(cap, max(1, round(length * ratio)))`, rounding half to even as the public code does.
    #[must_use]
    pub fn tokens(self, length: usize) -> usize {
        let rounded = (length as f64 * self.ratio).round_ties_even() as usize;
        rounded.max(1).min(self.cap.unwrap_or(usize::MAX))
    }
}

/// Returns the tokens that one mask hides, `[L]`.
///
/// Words are visited in a random order; a word is chosen unless it would overflow the count limit.
/// `pool_row` is 0 except for [`Stream::MaskPool`].
#[must_use]
pub fn whole_word_mask(
    seed: u64,
    step: u32,
    sentence: MaskedSentence<'_>,
    stream: Stream,
    pool_row: u32,
    count_limit: MaskCountLimit,
) -> Vec<bool> {
    let random = |k: usize| {
        let counter = [(pool_row << 16) | (k as u32 / 4), sentence.index, stream as u32, step];
        philox(key(seed), counter)[k % 4]
    };
    let length = sentence.word_starts.len();
    let mut words = words(sentence.word_starts);
    let count_limit = count_limit.tokens(length);
    let mut hidden = vec![false; length];
    let mut chosen = 0;
    for k in 0..words.len() {
        if chosen == count_limit {
            break;
        }
        let other = k + bounded(random(k), (words.len() - k) as u32) as usize;
        words.swap(k, other);
        let word = words[k].clone();
        if chosen + word.len() <= count_limit {
            chosen += word.len();
            hidden[word].fill(true);
        }
    }
    hidden
}

/// Returns the token range of every word between the first and the last token; tokens before the first start belong to none.
fn words(word_starts: &[bool]) -> Vec<std::ops::Range<usize>> {
    let mut words: Vec<std::ops::Range<usize>> = Vec::new();
    let inner = word_starts.len().saturating_sub(1);
    for (position, &starts) in word_starts[..inner].iter().enumerate().skip(1) {
        if starts {
            words.push(position..position + 1);
        } else if let Some(word) = words.last_mut() {
            word.end = position + 1;
        }
    }
    words
}

/// Replacement of chosen tokens.
#[derive(Clone, Copy, Debug)]
pub struct Replacement {
    /// Share that becomes `mask_id`.
    pub mask_share: f64,
    /// Share that becomes a random id; the rest stays unchanged.
    pub random_share: f64,
    /// Id of the token `[MASK]`.
    pub mask_id: i32,
    /// Exclusive upper bound of random ids.
    pub vocab_size: u32,
}

impl Replacement {
    /// Returns the replacement of the token `id` at `position`, if it is chosen.
    #[must_use]
    pub fn of(self, seed: u64, step: u32, sentence_index: u32, position: u32, id: i32) -> i32 {
        let [what, which, ..] =
            philox(key(seed), [position, sentence_index, Stream::Corruption as u32, step]);
        let what = f64::from(what) / 4_294_967_296.0;
        if what < self.mask_share {
            self.mask_id
        } else if what < self.mask_share + self.random_share {
            bounded(which, self.vocab_size) as i32
        } else {
            id
        }
    }
}

/// Returns the position-specific masks of a packed batch of sentences: rows of `ceil(L / 32)` 32-bit words, a bit being 1 where the token is visible.
///
/// # Panics
/// When there are no rows, or more than 65536: a pool row must fit the 16-bit index of [`MaskPool::rows`].
#[must_use]
pub fn mask_pool(
    seed: u64,
    step: u32,
    sentences: &[MaskedSentence],
    count_limit: MaskCountLimit,
    rows: PoolRows,
) -> MaskPool {
    let mut pool = MaskPool { bits: Vec::new(), offsets: vec![0], rows: Vec::new() };
    for &sentence in sentences {
        let length = sentence.word_starts.len();
        let pool_rows = match rows {
            PoolRows::AtMost(rows) => length.min(rows),
            PoolRows::Independent => length,
        };
        assert!((1..=1 << 16).contains(&pool_rows), "{pool_rows} rows; there should be 1 to 65536");
        for row in 0..pool_rows as u32 {
            let hidden = whole_word_mask(seed, step, sentence, Stream::MaskPool, row, count_limit);
            pool.bits.extend(visible_bits(&hidden));
        }
        pool.offsets.push(pool.bits.len() as u32);
        pool.rows.extend((0..length as u32).map(|position| {
            let counter = [position / 4, sentence.index, Stream::PoolRow as u32, step];
            match rows {
                PoolRows::Independent => position as u16,
                PoolRows::AtMost(_) => {
                    bounded(philox(key(seed), counter)[position as usize % 4], pool_rows as u32) as u16
                }
            }
        }));
    }
    pool
}

/// Packs a mask into 32-bit words: bit `j % 32` of word `j / 32` is 1 where token `j` is not hidden, 0 beyond the end.
fn visible_bits(hidden: &[bool]) -> Vec<u32> {
    let word = |tokens: &[bool]| {
        tokens.iter().enumerate().fold(0, |word, (bit, &hidden)| word | u32::from(!hidden) << bit)
    };
    hidden.chunks(32).map(word).collect()
}

/// Returns the batch that step `step` of a run with `seed` makes of `packed`.
///
/// # Panics
/// As [`mask_pool`].
#[must_use]
pub fn sample_batch(
    seed: u64,
    step: u32,
    packed: &PackedSentences,
    masking: Masking,
    config: &ModelConfig,
) -> Batch {
    let PackedSentences { sentence_indices, cu_seqlens, ids, word_starts } = packed;
    let count_limit = |common::MaskCountLimit { ratio, cap }| MaskCountLimit { ratio, cap };
    let starts: Vec<bool> =
        (0..ids.len()).map(|token| word_starts[token / 32] >> (token % 32) & 1 == 1).collect();
    let range = |b: usize| cu_seqlens[b] as usize..cu_seqlens[b + 1] as usize;
    let sentence = |(b, &index): (usize, &u32)| MaskedSentence { index, word_starts: &starts[range(b)] };
    let sentences: Vec<MaskedSentence<'_>> = sentence_indices.iter().enumerate().map(sentence).collect();
    let chosen = |stream, ratio| -> Vec<bool> {
        let mask = |&sentence| whole_word_mask(seed, step, sentence, stream, 0, count_limit(ratio));
        sentences.iter().flat_map(mask).collect()
    };
    let labels = |chosen: &[bool]| -> Vec<i32> {
        ids.iter().zip(chosen).map(|(&id, &chosen)| if chosen { id } else { IGNORE_INDEX }).collect()
    };

    let masked = chosen(Stream::EncoderMask, masking.encoder);
    let (mask_id, vocab_size) = (masking.mask_id, config.vocab_size as u32);
    let replacement = Replacement { mask_share: 0.8, random_share: 0.1, mask_id, vocab_size };
    let mut encoder_input_ids = ids.clone();
    for (b, &index) in sentence_indices.iter().enumerate() {
        for (position, token) in range(b).enumerate().filter(|&(_, token)| masked[token]) {
            encoder_input_ids[token] = replacement.of(seed, step, index, position as u32, ids[token]);
        }
    }
    let (decoder_input_ids, decoder_labels, visibility) = match config.decoder {
        DecoderKind::Basic => {
            let hidden = chosen(Stream::DecoderMask, masking.decoder);
            let input = |(&id, &hidden): (&i32, &bool)| if hidden { mask_id } else { id };
            (ids.iter().zip(&hidden).map(input).collect(), labels(&hidden), None)
        }
        DecoderKind::Enhanced => {
            let positions = |sentence: &MaskedSentence<'_>| {
                let length = sentence.word_starts.len();
                (0..length).map(move |position| position > 0 && position + 1 < length)
            };
            let inner: Vec<bool> = sentences.iter().flat_map(positions).collect();
            let pool = mask_pool(seed, step, &sentences, count_limit(masking.decoder), masking.pool_rows);
            (ids.clone(), labels(&inner), Some(pool))
        }
    };
    Batch {
        cu_seqlens: cu_seqlens.clone(),
        encoder_input_ids,
        encoder_labels: labels(&masked),
        decoder_input_ids,
        decoder_labels,
        visibility,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: MaskCountLimit = MaskCountLimit { ratio: 0.5, cap: None };

    fn count_limit(ratio: f64) -> MaskCountLimit {
        MaskCountLimit { ratio, cap: None }
    }

    /// `word_starts`: 1 where a word starts.
    fn mask(index: u32, word_starts: &[u8], count_limit: MaskCountLimit) -> Vec<bool> {
        let word_starts: Vec<bool> = word_starts.iter().map(|&start| start == 1).collect();
        let sentence = MaskedSentence { index, word_starts: &word_starts };
        whole_word_mask(9, 4, sentence, Stream::EncoderMask, 0, count_limit)
    }

    fn count(mask: &[bool]) -> usize {
        mask.iter().filter(|&&hidden| hidden).count()
    }

    /// `[CLS]`, `words` words of one token, `[SEP]`.
    fn short_words(words: usize) -> Vec<u8> {
        [vec![0], vec![1; words], vec![0]].concat()
    }

    fn starts(word_starts: &[u8]) -> Vec<bool> {
        word_starts.iter().map(|&start| start == 1).collect()
    }

    /// Python's `round` goes to the even neighbor of a half, on the product in double precision.
    #[test]
    fn count_limits_are_those_of_the_public_code() {
        assert_eq!([1, 2, 3, 4, 5, 7].map(|length| HALF.tokens(length)), [1, 1, 2, 2, 2, 4]);
        assert_eq!([5, 10, 15, 25, 35].map(|length| count_limit(0.3).tokens(length)), [2, 3, 4, 8, 10]);
        assert_eq!((count_limit(0.0).tokens(100), count_limit(1.0).tokens(100), HALF.tokens(0)), (1, 100, 1));
        let capped = MaskCountLimit { cap: Some(512), ..HALF };
        assert_eq!([1000, 1024, 8192].map(|length| capped.tokens(length)), [500, 512, 512]);
    }

    #[test]
    fn specials_are_never_chosen_and_the_count_limit_is_met_by_one_token_words() {
        for index in 0..200 {
            let hidden = mask(index, &short_words(18), HALF);
            assert_eq!(count(&hidden), 10);
            assert!(!hidden[0] && !hidden[19]);
        }
        for length in 0..3 {
            assert_eq!(mask(0, &vec![1; length], count_limit(1.0)), vec![false; length]);
        }
        assert_eq!(mask(0, &[1, 1, 1], HALF), [false, true, false]);
        assert_eq!(mask(0, &[1, 0, 0, 1], HALF), [false; 4], "nothing starts a word");
    }

    #[test]
    fn words_are_hidden_whole_and_the_count_limit_is_never_exceeded() {
        let word_starts = [0, 1, 0, 0, 1, 1, 0, 1, 0, 0, 0, 1, 0];
        for index in 0..200 {
            let hidden = mask(index, &word_starts, count_limit(0.3));
            assert!(count(&hidden) <= 4 && count(&hidden) > 0);
            for token in 1..word_starts.len() - 1 {
                assert!(word_starts[token] == 1 || hidden[token] == hidden[token - 1]);
            }
        }
    }

    /// A count limit of 2 with words of 3 and 1: the long one is skipped, whichever comes first.
    #[test]
    fn a_word_that_would_overflow_is_skipped() {
        for index in 0..50 {
            assert_eq!(
                mask(index, &[0, 1, 0, 0, 1, 0], count_limit(0.3)),
                [false, false, false, false, true, false]
            );
            assert_eq!(mask(index, &[0, 1, 0, 0, 0], count_limit(0.4)), [false; 5]);
        }
    }

    #[test]
    fn every_word_is_chosen_equally_often() {
        let mut counts = [0; 12];
        for index in 0..4000 {
            let hidden = mask(index, &short_words(10), count_limit(0.25));
            counts.iter_mut().zip(hidden).for_each(|(count, hidden)| *count += i32::from(hidden));
        }
        // 3 of 10 words: 1200 expected with a deviation of 29.
        assert!(counts[1..11].iter().all(|count| (count - 1200).abs() < 150), "{counts:?}");
    }

    #[test]
    fn a_mask_depends_on_each_of_its_coordinates_and_on_nothing_else() {
        let words = starts(&short_words(40));
        let sample = |seed, step, index, stream, row| {
            whole_word_mask(seed, step, MaskedSentence { index, word_starts: &words }, stream, row, HALF)
        };
        let base = sample(1, 2, 3, Stream::MaskPool, 4);
        assert_eq!(base, sample(1, 2, 3, Stream::MaskPool, 4));
        assert_ne!(base, sample(1 << 32, 2, 3, Stream::MaskPool, 4));
        assert_ne!(base, sample(1, 0, 3, Stream::MaskPool, 4));
        assert_ne!(base, sample(1, 2, 0, Stream::MaskPool, 4));
        assert_ne!(base, sample(1, 2, 3, Stream::DecoderMask, 4));
        assert_ne!(base, sample(1, 2, 3, Stream::MaskPool, 5));
    }

    #[test]
    fn pool_bits_are_the_masks_and_visibility_follows() {
        let (long, short) = (starts(&short_words(38)), starts(&short_words(0)));
        let sentences = [
            MaskedSentence { index: 7, word_starts: &long },
            MaskedSentence { index: 3, word_starts: &[false] },
            MaskedSentence { index: 5, word_starts: &short },
        ];
        let pool = mask_pool(11, 6, &sentences, HALF, PoolRows::AtMost(8));
        assert_eq!(pool.offsets, [0, 8 * 2, 8 * 2 + 1, 8 * 2 + 1 + 2]);
        assert_eq!((pool.bits.len(), pool.rows.len()), (19, 43));
        assert!(pool.rows[..40].iter().all(|&row| row < 8));
        assert!(pool.rows[..40].iter().any(|&row| row != pool.rows[0]), "rows are sampled, not fixed");
        for row in 0..8 {
            assert_eq!(pool.bits[2 * row + 1] >> 8, 0, "bits beyond the sentence are 0");
        }
        for query in 0..40 {
            let row = u32::from(pool.rows[query]);
            let hidden = whole_word_mask(11, 6, sentences[0], Stream::MaskPool, row, HALF);
            assert_eq!(count(&hidden), 20);
            for (key, &hidden) in hidden.iter().enumerate() {
                let expected = key != query && (key == 0 || !hidden);
                assert_eq!(pool.visible(0, 0, 40, query, key), expected, "query {query}, key {key}");
            }
        }
        assert!(!pool.visible(1, 40, 1, 0, 0), "a lone [CLS] sees nothing");
        assert!(pool.visible(2, 41, 2, 1, 0) && !pool.visible(2, 41, 2, 1, 1));
    }

    #[test]
    fn a_sentence_keeps_its_masks_in_any_batch() {
        let words = starts(&short_words(20));
        let [first, second] = [1, 2].map(|index| MaskedSentence { index, word_starts: &words });
        let pool = |sentences: &[MaskedSentence]| mask_pool(0, 0, sentences, HALF, PoolRows::AtMost(128));
        let (both, alone) = (pool(&[first, second]), pool(&[second]));
        assert_eq!(both.bits[22..], alone.bits);
        assert_eq!(both.rows[22..], alone.rows);
    }

    /// Known answers of an independent implementation in Python, so that no later change alters a sample unnoticed.
    #[test]
    fn known_answers() {
        let (seed, step, index) = (0x1234_5678_9abc_def0, 1000, 70_000);
        let word_starts: Vec<bool> = (0..38).map(|position| position % 3 != 2).collect();
        let sentence = MaskedSentence { index, word_starts: &word_starts };
        let pool = mask_pool(seed, step, &[sentence], HALF, PoolRows::AtMost(3));
        assert_eq!(pool.bits, [0xcf00_11f9, 0x2f, 0x8e23_8e37, 0x23, 0x30dc_8db7, 0x30]);
        assert_eq!(pool.rows[..19], [2, 1, 0, 0, 1, 1, 1, 1, 0, 2, 0, 1, 2, 2, 0, 2, 0, 0, 0]);
        assert_eq!(pool.rows[19..], [0, 1, 0, 1, 1, 2, 1, 1, 0, 1, 2, 0, 2, 2, 0, 1, 2, 0, 1]);
        let hidden = whole_word_mask(seed, step, sentence, Stream::EncoderMask, 0, count_limit(0.3));
        let hidden: Vec<usize> = (0..38).filter(|&token| hidden[token]).collect();
        assert_eq!(hidden, [9, 13, 14, 18, 21, 24, 28, 29, 30, 34, 35]);
    }

    #[test]
    fn independent_rows_are_masks_of_their_own() {
        let words = starts(&short_words(40));
        let sentence = MaskedSentence { index: 5, word_starts: &words };
        let pool = mask_pool(1, 2, &[sentence], HALF, PoolRows::Independent);
        assert_eq!((pool.offsets.as_slice(), pool.bits.len()), ([0, 84].as_slice(), 84));
        assert!(pool.rows.iter().zip(0..).all(|(&row, position)| row == position));
        let distinct: std::collections::HashSet<_> = pool.bits.chunks(2).collect();
        assert_eq!(distinct.len(), 42);
    }

    #[test]
    fn chosen_tokens_are_replaced_in_their_shares() {
        let replacement =
            Replacement { mask_share: 0.8, random_share: 0.1, mask_id: -7, vocab_size: 1 << 30 };
        let mut counts = [0; 3];
        for position in 0..20_000 {
            match replacement.of(3, 1, 4, position, -1) {
                -7 => counts[0] += 1,
                -1 => counts[2] += 1,
                _ => counts[1] += 1,
            }
        }
        // Deviations of 57, 42 and 42.
        assert!((counts[0] - 16_000_i32).abs() < 230, "{counts:?}");
        assert!((counts[1] - 2_000_i32).abs() < 170 && (counts[2] - 2_000_i32).abs() < 170, "{counts:?}");
        let always = Replacement { mask_share: 1.0, random_share: 0.0, ..replacement };
        assert!((0..1000).all(|position| always.of(3, 1, 4, position, -1) == -7));
    }
}
