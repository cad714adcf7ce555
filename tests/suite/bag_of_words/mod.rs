//! The bag-of-words head against the f64 reference: every dtype, ragged sentences, any chunk of logits.

mod forms;
mod refusals;

use crate::cases::bag_of_words::{FULL, Form, Fused, Inputs};
use crate::common::{
    assert_close, assert_close_to_scale, assert_no_bank_conflicts, devices, rounded, run_on, widened,
};
use retromae::device::{Buffer, Device, Float, bf16, f16};
use retromae::ops::bag_of_words::Algorithm;
use retromae::reference::bag_of_words as reference;

#[derive(Debug, Default, PartialEq)]
struct Results {
    losses: Vec<f64>,
    d_hidden: Vec<f64>,
    d_weight: Vec<f64>,
    d_bias: Vec<f64>,
    /// Names of the launched kernels, if requested
    kernels: Vec<String>,
}

fn exact<T: Float>(operands: &Inputs<T>) -> Results {
    let (hidden, weight, bias) =
        (widened(&operands.hidden), widened(&operands.weight), widened(&operands.bias));
    let widen = |&(id, weight): &(i32, f32)| (id as usize, f64::from(weight));
    let bags: Vec<Vec<(usize, f64)>> =
        operands.bags.iter().map(|bag| bag.iter().map(widen).collect()).collect();
    let sentence_weights = widened(&operands.sentence_weights);
    let head = reference::BagOfWords {
        hidden: &hidden,
        weight: &weight,
        bias: &bias,
        lengths: &operands.lengths,
        bags: &bags,
        sentence_weights: &sentence_weights,
    };
    let (d_hidden, d_weight, d_bias) = reference::backward(&head);
    Results { losses: reference::forward(&head), d_hidden, d_weight, d_bias, kernels: vec![] }
}

/// The naive composition: logits and the gradient of the hidden rows stored in `T`, sums in f32. Also returns the largest sum of the magnitudes of a
/// gradient's terms (of `d_hidden`, `d_weight`, `d_bias`), which cancel.
fn naive<T: Float>(operands: &Inputs<T>) -> (Results, [f64; 3]) {
    let (vocabulary, columns) = (operands.bias.len(), operands.hidden_size);
    let round = |value: f32| T::from_f32(value).to_f32();
    let hidden: Vec<f32> = operands.hidden.iter().map(|v| v.to_f32()).collect();
    let weight: Vec<f32> = operands.weight.iter().map(|v| v.to_f32()).collect();
    let mut losses = vec![];
    let mut gradients = [hidden.len(), weight.len(), vocabulary].map(|count| vec![0.0f32; count]);
    let mut magnitudes = gradients.clone();
    let mut start = 0;
    for ((&length, bag), &sentence_weight) in
        operands.lengths.iter().zip(&operands.bags).zip(&operands.sentence_weights)
    {
        let logit = |row: usize, word: usize| {
            let dot = |k| hidden[row * columns + k] * weight[word * columns + k];
            round((0..columns).map(dot).sum()) + operands.bias[word]
        };
        let best = |word: usize| {
            let rows = (start..start + length).map(|row| (row, logit(row, word)));
            rows.reduce(|best, next| if next.1 > best.1 { next } else { best }).expect("a token")
        };
        let maxima: Vec<(usize, f32)> = (0..vocabulary).map(best).collect();
        let highest = maxima.iter().map(|&(_, logit)| logit).fold(f32::NEG_INFINITY, f32::max);
        let total = highest + maxima.iter().map(|(_, logit)| (logit - highest).exp()).sum::<f32>().ln();
        let terms = bag.iter().map(|&(id, weight)| weight * (total - maxima[id as usize].1));
        losses.push(f64::from(sentence_weight * terms.sum::<f32>()));
        let bag_weight: f32 = bag.iter().map(|&(_, weight)| weight).sum();
        for (word, &(row, logit)) in maxima.iter().enumerate() {
            let own =
                bag.iter().filter(|&&(id, _)| id as usize == word).map(|&(_, weight)| weight).sum::<f32>();
            let gradient = sentence_weight * (bag_weight * (logit - total).exp() - own);
            let mut add = |which: usize, at: usize, term: f32| {
                gradients[which][at] += term;
                magnitudes[which][at] += term.abs();
            };
            add(2, word, gradient);
            for k in 0..columns {
                add(0, row * columns + k, gradient * weight[word * columns + k]);
                add(1, word * columns + k, gradient * hidden[row * columns + k]);
            }
        }
        start += length;
    }
    gradients[0].iter_mut().for_each(|value| *value = round(*value));
    let [d_hidden, d_weight, d_bias] = gradients.map(|gradient| widened(&gradient));
    let scales = magnitudes.map(|sums| f64::from(sums.into_iter().fold(0.0, f32::max)));
    (Results { losses, d_hidden, d_weight, d_bias, kernels: vec![] }, scales)
}

