//! Unfused output layer: all logits at once, then bias, log-softmax, loss, softmax and its gradient as passes of their own.

use rayon::prelude::*;

use super::{Matrix, Threads, add_column_sums, maximum, product};

/// What the layer computes from.
#[derive(Clone, Copy)]
pub struct Operands<'a> {
    /// `[M, H]`
    pub hidden: &'a [f32],
    /// `[V, H]`
    pub weight: &'a [f32],
    /// `[V]`
    pub bias: &'a [f32],
    /// `[M]`, all labelled
    pub targets: &'a [i32],
    /// `[M]`
    pub row_weights: &'a [f32],
}

/// The results, and two whole `[M, V]` matrices.
pub struct CrossEntropy {
    pub losses: Vec<f32>,
    pub d_hidden: Vec<f32>,
    pub d_weight: Vec<f32>,
    pub d_bias: Vec<f32>,
    log_probabilities: Vec<f32>,
    d_logits: Vec<f32>,
}

impl CrossEntropy {
    /// For `rows` labelled rows of `columns`.
    pub fn new(rows: usize, columns: usize, vocabulary: usize) -> Self {
        Self {
            losses: vec![0.0; rows],
            d_hidden: vec![0.0; rows * columns],
            d_weight: vec![0.0; vocabulary * columns],
            d_bias: vec![0.0; vocabulary],
            log_probabilities: vec![0.0; rows * vocabulary],
            d_logits: vec![0.0; rows * vocabulary],
        }
    }

    /// Of the two matrices.
    pub fn extra_bytes(&self) -> usize {
        size_of_val(&*self.log_probabilities) + size_of_val(&*self.d_logits)
    }

    pub fn forward_backward(&mut self, operands: &Operands<'_>) {
        let Operands { hidden, weight, bias, targets, row_weights } = *operands;
        let vocabulary = bias.len();
        let columns = weight.len() / vocabulary;
        let (hidden, weight) = (Matrix::new(hidden, columns), Matrix::new(weight, columns));
        product(&mut self.log_probabilities, hidden, weight.transposed(), Threads::All);
        self.log_probabilities.par_chunks_exact_mut(vocabulary).for_each(|row| {
            row.iter_mut().zip(bias).for_each(|(logit, bias)| *logit += bias);
        });
        self.log_probabilities.par_chunks_exact_mut(vocabulary).for_each(|row| {
            let maximum = maximum(row);
            let log_sum_exp = maximum + row.iter().map(|logit| (logit - maximum).exp()).sum::<f32>().ln();
            row.iter_mut().for_each(|logit| *logit -= log_sum_exp);
        });
        let rows = || self.log_probabilities.par_chunks_exact(vocabulary);
        self.losses.par_iter_mut().zip(rows()).enumerate().for_each(|(row, (loss, log_probabilities))| {
            *loss = -row_weights[row] * log_probabilities[targets[row] as usize];
        });
        let d_rows = self.d_logits.par_chunks_exact_mut(vocabulary);
        d_rows.zip(rows()).enumerate().for_each(|(row, (d_logits, log_probabilities))| {
            d_logits.iter_mut().zip(log_probabilities).for_each(|(d, log)| *d = row_weights[row] * log.exp());
            d_logits[targets[row] as usize] -= row_weights[row];
        });
        let d_logits = Matrix::new(&self.d_logits, vocabulary);
        product(&mut self.d_hidden, d_logits, weight, Threads::All);
        product(&mut self.d_weight, d_logits.transposed(), hidden, Threads::All);
        self.d_bias.fill(0.0);
        add_column_sums(&mut self.d_bias, &self.d_logits);
    }
}
