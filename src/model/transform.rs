//! The head's transform `z = LN(GELU(y · Wtᵀ + bt))`.

use super::ModelConfig;
use super::gradients::bias_backward;
use super::parameters::{Parameters, Weights};
use crate::device::{Buffer, Device, ModelFloat, Stream, View, ViewMut};
use crate::ops::{Result, bias_gelu, layer_norm, linear};

/// Activations and gradients of at most M rows.
#[derive(Debug)]
pub(super) struct Transform<T: ModelFloat> {
    /// `[M, H]` output of the linear layer, before bias and GELU
    linear: Buffer<T>,
    /// `[M, H]` output of GELU
    activated: Buffer<T>,
    /// `[M, H]`
    pub output: Buffer<T>,
    mean: Buffer<f32>,
    rstd: Buffer<f32>,
    /// `[M, H]` gradient of `output`; after [`Transform::backward`], of `linear`
    pub gradient: Buffer<T>,
    /// `[M, H]` scratch; holds nothing between calls
    pub spare: Buffer<T>,
}

impl<T: ModelFloat> Transform<T> {
    pub(super) fn new(device: &Device, rows: usize, columns: usize) -> Result<Self> {
        let elements = rows * columns;
        Ok(Self {
            linear: device.zeros(elements)?,
            activated: device.zeros(elements)?,
            output: device.zeros(elements)?,
            mean: device.zeros(rows)?,
            rstd: device.zeros(rows)?,
            gradient: device.zeros(elements)?,
            spare: device.zeros(elements)?,
        })
    }

    /// Enqueues the transform of `input`, `[m, H]`, into `output`.
    pub(super) fn forward(
        &mut self,
        stream: &Stream,
        config: &ModelConfig,
        weights: &Weights<T>,
        input: View<'_, T>,
    ) -> Result<()> {
        let layout = &weights.layout;
        let (columns, elements) = (config.hidden_size, input.len());
        let forward = linear::Forward::new(
            input.rows_of(columns)?,
            weights.operand(&layout.transform.weight).rows_of(columns)?,
            self.linear.slice_mut(0..elements).rows_of(columns)?,
        );
        linear::forward(stream, forward)?;
        let forward = bias_gelu::Forward {
            input: self.linear.slice(0..elements).rows_of(columns)?,
            bias: weights.vector(&layout.transform.bias),
            output: self.activated.slice_mut(0..elements).rows_of(columns)?,
        };
        bias_gelu::forward(stream, forward)?;
        let forward = layer_norm::Forward {
            input: self.activated.slice(0..elements).rows_of(columns)?,
            gamma: weights.vector(&layout.transform_norm.gamma),
            beta: weights.vector(&layout.transform_norm.beta),
            eps: config.layer_norm_eps,
            output: self.output.slice_mut(0..elements).rows_of(columns)?,
            mean: self.mean.slice_mut(0..elements / columns),
            rstd: self.rstd.slice_mut(0..elements / columns),
            fused: layer_norm::Fused::default(),
        };
        layer_norm::forward(stream, forward)
    }

    /// Propagates `gradient`, m rows of `columns`, from `output` back to `linear`.
    pub(super) fn backward(
        &mut self,
        stream: &Stream,
        parameters: &mut Parameters<T>,
        (rows, columns): (usize, usize),
        mut workspace: ViewMut<'_, u8>,
    ) -> Result<()> {
        let elements = rows * columns;
        let (transform, norm) =
            (parameters.weights.layout.transform.clone(), parameters.weights.layout.transform_norm.clone());
        let [d_gamma, d_beta] = parameters.gradients.slices_mut([&norm.gamma, &norm.beta]);
        let backward = layer_norm::Backward {
            d_output: self.gradient.slice(0..elements).rows_of(columns)?,
            sum: self.activated.slice(0..elements).rows_of(columns)?,
            mean: self.mean.slice(0..rows),
            rstd: self.rstd.slice(0..rows),
            gamma: parameters.weights.master.slice(norm.gamma.clone()),
            d_input: self.spare.slice_mut(0..elements).rows_of(columns)?,
            d_gamma,
            d_beta,
            workspace: workspace.reborrow(),
            fused: layer_norm::FusedGradients::default(),
        };
        layer_norm::backward(stream, backward)?;
        let backward = bias_gelu::Backward {
            input: self.linear.slice(0..elements).rows_of(columns)?,
            bias: parameters.weights.vector(&transform.bias),
            d_output: self.spare.slice(0..elements).rows_of(columns)?,
            d_input: self.gradient.slice_mut(0..elements).rows_of(columns)?,
        };
        bias_gelu::backward(stream, backward)?;
        bias_backward(stream, parameters, &transform.bias, self.gradient.slice(0..elements), workspace)
    }
}