/// Runs `parts` one after the other, with room for the logits of `chunk` rows; the gradients of weight and bias accumulate. After the last sentence
/// come an empty one and a row of no sentence.
fn run<T: Float>(device: &Device, parts: &[&Inputs<T>], algorithm: Algorithm, chunk: usize) -> Results {
    run_form(device, parts, (algorithm, chunk), FULL, false)
}

/// As [`run`], of a form; records the names of the kernels if `capture` is set. Gradients that are not wanted keep what they were made with.
fn run_form<T: Float>(
    device: &Device,
    parts: &[&Inputs<T>],
    (algorithm, chunk): (Algorithm, usize),
    form: Form,
    capture: bool,
) -> Results {
    let mut results = Results::default();
    let mut sums: Option<[Buffer<f32>; 2]> = None;
    for operands in parts {
        let (hidden_size, nan) = (operands.hidden_size, T::from_f32(f32::NAN));
        let mut padded = (*operands).clone();
        padded.lengths.push(0);
        padded.bags.push(vec![]);
        padded.sentence_weights.push(f32::NAN);
        padded.hidden.extend(vec![nan; hidden_size]);
        let mut call = Fused::new(device, &padded, algorithm, chunk, form).unwrap();
        call.losses = device.upload(&vec![f32::NAN; padded.lengths.len()]).unwrap();
        call.d_hidden = device.upload(&vec![nan; padded.hidden.len()]).unwrap();
        // Bytes of a NaN in every type.
        call.workspace = device.upload(&vec![0xffu8; call.workspace.len()]).unwrap();
        if let Some(sums) = sums {
            [call.d_weight, call.d_bias] = sums;
        }
        results.kernels.extend(run_on(device, capture, |stream| call.call(stream)));
        let mut losses = widened(&call.losses.read().unwrap());
        assert_eq!(losses.pop(), Some(0.0), "the loss of an empty sentence");
        let mut d_hidden = widened(&call.d_hidden.read().unwrap());
        let beyond = d_hidden.split_off(operands.hidden.len());
        let zero = beyond.iter().all(|&value| value == 0.0);
        assert!(zero || !form.d_hidden, "a row of no sentence has a gradient");
        results.losses.extend(losses);
        results.d_hidden.extend(d_hidden);
        sums = Some([call.d_weight, call.d_bias]);
    }
    [results.d_weight, results.d_bias] = sums.expect("a part").map(|sum| widened(&sum.read().unwrap()));
    results
}

/// Returns the kernels of one call.
pub fn kernels<T: Float>(device: &Device, algorithm: Algorithm) -> Vec<String> {
    let operands = Inputs::<T>::random(&[17, 5, 30], 97, 64);
    run_form(device, &[&operands], (algorithm, 53), FULL, true).kernels
}

/// Algorithms for 16 bits.
const BOTH: [Algorithm; 2] = [Algorithm::Library, Algorithm::Fused];

