//! LayerNorm over the hidden dimension, alone and as the end of a transformer block.

use super::tensor::{dot, keep_factor};
use crate::common::random::Dropout;

/// `gamma * (x - mean) / sqrt(variance + eps) + beta` for each row; the variance is the biased one.
///
/// Shapes: `x [rows, H]`, `gamma [H]`, `beta [H]`, result `[rows, H]`.
#[must_use]
pub fn forward(x: &[f64], gamma: &[f64], beta: &[f64], eps: f64) -> Vec<f64> {
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(gamma.len()) {
        let (normalized, _) = normalize(row, eps);
        out.extend((0..gamma.len()).map(|column| gamma[column] * normalized[column] + beta[column]));
    }
    out
}

/// Gradients `(d_x [rows, H], d_gamma [H], d_beta [H])` of [`forward`] under `d_out [rows, H]`.
///
/// With `x̂` the normalized row and `g = gamma * d_out`: `d_x = (g - mean(g) - x̂ mean(g x̂)) / sqrt(variance + eps)`.
#[must_use]
pub fn backward(x: &[f64], gamma: &[f64], eps: f64, d_out: &[f64]) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let hidden_size = gamma.len();
    let mut d_x = Vec::with_capacity(x.len());
    let (mut d_gamma, mut d_beta) = (vec![0.0; hidden_size], vec![0.0; hidden_size]);
    for (row, d_row) in x.chunks_exact(hidden_size).zip(d_out.chunks_exact(hidden_size)) {
        let (normalized, inverse_deviation) = normalize(row, eps);
        let d_normalized: Vec<f64> = gamma.iter().zip(d_row).map(|(gamma, d)| gamma * d).collect();
        let mean = d_normalized.iter().sum::<f64>() / hidden_size as f64;
        let mean_product = dot(&d_normalized, &normalized) / hidden_size as f64;
        for column in 0..hidden_size {
            let centered = d_normalized[column] - mean - normalized[column] * mean_product;
            d_x.push(inverse_deviation * centered);
            d_gamma[column] += d_row[column] * normalized[column];
            d_beta[column] += d_row[column];
        }
    }
    (d_x, d_gamma, d_beta)
}

/// Normalizes one row to mean 0 and variance 1; also returns `1 / sqrt(variance + eps)`.
fn normalize(row: &[f64], eps: f64) -> (Vec<f64>, f64) {
    let mean = row.iter().sum::<f64>() / row.len() as f64;
    let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / row.len() as f64;
    let inverse_deviation = 1.0 / (variance + eps).sqrt();
    (row.iter().map(|x| (x - mean) * inverse_deviation).collect(), inverse_deviation)
}

/// End of a transformer block: `LayerNorm(residual + dropout(x + bias))`.
///
/// Dropout element: row = packed token, column = hidden column, head 0.
#[derive(Clone, Copy)]
pub struct DropoutResidual<'a> {
    /// `[rows, H]`, the block's output before its bias.
    pub x: &'a [f64],
    /// `[H]`.
    pub bias: &'a [f64],
    /// `[rows, H]`, the block's input.
    pub residual: &'a [f64],
    /// `[H]`.
    pub gamma: &'a [f64],
    /// Term added to the variance.
    pub eps: f64,
    /// Dropout on `x + bias`; `None` keeps every element.
    pub dropout: Option<&'a Dropout>,
}

/// Gradients of [`dropout_residual_forward`], each with the shape of its tensor.
pub struct DropoutResidualGradients {
    /// `[rows, H]`
    pub x: Vec<f64>,
    /// `[H]`
    pub bias: Vec<f64>,
    /// `[rows, H]`
    pub residual: Vec<f64>,
    /// `[H]`
    pub gamma: Vec<f64>,
    /// `[H]`
    pub beta: Vec<f64>,
}

/// `LayerNorm(residual + dropout(x + bias))`, `[rows, H]`; `beta [H]`.
#[must_use]
pub fn dropout_residual_forward(block: &DropoutResidual, beta: &[f64]) -> Vec<f64> {
    forward(&sum(block), block.gamma, beta, block.eps)
}

/// Gradients of [`dropout_residual_forward`] under `d_out [rows, H]`.
#[must_use]
pub fn dropout_residual_backward(block: &DropoutResidual, d_out: &[f64]) -> DropoutResidualGradients {
    let hidden_size = block.gamma.len();
    let (d_sum, gamma, beta) = backward(&sum(block), block.gamma, block.eps, d_out);
    let (mut d_x, mut d_bias) = (Vec::with_capacity(d_sum.len()), vec![0.0; hidden_size]);
    for (index, d) in d_sum.iter().enumerate() {
        let (row, column) = (index / hidden_size, index % hidden_size);
        d_x.push(keep_factor(block.dropout, row, column) * d);
        d_bias[column] += d_x[index];
    }
    DropoutResidualGradients { x: d_x, bias: d_bias, residual: d_sum, gamma, beta }
}

/// Returns `residual + dropout(x + bias)`, the input of the LayerNorm.
fn sum(block: &DropoutResidual) -> Vec<f64> {
    let hidden_size = block.gamma.len();
    let element = |(index, (x, residual)): (usize, (&f64, &f64))| {
        let (row, column) = (index / hidden_size, index % hidden_size);
        residual + keep_factor(block.dropout, row, column) * (x + block.bias[column])
    };
    block.x.iter().zip(block.residual).enumerate().map(element).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_get_mean_beta_and_deviation_gamma() {
        let out = forward(&[1.0, 3.0, -2.0, 2.0], &[2.0, 2.0], &[0.5, 0.5], 0.0);
        assert_eq!(out, [-1.5, 2.5, -1.5, 2.5]);
    }

    #[test]
    fn dropout_acts_on_the_biased_input_and_not_on_the_residual() {
        let dropout = Dropout { seed: 3, step: 1, site: 9, threshold: 128 };
        let (x, bias, residual) = ([1.0; 32], [1.0; 16], [10.0; 32]);
        let block = DropoutResidual {
            x: &x,
            bias: &bias,
            residual: &residual,
            gamma: &[1.0; 16],
            eps: 1e-12,
            dropout: Some(&dropout),
        };
        for (index, value) in sum(&block).into_iter().enumerate() {
            let factor = f64::from(dropout.factor(0, index as u32 / 16, index as u32 % 16));
            assert_eq!(value, 10.0 + 2.0 * factor);
        }
    }
}
