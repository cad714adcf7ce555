//! The end of a transformer block: `LayerNorm(residual + dropout(input + bias))` (Ba, Kiros, Hinton, arXiv 1607.06450). With the default of
//! [`Fused`], plain LayerNorm:
//!
//! ```
//! use retromae::device::Device;
//! use retromae::ops::layer_norm::{self, Forward, Fused};
//!
//! let device = Device::host()?;
//! let input = device.upload(&[3.0f32, 5.0, 3.0, 5.0, 3.0, 5.0, 3.0, 5.0])?;
//! let (gamma, beta) = (device.upload(&[2.0f32; 8])?, device.upload(&[0.5f32; 8])?);
//! let mut output = device.zeros::<f32>(8)?;
//! let (mut mean, mut rstd) = (device.zeros(1)?, device.zeros(1)?);
//! let forward = Forward {
//!     input: input.matrix(1, 8)?,
//!     gamma: gamma.view(),
//!     beta: beta.view(),
//!     eps: 1e-12,
//!     output: output.matrix_mut(1, 8)?,
//!     mean: mean.view_mut(),
//!     rstd: rstd.view_mut(),
//!     fused: Fused::default(),
//! };
//! layer_norm::forward(&device.stream(), forward)?;
//! assert_eq!((mean.read()?, rstd.read()?), (vec![4.0], vec![1.0]));
//! assert_eq!(output.read()?[..2], [-1.5, 2.5]);
//! # Ok::<(), retromae::ops::Error>(())
//! ```

use super::column_sum::{self, SideBySide};
use super::dropout::{Dropout, dropout_params};
use super::error::{
    aligned, contiguous, optional_aligned, optional_contiguous, require_eps, require_length,
    require_optional_shape, require_rows, require_shape, require_supported,
};
use super::{Result, Workspace};
use crate::device::params::{LayerNormBackwardParams, LayerNormForwardParams, ROW_COLUMNS_MAX};
use crate::device::{Float, Matrix, MatrixMemory, MatrixMut, Stream, View, ViewMut, kernels};

/// Maximum row length, 1024: as much as a warp holds in registers.
pub const COLUMNS_MAX: usize = ROW_COLUMNS_MAX as usize;
/// Sums over rows that the backward computes: for gamma, beta and the bias.
const SUMS: usize = 3;

/// Steps before the normalization that run in the same pass; none by default.
#[derive(Debug)]
pub struct Fused<'a, T: Float> {
    /// `[columns]`: added to the input
    pub bias: Option<View<'a, f32>>,
    /// Dropout of `input + bias`. Dropout element: row = row of `input`, column = its column, head 0.
    pub dropout: Option<Dropout<'a>>,
    /// `[rows, columns]`: added after dropout
    pub residual: Option<Matrix<'a, T>>,
    /// `[rows, columns]`: written with `residual + dropout(input + bias)`, rounded to `T`, for the backward pass
    pub sum: Option<MatrixMut<'a, T>>,
}

impl<T: Float> Default for Fused<'_, T> {
    fn default() -> Self {
        Self { bias: None, dropout: None, residual: None, sum: None }
    }
}

/// Arguments of [`forward`]; matrices are contiguous, and all with columns are aligned to 16 bytes.
#[derive(Debug)]
pub struct Forward<'a, T: Float> {
    /// `[rows, columns]`, columns a multiple of 8 of at most [`COLUMNS_MAX`]
    pub input: Matrix<'a, T>,
    /// `[columns]`
    pub gamma: View<'a, f32>,
    /// `[columns]`
    pub beta: View<'a, f32>,
    /// Added to the variance under the root, so that a constant row has a finite `rstd`; positive and finite. BERT's is `1e-12`.
    pub eps: f32,
    /// `[rows, columns]`
    pub output: MatrixMut<'a, T>,
    /// `[rows]`: mean of what is normalized
    pub mean: ViewMut<'a, f32>,
    /// `[rows]`: `1 / √(variance + eps)` of what is normalized
    pub rstd: ViewMut<'a, f32>,
    /// Steps before the normalization
    pub fused: Fused<'a, T>,
}

/// The backward of the steps of [`Fused`]; none by default.
#[derive(Debug)]
pub struct FusedGradients<'a, T: Float> {
    /// As in the forward pass.
    pub dropout: Option<Dropout<'a>>,
    /// `[rows, columns]`: gradient of `sum` and so of `residual`
    pub d_residual: Option<MatrixMut<'a, T>>,
    /// `[columns]`, added to
    pub d_bias: Option<ViewMut<'a, f32>>,
}

impl<T: Float> Default for FusedGradients<'_, T> {
    fn default() -> Self {
        Self { dropout: None, d_residual: None, d_bias: None }
    }
}

/// Arguments of [`backward`]; matrices are contiguous, and all with columns are aligned to 16 bytes.
#[derive(Debug)]
pub struct Backward<'a, T: Float> {
    /// `[rows, columns]`: gradient of the output
    pub d_output: Matrix<'a, T>,
    /// `[rows, columns]`: what was normalized, [`Fused::sum`] of the forward pass; its `input` where nothing was fused
    pub sum: Matrix<'a, T>,
    /// `[rows]`, from the forward pass
    pub mean: View<'a, f32>,
    /// `[rows]`, from the forward pass
    pub rstd: View<'a, f32>,
    /// `[columns]`
    pub gamma: View<'a, f32>,
    /// `[rows, columns]`: gradient of `input`
    pub d_input: MatrixMut<'a, T>,
    /// `[columns]`, added to
    pub d_gamma: ViewMut<'a, f32>,
    /// `[columns]`, added to
    pub d_beta: ViewMut<'a, f32>,
    /// At least [`workspace`].
    pub workspace: ViewMut<'a, u8>,
    /// The backward of the steps before the normalization
    pub fused: FusedGradients<'a, T>,
}

