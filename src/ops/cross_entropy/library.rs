//! The algorithm whose products run on the GEMM library: a chunk of logits, which their gradient overwrites.

use super::ForwardBackward;
use super::gradients::{self, Operands};
use crate::device::params::CrossEntropyParams;
use crate::device::{DType, Float, Stream, kernels};
use crate::ops::logits::{self, padded};
use crate::ops::{Result, Workspace};

/// Returns the workspace of a chunk's logits.
fn logits(dtype: DType, rows: usize, vocab_size: usize) -> Workspace {
    Workspace::of::<u8>(rows * padded(vocab_size) * dtype.bytes())
}

/// Returns the workspace for chunks of `rows` rows: logits, and column sums of their gradient.
pub(super) fn workspace(dtype: DType, rows: usize, vocab_size: usize) -> Workspace {
    logits(dtype, rows, vocab_size).and(gradients::slab_sums(rows, vocab_size))
}

/// Enqueues the loss and all gradients of a chunk of checked arguments, rows `start..start + count`; the workspace has room for them.
pub(super) fn chunk<T: Float>(
    stream: &Stream,
    arguments: &ForwardBackward<'_, T>,
    start: usize,
    count: usize,
    vocabulary: usize,
) -> Result<()> {
    let rows = start..start + count;
    let logits = stream.address("workspace", &arguments.workspace)?;
    let slab_sums = logits + self::logits(T::DTYPE, count, vocabulary).start_of_next() as u64;
    let hidden = stream.address("hidden", &arguments.hidden.slice_rows(rows.clone()))?;
    let weight = stream.address("weight", &arguments.weight)?;
    let hidden_size = arguments.weight.columns();
    let product = logits::Product { hidden, weight, logits, rows: count, vocabulary, hidden_size };
    // SAFETY: the lengths were checked; `count` rows of the stride fit the workspace.
    unsafe { logits::product::<T>(stream, product)? };
    loss_and_gradient(stream, arguments, rows.clone(), vocabulary, logits)?;
    // Until the gradient is written, its memory holds the hidden rows that have a target, and 0 for the others.
    let d_hidden = stream.address("d_hidden", &arguments.d_hidden.as_matrix().slice_rows(rows))?;
    let operands = Operands {
        rows: count,
        d_logits: logits,
        hidden: d_hidden,
        scales: 0,
        slab_sums,
        d_hidden,
        output: T::DTYPE,
    };
    // SAFETY: as above.
    unsafe { gradients::enqueue(stream, arguments, &operands) }
}

/// Enqueues the losses of a chunk, and the gradient of its logits, which overwrites them.
fn loss_and_gradient<T: Float>(
    stream: &Stream,
    arguments: &ForwardBackward<'_, T>,
    rows: std::ops::Range<usize>,
    vocabulary: usize,
    logits: u64,
) -> Result<()> {
    let options = &arguments.options;
    let count = rows.len() as u32;
    let params = CrossEntropyParams {
        logits,
        bias: stream.address("bias", &arguments.bias)?,
        targets: stream.address("targets", &arguments.targets.slice(rows.clone()))?,
        row_weights: stream.address("row_weights", &arguments.row_weights.slice(rows.clone()))?,
        losses: stream.address("losses", &arguments.losses.as_view().slice(rows.clone()))?,
        log_sum_exp: stream.address("log_sum_exp", &arguments.log_sum_exp.as_view().slice(rows.clone()))?,
        log_likelihoods: stream
            .address("log_likelihoods", &arguments.log_likelihoods.as_view().slice(rows.clone()))?,
        correct: stream.address("correct", &arguments.correct.as_view().slice(rows.clone()))?,
        hidden: stream.address("hidden", &arguments.hidden.slice_rows(rows.clone()))?,
        labeled_hidden: stream.address("d_hidden", &arguments.d_hidden.as_matrix().slice_rows(rows))?,
        rows: count,
        vocabulary: vocabulary as u32,
        stride: padded(vocabulary) as u32,
        hidden_size: arguments.weight.columns() as u32,
        ignore_index: options.ignore_index,
        label_smoothing: options.label_smoothing,
        z_loss: options.z_loss,
        soft_cap: options.soft_cap.unwrap_or(0.0),
    };
    let family = if options.is_plain() { kernels::CROSS_ENTROPY } else { kernels::CROSS_ENTROPY_GENERAL };
    // SAFETY: the lengths were checked; `count` rows fit the workspace.
    unsafe { stream.launch(family.of(T::DTYPE)?, &params)? };
    Ok(())
}
