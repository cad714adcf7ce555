//! The masked-language-model head, shared by encoder and decoder, on labelled rows only: `z = LN(GELU(y · Wtᵀ + bt))`, then linear +
//! cross-entropy with the tied word embeddings.

use super::gradients::{bias_backward, linear_backward};
use super::inputs::Inputs;
use super::parameters::{Parameters, Weights};
use super::scratch::Scratch;
use super::shape::labelled_capacity;
use super::{Capacity, ModelConfig};
use crate::device::{Buffer, Device, Float, Stream, View, ViewMut};
use crate::ops::cross_entropy::{Algorithm, Totals};
use crate::ops::{Result, bias_gelu, cross_entropy, layer_norm, linear, rows};

/// Of the cross-entropy: the one that takes every type, and on the host device the faster one.
pub(super) const HEAD_ALGORITHM: Algorithm = Algorithm::Library;

/// Activations and gradients of the labelled rows, M of them at most: the encoder's first, then the decoder's.
#[derive(Debug)]
pub(super) struct Head<T: Float> {
    /// `[M, H]`: gathered rows
    rows: Buffer<T>,
    /// `[M, H]`: before bias and GELU
    transformed: Buffer<T>,
    /// `[M, H]`: after
    activated: Buffer<T>,
    /// `[M, H]`: normalised
    normalised: Buffer<T>,
    mean: Buffer<f32>,
    rstd: Buffer<f32>,
    /// `[M, H]`
    d_rows: Buffer<T>,
    d_transformed: Buffer<T>,
    row_losses: Buffer<f32>,
    log_sum_exp: Buffer<f32>,
    log_likelihoods: Buffer<f32>,
    correct: Buffer<u8>,
    /// `[2]`: of encoder and decoder
    totals: Buffer<Totals>,
}

impl<T: Float> Head<T> {
    pub(super) fn new(device: &Device, config: &ModelConfig, capacity: Capacity) -> Result<Self> {
        let rows = labelled_capacity(capacity);
        let elements = rows * config.hidden_size;
        Ok(Self {
            rows: device.zeros(elements)?,
            transformed: device.zeros(elements)?,
            activated: device.zeros(elements)?,
            normalised: device.zeros(elements)?,
            mean: device.zeros(rows)?,
            rstd: device.zeros(rows)?,
            d_rows: device.zeros(elements)?,
            d_transformed: device.zeros(elements)?,
            row_losses: device.zeros(rows)?,
            log_sum_exp: device.zeros(rows)?,
            log_likelihoods: device.zeros(rows)?,
            correct: device.zeros(rows)?,
            totals: device.zeros(2)?,
        })
    }

    pub(super) fn bytes(config: &ModelConfig, capacity: Capacity) -> usize {
        labelled_capacity(capacity) * (6 * config.hidden_size * T::DTYPE.bytes() + 5 * 4 + 1)
            + 2 * size_of::<Totals>()
    }

