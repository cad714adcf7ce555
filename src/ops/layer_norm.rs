//! The end of a transformer block: `LayerNorm(residual + dropout(input + bias))` (Ba, Kiros, Hinton, arXiv 1607.06450), and plain
//! LayerNorm where the optional arguments are absent.

use super::Result;
use super::column_sum::{self, SideBySide};
use super::dropout::{Dropout, dropout_params};
use super::error::{
    aligned, optional_aligned, require, require_column_vector, require_eps, require_length, require_rows,
    require_workspace,
};
use crate::device::params::{LayerNormBackwardParams, LayerNormForwardParams};
use crate::device::{ModelFloat, Stream, View, ViewMut};

/// The longest row: what a warp holds in registers, `kRowChunks` · 256 of the kernels.
pub const COLUMNS_MAX: usize = 1024;
/// `kRowThreads` and `kForwardRows` of the kernels.
pub(crate) const FORWARD_THREADS: u32 = 128;
pub(crate) const FORWARD_ROWS_PER_BLOCK: usize = 32;
/// `kBackwardWarps` and `kBackwardThreads` of the kernels.
const BACKWARD_WARPS: usize = 8;
pub(crate) const BACKWARD_THREADS: u32 = 32 * BACKWARD_WARPS as u32;
/// Blocks of a backward kernel, each of which leaves a row of partial sums: two for each of 128 SMs, on every device, so that the order of
/// additions depends on the number of rows alone.
const BACKWARD_BLOCKS_MAX: usize = 256;
/// Rows that are worth a block.
const BACKWARD_ROWS_MIN: usize = 8 * BACKWARD_WARPS;
/// Sums over rows that the backward makes: for gamma, beta and the bias.
const SUMS: usize = 3;

/// Arguments of [`forward`]; arrays with columns are aligned to 16 bytes.
#[derive(Debug)]
pub struct Forward<'a, T: ModelFloat> {
    /// `[rows, columns]`, columns a multiple of 8 of at most [`COLUMNS_MAX`]
    pub input: View<'a, T>,
    /// `[columns]`
    pub bias: Option<View<'a, f32>>,
    /// `[rows, columns]`
    pub residual: Option<View<'a, T>>,
    /// `[columns]`
    pub gamma: View<'a, f32>,
    /// `[columns]`
    pub beta: View<'a, f32>,
    /// Added to the variance; positive.
    pub eps: f32,
    /// Row = row of `input`, column = its column, head 0.
    pub dropout: Option<Dropout<'a>>,
    /// `[rows, columns]`
    pub output: ViewMut<'a, T>,
    /// `[rows, columns]`: `residual + dropout(input + bias)`, rounded to `T`, for the backward pass
    pub sum: Option<ViewMut<'a, T>>,
    /// `[rows]`: mean of `sum`
    pub mean: ViewMut<'a, f32>,
    /// `[rows]`: `1 / √(variance + eps)` of `sum`
    pub rstd: ViewMut<'a, f32>,
}

/// Arguments of [`backward`]; arrays with columns are aligned to 16 bytes.
#[derive(Debug)]
pub struct Backward<'a, T: ModelFloat> {
    /// `[rows, columns]`: gradient of the output
    pub d_output: View<'a, T>,
    /// `[rows, columns]`, from the forward pass; its `input` where that had no bias, residual and dropout
    pub sum: View<'a, T>,
    /// `[rows]`, from the forward pass
    pub mean: View<'a, f32>,
    /// `[rows]`, from the forward pass
    pub rstd: View<'a, f32>,
    /// `[columns]`
    pub gamma: View<'a, f32>,
    /// As in the forward pass.
    pub dropout: Option<Dropout<'a>>,
    /// `[rows, columns]`: gradient of `sum` and so of `residual`
    pub d_residual: Option<ViewMut<'a, T>>,
    /// `[rows, columns]`: gradient of `input`; equal to `d_residual` without dropout
    pub d_input: ViewMut<'a, T>,
    /// `[columns]`: the gradient is added
    pub d_gamma: ViewMut<'a, f32>,
    /// `[columns]`: the gradient is added
    pub d_beta: ViewMut<'a, f32>,
    /// `[columns]`: the gradient is added
    pub d_bias: Option<ViewMut<'a, f32>>,
    /// At least [`backward_workspace`] elements.
    pub workspace: ViewMut<'a, f32>,
}

