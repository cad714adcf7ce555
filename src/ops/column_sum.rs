//! Sums over the rows of a matrix, as gradients of biases need them; the order of additions is always the same.

use super::error::{aligned, aligned_rows, require_length, require_rows};
use super::{Result, Workspace};
use crate::device::params::ColumnSumParams;
use crate::device::{Matrix, ModelFloat, Stream, ViewMut, kernels};

/// Rows that one block sums; for more rows a second launch sums the blocks' results.
const ROWS_PER_BLOCK: usize = 512;

/// Arguments of [`column_sum`].
#[derive(Debug)]
pub struct ColumnSum<'a, T: ModelFloat> {
    /// `[rows, columns]`, columns and stride a multiple of 8; aligned to 16 bytes as the other arrays
    pub input: Matrix<'a, T>,
    /// `[columns]`
    pub output: ViewMut<'a, f32>,
    /// Add the sums to `output` instead of replacing it.
    pub accumulate: bool,
    /// At least [`workspace`].
    pub workspace: ViewMut<'a, u8>,
}

/// Returns the workspace for `rows` rows of `columns` columns.
#[must_use]
pub fn workspace(rows: usize, columns: usize) -> Workspace {
    if rows <= ROWS_PER_BLOCK {
        Workspace::NONE
    } else {
        Workspace::of::<f32>(&[rows.div_ceil(ROWS_PER_BLOCK), columns])
    }
}

/// Enqueues `output[column] = Σ input[row, column]`, or `+=`.
///
/// # Errors
/// When `columns` is not a multiple of 8, a length, a stride or an alignment does not fit, or the workspace is too small.
pub fn column_sum<T: ModelFloat>(stream: &Stream, arguments: ColumnSum<'_, T>) -> Result<()> {
    let ColumnSum { input, output, accumulate, workspace } = arguments;
    let [rows, columns] = require_rows("input", &input)?.map(|size| size as usize);
    require_length("output", output.len(), columns, "columns")?;
    let side_by_side = SideBySide {
        input: aligned_rows(stream, "input", &input)?,
        stride: input.stride(),
        rows,
        columns,
        outputs: &[aligned(stream, "output", &output)?],
        accumulate,
        workspace: self::workspace(rows, columns).address(stream, &workspace)?,
    };
    // SAFETY: the shapes of all three arrays were checked.
    unsafe { side_by_side.launch::<T>(stream) }
}

/// Up to three matrices side by side, `[rows, outputs.len() · columns]`, each with its own output (0: none).
pub(crate) struct SideBySide<'a> {
    pub input: u64,
    /// Elements from a row of `input` to the next
    pub stride: usize,
    pub rows: usize,
    pub columns: usize,
    pub outputs: &'a [u64],
    pub accumulate: bool,
    /// [`workspace`]`(rows, outputs.len() · columns)`
    pub workspace: u64,
}

impl SideBySide<'_> {
    /// # Safety
    /// All addresses are valid on the stream's device for the lengths above; outputs are `f32 [columns]` and overlap nothing.
    pub(crate) unsafe fn launch<T: ModelFloat>(&self, stream: &Stream) -> Result<()> {
        let width = self.outputs.len() * self.columns;
        let mut outputs = [0; 3];
        outputs[..self.outputs.len()].copy_from_slice(self.outputs);
        let last = ColumnSumParams {
            input: self.input,
            outputs,
            rows: self.rows as u32,
            columns: self.columns as u32,
            input_stride: self.stride as u32,
            output_stride: self.columns as u32,
            rows_per_block: self.rows as u32,
            accumulate: u32::from(self.accumulate),
            matrices: self.outputs.len() as u32,
            reserved: 0,
        };
        if self.rows <= ROWS_PER_BLOCK {
            return enqueue::<T>(stream, &last);
        }
        let place = |matrix: usize| self.workspace + (matrix * self.columns * size_of::<f32>()) as u64;
        let wanted = |matrix: usize| if outputs[matrix] == 0 { 0 } else { place(matrix) };
        let first = ColumnSumParams {
            outputs: std::array::from_fn(wanted),
            output_stride: width as u32,
            rows_per_block: ROWS_PER_BLOCK as u32,
            accumulate: 0,
            ..last
        };
        enqueue::<T>(stream, &first)?;
        let blocks = self.rows.div_ceil(ROWS_PER_BLOCK) as u32;
        let second = ColumnSumParams {
            input: self.workspace,
            input_stride: width as u32,
            rows: blocks,
            rows_per_block: blocks,
            ..last
        };
        enqueue::<f32>(stream, &second)
    }
}

fn enqueue<T: ModelFloat>(stream: &Stream, params: &ColumnSumParams) -> Result<()> {
    // SAFETY: by the contract of `SideBySide::launch`.
    unsafe { stream.launch(kernels::COLUMN_SUM.of(T::DTYPE)?, params)? };
    Ok(())
}
