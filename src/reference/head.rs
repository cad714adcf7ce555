//! The masked-language-model head that encoder and decoder share, over labeled rows only; and the bag-of-words head on the same layers.

use super::bag_of_words::{self, BagOfWords};
use super::cross_entropy::{self, CrossEntropy};
use super::parameters::{Parameters, accumulate, get};
use super::{gelu, layer_norm, linear, tensor};
use crate::common::loss::Options;
use crate::common::{Batch, IGNORE_INDEX};

const WORD: &str = "bert.embeddings.word_embeddings.weight";
const DENSE_WEIGHT: &str = "cls.predictions.transform.dense.weight";
const DENSE_BIAS: &str = "cls.predictions.transform.dense.bias";
const NORM_WEIGHT: &str = "cls.predictions.transform.LayerNorm.weight";
const NORM_BIAS: &str = "cls.predictions.transform.LayerNorm.bias";
const OUTPUT_BIAS: &str = "cls.predictions.bias";

/// Result of [`loss`].
pub struct HeadLoss {
    /// Mean cross-entropy over the labeled rows, 0 when there are none; not multiplied by the loss's weight.
    pub mean: f64,
    /// `[T, H]`: gradient of `loss_weight * mean`; zero in a row without a label.
    pub d_hidden: Vec<f64>,
}

/// Mean cross-entropy of `LN(gelu(y Wt + bt)) · wordᵀ + bias` over the labeled rows of `hidden [T, H]`.
///
/// `labels [T]` are ids or [`IGNORE_INDEX`]. The gradients of `loss_weight * mean` by the head's parameters are added to
/// `gradients`, the tied word embedding among them.
#[must_use]
pub fn loss(
    parameters: &Parameters,
    eps: f64,
    hidden: &[f64],
    labels: &[i32],
    loss_weight: f64,
    gradients: &mut Parameters,
) -> HeadLoss {
    let hidden_size = get(parameters, NORM_WEIGHT).len();
    let labeled: Vec<usize> = (0..labels.len()).filter(|&row| labels[row] != IGNORE_INDEX).collect();
    let mut d_hidden = vec![0.0; hidden.len()];
    if labeled.is_empty() {
        return HeadLoss { mean: 0.0, d_hidden };
    }
    let row = |row: usize| row * hidden_size..(row + 1) * hidden_size;
    let rows: Vec<f64> = labeled.iter().flat_map(|&label| hidden[row(label)].iter().copied()).collect();
    let targets: Vec<i32> = labeled.iter().map(|&label| labels[label]).collect();
    let (mean, d_rows) = labeled_loss(parameters, eps, &rows, &targets, loss_weight, gradients);
    for (&label, d_row) in labeled.iter().zip(d_rows.chunks_exact(hidden_size)) {
        tensor::add_to(&mut d_hidden[row(label)], d_row);
    }
    HeadLoss { mean, d_hidden }
}

/// The transform of `rows [m, H]`, and what its backward pass needs.
struct Transformed<'a> {
    rows: &'a [f64],
    dense: Vec<f64>,
    activated: Vec<f64>,
    normalized: Vec<f64>,
}

impl<'a> Transformed<'a> {
    fn new(parameters: &Parameters, eps: f64, rows: &'a [f64]) -> Self {
        let parameter = |name| get(parameters, name);
        let dense = linear::forward(rows, parameter(DENSE_WEIGHT), None, parameter(NORM_WEIGHT).len());
        let activated = gelu::forward(&dense, parameter(DENSE_BIAS));
        let normalized = layer_norm::forward(&activated, parameter(NORM_WEIGHT), parameter(NORM_BIAS), eps);
        Self { rows, dense, activated, normalized }
    }

