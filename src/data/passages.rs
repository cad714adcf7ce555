//! Passages in memory, and views of passages wherever they are stored.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use xxhash_rust::xxh3::Xxh3;

use super::Error;

/// Ids widened together.
const WIDENED_AT_ONCE: usize = 64;

/// View of token ids, in their stored width.
#[derive(Clone, Copy, Debug)]
pub enum Ids<'a> {
    /// Ids of a vocabulary of at most 65536 tokens.
    U16(&'a [u16]),
    /// Ids of a larger vocabulary, or passages in memory.
    U32(&'a [u32]),
}

impl Ids<'_> {
    /// Returns the number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::U16(ids) => ids.len(),
            Self::U32(ids) => ids.len(),
        }
    }

    /// Returns whether there is no token.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns a copy of the ids, widened.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u32> {
        match self {
            Self::U16(ids) => ids.iter().map(|&id| u32::from(id)).collect(),
            Self::U32(ids) => ids.to_vec(),
        }
    }

    /// Appends the ids as `i32`, the type of a batch; every id is below 2^31.
    pub fn append_to(&self, target: &mut Vec<i32>) {
        match self {
            Self::U16(ids) => target.extend(ids.iter().map(|&id| i32::from(id))),
            Self::U32(ids) => target.extend(ids.iter().map(|&id| id as i32)),
        }
    }
}

/// View of one bit a token, lowest bit first; may begin inside a 32-bit word.
#[derive(Clone, Copy, Debug)]
pub struct WordStarts<'a> {
    words: &'a [u32],
    /// Offset of the view's first bit from the lowest bit of `words[0]`; below 32.
    first: usize,
    length: usize,
}

impl<'a> WordStarts<'a> {
    /// Creates a view of the bits `range` of an array of bits.
    pub(super) fn new(words: &'a [u32], range: std::ops::Range<usize>) -> Self {
        let words = &words[range.start / 32..range.end.div_ceil(32)];
        Self { words, first: range.start % 32, length: range.len() }
    }

    /// Returns the number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Returns whether there is no token.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Returns whether the token at `position` begins a word; false beyond the end.
    #[must_use]
    pub fn get(&self, position: usize) -> bool {
        let bit = self.first + position;
        position < self.length && self.words[bit / 32] >> (bit % 32) & 1 == 1
    }

    /// Appends the bits after the first `bits` bits of `target`, which must end with the 32-bit word that holds the last of them, all higher bits
    /// zero. That holds again afterwards.
    pub fn append_to(&self, target: &mut Vec<u32>, bits: usize) {
        let mut filled = bits % 32;
        let mut last = if filled == 0 { 0 } else { target.pop().unwrap_or(0) };
        let mut left = self.length;
        for index in 0..self.length.div_ceil(32) {
            let count = left.min(32);
            let word = self.word(index) & (u32::MAX >> (32 - count));
            last |= word << filled;
            if filled + count >= 32 {
                target.push(last);
                // A shift by all 32 bits would overflow.
                last = if filled == 0 { 0 } else { word >> (32 - filled) };
            }
            filled = (filled + count) % 32;
            left -= count;
        }
        if filled > 0 {
            target.push(last);
        }
    }

    /// Returns the bits from `32 * index` on, at most 32, as far as the view has them.
    fn word(&self, index: usize) -> u32 {
        let low = self.words[index] >> self.first;
        match self.words.get(index + 1) {
            Some(next) if self.first > 0 => low | next << (32 - self.first),
            _ => low,
        }
    }
}

/// One passage: a special token, at least one token of text, a special token.
#[derive(Clone, Copy, Debug)]
pub struct PassageRef<'a> {
    /// `[L]` token ids.
    pub ids: Ids<'a>,
    /// `[L]` bits, set where a token begins a word; never for the first and the last token, always for the second.
    pub word_starts: WordStarts<'a>,
}

/// xxh3-64 of a passage's ids.
pub(super) type Fingerprint = u64;
/// Fingerprints of passages; they are hashes already, so they are not hashed again.
pub(super) type Fingerprints = HashSet<Fingerprint, BuildHasherDefault<AsItIs>>;

/// Hasher that returns a number as its own hash.
#[derive(Default)]
pub(super) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxhash_rust::xxh3::xxh3_64(bytes);
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

impl PassageRef<'_> {
    /// Returns the hash of the ids, independent of the width they are stored in.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        match self.ids {
            Ids::U32(ids) => xxhash_rust::xxh3::xxh3_64(bytemuck::cast_slice(ids)),
            Ids::U16(ids) => {
                let mut hash = Xxh3::new();
                for part in ids.chunks(WIDENED_AT_ONCE) {
                    let mut wide = [0_u32; WIDENED_AT_ONCE];
                    wide.iter_mut().zip(part).for_each(|(wide, &id)| *wide = id.into());
                    hash.update(bytemuck::cast_slice(&wide[..part.len()]));
                }
                hash.digest()
            }
        }
    }

    /// Returns the number of tokens, special ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Returns whether there is no token.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// Passages stored one after another in memory: the output of a tokenizer, or a shard that is being built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passages {
    ids: Vec<u32>,
    /// One bit a token.
    word_starts: Vec<u32>,
    /// End of each passage in `ids`.
    ends: Vec<usize>,
}

