//! How long things took: each value is kept to within half a percent, without locks.  [hot path: `record`]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Steps between a value and its double.
const STEPS: usize = 128;
/// Nanoseconds are at most an hour and a bit: more counts as that.
const LONGEST: u64 = (1 << 42) - 1;
/// Groups of steps: the first holds 0 to 255 in two halves, each other one doubles.
const OCTAVES: usize = 36;

type Octave = Box<[AtomicU32; STEPS]>;

/// Counts of values in steps that grow with the value. Memory is taken for the steps that are in use.
#[derive(Debug)]
pub(crate) struct Histogram {
    octaves: [OnceLock<Octave>; OCTAVES],
}

/// Bytes of one group of steps.
const OCTAVE_BYTES: usize = STEPS * size_of::<AtomicU32>();

impl Default for Histogram {
    fn default() -> Self {
        Self { octaves: [const { OnceLock::new() }; OCTAVES] }
    }
}

impl Histogram {
    /// Counts a value.
    pub(crate) fn record(&self, nanoseconds: u64) {
        let (octave, step) = place(nanoseconds);
        let octave = self.octaves.get(octave).map(|octave| octave.get_or_init(empty));
        if let Some(step) = octave.and_then(|steps| steps.get(step)) {
            step.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Every step that has values, the smallest first: where it stands, and how many.
    pub(crate) fn each(&self, mut what: impl FnMut(usize, u32)) {
        for (octave, steps) in self.octaves.iter().enumerate() {
            for (step, count) in steps.get().into_iter().flat_map(|steps| steps.iter()).enumerate() {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    what(octave * STEPS + step, count);
                }
            }
        }
    }

    /// The values below which these shares of all values are, in nanoseconds; `None` if there is no value.
    pub(crate) fn quantiles<const N: usize>(&self, shares: [f64; N]) -> Option<[u64; N]> {
        let mut steps = Vec::new();
        self.each(|at, count| steps.push((at, u64::from(count))));
        quantiles(&steps, shares)
    }

    /// Bytes of memory that it has taken, itself not counted.
    pub(crate) fn bytes(&self) -> usize {
        self.octaves.iter().filter(|octave| octave.get().is_some()).count() * OCTAVE_BYTES
    }
}

/// What a histogram had when it was looked at last.
#[derive(Debug, Default)]
pub(crate) struct Since {
    seen: Vec<u32>,
}

impl Since {
    /// What it has got since then: steps in order.
    pub(crate) fn steps(&mut self, histogram: &Histogram) -> Vec<(usize, u64)> {
        let mut steps = Vec::new();
        histogram.each(|at, count| {
            if self.seen.len() <= at {
                self.seen.resize(at + 1, 0);
            }
            let Some(last) = self.seen.get_mut(at) else { return };
            let more = count.wrapping_sub(std::mem::replace(last, count));
            if more > 0 {
                steps.push((at, u64::from(more)));
            }
        });
        steps
    }
}

fn empty() -> Octave {
    Box::new([const { AtomicU32::new(0) }; STEPS])
}

/// The values below which these shares of all values are, from steps in order.
pub(crate) fn quantiles<const N: usize>(steps: &[(usize, u64)], shares: [f64; N]) -> Option<[u64; N]> {
    let total: u64 = steps.iter().map(|(_, count)| count).sum();
    if total == 0 {
        return None;
    }
    Some(shares.map(|share| {
        let rank = ((share * total as f64).ceil() as u64).clamp(1, total);
        let mut seen = 0;
        let found = steps.iter().find(|(_, count)| {
            seen += count;
            seen >= rank
        });
        found.map_or(0, |(at, _)| middle(*at))
    }))
}

/// The group and step of a value.
fn place(value: u64) -> (usize, usize) {
    let value = value.min(LONGEST);
    let bits = 64 - value.leading_zeros() as usize;
    // 0 to 127, 128 to 255, then doubles.
    let octave = bits.saturating_sub(7);
    let step = if octave == 0 { value as usize } else { (value >> (octave - 1)) as usize - STEPS };
    (octave, step)
}

/// The value in the middle of a step.
pub(crate) fn middle(at: usize) -> u64 {
    let (octave, step) = (at / STEPS, (at % STEPS) as u64);
    if octave == 0 {
        return step;
    }
    let width = 1u64 << (octave - 1);
    (STEPS as u64 + step) * width + width / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_percent_of_exact() {
        let mut random = fastrand::Rng::with_seed(7);
        // Steady, skewed, two humps, and tiny ones.
        let samples: [fn(&mut fastrand::Rng) -> f64; 4] = [
            |random| 1e6 * (1.0 + random.f64()),
            |random| 1e5 * (-random.f64().max(1e-9).ln()).exp(),
            |random| if random.f64() < 0.97 { 2e5 + 1e4 * random.f64() } else { 3e9 * random.f64() },
            |random| 300.0 * random.f64(),
        ];
        for (kind, sample) in samples.iter().enumerate() {
            for size in [1, 10, 1000, 50_000] {
                let histogram = Histogram::default();
                let mut exact: Vec<u64> = (0..size).map(|_| sample(&mut random) as u64).collect();
                exact.iter().for_each(|value| histogram.record(*value));
                exact.sort_unstable();
                let shares = [0.5, 0.95, 0.99];
                let found = histogram.quantiles(shares).unwrap();
                for (share, found) in shares.into_iter().zip(found) {
                    let rank = ((share * size as f64).ceil() as usize).clamp(1, size);
                    let exact = exact[rank - 1];
                    let off = found.abs_diff(exact) as f64 / exact.max(1) as f64;
                    assert!(off <= 0.005, "kind {kind}, {size} values, p{share}: {found} for {exact}");
                }
            }
        }
    }

    #[test]
    fn every_value_has_its_step() {
        for value in (0..100_000).chain((0..64).map(|bits| 1 << bits)).chain([u64::MAX, LONGEST]) {
            let (octave, step) = place(value);
            assert!(octave < OCTAVES && step < STEPS, "{value}");
            let off = middle(octave * STEPS + step).abs_diff(value.min(LONGEST));
            assert!(off as f64 <= 0.005 * value as f64, "{value}: {off}");
        }
    }

    #[test]
    fn memory_is_taken_for_what_is_in_use() {
        let histogram = Histogram::default();
        assert_eq!((histogram.bytes(), histogram.quantiles([0.5])), (0, None));
        (1_000_000..2_000_000).step_by(1000).for_each(|value| histogram.record(value));
        assert_eq!(histogram.bytes(), 2 * OCTAVE_BYTES);
        (0..64).for_each(|bits| histogram.record(1 << bits));
        assert!(histogram.bytes() <= OCTAVES * OCTAVE_BYTES);
    }
}
