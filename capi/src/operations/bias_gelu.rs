//! Bias and GELU.

use retromae::device::ModelFloat;
use retromae::ops::bias_gelu::{self, Backward, Forward};

use crate::call::{Call, count};
use crate::status::Result;
use crate::sys;
use crate::types::for_model_float;

type Desc = sys::rmae_bias_gelu_desc;

fn shape(desc: &Desc) -> Result<[usize; 2]> {
    Ok([count("rows", desc.rows)?, count("columns", desc.columns)?])
}

pub fn forward(call: &Call<'_, Desc>) -> Result<()> {
    for_model_float!(call, T => forward_of::<T>(call))
}

fn forward_of<T: ModelFloat>(call: &Call<'_, Desc>) -> Result<()> {
    let desc = call.desc;
    let shape @ [_, columns] = shape(desc)?;
    let forward = Forward::<T> {
        input: call.matrix("input", desc.input, shape, 0)?,
        bias: call.view("bias", desc.bias, columns)?,
        output: call.matrix_mut("output", desc.output, shape, 0)?,
    };
    call.enqueue(|stream| bias_gelu::forward(stream, forward))
}

pub fn backward(call: &Call<'_, Desc>) -> Result<()> {
    for_model_float!(call, T => backward_of::<T>(call))
}

fn backward_of<T: ModelFloat>(call: &Call<'_, Desc>) -> Result<()> {
    let desc = call.desc;
    let shape @ [_, columns] = shape(desc)?;
    let backward = Backward::<T> {
        input: call.matrix("input", desc.input, shape, 0)?,
        bias: call.view("bias", desc.bias, columns)?,
        d_output: call.matrix("d_output", desc.d_output, shape, 0)?,
        d_input: call.matrix_mut("d_input", desc.d_input, shape, 0)?,
    };
    call.enqueue(|stream| bias_gelu::backward(stream, backward))
}
