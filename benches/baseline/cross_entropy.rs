//! Unfused output layer: all logits at once, then bias, log-softmax, loss and gradients as passes of their own.
//!
//! The vocabulary is padded to a multiple of 8 with rows that nothing predicts, as one does for the sake of the products.

use retromae::device::{Buffer, Float, Stream, View};
use retromae::ops::Result;
use retromae::ops::column_sum::{self, ColumnSum, column_sum};
use retromae::ops::product::Factor::{Plain, Transposed};
use retromae::ops::product::Sizes;

use super::{matmul, params, passes};

/// What a vocabulary is padded to.
pub fn padded(vocabulary: usize) -> usize {
    vocabulary.next_multiple_of(8)
}

/// Weights and results, and two whole `[M, V]` matrices.
pub struct CrossEntropy<T: Float> {
    rows: usize,
    hidden_size: usize,
    vocabulary: usize,
    /// `[V, H]`, padded with zeros
    pub weight: Buffer<T>,
    /// `[V]`, padded with −∞
    pub bias: Buffer<f32>,
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
    /// `[V, H]`, padded
    pub d_weight: Buffer<f32>,
    /// `[V]`, padded
    pub d_bias: Buffer<f32>,
    workspace: Buffer<f32>,
}

impl<T: Float> CrossEntropy<T> {
    /// `weight` is `[V, H]`, `bias` `[V]`, `targets` and `row_weights` `[M]`.
    pub fn new(
        stream: &Stream,
        weight: &[T],
        bias: &[f32],
        targets: &[i32],
        row_weights: &[f32],
    ) -> Result<Self> {
        let device = stream.device();
        let (rows, vocabulary) = (targets.len(), padded(bias.len()));
        let hidden_size = weight.len() / bias.len();
        let mut padded_weight = device.zeros(vocabulary * hidden_size)?;
        padded_weight.write(weight)?;
        let mut padded_bias = bias.to_vec();
        padded_bias.resize(vocabulary, f32::NEG_INFINITY);
        Ok(Self {
            rows,
            hidden_size,
            vocabulary,
            weight: padded_weight,
            bias: device.upload(&padded_bias)?,
            targets: device.upload(targets)?,
            row_weights: device.upload(row_weights)?,
            logits: device.zeros(rows * vocabulary)?,
            log_probabilities: device.zeros(rows * vocabulary)?,
            d_log_probabilities: device.zeros(rows * vocabulary)?,
            losses: device.zeros(rows)?,
            d_hidden: device.zeros(rows * hidden_size)?,
            d_weight: device.zeros(vocabulary * hidden_size)?,
            d_bias: device.zeros(vocabulary)?,
            workspace: device.zeros(column_sum::workspace(rows, vocabulary))?,
        })
    }

    /// `hidden` is `[M, H]`.
    pub fn forward_backward(&mut self, stream: &Stream, hidden: View<'_, T>) -> Result<()> {
        let Self { rows, hidden_size, vocabulary, .. } = *self;
        let sizes = Sizes { batch: 1, m: rows, n: vocabulary, k: hidden_size };
        let weight = self.weight.view();
        let logits = self.logits.view_mut();
        matmul(stream, sizes, Plain(hidden), Transposed(weight), logits)?;
        passes::add_bias_to(stream, &mut self.logits, &self.bias)?;
        passes::log_softmax(stream, &self.logits, &mut self.log_probabilities, vocabulary)?;
        let likelihood = self.likelihood();
        // SAFETY: the arrays were made for these rows and columns.
        unsafe { passes::likelihood::<T>(stream, "likelihood_forward", &likelihood)? };
        stream.zero(self.d_log_probabilities.view_mut())?;
        // SAFETY: as above.
        unsafe { passes::likelihood::<T>(stream, "likelihood_backward", &likelihood)? };
        passes::log_softmax_backward(
            stream,
            &self.d_log_probabilities,
            &self.log_probabilities,
            &mut self.logits,
            vocabulary,
        )?;
        let d_logits = self.logits.view();
        let sizes = Sizes { batch: 1, m: rows, n: hidden_size, k: vocabulary };
        let d_hidden = self.d_hidden.view_mut();
        matmul(stream, sizes, Plain(d_logits), Plain(weight), d_hidden)?;
        let sizes = Sizes { batch: 1, m: vocabulary, n: hidden_size, k: rows };
        let d_weight = self.d_weight.view_mut();
        matmul(stream, sizes, Transposed(d_logits), Plain(hidden), d_weight)?;
        let d_bias = ColumnSum {
            input: d_logits,
            output: self.d_bias.view_mut(),
            accumulate: false,
            workspace: self.workspace.view_mut(),
        };
        column_sum(stream, d_bias)
    }

    fn likelihood(&self) -> params::Likelihood {
        params::Likelihood {
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
