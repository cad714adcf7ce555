//! LayerNorm.

use retromae::device::Float;
use retromae::ops::layer_norm::{self, Backward, Forward, Fused, FusedGradients};

use crate::call::{Call, count};
use crate::status::Result;
use crate::sys;
use crate::types::{dropout, for_float};

type Desc = sys::rmae_layer_norm_desc;

fn shape(desc: &Desc) -> Result<[usize; 2]> {
    Ok([count("rows", desc.rows)?, count("columns", desc.columns)?])
}

pub fn workspace(call: &Call<'_, Desc>) -> Result<usize> {
    let [rows, columns] = shape(call.desc)?;
    Ok(layer_norm::workspace(rows, columns).bytes())
}

pub fn forward(call: &Call<'_, Desc>) -> Result<()> {
    for_float!(call, T => forward_of::<T>(call))
}

fn forward_of<T: Float>(call: &Call<'_, Desc>) -> Result<()> {
    let desc = call.desc;
    let shape @ [rows, columns] = shape(desc)?;
    let forward = Forward::<T> {
        input: call.matrix("input", desc.input, shape, 0)?,
        gamma: call.view("gamma", desc.gamma, columns)?,
        beta: call.view("beta", desc.beta, columns)?,
        eps: desc.eps,
        output: call.matrix_mut("output", desc.output, shape, 0)?,
        mean: call.view_mut("mean", desc.mean, rows)?,
        rstd: call.view_mut("rstd", desc.rstd, rows)?,
        fused: Fused {
            bias: call.optional("bias", desc.bias, columns)?,
            dropout: dropout(call, &desc.dropout)?,
            residual: call.optional_matrix("residual", desc.residual, shape, 0)?,
            sum: call.optional_matrix_mut("sum", desc.sum, shape, 0)?,
        },
    };
    call.enqueue(|stream| layer_norm::forward(stream, forward))
}

pub fn backward(call: &Call<'_, Desc>) -> Result<()> {
    for_float!(call, T => backward_of::<T>(call))
}

fn backward_of<T: Float>(call: &Call<'_, Desc>) -> Result<()> {
    let desc = call.desc;
    let shape @ [rows, columns] = shape(desc)?;
    let backward = Backward::<T> {
        d_output: call.matrix("d_output", desc.d_output, shape, 0)?,
        sum: call.matrix("sum", desc.sum, shape, 0)?,
        mean: call.view("mean", desc.mean, rows)?,
        rstd: call.view("rstd", desc.rstd, rows)?,
        gamma: call.view("gamma", desc.gamma, columns)?,
        d_input: call.matrix_mut("d_input", desc.d_input, shape, 0)?,
        d_gamma: call.view_mut("d_gamma", desc.d_gamma, columns)?,
        d_beta: call.view_mut("d_beta", desc.d_beta, columns)?,
        workspace: call.workspace(desc.workspace, desc.workspace_bytes)?,
        fused: FusedGradients {
            dropout: dropout(call, &desc.dropout)?,
            d_residual: call.optional_matrix_mut("d_residual", desc.d_residual, shape, 0)?,
            d_bias: call.optional_mut("d_bias", desc.d_bias, columns)?,
        },
    };
    call.enqueue(|stream| layer_norm::backward(stream, backward))
}