    /// Returns the gradient of the rows, from those of output layer and normalized rows in the order of [`cross_entropy::backward`].
    fn backward(
        &self,
        parameters: &Parameters,
        eps: f64,
        (d_normalized, d_word, d_output_bias): (Vec<f64>, Vec<f64>, Vec<f64>),
        gradients: &mut Parameters,
    ) -> Vec<f64> {
        let parameter = |name| get(parameters, name);
        let (d_activated, d_gamma, d_beta) =
            layer_norm::backward(&self.activated, parameter(NORM_WEIGHT), eps, &d_normalized);
        let (d_dense, d_dense_bias) = gelu::backward(&self.dense, parameter(DENSE_BIAS), &d_activated);
        let (d_rows, d_dense_weight, _) =
            linear::backward(self.rows, parameter(DENSE_WEIGHT), &d_dense, parameter(NORM_WEIGHT).len());
        accumulate(gradients, WORD, &d_word);
        accumulate(gradients, OUTPUT_BIAS, &d_output_bias);
        accumulate(gradients, NORM_WEIGHT, &d_gamma);
        accumulate(gradients, NORM_BIAS, &d_beta);
        accumulate(gradients, DENSE_BIAS, &d_dense_bias);
        accumulate(gradients, DENSE_WEIGHT, &d_dense_weight);
        d_rows
    }
}

/// The loss over `rows [m, H]`, all of them labeled by `targets [m]`, and the gradient of `rows`.
fn labeled_loss(
    parameters: &Parameters,
    eps: f64,
    rows: &[f64],
    targets: &[i32],
    loss_weight: f64,
    gradients: &mut Parameters,
) -> (f64, Vec<f64>) {
    let transformed = Transformed::new(parameters, eps, rows);
    let row_weights = vec![loss_weight / targets.len() as f64; targets.len()];
    let output = CrossEntropy {
        hidden: &transformed.normalized,
        weight: get(parameters, WORD),
        bias: get(parameters, OUTPUT_BIAS),
        targets,
        row_weights: &row_weights,
        options: Options::default(),
    };
    let mean = cross_entropy::forward(&output).row_loss.iter().sum::<f64>() / targets.len() as f64;
    let d_rows = transformed.backward(parameters, eps, cross_entropy::backward(&output), gradients);
    (mean, d_rows)
}

/// Mean bag-of-words loss of the batch's sentences, whose last hidden states are `hidden [T, H]`, without `[CLS]`; `mean` and `d_hidden` are
/// defined as for [`loss`].
#[must_use]
pub fn bag_of_words_loss(
    parameters: &Parameters,
    eps: f64,
    hidden: &[f64],
    batch: &Batch,
    loss_weight: f64,
    gradients: &mut Parameters,
) -> HeadLoss {
    let hidden_size = get(parameters, NORM_WEIGHT).len();
    // A sentence of [CLS] alone has nothing to predict from, and nothing to predict.
    let sentences: Vec<usize> = (0..batch.num_sentences()).filter(|&b| batch.sentence(b).len() > 1).collect();
    let inner = |&b: &usize| batch.sentence(b).start + 1..batch.sentence(b).end;
    let tokens: Vec<usize> = sentences.iter().flat_map(inner).collect();
    let row = |row: usize| row * hidden_size..(row + 1) * hidden_size;
    let rows: Vec<f64> = tokens.iter().flat_map(|&token| hidden[row(token)].iter().copied()).collect();
    let transformed = Transformed::new(parameters, eps, &rows);
    let bag = |&b: &usize| {
        let weight = 1.0 / batch.sentence(b).len().saturating_sub(2).max(1) as f64;
        batch.bag_of_words(b).into_iter().map(|id| (id as usize, weight)).collect()
    };
    let head = BagOfWords {
        hidden: &transformed.normalized,
        weight: get(parameters, WORD),
        bias: get(parameters, OUTPUT_BIAS),
        lengths: &sentences.iter().map(|b| inner(b).len()).collect::<Vec<usize>>(),
        bags: &sentences.iter().map(bag).collect::<Vec<Vec<(usize, f64)>>>(),
        sentence_weights: &vec![loss_weight / batch.num_sentences() as f64; sentences.len()],
    };
    let mean = bag_of_words::forward(&head).iter().sum::<f64>() / loss_weight;
    let d_rows = transformed.backward(parameters, eps, bag_of_words::backward(&head), gradients);
    let mut d_hidden = vec![0.0; hidden.len()];
    for (&token, d_row) in tokens.iter().zip(d_rows.chunks_exact(hidden_size)) {
        tensor::add_to(&mut d_hidden[row(token)], d_row);
    }
    HeadLoss { mean, d_hidden }
}
