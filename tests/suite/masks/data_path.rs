//! The masks of the data path against the reference's: one definition, two programs.

use retromae::data::masks;
use retromae::ops::masks::Budget;
use retromae::random::{Stream, bounded, philox};
use retromae::reference::mask;

/// Words of one to several tokens.
fn word_starts(length: usize, seed: u32) -> Vec<bool> {
    let draw = |slot: usize| bounded(philox([seed, 0], [slot as u32, 0, 0, 0])[0], 4);
    (0..length).map(|slot| draw(slot) > 0).collect()
}

#[test]
fn whole_word_masks_are_those_of_the_reference() {
    for (case, length) in [1, 2, 3, 4, 17, 64, 129, 512].into_iter().enumerate() {
        let starts = word_starts(length, case as u32);
        for ratio in [0.05, 0.3, 0.5, 0.99] {
            let budget = mask::Budget { ratio, cap: None };
            let sentence = mask::MaskedSentence { index: 77, word_starts: &starts };
            for stream in [Stream::EncoderMask, Stream::DecoderMask] {
                let actual = masks::whole_word_mask(9, 4, 77, stream, &starts, Budget::of(ratio));
                let expected = mask::whole_word_mask(9, 4, sentence, stream, 0, budget);
                assert_eq!(actual, expected, "length {length}, ratio {ratio}");
            }
        }
    }
}
