//! The masked-language-model head over the labeled rows of one stack: linear, GELU, LayerNorm, output layer, loss.

use retromae::device::{Buffer, ModelFloat, Stream, View};
use retromae::model::{IGNORE_INDEX, ModelConfig};
use retromae::ops::rows::{Gather, ScatterAdd, gather, scatter_add};
use retromae::ops::{Result, reduce};

use super::super::cross_entropy::CrossEntropy;
use super::super::layer_norm::LayerNorm;
use super::super::passes;
use super::arena::Arena;

const TRANSFORM: &str = "cls.predictions.transform.dense";
const NORM: &str = "cls.predictions.transform.LayerNorm";

pub struct Head<T: ModelFloat> {
    columns: usize,
    /// `[M]`: the labeled rows
    rows: Buffer<i32>,
    /// `[M, H]`: gathered labeled rows, in the backward pass their gradient
    gathered: Buffer<T>,
    /// `[M, H]`: before GELU
    transformed: Buffer<T>,
    norm: LayerNorm<T>,
    output: CrossEntropy<T>,
    d_rows: Buffer<T>,
    loss: Buffer<f32>,
    workspace: Buffer<u8>,
}

impl<T: ModelFloat> Head<T> {
    pub fn new(stream: &Stream, config: &ModelConfig, arena: &Arena<T>, labels: &[i32]) -> Result<Self> {
        let device = stream.device();
        let columns = config.hidden_size;
        let rows: Vec<i32> =
            (0..labels.len() as i32).filter(|&row| labels[row as usize] != IGNORE_INDEX).collect();
        let targets: Vec<i32> = rows.iter().map(|&row| labels[row as usize]).collect();
        let row_weights = vec![1.0 / rows.len() as f32; rows.len()];
        let matrix = || device.zeros(rows.len() * columns);
        Ok(Self {
            columns,
            gathered: matrix()?,
            transformed: matrix()?,
            norm: LayerNorm::new(stream, rows.len(), columns, None, config.layer_norm_eps)?,
            output: CrossEntropy::new(stream, columns, arena.vocabulary(), &targets, &row_weights)?,
            d_rows: matrix()?,
            loss: device.zeros(1)?,
            workspace: reduce::workspace(rows.len()).allocate(device)?,
            rows: device.upload(&rows)?,
        })
    }

    /// Returns the mean loss of the last run.
    pub fn loss(&self) -> Result<f32> {
        Ok(self.loss.read()?[0])
    }

    /// Computes the loss of `hidden`, `[T, H]`, and its gradients; that of `hidden` is added to `d_hidden`.
    pub fn run(
        &mut self,
        stream: &Stream,
        arena: &mut Arena<T>,
        hidden: View<'_, T>,
        d_hidden: &mut Buffer<T>,
    ) -> Result<()> {
        let (rows, columns) = (self.rows.view(), self.columns);
        let (input, output) = (hidden.rows_of(columns)?, self.gathered.view_mut().rows_of(columns)?);
        gather(stream, Gather { input, rows, output })?;
        arena.biased_linear(stream, TRANSFORM, self.gathered.view(), self.transformed.view_mut())?;
        passes::gelu(stream, self.transformed.view(), self.norm.sum.view_mut())?;
        self.norm.normalize(stream, arena.norm(NORM, None))?;
        let (weights, gradients) = arena.output_layer();
        self.output.forward_backward(stream, weights, self.norm.output.view(), gradients)?;
        let sum = reduce::Arguments {
            input: self.output.losses.view(),
            output: self.loss.view_mut(),
            accumulate: false,
            workspace: self.workspace.view_mut(),
        };
        reduce::sum(stream, sum)?;

        self.norm.backward(stream, arena.norm(NORM, None), self.output.d_hidden.view())?;
        arena.add_norm_gradients(stream, NORM, None, &self.norm)?;
        let d_transformed = &mut self.norm.d_residual;
        passes::gelu_backward(stream, self.transformed.view(), d_transformed.view_mut())?;
        arena.bias_gradient(stream, TRANSFORM, d_transformed.view())?;
        let (input, d_rows) = (self.gathered.view(), self.d_rows.view_mut());
        arena.linear_backward(stream, TRANSFORM, input, d_transformed.view(), d_rows, false)?;
        let input = self.d_rows.view().rows_of(columns)?;
        let output = d_hidden.view_mut().rows_of(columns)?;
        scatter_add(stream, ScatterAdd { input, rows, output })
    }
}
