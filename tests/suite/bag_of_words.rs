//! The bag-of-words head against the f64 reference: every dtype, ragged sentences, any chunk of logits.

use crate::common::{
    assert_close, assert_close_to_scale, assert_no_bank_conflicts, devices, integers, prefix_sums, rounded,
    run_on, values, widened,
};
use retromae::device::{Buffer, Device, Float, bf16, f16};
use retromae::ops::Packed;
use retromae::ops::bag_of_words::{self, Algorithm, ForwardBackward};
use retromae::reference::bag_of_words as reference;

#[derive(Clone)]
struct Operands<T> {
    hidden: Vec<T>,
    weight: Vec<T>,
    bias: Vec<f32>,
    lengths: Vec<usize>,
    bags: Vec<Vec<(i32, f32)>>,
    sentence_weights: Vec<f32>,
    hidden_size: usize,
}

impl<T: Float> Operands<T> {
    /// Random operands with exact logits: every logit is a multiple of 1/16 below 16, which every type holds, and no two tokens of a sentence have
    /// the same logit of a word, so the maxima do not depend on rounding. A token's `hidden` encodes its number in one column, and the weight there
    /// is ±1/4; its other columns add the same to all tokens of the sentence.
    fn random(lengths: &[usize], vocabulary: usize, hidden_size: usize) -> Self {
        let tokens: usize = lengths.iter().sum();
        let mut hidden = vec![0.0; tokens * hidden_size];
        let mut row = 0;
        for &length in lengths {
            for position in 0..length {
                // A permutation of 0..length, as 37 divides none of the lengths.
                hidden[row * hidden_size] = (position * 37 % length) as f64 / 4.0;
                // Equal for all tokens of a sentence: gradients of these columns are of all sizes.
                for column in 1..hidden_size {
                    hidden[row * hidden_size + column] = ((row - position + column) % 5) as f64 / 4.0 - 0.5;
                }
                row += 1;
            }
        }
        let weight = (0..vocabulary * hidden_size).map(|i| match i % hidden_size {
            0 if (i / hidden_size).is_multiple_of(3) => -0.25,
            0 => 0.25,
            column => ((i / hidden_size + column) % 3) as f64 / 4.0 - 0.25,
        });
        let bag = |(sentence, &length): (usize, &usize)| {
            let ids = integers(10 + sentence as u64, length, vocabulary as u32);
            ids.into_iter().map(|id| (id, 1.0 / length as f32)).collect()
        };
        Self {
            hidden: rounded(&hidden),
            weight: rounded(&weight.collect::<Vec<f64>>()),
            bias: rounded(&values(3, vocabulary)),
            bags: lengths.iter().enumerate().map(bag).collect(),
            sentence_weights: values(5, lengths.len()).iter().map(|v| (1.5 + v.abs()) as f32).collect(),
            lengths: lengths.to_vec(),
            hidden_size,
        }
    }

    fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    fn part(&self, sentences: std::ops::Range<usize>) -> Self {
        let rows = self.lengths[..sentences.start].iter().sum::<usize>()
            ..self.lengths[..sentences.end].iter().sum::<usize>();
        Self {
            hidden: self.hidden[rows.start * self.hidden_size..rows.end * self.hidden_size].to_vec(),
            lengths: self.lengths[sentences.clone()].to_vec(),
            bags: self.bags[sentences.clone()].to_vec(),
            sentence_weights: self.sentence_weights[sentences].to_vec(),
            ..self.clone()
        }
    }
}

#[derive(Debug, Default, PartialEq)]
struct Results {
    losses: Vec<f64>,
    d_hidden: Vec<f64>,
    d_weight: Vec<f64>,
    d_bias: Vec<f64>,
    /// Names of the launched kernels, if requested
    kernels: Vec<String>,
}