    /// Losses of the labelled rows of both outputs, `[T, H]` each, and all gradients of the head: added to `d_encoder` and `d_decoder`.
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
        let count = inputs.labelled_rows.len();
        let (middle, elements) = (inputs.decoder_start, count * columns);
        let labelled = inputs.labelled_rows.view();
        let parts = [0..middle, middle..count];
        for (part, input) in parts.iter().zip([encoder, decoder]) {
            let output = self.rows.slice_mut(part.start * columns..part.end * columns);
            rows::gather(
                stream,
                rows::Gather { input, rows: labelled.slice(part.clone()), output, columns },
            )?;
        }
        self.forward(stream, config, &parameters.weights, elements)?;
        self.losses(stream, parameters, inputs, elements, columns, scratch.head.view_mut())?;
        self.backward(stream, parameters, elements, columns, scratch)?;
        for (part, output) in parts.iter().zip([d_encoder, d_decoder]) {
            let input = self.d_rows.slice(part.start * columns..part.end * columns);
            rows::scatter_add(
                stream,
                rows::ScatterAdd { input, rows: labelled.slice(part.clone()), output, columns },
            )?;
        }
        Ok(())
    }

    fn forward(
        &mut self,
        stream: &Stream,
        config: &ModelConfig,
        weights: &Weights<T>,
        elements: usize,
    ) -> Result<()> {
        let layout = &weights.layout;
        let columns = config.hidden_size;
        let forward = linear::Forward {
            input: self.rows.slice(0..elements),
            weight: weights.operand(&layout.transform.weight),
            bias: None,
            output: self.transformed.slice_mut(0..elements),
            in_features: columns,
            out_features: columns,
        };
        linear::forward(stream, forward)?;
        let forward = bias_gelu::Forward {
            input: self.transformed.slice(0..elements),
            bias: weights.vector(&layout.transform.bias),
            output: self.activated.slice_mut(0..elements),
        };
        bias_gelu::forward(stream, forward)?;
        let forward = layer_norm::Forward {
            input: self.activated.slice(0..elements),
            bias: None,
            residual: None,
            gamma: weights.vector(&layout.transform_norm.gamma),
            beta: weights.vector(&layout.transform_norm.beta),
            eps: config.layer_norm_eps,
            dropout: None,
            output: self.normalised.slice_mut(0..elements),
            sum: None,
            mean: self.mean.slice_mut(0..elements / columns),
            rstd: self.rstd.slice_mut(0..elements / columns),
        };
        layer_norm::forward(stream, forward)
    }

    /// Losses, and in `d_rows` the gradient of the normalised rows.
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
        let forward_backward = cross_entropy::ForwardBackward {
            hidden: self.normalised.slice(0..elements),
            weight,
            bias: parameters.weights.master.slice(layout.head_bias.clone()),
            targets: inputs.targets.view(),
            row_weights: inputs.row_weights.view(),
            options: cross_entropy::Options::default(),
            algorithm: HEAD_ALGORITHM,
            losses: self.row_losses.slice_mut(0..count),
            log_sum_exp: self.log_sum_exp.slice_mut(0..count),
            log_likelihoods: self.log_likelihoods.slice_mut(0..count),
            correct: self.correct.slice_mut(0..count),
            d_hidden: self.d_rows.slice_mut(0..elements),
            d_weight,
            d_bias,
            group_ends: &[inputs.decoder_start, count],
            totals: self.totals.view_mut(),
            workspace,
            hidden_size: columns,
        };
        cross_entropy::forward_backward(stream, forward_backward)
    }

    /// From the gradient of the normalised rows to that of the gathered rows, both in `d_rows`.
    fn backward(
        &mut self,
        stream: &Stream,
        parameters: &mut Parameters<T>,
        elements: usize,
        columns: usize,
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        let count = elements / columns;
        let (transform, norm) =
            (parameters.weights.layout.transform.clone(), parameters.weights.layout.transform_norm.clone());
        let [d_gamma, d_beta] = parameters.gradients.slices_mut([&norm.gamma, &norm.beta]);
        let backward = layer_norm::Backward {
            d_output: self.d_rows.slice(0..elements),
            sum: self.activated.slice(0..elements),
            mean: self.mean.slice(0..count),
            rstd: self.rstd.slice(0..count),
            gamma: parameters.weights.master.slice(norm.gamma.clone()),
            dropout: None,
            d_residual: None,
            d_input: self.d_transformed.slice_mut(0..elements),
            d_gamma,
            d_beta,
            d_bias: None,
            workspace: scratch.floats.view_mut(),
        };
        layer_norm::backward(stream, backward)?;
        let backward = bias_gelu::Backward {
            input: self.transformed.slice(0..elements),
            bias: parameters.weights.vector(&transform.bias),
            d_output: self.d_transformed.slice(0..elements),
            d_input: self.d_rows.slice_mut(0..elements),
        };
        bias_gelu::backward(stream, backward)?;
        let d_transformed = self.d_rows.slice(0..elements);
        bias_backward(stream, parameters, &transform.bias, d_transformed, scratch.floats.view_mut())?;
        let d_input = self.d_transformed.slice_mut(0..elements);
        let input = self.rows.slice(0..elements);
        linear_backward(
            stream,
            parameters,
            &transform,
            (columns, columns),
            input,
            d_transformed,
            d_input,
            false,
        )?;
        std::mem::swap(&mut self.d_rows, &mut self.d_transformed);
        Ok(())
    }

    /// `[2]`: of encoder and decoder.
    pub(super) fn totals(&self) -> View<'_, Totals> {
        self.totals.view()
    }
}
