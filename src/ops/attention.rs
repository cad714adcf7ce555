//! Masked attention over packed sentences: `O = dropout(softmax(scale · Q Kᵀ + mask)) V`, a head and a sentence at a time.
//!
//! Queries may come from another stream than keys and values (RetroMAE's enhanced decoding, arXiv 2205.12035, section 3.3); each operand
//! is a view with its own row stride, so a packed projection is read in place.

use super::dropout::{Dropout, dropout_params};
use super::error::{require, require_length};
use super::{Error, Result};
use crate::device::params::{AttentionBackwardParams, AttentionForwardParams};
use crate::device::{Float, Stream, View, ViewMut};

/// Head sizes that are built.
pub const HEAD_DIMS: [usize; 3] = [32, 64, 128];

const THREADS: u32 = 128;
const KEY_TILE: usize = 64;
/// Shared rows are padded by this many floats.
const PAD: usize = 4;

/// Which keys a query sees.
#[derive(Clone, Copy, Debug)]
pub enum Mask<'a> {
    /// All of its sentence.
    Full,
    /// Position-specific: slot 0 (unless it is the query) and the set bits of the query's bank row, never itself. See
    /// [`VisibilityBank`](crate::model::VisibilityBank) for the layout.
    Bank {
        /// Bit rows of `ceil(L / 32)` words, sentence after sentence.
        bits: View<'a, u32>,
        /// `[B + 1]`: first word of each sentence.
        offsets: View<'a, u32>,
        /// `[T]`: bank row of each token, within its sentence's bank; not checked, as it lies in device memory.
        rows: View<'a, u16>,
    },
}

/// The shape of a pack of sentences, and what the scores need.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// `[B + 1]` prefix sums of the sentence lengths, from 0 to T.
    pub cu_seqlens: View<'a, i32>,
    /// The longest sentence.
    pub max_seqlen: usize,
    /// Number of heads A.
    pub num_heads: usize,
    /// Head size d: one of [`HEAD_DIMS`].
    pub head_dim: usize,
    /// What the scores are multiplied by, usually `1 / √d`.
    pub scale: f32,
    pub mask: Mask<'a>,
    /// On the probabilities.
    pub dropout: Option<Dropout<'a>>,
}

/// `[T, A·d]` within rows of `stride` elements; head `h` begins at column `h·d`.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a, T: Float> {
    pub view: View<'a, T>,
    pub stride: usize,
}

/// As [`Rows`], to be written.
#[derive(Debug)]
pub struct RowsMut<'a, T: Float> {
    pub view: ViewMut<'a, T>,
    pub stride: usize,
}

impl<'a, T: Float> Rows<'a, T> {
    /// The operands of a packed projection `[T, N·columns]`, each `columns` wide.
    #[must_use]
    pub fn packed<const N: usize>(view: View<'a, T>, columns: usize) -> [Self; N] {
        std::array::from_fn(|i| {
            let start = (i * columns).min(view.len());
            Self { view: view.slice(start..view.len()), stride: N * columns }
        })
    }
}

impl<'a, T: Float> RowsMut<'a, T> {
    /// The gradients of a packed projection `[T, N·columns]`, each `columns` wide: their rows interleave and never overlap.
    #[must_use]
    pub fn packed<const N: usize>(view: ViewMut<'a, T>, columns: usize) -> [Self; N] {
        std::array::from_fn(|i| {
            let start = (i * columns).min(view.len());
            Self { view: view.interleaved(start), stride: N * columns }
        })
    }
}

/// Arguments of [`forward`].
#[derive(Debug)]
pub struct Forward<'a, T: Float> {
    pub attention: Attention<'a>,
    pub query: Rows<'a, T>,
    pub key: Rows<'a, T>,
    pub value: Rows<'a, T>,
    pub output: RowsMut<'a, T>,
    /// `[A, T]`, natural logarithm of the sum of the exponentials of a row's scores; −∞ for a row that sees nothing
    pub log_sum_exp: ViewMut<'a, f32>,
}

