//! Unfused bag-of-words head: all logits at once, their maxima, log-softmax, and the dense gradient of the logits.

use rayon::prelude::*;

use super::{Matrix, Threads, add_column_sums, maximum, product};

/// The results, a whole `[T, V]` matrix of logits and one of their gradient.
pub struct BagOfWords {
    pub losses: Vec<f32>,
    pub d_hidden: Vec<f32>,
    pub d_weight: Vec<f32>,
    pub d_bias: Vec<f32>,
    logits: Vec<f32>,
    d_logits: Vec<f32>,
}

impl BagOfWords {
    /// For `tokens` tokens of `columns`, in sentences of the same length.
    pub fn new(sentences: usize, tokens: usize, columns: usize, vocabulary: usize) -> Self {
        Self {
            losses: vec![0.0; sentences],
            d_hidden: vec![0.0; tokens * columns],
            d_weight: vec![0.0; vocabulary * columns],
            d_bias: vec![0.0; vocabulary],
            logits: vec![0.0; tokens * vocabulary],
            d_logits: vec![0.0; tokens * vocabulary],
        }
    }

    /// Of the two matrices.
    pub fn extra_bytes(&self) -> usize {
        size_of_val(&*self.logits) + size_of_val(&*self.d_logits)
    }

    /// The words of a bag share its weight of 1; sentences share the loss. Adds to the gradients of weight and bias.
    pub fn forward_backward(&mut self, hidden: &[f32], weight: &[f32], bias: &[f32], bags: &[Vec<i32>]) {
        let vocabulary = bias.len();
        let columns = weight.len() / vocabulary;
        let sentence_weight = 1.0 / bags.len() as f32;
        let (hidden, weight) = (Matrix::new(hidden, columns), Matrix::new(weight, columns));
        product(&mut self.logits, hidden, weight.transposed(), Threads::All);
        self.logits.par_chunks_exact_mut(vocabulary).for_each(|row| {
            row.iter_mut().zip(bias).for_each(|(logit, bias)| *logit += bias);
        });
        self.d_logits.par_chunks_mut(1 << 16).for_each(|part| part.fill(0.0));
        let elements = self.logits.len() / bags.len();
        let logits = self.logits.par_chunks_exact(elements);
        let d_logits = self.d_logits.par_chunks_exact_mut(elements);
        logits.zip(d_logits).zip(self.losses.par_iter_mut()).zip(bags).for_each(
            |(((logits, d_logits), loss), bag)| {
                *loss = sentence_weight * sentence(logits, d_logits, bag, vocabulary, sentence_weight);
            },
        );
        let d_logits = Matrix::new(&self.d_logits, vocabulary);
        product(&mut self.d_hidden, d_logits, weight, Threads::All);
        let mut d_weight = vec![0.0; self.d_weight.len()];
        product(&mut d_weight, d_logits.transposed(), hidden, Threads::All);
        self.d_weight.par_iter_mut().zip(d_weight).for_each(|(sum, value)| *sum += value);
        add_column_sums(&mut self.d_bias, &self.d_logits);
    }
}

/// The loss of a sentence, unweighted, and the gradient of its logits.
fn sentence(logits: &[f32], d_logits: &mut [f32], bag: &[i32], vocabulary: usize, weight: f32) -> f32 {
    let mut maxima = vec![f32::NEG_INFINITY; vocabulary];
    let mut slots = vec![0; vocabulary];
    for (slot, row) in logits.chunks_exact(vocabulary).enumerate() {
        for ((logit, best), at) in row.iter().zip(&mut maxima).zip(&mut slots) {
            if logit > best {
                (*best, *at) = (*logit, slot);
            }
        }
    }
    let highest = maximum(&maxima);
    let total = highest + maxima.iter().map(|logit| (logit - highest).exp()).sum::<f32>().ln();
    let share = 1.0 / bag.len() as f32;
    for (word, (logit, slot)) in maxima.iter().zip(&slots).enumerate() {
        d_logits[slot * vocabulary + word] = weight * (logit - total).exp();
    }
    for &id in bag {
        d_logits[slots[id as usize] * vocabulary + id as usize] -= weight * share;
    }
    share * bag.iter().map(|&id| total - maxima[id as usize]).sum::<f32>()
}
