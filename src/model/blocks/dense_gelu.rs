//! A linear layer and GELU.

use super::linear::Linear;
use crate::device::{Device, Matrix, MatrixBuffer, MatrixMut, ModelFloat};
use crate::model::context::Context;
use crate::model::parameter_table::ParameterTable;
use crate::ops::{Result, bias_gelu};

/// `GELU(dense(input))`, as the feed-forward network and the head's transform begin.
#[derive(Debug)]
pub(super) struct DenseGelu<T: ModelFloat> {
    dense: Linear,
    /// `[M, out]` output of `dense`, before bias and GELU
    hidden: MatrixBuffer<T>,
    /// `[M, out]`
    output: MatrixBuffer<T>,
}

impl<T: ModelFloat> DenseGelu<T> {
    /// Adds `{name}.dense` to the table; allocates activations of at most `rows` rows.
    pub(super) fn new(
        device: &Device,
        table: &mut ParameterTable,
        name: &str,
        rows: usize,
        [in_features, out_features]: [usize; 2],
    ) -> Result<Self> {
        Ok(Self {
            dense: Linear::new(table, &format!("{name}.dense"), in_features, out_features),
            hidden: device.matrix(rows, out_features)?,
            output: device.matrix(rows, out_features)?,
        })
    }

    /// `[m, out]` output of the last batch.
    pub(super) fn output(&self, rows: usize) -> Matrix<'_, T> {
        self.output.rows(rows)
    }

    /// Runs the block on `input`, `[m, in]`.
    pub(super) fn forward(&mut self, context: &Context<'_, T>, input: Matrix<'_, T>) -> Result<()> {
        let rows = input.rows();
        self.dense.forward_without_bias(context, input, self.hidden.rows_mut(rows))?;
        let forward = bias_gelu::Forward {
            input: self.hidden.rows(rows),
            bias: context.parameters.weights.vector(self.dense.bias),
            output: self.output.rows_mut(rows),
        };
        bias_gelu::forward(context.stream, forward)
    }

    /// Propagates `d_output` through GELU to `d_hidden`, and adds the gradient of the bias.
    pub(super) fn backward_gelu(
        &self,
        context: &mut Context<'_, T>,
        d_output: Matrix<'_, T>,
        d_hidden: &mut MatrixBuffer<T>,
    ) -> Result<()> {
        let rows = d_output.rows();
        let backward = bias_gelu::Backward {
            input: self.hidden.rows(rows),
            bias: context.parameters.weights.vector(self.dense.bias),
            d_output,
            d_input: d_hidden.rows_mut(rows),
        };
        bias_gelu::backward(context.stream, backward)?;
        self.dense.bias_backward(context, d_hidden.rows(rows))
    }

    /// Propagates what [`backward_gelu`](Self::backward_gelu) computed to the weight (added) and to the input (written, or added with
    /// `accumulate`).
    pub(super) fn backward_dense(
        &self,
        context: &mut Context<'_, T>,
        input: Matrix<'_, T>,
        d_hidden: Matrix<'_, T>,
        d_input: MatrixMut<'_, T>,
        accumulate: bool,
    ) -> Result<()> {
        self.dense.backward(context, input, d_hidden, d_input, accumulate)
    }
}
