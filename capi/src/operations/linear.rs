//! Linear layer.

use retromae::device::Float;
use retromae::ops::linear::{self, BackwardInput, BackwardWeight, Forward};

use crate::call::{Call, size, workspace_with_gemm};
use crate::status::Result;
use crate::sys;
use crate::types::for_float;

type Desc = sys::rmae_linear_desc;

/// Returns the shapes of input, weight and output.
fn shapes(desc: &Desc) -> Result<[[usize; 2]; 3]> {
    let rows = size("rows", desc.rows)?;
    let inputs = size("in_features", desc.in_features)?;
    let outputs = size("out_features", desc.out_features)?;
    Ok([[rows, inputs], [outputs, inputs], [rows, outputs]])
}

pub fn workspace(call: &Call<'_, Desc>) -> Result<usize> {
    shapes(call.desc)?;
    Ok(workspace_with_gemm(call.device(), 0))
}

pub fn forward(call: &Call<'_, Desc>) -> Result<()> {
    for_float!(call, T => forward_of::<T>(call))
}

fn forward_of<T: Float>(call: &Call<'_, Desc>) -> Result<()> {
    let desc = call.desc;
    let [input, weight, output] = shapes(desc)?;
    let (gemm, _) = call.gemm_workspace(desc.workspace, desc.workspace_bytes)?;
    let forward = Forward::<T> {
        input: call.matrix("input", desc.input, input, desc.input_stride)?,
        weight: call.matrix("weight", desc.weight, weight, desc.weight_stride)?,
        output: call.matrix_mut("output", desc.output, output, desc.output_stride)?,
        bias: call.optional("bias", desc.bias.cast(), output[1])?,
    };
    call.enqueue_with(gemm, |stream| linear::forward(stream, forward))
}

pub fn backward(call: &Call<'_, Desc>) -> Result<()> {
    for_float!(call, T => backward_of::<T>(call))
}

fn backward_of<T: Float>(call: &Call<'_, Desc>) -> Result<()> {
    let desc = call.desc;
    let [input, weight, output] = shapes(desc)?;
    let (gemm, _) = call.gemm_workspace(desc.workspace, desc.workspace_bytes)?;
    let d_output = call.matrix::<T>("d_output", desc.d_output, output, desc.d_output_stride)?;
    let d_input = call.optional_matrix_mut("d_input", desc.d_input, input, desc.d_input_stride)?;
    let d_weight =
        call.optional_matrix_mut("d_weight", desc.d_weight.cast(), weight, desc.d_weight_stride)?;
    let accumulate = desc.flags & u64::from(sys::RMAE_LINEAR_ACCUMULATE) != 0;
    let to_input = d_input.map(|d_input| -> Result<_> {
        let weight = call.matrix("weight", desc.weight, weight, desc.weight_stride)?;
        Ok(BackwardInput { d_output, weight, d_input, accumulate })
    });
    let to_weight = d_weight.map(|d_weight| -> Result<_> {
        let input = call.matrix("input", desc.input, input, desc.input_stride)?;
        Ok(BackwardWeight { input, d_output, d_weight })
    });
    let (to_input, to_weight) = (to_input.transpose()?, to_weight.transpose()?);
    call.enqueue_with(gemm, |stream| {
        to_input.map_or(Ok(()), |to_input| linear::backward_input(stream, to_input))?;
        to_weight.map_or(Ok(()), |to_weight| linear::backward_weight(stream, to_weight))
    })
}
