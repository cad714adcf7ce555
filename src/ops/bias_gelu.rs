//! Bias and GELU in one pass: `output = gelu(input + bias)` with `gelu(x) = x·Φ(x)`, the exact erf form
//! (Hendrycks and Gimpel, arXiv 1606.08415).

use super::Result;
use super::error::{aligned, contiguous, require_length, require_rows, require_shape};
use crate::device::params::BiasGeluParams;
use crate::device::{Matrix, MatrixMut, ModelFloat, Stream, View, kernels};

/// Arguments of [`forward`], all contiguous and aligned to 16 bytes.
#[derive(Debug)]
pub struct Forward<'a, T: ModelFloat> {
    /// `[rows, columns]`, columns a multiple of 8
    pub input: Matrix<'a, T>,
    /// `[columns]`
    pub bias: View<'a, f32>,
    /// `[rows, columns]`
    pub output: MatrixMut<'a, T>,
}

/// Arguments of [`backward`], all contiguous and aligned to 16 bytes.
#[derive(Debug)]
pub struct Backward<'a, T: ModelFloat> {
    /// `[rows, columns]`, as in the forward pass
    pub input: Matrix<'a, T>,
    /// `[columns]`
    pub bias: View<'a, f32>,
    /// `[rows, columns]`: gradient of the output
    pub d_output: Matrix<'a, T>,
    /// `[rows, columns]`: gradient of the input; its column sums are the gradient of the bias
    pub d_input: MatrixMut<'a, T>,
}

/// Enqueues `output = gelu(input + bias)`.
///
/// # Errors
/// When `columns` is not a multiple of 8, or a shape, a stride or an alignment does not fit.
pub fn forward<T: ModelFloat>(stream: &Stream, arguments: Forward<'_, T>) -> Result<()> {
    let Forward { input, bias, output } = arguments;
    let params =
        BiasGeluParams { output: contiguous(stream, "output", &output)?, ..inputs(stream, &input, &bias)? };
    require_shape("output", &output, [input.rows(), input.columns()], "as input")?;
    // SAFETY: all matrices were checked to have the input's shape, the bias its columns.
    unsafe { stream.launch(kernels::BIAS_GELU_FORWARD.of(T::DTYPE)?, &params)? };
    Ok(())
}

/// Enqueues `d_input = d_output · gelu'(input + bias)`.
///
/// # Errors
/// As [`forward`].
pub fn backward<T: ModelFloat>(stream: &Stream, arguments: Backward<'_, T>) -> Result<()> {
    let Backward { input, bias, d_output, d_input } = arguments;
    let params = BiasGeluParams {
        d_output: contiguous(stream, "d_output", &d_output)?,
        d_input: contiguous(stream, "d_input", &d_input)?,
        ..inputs(stream, &input, &bias)?
    };
    let shape = [input.rows(), input.columns()];
    require_shape("d_output", &d_output, shape, "as input")?;
    require_shape("d_input", &d_input, shape, "as input")?;
    // SAFETY: as in `forward`.
    unsafe { stream.launch(kernels::BIAS_GELU_BACKWARD.of(T::DTYPE)?, &params)? };
    Ok(())
}

/// Returns the params of what both passes read.
fn inputs<T: ModelFloat>(
    stream: &Stream,
    input: &Matrix<'_, T>,
    bias: &View<'_, f32>,
) -> Result<BiasGeluParams> {
    let [rows, columns] = require_rows("input", input)?;
    require_length("bias", bias.len(), input.columns(), "columns")?;
    Ok(BiasGeluParams {
        input: contiguous(stream, "input", input)?,
        bias: aligned(stream, "bias", bias)?,
        rows,
        columns,
        ..BiasGeluParams::default()
    })
}
