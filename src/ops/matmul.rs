//! Dense matmuls, single or batched, by the device's GEMM library: cuBLASLt on CUDA, the `gemm` crate on the host.

use super::Result;
use super::error::{require_length, require_shape, require_supported};
use crate::device::{BatchStrides, DType, Float, Gemm, Matrix, MatrixMut, Stream, View};

/// A factor of a matmul, as it is stored. A batch's matrices follow each other: `batch` times the rows of one.
#[derive(Clone, Copy, Debug)]
pub enum Factor<'a, T: Float> {
    /// As multiplied
    Plain(Matrix<'a, T>),
    /// The transpose of the factor
    Transposed(Matrix<'a, T>),
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

/// Arguments of [`matmul`]. Sums are in f32; the output is f32 or of the factors' type. Rows of every matrix may be strided.
#[derive(Debug)]
pub struct Matmul<'a, T: Float, O: Float> {
    /// `[batch · m, k]`, transposed `[batch · k, m]`
    pub left: Factor<'a, T>,
    /// `[batch · k, n]`, transposed `[batch · n, k]`
    pub right: Factor<'a, T>,
    /// `[batch · m, n]`
    pub output: MatrixMut<'a, O>,
    /// Zero by default
    pub addend: Addend<'a, O>,
    /// Number of matmuls, 1 by default
    pub batch: usize,
}

impl<'a, T: Float> Factor<'a, T> {
    /// Returns the stored matrix, and whether it is transposed.
    fn stored(self) -> (Matrix<'a, T>, bool) {
        match self {
            Self::Plain(matrix) => (matrix, false),
            Self::Transposed(matrix) => (matrix, true),
        }
    }
}

impl<'a, T: Float, O: Float> Matmul<'a, T, O> {
    /// One matmul, which overwrites the output.
    #[must_use]
    pub fn new(left: Factor<'a, T>, right: Factor<'a, T>, output: MatrixMut<'a, O>) -> Self {
        Self { left, right, output, addend: Addend::Zero, batch: 1 }
    }

    /// Sets what is added to the matmul.
    #[must_use]
    pub fn addend(self, addend: Addend<'a, O>) -> Self {
        Self { addend, ..self }
    }

    /// Sets the number of matmuls.
    #[must_use]
    pub fn batch(self, batch: usize) -> Self {
        Self { batch, ..self }
    }

    /// Returns m, n and k of each matmul.
    fn sizes(&self) -> [usize; 3] {
        let batch = self.batch.max(1);
        let (left, transposed) = self.left.stored();
        let k = if transposed { left.rows() / batch } else { left.columns() };
        [self.output.rows() / batch, self.output.columns(), k]
    }
}

/// Enqueues `output[i] = left[i] · right[i] + addend` for every `i` of the batch.
///
/// # Errors
/// When shapes do not agree, or the output is neither f32 nor of the factors' type.
pub fn matmul<T: Float, O: Float>(stream: &Stream, arguments: Matmul<'_, T, O>) -> Result<()> {
    let [m, n, k] = arguments.sizes();
    let Matmul { left, right, ref output, addend, batch } = arguments;
    if batch == 0 {
        return require_shape("output", output, [0, n], "batch · m, n");
    }
    let all = |rows: usize| rows.saturating_mul(batch);
    match left {
        Factor::Plain(left) => require_shape("left", &left, [all(m), k], "batch · m, k")?,
        Factor::Transposed(left) => require_shape("left", &left, [all(k), m], "batch · k, m")?,
    }
    match right {
        Factor::Plain(right) => require_shape("right", &right, [all(k), n], "batch · k, n")?,
        Factor::Transposed(right) => require_shape("right", &right, [all(n), k], "batch · n, k")?,
    }
    require_shape("output", output, [all(m), n], "batch · m, n")?;
    let (input_type, output_type) = (T::DTYPE.name(), O::DTYPE.name());
    require_supported(
        O::DTYPE == DType::F32 || O::DTYPE == T::DTYPE,
        "output",
        output_type,
        format_args!("f32, or {input_type} as the factors"),
    )?;
    if let Addend::Bias(bias) = addend {
        require_length("bias", bias.len(), n, "n")?;
    }
    // SAFETY: the shapes were checked.
    unsafe { enqueue(stream, ["left", "right", "output"], arguments) }
}

/// As [`matmul`], with the names of the factors and the output in the caller's errors.
///
/// # Safety
/// The shapes agree, and the output type is f32 or that of the factors.
pub(super) unsafe fn enqueue<T: Float, O: Float>(
    stream: &Stream,
    names: [&'static str; 3],
    arguments: Matmul<'_, T, O>,
) -> Result<()> {
    let [m, n, k] = arguments.sizes();
    let Matmul { left, right, output, addend, batch } = arguments;
    let ((a, a_transposed), (b, b_transposed)) = (left.stored(), right.stored());
    let strides = |count: usize| BatchStrides {
        count,
        a_stride: a.rows() / count * a.stride(),
        b_stride: b.rows() / count * b.stride(),
        c_stride: m * output.stride(),
    };
    let bias = if let Addend::Bias(bias) = addend { Some(bias) } else { None };
    let gemm = Gemm {
        m,
        n,
        k,
        a: stream.address(names[0], &a)?,
        a_stride: a.stride(),
        a_transposed,
        b: stream.address(names[1], &b)?,
        b_stride: b.stride(),
        b_transposed,
        c: stream.address(names[2], &output)?,
        c_stride: output.stride(),
        input: T::DTYPE,
        output: O::DTYPE,
        accumulate: matches!(addend, Addend::Output),
        bias: bias.map(|bias| stream.address("bias", &bias)).transpose()?,
        batch: if batch > 1 { strides(batch) } else { BatchStrides::ONE },
    };
    // SAFETY: the shapes agree, and an exclusive matrix overlaps no other.
    unsafe { stream.gemm(&gemm)? };
    Ok(())
}
