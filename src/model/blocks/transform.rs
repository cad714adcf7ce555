//! The head's transform.

use super::dense_gelu::DenseGelu;
use super::norm::Norm;
use crate::device::{Device, Matrix, MatrixBuffer, MatrixMut, ModelFloat};
use crate::model::ModelConfig;
use crate::model::context::Context;
use crate::model::parameter_table::ParameterTable;
use crate::ops::Result;
use crate::ops::layer_norm::{Fused, FusedGradients};

/// `LN(GELU(dense(input)))`: `BertPredictionHeadTransform`, with the gradients of at most M rows.
#[derive(Debug)]
pub(super) struct Transform<T: ModelFloat> {
    dense: DenseGelu<T>,
    norm: Norm,
    /// `[M, H]`
    pub output: MatrixBuffer<T>,
    /// `[M, H]` gradient of `output`; after a backward pass, of what GELU reads
    pub gradient: MatrixBuffer<T>,
    /// `[M, H]` gradient of GELU's output, and then of the input
    d_activated: MatrixBuffer<T>,
}

impl<T: ModelFloat> Transform<T> {
    /// Adds `{name}.dense` and `{name}.LayerNorm` to the table.
    pub(super) fn new(
        device: &Device,
        table: &mut ParameterTable,
        name: &str,
        config: &ModelConfig,
        rows: usize,
    ) -> Result<Self> {
        let columns = config.hidden_size;
        let norm = format!("{name}.LayerNorm");
        Ok(Self {
            dense: DenseGelu::new(device, table, name, rows, [columns, columns])?,
            norm: Norm::new(device, table, &norm, [rows, columns], config.layer_norm_eps)?,
            output: device.matrix(rows, columns)?,
            gradient: device.matrix(rows, columns)?,
            d_activated: device.matrix(rows, columns)?,
        })
    }

    /// Enqueues the transform of `input`, `[m, H]`, into the first m rows of `output`.
    pub(super) fn forward(&mut self, context: &Context<'_, T>, input: Matrix<'_, T>) -> Result<()> {
        let rows = input.rows();
        self.dense.forward(context, input)?;
        self.norm.forward(context, self.dense.output(rows), Fused::default(), self.output.rows_mut(rows))
    }

    /// Propagates the first rows of `gradient` to the gradient of `input`, which is returned.
    pub(super) fn backward(
        &mut self,
        context: &mut Context<'_, T>,
        input: Matrix<'_, T>,
    ) -> Result<Matrix<'_, T>> {
        let rows = input.rows();
        self.backward_to_dense(context, rows)?;
        // Its own content is no longer needed.
        let d_input = self.d_activated.rows_mut(rows);
        self.dense.backward_dense(context, input, self.gradient.rows(rows), d_input, false)?;
        Ok(self.d_activated.rows(rows))
    }

    /// As [`backward`](Self::backward), but adds the gradient of `input` to `d_input`.
    pub(super) fn backward_into(
        &mut self,
        context: &mut Context<'_, T>,
        input: Matrix<'_, T>,
        d_input: MatrixMut<'_, T>,
    ) -> Result<()> {
        self.backward_to_dense(context, input.rows())?;
        self.dense.backward_dense(context, input, self.gradient.rows(input.rows()), d_input, true)
    }

    /// Propagates `gradient` from `output` through LayerNorm and GELU.
    fn backward_to_dense(&mut self, context: &mut Context<'_, T>, rows: usize) -> Result<()> {
        let operands = (self.dense.output(rows), self.gradient.rows(rows));
        let d_activated = self.d_activated.rows_mut(rows);
        self.norm.backward(context, operands, None, FusedGradients::default(), d_activated)?;
        self.dense.backward_gelu(context, self.d_activated.rows(rows), &mut self.gradient)
    }
}
