//! Laws of attention that hold for all operands, by randomized search.

use approx::abs_diff_eq;
use proptest::prelude::*;
use retromae::device::{Device, Float, bf16};

use super::cases::{Case, Kind, Variant};
use super::passes::{Results, run, variants};
use crate::cases::attention::Inputs;
use crate::common::{devices, max_error};

fn device() -> Device {
    devices().swap_remove(0)
}

fn small() -> ProptestConfig {
    ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() }
}

fn lengths() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1usize..100, 1..4)
}

fn head_dim() -> impl Strategy<Value = usize> {
    prop::sample::select(&[32usize, 64, 96, 128][..])
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Full),
        Just(Kind::Pool),
        Just(Kind::Generated),
        Just(Kind::Independent),
        Just(Kind::Bits),
        (0u32..70, 0u32..70, any::<bool>()).prop_map(|(left, right, first)| Kind::Window {
            left: Some(left),
            right: Some(right),
            first
        }),
        any::<bool>().prop_map(|include_self| Kind::Permutation { include_self }),
    ]
}

fn assert_equal(one: &Results, other: &Results) {
    assert_eq!(one.output, other.output);
    assert_eq!(one.log_sum_exp, other.log_sum_exp);
    assert_eq!(one.gradients, other.gradients);
}

/// Returns the rows `range` of a case's operands.
fn part<T: Float>(case: &Case, operands: &Inputs<T>, range: std::ops::Range<usize>) -> Inputs<T> {
    let elements = range.start * case.columns()..range.end * case.columns();
    let [query, key, value, d_output] = [&operands.query, &operands.key, &operands.value, &operands.d_output]
        .map(|values| values[elements.clone()].to_vec());
    Inputs { query, key, value, d_output }
}

/// A packed batch gives the same bits as its sentences alone.
fn packing_is_one_by_one<T: Float>(case: &Case) {
    let device = device();
    let operands = case.inputs::<T>();
    for &variant in variants::<T>() {
        let together = run(&device, case, &operands, variant);
        let mut start = 0;
        for &length in &case.lengths {
            let alone = Case { lengths: vec![length], ..case.clone() };
            let apart = run(&device, &alone, &part(case, &operands, start..start + length), variant);
            let elements = start * case.columns()..(start + length) * case.columns();
            assert_eq!(together.output[elements.clone()], apart.output);
            // The order of atomic additions may differ.
            let same = if variant == Variant::Atomic { 1..3 } else { 0..3 };
            for i in same {
                assert_eq!(together.gradients[i][elements.clone()], apart.gradients[i]);
            }
            start += length;
        }
    }
}

/// Moves the contents of tokens that no query sees: only their own gradients change.
fn hidden_tokens_do_not_matter<T: Float>(length: usize, head_dim: usize, window: u32) {
    let device = device();
    let kind = Kind::Window { left: Some(window), right: Some(0), first: false };
    // Queries in the second half see no key of the first tokens.
    let from = length / 2 + window as usize;
    let case = Case { queries: Some(vec![(from..length).collect()]), ..Case::new(&[length], head_dim, kind) };
    let operands = case.inputs::<T>();
    let mut turned = operands.clone();
    for values in [&mut turned.key, &mut turned.value] {
        values[..length / 2 * head_dim].rotate_left(head_dim);
    }
    for &variant in variants::<T>() {
        let results = [&operands, &turned].map(|operands| run(&device, &case, operands, variant));
        assert_eq!(results[0].output, results[1].output);
        if variant != Variant::Atomic {
            assert_eq!(results[0].gradients, results[1].gradients);
        }
    }
}

