//! All parameters of a model in one arena, with their gradients and the optimizer's state.

use std::collections::HashMap;
use std::ops::Range;

use retromae::device::{Buffer, ModelFloat, Stream, View, ViewMut};
use retromae::ops::column_sum::{self, ColumnSum, column_sum};
use retromae::ops::{Result, adamw, linear, reduce};

use super::super::adamw::AdamW;
use super::super::cross_entropy::{Gradients, Weights, padded};
use super::super::layer_norm::{LayerNorm, Parameters};
use super::super::passes;
use super::WORD;

const OUTPUT_BIAS: &str = "cls.predictions.bias";
/// Rows and columns of the largest gradient of a bias.
const BIAS_GRADIENT: (usize, usize) = (1 << 17, 4096);
/// Parameters begin at a multiple of this many elements.
const ALIGNMENT: usize = 8;

/// Parameter arena. Matrices, on which weight decay acts, come first.
pub struct Arena<T: ModelFloat> {
    /// Ranges of the parameters, including the padding of the vocabulary.
    ranges: HashMap<String, Range<usize>>,
    /// Elements without padding.
    lengths: HashMap<String, usize>,
    optimizer: AdamW<T>,
    workspace: Buffer<u8>,
}

impl<T: ModelFloat> Arena<T> {
    pub fn new(
        stream: &Stream,
        shapes: &[(String, Vec<usize>)],
        values: impl Fn(&str) -> Result<Vec<f32>>,
        (hyperparameters, learning_rate): (&adamw::Hyperparameters, f64),
    ) -> Result<Self> {
        let device = stream.device();
        let (matrices, vectors): (Vec<_>, Vec<_>) = shapes.iter().partition(|(_, shape)| shape.len() > 1);
        let (mut ranges, mut lengths, mut all) = (HashMap::new(), HashMap::new(), Vec::<f32>::new());
        let mut decayed = 0;
        for (name, shape) in matrices.into_iter().chain(vectors) {
            let start = all.len();
            all.extend(values(name)?);
            lengths.insert(name.clone(), all.len() - start);
            match name.as_str() {
                WORD => all.resize(start + padded(shape[0]) * shape[1], 0.0),
                OUTPUT_BIAS => all.resize(start + padded(shape[0]), f32::NEG_INFINITY),
                _ => {}
            }
            ranges.insert(name.clone(), start..all.len());
            all.resize(all.len().next_multiple_of(ALIGNMENT), 0.0);
            if shape.len() > 1 {
                decayed = all.len();
            }
        }
        let zeros = || device.zeros(all.len());
        let mut compute = device.zeros::<T>(all.len())?;
        let parameters = device.upload(&all)?;
        passes::narrow(stream, parameters.view(), compute.view_mut())?;
        Ok(Self {
            ranges,
            lengths,
            workspace: reduce::workspace(all.len())
                .either(column_sum::workspace(BIAS_GRADIENT.0, BIAS_GRADIENT.1))
                .allocate(device)?,
            optimizer: AdamW {
                gradients: zeros()?,
                first_moments: zeros()?,
                second_moments: zeros()?,
                compute_parameters: Some(compute),
                squared_norm: device.zeros(1)?,
                schedule: device.upload(&hyperparameters.schedule(learning_rate, 1)?)?,
                decayed,
                hyperparameters: *hyperparameters,
                parameters,
            },
        })
    }

    fn range(&self, name: &str) -> Range<usize> {
        self.ranges.get(name).unwrap_or_else(|| panic!("there is no parameter {name}")).clone()
    }

