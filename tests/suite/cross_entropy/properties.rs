//! Properties of every call.

use super::*;
use crate::common::{assert_no_bank_conflicts, devices, rounded};
use approx::{abs_diff_eq, assert_abs_diff_eq};
use retromae::device::{bf16, f16};

const BOTH: [Algorithm; 2] = [Algorithm::Library, Algorithm::Fused];

#[test]
fn any_chunk_gives_the_same() {
    fn check<T: Float>(device: &Device, algorithm: Algorithm) {
        let operands = Inputs::<T>::random(131, 97, 64);
        for chunk in [1, 5, 131, 200] {
            let actual = run(device, &[&operands], Way::full(algorithm, chunk));
            assert_results(&actual, &operands, algorithm);
        }
    }
    let device = &devices()[0];
    check::<f32>(device, Algorithm::Library);
    for algorithm in BOTH {
        check::<bf16>(device, algorithm);
    }
}

#[test]
fn two_calls_with_half_the_rows_equal_one() {
    fn check<T: Float>(device: &Device, algorithm: Algorithm) {
        let operands = Inputs::<T>::random(34, 97, 64);
        let halves = [&operands.part(0..17), &operands.part(17..34)];
        let actual = run(device, &halves, Way::full(algorithm, 8));
        assert_results(&actual, &operands, algorithm);
    }
    for device in devices() {
        check::<f32>(&device, Algorithm::Library);
        for algorithm in BOTH {
            check::<bf16>(&device, algorithm);
        }
    }
}

#[test]
fn equal_calls_give_equal_bits() {
    for (device, algorithm) in devices().iter().flat_map(|device| BOTH.map(|algorithm| (device, algorithm))) {
        let operands = Inputs::<bf16>::random(131, 1003, 64);
        let [one, other] = [0, 1].map(|_| run(device, &[&operands], Way::full(algorithm, 70)));
        assert_eq!(one, other, "{algorithm:?}");
    }
}

/// The target that marks rows without a loss may be a word's id: the first, one among others, the last.
#[test]
fn a_word_may_stand_for_rows_without_a_loss() {
    fn check<T: Float>(device: &Device, algorithm: Algorithm) {
        for ignore_index in [0, 7, 96] {
            let mut operands = Inputs::<T>::random(34, 97, 64);
            operands.options.ignore_index = ignore_index;
            for (row, target) in operands.targets.iter_mut().enumerate() {
                // Ignored rows get words as targets, among them the neighbors of the new ignored id.
                let word = if *target == IGNORE_INDEX {
                    (ignore_index + 1 - row as i32 % 2 * 2).clamp(0, 96)
                } else {
                    *target
                };
                *target = if row % 3 == 1 { ignore_index } else { word };
            }
            let ignored = operands.targets.iter().filter(|&&target| target == ignore_index).count();
            assert!((11..30).contains(&ignored), "{ignored}");
            let actual = run(device, &[&operands], Way::full(algorithm, 9));
            assert_results(&actual, &operands, algorithm);
            assert_eq!(actual.totals[0].labeled as usize, 34 - ignored, "{algorithm:?}, {ignore_index}");
            assert_eq!(actual.totals[0].invalid, 0);
        }
    }
    for device in devices() {
        check::<f32>(&device, Algorithm::Library);
        check::<f16>(&device, Algorithm::Library);
        for algorithm in BOTH {
            check::<bf16>(&device, algorithm);
        }
    }
}

#[test]
fn ignored_rows_have_no_loss_and_no_gradient() {
    fn check<T: Float>(device: &Device, algorithm: Algorithm) {
        let mut operands = Inputs::<T>::random(17, 97, 64);
        operands.options.ignore_index = -7;
        operands.targets.fill(-7);
        // Ignored rows must not affect a result, not even as NaN · 0.
        operands.row_weights.fill(f32::INFINITY);
        operands.hidden[..2 * 64].fill(T::from_f32(f32::NAN));
        operands.hidden[3 * 64 + 5] = T::from_f32(f32::INFINITY);
        let actual = run(device, &[&operands], Way::full(algorithm, 5));
        for (name, values) in [
            ("losses", actual.losses),
            ("log_sum_exp", actual.log_sum_exp),
            ("log_likelihoods", actual.log_likelihoods),
            ("d_hidden", actual.d_hidden),
            ("d_weight", actual.d_weight),
            ("d_bias", actual.d_bias),
        ] {
            assert!(values.iter().all(|&value| value == 0.0), "{algorithm:?}: {name} of ignored rows");
        }
        assert_eq!(actual.totals, [Totals::default()], "{algorithm:?}");
        assert_eq!((actual.totals[0].accuracy(), actual.totals[0].perplexity()), (0.0, 1.0));
    }
    for device in devices() {
        check::<f32>(&device, Algorithm::Library);
        check::<f16>(&device, Algorithm::Library);
        for algorithm in BOTH {
            check::<bf16>(&device, algorithm);
        }
    }
}

