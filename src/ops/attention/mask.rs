//! Attention masks: the keys of its sentence that a query sees.

use super::Attention;
use crate::device::params::{
    ATTENTION_FIRST_VISIBLE, ATTENTION_MASK_BITS, ATTENTION_MASK_PERMUTATION, ATTENTION_MASK_SAMPLED,
    ATTENTION_MASK_WINDOW, ATTENTION_SELF_HIDDEN, ATTENTION_SELF_VISIBLE, AttentionMaskParams,
};
use crate::device::{Stream, View};
use crate::ops::Result;
use crate::ops::error::{require, require_length};
use crate::ops::masks::{MaskCountLimit, require_pool_rows};

/// The keys of its sentence that a query sees. L is the number of the sentence's keys, and a position is a key's index among them.
///
/// Bits lie in rows of `ceil(L / 32)` 32-bit words, sentence after sentence, lowest bit first; 1 is visible. Words beyond the end of the bits
/// count as 0.
///
/// A hidden key has a probability of 0, and its value is multiplied by it: keys and values must be finite even where no query sees them, as
/// 0 · NaN is NaN.
#[derive(Clone, Copy, Debug)]
pub enum Mask<'a> {
    /// Every key.
    Full,
    /// Position-specific masks of RetroMAE's enhanced decoding: a query sees position 0 (unless that is the query) and the set bits of its pool row,
    /// never itself. See [`MaskPool`](crate::common::MaskPool).
    Pool {
        /// Rows of all pools, `ceil(L / 32)` 32-bit words a row.
        bits: View<'a, u32>,
        /// `[B + 1]`: offset of each sentence's first 32-bit word in `bits`.
        offsets: View<'a, u32>,
        /// `[T]`: pool row of each token, within its sentence's pool.
        rows: View<'a, u16>,
    },
    /// As [`Mask::Pool`], with a bit row of its own for each of the L positions.
    Independent {
        /// L rows a sentence, `ceil(L / 32)` 32-bit words a row.
        bits: View<'a, u32>,
        /// `[B + 1]`: offset of each sentence's first 32-bit word in `bits`.
        offsets: View<'a, u32>,
    },
    /// Exactly the set bits, in one row for each of the L positions; [`MaskBits`](super::MaskBits) makes them.
    Bits {
        /// L rows a sentence, `ceil(L / 32)` 32-bit words a row.
        bits: View<'a, u32>,
        /// `[B + 1]`: offset of each sentence's first 32-bit word in `bits`.
        offsets: View<'a, u32>,
    },
    /// The pool that [`masks`](crate::ops::masks) would sample, bit for bit, but anew in each block's shared memory: it needs no mask in device
    /// memory, but is sampled once per block, where a stored pool is sampled once. For short sentences.
    Generated {
        /// `[4]`: result of [`rng_state`](crate::ops::rng_state).
        rng: View<'a, u32>,
        /// `[B]`: indices of the sentences in the corpus.
        sentence_indices: View<'a, u32>,
        /// `[ceil(T / 32)]`: one bit per token, 1 where a word starts ([`word_start_bits`](crate::ops::masks::word_start_bits)).
        word_starts: View<'a, u32>,
        /// Maximum pool rows: a sentence of L tokens has `min(L, pool_rows_max)`; in `1..=65536`.
        pool_rows_max: usize,
        /// Limit of the tokens that each mask hides.
        count_limit: MaskCountLimit,
    },
    /// Keys from `left` positions before the query to `right` after it, unlimited where `None`; with `first` also position 0.
    Window {
        /// Positions before the query that it sees; all where `None`.
        left: Option<u32>,
        /// Positions after the query that it sees; all where `None`.
        right: Option<u32>,
        /// Position 0 is visible, however far it is.
        first: bool,
    },
    /// Permutation language modeling (XLNet, arXiv 1906.08237): keys that come earlier in the factorization order, and with `include_self` the
    /// query's own, which a content stream sees and a query stream does not.
    Permutation {
        /// `[T]`: each token's place in the factorization order of its sentence.
        order: View<'a, u16>,
        /// A query sees the key at its own position.
        include_self: bool,
    },
}

impl Mask<'_> {
    /// Keys up to the query itself (causal); `first` would add nothing, as position 0 precedes all.
    pub const CAUSAL: Mask<'static> = Mask::Window { left: None, right: Some(0), first: false };
}

/// Flags of two-stream attention: position 0 is visible, a query's own position is hidden.
const TWO_STREAM: u32 = ATTENTION_FIRST_VISIBLE | ATTENTION_SELF_HIDDEN;

