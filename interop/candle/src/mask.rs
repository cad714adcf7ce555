//! Attention masks in candle's memory.

use std::sync::Arc;

use candle_core::{Device, Result};
use retromae::model::MaskPool;
use retromae::ops::attention::{self, MaskBits};
use retromae::ops::masks::{MaskCountLimit, word_start_bits};
use retromae::ops::rng_state;

use crate::memory::{Memory, Place, Read};
use crate::refuse::require_device;

/// The keys of its sentence that a query sees: [`retromae::ops::attention::Mask`] in the memory of a candle device. Cloning is cheap.
#[derive(Clone)]
pub struct Mask(Kind<Words, Rows>);

type Words = Arc<Memory<u32>>;
type Rows = Arc<Memory<u16>>;

/// A mask whose arrays are `W` of 32-bit and `R` of 16-bit words.
#[derive(Clone)]
enum Kind<W, R> {
    Full,
    Window {
        left: Option<u32>,
        right: Option<u32>,
        first: bool,
    },
    Bits {
        bits: W,
        offsets: W,
    },
    Pool {
        bits: W,
        offsets: W,
        rows: R,
    },
    Independent {
        bits: W,
        offsets: W,
    },
    Generated {
        rng: W,
        sentence_indices: W,
        word_starts: W,
        pool_rows_max: usize,
        count_limit: MaskCountLimit,
    },
    Permutation {
        order: R,
        include_self: bool,
    },
}

/// Position-specific masks that attention samples itself: those of RetroMAE's enhanced decoding (arXiv 2205.12035, section 3.3).
#[derive(Clone, Copy, Debug)]
pub struct GeneratedMask<'a> {
    /// Seed of the run.
    pub seed: u64,
    /// Step of the run: each has masks of its own.
    pub step: u32,
    /// `[B]`: indices of the sentences in the corpus.
    pub sentence_indices: &'a [u32],
    /// `[T]`: true where a word starts; words are hidden whole. The first and the last token of a sentence are never hidden.
    pub word_starts: &'a [bool],
    /// Maximum masks of a sentence, of which each query takes one; in `1..=65536`.
    pub pool_rows_max: usize,
    /// Limit of the tokens that each mask hides.
    pub count_limit: MaskCountLimit,
}

impl Mask {
    /// Every key.
    pub const FULL: Self = Self(Kind::Full);
    /// Keys up to the query itself.
    pub const CAUSAL: Self = Self::window(None, Some(0), false);

    /// Keys from `left` positions before the query to `right` after it, unlimited where `None`; with `first` also position 0.
    #[must_use]
    pub const fn window(left: Option<u32>, right: Option<u32>, first: bool) -> Self {
        Self(Kind::Window { left, right, first })
    }

    /// Exactly the set bits of a mask of one's own, for sentences of its lengths.
    ///
    /// # Errors
    /// An error of the device.
    pub fn bits(bits: &MaskBits, device: &Device) -> Result<Self> {
        let (bits, offsets) = (upload(device, bits.words())?, upload(device, bits.offsets())?);
        Ok(Self(Kind::Bits { bits, offsets }))
    }

    /// Two-stream attention: a query sees position 0 and the set bits of its row of the pool, never itself.
    ///
    /// # Errors
    /// An error of the device.
    pub fn pool(pool: &MaskPool, device: &Device) -> Result<Self> {
        let (bits, offsets) = (upload(device, &pool.bits)?, upload(device, &pool.offsets)?);
        Ok(Self(Kind::Pool { bits, offsets, rows: upload(device, &pool.rows)? }))
    }

    /// As [`pool`](Self::pool), for one in which each position has the row of its own number.
    ///
    /// # Errors
    /// An error of the device.
    pub fn independent(pool: &MaskPool, device: &Device) -> Result<Self> {
        let (bits, offsets) = (upload(device, &pool.bits)?, upload(device, &pool.offsets)?);
        Ok(Self(Kind::Independent { bits, offsets }))
    }

