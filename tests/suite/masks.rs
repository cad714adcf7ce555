//! The masks of the data path against the reference's: one definition, two programs.
#![cfg(feature = "train")]

use retromae::data::masks;
use retromae::random::{Stream, bounded, philox};
use retromae::reference::mask;

/// Random sentences: specials at both ends, words of one to four tokens.
fn word_starts(length: usize, seed: u32) -> Vec<u8> {
    let draw = |slot: usize| bounded(philox([seed, 0], [slot as u32, 0, 0, 0])[0], 4);
    (0..length)
        .map(|slot| match slot {
            0 => mask::SPECIAL,
            _ if slot + 1 == length => mask::SPECIAL,
            1 => mask::WORD_START,
            _ if draw(slot) == 0 => mask::CONTINUATION,
            _ => mask::WORD_START,
        })
        .collect()
}

#[test]
fn whole_word_masks_are_those_of_the_reference() {
    for (case, length) in [1, 2, 3, 4, 17, 64, 129, 512].into_iter().enumerate() {
        let starts = word_starts(length, case as u32);
        for ratio in [0.05, 0.3, 0.5, 0.99] {
            let q32 = masks::ratio_q32(ratio);
            assert_eq!(q32, mask::ratio_q32(ratio));
            assert_eq!(masks::budget(length, q32), mask::budget(length, q32));
            for stream in [Stream::EncoderMask, Stream::DecoderMask] {
                let actual = masks::whole_word_mask(9, 4, 77, stream, &starts, q32);
                let expected = mask::whole_word_mask(9, 4, 77, stream, 0, &starts, q32);
                assert_eq!(actual, expected, "length {length}, ratio {ratio}");
            }
        }
    }
}
