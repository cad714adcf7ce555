//! Attention masks made on the host, of any shape and combined at will.

use std::ops::{BitAnd, BitOr, Not};

use super::{LENGTH_MAX, Mask};
use crate::device::{Buffer, Device};
use crate::ops::Result;
use crate::ops::error::require;

/// The keys that each query of a packed batch sees, a bit a pair, on the host: `[L, L]` for a sequence of L tokens.
///
/// Masks of the same lengths are combined by `&`, `|` and `!`; [`upload`](Self::upload) copies one to a device.
///
/// ```
/// use retromae::device::Device;
/// use retromae::ops::PackedBatch;
/// use retromae::ops::attention::{Attention, MaskBits};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let lengths = [5, 3];
/// // Every second key, of those up to the query itself.
/// let even = MaskBits::from_fn(&lengths, |_sequence, _query, key| key % 2 == 0)?;
/// let mask = (MaskBits::causal(&lengths)? & even)?;
/// assert!(mask.sees(0, 4, 2) && !mask.sees(0, 4, 3) && !mask.sees(0, 1, 2));
///
/// let device = Device::host()?;
/// let (batch, uploaded) = (PackedBatch::new(&device, &lengths)?, mask.upload(&device)?);
/// let attention = Attention::new(batch.view(), 12, 64).mask(uploaded.mask());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskBits {
    lengths: Vec<usize>,
    /// As [`Mask::Bits`] has them; bits beyond a row's L are 0.
    bits: Vec<u32>,
    /// First word of each sequence, and the number of words.
    offsets: Vec<u32>,
}

/// A [`MaskBits`] in device memory.
#[derive(Debug)]
pub struct MaskBuffer {
    bits: Buffer<u32>,
    offsets: Buffer<u32>,
}

impl MaskBits {
    /// A mask in which the query at one position of a sequence sees the key at another where `visible(sequence, query, key)`.
    ///
    /// # Errors
    /// When a sequence is longer than [`LENGTH_MAX`], or all together need 2^32 words of 32 bits or more.
    pub fn from_fn(lengths: &[usize], mut visible: impl FnMut(usize, usize, usize) -> bool) -> Result<Self> {
        let offsets = Self::offsets_of(lengths)?;
        let mut bits = Vec::with_capacity(offsets[lengths.len()] as usize);
        for (sequence, &length) in lengths.iter().enumerate() {
            for query in 0..length {
                for first in (0..length).step_by(32) {
                    let keys = first..length.min(first + 32);
                    let bit = |word, key| word | u32::from(visible(sequence, query, key)) << (key - first);
                    bits.push(keys.fold(0, bit));
                }
            }
        }
        Ok(Self { lengths: lengths.to_vec(), bits, offsets })
    }

    /// A mask of booleans, true where a query sees a key: for each sequence `[L, L]`, row after row, a row a query.
    ///
    /// # Errors
    /// When a sequence's booleans are not a square; also as [`from_fn`](Self::from_fn).
    pub fn from_booleans(sequences: &[impl AsRef<[bool]>]) -> Result<Self> {
        let mut lengths = Vec::with_capacity(sequences.len());
        for (index, booleans) in sequences.iter().enumerate() {
            let (count, length) = (booleans.as_ref().len(), booleans.as_ref().len().isqrt());
            require(
                length * length == count,
                "sequences",
                format_args!("{count} booleans in sequence {index}"),
                "the square of its length",
            )?;
            lengths.push(length);
        }
        Self::from_fn(&lengths, |sequence, query, key| {
            sequences[sequence].as_ref()[query * lengths[sequence] + key]
        })
    }

    /// Every key. [`Mask::Full`] is the same and faster; this one is to be combined.
    ///
    /// # Errors
    /// As [`from_fn`](Self::from_fn).
    pub fn full(lengths: &[usize]) -> Result<Self> {
        Self::from_fn(lengths, |_, _, _| true)
    }

    /// Keys up to the query itself, as [`Mask::CAUSAL`].
    ///
    /// # Errors
    /// As [`from_fn`](Self::from_fn).
    pub fn causal(lengths: &[usize]) -> Result<Self> {
        Self::from_fn(lengths, |_, query, key| key <= query)
    }

