//! Attention against the f64 reference: every mask, dtype, head size and backward variant, ragged batches, with and without dropout.

mod bank_conflicts;
pub mod cases;
mod out_of_range;
mod packed;
pub mod passes;
mod properties;
mod refusals;

use retromae::device::{Device, Float, bf16, f16};
use retromae::ops::attention::HEAD_DIMS;

use crate::common::devices;
use cases::{Case, Kind, Variant};
use passes::{check, run};

/// Packs of ugly lengths; every other one has two heads and dropout.
fn sweep(kind: Kind) {
    let packs: [&[usize]; 4] = [&[1], &[2, 1, 17, 33], &[63, 64, 65], &[127, 3, 128, 129]];
    packs.into_iter().enumerate().for_each(|(i, lengths)| sweep_dims(kind, lengths, i));
}

/// The same for a kind of mask whose kernels another sweep covers: masks differ only in single words of bits.
fn sweep_short(kind: Kind) {
    sweep_dims(kind, &[2, 1, 17, 33], 0);
    sweep_dims(kind, &[1, 65], 1);
    let case = Case { heads: 2, dropout: 0.1, ..Case::new(&[127, 3, 128, 129], 64, kind) };
    check_every_dtype(&devices(), &case, 0);
}

fn sweep_dims(kind: Kind, lengths: &[usize], turn: usize) {
    let devices = devices();
    for (i, head_dim) in HEAD_DIMS.into_iter().enumerate() {
        let mut case = Case::new(lengths, head_dim, kind);
        case.heads = 1 + (turn + i) % 2;
        case.dropout = if turn.is_multiple_of(2) { 0.1 } else { 0.0 };
        check_every_dtype(&devices, &case, turn + i);
    }
}

/// Checks all dtypes on the first device, and each on one more: the devices differ only in the order of threads.
fn check_every_dtype(devices: &[Device], case: &Case, turn: usize) {
    let choose = |dtype: usize| -> Vec<Device> {
        let other = 1 + (turn + dtype) % (devices.len() - 1).max(1);
        devices.first().into_iter().chain(devices.get(other)).cloned().collect()
    };
    check::<f32>(&choose(0), case);
    check::<bf16>(&choose(1), case);
    check::<f16>(&choose(2), case);
}

#[test]
fn full_attention_matches_the_reference() {
    sweep(Kind::Full);
}

#[test]
fn two_stream_attention_matches_the_reference() {
    sweep(Kind::Pool);
}

/// Generated masks equal the reference's bit for bit.
#[test]
fn generated_masks_match_the_reference() {
    sweep_short(Kind::Generated);
    check::<bf16>(&devices()[..1], &Case::new(&[300], 64, Kind::Generated));
}

#[test]
fn permutation_order_matches_the_reference() {
    sweep_short(Kind::Permutation { include_self: false });
    let case = Case { dropout: 0.2, ..Case::new(&[40, 90], 64, Kind::Permutation { include_self: true }) };
    check_every_dtype(&devices(), &case, 0);
}

/// Queries are some of the tokens, in any order, none of a sentence, or more than its tokens.
#[test]
fn queries_of_their_own_match_the_reference() {
    let some: Vec<Vec<usize>> = vec![(1..69).collect(), vec![], vec![4, 2, 2, 0], (0..129).rev().collect()];
    for kind in [Kind::Full, Kind::Pool, Kind::Window { left: Some(9), right: Some(9), first: true }] {
        let case = Case {
            queries: Some(some.clone()),
            dropout: 0.1,
            heads: 2,
            ..Case::new(&[70, 5, 6, 129], 64, kind)
        };
        check_every_dtype(&devices(), &case, 1);
    }
}

/// Covers a sentence without keys, whose queries see nothing, one without queries and keys, and a batch without sentences.
#[test]
fn empty_sentences_are_no_exception() {
    let device = &devices()[..1];
    let queries = Some(vec![vec![0, 1], vec![], vec![0, 1, 2]]);
    check::<f32>(device, &Case { queries: queries.clone(), ..Case::new(&[0, 0, 3], 32, Kind::Full) });
    check::<bf16>(device, &Case { queries, ..Case::new(&[0, 0, 3], 32, Kind::Full) });
    for lengths in [&[0][..], &[0, 20, 0], &[]] {
        check::<f32>(device, &Case::new(lengths, 64, Kind::Pool));
        check::<bf16>(device, &Case::new(lengths, 64, Kind::Pool));
    }
}

/// Without any query the gradients of keys and values are still written, by whichever kernels run.
#[test]
fn keys_without_any_query_have_gradients_of_zero() {
    let case = Case { queries: Some(vec![vec![], vec![]]), ..Case::new(&[70, 5], 64, Kind::Full) };
    check_every_dtype(&devices(), &case, 0);
}

