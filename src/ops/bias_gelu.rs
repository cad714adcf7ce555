//! Bias and GELU in one pass: `output = gelu(input + bias)` with `gelu(x) = x·Φ(x)`, the exact erf form
//! (Hendrycks and Gimpel, arXiv 1606.08415).

use super::Result;
use super::error::{aligned, require_column_vector, require_length, require_rows};
use crate::device::params::BiasGeluParams;
use crate::device::{ModelFloat, Stream, View, ViewMut, kernels};

/// Arguments of [`forward`], all aligned to 16 bytes.
#[derive(Debug)]
pub struct Forward<'a, T: ModelFloat> {
    /// `[rows, columns]`
    pub input: View<'a, T>,
    /// `[columns]`
    pub bias: View<'a, f32>,
    /// `[rows, columns]`
    pub output: ViewMut<'a, T>,
}

/// Arguments of [`backward`], all aligned to 16 bytes.
#[derive(Debug)]
pub struct Backward<'a, T: ModelFloat> {
    /// `[rows, columns]`, as in the forward pass
    pub input: View<'a, T>,
    /// `[columns]`
    pub bias: View<'a, f32>,
    /// `[rows, columns]`: gradient of the output
    pub d_output: View<'a, T>,
    /// `[rows, columns]`: gradient of the input; its column sums are the gradient of the bias
    pub d_input: ViewMut<'a, T>,
}

/// Enqueues `output = gelu(input + bias)`.
///
/// # Errors
/// When `columns` is not a multiple of 8, or a length or an alignment does not fit.
pub fn forward<T: ModelFloat>(stream: &Stream, arguments: Forward<'_, T>) -> Result<()> {
    let Forward { input, bias, output } = arguments;
    let params = BiasGeluParams {
        input: aligned(stream, "input", &input)?,
        bias: aligned(stream, "bias", &bias)?,
        output: aligned(stream, "output", &output)?,
        ..shape(input.len(), bias.len())?
    };
    require_length("output", output.len(), input.len(), "as input")?;
    // SAFETY: all arrays were checked to have rows · columns elements, the bias columns.
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
        input: aligned(stream, "input", &input)?,
        bias: aligned(stream, "bias", &bias)?,
        d_output: aligned(stream, "d_output", &d_output)?,
        d_input: aligned(stream, "d_input", &d_input)?,
        ..shape(input.len(), bias.len())?
    };
    require_length("d_output", d_output.len(), input.len(), "as input")?;
    require_length("d_input", d_input.len(), input.len(), "as input")?;
    // SAFETY: as in `forward`.
    unsafe { stream.launch(kernels::BIAS_GELU_BACKWARD.of(T::DTYPE)?, &params)? };
    Ok(())
}

fn shape(input: usize, columns: usize) -> Result<BiasGeluParams> {
    require_column_vector("bias", columns)?;
    let rows = require_rows("input", input, columns)?;
    Ok(BiasGeluParams { rows: rows as u32, columns: columns as u32, ..BiasGeluParams::default() })
}
