//! Calls without some of the optional arguments: what is given has the results of the full call, bit for bit, and what is absent stays as it is.

use super::*;
use crate::common::devices;
use approx::abs_diff_eq;
use retromae::device::{bf16, f16};

const NO_GRADIENTS: Form = Form { d_hidden: false, d_weight: false, d_bias: false, ..FULL };
/// Losses alone.
const LOSSES: Form = Form {
    bias: false,
    row_weights: false,
    log_sum_exp: false,
    log_likelihoods: false,
    correct: false,
    totals: false,
    ..NO_GRADIENTS
};

/// Calls `check` in every type and algorithm on every device.
macro_rules! in_every_type {
    ($check:ident) => {
        for device in devices() {
            $check::<f32>(&device, Algorithm::Library);
            $check::<bf16>(&device, Algorithm::Library);
            $check::<bf16>(&device, Algorithm::Fused);
            $check::<f16>(&device, Algorithm::Library);
        }
    };
}

/// Inputs whose results do not depend on whether bias and row weights are given.
fn without_vectors<T: Float>(rows: usize, vocabulary: usize, hidden_size: usize) -> Inputs<T> {
    let operands = Inputs::random(rows, vocabulary, hidden_size);
    Inputs { bias: vec![0.0; vocabulary], row_weights: vec![1.0; rows], ..operands }
}

/// Asserts that a call's results are those of the full one, or untouched where absent.
#[track_caller]
fn assert_form<T: Float>(device: &Device, operands: &Inputs<T>, way: Way<'_>) {
    let full = run(device, &[operands], Way { form: FULL, ..way });
    let actual = run(device, &[operands], way);
    let form = way.form;
    let untouched = |values: &[f64]| values.iter().all(|value| value.is_nan());
    let what = format!("{form:?} by {:?}", way.algorithm);
    assert_eq!(actual.losses, full.losses, "{what}");
    for (name, given, actual, full) in [
        ("log_sum_exp", form.log_sum_exp, &actual.log_sum_exp, &full.log_sum_exp),
        ("log_likelihoods", form.log_likelihoods, &actual.log_likelihoods, &full.log_likelihoods),
        ("d_hidden", form.d_hidden, &actual.d_hidden, &full.d_hidden),
    ] {
        assert!(if given { actual == full } else { untouched(actual) }, "{name}: {what}");
    }
    for (name, given, actual, full) in [
        ("d_weight", form.d_weight, &actual.d_weight, &full.d_weight),
        ("d_bias", form.d_bias, &actual.d_bias, &full.d_bias),
    ] {
        let zero = actual.iter().all(|&value| value == 0.0);
        assert!(if given { actual == full } else { zero }, "{name}: {what}");
    }
    // `run` asserts that an absent one is untouched.
    assert!(!form.correct || actual.correct == full.correct, "correct: {what}");
    let totals = if form.totals { full.totals } else { vec![Totals::default(); full.totals.len()] };
    assert_eq!(actual.totals, totals, "{what}");
}

#[test]
fn any_argument_may_be_absent() {
    fn check<T: Float>(device: &Device, algorithm: Algorithm) {
        let (operands, weighted) = (without_vectors::<T>(34, 97, 64), Inputs::<T>::random(34, 97, 64));
        for form in [
            Form { bias: false, ..FULL },
            Form { row_weights: false, ..FULL },
            Form { d_hidden: true, d_weight: true, ..LOSSES },
            LOSSES,
        ] {
            assert_form(device, &operands, Way { form, ..Way::full(algorithm, 9) });
        }
        let no_totals = Form { totals: false, ..FULL };
        for form in [
            no_totals,
            Form { log_sum_exp: false, ..FULL },
            Form { log_likelihoods: false, ..no_totals },
            Form { correct: false, ..no_totals },
            NO_GRADIENTS,
        ] {
            assert_form(device, &weighted, Way { form, group_ends: &[5], ..Way::full(algorithm, 9) });
        }
        for subset in 1..7 {
            let [d_hidden, d_weight, d_bias] = [0, 1, 2].map(|bit| subset >> bit & 1 == 1);
            let form = Form { d_hidden, d_weight, d_bias, ..FULL };
            assert_form(device, &weighted, Way { form, ..Way::full(algorithm, 9) });
        }
    }
    in_every_type!(check);
}

