//! `dropout(LN(row + position[p] + type[0]))`; the row comes from a table of words or sentences.

use retromae::device::{Buffer, ModelFloat, Stream, View};
use retromae::ops::Result;
use retromae::ops::column_sum::{self, ColumnSum, column_sum};
use retromae::ops::rows::{Gather, gather};

use super::super::layer_norm::LayerNorm;
use super::super::passes::{self, DropoutRows};
use super::super::{Dropout, embedding as table};
use super::arena::Arena;

const POSITION: &str = "bert.embeddings.position_embeddings.weight";
const TOKEN_TYPE: &str = "bert.embeddings.token_type_embeddings.weight";
const NORM: &str = "bert.embeddings.LayerNorm";

pub struct Embedding<T: ModelFloat> {
    columns: usize,
    norm: LayerNorm<T>,
    /// `[T, H]`
    positions: Buffer<T>,
    dropout: Option<Dropout>,
    /// `[T, H]`, if there is dropout: the output, in the backward pass its gradient
    dropped: Buffer<T>,
    workspace: Buffer<u8>,
}

impl<T: ModelFloat> Embedding<T> {
    pub fn new(
        stream: &Stream,
        tokens: usize,
        columns: usize,
        dropout: Option<Dropout>,
        eps: f32,
    ) -> Result<Self> {
        let device = stream.device();
        Ok(Self {
            columns,
            norm: LayerNorm::new(stream, tokens, columns, None, eps)?,
            positions: device.zeros(tokens * columns)?,
            dropped: device.zeros(tokens * columns)?,
            dropout,
            workspace: column_sum::workspace(tokens, columns).allocate(device)?,
        })
    }

    /// `[T, H]`
    pub fn output(&self) -> View<'_, T> {
        if self.dropout.is_some() { self.dropped.view() } else { self.norm.output.view() }
    }

    /// Embeds rows; `source` is a table and each token's row in it.
    pub fn forward(
        &mut self,
        stream: &Stream,
        arena: &Arena<T>,
        source: (View<'_, T>, View<'_, i32>),
        positions: View<'_, i32>,
    ) -> Result<()> {
        let columns = self.columns;
        let output = self.norm.sum.view_mut().rows_of(columns)?;
        gather(stream, Gather { input: source.0.rows_of(columns)?, rows: source.1, output })?;
        let (input, output) =
            (arena.compute(POSITION).rows_of(columns)?, self.positions.view_mut().rows_of(columns)?);
        gather(stream, Gather { input, rows: positions, output })?;
        passes::add_to(stream, self.norm.sum.view_mut(), self.positions.view())?;
        let token_type = arena.master(TOKEN_TYPE).slice(0..columns);
        passes::add_bias_to(stream, self.norm.sum.view_mut(), token_type)?;
        self.norm.normalize(stream, arena.norm(NORM, None))?;
        match &mut self.dropout {
            Some(dropout) => {
                let rows = DropoutRows::Matrix { columns };
                passes::dropout(stream, dropout, rows, self.norm.output.view(), self.dropped.view_mut())
            }
            None => Ok(()),
        }
    }

    /// Computes the gradient of the gathered rows, after those of the parameters.
    pub fn backward(
        &mut self,
        stream: &Stream,
        arena: &mut Arena<T>,
        d_output: View<'_, T>,
        positions: View<'_, i32>,
    ) -> Result<View<'_, T>> {
        let columns = self.columns;
        let parameters = arena.norm(NORM, None);
        if let Some(dropout) = &self.dropout {
            let rows = DropoutRows::Matrix { columns };
            passes::dropout_backward(stream, dropout, rows, d_output, self.dropped.view_mut())?;
            self.norm.backward(stream, parameters, self.dropped.view())?;
        } else {
            self.norm.backward(stream, parameters, d_output)?;
        }
        arena.add_norm_gradients(stream, NORM, None, &self.norm)?;
        let d_sum = self.norm.d_residual.view();
        let token_type = ColumnSum {
            input: d_sum.rows_of(columns)?,
            output: arena.gradient(TOKEN_TYPE).slice(0..columns),
            accumulate: true,
            workspace: self.workspace.view_mut(),
        };
        column_sum(stream, token_type)?;
        table::backward(stream, d_sum, positions, arena.gradient(POSITION), columns)?;
        Ok(d_sum)
    }
}
