//! Sums of scattered rows: the gradients of tables, gathered by who read each row. No atomics, so always the same bits.

use super::Result;
use super::column_sum::require_rows;
use super::error::{optional, require, require_length};
use crate::device::params::SegmentSumParams;
use crate::device::{DType, Float, Stream, View, ViewMut};

/// `kSegmentWarps` (a block's segments), threads and `kSegmentColumns` of the kernel.
const SEGMENTS_PER_BLOCK: u32 = 8;
const THREADS: u32 = 256;
const COLUMNS_PER_BLOCK: u32 = 256;
/// One sum for each warp and column.
const SHARED_BYTES: u32 = SEGMENTS_PER_BLOCK * COLUMNS_PER_BLOCK * 4;

/// Arguments of [`segment_sum`]. Offsets and indices are in device memory and are not checked: offsets must not fall, every index must
/// be a row of its matrix, and no row may appear twice in `rows`.
#[derive(Debug)]
pub struct SegmentSum<'a, T: Float, O: Float> {
    /// `[*, columns]`
    pub input: View<'a, T>,
    /// `[offsets[segments]]`: rows of `input`, segment by segment; absent: segments are runs of consecutive rows
    pub indices: Option<View<'a, i32>>,
    /// `[segments + 1]`: where each segment begins in `indices`
    pub offsets: View<'a, i32>,
    /// `[segments]`: rows of `output`; absent: segment `s` is row `s`
    pub rows: Option<View<'a, i32>>,
    /// `[*, columns]`: f32, or the type of `input`
    pub output: ViewMut<'a, O>,
    /// A multiple of 8.
    pub columns: usize,
}

/// Enqueues `output[rows[s]] += Σ input[indices[k]]` over `k` in `offsets[s]..offsets[s + 1]`, summed in f32.
///
/// # Errors
/// When `columns` is not a multiple of 8, a length does not fit, or the output type is neither f32 nor that of the input.
pub fn segment_sum<T: Float, O: Float>(stream: &Stream, arguments: SegmentSum<'_, T, O>) -> Result<()> {
    let SegmentSum { input, indices, offsets, rows, output, columns } = arguments;
    require_rows("input", input.len(), "columns", columns)?;
    let output_rows = require_rows("output", output.len(), "columns", columns)?;
    require(!offsets.is_empty(), "offsets", "empty", "one element longer than the number of segments")?;
    let segments = offsets.len() - 1;
    match rows {
        Some(rows) => require_length("rows", rows.len(), segments, "segments")?,
        None => require(
            output_rows >= segments,
            "output",
            format_args!("{output_rows} rows"),
            format_args!("at least {segments} (segments)"),
        )?,
    }
    let kernel = match (T::DTYPE, O::DTYPE) {
        (input, DType::F32) => format!("segment_sum_{}", input.name()),
        (input, output) if input == output => format!("segment_sum_narrow_{}", output.name()),
        (DType::F32, output) => return require(false, "output", output.name(), "f32, as input"),
        (input, output) => {
            return require(
                false,
                "output",
                output.name(),
                format_args!("f32, or {} as input", input.name()),
            );
        }
    };
    let params = SegmentSumParams {
        input: stream.address("input", &input)?,
        output: stream.address("output", &output)?,
        rows: optional(stream, "rows", rows.as_ref())?,
        offsets: stream.address("offsets", &offsets)?,
        indices: optional(stream, "indices", indices.as_ref())?,
        segments: segments as u32,
        columns: columns as u32,
    };
    let grid = [params.segments.div_ceil(SEGMENTS_PER_BLOCK), params.columns.div_ceil(COLUMNS_PER_BLOCK), 1];
    // SAFETY: lengths were checked; offsets and indices are valid by the arguments' contract.
    unsafe { stream.launch(&kernel, grid, THREADS, SHARED_BYTES, &params)? };
    Ok(())
}