    /// Keys from `left` positions before the query to `right` after it, unlimited where `None`, as [`Mask::Window`].
    ///
    /// # Errors
    /// As [`from_fn`](Self::from_fn).
    pub fn window(lengths: &[usize], left: Option<u32>, right: Option<u32>) -> Result<Self> {
        Self::from_fn(lengths, |_, query, key| {
            left.is_none_or(|left| query.saturating_sub(key) <= left as usize)
                && right.is_none_or(|right| key.saturating_sub(query) <= right as usize)
        })
    }

    /// Returns whether the query at position `query` of a sequence sees the key at position `key`.
    ///
    /// # Panics
    /// When there is no such sequence, query or key, as in indexing a slice.
    #[must_use]
    pub fn sees(&self, sequence: usize, query: usize, key: usize) -> bool {
        let length = self.lengths[sequence];
        assert!(query < length && key < length, "query {query} and key {key} of a sequence of {length}");
        let row = self.offsets[sequence] as usize + query * length.div_ceil(32);
        self.bits[row + key / 32] >> (key % 32) & 1 == 1
    }

    /// The bits as [`Mask::Bits`] has them, for memory of one's own.
    #[must_use]
    pub fn words(&self) -> &[u32] {
        &self.bits
    }

    /// `[B + 1]`: offset of each sequence's first 32-bit word, and the number of words.
    #[must_use]
    pub fn offsets(&self) -> &[u32] {
        &self.offsets
    }

    /// Returns the [`offsets`](Self::offsets) of a mask of these lengths.
    ///
    /// # Errors
    /// As [`from_fn`](Self::from_fn).
    pub fn offsets_of(lengths: &[usize]) -> Result<Vec<u32>> {
        let (mut words, mut offsets) = (0u64, vec![0]);
        for (sequence, &length) in lengths.iter().enumerate() {
            require(
                length <= LENGTH_MAX,
                "lengths",
                format_args!("{length} in sequence {sequence}"),
                format_args!("at most {LENGTH_MAX}"),
            )?;
            words += (length * length.div_ceil(32)) as u64;
            let fits = u32::try_from(words);
            require(
                fits.is_ok(),
                "lengths",
                format_args!("{words} words of bits up to sequence {sequence}"),
                "below 2^32 words: fewer or shorter sequences",
            )?;
            offsets.push(fits.unwrap_or_default());
        }
        Ok(offsets)
    }

    /// Copies the mask to a device.
    ///
    /// # Errors
    /// When the device has not enough memory.
    pub fn upload(&self, device: &Device) -> Result<MaskBuffer> {
        Ok(MaskBuffer { bits: device.upload(&self.bits)?, offsets: device.upload(&self.offsets)? })
    }

    /// Combines two masks word by word.
    fn combine(mut self, other: &Self, combine: impl Fn(u32, u32) -> u32) -> Result<Self> {
        let (sequences, others) = (self.lengths.len(), other.lengths.len());
        require(
            sequences == others,
            "mask",
            format_args!("of {others} sequences"),
            format_args!("of {sequences}, as the mask on the left"),
        )?;
        for (index, (&length, &other)) in self.lengths.iter().zip(&other.lengths).enumerate() {
            require(
                length == other,
                "mask",
                format_args!("of {other} tokens in sequence {index}"),
                format_args!("of {length}, as the mask on the left"),
            )?;
        }
        self.bits.iter_mut().zip(&other.bits).for_each(|(word, &other)| *word = combine(*word, other));
        Ok(self)
    }
}

impl MaskBuffer {
    /// The mask as an argument of attention over the same sequences.
    #[must_use]
    pub fn mask(&self) -> Mask<'_> {
        Mask::Bits { bits: self.bits.view(), offsets: self.offsets.view() }
    }
}

/// Keys that both masks show; an error when their lengths differ.
impl BitAnd for MaskBits {
    type Output = Result<Self>;

    fn bitand(self, other: Self) -> Result<Self> {
        self.combine(&other, |one, other| one & other)
    }
}

/// Keys that either mask shows; an error when their lengths differ.
impl BitOr for MaskBits {
    type Output = Result<Self>;

    fn bitor(self, other: Self) -> Result<Self> {
        self.combine(&other, |one, other| one | other)
    }
}

/// Keys that the mask hides.
impl Not for MaskBits {
    type Output = Self;

