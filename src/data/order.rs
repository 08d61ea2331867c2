use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::BLOCKS_AT_HAND;

/// How the rows of an epoch are mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shuffle {
    /// Every epoch is the source from its first row to its last.
    InOrder,
    /// As widely as costs nothing. Where any row costs the same, every row may come at any place of the epoch,
    /// whatever `buffer` is. Rows that are stored in [blocks](super::Source::blocks) come block by block, the
    /// blocks in random order: as many blocks as hold `buffer` rows, but no more than half of those that a
    /// source keeps at hand, are mixed row by row.
    Whole { buffer: usize },
    /// Rows come in the order of the source, mixed with their `buffer` neighbours: as near to a buffer that is
    /// filled from the source and emptied at random as an order can be that starts anywhere.
    Buffer { buffer: usize },
}

impl Shuffle {
    /// [`Shuffle::Whole`] with the largest buffer.
    pub const WHOLE: Shuffle = Shuffle::Whole { buffer: usize::MAX };
}

/// The order in which a run visits the rows of a source: a pure function of seed and position.
///
/// Positions count rows since the run began and never end; epoch `e` is the positions from `e * len` on.
/// Shuffling is a keyed permutation rather than a shuffled list, so that any position is reached at once, and
/// a run resumes where it stopped. Every epoch has its own permutation. Rows in blocks take the memory of two
/// numbers per block and epoch under way; everything else takes none.
#[derive(Debug)]
pub struct Order {
    len: u64,
    seed: u64,
    way: Way,
}

#[derive(Debug)]
enum Way {
    InOrder,
    /// One permutation of all rows.
    Permuted,
    /// Permutations of windows of so many rows.
    Windows(u64),
    Blocks(BlockOrder),
}

/// Numbers that keep the uses of an epoch's key apart from its windows, which count from 0.
const BLOCK_KEY: u64 = u64::MAX;
const PHASE_KEY: u64 = u64::MAX - 1;

impl Order {
    /// `len` rows, which must not be zero. `blocks` are consecutive ranges from 0 to `len`, or none where any
    /// row costs the same.
    pub fn new(len: usize, blocks: &[Range<usize>], seed: u64, shuffle: Shuffle) -> Self {
        debug_assert!(len > 0, "an order needs rows");
        debug_assert!(blocks.is_empty() || is_partition(blocks, len), "{blocks:?} are not {len} rows");
        let way = match shuffle {
            Shuffle::InOrder => Way::InOrder,
            Shuffle::Buffer { buffer } if buffer < len => Way::Windows(buffer.max(1) as u64),
            Shuffle::Whole { buffer } if !blocks.is_empty() => Way::Blocks(BlockOrder::new(blocks, buffer)),
            Shuffle::Whole { .. } | Shuffle::Buffer { .. } => Way::Permuted,
        };
        Order { len: len as u64, seed, way }
    }

    pub fn epoch(&self, position: u64) -> u64 {
        position / self.len
    }

    /// The row at a position of the run.
    pub fn row(&self, position: u64) -> usize {
        let (epoch, within) = (position / self.len, position % self.len);
        let key = mix(self.seed, epoch);
        let row = match &self.way {
            Way::InOrder => within,
            Way::Permuted => permuted(within, self.len, key),
            Way::Windows(window) => {
                // Windows begin elsewhere in every epoch, so that no two rows are kept apart for ever.
                let phase = mix(key, PHASE_KEY) % window;
                let number = (within + phase) / window;
                let begin = (number * window).saturating_sub(phase);
                let end = ((number + 1) * window - phase).min(self.len);
                begin + permuted(within - begin, end - begin, mix(key, number))
            }
            Way::Blocks(blocks) => blocks.row(within, epoch, key),
        };
        row as usize
    }
}

/// Whether the ranges are not empty and follow each other from 0 to `len`.
pub(super) fn is_partition(blocks: &[Range<usize>], len: usize) -> bool {
    let mut end = 0;
    let mut follows = |block: &Range<usize>| std::mem::replace(&mut end, block.end) == block.start;
    blocks.iter().all(|block| follows(block) && !block.is_empty()) && end == len
}

/// Random order of blocks, and of the rows of a few neighbours in that order.
#[derive(Debug)]
struct BlockOrder {
    blocks: Vec<Range<u64>>,
    /// Blocks whose rows are mixed with each other.
    per_window: usize,
    /// Those of the last epochs asked for: threads at the border of two epochs need both.
    plans: Mutex<VecDeque<Arc<Plan>>>,
}

/// The blocks of one epoch.
#[derive(Debug)]
struct Plan {
    epoch: u64,
    /// Which block comes when.
    order: Vec<u32>,
    /// Rows before each of them, and all rows.
    bounds: Vec<u64>,
}

const MAX_PLANS: usize = 2;

