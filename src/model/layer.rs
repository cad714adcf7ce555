//! One transformer layer, forward and backward. The encoder's layers and the basic decoder attend within one stream; the enhanced decoder
//! takes its queries from a second stream.

use std::ops::Range;

use super::gradients::{NormActivations, bias_backward, linear_backward, normalize_backward};
use super::inputs::Inputs;
use super::layout::{LayerRanges, Linear, Norm};
use super::parameters::{Parameters, Weights};
use super::scratch::Scratch;
use super::{Capacity, ModelConfig, dropout_site};
use crate::device::{Buffer, Device, Matrix, MatrixMut, ModelFloat, Stream, View, ViewMut};
use crate::ops::attention::{self, Attention, BackwardOptions, Mask};
use crate::ops::{Dropout, Packed, Result, bias_gelu, layer_norm, linear};

/// Activations that the forward pass of a layer saves for its backward pass.
#[derive(Debug)]
pub(super) struct Activations<T: ModelFloat> {
    /// With one stream `[T, 3H]`; with two, `[T, H]` queries, then `[T, 2H]` keys and values
    query_key_value: Buffer<T>,
    /// `[T, H]` outputs of the attention heads
    context: Buffer<T>,
    /// `[A, T]`
    log_sum_exp: Buffer<f32>,
    attention_norm: NormActivations<T>,
    /// `[T, H]`
    attention_output: Buffer<T>,
    /// `[T, F]`, before bias and GELU
    intermediate: Buffer<T>,
    /// `[T, F]`, after bias and GELU
    activated: Buffer<T>,
    output_norm: NormActivations<T>,
    /// `[T, H]`
    pub output: Buffer<T>,
}

impl<T: ModelFloat> Activations<T> {
    pub(super) fn new(device: &Device, config: &ModelConfig, capacity: Capacity) -> Result<Self> {
        let (tokens, hidden) = (capacity.tokens, config.hidden_size);
        Ok(Self {
            query_key_value: device.zeros(3 * tokens * hidden)?,
            context: device.zeros(tokens * hidden)?,
            log_sum_exp: device.zeros(config.num_attention_heads * tokens)?,
            attention_norm: NormActivations::new(device, tokens, hidden)?,
            attention_output: device.zeros(tokens * hidden)?,
            intermediate: device.zeros(tokens * config.intermediate_size)?,
            activated: device.zeros(tokens * config.intermediate_size)?,
            output_norm: NormActivations::new(device, tokens, hidden)?,
            output: device.zeros(tokens * hidden)?,
        })
    }
}

/// Per-call context of a layer: parameter ranges, layer index for dropout, batch.
#[derive(Clone, Copy)]
pub(super) struct Layer<'a> {
    pub config: &'a ModelConfig,
    pub ranges: &'a LayerRanges,
    /// Layer index; `num_hidden_layers` for the decoder.
    pub index: usize,
    pub inputs: &'a Inputs,
    pub mask: Mask<'a>,
    /// The step's random state; `None` disables dropout.
    pub rng: Option<View<'a, u32>>,
}

/// Inputs of a layer: the stream of queries (also the residual), and a separate stream of keys and values, if any.
#[derive(Clone, Copy)]
pub(super) struct Streams<'a, T: ModelFloat> {
    /// `[T, H]`
    pub query: View<'a, T>,
    /// `[T, H]`
    pub content: Option<View<'a, T>>,
}

