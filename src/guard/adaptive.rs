//! `guard.adaptive`: how many requests may be at Neo4j at once, found out from how long they take there.
//!
//! Alone at Neo4j a request takes as long as its work does. The more there are at once the longer each takes, beyond some number without
//! more of them being answered. So the time is compared with the best of late: while it is near, more are let in; once it is
//! `guard.adaptive_tolerance` times that, fewer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::keyed::State;

/// The number is looked at so often,
const WINDOW: Duration = Duration::from_millis(200);
/// if so many requests were answered meanwhile.
const SAMPLES: u32 = 10;
/// Where it begins, and where it ends.
const FIRST: u32 = 20;
const LEAST: u32 = 2;
/// The best time of late grows by so much with each look, so that it does not stay that of other work: doubled in three minutes.
const FADING: f64 = 1.0008;
/// How much of each step is taken.
const SMOOTHING: f64 = 0.3;

/// The number, and what it is found out from.
#[derive(Debug)]
pub(crate) struct Adaptive {
    /// The number.
    pub(crate) most: Arc<AtomicU32>,
    /// Those at Neo4j.
    pub(crate) state: Arc<State>,
    window: Mutex<Window>,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    sum: Duration,
    count: u32,
    /// Most at once.
    peak: u32,
    /// The best time of late, in seconds.
    best: Option<f64>,
    /// The number, before it is rounded.
    limit: f64,
}

impl Default for Adaptive {
    fn default() -> Self {
        Self {
            most: Arc::new(AtomicU32::new(FIRST)),
            state: Arc::default(),
            window: Mutex::new(Window {
                since: Instant::now(),
                sum: Duration::ZERO,
                count: 0,
                peak: 0,
                best: None,
                limit: f64::from(FIRST),
            }),
        }
    }
}

impl Adaptive {
    /// A request was answered after this time at Neo4j.
    pub(crate) fn answered(&self, took: Duration, tolerance: f64, largest: u32) {
        let in_flight = self.state.in_flight();
        let mut window = self.window.lock();
        window.sum += took;
        window.count += 1;
        window.peak = window.peak.max(in_flight);
        if window.count < SAMPLES || window.since.elapsed() < WINDOW {
            return;
        }
        let limit = window.close(tolerance, largest);
        self.most.store(limit, Ordering::Relaxed);
    }
}

impl Window {
    /// The next number.
    fn close(&mut self, tolerance: f64, largest: u32) -> u32 {
        let took = self.sum.as_secs_f64() / f64::from(self.count.max(1));
        let best = self.best.map_or(took, |best| (best * FADING).min(took)).max(1e-6);
        self.best = Some(best);
        let gradient = (tolerance * best / took.max(1e-6)).clamp(0.5, 1.0);
        // Where few ask, how long they take says nothing about more of them.
        let is_used = f64::from(self.peak) >= self.limit / 2.0;
        if is_used || gradient < 1.0 {
            let next = self.limit * gradient + self.limit.sqrt();
            self.limit += (next - self.limit) * SMOOTHING;
            self.limit = self.limit.clamp(f64::from(LEAST), f64::from(largest.max(LEAST)));
        }
        (self.since, self.sum, self.count, self.peak) = (Instant::now(), Duration::ZERO, 0, 0);
        self.limit.round() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Neo4j with so many cores: so many requests at once take a millisecond each, more take longer.
    async fn load(adaptive: &Adaptive, clients: u32, cores: u32, work: Duration) -> u32 {
        for _ in 0..400 {
            let at_once = clients.min(adaptive.most.load(Ordering::Relaxed));
            adaptive.state.in_flight.store(at_once, Ordering::Relaxed);
            let took = work * at_once.max(cores) / cores;
            tokio::time::advance(WINDOW).await;
            (0..SAMPLES).for_each(|_| adaptive.answered(took, 2.0, 100));
        }
        adaptive.most.load(Ordering::Relaxed)
    }

    #[tokio::test(start_paused = true)]
    async fn it_finds_what_the_server_can_do() {
        let millisecond = Duration::from_millis(1);
        for cores in [2, 8, 32] {
            let adaptive = Adaptive::default();
            // Before the load comes.
            load(&adaptive, 1, cores, millisecond).await;
            let found = load(&adaptive, 1000, cores, millisecond).await;
            assert!((cores..=cores * 6).contains(&found), "{cores} cores: {found}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_goes_with_the_work_and_keeps_within_bounds() {
        let adaptive = Adaptive::default();
        load(&adaptive, 1, 4, Duration::from_millis(1)).await;
        let before = load(&adaptive, 1000, 4, Duration::from_millis(1)).await;
        // Other work, ten times as long: at first that looks like too many, later like what it is.
        let mut after = 0;
        for _ in 0..10 {
            after = load(&adaptive, 1000, 4, Duration::from_millis(10)).await;
        }
        assert!(after >= before / 2, "{before} {after}");
        // As much as there may be, where nothing takes longer.
        assert_eq!(load(&adaptive, 1000, 1000, Duration::from_millis(1)).await, 100);
        // A server that takes ever longer gets ever fewer.
        for factor in 1..40 {
            adaptive.state.in_flight.store(100, Ordering::Relaxed);
            tokio::time::advance(WINDOW).await;
            (0..SAMPLES)
                .for_each(|_| adaptive.answered(Duration::from_millis(10 * factor * factor), 2.0, 100));
        }
        assert!(adaptive.most.load(Ordering::Relaxed) < 20);
    }
}
