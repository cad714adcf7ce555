//! The embeddings of the encoder's tokens, and of the decoder's content and query streams.

use crate::device::{Buffer, Device, Matrix, MatrixBuffer, MatrixMut, ModelFloat};
use crate::model::arena::Weights;
use crate::model::context::{Context, Site};
use crate::model::inputs::Inputs;
use crate::model::parameter_table::{Parameter, ParameterTable};
use crate::model::{Capacity, ModelConfig};
use crate::ops::embedding::{self, Embedding, Sentences, Source, TableGradient, TableGradients, Words};
use crate::ops::segment_sum::Segments;
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
    /// The same of the decoder's tokens, with the sentence vector at position 0.
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
    ) -> Result<()> {
        let (batch, tokens, dropout) = (context.batch, context.batch.tokens, context.dropout(self.site));
        let EmbeddingTables { word, position, token_type, gamma, beta, .. } = self.tables;
        let [d_word, d_position, d_token_type, d_gamma, d_beta] =
            context.parameters.gradients.disjoint_mut([word, position, token_type, gamma, beta]);
        let words = match self.kind {
            EmbeddingKind::Words => Some(&batch.encoder_words),
            EmbeddingKind::Content => Some(&batch.decoder_words),
            EmbeddingKind::Query | EmbeddingKind::QueryPosition => None,
        };
        let backward = embedding::Backward {
            embedding: self.embedding(batch, &context.parameters.weights, vectors, dropout),
            mean: self.mean.slice(0..tokens),
            rstd: self.rstd.slice(0..tokens),
            d_output,
            d_gamma: d_gamma.into_view(),
            d_beta: d_beta.into_view(),
            position: TableGradient { segments: batch.position_segments.view(), d_table: d_position },
            tables: TableGradients {
                word: words.map(|words| TableGradient { segments: words.view(), d_table: d_word }),
                token_type: (self.kind != EmbeddingKind::QueryPosition).then_some(d_token_type),
                sentences: d_hidden
                    .map(|d_table| TableGradient { segments: self.readers_of_vectors(batch), d_table }),
            },
            workspace: context.workspace.view_mut(),
        };
        embedding::backward(context.stream, backward)
    }

    /// The tokens that read each sentence's vector, whose gradient goes to the sentence's first row.
    fn readers_of_vectors<'a>(&self, batch: &'a Inputs) -> Segments<'a> {
        let first_rows = Some(batch.first_rows.view());
        if self.kind == EmbeddingKind::Content {
            // The first row of a sentence is the vector itself.
            let offsets = batch.sentence_offsets.view();
            return Segments { offsets, indices: first_rows, keys: first_rows };
        }
        // Every token of the sentence reads it.
        Segments { keys: first_rows, ..Segments::consecutive(batch.cu_seqlens.view()) }
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
            positions: batch.positions.view(),
            position_table: weights.matrix(position),
            token_type_table: weights.matrix(token_type),
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
