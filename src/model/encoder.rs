//! The BERT encoder, forward and backward.

use super::blocks::{EmbeddingKind, EmbeddingTables, Embeddings, Layer, Streams};
use super::context::Context;
use super::hidden_gradients::HiddenGradients;
use super::parameter_table::ParameterTable;
use super::scratch::Scratch;
use super::{Capacity, ModelConfig, dropout_site};
use crate::device::{Device, Matrix, MatrixBuffer, ModelFloat};
use crate::ops::attention::Mask;
use crate::ops::segment_sum::{SegmentSum, Segments, segment_sum};
use crate::ops::{Result, rows};

/// Embeddings, layers, and the vector of each sentence.
#[derive(Debug)]
pub(super) struct Encoder<T: ModelFloat> {
    embeddings: Embeddings<T>,
    layers: Vec<Layer<T>>,
    /// `[B, H]` sentence vectors
    vectors: MatrixBuffer<T>,
}

impl<T: ModelFloat> Encoder<T> {
    /// Adds `{name}.layer.0` and the following to the table.
    pub(super) fn new(
        device: &Device,
        table: &mut ParameterTable,
        name: &str,
        sizes: (&ModelConfig, Capacity),
        tables: EmbeddingTables,
    ) -> Result<Self> {
        let (config, capacity) = sizes;
        let site = dropout_site::ENCODER_EMBEDDING;
        let embeddings = Embeddings::new(device, tables, EmbeddingKind::Words, sizes, site)?;
        let layers = (0..config.num_hidden_layers)
            .map(|index| Layer::new(device, table, &format!("{name}.layer.{index}"), sizes, index))
            .collect::<Result<_>>()?;
        let vectors = device.matrix(capacity.sentences, config.hidden_size)?;
        Ok(Self { embeddings, layers, vectors })
    }

    /// `[T, H]` last hidden states of the last batch.
    pub(super) fn output(&self, rows: usize) -> Matrix<'_, T> {
        layer_input(&self.embeddings, &self.layers, rows)
    }

    /// `[B, H]` sentence vectors of the last batch.
    pub(super) fn vectors(&self, sentences: usize) -> Matrix<'_, T> {
        self.vectors.rows(sentences)
    }

    /// Enqueues the forward pass; the sentence vectors are the last hidden states of position 0.
    pub(super) fn forward(&mut self, context: &Context<'_, T>, scratch: &mut Scratch<T>) -> Result<()> {
        self.embeddings.forward(context, None)?;
        let (tokens, sentences) = (context.batch.tokens, context.batch.sentences);
        for index in 0..self.layers.len() {
            let (done, rest) = self.layers.split_at_mut(index);
            let query = layer_input(&self.embeddings, done, tokens);
            rest[0].forward(context, Streams { query, content: None }, Mask::Full, scratch)?;
        }
        let gather = rows::Gather {
            input: layer_input(&self.embeddings, &self.layers, tokens),
            rows: context.batch.first_rows.view(),
            output: self.vectors.rows_mut(sentences),
        };
        rows::gather(context.stream, gather)
    }

    /// Overwrites the sentence vectors with each sentence's sum of last hidden states, accumulated in f32.
    pub(super) fn sum_sentences(&mut self, context: &mut Context<'_, T>) -> Result<()> {
        let batch = context.batch;
        context.stream.zero(self.vectors.rows_mut(batch.sentences).into_view())?;
        let sum = SegmentSum {
            input: layer_input(&self.embeddings, &self.layers, batch.tokens),
            segments: Segments::consecutive(batch.cu_seqlens.view()),
            output: self.vectors.rows_mut(batch.sentences),
            workspace: context.workspace.view_mut(),
        };
        segment_sum(context.stream, sum)
    }

    /// Enqueues the backward pass, from `gradients.encoder`, which it overwrites, to the parameters.
    pub(super) fn backward(
        &self,
        context: &mut Context<'_, T>,
        gradients: &mut HiddenGradients<T>,
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        let tokens = context.batch.tokens;
        for (index, layer) in self.layers.iter().enumerate().rev() {
            let query = layer_input(&self.embeddings, &self.layers[..index], tokens);
            let inputs = (Streams { query, content: None }, Mask::Full);
            let HiddenGradients { encoder, query: d_query, .. } = gradients;
            layer.backward(context, inputs, encoder.rows(tokens), d_query.rows_mut(tokens), None, scratch)?;
            std::mem::swap(encoder, d_query);
        }
        self.embeddings.backward(context, None, gradients.encoder.rows(tokens), None)
    }
}

/// Input of the layer after `done`.
fn layer_input<'a, T: ModelFloat>(
    embeddings: &'a Embeddings<T>,
    done: &'a [Layer<T>],
    rows: usize,
) -> Matrix<'a, T> {
    done.last().map_or_else(|| embeddings.output(rows), |layer| layer.output(rows))
}
