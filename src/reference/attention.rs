//! Multi-head attention over packed sentences: `softmax(scale Q Kᵀ + mask) V`, a sentence and a head at a time.

use super::tensor::{add_scaled, dot, log_sum_exp, sentences};
use crate::common::MaskPool;
use crate::common::random::Dropout;
use std::ops::Range;

/// The keys of its own sentence that a query may read.
#[derive(Clone, Copy)]
pub enum Mask<'a> {
    /// Every key: the encoder and the `basic` decoder.
    Full,
    /// Position-specific: the `enhanced` decoder (paper, section "enhanced decoding").
    Pool(&'a MaskPool),
    /// One bit row per position, of `ceil(L / 32)` 32-bit words. `two_stream` shows position 0 to all others and
    /// hides every position from itself, as in [`Mask::Pool`].
    Bits {
        /// L rows a sentence, `ceil(L / 32)` 32-bit words a row, lowest bit first; 1 is visible.
        bits: &'a [u32],
        /// `[B + 1]`: offset of each sentence's first 32-bit word in `bits`.
        offsets: &'a [u32],
        /// Position 0 is visible to all others, and no position to itself.
        two_stream: bool,
    },
    /// Keys from `left` positions before the query to `right` after it; with `first` also position 0.
    Window {
        /// Positions before the query that it sees; all where `None`.
        left: Option<u32>,
        /// Positions after the query that it sees; all where `None`.
        right: Option<u32>,
        /// Position 0 is visible, however far it is.
        first: bool,
    },
    /// Keys that come earlier in a permutation, and with `include_self` the query's own; `order` is `[T]`.
    Permutation {
        /// `[T]`: each token's row in the factorization order of its sentence.
        order: &'a [u16],
        /// A query sees the key at its own position.
        include_self: bool,
    },
}

/// Queries that are packed separately, not one per token.
#[derive(Clone, Copy)]
pub struct Queries<'a> {
    /// `[B + 1]` prefix sums of the numbers of queries.
    pub cu_seqlens: &'a [i32],
    /// `[Tq]`: the queries' positions in their sentences; 0, 1, … where `None`.
    pub positions: Option<&'a [i32]>,
}

/// Parameters of an attention, apart from its tensors.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// `[B + 1]` prefix sums of the sentence lengths.
    pub cu_seqlens: &'a [i32],
    /// One query per token where `None`.
    pub queries: Option<Queries<'a>>,
    /// Number of heads A.
    pub num_heads: usize,
    /// Head size d.
    pub head_dim: usize,
    /// Factor of the scores, `1 / sqrt(head_dim)` in BERT.
    pub scale: f64,
    /// Keys that each query sees.
    pub mask: Mask<'a>,
    /// Dropout on the probabilities; element: head, row = the query's packed token, column = the key's position in its sentence.
    pub dropout: Option<&'a Dropout>,
}

/// Result of [`forward`].
pub struct Output {
    /// `[Tq, A * d]`, Tq the number of queries; zero for a query that sees no key.
    pub output: Vec<f64>,
    /// `[A, Tq]`: log-sum-exp of the scaled and masked scores; `-∞` for a query that sees no key.
    pub log_sum_exp: Vec<f64>,
}

/// `dropout(softmax(scale Q Kᵀ + mask)) V` for each sentence and head; `query` is `[Tq, A * d]`, `key` and `value` `[T, A * d]`.
#[must_use]
pub fn forward(attention: &Attention, query: &[f64], key: &[f64], value: &[f64]) -> Output {
    let queries = attention.num_queries();
    let mut output = vec![0.0; query.len()];
    let mut log_sum_exps = vec![f64::NEG_INFINITY; attention.num_heads * queries];
    attention.for_each_query(|row| {
        let (probabilities, log_sum_exp) = attention.probabilities(row, query, key);
        for (position, probability) in probabilities.iter().enumerate() {
            let weight = probability * attention.keep_factor(row, position);
            let from = &value[attention.vector(row.sentence.start + position, row.head)];
            add_scaled(&mut output[attention.vector(row.query, row.head)], weight, from);
        }
        log_sum_exps[row.head * queries + row.query] = log_sum_exp;
    });
    Output { output, log_sum_exp: log_sum_exps }
}

