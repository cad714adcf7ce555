//! Order of an epoch, computed without storing it.

use crate::common::constants::STREAM_EPOCH_ORDER;
use crate::common::random::{key, philox};

/// Four rounds make a pseudo-random permutation that few queries cannot distinguish from a random one (Luby and Rackoff, 1988); halves of only a
/// few bits need more.
const ROUNDS: u32 = 10;

/// Permutation of `0..count` that is a pure function of a seed and an epoch, and takes no memory.
///
/// A Feistel network over the smallest power of two that holds `count`; a value at or above `count` is permuted again until it is in range (cycle
/// walking), fewer than twice on average.
#[derive(Clone, Copy, Debug)]
pub struct Permutation {
    key: [u32; 2],
    stream: u32,
    epoch: u32,
    count: u32,
    /// Widths of the lower and of the upper half, in bits.
    bits: [u32; 2],
}

impl Permutation {
    /// Creates the order in which epoch `epoch` of a run with `seed` visits `count` passages.
    #[must_use]
    pub fn new(seed: u64, epoch: u32, count: u32) -> Self {
        Self::of_stream(seed, STREAM_EPOCH_ORDER, epoch, count)
    }

    /// Creates an order for another purpose, distinguished by `stream`.
    pub(crate) fn of_stream(seed: u64, stream: u32, epoch: u32, count: u32) -> Self {
        // At least two bits, so that both halves have one.
        let bits = (u32::BITS - count.saturating_sub(1).leading_zeros()).max(2);
        Self { key: key(seed), stream, epoch, count, bits: [bits / 2, bits - bits / 2] }
    }

    /// Returns the element at `place` of the order.
    ///
    /// # Panics
    /// When `place` is not below `count`.
    #[must_use]
    pub fn at(&self, place: u32) -> u32 {
        assert!(place < self.count, "place {place} of an order of {}", self.count);
        let mut value = self.network(place);
        while value >= self.count {
            value = self.network(value);
        }
        value
    }

    /// Alternates between updating the lower and the upper half, so that halves of different widths keep their positions.
    fn network(&self, value: u32) -> u32 {
        let [low_bits, high_bits] = self.bits;
        let (mut low, mut high) = (value & mask(low_bits), value >> low_bits);
        for round in (0..ROUNDS).step_by(2) {
            low ^= self.round_function(high, round) & mask(low_bits);
            high ^= self.round_function(low, round + 1) & mask(high_bits);
        }
        high << low_bits | low
    }

    fn round_function(&self, half: u32, round: u32) -> u32 {
        philox(self.key, [half, round, self.stream, self.epoch])[0]
    }
}

fn mask(bits: u32) -> u32 {
    (1 << bits) - 1
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use approx::abs_diff_eq;

    use super::*;

    fn order(seed: u64, epoch: u32, count: u32) -> Vec<u32> {
        let permutation = Permutation::new(seed, epoch, count);
        (0..count).map(|place| permutation.at(place)).collect()
    }

    #[test]
    fn every_order_is_a_permutation() {
        for count in 1..300 {
            let mut sorted = order(7, count, count);
            sorted.sort_unstable();
            assert!(sorted.into_iter().eq(0..count), "of {count}");
        }
        for count in [100_003, 65_536, 65_537] {
            assert_eq!(order(3, 1, count).into_iter().collect::<HashSet<u32>>().len(), count as usize);
        }
        for count in [u32::MAX, 1 << 31, (1 << 31) + 1] {
            let permutation = Permutation::new(1, 2, count);
            let sampled: HashSet<u32> = (0..10_000).map(|place| permutation.at(count - 1 - place)).collect();
            assert_eq!(sampled.len(), 10_000, "two places of {count} hold the same");
            assert!(sampled.iter().all(|&value| value < count));
        }
    }

    #[test]
    fn each_element_is_as_often_at_each_place() {
        const COUNT: u32 = 10;
        const SEEDS: u32 = 20_000;
        let mut counts = [[0_u32; COUNT as usize]; COUNT as usize];
        // `follows[a][b]`: number of orders in which `b` comes directly after `a`.
        let mut follows = [[0_u32; COUNT as usize]; COUNT as usize];
        for seed in 0..SEEDS {
            let order = order(u64::from(seed), 0, COUNT);
            for (place, &value) in order.iter().enumerate() {
                counts[value as usize][place] += 1;
            }
            order.windows(2).for_each(|pair| follows[pair[0] as usize][pair[1] as usize] += 1);
        }
        let expected = f64::from(SEEDS / COUNT);
        let chi_square = |counts: &[u32], expected: f64| -> f64 {
            counts.iter().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum()
        };
        for (value, counts) in counts.iter().enumerate() {
            // Chi-square quantile with nine degrees of freedom, exceeded with probability 1 in 100,000.
            assert!(chi_square(counts, expected) < 39.3, "{value} stands at {counts:?}");
        }
        let expected = f64::from(SEEDS) / f64::from(COUNT);
        for (value, counts) in follows.iter().enumerate() {
            let mut others = counts.to_vec();
            others.remove(value);
            assert!(chi_square(&others, expected) < 39.3, "after {value} come {others:?}");
        }
    }

    #[test]
    fn epochs_and_seeds_differ_and_neighbors_are_far() {
        let count = 10_000;
        let first = order(1, 0, count);
        for other in [order(1, 1, count), order(2, 0, count), order(1 + (1 << 32), 0, count)] {
            let same = first.iter().zip(&other).filter(|(a, b)| a == b).count();
            assert!(same < 10, "{same} of {count} are at the same place");
        }
        // The correlation of neighbors in a random order has a standard deviation of 1 / sqrt(count).
        let mean = f64::from(count - 1) / 2.0;
        let variance = (f64::from(count).powi(2) - 1.0) / 12.0;
        let covariance: f64 =
            first.windows(2).map(|pair| (f64::from(pair[0]) - mean) * (f64::from(pair[1]) - mean)).sum();
        let correlation = covariance / (f64::from(count - 1) * variance);
        assert!(abs_diff_eq!(correlation, 0.0, epsilon = 0.05), "neighbors are correlated by {correlation}");
        assert!((f64::from(first[0]) - mean).abs() <= mean);
    }
}
