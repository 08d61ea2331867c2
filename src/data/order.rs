/// The order in which a run visits the rows of a source: a pure function of seed and position.
///
/// Positions count rows since the run began and never end; epoch `e` is the positions from `e * len` on.
/// Shuffling is a keyed permutation rather than a shuffled list, so that it takes no memory, any position is
/// reached at once, and a run resumes where it stopped. Every epoch has its own permutation.
///
/// The permutation is a balanced Feistel network over the next even number of bits, walked along its cycle
/// until it falls below `len` (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). It has
/// nothing to do with secrecy: the round function is a statistical mixer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    len: u64,
    seed: u64,
    shuffle: bool,
    half_bits: u32,
}

const ROUNDS: u64 = 6;
/// A Feistel network over a handful of values reaches only some of their permutations; short lists are cut
/// out of one that is large enough to be indistinguishable from random.
const MIN_HALF_BITS: u32 = 5;

impl Order {
    /// `len` rows, which must not be zero; without `shuffle` every epoch is `0..len`.
    pub fn new(len: usize, seed: u64, shuffle: bool) -> Self {
        debug_assert!(len > 0, "an order needs rows");
        let bits = u64::BITS - (len as u64).saturating_sub(1).leading_zeros();
        Order { len: len as u64, seed, shuffle, half_bits: bits.div_ceil(2).max(MIN_HALF_BITS) }
    }

    pub fn epoch(&self, position: u64) -> u64 {
        position / self.len
    }

    /// The row at a position of the run.
    pub fn row(&self, position: u64) -> usize {
        let (epoch, within) = (position / self.len, position % self.len);
        if !self.shuffle {
            return within as usize;
        }
        let key = mix(self.seed, epoch);
        let mut value = self.permute(within, key);
        while value >= self.len {
            value = self.permute(value, key);
        }
        value as usize
    }

    fn permute(&self, value: u64, key: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for round in 0..ROUNDS {
            (left, right) = (right, left ^ (mix(mix(key, round), right) & mask));
        }
        left << self.half_bits | right
    }
}

/// A well-mixed 64-bit value from two: derives independent seeds from a seed and a number.
///
/// The finaliser is SplitMix64's (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators",
/// 2014). Runs depend on it: a change of this function changes the order of every run.
pub const fn mix(seed: u64, number: u64) -> u64 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut z =
        (seed ^ GOLDEN).wrapping_mul(0xd1b5_4a32_d192_ed03) ^ number.wrapping_add(1).wrapping_mul(GOLDEN);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;

    use super::*;

    fn epoch(order: Order, epoch: u64) -> Vec<usize> {
        (0..order.len).map(|within| order.row(epoch * order.len + within)).collect()
    }

    proptest! {
        #[test]
        fn every_epoch_is_a_permutation(len in 1usize..3000, seed: u64, number in 0u64..1 << 40) {
            let mut rows = epoch(Order::new(len, seed, true), number);
            rows.sort_unstable();
            prop_assert!(rows.into_iter().eq(0..len));
        }

        #[test]
        fn epochs_and_seeds_differ(len in 50usize..3000, seed: u64, number in 0u64..1 << 40) {
            let order = Order::new(len, seed, true);
            let this = epoch(order, number);
            prop_assert_ne!(&this, &epoch(order, number + 1));
            prop_assert_ne!(&this, &epoch(Order::new(len, seed ^ 1, true), number));
            prop_assert_ne!(&this, &(0..len).collect::<Vec<_>>());
        }

        #[test]
        fn rows_stay_in_range_in_large_sources(len in 1u64..1 << 48, seed: u64, position in 0u64..1 << 60) {
            prop_assert!((Order::new(len as usize, seed, true).row(position) as u64) < len);
        }
    }

    #[test]
    fn without_shuffling_rows_come_as_they_are() {
        assert_eq!(epoch(Order::new(5, 3, false), 7), [0, 1, 2, 3, 4]);
    }

    /// All 24 orders of four rows, each about as often as the others: 2400 draws give 100 ± 10 each, and a
    /// factor of two off would be ten standard deviations.
    #[test]
    fn short_lists_come_in_every_order() {
        let mut counts = HashMap::new();
        for seed in 0..2400 {
            *counts.entry(epoch(Order::new(4, seed, true), 0)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 24);
        assert!(counts.values().all(|&n| (50..=150).contains(&n)), "{counts:?}");
    }

    /// Neighbours in the source must not stay neighbours: of 10,000 pairs of a random order about two are.
    #[test]
    fn neighbours_are_torn_apart() {
        let rows = epoch(Order::new(10_000, 1, true), 0);
        let neighbours = rows.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) == 1).count();
        assert!(neighbours < 15, "{neighbours}");
        let displaced = rows.iter().enumerate().map(|(i, &row)| i.abs_diff(row)).sum::<usize>();
        // A third of the length in the mean, for a random order.
        assert!((3.0e7..3.7e7).contains(&(displaced as f64)), "{displaced}");
    }

    /// The order is part of a run's identity: resuming with a new release must go on in the same order.
    #[test]
    fn the_order_does_not_change_between_releases() {
        let order = Order::new(10, 42, true);
        assert_eq!(
            (0..20).map(|p| order.row(p)).collect::<Vec<_>>(),
            [1, 6, 3, 5, 7, 8, 9, 4, 2, 0, 9, 1, 2, 3, 8, 7, 4, 6, 5, 0]
        );
        assert_eq!(mix(0, 0), 16311344080258686794);
    }

    #[test]
    fn mix_has_no_collisions_on_small_inputs() {
        let seeds: HashSet<u64> = (0..300).flat_map(|a| (0..300).map(move |b| mix(a, b))).collect();
        assert_eq!(seeds.len(), 300 * 300);
    }
}
