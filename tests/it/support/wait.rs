//! Deadlines and polling: no test sleeps and hopes.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, timeout};

/// How long anything may take that is expected to happen. Long: only a failing test waits for it.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Waits until `condition` holds; fails the test after `PATIENCE`.
#[track_caller]
pub fn until<'a>(what: &'a str, condition: impl FnMut() -> bool + 'a) -> impl Future<Output = ()> + 'a {
    within(PATIENCE, what, condition)
}

/// Waits until `condition` holds and gives the time it took; fails the test after `limit`.
pub async fn within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    let mut every = tokio::time::interval(Duration::from_millis(2));
    while !condition() {
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        every.tick().await;
    }
}

/// Waits until `condition` (which asks somebody) holds; fails the test after `limit`.
pub async fn within_async<F: Future<Output = bool>>(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> F,
) {
    let started = Instant::now();
    let mut every = tokio::time::interval(Duration::from_millis(5));
    while !condition().await {
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        every.tick().await;
    }
}

/// The result of `work`; fails the test after `PATIENCE`.
pub async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, work).await {
        Ok(done) => done,
        Err(_) => panic!("not within {PATIENCE:?}: {what}"),
    }
}
