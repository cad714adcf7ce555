//! Fused linear layer and cross-entropy against the f64 reference: every dtype, algorithm and option, ragged shapes, any chunk.

mod forms;
mod mean_weights;
mod passes;
mod properties;
mod refusals;

use crate::cases::cross_entropy::{FULL, Form, Fused, Inputs, Way};
use crate::common::{assert_close, assert_close_to_scale, run_on, widened};
use retromae::device::{Buffer, Device, Float};
use retromae::model::IGNORE_INDEX;
use retromae::ops::cross_entropy::{self, Algorithm, Forward, Gradients, Options, Totals};
use retromae::reference::cross_entropy as reference;

/// Results of a call. Gradients start from 0; ignored rows have a `log_sum_exp` of 0.
#[derive(Debug, Default, PartialEq)]
struct Results {
    losses: Vec<f64>,
    log_sum_exp: Vec<f64>,
    log_likelihoods: Vec<f64>,
    correct: Vec<bool>,
    d_hidden: Vec<f64>,
    d_weight: Vec<f64>,
    d_bias: Vec<f64>,
    /// Totals of each group of the last call
    totals: Vec<Totals>,
    /// Names of the launched kernels, if requested
    kernels: Vec<String>,
}

fn exact<T: Float>(operands: &Inputs<T>) -> Results {
    let row_weights = widened(&operands.row_weights);
    let (hidden, weight, bias) =
        (widened(&operands.hidden), widened(&operands.weight), widened(&operands.bias));
    let head = reference::CrossEntropy {
        hidden: &hidden,
        weight: &weight,
        bias: &bias,
        targets: &operands.targets,
        row_weights: &row_weights,
        options: operands.options,
    };
    let reference::Loss { row_loss, mut log_sum_exp, log_likelihood, correct, .. } =
        reference::forward(&head);
    for (total, &target) in log_sum_exp.iter_mut().zip(&operands.targets) {
        *total = if target == operands.options.ignore_index { 0.0 } else { *total };
    }
    let (d_hidden, d_weight, d_bias) = reference::backward(&head);
    let losses = row_loss.iter().zip(&row_weights).map(|(loss, weight)| loss * weight).collect();
    Results {
        losses,
        log_sum_exp,
        log_likelihoods: log_likelihood,
        correct,
        d_hidden,
        d_weight,
        d_bias,
        ..Results::default()
    }
}

/// The naive composition, sums in f32. Values that the algorithm stores are rounded to `T`: the gradients of logits and hidden rows, and either the
/// logits, or hidden rows times a row's factor. Also returns the largest sum of the magnitudes of a gradient's terms (of `d_hidden`, `d_weight`,
/// `d_bias`), which cancel.
fn naive<T: Float>(operands: &Inputs<T>, algorithm: Algorithm) -> (Results, [f64; 3]) {
    let (rows, vocabulary, columns) = (operands.rows(), operands.vocabulary(), operands.hidden_size);
    let Options { ignore_index, label_smoothing, z_loss, soft_cap } = operands.options;
    let round = |value: f32| T::from_f32(value).to_f32();
    let stored = |logit: f32| if algorithm == Algorithm::Library { round(logit) } else { logit };
    let hidden: Vec<f32> = operands.hidden.iter().map(|v| v.to_f32()).collect();
    let weight: Vec<f32> = operands.weight.iter().map(|v| v.to_f32()).collect();
    let mut results = Results {
        losses: vec![0.0; rows],
        log_sum_exp: vec![0.0; rows],
        log_likelihoods: vec![0.0; rows],
        ..Results::default()
    };
    let mut gradients = [rows * columns, vocabulary * columns, vocabulary].map(|count| vec![0.0f32; count]);
    let mut magnitudes = gradients.clone();
    for row in (0..rows).filter(|&row| operands.targets[row] != ignore_index) {
        let target = operands.targets[row] as usize;
        let input = &hidden[row * columns..][..columns];
        let dot = |v: usize| -> f32 { (0..columns).map(|k| input[k] * weight[v * columns + k]).sum() };
        let capped = |x: f32| soft_cap.map_or(x, |cap| cap * (x / cap).tanh());
        let logits: Vec<f32> = (0..vocabulary).map(|v| capped(stored(dot(v)) + operands.bias[v])).collect();
        let maximum = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total = maximum + logits.iter().map(|logit| (logit - maximum).exp()).sum::<f32>().ln();
        let mean = logits.iter().sum::<f32>() / vocabulary as f32;
        let row_weight = operands.row_weights[row];
        let smoothed = (1.0 - label_smoothing) * logits[target] + label_smoothing * mean;
        results.log_sum_exp[row] = f64::from(total);
        results.log_likelihoods[row] = f64::from(logits[target] - total);
        results.losses[row] = f64::from(row_weight * (total - smoothed + z_loss * total * total));
        // The stored gradient of a logit, and the factor for its matmuls with weight, hidden row and 1.
        let fused = algorithm == Algorithm::Fused;
        let reference = if maximum - logits[target] > 30.0 { maximum } else { logits[target] };
        let scale = row_weight * (reference - total).exp();
        let scaled = |value: f32| if fused { scale * value } else { value };
        for (v, logit) in logits.iter().enumerate() {
            let one_hot = if v == target { 1.0 - label_smoothing } else { 0.0 };
            let probability = (1.0 + 2.0 * z_loss * total) * (logit - total).exp();
            let d_cap = soft_cap.map_or(1.0, |cap| 1.0 - (logit / cap).powi(2));
            let d_capped = row_weight * (probability - one_hot - label_smoothing / vocabulary as f32);
            let d_logit = round(d_capped * d_cap / if fused { scale } else { 1.0 });
            let mut add = |which: usize, at: usize, term: f32| {
                gradients[which][at] += term;
                magnitudes[which][at] += term.abs();
            };
            add(2, v, scaled(d_logit));
            for k in 0..columns {
                add(0, row * columns + k, scaled(d_logit * weight[v * columns + k]));
                add(1, v * columns + k, d_logit * if fused { round(scale * input[k]) } else { input[k] });
            }
        }
    }
    gradients[0].iter_mut().for_each(|value| *value = round(*value));
    let [d_hidden, d_weight, d_bias] = gradients.map(|gradient| widened(&gradient));
    let scales = magnitudes.map(|sums| f64::from(sums.into_iter().fold(0.0, f32::max)));
    (Results { d_hidden, d_weight, d_bias, ..results }, scales)
}

