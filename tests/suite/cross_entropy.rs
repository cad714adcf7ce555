//! Linear layer and cross-entropy in one, against the f64 reference: every dtype, ragged shapes, any chunk of logits.

use crate::common::{assert_close, assert_close_to_scale, devices, integers, rounded, values, widened};
use retromae::device::{Buffer, Device, Float, bf16};
use retromae::model::IGNORE_INDEX;
use retromae::ops::cross_entropy::{self, ForwardBackward};
use retromae::reference::cross_entropy as reference;

struct Operands<T> {
    hidden: Vec<T>,
    weight: Vec<T>,
    bias: Vec<f32>,
    targets: Vec<i32>,
    row_weights: Vec<f32>,
    hidden_size: usize,
}

impl<T: Float> Operands<T> {
    /// Logits of about [-4, 4], every third row ignored.
    fn random(rows: usize, vocabulary: usize, hidden_size: usize) -> Self {
        let spread = 2.0 / (hidden_size as f64).sqrt();
        let weight: Vec<f64> = values(2, vocabulary * hidden_size).iter().map(|v| v * spread).collect();
        let target = |(row, id)| if row % 3 == 2 { IGNORE_INDEX } else { id };
        let row_weight = |v: &f64| ((1.5 + v.abs()) / rows as f64) as f32;
        Self {
            hidden: rounded(&values(1, rows * hidden_size)),
            weight: rounded(&weight),
            bias: rounded(&values(3, vocabulary)),
            targets: integers(4, rows, vocabulary as u32).into_iter().enumerate().map(target).collect(),
            row_weights: values(5, rows).iter().map(row_weight).collect(),
            hidden_size,
        }
    }

    fn rows(&self) -> usize {
        self.targets.len()
    }

    fn vocabulary(&self) -> usize {
        self.bias.len()
    }

    fn part(&self, rows: std::ops::Range<usize>) -> Self {
        Self {
            hidden: self.hidden[rows.start * self.hidden_size..rows.end * self.hidden_size].to_vec(),
            weight: self.weight.clone(),
            bias: self.bias.clone(),
            targets: self.targets[rows.clone()].to_vec(),
            row_weights: self.row_weights[rows].to_vec(),
            hidden_size: self.hidden_size,
        }
    }
}

/// Gradients start from 0; ignored rows have a `log_sum_exp` of 0.
#[derive(Debug, PartialEq)]
struct Results {
    losses: Vec<f64>,
    log_sum_exp: Vec<f64>,
    d_hidden: Vec<f64>,
    d_weight: Vec<f64>,
    d_bias: Vec<f64>,
}

fn exact<T: Float>(operands: &Operands<T>) -> Results {
    let row_weights = widened(&operands.row_weights);
    let (hidden, weight, bias) =
        (widened(&operands.hidden), widened(&operands.weight), widened(&operands.bias));
    let head = reference::CrossEntropy {
        hidden: &hidden,
        weight: &weight,
        bias: &bias,
        targets: &operands.targets,
        row_weights: &row_weights,
    };
    let reference::Loss { row_loss, mut log_sum_exp, .. } = reference::forward(&head);
    for (total, &target) in log_sum_exp.iter_mut().zip(&operands.targets) {
        *total = if target == IGNORE_INDEX { 0.0 } else { *total };
    }
    let (d_hidden, d_weight, d_bias) = reference::backward(&head);
    let losses = row_loss.iter().zip(&row_weights).map(|(loss, weight)| loss * weight).collect();
    Results { losses, log_sum_exp, d_hidden, d_weight, d_bias }
}

