//! Latencies in logarithmic buckets: 64 to each power of two, so any quantile is right to 1.6 %.

use std::time::Duration;

const SUB_BITS: u32 = 6;
const SUB: usize = 1 << SUB_BITS;
/// Enough for 2^40 ns, about 18 minutes; anything longer is counted in the last bucket.
const BUCKETS: usize = SUB * (40 - SUB_BITS as usize + 1);

/// Counts of durations; the exact maximum is kept beside them.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, max: Duration::ZERO }
    }
}

impl Histogram {
    /// Counts one duration.
    pub(crate) fn record(&mut self, taken: Duration) {
        let nanos = u64::try_from(taken.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
        self.max = self.max.max(taken);
    }

    /// Adds what another histogram counted.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (to, from) in self.counts.iter_mut().zip(&other.counts) {
            *to += from;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// How many durations were counted.
    pub(crate) fn count(&self) -> u64 {
        self.total
    }

    /// The longest duration.
    pub(crate) fn max(&self) -> Duration {
        self.max
    }

    /// The duration that the share `q` (0 to 1) of all does not exceed; zero if nothing was counted.
    pub(crate) fn quantile(&self, q: f64) -> Duration {
        let rank = ((self.total as f64 * q).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(middle(index)).min(self.max);
            }
        }
        self.max
    }
}

/// The bucket of a value: one for each nanosecond below 128, then 64 for each doubling.
fn bucket(nanos: u64) -> usize {
    let highest_bit = 63 - (nanos | 1).leading_zeros();
    let group = highest_bit.saturating_sub(SUB_BITS);
    let index = SUB * group as usize + (nanos >> group) as usize;
    index.min(BUCKETS - 1)
}

/// The middle of a bucket.
fn middle(index: usize) -> u64 {
    if index < 2 * SUB {
        return index as u64;
    }
    let group = index / SUB - 1;
    let within = (index - SUB * group) as u64;
    (within << group) + (1u64 << group) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_falls_near_the_middle_of_its_bucket() {
        for nanos in (0..2000).chain([4_095, 4_096, 1_000_003, 77_777_777, 12_345_678_901]) {
            let back = middle(bucket(nanos));
            assert!(back.abs_diff(nanos) as f64 <= nanos as f64 * 0.016, "{nanos} came back as {back}");
        }
        let steps: Vec<usize> = (0..100_000).map(bucket).collect();
        assert!(steps.windows(2).all(|w| w[0] == w[1] || w[0] + 1 == w[1]), "buckets follow each other");
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_list() {
        let mut histogram = Histogram::default();
        for micros in 1..=10_000 {
            histogram.record(Duration::from_micros(micros));
        }
        for (q, expected) in [(0.0, 1.0), (0.5, 5_000.0), (0.9, 9_000.0), (0.99, 9_900.0), (1.0, 10_000.0)] {
            let found = histogram.quantile(q).as_secs_f64() * 1e6;
            assert!((found - expected).abs() <= expected * 0.016, "{q}: {found} instead of {expected}");
        }
        assert_eq!(histogram.max(), Duration::from_millis(10));
        assert_eq!(Histogram::default().quantile(0.5), Duration::ZERO);
    }

    #[test]
    fn merging_is_counting_together() {
        let (mut one, mut two) = (Histogram::default(), Histogram::default());
        one.record(Duration::from_micros(10));
        two.record(Duration::from_millis(10));
        one.merge(&two);
        assert_eq!((one.count(), one.max()), (2, Duration::from_millis(10)));
        assert!(one.quantile(0.5) < Duration::from_micros(11));
    }
}