/// Gradients `(d_query, d_key, d_value)` of [`forward`], shaped as its arguments, under `d_output [Tq, A * d]`.
///
/// With P the probabilities and F the dropout factors of a row: `dV += (P F)ᵀ dO`, `dP = F (dO Vᵀ)`,
/// `dS = scale P (dP - Σ P dP)`, `dQ = dS K`, `dK += dSᵀ Q`.
#[must_use]
pub fn backward(
    attention: &Attention,
    query: &[f64],
    key: &[f64],
    value: &[f64],
    d_output: &[f64],
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let mut d_query = vec![0.0; query.len()];
    let (mut d_key, mut d_value) = (vec![0.0; key.len()], vec![0.0; value.len()]);
    attention.for_each_query(|row| {
        let (probabilities, _) = attention.probabilities(row, query, key);
        let own = attention.vector(row.query, row.head);
        let mut d_probabilities = Vec::with_capacity(probabilities.len());
        for (position, probability) in probabilities.iter().enumerate() {
            let other = attention.vector(row.sentence.start + position, row.head);
            let factor = attention.keep_factor(row, position);
            d_probabilities.push(factor * dot(&d_output[own.clone()], &value[other.clone()]));
            add_scaled(&mut d_value[other], probability * factor, &d_output[own.clone()]);
        }
        let mean = dot(&probabilities, &d_probabilities);
        for (position, probability) in probabilities.iter().enumerate() {
            let other = attention.vector(row.sentence.start + position, row.head);
            let d_score = attention.scale * probability * (d_probabilities[position] - mean);
            add_scaled(&mut d_query[own.clone()], d_score, &key[other.clone()]);
            add_scaled(&mut d_key[other], d_score, &query[own.clone()]);
        }
    });
    (d_query, d_key, d_value)
}

/// A query, in one head.
struct QueryRow {
    sentence_index: usize,
    /// Packed tokens of its keys.
    sentence: Range<usize>,
    head: usize,
    /// Row of the query.
    query: usize,
    /// Position of the query in its sentence.
    position: usize,
}

impl<'a> Attention<'a> {
    /// Attention of each token to all tokens of its sentence: scores times `1 / √d`, no mask, no dropout.
    #[must_use]
    pub fn new(cu_seqlens: &'a [i32], num_heads: usize, head_dim: usize) -> Self {
        let scale = 1.0 / (head_dim as f64).sqrt();
        Self { cu_seqlens, queries: None, num_heads, head_dim, scale, mask: Mask::Full, dropout: None }
    }
}

