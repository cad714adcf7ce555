//! Linear + cross-entropy.

use retromae::device::Float;
use retromae::model::IGNORE_INDEX;
use retromae::ops::cross_entropy::{self, Forward, Gradients, MeanWeights, Options, Totals};

use super::logits::{algorithm, chunk_rows, gradients};
use crate::call::{Call, count, host_array, size, workspace_with_gemm};
use crate::status::{Result, invalid};
use crate::sys;
use crate::types::{dtype, for_float};

type Desc = sys::rmae_cross_entropy_desc;

/// The groups are indices of rows on the host, as many as a descriptor can reasonably have.
const GROUPS_MAX: usize = 1 << 20;

/// Returns M, H and V.
fn sizes(desc: &Desc) -> Result<[usize; 3]> {
    Ok([
        count("rows", desc.rows)?,
        count("hidden_size", desc.hidden_size)?,
        count("vocab_size", desc.vocab_size)?,
    ])
}

pub fn workspace(call: &Call<'_, Desc>) -> Result<usize> {
    let [rows, hidden_size, vocab_size] = sizes(call.desc)?;
    let chunk = chunk_rows(call.desc.chunk_rows, rows)?;
    let (algorithm, dtype) = (algorithm(call.desc.algorithm)?, dtype("dtype", call.desc.dtype)?);
    let needed = cross_entropy::workspace(algorithm, dtype, chunk, hidden_size, vocab_size);
    Ok(workspace_with_gemm(call.device(), needed.bytes()))
}

pub fn forward(call: &Call<'_, Desc>) -> Result<()> {
    for_float!(call, T => enqueue::<T>(call, false))
}

pub fn forward_backward(call: &Call<'_, Desc>) -> Result<()> {
    for_float!(call, T => enqueue::<T>(call, true))
}

fn enqueue<T: Float>(call: &Call<'_, Desc>, backward: bool) -> Result<()> {
    let desc = call.desc;
    let [rows, hidden_size, vocab_size] = sizes(desc)?;
    let (shape, weight_shape) = ([rows, hidden_size], [vocab_size, hidden_size]);
    let ends = group_ends(desc)?;
    let (gemm, workspace) = call.gemm_workspace(desc.workspace, desc.workspace_bytes)?;
    let forward = Forward::<T> {
        hidden: call.matrix("hidden", desc.hidden, shape, 0)?,
        weight: call.matrix("weight", desc.weight, weight_shape, 0)?,
        bias: call.optional("bias", desc.bias, vocab_size)?,
        targets: call.view("targets", desc.targets, rows)?,
        row_weights: call.optional("row_weights", desc.row_weights, rows)?,
        options: Options {
            ignore_index: ignore_index(desc),
            label_smoothing: desc.label_smoothing,
            z_loss: desc.z_loss,
            soft_cap: Some(desc.soft_cap).filter(|&cap| cap != 0.0),
        },
        algorithm: algorithm(desc.algorithm)?,
        losses: call.view_mut("losses", desc.losses, rows)?,
        log_sum_exp: call.optional_mut("log_sum_exp", desc.log_sum_exp, rows)?,
        log_likelihoods: call.optional_mut("log_likelihoods", desc.log_likelihoods, rows)?,
        correct: call.optional_mut("correct", desc.correct, rows)?,
        totals: call.optional_mut("totals", desc.totals.cast::<Totals>(), ends.len().max(1))?,
        group_ends: &ends,
        workspace,
    };
    let gradients = if backward {
        gradients(call, (desc.d_hidden, desc.d_weight, desc.d_bias), [rows, hidden_size, vocab_size])?
    } else {
        Gradients::default()
    };
    call.enqueue_with(gemm, |stream| cross_entropy::forward_backward(stream, forward, gradients))
}

fn ignore_index(desc: &Desc) -> i32 {
    let given = desc.flags & u64::from(sys::RMAE_CROSS_ENTROPY_IGNORE_INDEX) != 0;
    if given { desc.ignore_index } else { IGNORE_INDEX }
}

fn group_ends(desc: &Desc) -> Result<Vec<usize>> {
    let groups = size("groups", desc.groups)?;
    if groups == 0 {
        return Ok(Vec::new());
    }
    if groups > GROUPS_MAX {
        return invalid("groups", groups, format_args!("at most {GROUPS_MAX}"));
    }
    // SAFETY: the caller's promise to a function of the header: the array is valid for its length.
    let ends = unsafe { host_array("group_ends", desc.group_ends, groups)? };
    ends.iter().map(|&end| size("group_ends", end)).collect()
}

/// Enqueues the row weights of a mean.
pub fn mean_weights(call: &Call<'_, sys::rmae_mean_weights_desc>) -> Result<()> {
    let desc = call.desc;
    let rows = count("rows", desc.rows)?;
    let arguments = MeanWeights {
        labeled_rows: call.view("labeled_rows", desc.labeled_rows, rows)?,
        counts: call.view("counts", desc.counts, count("sentences", desc.sentences)?)?,
        row_weights: call.view_mut("row_weights", desc.row_weights, rows)?,
        weight: desc.weight,
    };
    call.enqueue(|stream| cross_entropy::mean_weights(stream, arguments))
}

/// Layout of the header's struct.
const _: () = assert!(size_of::<Totals>() == size_of::<sys::rmae_totals>());
