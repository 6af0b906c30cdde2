//! A token bucket: one number, the time at which it would be full again (GCRA).  [hot path]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Quota {
    /// Nanoseconds for one token.
    interval: u64,
    /// Tokens that it holds.
    pub(crate) burst: u32,
}

impl Quota {
    /// One token in each `interval`.
    pub(crate) fn new(interval: Duration, burst: u32) -> Self {
        let interval = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX / 4).max(1);
        Self { interval, burst: burst.max(1) }
    }

    /// What `cost` tokens take; what costs more than the bucket holds takes the whole bucket.
    fn price(self, cost: u32) -> u64 {
        self.interval.saturating_mul(u64::from(cost.clamp(1, self.burst)))
    }

    fn capacity(self) -> u64 {
        self.interval.saturating_mul(u64::from(self.burst))
    }
}

/// The bucket. Times are nanoseconds since some moment.
#[derive(Debug, Default)]
pub(crate) struct Bucket(AtomicU64);

impl Bucket {
    /// Takes tokens; how long to wait if there are not enough.
    pub(crate) fn take(&self, quota: Quota, cost: u32, now: u64) -> Result<(), Duration> {
        let price = quota.price(cost);
        let mut wait = 0;
        let taken = self.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |full| {
            let next = full.max(now).saturating_add(price);
            wait = next.saturating_sub(now).saturating_sub(quota.capacity());
            (wait == 0).then_some(next)
        });
        taken.map(drop).map_err(|_| Duration::from_nanos(wait))
    }

    /// Puts back what was taken for nothing.
    pub(crate) fn put_back(&self, quota: Quota, cost: u32) {
        let price = quota.price(cost);
        let _ =
            self.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |full| Some(full.saturating_sub(price)));
    }

    /// Tokens in it.
    pub(crate) fn left(&self, quota: Quota, now: u64) -> u32 {
        let missing = self.0.load(Ordering::Relaxed).saturating_sub(now);
        u32::try_from(quota.capacity().saturating_sub(missing) / quota.interval).unwrap_or(u32::MAX)
    }

    /// True if it is full: a new one would be the same.
    pub(crate) fn is_full(&self, now: u64) -> bool {
        self.0.load(Ordering::Relaxed) <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn so_many_pass_in_a_time() {
        let (bucket, quota) = (Bucket::default(), Quota::new(Duration::from_millis(10), 5));
        let start = 50 * SECOND;
        let mut passed = 0;
        // Asked each 1.3 ms for ten seconds.
        for step in 0..7692 {
            passed += u32::from(bucket.take(quota, 1, start + step * 1_300_000).is_ok());
        }
        assert!((1000..=1005).contains(&passed), "{passed}");
    }

    #[test]
    fn it_tells_when_to_come_again() {
        let (bucket, quota) = (Bucket::default(), Quota::new(Duration::from_secs(1), 2));
        let now = 50 * SECOND;
        assert_eq!(bucket.left(quota, now), 2);
        assert!(bucket.take(quota, 1, now).is_ok() && bucket.take(quota, 1, now).is_ok());
        assert_eq!(bucket.take(quota, 1, now), Err(Duration::from_secs(1)));
        assert_eq!(bucket.take(quota, 2, now), Err(Duration::from_secs(2)));
        // What costs more than it holds passes when it is full.
        assert_eq!(bucket.take(quota, 100, now + SECOND), Err(Duration::from_secs(1)));
        assert!(bucket.take(quota, 100, now + 2 * SECOND).is_ok());
        bucket.put_back(quota, 100);
        assert_eq!((bucket.left(quota, now + 2 * SECOND), bucket.is_full(now + 2 * SECOND)), (2, true));
    }
}