#[test]
fn losses_alone_match_the_reference() {
    fn check<T: Float>(device: &Device, algorithm: Algorithm) {
        for (rows, vocabulary, hidden_size) in [(0, 7, 16), (1, 7, 16), (17, 1003, 64), (130, 97, 64)] {
            let operands = without_vectors::<T>(rows, vocabulary, hidden_size);
            let (exact, naive) = (exact(&operands), naive(&operands, algorithm).0);
            for chunk in [rows.max(1), 5] {
                let actual = run(device, &[&operands], Way { form: LOSSES, ..Way::full(algorithm, chunk) });
                assert_close::<f32>("losses", &actual.losses, &naive.losses, &exact.losses);
            }
        }
    }
    in_every_type!(check);
}

#[test]
fn losses_with_options_equal_those_of_the_full_call() {
    fn check<T: Float>(device: &Device, _: Algorithm) {
        let options =
            Options { label_smoothing: 0.2, z_loss: 1e-3, soft_cap: Some(2.0), ..Options::default() };
        for (vocabulary, hidden_size) in [(97, 64), (9001, 16)] {
            let operands = Inputs::<T>::random(5, vocabulary, hidden_size).with(options);
            assert_form(device, &operands, Way { form: NO_GRADIENTS, ..Way::full(Algorithm::Library, 3) });
            let operands = without_vectors::<T>(5, vocabulary, hidden_size).with(options);
            assert_form(device, &operands, Way { form: LOSSES, ..Way::full(Algorithm::Library, 3) });
        }
    }
    in_every_type!(check);
}

/// Ignored rows stay without a loss, and those with a wrong target show, also where no gradient is wanted.
#[test]
fn forward_treats_targets_as_the_full_call_does() {
    fn check<T: Float>(device: &Device, algorithm: Algorithm) {
        let mut operands = Inputs::<T>::random(17, 97, 64);
        operands.targets[12] = 97;
        let form = Form { log_sum_exp: false, ..NO_GRADIENTS };
        let actual = run(device, &[&operands], Way { form, ..Way::full(algorithm, 8) });
        assert!(actual.losses[12].is_nan() && actual.log_likelihoods[12].is_nan());
        assert_eq!(actual.losses[11], 0.0, "an ignored row");
        assert_eq!(actual.losses.iter().filter(|loss| loss.is_nan()).count(), 1);
        assert_eq!(actual.totals[0].invalid, 1);
    }
    in_every_type!(check);
}

#[test]
fn forward_launches_nothing_of_gradients() {
    fn check<T: Float>(device: &Device, algorithm: Algorithm) {
        let operands = Inputs::<T>::random(17, 97, 64);
        let form = Form { totals: false, ..NO_GRADIENTS };
        let way = Way { form, ..Way::full(algorithm, 17) };
        let kernels = run_recording(device, &[&operands], way, true).kernels;
        let expected = match algorithm {
            Algorithm::Library => vec!["cross_entropy"],
            Algorithm::Fused => ["references", "exponentials", "retries", "exponentials", "rows"].to_vec(),
        };
        assert_eq!(kernels.len(), expected.len(), "{kernels:?}");
        for (kernel, part) in kernels.iter().zip(expected) {
            assert!(kernel.contains(part), "{kernels:?}");
        }
        let (forward, full) =
            (forward_workspace(algorithm, 17, &operands), workspace(algorithm, 17, &operands));
        assert!(forward < full, "{algorithm:?}: {forward} bytes of {full}");
    }
    in_every_type!(check);
}

#[test]
fn forward_leaves_the_logits() {
    let (device, operands) = (&devices()[0], without_vectors::<f32>(3, 16, 8));
    let [hidden, weight] = [&operands.hidden, &operands.weight].map(|v| device.upload(v).unwrap());
    let targets = device.upload(&operands.targets).unwrap();
    let mut losses = device.zeros::<f32>(3).unwrap();
    let mut workspace = device.zeros::<u8>(forward_workspace(Algorithm::Library, 3, &operands)).unwrap();
    let arguments = Forward::new(
        hidden.matrix(3, 8).unwrap(),
        weight.matrix(16, 8).unwrap(),
        targets.view(),
        losses.view_mut(),
        workspace.view_mut(),
    );
    cross_entropy::forward(&device.stream(), arguments).unwrap();
    let bytes = workspace.read().unwrap();
    for (i, logit) in bytes.chunks_exact(4).enumerate() {
        let (row, word) = (&operands.hidden[i / 16 * 8..][..8], &operands.weight[i % 16 * 8..][..8]);
        let expected: f32 = row.iter().zip(word).map(|(h, w)| h * w).sum();
        let logit = f32::from_ne_bytes(logit.try_into().unwrap());
        assert!(abs_diff_eq!(logit, expected, epsilon = 1e-5), "logit {i} is {logit}, not {expected}");
    }
}
