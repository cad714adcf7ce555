//! The masked-language-model head, shared by encoder and decoder, on labeled rows only: the transform, then linear + cross-entropy with the
//! tied word embeddings. Also the bag-of-words head of DupMAE, which runs all of the encoder's tokens through the same layers.

use std::ops::Range;

use super::transform::Transform;
use crate::device::{Buffer, Device, Matrix, MatrixBuffer, MatrixMut, ModelFloat, View};
use crate::model::context::Context;
use crate::model::inputs::Bags;
use crate::model::parameter_table::{Parameter, ParameterTable};
use crate::model::shape::labeled_capacity;
use crate::model::{Capacity, ModelConfig};
use crate::ops::cross_entropy::{Algorithm, Gradients, Totals};
use crate::ops::{Result, Workspace, bag_of_words, cross_entropy, reduce, rows};

/// The algorithm of the losses: it supports every dtype, and is the faster one in the CPU emulator.
const ALGORITHM: Algorithm = Algorithm::Library;
/// Bytes of logits that exist at once in the CPU emulator: a fraction of a processor's last-level cache.
const HOST_LOGIT_BYTES: usize = 8 << 20;
/// Rows of logits that exist at once on a GPU: each chunk reads and writes the whole f32 gradient of the embeddings, which costs as much as the
/// matmuls of a thousand rows, so chunks are several thousand rows.
const CUDA_LOGIT_ROWS: usize = 4096;

/// The head, with buffers for at most M labeled rows: the encoder's first, then the decoder's.
#[derive(Debug)]
pub(in crate::model) struct Head<T: ModelFloat> {
    transform: Transform<T>,
    /// `[V, H]`: the word embeddings
    weight: Parameter,
    /// `[V]`
    bias: Parameter,
    /// `[M, H]` gathered hidden states
    rows: MatrixBuffer<T>,
    row_losses: Buffer<f32>,
    log_likelihoods: Buffer<f32>,
    correct: Buffer<u8>,
    /// `[2]` totals of encoder and decoder
    totals: Buffer<Totals>,
    /// `[B]`
    bag_losses: Buffer<f32>,
    /// `[1]` weighted bag-of-words loss; 0 without that head
    bag_loss: Buffer<f32>,
    workspace: Buffer<u8>,
}

/// `[T, H]` last hidden states of encoder and decoder, and where their gradients are added.
pub(in crate::model) struct HeadOutputs<'a, T: ModelFloat> {
    pub encoder: Matrix<'a, T>,
    pub decoder: Matrix<'a, T>,
    pub d_encoder: MatrixMut<'a, T>,
    pub d_decoder: MatrixMut<'a, T>,
}

impl<T: ModelFloat> Head<T> {
    /// Adds `{name}.transform` and `{name}.bias` to the table; `weight` is the word embeddings.
    pub(in crate::model) fn new(
        device: &Device,
        table: &mut ParameterTable,
        name: &str,
        (config, capacity): (&ModelConfig, Capacity),
        weight: Parameter,
    ) -> Result<Self> {
        let rows = labeled_capacity(capacity);
        Ok(Self {
            transform: Transform::new(device, table, &format!("{name}.transform"), config, rows)?,
            weight,
            bias: table.vector(format!("{name}.bias"), config.vocab_size, 0.0),
            rows: device.matrix(rows, config.hidden_size)?,
            row_losses: device.zeros(rows)?,
            log_likelihoods: device.zeros(rows)?,
            correct: device.zeros(rows)?,
            totals: device.zeros(2)?,
            bag_losses: device.zeros(capacity.sentences)?,
            bag_loss: device.zeros(1)?,
            workspace: workspace::<T>(device, config, capacity).allocate(device)?,
        })
    }

    /// Enqueues all losses, and all gradients of the head.
    pub(in crate::model) fn forward_backward(
        &mut self,
        context: &mut Context<'_, T>,
        outputs: HeadOutputs<'_, T>,
    ) -> Result<()> {
        let HeadOutputs { encoder, decoder, mut d_encoder, d_decoder } = outputs;
        self.cross_entropy(context, [encoder, decoder], [d_encoder.reborrow(), d_decoder])?;
        match &context.batch.bags {
            Some(bags) => self.bag_of_words(context, bags, encoder, d_encoder),
            None => Ok(()),
        }
    }

