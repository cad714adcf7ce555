//! Common parts of the losses over the vocabulary: their gradients, rows of logits, the matmuls that compute them, and the tile of the tensor-core
//! matmul that stores none.

use super::Result;
use super::error::{COLUMN_GROUP, require_contiguous, require_length, require_shape};
use super::workspace::round_up;
use crate::device::params::VOCABULARY_TILE;
use crate::device::{BatchStrides, DType, Float, Gemm, Matrix, MatrixMut, Stream, ViewMut};

/// Rows and token ids per tile of the tensor-core matmul.
pub(super) const TILE: usize = VOCABULARY_TILE as usize;
/// Alignment of a workspace's arrays, in bytes.
pub(super) const ALIGNMENT: usize = 256;

/// Returns the row length of logits: `vocab_size` rounded up to whole groups of columns, for 16-byte accesses.
pub(super) fn padded(vocab_size: usize) -> usize {
    round_up(vocab_size, COLUMN_GROUP)
}

/// Gradients of the sum of all losses. One that is absent, as all are by default, is not computed: a frozen layer has only that of its input.
#[derive(Debug)]
pub struct Gradients<'a, T: Float> {
    /// Shape of `hidden`, overwritten
    pub d_hidden: Option<MatrixMut<'a, T>>,
    /// Shape of `weight`, added to
    pub d_weight: Option<MatrixMut<'a, f32>>,
    /// `[V]`, added to
    pub d_bias: Option<ViewMut<'a, f32>>,
}

impl<T: Float> Default for Gradients<'_, T> {
    fn default() -> Self {
        Self { d_hidden: None, d_weight: None, d_bias: None }
    }
}

impl<T: Float> Gradients<'_, T> {
    pub(super) fn is_empty(&self) -> bool {
        self.d_hidden.is_none() && self.d_weight.is_none() && self.d_bias.is_none()
    }

    /// Refuses gradients of other shapes than these, or with gaps between rows.
    pub(super) fn check(&self, hidden: &Matrix<'_, T>, weight: &Matrix<'_, T>) -> Result<()> {
        if let Some(d_hidden) = &self.d_hidden {
            require_shape("d_hidden", d_hidden, [hidden.rows(), hidden.columns()], "as hidden")?;
            require_contiguous("d_hidden", d_hidden)?;
        }
        if let Some(d_weight) = &self.d_weight {
            require_shape("d_weight", d_weight, [weight.rows(), weight.columns()], "as weight")?;
            require_contiguous("d_weight", d_weight)?;
        }
        match &self.d_bias {
            Some(d_bias) => require_length("d_bias", d_bias.len(), weight.rows(), "rows of weight"),
            None => Ok(()),
        }
    }
}

/// Operands and result of a matmul that computes logits, all of `dtype`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matmul {
    pub dtype: DType,
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
pub(super) unsafe fn matmul(stream: &Stream, matmul: Matmul) -> Result<()> {
    let Matmul { dtype, hidden, weight, logits, rows, vocabulary, hidden_size } = matmul;
    let gemm = Gemm {
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
        input: dtype,
        output: dtype,
        accumulate: false,
        bias: None,
        batch: BatchStrides::ONE,
    };
    // SAFETY: passed on to the caller.
    unsafe { stream.gemm(&gemm)? };
    Ok(())
}