/// One logit of a row is 10240, all others are -10240, which bf16 holds exactly: the softmax is one-hot to the last bit.
#[test]
fn extreme_logits_are_exact() {
    const COLUMNS: usize = 16;
    const VOCABULARY: usize = 97;
    fn check<T: Float>(device: &Device, algorithm: Algorithm) {
        let winner = |k: usize| 5 * k;
        let sign = |hit: bool| if hit { 1.0 } else { -1.0 };
        let weight = (0..VOCABULARY).flat_map(|v| (0..COLUMNS).map(move |k| 80.0 * sign(v == winner(k))));
        let hidden =
            (0..COLUMNS).flat_map(|row| (0..COLUMNS).map(move |k| if k == row { 128.0 } else { 0.0 }));
        let operands = Inputs::<T> {
            hidden: rounded(&hidden.collect::<Vec<f64>>()),
            weight: rounded(&weight.collect::<Vec<f64>>()),
            bias: vec![0.0; VOCABULARY],
            // Even rows have the right target, odd ones a wrong one.
            targets: (0..COLUMNS).map(|row| (winner(row) + row % 2) as i32).collect(),
            row_weights: vec![0.25; COLUMNS],
            hidden_size: COLUMNS,
            options: Options::default(),
        };
        let actual = run(device, &[&operands], Way::full(algorithm, COLUMNS));
        let loss: Vec<f64> = (0..COLUMNS).map(|row| (row % 2) as f64 * 0.25 * 20480.0).collect();
        assert_eq!(actual.losses, loss, "{algorithm:?}");
        assert_eq!(actual.log_sum_exp, vec![10240.0; COLUMNS], "{algorithm:?}");
        assert_eq!(actual.correct, (0..COLUMNS).map(|row| row % 2 == 0).collect::<Vec<bool>>());
        for v in 0..VOCABULARY {
            let odd_row = |id: usize| id.is_multiple_of(5) && (id / 5) % 2 == 1 && id / 5 < COLUMNS;
            let won = if odd_row(v) { 0.25 } else { 0.0 };
            let wanted = if v > 0 && odd_row(v - 1) { 0.25 } else { 0.0 };
            assert_eq!(actual.d_bias[v], won - wanted, "{algorithm:?}: d_bias of {v}");
        }
        let gradients = [&actual.d_hidden, &actual.d_weight];
        assert!(gradients.into_iter().flatten().all(|value| value.is_finite()));
    }
    for device in devices() {
        check::<f32>(&device, Algorithm::Library);
        check::<f16>(&device, Algorithm::Library);
        for algorithm in BOTH {
            check::<bf16>(&device, algorithm);
        }
    }
}

/// Some rows' logits exceed their target's by more than the fused algorithm's first reference allows; those of neighboring rows do not.
#[test]
fn unlikely_targets_match_the_reference() {
    for (device, algorithm) in devices().iter().flat_map(|device| BOTH.map(|algorithm| (device, algorithm))) {
        let mut operands = Inputs::<bf16>::random(150, 300, 64);
        for (row, hidden) in operands.hidden.chunks_exact_mut(64).enumerate() {
            let factor = if row % 7 == 3 && row < 128 { 40.0 } else { 1.0 };
            hidden.iter_mut().for_each(|value| *value = bf16::from_f32(value.to_f32() * factor));
        }
        let actual = run(device, &[&operands], Way::full(algorithm, 150));
        let unlikely = actual.log_likelihoods.iter().filter(|&&value| value < -60.0).count();
        assert!(unlikely > 8, "{unlikely} of the targets are unlikely");
        assert_results(&actual, &operands, algorithm);
    }
}

