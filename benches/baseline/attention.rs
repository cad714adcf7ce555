//! Unfused attention: padded matrices for each head; scores, scale, mask, softmax, dropout and matmuls as separate passes.

use rayon::prelude::*;
use retromae::device::baseline_params::BaselineHeadsParams;
use retromae::device::{Buffer, Family, Matrix, MatrixMut, ModelFloat, Stream, kernels};
use retromae::model::MaskPool;
use retromae::ops::Result;
use retromae::ops::matmul::Factor::{Plain, Transposed};
use retromae::ops::matmul::{Matmul, matmul};

use super::Dropout;
use super::passes::{self, DropoutRows};
use crate::cases::data::prefix_sums;

/// A packed batch, as padded matrices.
pub struct Shape {
    pub lengths: Vec<usize>,
    pub num_heads: usize,
    pub head_dim: usize,
}

impl Shape {
    fn sentences(&self) -> usize {
        self.lengths.len()
    }

    /// Length to which all sentences are padded.
    pub fn padded_length(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0).next_multiple_of(8)
    }

    fn matrices(&self) -> usize {
        self.sentences() * self.num_heads
    }

    /// Elements of all heads' queries, padded.
    fn head_elements(&self) -> usize {
        self.matrices() * self.padded_length() * self.head_dim
    }

    /// Elements of all scores.
    pub fn score_elements(&self) -> usize {
        self.matrices() * self.padded_length() * self.padded_length()
    }
}

/// All heads of a packed batch, with every intermediate of a forward and a backward pass.
pub struct Attention<T: ModelFloat> {
    shape: Shape,
    cu_seqlens: Buffer<i32>,
    scale: f32,
    /// `[B, L, L]`: 0 or −∞
    mask: Option<Buffer<T>>,
    dropout: Option<Dropout>,
    /// `[B, A, L, d]` each
    heads: [Buffer<T>; 3],
    /// `[B, A, L, L]`: scores, in the backward pass their gradient
    scores: Buffer<T>,
    /// `[B, A, L, L]`
    probabilities: Buffer<T>,
    /// `[B, A, L, L]`, if there is dropout
    dropped: Option<Buffer<T>>,
    /// `[B, A, L, d]`: the output, in the backward pass its gradient
    context: Buffer<T>,
    /// `[B, A, L, d]` each
    d_heads: [Buffer<T>; 3],
}

impl<T: ModelFloat> Attention<T> {
    /// Prepares attention under `pool`, or full attention; sentences of unequal lengths are masked in either case, because of their padding.
    pub fn new(
        stream: &Stream,
        shape: Shape,
        pool: Option<&MaskPool>,
        dropout: Option<Dropout>,
    ) -> Result<Self> {
        let device = stream.device();
        let heads = || device.zeros(shape.head_elements());
        let padded = shape.lengths.iter().any(|&length| length != shape.padded_length());
        let mask = (pool.is_some() || padded).then(|| dense_mask(pool, &shape));
        Ok(Self {
            cu_seqlens: device.upload(&prefix_sums(&shape.lengths))?,
            scale: (shape.head_dim as f32).powf(-0.5),
            mask: mask.map(|mask: Vec<T>| device.upload(&mask)).transpose()?,
            heads: [heads()?, heads()?, heads()?],
            scores: device.zeros(shape.score_elements())?,
            probabilities: device.zeros(shape.score_elements())?,
            dropped: dropout.is_some().then(|| device.zeros(shape.score_elements())).transpose()?,
            context: heads()?,
            d_heads: [heads()?, heads()?, heads()?],
            dropout,
            shape,
        })
    }

