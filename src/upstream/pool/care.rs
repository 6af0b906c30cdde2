//! What the circuit breaker learns of the server, and the looks while it is open.

use std::sync::Arc;
use std::time::Duration;

use bolt_wire::message::Summary;

use super::Pool;
use crate::failure::Refusal;
use crate::guard::{BreakerReport, Failing, Opened};
use crate::upstream::connect::ConnectError;

/// A look at a server takes no longer than this, or than the interval between looks if that is longer: what was lost on the way to a
/// server that is away now would otherwise be waited for when it is back.
const LOOK: Duration = Duration::from_secs(1);
/// The first look comes so soon: perhaps only connections were lost.
const FIRST_LOOK: Duration = Duration::from_millis(20);

impl Pool {
    /// True while its breaker refuses requests, or tries one at a time.
    pub(crate) fn is_refusing(&self) -> bool {
        self.breaker.is_open()
    }

    /// The state of its breaker.
    pub(crate) fn breaker(&self) -> BreakerReport {
        self.breaker.report()
    }

    /// The server failed.
    pub(crate) fn failed(self: &Arc<Self>, failing: &Failing<'_>) {
        let opened = self.breaker.failed(failing, &self.config.load().breaker);
        self.opened(opened);
    }

    /// The server finished what it was asked.
    pub(super) fn served(&self) {
        if self.breaker.is_open() {
            self.breaker.answered(&self.config.load().breaker);
        } else {
            self.breaker.succeeded();
        }
    }

    /// A request was answered, with this code if it failed. Only where shares of requests are looked at.
    pub(crate) fn counted(self: &Arc<Self>, failure: Option<&str>, took: Duration) {
        let opened = self.breaker.counted(failure, took, &self.config.load().breaker);
        self.opened(opened);
    }

    /// What the failure to obtain a connection says.
    pub(super) fn note(self: &Arc<Self>, error: &ConnectError) {
        match error {
            ConnectError::Refused(Refusal::Unreachable { reason, .. }) => {
                self.failed(&Failing::Connect(reason))
            }
            ConnectError::Failure(payload) => {
                if let Some(code) = Summary::parse(payload).ok().and_then(|failure| failure.code()) {
                    self.failed(&Failing::Code(code));
                }
            }
            ConnectError::Refused(_) => {}
        }
    }

    fn opened(self: &Arc<Self>, opened: Option<Opened>) {
        if opened.is_none() {
            return;
        }
        // Those who wait would wait in vain.
        self.inner.lock().waiting.clear();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let pool = Arc::downgrade(self);
        runtime.spawn(async move {
            let mut first = true;
            loop {
                let Some(interval) = pool.upgrade().and_then(|pool| pool.interval()) else { return };
                let pause = if first { FIRST_LOOK.min(interval) } else { interval };
                tokio::time::sleep(pause.mul_f64(0.8 + 0.4 * fastrand::f64())).await;
                first = false;
                let Some(pool) = pool.upgrade() else { return };
                let limit = interval.max(LOOK);
                if let Ok(Ok(_)) = tokio::time::timeout(limit, pool.probe()).await {
                    pool.breaker.looked(&pool.config.load().breaker);
                }
            }
        });
    }

    /// How often to look; none if that is over.
    fn interval(&self) -> Option<Duration> {
        let interval = self.config.load().breaker.probe_interval;
        (self.breaker.is_open() && !interval.is_zero()).then_some(interval)
    }
}
