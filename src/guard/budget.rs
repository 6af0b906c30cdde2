//! How much may be run again: a share of what is run.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Over which time shares are taken.
const WINDOW: Duration = Duration::from_secs(10);
/// So many in that time always may.
const ALWAYS: f64 = 10.0;

/// What was run again lately. Looked at only when something failed.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    window: Mutex<Option<Window>>,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    /// Requests until then.
    before: u64,
    spent: f64,
}

impl Budget {
    /// Takes one, if there is one. `total`: all requests until now.
    pub(crate) fn take(&self, total: u64, share: f64) -> bool {
        let mut window = self.window.lock();
        let window = match &mut *window {
            Some(window) if window.since.elapsed() < WINDOW => window,
            old => old.insert(Window { since: Instant::now(), before: total, spent: 0.0 }),
        };
        let requests = total.saturating_sub(window.before) as f64;
        if window.spent + 1.0 > ALWAYS + requests * share {
            return false;
        }
        window.spent += 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_tenth_and_ten_more_in_ten_seconds() {
        let budget = Budget::default();
        let granted = |total: u64| (0..1000).filter(|_| budget.take(total, 0.1)).count();
        assert_eq!(granted(5_000), 10);
        assert_eq!(granted(5_000), 0);
        assert_eq!(granted(5_200), 20);
        tokio::time::advance(WINDOW).await;
        assert_eq!(granted(6_000), 10, "a new window");
        assert_eq!(granted(6_100), 10);
    }
}