impl Passages {
    /// Returns the number of passages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns whether there is no passage.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns the tokens of all passages, special ones included.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Appends the passage `first`, `content`, `last`. `starts` tells for each index in `content` whether that token begins a word; the first one
    /// always does.
    pub fn push(&mut self, first: u32, content: &[u32], last: u32, starts: impl Fn(usize) -> bool) {
        let begin = self.ids.len();
        self.ids.push(first);
        self.ids.extend_from_slice(content);
        self.ids.push(last);
        self.word_starts.resize(self.ids.len().div_ceil(32), 0);
        for index in (0..content.len()).filter(|&index| index == 0 || starts(index)) {
            let bit = begin + 1 + index;
            self.word_starts[bit / 32] |= 1 << (bit % 32);
        }
        self.ends.push(self.ids.len());
    }

    /// Appends a copy of a passage that is stored elsewhere.
    pub(super) fn push_copy(&mut self, passage: PassageRef<'_>) {
        passage.word_starts.append_to(&mut self.word_starts, self.ids.len());
        match passage.ids {
            Ids::U16(ids) => self.ids.extend(ids.iter().map(|&id| u32::from(id))),
            Ids::U32(ids) => self.ids.extend_from_slice(ids),
        }
        self.ends.push(self.ids.len());
    }

    /// Appends copies of all passages of `other`.
    pub fn append(&mut self, other: &Self) {
        let before = self.ids.len();
        WordStarts::new(&other.word_starts, 0..other.ids.len()).append_to(&mut self.word_starts, before);
        self.ids.extend_from_slice(&other.ids);
        self.ends.extend(other.ends.iter().map(|end| before + end));
    }

    /// Returns the passage at `index`, `None` beyond the last.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<PassageRef<'_>> {
        let end = *self.ends.get(index)?;
        let range = index.checked_sub(1).map_or(0, |before| self.ends[before])..end;
        Some(PassageRef {
            ids: Ids::U32(&self.ids[range.clone()]),
            word_starts: WordStarts::new(&self.word_starts, range),
        })
    }

    /// Iterates over the passages in order.
    pub fn iter(&self) -> impl Iterator<Item = PassageRef<'_>> {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    pub(super) fn ids(&self) -> &[u32] {
        &self.ids
    }

    pub(super) fn word_start_bits(&self) -> &[u32] {
        &self.word_starts
    }

    /// Returns the offset of each passage, and the end of the last one.
    pub(super) fn offsets(&self) -> impl Iterator<Item = u64> + '_ {
        std::iter::once(0).chain(self.ends.iter().map(|&end| end as u64))
    }

    /// Refuses ids that no batch can hold.
    pub(super) fn check_ids(&self, vocab_size: u32) -> Result<(), Error> {
        let most = vocab_size.min(i32::MAX as u32);
        match self.ids.iter().position(|&id| id >= most) {
            Some(at) => Err(Error::TokenId {
                index: self.ends.partition_point(|&end| end <= at),
                id: self.ids[at],
                vocab_size: most,
            }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bit(words: &[u32], at: usize) -> bool {
        words[at / 32] >> (at % 32) & 1 == 1
    }

    #[test]
    fn bits_are_appended_at_any_offset() {
        let words: Vec<u32> = (1..9_u32).map(|n| n.wrapping_mul(0x9E37_79B9) ^ 0xA5A5_0F0F).collect();
        for first in [0, 1, 5, 31, 32, 33, 63, 64] {
            for length in [0, 1, 2, 30, 31, 32, 33, 63, 64, 65, 100, 128] {
                let view = WordStarts::new(&words, first..first + length);
                for before in [0, 1, 7, 31, 32, 33, 64, 95] {
                    let mut target: Vec<u32> = vec![0; usize::div_ceil(before, 32)];
                    for at in (0..before).step_by(3) {
                        target[at / 32] |= 1 << (at % 32);
                    }
                    view.append_to(&mut target, before);
                    assert_eq!(target.len(), (before + length).div_ceil(32));
                    for at in 0..32 * target.len() {
                        let expected = match at.checked_sub(before) {
                            None => at % 3 == 0,
                            Some(position) => position < length && bit(&words, first + position),
                        };
                        assert_eq!(
                            bit(&target, at),
                            expected,
                            "bit {at} of {length} from {first} behind {before}"
                        );
                    }
                    assert!((0..length).all(|position| view.get(position) == bit(&words, first + position)));
                    assert!(!view.get(length));
                }
            }
        }
    }

    #[test]
    fn passages_are_what_was_pushed() {
        let mut all = Passages::default();
        let mut joined = Passages::default();
        for n in 1..60_u32 {
            let content: Vec<u32> = (0..n).collect();
            let starts = |at: usize| (at as u32 * n).is_multiple_of(3);
            all.push(100, &content, 101, starts);
            let mut one = Passages::default();
            one.push(100, &content, 101, starts);
            joined.append(&one);
        }
        assert_eq!(joined, all);
        for (n, passage) in (1..60_u32).zip(all.iter()) {
            assert_eq!(passage.ids.to_vec(), [&[100][..], &(0..n).collect::<Vec<u32>>(), &[101]].concat());
            let starts: Vec<bool> =
                (0..passage.len()).map(|position| passage.word_starts.get(position)).collect();
            assert!(!starts[0] && starts[1] && !starts[n as usize + 1]);
            assert!((1..n).all(|at| starts[at as usize + 1] == (at * n).is_multiple_of(3)));
        }
        assert!(all.get(59).is_none());
    }
}
