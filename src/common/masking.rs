//! What a step hides of its sentences, when it is drawn.

use std::fmt;

/// How many tokens of a sentence a mask may choose: `min(cap, max(1, round(ratio · length)))`, special tokens counted in the length, half a token
/// rounded to even, all as in the public code.
///
/// Words are visited in a random order, and chosen whole unless that would exceed the budget; so fewer tokens may be chosen, and none where every
/// word is longer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// In `[0, 1]`
    pub ratio: f64,
    /// At least 1. The public code has 512, so that its ratio falls for sentences that are long.
    pub cap: Option<usize>,
}

impl Budget {
    /// Of `ratio`, without a cap.
    #[must_use]
    pub fn of(ratio: f64) -> Self {
        Self { ratio, cap: None }
    }

    /// The tokens that may be chosen of `length`.
    #[must_use]
    pub fn tokens(self, length: usize) -> usize {
        let rounded = (length as f64 * self.ratio).round_ties_even() as usize;
        rounded.max(1).min(self.cap.unwrap_or(usize::MAX))
    }
}

/// What a step hides of its sentences, drawn anew in each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Masking {
    /// Stands for a hidden token.
    pub mask_id: i32,
    /// Tokens of the encoder's input to predict: 80 % become `mask_id`, 10 % a random id, 10 % stay, as BERT's do.
    pub encoder: Budget,
    /// Tokens that the `basic` decoder's input lacks, or that each mask of the `enhanced` one hides.
    pub decoder: Budget,
    /// The `enhanced` decoder's masks.
    pub bank_rows: BankRows,
}

/// How many position-specific masks a sentence has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BankRows {
    /// A sentence of L tokens has `min(L, this)`, of which each token draws one; 128 in the authors' later code, 256 in their first. In
    /// `1..=65536`.
    AtMost(usize),
    /// Every token has a mask of its own.
    Independent,
}

impl BankRows {
    /// Masks of sentences of up to `length` tokens, at most.
    #[must_use]
    pub fn rows_max(self, length: usize) -> usize {
        match self {
            Self::AtMost(rows) => rows,
            Self::Independent => length,
        }
    }
}

impl fmt::Display for BankRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(rows) => rows.fmt(f),
            Self::Independent => f.write_str("independent"),
        }
    }
}