impl BlockOrder {
    fn new(blocks: &[Range<usize>], buffer: usize) -> Self {
        let blocks: Vec<Range<u64>> =
            blocks.iter().map(|block| block.start as u64..block.end as u64).collect();
        let mean = (blocks.last().map_or(0, |block| block.end) / blocks.len().max(1) as u64).max(1);
        // The threads work at the end of one window and at the beginning of the next at the same time.
        let per_window = (buffer as u64).div_ceil(mean).clamp(1, BLOCKS_AT_HAND as u64 / 2) as usize;
        BlockOrder { blocks, per_window, plans: Mutex::default() }
    }

    fn row(&self, within: u64, epoch: u64, key: u64) -> u64 {
        let plan = self.plan(epoch, key);
        let place_of = |row: u64| plan.bounds.partition_point(|&bound| bound <= row) - 1;
        let number = place_of(within) / self.per_window;
        let begin = plan.bounds[number * self.per_window];
        let end = plan.bounds[((number + 1) * self.per_window).min(self.blocks.len())];
        let mixed = begin + permuted(within - begin, end - begin, mix(key, number as u64));
        let place = place_of(mixed);
        self.blocks[plan.order[place] as usize].start + (mixed - plan.bounds[place])
    }

    fn plan(&self, epoch: u64, key: u64) -> Arc<Plan> {
        // Nothing panics while the lock is held.
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = plans.iter().find(|plan| plan.epoch == epoch) {
            return plan.clone();
        }
        let num_blocks = self.blocks.len() as u64;
        let (mut order, mut bounds) = (Vec::with_capacity(self.blocks.len()), vec![0]);
        let mut end = 0;
        for place in 0..num_blocks {
            let block = permuted(place, num_blocks, mix(key, BLOCK_KEY));
            let rows = &self.blocks[block as usize];
            end += rows.end - rows.start;
            order.push(block as u32);
            bounds.push(end);
        }
        let plan = Arc::new(Plan { epoch, order, bounds });
        plans.push_back(plan.clone());
        if plans.len() > MAX_PLANS {
            plans.pop_front();
        }
        plan
    }
}

const ROUNDS: u64 = 6;
/// A Feistel network over a handful of values reaches only some of their permutations; short lists are cut
/// out of one that is large enough to be indistinguishable from random.
const MIN_HALF_BITS: u32 = 5;

/// Where a permutation of `0..len` takes a value below `len`.
///
/// It is a balanced Feistel network over the next even number of bits, walked along its cycle until it falls
/// below `len` (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). It has nothing to do with
/// secrecy: the round function is a statistical mixer.
fn permuted(value: u64, len: u64, key: u64) -> u64 {
    let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
    let half_bits = bits.div_ceil(2).max(MIN_HALF_BITS);
    let mut value = feistel(value, half_bits, key);
    while value >= len {
        value = feistel(value, half_bits, key);
    }
    value
}

