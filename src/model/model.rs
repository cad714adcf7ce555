//! The model on a device: parameters, activations, and the training step.

use super::embeddings::{Embeddings, Place};
use super::head::Head;
use super::inputs::{self, Inputs};
use super::layer::{Activations, Layer, Streams};
use super::layout::LayerRanges;
use super::masks::Masks;
use super::parameters::{Parameters, Weights, require_all};
use super::recorded::Training;
use super::scratch::Scratch;
use super::shape::Shape;
use super::staged_buffer::StagedBuffer;
use super::{Capacity, DecoderKind, ModelConfig, QueryKind, dropout_site};
use crate::device::{Buffer, Device, ModelFloat, Stream, View};
use crate::ops::attention::Mask;
use crate::ops::embedding::{Sentences, Source, Words};
use crate::ops::segment_sum::{SegmentSum, Segments, segment_sum};
use crate::ops::{Result, rows};

/// Pooling of a sentence's last hidden states into one vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// The hidden state of slot 0, `[CLS]`, which RetroMAE trains.
    #[default]
    Cls,
    /// The mean over all tokens, `[CLS]` and `[SEP]` included.
    Mean,
}

/// The randomness of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepRandomness {
    pub seed: u64,
    pub step: u32,
}

/// Losses of a step: for encoder and decoder the mean cross-entropy over the labeled tokens, 0 without any. Accuracy is the fraction of these tokens
/// whose id had the highest logit (0 without any); perplexity is the exponential of their mean negative log-probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Losses {
    pub encoder: f32,
    pub decoder: f32,
    /// Mean bag-of-words loss of the sentences; `None` without that head.
    pub bag_of_words: Option<f32>,
    pub encoder_accuracy: f32,
    pub decoder_accuracy: f32,
    pub encoder_perplexity: f32,
    pub decoder_perplexity: f32,
}

/// A RetroMAE model that computes in `T`; master weights, gradients and optimizer state are f32.
///
/// All device memory is allocated when the model is created: parameters, the activations of the largest batch, and scratch. Every call uses
/// this memory, so calls on different streams are ordered only if the streams [wait](Stream::wait) for each other.
#[derive(Debug)]
pub struct Model<T: ModelFloat> {
    pub(super) config: ModelConfig,
    pub(super) capacity: Capacity,
    pub(super) parameters: Parameters<T>,
    pub(super) inputs: Inputs,
    pub(super) masks: Masks,
    /// `[4]`: the step's random state
    pub(super) rng: StagedBuffer<u32>,
    encoder_input: Embeddings<T>,
    layers: Vec<Activations<T>>,
    /// `[B, H]` last hidden states of each sentence's slot 0
    sentence_vectors: Buffer<T>,
    query: Embeddings<T>,
    content: Embeddings<T>,
    decoder: Activations<T>,
    pub(super) head: Head<T>,
    /// `[T, H]` gradients, swapped from layer to layer in the backward pass
    d_hidden: Buffer<T>,
    d_next: Buffer<T>,
    d_decoder: Buffer<T>,
    d_content: Buffer<T>,
    pub(super) scratch: Scratch<T>,
    /// `[1]`: squared norm of the gradients
    pub(super) squared_norm: Buffer<f32>,
    /// `[4]`: the optimizer's schedule
    pub(super) schedule: StagedBuffer<f32>,
    pub(super) training: Training,
}

impl<T: ModelFloat> Model<T> {
    /// Returns the bytes that [`Model::new`] allocates on `device`; a step allocates no more.
    ///
    /// # Errors
    /// As [`ModelConfig::validate`] and [`Capacity::validate`].
    pub fn memory_bytes(device: &Device, config: &ModelConfig, capacity: Capacity) -> Result<usize> {
        let counting = device.counting();
        let _model = Self::new(&counting, config, capacity)?;
        Ok(counting.buffer_bytes())
    }

