//! Rows of a matrix by index: the tokens with a loss, the sentences' first tokens.

use super::Result;
use super::column_sum::require_rows;
use super::error::require_length;
use crate::device::params::RowsParams;
use crate::device::{Float, Stream, View, ViewMut};

const THREADS: u32 = 256;

/// Arguments of [`gather`]. The indices are in device memory and are not checked: each must be a row of `input`, or negative, for a row of
/// zeros.
#[derive(Debug)]
pub struct Gather<'a, T: Float> {
    /// `[*, columns]`
    pub input: View<'a, T>,
    /// `[count]`
    pub rows: View<'a, i32>,
    /// `[count, columns]`
    pub output: ViewMut<'a, T>,
    /// A multiple of 8.
    pub columns: usize,
}

/// Arguments of [`scatter_add`]. The indices are in device memory and are not checked: each must be a row of `output`, and none may
/// appear twice; or it is negative, and its row goes nowhere.
#[derive(Debug)]
pub struct ScatterAdd<'a, T: Float> {
    /// `[count, columns]`
    pub input: View<'a, T>,
    /// `[count]`
    pub rows: View<'a, i32>,
    /// `[*, columns]`
    pub output: ViewMut<'a, T>,
    /// A multiple of 8.
    pub columns: usize,
}

/// Enqueues `output[i] = input[rows[i]]`.
///
/// # Errors
/// When `columns` is not a multiple of 8 or a length does not fit.
pub fn gather<T: Float>(stream: &Stream, arguments: Gather<'_, T>) -> Result<()> {
    let Gather { input, rows, output, columns } = arguments;
    require_rows("input", input.len(), "columns", columns)?;
    require_length("output", output.len(), rows.len() * columns, "rows · columns")?;
    launch::<T>(
        stream,
        "gather_rows",
        stream.address("input", &input)?,
        stream.address("output", &output)?,
        rows,
        columns,
    )
}

/// Enqueues `output[rows[i]] += input[i]`, rounded once.
///
/// # Errors
/// When `columns` is not a multiple of 8 or a length does not fit.
pub fn scatter_add<T: Float>(stream: &Stream, arguments: ScatterAdd<'_, T>) -> Result<()> {
    let ScatterAdd { input, rows, output, columns } = arguments;
    require_rows("output", output.len(), "columns", columns)?;
    require_length("input", input.len(), rows.len() * columns, "rows · columns")?;
    launch::<T>(
        stream,
        "scatter_add_rows",
        stream.address("input", &input)?,
        stream.address("output", &output)?,
        rows,
        columns,
    )
}

fn launch<T: Float>(
    stream: &Stream,
    operation: &str,
    input: u64,
    output: u64,
    rows: View<'_, i32>,
    columns: usize,
) -> Result<()> {
    let params = RowsParams {
        input,
        output,
        rows: stream.address("rows", &rows)?,
        count: rows.len() as u32,
        columns: columns as u32,
    };
    let groups = rows.len() * (columns / 8);
    let grid = [groups.div_ceil(THREADS as usize) as u32, 1, 1];
    let kernel = format!("{operation}_{}", T::DTYPE.name());
    // SAFETY: lengths were checked; the indices are valid by the arguments' contract.
    unsafe { stream.launch(&kernel, grid, THREADS, 0, &params)? };
    Ok(())
}