/// The naive composition: logits, their gradient and that of the hidden rows stored in `T`, sums in f32. Also the largest sum of the
/// magnitudes of a gradient's terms (of `d_hidden`, `d_weight`, `d_bias`), which cancel.
fn naive<T: Float>(operands: &Operands<T>) -> (Results, [f64; 3]) {
    let (rows, vocabulary, columns) = (operands.rows(), operands.vocabulary(), operands.hidden_size);
    let round = |value: f32| T::from_f32(value).to_f32();
    let hidden: Vec<f32> = operands.hidden.iter().map(|v| v.to_f32()).collect();
    let weight: Vec<f32> = operands.weight.iter().map(|v| v.to_f32()).collect();
    let (mut losses, mut log_sum_exp) = (vec![0.0; rows], vec![0.0; rows]);
    let mut gradients = [rows * columns, vocabulary * columns, vocabulary].map(|count| vec![0.0f32; count]);
    let mut magnitudes = gradients.clone();
    for row in (0..rows).filter(|&row| operands.targets[row] != IGNORE_INDEX) {
        let target = operands.targets[row] as usize;
        let input = &hidden[row * columns..][..columns];
        let dot = |v: usize| -> f32 { (0..columns).map(|k| input[k] * weight[v * columns + k]).sum() };
        let logits: Vec<f32> = (0..vocabulary).map(|v| round(dot(v)) + operands.bias[v]).collect();
        let maximum = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total = maximum + logits.iter().map(|logit| (logit - maximum).exp()).sum::<f32>().ln();
        let row_weight = operands.row_weights[row];
        log_sum_exp[row] = f64::from(total);
        losses[row] = f64::from(row_weight * (total - logits[target]));
        for (v, logit) in logits.iter().enumerate() {
            let one_hot = if v == target { 1.0 } else { 0.0 };
            let d_logit = round(row_weight * ((logit - total).exp() - one_hot));
            let mut add = |which: usize, at: usize, term: f32| {
                gradients[which][at] += term;
                magnitudes[which][at] += term.abs();
            };
            add(2, v, d_logit);
            for k in 0..columns {
                add(0, row * columns + k, d_logit * weight[v * columns + k]);
                add(1, v * columns + k, d_logit * input[k]);
            }
        }
    }
    gradients[0].iter_mut().for_each(|value| *value = round(*value));
    let [d_hidden, d_weight, d_bias] = gradients.map(|gradient| widened(&gradient));
    let scales = magnitudes.map(|sums| f64::from(sums.into_iter().fold(0.0, f32::max)));
    (Results { losses, log_sum_exp, d_hidden, d_weight, d_bias }, scales)
}

/// Runs `parts` one after the other, with room for the logits of `chunk` rows; the gradients of weight and bias accumulate.
fn run<T: Float>(device: &Device, parts: &[&Operands<T>], chunk: usize) -> Results {
    let (vocabulary, hidden_size) = (parts[0].vocabulary(), parts[0].hidden_size);
    let mut d_weight: Buffer<f32> = device.zeros(vocabulary * hidden_size).unwrap();
    let mut d_bias: Buffer<f32> = device.zeros(vocabulary).unwrap();
    let stream = device.stream();
    let mut results =
        Results { losses: vec![], log_sum_exp: vec![], d_hidden: vec![], d_weight: vec![], d_bias: vec![] };
    for operands in parts {
        let rows = operands.rows();
        let nan = vec![T::from_f32(f32::NAN); cross_entropy::workspace_logits(chunk, vocabulary)];
        let [hidden, weight] = [&operands.hidden, &operands.weight].map(|v| device.upload(v).unwrap());
        let [bias, row_weights] = [&operands.bias, &operands.row_weights].map(|v| device.upload(v).unwrap());
        let targets = device.upload(&operands.targets).unwrap();
        let mut logits = device.upload(&nan).unwrap();
        let ones = device.upload(&vec![T::from_f32(1.0); chunk]).unwrap();
        let [mut losses, mut log_sum_exp] = [0, 1].map(|_| device.upload(&vec![f32::NAN; rows]).unwrap());
        let mut d_hidden = device.upload(&vec![T::from_f32(f32::NAN); rows * hidden_size]).unwrap();
        let arguments = ForwardBackward {
            hidden: hidden.view(),
            weight: weight.view(),
            bias: bias.view(),
            targets: targets.view(),
            row_weights: row_weights.view(),
            losses: losses.view_mut(),
            log_sum_exp: log_sum_exp.view_mut(),
            d_hidden: d_hidden.view_mut(),
            d_weight: d_weight.view_mut(),
            d_bias: d_bias.view_mut(),
            logits: logits.view_mut(),
            ones: ones.view(),
            hidden_size,
        };
        cross_entropy::forward_backward(&stream, arguments).unwrap();
        results.losses.extend(widened(&losses.read().unwrap()));
        results.log_sum_exp.extend(widened(&log_sum_exp.read().unwrap()));
        results.d_hidden.extend(widened(&d_hidden.read().unwrap()));
    }
    results.d_weight = widened(&d_weight.read().unwrap());
    results.d_bias = widened(&d_bias.read().unwrap());
    results
}

#[track_caller]
fn assert_results<T: Float>(actual: &Results, operands: &Operands<T>) {
    let exact = exact(operands);
    let (naive, [d_hidden, d_weight, d_bias]) = naive(operands);
    assert_close::<f32>("losses", &actual.losses, &naive.losses, &exact.losses);
    assert_close::<f32>("log_sum_exp", &actual.log_sum_exp, &naive.log_sum_exp, &exact.log_sum_exp);
    assert_close_to_scale::<T>("d_hidden", &actual.d_hidden, &naive.d_hidden, &exact.d_hidden, d_hidden);
    assert_close_to_scale::<f32>("d_weight", &actual.d_weight, &naive.d_weight, &exact.d_weight, d_weight);
    assert_close_to_scale::<f32>("d_bias", &actual.d_bias, &naive.d_bias, &exact.d_bias, d_bias);
}

