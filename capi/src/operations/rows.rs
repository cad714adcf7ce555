//! Rows by index.

use retromae::device::ModelFloat;
use retromae::ops::rows::{self, Gather, ScatterAdd};

use crate::call::{Call, count};
use crate::status::Result;
use crate::sys;
use crate::types::for_model_float;

type Desc = sys::rmae_rows_desc;

/// Returns the shapes of input and output.
fn shapes(desc: &Desc) -> Result<[[usize; 2]; 2]> {
    let columns = count("columns", desc.columns)?;
    Ok([[count("input_rows", desc.input_rows)?, columns], [count("output_rows", desc.output_rows)?, columns]])
}

pub fn gather(call: &Call<'_, Desc>) -> Result<()> {
    for_model_float!(call, T => gather_of::<T>(call))
}

fn gather_of<T: ModelFloat>(call: &Call<'_, Desc>) -> Result<()> {
    let desc = call.desc;
    let [input, output] = shapes(desc)?;
    let arguments = Gather::<T> {
        input: call.matrix("input", desc.input, input, 0)?,
        rows: call.view("rows", desc.rows, output[0])?,
        output: call.matrix_mut("output", desc.output, output, 0)?,
    };
    call.enqueue(|stream| rows::gather(stream, arguments))
}

pub fn scatter_add(call: &Call<'_, Desc>) -> Result<()> {
    for_model_float!(call, T => scatter_add_of::<T>(call))
}

fn scatter_add_of<T: ModelFloat>(call: &Call<'_, Desc>) -> Result<()> {
    let desc = call.desc;
    let [input, output] = shapes(desc)?;
    let arguments = ScatterAdd::<T> {
        input: call.matrix("input", desc.input, input, 0)?,
        rows: call.view("rows", desc.rows, input[0])?,
        output: call.matrix_mut("output", desc.output, output, 0)?,
    };
    call.enqueue(|stream| rows::scatter_add(stream, arguments))
}
