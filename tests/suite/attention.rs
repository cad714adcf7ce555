//! Attention against the f64 reference: every mask, dtype and head size, ragged packs, with and without dropout.

use crate::common::{assert_close, assert_close_to_scale, devices, integers, rounded, values, widened};
use retromae::device::{Buffer, Device, Float, bf16};
use retromae::model::VisibilityBank;
use retromae::ops::attention::{self, Mask, Rows, RowsMut};
use retromae::ops::{Dropout, rng_state};
use retromae::random;
use retromae::reference::attention as reference;

const SEED: u64 = 0x1234_5678_9abc;
const STEP: u32 = 5;
const SITE: u32 = 16;

/// A pack of sentences with one head layout.
struct Case {
    lengths: Vec<usize>,
    heads: usize,
    head_dim: usize,
    bank: bool,
    dropout: f32,
    scale: f32,
}

impl Case {
    fn cu_seqlens(&self) -> Vec<i32> {
        let mut sum = 0;
        std::iter::once(0)
            .chain(self.lengths.iter().map(|&length| {
                sum += length as i32;
                sum
            }))
            .collect()
    }

    fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// Three random bit rows a sentence; the last row of bank row 0 is empty but for what every query sees.
    fn bank(&self) -> VisibilityBank {
        let mut bank = VisibilityBank { offsets: vec![0], ..VisibilityBank::default() };
        for (b, &length) in self.lengths.iter().enumerate() {
            let words = length.div_ceil(32);
            let random = integers(100 + b as u64, 3 * words, u32::MAX);
            bank.bits.extend(random.iter().enumerate().map(|(i, &w)| if i < words { 0 } else { w as u32 }));
            bank.offsets.push(bank.bits.len() as u32);
            bank.rows.extend(integers(200 + b as u64, length, 3).iter().map(|&row| row as u16));
        }
        bank
    }
}

struct Operands<T> {
    query: Vec<T>,
    key: Vec<T>,
    value: Vec<T>,
    d_output: Vec<T>,
}

#[derive(Default)]
struct Results {
    output: Vec<f64>,
    log_sum_exp: Vec<f64>,
    gradients: [Vec<f64>; 3],
    /// Largest sum of the magnitudes that make up a gradient: where one key has all the weight, dP and δ cancel.
    magnitudes: [f64; 3],
}

fn operands<T: Float>(case: &Case) -> Operands<T> {
    let count = case.tokens() * case.heads * case.head_dim;
    let draw = |seed| rounded(&values(seed, count));
    Operands { query: draw(1), key: draw(2), value: draw(3), d_output: draw(4) }
}

fn exact<T: Float>(case: &Case, operands: &Operands<T>) -> Results {
    let (cu_seqlens, bank) = (case.cu_seqlens(), case.bank());
    let dropout = random::Dropout::new(case.dropout, SEED, STEP, SITE);
    let attention = reference::Attention {
        cu_seqlens: &cu_seqlens,
        num_heads: case.heads,
        head_dim: case.head_dim,
        scale: f64::from(case.scale),
        mask: if case.bank { reference::Mask::Bank(&bank) } else { reference::Mask::Full },
        dropout: (case.dropout > 0.0).then_some(&dropout),
    };
    let [query, key, value, d_output] =
        [&operands.query, &operands.key, &operands.value, &operands.d_output].map(|values| widened(values));
    let reference::Output { output, log_sum_exp } = reference::forward(&attention, &query, &key, &value);
    let (d_query, d_key, d_value) = reference::backward(&attention, &query, &key, &value, &d_output);
    Results { output, log_sum_exp, gradients: [d_query, d_key, d_value], ..Results::default() }
}

