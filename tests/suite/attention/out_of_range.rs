//! Whatever device memory holds, no access leaves the arguments, and wrong input is visible in the results.

use std::ops::Range;

use retromae::device::{Buffer, Device, Element, Float, bf16, f16};
use retromae::ops::attention::HEAD_DIMS;

use super::cases::{Case, Kind, Uploaded, Variant};
use super::passes::{Results, run, run_spoiled, variants};
use crate::common::{devices, garbage};

const KINDS: [Kind; 7] = [
    Kind::Full,
    Kind::Pool,
    Kind::Independent,
    Kind::Bits,
    Kind::Generated,
    Kind::Window { left: Some(2), right: None, first: true },
    Kind::Permutation { include_self: true },
];

/// Overwrites a buffer with [`garbage`].
fn spoil<T: Element>(buffer: &mut Buffer<T>, seed: u64, bound: usize, from: impl Fn(i32) -> T) {
    let values: Vec<T> = garbage(seed, buffer.len(), bound).into_iter().map(from).collect();
    buffer.write(&values).unwrap();
}

/// Spoils all index arrays, the prefix sums only if `bounds` is set.
fn spoil_all(uploaded: &mut Uploaded, case: &Case, seed: u64, bounds: bool) {
    if bounds {
        spoil(&mut uploaded.cu_seqlens, seed, case.tokens() + 1, |value| value);
        spoil(&mut uploaded.query_cu_seqlens, seed + 1, case.query_tokens() + 1, |value| value);
    }
    let words = uploaded.bits.len();
    spoil(&mut uploaded.positions, seed + 2, 9, |value| value);
    spoil(&mut uploaded.offsets, seed + 3, words, |value| value as u32);
    spoil(&mut uploaded.rows, seed + 4, 9, |value| value as u16);
    spoil(&mut uploaded.order, seed + 5, 9, |value| value as u16);
    spoil(&mut uploaded.sentence_indices, seed + 6, 9, |value| value as u32);
    spoil(&mut uploaded.word_starts, seed + 7, 9, |value| value as u32);
    spoil(&mut uploaded.rng, seed + 8, 9, |value| value as u32);
}

/// Guard pages around every buffer turn an access outside a kernel's arguments into an error.
#[test]
fn nothing_beyond_the_arguments_is_touched() {
    fn check<T: Float>(device: &Device, case: &Case, seed: u64) {
        let operands = case.inputs::<T>();
        for &variant in variants::<T>() {
            for bounds in [false, true] {
                run_spoiled(device, case, &operands, variant, |_, uploaded| {
                    spoil_all(uploaded, case, seed, bounds);
                });
            }
        }
    }
    let device = &devices()[0];
    let queries = Some(vec![vec![0, 2], vec![], (0..70).rev().collect(), vec![1, 0]]);
    for (seed, kind) in (0u64..).zip(KINDS) {
        let head_dim = HEAD_DIMS[seed as usize % HEAD_DIMS.len()];
        let case = Case { heads: 2, dropout: 0.1, ..Case::new(&[5, 1, 70, 3], head_dim, kind) };
        for case in [Case { queries: queries.clone(), ..case.clone() }, case] {
            for round in 0..3 {
                check::<f32>(device, &case, 1000 * seed + 100 * round);
                check::<bf16>(device, &case, 1000 * seed + 100 * round);
            }
        }
    }
}

/// One result, a row of `columns` elements for each token, and its values with the right prefix sums.
struct Rows<'a> {
    what: String,
    columns: usize,
    spoiled: &'a [f64],
    expected: &'a [f64],
}

impl Rows<'_> {
    #[track_caller]
    fn assert_equal(&self, tokens: Range<usize>) {
        let bits = |values: &[f64]| -> Vec<u64> {
            values[tokens.start * self.columns..tokens.end * self.columns]
                .iter()
                .map(|value| value.to_bits())
                .collect()
        };
        assert!(bits(self.spoiled) == bits(self.expected), "{}: tokens {tokens:?}", self.what);
    }

    #[track_caller]
    fn assert_all(&self, tokens: Range<usize>, condition: impl Fn(f64) -> bool) {
        let values = &self.spoiled[tokens.start * self.columns..tokens.end * self.columns];
        let wrong = values.iter().position(|&value| !condition(value));
        assert_eq!(wrong.map(|at| values[at]), None, "{}: tokens {tokens:?}", self.what);
    }
}

