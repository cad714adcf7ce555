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
    product: Buffer<T>,
    /// `[M, H]` output of GELU
    activated: Buffer<T>,
    /// `[M, H]`
    pub output: Buffer<T>,
    mean: Buffer<f32>,
    rstd: Buffer<f32>,
    /// `[M, H]` gradient of `output`; after [`Transform::backward`], of `product`
    pub gradient: Buffer<T>,
    /// `[M, H]` scratch; holds nothing between calls
    pub spare: Buffer<T>,
}

impl<T: ModelFloat> Transform<T> {
    pub(super) fn new(device: &Device, rows: usize, columns: usize) -> Result<Self> {
        let elements = rows * columns;
        Ok(Self {
            product: device.zeros(elements)?,
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
        let forward = linear::Forward {
            input,
            weight: weights.operand(&layout.transform.weight),
            bias: None,
            output: self.product.slice_mut(0..elements),
            in_features: columns,
            out_features: columns,
        };
        linear::forward(stream, forward)?;
        let forward = bias_gelu::Forward {
            input: self.product.slice(0..elements),
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
            output: self.output.slice_mut(0..elements),
            sum: None,
            mean: self.mean.slice_mut(0..elements / columns),
            rstd: self.rstd.slice_mut(0..elements / columns),
        };
        layer_norm::forward(stream, forward)
    }

    /// Propagates `gradient`, m rows of `columns`, from `output` back to `product`.
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
            d_output: self.gradient.slice(0..elements),
            sum: self.activated.slice(0..elements),
            mean: self.mean.slice(0..rows),
            rstd: self.rstd.slice(0..rows),
            gamma: parameters.weights.master.slice(norm.gamma.clone()),
            dropout: None,
            d_residual: None,
            d_input: self.spare.slice_mut(0..elements),
            d_gamma,
            d_beta,
            d_bias: None,
            workspace: workspace.reborrow(),
        };
        layer_norm::backward(stream, backward)?;
        let backward = bias_gelu::Backward {
            input: self.product.slice(0..elements),
            bias: parameters.weights.vector(&transform.bias),
            d_output: self.spare.slice(0..elements),
            d_input: self.gradient.slice_mut(0..elements),
        };
        bias_gelu::backward(stream, backward)?;
        bias_backward(stream, parameters, &transform.bias, self.gradient.slice(0..elements), workspace)
    }
}
