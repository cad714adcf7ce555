//! Backward steps shared by layers and head: of a linear layer, of a bias, and of `LN(residual + dropout(input + bias))`.

use std::ops::Range;

use super::layout::{Linear, Norm};
use super::parameters::Parameters;
use crate::device::{Buffer, Device, ModelFloat, Stream, View, ViewMut};
use crate::ops::column_sum::{ColumnSum, column_sum};
use crate::ops::{Dropout, Result, layer_norm, linear};

/// LayerNorm's input and statistics, saved for the backward pass.
#[derive(Debug)]
pub(super) struct NormActivations<T: ModelFloat> {
    /// `[T, H]`
    pub sum: Buffer<T>,
    /// `[T]`
    pub mean: Buffer<f32>,
    /// `[T]`
    pub rstd: Buffer<f32>,
}

impl<T: ModelFloat> NormActivations<T> {
    pub(super) fn new(device: &Device, rows: usize, hidden: usize) -> Result<Self> {
        Ok(Self { sum: device.zeros(rows * hidden)?, mean: device.zeros(rows)?, rstd: device.zeros(rows)? })
    }
}

/// Gradients of a linear layer: of the weight (added), and of the input (written, or added with `accumulate`).
#[allow(clippy::too_many_arguments)]
pub(super) fn linear_backward<T: ModelFloat>(
    stream: &Stream,
    parameters: &mut Parameters<T>,
    ranges: &Linear,
    (in_features, out_features): (usize, usize),
    input: View<'_, T>,
    d_output: View<'_, T>,
    d_input: ViewMut<'_, T>,
    accumulate: bool,
) -> Result<()> {
    let d_weight = parameters.gradients.slice_mut(ranges.weight.clone());
    let (input, d_output) = (input.rows_of(in_features)?, d_output.rows_of(out_features)?);
    let d_weight = d_weight.rows_of(in_features)?;
    let backward = linear::BackwardWeight { input, d_output, d_weight };
    linear::backward_weight(stream, backward)?;
    let weight = parameters.weights.operand(&ranges.weight).rows_of(in_features)?;
    let d_input = d_input.rows_of(in_features)?;
    let backward = linear::BackwardInput { d_output, weight, d_input, accumulate };
    linear::backward_input(stream, backward)
}

/// Adds the column sums of `d_output` to the gradient of a bias.
pub(super) fn bias_backward<T: ModelFloat>(
    stream: &Stream,
    parameters: &mut Parameters<T>,
    bias: &Range<usize>,
    d_output: View<'_, T>,
    workspace: ViewMut<'_, u8>,
) -> Result<()> {
    let output = parameters.gradients.slice_mut(bias.clone());
    column_sum(
        stream,
        ColumnSum { input: d_output.rows_of(bias.len())?, output, accumulate: true, workspace },
    )
}

/// Backward of `LN(residual + dropout(input + bias))`: the gradients of residual and input, in this order; those of the norm and of the
/// projection's bias are added.
#[allow(clippy::too_many_arguments)]
pub(super) fn normalize_backward<T: ModelFloat>(
    stream: &Stream,
    parameters: &mut Parameters<T>,
    (norm, projection): (&Norm, &Linear),
    saved: &NormActivations<T>,
    dropout: Option<Dropout<'_>>,
    d_output: View<'_, T>,
    (d_residual, d_input): (ViewMut<'_, T>, ViewMut<'_, T>),
    workspace: ViewMut<'_, u8>,
) -> Result<()> {
    let columns = norm.gamma.len();
    let rows = d_output.len() / columns;
    let ranges = [&norm.gamma, &norm.beta, &projection.bias];
    let [d_gamma, d_beta, d_bias] = parameters.gradients.slices_mut(ranges);
    let backward = layer_norm::Backward {
        d_output: d_output.rows_of(columns)?,
        sum: saved.sum.slice(0..d_output.len()).rows_of(columns)?,
        mean: saved.mean.slice(0..rows),
        rstd: saved.rstd.slice(0..rows),
        gamma: parameters.weights.master.slice(norm.gamma.clone()),
        d_input: d_input.rows_of(columns)?,
        d_gamma,
        d_beta,
        workspace,
        fused: layer_norm::FusedGradients {
            dropout,
            d_residual: Some(d_residual.rows_of(columns)?),
            d_bias: Some(d_bias),
        },
    };
    layer_norm::backward(stream, backward)
}