/// Dropout at `site` in this step; `None` without randomness or at rate 0.
pub(super) fn dropout(rng: Option<View<'_, u32>>, rate: f32, site: u32) -> Option<Dropout<'_>> {
    rng.filter(|_| rate > 0.0).map(|rng| Dropout { rng, rate, site })
}

impl<'a> Layer<'a> {
    fn tokens(&self) -> usize {
        self.inputs.tokens
    }

    fn attention(&self) -> Attention<'a> {
        let rate = self.config.attention_probs_dropout_prob;
        let batch = Packed {
            cu_seqlens: self.inputs.cu_seqlens.view(),
            tokens: self.tokens(),
            max_seqlen: self.inputs.max_seqlen,
        };
        Attention::new(batch, self.config.num_attention_heads, self.config.head_dim())
            .mask(self.mask)
            .dropout(dropout(self.rng, rate, dropout_site::attention_probabilities(self.index)))
    }

    fn hidden_dropout(&self, site: u32) -> Option<Dropout<'a>> {
        dropout(self.rng, self.config.hidden_dropout_prob, site)
    }

    /// Splits a buffer into queries, keys and values.
    fn split<'b, T: ModelFloat>(&self, buffer: View<'b, T>, two_streams: bool) -> Result<[Matrix<'b, T>; 3]> {
        let (queries, hidden) = (self.tokens() * self.config.hidden_size, self.config.hidden_size);
        if !two_streams {
            return Ok(buffer.rows_of(3 * hidden)?.split_columns());
        }
        let query = buffer.slice(0..queries).rows_of(hidden)?;
        let [key, value] = buffer.slice(queries..buffer.len()).rows_of(2 * hidden)?.split_columns();
        Ok([query, key, value])
    }

    /// Mutable [`split`](Self::split), for gradients.
    fn split_mut<'b, T: ModelFloat>(
        &self,
        buffer: ViewMut<'b, T>,
        two_streams: bool,
    ) -> Result<[MatrixMut<'b, T>; 3]> {
        let hidden = self.config.hidden_size;
        if !two_streams {
            return Ok(buffer.rows_of(3 * hidden)?.split_columns());
        }
        let (queries, rest) = buffer.split_at(self.tokens() * hidden);
        let [key, value] = rest.rows_of(2 * hidden)?.split_columns();
        Ok([queries.rows_of(hidden)?, key, value])
    }

    /// Runs the layer; its output is `activations.output`.
    pub(super) fn forward<T: ModelFloat>(
        &self,
        stream: &Stream,
        weights: &Weights<T>,
        streams: Streams<'_, T>,
        activations: &mut Activations<T>,
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        let (tokens, hidden) = (self.tokens(), self.config.hidden_size);
        self.project(stream, weights, streams, activations)?;
        let packed = 3 * tokens * hidden;
        let [query, key, value] =
            self.split(activations.query_key_value.slice(0..packed), streams.content.is_some())?;
        let forward = attention::Forward {
            attention: self.attention(),
            query,
            key,
            value,
            output: activations.context.slice_mut(0..tokens * hidden).rows_of(hidden)?,
            log_sum_exp: activations.log_sum_exp.slice_mut(0..self.config.num_attention_heads * tokens),
        };
        attention::forward(stream, forward)?;
        let context = activations.context.slice(0..tokens * hidden);
        self.project_and_normalize(
            stream,
            weights,
            (&self.ranges.attention_output, &self.ranges.attention_norm),
            (context, streams.query),
            (&mut activations.attention_norm, &mut activations.attention_output),
            dropout_site::attention_output(self.index),
            scratch,
        )?;
        self.feed_forward(stream, weights, activations, scratch)
    }

    /// Enqueues the projections to queries, keys and values.
    fn project<T: ModelFloat>(
        &self,
        stream: &Stream,
        weights: &Weights<T>,
        streams: Streams<'_, T>,
        activations: &mut Activations<T>,
    ) -> Result<()> {
        let (tokens, hidden) = (self.tokens(), self.config.hidden_size);
        let Linear { weight, bias } = &self.ranges.query_key_value;
        let (weight, bias) = (weights.operand(weight), weights.operand(bias));
        let project = |input, parts: Range<usize>, output: ViewMut<'_, T>| {
            let forward = linear::Forward::new(
                View::rows_of(input, hidden)?,
                weight.slice(parts.start * hidden * hidden..parts.end * hidden * hidden).rows_of(hidden)?,
                output.rows_of(parts.len() * hidden)?,
            );
            linear::forward(stream, forward.bias(bias.slice(parts.start * hidden..parts.end * hidden)))
        };
        let output = activations.query_key_value.slice_mut(0..3 * tokens * hidden);
        let Some(content) = streams.content else { return project(streams.query, 0..3, output) };
        let (query, key_value) = output.split_at(tokens * hidden);
        project(streams.query, 0..1, query)?;
        project(content, 1..3, key_value)
    }

    /// `output = LN(residual + dropout(input · weightᵀ + bias))`.
    #[allow(clippy::too_many_arguments)]
    fn project_and_normalize<T: ModelFloat>(
        &self,
        stream: &Stream,
        weights: &Weights<T>,
        (projection, norm): (&Linear, &Norm),
        (input, residual): (View<'_, T>, View<'_, T>),
        (saved, output): (&mut NormActivations<T>, &mut Buffer<T>),
        site: u32,
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        let (tokens, hidden) = (self.tokens(), self.config.hidden_size);
        let elements = tokens * hidden;
        let in_features = projection.weight.len() / hidden;
        let forward = linear::Forward::new(
            input.rows_of(in_features)?,
            weights.operand(&projection.weight).rows_of(in_features)?,
            scratch.projection.slice_mut(0..elements).rows_of(hidden)?,
        );
        linear::forward(stream, forward)?;
        let forward = layer_norm::Forward {
            input: scratch.projection.slice(0..elements).rows_of(hidden)?,
            gamma: weights.vector(&norm.gamma),
            beta: weights.vector(&norm.beta),
            eps: self.config.layer_norm_eps,
            output: output.slice_mut(0..elements).rows_of(hidden)?,
            mean: saved.mean.slice_mut(0..tokens),
            rstd: saved.rstd.slice_mut(0..tokens),
            fused: layer_norm::Fused {
                bias: Some(weights.vector(&projection.bias)),
                dropout: self.hidden_dropout(site),
                residual: Some(residual.rows_of(hidden)?),
                sum: Some(saved.sum.slice_mut(0..elements).rows_of(hidden)?),
            },
        };
        layer_norm::forward(stream, forward)
    }

    fn feed_forward<T: ModelFloat>(
        &self,
        stream: &Stream,
        weights: &Weights<T>,
        activations: &mut Activations<T>,
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        let (tokens, hidden, wide) = (self.tokens(), self.config.hidden_size, self.config.intermediate_size);
        let forward = linear::Forward::new(
            activations.attention_output.slice(0..tokens * hidden).rows_of(hidden)?,
            weights.operand(&self.ranges.intermediate.weight).rows_of(hidden)?,
            activations.intermediate.slice_mut(0..tokens * wide).rows_of(wide)?,
        );
        linear::forward(stream, forward)?;
        let forward = bias_gelu::Forward {
            input: activations.intermediate.slice(0..tokens * wide).rows_of(wide)?,
            bias: weights.vector(&self.ranges.intermediate.bias),
            output: activations.activated.slice_mut(0..tokens * wide).rows_of(wide)?,
        };
        bias_gelu::forward(stream, forward)?;
        self.project_and_normalize(
            stream,
            weights,
            (&self.ranges.output, &self.ranges.output_norm),
            (
                activations.activated.slice(0..tokens * wide),
                activations.attention_output.slice(0..tokens * hidden),
            ),
            (&mut activations.output_norm, &mut activations.output),
            dropout_site::feed_forward_output(self.index),
            scratch,
        )
    }

    /// Enqueues the backward pass, from the gradient of the output to those of the streams; parameter gradients are added.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn backward<T: ModelFloat>(
        &self,
        stream: &Stream,
        parameters: &mut Parameters<T>,
        streams: Streams<'_, T>,
        activations: &Activations<T>,
        d_output: View<'_, T>,
        d_query: ViewMut<'_, T>,
        d_content: Option<ViewMut<'_, T>>,
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        let mut d_query = d_query;
        self.feed_forward_backward(stream, parameters, activations, d_output, scratch)?;
        self.attention_output_backward(stream, parameters, activations, d_query.reborrow(), scratch)?;
        self.attention_backward(stream, activations, streams.content.is_some(), scratch)?;
        self.project_backward(stream, parameters, streams, d_query, d_content, scratch)
    }

    /// Propagates `d_output` to `scratch.d_attention_output`.
    fn feed_forward_backward<T: ModelFloat>(
        &self,
        stream: &Stream,
        parameters: &mut Parameters<T>,
        activations: &Activations<T>,
        d_output: View<'_, T>,
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        let (tokens, hidden, wide) = (self.tokens(), self.config.hidden_size, self.config.intermediate_size);
        let (output, norm) = (&self.ranges.output, &self.ranges.output_norm);
        let site = dropout_site::feed_forward_output(self.index);
        let elements = tokens * hidden;
        let Scratch { d_projection, d_attention_output, d_wide, d_activated, workspace, .. } = scratch;
        normalize_backward(
            stream,
            parameters,
            (norm, output),
            &activations.output_norm,
            self.hidden_dropout(site),
            d_output,
            (d_attention_output.slice_mut(0..elements), d_projection.slice_mut(0..elements)),
            workspace.view_mut(),
        )?;
        let d_projection = d_projection.slice(0..elements);
        let (activated, wide_elements) = (activations.activated.slice(0..tokens * wide), tokens * wide);
        let shape = (wide, hidden);
        linear_backward(
            stream,
            parameters,
            output,
            shape,
            activated,
            d_projection,
            d_activated.slice_mut(0..wide_elements),
            false,
        )?;
        let backward = bias_gelu::Backward {
            input: activations.intermediate.slice(0..wide_elements).rows_of(wide)?,
            bias: parameters.weights.vector(&self.ranges.intermediate.bias),
            d_output: d_activated.slice(0..wide_elements).rows_of(wide)?,
            d_input: d_wide.slice_mut(0..wide_elements).rows_of(wide)?,
        };
        bias_gelu::backward(stream, backward)?;
        let d_wide = d_wide.slice(0..wide_elements);
        let bias = &self.ranges.intermediate.bias;
        bias_backward(stream, parameters, bias, d_wide, workspace.view_mut())?;
        let input = activations.attention_output.slice(0..elements);
        let d_input = d_attention_output.slice_mut(0..elements);
        linear_backward(
            stream,
            parameters,
            &self.ranges.intermediate,
            (hidden, wide),
            input,
            d_wide,
            d_input,
            true,
        )
    }

    /// Propagates `scratch.d_attention_output` to `scratch.d_context` and, through the residual, to `d_query`.
    fn attention_output_backward<T: ModelFloat>(
        &self,
        stream: &Stream,
        parameters: &mut Parameters<T>,
        activations: &Activations<T>,
        d_query: ViewMut<'_, T>,
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        let hidden = self.config.hidden_size;
        let elements = self.tokens() * hidden;
        let Scratch { d_projection, d_attention_output, d_context, workspace, .. } = scratch;
        let projection = &self.ranges.attention_output;
        normalize_backward(
            stream,
            parameters,
            (&self.ranges.attention_norm, projection),
            &activations.attention_norm,
            self.hidden_dropout(dropout_site::attention_output(self.index)),
            d_attention_output.slice(0..elements),
            (d_query, d_projection.slice_mut(0..elements)),
            workspace.view_mut(),
        )?;
        let (context, d_projection) =
            (activations.context.slice(0..elements), d_projection.slice(0..elements));
        let d_context = d_context.slice_mut(0..elements);
        linear_backward(
            stream,
            parameters,
            projection,
            (hidden, hidden),
            context,
            d_projection,
            d_context,
            false,
        )
    }

    /// Propagates `scratch.d_context` to `scratch.d_query_key_value`.
    fn attention_backward<T: ModelFloat>(
        &self,
        stream: &Stream,
        activations: &Activations<T>,
        two_streams: bool,
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        let (tokens, hidden) = (self.tokens(), self.config.hidden_size);
        let packed = 3 * tokens * hidden;
        let [query, key, value] = self.split(activations.query_key_value.slice(0..packed), two_streams)?;
        let [d_query, d_key, d_value] =
            self.split_mut(scratch.d_query_key_value.slice_mut(0..packed), two_streams)?;
        let backward = attention::Backward {
            attention: self.attention(),
            query,
            key,
            value,
            output: activations.context.slice(0..tokens * hidden).rows_of(hidden)?,
            log_sum_exp: activations.log_sum_exp.slice(0..self.config.num_attention_heads * tokens),
            d_output: scratch.d_context.slice(0..tokens * hidden).rows_of(hidden)?,
            d_query,
            d_key,
            d_value,
            options: BackwardOptions::default(),
        };
        attention::backward(stream, backward)
    }

    /// Propagates `scratch.d_query_key_value` to the streams: adds to `d_query`, writes `d_content`.
    fn project_backward<T: ModelFloat>(
        &self,
        stream: &Stream,
        parameters: &mut Parameters<T>,
        streams: Streams<'_, T>,
        d_query: ViewMut<'_, T>,
        d_content: Option<ViewMut<'_, T>>,
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        let (tokens, hidden) = (self.tokens(), self.config.hidden_size);
        let Scratch { d_query_key_value, workspace, .. } = scratch;
        let d_packed = d_query_key_value.slice(0..3 * tokens * hidden);
        let Linear { weight, bias } = &self.ranges.query_key_value;
        let part = |range: &Range<usize>, parts: Range<usize>, size: usize| {
            range.start + parts.start * size..range.start + parts.end * size
        };
        let mut backward = |input, d_output, parts: Range<usize>, d_input, accumulate| {
            let linear = Linear {
                weight: part(weight, parts.clone(), hidden * hidden),
                bias: part(bias, parts.clone(), hidden),
            };
            bias_backward(stream, parameters, &linear.bias, d_output, workspace.view_mut())?;
            let shape = (hidden, parts.len() * hidden);
            linear_backward(stream, parameters, &linear, shape, input, d_output, d_input, accumulate)
        };
        match (streams.content, d_content) {
            (Some(content), Some(d_content)) => {
                let (queries, all) = (tokens * hidden, d_packed.len());
                backward(streams.query, d_packed.slice(0..queries), 0..1, d_query, true)?;
                backward(content, d_packed.slice(queries..all), 1..3, d_content, false)
            }
            _ => backward(streams.query, d_packed, 0..3, d_query, true),
        }
    }
}