/// The naive composition, every product, softmax and gradient stored in `T`.
fn naive<T: Float>(case: &Case, operands: &Operands<T>) -> Results {
    let (bank, d) = (case.bank(), case.head_dim);
    let columns = case.heads * d;
    let count = case.tokens() * columns;
    let dropout = random::Dropout::new(case.dropout, SEED, STEP, SITE);
    let round = |value: f32| T::from_f32(value).to_f32();
    let mut results = Results {
        output: vec![0.0; count],
        log_sum_exp: vec![f64::NEG_INFINITY; case.heads * case.tokens()],
        ..Results::default()
    };
    let mut gradients: [Vec<f32>; 3] = std::array::from_fn(|_| vec![0.0; count]);
    let mut magnitudes: [Vec<f32>; 3] = gradients.clone();
    let mut start = 0;
    for (b, &length) in case.lengths.iter().enumerate() {
        for head in 0..case.heads {
            let at = |slot: usize, k: usize| (start + slot) * columns + head * d + k;
            let dot = |left: &[T], i: usize, right: &[T], j: usize| -> f32 {
                (0..d).map(|k| left[at(i, k)].to_f32() * right[at(j, k)].to_f32()).sum()
            };
            for i in 0..length {
                let sees = |&j: &usize| !case.bank || bank.visible(b, start, length, i, j);
                let keys: Vec<usize> = (0..length).filter(sees).collect();
                let scores: Vec<f32> = keys
                    .iter()
                    .map(|&j| round(round(dot(&operands.query, i, &operands.key, j)) * case.scale))
                    .collect();
                let maximum = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f32 = scores.iter().map(|score| (score - maximum).exp()).sum();
                results.log_sum_exp[head * case.tokens() + start + i] = f64::from(maximum + sum.ln());
                let probability: Vec<f32> =
                    scores.iter().map(|score| round((score - maximum).exp() / sum)).collect();
                let factor = |j: usize| dropout.factor(head as u32, (start + i) as u32, j as u32);
                for k in 0..d {
                    let terms = keys.iter().zip(&probability);
                    let sum: f32 =
                        terms.map(|(&j, p)| round(p * factor(j)) * operands.value[at(j, k)].to_f32()).sum();
                    results.output[at(i, k)] = f64::from(round(sum));
                }
                let d_probability: Vec<f32> = keys
                    .iter()
                    .map(|&j| round(round(dot(&operands.d_output, i, &operands.value, j)) * factor(j)))
                    .collect();
                // As every fused kernel has it: rowsum(dO ∘ O), whose rounding does not cancel against dP's where one key has all
                // the weight, while the rowsum(P ∘ dP) of an unfused softmax would.
                let delta: f32 = (0..d)
                    .map(|k| operands.d_output[at(i, k)].to_f32() * results.output[at(i, k)] as f32)
                    .sum();
                for ((&j, p), dp) in keys.iter().zip(&probability).zip(&d_probability) {
                    let d_score = round(round(p * (dp - delta)) * case.scale);
                    let dropped = round(p * factor(j));
                    let magnitude = p * (dp.abs() + delta.abs()) * case.scale;
                    for k in 0..d {
                        magnitudes[0][at(i, k)] += magnitude * operands.key[at(j, k)].to_f32().abs();
                        magnitudes[1][at(j, k)] += magnitude * operands.query[at(i, k)].to_f32().abs();
                        magnitudes[2][at(j, k)] += dropped * operands.d_output[at(i, k)].to_f32().abs();
                        let [d_query, d_key, d_value] = &mut gradients;
                        d_query[at(i, k)] += d_score * operands.key[at(j, k)].to_f32();
                        d_key[at(j, k)] += d_score * operands.query[at(i, k)].to_f32();
                        d_value[at(j, k)] += dropped * operands.d_output[at(i, k)].to_f32();
                    }
                }
            }
        }
        start += length;
    }
    results.magnitudes = magnitudes.map(|sums| f64::from(sums.into_iter().fold(0.0, f32::max)));
    results.gradients =
        gradients.map(|gradient| gradient.iter().map(|&value| f64::from(round(value))).collect());
    results
}

