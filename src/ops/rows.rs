//! Rows of a matrix by index: the tokens with a loss, the sentences' first tokens.

use super::Result;
use super::error::{aligned, elements, require_columns, require_count, require_length, require_rows};
use crate::device::params::RowsParams;
use crate::device::{ModelFloat, Stream, View, ViewMut, kernels};

/// Arguments of [`gather`]; matrices are aligned to 16 bytes.
#[derive(Debug)]
pub struct Gather<'a, T: ModelFloat> {
    /// `[*, columns]`
    pub input: View<'a, T>,
    /// `[count]`: rows of `input`; a negative one gives a row of zeros, one beyond the last a row of NaN
    pub rows: View<'a, i32>,
    /// `[count, columns]`
    pub output: ViewMut<'a, T>,
    /// Row length, a multiple of 8.
    pub columns: usize,
}

/// Arguments of [`scatter_add`]; matrices are aligned to 16 bytes.
#[derive(Debug)]
pub struct ScatterAdd<'a, T: ModelFloat> {
    /// `[count, columns]`
    pub input: View<'a, T>,
    /// `[count]`: rows of `output`, none twice. Input rows for a negative one, or one beyond the last, are dropped.
    pub rows: View<'a, i32>,
    /// `[*, columns]`
    pub output: ViewMut<'a, T>,
    /// Row length, a multiple of 8.
    pub columns: usize,
}

/// Enqueues `output[i] = input[rows[i]]`.
///
/// # Errors
/// When `columns` is not a multiple of 8, or a length or an alignment does not fit.
pub fn gather<T: ModelFloat>(stream: &Stream, arguments: Gather<'_, T>) -> Result<()> {
    let Gather { input, rows, output, columns } = arguments;
    require_columns("columns", columns)?;
    let indexed_rows = require_rows("input", input.len(), columns)? as u32;
    require_length("output", output.len(), elements([rows.len(), columns]), "rows · columns")?;
    let (input, output) = (aligned(stream, "input", &input)?, aligned(stream, "output", &output)?);
    let params = RowsParams { input, output, indexed_rows, ..params(stream, rows, columns)? };
    // SAFETY: lengths were checked; the kernel checks the indices.
    unsafe { stream.launch(kernels::GATHER_ROWS.of(T::DTYPE)?, &params)? };
    Ok(())
}

/// Enqueues `output[rows[i]] += input[i]`, rounded once.
///
/// # Errors
/// When `columns` is not a multiple of 8, or a length or an alignment does not fit.
pub fn scatter_add<T: ModelFloat>(stream: &Stream, arguments: ScatterAdd<'_, T>) -> Result<()> {
    let ScatterAdd { input, rows, output, columns } = arguments;
    require_columns("columns", columns)?;
    let indexed_rows = require_rows("output", output.len(), columns)? as u32;
    require_length("input", input.len(), elements([rows.len(), columns]), "rows · columns")?;
    let (input, output) = (aligned(stream, "input", &input)?, aligned(stream, "output", &output)?);
    let params = RowsParams { input, output, indexed_rows, ..params(stream, rows, columns)? };
    // SAFETY: lengths were checked; the kernel checks the indices.
    unsafe { stream.launch(kernels::SCATTER_ADD_ROWS.of(T::DTYPE)?, &params)? };
    Ok(())
}

fn params(stream: &Stream, rows: View<'_, i32>, columns: usize) -> Result<RowsParams> {
    Ok(RowsParams {
        rows: stream.address("rows", &rows)?,
        count: require_count("rows", rows.len())?,
        columns: columns as u32,
        ..RowsParams::default()
    })
}