impl Attention<'_> {
    fn num_queries(&self) -> usize {
        self.query_bounds().last().map_or(0, |&total| total as usize)
    }

    fn query_bounds(&self) -> &[i32] {
        self.queries.map_or(self.cu_seqlens, |queries| queries.cu_seqlens)
    }

    fn for_each_query(&self, mut visit: impl FnMut(&QueryRow)) {
        let pairs = sentences(self.cu_seqlens).zip(sentences(self.query_bounds()));
        for (sentence_index, (sentence, queries)) in pairs.enumerate() {
            for head in 0..self.num_heads {
                for query in queries.clone() {
                    let positions = self.queries.and_then(|queries| queries.positions);
                    let position =
                        positions.map_or(query - queries.start, |positions| positions[query] as usize);
                    visit(&QueryRow { sentence_index, sentence: sentence.clone(), head, query, position });
                }
            }
        }
    }

    /// Returns the range of the `d` elements of a row's head in a tensor of `A * d` columns.
    fn vector(&self, row: usize, head: usize) -> Range<usize> {
        let start = (row * self.num_heads + head) * self.head_dim;
        start..start + self.head_dim
    }

    /// Returns whether the query at position `query` of a sentence sees the key at position `key`.
    #[must_use]
    pub fn sees(&self, sentence: usize, query: usize, key: usize) -> bool {
        let [start, end] = [0, 1].map(|i| self.cu_seqlens[sentence + i] as usize);
        match self.mask {
            Mask::Full => true,
            Mask::Pool(pool) => pool.visible(sentence, start, end - start, query, key),
            Mask::Bits { bits, offsets, two_stream } => {
                let row = offsets[sentence] as usize + query * (end - start).div_ceil(32);
                let bit = bits[row + key / 32] >> (key % 32) & 1 == 1;
                if two_stream { key != query && (key == 0 || bit) } else { bit }
            }
            Mask::Window { left, right, first } => {
                let (query, position) = (query as u64, key as u64);
                let after_left = left.is_none_or(|left| position + u64::from(left) >= query);
                let before_right = right.is_none_or(|right| position <= query + u64::from(right));
                after_left && before_right || first && key == 0
            }
            Mask::Permutation { order, include_self } => {
                if key == query {
                    include_self
                } else {
                    order[start + key] < order[start + query]
                }
            }
        }
    }

    fn keep_factor(&self, row: &QueryRow, position: usize) -> f64 {
        let token = row.sentence.start + row.position;
        let factor = |dropout: &Dropout| dropout.factor(row.head as u32, token as u32, position as u32);
        self.dropout.map_or(1.0, |dropout| f64::from(factor(dropout)))
    }

    /// Returns the probability of each position before dropout, all zero where no key is visible, and the scores' log-sum-exp.
    fn probabilities(&self, row: &QueryRow, query: &[f64], key: &[f64]) -> (Vec<f64>, f64) {
        let own = &query[self.vector(row.query, row.head)];
        let score = |token: usize| {
            if self.sees(row.sentence_index, row.position, token - row.sentence.start) {
                self.scale * dot(own, &key[self.vector(token, row.head)])
            } else {
                f64::NEG_INFINITY
            }
        };
        let scores: Vec<f64> = row.sentence.clone().map(score).collect();
        let total = log_sum_exp(&scores);
        if total == f64::NEG_INFINITY {
            return (vec![0.0; scores.len()], total);
        }
        (scores.iter().map(|score| (score - total).exp()).collect(), total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attention<'a>(cu_seqlens: &'a [i32], mask: Mask<'a>) -> Attention<'a> {
        Attention { mask, ..Attention::new(cu_seqlens, 1, 1) }
    }

    #[test]
    fn equal_scores_average_the_values_of_their_own_sentence() {
        let attention = attention(&[0, 2, 3], Mask::Full);
        let Output { output, log_sum_exp } = forward(&attention, &[0.0; 3], &[7.0; 3], &[1.0, 3.0, 9.0]);
        assert_eq!(output, [2.0, 2.0, 9.0]);
        assert_eq!(log_sum_exp, [2f64.ln(), 2f64.ln(), 0.0]);
    }

    /// A sentence of one token under a pool sees nothing: not itself, and position 0 is itself.
    #[test]
    fn a_query_that_sees_nothing_gives_zeros_and_no_gradient() {
        let pool = MaskPool { bits: vec![0, 0], offsets: vec![0, 1, 2], rows: vec![0; 3] };
        let attention = attention(&[0, 1, 3], Mask::Pool(&pool));
        let (query, key, value) = ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]);
        let Output { output, log_sum_exp } = forward(&attention, &query, &key, &value);
        assert_eq!(output, [0.0, 0.0, 8.0]);
        assert_eq!(log_sum_exp, [f64::NEG_INFINITY, f64::NEG_INFINITY, 15.0]);
        let (d_query, d_key, d_value) = backward(&attention, &query, &key, &value, &[1.0; 3]);
        assert_eq!((d_query, d_key, d_value), (vec![0.0; 3], vec![0.0; 3], vec![0.0, 1.0, 0.0]));
    }

    #[test]
    fn dropout_acts_on_normalized_probabilities() {
        let dropout = Dropout { seed: 5, step: 2, site: 8, threshold: 128 };
        let cu_seqlens = [0, 1, 21];
        let attention =
            Attention { num_heads: 2, dropout: Some(&dropout), ..attention(&cu_seqlens, Mask::Full) };
        let output = forward(&attention, &[0.0; 42], &[0.0; 42], &[1.0; 42]).output;
        for token in 1..21 {
            for head in 0..2 {
                let kept: f32 = (0..20).map(|position| dropout.factor(head, token, position)).sum();
                let expected = f64::from(kept) / 20.0;
                assert!((output[(2 * token + head) as usize] - expected).abs() < 1e-12);
            }
        }
    }
}