fn run<T: Float>(device: &Device, case: &Case, operands: &Operands<T>) -> Results {
    let columns = case.heads * case.head_dim;
    let count = case.tokens() * columns;
    let bank = case.bank();
    // Keys and values share one buffer with a wide stride, as a packed projection has them.
    let mut packed = vec![T::from_f32(f32::NAN); case.tokens() * 2 * columns];
    for token in 0..case.tokens() {
        let row = token * columns..(token + 1) * columns;
        packed[2 * row.start..2 * row.start + columns].copy_from_slice(&operands.key[row.clone()]);
        packed[2 * row.start + columns..2 * row.start + 2 * columns].copy_from_slice(&operands.value[row]);
    }
    let stream = device.stream();
    let query = device.upload(&operands.query).unwrap();
    let key_value = device.upload(&packed).unwrap();
    let d_output = device.upload(&operands.d_output).unwrap();
    let cu_seqlens = device.upload(&case.cu_seqlens()).unwrap();
    let bits = device.upload(&bank.bits).unwrap();
    let offsets = device.upload(&bank.offsets).unwrap();
    let bank_rows = device.upload(&bank.rows).unwrap();
    let rng = device.upload(&rng_state(SEED, STEP)).unwrap();
    let mut output: Buffer<T> = device.zeros(count).unwrap();
    let mut log_sum_exp: Buffer<f32> = device.zeros(case.heads * case.tokens()).unwrap();
    let mut d_query: Buffer<T> = device.zeros(count).unwrap();
    let mut d_key: Buffer<T> = device.zeros(count).unwrap();
    let mut d_value: Buffer<T> = device.zeros(count).unwrap();

    let attention = attention::Attention {
        cu_seqlens: cu_seqlens.view(),
        max_seqlen: case.lengths.iter().copied().max().unwrap_or(0),
        num_heads: case.heads,
        head_dim: case.head_dim,
        scale: case.scale,
        mask: if case.bank {
            Mask::Bank { bits: bits.view(), offsets: offsets.view(), rows: bank_rows.view() }
        } else {
            Mask::Full
        },
        dropout: (case.dropout > 0.0).then(|| Dropout { rng: rng.view(), rate: case.dropout, site: SITE }),
    };
    let query = Rows { view: query.view(), stride: columns };
    let key = Rows { view: key_value.view(), stride: 2 * columns };
    let value = Rows { view: key_value.slice(columns..key_value.len()), stride: 2 * columns };
    let forward = attention::Forward {
        attention,
        query,
        key,
        value,
        output: RowsMut { view: output.view_mut(), stride: columns },
        log_sum_exp: log_sum_exp.view_mut(),
    };
    attention::forward(&stream, forward).unwrap();
    let backward = attention::Backward {
        attention,
        query,
        key,
        value,
        output: Rows { view: output.view(), stride: columns },
        log_sum_exp: log_sum_exp.view(),
        d_output: d_output.view(),
        d_query: RowsMut { view: d_query.view_mut(), stride: columns },
        d_key: RowsMut { view: d_key.view_mut(), stride: columns },
        d_value: RowsMut { view: d_value.view_mut(), stride: columns },
    };
    attention::backward(&stream, backward).unwrap();
    Results {
        output: widened(&output.read().unwrap()),
        log_sum_exp: widened(&log_sum_exp.read().unwrap()),
        gradients: [d_query, d_key, d_value].map(|gradient| widened(&gradient.read().unwrap())),
        ..Results::default()
    }
}

fn check<T: Float>(devices: &[Device], case: &Case) {
    let operands = operands::<T>(case);
    let (exact, naive) = (exact(case, &operands), naive(case, &operands));
    for device in devices {
        let actual = run(device, case, &operands);
        assert_close::<T>("output", &actual.output, &naive.output, &exact.output);
        assert_close::<f32>("log_sum_exp", &actual.log_sum_exp, &naive.log_sum_exp, &exact.log_sum_exp);
        for (i, name) in ["d_query", "d_key", "d_value"].into_iter().enumerate() {
            let (actual, naive_gradient) = (&actual.gradients[i], &naive.gradients[i]);
            assert_close_to_scale::<T>(
                name,
                actual,
                naive_gradient,
                &exact.gradients[i],
                naive.magnitudes[i],
            );
        }
    }
}

fn sweep(bank: bool) {
    let devices = devices();
    let packs: [&[usize]; 4] = [&[1], &[2, 1, 17, 33], &[63, 64, 65], &[127, 3, 128, 129]];
    for (i, lengths) in packs.into_iter().enumerate() {
        for head_dim in attention::HEAD_DIMS {
            let case = Case {
                lengths: lengths.to_vec(),
                heads: 1 + i % 2,
                head_dim,
                bank,
                dropout: if i % 2 == 0 { 0.1 } else { 0.0 },
                scale: (head_dim as f32).powf(-0.5),
            };
            check::<f32>(&devices, &case);
            check::<bf16>(&devices, &case);
        }
    }
}

