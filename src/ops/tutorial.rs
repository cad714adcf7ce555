//! The operation that `docs/kernels.md` builds step by step. Only tests run it: feature `test-kernels`.

use super::Result;
use super::error::{aligned, contiguous, require_count, require_eps, require_length, require_shape};
use super::layer_norm::require_row_shape;
use crate::device::params::SentenceVectorsParams;
use crate::device::{Matrix, MatrixMut, ModelFloat, Stream, View, ViewMut, kernels};

/// Arguments of [`sentence_vectors`]; matrices are contiguous, and all with columns are aligned to 16 bytes.
#[derive(Debug)]
pub struct SentenceVectors<'a, T: ModelFloat> {
    /// `[*, columns]`, columns a multiple of 8 of at most 1024
    pub input: Matrix<'a, T>,
    /// `[count]`: rows of `input`; one that is not there gives a row of NaN
    pub rows: View<'a, i32>,
    /// `[columns]`: subtracted from each row
    pub center: View<'a, f32>,
    /// Least divisor, so that a row of zeros has a quotient; positive and finite
    pub eps: f32,
    /// `[count, columns]`
    pub output: MatrixMut<'a, T>,
    /// `[count]`: ‖x‖
    pub norms: ViewMut<'a, f32>,
}

/// Enqueues `output[i] = x / max(‖x‖, eps)` with `x = input[rows[i]] - center`.
///
/// # Errors
/// When `columns` is not a multiple of 8 or above 1024, or a shape, a stride, an alignment or `eps` does not fit.
pub fn sentence_vectors<T: ModelFloat>(stream: &Stream, arguments: SentenceVectors<'_, T>) -> Result<()> {
    let SentenceVectors { input, rows, center, eps, output, norms } = arguments;
    let [input_rows, columns] = require_row_shape("input", &input)?;
    require_eps(eps)?;
    require_length("center", center.len(), columns, "columns")?;
    require_shape("output", &output, [rows.len(), columns], "rows, columns")?;
    require_length("norms", norms.len(), rows.len(), "rows")?;
    let params = SentenceVectorsParams {
        input: contiguous(stream, "input", &input)?,
        rows: stream.address("rows", &rows)?,
        center: aligned(stream, "center", &center)?,
        output: contiguous(stream, "output", &output)?,
        norms: stream.address("norms", &norms)?,
        count: require_count("rows", rows.len())?,
        columns: columns as u32,
        input_rows: input_rows as u32,
        eps,
    };
    // SAFETY: all shapes were checked above; the kernel checks the indices.
    unsafe { stream.launch(kernels::SENTENCE_VECTORS.of(T::DTYPE)?, &params)? };
    Ok(())
}
