//! The backward pass, in the variant that a sentence's length asks for.

use super::{
    Attention, PAD, Rows, RowsMut, THREADS, TILE, exact_key_floats, forward_params, kernel_name,
    rows_address, shared_bytes, visible_bytes,
};
use crate::device::params::AttentionBackwardParams;
use crate::device::{DType, Float, Stream, View, ViewMut};
use crate::ops::Result;
use crate::ops::error::require;

/// Up to so many queries a sentence is one block's work, where they fit shared memory: more would leave a multiprocessor one block of
/// four warps.
const FUSED_QUERIES_MAX: usize = 256;
/// From this head size on the registers do not suffice for one.
const FUSED_HEAD_DIM_MAX: usize = 96;

/// Arguments of [`backward`]. Tq is the number of queries, T unless [`Attention::queries`] says otherwise.
#[derive(Debug)]
pub struct Backward<'a, T: Float> {
    pub attention: Attention<'a>,
    /// Tq rows.
    pub query: Rows<'a, T>,
    pub key: Rows<'a, T>,
    pub value: Rows<'a, T>,
    /// Tq rows: what the forward pass wrote.
    pub output: Rows<'a, T>,
    /// What the forward pass wrote.
    pub log_sum_exp: View<'a, f32>,
    /// Gradient of the output, with the output's stride.
    pub d_output: View<'a, T>,
    /// Tq rows.
    pub d_query: RowsMut<'a, T>,
    pub d_key: RowsMut<'a, T>,
    pub d_value: RowsMut<'a, T>,
    /// At least [`accumulator_length`] elements, for 16-bit types only: with it the query gradients of long sentences are added up in
    /// global memory by atomics, which saves two of seven products, but rounds in another order each time. Without it every run gives
    /// the same bits.
    pub accumulator: Option<ViewMut<'a, f32>>,
    /// Sentences of at most so many queries are one block's work each; `None` for as many as are good for the device.
    pub fused_queries_max: Option<usize>,
}

/// Elements of [`Backward::accumulator`] for `queries` queries.
#[must_use]
pub fn accumulator_length(queries: usize, num_heads: usize, head_dim: usize) -> usize {
    queries * num_heads * head_dim
}

/// Enqueues the backward pass: each gradient is overwritten.
///
/// # Errors
/// As [`forward`](super::forward); also when the accumulator is too small.
pub fn backward<T: Float>(stream: &Stream, arguments: Backward<'_, T>) -> Result<()> {
    let Backward { attention, query, key, value, output, log_sum_exp, d_output, .. } = arguments;
    let Backward { d_query, d_key, d_value, mut accumulator, fused_queries_max, .. } = arguments;
    let mut forward = forward_params(stream, &attention, [query, key, value], log_sum_exp.len())?;
    let (queries, tokens) = (attention.query_tokens(), attention.tokens);
    let address = |argument, view: &View<'_, T>, stride, rows| {
        rows_address(stream, argument, view, stride, rows, &attention)
    };
    forward.output = address("output", &output.view, output.stride, queries)?;
    forward.output_stride = output.stride as u32;
    forward.log_sum_exp = stream.address("log_sum_exp", &log_sum_exp)?;
    let fused = if T::DTYPE == DType::F32 { 0 } else { fused_queries(stream, &attention, fused_queries_max) };
    let mut params = AttentionBackwardParams {
        forward,
        d_output: address("d_output", &d_output, output.stride, queries)?,
        d_query: address("d_query", &d_query.view.as_view(), d_query.stride, queries)?,
        d_key: address("d_key", &d_key.view.as_view(), d_key.stride, tokens)?,
        d_value: address("d_value", &d_value.view.as_view(), d_value.stride, tokens)?,
        accumulator: 0,
        d_query_stride: d_query.stride as u32,
        d_key_stride: d_key.stride as u32,
        d_value_stride: d_value.stride as u32,
        fused_queries_max: fused as u32,
    };
    if let Some(accumulator) = &accumulator {
        let needed = accumulator_length(queries, attention.num_heads, attention.head_dim);
        require(
            accumulator.len() >= needed,
            "accumulator",
            format_args!("{} elements long", accumulator.len()),
            format_args!("at least {needed} (queries · heads · head size)"),
        )?;
        require(T::DTYPE != DType::F32, "accumulator", "given", "none, as f32 has no use for it")?;
        params.accumulator = stream.address("accumulator", accumulator)?;
    }
    let launches = Launches { stream, attention: &attention };
    if T::DTYPE == DType::F32 {
        return launches.exact(&params);
    }
    if fused > 0 {
        launches.fused::<T>(fused, &params)?;
    }
    if fused > 0 && attention.query_seqlen_max() <= fused {
        return Ok(());
    }
    launches.delta::<T>(&params)?;
    match &mut accumulator {
        None => launches.tiled::<T>(&params),
        Some(accumulator) => {
            stream.zero(accumulator.reborrow())?;
            launches.atomic::<T>(&params)
        }
    }
}

