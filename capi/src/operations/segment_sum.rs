//! Sums of scattered rows.

use retromae::device::{DType, ModelFloat};
use retromae::ops::segment_sum::{self, SegmentSum};

use crate::call::{Call, count};
use crate::status::{Failure, Result, Status};
use crate::sys;
use crate::types::{dtype, for_model_float, segments};

type Desc = sys::rmae_segment_sum_desc;

/// Returns the rows of the input, those of the output, and the columns of both.
fn sizes(desc: &Desc) -> Result<[usize; 3]> {
    Ok([count("rows", desc.rows)?, count("output_rows", desc.output_rows)?, count("columns", desc.columns)?])
}

pub fn workspace(call: &Call<'_, Desc>) -> Result<usize> {
    let ([rows, _, columns], segments) = (sizes(call.desc)?, &call.desc.segments);
    let indices = count("segments.indices_length", segments.indices_length)?;
    let summed = if indices == 0 { rows } else { indices };
    Ok(segment_sum::workspace(summed, columns).bytes())
}

pub fn segment_sum(call: &Call<'_, Desc>) -> Result<()> {
    for_model_float!(call, T => match dtype("output_dtype", call.desc.output_dtype)? {
        DType::F32 => enqueue::<T, f32>(call),
        output if output == <T as retromae::device::Float>::DTYPE => enqueue::<T, T>(call),
        output => {
            let status = Status::UnsupportedShape;
            Err(Failure::field(status, "output_dtype", output.name(), "f32, or as dtype"))
        }
    })
}

fn enqueue<T: ModelFloat, O: ModelFloat>(call: &Call<'_, Desc>) -> Result<()> {
    let desc = call.desc;
    let [rows, output_rows, columns] = sizes(desc)?;
    let arguments = SegmentSum::<T, O> {
        input: call.matrix("input", desc.input, [rows, columns], 0)?,
        segments: segments!(call, desc.segments, "segments"),
        output: call.matrix_mut("output", desc.output, [output_rows, columns], 0)?,
        workspace: call.workspace(desc.workspace, desc.workspace_bytes)?,
    };
    call.enqueue(|stream| segment_sum::segment_sum(stream, arguments))
}