    fn not(mut self) -> Self {
        let rows = self.lengths.iter().flat_map(|&length| (0..length).map(move |_| length));
        let existing = rows.flat_map(|length| {
            (0..length).step_by(32).map(move |first| u32::MAX >> (32 - (length - first).min(32)))
        });
        self.bits.iter_mut().zip(existing).for_each(|(word, existing)| *word = !*word & existing);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No token, one, partial and whole words.
    const LENGTHS: [usize; 6] = [3, 0, 1, 32, 33, 70];

    /// Some pairs without a pattern in words of 32.
    fn sparse(sequence: usize, query: usize, key: usize) -> bool {
        (7 * sequence + 13 * query + 5 * key * key) % 11 < 4
    }

    #[track_caller]
    fn assert_sees(mask: &MaskBits, expected: impl Fn(usize, usize, usize) -> bool) {
        let (mut seen, mut hidden) = (0, 0);
        for (sequence, &length) in LENGTHS.iter().enumerate() {
            for (query, key) in (0..length).flat_map(|query| (0..length).map(move |key| (query, key))) {
                let sees = mask.sees(sequence, query, key);
                assert_eq!(sees, expected(sequence, query, key), "{sequence}, {query}, {key}");
                *(if sees { &mut seen } else { &mut hidden }) += 1;
            }
        }
        assert!(seen + hidden > 6000);
        // Equal words, too: the bits beyond a row's end are 0 in every mask.
        assert_eq!(*mask, MaskBits::from_fn(&LENGTHS, expected).unwrap());
    }

    #[test]
    fn constructors_show_what_they_say() {
        assert_sees(&MaskBits::from_fn(&LENGTHS, sparse).unwrap(), sparse);
        assert_sees(&MaskBits::full(&LENGTHS).unwrap(), |_, _, _| true);
        assert_sees(&MaskBits::causal(&LENGTHS).unwrap(), |_, query, key| key <= query);
        let square = |(sequence, &length): (usize, &usize)| -> Vec<bool> {
            (0..length * length).map(|i| sparse(sequence, i / length, i % length)).collect()
        };
        let squares: Vec<Vec<bool>> = LENGTHS.iter().enumerate().map(square).collect();
        assert_sees(&MaskBits::from_booleans(&squares).unwrap(), sparse);
    }

    #[test]
    fn windows_end_where_they_say() {
        let window = |left, right| MaskBits::window(&LENGTHS, left, right).unwrap();
        assert_sees(&window(Some(3), Some(1)), |_, query, key| key + 3 >= query && key <= query + 1);
        assert_sees(&window(None, Some(1)), |_, query, key| key <= query + 1);
        assert_sees(&window(Some(40), None), |_, query, key| key + 40 >= query);
        assert_eq!(window(None, Some(0)), MaskBits::causal(&LENGTHS).unwrap());
        assert_eq!(window(None, None), MaskBits::full(&LENGTHS).unwrap());
    }

    #[test]
    fn operators_combine_bit_by_bit() {
        let causal = || MaskBits::causal(&LENGTHS).unwrap();
        let other = || MaskBits::from_fn(&LENGTHS, sparse).unwrap();
        assert_sees(&(causal() & other()).unwrap(), |s, query, key| key <= query && sparse(s, query, key));
        assert_sees(&(causal() | other()).unwrap(), |s, query, key| key <= query || sparse(s, query, key));
        assert_sees(&!other(), |s, query, key| !sparse(s, query, key));
        assert_eq!(!!other(), other());
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let message = |result: Result<MaskBits>| result.unwrap_err().to_string();
        let mask = |lengths: &[usize]| MaskBits::full(lengths).unwrap();
        assert_eq!(
            message(mask(&[2, 3]) & mask(&[2, 4])),
            "mask is of 4 tokens in sequence 1; it should be of 3, as the mask on the left"
        );
        assert_eq!(
            message(mask(&[2, 3]) | mask(&[2])),
            "mask is of 1 sequences; it should be of 2, as the mask on the left"
        );
        assert_eq!(
            message(MaskBits::causal(&[5, LENGTH_MAX + 1])),
            "lengths is 65537 in sequence 1; it should be at most 65536"
        );
        let many = [LENGTH_MAX; 32];
        assert!(
            message(MaskBits::full(&many))
                .starts_with("lengths is 4294967296 words of bits up to sequence 31")
        );
        assert_eq!(
            message(MaskBits::from_booleans(&[vec![true; 4], vec![true; 5]])),
            "sequences is 5 booleans in sequence 1; it should be the square of its length"
        );
    }
}