/// Covers more one-token sentences than a warp checks in one round.
#[test]
fn many_sentences_of_one_token_match_the_reference() {
    let devices = devices();
    for sentences in [67, 500] {
        for (turn, kind) in
            [Kind::Full, Kind::Pool, Kind::Window { left: Some(1), right: Some(1), first: true }]
                .into_iter()
                .enumerate()
        {
            check_every_dtype(&devices, &Case::new(&vec![1; sentences], 64, kind), turn);
            check::<bf16>(&devices[..1], &Case::new(&vec![1; sentences], 128, kind));
        }
    }
}

/// Covers sentences too long for one block, in batches with short ones.
#[test]
fn long_sentences_match_the_reference() {
    let device = &devices()[..1];
    let long = |head_dim, kind, dropout| Case { dropout, ..Case::new(&[511, 64, 512], head_dim, kind) };
    check::<f32>(device, &long(32, Kind::Full, 0.0));
    check::<bf16>(device, &long(64, Kind::Pool, 0.25));
    check::<bf16>(device, &long(128, Kind::Full, 0.0));
    check::<f16>(device, &long(96, Kind::Window { left: Some(64), right: Some(64), first: true }, 0.1));
}

/// Covers the longest sentences beside the shortest; few queries of each keep the reference fast.
#[test]
fn thousands_of_keys_beside_one_match_the_reference() {
    let queries: Vec<Vec<usize>> = vec![(0..8192).step_by(91).collect(), vec![0], (0..40).collect()];
    for kind in [Kind::Full, Kind::Pool] {
        let case =
            Case { queries: Some(queries.clone()), dropout: 0.1, ..Case::new(&[8192, 1, 40], 64, kind) };
        check::<bf16>(&devices()[..1], &case);
    }
}

/// Covers a few thousand tokens under a narrow window: most tiles are skipped.
#[test]
fn windows_over_thousands_of_tokens_match_the_reference() {
    let case = Case::new(&[2100], 32, Kind::Window { left: Some(5), right: Some(5), first: true });
    check::<bf16>(&devices()[..1], &case);
}

/// Scores of about ±1e4 leave one key with all the weight; nothing overflows.
#[test]
fn extreme_scores_stay_finite() {
    fn extreme<T: Float>() {
        let case = Case { scale: 3e3, ..Case::new(&[40, 70], 32, Kind::Full) };
        for &variant in passes::variants::<T>() {
            let actual = run(&devices()[0], &case, &case.inputs::<T>(), variant);
            assert!(actual.output.iter().chain(&actual.log_sum_exp).all(|value| value.is_finite()));
            assert!(actual.gradients.iter().flatten().all(|value| value.is_finite()));
        }
    }
    extreme::<f32>();
    extreme::<bf16>();
    extreme::<f16>();
}

/// A key with score −∞ has no weight; if all scores are −∞, the row is like one that sees nothing.
#[test]
fn infinitely_low_scores_have_no_weight() {
    fn infinite<T: Float>() {
        let case = Case::new(&[70], 32, Kind::Full);
        let mut operands = case.inputs::<T>();
        // Every query has a positive first component; key 5's is -∞.
        for token in 0..70 {
            operands.query[32 * token] = T::from_f32(1.0);
        }
        let baseline = run(&devices()[0], &case, &operands, Variant::Default);
        operands.key[32 * 5] = T::from_f32(f32::NEG_INFINITY);
        let actual = run(&devices()[0], &case, &operands, Variant::Default);
        assert!(actual.output.iter().chain(&actual.log_sum_exp).all(|value| value.is_finite()));
        assert!(actual.log_sum_exp.iter().zip(&baseline.log_sum_exp).all(|(without, with)| without < with));
        for token in 0..70 {
            operands.key[32 * token] = T::from_f32(f32::NEG_INFINITY);
        }
        let nothing = run(&devices()[0], &case, &operands, Variant::Default);
        assert!(nothing.output.iter().all(|&value| value == 0.0));
        assert!(nothing.log_sum_exp.iter().all(|&value| value == f64::NEG_INFINITY));
        assert!(nothing.gradients[2].iter().all(|&value| value == 0.0));
    }
    infinite::<f32>();
    infinite::<bf16>();
    infinite::<f16>();
}

/// Position 0 of a pool mask sees only the keys of its bits: none, in a sentence of one token.
#[test]
fn a_row_that_sees_nothing_is_zero() {
    fn blind<T: Float>(device: &Device) {
        let case = Case { dropout: 0.1, ..Case::new(&[1, 5], 32, Kind::Pool) };
        for &variant in passes::variants::<T>() {
            let actual = run(device, &case, &case.inputs::<T>(), variant);
            assert!(actual.output[..32].iter().all(|&value| value == 0.0));
            assert_eq!(actual.log_sum_exp[0], f64::NEG_INFINITY);
            assert!(actual.gradients.iter().all(|gradient| gradient[..32].iter().all(|&value| value == 0.0)));
        }
    }
    for device in devices() {
        blind::<f32>(&device);
        blind::<bf16>(&device);
        blind::<f16>(&device);
    }
}
