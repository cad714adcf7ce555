//! The embeddings of the encoder's tokens, and of the decoder's content and query streams.

use crate::device::{Buffer, Device, Matrix, MatrixBuffer, MatrixMut, ModelFloat};
use crate::model::arena::{Parameter, ParameterTable, Weights};
use crate::model::context::{Context, Site};
use crate::model::inputs::{Inputs, TokenSegments};
use crate::model::scratch::Scratch;
use crate::model::{Capacity, ModelConfig};
use crate::ops::column_sum::{ColumnSum, column_sum};
use crate::ops::embedding::{self, Embedding, Sentences, Source, Words};
use crate::ops::segment_sum::{SegmentSum, Segments, segment_sum};
use crate::ops::{Dropout, Result};

/// The tables that all embeddings of a model share, and their LayerNorm.
#[derive(Clone, Copy, Debug)]
pub(in crate::model) struct EmbeddingTables {
    /// `[V, H]`, also the matrix of the head
    pub word: Parameter,
    position: Parameter,
    token_type: Parameter,
    gamma: Parameter,
    beta: Parameter,
    eps: f32,
}

impl EmbeddingTables {
    /// Adds `{name}.word_embeddings`, `position_embeddings`, `token_type_embeddings` and `LayerNorm` to the table.
    pub(in crate::model) fn new(table: &mut ParameterTable, name: &str, config: &ModelConfig) -> Self {
        let hidden = config.hidden_size;
        let mut rows = |kind, rows| table.matrix(format!("{name}.{kind}_embeddings.weight"), [rows, hidden]);
        Self {
            word: rows("word", config.vocab_size),
            position: rows("position", config.max_position_embeddings),
            token_type: rows("token_type", config.type_vocab_size),
            gamma: table.vector(format!("{name}.LayerNorm.weight"), hidden, 1.0),
            beta: table.vector(format!("{name}.LayerNorm.bias"), hidden, 0.0),
            eps: config.layer_norm_eps,
        }
    }
}

/// Sum that a stream's embeddings are computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) enum EmbeddingKind {
    /// Words, positions and type 0: the encoder's input.
    Words,
    /// The same of the decoder's words, with the sentence vector at position 0.
    Content,
    /// The sentence vector, positions and type 0.
    Query,
    /// The sentence vector and positions alone, not normalized.
    QueryPosition,
}

/// One embedded stream of the batch.
#[derive(Debug)]
pub(in crate::model) struct Embeddings<T: ModelFloat> {
    tables: EmbeddingTables,
    kind: EmbeddingKind,
    site: Site,
    /// `[T, H]`
    output: MatrixBuffer<T>,
    mean: Buffer<f32>,
    rstd: Buffer<f32>,
}

impl<T: ModelFloat> Embeddings<T> {
    /// Embeddings with dropout site `site`.
    pub(in crate::model) fn new(
        device: &Device,
        tables: EmbeddingTables,
        kind: EmbeddingKind,
        (config, capacity): (&ModelConfig, Capacity),
        site: u32,
    ) -> Result<Self> {
        Ok(Self {
            tables,
            kind,
            site: Site { rate: config.hidden_dropout_prob, number: site },
            output: device.matrix(capacity.tokens, config.hidden_size)?,
            mean: device.zeros(capacity.tokens)?,
            rstd: device.zeros(capacity.tokens)?,
        })
    }