proptest! {
    #![proptest_config(small())]

    #[test]
    fn packing_changes_nothing(lengths in lengths(), d in head_dim(), window in any::<bool>(), dims in 1usize..3) {
        // Masks that are sampled with the packed batch differ from those of a sentence alone.
        let kind = if window { Kind::Window { left: Some(12), right: None, first: true } } else { Kind::Full };
        let case = Case { heads: dims, ..Case::new(&lengths, d, kind) };
        packing_is_one_by_one::<f32>(&case);
        packing_is_one_by_one::<bf16>(&case);
    }

    #[test]
    fn hidden_tokens_can_be_permuted(length in 20usize..140, d in head_dim(), window in 0u32..8) {
        hidden_tokens_do_not_matter::<f32>(length, d, window);
        hidden_tokens_do_not_matter::<bf16>(length, d, window);
    }

    /// With values of 1, an output is the sum of its probabilities.
    #[test]
    fn probabilities_add_up_to_one(lengths in lengths(), d in head_dim(), kind in kind()) {
        let case = Case::new(&lengths, d, kind);
        let mut operands = case.inputs::<bf16>();
        operands.value.fill(bf16::ONE);
        let results = run(&device(), &case, &operands, Variant::Default);
        for (token, outputs) in results.output.chunks(d).enumerate() {
            let expected = if results.log_sum_exp[token] == f64::NEG_INFINITY { 0.0 } else { 1.0 };
            // Probabilities are rounded before they are added, each by at most half a unit of 2^-8.
            prop_assert!(outputs.iter().all(|&sum| abs_diff_eq!(sum, expected, epsilon = 1.0 / 128.0)), "{outputs:?}");
        }
    }

    /// A rate this small rounds to zero: dropout thresholds are multiples of 1/256.
    #[test]
    fn a_rate_of_zero_drops_nothing(lengths in lengths(), d in head_dim(), kind in kind()) {
        let case = Case::new(&lengths, d, kind);
        let operands = case.inputs::<bf16>();
        let dropped = Case { dropout: 1e-4, ..case.clone() };
        for variant in [Variant::Default, Variant::Tiled] {
            let results = [&case, &dropped].map(|case| run(&device(), case, &operands, variant));
            assert_equal(&results[0], &results[1]);
        }
    }

    /// A window over all keys masks nothing: the kernels with and without masks agree to the bit.
    #[test]
    fn a_window_over_everything_is_full_attention(lengths in lengths(), d in head_dim()) {
        let full = Case { dropout: 0.1, ..Case::new(&lengths, d, Kind::Full) };
        let wide = Case { kind: Kind::Window { left: None, right: Some(200), first: false }, ..full.clone() };
        let operands = full.inputs::<bf16>();
        for variant in [Variant::Default, Variant::Tiled] {
            let results = [&full, &wide].map(|case| run(&device(), case, &operands, variant));
            assert_equal(&results[0], &results[1]);
        }
    }

    /// A pool that shows everything equals full attention without the diagonal, to the bit.
    #[test]
    fn a_pool_of_ones_is_everything_but_the_diagonal(lengths in lengths(), d in head_dim()) {
        let pool = Case { dropout: 0.1, ..Case::new(&lengths, d, Kind::PoolOfOnes) };
        let bits = Case { kind: Kind::OffDiagonal, ..pool.clone() };
        let operands = pool.inputs::<bf16>();
        for variant in [Variant::Default, Variant::Tiled] {
            let results = [&pool, &bits].map(|case| run(&device(), case, &operands, variant));
            assert_equal(&results[0], &results[1]);
        }
    }

    /// Separate queries for all tokens equal self-attention, to the bit.
    #[test]
    fn two_streams_of_the_same_are_self_attention(lengths in lengths(), d in head_dim(), kind in kind()) {
        let case = Case { dropout: 0.1, ..Case::new(&lengths, d, kind) };
        let queries = Some(lengths.iter().map(|&length| (0..length).collect()).collect());
        let operands = case.inputs::<bf16>();
        for variant in [Variant::Default, Variant::Tiled] {
            let own = Case { queries: queries.clone(), ..case.clone() };
            let results = [&case, &own].map(|case| run(&device(), case, &operands, variant));
            assert_equal(&results[0], &results[1]);
        }
    }

    /// The variants of the backward pass differ only by rounding.
    #[test]
    fn variants_agree(lengths in lengths(), d in head_dim(), kind in kind()) {
        let case = Case { dropout: 0.1, ..Case::new(&lengths, d, kind) };
        let operands = case.inputs::<bf16>();
        let [default, tiled, atomic] = [Variant::Default, Variant::Tiled, Variant::Atomic]
            .map(|variant| run(&device(), &case, &operands, variant).gradients);
        for (i, gradient) in default.iter().enumerate() {
            let scale = gradient.iter().fold(0.0f64, |max, value| max.max(value.abs()));
            for other in [&tiled[i], &atomic[i]] {
                prop_assert!(max_error(other, gradient) <= scale / 64.0);
            }
        }
    }
}