fn sweep<T: Float>() {
    let devices = devices();
    for rows in [0, 1, 17, 130] {
        for (vocabulary, hidden_size) in [7, 97, 1003].into_iter().flat_map(|v| [16, 64, 384].map(|h| (v, h)))
        {
            let operands = Operands::<T>::random(rows, vocabulary, hidden_size);
            // Each chunk on one of the devices, for there may be but one.
            for (device, chunk) in devices.iter().cycle().zip([rows.max(1), 5, 64, 33]) {
                assert_results(&run(device, &[&operands], chunk), &operands);
            }
        }
    }
}

#[test]
fn f32_matches_the_reference() {
    sweep::<f32>();
}

#[test]
fn bf16_matches_the_reference() {
    sweep::<bf16>();
}

#[test]
fn any_chunk_of_logits_gives_the_same() {
    fn check<T: Float>(device: &Device) {
        let operands = Operands::<T>::random(131, 97, 64);
        for chunk in [1, 5, 131, 200] {
            assert_results(&run(device, &[&operands], chunk), &operands);
        }
    }
    check::<f32>(&devices()[0]);
    check::<bf16>(&devices()[0]);
}

#[test]
fn gradients_accumulate_over_calls() {
    for device in devices() {
        let operands = Operands::<f32>::random(34, 97, 64);
        let actual = run(&device, &[&operands.part(0..17), &operands.part(17..34)], 8);
        assert_results(&actual, &operands);
    }
}

#[test]
fn ignored_rows_have_no_loss_and_no_gradient() {
    fn check<T: Float>(device: &Device) {
        let mut operands = Operands::<T>::random(17, 97, 64);
        operands.targets.fill(IGNORE_INDEX);
        // What is ignored must not reach a result even as NaN · 0 in the loss.
        operands.row_weights.fill(f32::INFINITY);
        let Results { losses, log_sum_exp, d_hidden, d_weight, d_bias } = run(device, &[&operands], 5);
        for (name, values) in [
            ("losses", losses),
            ("log_sum_exp", log_sum_exp),
            ("d_hidden", d_hidden),
            ("d_weight", d_weight),
            ("d_bias", d_bias),
        ] {
            assert!(values.iter().all(|&value| value == 0.0), "{name} of ignored rows");
        }
    }
    for device in devices() {
        check::<f32>(&device);
        check::<bf16>(&device);
    }
}

/// One logit of a row is 10240, all others are -10240, which bf16 holds exactly: the softmax is one-hot to the last bit.
#[test]
fn extreme_logits_are_exact() {
    const COLUMNS: usize = 16;
    const VOCABULARY: usize = 97;
    fn check<T: Float>(device: &Device) {
        let winner = |k: usize| 5 * k;
        let sign = |hit: bool| if hit { 1.0 } else { -1.0 };
        let weight = (0..VOCABULARY).flat_map(|v| (0..COLUMNS).map(move |k| 80.0 * sign(v == winner(k))));
        let hidden =
            (0..COLUMNS).flat_map(|row| (0..COLUMNS).map(move |k| if k == row { 128.0 } else { 0.0 }));
        let operands = Operands::<T> {
            hidden: rounded(&hidden.collect::<Vec<f64>>()),
            weight: rounded(&weight.collect::<Vec<f64>>()),
            bias: vec![0.0; VOCABULARY],
            // Even rows are right, odd ones wrong.
            targets: (0..COLUMNS).map(|row| (winner(row) + row % 2) as i32).collect(),
            row_weights: vec![0.25; COLUMNS],
            hidden_size: COLUMNS,
        };
        let actual = run(device, &[&operands], COLUMNS);
        let loss: Vec<f64> = (0..COLUMNS).map(|row| (row % 2) as f64 * 0.25 * 20480.0).collect();
        assert_eq!(actual.losses, loss);
        assert_eq!(actual.log_sum_exp, vec![10240.0; COLUMNS]);
        for v in 0..VOCABULARY {
            let odd_row = |id: usize| id.is_multiple_of(5) && (id / 5) % 2 == 1 && id / 5 < COLUMNS;
            let won = if odd_row(v) { 0.25 } else { 0.0 };
            let wanted = if v > 0 && odd_row(v - 1) { 0.25 } else { 0.0 };
            assert_eq!(actual.d_bias[v], won - wanted, "d_bias of {v}");
        }
        let gradients = [&actual.d_hidden, &actual.d_weight];
        assert!(gradients.into_iter().flatten().all(|value| value.is_finite()));
    }
    for device in devices() {
        check::<f32>(&device);
        check::<bf16>(&device);
    }
}

