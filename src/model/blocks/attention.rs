//! The attention half of a transformer layer.

use super::add_norm::AddNorm;
use super::linear::Linear;
use crate::device::{Buffer, Device, Matrix, MatrixBuffer, MatrixMut, ModelFloat};
use crate::model::context::{Context, Site};
use crate::model::parameter_table::ParameterTable;
use crate::model::scratch::Scratch;
use crate::model::{Capacity, ModelConfig, dropout_site};
use crate::ops::Result;
use crate::ops::attention::{self, BackwardOptions, Mask};

/// Inputs of attention, and so of a layer: the stream of queries (also the residual), and a separate stream of keys and values, if any.
#[derive(Clone, Copy)]
pub(in crate::model) struct Streams<'a, T: ModelFloat> {
    /// `[T, H]`
    pub query: Matrix<'a, T>,
    /// `[T, H]`
    pub content: Option<Matrix<'a, T>>,
}

/// `LN(query + dropout(dense(attention(query, content))))`.
#[derive(Debug)]
pub(super) struct Attention<T: ModelFloat> {
    /// Queries, keys and values, H features each
    query_key_value: Linear,
    num_heads: usize,
    head_dim: usize,
    site: Site,
    /// `[T, 3H]` queries, keys and values
    projected: MatrixBuffer<T>,
    /// `[T, H]` outputs of the heads, side by side
    head_outputs: MatrixBuffer<T>,
    /// `[A, T]`
    log_sum_exp: Buffer<f32>,
    output: AddNorm<T>,
}

impl<T: ModelFloat> Attention<T> {
    /// Adds `{name}.attention.self` and `{name}.attention.output` to the table. `layer` counts the layers' dropout sites.
    pub(super) fn new(
        device: &Device,
        table: &mut ParameterTable,
        name: &str,
        sizes: (&ModelConfig, Capacity),
        layer: usize,
    ) -> Result<Self> {
        let (config, capacity) = sizes;
        let (tokens, hidden) = (capacity.tokens, config.hidden_size);
        let parts = ["query", "key", "value"]
            .map(|part| Linear::new(table, &format!("{name}.attention.self.{part}"), hidden, hidden));
        let site = dropout_site::attention_output(layer);
        Ok(Self {
            query_key_value: Linear::join(parts),
            num_heads: config.num_attention_heads,
            head_dim: config.head_dim(),
            site: Site {
                rate: config.attention_probs_dropout_prob,
                number: dropout_site::attention_probabilities(layer),
            },
            projected: device.matrix(tokens, 3 * hidden)?,
            head_outputs: device.matrix(tokens, hidden)?,
            log_sum_exp: device.zeros(config.num_attention_heads * tokens)?,
            output: AddNorm::new(device, table, &format!("{name}.attention.output"), sizes, hidden, site)?,
        })
    }

    /// `[T, H]` output of the last batch.
    pub(super) fn output(&self, rows: usize) -> Matrix<'_, T> {
        self.output.output(rows)
    }

    fn attention<'a>(&self, context: &Context<'a, T>, mask: Mask<'a>) -> attention::Attention<'a> {
        attention::Attention::new(context.batch.packed(), self.num_heads, self.head_dim)
            .mask(mask)
            .dropout(context.dropout(self.site))
    }

    /// Runs the block; each query sees the keys that `mask` shows it.
    pub(super) fn forward(
        &mut self,
        context: &Context<'_, T>,
        streams: Streams<'_, T>,
        mask: Mask<'_>,
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        let rows = streams.query.rows();
        self.project(context, streams)?;
        let [query, key, value] = self.projected.rows(rows).split_columns();
        let forward = attention::Forward {
            attention: self.attention(context, mask),
            query,
            key,
            value,
            output: self.head_outputs.rows_mut(rows),
            log_sum_exp: self.log_sum_exp.slice_mut(0..self.num_heads * rows),
        };
        attention::forward(context.stream, forward)?;
        self.output.forward(context, self.head_outputs.rows(rows), streams.query, scratch)
    }

    /// Enqueues the projections to queries, keys and values.
    fn project(&mut self, context: &Context<'_, T>, streams: Streams<'_, T>) -> Result<()> {
        let Streams { query, content } = streams;
        let [to_query, to_key_value] = self.by_stream();
        let projected = self.projected.rows_mut(query.rows());
        let Some(content) = content else {
            return self.query_key_value.forward(context, query, projected);
        };
        let (queries, keys_values) = projected.split_columns_at(query.columns());
        to_query.forward(context, query, queries)?;
        to_key_value.forward(context, content, keys_values)
    }

    /// The projections of the query stream, and of the content stream.
    fn by_stream(&self) -> [Linear; 2] {
        let (hidden, all) = (self.head_outputs.columns(), self.projected.columns());
        [self.query_key_value.features(0..hidden), self.query_key_value.features(hidden..all)]
    }

    /// Propagates `scratch.d_attention_output` to the streams: writes `d_query`, and `d_content` where there are two.
    pub(super) fn backward(
        &self,
        context: &mut Context<'_, T>,
        (streams, mask): (Streams<'_, T>, Mask<'_>),
        mut d_query: MatrixMut<'_, T>,
        d_content: Option<MatrixMut<'_, T>>,
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        let rows = streams.query.rows();
        let Scratch { d_projection, d_attention_output, d_head_outputs, d_query_key_value, .. } = scratch;
        self.output.backward(
            context,
            self.head_outputs.rows(rows),
            d_attention_output.rows(rows),
            d_query.reborrow(),
            d_projection,
            d_head_outputs.rows_mut(rows),
        )?;
        let [query, key, value] = self.projected.rows(rows).split_columns();
        let [d_queries, d_keys, d_values] = d_query_key_value.rows_mut(rows).split_columns();
        let backward = attention::Backward {
            attention: self.attention(context, mask),
            query,
            key,
            value,
            output: self.head_outputs.rows(rows),
            log_sum_exp: self.log_sum_exp.slice(0..self.num_heads * rows),
            d_output: d_head_outputs.rows(rows),
            d_query: d_queries,
            d_key: d_keys,
            d_value: d_values,
            options: BackwardOptions::default(),
        };
        attention::backward(context.stream, backward)?;
        self.project_backward(context, streams, d_query_key_value.rows(rows), d_query, d_content)
    }

    /// Propagates the gradient of the projections to the streams: adds to `d_query`, writes `d_content`.
    fn project_backward(
        &self,
        context: &mut Context<'_, T>,
        streams: Streams<'_, T>,
        d_projected: Matrix<'_, T>,
        d_query: MatrixMut<'_, T>,
        d_content: Option<MatrixMut<'_, T>>,
    ) -> Result<()> {
        self.query_key_value.bias_backward(context, d_projected)?;
        let (Some(content), Some(d_content)) = (streams.content, d_content) else {
            return self.query_key_value.backward(context, streams.query, d_projected, d_query, true);
        };
        let [to_query, to_key_value] = self.by_stream();
        let hidden = self.head_outputs.columns();
        let d_queries = d_projected.slice_columns(0..hidden);
        let d_keys_values = d_projected.slice_columns(hidden..d_projected.columns());
        to_query.backward(context, streams.query, d_queries, d_query, true)?;
        to_key_value.backward(context, content, d_keys_values, d_content, false)
    }
}
