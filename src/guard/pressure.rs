//! `guard.max_memory`: new requests are refused while this process takes more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::cache::Scope;
use crate::session::Shared;
use crate::sight::resident;

/// How often memory is looked at.
const PERIOD: Duration = Duration::from_millis(100);
/// Below this share of the limit requests pass again.
const RELIEF: u64 = 19;
const WHOLE: u64 = 20;

/// How much memory this process takes, as it was looked at last.
#[derive(Debug, Default)]
pub(crate) struct Pressure {
    high: AtomicBool,
    used: AtomicU64,
}

impl Pressure {
    /// The bytes that are used, if they are too many.
    pub(crate) fn is_high(&self) -> Option<u64> {
        self.high.load(Ordering::Relaxed).then(|| self.used.load(Ordering::Relaxed))
    }

    /// So many bytes are used, and so many may be (0 = any); true if they have just become too many.
    pub(crate) fn look(&self, used: u64, most: u64) -> bool {
        self.used.store(used, Ordering::Relaxed);
        let before = self.high.load(Ordering::Relaxed);
        let limit = if before { most / WHOLE * RELIEF } else { most };
        let high = most > 0 && used > limit;
        self.high.store(high, Ordering::Relaxed);
        high && !before
    }
}

/// Looks at this process's memory where that is limited, until the end.
pub(crate) async fn keep_measuring(shared: Arc<Shared>, end: CancellationToken) {
    let work = async {
        let mut every = interval(PERIOD);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let most = shared.config.load().guard.max_memory as u64;
            let used = if most > 0 { resident() } else { 0 };
            if shared.guard.pressure.look(used, most) {
                let answers = shared.cache.invalidate(&Scope::All, &shared.coalescer.statements);
                tracing::warn!(
                    used,
                    most,
                    answers,
                    "Too much memory: new requests are refused, cached answers forgotten."
                );
            }
        }
    };
    let _ = end.run_until_cancelled(work).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_high_above_the_limit_and_until_well_below_it() {
        let pressure = Pressure::default();
        assert!(!pressure.look(2_000, 0), "no limit");
        assert!(!pressure.look(1_000, 1_000));
        assert!(pressure.look(1_001, 1_000), "now");
        assert!(!pressure.look(1_100, 1_000), "still");
        assert_eq!(pressure.is_high(), Some(1_100));
        pressure.look(951, 1_000);
        assert_eq!(pressure.is_high(), Some(951));
        pressure.look(950, 1_000);
        assert_eq!(pressure.is_high(), None);
        assert!(resident() > 1 << 20);
    }
}
