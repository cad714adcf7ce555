//! Sums of scattered rows: the gradients of tables, gathered for each table row. No atomics, so always the same bits.

use super::error::{
    contiguous, optional, require, require_count, require_length, require_rows, require_shape,
    require_supported,
};
use super::{Result, Workspace};
use crate::device::params::{SEGMENT_SLICE, SegmentSumParams};
use crate::device::{DType, Kernel, Matrix, MatrixMut, ModelFloat, Stream, View, ViewMut, kernels};

/// Indices per slice, and minimum length of a segment that is sliced.
const SLICE: usize = SEGMENT_SLICE as usize;
/// Partial sums per slice.
const SUMS: usize = 2;

/// Groups of rows whose sums are added to the rows of a table.
#[derive(Clone, Copy, Debug)]
pub struct Segments<'a> {
    /// `[segments + 1]`: start of each segment in `indices`, never decreasing; the sum of a segment that exceeds the indices is NaN, and so may
    /// be that of one of 64 rows or more where offsets decrease
    pub offsets: View<'a, i32>,
    /// `[offsets[segments]]`, or more: rows of the input, segment by segment; absent: segments are runs of consecutive rows. An index that is no
    /// row of the input counts as NaN.
    pub indices: Option<View<'a, i32>>,
    /// `[segments]`: rows of the output, none twice except for empty segments, whose sums are dropped; absent: segment `s` is row `s`. Sums for
    /// a key that is no row of the output are dropped.
    pub keys: Option<View<'a, i32>>,
}

impl<'a> Segments<'a> {
    /// Runs of consecutive rows, each for the output row of its own number; `offsets` are those of a packed batch, for example.
    #[must_use]
    pub fn consecutive(offsets: View<'a, i32>) -> Self {
        Self { offsets, indices: None, keys: None }
    }
}

/// Names of the arguments in errors, which differ where the sum is part of another operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    pub input: &'static str,
    pub offsets: &'static str,
    pub indices: &'static str,
    pub keys: &'static str,
    pub output: &'static str,
}

impl Names {
    const OWN: Self = Self {
        input: "input",
        offsets: "segments.offsets",
        indices: "segments.indices",
        keys: "segments.keys",
        output: "output",
    };
}

/// Arguments of [`segment_sum`]; matrices are contiguous and aligned to 16 bytes.
#[derive(Debug)]
pub struct SegmentSum<'a, T: ModelFloat, O: ModelFloat> {
    /// `[*, columns]`, columns a multiple of 8
    pub input: Matrix<'a, T>,
    /// Rows of `input` for each row of `output`
    pub segments: Segments<'a>,
    /// `[*, columns]`: f32, or the type of `input`
    pub output: MatrixMut<'a, O>,
    /// At least [`workspace`], aligned to 16 bytes.
    pub workspace: ViewMut<'a, u8>,
}

/// Returns the workspace for the sum of `count` rows, those of `indices` or, without them, of `input`.
#[must_use]
pub fn workspace(count: usize, columns: usize) -> Workspace {
    if count < SLICE {
        return Workspace::NONE;
    }
    owners(count).and(Workspace::of::<f32>(&[SUMS, count.div_ceil(SLICE), columns]))
}

/// Returns the workspace of the long segments' numbers, one for each partial sum.
fn owners(count: usize) -> Workspace {
    Workspace::of::<u32>(&[SUMS, count.div_ceil(SLICE)])
}

/// Enqueues `output[keys[s]] += Σ input[indices[k]]` over `k` in `offsets[s]..offsets[s + 1]`, summed in f32.
///
/// # Errors
/// When `columns` is not a multiple of 8, a shape, a stride or an alignment does not fit, the output type is neither f32 nor that of the input, or the
/// workspace is too small.
pub fn segment_sum<T: ModelFloat, O: ModelFloat>(
    stream: &Stream,
    arguments: SegmentSum<'_, T, O>,
) -> Result<()> {
    // SAFETY: all arguments are alive until the sum is enqueued.
    unsafe { Checked::new(stream, &Names::OWN, arguments)?.enqueue(stream) }
}

/// A sum whose arguments were checked, to be enqueued after other work.
pub(crate) struct Checked {
    slices: Kernel<SegmentSumParams>,
    sums: Kernel<SegmentSumParams>,
    params: SegmentSumParams,
}

impl Checked {
    /// As [`segment_sum`], without enqueuing it.
    pub(crate) fn new<T: ModelFloat, O: ModelFloat>(
        stream: &Stream,
        names: &Names,
        arguments: SegmentSum<'_, T, O>,
    ) -> Result<Self> {
        let SegmentSum { input, segments: Segments { offsets, indices, keys }, output, workspace } =
            arguments;
        let [input_rows, columns] = require_rows(names.input, &input)?;
        let [output_rows, _] = require_rows(names.output, &output)?;
        require_shape(names.output, &output, [output.rows(), input.columns()], "rows, columns of input")?;
        let expected = "one element longer than the number of segments";
        require(!offsets.is_empty(), names.offsets, "empty", expected)?;
        let segments = offsets.len() - 1;
        let count = indices.map_or(Ok(input_rows), |indices| require_count(names.indices, indices.len()))?;
        // A row of `input` is read in place of one that is out of range.
        require(input_rows > 0 || count == 0, names.input, "empty", "of at least one row")?;
        match keys {
            Some(keys) => require_length(names.keys, keys.len(), segments, "segments")?,
            None => require(
                output.rows() >= segments,
                names.output,
                format_args!("{output_rows} rows"),
                format_args!("at least {segments} (segments)"),
            )?,
        }
        let is_wide = O::DTYPE == DType::F32;
        require_supported(is_wide || T::DTYPE == O::DTYPE, names.output, O::DTYPE.name(), "f32, as input")?;
        let sums = if is_wide { kernels::SEGMENT_SUM } else { kernels::SEGMENT_SUM_NARROW }.of(T::DTYPE)?;
        let needed = self::workspace(count as usize, columns as usize);
        let owners = needed.address(stream, &workspace)?;
        let params = SegmentSumParams {
            input: contiguous(stream, names.input, &input)?,
            output: contiguous(stream, names.output, &output)?,
            rows: optional(stream, names.keys, keys.as_ref())?,
            offsets: stream.address(names.offsets, &offsets)?,
            indices: optional(stream, names.indices, indices.as_ref())?,
            owners,
            partials: owners + self::owners(count as usize).start_of_next() as u64,
            segments: require_count(names.offsets, segments)?,
            columns,
            input_rows,
            output_rows,
            count,
            reserved: 0,
        };
        Ok(Self { slices: kernels::SEGMENT_SLICES.of(T::DTYPE)?, sums, params })
    }

    /// Enqueues the sum.
    ///
    /// # Safety
    /// The arguments that were checked are still valid.
    pub(crate) unsafe fn enqueue(&self, stream: &Stream) -> Result<()> {
        let Self { slices, sums, params } = self;
        if params.segments == 0 {
            return Ok(());
        }
        // SAFETY: shapes were checked; the kernels check offsets and indices.
        unsafe {
            if params.count as usize >= SLICE {
                stream.launch(*slices, params)?;
            }
            stream.launch(*sums, params)?;
        }
        Ok(())
    }
}
