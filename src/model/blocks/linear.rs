//! Linear layers.

use std::ops::Range;

use crate::device::{Matrix, MatrixMut, ModelFloat};
use crate::model::context::Context;
use crate::model::parameter_table::{Parameter, ParameterTable};
use crate::ops::column_sum::{ColumnSum, column_sum};
use crate::ops::{Result, linear};

/// A linear layer `output = input · weightᵀ + bias`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Linear {
    /// `[out, in]`
    weight: Parameter,
    /// `[out]`
    pub bias: Parameter,
}

impl Linear {
    /// Adds `{name}.weight`, `[out_features, in_features]`, and `{name}.bias` to the table.
    pub(super) fn new(
        table: &mut ParameterTable,
        name: &str,
        in_features: usize,
        out_features: usize,
    ) -> Self {
        Self {
            weight: table.matrix(format!("{name}.weight"), [out_features, in_features]),
            bias: table.vector(format!("{name}.bias"), out_features, 0.0),
        }
    }

    /// Layers of one input as one: the features of the first, then those of the next.
    pub(super) fn join<const N: usize>(layers: [Self; N]) -> Self {
        let (weights, biases) = (layers.map(|layer| layer.weight), layers.map(|layer| layer.bias));
        Self { weight: Parameter::join(weights), bias: Parameter::join(biases) }
    }

    /// The layer that computes only the output features of `range`.
    pub(super) fn features(self, range: Range<usize>) -> Self {
        Self { weight: self.weight.slice_rows(range.clone()), bias: self.bias.slice_rows(range) }
    }

    /// Enqueues `output = input · weightᵀ + bias`.
    pub(super) fn forward<T: ModelFloat>(
        &self,
        context: &Context<'_, T>,
        input: Matrix<'_, T>,
        output: MatrixMut<'_, T>,
    ) -> Result<()> {
        let weights = &context.parameters.weights;
        let (weight, bias) = (weights.matrix(self.weight), Some(weights.bias(self.bias)));
        linear::forward(context.stream, linear::Forward { input, weight, bias, output })
    }

    /// Enqueues `output = input · weightᵀ`, for a kernel that adds the bias as it reads the output.
    pub(super) fn forward_without_bias<T: ModelFloat>(
        &self,
        context: &Context<'_, T>,
        input: Matrix<'_, T>,
        output: MatrixMut<'_, T>,
    ) -> Result<()> {
        let weight = context.parameters.weights.matrix(self.weight);
        linear::forward(context.stream, linear::Forward { input, weight, bias: None, output })
    }

    /// Enqueues the gradients of the weight (added) and of the input (written, or added with `accumulate`).
    pub(super) fn backward<T: ModelFloat>(
        &self,
        context: &mut Context<'_, T>,
        input: Matrix<'_, T>,
        d_output: Matrix<'_, T>,
        d_input: MatrixMut<'_, T>,
        accumulate: bool,
    ) -> Result<()> {
        let d_weight = context.parameters.gradients.matrix_mut(self.weight);
        linear::backward_weight(context.stream, linear::BackwardWeight { input, d_output, d_weight })?;
        let weight = context.parameters.weights.matrix(self.weight);
        let backward = linear::BackwardInput { d_output, weight, d_input, accumulate };
        linear::backward_input(context.stream, backward)
    }

    /// Enqueues the gradient of the bias, which is added: the column sums of `d_output`.
    pub(super) fn bias_backward<T: ModelFloat>(
        &self,
        context: &mut Context<'_, T>,
        d_output: Matrix<'_, T>,
    ) -> Result<()> {
        let output = context.parameters.gradients.vector_mut(self.bias);
        let workspace = context.workspace.view_mut();
        column_sum(context.stream, ColumnSum { input: d_output, output, accumulate: true, workspace })
    }
}
