//! The model on a device: parameters, activations, and the passes over a batch.

use std::ops::Range;

use super::arena::{ArenaArrays, ParameterArena};
use super::blocks::{EmbeddingTables, Head, HeadOutputs};
use super::context::Context;
use super::decoder::Decoder;
use super::encoder::Encoder;
use super::hidden_gradients::HiddenGradients;
use super::inputs::{self, Inputs};
use super::masks::Masks;
use super::parameter_table::ParameterTable;
use super::recorded::Training;
use super::scratch::Scratch;
use super::shape::{BatchShape, labeled_capacity};
use super::staged_buffer::StagedBuffer;
use super::{Capacity, ModelConfig};
use crate::device::{Buffer, DType, Device, ModelFloat, Stream};
use crate::ops::{Result, Workspace, column_sum, embedding, layer_norm, reduce, segment_sum};

/// Pooling of a sentence's last hidden states into one vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// The hidden state of position 0, `[CLS]`, which RetroMAE trains.
    #[default]
    Cls,
    /// The mean over all tokens, `[CLS]` and `[SEP]` included.
    Mean,
}

/// The randomness of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepRandomness {
    /// Seed of the run; the Philox key of masks and dropout.
    pub seed: u64,
    /// Training step; each number samples other masks and another dropout.
    pub step: u32,
}

