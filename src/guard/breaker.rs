//! A circuit breaker for one server.  [hot path: `is_closed`, `succeeded`]
//!
//! CLOSED: all requests pass. OPEN after failures in a row (or too large a share of them): all are refused at once. HALF OPEN once the
//! server answers a look, or after `open_for`: connections are obtained one at a time, and each that answers counts; enough of them close
//! it, one failure opens it again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::config;
use crate::failure::Refusal;
use crate::metrics::Metrics;

const CLOSED: u8 = 0;
const HALF_OPEN: u8 = 1;
const OPEN: u8 = 2;

/// Parts of the window in which shares are counted.
const PARTS: u32 = 10;

/// What a server did.
#[derive(Debug)]
pub(crate) enum Failing<'a> {
    /// No connection could be made.
    Connect(&'a str),
    /// A connection that was made at this time was lost, or stayed silent.
    Lost(Instant),
    /// It answered with this code.
    Code(&'a str),
}

/// A breaker opened just now: somebody has to look when the server is back.
#[must_use]
pub(crate) struct Opened;

/// The breaker of one server.
pub(crate) struct Breaker {
    server: String,
    metrics: Arc<Metrics>,
    state: AtomicU8,
    /// Failures in a row.
    failures: AtomicU32,
    inner: Mutex<Inner>,
}

struct Inner {
    /// When it became what it is.
    since: Instant,
    /// The last failure.
    reason: String,
    /// Successes in a row while half open.
    successes: u32,
    /// Somebody is trying.
    trying: bool,
    /// When the last loss was counted.
    lost: Option<Instant>,
    /// Times that it opened.
    opened: u64,
    window: Window,
}

/// Counts of the last while, by parts.
#[derive(Default)]
struct Window {
    begun: Option<Instant>,
    parts: [Counts; PARTS as usize],
    at: usize,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    all: u32,
    failed: u32,
    slow: u32,
}

/// What a breaker shows of itself.
#[derive(Debug)]
pub(crate) struct BreakerReport {
    /// `closed`, `half_open`, `open`.
    pub(crate) state: &'static str,
    /// For how long it has been that.
    pub(crate) since: Duration,
    /// Failures in a row.
    pub(crate) failures: u32,
    /// Times that it opened.
    pub(crate) opened: u64,
    /// The last failure that counted.
    pub(crate) reason: String,
}

/// The right to try a server whose breaker is half open. Given back without a word, nothing was learnt.
pub(crate) struct Trial<'a>(&'a Breaker);

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        self.0.inner.lock().trying = false;
    }
}

impl Trial<'_> {
    /// The server answered.
    pub(crate) fn succeeded(self, config: &config::Breaker) {
        self.0.answered(config);
    }
}

impl Breaker {
    /// A closed one.
    pub(crate) fn new(server: &str, metrics: &Arc<Metrics>) -> Self {
        let inner = Inner {
            since: Instant::now(),
            reason: String::new(),
            successes: 0,
            trying: false,
            lost: None,
            opened: 0,
            window: Window::default(),
        };
        Self {
            server: server.to_owned(),
            metrics: Arc::clone(metrics),
            state: AtomicU8::new(CLOSED),
            failures: AtomicU32::new(0),
            inner: Mutex::new(inner),
        }
    }

    /// True if requests pass.
    pub(crate) fn is_closed(&self) -> bool {
        self.state.load(Ordering::Acquire) == CLOSED
    }

    /// True while requests are refused, or tried one at a time.
    pub(crate) fn is_open(&self) -> bool {
        !self.is_closed()
    }