#[test]
fn a_target_beyond_the_vocabulary_shows_as_nan() {
    for device in devices() {
        let operands = Operands::<f32>::random(17, 97, 64);
        let clean = run(&device, &[&operands], 17);
        for beyond in [97, 104, 1 << 20, i32::MAX] {
            let mut wrong = operands.part(0..17);
            wrong.targets[16] = beyond;
            let actual = run(&device, &[&wrong], 17);
            assert!(actual.losses[16].is_nan(), "target {beyond}");
            assert_eq!(actual.losses[..16], clean.losses[..16]);
            assert_eq!(actual.d_hidden[..16 * 64], clean.d_hidden[..16 * 64]);
        }
    }
}

/// The lengths of one call with 4 rows, 10 words and 8 columns, to be spoiled one by one.
#[derive(Clone, Copy)]
struct Lengths {
    hidden: usize,
    weight: usize,
    bias: usize,
    row_weights: usize,
    losses: usize,
    d_weight: usize,
    d_bias: usize,
    logits: usize,
    ones: usize,
}

const RIGHT: Lengths = Lengths {
    hidden: 32,
    weight: 80,
    bias: 10,
    row_weights: 4,
    losses: 4,
    d_weight: 80,
    d_bias: 10,
    logits: 16,
    ones: 1,
};

fn attempt(lengths: Lengths, hidden_size: usize) -> retromae::ops::Result<()> {
    let device = &devices()[0];
    let zeros = |length: usize| device.zeros::<f32>(length).unwrap();
    let [hidden, weight, bias, row_weights] =
        [lengths.hidden, lengths.weight, lengths.bias, lengths.row_weights].map(zeros);
    let targets = device.zeros::<i32>(4).unwrap();
    let [mut losses, mut log_sum_exp, mut d_hidden] = [lengths.losses, 4, 32].map(zeros);
    let [mut d_weight, mut d_bias, mut logits] =
        [lengths.d_weight, lengths.d_bias, lengths.logits].map(zeros);
    let ones = zeros(lengths.ones);
    let arguments = ForwardBackward {
        hidden: hidden.view(),
        weight: weight.view(),
        bias: bias.view(),
        targets: targets.view(),
        row_weights: row_weights.view(),
        losses: losses.view_mut(),
        log_sum_exp: log_sum_exp.view_mut(),
        d_hidden: d_hidden.view_mut(),
        d_weight: d_weight.view_mut(),
        d_bias: d_bias.view_mut(),
        logits: logits.view_mut(),
        ones: ones.view(),
        hidden_size,
    };
    cross_entropy::forward_backward(&device.stream(), arguments)
}

#[test]
fn wrong_shapes_are_refused() {
    attempt(RIGHT, 8).unwrap();
    let refuse = |lengths| attempt(lengths, 8).unwrap_err().to_string();
    for (lengths, message) in [
        (
            Lengths { hidden: 24, ..RIGHT },
            "hidden is 24 elements long; it should be 32 (targets · hidden size)",
        ),
        (
            Lengths { weight: 72, ..RIGHT },
            "weight is 72 elements long; it should be 80 (vocabulary · hidden size)",
        ),
        (Lengths { bias: 0, ..RIGHT }, "bias is empty; it should be as long as the vocabulary"),
        (Lengths { row_weights: 3, ..RIGHT }, "row_weights is 3 elements long; it should be 4 (targets)"),
        (Lengths { losses: 5, ..RIGHT }, "losses is 5 elements long; it should be 4 (targets)"),
        (
            Lengths { d_weight: 81, ..RIGHT },
            "d_weight is 81 elements long; it should be 80 (vocabulary · hidden size)",
        ),
        (Lengths { d_bias: 16, ..RIGHT }, "d_bias is 16 elements long; it should be 10 (vocabulary)"),
        (Lengths { ones: 0, ..RIGHT }, "ones is 0 elements long; it should be at least 1 (rows of a chunk)"),
        (
            Lengths { logits: 15, ..RIGHT },
            "logits is 15 elements long; it should be at least 16 (one padded row)",
        ),
    ] {
        assert_eq!(refuse(lengths), message);
    }
    assert_eq!(attempt(RIGHT, 0).unwrap_err().to_string(), "hidden_size is 0; it should be positive");
}