/// Checks every result of a batch whose prefix sums become `bounds`: each dtype, two head sizes, all variants of the backward pass. Query gradients
/// that atomics add up are left out, as their bits vary from run to run.
fn with_bounds(lengths: &[usize], bounds: &[i32], check: &dyn Fn(&Rows<'_>)) {
    fn of_type<T: Float>(device: &Device, case: &Case, bounds: &[i32], check: &dyn Fn(&Rows<'_>)) {
        let operands = case.inputs::<T>();
        for &variant in variants::<T>() {
            let expected = run(device, case, &operands, variant);
            let spoiled = run_spoiled(device, case, &operands, variant, |device, uploaded| {
                uploaded.cu_seqlens = device.upload(bounds).unwrap();
                uploaded.query_cu_seqlens = device.upload(bounds).unwrap();
            });
            let named = |results: &Results| {
                let [d_query, d_key, d_value] = results.gradients.clone();
                let (output, log_sum_exp) = (results.output.clone(), results.log_sum_exp.clone());
                [
                    ("output", output),
                    (LOG_SUM_EXP, log_sum_exp),
                    ("d_key", d_key),
                    ("d_value", d_value),
                    ("d_query", d_query),
                ]
            };
            for ((name, spoiled), (_, expected)) in named(&spoiled).iter().zip(&named(&expected)) {
                if *name == "d_query" && variant == Variant::Atomic {
                    continue;
                }
                check(&Rows {
                    what: format!(
                        "{name} of {bounds:?}, {variant:?}, {case:?}, {} on {device:?}",
                        T::DTYPE.name()
                    ),
                    columns: spoiled.len() / case.tokens(),
                    spoiled,
                    expected,
                });
            }
        }
    }
    for device in devices() {
        for head_dim in [32, 128] {
            let case = Case::new(lengths, head_dim, Kind::Full);
            of_type::<f32>(&device, &case, bounds, check);
            of_type::<bf16>(&device, &case, bounds, check);
            of_type::<f16>(&device, &case, bounds, check);
        }
    }
}

const LOG_SUM_EXP: &str = "log_sum_exp";

/// Sentences with bounds out of range are NaN in every result; the others are unaffected.
#[test]
fn sentences_out_of_range_are_nan() {
    // The first sentence is in range in all of them, the others are not.
    let cases: [(&[usize], &[i32]); 5] = [
        (&[5, 7], &[0, 5, 90]),
        (&[5, 70], &[0, 5, i32::MAX]),
        (&[5, 7], &[0, 5, -3]),
        (&[5, 7, 1], &[0, 5, 4, 13]),
        (&[5, 90], &[0, 5, 96]),
    ];
    for (lengths, bounds) in cases {
        let tokens = lengths.iter().sum();
        with_bounds(lengths, bounds, &|rows| {
            rows.assert_equal(0..5);
            rows.assert_all(5..tokens, f64::is_nan);
        });
    }
}

/// Covers a sentence longer than the longest allowed, and prefix sums that do not begin at 0.
#[test]
fn the_first_sentence_may_be_out_of_range() {
    for (lengths, bounds) in
        [(&[5, 7][..], &[0, 12, 12][..]), (&[5, 7], &[1, 5, 12]), (&[5, 7], &[-1, 5, 12])]
    {
        with_bounds(lengths, bounds, &|rows| rows.assert_all(0..5, f64::is_nan));
    }
}

/// Tokens after the last sentence see nothing and have no gradient, whatever the buffers held.
#[test]
fn tokens_of_no_sentence_are_zero() {
    let cases: [(&[usize], &[i32]); 3] =
        [(&[5, 7, 88], &[0, 5, 12, 12]), (&[300, 1, 40], &[0, 300, 301, 301]), (&[3], &[0, 0])];
    for (lengths, bounds) in cases {
        let (tokens, end) = (lengths.iter().sum(), bounds[bounds.len() - 1] as usize);
        with_bounds(lengths, bounds, &|rows| {
            rows.assert_equal(0..end);
            let nothing = if rows.what.starts_with(LOG_SUM_EXP) { f64::NEG_INFINITY } else { 0.0 };
            rows.assert_all(end..tokens, |value| value == nothing);
        });
    }
}

/// A position without a key, and words beyond the end of the bits, hide everything.
#[test]
fn what_no_mask_has_is_hidden() {
    let case = Case { queries: Some(vec![vec![0, 1, 2]]), ..Case::new(&[3], 32, Kind::Bits) };
    let operands = case.inputs::<f32>();
    let nothing = |spoil: &dyn Fn(&mut Uploaded)| {
        let results =
            run_spoiled(&devices()[0], &case, &operands, Variant::Default, |_, uploaded| spoil(uploaded));
        assert!(results.output.iter().all(|&value| value == 0.0));
        assert!(results.log_sum_exp.iter().all(|&value| value == f64::NEG_INFINITY));
    };
    nothing(&|uploaded| uploaded.positions.write(&[3, -1, i32::MAX]).unwrap());
    nothing(&|uploaded| uploaded.offsets.write(&[3, 3]).unwrap());
    nothing(&|uploaded| uploaded.offsets.write(&[u32::MAX, 0]).unwrap());
}