fn exact<T: Float>(operands: &Operands<T>) -> Results {
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
fn naive<T: Float>(operands: &Operands<T>) -> (Results, [f64; 3]) {
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
fn run<T: Float>(device: &Device, parts: &[&Operands<T>], algorithm: Algorithm, chunk: usize) -> Results {
    run_and_name(device, parts, algorithm, chunk, false)
}

/// Like [`run`]; records the names of the kernels if `capture` is set.
fn run_and_name<T: Float>(
    device: &Device,
    parts: &[&Operands<T>],
    algorithm: Algorithm,
    chunk: usize,
    capture: bool,
) -> Results {
    let (vocabulary, hidden_size) = (parts[0].bias.len(), parts[0].hidden_size);
    let mut d_weight: Buffer<f32> = device.zeros(vocabulary * hidden_size).unwrap();
    let mut d_bias: Buffer<f32> = device.zeros(vocabulary).unwrap();
    let mut results = Results::default();
    for operands in parts {
        let (sentences, tokens) = (operands.lengths.len() + 1, operands.tokens() + 1);
        let lengths = [&operands.lengths[..], &[0]].concat();
        let sizes: Vec<usize> = operands.bags.iter().map(Vec::len).chain([0]).collect();
        let hidden = [&operands.hidden[..], &vec![T::from_f32(f32::NAN); hidden_size]].concat();
        let weights = [&operands.sentence_weights[..], &[f32::NAN]].concat();
        let (ids, bag_weights): (Vec<i32>, Vec<f32>) = operands.bags.iter().flatten().copied().unzip();
        let [hidden, weight] = [&hidden, &operands.weight].map(|v| device.upload(v).unwrap());
        let [bias, bag_weights, sentence_weights] =
            [&operands.bias, &bag_weights, &weights].map(|v| device.upload(v).unwrap());
        let [cu_seqlens, bag_offsets, bag_ids] =
            [&prefix_sums(&lengths), &prefix_sums(&sizes), &ids].map(|v| device.upload(v).unwrap());
        // Bytes of a NaN in every type.
        let needed = bag_of_words::workspace(algorithm, T::DTYPE, sentences, chunk, vocabulary);
        let mut workspace = device.upload(&vec![0xffu8; needed.bytes()]).unwrap();
        let mut losses = device.upload(&vec![f32::NAN; sentences]).unwrap();
        let mut d_hidden = device.upload(&vec![T::from_f32(f32::NAN); tokens * hidden_size]).unwrap();
        let arguments = ForwardBackward {
            hidden: hidden.matrix(tokens, hidden_size).unwrap(),
            weight: weight.matrix(vocabulary, hidden_size).unwrap(),
            bias: bias.view(),
            batch: Packed { cu_seqlens: cu_seqlens.view(), tokens, max_seqlen: tokens },
            bag_offsets: bag_offsets.view(),
            bag_ids: bag_ids.view(),
            bag_weights: bag_weights.view(),
            sentence_weights: sentence_weights.view(),
            losses: losses.view_mut(),
            d_hidden: d_hidden.matrix_mut(tokens, hidden_size).unwrap(),
            d_weight: d_weight.matrix_mut(vocabulary, hidden_size).unwrap(),
            d_bias: d_bias.view_mut(),
            algorithm,
            workspace: workspace.view_mut(),
            first_position: 0,
        };
        let kernels = run_on(device, capture, |stream| bag_of_words::forward_backward(stream, arguments));
        results.kernels.extend(kernels);
        let mut losses = widened(&losses.read().unwrap());
        assert_eq!(losses.pop(), Some(0.0), "the loss of an empty sentence");
        let mut d_hidden = widened(&d_hidden.read().unwrap());
        let beyond = d_hidden.split_off((tokens - 1) * hidden_size);
        assert!(beyond.iter().all(|&value| value == 0.0), "a row of no sentence has a gradient");
        results.losses.extend(losses);
        results.d_hidden.extend(d_hidden);
    }
    results.d_weight = widened(&d_weight.read().unwrap());
    results.d_bias = widened(&d_bias.read().unwrap());
    results
}

/// Returns the kernels of one call.
pub fn kernels<T: Float>(device: &Device, algorithm: Algorithm) -> Vec<String> {
    run_and_name(device, &[&Operands::<T>::random(&[17, 5, 30], 97, 64)], algorithm, 53, true).kernels
}

/// Algorithms for 16 bits.
const BOTH: [Algorithm; 2] = [Algorithm::Library, Algorithm::Fused];

#[track_caller]
fn assert_results<T: Float>(actual: &Results, operands: &Operands<T>) {
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
            let operands = Operands::<T>::random(lengths, vocabulary, hidden_size);
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
    let operands = Operands::<f32>::random(&[130, 3, 64], 97, 64);
    let whole = run(device, &[&operands], Algorithm::Library, 198);
    for chunk in [1, 7, 64, 500] {
        assert_eq!(run(device, &[&operands], Algorithm::Library, chunk), whole, "chunks of {chunk}");
    }
}

#[test]
fn gradients_accumulate_over_calls() {
    for device in devices() {
        let operands = Operands::<f32>::random(&[5, 9, 1, 20], 97, 64);
        let parts = [&operands.part(0..1), &operands.part(1..4)];
        assert_results(&run(&device, &parts, Algorithm::Library, 16), &operands);
    }
}

#[test]
fn an_empty_bag_has_no_loss_and_no_gradient() {
    for (device, algorithm) in devices().iter().flat_map(|device| BOTH.map(|algorithm| (device, algorithm))) {
        let mut operands = Operands::<bf16>::random(&[5, 9], 97, 64);
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
        let operands = Operands::<T> {
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
        let mut operands = Operands::<bf16>::random(&[4], 97, 64);
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
        let operands = Operands::<T>::random(&[5, 9, 7], 97, 64);
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

/// Lengths of one call with 2 sentences of 4 tokens, 10 words, 8 columns and 3 ids, to be spoiled one by one.
#[derive(Clone, Copy)]
struct Lengths {
    hidden: [usize; 2],
    weight: [usize; 2],
    bias: usize,
    cu_seqlens: usize,
    bag_offsets: usize,
    bag_weights: usize,
    sentence_weights: usize,
    losses: usize,
    d_hidden: [usize; 2],
    d_weight: [usize; 2],
    d_bias: usize,
    workspace: usize,
    tokens: usize,
    /// Name of a matrix with gaps between its rows
    gaps: &'static str,
    first_position: usize,
    algorithm: Algorithm,
}

const RIGHT: Lengths = Lengths {
    hidden: [4, 8],
    weight: [10, 8],
    bias: 10,
    cu_seqlens: 3,
    bag_offsets: 3,
    bag_weights: 3,
    sentence_weights: 2,
    losses: 2,
    d_hidden: [4, 8],
    d_weight: [10, 8],
    d_bias: 10,
    workspace: 576,
    tokens: 4,
    gaps: "",
    first_position: 1,
    algorithm: Algorithm::Library,
};

fn attempt(lengths: Lengths) -> retromae::ops::Result<()> {
    let device = &devices()[0];
    let floats = |length: usize| device.zeros::<f32>(length).unwrap();
    let ids = |length: usize| device.zeros::<i32>(length).unwrap();
    // Twice as much as needed, for gaps.
    let matrix = |[rows, columns]: [usize; 2]| floats(2 * rows * columns);
    let stride = |name, [_, columns]: [usize; 2]| if lengths.gaps == name { 2 * columns } else { columns };
    let [hidden, weight] = [lengths.hidden, lengths.weight].map(matrix);
    let [mut d_hidden, mut d_weight] = [lengths.d_hidden, lengths.d_weight].map(matrix);
    let [bias, bag_weights, sentence_weights] =
        [lengths.bias, lengths.bag_weights, lengths.sentence_weights].map(floats);
    let [cu_seqlens, bag_offsets, bag_ids] = [lengths.cu_seqlens, lengths.bag_offsets, 3].map(ids);
    let [mut losses, mut d_bias] = [lengths.losses, lengths.d_bias].map(floats);
    let mut workspace = device.zeros(lengths.workspace).unwrap();
    let arguments = ForwardBackward {
        hidden: hidden.view().strided(
            lengths.hidden[0],
            lengths.hidden[1],
            stride("hidden", lengths.hidden),
        )?,
        weight: weight.view().strided(
            lengths.weight[0],
            lengths.weight[1],
            stride("weight", lengths.weight),
        )?,
        bias: bias.view(),
        batch: Packed { cu_seqlens: cu_seqlens.view(), tokens: lengths.tokens, max_seqlen: 4 },
        bag_offsets: bag_offsets.view(),
        bag_ids: bag_ids.view(),
        bag_weights: bag_weights.view(),
        sentence_weights: sentence_weights.view(),
        losses: losses.view_mut(),
        d_hidden: d_hidden.view_mut().strided(
            lengths.d_hidden[0],
            lengths.d_hidden[1],
            stride("d_hidden", lengths.d_hidden),
        )?,
        d_weight: d_weight.view_mut().strided(
            lengths.d_weight[0],
            lengths.d_weight[1],
            stride("d_weight", lengths.d_weight),
        )?,
        d_bias: d_bias.view_mut(),
        algorithm: lengths.algorithm,
        workspace: workspace.view_mut(),
        first_position: lengths.first_position,
    };
    let stream = device.stream();
    bag_of_words::forward_backward(&stream, arguments)?;
    Ok(stream.synchronize()?)
}

#[test]
fn wrong_shapes_are_refused() {
    attempt(RIGHT).unwrap();
    for (lengths, message) in [
        (
            Lengths { hidden: [5, 8], ..RIGHT },
            "hidden is [5, 8]; it should be [4, 8] (tokens, columns of weight)",
        ),
        (
            Lengths { hidden: [4, 7], ..RIGHT },
            "hidden is [4, 7]; it should be [4, 8] (tokens, columns of weight)",
        ),
        (Lengths { tokens: 3, ..RIGHT }, "hidden is [4, 8]; it should be [3, 8] (tokens, columns of weight)"),
        (Lengths { tokens: 1 << 31, ..RIGHT }, "batch.tokens is 2147483648; it should be below 2^31"),
        (
            Lengths { weight: [0, 8], ..RIGHT },
            "weight is [0, 8]; it should be [vocabulary, hidden size], with a vocabulary of at least 1 and below 2^31",
        ),
        (Lengths { bias: 0, ..RIGHT }, "bias is 0 elements long; it should be 10 (rows of weight)"),
        (
            Lengths { cu_seqlens: 0, ..RIGHT },
            "batch.cu_seqlens is empty; it should be one longer than there are sentences",
        ),
        (
            Lengths { bag_offsets: 2, ..RIGHT },
            "bag_offsets is 2 elements long; it should be 3 (sentences + 1)",
        ),
        (Lengths { bag_weights: 2, ..RIGHT }, "bag_weights is 2 elements long; it should be 3 (bag_ids)"),
        (
            Lengths { sentence_weights: 3, ..RIGHT },
            "sentence_weights is 3 elements long; it should be 2 (sentences)",
        ),
        (Lengths { losses: 1, ..RIGHT }, "losses is 1 elements long; it should be 2 (sentences)"),
        (Lengths { d_hidden: [3, 8], ..RIGHT }, "d_hidden is [3, 8]; it should be [4, 8] (as hidden)"),
        (Lengths { d_weight: [11, 8], ..RIGHT }, "d_weight is [11, 8]; it should be [10, 8] (as weight)"),
        (Lengths { d_bias: 16, ..RIGHT }, "d_bias is 16 elements long; it should be 10 (rows of weight)"),
        (
            Lengths { workspace: 575, ..RIGHT },
            "workspace is 575 bytes long; it should be at least 576 (a chunk of one row)",
        ),
        (
            Lengths { algorithm: Algorithm::Fused, ..RIGHT },
            "algorithm is Fused; it should be Library for f32",
        ),
        (Lengths { first_position: 65_536, ..RIGHT }, "first_position is 65536; it should be at most 65535"),
        (
            Lengths { weight: [10, 4], ..RIGHT },
            "columns of weight is 4; it should be a positive multiple of 8",
        ),
    ] {
        assert_eq!(attempt(lengths).unwrap_err().to_string(), message);
    }
    for gaps in ["hidden", "weight", "d_hidden", "d_weight"] {
        let error = attempt(Lengths { gaps, ..RIGHT }).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("{gaps} is strided by 16 elements; it should be contiguous rows of 8 columns")
        );
    }
}

#[test]
fn the_fused_product_has_no_bank_conflicts() {
    assert_no_bank_conflicts("bag_of_words_product_bf16", |device| {
        run(device, &[&Operands::<bf16>::random(&[130, 20], 300, 96)], Algorithm::Fused, 1);
    });
}