fn feistel(value: u64, half_bits: u32, key: u64) -> u64 {
    let mask = (1 << half_bits) - 1;
    let (mut left, mut right) = (value >> half_bits, value & mask);
    for round in 0..ROUNDS {
        (left, right) = (right, left ^ (mix(mix(key, round), right) & mask));
    }
    left << half_bits | right
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

    fn epoch(order: &Order, epoch: u64) -> Vec<usize> {
        (0..order.len).map(|within| order.row(epoch * order.len + within)).collect()
    }

    /// Without blocks, shuffled as a whole.
    fn whole(len: usize, seed: u64) -> Order {
        Order::new(len, &[], seed, Shuffle::WHOLE)
    }

    fn blocks(lengths: &[usize]) -> (usize, Vec<Range<usize>>) {
        let mut end = 0;
        let mut next = |length: &usize| {
            end += length;
            end - length..end
        };
        let ranges = lengths.iter().map(&mut next).collect();
        (end, ranges)
    }

    proptest! {
        #[test]
        fn every_epoch_is_a_permutation(len in 1usize..3000, seed: u64, number in 0u64..1 << 40) {
            let mut rows = epoch(&whole(len, seed), number);
            rows.sort_unstable();
            prop_assert!(rows.into_iter().eq(0..len));
        }

        #[test]
        fn epochs_and_seeds_differ(len in 50usize..3000, seed: u64, number in 0u64..1 << 40) {
            let order = whole(len, seed);
            let this = epoch(&order, number);
            prop_assert_ne!(&this, &epoch(&order, number + 1));
            prop_assert_ne!(&this, &epoch(&whole(len, seed ^ 1), number));
            prop_assert_ne!(&this, &(0..len).collect::<Vec<_>>());
        }

        #[test]
        fn rows_stay_in_range_in_large_sources(len in 1u64..1 << 48, seed: u64, position in 0u64..1 << 60) {
            prop_assert!((whole(len as usize, seed).row(position) as u64) < len);
        }

        /// A permutation every epoch, in which a window of blocks is done before the next begins.
        #[test]
        fn blocks_come_a_few_at_a_time(
            lengths in proptest::collection::vec(1usize..40, 1..60), seed: u64, number in 0u64..1 << 40,
            buffer in 1usize..200,
        ) {
            let (len, ranges) = blocks(&lengths);
            let order = Order::new(len, &ranges, seed, Shuffle::Whole { buffer });
            let rows = epoch(&order, number);
            let mut sorted = rows.clone();
            sorted.sort_unstable();
            prop_assert!(sorted.into_iter().eq(0..len));
            // Asked in another order, and of another epoch in between, it is the same.
            prop_assert_eq!(order.row(number * len as u64), rows[0]);
            epoch(&order, number + 1);
            epoch(&order, number + 2);
            prop_assert_eq!(&epoch(&order, number), &rows);

            let block_of = |row: usize| ranges.partition_point(|block| block.end <= row);
            let mut left: HashMap<usize, usize> = HashMap::new();
            for row in rows {
                let block = block_of(row);
                *left.entry(block).or_insert(lengths[block]) -= 1;
                left.retain(|_, rows| *rows > 0);
                prop_assert!(left.len() <= BLOCKS_AT_HAND / 2, "{left:?} are begun");
            }
        }

        #[test]
        fn a_buffer_moves_rows_no_further_than_it_is_long(
            len in 1usize..2000, seed: u64, number in 0u64..1 << 40, buffer in 1usize..300,
        ) {
            let rows = epoch(&Order::new(len, &[], seed, Shuffle::Buffer { buffer }), number);
            prop_assert!(rows.iter().enumerate().all(|(place, &row)| place.abs_diff(row) < buffer));
            let mut sorted = rows;
            sorted.sort_unstable();
            prop_assert!(sorted.into_iter().eq(0..len));
        }
    }

    #[test]
    fn without_shuffling_rows_come_as_they_are() {
        let (_, ranges) = blocks(&[2, 3]);
        for blocks in [&[][..], &ranges] {
            assert_eq!(epoch(&Order::new(5, blocks, 3, Shuffle::InOrder), 7), [0, 1, 2, 3, 4]);
        }
    }

    /// All 24 orders of four rows, each about as often as the others: 2400 draws give 100 ± 10 each, and a
    /// factor of two off would be ten standard deviations.
    #[test]
    fn short_lists_come_in_every_order() {
        let mut counts = HashMap::new();
        for seed in 0..2400 {
            *counts.entry(epoch(&whole(4, seed), 0)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 24);
        assert!(counts.values().all(|&n| (50..=150).contains(&n)), "{counts:?}");
    }

    /// Neighbours in the source must not stay neighbours: of 10,000 pairs of a random order about two are.
    #[test]
    fn neighbours_are_torn_apart() {
        let rows = epoch(&whole(10_000, 1), 0);
        let neighbours = rows.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) == 1).count();
        assert!(neighbours < 15, "{neighbours}");
        let displaced = rows.iter().enumerate().map(|(i, &row)| i.abs_diff(row)).sum::<usize>();
        // A third of the length in the mean, for a random order.
        assert!((3.0e7..3.7e7).contains(&(displaced as f64)), "{displaced}");
    }

    /// The order is part of a run's identity: resuming with a new release must go on in the same order.
    #[test]
    fn the_order_does_not_change_between_releases() {
        let of = |order: Order| (0..20).map(|p| order.row(p)).collect::<Vec<_>>();
        assert_eq!(of(whole(10, 42)), [1, 6, 3, 5, 7, 8, 9, 4, 2, 0, 9, 1, 2, 3, 8, 7, 4, 6, 5, 0]);
        let (_, ranges) = blocks(&[3, 3, 4]);
        assert_eq!(
            of(Order::new(10, &ranges, 42, Shuffle::Whole { buffer: 6 })),
            [5, 3, 7, 9, 4, 8, 6, 0, 1, 2, 0, 4, 3, 5, 2, 1, 6, 8, 7, 9]
        );
        assert_eq!(
            of(Order::new(10, &[], 42, Shuffle::Buffer { buffer: 4 })),
            [2, 0, 1, 3, 7, 5, 6, 4, 9, 8, 0, 2, 1, 3, 5, 4, 6, 8, 7, 9]
        );
        assert_eq!(mix(0, 0), 16311344080258686794);
    }

    #[test]
    fn only_ranges_that_follow_each_other_are_blocks() {
        assert!(is_partition(&[0..2, 2..5], 5));
        for (blocks, len) in [
            (vec![0..2, 3..5], 5),
            (vec![0..2, 2..5], 6),
            (vec![1..2, 2..5], 5),
            (vec![0..3, 2..5], 5),
            (vec![0..0, 0..5], 5),
        ] {
            assert!(!is_partition(&blocks, len), "{blocks:?}");
        }
    }

    #[test]
    fn mix_has_no_collisions_on_small_inputs() {
        let seeds: HashSet<u64> = (0..300).flat_map(|a| (0..300).map(move |b| mix(a, b))).collect();
        assert_eq!(seeds.len(), 300 * 300);
    }
}
