//! Gradients of a chunk: matmuls of the logits' gradient, and its column sums.

use super::call::Call;
use crate::device::params::{CROSS_ENTROPY_SLAB_ROWS, CrossEntropyBiasParams};
use crate::device::{BatchStrides, DType, Gemm, Stream, kernels};
use crate::ops::logits::padded;
use crate::ops::{Result, Workspace};

/// Returns the workspace of the column sums of slabs of `rows` rows.
pub(super) fn slab_sums(rows: usize, vocab_size: usize) -> Workspace {
    Workspace::of::<f32>(&[rows.div_ceil(CROSS_ENTROPY_SLAB_ROWS as usize), padded(vocab_size)])
}

/// Addresses of a chunk's matrices. Those of gradients that are not wanted may be 0.
pub(super) struct Operands {
    /// `[rows, padded(V)]`: gradient of the logits, which may be divided by a factor of each row
    pub d_logits: u64,
    /// `[rows, H]`: hidden, multiplied by that factor
    pub hidden: u64,
    /// f32 `[rows]`: the factors; address 0 where there are none
    pub scales: u64,
    /// [`slab_sums`] elements of f32, to be overwritten; may share the memory of `hidden`, and is written last
    pub slab_sums: u64,
    /// `[rows, H]` of `output`; may share the memory of `hidden`, and is written after it was read
    pub d_hidden: u64,
    pub output: DType,
}

/// Enqueues the gradients that are wanted: the chunk's share of `d_weight` and `d_bias`, which is added to them, and
/// `d_hidden = d_logits · weight`.
///
/// # Safety
/// The arguments were checked; the operands are valid for their shapes.
pub(super) unsafe fn enqueue(stream: &Stream, chunk: &Call, operands: &Operands) -> Result<()> {
    let Call { rows, vocabulary, hidden_size, .. } = *chunk;
    let to_weight = Gemm {
        m: vocabulary,
        n: hidden_size,
        k: rows,
        a: operands.d_logits,
        a_stride: padded(vocabulary),
        a_transposed: true,
        b: operands.hidden,
        b_stride: hidden_size,
        b_transposed: false,
        c: chunk.d_weight,
        c_stride: hidden_size,
        input: chunk.dtype,
        output: DType::F32,
        accumulate: true,
        bias: None,
        batch: BatchStrides::ONE,
    };
    let to_hidden = Gemm {
        m: rows,
        k: vocabulary,
        a_transposed: false,
        b: chunk.weight,
        c: operands.d_hidden,
        output: operands.output,
        accumulate: false,
        ..to_weight
    };
    for (gradient, gemm) in [(chunk.d_weight, to_weight), (chunk.d_hidden, to_hidden)] {
        if gradient != 0 {
            // SAFETY: passed on to the caller.
            unsafe { stream.gemm(&gemm)? };
        }
    }
    if chunk.d_bias != 0 {
        // SAFETY: passed on to the caller.
        unsafe { to_bias(stream, chunk, operands)? };
    }
    Ok(())
}

/// Enqueues the chunk's share of `d_bias`: column sums.
///
/// # Safety
/// As [`enqueue`].
unsafe fn to_bias(stream: &Stream, chunk: &Call, operands: &Operands) -> Result<()> {
    let params = CrossEntropyBiasParams {
        matrix: operands.d_logits,
        scales: operands.scales,
        slab_sums: operands.slab_sums,
        d_bias: chunk.d_bias,
        rows: chunk.rows as u32,
        vocabulary: chunk.vocabulary as u32,
        stride: padded(chunk.vocabulary) as u32,
        reserved: 0,
    };
    // SAFETY: passed on to the caller.
    unsafe {
        stream.launch(kernels::CROSS_ENTROPY_BIAS_SLABS.of(chunk.dtype)?, &params)?;
        stream.launch(kernels::CROSS_ENTROPY_BIAS, &params)?;
    }
    Ok(())
}