/// Losses of a step: for encoder and decoder the mean cross-entropy over the labeled tokens, 0 without any. Accuracy is the fraction of these tokens
/// whose id had the highest logit (0 without any); perplexity is the exponential of their mean negative log-probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Losses {
    /// Mean cross-entropy of the encoder, in nats.
    pub encoder: f32,
    /// Mean cross-entropy of the decoder, in nats.
    pub decoder: f32,
    /// Mean bag-of-words loss of the sentences; `None` without that head.
    pub bag_of_words: Option<f32>,
    /// Accuracy of the encoder, in `[0, 1]`.
    pub encoder_accuracy: f32,
    /// Accuracy of the decoder, in `[0, 1]`.
    pub decoder_accuracy: f32,
    /// Perplexity of the encoder, at least 1.
    pub encoder_perplexity: f32,
    /// Perplexity of the decoder, at least 1.
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
    pub(super) parameters: ParameterArena<T>,
    pub(super) inputs: Inputs,
    pub(super) masks: Masks,
    /// `[4]`: the step's random state
    pub(super) rng: StagedBuffer<u32>,
    encoder: Encoder<T>,
    decoder: Decoder<T>,
    pub(super) head: Head<T>,
    gradients: HiddenGradients<T>,
    scratch: Scratch<T>,
    /// Workspace of all operations but the losses
    workspace: Buffer<u8>,
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
        let (sizes, mut table) = ((config, capacity), ParameterTable::new());
        let tables = EmbeddingTables::new(&mut table, "bert.embeddings", config);
        Ok(Self {
            encoder: Encoder::new(device, &mut table, "bert.encoder", sizes, tables)?,
            decoder: Decoder::new(device, &mut table, "decoder", sizes, tables)?,
            head: Head::new(device, &mut table, "cls.predictions", sizes, tables.word)?,
            parameters: ParameterArena::new(device, table)?,
            inputs: Inputs::new(device, config, capacity)?,
            masks: Masks::new(device, capacity)?,
            rng: StagedBuffer::new(device, 4)?,
            gradients: HiddenGradients::new(device, config, capacity)?,
            scratch: Scratch::new(device, config, capacity)?,
            workspace: workspace(T::DTYPE, config, capacity).allocate(device)?,
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
        self.forget_gradients();
        self.parameters.initialize(seed, self.config.initializer_range)
    }

    /// Hugging Face names and shapes, in arena order: `bert.*` and `cls.*` are the encoder and its head, `decoder.*` the decoder.
    #[must_use]
    pub fn parameter_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let shapes = self.parameters.table().shapes();
        shapes.map(|(name, shape)| (name.to_owned(), shape.to_vec())).collect()
    }

    /// The arrays of all parameters, for an optimizer or an all-reduce of one's own: after gradients were [computed](Self::step) or
    /// [accumulated](Self::accumulate), and before they are [zeroed](Self::zero_gradients).
    pub fn arrays(&mut self) -> ArenaArrays<'_, T> {
        self.parameters.arrays()
    }

    /// Names and places of the parameters in each of the [arrays](Self::arrays): ranges of elements.
    #[must_use]
    pub fn parameter_ranges(&self) -> Vec<(String, Range<usize>)> {
        self.parameters.table().ranges().map(|(name, range)| (name.to_owned(), range)).collect()
    }

    /// Enqueues the zeroing of all gradients, as after an update: the next batch's are the first ones.
    ///
    /// # Errors
    /// An error of the device.
    pub fn zero_gradients(&mut self, stream: &Stream) -> Result<()> {
        self.forget_gradients();
        self.parameters.zero_gradients(stream)
    }

    /// The f32 master values of a parameter.
    ///
    /// # Errors
    /// When there is no parameter of this name.
    pub fn parameter(&self, name: &str) -> Result<Vec<f32>> {
        self.parameters.get(name)
    }

    /// Overwrites a parameter.
    ///
    /// # Errors
    /// When there is no parameter of this name, it has another size, or a value is not finite in `T`.
    pub fn set_parameter(&mut self, name: &str, values: &[f32]) -> Result<()> {
        self.parameters.set(name, values)
    }

    /// The gradient of the total loss of the last [`step`](Self::step), or of the batches that were [accumulated](Self::accumulate); an update
    /// leaves it at 0.
    ///
    /// # Errors
    /// When there is no parameter of this name.
    pub fn gradient(&self, name: &str) -> Result<Vec<f32>> {
        self.parameters.gradient(name)
    }

    /// First and second moment of a parameter.
    ///
    /// # Errors
    /// When there is no parameter of this name.
    pub fn moments(&self, name: &str) -> Result<(Vec<f32>, Vec<f32>)> {
        self.parameters.moments(name)
    }

    /// Overwrites the moments of a parameter.
    ///
    /// # Errors
    /// When there is no parameter of this name, one has another size, a value is not finite, or a second moment is negative.
    pub fn set_moments(&mut self, name: &str, first: &[f32], second: &[f32]) -> Result<()> {
        self.parameters.set_moments(name, first, second)
    }

    /// `[B, H]` sentence vectors (last hidden state of position 0) of packed sentences, without dropout.
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
        self.inputs.write_sentences(stream, cu_seqlens, &BatchShape::of_sentences(cu_seqlens))?;
        self.inputs.encoder_ids.write(stream, ids)?;
        let Self { encoder, scratch, inputs, parameters, workspace, .. } = self;
        let context = &mut Context { stream, batch: inputs, rng: None, parameters, workspace };
        encoder.forward(context, scratch)?;
        if pooling == Pooling::Mean {
            encoder.sum_sentences(context)?;
        }
        let vectors = encoder.vectors(self.inputs.sentences);
        let columns = vectors.columns();
        let mut vectors: Vec<f32> = vectors.view().read()?.into_iter().map(T::to_f32).collect();
        if pooling == Pooling::Mean {
            for (vector, pair) in vectors.chunks_exact_mut(columns).zip(cu_seqlens.windows(2)) {
                let length = (pair[1] - pair[0]).max(1) as f32;
                vector.iter_mut().for_each(|value| *value /= length);
            }
        }
        Ok(vectors)
    }

    /// Enqueues the forward and backward pass of the batch that was uploaded, from its grouped tokens to the gradients of all parameters.
    pub(super) fn enqueue_passes(&mut self, stream: &Stream, dropout: bool) -> Result<()> {
        let Self { encoder, decoder, head, gradients, scratch, inputs, masks, .. } = self;
        let (tokens, sentences) = (inputs.tokens, inputs.sentences);
        let context = &mut Context {
            stream,
            batch: inputs,
            rng: dropout.then(|| self.rng.view()),
            parameters: &mut self.parameters,
            workspace: &mut self.workspace,
        };
        let mask = masks.mask(self.config.decoder);
        encoder.forward(context, scratch)?;
        decoder.forward(context, encoder.vectors(sentences), mask, scratch)?;
        stream.zero(gradients.encoder.rows_mut(tokens).into_view())?;
        stream.zero(gradients.decoder.rows_mut(tokens).into_view())?;
        let outputs = HeadOutputs {
            encoder: encoder.output(tokens),
            decoder: decoder.output(tokens),
            d_encoder: gradients.encoder.rows_mut(tokens),
            d_decoder: gradients.decoder.rows_mut(tokens),
        };
        head.forward_backward(context, outputs)?;
        decoder.backward(context, encoder.vectors(sentences), mask, gradients, scratch)?;
        encoder.backward(context, gradients, scratch)
    }
}

/// Workspace of every operation but the losses, one at a time.
fn workspace(dtype: DType, config: &ModelConfig, capacity: Capacity) -> Workspace {
    let Capacity { tokens, sentences, .. } = capacity;
    let (hidden, labeled) = (config.hidden_size, labeled_capacity(capacity));
    column_sum::workspace(tokens, config.intermediate_size.max(3 * hidden))
        .either(column_sum::workspace(labeled, hidden))
        .either(layer_norm::workspace(labeled, hidden))
        .either(embedding::workspace(dtype, tokens.max(sentences), hidden))
        .either(segment_sum::workspace(tokens.max(sentences), hidden))
        .either(reduce::workspace(sentences))
}
