//! Attention test cases: packs, masks on the host and on a device, and variants of the backward pass.

use retromae::device::{Buffer, Device, Float};
use retromae::model::MaskPool;
use retromae::model::PoolRows;
use retromae::ops::attention::{Mask, MaskBits, MaskBuffer};
use retromae::ops::masks::{self, word_start_bits};
use retromae::ops::rng_state;
use retromae::random;
use retromae::reference::attention as reference;
use retromae::reference::mask::{MaskCountLimit, MaskedSentence, mask_pool};

use crate::cases::attention::Inputs;
use crate::common::{integers, prefix_sums};

pub const SEED: u64 = 0x1234_5678_9abc;
pub const STEP: u32 = 5;
pub const SITE: u32 = 16;
/// Most rows of a generated pool.
pub const POOL_ROWS_MAX: usize = 40;

/// Kind of mask; its bits, rows and order are sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Full,
    /// Three rows a sentence; row 0 is empty.
    Pool,
    /// Half of the tokens hidden, as whole words; at most 40 rows.
    Generated,
    Independent,
    Bits,
    /// Half of the keys up to the query itself, by a mask that the host combines.
    Combined,
    Window {
        left: Option<u32>,
        right: Option<u32>,
        first: bool,
    },
    Permutation {
        include_self: bool,
    },
    /// A pool of one row, which shows everything.
    PoolOfOnes,
    /// Bits of all keys but the query itself.
    OffDiagonal,
}

/// Variant of the backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The default for the device and the lengths.
    Default,
    /// No fusion.
    Tiled,
    /// No fusion; query gradients are added up by atomics.
    Atomic,
}

/// A pack of sentences with one head layout.
#[derive(Clone, Debug)]
pub struct Case {
    pub lengths: Vec<usize>,
    /// Positions of the queries, sentence by sentence; all positions if `None`.
    pub queries: Option<Vec<Vec<usize>>>,
    pub heads: usize,
    pub head_dim: usize,
    pub kind: Kind,
    pub dropout: f32,
    pub scale: f32,
}

impl Case {
    pub fn new(lengths: &[usize], head_dim: usize, kind: Kind) -> Self {
        let scale = (head_dim as f32).powf(-0.5);
        Self { lengths: lengths.to_vec(), queries: None, heads: 1, head_dim, kind, dropout: 0.0, scale }
    }

    pub fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    pub fn columns(&self) -> usize {
        self.heads * self.head_dim
    }

    pub fn inputs<T: Float>(&self) -> Inputs<T> {
        Inputs::new(self.query_tokens(), self.tokens(), self.columns())
    }

    pub fn cu_seqlens(&self) -> Vec<i32> {
        prefix_sums(&self.lengths)
    }

    /// Returns the number of queries of each sentence.
    pub fn query_lengths(&self) -> Vec<usize> {
        self.queries
            .as_ref()
            .map_or_else(|| self.lengths.clone(), |queries| queries.iter().map(Vec::len).collect())
    }

    pub fn query_tokens(&self) -> usize {
        self.query_lengths().iter().sum()
    }

    pub fn positions(&self) -> Vec<i32> {
        match &self.queries {
            None => self.lengths.iter().flat_map(|&length| 0..length as i32).collect(),
            Some(queries) => queries.iter().flatten().map(|&position| position as i32).collect(),
        }
    }

    /// Returns the word starts: each sentence is `[CLS]`, words of one or two tokens, `[SEP]`.
    pub fn word_starts(&self) -> Vec<bool> {
        self.lengths
            .iter()
            .flat_map(|&length| (0..length).map(|position| !position.is_multiple_of(3)))
            .collect()
    }

    pub fn sentence_indices(&self) -> Vec<u32> {
        (0..self.lengths.len() as u32).map(|b| 7 * b + 1).collect()
    }

    /// Returns the pool of a generated mask.
    fn generated(&self) -> MaskPool {
        let (words, bounds) = (self.word_starts(), self.cu_seqlens());
        let sentence = |(&index, pair): (&u32, &[i32])| MaskedSentence {
            index,
            word_starts: &words[pair[0] as usize..pair[1] as usize],
        };
        let indices = self.sentence_indices();
        let sentences: Vec<_> = indices.iter().zip(bounds.windows(2)).map(sentence).collect();
        let count_limit = MaskCountLimit { ratio: 0.5, cap: None };
        mask_pool(SEED, STEP, &sentences, count_limit, PoolRows::AtMost(POOL_ROWS_MAX))
    }

    pub fn visibility(&self) -> Visibility {
        let mut visibility =
            Visibility { pool: MaskPool { offsets: vec![0], ..MaskPool::default() }, order: vec![] };
        for (b, &length) in self.lengths.iter().enumerate() {
            let pool = &mut visibility.pool;
            pool.bits.extend(self.bits(b, length));
            pool.offsets.push(pool.bits.len() as u32);
            pool.rows.extend(match self.kind {
                Kind::PoolOfOnes => vec![0; length],
                _ => integers(200 + b as u64, length, 3).iter().map(|&row| row as u16).collect(),
            });
            let mut order: Vec<u16> = (0..length as u16).collect();
            let samples = integers(300 + b as u64, length, u32::MAX);
            order.sort_by_key(|&position| samples[usize::from(position)]);
            visibility.order.extend(order);
        }
        if self.kind == Kind::Generated {
            visibility.pool = self.generated();
        }
        visibility
    }

    /// Returns for each sentence `[L, L]` booleans at random.
    pub fn booleans(&self) -> Vec<Vec<bool>> {
        let sample = |(b, length): (usize, &usize)| {
            integers(400 + b as u64, length * length, 2).iter().map(|&value| value == 1).collect()
        };
        self.lengths.iter().enumerate().map(sample).collect()
    }