/// Returns the workspace that [`backward`] needs for `rows` rows of `columns` columns.
#[must_use]
pub fn workspace(rows: usize, columns: usize) -> Workspace {
    partials_workspace(partial_rows(rows, columns), columns.saturating_mul(SUMS))
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
/// When `columns` is not a multiple of 8 or above [`COLUMNS_MAX`], or a shape, a stride, an alignment, `eps` or the dropout rate does not fit.
pub fn forward<T: Float>(stream: &Stream, arguments: Forward<'_, T>) -> Result<()> {
    let Forward { input, gamma, beta, eps, output, mean, rstd, fused } = arguments;
    let Fused { bias, dropout, residual, sum } = fused;
    let shape @ [rows, columns] = require_row_shape("input", &input)?;
    require_eps(eps)?;
    require_length("gamma", gamma.len(), columns, "columns")?;
    require_length("beta", beta.len(), columns, "columns")?;
    require_length("bias", bias.map_or(columns, |bias| bias.len()), columns, "columns")?;
    require_optional_shape("residual", residual.as_ref(), shape, "as input")?;
    require_optional_shape("sum", sum.as_ref(), shape, "as input")?;
    require_shape("output", &output, shape, "as input")?;
    require_length("mean", mean.len(), rows, "rows")?;
    require_length("rstd", rstd.len(), rows, "rows")?;
    let params = LayerNormForwardParams {
        input: contiguous(stream, "input", &input)?,
        bias: optional_aligned(stream, "bias", bias.as_ref())?,
        residual: optional_contiguous(stream, "residual", residual.as_ref())?,
        gamma: aligned(stream, "gamma", &gamma)?,
        beta: aligned(stream, "beta", &beta)?,
        output: contiguous(stream, "output", &output)?,
        sum: optional_contiguous(stream, "sum", sum.as_ref())?,
        mean: stream.address("mean", &mean)?,
        rstd: stream.address("rstd", &rstd)?,
        rows: rows as u32,
        columns: columns as u32,
        eps,
        reserved: 0,
        dropout: dropout_params(stream, dropout)?,
    };
    // SAFETY: all shapes were checked above.
    unsafe { stream.launch(kernels::LAYER_NORM_FORWARD.of(T::DTYPE)?, &params)? };
    Ok(())
}

/// Enqueues the gradients of [`forward`].
///
/// # Errors
/// As [`forward`], or when the workspace is too small.
pub fn backward<T: Float>(stream: &Stream, arguments: Backward<'_, T>) -> Result<()> {
    let Backward { d_output, sum, mean, rstd, gamma, d_input, d_gamma, d_beta, workspace, fused } = arguments;
    let FusedGradients { dropout, d_residual, d_bias } = fused;
    let shape @ [rows, columns] = require_row_shape("d_output", &d_output)?;
    require_shape("sum", &sum, shape, "as d_output")?;
    require_length("mean", mean.len(), rows, "rows")?;
    require_length("rstd", rstd.len(), rows, "rows")?;
    require_optional_shape("d_residual", d_residual.as_ref(), shape, "as d_output")?;
    require_shape("d_input", &d_input, shape, "as d_output")?;
    require_length("gamma", gamma.len(), columns, "columns")?;
    require_length("d_gamma", d_gamma.len(), columns, "columns")?;
    require_length("d_beta", d_beta.len(), columns, "columns")?;
    require_length("d_bias", d_bias.as_ref().map_or(columns, ViewMut::len), columns, "columns")?;
    let params = LayerNormBackwardParams {
        d_output: contiguous(stream, "d_output", &d_output)?,
        sum: contiguous(stream, "sum", &sum)?,
        mean: stream.address("mean", &mean)?,
        rstd: stream.address("rstd", &rstd)?,
        gamma: aligned(stream, "gamma", &gamma)?,
        d_residual: optional_contiguous(stream, "d_residual", d_residual.as_ref())?,
        d_input: contiguous(stream, "d_input", &d_input)?,
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
    // SAFETY: all shapes were checked above; the workspace holds the partial sums and what their sum needs.
    unsafe {
        stream.launch(kernels::LAYER_NORM_BACKWARD.of(T::DTYPE)?, &params)?;
        add_partials(stream, partial_rows(rows, columns), columns, &outputs, params.partials)
    }
}

/// Returns rows and columns of a matrix whose rows are normalized.
pub(crate) fn require_row_shape<M: MatrixMemory>(argument: &'static str, matrix: &M) -> Result<[usize; 2]> {
    let [rows, columns] = require_rows(argument, matrix)?.map(|size| size as usize);
    require_supported(
        columns <= COLUMNS_MAX,
        argument,
        format_args!("[{rows}, {columns}]"),
        format_args!("of at most {COLUMNS_MAX} columns"),
    )?;
    Ok([rows, columns])
}

/// Returns the workspace of a backward kernel's partial sums, `width` per block, and of their summation.
pub(crate) fn partials_workspace(partial_rows: usize, width: usize) -> Workspace {
    Workspace::of::<f32>(&[partial_rows, width]).and(column_sum::workspace(partial_rows, width))
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
        stride: outputs.len() * columns,
        rows: partial_rows,
        columns,
        outputs,
        accumulate: true,
        workspace: workspace + partials_bytes as u64,
    };
    // SAFETY: by this function's own contract.
    unsafe { sums.launch::<f32>(stream) }
}