#[track_caller]
fn assert_results<T: Float>(actual: &Results, operands: &Inputs<T>) {
    let exact = exact(operands);
    let (naive, [d_hidden, d_weight, d_bias]) = naive(operands);
    assert_close::<f32>("losses", &actual.losses, &naive.losses, &exact.losses);
    assert_close_to_scale::<T>("d_hidden", &actual.d_hidden, &naive.d_hidden, &exact.d_hidden, d_hidden);
    assert_close_to_scale::<f32>("d_weight", &actual.d_weight, &naive.d_weight, &exact.d_weight, d_weight);
    assert_close_to_scale::<f32>("d_bias", &actual.d_bias, &naive.d_bias, &exact.d_bias, d_bias);
}

fn sweep<T: Float>(algorithm: Algorithm, packs: &[&[usize]]) {
    let devices = devices();
    for lengths in packs {
        for (vocabulary, hidden_size) in [(7, 16), (97, 8), (97, 264), (1003, 64), (2100, 16)] {
            let operands = Inputs::<T>::random(lengths, vocabulary, hidden_size);
            let tokens = operands.tokens() + 1;
            // Each chunk on one of the devices, for there may be only one.
            for (device, chunk) in devices.iter().cycle().zip([tokens, 5, 1, 64]) {
                assert_results(&run(device, &[&operands], algorithm, chunk), &operands);
            }
        }
    }
}

const PACKS: [&[usize]; 4] = [&[], &[1], &[2, 17, 1], &[63, 1, 5, 2, 30, 17, 9]];

#[test]
fn f32_matches_the_reference() {
    sweep::<f32>(Algorithm::Library, &PACKS);
}

#[test]
fn bf16_matches_the_reference() {
    sweep::<bf16>(Algorithm::Library, &PACKS);
}

#[test]
fn f16_matches_the_reference() {
    sweep::<f16>(Algorithm::Library, &PACKS);
}

#[test]
fn fused_bf16_matches_the_reference() {
    sweep::<bf16>(Algorithm::Fused, &PACKS);
    sweep::<bf16>(Algorithm::Fused, &[&[130, 128, 7]]);
}

#[test]
fn fused_f16_matches_the_reference() {
    sweep::<f16>(Algorithm::Fused, &PACKS[1..3]);
    sweep::<f16>(Algorithm::Fused, &[&[300, 2]]);
}

#[test]
fn any_chunk_gives_the_same_bits() {
    let device = &devices()[0];
    let operands = Inputs::<f32>::random(&[130, 3, 64], 97, 64);
    let whole = run(device, &[&operands], Algorithm::Library, 198);
    for chunk in [1, 7, 64, 500] {
        assert_eq!(run(device, &[&operands], Algorithm::Library, chunk), whole, "chunks of {chunk}");
    }
}

#[test]
fn gradients_accumulate_over_calls() {
    for device in devices() {
        let operands = Inputs::<f32>::random(&[5, 9, 1, 20], 97, 64);
        let parts = [&operands.part(0..1), &operands.part(1..4)];
        assert_results(&run(&device, &parts, Algorithm::Library, 16), &operands);
    }
}

#[test]
fn an_empty_bag_has_no_loss_and_no_gradient() {
    for (device, algorithm) in devices().iter().flat_map(|device| BOTH.map(|algorithm| (device, algorithm))) {
        let mut operands = Inputs::<bf16>::random(&[5, 9], 97, 64);
        operands.bags = vec![vec![]; 2];
        operands.sentence_weights = vec![f32::INFINITY; 2];
        let Results { losses, d_hidden, d_weight, d_bias, .. } = run(device, &[&operands], algorithm, 16);
        let all = [losses, d_hidden, d_weight, d_bias].concat();
        assert!(all.iter().all(|&value| value == 0.0));
    }
}

