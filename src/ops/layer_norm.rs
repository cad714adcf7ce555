//! The end of a transformer block: `LayerNorm(residual + dropout(input + bias))` (Ba, Kiros, Hinton, arXiv 1607.06450), and plain
//! LayerNorm where the optional arguments are absent.

use super::column_sum::{self, SideBySide};
use super::dropout::{Dropout, dropout_params};
use super::error::{
    aligned, optional_aligned, require, require_column_vector, require_eps, require_length, require_rows,
};
use super::{Result, Workspace};
use crate::device::params::{LayerNormBackwardParams, LayerNormForwardParams, ROW_COLUMNS_MAX};
use crate::device::{ModelFloat, Stream, View, ViewMut, kernels};

/// Maximum row length: as much as a warp holds in registers.
pub const COLUMNS_MAX: usize = ROW_COLUMNS_MAX as usize;
/// Sums over rows that the backward computes: for gamma, beta and the bias.
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
    /// Dropout element: row = row of `input`, column = its column, head 0.
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
    /// `[rows, columns]`, from the forward pass; its `input` where it had no bias, residual and dropout
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
    /// `[columns]`, added to
    pub d_gamma: ViewMut<'a, f32>,
    /// `[columns]`, added to
    pub d_beta: ViewMut<'a, f32>,
    /// `[columns]`, added to
    pub d_bias: Option<ViewMut<'a, f32>>,
    /// At least [`workspace`].
    pub workspace: ViewMut<'a, u8>,
}

/// Returns the workspace that [`backward`] needs for `rows` rows of `columns` columns.
#[must_use]
pub fn workspace(rows: usize, columns: usize) -> Workspace {
    partials_workspace(partial_rows(rows, columns), SUMS * columns)
}

/// Returns the rows of partial sums that the backward writes.
fn partial_rows(rows: usize, columns: usize) -> usize {
    let params = LayerNormBackwardParams {
        rows: u32::try_from(rows).unwrap_or(u32::MAX),
        columns: columns as u32,
        ..LayerNormBackwardParams::default()
    };
    kernels::LAYER_NORM_BACKWARD.blocks(&params)
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
    // SAFETY: all lengths were checked above.
    unsafe { stream.launch(kernels::LAYER_NORM_FORWARD.of(T::DTYPE)?, &params)? };
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
    let params = LayerNormBackwardParams {
        d_output: aligned(stream, "d_output", &d_output)?,
        sum: aligned(stream, "sum", &sum)?,
        mean: stream.address("mean", &mean)?,
        rstd: stream.address("rstd", &rstd)?,
        gamma: aligned(stream, "gamma", &gamma)?,
        d_residual: optional_aligned(stream, "d_residual", d_residual.as_ref())?,
        d_input: aligned(stream, "d_input", &d_input)?,
        partials: self::workspace(rows, columns).address(stream, &workspace)?,
        rows: rows as u32,
        columns: columns as u32,
        dropout: dropout_params(stream, dropout)?,
    };
    let outputs = [
        aligned(stream, "d_gamma", &d_gamma)?,
        aligned(stream, "d_beta", &d_beta)?,
        optional_aligned(stream, "d_bias", d_bias.as_ref())?,
    ];
    // SAFETY: all lengths were checked above; the workspace holds the partial sums and what their sum needs.
    unsafe {
        stream.launch(kernels::LAYER_NORM_BACKWARD.of(T::DTYPE)?, &params)?;
        add_partials(stream, partial_rows(rows, columns), columns, &outputs, params.partials)
    }
}

/// Returns the number of rows of `argument`, whose row length is that of gamma.
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

/// Returns the workspace of a backward kernel's partial sums, `width` per block, and of their summation.
pub(crate) fn partials_workspace(partial_rows: usize, width: usize) -> Workspace {
    Workspace::of::<f32>(partial_rows * width).and(column_sum::workspace(partial_rows, width))
}

/// Adds the partial sums at the start of the workspace to `outputs`.
///
/// # Safety
/// `workspace` is [`partials_workspace`]`(partial_rows, outputs.len() · columns)`; outputs are `f32 [columns]` or 0.
pub(crate) unsafe fn add_partials(
    stream: &Stream,
    partial_rows: usize,
    columns: usize,
    outputs: &[u64],
    workspace: u64,
) -> Result<()> {
    let partials_bytes = partial_rows * outputs.len() * columns * size_of::<f32>();
    let sums = SideBySide {
        input: workspace,
        rows: partial_rows,
        columns,
        outputs,
        accumulate: true,
        workspace: workspace + partials_bytes as u64,
    };
    // SAFETY: by this function's own contract.
    unsafe { sums.launch::<f32>(stream) }
}