/// Arguments of [`backward`].
#[derive(Debug)]
pub struct Backward<'a, T: Float> {
    pub attention: Attention<'a>,
    pub query: Rows<'a, T>,
    pub key: Rows<'a, T>,
    pub value: Rows<'a, T>,
    /// What the forward pass wrote.
    pub output: Rows<'a, T>,
    /// What the forward pass wrote.
    pub log_sum_exp: View<'a, f32>,
    /// Gradient of the output, with the output's stride.
    pub d_output: View<'a, T>,
    pub d_query: RowsMut<'a, T>,
    pub d_key: RowsMut<'a, T>,
    pub d_value: RowsMut<'a, T>,
}

/// Enqueues the forward pass.
///
/// # Errors
/// When the head size is not built, or a length or stride does not fit.
pub fn forward<T: Float>(stream: &Stream, arguments: Forward<'_, T>) -> Result<()> {
    let Forward { attention, query, key, value, output, log_sum_exp } = arguments;
    let tokens = tokens(&attention, log_sum_exp.len())?;
    let mut params = forward_params(stream, &attention, tokens, [query, key, value])?;
    check_rows("output", output.view.len(), output.stride, tokens, &attention)?;
    params.output = stream.address("output", &output.view)?;
    params.output_stride = output.stride as u32;
    params.log_sum_exp = stream.address("log_sum_exp", &log_sum_exp)?;
    let kernel = kernel_name::<T>("forward", &attention);
    let grid = grid(&attention, KEY_TILE);
    // SAFETY: every array was checked for `tokens` rows of its stride; the kernel reads sentence bounds from `cu_seqlens`, whose
    // values are the caller's promise.
    unsafe { stream.launch(&kernel, grid, THREADS, forward_shared_bytes(attention.head_dim), &params)? };
    Ok(())
}

/// Enqueues the backward pass: each gradient is overwritten.
///
/// # Errors
/// As [`forward`].
pub fn backward<T: Float>(stream: &Stream, arguments: Backward<'_, T>) -> Result<()> {
    let Backward { attention, query, key, value, output, log_sum_exp, d_output, d_query, d_key, d_value } =
        arguments;
    let tokens = tokens(&attention, log_sum_exp.len())?;
    let mut forward = forward_params(stream, &attention, tokens, [query, key, value])?;
    check_rows("output", output.view.len(), output.stride, tokens, &attention)?;
    check_rows("d_output", d_output.len(), output.stride, tokens, &attention)?;
    check_rows("d_query", d_query.view.len(), d_query.stride, tokens, &attention)?;
    check_rows("d_key", d_key.view.len(), d_key.stride, tokens, &attention)?;
    check_rows("d_value", d_value.view.len(), d_value.stride, tokens, &attention)?;
    forward.output = stream.address("output", &output.view)?;
    forward.output_stride = output.stride as u32;
    forward.log_sum_exp = stream.address("log_sum_exp", &log_sum_exp)?;
    let params = AttentionBackwardParams {
        forward,
        d_output: stream.address("d_output", &d_output)?,
        d_query: stream.address("d_query", &d_query.view)?,
        d_key: stream.address("d_key", &d_key.view)?,
        d_value: stream.address("d_value", &d_value.view)?,
        d_query_stride: d_query.stride as u32,
        d_key_stride: d_key.stride as u32,
        d_value_stride: d_value.stride as u32,
        reserved: 0,
    };
    let shared = backward_shared_bytes(attention.head_dim);
    for (part, tile) in [("backward_key_value", KEY_TILE), ("backward_query", query_tile(attention.head_dim))]
    {
        let kernel = kernel_name::<T>(part, &attention);
        // SAFETY: as in `forward`.
        unsafe { stream.launch(&kernel, grid(&attention, tile), THREADS, shared, &params)? };
    }
    Ok(())
}

/// Queries of a tile in the backward pass.
fn query_tile(head_dim: usize) -> usize {
    if head_dim == 128 { 32 } else { 64 }
}

/// Floats of a tile that holds 64 keys, as rows or transposed.
fn key_tile_floats(head_dim: usize) -> usize {
    KEY_TILE * head_dim + PAD * head_dim.max(KEY_TILE)
}

fn forward_shared_bytes(head_dim: usize) -> u32 {
    let queries = KEY_TILE * (head_dim + PAD);
    let probabilities = KEY_TILE * (KEY_TILE + PAD);
    (4 * (queries + key_tile_floats(head_dim) + probabilities)) as u32
}

