//! Unfused attention: scores, mask, softmax and product are passes of their own over materialised `[L, L]` matrices.

use rayon::prelude::*;
use retromae::model::VisibilityBank;

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
    /// Query, key, value and the gradient of the output are zero until they are set.
    pub fn new(
        lengths: &[usize],
        num_heads: usize,
        head_dim: usize,
        scale: f32,
        mask: Option<Vec<Vec<f32>>>,
    ) -> Self {
        let mut items = Vec::new();
        for (sentence, &length) in lengths.iter().enumerate() {
            for _ in 0..num_heads {
                let zeros = || vec![0.0; length * head_dim];
                items.push(Item {
                    sentence,
                    query: zeros(),
                    key: zeros(),
                    value: zeros(),
                    d_output: zeros(),
                    probabilities: vec![0.0; length * length],
                    d_scores: vec![0.0; length * length],
                    output: zeros(),
                    d_query: zeros(),
                    d_key: zeros(),
                    d_value: zeros(),
                });
            }
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

    /// Query, key and value, `[T, A·d]` each.
    pub fn set_inputs(&mut self, [query, key, value]: [&[f32]; 3]) {
        self.split(query, |item| &mut item.query);
        self.split(key, |item| &mut item.key);
        self.split(value, |item| &mut item.value);
    }

    /// The gradient of the output, `[T, A·d]`.
    pub fn set_d_output(&mut self, d_output: &[f32]) {
        self.split(d_output, |item| &mut item.d_output);
    }

    /// `[T, A·d]`
    pub fn output(&self) -> Vec<f32> {
        self.join(|item| &item.output)
    }

    /// Gradients of query, key and value, `[T, A·d]` each.
    pub fn d_inputs(&self) -> [Vec<f32>; 3] {
        [self.join(|item| &item.d_query), self.join(|item| &item.d_key), self.join(|item| &item.d_value)]
    }

    /// Gives every head its columns of `values`.
    fn split(&mut self, values: &[f32], part: impl Fn(&mut Item) -> &mut Vec<f32> + Sync) {
        let (columns, d) = (self.num_heads * self.head_dim, self.head_dim);
        let mut rest = values;
        let sentences: Vec<&[f32]> =
            self.lengths.iter().map(|length| rest.split_off(..length * columns).unwrap()).collect();
        let heads = self.items.par_chunks_exact_mut(self.num_heads).zip(sentences);
        heads.for_each(|(items, rows)| {
            for (head, item) in items.iter_mut().enumerate() {
                let parts = part(item).chunks_exact_mut(d).zip(rows.chunks_exact(columns));
                parts.for_each(|(part, row)| part.copy_from_slice(&row[head * d..][..d]));
            }
        });
    }

    /// The inverse of [`Attention::split`].
    fn join(&self, part: impl Fn(&Item) -> &Vec<f32> + Sync) -> Vec<f32> {
        let (columns, d) = (self.num_heads * self.head_dim, self.head_dim);
        let mut values = vec![0.0; self.lengths.iter().sum::<usize>() * columns];
        let mut rest = values.as_mut_slice();
        let sentences: Vec<&mut [f32]> =
            self.lengths.iter().map(|length| rest.split_off_mut(..length * columns).unwrap()).collect();
        let heads = self.items.par_chunks_exact(self.num_heads).zip(sentences);
        heads.for_each(|(items, rows)| {
            for (head, item) in items.iter().enumerate() {
                let parts = part(item).chunks_exact(d).zip(rows.chunks_exact_mut(columns));
                parts.for_each(|(part, row)| row[head * d..][..d].copy_from_slice(part));
            }
        });
        values
    }
}

/// The mask of every sentence under `bank`: 0 where visible, −∞ elsewhere.
pub fn dense_mask(bank: &VisibilityBank, lengths: &[usize]) -> Vec<Vec<f32>> {
    let mut start = 0;
    let mask = |(sentence, &length): (usize, &usize)| {
        let first = start;
        start += length;
        let visible = |i: usize| bank.visible(sentence, first, length, i / length, i % length);
        (0..length * length).map(|i| if visible(i) { 0.0 } else { f32::NEG_INFINITY }).collect()
    };
    lengths.iter().enumerate().map(mask).collect()
}

fn softmax(scores: &mut [f32], columns: usize) {
    for row in scores.chunks_exact_mut(columns) {
        let maximum = maximum(row);
        row.iter_mut().for_each(|score| *score = (*score - maximum).exp());
        let factor = 1.0 / sum(row);
        row.iter_mut().for_each(|value| *value *= factor);
    }
}
