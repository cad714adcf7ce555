//! The few vector helpers that every operation of the reference shares.

use crate::common::random::Dropout;

/// `Σ a_i b_i`.
#[must_use]
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    debug_assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `target += source`.
pub fn add_to(target: &mut [f64], source: &[f64]) {
    add_scaled(target, 1.0, source);
}

/// `target += factor * source`.
pub(super) fn add_scaled(target: &mut [f64], factor: f64, source: &[f64]) {
    debug_assert_eq!(target.len(), source.len());
    for (target, source) in target.iter_mut().zip(source) {
        *target += factor * source;
    }
}

/// `log Σ exp(x_i)`, stable; `-∞` for an empty slice or one of only `-∞`.
#[must_use]
pub fn log_sum_exp(values: &[f64]) -> f64 {
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY {
        return max;
    }
    max + values.iter().map(|value| (value - max).exp()).sum::<f64>().ln()
}

/// The factor of element (`row`, `column`) in a `[rows, columns]` activation; 1 without dropout.
pub(super) fn keep_factor(dropout: Option<&Dropout>, row: usize, column: usize) -> f64 {
    dropout.map_or(1.0, |dropout| f64::from(dropout.factor(0, row as u32, column as u32)))
}

/// The packed token range of each sentence.
pub fn sentences(cu_seqlens: &[i32]) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
    cu_seqlens.windows(2).map(|bounds| bounds[0] as usize..bounds[1] as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_sum_exp_neither_overflows_nor_gives_nan() {
        assert_eq!(log_sum_exp(&[1000.0, 1000.0]), 1000.0 + 2f64.ln());
        assert_eq!(log_sum_exp(&[]), f64::NEG_INFINITY);
        assert_eq!(log_sum_exp(&[f64::NEG_INFINITY; 3]), f64::NEG_INFINITY);
    }
}
