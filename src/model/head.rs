//! The masked-language-model head, shared by encoder and decoder, on labeled rows only: the transform, then linear + cross-entropy with the
//! tied word embeddings. Also the bag-of-words head of DupMAE, which runs all of the encoder's tokens through the same layers.

use super::gradients::linear_backward;
use super::inputs::{Bags, Inputs};
use super::parameters::Parameters;
use super::scratch::{HEAD_ALGORITHM, Scratch};
use super::shape::labeled_capacity;
use super::transform::Transform;
use super::{Capacity, ModelConfig};
use crate::device::{Buffer, Device, ModelFloat, Stream, View, ViewMut};
use crate::ops::cross_entropy::Totals;
use crate::ops::{Packed, Result, bag_of_words, cross_entropy, reduce, rows};

/// Buffers of the head for at most M labeled rows: the encoder's first, then the decoder's.
#[derive(Debug)]
pub(super) struct Head<T: ModelFloat> {
    /// `[M, H]` gathered hidden states
    rows: Buffer<T>,
    transform: Transform<T>,
    row_losses: Buffer<f32>,
    log_likelihoods: Buffer<f32>,
    correct: Buffer<u8>,
    /// `[2]` totals of encoder and decoder
    totals: Buffer<Totals>,
    /// `[B]`
    bag_losses: Buffer<f32>,
    /// `[1]` weighted bag-of-words loss; 0 without that head
    bag_loss: Buffer<f32>,
}

impl<T: ModelFloat> Head<T> {
    pub(super) fn new(device: &Device, config: &ModelConfig, capacity: Capacity) -> Result<Self> {
        let rows = labeled_capacity(capacity);
        Ok(Self {
            rows: device.zeros(rows * config.hidden_size)?,
            transform: Transform::new(device, rows, config.hidden_size)?,
            row_losses: device.zeros(rows)?,
            log_likelihoods: device.zeros(rows)?,
            correct: device.zeros(rows)?,
            totals: device.zeros(2)?,
            bag_losses: device.zeros(capacity.sentences)?,
            bag_loss: device.zeros(1)?,
        })
    }