    /// Allocates everything; parameters are zero until [`Model::initialize`] or [`Model::set_parameter`].
    ///
    /// # Errors
    /// As [`ModelConfig::validate`] and [`Capacity::validate`], or when the device has not enough memory.
    pub fn new(device: &Device, config: &ModelConfig, capacity: Capacity) -> Result<Self> {
        config.validate()?;
        capacity.validate(config)?;
        let parameters = Parameters::new(device, config)?;
        let elements = capacity.tokens * config.hidden_size;
        let scratch = Scratch::new(device, config, capacity, parameters.weights.layout.total)?;
        let layers = (0..config.num_hidden_layers).map(|_| Activations::new(device, config, capacity));
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
            decoder: Activations::new(device, config, capacity)?,
            parameters,
            inputs: Inputs::new(device, config, capacity)?,
            masks: Masks::new(device, capacity)?,
            rng: StagedBuffer::new(device, 4)?,
            encoder_input: Embeddings::new(device, config, capacity)?,
            sentence_vectors: device.zeros(capacity.sentences * config.hidden_size)?,
            query: Embeddings::new(device, config, capacity)?,
            content: Embeddings::new(device, config, capacity)?,
            head: Head::new(device, config, capacity)?,
            d_hidden: device.zeros(elements)?,
            d_next: device.zeros(elements)?,
            d_decoder: device.zeros(elements)?,
            d_content: device.zeros(elements)?,
            scratch,
            squared_norm: device.zeros(1)?,
            schedule: StagedBuffer::new(device, 4)?,
            training: Training::new(device)?,
            config: config.clone(),
            capacity,
        })
    }

    /// The model's configuration.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The largest batch that the model has room for.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// Initializes the model as BERT does: matrices N(0, `initializer_range`), LayerNorm weights 1, biases 0; optimizer state 0.
    ///
    /// # Errors
    /// An error of the device.
    pub fn initialize(&mut self, seed: u64) -> Result<()> {
        self.parameters.initialize(seed, self.config.initializer_range)
    }

    /// Hugging Face names and shapes, in arena order: `bert.*` and `cls.*` are the encoder and its head, `decoder.*` the decoder.
    #[must_use]
    pub fn parameter_shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.parameters
            .weights
            .layout
            .entries
            .iter()
            .map(|entry| (entry.name.clone(), entry.shape.clone()))
            .collect()
    }

    /// The f32 master values of a parameter.
    ///
    /// # Errors
    /// When there is no parameter of this name.
    pub fn parameter(&self, name: &str) -> Result<Vec<f32>> {
        self.read(name, &self.parameters.weights.master)
    }

    /// Overwrites a parameter.
    ///
    /// # Errors
    /// When there is no parameter of this name, it has another size, or a value is not finite in `T`.
    pub fn set_parameter(&mut self, name: &str, values: &[f32]) -> Result<()> {
        self.parameters.weights.set(name, values)
    }

    /// The gradient of the total loss of the last [`step`](Self::step); an update leaves it at 0.
    ///
    /// # Errors
    /// When there is no parameter of this name.
    pub fn gradient(&self, name: &str) -> Result<Vec<f32>> {
        self.read(name, &self.parameters.gradients)
    }

    /// First and second moment of a parameter.
    ///
    /// # Errors
    /// When there is no parameter of this name.
    pub fn moments(&self, name: &str) -> Result<(Vec<f32>, Vec<f32>)> {
        Ok((
            self.read(name, &self.parameters.first_moments)?,
            self.read(name, &self.parameters.second_moments)?,
        ))
    }

    /// Overwrites the moments of a parameter.
    ///
    /// # Errors
    /// When there is no parameter of this name, one has another size, a value is not finite, or a second moment is negative.
    pub fn set_moments(&mut self, name: &str, first: &[f32], second: &[f32]) -> Result<()> {
        let range = self.parameters.weights.fitting("first", name, first)?;
        self.parameters.weights.fitting("second", name, second)?;
        require_all("first", name, first, "finite", f32::is_finite)?;
        require_all("second", name, second, "finite and not negative", |value| {
            value.is_finite() && value >= 0.0
        })?;
        self.parameters.first_moments.slice_mut(range.clone()).write(first)?;
        self.parameters.second_moments.slice_mut(range).write(second)?;
        Ok(())
    }

    fn read(&self, name: &str, arena: &Buffer<f32>) -> Result<Vec<f32>> {
        Ok(arena.slice(self.parameters.weights.entry(name)?.range.clone()).read()?)
    }

    /// `[B, H]` sentence vectors (last hidden state of slot 0) of packed sentences, without dropout.
    ///
    /// # Errors
    /// When the sentences are inconsistent or exceed the capacity.
    pub fn embed(&mut self, stream: &Stream, cu_seqlens: &[i32], ids: &[i32]) -> Result<Vec<f32>> {
        self.embed_pooled(stream, cu_seqlens, ids, Pooling::Cls)
    }

    /// [`Model::embed`] with a choice of pooling. The vector of an empty sentence is zero.
    ///
    /// # Errors
    /// As [`Model::embed`].
    pub fn embed_pooled(
        &mut self,
        stream: &Stream,
        cu_seqlens: &[i32],
        ids: &[i32],
        pooling: Pooling,
    ) -> Result<Vec<f32>> {
        inputs::check_sentences(&self.config, self.capacity, cu_seqlens, ("ids", ids))?;
        self.inputs.write_sentences(stream, cu_seqlens, &Shape::of_sentences(cu_seqlens))?;
        self.inputs.encoder_ids.write(stream, ids)?;
        self.encode(stream, false)?;
        if pooling == Pooling::Mean {
            self.sum_sentences(stream)?;
        }
        let columns = self.config.hidden_size;
        let elements = self.inputs.sentences * columns;
        let mut vectors: Vec<f32> =
            self.sentence_vectors.slice(0..elements).read()?.into_iter().map(T::to_f32).collect();
        if pooling == Pooling::Mean {
            for (vector, pair) in vectors.chunks_exact_mut(columns).zip(cu_seqlens.windows(2)) {
                let length = (pair[1] - pair[0]).max(1) as f32;
                vector.iter_mut().for_each(|value| *value /= length);
            }
        }
        Ok(vectors)
    }

    /// Overwrites the sentence vectors with each sentence's sum of last hidden states, accumulated in f32.
    fn sum_sentences(&mut self, stream: &Stream) -> Result<()> {
        let columns = self.config.hidden_size;
        let hidden = self.layers.last().map_or(&self.encoder_input.output, |layer| &layer.output);
        let vectors = 0..self.inputs.sentences * columns;
        stream.zero(self.sentence_vectors.slice_mut(vectors.clone()))?;
        let sum = SegmentSum {
            input: hidden.slice(0..self.inputs.tokens * columns).rows_of(columns)?,
            segments: Segments::consecutive(self.inputs.cu_seqlens.view()),
            output: self.sentence_vectors.slice_mut(vectors).rows_of(columns)?,
            workspace: self.scratch.workspace.view_mut(),
        };
        segment_sum(stream, sum)
    }

    /// Enqueues the encoder's forward pass, including the sentence vectors.
    pub(super) fn encode(&mut self, stream: &Stream, dropout: bool) -> Result<()> {
        let columns = self.config.hidden_size;
        let elements = self.inputs.tokens * columns;
        let rng = dropout.then(|| self.rng.view());
        let weights = &self.parameters.weights;
        let at = Place { stream, config: &self.config, weights, inputs: &self.inputs, rng };
        self.encoder_input.forward(
            &at,
            encoder_source(weights, &self.inputs)?,
            dropout_site::ENCODER_EMBEDDING,
        )?;
        for index in 0..self.layers.len() {
            let (done, rest) = self.layers.split_at_mut(index);
            let query =
                done.last().map_or(&self.encoder_input.output, |layer| &layer.output).slice(0..elements);
            let ranges = &weights.layout.layers[index];
            let layer =
                Layer { config: &self.config, ranges, index, inputs: &self.inputs, mask: Mask::Full, rng };
            let streams = Streams { query, content: None };
            layer.forward(stream, weights, streams, &mut rest[0], &mut self.scratch)?;
        }
        let gather = rows::Gather {
            input: self
                .layers
                .last()
                .map_or(&self.encoder_input.output, |layer| &layer.output)
                .slice(0..elements)
                .rows_of(columns)?,
            rows: self.inputs.first_rows.view(),
            output: self.sentence_vectors.slice_mut(0..self.inputs.sentences * columns).rows_of(columns)?,
        };
        rows::gather(stream, gather)
    }

    /// Enqueues the decoder's forward pass.
    pub(super) fn decode(&mut self, stream: &Stream, dropout: bool) -> Result<()> {
        let elements = self.inputs.tokens * self.config.hidden_size;
        let rng = dropout.then(|| self.rng.view());
        let weights = &self.parameters.weights;
        let at = Place { stream, config: &self.config, weights, inputs: &self.inputs, rng };
        let (content, query) = decoder_sources(
            &self.config,
            weights,
            &self.inputs,
            self.sentence_vectors.slice(0..self.inputs.sentences * self.config.hidden_size),
        )?;
        self.content.forward(&at, content, dropout_site::DECODER_CONTENT)?;
        if let Some(query) = query {
            self.query.forward(&at, query, dropout_site::DECODER_QUERY)?;
        }
        let layer = decoder_layer(&self.config, &weights.layout.decoder, &self.inputs, &self.masks, rng);
        let streams = decoder_streams(&self.config, &self.query, &self.content, elements);
        layer.forward(stream, weights, streams, &mut self.decoder, &mut self.scratch)
    }

    /// Enqueues all losses and the head's gradients; leaves the gradients of both outputs in `d_hidden` and `d_decoder`.
    pub(super) fn losses_and_head(&mut self, stream: &Stream) -> Result<()> {
        let elements = self.inputs.tokens * self.config.hidden_size;
        stream.zero(self.d_hidden.slice_mut(0..elements))?;
        stream.zero(self.d_decoder.slice_mut(0..elements))?;
        let encoder = self.layers.last().map_or(&self.encoder_input.output, |layer| &layer.output);
        self.head.forward_backward(
            stream,
            &self.config,
            &mut self.parameters,
            &self.inputs,
            (encoder.slice(0..elements), self.decoder.output.slice(0..elements)),
            (self.d_hidden.slice_mut(0..elements), self.d_decoder.slice_mut(0..elements)),
            &mut self.scratch,
        )?;
        let Some(bags) = &self.inputs.bags else { return Ok(()) };
        self.head.bag_of_words(
            stream,
            &self.config,
            &mut self.parameters,
            (&self.inputs, bags),
            encoder.slice(0..elements),
            self.d_hidden.slice_mut(0..elements),
            &mut self.scratch,
        )
    }

    /// Enqueues the decoder's backward pass, from `d_decoder` to its parameters and inputs; adds the gradient of the sentence vectors to `d_hidden`.
    pub(super) fn decode_backward(&mut self, stream: &Stream, dropout: bool) -> Result<()> {
        let elements = self.inputs.tokens * self.config.hidden_size;
        let rng = dropout.then(|| self.rng.view());
        let enhanced = self.config.decoder == DecoderKind::Enhanced;
        let ranges = self.parameters.weights.layout.decoder.clone();
        let layer = decoder_layer(&self.config, &ranges, &self.inputs, &self.masks, rng);
        layer.backward(
            stream,
            &mut self.parameters,
            decoder_streams(&self.config, &self.query, &self.content, elements),
            &self.decoder,
            self.d_decoder.slice(0..elements),
            self.d_next.slice_mut(0..elements),
            enhanced.then(|| self.d_content.slice_mut(0..elements)),
            &mut self.scratch,
        )?;
        let Parameters { weights, gradients, .. } = &mut self.parameters;
        let at = Place { stream, config: &self.config, weights, inputs: &self.inputs, rng };
        let (content, query) = decoder_sources(
            &self.config,
            weights,
            &self.inputs,
            self.sentence_vectors.slice(0..self.inputs.sentences * self.config.hidden_size),
        )?;
        let d_content = if enhanced { &self.d_content } else { &self.d_next };
        self.content.backward(
            &at,
            content,
            dropout_site::DECODER_CONTENT,
            d_content.slice(0..elements),
            gradients,
            self.d_hidden.slice_mut(0..elements),
            &mut self.scratch,
        )?;
        let Some(query) = query else { return Ok(()) };
        self.query.backward(
            &at,
            query,
            dropout_site::DECODER_QUERY,
            self.d_next.slice(0..elements),
            gradients,
            self.d_hidden.slice_mut(0..elements),
            &mut self.scratch,
        )
    }

    /// Enqueues the encoder's backward pass, from `d_hidden` to its parameters.
    pub(super) fn encode_backward(&mut self, stream: &Stream, dropout: bool) -> Result<()> {
        let elements = self.inputs.tokens * self.config.hidden_size;
        let rng = dropout.then(|| self.rng.view());
        for index in (0..self.layers.len()).rev() {
            let ranges = self.parameters.weights.layout.layers[index].clone();
            let (config, inputs) = (&self.config, &self.inputs);
            let layer = Layer { config, ranges: &ranges, index, inputs, mask: Mask::Full, rng };
            let (done, rest) = self.layers.split_at(index);
            let query =
                done.last().map_or(&self.encoder_input.output, |layer| &layer.output).slice(0..elements);
            layer.backward(
                stream,
                &mut self.parameters,
                Streams { query, content: None },
                &rest[0],
                self.d_hidden.slice(0..elements),
                self.d_next.slice_mut(0..elements),
                None,
                &mut self.scratch,
            )?;
            std::mem::swap(&mut self.d_hidden, &mut self.d_next);
        }
        let Parameters { weights, gradients, .. } = &mut self.parameters;
        let at = Place { stream, config: &self.config, weights, inputs: &self.inputs, rng };
        self.encoder_input.backward(
            &at,
            encoder_source(weights, &self.inputs)?,
            dropout_site::ENCODER_EMBEDDING,
            self.d_hidden.slice(0..elements),
            gradients,
            self.d_next.slice_mut(0..elements),
            &mut self.scratch,
        )
    }
}

