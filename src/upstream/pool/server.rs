//! What is known of the server itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bolt_wire::Version;
use tokio::time::Instant;

use super::{Offer, Pool};
use crate::failure::Refusal;
use crate::upstream::connect::Greeting;

/// How long an answer proves that a server is there.
const LOOK_TTL: Duration = Duration::from_secs(5);
/// How long what a server offers is believed.
const OFFER_TTL: Duration = Duration::from_secs(30);

impl Pool {
    /// The versions that the server offers; asked for again after a while.
    pub(crate) async fn offered(&self) -> Result<Arc<[Version]>, Refusal> {
        let known = self.offered.lock().clone();
        if let Some(Offer { when: Some(when), versions }) = &known
            && when.elapsed() < OFFER_TTL
        {
            return Ok(Arc::clone(versions));
        }
        self.probe().await.or_else(|refusal| known.map(|offer| offer.versions).ok_or(refusal))
    }

    /// Whether the server answers: it did a moment ago, or it does now.
    pub(crate) async fn look(&self) -> Result<(), Refusal> {
        let when = self.offered.lock().as_ref().and_then(|offer| offer.when);
        let answered = when.is_some_and(|when| when.elapsed() < LOOK_TTL);
        if answered { Ok(()) } else { self.probe().await.map(drop) }
    }

    /// Asks the server what it offers, whatever is known: the proof that it is there.
    pub(crate) async fn probe(&self) -> Result<Arc<[Version]>, Refusal> {
        let versions: Arc<[Version]> = self.connector.offered().await?.into();
        *self.offered.lock() = Some(Offer { when: Some(Instant::now()), versions: Arc::clone(&versions) });
        Ok(versions)
    }

    /// The versions that the server offered when it was asked last, if nothing has put them in doubt since.
    pub(crate) fn offered_last(&self) -> Option<Arc<[Version]>> {
        self.offered
            .lock()
            .as_ref()
            .filter(|offer| offer.when.is_some())
            .map(|offer| Arc::clone(&offer.versions))
    }

    /// The greeting of the server for a version, if a connection of it was made before.
    pub(crate) fn greeting(&self, version: Version, utc: bool) -> Option<Greeting> {
        self.greetings.lock().get(&(version, utc)).cloned()
    }

    /// The receive time-out that the server advertised last; none before any connection was made.
    pub(crate) fn recv_timeout(&self) -> Option<Duration> {
        Some(Duration::from_secs(self.recv_timeout.load(Ordering::Relaxed)))
            .filter(|timeout| !timeout.is_zero())
    }
}
