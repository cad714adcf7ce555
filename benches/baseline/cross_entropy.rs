//! Unfused output layer: all logits at once, then bias, log-softmax, loss and gradients as separate passes.
//!
//! The vocabulary is padded to a multiple of 8 with rows that are never predicted, as is usual for fast matmuls.

use retromae::device::baseline_params::BaselineLikelihoodParams;
use retromae::device::{Buffer, ModelFloat, Stream, View, ViewMut, kernels};
use retromae::ops::Result;
use retromae::ops::column_sum::{self, ColumnSum, column_sum};
use retromae::ops::matmul::Factor::{Plain, Transposed};
use retromae::ops::matmul::{Addend, Matmul, matmul};

use super::passes;

/// Returns the padded size of a vocabulary.
pub fn padded(vocabulary: usize) -> usize {
    vocabulary.next_multiple_of(8)
}

/// Weights of a padded vocabulary.
#[derive(Clone, Copy)]
pub struct Weights<'a, T: ModelFloat> {
    /// `[V, H]`, padded with zeros
    pub weight: View<'a, T>,
    /// `[V]`, padded with −∞
    pub bias: View<'a, f32>,
}

/// Gradients of the weights, of the same shapes, which are added to.
pub struct Gradients<'a> {
    pub weight: ViewMut<'a, f32>,
    pub bias: ViewMut<'a, f32>,
}

/// Targets, results, and three whole `[M, V]` matrices.
pub struct CrossEntropy<T: ModelFloat> {
    rows: usize,
    hidden_size: usize,
    vocabulary: usize,
    /// `[M]`
    targets: Buffer<i32>,
    /// `[M]`
    row_weights: Buffer<f32>,
    /// `[M, V]`: logits, then their gradient
    logits: Buffer<T>,
    log_probabilities: Buffer<T>,
    d_log_probabilities: Buffer<T>,
    /// `[M]`
    pub losses: Buffer<f32>,
    /// `[M, H]`
    pub d_hidden: Buffer<T>,
    workspace: Buffer<u8>,
}

impl<T: ModelFloat> CrossEntropy<T> {
    /// Allocates the buffers; `vocabulary` is the padded one; `targets` and `row_weights` are `[M]`.
    pub fn new(
        stream: &Stream,
        hidden_size: usize,
        vocabulary: usize,
        targets: &[i32],
        row_weights: &[f32],
    ) -> Result<Self> {
        let device = stream.device();
        let rows = targets.len();
        Ok(Self {
            rows,
            hidden_size,
            vocabulary,
            targets: device.upload(targets)?,
            row_weights: device.upload(row_weights)?,
            logits: device.zeros(rows * vocabulary)?,
            log_probabilities: device.zeros(rows * vocabulary)?,
            d_log_probabilities: device.zeros(rows * vocabulary)?,
            losses: device.zeros(rows)?,
            d_hidden: device.zeros(rows * hidden_size)?,
            workspace: column_sum::workspace(rows, vocabulary).allocate(device)?,
        })
    }

    /// Bytes of the three matrices, and of the workspace of the column sums.
    pub fn extra_bytes(&self) -> usize {
        3 * self.rows * self.vocabulary * T::DTYPE.bytes() + 4 * self.workspace.len()
    }

    /// Computes losses and gradients; `hidden` is `[M, H]`.
    pub fn forward_backward(
        &mut self,
        stream: &Stream,
        weights: Weights<'_, T>,
        hidden: View<'_, T>,
        gradients: Gradients<'_>,
    ) -> Result<()> {
        let Self { rows, hidden_size, vocabulary, .. } = *self;
        let Weights { weight, bias } = weights;
        let (hidden, weight) = (hidden.rows_of(hidden_size)?, weight.rows_of(hidden_size)?);
        let logits = self.logits.matrix_mut(rows, vocabulary)?;
        matmul(stream, Matmul::new(Plain(hidden), Transposed(weight), logits))?;
        passes::add_bias_to(stream, self.logits.view_mut(), bias)?;
        passes::log_softmax(stream, &self.logits, &mut self.log_probabilities, vocabulary)?;
        let likelihood = self.likelihood();
        // SAFETY: the arrays were made for these rows and columns.
        unsafe { stream.launch(kernels::BASELINE_LIKELIHOOD_FORWARD.of(T::DTYPE)?, &likelihood)? };
        stream.zero(self.d_log_probabilities.view_mut())?;
        // SAFETY: as above.
        unsafe { stream.launch(kernels::BASELINE_LIKELIHOOD_BACKWARD.of(T::DTYPE)?, &likelihood)? };
        passes::log_softmax_backward(
            stream,
            &self.d_log_probabilities,
            &self.log_probabilities,
            &mut self.logits,
            vocabulary,
        )?;
        let d_logits = self.logits.matrix(rows, vocabulary)?;
        let d_hidden = self.d_hidden.matrix_mut(rows, hidden_size)?;
        matmul(stream, Matmul::new(Plain(d_logits), Plain(weight), d_hidden))?;
        let d_weight = gradients.weight.rows_of(hidden_size)?;
        let to_weight = Matmul::new(Transposed(d_logits), Plain(hidden), d_weight);
        matmul(stream, to_weight.addend(Addend::Output))?;
        let d_bias = ColumnSum {
            input: d_logits,
            output: gradients.bias,
            accumulate: true,
            workspace: self.workspace.view_mut(),
        };
        column_sum(stream, d_bias)
    }

    fn likelihood(&self) -> BaselineLikelihoodParams {
        BaselineLikelihoodParams {
            log_probabilities: self.log_probabilities.view().address(),
            targets: self.targets.view().address(),
            row_weights: self.row_weights.view().address(),
            losses: self.losses.view().address(),
            d_log_probabilities: self.d_log_probabilities.view().address(),
            rows: self.rows as u32,
            columns: self.vocabulary as u32,
        }
    }
}