#[test]
fn groups_have_their_own_totals() {
    fn check<T: Float>(device: &Device, algorithm: Algorithm) {
        let operands = Inputs::<T>::random(700, 7, 16);
        let group_ends: &[usize] = &[0, 300, 300, 699];
        let actual = run(device, &[&operands], Way { group_ends, ..Way::full(algorithm, 256) });
        let mut start = 0;
        for (totals, end) in actual.totals.iter().zip([0, 300, 300, 699, 700]) {
            let rows = start..end;
            start = end;
            let labeled = rows.clone().filter(|&row| operands.targets[row] != IGNORE_INDEX).count();
            let correct = rows.clone().filter(|&row| actual.correct[row]).count();
            assert_eq!((totals.labeled, totals.correct), (labeled as u32, correct as u32), "{totals:?}");
            for (sum, values) in [
                (totals.loss, &actual.losses[rows.clone()]),
                (totals.log_likelihood, &actual.log_likelihoods[rows.clone()]),
            ] {
                let expected: f64 = values.iter().sum();
                let tolerance = 1e-6 * expected.abs();
                assert!(
                    abs_diff_eq!(f64::from(sum), expected, epsilon = tolerance),
                    "{totals:?}: {expected}"
                );
            }
            assert_eq!(totals.accuracy(), correct as f32 / labeled.max(1) as f32);
            let mean = f64::from(totals.log_likelihood) / labeled.max(1) as f64;
            assert_abs_diff_eq!(f64::from(totals.perplexity()) / (-mean).exp(), 1.0, epsilon = 1e-6);
            totals.check().unwrap();
        }
        let expected = exact(&operands).correct;
        let differing = actual.correct.iter().zip(&expected).filter(|(a, e)| a != e).count();
        // Two logits that are equal in T differ in f64.
        assert!(differing <= 7, "{differing} rows of 700 are correct where the reference's are not");
    }
    for device in devices() {
        check::<f32>(&device, Algorithm::Library);
        for algorithm in BOTH {
            check::<bf16>(&device, algorithm);
        }
    }
}

#[test]
fn a_target_outside_the_vocabulary_is_counted() {
    fn check<T: Float>(device: &Device, algorithm: Algorithm) {
        let operands = Inputs::<T>::random(17, 97, 64);
        let clean = run(device, &[&operands], Way::full(algorithm, 17));
        for outside in [97, 104, 1 << 20, i32::MAX, -1, i32::MIN] {
            let mut wrong = operands.part(0..17);
            (wrong.targets[12], wrong.targets[16]) = (outside, outside);
            let actual = run(device, &[&wrong], Way { group_ends: &[10], ..Way::full(algorithm, 17) });
            assert!(actual.losses[16].is_nan() && actual.losses[12].is_nan(), "target {outside}");
            assert_eq!(actual.losses[..12], clean.losses[..12]);
            assert_eq!(actual.d_hidden[..12 * 64], clean.d_hidden[..12 * 64]);
            assert!(actual.d_weight.iter().chain(&actual.d_hidden).all(|value| value.is_finite()));
            actual.totals[0].check().unwrap();
            let error = actual.totals[1].check().unwrap_err().to_string();
            let expected = "targets is outside the vocabulary in 2 rows, row 2 the first of its group; it should be in [0, vocabulary) or ignore_index";
            assert_eq!(error, expected, "target {outside}");
        }
    }
    for device in devices() {
        check::<f32>(&device, Algorithm::Library);
        for algorithm in BOTH {
            check::<bf16>(&device, algorithm);
        }
    }
}

#[test]
fn nan_in_a_hidden_row_shows_in_its_loss() {
    fn check<T: Float>(device: &Device, algorithm: Algorithm) {
        let mut operands = Inputs::<T>::random(17, 97, 64);
        let clean = run(device, &[&operands], Way::full(algorithm, 17));
        operands.hidden[4 * 64 + 5] = T::from_f32(f32::NAN);
        let actual = run(device, &[&operands], Way::full(algorithm, 17));
        for row in 0..17 {
            assert_eq!(actual.losses[row].is_nan(), row == 4, "{algorithm:?}: row {row}");
            assert!(row == 4 || actual.losses[row] == clean.losses[row]);
        }
        assert!(
            !actual.correct[4] && actual.totals[0].loss.is_nan() && actual.totals[0].perplexity().is_nan()
        );
        assert!(
            actual.d_weight.iter().any(|value| value.is_nan()),
            "{algorithm:?}: the step must not be taken"
        );
    }
    for device in devices() {
        check::<f32>(&device, Algorithm::Library);
        for algorithm in BOTH {
            check::<bf16>(&device, algorithm);
        }
    }
}

#[test]
fn the_fused_product_has_no_bank_conflicts() {
    assert_no_bank_conflicts("cross_entropy_exponentials_bf16", |device| {
        run(device, &[&Inputs::<bf16>::random(150, 300, 96)], Way::full(Algorithm::Fused, 150));
    });
}