#[test]
fn full_attention_matches_the_reference() {
    sweep(false);
}

#[test]
fn two_stream_attention_matches_the_reference() {
    sweep(true);
}

#[test]
fn long_sentences_match_the_reference() {
    for (bank, head_dim, dropout) in [(false, 32, 0.0), (true, 64, 0.25)] {
        let case = Case { lengths: vec![511, 512], heads: 1, head_dim, bank, dropout, scale: 0.2 };
        check::<f32>(&devices()[..1], &case);
    }
}

/// Scores of about ±1e4 leave one key with all the weight; nothing overflows.
#[test]
fn extreme_scores_stay_finite() {
    let case = Case { lengths: vec![40, 70], heads: 1, head_dim: 32, bank: false, dropout: 0.0, scale: 3e3 };
    let actual = run(&devices()[0], &case, &operands::<f32>(&case));
    assert!(actual.output.iter().chain(&actual.log_sum_exp).all(|value| value.is_finite()));
    assert!(actual.gradients.iter().flatten().all(|value| value.is_finite()));
}

/// Slot 0 of a bank mask sees only what its bits say: nothing, in a sentence of one token.
#[test]
fn a_row_that_sees_nothing_is_zero() {
    let case = Case { lengths: vec![1, 5], heads: 1, head_dim: 32, bank: true, dropout: 0.1, scale: 0.2 };
    for device in devices() {
        let actual = run(&device, &case, &operands::<f32>(&case));
        assert!(actual.output[..32].iter().all(|&value| value == 0.0));
        assert_eq!(actual.log_sum_exp[0], f64::NEG_INFINITY);
        assert!(actual.gradients.iter().all(|gradient| gradient[..32].iter().all(|&value| value == 0.0)));
    }
}

/// A pack is computed as its sentences are alone, to the bit.
#[test]
fn packing_changes_nothing() {
    let device = &devices()[0];
    let case = |lengths| Case { lengths, heads: 2, head_dim: 64, bank: false, dropout: 0.0, scale: 0.125 };
    let packed = case(vec![37, 80]);
    let all = operands::<f32>(&packed);
    let together = run(device, &packed, &all);
    let first = 37 * 2 * 64;
    let alone = Operands {
        query: all.query[first..].to_vec(),
        key: all.key[first..].to_vec(),
        value: all.value[first..].to_vec(),
        d_output: all.d_output[first..].to_vec(),
    };
    let apart = run(device, &case(vec![80]), &alone);
    assert_eq!(together.output[first..], apart.output);
    for (together, apart) in together.gradients.iter().zip(&apart.gradients) {
        assert_eq!(together[first..], *apart);
    }
}

#[test]
fn wrong_arguments_are_refused() {
    let device = &devices()[0];
    let floats = device.zeros::<f32>(4 * 64).unwrap();
    let cu_seqlens = device.upload(&[0, 4]).unwrap();
    let refuse = |head_dim, heads, stride, scale| {
        let mut output = device.zeros::<f32>(4 * 64).unwrap();
        let mut log_sum_exp = device.zeros::<f32>(4 * heads).unwrap();
        let rows = Rows { view: floats.view(), stride };
        let attention = attention::Attention {
            cu_seqlens: cu_seqlens.view(),
            max_seqlen: 4,
            num_heads: heads,
            head_dim,
            scale,
            mask: Mask::Full,
            dropout: None,
        };
        let arguments = attention::Forward {
            attention,
            query: rows,
            key: rows,
            value: rows,
            output: RowsMut { view: output.view_mut(), stride: 64 },
            log_sum_exp: log_sum_exp.view_mut(),
        };
        attention::forward(&device.stream(), arguments).unwrap_err().to_string()
    };
    assert_eq!(refuse(48, 1, 64, 1.0), "head_dim is 48; it should be 32, 64 or 128");
    assert!(refuse(32, 2, 60, 1.0).starts_with("query is strided by 60 elements"));
    assert!(refuse(64, 2, 128, 1.0).starts_with("query is 256 elements long; it should be at least 512"));
    assert_eq!(refuse(32, 2, 64, f32::NAN), "scale is NaN; it should be finite");
}
