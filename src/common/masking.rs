//! Masking options of a step whose masks are sampled.

use std::fmt;

/// Limit on the tokens of a sentence that a mask may choose: `min(cap, max(1, round(ratio · length)))`, where the length includes special tokens
/// and half a token is rounded to even, all as in the public code.
///
/// Words are visited in a random order, and chosen whole unless that would exceed the count limit; so fewer tokens may be chosen, and none if every
/// word is longer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaskCountLimit {
    /// Share of the tokens, in `[0, 1]`.
    pub ratio: f64,
    /// Maximum number of tokens, at least 1. The public code uses 512, so that the ratio is lower for long sentences.
    pub cap: Option<usize>,
}

impl MaskCountLimit {
    /// Creates a count limit of `ratio`, without a cap.
    #[must_use]
    pub const fn of(ratio: f64) -> Self {
        Self { ratio, cap: None }
    }

    /// Returns how many tokens of a sentence of `length` may be chosen.
    #[must_use]
    pub fn tokens(self, length: usize) -> usize {
        let rounded = (length as f64 * self.ratio).round_ties_even() as usize;
        rounded.max(1).min(self.cap.unwrap_or(usize::MAX))
    }
}

/// Masking options; masks are sampled anew in each step. [`Masking::new`] has the defaults.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Masking {
    /// Id that replaces a hidden token.
    pub mask_id: i32,
    /// Limit on the encoder's input tokens to predict: 80 % become `mask_id`, 10 % a random id, 10 % stay, as in BERT.
    pub encoder: MaskCountLimit,
    /// Limit on the tokens hidden from the `basic` decoder's input, or by each mask of the `enhanced` one.
    pub decoder: MaskCountLimit,
    /// Masks of the `enhanced` decoder.
    pub pool_rows: PoolRows,
}

impl Masking {
    /// Share of a sentence's tokens that the encoder's input loses, as in the public code.
    pub const ENCODER_RATIO: f64 = 0.3;
    /// Share of the tokens hidden from the decoder, as in the public code.
    pub const DECODER_RATIO: f64 = 0.5;
    /// Masks of a sentence, as in the authors' later code.
    pub const POOL_ROWS: PoolRows = PoolRows::AtMost(128);

    /// Creates the options of the public code, without its cap of the count limits: [`ENCODER_RATIO`](Self::ENCODER_RATIO),
    /// [`DECODER_RATIO`](Self::DECODER_RATIO), [`POOL_ROWS`](Self::POOL_ROWS).
    #[must_use]
    pub const fn new(mask_id: i32) -> Self {
        Self {
            mask_id,
            encoder: MaskCountLimit::of(Self::ENCODER_RATIO),
            decoder: MaskCountLimit::of(Self::DECODER_RATIO),
            pool_rows: Self::POOL_ROWS,
        }
    }
}

/// Number of position-specific masks of a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolRows {
    /// A sentence of L tokens has `min(L, this)` masks, of which each token samples one; 128 in the authors' later code, 256 in their first. In
    /// `1..=65536`.
    AtMost(usize),
    /// Every token has a mask of its own.
    Independent,
}

impl PoolRows {
    /// Returns the maximum number of masks of a sentence of up to `length` tokens.
    #[must_use]
    pub fn rows_max(self, length: usize) -> usize {
        match self {
            Self::AtMost(rows) => rows,
            Self::Independent => length,
        }
    }
}

impl fmt::Display for PoolRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(rows) => rows.fmt(f),
            Self::Independent => f.write_str("independent"),
        }
    }
}
