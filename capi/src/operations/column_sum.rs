//! Sums over rows.

use retromae::device::ModelFloat;
use retromae::ops::column_sum::{self, ColumnSum};

use crate::call::{Call, count};
use crate::status::Result;
use crate::sys;
use crate::types::for_model_float;

type Desc = sys::rmae_column_sum_desc;

fn shape(desc: &Desc) -> Result<[usize; 2]> {
    Ok([count("rows", desc.rows)?, count("columns", desc.columns)?])
}

pub fn workspace(call: &Call<'_, Desc>) -> Result<usize> {
    let [rows, columns] = shape(call.desc)?;
    Ok(column_sum::workspace(rows, columns).bytes())
}

pub fn column_sum(call: &Call<'_, Desc>) -> Result<()> {
    for_model_float!(call, T => enqueue::<T>(call))
}

fn enqueue<T: ModelFloat>(call: &Call<'_, Desc>) -> Result<()> {
    let desc = call.desc;
    let shape @ [_, columns] = shape(desc)?;
    let arguments = ColumnSum::<T> {
        input: call.matrix("input", desc.input, shape, desc.input_stride)?,
        output: call.view_mut("output", desc.output, columns)?,
        accumulate: desc.flags & u64::from(sys::RMAE_SUM_ACCUMULATE) != 0,
        workspace: call.workspace(desc.workspace, desc.workspace_bytes)?,
    };
    call.enqueue(|stream| column_sum::column_sum(stream, arguments))
}
