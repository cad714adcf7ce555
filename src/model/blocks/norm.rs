//! LayerNorm.

use crate::device::{Buffer, Device, Matrix, MatrixMut, ModelFloat};
use crate::model::context::Context;
use crate::model::parameter_table::{Parameter, ParameterTable};
use crate::ops::Result;
use crate::ops::layer_norm::{self, Fused, FusedGradients};

/// LayerNorm, with the statistics of its last input.
#[derive(Debug)]
pub(super) struct Norm {
    gamma: Parameter,
    beta: Parameter,
    eps: f32,
    /// `[M]`
    mean: Buffer<f32>,
    /// `[M]`
    rstd: Buffer<f32>,
}

impl Norm {
    /// Adds `{name}.weight` and `{name}.bias`, `[columns]`, to the table; allocates statistics of at most `rows` rows.
    pub(super) fn new(
        device: &Device,
        table: &mut ParameterTable,
        name: &str,
        [rows, columns]: [usize; 2],
        eps: f32,
    ) -> Result<Self> {
        Ok(Self {
            gamma: table.vector(format!("{name}.weight"), columns, 1.0),
            beta: table.vector(format!("{name}.bias"), columns, 0.0),
            eps,
            mean: device.zeros(rows)?,
            rstd: device.zeros(rows)?,
        })
    }

    /// Enqueues LayerNorm of `input` after the fused steps.
    pub(super) fn forward<T: ModelFloat>(
        &mut self,
        context: &Context<'_, T>,
        input: Matrix<'_, T>,
        fused: Fused<'_, T>,
        output: MatrixMut<'_, T>,
    ) -> Result<()> {
        let (rows, weights) = (input.rows(), &context.parameters.weights);
        let forward = layer_norm::Forward {
            input,
            gamma: weights.vector(self.gamma),
            beta: weights.vector(self.beta),
            eps: self.eps,
            output,
            mean: self.mean.slice_mut(0..rows),
            rstd: self.rstd.slice_mut(0..rows),
            fused,
        };
        layer_norm::forward(context.stream, forward)
    }

    /// Enqueues the gradient of the input, and adds those of the parameters and of a bias that was added to the input.
    pub(super) fn backward<T: ModelFloat>(
        &self,
        context: &mut Context<'_, T>,
        (sum, d_output): (Matrix<'_, T>, Matrix<'_, T>),
        bias: Option<Parameter>,
        fused: FusedGradients<'_, T>,
        d_input: MatrixMut<'_, T>,
    ) -> Result<()> {
        let rows = d_output.rows();
        let gradients = &mut context.parameters.gradients;
        let (gradients, d_bias) = match bias {
            None => (gradients.disjoint_mut([self.gamma, self.beta]), None),
            Some(bias) => {
                let [d_gamma, d_beta, d_bias] = gradients.disjoint_mut([self.gamma, self.beta, bias]);
                ([d_gamma, d_beta], Some(d_bias.into_view()))
            }
        };
        let [d_gamma, d_beta] = gradients.map(MatrixMut::into_view);
        let backward = layer_norm::Backward {
            d_output,
            sum,
            mean: self.mean.slice(0..rows),
            rstd: self.rstd.slice(0..rows),
            gamma: context.parameters.weights.vector(self.gamma),
            d_input,
            d_gamma,
            d_beta,
            workspace: context.workspace.view_mut(),
            fused: FusedGradients { d_bias, ..fused },
        };
        layer_norm::backward(context.stream, backward)
    }
}
