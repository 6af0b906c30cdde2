//! How many nodes are computed together: first by the memory that is free, then by what was fastest.

use std::time::Duration;

/// The sizes are powers of two: the least, and how many there are.
const LEAST: usize = 16;
const SIZES: usize = 11;
/// How much faster another size has to be.
const BETTER: f64 = 1.05;
/// Full batches after which all is measured anew.
const FORGET: u32 = 256;

/// What is known of the sizes.
#[derive(Debug)]
pub(super) struct Pace {
    at: usize,
    /// Nodes a second with each size; 0 = not tried.
    rates: [f64; SIZES],
    /// There was no memory for this one and larger ones.
    ceiling: usize,
    measured: u32,
}

impl Pace {
    /// Begins with the size that suits the memory of what computes.
    pub(super) fn of_device() -> Self {
        let device = gnn::devices().into_iter().find(|device| device.used);
        Self::new(device.map_or(64, |device| device.batch_size()))
    }

    /// Begins with this size, or the next smaller one that there is.
    pub(super) fn new(size: usize) -> Self {
        let at = (size / LEAST).max(1).ilog2() as usize;
        Self { at: at.min(SIZES - 1), rates: [0.0; SIZES], ceiling: SIZES, measured: 0 }
    }

    /// So many nodes at a time.
    pub(super) fn size(&self) -> usize {
        LEAST << self.at
    }

    /// So many nodes took so long. Only full batches tell anything.
    pub(super) fn learn(&mut self, nodes: usize, took: Duration) {
        if nodes * 4 < self.size() * 3 || took.is_zero() {
            return;
        }
        self.measured += 1;
        if self.measured >= FORGET {
            *self = Self { at: self.at, ..Self::new(LEAST) };
        }
        let rate = nodes as f64 / took.as_secs_f64();
        let Some(known) = self.rates.get_mut(self.at) else { return };
        *known = if *known > 0.0 { (*known + rate) / 2.0 } else { rate };
        let now = *known;
        let larger = self.rates.get(self.at + 1).filter(|_| self.at + 1 < self.ceiling).copied();
        let smaller = self.at.checked_sub(1).and_then(|at| self.rates.get(at)).copied();
        // What was never tried is tried, the larger one first.
        if larger.is_some_and(|rate| rate == 0.0 || rate >= now) {
            self.at += 1;
        } else if smaller.is_some_and(|rate| rate == 0.0 || rate > now * BETTER) {
            self.at -= 1;
        }
    }

    /// There is no memory for so many; false if there are no fewer.
    pub(super) fn halve(&mut self) -> bool {
        self.ceiling = self.at;
        self.at = self.at.saturating_sub(1);
        self.ceiling > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Full batches on a device that has this rate for each size; gives the size at the end.
    fn settle(pace: &mut Pace, rate: impl Fn(usize) -> f64) -> usize {
        for _ in 0..100 {
            let size = pace.size();
            pace.learn(size, Duration::from_secs_f64(size as f64 / rate(size)));
        }
        pace.size()
    }

    #[test]
    fn the_fastest_size_is_found_from_either_side() {
        for (begin, best) in [(64, 1024), (64, 64), (256, 32), (16, 16), (9999, 256), (1, 16_384)] {
            let rate = |size: usize| 1e4 / f64::from(1 + size.ilog2().abs_diff(usize::ilog2(best)));
            let mut pace = Pace::new(begin);
            let size = settle(&mut pace, rate);
            assert_eq!(size, best, "from {begin}");
        }
    }

    #[test]
    fn a_batch_that_is_not_full_teaches_nothing() {
        let mut pace = Pace::new(64);
        pace.learn(40, Duration::from_millis(1));
        assert_eq!(pace.size(), 64);
        pace.learn(48, Duration::from_millis(1));
        assert_eq!(pace.size(), 128);
    }

    #[test]
    fn memory_is_a_ceiling() {
        let mut pace = Pace::new(256);
        assert!(pace.halve());
        assert_eq!(settle(&mut pace, |_| 1e4), 128, "what has no memory is not tried");
        assert!(pace.halve() && pace.halve() && pace.halve());
        assert_eq!(pace.size(), 16);
        assert!(!(pace.halve() && pace.halve()), "there are no fewer");
    }
}
