//! The feed-forward half of a transformer layer.

use super::add_norm::AddNorm;
use super::dense_gelu::DenseGelu;
use crate::device::{Device, Matrix, ModelFloat};
use crate::model::context::Context;
use crate::model::parameter_table::ParameterTable;
use crate::model::scratch::Scratch;
use crate::model::{Capacity, ModelConfig, dropout_site};
use crate::ops::Result;

/// `LN(input + dropout(dense(GELU(intermediate(input)))))`.
#[derive(Debug)]
pub(super) struct FeedForward<T: ModelFloat> {
    /// From H to F features
    intermediate: DenseGelu<T>,
    output: AddNorm<T>,
}

impl<T: ModelFloat> FeedForward<T> {
    /// Adds `{name}.intermediate` and `{name}.output` to the table. `layer` counts the layers' dropout sites.
    pub(super) fn new(
        device: &Device,
        table: &mut ParameterTable,
        name: &str,
        sizes: (&ModelConfig, Capacity),
        layer: usize,
    ) -> Result<Self> {
        let (config, capacity) = sizes;
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let site = dropout_site::feed_forward_output(layer);
        Ok(Self {
            intermediate: DenseGelu::new(
                device,
                table,
                &format!("{name}.intermediate"),
                capacity.tokens,
                [hidden, wide],
            )?,
            output: AddNorm::new(device, table, &format!("{name}.output"), sizes, wide, site)?,
        })
    }

    /// `[T, H]` output of the last batch.
    pub(super) fn output(&self, rows: usize) -> Matrix<'_, T> {
        self.output.output(rows)
    }

    /// Runs the block on `input`, `[T, H]`.
    pub(super) fn forward(
        &mut self,
        context: &Context<'_, T>,
        input: Matrix<'_, T>,
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        self.intermediate.forward(context, input)?;
        self.output.forward(context, self.intermediate.output(input.rows()), input, scratch)
    }

    /// Propagates `d_output` to `scratch.d_attention_output`.
    pub(super) fn backward(
        &self,
        context: &mut Context<'_, T>,
        input: Matrix<'_, T>,
        d_output: Matrix<'_, T>,
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        let rows = input.rows();
        let Scratch { d_projection, d_attention_output, d_wide, d_activated, .. } = scratch;
        self.output.backward(
            context,
            self.intermediate.output(rows),
            d_output,
            d_attention_output.rows_mut(rows),
            d_projection,
            d_activated.rows_mut(rows),
        )?;
        self.intermediate.backward_gelu(context, d_activated.rows(rows), d_wide)?;
        let d_input = d_attention_output.rows_mut(rows);
        self.intermediate.backward_dense(context, input, d_wide.rows(rows), d_input, true)
    }
}