pub(super) fn mask_params(stream: &Stream, attention: &Attention<'_>) -> Result<AttentionMaskParams> {
    let bits = |bits: View<'_, u32>, offsets: View<'_, u32>, rules| -> Result<AttentionMaskParams> {
        require_length("mask.offsets", offsets.len(), attention.batch.cu_seqlens.len(), "sentences + 1")?;
        Ok(AttentionMaskParams {
            bits: stream.address("mask.bits", &bits)?,
            offsets: stream.address("mask.offsets", &offsets)?,
            words: u32::try_from(bits.len()).unwrap_or(u32::MAX),
            kind: ATTENTION_MASK_BITS,
            rules,
            ..AttentionMaskParams::default()
        })
    };
    match attention.mask {
        Mask::Full => Ok(AttentionMaskParams::default()),
        Mask::Pool { bits: words, offsets, rows } => {
            require_length("mask.rows", rows.len(), attention.batch.tokens, "tokens")?;
            Ok(AttentionMaskParams {
                rows: stream.address("mask.rows", &rows)?,
                ..bits(words, offsets, TWO_STREAM)?
            })
        }
        Mask::Independent { bits: words, offsets } => bits(words, offsets, TWO_STREAM),
        Mask::Bits { bits: words, offsets } => bits(words, offsets, 0),
        Mask::Generated { rng, sentence_indices, word_starts, pool_rows_max, count_limit } => {
            require_length("mask.rng", rng.len(), 4, "words of an RngState")?;
            require_length(
                "mask.sentence_indices",
                sentence_indices.len(),
                attention.batch.sequences(),
                "sentences",
            )?;
            let words = attention.batch.tokens.div_ceil(32);
            require_length("mask.word_starts", word_starts.len(), words, "ceil(tokens / 32)")?;
            require_pool_rows("mask.pool_rows_max", pool_rows_max)?;
            Ok(AttentionMaskParams {
                rng: stream.address("mask.rng", &rng)?,
                sentence_indices: stream.address("mask.sentence_indices", &sentence_indices)?,
                word_starts: stream.address("mask.word_starts", &word_starts)?,
                pool_rows_max: pool_rows_max as u32,
                count_limit: count_limit.params("mask.count_limit")?,
                kind: ATTENTION_MASK_SAMPLED,
                rules: TWO_STREAM,
                ..AttentionMaskParams::default()
            })
        }
        Mask::Window { left, right, first } => Ok(AttentionMaskParams {
            kind: ATTENTION_MASK_WINDOW,
            rules: if first { ATTENTION_FIRST_VISIBLE } else { 0 },
            left: left.unwrap_or(u32::MAX),
            right: right.unwrap_or(u32::MAX),
            ..AttentionMaskParams::default()
        }),
        Mask::Permutation { order, include_self } => {
            require_length("mask.order", order.len(), attention.batch.tokens, "tokens")?;
            Ok(AttentionMaskParams {
                order: stream.address("mask.order", &order)?,
                kind: ATTENTION_MASK_PERMUTATION,
                rules: if include_self { ATTENTION_SELF_VISIBLE } else { ATTENTION_SELF_HIDDEN },
                ..AttentionMaskParams::default()
            })
        }
    }
}

/// Reads back the values in device memory, and refuses those that a kernel cannot use; sentences have `lengths` keys.
pub(super) fn check(attention: &Attention<'_>, lengths: &[usize]) -> Result<()> {
    // `None` where a sentence has one row per position.
    let check_bits =
        |bits: View<'_, u32>, offsets: View<'_, u32>, rows: Option<View<'_, u16>>| -> Result<()> {
            let (offsets, rows) = (offsets.read()?, rows.map(|rows| rows.read()).transpose()?);
            let mut start = 0;
            for (sentence, &length) in lengths.iter().enumerate() {
                let highest = rows.as_ref().map_or(length, |rows| {
                    rows[start..start + length].iter().map(|&row| usize::from(row) + 1).max().unwrap_or(0)
                });
                let end = offsets[sentence] as usize + highest * length.div_ceil(32);
                require(
                    end <= bits.len(),
                    if rows.is_some() { "mask.rows" } else { "mask.offsets" },
                    format_args!("up to word {end} in sentence {sentence}"),
                    format_args!("within the {} words of the mask bits", bits.len()),
                )?;
                if rows.is_some() {
                    let words = (offsets[sentence + 1].saturating_sub(offsets[sentence])) as usize;
                    let pool_rows = words.checked_div(length.div_ceil(32)).unwrap_or(0);
                    require(
                        highest <= pool_rows,
                        "mask.rows",
                        format_args!("{} in sentence {sentence}", highest.wrapping_sub(1)),
                        format_args!("below {pool_rows} (rows of its pool)"),
                    )?;
                }
                start += length;
            }
            Ok(())
        };
    match attention.mask {
        Mask::Full | Mask::Generated { .. } | Mask::Window { .. } | Mask::Permutation { .. } => Ok(()),
        Mask::Pool { bits, offsets, rows } => check_bits(bits, offsets, Some(rows)),
        Mask::Independent { bits, offsets } | Mask::Bits { bits, offsets } => check_bits(bits, offsets, None),
    }
}