    /// Enqueues the losses of the labeled rows of both outputs; adds the gradients to `d_outputs`.
    fn cross_entropy(
        &mut self,
        context: &mut Context<'_, T>,
        outputs: [Matrix<'_, T>; 2],
        d_outputs: [MatrixMut<'_, T>; 2],
    ) -> Result<()> {
        let labeled = context.batch.labeled_rows.view();
        let ranges = context.batch.labeled_ranges();
        let mut gathered = self.rows.rows_mut(labeled.len());
        for (range, input) in ranges.iter().zip(outputs) {
            let (output, rest) = gathered.split_rows(range.len());
            gathered = rest;
            let gather = rows::Gather { input, rows: labeled.slice(range.clone()), output };
            rows::gather(context.stream, gather)?;
        }
        let rows = self.rows.rows(labeled.len());
        self.transform.forward(context, rows)?;
        self.losses(context, &ranges)?;
        let d_rows = self.transform.backward(context, self.rows.rows(labeled.len()))?;
        for (range, output) in ranges.iter().zip(d_outputs) {
            let input = d_rows.slice_rows(range.clone());
            let scatter = rows::ScatterAdd { input, rows: labeled.slice(range.clone()), output };
            rows::scatter_add(context.stream, scatter)?;
        }
        Ok(())
    }

    /// Enqueues the losses and the gradient of the transform's output.
    fn losses(&mut self, context: &mut Context<'_, T>, ranges: &[Range<usize>; 2]) -> Result<()> {
        let count = ranges[1].end;
        let [d_weight, d_bias] = context.parameters.gradients.disjoint_mut([self.weight, self.bias]);
        let (weights, batch) = (&context.parameters.weights, context.batch);
        let forward = cross_entropy::Forward {
            bias: Some(weights.vector(self.bias)),
            row_weights: Some(batch.row_weights.view()),
            algorithm: ALGORITHM,
            log_likelihoods: Some(self.log_likelihoods.slice_mut(0..count)),
            correct: Some(self.correct.slice_mut(0..count)),
            totals: Some(self.totals.view_mut()),
            group_ends: &[ranges[0].end, count],
            ..cross_entropy::Forward::new(
                self.transform.output.rows(count),
                weights.matrix(self.weight),
                batch.targets.view(),
                self.row_losses.slice_mut(0..count),
                self.workspace.view_mut(),
            )
        };
        let gradients = Gradients {
            d_hidden: Some(self.transform.gradient.rows_mut(count)),
            d_weight: Some(d_weight),
            d_bias: Some(d_bias.into_view()),
        };
        cross_entropy::forward_backward(context.stream, forward, gradients)
    }

    /// Enqueues the bag-of-words loss of the encoder's output; adds its gradient to `d_encoder`.
    fn bag_of_words(
        &mut self,
        context: &mut Context<'_, T>,
        bags: &Bags,
        encoder: Matrix<'_, T>,
        d_encoder: MatrixMut<'_, T>,
    ) -> Result<()> {
        self.transform.forward(context, encoder)?;
        let (rows, sentences) = (encoder.rows(), context.batch.sentences);
        let [d_weight, d_bias] = context.parameters.gradients.disjoint_mut([self.weight, self.bias]);
        let weights = &context.parameters.weights;
        let forward = bag_of_words::Forward {
            bias: Some(weights.vector(self.bias)),
            sentence_weights: Some(bags.sentence_weights.view()),
            // Without [CLS], from whose vector the decoder reconstructs the sentence.
            first_position: 1,
            algorithm: ALGORITHM,
            ..bag_of_words::Forward::new(
                self.transform.output.rows(rows),
                weights.matrix(self.weight),
                context.batch.packed(),
                bags.view(),
                self.bag_losses.slice_mut(0..sentences),
                self.workspace.view_mut(),
            )
        };
        let gradients = Gradients {
            d_hidden: Some(self.transform.gradient.rows_mut(rows)),
            d_weight: Some(d_weight),
            d_bias: Some(d_bias.into_view()),
        };
        bag_of_words::forward_backward(context.stream, forward, gradients)?;
        let sum = reduce::Arguments {
            input: self.bag_losses.slice(0..sentences),
            output: self.bag_loss.view_mut(),
            accumulate: false,
            workspace: context.workspace.view_mut(),
        };
        reduce::sum(context.stream, sum)?;
        self.transform.backward_into(context, encoder, d_encoder)
    }

    /// `[1]` weighted bag-of-words loss.
    pub(in crate::model) fn bag_loss(&self) -> View<'_, f32> {
        self.bag_loss.view()
    }

    /// `[2]` totals of encoder and decoder.
    pub(in crate::model) fn totals(&self) -> View<'_, Totals> {
        self.totals.view()
    }
}

/// Workspace of the cross-entropy for chunks of `rows` rows.
fn chunk_workspace<T: ModelFloat>(config: &ModelConfig, rows: usize) -> Workspace {
    cross_entropy::workspace(ALGORITHM, T::DTYPE, rows, config.hidden_size, config.vocab_size)
}

/// Workspace of the losses, for the chunks of logits that suit the device.
fn workspace<T: ModelFloat>(device: &Device, config: &ModelConfig, capacity: Capacity) -> Workspace {
    let row_bytes = chunk_workspace::<T>(config, 1).bytes();
    let chunk =
        if device.name() == "host" { (HOST_LOGIT_BYTES / row_bytes).max(64) } else { CUDA_LOGIT_ROWS };
    let chunk = chunk.min(labeled_capacity(capacity));
    let bag_of_words = if config.has_bag_of_words() {
        bag_of_words::workspace(ALGORITHM, T::DTYPE, capacity.sentences, chunk, config.vocab_size)
    } else {
        Workspace::NONE
    };
    chunk_workspace::<T>(config, chunk).either(bag_of_words)
}
