//! What the latest answers say of a query, and how sure that is.

use std::collections::{BTreeMap, VecDeque};

use super::{Level, Steps};
use crate::sight::histogram::{middle, quantiles};

/// Samples that a judgement takes at least.
const JUDGED: u64 = 20;
/// What is not longer by this (nanoseconds) is no matter.
const MATTERS: u64 = 1_000_000;
/// The median must be this much above the baseline even where it is this many standard deviations lower: else it may be chance. Four,
/// because many queries are looked at many times.
const SURELY: f64 = 1.3;
const SIGMAS: f64 = 4.0;

/// What has come of late, compared with a baseline.
pub(super) struct Look {
    pub(super) steps: Steps,
    pub(super) median: u64,
    pub(super) factor: f64,
    /// It is longer not by chance.
    pub(super) surely: bool,
}

impl Look {
    /// The latest windows that have enough samples together; more of them if these are slow and too few to be sure. The first `counted`
    /// ones are new; of those before only small ones are taken, which could not be looked at alone.
    pub(super) fn at(windows: &VecDeque<Steps>, usual: u64, counted: u64) -> Option<Self> {
        let mut sum: BTreeMap<usize, u64> = BTreeMap::new();
        let (mut samples, mut first) = (0, None);
        for (age, window) in windows.iter().rev().enumerate() {
            let own: u64 = window.iter().map(|(_, count)| count).sum();
            if age as u64 >= counted && own >= JUDGED {
                break;
            }
            for (at, count) in window {
                *sum.entry(*at).or_default() += count;
            }
            samples += own;
            if samples < JUDGED || own == 0 {
                continue;
            }
            let look = Self::of(sum.iter().map(|(at, count)| (*at, *count)).collect(), samples, usual)?;
            if look.surely || look.factor < Level::Info.factor() {
                return Some(first.filter(|_| !look.surely).unwrap_or(look));
            }
            first.get_or_insert(look);
        }
        first
    }

    fn of(steps: Steps, samples: u64, usual: u64) -> Option<Self> {
        let low = 0.5 - 0.5 * SIGMAS / (samples as f64).sqrt();
        let [median, low] = quantiles(&steps, [0.5, low.max(0.0)])?;
        let factor = median as f64 / usual.max(1) as f64;
        let surely = low as f64 >= SURELY * usual as f64 && median.saturating_sub(usual) >= MATTERS;
        Some(Self { steps, median, factor, surely })
    }
}

/// Without what lies far outside of the middle half (Tukey's outer fence).
pub(super) fn without_outliers(steps: &[(usize, u64)]) -> Steps {
    let Some([low, high]) = quantiles(steps, [0.25, 0.75]) else { return Steps::new() };
    let reach = 3 * high.saturating_sub(low).max(high / 20);
    let inside = |at: usize| {
        let value = middle(at);
        value <= high + reach && value + reach >= low
    };
    steps.iter().filter(|(at, _)| inside(*at)).copied().collect()
}

/// How sure the median is: 1 less half the width of its 95 % interval, as a share of it.
pub(super) fn confidence(steps: &[(usize, u64)], samples: u64) -> f64 {
    let reach = 0.98 / (samples as f64).sqrt();
    match quantiles(steps, [0.5 - reach, 0.5, 0.5 + reach]) {
        Some([low, median, high]) if median > 0 => {
            (1.0 - (high - low) as f64 / (2 * median) as f64).clamp(0.0, 1.0)
        }
        _ => 0.0,
    }
}