    /// `[T, H]` output of the last batch.
    pub(in crate::model) fn output(&self, rows: usize) -> Matrix<'_, T> {
        self.output.rows(rows)
    }

    /// Enqueues the embedding of the batch; `vectors` are the sentence vectors `[B, H]`, where they are read.
    pub(in crate::model) fn forward(
        &mut self,
        context: &Context<'_, T>,
        vectors: Option<Matrix<'_, T>>,
    ) -> Result<()> {
        let tokens = context.batch.tokens;
        let forward = embedding::Forward {
            embedding: self.embedding(
                context.batch,
                &context.parameters.weights,
                vectors,
                context.dropout(self.site),
            ),
            output: self.output.rows_mut(tokens),
            mean: self.mean.slice_mut(0..tokens),
            rstd: self.rstd.slice_mut(0..tokens),
        };
        embedding::forward(context.stream, forward)
    }

    /// Adds the gradients of the tables, and those of the sentence vectors, where they are read, to each sentence's first row of `d_hidden`,
    /// `[T, H]`.
    pub(in crate::model) fn backward(
        &self,
        context: &mut Context<'_, T>,
        vectors: Option<Matrix<'_, T>>,
        d_output: Matrix<'_, T>,
        d_hidden: Option<MatrixMut<'_, T>>,
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        let (batch, tokens) = (context.batch, context.batch.tokens);
        let d_sum = &mut scratch.d_projection;
        let tables = self.tables;
        let dropout = context.dropout(self.site);
        let gradients = &mut context.parameters.gradients;
        let [d_gamma, d_beta] = gradients.disjoint_mut([tables.gamma, tables.beta]).map(MatrixMut::into_view);
        let backward = embedding::Backward {
            embedding: self.embedding(batch, &context.parameters.weights, vectors, dropout),
            mean: self.mean.slice(0..tokens),
            rstd: self.rstd.slice(0..tokens),
            d_output,
            d_sum: d_sum.rows_mut(tokens),
            d_gamma,
            d_beta,
            workspace: context.workspace.view_mut(),
        };
        embedding::backward(context.stream, backward)?;
        let d_sum = d_sum.rows(tokens);
        let mut add = |parameter, segments: &TokenSegments| {
            let sum = SegmentSum {
                input: d_sum,
                segments: segments.view(),
                output: context.parameters.gradients.matrix_mut(parameter),
                workspace: context.workspace.view_mut(),
            };
            segment_sum(context.stream, sum)
        };
        match self.kind {
            EmbeddingKind::Words => add(tables.word, &batch.encoder_words)?,
            EmbeddingKind::Content => add(tables.word, &batch.decoder_words)?,
            EmbeddingKind::Query | EmbeddingKind::QueryPosition => {}
        }
        add(tables.position, &batch.position_segments)?;
        if self.kind != EmbeddingKind::QueryPosition {
            // Every token is of type 0: the first row of the table.
            let row = tables.token_type.slice_rows(0..1);
            let output = context.parameters.gradients.matrix_mut(row).into_view();
            let workspace = context.workspace.view_mut();
            column_sum(context.stream, ColumnSum { input: d_sum, output, accumulate: true, workspace })?;
        }
        let Some(d_hidden) = d_hidden else { return Ok(()) };
        let first_rows = batch.first_rows.view();
        let (input, indices, offsets) = match self.kind {
            // Position 0 is the vector itself.
            EmbeddingKind::Content => (d_output, Some(first_rows), batch.sentence_offsets.view()),
            // Every token of the sentence reads it.
            _ => (d_sum, None, batch.cu_seqlens.view()),
        };
        let sum = SegmentSum {
            input,
            segments: Segments { keys: Some(first_rows), offsets, indices },
            output: d_hidden,
            workspace: context.workspace.view_mut(),
        };
        segment_sum(context.stream, sum)
    }

    fn embedding<'a>(
        &self,
        batch: &'a Inputs,
        weights: &'a Weights<T>,
        vectors: Option<Matrix<'a, T>>,
        dropout: Option<Dropout<'a>>,
    ) -> Embedding<'a, T> {
        let EmbeddingTables { position, token_type, gamma, beta, eps, .. } = self.tables;
        Embedding {
            source: self.source(batch, weights, vectors),
            slots: batch.positions.view(),
            position: weights.matrix(position),
            token_type: weights.matrix(token_type),
            gamma: weights.vector(gamma),
            beta: weights.vector(beta),
            eps,
            dropout,
        }
    }

    fn source<'a>(
        &self,
        batch: &'a Inputs,
        weights: &'a Weights<T>,
        vectors: Option<Matrix<'a, T>>,
    ) -> Source<'a, T> {
        let words = |ids| Words { ids, table: weights.matrix(self.tables.word) };
        let sentences = || {
            let vectors = vectors.expect("the decoder's embeddings have sentence vectors");
            Sentences { indices: batch.sentence_of.view(), vectors }
        };
        match self.kind {
            EmbeddingKind::Words => Source::Word(words(batch.encoder_ids.view())),
            EmbeddingKind::Content => Source::Content(words(batch.decoder_ids.view()), sentences()),
            EmbeddingKind::Query => Source::Query(sentences()),
            EmbeddingKind::QueryPosition => Source::QueryPosition(sentences()),
        }
    }
}