/// All logits of the sentence's first token are 10240 at some words and -10240 at others, those of the second 0: maxima are 10240 and 0.
#[test]
fn extreme_logits_are_exact() {
    fn check<T: Float>(device: &Device, algorithm: Algorithm) {
        let operands = Inputs::<T> {
            hidden: rounded(&[vec![128.0; 8], vec![0.0; 8]].concat()),
            weight: rounded(&(0..96).map(|i| if i / 8 == 3 { 10.0 } else { -10.0 }).collect::<Vec<f64>>()),
            bias: vec![0.0; 12],
            lengths: vec![2],
            bags: vec![vec![(3, 0.5), (4, 0.5)]],
            sentence_weights: vec![1.0],
            hidden_size: 8,
        };
        let Results { losses, d_hidden, d_weight, d_bias, .. } = run(device, &[&operands], algorithm, 2);
        assert_eq!(losses, [5120.0]);
        let expected = |word: usize| [0.5, -0.5].get(word.wrapping_sub(3)).copied().unwrap_or(0.0);
        assert_eq!(d_bias, (0..12).map(expected).collect::<Vec<f64>>());
        assert_eq!(d_hidden, [vec![5.0; 8], vec![5.0; 8]].concat());
        assert!(d_weight.iter().enumerate().all(|(i, &value)| value == if i / 8 == 3 { 64.0 } else { 0.0 }));
    }
    for device in devices() {
        check::<f32>(&device, Algorithm::Library);
        for algorithm in BOTH {
            check::<bf16>(&device, algorithm);
            check::<f16>(&device, algorithm);
        }
    }
}

#[test]
fn of_equal_tokens_the_first_has_the_gradient() {
    for (device, algorithm) in devices().iter().flat_map(|device| BOTH.map(|algorithm| (device, algorithm))) {
        let mut operands = Inputs::<bf16>::random(&[4], 97, 64);
        let row = operands.hidden[64..128].to_vec();
        operands.hidden = row.repeat(4);
        let actual = run(device, &[&operands], algorithm, 3);
        assert!(actual.d_hidden[..64].iter().any(|&value| value != 0.0));
        assert!(actual.d_hidden[64..].iter().all(|&value| value == 0.0));
    }
}

#[test]
fn what_is_wrong_shows_in_its_own_sentence() {
    fn check<T: Float>(device: &Device, algorithm: Algorithm) {
        let operands = Inputs::<T>::random(&[5, 9, 7], 97, 64);
        let clean = run(device, &[&operands], algorithm, 16);
        for outside in [97, 104, i32::MAX, -1, i32::MIN] {
            let mut wrong = operands.clone();
            wrong.bags[1][2].0 = outside;
            let actual = run(device, &[&wrong], algorithm, 16);
            assert!(actual.losses[1].is_nan(), "id {outside}");
            assert_eq!([actual.losses[0], actual.losses[2]], [clean.losses[0], clean.losses[2]]);
            let all = [&actual.d_hidden, &actual.d_weight, &actual.d_bias];
            assert!(all.into_iter().flatten().all(|value| value.is_finite()), "id {outside}");
            assert!(actual.d_hidden[5 * 64..14 * 64].iter().all(|&value| value == 0.0), "id {outside}");
        }
        for position in [0, 4, 8] {
            let mut wrong = operands.clone();
            wrong.hidden[(5 + position) * 64 + 3] = T::from_f32(f32::NAN);
            let actual = run(device, &[&wrong], algorithm, 4);
            assert!(actual.losses[1].is_nan(), "NaN in token {position}");
            assert_eq!([actual.losses[0], actual.losses[2]], [clean.losses[0], clean.losses[2]]);
            assert!(actual.d_weight.iter().any(|value| value.is_nan()), "the step must not be taken");
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
fn the_fused_matmul_has_no_bank_conflicts() {
    assert_no_bank_conflicts("bag_of_words_matmul_bf16", |device| {
        run(device, &[&Inputs::<bf16>::random(&[130, 20], 300, 96)], Algorithm::Fused, 1);
    });
}
