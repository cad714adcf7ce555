//! Common parts of the losses over the vocabulary: rows of logits, the products that compute them, and the tile of the tensor-core product that
//! stores none.

use super::Result;
use super::error::COLUMN_GROUP;
use crate::device::params::VOCABULARY_TILE;
use crate::device::{BatchStrides, Float, Gemm, Stream};

/// Rows and words per tile of the tensor-core product.
pub(super) const TILE: usize = VOCABULARY_TILE as usize;
/// Alignment of a workspace's arrays, in bytes.
pub(super) const ALIGNMENT: usize = 256;

/// Returns the row length of logits: `vocab_size` rounded up to whole groups of columns, for 16-byte accesses.
pub(super) fn padded(vocab_size: usize) -> usize {
    vocab_size.next_multiple_of(COLUMN_GROUP)
}

/// Operands and result of a product that computes logits, all in `T`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product {
    /// `[rows, hidden_size]`
    pub hidden: u64,
    /// `[vocabulary, hidden_size]`
    pub weight: u64,
    /// `[rows, padded(vocabulary)]`
    pub logits: u64,
    pub rows: usize,
    pub vocabulary: usize,
    pub hidden_size: usize,
}

/// Enqueues `logits = hidden · weightᵀ`.
///
/// # Safety
/// The matrices are valid for their shapes, and the logits overlap none of the others.
pub(super) unsafe fn product<T: Float>(stream: &Stream, product: Product) -> Result<()> {
    let Product { hidden, weight, logits, rows, vocabulary, hidden_size } = product;
    let product = Gemm {
        m: rows,
        n: vocabulary,
        k: hidden_size,
        a: hidden,
        a_stride: hidden_size,
        a_transposed: false,
        b: weight,
        b_stride: hidden_size,
        b_transposed: true,
        c: logits,
        c_stride: padded(vocabulary),
        input: T::DTYPE,
        output: T::DTYPE,
        accumulate: false,
        bias: None,
        batch: BatchStrides::ONE,
    };
    // SAFETY: passed on to the caller.
    unsafe { stream.gemm(&product)? };
    Ok(())
}
