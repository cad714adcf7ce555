//! The end of both halves of a transformer layer: `LN(residual + dropout(dense(input)))`.

use super::linear::Linear;
use super::norm::Norm;
use crate::device::{Device, Matrix, MatrixBuffer, MatrixMut, ModelFloat};
use crate::model::context::{Context, Site};
use crate::model::parameter_table::ParameterTable;
use crate::model::scratch::Scratch;
use crate::model::{Capacity, ModelConfig};
use crate::ops::Result;
use crate::ops::layer_norm::{Fused, FusedGradients};

/// A linear layer, dropout, the addition of the residual, and LayerNorm: `BertSelfOutput` and `BertOutput`.
#[derive(Debug)]
pub(super) struct AddNorm<T: ModelFloat> {
    dense: Linear,
    norm: Norm,
    site: Site,
    /// `[T, H]` input of LayerNorm
    sum: MatrixBuffer<T>,
    /// `[T, H]`
    output: MatrixBuffer<T>,
}

impl<T: ModelFloat> AddNorm<T> {
    /// Adds `{name}.dense` and `{name}.LayerNorm` to the table. The dropout site is `site`.
    pub(super) fn new(
        device: &Device,
        table: &mut ParameterTable,
        name: &str,
        (config, capacity): (&ModelConfig, Capacity),
        in_features: usize,
        site: u32,
    ) -> Result<Self> {
        let shape = [capacity.tokens, config.hidden_size];
        Ok(Self {
            dense: Linear::new(table, &format!("{name}.dense"), in_features, config.hidden_size),
            norm: Norm::new(device, table, &format!("{name}.LayerNorm"), shape, config.layer_norm_eps)?,
            site: Site { rate: config.hidden_dropout_prob, number: site },
            sum: device.matrix(capacity.tokens, config.hidden_size)?,
            output: device.matrix(capacity.tokens, config.hidden_size)?,
        })
    }

    /// `[T, H]` output of the last batch.
    pub(super) fn output(&self, rows: usize) -> Matrix<'_, T> {
        self.output.rows(rows)
    }

    /// Runs the block on `input`, `[T, in]`, and `residual`, `[T, H]`.
    pub(super) fn forward(
        &mut self,
        context: &Context<'_, T>,
        input: Matrix<'_, T>,
        residual: Matrix<'_, T>,
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        let rows = input.rows();
        self.dense.forward_without_bias(context, input, scratch.projection.rows_mut(rows))?;
        let fused = Fused {
            bias: Some(context.parameters.weights.vector(self.dense.bias)),
            dropout: context.dropout(self.site),
            residual: Some(residual),
            sum: Some(self.sum.rows_mut(rows)),
        };
        self.norm.forward(context, scratch.projection.rows(rows), fused, self.output.rows_mut(rows))
    }

    /// Propagates `d_output` to `d_residual` and `d_input`; `d_projection` is scratch memory of `[T, H]`.
    pub(super) fn backward(
        &self,
        context: &mut Context<'_, T>,
        input: Matrix<'_, T>,
        d_output: Matrix<'_, T>,
        d_residual: MatrixMut<'_, T>,
        d_projection: &mut MatrixBuffer<T>,
        d_input: MatrixMut<'_, T>,
    ) -> Result<()> {
        let rows = d_output.rows();
        let dropout = context.dropout(self.site);
        let fused = FusedGradients { dropout, d_residual: Some(d_residual), ..FusedGradients::default() };
        let operands = (self.sum.rows(rows), d_output);
        let bias = Some(self.dense.bias);
        self.norm.backward(context, operands, bias, fused, d_projection.rows_mut(rows))?;
        self.dense.backward(context, input, d_projection.rows(rows), d_input, false)
    }
}
