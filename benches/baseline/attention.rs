//! Unfused attention: scores, mask, softmax and product are passes of their own over materialised `[L, L]` matrices.

use rayon::prelude::*;

use super::{Matrix, Threads, dot, maximum, product, sum};

/// One head of one sentence. Its operands lie together, `[L, d]`: a framework would pay for that transposition, this one has it for free.
struct Item {
    sentence: usize,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    d_output: Vec<f32>,
    /// `[L, L]` scores, then probabilities
    probabilities: Vec<f32>,
    /// `[L, L]` gradient of the probabilities, then of the scores
    d_scores: Vec<f32>,
    output: Vec<f32>,
    d_query: Vec<f32>,
    d_key: Vec<f32>,
    d_value: Vec<f32>,
}

/// All heads of a pack of sentences, with the buffers of a forward and a backward pass.
pub struct Attention {
    items: Vec<Item>,
    lengths: Vec<usize>,
    num_heads: usize,
    head_dim: usize,
    scale: f32,
    /// `[L, L]` of each sentence, added to the scores: 0 or −∞
    mask: Option<Vec<Vec<f32>>>,
}

impl Attention {
    /// `operands` are query, key, value and the gradient of the output, each `[T, A·d]`.
    pub fn new(
        lengths: &[usize],
        num_heads: usize,
        head_dim: usize,
        scale: f32,
        mask: Option<Vec<Vec<f32>>>,
        operands: [&[f32]; 4],
    ) -> Self {
        let columns = num_heads * head_dim;
        let mut items = Vec::new();
        let mut start = 0;
        for (sentence, &length) in lengths.iter().enumerate() {
            for head in 0..num_heads {
                let rows = |values: &[f32]| -> Vec<f32> {
                    let row = |token| &values[token * columns + head * head_dim..][..head_dim];
                    (start..start + length).flat_map(row).copied().collect()
                };
                let [query, key, value, d_output] = operands.map(rows);
                let zeros = || vec![0.0; length * head_dim];
                items.push(Item {
                    sentence,
                    query,
                    key,
                    value,
                    d_output,
                    probabilities: vec![0.0; length * length],
                    d_scores: vec![0.0; length * length],
                    output: zeros(),
                    d_query: zeros(),
                    d_key: zeros(),
                    d_value: zeros(),
                });
            }
            start += length;
        }
        Self { items, lengths: lengths.to_vec(), num_heads, head_dim, scale, mask }
    }

    /// Seven passes: product, scale, mask, maximum and exponentials, sums, division, product.
    pub fn forward(&mut self) {
        let (d, scale) = (self.head_dim, self.scale);
        self.items.par_iter_mut().for_each(|item| {
            let (query, key) = (Matrix::new(&item.query, d), Matrix::new(&item.key, d));
            product(&mut item.probabilities, query, key.transposed(), Threads::One);
        });
        self.items.par_iter_mut().for_each(|item| {
            item.probabilities.iter_mut().for_each(|score| *score *= scale);
        });
        if let Some(mask) = &self.mask {
            self.items.par_iter_mut().for_each(|item| {
                let mask = &mask[item.sentence];
                item.probabilities.iter_mut().zip(mask).for_each(|(score, mask)| *score += mask);
            });
        }
        let lengths = &self.lengths;
        self.items.par_iter_mut().for_each(|item| softmax(&mut item.probabilities, lengths[item.sentence]));
        self.items.par_iter_mut().for_each(|item| {
            let probabilities = Matrix::new(&item.probabilities, lengths[item.sentence]);
            product(&mut item.output, probabilities, Matrix::new(&item.value, d), Threads::One);
        });
    }

    /// After [`Attention::forward`].
    pub fn backward(&mut self) {
        let (d, scale, lengths) = (self.head_dim, self.scale, &self.lengths);
        self.items.par_iter_mut().for_each(|item| {
            let probabilities = Matrix::new(&item.probabilities, lengths[item.sentence]);
            let (d_output, value) = (Matrix::new(&item.d_output, d), Matrix::new(&item.value, d));
            product(&mut item.d_value, probabilities.transposed(), d_output, Threads::One);
            product(&mut item.d_scores, d_output, value.transposed(), Threads::One);
        });
        self.items.par_iter_mut().for_each(|item| {
            let length = lengths[item.sentence];
            let rows = item.d_scores.chunks_exact_mut(length);
            for (d_scores, probabilities) in rows.zip(item.probabilities.chunks_exact(length)) {
                let delta = dot(probabilities, d_scores);
                d_scores.iter_mut().zip(probabilities).for_each(|(d, p)| *d = p * (*d - delta));
            }
        });
        self.items.par_iter_mut().for_each(|item| {
            item.d_scores.iter_mut().for_each(|d_score| *d_score *= scale);
        });
        self.items.par_iter_mut().for_each(|item| {
            let d_scores = Matrix::new(&item.d_scores, lengths[item.sentence]);
            product(&mut item.d_query, d_scores, Matrix::new(&item.key, d), Threads::One);
            product(&mut item.d_key, d_scores.transposed(), Matrix::new(&item.query, d), Threads::One);
        });
    }

    /// Output and gradients of query, key and value, `[T, A·d]` each.
    pub fn results(&self) -> [Vec<f32>; 4] {
        let columns = self.num_heads * self.head_dim;
        let tokens: usize = self.lengths.iter().sum();
        let mut results = [(); 4].map(|()| vec![0.0; tokens * columns]);
        let mut start = 0;
        for (index, item) in self.items.iter().enumerate() {
            let head = index % self.num_heads;
            let parts = [&item.output, &item.d_query, &item.d_key, &item.d_value];
            for (result, part) in results.iter_mut().zip(parts) {
                for (slot, row) in part.chunks_exact(self.head_dim).enumerate() {
                    let at = (start + slot) * columns + head * self.head_dim;
                    result[at..at + self.head_dim].copy_from_slice(row);
                }
            }
            if head + 1 == self.num_heads {
                start += self.lengths[item.sentence];
            }
        }
        results
    }
}

fn softmax(scores: &mut [f32], columns: usize) {
    for row in scores.chunks_exact_mut(columns) {
        let maximum = maximum(row);
        row.iter_mut().for_each(|score| *score = (*score - maximum).exp());
        let factor = 1.0 / sum(row);
        row.iter_mut().for_each(|value| *value *= factor);
    }
}
