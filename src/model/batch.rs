//! What one training step sees: packed sentences, and what is hidden of them, given or to be drawn.

use std::fmt;

use crate::ops::Workspace;
use crate::ops::masks::{self, BANK_ROWS_MAX, Budget};

/// Rows of a bank of long sentences, for which there must be workspace: what the first public code draws.
pub(super) const LONG_BANK_ROWS_MAX: usize = 256;

/// The label of a token without a loss.
pub const IGNORE_INDEX: i32 = -100;

/// Position-specific visibility for the enhanced decoder: for each sentence a bank of bit rows, and for each token
/// the bank row that it uses.
///
/// Sentence `b` of `L` tokens has `rows_of(b)` bit rows of `ceil(L / 32)` words each; bit `j % 32` of word `j / 32` is 1
/// when slot `j` is visible. Whatever the bits say, a token never sees itself and every other token sees slot 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VisibilityBank {
    /// All bit rows, sentence after sentence.
    pub bits: Vec<u32>,
    /// `[B + 1]`: where each sentence's words begin in `bits`.
    pub offsets: Vec<u32>,
    /// `[T]`: the bank row of each packed token, local to its sentence.
    pub rows: Vec<u16>,
}

/// Packed sentences as they are: what the device draws a step's masks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackedSentences {
    /// `[B]` numbers of the sentences in the corpus: what is drawn for a sentence depends on it, not on its place in the batch.
    pub sentence_indices: Vec<u32>,
    /// `[B + 1]` prefix sums of the sentence lengths, from 0.
    pub cu_seqlens: Vec<i32>,
    /// `[T]` token ids; the first and the last token of a sentence, `[CLS]` and `[SEP]`, are never hidden.
    pub ids: Vec<i32>,
    /// `[ceil(T / 32)]`: a bit a token, lowest first, 1 where a word starts ([`word_start_bits`](crate::ops::masks::word_start_bits)).
    pub word_starts: Vec<u32>,
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

    /// The most masks for which a model of sentences of up to `length` tokens has room.
    #[must_use]
    pub fn limit(length: usize) -> usize {
        if masks::workspace(1, length, 1) == Workspace::NONE { BANK_ROWS_MAX } else { LONG_BANK_ROWS_MAX }
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

/// The input of a step.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// Everything is given.
    Explicit(&'a Batch),
    /// What is hidden is drawn on the device, from the step's randomness.
    Drawn(&'a PackedSentences, Masking),
}

/// One explicit batch: everything that a step draws at random in training is given here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// `[B + 1]` prefix sums of the sentence lengths, from 0.
    pub cu_seqlens: Vec<i32>,
    /// `[T]` encoder input: the corrupted ids.
    pub encoder_input_ids: Vec<i32>,
    /// `[T]` the id to predict at each encoder position, [`IGNORE_INDEX`] where there is none.
    pub encoder_labels: Vec<i32>,
    /// `[T]` decoder content: the original ids (`enhanced`) or the masked ids (`basic`). Slot 0 is not read.
    pub decoder_input_ids: Vec<i32>,
    /// `[T]` the id to predict at each decoder position, [`IGNORE_INDEX`] where there is none.
    pub decoder_labels: Vec<i32>,
    /// Required by the enhanced decoder, ignored by the basic one.
    pub visibility: Option<VisibilityBank>,
}

impl Batch {
    /// Number of sentences B.
    #[must_use]
    pub fn num_sentences(&self) -> usize {
        self.cu_seqlens.len().saturating_sub(1)
    }

    /// Number of packed tokens T.
    #[must_use]
    pub fn num_tokens(&self) -> usize {
        self.cu_seqlens.last().map_or(0, |&total| total as usize)
    }

    /// The packed token range of sentence `b`.
    #[must_use]
    pub fn sentence(&self, b: usize) -> std::ops::Range<usize> {
        self.cu_seqlens[b] as usize..self.cu_seqlens[b + 1] as usize
    }

    /// The distinct ids of the tokens of sentence `b` as they were before corruption, ascending; the first and the last token, `[CLS]` and
    /// `[SEP]`, are left out.
    #[must_use]
    pub fn bag_of_words(&self, b: usize) -> Vec<i32> {
        let original = |token: usize| match self.encoder_labels[token] {
            IGNORE_INDEX => self.encoder_input_ids[token],
            label => label,
        };
        bag_of_words(self.sentence(b).map(original).collect())
    }
}

/// The distinct ids of a sentence, ascending, without its first and its last token's.
pub(super) fn bag_of_words(mut sentence: Vec<i32>) -> Vec<i32> {
    sentence.pop();
    let mut inner = sentence.split_off(sentence.len().min(1));
    inner.sort_unstable();
    inner.dedup();
    inner
}

impl PackedSentences {
    /// Number of sentences B.
    #[must_use]
    pub fn num_sentences(&self) -> usize {
        self.sentence_indices.len()
    }

    /// Number of packed tokens T.
    #[must_use]
    pub fn num_tokens(&self) -> usize {
        self.ids.len()
    }
}

impl Input<'_> {
    /// `[B + 1]` prefix sums of the sentence lengths.
    pub(super) fn cu_seqlens(&self) -> &[i32] {
        match self {
            Self::Explicit(batch) => &batch.cu_seqlens,
            Self::Drawn(sentences, _) => &sentences.cu_seqlens,
        }
    }

    /// How the device draws; none where everything is given.
    pub(super) fn masking(&self) -> Option<Masking> {
        match self {
            Self::Explicit(_) => None,
            Self::Drawn(_, masking) => Some(*masking),
        }
    }
}

impl VisibilityBank {
    /// Whether slot `query` of a sentence sees slot `key`: `query != key && (key == 0 || bit)`.
    ///
    /// `b` is the sentence, `start` its first packed token and `length` its number of tokens.
    #[must_use]
    pub fn visible(&self, b: usize, start: usize, length: usize, query: usize, key: usize) -> bool {
        let words_per_row = length.div_ceil(32);
        let row = usize::from(self.rows[start + query]);
        let word = self.bits[self.offsets[b] as usize + row * words_per_row + key / 32];
        query != key && (key == 0 || word >> (key % 32) & 1 == 1)
    }
}
