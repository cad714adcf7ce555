//! Arithmetic of one lane: bit counts, approximations, strips.

use retromae::reference::gelu::erfc;

use super::{Expected, assert_elementwise, assert_records, floats, words};

/// Relative error of `ex2.approx.ftz.f32` (PTX ISA, "Floating Point Instructions: ex2"), and the bound of its emulation.
const EXP2_ERROR: f64 = 1.0 / 4_194_304.0;
/// The smallest normal f32: results below it become zero.
const SMALLEST: f64 = f32::MIN_POSITIVE as f64;

#[test]
fn bit_count_counts_ones() {
    let powers = (0..32).flat_map(|bit| [1u32 << bit, !(1u32 << bit), u32::MAX >> bit]);
    let input: Vec<u32> = powers.chain([0, u32::MAX]).chain(words(2, 4096)).collect();
    assert_elementwise("instruction_bit_count", &input, |word| {
        Expected::Bits((0..32).map(|bit| word >> bit & 1).sum())
    });
}

/// Expects an approximation of the positive `value` with a relative error; a result below the smallest normal float may become zero.
fn approximately(value: f64, relative: f64, early_overflow: f64) -> Expected {
    if value.is_nan() {
        return Expected::Float(f32::NAN);
    }
    if value * (1.0 - relative) > f64::from(f32::MAX) {
        return Expected::Float(f32::INFINITY);
    }
    let flushed = if value * (1.0 - relative) < SMALLEST { SMALLEST } else { 0.0 };
    let tolerance = value * relative + flushed;
    Expected::Near { value, tolerance, or_infinity: value >= early_overflow }
}

#[test]
fn exp2_is_within_its_error() {
    // The emulation overflows from 2^127.5 on.
    let early = 127.5f64.exp2();
    assert_elementwise("instruction_exp2_approximate", &floats(3, 140.0), |word| {
        approximately(f64::from(f32::from_bits(word)).exp2(), EXP2_ERROR, early)
    });
}

#[test]
fn reciprocal_is_within_its_error() {
    let input = floats(4, 100.0).into_iter().filter(|&word| f32::from_bits(word) > 0.0);
    assert_elementwise("instruction_reciprocal_approximate", &input.collect::<Vec<_>>(), |word| {
        let x = f32::from_bits(word);
        // The instruction treats a subnormal number as 0; the emulation divides by it.
        let early_overflow = if x.is_normal() { f64::INFINITY } else { 0.0 };
        approximately(1.0 / f64::from(x), f64::from(f32::EPSILON), early_overflow)
    });
}

#[test]
fn gelu_is_within_its_error() {
    let input: Vec<[u32; 1]> = floats(5, 14.0).into_iter().map(|word| [word]).collect();
    assert_records("instruction_gelu", &input, |&[word]| {
        let x = f64::from(f32::from_bits(word));
        let cdf = 0.5 * erfc(-x / 2f64.sqrt());
        let pdf = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        if !x.is_finite() {
            return [Expected::Float(f32::NAN); 2];
        }
        // Far out the exponential is 0, and the rest is exact.
        let relative = if x.abs() < 20.0 { 1.6e-6 + 7e-8 * x * x } else { 0.0 };
        let near = |value: f64, scale: f64| Expected::Near {
            value,
            tolerance: relative * scale + SMALLEST * (1.0 + x.abs()),
            or_infinity: false,
        };
        [near(x * cdf, (x * cdf).abs()), near(cdf + x * pdf, cdf + x.abs() * pdf)]
    });
}

#[test]
fn strips_accumulate_exactly() {
    let input: Vec<[u32; 36]> = floats(16, 50.0).as_chunks::<36>().0.to_vec();
    assert_records("instruction_strip", &input, |record| {
        let [start, scale0, scale1, factor] = [0, 1, 2, 3].map(|i| f32::from_bits(record[i]));
        std::array::from_fn(|i| {
            let [source0, source1] = [4, 20].map(|first| f32::from_bits(record[first + i]));
            let accumulated = scale1.mul_add(source1, scale0.mul_add(source0, start));
            Expected::Float(accumulated * factor)
        }) as [Expected; 16]
    });
}