    /// May a connection be obtained? With the right to try if the breaker is half open.
    pub(crate) fn admit(&self, config: &config::Breaker) -> Result<Option<Trial<'_>>, Refusal> {
        if self.is_closed() {
            return Ok(None);
        }
        let mut inner = self.inner.lock();
        if !config.enabled {
            self.become_state(&mut inner, CLOSED);
        }
        let state = self.state.load(Ordering::Acquire);
        if state == OPEN && inner.since.elapsed() >= config.open_for {
            self.become_state(&mut inner, HALF_OPEN);
        }
        match self.state.load(Ordering::Acquire) {
            CLOSED => Ok(None),
            HALF_OPEN if !inner.trying => {
                inner.trying = true;
                Ok(Some(Trial(self)))
            }
            state => Err(self.refusal(&inner, state, config)),
        }
    }

    /// Why requests are refused now.
    pub(crate) fn refuse(&self, config: &config::Breaker) -> Refusal {
        let inner = self.inner.lock();
        self.refusal(&inner, self.state.load(Ordering::Acquire), config)
    }

    fn refusal(&self, inner: &Inner, state: u8, config: &config::Breaker) -> Refusal {
        let left = config.open_for.saturating_sub(inner.since.elapsed());
        let probed = !config.probe_interval.is_zero();
        let retry = match state {
            OPEN if probed => left.min(config.probe_interval),
            OPEN => left,
            _ => Duration::from_millis(100),
        };
        Refusal::BreakerOpen { address: self.server.clone(), reason: inner.reason.clone(), retry }
    }

    /// The server finished what it was asked.
    pub(crate) fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) > 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// The server answered a look.
    pub(crate) fn looked(&self, config: &config::Breaker) {
        let mut inner = self.inner.lock();
        if self.state.load(Ordering::Acquire) == OPEN {
            return self.become_state(&mut inner, HALF_OPEN);
        }
        let trying = inner.trying;
        drop(inner);
        // Where there are requests they tell more.
        if !trying {
            self.answered(config);
        }
    }

    /// The server answered while it was tried.
    pub(crate) fn answered(&self, config: &config::Breaker) {
        let mut inner = self.inner.lock();
        if self.state.load(Ordering::Acquire) != HALF_OPEN {
            return;
        }
        inner.successes += 1;
        if inner.successes >= config.successes {
            self.become_state(&mut inner, CLOSED);
        }
    }

    /// The server failed.
    pub(crate) fn failed(&self, failing: &Failing<'_>, config: &config::Breaker) -> Option<Opened> {
        if !config.enabled || matches!(failing, Failing::Code(code) if !counts_in_a_row(code)) {
            return None;
        }
        let mut inner = self.inner.lock();
        let reason = match failing {
            Failing::Connect(reason) => (*reason).to_owned(),
            Failing::Lost(made) => {
                // Those that were lost together tell no more than one.
                if inner.lost.is_some_and(|lost| *made <= lost) {
                    return None;
                }
                inner.lost = Some(Instant::now());
                "a connection was lost in use".to_owned()
            }
            Failing::Code(code) => format!("it answered {code}"),
        };
        inner.reason = reason;
        match self.state.load(Ordering::Acquire) {
            CLOSED => {
                let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
                (failures >= config.failures).then(|| self.open(&mut inner))
            }
            HALF_OPEN => Some(self.open(&mut inner)),
            _ => None,
        }
    }

    /// A request had its first answer after `took`: the shares may open the breaker. Called only where shares count.
    pub(crate) fn counted(
        &self,
        failure: Option<&str>,
        took: Duration,
        config: &config::Breaker,
    ) -> Option<Opened> {
        let failed = failure.is_some_and(counts_in_shares);
        let slow = !config.slow_call.is_zero() && took > config.slow_call;
        let mut inner = self.inner.lock();
        let now = Instant::now();
        inner.window.add(now, config.window, failed, slow);
        let sum = inner.window.sum();
        if self.is_open() || sum.all < config.min_calls {
            return None;
        }
        let share = |count: u32| f64::from(count) / f64::from(sum.all);
        if config.failure_ratio > 0.0 && share(sum.failed) >= config.failure_ratio {
            inner.reason =
                format!("{} of {} requests failed within {:?}", sum.failed, sum.all, config.window);
        } else if !config.slow_call.is_zero() && share(sum.slow) >= config.slow_ratio {
            inner.reason =
                format!("{} of {} requests took longer than {:?}", sum.slow, sum.all, config.slow_call);
        } else {
            return None;
        }
        Some(self.open(&mut inner))
    }

    fn open(&self, inner: &mut Inner) -> Opened {
        inner.opened += 1;
        inner.window = Window::default();
        self.become_state(inner, OPEN);
        Opened
    }

    fn become_state(&self, inner: &mut Inner, state: u8) {
        (inner.since, inner.successes) = (Instant::now(), 0);
        self.state.store(state, Ordering::Release);
        self.failures.store(0, Ordering::Relaxed);
        let (server, reason) = (self.server.as_str(), inner.reason.as_str());
        match state {
            OPEN => tracing::warn!(server, reason, "A circuit breaker opened: requests are refused at once."),
            HALF_OPEN => tracing::info!(server, "A circuit breaker is half open: the server is tried."),
            _ => tracing::info!(server, "A circuit breaker closed: requests pass again."),
        }
        let metrics = &self.metrics.guard;
        metrics.breaker_state.with_label_values(&[server]).set(state.into());
        metrics.breaker_transitions.with_label_values(&[server, name(state)]).inc();
    }

    /// What it is now.
    pub(crate) fn report(&self) -> BreakerReport {
        let inner = self.inner.lock();
        BreakerReport {
            state: name(self.state.load(Ordering::Acquire)),
            since: inner.since.elapsed(),
            failures: self.failures.load(Ordering::Relaxed),
            opened: inner.opened,
            reason: inner.reason.clone(),
        }
    }
}