/// The queries of the longest sentence that one block may take; 0 where none is fused.
fn fused_queries(stream: &Stream, attention: &Attention<'_>, asked: Option<usize>) -> usize {
    let (d, tile) = (attention.head_dim, query_tile(attention.head_dim));
    if d > FUSED_HEAD_DIM_MAX {
        return 0;
    }
    let granted = stream.device().shared_bytes_max() as usize;
    let mask = attention.mask.shared_bytes(attention.max_seqlen).kept;
    let fitting = granted.saturating_sub(fused_fixed_bytes(d) + mask) / fused_row_bytes(d) / tile * tile;
    asked.unwrap_or(FUSED_QUERIES_MAX).min(fitting)
}

/// Queries of a tile of kernels that own keys.
fn query_tile(head_dim: usize) -> usize {
    if head_dim > 64 { 32 } else { TILE }
}

/// Shared memory for one query of a fused sentence: query and gradient of the output, their statistics, and dQ in f32.
fn fused_row_bytes(head_dim: usize) -> usize {
    2 * 2 * head_dim + 2 * 4 + 4 * head_dim
}

/// Shared memory of a fused block beside that: keys, values, dS, and the bits of a mask.
fn fused_fixed_bytes(head_dim: usize) -> usize {
    let tile = query_tile(head_dim);
    2 * 2 * TILE * head_dim + 2 * TILE * tile + 4 * TILE * tile / 32
}

/// The kernels of one backward pass.
struct Launches<'a> {
    stream: &'a Stream,
    attention: &'a Attention<'a>,
}

impl Launches<'_> {
    fn launch(
        &self,
        kernel: &str,
        grid: [u32; 3],
        shared: usize,
        params: &AttentionBackwardParams,
    ) -> Result<()> {
        let shared = shared_bytes(self.stream, self.attention, shared)?;
        // SAFETY: as in `forward`.
        unsafe { self.stream.launch(kernel, grid, THREADS, shared, params)? };
        Ok(())
    }

    fn exact(&self, params: &AttentionBackwardParams) -> Result<()> {
        let d = self.attention.head_dim;
        let tile = query_tile(d);
        let shared = 4 * (2 * tile * (d + PAD) + 2 * exact_key_floats(d) + 2 * tile * (TILE + PAD));
        let key_value = kernel_name::<f32>("backward_key_value", self.attention);
        self.launch(&key_value, self.attention.grid(self.attention.tokens, TILE), shared, params)?;
        let query = kernel_name::<f32>("backward_query", self.attention);
        self.launch(&query, self.attention.grid(self.attention.query_tokens(), tile), shared, params)
    }

    fn fused<T: Float>(&self, fused: usize, params: &AttentionBackwardParams) -> Result<()> {
        let d = self.attention.head_dim;
        let rows = self.attention.query_seqlen_max().min(fused).next_multiple_of(query_tile(d));
        let shared = rows * fused_row_bytes(d) + fused_fixed_bytes(d);
        let blocks = (self.attention.sentences() + 1) * self.attention.num_heads;
        let kernel = kernel_name::<T>("backward_fused", self.attention);
        self.launch(&kernel, [blocks as u32, 1, 1], shared, params)
    }

    /// Keys and values, and two tiles of queries and gradients of the output with their statistics.
    fn key_bytes(&self) -> usize {
        let d = self.attention.head_dim;
        let tile = query_tile(d);
        2 * 2 * TILE * d + 2 * 2 * 2 * tile * d + 2 * 2 * 4 * tile + visible_bytes(self.attention, tile / 32)
    }

    /// Leaves each query's δ in the first four bytes of its gradient's place, for the kernels of long sentences.
    fn delta<T: Float>(&self, params: &AttentionBackwardParams) -> Result<()> {
        let attention = self.attention;
        let kernel = format!("attention_backward_delta_{}_d{}", T::DTYPE.name(), attention.head_dim);
        self.launch(&kernel, attention.grid(attention.query_tokens(), TILE), 0, params)
    }

    fn tiled<T: Float>(&self, params: &AttentionBackwardParams) -> Result<()> {
        let attention = self.attention;
        let key_value = kernel_name::<T>("backward_key_value", attention);
        self.launch(&key_value, attention.grid(attention.tokens, TILE), self.key_bytes(), params)?;
        let query = kernel_name::<T>("backward_query", attention);
        let shared = 6 * 2 * TILE * attention.head_dim + visible_bytes(attention, 2);
        self.launch(&query, attention.grid(attention.query_tokens(), TILE), shared, params)
    }

    fn atomic<T: Float>(&self, params: &AttentionBackwardParams) -> Result<()> {
        let attention = self.attention;
        let keys = kernel_name::<T>("backward_atomic", attention);
        let d_scores = 2 * TILE * query_tile(attention.head_dim);
        self.launch(&keys, attention.grid(attention.tokens, TILE), self.key_bytes() + d_scores, params)?;
        let convert = format!("attention_backward_convert_{}_d{}", T::DTYPE.name(), attention.head_dim);
        self.launch(&convert, attention.grid(attention.query_tokens(), TILE), 0, params)
    }
}
