//! The embedding layers, forward and backward: rows of a source, position and type embeddings, LayerNorm.

use super::inputs::Inputs;
use super::layer::dropout;
use super::parameters::Weights;
use super::scratch::Scratch;
use super::{Capacity, ModelConfig};
use crate::device::{Buffer, Device, ModelFloat, Stream, View, ViewMut};
use crate::ops::Result;
use crate::ops::embedding::{self, Embedding, Source, TableGradient, TableGradients};
use crate::ops::segment_sum;

/// One embedded stream of the batch.
#[derive(Debug)]
pub(super) struct Embeddings<T: ModelFloat> {
    /// `[T, H]`
    pub output: Buffer<T>,
    mean: Buffer<f32>,
    rstd: Buffer<f32>,
}

/// Per-call context that all embeddings of a step share.
#[derive(Clone, Copy)]
pub(super) struct Place<'a, T: ModelFloat> {
    pub stream: &'a Stream,
    pub config: &'a ModelConfig,
    pub weights: &'a Weights<T>,
    pub inputs: &'a Inputs,
    /// The step's random state; `None` disables dropout.
    pub rng: Option<View<'a, u32>>,
}

impl<'a, T: ModelFloat> Place<'a, T> {
    fn embedding(&self, source: Source<'a, T>, site: u32) -> Result<Embedding<'a, T>> {
        let (layout, columns) = (&self.weights.layout, self.config.hidden_size);
        Ok(Embedding {
            source,
            positions: self.inputs.slots.view(),
            position_table: self.weights.operand(&layout.position).rows_of(columns)?,
            token_type_table: self.weights.operand(&layout.token_type).rows_of(columns)?,
            gamma: self.weights.vector(&layout.embedding_norm.gamma),
            beta: self.weights.vector(&layout.embedding_norm.beta),
            eps: self.config.layer_norm_eps,
            dropout: dropout(self.rng, self.config.hidden_dropout_prob, site),
        })
    }
}

impl<T: ModelFloat> Embeddings<T> {
    pub(super) fn new(device: &Device, config: &ModelConfig, capacity: Capacity) -> Result<Self> {
        let tokens = capacity.tokens;
        let output = device.zeros(tokens * config.hidden_size)?;
        Ok(Self { output, mean: device.zeros(tokens)?, rstd: device.zeros(tokens)? })
    }

    pub(super) fn forward(&mut self, at: &Place<'_, T>, source: Source<'_, T>, site: u32) -> Result<()> {
        let tokens = at.inputs.tokens;
        let forward = embedding::Forward {
            embedding: at.embedding(source, site)?,
            output: self
                .output
                .slice_mut(0..tokens * at.config.hidden_size)
                .rows_of(at.config.hidden_size)?,
            mean: self.mean.slice_mut(0..tokens),
            rstd: self.rstd.slice_mut(0..tokens),
        };
        embedding::forward(at.stream, forward)
    }

    /// Adds the gradients of the tables that `source` reads. If `source` reads the sentence vectors, adds their gradients to each sentence's
    /// first row of `d_hidden` (`[T, H]`).
    #[allow(clippy::too_many_arguments)]
    pub(super) fn backward(
        &self,
        at: &Place<'_, T>,
        source: Source<'_, T>,
        site: u32,
        d_output: View<'_, T>,
        gradients: &mut Buffer<f32>,
        d_hidden: ViewMut<'_, T>,
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        let (tokens, columns, layout) = (at.inputs.tokens, at.config.hidden_size, &at.weights.layout);
        let inputs = at.inputs;
        let norm = &layout.embedding_norm;
        let ranges = [&norm.gamma, &norm.beta, &layout.word, &layout.position, &layout.token_type];
        let [d_gamma, d_beta, d_word, d_position, d_token_type] = gradients.slices_mut(ranges);
        let d_token_type = d_token_type.rows_of(columns)?;
        let first_rows = Some(inputs.first_rows.view());
        let (words, token_type, sentences) = match source {
            Source::Word(_) => (Some(&inputs.encoder_words), Some(d_token_type), None),
            // The first row of a sentence is the vector itself.
            Source::Content(..) => {
                let offsets = inputs.sentence_offsets.view();
                let first = segment_sum::Segments { offsets, indices: first_rows, keys: first_rows };
                (Some(&inputs.decoder_words), Some(d_token_type), Some(first))
            }
            // Every token of the sentence reads it.
            Source::Query(_) | Source::QueryPosition(_) => {
                let runs = segment_sum::Segments::consecutive(inputs.cu_seqlens.view());
                let all = segment_sum::Segments { keys: first_rows, ..runs };
                let token_type = matches!(source, Source::Query(_)).then_some(d_token_type);
                (None, token_type, Some(all))
            }
        };
        let d_word = d_word.rows_of(columns)?;
        let d_hidden = d_hidden.rows_of(columns)?;
        let backward = embedding::Backward {
            embedding: at.embedding(source, site)?,
            mean: self.mean.slice(0..tokens),
            rstd: self.rstd.slice(0..tokens),
            d_output: d_output.rows_of(columns)?,
            d_gamma,
            d_beta,
            position: TableGradient {
                segments: inputs.positions.view(),
                d_table: d_position.rows_of(columns)?,
            },
            tables: TableGradients {
                word: words.map(|words| TableGradient { segments: words.view(), d_table: d_word }),
                token_type,
                sentences: sentences.map(|segments| TableGradient { segments, d_table: d_hidden }),
            },
            workspace: scratch.workspace.view_mut(),
        };
        embedding::backward(at.stream, backward)
    }
}