fn name(state: u8) -> &'static str {
    match state {
        CLOSED => "closed",
        HALF_OPEN => "half_open",
        _ => "open",
    }
}

/// Codes that say that the server itself cannot serve, whoever asks. Others can be provoked by one client's own statement or database,
/// and must not shut out everybody.
fn counts_in_a_row(code: &str) -> bool {
    code.starts_with("Neo.TransientError.Request.") || code == "Neo.TransientError.General.OutOfMemoryError"
}

fn counts_in_shares(code: &str) -> bool {
    ["Neo.TransientError.General.", "Neo.TransientError.Request.", "Neo.DatabaseError."]
        .iter()
        .any(|prefix| code.starts_with(prefix))
}

impl Window {
    fn add(&mut self, now: Instant, window: Duration, failed: bool, slow: bool) {
        let part = (window / PARTS).max(Duration::from_millis(1));
        let begun = *self.begun.get_or_insert(now);
        let passed = now.saturating_duration_since(begun).as_nanos() / part.as_nanos();
        for _ in 0..passed.min(u128::from(PARTS)) {
            self.at = (self.at + 1) % self.parts.len();
            self.parts[self.at] = Counts::default();
        }
        if passed > 0 {
            self.begun = Some(now);
        }
        let counts = &mut self.parts[self.at];
        counts.all += 1;
        counts.failed += u32::from(failed);
        counts.slow += u32::from(slow);
    }