    /// Computes `output` from query, key and value, all `[T, A·d]`.
    pub fn forward(
        &mut self,
        stream: &Stream,
        inputs: [Matrix<'_, T>; 3],
        output: MatrixMut<'_, T>,
    ) -> Result<()> {
        let (length, head_dim) = (self.shape.padded_length(), self.shape.head_dim);
        for (index, input) in inputs.into_iter().enumerate() {
            let address = self.heads[index].view().address();
            self.copy_heads(stream, kernels::BASELINE_SPLIT_HEADS, input.address(), address, input.stride())?;
        }
        let [query, key, value] = self.heads.each_ref().map(Buffer::view);
        let (query, key) = (query.rows_of(head_dim)?, key.rows_of(head_dim)?);
        let scores = self.scores.view_mut().rows_of(length)?;
        let matrices = self.shape.matrices();
        matmul(stream, Matmul::new(Plain(query), Transposed(key), scores).batch(matrices))?;
        passes::scale(stream, self.scores.view_mut(), self.scale)?;
        if let Some(mask) = &self.mask {
            passes::add_mask(stream, &mut self.scores, mask, self.shape.num_heads, length)?;
        }
        passes::softmax(stream, &self.scores, &mut self.probabilities, length)?;
        if let (Some(dropout), Some(dropped)) = (&mut self.dropout, &mut self.dropped) {
            let rows = query_rows(&self.cu_seqlens, &self.shape);
            passes::dropout(stream, dropout, rows, self.probabilities.view(), dropped.view_mut())?;
        }
        let weights = self.dropped.as_ref().unwrap_or(&self.probabilities).view().rows_of(length)?;
        let (value, context) = (value.rows_of(head_dim)?, self.context.view_mut().rows_of(head_dim)?);
        matmul(stream, Matmul::new(Plain(weights), Plain(value), context).batch(matrices))?;
        let context = self.context.view().address();
        self.copy_heads(stream, kernels::BASELINE_MERGE_HEADS, output.address(), context, output.stride())
    }

    /// Computes the gradients of query, key and value from the output's, all `[T, A·d]`; after [`Attention::forward`].
    pub fn backward(
        &mut self,
        stream: &Stream,
        d_output: Matrix<'_, T>,
        d_inputs: [MatrixMut<'_, T>; 3],
    ) -> Result<()> {
        let (length, head_dim) = (self.shape.padded_length(), self.shape.head_dim);
        let (packed, context) = (d_output.address(), self.context.view().address());
        self.copy_heads(stream, kernels::BASELINE_SPLIT_HEADS, packed, context, d_output.stride())?;
        let [query, key, value] = self.heads.each_ref().map(Buffer::view);
        let [d_query, d_key, d_value] = self.d_heads.each_mut().map(Buffer::view_mut);
        let (d_query, d_key) = (d_query.rows_of(head_dim)?, d_key.rows_of(head_dim)?);
        let (value, d_value) = (value.rows_of(head_dim)?, d_value.rows_of(head_dim)?);
        let d_context = Plain(self.context.view().rows_of(head_dim)?);
        let weights = self.dropped.as_ref().unwrap_or(&self.probabilities).view().rows_of(length)?;
        let matrices = self.shape.matrices();
        matmul(stream, Matmul::new(Transposed(weights), d_context, d_value).batch(matrices))?;
        let d_scores = self.scores.view_mut().rows_of(length)?;
        matmul(stream, Matmul::new(d_context, Transposed(value), d_scores).batch(matrices))?;
        if let Some(dropout) = &self.dropout {
            let rows = query_rows(&self.cu_seqlens, &self.shape);
            passes::dropout_backward_to(stream, dropout, rows, self.scores.view_mut())?;
        }
        passes::softmax_backward(stream, &mut self.scores, &self.probabilities, length)?;
        passes::scale(stream, self.scores.view_mut(), self.scale)?;
        let d_scores = self.scores.view().rows_of(length)?;
        let (query, key) = (Plain(query.rows_of(head_dim)?), Plain(key.rows_of(head_dim)?));
        matmul(stream, Matmul::new(Plain(d_scores), key, d_query).batch(matrices))?;
        matmul(stream, Matmul::new(Transposed(d_scores), query, d_key).batch(matrices))?;
        for (index, d_input) in d_inputs.into_iter().enumerate() {
            let address = self.d_heads[index].view().address();
            let (packed, stride) = (d_input.address(), d_input.stride());
            self.copy_heads(stream, kernels::BASELINE_MERGE_HEADS, packed, address, stride)?;
        }
        Ok(())
    }

    fn copy_heads(
        &self,
        stream: &Stream,
        family: Family<BaselineHeadsParams>,
        packed: u64,
        heads: u64,
        stride: usize,
    ) -> Result<()> {
        let params = BaselineHeadsParams {
            packed,
            heads,
            cu_seqlens: self.cu_seqlens.view().address(),
            sentences: self.shape.sentences() as u32,
            num_heads: self.shape.num_heads as u32,
            head_dim: self.shape.head_dim as u32,
            length: self.shape.padded_length() as u32,
            stride: stride as u32,
            reserved: 0,
        };
        // SAFETY: the callers pass a packed array of T rows and a padded one of this shape.
        unsafe { stream.launch(family.of(T::DTYPE)?, &params)? };
        Ok(())
    }
}

fn query_rows<'a>(cu_seqlens: &'a Buffer<i32>, shape: &Shape) -> DropoutRows<'a> {
    DropoutRows::Queries { cu_seqlens, heads: shape.num_heads, length: shape.padded_length() }
}

/// `[B, L, L]`: 0 where a query sees a key, −∞ elsewhere. Padded queries see all keys but padding, so that no row is empty.
fn dense_mask<T: ModelFloat>(pool: Option<&MaskPool>, shape: &Shape) -> Vec<T> {
    let padded = shape.padded_length();
    let mut mask = vec![T::from_f32(0.0); shape.sentences() * padded * padded];
    let mut start = 0;
    for (sentence, (&length, mask)) in
        shape.lengths.iter().zip(mask.chunks_exact_mut(padded * padded)).enumerate()
    {
        mask.par_chunks_exact_mut(padded).enumerate().for_each(|(query, row)| {
            for (key, value) in row.iter_mut().enumerate() {
                let visible = key < length
                    && (query >= length
                        || pool.is_none_or(|pool| pool.visible(sentence, start, length, query, key)));
                if !visible {
                    *value = T::from_f32(f32::NEG_INFINITY);
                }
            }
        });
        start += length;
    }
    mask
}