/// Elements of workspace that [`backward`] needs for `rows` rows of `columns` columns.
#[must_use]
pub fn backward_workspace(rows: usize, columns: usize) -> usize {
    partials_workspace(rows, SUMS * columns)
}

/// Enqueues `output = gamma · (sum - mean) · rstd + beta` with `sum = residual + dropout(input + bias)`.
///
/// # Errors
/// When `columns` is not a multiple of 8 or above [`COLUMNS_MAX`], or a length, an alignment, `eps` or the dropout rate does not fit.
pub fn forward<T: ModelFloat>(stream: &Stream, arguments: Forward<'_, T>) -> Result<()> {
    let Forward { input, bias, residual, gamma, beta, eps, dropout, output, sum, mean, rstd } = arguments;
    let columns = gamma.len();
    let rows = require_row_shape("input", input.len(), columns)?;
    require_eps(eps)?;
    require_length("beta", beta.len(), columns, "columns")?;
    require_length("bias", bias.map_or(columns, |bias| bias.len()), columns, "columns")?;
    let elements = input.len();
    require_length("residual", residual.map_or(elements, |array| array.len()), elements, "as input")?;
    require_length("sum", sum.as_ref().map_or(elements, ViewMut::len), elements, "as input")?;
    require_length("output", output.len(), elements, "as input")?;
    require_length("mean", mean.len(), rows, "rows")?;
    require_length("rstd", rstd.len(), rows, "rows")?;
    let params = LayerNormForwardParams {
        input: aligned(stream, "input", &input)?,
        bias: optional_aligned(stream, "bias", bias.as_ref())?,
        residual: optional_aligned(stream, "residual", residual.as_ref())?,
        gamma: aligned(stream, "gamma", &gamma)?,
        beta: aligned(stream, "beta", &beta)?,
        output: aligned(stream, "output", &output)?,
        sum: optional_aligned(stream, "sum", sum.as_ref())?,
        mean: stream.address("mean", &mean)?,
        rstd: stream.address("rstd", &rstd)?,
        rows: rows as u32,
        columns: columns as u32,
        eps,
        reserved: 0,
        dropout: dropout_params(stream, dropout)?,
    };
    let kernel = format!("layer_norm_forward_{}", T::DTYPE.name());
    let grid = [rows.div_ceil(FORWARD_ROWS_PER_BLOCK) as u32, 1, 1];
    // SAFETY: all lengths were checked above; the kernel uses no shared memory.
    unsafe { stream.launch(&kernel, grid, FORWARD_THREADS, 0, &params)? };
    Ok(())
}