    /// Enqueues the losses of the labeled rows of both outputs, `[T, H]` each, and all gradients of the head; those of the outputs are added to
    /// `d_encoder` and `d_decoder`.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn forward_backward(
        &mut self,
        stream: &Stream,
        config: &ModelConfig,
        parameters: &mut Parameters<T>,
        inputs: &Inputs,
        (encoder, decoder): (View<'_, T>, View<'_, T>),
        (d_encoder, d_decoder): (ViewMut<'_, T>, ViewMut<'_, T>),
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        let columns = config.hidden_size;
        let count = inputs.labeled_rows.len();
        let (middle, elements) = (inputs.decoder_start, count * columns);
        let labeled = inputs.labeled_rows.view();
        let parts = [0..middle, middle..count];
        for (part, input) in parts.iter().zip([encoder, decoder]) {
            let output = self.rows.slice_mut(part.start * columns..part.end * columns).rows_of(columns)?;
            let (input, rows) = (input.rows_of(columns)?, labeled.slice(part.clone()));
            rows::gather(stream, rows::Gather { input, rows, output })?;
        }
        self.transform.forward(stream, config, &parameters.weights, self.rows.slice(0..elements))?;
        self.losses(stream, parameters, inputs, elements, columns, scratch.head.view_mut())?;
        self.transform.backward(stream, parameters, (count, columns), scratch.workspace.view_mut())?;
        linear_backward(
            stream,
            parameters,
            &parameters.weights.layout.transform.clone(),
            (columns, columns),
            self.rows.slice(0..elements),
            self.transform.gradient.slice(0..elements),
            self.transform.spare.slice_mut(0..elements),
            false,
        )?;
        for (part, output) in parts.iter().zip([d_encoder, d_decoder]) {
            let input = self.transform.spare.slice(part.start * columns..part.end * columns);
            let (input, output) = (input.rows_of(columns)?, output.rows_of(columns)?);
            let rows = labeled.slice(part.clone());
            rows::scatter_add(stream, rows::ScatterAdd { input, rows, output })?;
        }
        Ok(())
    }

    /// Enqueues the losses and the gradient of the transform's output.
    fn losses(
        &mut self,
        stream: &Stream,
        parameters: &mut Parameters<T>,
        inputs: &Inputs,
        elements: usize,
        columns: usize,
        workspace: ViewMut<'_, u8>,
    ) -> Result<()> {
        let count = elements / columns;
        let layout = &parameters.weights.layout;
        let [d_weight, d_bias] = parameters.gradients.slices_mut([&layout.word, &layout.head_bias]);
        let weight = parameters.weights.operand(&layout.word);
        let forward = cross_entropy::Forward {
            bias: Some(parameters.weights.master.slice(layout.head_bias.clone())),
            row_weights: Some(inputs.row_weights.view()),
            algorithm: HEAD_ALGORITHM,
            log_likelihoods: Some(self.log_likelihoods.slice_mut(0..count)),
            correct: Some(self.correct.slice_mut(0..count)),
            totals: Some(self.totals.view_mut()),
            group_ends: &[inputs.decoder_start, count],
            ..cross_entropy::Forward::new(
                self.transform.output.slice(0..elements).rows_of(columns)?,
                weight.rows_of(columns)?,
                inputs.targets.view(),
                self.row_losses.slice_mut(0..count),
                workspace,
            )
        };
        let gradients = cross_entropy::Gradients {
            d_hidden: Some(self.transform.gradient.slice_mut(0..elements).rows_of(columns)?),
            d_weight: Some(d_weight.rows_of(columns)?),
            d_bias: Some(d_bias),
        };
        cross_entropy::forward_backward(stream, forward, gradients)
    }

    /// Enqueues the bag-of-words loss of the encoder's output, `[T, H]`, and all of its gradients; that of the output is added to `d_encoder`.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn bag_of_words(
        &mut self,
        stream: &Stream,
        config: &ModelConfig,
        parameters: &mut Parameters<T>,
        (inputs, bags): (&Inputs, &Bags),
        encoder: View<'_, T>,
        d_encoder: ViewMut<'_, T>,
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        let (columns, elements) = (config.hidden_size, encoder.len());
        self.transform.forward(stream, config, &parameters.weights, encoder)?;
        let layout = &parameters.weights.layout;
        let [d_weight, d_bias] = parameters.gradients.slices_mut([&layout.word, &layout.head_bias]);
        let batch = Packed {
            cu_seqlens: inputs.cu_seqlens.view(),
            tokens: elements / columns,
            max_seqlen: config.max_position_embeddings,
        };
        let sentence_weights = &bags.sentence_weights;
        let bags = bag_of_words::Bags {
            offsets: bags.offsets.view(),
            ids: bags.ids.view(),
            weights: Some(bags.weights.view()),
        };
        let forward = bag_of_words::Forward {
            bias: Some(parameters.weights.master.slice(layout.head_bias.clone())),
            sentence_weights: Some(sentence_weights.view()),
            // Without [CLS], from whose vector the decoder reconstructs the sentence.
            first_position: 1,
            algorithm: HEAD_ALGORITHM,
            ..bag_of_words::Forward::new(
                self.transform.output.slice(0..elements).rows_of(columns)?,
                parameters.weights.operand(&layout.word).rows_of(columns)?,
                batch,
                bags,
                self.bag_losses.slice_mut(0..inputs.sentences),
                scratch.head.view_mut(),
            )
        };
        let gradients = bag_of_words::Gradients {
            d_hidden: Some(self.transform.gradient.slice_mut(0..elements).rows_of(columns)?),
            d_weight: Some(d_weight.rows_of(columns)?),
            d_bias: Some(d_bias),
        };
        bag_of_words::forward_backward(stream, forward, gradients)?;
        let sum = reduce::Arguments {
            input: self.bag_losses.slice(0..inputs.sentences),
            output: self.bag_loss.view_mut(),
            accumulate: false,
            workspace: scratch.workspace.view_mut(),
        };
        reduce::sum(stream, sum)?;
        self.transform.backward(
            stream,
            parameters,
            (elements / columns, columns),
            scratch.workspace.view_mut(),
        )?;
        linear_backward(
            stream,
            parameters,
            &parameters.weights.layout.transform.clone(),
            (columns, columns),
            encoder,
            self.transform.gradient.slice(0..elements),
            d_encoder,
            true,
        )
    }

    /// `[1]` weighted bag-of-words loss.
    pub(super) fn bag_loss(&self) -> View<'_, f32> {
        self.bag_loss.view()
    }

    /// `[2]` totals of encoder and decoder.
    pub(super) fn totals(&self) -> View<'_, Totals> {
        self.totals.view()
    }
}
