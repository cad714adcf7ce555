//! Unfused end of a block: bias, dropout, residual and LayerNorm as separate passes, and their gradients.

use retromae::device::baseline_params::BaselineLayerNormParams;
use retromae::device::{Buffer, Family, ModelFloat, Stream, View, kernels};
use retromae::ops::Result;
use retromae::ops::column_sum::{self, ColumnSum, column_sum};

use super::Dropout;
use super::passes::{self, DropoutRows};

/// Rows of a block: as in the fused kernels.
const ROWS_PER_BLOCK: usize = 32;
/// Sums of each block: one for gamma and one for beta.
const SUMS: usize = 2;

/// `[columns]` each.
#[derive(Clone, Copy)]
pub struct Parameters<'a> {
    pub bias: Option<View<'a, f32>>,
    pub gamma: View<'a, f32>,
    pub beta: View<'a, f32>,
}

/// Results and every intermediate matrix.
pub struct LayerNorm<T: ModelFloat> {
    rows: usize,
    columns: usize,
    eps: f32,
    pub dropout: Option<Dropout>,
    /// `[rows, columns]`: input of the normalization
    pub sum: Buffer<T>,
    mean: Buffer<f32>,
    rstd: Buffer<f32>,
    /// `[rows, columns]`
    pub output: Buffer<T>,
    /// `[rows, columns]`: gradient of `sum` and so of the residual
    pub d_residual: Buffer<T>,
    /// `[rows, columns]`, if there is dropout; else `d_residual` is used
    dropped: Option<Buffer<T>>,
    /// `[2, columns]`: gradients of gamma and beta
    pub d_parameters: Buffer<f32>,
    /// `[columns]`
    pub d_bias: Buffer<f32>,
    partials: Buffer<f32>,
    workspace: Buffer<u8>,
}

impl<T: ModelFloat> LayerNorm<T> {
    pub fn new(
        stream: &Stream,
        rows: usize,
        columns: usize,
        dropout: Option<Dropout>,
        eps: f32,
    ) -> Result<Self> {
        let device = stream.device();
        let matrix = || device.zeros(rows * columns);
        let blocks = rows.div_ceil(ROWS_PER_BLOCK);
        let workspace =
            column_sum::workspace(rows, columns).either(column_sum::workspace(blocks, SUMS * columns));
        Ok(Self {
            rows,
            columns,
            eps,
            sum: matrix()?,
            mean: device.zeros(rows)?,
            rstd: device.zeros(rows)?,
            output: matrix()?,
            d_residual: matrix()?,
            dropped: dropout.is_some().then(matrix).transpose()?,
            dropout,
            d_parameters: device.zeros(SUMS * columns)?,
            d_bias: device.zeros(columns)?,
            partials: device.zeros(blocks * SUMS * columns)?,
            workspace: workspace.allocate(device)?,
        })
    }

    /// Gradient of the input, `[rows, columns]`.
    pub fn d_input(&self) -> &Buffer<T> {
        self.dropped.as_ref().unwrap_or(&self.d_residual)
    }

    /// Runs up to four passes: bias, dropout, residual, LayerNorm.
    pub fn forward(
        &mut self,
        stream: &Stream,
        parameters: Parameters<'_>,
        input: View<'_, T>,
        residual: Option<View<'_, T>>,
    ) -> Result<()> {
        let rows = DropoutRows::Matrix { columns: self.columns };
        match (parameters.bias, &mut self.dropout) {
            (Some(bias), None) => passes::add_bias(stream, input, bias, self.sum.view_mut())?,
            (Some(bias), Some(dropout)) => {
                let biased = self.dropped.as_mut().expect("made with the dropout");
                passes::add_bias(stream, input, bias, biased.view_mut())?;
                passes::dropout(stream, dropout, rows, biased.view(), self.sum.view_mut())?;
            }
            (None, Some(dropout)) => {
                passes::dropout(stream, dropout, rows, input, self.sum.view_mut())?;
            }
            (None, None) => stream.copy(self.sum.view_mut(), input)?,
        }
        if let Some(residual) = residual {
            passes::add_to(stream, self.sum.view_mut(), residual)?;
        }
        self.normalize(stream, parameters)
    }

    /// Normalizes `sum`, which the caller has filled.
    pub fn normalize(&mut self, stream: &Stream, parameters: Parameters<'_>) -> Result<()> {
        let params =
            BaselineLayerNormParams { output: self.output.view().address(), ..self.params(parameters) };
        self.launch(stream, kernels::BASELINE_LAYER_NORM_FORWARD, &params)
    }

    /// Runs the backward passes after [`LayerNorm::forward`]: gradient of the sum, gradients of gamma and beta, dropout, gradient of the bias.
    pub fn backward(
        &mut self,
        stream: &Stream,
        parameters: Parameters<'_>,
        d_output: View<'_, T>,
    ) -> Result<()> {
        assert_eq!(d_output.len(), self.rows * self.columns);
        let params = BaselineLayerNormParams {
            d_output: d_output.address(),
            output: self.d_residual.view().address(),
            ..self.params(parameters)
        };
        self.launch(stream, kernels::BASELINE_LAYER_NORM_BACKWARD_INPUT, &params)?;
        self.launch(stream, kernels::BASELINE_LAYER_NORM_BACKWARD_PARAMETERS, &params)?;
        let d_parameters = ColumnSum {
            input: self.partials.view().rows_of(SUMS * self.columns)?,
            output: self.d_parameters.view_mut(),
            accumulate: false,
            workspace: self.workspace.view_mut(),
        };
        column_sum(stream, d_parameters)?;
        if let (Some(dropout), Some(dropped)) = (&self.dropout, &mut self.dropped) {
            let rows = DropoutRows::Matrix { columns: self.columns };
            passes::dropout_backward(stream, dropout, rows, self.d_residual.view(), dropped.view_mut())?;
        }
        if parameters.bias.is_some() {
            let d_bias = ColumnSum {
                input: self.dropped.as_ref().unwrap_or(&self.d_residual).matrix(self.rows, self.columns)?,
                output: self.d_bias.view_mut(),
                accumulate: false,
                workspace: self.workspace.view_mut(),
            };
            column_sum(stream, d_bias)?;
        }
        Ok(())
    }

    fn params(&self, parameters: Parameters<'_>) -> BaselineLayerNormParams {
        assert_eq!((parameters.gamma.len(), parameters.beta.len()), (self.columns, self.columns));
        BaselineLayerNormParams {
            input: self.sum.view().address(),
            gamma: parameters.gamma.address(),
            beta: parameters.beta.address(),
            mean: self.mean.view().address(),
            rstd: self.rstd.view().address(),
            partials: self.partials.view().address(),
            rows: self.rows as u32,
            columns: self.columns as u32,
            eps: self.eps,
            rows_per_block: ROWS_PER_BLOCK as u32,
            ..BaselineLayerNormParams::default()
        }
    }

    fn launch(
        &self,
        stream: &Stream,
        family: Family<BaselineLayerNormParams>,
        params: &BaselineLayerNormParams,
    ) -> Result<()> {
        // SAFETY: all arrays were made for these rows and columns; the gradient's length was checked.
        unsafe { stream.launch(family.of(T::DTYPE)?, params)? };
        Ok(())
    }
}
