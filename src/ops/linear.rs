//! Linear layers, `output = input · weightᵀ + bias`, with Hugging Face's `[out, in]` weights. The GEMMs run on the device's GEMM library:
//! cuBLASLt on CUDA, the `gemm` crate on the host.

use super::Result;
use super::error::{elements, require, require_length};
use crate::device::{BatchStrides, DType, Float, Gemm, Stream, View, ViewMut};

/// Arguments of [`forward`].
#[derive(Debug)]
pub struct Forward<'a, T: Float> {
    /// `[rows, in]`
    pub input: View<'a, T>,
    /// `[out, in]`
    pub weight: View<'a, T>,
    /// `[out]`, in the compute type; added in f32, before the only rounding
    pub bias: Option<View<'a, T>>,
    /// `[rows, out]`
    pub output: ViewMut<'a, T>,
    pub in_features: usize,
    pub out_features: usize,
}

/// Arguments of [`backward_input`].
#[derive(Debug)]
pub struct BackwardInput<'a, T: Float> {
    /// `[rows, out]`
    pub d_output: View<'a, T>,
    /// `[out, in]`
    pub weight: View<'a, T>,
    /// `[rows, in]`
    pub d_input: ViewMut<'a, T>,
    pub in_features: usize,
    pub out_features: usize,
    /// Add to `d_input` instead of overwriting it.
    pub accumulate: bool,
}

/// Arguments of [`backward_weight`].
#[derive(Debug)]
pub struct BackwardWeight<'a, T: Float> {
    /// `[rows, in]`
    pub input: View<'a, T>,
    /// `[rows, out]`
    pub d_output: View<'a, T>,
    /// `[out, in]`, added to
    pub d_weight: ViewMut<'a, f32>,
    pub in_features: usize,
    pub out_features: usize,
}

/// Enqueues `output = input · weightᵀ + bias`.
///
/// # Errors
/// When a length does not fit.
pub fn forward<T: Float>(stream: &Stream, arguments: Forward<'_, T>) -> Result<()> {
    let Forward { input, weight, bias, output, in_features, out_features } = arguments;
    let rows = rows("input", input.len(), ("in_features", in_features))?;
    require_length("weight", weight.len(), elements([out_features, in_features]), "out · in")?;
    require_length("output", output.len(), elements([rows, out_features]), "rows · out")?;
    if let Some(bias) = bias {
        require_length("bias", bias.len(), out_features, "out")?;
    }
    let gemm = Gemm {
        m: rows,
        n: out_features,
        k: in_features,
        a: stream.address("input", &input)?,
        a_stride: in_features,
        a_transposed: false,
        b: stream.address("weight", &weight)?,
        b_stride: in_features,
        b_transposed: true,
        c: stream.address("output", &output)?,
        c_stride: out_features,
        input: T::DTYPE,
        output: T::DTYPE,
        accumulate: false,
        bias: bias.map(|bias| stream.address("bias", &bias)).transpose()?,
        batch: BatchStrides::ONE,
    };
    // SAFETY: the lengths were checked, and an exclusive view overlaps no other.
    unsafe { stream.gemm(&gemm)? };
    Ok(())
}

/// Enqueues `d_input (+)= d_output · weight`.
///
/// # Errors
/// When a length does not fit.
pub fn backward_input<T: Float>(stream: &Stream, arguments: BackwardInput<'_, T>) -> Result<()> {
    let BackwardInput { d_output, weight, d_input, in_features, out_features, accumulate } = arguments;
    let rows = rows("d_output", d_output.len(), ("out_features", out_features))?;
    require_length("weight", weight.len(), elements([out_features, in_features]), "out · in")?;
    require_length("d_input", d_input.len(), elements([rows, in_features]), "rows · in")?;
    let gemm = Gemm {
        m: rows,
        n: in_features,
        k: out_features,
        a: stream.address("d_output", &d_output)?,
        a_stride: out_features,
        a_transposed: false,
        b: stream.address("weight", &weight)?,
        b_stride: in_features,
        b_transposed: false,
        c: stream.address("d_input", &d_input)?,
        c_stride: in_features,
        input: T::DTYPE,
        output: T::DTYPE,
        accumulate,
        bias: None,
        batch: BatchStrides::ONE,
    };
    // SAFETY: as in `forward`.
    unsafe { stream.gemm(&gemm)? };
    Ok(())
}

/// Enqueues `d_weight += d_outputᵀ · input`.
///
/// # Errors
/// When a length does not fit.
pub fn backward_weight<T: Float>(stream: &Stream, arguments: BackwardWeight<'_, T>) -> Result<()> {
    let BackwardWeight { input, d_output, d_weight, in_features, out_features } = arguments;
    let rows = rows("input", input.len(), ("in_features", in_features))?;
    require_length("d_output", d_output.len(), elements([rows, out_features]), "rows · out")?;
    require_length("d_weight", d_weight.len(), elements([out_features, in_features]), "out · in")?;
    let gemm = Gemm {
        m: out_features,
        n: in_features,
        k: rows,
        a: stream.address("d_output", &d_output)?,
        a_stride: out_features,
        a_transposed: true,
        b: stream.address("input", &input)?,
        b_stride: in_features,
        b_transposed: false,
        c: stream.address("d_weight", &d_weight)?,
        c_stride: in_features,
        input: T::DTYPE,
        output: DType::F32,
        accumulate: true,
        bias: None,
        batch: BatchStrides::ONE,
    };
    // SAFETY: as in `forward`.
    unsafe { stream.gemm(&gemm)? };
    Ok(())
}

fn rows(
    argument: &'static str,
    length: usize,
    (features_of, features): (&'static str, usize),
) -> Result<usize> {
    require(features > 0, features_of, features, "positive")?;
    require(
        length.is_multiple_of(features),
        argument,
        format_args!("{length} elements long"),
        format_args!("a multiple of {features} (features)"),
    )?;
    Ok(length / features)
}
