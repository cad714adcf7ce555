//! The bag-of-words head: each token id's largest logit among a sentence's tokens must predict the sentence's ids.

use super::{linear, tensor};

/// An output layer, sentences, and their bags of words.
#[derive(Clone, Copy)]
pub struct BagOfWords<'a> {
    /// `[N, H]`: the sentences' tokens, one sentence after the other.
    pub hidden: &'a [f64],
    /// `[V, H]`.
    pub weight: &'a [f64],
    /// `[V]`.
    pub bias: &'a [f64],
    /// `[B]`: tokens of each sentence; none may be empty.
    pub lengths: &'a [usize],
    /// `[B]`: ids and weights of each sentence's bag.
    pub bags: &'a [Vec<(usize, f64)>],
    /// `[B]`: factor of each sentence's loss.
    pub sentence_weights: &'a [f64],
}

/// The largest logits of a sentence, and the rows of `hidden` that have them.
struct Maxima {
    logits: Vec<f64>,
    rows: Vec<usize>,
}

/// `[B]`: `−sentence_weight · Σ w · log softmax(m)[id]` with `m` the largest logits.
#[must_use]
pub fn forward(head: &BagOfWords) -> Vec<f64> {
    let sentences = head.maxima().into_iter().zip(head.bags).zip(head.sentence_weights);
    sentences
        .map(|((maxima, bag), sentence_weight)| {
            let total = tensor::log_sum_exp(&maxima.logits);
            sentence_weight
                * bag.iter().map(|&(id, weight)| weight * (total - maxima.logits[id])).sum::<f64>()
        })
        .collect()
}

/// Gradients `(d_hidden [N, H], d_weight [V, H], d_bias [V])` of the sum of the losses of [`forward`].
#[must_use]
pub fn backward(head: &BagOfWords) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let vocab_size = head.bias.len();
    let mut d_logits = vec![0.0; head.hidden.len() / head.hidden_size() * vocab_size];
    for ((maxima, bag), sentence_weight) in head.maxima().iter().zip(head.bags).zip(head.sentence_weights) {
        let total = tensor::log_sum_exp(&maxima.logits);
        let bag_weight: f64 = bag.iter().map(|&(_, weight)| weight).sum();
        for (id, (&row, logit)) in maxima.rows.iter().zip(&maxima.logits).enumerate() {
            d_logits[row * vocab_size + id] = sentence_weight * bag_weight * (logit - total).exp();
        }
        for &(id, weight) in bag {
            d_logits[maxima.rows[id] * vocab_size + id] -= sentence_weight * weight;
        }
    }
    linear::backward(head.hidden, head.weight, &d_logits, head.hidden_size())
}

impl BagOfWords<'_> {
    fn hidden_size(&self) -> usize {
        self.weight.len() / self.bias.len()
    }

    fn maxima(&self) -> Vec<Maxima> {
        let vocab_size = self.bias.len();
        let logits = linear::forward(self.hidden, self.weight, Some(self.bias), self.hidden_size());
        let mut start = 0;
        let sentence = |&length: &usize| {
            let mut maxima =
                Maxima { logits: vec![f64::NEG_INFINITY; vocab_size], rows: vec![start; vocab_size] };
            for row in start..start + length {
                for id in 0..vocab_size {
                    if logits[row * vocab_size + id] > maxima.logits[id] {
                        (maxima.logits[id], maxima.rows[id]) = (logits[row * vocab_size + id], row);
                    }
                }
            }
            start += length;
            maxima
        };
        self.lengths.iter().map(sentence).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two tokens, each best at one of two ids: both maxima are 3, and each id is as likely as the other.
    #[test]
    fn every_id_is_judged_by_its_best_token() {
        let head = BagOfWords {
            hidden: &[1.0, 0.0, 0.0, 1.0],
            weight: &[3.0, -5.0, -7.0, 3.0],
            bias: &[0.0, 0.0],
            lengths: &[2],
            bags: &[vec![(1, 1.0)]],
            sentence_weights: &[0.5],
        };
        assert!((forward(&head)[0] - 0.5 * 2f64.ln()).abs() < 1e-15);
        let (d_hidden, _, d_bias) = backward(&head);
        let close = |actual: &[f64], expected: &[f64]| {
            actual.iter().zip(expected).all(|(a, e)| (a - e).abs() < 1e-15)
        };
        assert!(close(&d_bias, &[0.25, -0.25]), "{d_bias:?}");
        assert!(close(&d_hidden, &[0.75, -1.25, 1.75, -0.75]), "{d_hidden:?}");
    }
}