    /// As [`pool`](Self::pool), for the pool that the kernels sample themselves: it takes no memory. For short sentences.
    ///
    /// # Errors
    /// An error of the device.
    pub fn generated(mask: GeneratedMask<'_>, device: &Device) -> Result<Self> {
        let GeneratedMask { seed, step, sentence_indices, word_starts, pool_rows_max, count_limit } = mask;
        Ok(Self(Kind::Generated {
            rng: upload(device, &rng_state(seed, step))?,
            sentence_indices: upload(device, sentence_indices)?,
            word_starts: upload(device, &word_start_bits(word_starts))?,
            pool_rows_max,
            count_limit,
        }))
    }

    /// Permutation language modeling: keys that come earlier in the factorization order of their sentence, `order` `[T]`, and with `include_self` the
    /// query's own.
    ///
    /// # Errors
    /// An error of the device.
    pub fn permutation(order: &[u16], include_self: bool, device: &Device) -> Result<Self> {
        Ok(Self(Kind::Permutation { order: upload(device, order)?, include_self }))
    }

    /// Refuses a mask of another device than `device`.
    pub(crate) fn check(&self, device: &Device) -> Result<()> {
        let words = |memory: &Words| require_device("mask", memory.device(), "query", device);
        let rows = |memory: &Rows| require_device("mask", memory.device(), "query", device);
        self.0.map(words, rows).map(drop)
    }

    pub(crate) fn read<'a>(&'a self, place: &'a Place) -> Result<ReadMask<'a>> {
        self.0.map(|memory| Ok(memory.read(place)), |memory| Ok(memory.read(place))).map(ReadMask)
    }
}

fn upload<T: crate::memory::Element>(device: &Device, values: &[T]) -> Result<Arc<Memory<T>>> {
    Memory::upload(device, values).map(Arc::new)
}

/// A mask that an operation reads.
pub(crate) struct ReadMask<'a>(Kind<Read<'a, u32>, Read<'a, u16>>);

impl ReadMask<'_> {
    /// The mask as an argument of an operation.
    pub fn view(&self) -> Result<attention::Mask<'_>> {
        use attention::Mask;
        Ok(match self.0.map(Read::view, Read::view)? {
            Kind::Full => Mask::Full,
            Kind::Window { left, right, first } => Mask::Window { left, right, first },
            Kind::Bits { bits, offsets } => Mask::Bits { bits, offsets },
            Kind::Pool { bits, offsets, rows } => Mask::Pool { bits, offsets, rows },
            Kind::Independent { bits, offsets } => Mask::Independent { bits, offsets },
            Kind::Generated { rng, sentence_indices, word_starts, pool_rows_max, count_limit } => {
                Mask::Generated { rng, sentence_indices, word_starts, pool_rows_max, count_limit }
            }
            Kind::Permutation { order, include_self } => Mask::Permutation { order, include_self },
        })
    }
}

impl<W, R> Kind<W, R> {
    /// The same mask of other arrays.
    fn map<'a, V, S>(
        &'a self,
        words: impl Fn(&'a W) -> Result<V>,
        rows: impl Fn(&'a R) -> Result<S>,
    ) -> Result<Kind<V, S>> {
        Ok(match self {
            Self::Full => Kind::Full,
            &Self::Window { left, right, first } => Kind::Window { left, right, first },
            Self::Bits { bits, offsets } => Kind::Bits { bits: words(bits)?, offsets: words(offsets)? },
            Self::Pool { bits, offsets, rows: of_queries } => {
                Kind::Pool { bits: words(bits)?, offsets: words(offsets)?, rows: rows(of_queries)? }
            }
            Self::Independent { bits, offsets } => {
                Kind::Independent { bits: words(bits)?, offsets: words(offsets)? }
            }
            Self::Generated { rng, sentence_indices, word_starts, pool_rows_max, count_limit } => {
                Kind::Generated {
                    rng: words(rng)?,
                    sentence_indices: words(sentence_indices)?,
                    word_starts: words(word_starts)?,
                    pool_rows_max: *pool_rows_max,
                    count_limit: *count_limit,
                }
            }
            Self::Permutation { order, include_self } => {
                Kind::Permutation { order: rows(order)?, include_self: *include_self }
            }
        })
    }
}
