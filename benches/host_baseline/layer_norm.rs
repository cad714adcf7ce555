//! Unfused end of a block: bias, dropout, residual, mean, variance, normalisation and affine map as passes of their own.

use rayon::prelude::*;
use retromae::random::{DROPOUT_GROUP, Dropout, key, philox};

use super::{add_column_sums, dot, sum};

/// What the block's end computes from.
#[derive(Clone, Copy)]
pub struct Operands<'a> {
    /// `[rows, columns]`
    pub input: &'a [f32],
    /// `[columns]`
    pub bias: Option<&'a [f32]>,
    /// `[rows, columns]`
    pub residual: Option<&'a [f32]>,
    /// `[columns]`
    pub gamma: &'a [f32],
    /// `[columns]`
    pub beta: &'a [f32],
    /// `[rows, columns]`: only the backward pass reads it
    pub d_output: &'a [f32],
    pub eps: f32,
    pub dropout: Option<Dropout>,
}

/// The results, and every intermediate matrix.
pub struct LayerNorm {
    pub output: Vec<f32>,
    /// Gradient of the residual, and of the input where nothing is dropped.
    pub d_input: Vec<f32>,
    /// Gradient of the input where something is dropped.
    pub d_dropped: Vec<f32>,
    pub d_gamma: Vec<f32>,
    pub d_beta: Vec<f32>,
    pub d_bias: Vec<f32>,
    /// Of each element: 0 or what the others are scaled by.
    factors: Vec<f32>,
    sum: Vec<f32>,
    normalised: Vec<f32>,
    d_normalised: Vec<f32>,
    product: Vec<f32>,
    mean: Vec<f32>,
    rstd: Vec<f32>,
}

impl LayerNorm {
    pub fn new(rows: usize, columns: usize) -> Self {
        let matrix = || vec![0.0; rows * columns];
        let rows = || vec![0.0; rows];
        let columns = || vec![0.0; columns];
        Self {
            output: matrix(),
            d_input: matrix(),
            d_dropped: Vec::new(),
            d_gamma: columns(),
            d_beta: columns(),
            d_bias: columns(),
            factors: Vec::new(),
            sum: matrix(),
            normalised: matrix(),
            d_normalised: matrix(),
            product: matrix(),
            mean: rows(),
            rstd: rows(),
        }
    }

    pub fn forward(&mut self, operands: &Operands<'_>) {
        let Operands { input, bias, residual, gamma, beta, eps, dropout, .. } = *operands;
        let columns = gamma.len();
        match bias {
            Some(bias) => map_rows(&mut self.sum, input, columns, |_, output, input| {
                output.iter_mut().zip(input.iter().zip(bias)).for_each(|(o, (i, b))| *o = i + b);
            }),
            None => self.sum.copy_from_slice(input),
        }
        if let Some(dropout) = dropout {
            self.factors.resize(input.len(), 0.0);
            fill_factors(&mut self.factors, columns, dropout);
            map_rows(&mut self.sum, &self.factors, columns, multiply);
        }
        if let Some(residual) = residual {
            map_rows(&mut self.sum, residual, columns, |_, sum, residual| {
                sum.iter_mut().zip(residual).for_each(|(sum, value)| *sum += value);
            });
        }
        let rows = || self.sum.par_chunks_exact(columns);
        self.mean.par_iter_mut().zip(rows()).for_each(|(mean, row)| *mean = sum(row) / columns as f32);
        map_rows(&mut self.normalised, &self.sum, columns, |row, output, sum| {
            output.iter_mut().zip(sum).for_each(|(o, s)| *o = s - self.mean[row]);
        });
        let centred = self.normalised.par_chunks_exact(columns);
        self.rstd
            .par_iter_mut()
            .zip(centred)
            .for_each(|(rstd, row)| *rstd = 1.0 / (dot(row, row) / columns as f32 + eps).sqrt());
        let rstd = &self.rstd;
        self.normalised.par_chunks_exact_mut(columns).enumerate().for_each(|(row, values)| {
            values.iter_mut().for_each(|value| *value *= rstd[row]);
        });
        map_rows(&mut self.output, &self.normalised, columns, |_, output, normalised| {
            let affine = normalised.iter().zip(gamma.iter().zip(beta));
            output.iter_mut().zip(affine).for_each(|(o, (n, (g, b)))| *o = n * g + b);
        });
    }

    /// After [`LayerNorm::forward`]; `d_bias` is summed up only where there is a bias.
    pub fn backward(&mut self, operands: &Operands<'_>) {
        let Operands { gamma, d_output, .. } = *operands;
        let columns = gamma.len();
        let mean = 1.0 / columns as f32;
        map_rows(&mut self.product, d_output, columns, |row, output, d_output| {
            let normalised = &self.normalised[row * columns..][..columns];
            output.iter_mut().zip(d_output.iter().zip(normalised)).for_each(|(o, (d, n))| *o = d * n);
        });
        map_rows(&mut self.d_normalised, d_output, columns, |_, output, d_output| {
            output.iter_mut().zip(d_output.iter().zip(gamma)).for_each(|(o, (d, g))| *o = d * g);
        });
        map_rows(&mut self.d_input, &self.d_normalised, columns, |row, d_input, d_normalised| {
            let normalised = &self.normalised[row * columns..][..columns];
            let (centre, slope) = (mean * sum(d_normalised), mean * dot(d_normalised, normalised));
            let terms = d_normalised.iter().zip(normalised);
            d_input
                .iter_mut()
                .zip(terms)
                .for_each(|(o, (d, n))| *o = self.rstd[row] * (d - centre - n * slope));
        });
        if operands.dropout.is_some() {
            self.d_dropped.clone_from(&self.d_input);
            map_rows(&mut self.d_dropped, &self.factors, columns, multiply);
        }
        let d_input = if operands.dropout.is_some() { &*self.d_dropped } else { &*self.d_input };
        let d_bias = operands.bias.map(|_| (&mut self.d_bias, d_input));
        let sums = [(&mut self.d_gamma, &*self.product), (&mut self.d_beta, d_output)];
        for (output, values) in sums.into_iter().chain(d_bias) {
            output.fill(0.0);
            add_column_sums(output, values);
        }
    }
}

/// `operation(row, output, input)` for every row of two matrices.
fn map_rows(
    output: &mut [f32],
    input: &[f32],
    columns: usize,
    operation: impl Fn(usize, &mut [f32], &[f32]) + Sync,
) {
    let rows = output.par_chunks_exact_mut(columns).zip(input.par_chunks_exact(columns));
    rows.enumerate().for_each(|(row, (output, input))| operation(row, output, input));
}

fn multiply(_row: usize, values: &mut [f32], factors: &[f32]) {
    values.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor);
}

/// The factors of head 0, sixteen for each call of Philox.
fn fill_factors(factors: &mut [f32], columns: usize, dropout: Dropout) {
    let scale = dropout.scale();
    factors.par_chunks_exact_mut(columns).enumerate().for_each(|(row, factors)| {
        for (group, factors) in factors.chunks_mut(DROPOUT_GROUP as usize).enumerate() {
            let words = philox(key(dropout.seed), [group as u32, row as u32, dropout.site, dropout.step]);
            let bytes = words.into_iter().flat_map(u32::to_le_bytes);
            let factor = |byte: u8| if u32::from(byte) < dropout.threshold { 0.0 } else { scale };
            factors.iter_mut().zip(bytes).for_each(|(value, byte)| *value = factor(byte));
        }
    });
}
