//! The model on a device: parameters, activations, and the training step.

use super::{Batch, ModelConfig};
use crate::device::{Device, Float, Stream};
use crate::ops::Result;

/// The largest batch that a [`Model`] has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Packed tokens T.
    pub tokens: usize,
    /// Sentences B.
    pub sentences: usize,
    /// The longest sentence.
    pub sentence_length: usize,
}

/// The randomness of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepRandomness {
    pub seed: u64,
    pub step: u32,
}

/// Where the enhanced decoder's position-specific masks come from.
#[derive(Clone, Copy, Debug)]
pub enum Visibility<'a> {
    /// As the batch says (`batch.visibility`; the basic decoder needs none).
    Explicit,
    /// Drawn on the device, from the randomness of the step.
    Drawn {
        /// `[B]` numbers of the sentences in the corpus.
        sentence_indices: &'a [u32],
        /// `[T]`: 0 continuation, 1 start of a word, 2 special.
        word_starts: &'a [u8],
        /// Share of the tokens that a row hides.
        ratio: f32,
        /// Rows of a sentence's bank, at most; SPEC: 128.
        bank_rows_max: usize,
    },
}

/// The two losses of a step, each the mean cross-entropy over its labelled tokens; 0 where there are none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Losses {
    pub encoder: f32,
    pub decoder: f32,
}

/// AdamW's constants (Loshchilov and Hutter, arXiv 1711.05101).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    pub weight_decay: f32,
    /// Gradients are scaled down to this global norm; 0 leaves them.
    pub max_norm: f32,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, max_norm: 1.0 }
    }
}

/// A RetroMAE model that computes in `T`; master weights, gradients and optimizer state are f32.
pub struct Model<T: Float> {
    _element: std::marker::PhantomData<T>,
}

impl<T: Float> Model<T> {
    /// Bytes of device memory that [`Model::new`] allocates, all there is to a step.
    pub fn memory_bytes(config: &ModelConfig, capacity: Capacity) -> Result<usize> {
        todo!()
    }

    /// Allocates everything; parameters are zero until [`Model::initialise`] or [`Model::set_parameter`].
    pub fn new(device: &Device, config: &ModelConfig, capacity: Capacity) -> Result<Self> {
        todo!()
    }

    pub fn config(&self) -> &ModelConfig {
        todo!()
    }

    /// BERT's initialisation: N(0, initializer_range) truncated nowhere, LayerNorm weights 1, biases 0.
    pub fn initialise(&mut self, seed: u64) -> Result<()> {
        todo!()
    }

    /// Hugging Face names and shapes, in arena order. `bert.*` and `cls.*` are the encoder and its head, `decoder.*` the decoder.
    pub fn parameter_shapes(&self) -> Vec<(String, Vec<usize>)> {
        todo!()
    }

    pub fn parameter(&self, name: &str) -> Result<Vec<f32>> {
        todo!()
    }

    pub fn set_parameter(&mut self, name: &str, values: &[f32]) -> Result<()> {
        todo!()
    }

    /// The gradient of the last step's total loss.
    pub fn gradient(&self, name: &str) -> Result<Vec<f32>> {
        todo!()
    }

    /// First and second moment of a parameter, for checkpoints.
    pub fn moments(&self, name: &str) -> Result<(Vec<f32>, Vec<f32>)> {
        todo!()
    }

    pub fn set_moments(&mut self, name: &str, first: &[f32], second: &[f32]) -> Result<()> {
        todo!()
    }

    /// Forward and backward: losses, and all gradients. `randomness: None` drops nothing out (and cannot draw masks).
    pub fn step(
        &mut self,
        stream: &Stream,
        batch: &Batch,
        visibility: Visibility<'_>,
        randomness: Option<StepRandomness>,
    ) -> Result<Losses> {
        todo!()
    }

    /// Clips and applies the gradients; returns their global norm before clipping. Changes nothing when that is not finite.
    /// `update` counts from 1.
    pub fn update(
        &mut self,
        stream: &Stream,
        optimizer: &AdamW,
        learning_rate: f32,
        update: u32,
    ) -> Result<f32> {
        todo!()
    }

    /// `[B, H]` sentence vectors (last hidden state of `[CLS]`) of packed sentences, without dropout.
    pub fn embed(&mut self, stream: &Stream, cu_seqlens: &[i32], ids: &[i32]) -> Result<Vec<f32>> {
        todo!()
    }
}