fn encoder_source<'a, T: ModelFloat>(weights: &'a Weights<T>, inputs: &'a Inputs) -> Result<Source<'a, T>> {
    let columns = weights.layout.embedding_norm.gamma.len();
    let table = weights.operand(&weights.layout.word).rows_of(columns)?;
    Ok(Source::Word(Words { ids: inputs.encoder_ids.view(), table }))
}

/// Sources of the decoder's content embeddings and, in the enhanced decoder, of its query embeddings.
fn decoder_sources<'a, T: ModelFloat>(
    config: &ModelConfig,
    weights: &'a Weights<T>,
    inputs: &'a Inputs,
    vectors: View<'a, T>,
) -> Result<(Source<'a, T>, Option<Source<'a, T>>)> {
    let columns = config.hidden_size;
    let sentences = Sentences { indices: inputs.sentence_of.view(), vectors: vectors.rows_of(columns)? };
    let table = weights.operand(&weights.layout.word).rows_of(columns)?;
    let words = Words { ids: inputs.decoder_ids.view(), table };
    let query = match (config.decoder, config.query) {
        (DecoderKind::Basic, _) => None,
        (DecoderKind::Enhanced, QueryKind::Embedding) => Some(Source::Query(sentences)),
        (DecoderKind::Enhanced, QueryKind::Position) => Some(Source::QueryPosition(sentences)),
    };
    Ok((Source::Content(words, sentences), query))
}

fn decoder_streams<'a, T: ModelFloat>(
    config: &ModelConfig,
    query: &'a Embeddings<T>,
    content: &'a Embeddings<T>,
    elements: usize,
) -> Streams<'a, T> {
    let content = content.output.slice(0..elements);
    match config.decoder {
        DecoderKind::Basic => Streams { query: content, content: None },
        DecoderKind::Enhanced => Streams { query: query.output.slice(0..elements), content: Some(content) },
    }
}

fn decoder_layer<'a>(
    config: &'a ModelConfig,
    ranges: &'a LayerRanges,
    inputs: &'a Inputs,
    masks: &'a Masks,
    rng: Option<View<'a, u32>>,
) -> Layer<'a> {
    let mask = match config.decoder {
        DecoderKind::Basic => Mask::Full,
        DecoderKind::Enhanced => masks.mask(),
    };
    Layer { config, ranges, index: config.num_hidden_layers, inputs, mask, rng }
}
