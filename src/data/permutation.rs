//! An order of any number of things that takes no memory.

use crate::random::{key, philox};

/// Fewer rounds leave the orders of a few things visibly uneven.
const ROUNDS: u32 = 8;

/// A permutation of `0..count`, a pure function of seed, stream and round, whose places are computed one by one.
///
/// A Feistel network over the smallest even number of bits that holds `count`, with Philox for its round function; a value beyond `count` is
/// sent through again (cycle walking, Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002), less than four times on average.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Permutation {
    key: [u32; 2],
    stream: u32,
    round: u32,
    count: u32,
    half_bits: u32,
}

impl Permutation {
    /// `stream` is the third counter word of the draws, `round` the last: an epoch, say.
    pub fn new(seed: u64, stream: u32, round: u32, count: u32) -> Self {
        let bits = u32::BITS - count.saturating_sub(1).leading_zeros();
        Self { key: key(seed), stream, round, count, half_bits: bits.div_ceil(2).max(1) }
    }

    /// What stands at `place`, which must be below the count.
    pub fn at(&self, place: u32) -> u32 {
        assert!(place < self.count, "place {place} of {}", self.count);
        let mut value = self.encrypt(place);
        while value >= self.count {
            value = self.encrypt(value);
        }
        value
    }

    pub fn iter(self) -> impl Iterator<Item = u32> {
        (0..self.count).map(move |place| self.at(place))
    }

    fn encrypt(&self, value: u32) -> u32 {
        let mask = (1u32 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for round in 0..ROUNDS {
            let [random, ..] = philox(self.key, [right, round, self.stream, self.round]);
            (left, right) = (right, left ^ (random & mask));
        }
        left << self.half_bits | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(seed: u64, round: u32, count: u32) -> Vec<u32> {
        Permutation::new(seed, 7, round, count).iter().collect()
    }

    #[test]
    fn every_value_stands_once() {
        for count in (0..200).chain([255, 256, 257, 1023, 4096, 5000]) {
            let mut sorted = order(3, 1, count);
            sorted.sort_unstable();
            assert!(sorted.into_iter().eq(0..count), "{count}");
        }
    }

    #[test]
    fn the_largest_counts_have_an_order() {
        for count in [u32::MAX, u32::MAX - 1, 1 << 31, (1 << 31) + 1] {
            let permutation = Permutation::new(9, 7, 0, count);
            let drawn: std::collections::HashSet<u32> =
                (0..1000).map(|place| permutation.at(place)).collect();
            assert!(drawn.len() == 1000 && drawn.iter().all(|&value| value < count));
            assert!(permutation.at(count - 1) < count);
        }
    }

    /// Of 10 things each stands equally often at each place, and each pair of neighbours is equally likely.
    #[test]
    fn places_and_neighbours_are_uniform() {
        const COUNT: usize = 10;
        const DRAWS: u32 = 20_000;
        let (mut places, mut neighbours) = ([[0.0; COUNT]; COUNT], [[0.0; COUNT]; COUNT]);
        for round in 0..DRAWS {
            let order = order(5, round, COUNT as u32);
            order.iter().enumerate().for_each(|(place, &value)| places[place][value as usize] += 1.0);
            order.windows(2).for_each(|pair| neighbours[pair[0] as usize][pair[1] as usize] += 1.0);
        }
        let chi_square = |counts: &mut dyn Iterator<Item = f64>, expected: f64| -> f64 {
            counts.map(|count| (count - expected).powi(2) / expected).sum()
        };
        let expected = f64::from(DRAWS) / COUNT as f64;
        let statistic = chi_square(&mut places.iter().flatten().copied(), expected);
        // 81 degrees of freedom, one in 10^4, times 10 / 9: each order has every value once.
        assert!(statistic < 150.0, "places: {statistic}");
        let pairs = (0..COUNT * COUNT).filter(|i| i / COUNT != i % COUNT);
        let expected = f64::from(DRAWS) * 9.0 / 90.0;
        let statistic = chi_square(&mut pairs.map(|i| neighbours[i / COUNT][i % COUNT]), expected);
        // 89 at most, one in 10^4.
        assert!(statistic < 145.0, "neighbours: {statistic}");
    }

    #[test]
    fn orders_differ_by_seed_stream_and_round() {
        let first = order(1, 0, 100);
        assert_eq!(first, order(1, 0, 100));
        for other in [order(2, 0, 100), order(1 << 32 | 1, 0, 100), order(1, 1, 100)] {
            let same = first.iter().zip(&other).filter(|(a, b)| a == b).count();
            assert!(same < 10, "{same} places are the same");
        }
        assert_ne!(first, Permutation::new(1, 8, 0, 100).iter().collect::<Vec<_>>());
    }
}