    fn sum(&self) -> Counts {
        self.parts.iter().fold(Counts::default(), |sum, part| Counts {
            all: sum.all + part.all,
            failed: sum.failed + part.failed,
            slow: sum.slow + part.slow,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> (Breaker, config::Breaker) {
        (Breaker::new("neo4j:7687", &Arc::new(Metrics::new())), config::Breaker::default())
    }

    fn open(breaker: &Breaker, config: &config::Breaker) {
        for _ in 0..config.failures {
            let _ = breaker.failed(&Failing::Connect("refused"), config);
        }
        assert_eq!(breaker.report().state, "open");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_open_it_and_successes_close_it() {
        let (breaker, config) = breaker();
        for _ in 0..config.failures - 1 {
            assert!(breaker.failed(&Failing::Connect("refused"), &config).is_none());
        }
        breaker.succeeded();
        for _ in 0..config.failures - 1 {
            assert!(breaker.failed(&Failing::Connect("refused"), &config).is_none());
        }
        assert!(matches!(breaker.admit(&config), Ok(None)));
        assert!(breaker.failed(&Failing::Connect("refused"), &config).is_some());
        assert!(breaker.failed(&Failing::Connect("refused"), &config).is_none(), "it is open already");
        let refusal = breaker.admit(&config).err().expect("refused");
        assert!(refusal.to_string().contains("refused"), "{refusal}");
        tokio::time::advance(config.open_for).await;
        for expected in ["half_open", "closed"] {
            let trial = breaker.admit(&config).unwrap().expect("a trial");
            assert!(breaker.admit(&config).is_err(), "one at a time");
            trial.succeeded(&config);
            assert_eq!(breaker.report().state, expected);
        }
        assert!(matches!(breaker.admit(&config), Ok(None)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_trial_opens_it_again() {
        let (breaker, config) = breaker();
        open(&breaker, &config);
        breaker.looked(&config);
        let trial = breaker.admit(&config).unwrap().expect("a trial");
        assert!(breaker.failed(&Failing::Connect("still refused"), &config).is_some());
        drop(trial);
        assert_eq!((breaker.report().state, breaker.report().opened), ("open", 2));
        assert!(breaker.admit(&config).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn looks_alone_close_it_too() {
        let (breaker, config) = breaker();
        open(&breaker, &config);
        for expected in ["half_open", "half_open", "closed"] {
            breaker.looked(&config);
            assert_eq!(breaker.report().state, expected);
        }
        // A trial that is given up says nothing.
        open(&breaker, &config);
        breaker.looked(&config);
        drop(breaker.admit(&config).unwrap());
        assert!(breaker.admit(&config).unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn connections_that_are_lost_together_count_once() {
        let (breaker, config) = breaker();
        let made = Instant::now();
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..100 {
            assert!(breaker.failed(&Failing::Lost(made), &config).is_none());
        }
        assert_eq!(breaker.report().failures, 1);
        for count in 2..=config.failures {
            tokio::time::advance(Duration::from_secs(1)).await;
            let opened = breaker.failed(&Failing::Lost(Instant::now()), &config).is_some();
            assert_eq!(opened, count == config.failures);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_client_can_provoke_shuts_nobody_out() {
        let (breaker, config) = breaker();
        for code in [
            "Neo.ClientError.Statement.SyntaxError",
            "Neo.TransientError.Transaction.DeadlockDetected",
            "Neo.TransientError.General.DatabaseUnavailable",
            "Neo.DatabaseError.Statement.ExecutionFailed",
        ] {
            (0..20).for_each(|_| assert!(breaker.failed(&Failing::Code(code), &config).is_none()));
        }
        assert_eq!(breaker.report().failures, 0);
        let full = Failing::Code("Neo.TransientError.Request.NoThreadsAvailable");
        assert_eq!((0..5).filter(|_| breaker.failed(&full, &config).is_some()).count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn shares_open_it_where_they_are_configured() {
        let (breaker, mut config) = breaker();
        config.failure_ratio = 0.5;
        config.slow_call = Duration::from_secs(1);
        let failure = Some("Neo.DatabaseError.General.UnknownError");
        for at in 0..config.min_calls {
            let failure = failure.filter(|_| at % 2 == 1);
            let opened = breaker.counted(failure, Duration::ZERO, &config).is_some();
            assert_eq!(opened, at + 1 == config.min_calls, "{at}");
        }
        let (breaker, _) = self::breaker();
        for _ in 0..config.min_calls - 1 {
            assert!(breaker.counted(None, Duration::from_secs(2), &config).is_none());
        }
        // What is long ago does not count any longer.
        tokio::time::advance(config.window * 2).await;
        assert!(breaker.counted(None, Duration::from_secs(2), &config).is_none());
        assert!(
            (0..config.min_calls).any(|_| breaker.counted(None, Duration::from_secs(2), &config).is_some())
        );
    }

    #[test]
    fn off_is_off() {
        let (breaker, mut config) = breaker();
        open(&breaker, &config);
        config.enabled = false;
        assert!(matches!(breaker.admit(&config), Ok(None)));
        (0..20).for_each(|_| assert!(breaker.failed(&Failing::Connect("x"), &config).is_none()));
    }
}
