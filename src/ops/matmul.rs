//! Dense matmuls, single or batched, by the device's GEMM library: cuBLASLt on CUDA, the `gemm` crate on the host.

use super::Result;
use super::error::{elements, require, require_length};
use crate::device::{BatchStrides, DType, Float, Gemm, Stream, View, ViewMut};

/// Number of matmuls, and their sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub batch: usize,
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

/// Matrices of a batch of matmuls, one each.
#[derive(Clone, Copy, Debug)]
pub enum Factor<'a, T: Float> {
    /// Row-major, as multiplied
    Plain(View<'a, T>),
    /// Row-major, the transpose of the factor
    Transposed(View<'a, T>),
}

/// Addend of a matmul, added in f32 before the only rounding.
#[derive(Clone, Copy, Debug)]
pub enum Addend<'a, O: Float> {
    /// Nothing: the output is overwritten
    Zero,
    /// Previous values of the output
    Output,
    /// `[n]`: the same row for all rows of the batch
    Bias(View<'a, O>),
}

/// Arguments of [`matmul`]. Sums are in f32; the output is f32 or of the factors' type.
#[derive(Debug)]
pub struct Matmul<'a, T: Float, O: Float> {
    pub sizes: Sizes,
    /// `[batch, m, k]`, transposed `[batch, k, m]`
    pub left: Factor<'a, T>,
    /// `[batch, k, n]`, transposed `[batch, n, k]`
    pub right: Factor<'a, T>,
    pub addend: Addend<'a, O>,
    /// `[batch, m, n]`
    pub output: ViewMut<'a, O>,
}

impl<'a, T: Float> Factor<'a, T> {
    /// Returns the view, whether it is transposed, and its row stride, for a factor that is `[rows, columns]` when multiplied.
    fn parts(self, rows: usize, columns: usize) -> (View<'a, T>, bool, usize) {
        match self {
            Self::Plain(view) => (view, false, columns),
            Self::Transposed(view) => (view, true, rows),
        }
    }
}

/// Enqueues `output[i] = left[i] · right[i] + addend` for every `i` of the batch.
///
/// # Errors
/// When a length does not fit, or the output is neither f32 nor of the factors' type.
pub fn matmul<T: Float, O: Float>(stream: &Stream, arguments: Matmul<'_, T, O>) -> Result<()> {
    let Matmul { sizes: Sizes { batch, m, n, k }, left, right, addend, output } = arguments;
    let (a, a_transposed, a_stride) = left.parts(m, k);
    let (b, b_transposed, b_stride) = right.parts(k, n);
    require_length("left", a.len(), elements([batch, m, k]), "batch · m · k")?;
    require_length("right", b.len(), elements([batch, k, n]), "batch · k · n")?;
    require_length("output", output.len(), elements([batch, m, n]), "batch · m · n")?;
    let (input_type, output_type) = (T::DTYPE.name(), O::DTYPE.name());
    require(
        O::DTYPE == DType::F32 || O::DTYPE == T::DTYPE,
        "output",
        output_type,
        format_args!("f32, or {input_type} as the factors"),
    )?;
    let bias = if let Addend::Bias(bias) = addend { Some(bias) } else { None };
    require_length("bias", bias.map_or(n, |bias| bias.len()), n, "n")?;
    let gemm = Gemm {
        m,
        n,
        k,
        a: stream.address("left", &a)?,
        a_stride,
        a_transposed,
        b: stream.address("right", &b)?,
        b_stride,
        b_transposed,
        c: stream.address("output", &output)?,
        c_stride: n,
        input: T::DTYPE,
        output: O::DTYPE,
        accumulate: matches!(addend, Addend::Output),
        bias: bias.map(|bias| stream.address("bias", &bias)).transpose()?,
        batch: BatchStrides { count: batch, a_stride: m * k, b_stride: k * n, c_stride: m * n },
    };
    // SAFETY: the lengths were checked, and an exclusive view overlaps no other.
    unsafe { stream.gemm(&gemm)? };
    Ok(())
}
