//! The feed-forward half of a transformer layer.

use super::add_norm::AddNorm;
use super::linear::Linear;
use crate::device::{Device, Matrix, MatrixBuffer, ModelFloat};
use crate::model::context::Context;
use crate::model::parameter_table::ParameterTable;
use crate::model::scratch::Scratch;
use crate::model::{Capacity, ModelConfig, dropout_site};
use crate::ops::{Result, bias_gelu};

/// `LN(input + dropout(dense(GELU(intermediate(input)))))`.
#[derive(Debug)]
pub(super) struct FeedForward<T: ModelFloat> {
    intermediate: Linear,
    /// `[T, F]` output of `intermediate`, before bias and GELU
    hidden: MatrixBuffer<T>,
    /// `[T, F]` output of GELU
    activated: MatrixBuffer<T>,
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
            intermediate: Linear::new(table, &format!("{name}.intermediate.dense"), hidden, wide),
            hidden: device.matrix(capacity.tokens, wide)?,
            activated: device.matrix(capacity.tokens, wide)?,
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
        let rows = input.rows();
        self.intermediate.forward_without_bias(context, input, self.hidden.rows_mut(rows))?;
        let forward = bias_gelu::Forward {
            input: self.hidden.rows(rows),
            bias: context.parameters.weights.vector(self.intermediate.bias),
            output: self.activated.rows_mut(rows),
        };
        bias_gelu::forward(context.stream, forward)?;
        self.output.forward(context, self.activated.rows(rows), input, scratch)
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
            self.activated.rows(rows),
            d_output,
            d_attention_output.rows_mut(rows),
            d_projection,
            d_activated.rows_mut(rows),
        )?;
        let backward = bias_gelu::Backward {
            input: self.hidden.rows(rows),
            bias: context.parameters.weights.vector(self.intermediate.bias),
            d_output: d_activated.rows(rows),
            d_input: d_wide.rows_mut(rows),
        };
        bias_gelu::backward(context.stream, backward)?;
        let d_wide = d_wide.rows(rows);
        self.intermediate.bias_backward(context, d_wide)?;
        self.intermediate.backward(context, input, d_wide, d_attention_output.rows_mut(rows), true)
    }
}
