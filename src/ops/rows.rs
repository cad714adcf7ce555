//! Rows of a matrix by index: the tokens with a loss, the sentences' first tokens.

use super::Result;
use super::error::{contiguous, require_count, require_rows, require_shape};
use crate::device::params::RowsParams;
use crate::device::{Matrix, MatrixMut, ModelFloat, Stream, View, kernels};

/// Arguments of [`gather`]; matrices are contiguous and aligned to 16 bytes.
#[derive(Debug)]
pub struct Gather<'a, T: ModelFloat> {
    /// `[*, columns]`, columns a multiple of 8
    pub input: Matrix<'a, T>,
    /// `[count]`: rows of `input`; a negative one gives a row of zeros, one beyond the last a row of NaN
    pub rows: View<'a, i32>,
    /// `[count, columns]`
    pub output: MatrixMut<'a, T>,
}

/// Arguments of [`scatter_add`]; matrices are contiguous and aligned to 16 bytes.
#[derive(Debug)]
pub struct ScatterAdd<'a, T: ModelFloat> {
    /// `[count, columns]`, columns a multiple of 8
    pub input: Matrix<'a, T>,
    /// `[count]`: rows of `output`, none twice. Input rows for a negative one, or one beyond the last, are dropped.
    pub rows: View<'a, i32>,
    /// `[*, columns]`
    pub output: MatrixMut<'a, T>,
}

/// Enqueues `output[i] = input[rows[i]]`.
///
/// # Errors
/// When `columns` is not a multiple of 8, or a shape, a stride or an alignment does not fit.
pub fn gather<T: ModelFloat>(stream: &Stream, arguments: Gather<'_, T>) -> Result<()> {
    let Gather { input, rows, output } = arguments;
    let [indexed_rows, columns] = require_rows("input", &input)?;
    require_shape("output", &output, [rows.len(), input.columns()], "rows, columns")?;
    let (input, output) = (contiguous(stream, "input", &input)?, contiguous(stream, "output", &output)?);
    let params = RowsParams { input, output, indexed_rows, ..params(stream, rows, columns)? };
    // SAFETY: shapes were checked; the kernel checks the indices.
    unsafe { stream.launch(kernels::GATHER_ROWS.of(T::DTYPE)?, &params)? };
    Ok(())
}

/// Enqueues `output[rows[i]] += input[i]`, rounded once.
///
/// # Errors
/// When `columns` is not a multiple of 8, or a shape, a stride or an alignment does not fit.
pub fn scatter_add<T: ModelFloat>(stream: &Stream, arguments: ScatterAdd<'_, T>) -> Result<()> {
    let ScatterAdd { input, rows, output } = arguments;
    let [indexed_rows, columns] = require_rows("output", &output)?;
    require_shape("input", &input, [rows.len(), output.columns()], "rows, columns")?;
    let (input, output) = (contiguous(stream, "input", &input)?, contiguous(stream, "output", &output)?);
    let params = RowsParams { input, output, indexed_rows, ..params(stream, rows, columns)? };
    // SAFETY: shapes were checked; the kernel checks the indices.
    unsafe { stream.launch(kernels::SCATTER_ADD_ROWS.of(T::DTYPE)?, &params)? };
    Ok(())
}

fn params(stream: &Stream, rows: View<'_, i32>, columns: u32) -> Result<RowsParams> {
    Ok(RowsParams {
        rows: stream.address("rows", &rows)?,
        count: require_count("rows", rows.len())?,
        columns,
        ..RowsParams::default()
    })
}