fn backward_shared_bytes(head_dim: usize) -> u32 {
    let rows = query_tile(head_dim) * (head_dim + PAD);
    let scores = query_tile(head_dim) * (KEY_TILE + PAD);
    (4 * (2 * rows + 2 * key_tile_floats(head_dim) + 2 * scores)) as u32
}

fn kernel_name<T: Float>(part: &str, attention: &Attention<'_>) -> String {
    let mask = match attention.mask {
        Mask::Full => "full",
        Mask::Bank { .. } => "bank",
    };
    format!("attention_{part}_{mask}_{}_d{}", T::DTYPE.name(), attention.head_dim)
}

fn grid(attention: &Attention<'_>, tile: usize) -> [u32; 3] {
    let sentences = attention.cu_seqlens.len() - 1;
    [attention.max_seqlen.div_ceil(tile) as u32, attention.num_heads as u32, sentences as u32]
}

/// The number of tokens, from the length of `log_sum_exp`; checks what does not depend on the operands.
fn tokens(attention: &Attention<'_>, log_sum_exp: usize) -> Result<usize> {
    let heads = attention.num_heads;
    require(heads > 0, "num_heads", heads, "at least 1")?;
    require(HEAD_DIMS.contains(&attention.head_dim), "head_dim", attention.head_dim, "32, 64 or 128")?;
    require(!attention.cu_seqlens.is_empty(), "cu_seqlens", "empty", "B + 1 prefix sums")?;
    require(
        log_sum_exp.is_multiple_of(heads),
        "log_sum_exp",
        format_args!("{log_sum_exp} elements long"),
        format_args!("a multiple of {heads} (heads)"),
    )?;
    require(attention.scale.is_finite(), "scale", attention.scale, "finite")?;
    let tokens = log_sum_exp / heads;
    require(
        attention.max_seqlen <= tokens,
        "max_seqlen",
        attention.max_seqlen,
        format_args!("at most {tokens} (tokens)"),
    )?;
    Ok(tokens)
}

fn forward_params<T: Float>(
    stream: &Stream,
    attention: &Attention<'_>,
    tokens: usize,
    [query, key, value]: [Rows<'_, T>; 3],
) -> Result<AttentionForwardParams> {
    check_rows("query", query.view.len(), query.stride, tokens, attention)?;
    check_rows("key", key.view.len(), key.stride, tokens, attention)?;
    check_rows("value", value.view.len(), value.stride, tokens, attention)?;
    let mut params = AttentionForwardParams {
        query: stream.address("query", &query.view)?,
        key: stream.address("key", &key.view)?,
        value: stream.address("value", &value.view)?,
        cu_seqlens: stream.address("cu_seqlens", &attention.cu_seqlens)?,
        query_stride: query.stride as u32,
        key_stride: key.stride as u32,
        value_stride: value.stride as u32,
        tokens: tokens as u32,
        scale: attention.scale,
        dropout: dropout_params(stream, attention.dropout)?,
        ..AttentionForwardParams::default()
    };
    if let Mask::Bank { bits, offsets, rows } = attention.mask {
        require_length("mask offsets", offsets.len(), attention.cu_seqlens.len(), "sentences + 1")?;
        require_length("mask rows", rows.len(), tokens, "tokens")?;
        params.bank_bits = stream.address("mask bits", &bits)?;
        params.bank_offsets = stream.address("mask offsets", &offsets)?;
        params.bank_rows = stream.address("mask rows", &rows)?;
    }
    Ok(params)
}

/// A view of `tokens` rows may end with the last row's columns.
fn check_rows(
    argument: &'static str,
    length: usize,
    stride: usize,
    tokens: usize,
    attention: &Attention<'_>,
) -> Result<()> {
    let columns = attention.num_heads * attention.head_dim;
    if stride < columns || !stride.is_multiple_of(8) || stride > u32::MAX as usize {
        return Err(Error::Argument {
            argument,
            actual: format!("strided by {stride} elements"),
            expected: format!("strided by a multiple of 8 from {columns} (heads · head size) up"),
        });
    }
    let needed = if tokens == 0 { 0 } else { (tokens - 1) * stride + columns };
    require(
        length >= needed,
        argument,
        format_args!("{length} elements long"),
        format_args!("at least {needed} ({tokens} rows)"),
    )
}
