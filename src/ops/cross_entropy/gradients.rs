//! The products that a chunk's gradients are.

use super::ForwardBackward;
use crate::device::{Batch, DType, Float, Gemm, Layout, Stream};
use crate::ops::Result;
use crate::ops::logits::padded;

/// Addresses of a chunk's matrices, of `rows` rows.
pub(super) struct Operands {
    pub rows: usize,
    /// `[rows, padded(V)]`: the gradient of the logits, or that over a number of each row
    pub d_logits: u64,
    /// `[rows, H]`: hidden, times that number
    pub hidden: u64,
    /// `[rows]`: 1, times that number
    pub ones: u64,
    /// `[rows, H]` of `output`; may be where `hidden` is, and is written last
    pub d_hidden: u64,
    pub output: DType,
}

/// Enqueues the chunk's share of `d_weight` and `d_bias`, added to what is there, and `d_hidden = d_logits · weight`.
///
/// # Safety
/// The arguments were checked; the operands are valid for their shapes.
pub(super) unsafe fn enqueue<T: Float>(
    stream: &Stream,
    arguments: &ForwardBackward<'_, T>,
    operands: &Operands,
) -> Result<()> {
    let Operands { rows, d_logits, hidden, ones, d_hidden, output } = *operands;
    let (vocabulary, hidden_size) = (arguments.bias.len(), arguments.hidden_size);
    let to_weight = Gemm {
        m: vocabulary,
        n: hidden_size,
        k: rows,
        a: d_logits,
        a_stride: padded(vocabulary),
        a_layout: Layout::Transposed,
        b: hidden,
        b_stride: hidden_size,
        b_layout: Layout::Normal,
        c: stream.address("d_weight", &arguments.d_weight)?,
        c_stride: hidden_size,
        input: T::DTYPE,
        output: DType::F32,
        accumulate: true,
        bias: None,
        batch: Batch::ONE,
    };
    // Column sums as a product with a vector: one more pass over the chunk, at the library's speed.
    let to_bias = Gemm {
        n: 1,
        b: ones,
        b_stride: 1,
        c: stream.address("d_bias", &arguments.d_bias)?,
        c_stride: 1,
        ..to_weight
    };
    let to_hidden = Gemm {
        m: rows,
        k: vocabulary,
        a_layout: Layout::Normal,
        b: stream.address("weight", &arguments.weight)?,
        c: d_hidden,
        output,
        accumulate: false,
        ..to_weight
    };
    for product in [to_weight, to_bias, to_hidden] {
        // SAFETY: passed on to the caller.
        unsafe { stream.gemm(&product)? };
    }
    Ok(())
}
