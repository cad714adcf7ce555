//! Linear layer and cross-entropy in one operation: from hidden rows and the tied embedding matrix to the loss and every gradient, a chunk of
//! rows at a time. Logits exist for one chunk only, and its gradient takes their place.

use super::Result;
use super::error::{require, require_length};
use crate::device::params::CrossEntropyParams;
use crate::device::{Batch, DType, Float, Gemm, Layout, Stream, View, ViewMut};

const THREADS: u32 = 64;
/// Two arrays of one float for each warp, each rounded up to 16 bytes.
const SHARED_BYTES: u32 = 32;

/// Arguments of [`forward_backward`].
#[derive(Debug)]
pub struct ForwardBackward<'a, T: Float> {
    /// `[M, H]`
    pub hidden: View<'a, T>,
    /// `[V, H]`: the word embeddings
    pub weight: View<'a, T>,
    /// `[V]`
    pub bias: View<'a, f32>,
    /// `[M]` ids in `[0, V)`; a negative one is ignored. They lie in device memory: one from V up makes its row's loss NaN.
    pub targets: View<'a, i32>,
    /// `[M]`: what each row's loss and gradient are multiplied by, such as one over the number of labelled rows
    pub row_weights: View<'a, f32>,
    /// `[M]`: weighted loss of each row, 0 where ignored
    pub losses: ViewMut<'a, f32>,
    /// `[M]`
    pub log_sum_exp: ViewMut<'a, f32>,
    /// `[M, H]`, overwritten
    pub d_hidden: ViewMut<'a, T>,
    /// `[V, H]`, added to
    pub d_weight: ViewMut<'a, f32>,
    /// `[V]`, added to
    pub d_bias: ViewMut<'a, f32>,
    /// A chunk of logits: [`workspace_logits`] elements. More is faster, up to all M rows.
    pub logits: ViewMut<'a, T>,
    /// As many ones as a chunk has rows
    pub ones: View<'a, T>,
    /// H
    pub hidden_size: usize,
}

/// Elements of the logits workspace for chunks of `rows` rows: rows are padded to whole groups of 8 columns.
#[must_use]
pub fn workspace_logits(rows: usize, vocab_size: usize) -> usize {
    rows * padded(vocab_size)
}

fn padded(vocab_size: usize) -> usize {
    vocab_size.next_multiple_of(8)
}

/// Enqueues the loss of every row and all gradients of their sum.
///
/// # Errors
/// When a length does not fit, or the workspace has not room for one row.
pub fn forward_backward<T: Float>(stream: &Stream, mut arguments: ForwardBackward<'_, T>) -> Result<()> {
    let (rows, vocabulary) = check(&arguments)?;
    let stride = padded(vocabulary);
    let chunk = (arguments.logits.len() / stride).min(rows);
    let ones = arguments.ones.len();
    require(
        ones >= chunk,
        "ones",
        format_args!("{ones} elements long"),
        format_args!("at least {chunk} (rows of a chunk)"),
    )?;
    let mut start = 0;
    while start < rows {
        let count = chunk.min(rows - start);
        logits_and_gradient(stream, &arguments, start, count, vocabulary)?;
        gradients(stream, &mut arguments, start, count, vocabulary)?;
        start += count;
    }
    Ok(())
}

fn check<T: Float>(arguments: &ForwardBackward<'_, T>) -> Result<(usize, usize)> {
    let (rows, vocabulary) = (arguments.targets.len(), arguments.bias.len());
    let hidden_size = arguments.hidden_size;
    require(vocabulary > 0, "bias", "empty", "as long as the vocabulary")?;
    require(hidden_size > 0, "hidden_size", hidden_size, "positive")?;
    require_length("hidden", arguments.hidden.len(), rows * hidden_size, "targets · hidden size")?;
    require_length("weight", arguments.weight.len(), vocabulary * hidden_size, "vocabulary · hidden size")?;
    require_length("row_weights", arguments.row_weights.len(), rows, "targets")?;
    require_length("losses", arguments.losses.len(), rows, "targets")?;
    require_length("log_sum_exp", arguments.log_sum_exp.len(), rows, "targets")?;
    require_length("d_hidden", arguments.d_hidden.len(), rows * hidden_size, "targets · hidden size")?;
    require_length(
        "d_weight",
        arguments.d_weight.len(),
        vocabulary * hidden_size,
        "vocabulary · hidden size",
    )?;
    require_length("d_bias", arguments.d_bias.len(), vocabulary, "vocabulary")?;
    require(
        rows == 0 || arguments.logits.len() >= padded(vocabulary),
        "logits",
        format_args!("{} elements long", arguments.logits.len()),
        format_args!("at least {} (one padded row)", padded(vocabulary)),
    )?;
    Ok((rows, vocabulary))
}

