//! Cross-entropy of a linear output layer, `logits = hidden Wᵀ + bias`, with a weight for each row.

use super::{linear, tensor};
use crate::model::IGNORE_INDEX;

/// An output layer and what it must predict.
#[derive(Clone, Copy)]
pub struct CrossEntropy<'a> {
    /// `[m, H]`.
    pub hidden: &'a [f64],
    /// `[V, H]`: in BERT the word embedding itself.
    pub weight: &'a [f64],
    /// `[V]`.
    pub bias: &'a [f64],
    /// `[m]`: the right id, or [`IGNORE_INDEX`] for a row without a loss.
    pub targets: &'a [i32],
    /// `[m]`: what each row's loss is multiplied by; `1 / labelled rows` makes the loss their mean.
    pub row_weights: &'a [f64],
}

/// What [`forward`] gives.
pub struct Loss {
    /// `Σ row_weight * row_loss`.
    pub loss: f64,
    /// `[m]`: `log_sum_exp - logit[target]`, unweighted; 0 for an ignored row.
    pub row_loss: Vec<f64>,
    /// `[m]`: of the logits, ignored rows included.
    pub log_sum_exp: Vec<f64>,
}

/// The weighted loss over all rows.
#[must_use]
pub fn forward(head: &CrossEntropy) -> Loss {
    let logits = head.logits();
    let rows = || logits.chunks_exact(head.bias.len());
    let log_sum_exp: Vec<f64> = rows().map(tensor::log_sum_exp).collect();
    let row_loss: Vec<f64> = rows()
        .zip(&log_sum_exp)
        .zip(head.targets)
        .map(
            |((row, total), &target)| if target == IGNORE_INDEX { 0.0 } else { total - row[target as usize] },
        )
        .collect();
    Loss { loss: tensor::dot(&row_loss, head.row_weights), row_loss, log_sum_exp }
}

/// Gradients `(d_hidden [m, H], d_weight [V, H], d_bias [V])` of the loss of [`forward`].
///
/// `d_logits = row_weight * (softmax(logits) - one_hot(target))`, zero for an ignored row.
#[must_use]
pub fn backward(head: &CrossEntropy) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let mut d_logits = head.logits();
    for (row, logits) in d_logits.chunks_exact_mut(head.bias.len()).enumerate() {
        if head.targets[row] == IGNORE_INDEX {
            logits.fill(0.0);
            continue;
        }
        let total = tensor::log_sum_exp(logits);
        for logit in logits.iter_mut() {
            *logit = head.row_weights[row] * (*logit - total).exp();
        }
        logits[head.targets[row] as usize] -= head.row_weights[row];
    }
    linear::backward(head.hidden, head.weight, &d_logits, head.hidden_size())
}

impl CrossEntropy<'_> {
    fn hidden_size(&self) -> usize {
        self.weight.len() / self.bias.len()
    }

    fn logits(&self) -> Vec<f64> {
        linear::forward(self.hidden, self.weight, Some(self.bias), self.hidden_size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: CrossEntropy = CrossEntropy {
        hidden: &[0.0, 0.0, 5.0, 5.0],
        weight: &[1.0, 2.0, 3.0, 4.0],
        bias: &[3f64, 3f64],
        targets: &[1, IGNORE_INDEX],
        row_weights: &[0.5, 0.5],
    };

    #[test]
    fn a_uniform_row_costs_the_logarithm_of_the_vocabulary() {
        let Loss { loss, row_loss, log_sum_exp } = forward(&HEAD);
        assert!((row_loss[0] - 2f64.ln()).abs() < 1e-15 && (loss - 0.5 * 2f64.ln()).abs() < 1e-15);
        assert!((log_sum_exp[0] - 3.0 - 2f64.ln()).abs() < 1e-15);
    }

    #[test]
    fn ignored_rows_have_no_loss_and_no_gradient() {
        assert_eq!(forward(&HEAD).row_loss[1], 0.0);
        let (d_hidden, d_weight, d_bias) = backward(&HEAD);
        assert_eq!(d_hidden[2..], [0.0, 0.0]);
        assert_eq!(d_weight, [0.0; 4], "row 0 has a zero input, row 1 is ignored");
        assert!((d_bias[0] - 0.25).abs() < 1e-15 && (d_bias[1] + 0.25).abs() < 1e-15);
    }
}
