//! The embedding layers, forward and backward: rows of a source, position and type embeddings, LayerNorm.

use super::inputs::{Inputs, Segments};
use super::layer::dropout;
use super::parameters::Weights;
use super::scratch::Scratch;
use super::{Capacity, ModelConfig};
use crate::device::{Buffer, Device, ModelFloat, Stream, View, ViewMut};
use crate::ops::Result;
use crate::ops::column_sum::{ColumnSum, column_sum};
use crate::ops::embedding::{self, Embedding, Source};
use crate::ops::segment_sum::{self, SegmentSum, segment_sum};

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

    /// Adds the rows of `input` to a table's gradient.
    fn add_segments(
        &self,
        input: View<'_, T>,
        segments: &Segments,
        d_table: ViewMut<'_, f32>,
        workspace: ViewMut<'_, u8>,
    ) -> Result<()> {
        let columns = self.config.hidden_size;
        let segments = segment_sum::Segments {
            indices: Some(segments.indices()),
            offsets: segments.offsets(),
            keys: Some(segments.keys()),
        };
        let (input, output) = (input.rows_of(columns)?, d_table.rows_of(columns)?);
        let sum = SegmentSum { input, segments, output, workspace };
        segment_sum(self.stream, sum)
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
        let [d_gamma, d_beta] =
            gradients.slices_mut([&layout.embedding_norm.gamma, &layout.embedding_norm.beta]);
        let backward = embedding::Backward {
            embedding: at.embedding(source, site)?,
            mean: self.mean.slice(0..tokens),
            rstd: self.rstd.slice(0..tokens),
            d_output: d_output.rows_of(columns)?,
            d_sum: scratch.d_projection.slice_mut(0..tokens * columns).rows_of(columns)?,
            d_gamma,
            d_beta,
            workspace: scratch.workspace.view_mut(),
        };
        embedding::backward(at.stream, backward)?;
        let d_sum = scratch.d_projection.slice(0..tokens * columns);
        let words = match source {
            Source::Word(_) => Some(&at.inputs.encoder_words),
            Source::Content(..) => Some(&at.inputs.decoder_words),
            Source::Query(_) | Source::QueryPosition(_) => None,
        };
        if let Some(words) = words {
            let d_table = gradients.slice_mut(layout.word.clone());
            at.add_segments(d_sum, words, d_table, scratch.workspace.view_mut())?;
        }
        let d_table = gradients.slice_mut(layout.position.clone());
        at.add_segments(d_sum, &at.inputs.positions, d_table, scratch.workspace.view_mut())?;
        if !matches!(source, Source::QueryPosition(_)) {
            // Every token is of type 0: the first row of the table.
            let output = gradients.slice_mut(layout.token_type.start..layout.token_type.start + columns);
            let workspace = scratch.workspace.view_mut();
            let input = d_sum.rows_of(columns)?;
            column_sum(at.stream, ColumnSum { input, output, accumulate: true, workspace })?;
        }
        let first_rows = at.inputs.first_rows.view();
        let (input, indices, offsets) = match source {
            Source::Word(_) => return Ok(()),
            // Slot 0 is the vector itself.
            Source::Content(..) => (d_output, Some(first_rows), at.inputs.sentence_offsets.view()),
            // Every token of the sentence reads it.
            Source::Query(_) | Source::QueryPosition(_) => (d_sum, None, at.inputs.cu_seqlens.view()),
        };
        let sum = SegmentSum {
            input: input.rows_of(columns)?,
            segments: segment_sum::Segments { indices, offsets, keys: Some(first_rows) },
            output: d_hidden.rows_of(columns)?,
            workspace: scratch.workspace.view_mut(),
        };
        segment_sum(at.stream, sum)
    }
}
