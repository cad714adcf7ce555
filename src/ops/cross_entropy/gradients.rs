//! Gradients of a chunk: products of the logits' gradient, and its column sums.

use super::ForwardBackward;
use crate::device::params::{CROSS_ENTROPY_SLAB_ROWS, CrossEntropyBiasParams};
use crate::device::{BatchStrides, DType, Float, Gemm, Stream, kernels};
use crate::ops::logits::padded;
use crate::ops::{Result, Workspace};

/// Returns the workspace of the column sums of slabs of `rows` rows.
pub(super) fn slab_sums(rows: usize, vocab_size: usize) -> Workspace {
    Workspace::of::<f32>(rows.div_ceil(CROSS_ENTROPY_SLAB_ROWS as usize) * padded(vocab_size))
}

/// Addresses of a chunk's matrices, of `rows` rows.
pub(super) struct Operands {
    pub rows: usize,
    /// `[rows, padded(V)]`: gradient of the logits, which may be divided by a factor of each row
    pub d_logits: u64,
    /// `[rows, H]`: hidden, multiplied by that factor
    pub hidden: u64,
    /// f32 `[rows]`: the factors; address 0 where there are none
    pub scales: u64,
    /// [`slab_sums`] elements of f32, to be overwritten
    pub slab_sums: u64,
    /// `[rows, H]` of `output`; may share the memory of `hidden`, and is written last
    pub d_hidden: u64,
    pub output: DType,
}

/// Enqueues the chunk's share of `d_weight` and `d_bias`, which is added to them, and `d_hidden = d_logits · weight`.
///
/// # Safety
/// The arguments were checked; the operands are valid for their shapes.
pub(super) unsafe fn enqueue<T: Float>(
    stream: &Stream,
    arguments: &ForwardBackward<'_, T>,
    operands: &Operands,
) -> Result<()> {
    let Operands { rows, d_logits, hidden, d_hidden, output, .. } = *operands;
    let (vocabulary, hidden_size) = (arguments.weight.rows(), arguments.weight.columns());
    let to_weight = Gemm {
        m: vocabulary,
        n: hidden_size,
        k: rows,
        a: d_logits,
        a_stride: padded(vocabulary),
        a_transposed: true,
        b: hidden,
        b_stride: hidden_size,
        b_transposed: false,
        c: stream.address("d_weight", &arguments.d_weight)?,
        c_stride: hidden_size,
        input: T::DTYPE,
        output: DType::F32,
        accumulate: true,
        bias: None,
        batch: BatchStrides::ONE,
    };
    let to_hidden = Gemm {
        m: rows,
        k: vocabulary,
        a_transposed: false,
        b: stream.address("weight", &arguments.weight)?,
        c: d_hidden,
        output,
        accumulate: false,
        ..to_weight
    };
    for product in [to_weight, to_hidden] {
        // SAFETY: passed on to the caller.
        unsafe { stream.gemm(&product)? };
    }
    // SAFETY: passed on to the caller.
    unsafe { to_bias(stream, arguments, operands) }
}

/// Enqueues the chunk's share of `d_bias`: column sums.
///
/// # Safety
/// As [`enqueue`].
unsafe fn to_bias<T: Float>(
    stream: &Stream,
    arguments: &ForwardBackward<'_, T>,
    operands: &Operands,
) -> Result<()> {
    let vocabulary = arguments.weight.rows();
    let params = CrossEntropyBiasParams {
        matrix: operands.d_logits,
        scales: operands.scales,
        slab_sums: operands.slab_sums,
        d_bias: stream.address("d_bias", &arguments.d_bias)?,
        rows: operands.rows as u32,
        vocabulary: vocabulary as u32,
        stride: padded(vocabulary) as u32,
        reserved: 0,
    };
    // SAFETY: passed on to the caller.
    unsafe {
        stream.launch(kernels::CROSS_ENTROPY_BIAS_SLABS.of(T::DTYPE)?, &params)?;
        stream.launch(kernels::CROSS_ENTROPY_BIAS, &params)?;
    }
    Ok(())
}