fn workspace<T: Float>(algorithm: Algorithm, rows: usize, operands: &Inputs<T>) -> usize {
    cross_entropy::workspace(algorithm, T::DTYPE, rows, operands.hidden_size, operands.vocabulary()).bytes()
}

fn forward_workspace<T: Float>(algorithm: Algorithm, rows: usize, operands: &Inputs<T>) -> usize {
    let (columns, vocabulary) = (operands.hidden_size, operands.vocabulary());
    cross_entropy::forward_workspace(algorithm, T::DTYPE, rows, columns, vocabulary).bytes()
}

/// Runs `parts` one after the other; the gradients of weight and bias accumulate. Results that are not wanted keep what they were made with.
fn run<T: Float>(device: &Device, parts: &[&Inputs<T>], way: Way<'_>) -> Results {
    run_recording(device, parts, way, false)
}

/// As [`run`]; records the names of the kernels if `capture` is set.
fn run_recording<T: Float>(device: &Device, parts: &[&Inputs<T>], way: Way<'_>, capture: bool) -> Results {
    let mut results = Results::default();
    let mut sums: Option<[Buffer<f32>; 2]> = None;
    for operands in parts {
        let mut call = Fused::new(device, operands, way).unwrap();
        let untouched = |count: usize| device.upload(&vec![f32::NAN; count]).unwrap();
        let rows = operands.rows();
        [call.losses, call.log_sum_exp, call.log_likelihoods] = [0, 1, 2].map(|_| untouched(rows));
        call.correct = device.upload(&vec![7u8; rows]).unwrap();
        call.d_hidden = device.upload(&vec![T::from_f32(f32::NAN); operands.hidden.len()]).unwrap();
        // Bytes of a NaN in every type.
        call.workspace = device.upload(&vec![0xffu8; call.workspace.len()]).unwrap();
        if let Some(sums) = sums {
            [call.d_weight, call.d_bias] = sums;
        }
        results.kernels.extend(run_on(device, capture, |stream| call.call(stream)));
        results.losses.extend(widened(&call.losses.read().unwrap()));
        results.log_sum_exp.extend(widened(&call.log_sum_exp.read().unwrap()));
        results.log_likelihoods.extend(widened(&call.log_likelihoods.read().unwrap()));
        results.correct.extend(call.correct.read().unwrap().into_iter().map(|byte| {
            assert!(byte == if way.form.correct { byte & 1 } else { 7 }, "correct is {byte}");
            byte == 1
        }));
        results.d_hidden.extend(widened(&call.d_hidden.read().unwrap()));
        results.totals = call.totals.read().unwrap();
        sums = Some([call.d_weight, call.d_bias]);
    }
    [results.d_weight, results.d_bias] = sums.expect("a part").map(|sum| widened(&sum.read().unwrap()));
    results
}

/// Returns the kernels of both variants of the in-place kernel, or of an algorithm.
pub fn kernels<T: Float>(device: &Device, algorithm: Algorithm) -> Vec<String> {
    let plain = Inputs::<T>::random(130, 200, 64);
    let general = plain.clone().with(Options { label_smoothing: 0.1, ..plain.options });
    let all = if algorithm == Algorithm::Library { vec![plain, general] } else { vec![plain] };
    run_recording(device, &all.iter().collect::<Vec<_>>(), Way::full(algorithm, 130), true).kernels
}

#[track_caller]
fn assert_results<T: Float>(actual: &Results, operands: &Inputs<T>, algorithm: Algorithm) {
    let exact = exact(operands);
    let (naive, [d_hidden, d_weight, d_bias]) = naive(operands, algorithm);
    assert_close::<f32>("losses", &actual.losses, &naive.losses, &exact.losses);
    assert_close::<f32>("log_sum_exp", &actual.log_sum_exp, &naive.log_sum_exp, &exact.log_sum_exp);
    assert_close::<f32>(
        "log_likelihoods",
        &actual.log_likelihoods,
        &naive.log_likelihoods,
        &exact.log_likelihoods,
    );
    assert_close_to_scale::<T>("d_hidden", &actual.d_hidden, &naive.d_hidden, &exact.d_hidden, d_hidden);
    assert_close_to_scale::<f32>("d_weight", &actual.d_weight, &naive.d_weight, &exact.d_weight, d_weight);
    assert_close_to_scale::<f32>("d_bias", &actual.d_bias, &naive.d_bias, &exact.d_bias, d_bias);
}