    /// Copy of a parameter in the compute type, for matmuls.
    pub fn compute(&self, name: &str) -> View<'_, T> {
        let copy = self.optimizer.compute_parameters.as_ref().expect("made with the arena");
        copy.slice(self.range(name))
    }

    pub fn master(&self, name: &str) -> View<'_, f32> {
        self.optimizer.parameters.slice(self.range(name))
    }

    pub fn gradient(&mut self, name: &str) -> ViewMut<'_, f32> {
        let range = self.range(name);
        self.optimizer.gradients.slice_mut(range)
    }

    pub fn read_parameter(&self, name: &str) -> Result<Vec<f32>> {
        let start = self.range(name).start;
        Ok(self.optimizer.parameters.slice(start..start + self.lengths[name]).read()?)
    }

    pub fn read_gradient(&self, name: &str) -> Result<Vec<f32>> {
        let start = self.range(name).start;
        Ok(self.optimizer.gradients.slice(start..start + self.lengths[name]).read()?)
    }

    pub fn zero_gradients(&mut self, stream: &Stream) -> Result<()> {
        Ok(stream.zero(self.optimizer.gradients.view_mut())?)
    }

    /// Weights of the head's output layer, and their gradients.
    pub fn output_layer(&mut self) -> (Weights<'_, T>, Gradients<'_>) {
        let (word, bias) = (self.range(WORD), self.range(OUTPUT_BIAS));
        let AdamW { parameters, gradients, compute_parameters, .. } = &mut self.optimizer;
        let compute = compute_parameters.as_ref().expect("made with the arena");
        let weights = Weights { weight: compute.slice(word.clone()), bias: parameters.slice(bias.clone()) };
        let [d_word, d_bias] = gradients.slices_mut([&word, &bias]);
        (weights, Gradients { weight: d_word, bias: d_bias })
    }

    /// Rows of the padded vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.range(OUTPUT_BIAS).len()
    }

    /// Parameters of the LayerNorm `name`, which follows a linear layer with the bias `bias`.
    pub fn norm(&self, name: &str, bias: Option<&str>) -> Parameters<'_> {
        Parameters {
            bias: bias.map(|bias| self.master(bias)),
            gamma: self.master(&format!("{name}.weight")),
            beta: self.master(&format!("{name}.bias")),
        }
    }

    /// Adds the gradients that a LayerNorm's backward pass has left.
    pub fn add_norm_gradients(
        &mut self,
        stream: &Stream,
        name: &str,
        bias: Option<&str>,
        norm: &LayerNorm<T>,
    ) -> Result<()> {
        let columns = norm.d_bias.len();
        let [gamma, beta] = [0..columns, columns..2 * columns].map(|range| norm.d_parameters.slice(range));
        passes::add_to(stream, self.gradient(&format!("{name}.weight")), gamma)?;
        passes::add_to(stream, self.gradient(&format!("{name}.bias")), beta)?;
        match bias {
            Some(bias) => passes::add_to(stream, self.gradient(bias), norm.d_bias.view()),
            None => Ok(()),
        }
    }

    /// `output = input · weightᵀ`
    pub fn linear(
        &self,
        stream: &Stream,
        name: &str,
        input: View<'_, T>,
        output: ViewMut<'_, T>,
    ) -> Result<()> {
        let weight = self.compute(&format!("{name}.weight"));
        let out_features = self.range(&format!("{name}.bias")).len();
        let in_features = weight.len() / out_features;
        let (input, weight) = (input.rows_of(in_features)?, weight.rows_of(in_features)?);
        linear::forward(stream, linear::Forward::new(input, weight, output.rows_of(out_features)?))
    }

    /// [`linear`](Self::linear), then the bias.
    pub fn biased_linear(
        &self,
        stream: &Stream,
        name: &str,
        input: View<'_, T>,
        mut output: ViewMut<'_, T>,
    ) -> Result<()> {
        self.linear(stream, name, input, output.reborrow())?;
        passes::add_bias_to(stream, output, self.master(&format!("{name}.bias")))
    }

    /// Computes the gradient of the weight, and that of the input, which is overwritten or added to.
    pub fn linear_backward(
        &mut self,
        stream: &Stream,
        name: &str,
        input: View<'_, T>,
        d_output: View<'_, T>,
        d_input: ViewMut<'_, T>,
        accumulate: bool,
    ) -> Result<()> {
        let out_features = self.range(&format!("{name}.bias")).len();
        let name = format!("{name}.weight");
        let weight = self.compute(&name);
        let in_features = weight.len() / out_features;
        let (weight, d_output) = (weight.rows_of(in_features)?, d_output.rows_of(out_features)?);
        let (input, d_input) = (input.rows_of(in_features)?, d_input.rows_of(in_features)?);
        linear::backward_input(stream, linear::BackwardInput { d_output, weight, d_input, accumulate })?;
        let d_weight = self.gradient(&name).rows_of(in_features)?;
        linear::backward_weight(stream, linear::BackwardWeight { input, d_output, d_weight })
    }

    /// Computes the gradient of a linear layer's bias.
    pub fn bias_gradient(&mut self, stream: &Stream, name: &str, d_output: View<'_, T>) -> Result<()> {
        let range = self.range(&format!("{name}.bias"));
        let needed = column_sum::workspace(d_output.len() / range.len(), range.len());
        let arguments = ColumnSum {
            input: d_output.rows_of(range.len())?,
            output: self.optimizer.gradients.slice_mut(range),
            accumulate: true,
            workspace: self.workspace.slice_mut(0..needed.bytes()),
        };
        column_sum(stream, arguments)
    }

    /// Clips by the norm of all gradients and takes a step.
    pub fn update(&mut self, stream: &Stream) -> Result<()> {
        let Self { optimizer, workspace, .. } = self;
        let squares = reduce::Arguments {
            input: optimizer.gradients.view(),
            output: optimizer.squared_norm.view_mut(),
            accumulate: false,
            workspace: workspace.view_mut(),
        };
        reduce::squares(stream, squares)?;
        optimizer.step(stream)
    }
}
