//! The algorithm whose matmuls run on the GEMM library: a chunk of logits, which their gradient overwrites.

use super::call::Call;
use super::gradients::{self, Operands};
use crate::device::params::CrossEntropyParams;
use crate::device::{DType, Stream, kernels};
use crate::ops::logits::{self, padded};
use crate::ops::{Result, Workspace};

/// Returns the workspace of losses for chunks of `rows` rows: logits.
pub(super) fn forward_workspace(dtype: DType, rows: usize, vocab_size: usize) -> Workspace {
    Workspace::of::<u8>(&[rows, padded(vocab_size), dtype.bytes()])
}

/// Returns the workspace for chunks of `rows` rows: logits, and column sums of their gradient, or hidden rows before these.
pub(super) fn workspace(dtype: DType, rows: usize, hidden_size: usize, vocab_size: usize) -> Workspace {
    let hidden = Workspace::of::<u8>(&[rows, hidden_size, dtype.bytes()]);
    let scratch = gradients::slab_sums(rows, vocab_size).either(hidden);
    forward_workspace(dtype, rows, vocab_size).and(scratch)
}

/// Enqueues the losses and gradients of a chunk; the workspace has room for its rows.
pub(super) fn enqueue(stream: &Stream, chunk: &Call) -> Result<()> {
    let Call { dtype, rows, hidden_size, vocabulary, hidden, weight, d_hidden, .. } = *chunk;
    let logits = chunk.workspace;
    let matmul = logits::Matmul { dtype, hidden, weight, logits, rows, vocabulary, hidden_size };
    // SAFETY: the arguments were checked; `rows` rows of logits fit the workspace.
    unsafe { logits::matmul(stream, matmul)? };
    let scratch = logits + forward_workspace(dtype, rows, vocabulary).start_of_next() as u64;
    // Until what belongs there is written, the memory of a later result holds the hidden rows that have a target, and 0 for the others.
    let labeled_hidden = match chunk.d_weight {
        0 => 0,
        _ if d_hidden != 0 => d_hidden,
        _ => scratch,
    };
    loss_and_gradient(stream, chunk, labeled_hidden)?;
    let operands = Operands {
        d_logits: logits,
        hidden: labeled_hidden,
        scales: 0,
        slab_sums: scratch,
        d_hidden,
        output: dtype,
    };
    // SAFETY: as above.
    unsafe { gradients::enqueue(stream, chunk, &operands) }
}

/// Enqueues the losses of a chunk, and, where any gradient is wanted, that of its logits, which overwrites them.
fn loss_and_gradient(stream: &Stream, chunk: &Call, labeled_hidden: u64) -> Result<()> {
    let options = &chunk.options;
    let params = CrossEntropyParams {
        logits: chunk.workspace,
        bias: chunk.bias,
        targets: chunk.targets,
        row_weights: chunk.row_weights,
        losses: chunk.losses,
        log_sum_exp: chunk.log_sum_exp,
        log_likelihoods: chunk.log_likelihoods,
        correct: chunk.correct,
        hidden: chunk.hidden,
        labeled_hidden,
        rows: chunk.rows as u32,
        vocabulary: chunk.vocabulary as u32,
        stride: padded(chunk.vocabulary) as u32,
        hidden_size: chunk.hidden_size as u32,
        ignore_index: options.ignore_index,
        label_smoothing: options.label_smoothing,
        z_loss: options.z_loss,
        soft_cap: options.soft_cap.unwrap_or(0.0),
        has_gradient: u32::from(chunk.has_gradients),
        reserved: 0,
    };
    let family = if options.is_plain() { kernels::CROSS_ENTROPY } else { kernels::CROSS_ENTROPY_GENERAL };
    // SAFETY: the arguments were checked; the chunk's rows fit the workspace.
    unsafe { stream.launch(family.of(chunk.dtype)?, &params)? };
    Ok(())
}