/// Enqueues the gradients of [`forward`].
///
/// # Errors
/// As [`forward`], or when the workspace is too small.
pub fn backward<T: ModelFloat>(stream: &Stream, arguments: Backward<'_, T>) -> Result<()> {
    let Backward { d_output, sum, mean, rstd, gamma, dropout, d_residual, d_input, .. } = arguments;
    let Backward { d_gamma, d_beta, d_bias, workspace, .. } = arguments;
    let columns = gamma.len();
    let rows = require_row_shape("d_output", d_output.len(), columns)?;
    let elements = d_output.len();
    require_length("sum", sum.len(), elements, "as d_output")?;
    require_length("mean", mean.len(), rows, "rows")?;
    require_length("rstd", rstd.len(), rows, "rows")?;
    let d_residual_length = d_residual.as_ref().map_or(elements, ViewMut::len);
    require_length("d_residual", d_residual_length, elements, "as d_output")?;
    require_length("d_input", d_input.len(), elements, "as d_output")?;
    require_length("d_gamma", d_gamma.len(), columns, "columns")?;
    require_length("d_beta", d_beta.len(), columns, "columns")?;
    require_length("d_bias", d_bias.as_ref().map_or(columns, ViewMut::len), columns, "columns")?;
    require_workspace(workspace.len(), backward_workspace(rows, columns))?;
    let params = LayerNormBackwardParams {
        d_output: aligned(stream, "d_output", &d_output)?,
        sum: aligned(stream, "sum", &sum)?,
        mean: stream.address("mean", &mean)?,
        rstd: stream.address("rstd", &rstd)?,
        gamma: aligned(stream, "gamma", &gamma)?,
        d_residual: optional_aligned(stream, "d_residual", d_residual.as_ref())?,
        d_input: aligned(stream, "d_input", &d_input)?,
        partials: aligned(stream, "workspace", &workspace)?,
        rows: rows as u32,
        columns: columns as u32,
        dropout: dropout_params(stream, dropout)?,
    };
    let kernel = format!("layer_norm_backward_{}", T::DTYPE.name());
    let grid = [backward_blocks(rows) as u32, 1, 1];
    let outputs = [
        aligned(stream, "d_gamma", &d_gamma)?,
        aligned(stream, "d_beta", &d_beta)?,
        optional_aligned(stream, "d_bias", d_bias.as_ref())?,
    ];
    // SAFETY: all lengths were checked above; the workspace holds the partial sums and what their sum needs.
    unsafe {
        stream.launch(&kernel, grid, BACKWARD_THREADS, totals_bytes(SUMS, columns), &params)?;
        add_partials(stream, rows, columns, &outputs, params.partials)
    }
}

/// The number of rows of `argument`, whose row length is that of gamma.
pub(crate) fn require_row_shape(argument: &'static str, length: usize, columns: usize) -> Result<usize> {
    require_column_vector("gamma", columns)?;
    require(
        columns <= COLUMNS_MAX,
        "gamma",
        format_args!("{columns} elements long"),
        format_args!("at most {COLUMNS_MAX}"),
    )?;
    require_rows(argument, length, columns)
}

/// Blocks of a backward kernel.
pub(crate) fn backward_blocks(rows: usize) -> usize {
    rows.div_ceil(BACKWARD_ROWS_MIN).min(BACKWARD_BLOCKS_MAX)
}

/// Elements of the partial sums of a backward kernel, `width` a block, and of the workspace of their sum.
pub(crate) fn partials_workspace(rows: usize, width: usize) -> usize {
    let blocks = backward_blocks(rows);
    blocks * width + column_sum::workspace(blocks, width)
}

/// Shared memory of a backward kernel: `sums` sums for each warp and column.
pub(crate) fn totals_bytes(sums: usize, columns: usize) -> u32 {
    (BACKWARD_WARPS * sums * columns * size_of::<f32>()) as u32
}

/// Adds the partial sums at the start of the workspace to `outputs`.
///
/// # Safety
/// `workspace` has [`partials_workspace`]`(rows, outputs.len() · columns)` elements; outputs are `f32 [columns]` or 0.
pub(crate) unsafe fn add_partials(
    stream: &Stream,
    rows: usize,
    columns: usize,
    outputs: &[u64],
    workspace: u64,
) -> Result<()> {
    let blocks = backward_blocks(rows);
    let partials_bytes = blocks * outputs.len() * columns * size_of::<f32>();
    let sums = SideBySide {
        input: workspace,
        rows: blocks,
        columns,
        outputs,
        accumulate: true,
        workspace: workspace + partials_bytes as u64,
    };
    // SAFETY: by this function's own contract.
    unsafe { sums.launch::<f32>(stream) }
}