/// `logits = hidden · weightᵀ` of a chunk, then the losses and, in place, the gradient of the logits.
fn logits_and_gradient<T: Float>(
    stream: &Stream,
    arguments: &ForwardBackward<'_, T>,
    start: usize,
    count: usize,
    vocabulary: usize,
) -> Result<()> {
    let hidden_size = arguments.hidden_size;
    let stride = padded(vocabulary);
    let product = Gemm {
        m: count,
        n: vocabulary,
        k: hidden_size,
        a: stream
            .address("hidden", &arguments.hidden.slice(start * hidden_size..(start + count) * hidden_size))?,
        a_stride: hidden_size,
        a_layout: Layout::Normal,
        b: stream.address("weight", &arguments.weight)?,
        b_stride: hidden_size,
        b_layout: Layout::Transposed,
        c: stream.address("logits", &arguments.logits)?,
        c_stride: stride,
        input: T::DTYPE,
        output: T::DTYPE,
        accumulate: false,
        bias: None,
        batch: Batch::ONE,
    };
    // SAFETY: the lengths were checked; `count` rows of the stride fit the logits.
    unsafe { stream.gemm(&product)? };
    let rows = start..start + count;
    let params = CrossEntropyParams {
        logits: stream.address("logits", &arguments.logits)?,
        bias: stream.address("bias", &arguments.bias)?,
        targets: stream.address("targets", &arguments.targets.slice(rows.clone()))?,
        row_weights: stream.address("row_weights", &arguments.row_weights.slice(rows.clone()))?,
        losses: stream.address("losses", &arguments.losses.as_view().slice(rows.clone()))?,
        log_sum_exp: stream.address("log_sum_exp", &arguments.log_sum_exp.as_view().slice(rows))?,
        rows: count as u32,
        vocabulary: vocabulary as u32,
        stride: stride as u32,
        reserved: 0,
    };
    let kernel = format!("cross_entropy_{}", T::DTYPE.name());
    // SAFETY: as above.
    unsafe { stream.launch(&kernel, [count as u32, 1, 1], THREADS, SHARED_BYTES, &params)? };
    Ok(())
}

/// From a chunk's gradient of the logits to those of its hidden rows, of the weight and of the bias.
fn gradients<T: Float>(
    stream: &Stream,
    arguments: &mut ForwardBackward<'_, T>,
    start: usize,
    count: usize,
    vocabulary: usize,
) -> Result<()> {
    let hidden_size = arguments.hidden_size;
    let stride = padded(vocabulary);
    let hidden = start * hidden_size..(start + count) * hidden_size;
    let d_hidden = Gemm {
        m: count,
        n: hidden_size,
        k: vocabulary,
        a: stream.address("logits", &arguments.logits)?,
        a_stride: stride,
        a_layout: Layout::Normal,
        b: stream.address("weight", &arguments.weight)?,
        b_stride: hidden_size,
        b_layout: Layout::Normal,
        c: stream.address("d_hidden", &arguments.d_hidden.as_view().slice(hidden.clone()))?,
        c_stride: hidden_size,
        input: T::DTYPE,
        output: T::DTYPE,
        accumulate: false,
        bias: None,
        batch: Batch::ONE,
    };
    // SAFETY: the lengths were checked by the caller.
    unsafe { stream.gemm(&d_hidden)? };
    let d_weight = Gemm {
        m: vocabulary,
        k: count,
        a_layout: Layout::Transposed,
        b: stream.address("hidden", &arguments.hidden.slice(hidden))?,
        c: stream.address("d_weight", &arguments.d_weight)?,
        output: DType::F32,
        accumulate: true,
        ..d_hidden
    };
    // SAFETY: as above.
    unsafe { stream.gemm(&d_weight)? };
    // The column sums of the gradient of the logits, as a product with ones: one more pass over the chunk, at the library's speed.
    let d_bias = Gemm {
        n: 1,
        b: stream.address("ones", &arguments.ones.slice(0..count))?,
        b_stride: 1,
        c: stream.address("d_bias", &arguments.d_bias)?,
        c_stride: 1,
        ..d_weight
    };
    // SAFETY: as above.
    unsafe { stream.gemm(&d_bias)? };
    Ok(())
}
