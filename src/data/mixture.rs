/// Which of several streams stands at each position of a run: a pure function of weights, seed and position.
///
/// big_vision draws the stream of every example independently. Here the positions are points of a low
/// discrepancy sequence, `frac(offset + position * golden ratio)`, and each stream owns an interval as long as
/// its share. In any stretch of a run every stream then comes about as often as its weight says: `n` positions
/// are off by some `log n` rows rather than by its root, and a rare stream comes at almost even distances.
/// How often a stream came before a position is known without going through what is before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mixture {
    /// Where the interval of each stream begins, and where the last one ends, in 2^64ths: from 0 to 2^64.
    bounds: Vec<u128>,
    offset: u64,
}

/// The golden ratio's fraction in 2^64ths, made odd: of all numbers the one whose multiples are spread most
/// evenly. Changing it changes every run of a mixture.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
const ONE: u128 = 1 << 64;

impl Mixture {
    /// Streams with these weights, relative to their sum. `None` when there is none, or a weight is not
    /// positive and finite, or so small beside the others that its stream would never come.
    pub fn new(weights: &[f64], seed: u64) -> Option<Self> {
        let total: f64 = weights.iter().sum();
        let is_weight = |&weight: &f64| weight > 0.0 && weight.is_finite();
        if weights.is_empty() || !weights.iter().all(is_weight) || !total.is_finite() {
            return None;
        }
        let (mut bounds, mut sum) = (vec![0], 0.0);
        for weight in weights {
            sum += weight;
            bounds.push((sum / total * ONE as f64) as u128);
        }
        *bounds.last_mut()? = ONE;
        bounds.is_sorted_by(|one, next| one < next).then_some(Mixture { bounds, offset: seed })
    }

    pub fn num_streams(&self) -> usize {
        self.bounds.len() - 1
    }

    /// The stream at a position.
    pub fn stream(&self, position: u64) -> usize {
        let point = position.wrapping_mul(STEP).wrapping_add(self.offset);
        self.bounds.partition_point(|&bound| bound <= u128::from(point)) - 1
    }

    /// How many of the positions before `position` have this stream.
    pub fn count(&self, stream: usize, position: u64) -> u64 {
        if self.num_streams() == 1 {
            return position;
        }
        self.count_below(position, self.bounds[stream + 1]) - self.count_below(position, self.bounds[stream])
    }

    /// How many of the first `n` points are below `bound`. A point below it is what makes the integer part
    /// grow by one more when `1 - bound` is added, so the points are counted by two sums of integer parts.
    fn count_below(&self, n: u64, bound: u128) -> u64 {
        let offset = u128::from(self.offset);
        let without = floor_sum(n, offset);
        let with = floor_sum(n, offset + (ONE - bound));
        // Each point at or above the bound adds one; what the sums lose beyond 64 bits, both lose.
        n.wrapping_sub(with.wrapping_sub(without))
    }
}

/// The sum of `(offset + i * STEP) / 2^64`, rounded down, over `i` in `0..n`, modulo 2^64.
///
/// What is whole in a slope or an offset is summed at once; what is left counts grid points below a line, which
/// is the same count for the line with its axes exchanged, with smaller numbers (as in Euclid's algorithm).
fn floor_sum(n: u64, offset: u128) -> u64 {
    let (mut n, mut modulus, mut slope, mut offset) = (u128::from(n), ONE, u128::from(STEP), offset);
    let mut sum = 0u128;
    loop {
        // `n` is below 2^64: half of n * (n - 1) is exact, and the products need their last 64 bits only.
        let pairs = n * n.saturating_sub(1) / 2;
        sum = sum.wrapping_add(pairs.wrapping_mul(slope / modulus));
        sum = sum.wrapping_add(n.wrapping_mul(offset / modulus));
        (slope, offset) = (slope % modulus, offset % modulus);
        // Below 2^64 * 2^64 - 2^64 + 2^64: it fits.
        let end = slope * n + offset;
        if end < modulus {
            return sum as u64;
        }
        (n, offset) = (end / modulus, end % modulus);
        (modulus, slope) = (slope, modulus);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn counts_are_what_going_through_finds(
            weights in proptest::collection::vec(0.01f64..10.0, 1..6), seed: u64, end in 0u64..3000,
        ) {
            let mixture = Mixture::new(&weights, seed).unwrap();
            let mut seen = vec![0u64; weights.len()];
            for position in 0..end {
                let stream = mixture.stream(position);
                prop_assert_eq!(mixture.count(stream, position), seen[stream]);
                seen[stream] += 1;
            }
            let counts: Vec<u64> = (0..weights.len()).map(|stream| mixture.count(stream, end)).collect();
            prop_assert_eq!(counts, seen);
        }

        /// Far into a run, where going through is out of the question: one position adds to one stream.
        #[test]
        fn counts_go_on_far_away(
            weights in proptest::collection::vec(0.01f64..10.0, 1..6), seed: u64, position in 0u64..1 << 62,
        ) {
            let mixture = Mixture::new(&weights, seed).unwrap();
            let at = |position| (0..weights.len()).map(|i| mixture.count(i, position)).collect::<Vec<_>>();
            let mut expected = at(position);
            prop_assert_eq!(expected.iter().sum::<u64>(), position);
            expected[mixture.stream(position)] += 1;
            prop_assert_eq!(at(position + 1), expected);
        }

        /// In any stretch, every stream has its share within a few rows.
        #[test]
        fn shares_hold_in_every_stretch(
            weights in proptest::collection::vec(0.01f64..10.0, 2..6), seed: u64,
            begin in 0u64..1 << 40, length in 1u64..100_000,
        ) {
            let mixture = Mixture::new(&weights, seed).unwrap();
            let total: f64 = weights.iter().sum();
            for (stream, weight) in weights.iter().enumerate() {
                let count = mixture.count(stream, begin + length) - mixture.count(stream, begin);
                let off = (count as f64 - length as f64 * weight / total).abs();
                prop_assert!(off < 3.0 + (length as f64).ln(), "{off} of {length}");
            }
        }
    }

    #[test]
    fn shares_are_exact_in_the_long_run() {
        let mixture = Mixture::new(&[3.0, 1.0, 1e-6], 5).unwrap();
        let n = 1u64 << 50;
        let share = |stream| mixture.count(stream, n) as f64 / n as f64;
        assert!((share(0) - 3.0 / 4.000_001).abs() < 1e-13, "{}", share(0));
        assert!((share(2) - 1e-6 / 4.000_001).abs() < 1e-13, "{}", share(2));
    }

    #[test]
    fn weights_that_cannot_be_are_refused() {
        for weights in [&[][..], &[0.0, 1.0], &[-1.0], &[f64::NAN], &[f64::INFINITY], &[1.0, 1e-30]] {
            assert_eq!(Mixture::new(weights, 0), None, "{weights:?}");
        }
    }

    /// The order is part of a run's identity: resuming with a new release must go on in the same order.
    #[test]
    fn the_streams_do_not_change_between_releases() {
        let mixture = Mixture::new(&[2.0, 1.0], 42).unwrap();
        assert_eq!(
            (0..12).map(|p| mixture.stream(p)).collect::<Vec<_>>(),
            [0, 0, 0, 1, 0, 0, 1, 0, 1, 0, 0, 1]
        );
    }
}