    /// Returns the bit rows of sentence `b`.
    fn bits(&self, b: usize, length: usize) -> Vec<u32> {
        let words = length.div_ceil(32);
        let draw = |rows: usize| -> Vec<u32> {
            integers(100 + b as u64, rows * words, u32::MAX).into_iter().map(|word| word as u32).collect()
        };
        match self.kind {
            Kind::Pool => {
                let mut bits = draw(3);
                bits[..words].fill(0);
                bits
            }
            Kind::PoolOfOnes => vec![u32::MAX; words],
            Kind::OffDiagonal => (0..length * words)
                .map(|i| {
                    let (row, first) = (i / words, i % words * 32);
                    if (first..first + 32).contains(&row) { !(1 << (row - first)) } else { u32::MAX }
                })
                .collect(),
            Kind::Combined => {
                let (booleans, mut bits) = (&self.booleans()[b], vec![0; length * words]);
                for (query, key) in (0..length).flat_map(|query| (0..=query).map(move |key| (query, key))) {
                    bits[query * words + key / 32] |= u32::from(booleans[query * length + key]) << (key % 32);
                }
                bits
            }
            _ => draw(length),
        }
    }

    pub fn drops(&self) -> random::Dropout {
        random::Dropout::new(self.dropout, SEED, STEP, SITE)
    }
}

/// A case's pool and order.
pub struct Visibility {
    pub pool: MaskPool,
    pub order: Vec<u16>,
}

impl Visibility {
    pub fn mask(&self, kind: Kind) -> reference::Mask<'_> {
        let (bits, offsets) = (&self.pool.bits[..], &self.pool.offsets[..]);
        match kind {
            Kind::Full => reference::Mask::Full,
            Kind::Pool | Kind::PoolOfOnes | Kind::Generated => reference::Mask::Pool(&self.pool),
            Kind::Independent => reference::Mask::Bits { bits, offsets, two_stream: true },
            Kind::Bits | Kind::Combined | Kind::OffDiagonal => {
                reference::Mask::Bits { bits, offsets, two_stream: false }
            }
            Kind::Window { left, right, first } => reference::Mask::Window { left, right, first },
            Kind::Permutation { include_self } => {
                reference::Mask::Permutation { order: &self.order, include_self }
            }
        }
    }
}

/// A case's pack and mask in device memory.
pub struct Uploaded {
    pub cu_seqlens: Buffer<i32>,
    pub query_cu_seqlens: Buffer<i32>,
    pub positions: Buffer<i32>,
    pub bits: Buffer<u32>,
    pub offsets: Buffer<u32>,
    /// The mask of [`Kind::Combined`].
    combined: Option<MaskBuffer>,
    pub rows: Buffer<u16>,
    pub order: Buffer<u16>,
    pub rng: Buffer<u32>,
    pub sentence_indices: Buffer<u32>,
    pub word_starts: Buffer<u32>,
}

impl Uploaded {
    pub fn new(device: &Device, case: &Case) -> Self {
        let Visibility { pool, order } = case.visibility();
        let combined = || {
            let causal = MaskBits::causal(&case.lengths).unwrap();
            (causal & MaskBits::from_booleans(&case.booleans()).unwrap()).unwrap()
        };
        Self {
            cu_seqlens: device.upload(&case.cu_seqlens()).unwrap(),
            query_cu_seqlens: device.upload(&prefix_sums(&case.query_lengths())).unwrap(),
            positions: device.upload(&case.positions()).unwrap(),
            bits: device.upload(&pool.bits).unwrap(),
            offsets: device.upload(&pool.offsets).unwrap(),
            combined: (case.kind == Kind::Combined).then(|| combined().upload(device).unwrap()),
            rows: device.upload(&pool.rows).unwrap(),
            order: device.upload(&order).unwrap(),
            rng: device.upload(&rng_state(SEED, STEP)).unwrap(),
            sentence_indices: device.upload(&case.sentence_indices()).unwrap(),
            word_starts: device.upload(&word_start_bits(&case.word_starts())).unwrap(),
        }
    }

    pub fn mask(&self, kind: Kind) -> Mask<'_> {
        let (bits, offsets) = (self.bits.view(), self.offsets.view());
        match kind {
            Kind::Full => Mask::Full,
            Kind::Pool | Kind::PoolOfOnes => Mask::Pool { bits, offsets, rows: self.rows.view() },
            Kind::Generated => Mask::Generated {
                rng: self.rng.view(),
                sentence_indices: self.sentence_indices.view(),
                word_starts: self.word_starts.view(),
                pool_rows_max: POOL_ROWS_MAX,
                count_limit: masks::MaskCountLimit::of(0.5),
            },
            Kind::Independent => Mask::Independent { bits, offsets },
            Kind::Bits | Kind::OffDiagonal => Mask::Bits { bits, offsets },
            Kind::Combined => self.combined.as_ref().expect("made for this kind").mask(),
            Kind::Window { left, right, first } => Mask::Window { left, right, first },
            Kind::Permutation { include_self } => {
                Mask::Permutation { order: self.order.view(), include_self }
            }
        }
    }
}

/// Makes a test for each kind of mask whose kernels another sweep covers.
macro_rules! tests {
    ($($name:ident: $kind:expr;)*) => {
        $(
            #[test]
            fn $name() {
                super::sweep_short($kind);
            }
        )*
    };
}

tests! {
    independent_rows_match_the_reference: Kind::Independent;
    any_bits_match_the_reference: Kind::Bits;
    masks_combined_on_the_host_match_the_reference: Kind::Combined;
    windows_match_the_reference: Kind::Window { left: Some(20), right: Some(3), first: true };
    causal_attention_matches_the_reference: Kind::Window { left: None, right: Some(0), first: false };
}
