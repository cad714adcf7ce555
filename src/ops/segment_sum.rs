//! Sums of scattered rows: the gradients of tables, gathered by who read each row. No atomics, so always the same bits.

use super::Result;
use super::error::{
    aligned, optional, require, require_columns, require_count, require_length, require_rows,
};
use crate::device::params::SegmentSumParams;
use crate::device::{DType, ModelFloat, Stream, View, ViewMut};

/// `kSegmentWarps` (a block's segments), threads and `kSegmentColumns` of the kernel.
const SEGMENTS_PER_BLOCK: u32 = 8;
const THREADS: u32 = 256;
const COLUMNS_PER_BLOCK: u32 = 256;
/// One sum for each warp and column.
const SHARED_BYTES: u32 = SEGMENTS_PER_BLOCK * COLUMNS_PER_BLOCK * 4;

/// Arguments of [`segment_sum`]; matrices are aligned to 16 bytes.
#[derive(Debug)]
pub struct SegmentSum<'a, T: ModelFloat, O: ModelFloat> {
    /// `[*, columns]`
    pub input: View<'a, T>,
    /// `[offsets[segments]]`, or more: rows of `input`, segment by segment; absent: segments are runs of consecutive rows. What is no row of `input`
    /// counts as NaN.
    pub indices: Option<View<'a, i32>>,
    /// `[segments + 1]`: where each segment begins in `indices`, never falling; the sum of a segment that leaves the indices is NaN
    pub offsets: View<'a, i32>,
    /// `[segments]`: rows of `output`, none twice but for empty segments, which go nowhere; absent: segment `s` is row `s`. What is no row of
    /// `output` goes nowhere.
    pub rows: Option<View<'a, i32>>,
    /// `[*, columns]`: f32, or the type of `input`
    pub output: ViewMut<'a, O>,
    /// A multiple of 8.
    pub columns: usize,
}

/// Enqueues `output[rows[s]] += Σ input[indices[k]]` over `k` in `offsets[s]..offsets[s + 1]`, summed in f32.
///
/// # Errors
/// When `columns` is not a multiple of 8, a length or an alignment does not fit, or the output type is neither f32 nor that of the input.
pub fn segment_sum<T: ModelFloat, O: ModelFloat>(
    stream: &Stream,
    arguments: SegmentSum<'_, T, O>,
) -> Result<()> {
    let SegmentSum { input, indices, offsets, rows, output, columns } = arguments;
    require_columns("columns", columns)?;
    let input_rows = require_rows("input", input.len(), columns)?;
    let output_rows = require_rows("output", output.len(), columns)?;
    require(!offsets.is_empty(), "offsets", "empty", "one element longer than the number of segments")?;
    let segments = offsets.len() - 1;
    let count = indices.map_or(Ok(input_rows as u32), |indices| require_count("indices", indices.len()))?;
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
        (_, output) => return require(false, "output", output.name(), "f32, as input"),
    };
    let params = SegmentSumParams {
        input: aligned(stream, "input", &input)?,
        output: aligned(stream, "output", &output)?,
        rows: optional(stream, "rows", rows.as_ref())?,
        offsets: stream.address("offsets", &offsets)?,
        indices: optional(stream, "indices", indices.as_ref())?,
        segments: require_count("offsets", segments)?,
        columns: columns as u32,
        input_rows: input_rows as u32,
        output_rows: output_rows as u32,
        count,
        reserved: 0,
    };
    let grid = [params.segments.div_ceil(SEGMENTS_PER_BLOCK), params.columns.div_ceil(COLUMNS_PER_BLOCK), 1];
    // SAFETY: lengths were checked; the kernel checks offsets and indices.
    unsafe { stream.launch(&kernel, grid, THREADS, SHARED_BYTES, &params)? };
    Ok(())
}
