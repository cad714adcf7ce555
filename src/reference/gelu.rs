//! GELU in its exact form, `x Φ(x)`, after a bias; and the error function in f64.
//!
//! Source: Hendrycks and Gimpel, "Gaussian error linear units", arXiv 1606.08415.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, PI};

/// `gelu(x + bias)`; `x [rows, n]`, `bias [n]`, result `[rows, n]`.
#[must_use]
pub fn forward(x: &[f64], bias: &[f64]) -> Vec<f64> {
    x.iter().enumerate().map(|(index, x)| gelu(x + bias[index % bias.len()])).collect()
}

/// Gradients `(d_x [rows, n], d_bias [n])` of [`forward`] under `d_out [rows, n]`.
#[must_use]
pub fn backward(x: &[f64], bias: &[f64], d_out: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let (mut d_x, mut d_bias) = (Vec::with_capacity(x.len()), vec![0.0; bias.len()]);
    for (index, (x, d)) in x.iter().zip(d_out).enumerate() {
        let column = index % bias.len();
        let d_input = d * gelu_derivative(x + bias[column]);
        d_x.push(d_input);
        d_bias[column] += d_input;
    }
    (d_x, d_bias)
}

/// `x Φ(x) = x erfc(-x / √2) / 2`; through erfc, so that the far negative side keeps its digits.
#[must_use]
pub fn gelu(x: f64) -> f64 {
    0.5 * x * erfc(-x * FRAC_1_SQRT_2)
}

/// `Φ(x) + x φ(x)`.
fn gelu_derivative(x: f64) -> f64 {
    0.5 * erfc(-x * FRAC_1_SQRT_2) + x * (-0.5 * x * x).exp() / (2.0 * PI).sqrt()
}

/// Below this the series is used, above it the continued fraction; both converge in under 100 terms here.
const SERIES_LIMIT: f64 = 2.0;

/// The error function.
#[must_use]
pub fn erf(x: f64) -> f64 {
    if x.abs() < SERIES_LIMIT { erf_series(x) } else { 1.0 - erfc(x) }
}

/// `1 - erf(x)`, with its digits kept for large `x`.
#[must_use]
pub fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        2.0 - erfc(-x)
    } else if x < SERIES_LIMIT {
        1.0 - erf_series(x)
    } else {
        erfc_fraction(x)
    }
}

/// `2/√π e^{-x²} Σ 2ⁿ x^{2n+1} / (2n+1)!!`: all terms have one sign, so nothing cancels.
fn erf_series(x: f64) -> f64 {
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > 1e-18 * sum.abs() {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

/// `e^{-x²}/√π · 1/(x + (1/2)/(x + (2/2)/(x + (3/2)/(x + …))))`, from the innermost term outwards.
fn erfc_fraction(x: f64) -> f64 {
    let tail = (1..=100).rev().fold(x, |tail, n| x + 0.5 * f64::from(n) / tail);
    (-x * x).exp() / (PI.sqrt() * tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (x, erf x, erfc x), computed with 40 digits and rounded once.
    const KNOWN: [(f64, f64, f64); 9] = [
        (0.1, 0.112_462_916_018_284_9, 0.887_537_083_981_715),
        (0.5, 0.520_499_877_813_046_5, 0.479_500_122_186_953_5),
        (1.0, 0.842_700_792_949_714_9, 0.157_299_207_050_285_13),
        (1.5, 0.966_105_146_475_310_8, 0.033_894_853_524_689_274),
        (1.99, 0.995_111_413_199_617, 0.004_888_586_800_383_003),
        (2.0, 0.995_322_265_018_952_7, 0.004_677_734_981_047_266),
        (3.0, 0.999_977_909_503_001_4, 2.209_049_699_858_544e-05),
        (5.0, 0.999_999_999_998_462_6, 1.537_459_794_428_035e-12),
        (10.0, 1.0, 2.088_487_583_762_545e-45),
    ];

    #[test]
    fn erf_has_fifteen_digits() {
        for (x, erf_x, erfc_x) in KNOWN {
            assert!((erf(x) - erf_x).abs() <= 4e-16, "erf({x}) = {}", erf(x));
            assert!((erf(-x) + erf_x).abs() <= 4e-16, "erf(-{x}) = {}", erf(-x));
            assert!((erfc(x) - erfc_x).abs() <= 1e-13 * erfc_x, "erfc({x}) = {}", erfc(x));
        }
    }

    #[test]
    fn series_and_fraction_agree_where_they_meet() {
        let (series, fraction) = (1.0 - erf_series(SERIES_LIMIT), erfc_fraction(SERIES_LIMIT));
        assert!((series - fraction).abs() < 4e-16, "{series} {fraction}");
    }

    #[test]
    fn gelu_known_values_and_tails() {
        assert_eq!((gelu(0.0), gelu_derivative(0.0)), (0.0, 0.5));
        assert!((gelu(1.0) - 0.841_344_746_068_542_9).abs() < 1e-15);
        assert!((gelu(-1.0) + 0.158_655_253_931_457_05).abs() < 1e-15);
        assert_eq!((gelu(40.0), gelu(-40.0)), (40.0, 0.0));
        assert_eq!((gelu_derivative(40.0), gelu_derivative(-40.0).abs()), (1.0, 0.0));
    }
}
