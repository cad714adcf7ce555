//! Cross-entropy of a linear output layer, `logits = hidden Wᵀ + bias`, with a weight for each row. `crate::ops::cross_entropy` has the formula
//! with [`Options`].

use super::{linear, tensor};
use crate::common::loss::Options;

/// An output layer and its targets.
#[derive(Clone, Copy)]
pub struct CrossEntropy<'a> {
    /// `[m, H]`.
    pub hidden: &'a [f64],
    /// `[V, H]`: in BERT the word embedding itself.
    pub weight: &'a [f64],
    /// `[V]`.
    pub bias: &'a [f64],
    /// `[m]`: the correct id, or `options.ignore_index` for a row without a loss.
    pub targets: &'a [i32],
    /// `[m]`: factor of each row's loss; `1 / labeled rows` makes the loss their mean.
    pub row_weights: &'a [f64],
    /// Ignored target, label smoothing, z-loss and soft cap.
    pub options: Options,
}

/// Result of [`forward`].
pub struct Loss {
    /// `Σ row_weight * row_loss`.
    pub loss: f64,
    /// `[m]`: unweighted; 0 for an ignored row.
    pub row_loss: Vec<f64>,
    /// `[m]`: log-sum-exp of the logits, after capping if any; ignored rows included.
    pub log_sum_exp: Vec<f64>,
    /// `[m]`: `logit[target] - log_sum_exp`; 0 for an ignored row.
    pub log_likelihood: Vec<f64>,
    /// `[m]`: `true` where no logit exceeds the target's; false for an ignored row.
    pub correct: Vec<bool>,
}

/// The weighted loss over all rows.
#[must_use]
pub fn forward(head: &CrossEntropy) -> Loss {
    let Options { ignore_index, label_smoothing, z_loss, .. } = head.options;
    let (smoothing, z_loss) = (f64::from(label_smoothing), f64::from(z_loss));
    let rows = head.targets.len();
    let mut result = Loss {
        loss: 0.0,
        row_loss: vec![0.0; rows],
        log_sum_exp: vec![0.0; rows],
        log_likelihood: vec![0.0; rows],
        correct: vec![false; rows],
    };
    for (row, logits) in head.capped_logits().chunks_exact(head.bias.len()).enumerate() {
        let total = tensor::log_sum_exp(logits);
        result.log_sum_exp[row] = total;
        if head.targets[row] == ignore_index {
            continue;
        }
        let own = logits[head.targets[row] as usize];
        let mean = logits.iter().sum::<f64>() / logits.len() as f64;
        let smoothed = (1.0 - smoothing) * (total - own) + smoothing * (total - mean);
        result.log_likelihood[row] = own - total;
        result.correct[row] = logits.iter().all(|&logit| logit <= own);
        result.row_loss[row] = smoothed + z_loss * total * total;
    }
    result.loss = tensor::dot(&result.row_loss, head.row_weights);
    result
}

/// Gradients `(d_hidden [m, H], d_weight [V, H], d_bias [V])` of the loss of [`forward`].
///
/// Without options `d_logits = row_weight * (softmax(logits) - one_hot(target))`, zero for an ignored row.
#[must_use]
pub fn backward(head: &CrossEntropy) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let Options { ignore_index, label_smoothing, z_loss, soft_cap } = head.options;
    let (smoothing, z_loss) = (f64::from(label_smoothing), f64::from(z_loss));
    let vocab_size = head.bias.len();
    let mut d_logits = head.capped_logits();
    for (row, logits) in d_logits.chunks_exact_mut(vocab_size).enumerate() {
        if head.targets[row] == ignore_index {
            logits.fill(0.0);
            continue;
        }
        let total = tensor::log_sum_exp(logits);
        for (id, logit) in logits.iter_mut().enumerate() {
            let one_hot = if id == head.targets[row] as usize { 1.0 } else { 0.0 };
            let d_capped = (1.0 + 2.0 * z_loss * total) * (*logit - total).exp()
                - (1.0 - smoothing) * one_hot
                - smoothing / vocab_size as f64;
            let d_cap = soft_cap.map_or(1.0, |cap| 1.0 - (*logit / f64::from(cap)).powi(2));
            *logit = head.row_weights[row] * d_capped * d_cap;
        }
    }
    linear::backward(head.hidden, head.weight, &d_logits, head.hidden_size())
}

impl CrossEntropy<'_> {
    fn hidden_size(&self) -> usize {
        self.weight.len() / self.bias.len()
    }

    fn capped_logits(&self) -> Vec<f64> {
        let mut logits = linear::forward(self.hidden, self.weight, Some(self.bias), self.hidden_size());
        if let Some(cap) = self.options.soft_cap.map(f64::from) {
            logits.iter_mut().for_each(|logit| *logit = cap * (*logit / cap).tanh());
        }
        logits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::IGNORE_INDEX;

    fn head() -> CrossEntropy<'static> {
        CrossEntropy {
            hidden: &[0.0, 0.0, 5.0, 5.0],
            weight: &[1.0, 2.0, 3.0, 4.0],
            bias: &[3f64, 3f64],
            targets: &[1, IGNORE_INDEX],
            row_weights: &[0.5, 0.5],
            options: Options::default(),
        }
    }

    #[test]
    fn a_uniform_row_costs_the_logarithm_of_the_vocabulary() {
        let Loss { loss, row_loss, log_sum_exp, .. } = forward(&head());
        assert!((row_loss[0] - 2f64.ln()).abs() < 1e-15 && (loss - 0.5 * 2f64.ln()).abs() < 1e-15);
        assert!((log_sum_exp[0] - 3.0 - 2f64.ln()).abs() < 1e-15);
    }

    #[test]
    fn ignored_rows_have_no_loss_and_no_gradient() {
        assert_eq!(forward(&head()).row_loss[1], 0.0);
        let (d_hidden, d_weight, d_bias) = backward(&head());
        assert_eq!(d_hidden[2..], [0.0, 0.0]);
        assert_eq!(d_weight, [0.0; 4], "row 0 has a zero input, row 1 is ignored");
        assert!((d_bias[0] - 0.25).abs() < 1e-15 && (d_bias[1] + 0.25).abs() < 1e-15);
    }
}
