//! Fetching tables: one flight per database at a time, whoever waits for it, and never more often than the pause allows.

use std::collections::VecDeque;
use std::sync::Arc;

use bolt_wire::message::{Outcome, Summary};
use bolt_wire::packstream::MapView;
use bolt_wire::{Tag, Version};
use tokio::sync::watch;
use tokio::time::{Duration, Instant, sleep_until, timeout_at};

use super::Router;
use super::books::{KNOWN, Table, Target};
use super::listing::{Listing, write_route};
use super::member::{Member, Want, is_transient};
use crate::failure::Refusal;
use crate::upstream::Need;
use crate::upstream::connect::ConnectError;
use crate::upstream::key::Key;

/// The shortest time from one ROUTE for a database to the next: an election is not to become a storm of them.
pub(super) const PAUSE: Duration = Duration::from_millis(200);

/// A table that is being fetched, or was fetched a moment ago.
#[derive(Clone)]
pub(super) struct Flight {
    principal: [u8; 32],
    version: Version,
    started: Instant,
    result: watch::Receiver<Option<(Instant, Fetched)>>,
}

/// What came of it: a table that is in use now, or why there is none.
type Fetched = Result<Arc<Table>, Missing>;

/// Why there is no table.
#[derive(Clone)]
pub(super) enum Missing {
    /// This router, and perhaps others, answered ROUTE with FAILURE.
    Unlisted(Arc<Member>),
    /// The credentials were refused, with this FAILURE.
    Login(Arc<[u8]>),
    /// No router could be asked, or none had a table that can be used.
    Refused(Refusal),
    /// Nothing can have that name.
    Nowhere,
}

impl Missing {
    /// True if it would have come out the same for another user and version.
    fn is_for_all(&self) -> bool {
        matches!(
            self,
            Self::Refused(
                Refusal::Unreachable { .. } | Refusal::NoMember { .. } | Refusal::BreakerOpen { .. }
            )
        )
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::Unlisted(_) | Self::Login(_) | Self::Nowhere => "refused",
            Self::Refused(Refusal::NoMember { .. }) => "unusable",
            Self::Refused(_) => "unreachable",
        }
    }
}

impl Flight {
    /// True if it still says something about the next one.
    pub(super) fn is_of_use(&self, now: Instant) -> bool {
        self.result.borrow().as_ref().is_none_or(|(ended, _)| *ended + PAUSE > now)
    }

    fn is_of(&self, need: &Need) -> bool {
        self.principal == need.principal.id && self.version == need.key.version
    }

    /// When the next flight may start; `None` = this one is to be waited for.
    fn next(&self, need: &Need, now: Instant) -> Option<Instant> {
        let result = self.result.borrow();
        let (_, fetched) = result.as_ref()?;
        let concerns = self.is_of(need) || fetched.as_ref().err().is_none_or(Missing::is_for_all);
        // Somebody else's trouble is nobody's delay.
        Some(if concerns { now.max(self.started + PAUSE) } else { now })
    }
}

/// What one router said.
enum Answer {
    Table(Arc<Table>),
    Unusable(&'static str),
    Failure(Arc<[u8]>),
    None(ConnectError),
}

impl Router {
    /// A new table, as the principal of `need` may see it. Requests that want the same share a flight.
    pub(super) async fn fetch(self: &Arc<Self>, target: Target, need: &Need, deadline: Instant) -> Fetched {
        let started = Instant::now();
        loop {
            let mut flight = self.fly(target.clone(), need);
            let own = flight.is_of(need);
            let fetched = match timeout_at(deadline, flight.result.wait_for(Option::is_some)).await {
                Ok(Ok(result)) => result.as_ref().map(|(_, fetched)| fetched.clone()),
                Ok(Err(_)) | Err(_) => None,
            };
            match fetched {
                // Somebody else's credentials or version were the trouble.
                Some(Err(missing)) if !own && !missing.is_for_all() && Instant::now() < deadline => {}
                Some(fetched) => return fetched,
                None => {
                    let address = self.members.seed().pool.address().to_owned();
                    let reason = format!("no routing table came within {:?}", started.elapsed());
                    return Err(Missing::Refused(Refusal::Unreachable { address, reason }));
                }
            }
        }
    }

    /// Sees to it that a flight is on its way or has just ended.
    pub(super) fn fly(self: &Arc<Self>, target: Target, need: &Need) -> Flight {
        let now = Instant::now();
        let mut flights = self.flights.lock();
        let not_before = match flights.get(&target) {
            None => now,
            Some(flight) => match flight.next(need, now) {
                None => return flight.clone(),
                Some(not_before) => not_before,
            },
        };
        let (report, result) = watch::channel(None);
        let flight =
            Flight { principal: need.principal.id, version: need.key.version, started: not_before, result };
        if flights.len() >= KNOWN {
            flights.retain(|_, flight| flight.is_of_use(now));
        }
        flights.insert(target.clone(), flight.clone());
        drop(flights);
        let router = Arc::clone(self);
        let mut need = need.clone();
        need.access.route = true;
        if need.key.filter.is_some() {
            need.key = Arc::new(Key { filter: None, ..(*need.key).clone() });
        }
        tokio::spawn(async move {
            sleep_until(not_before).await;
            let fetched = router.ask_routers(&target, &need).await;
            let outcome = fetched.as_ref().err().map_or("success", Missing::outcome);
            router.metrics.routing_refreshes.with_label_values(&[outcome]).inc();
            report.send_replace(Some((Instant::now(), fetched)));
        });
        flight
    }

    /// Asks one router after the other, the seed and what is behind its name last.
    async fn ask_routers(self: &Arc<Self>, target: &Target, need: &Need) -> Fetched {
        let deadline = Instant::now() + self.config.load().pool.connection_acquisition_timeout;
        let mut routers = VecDeque::from(self.routers());
        let mut behind_seed = false;
        let mut missing = Missing::Refused(self.nowhere());
        loop {
            let Some(router) = routers.pop_front() else {
                if std::mem::replace(&mut behind_seed, true) {
                    return Err(missing);
                }
                routers = self.members.behind_seed().await.into();
                continue;
            };
            let now = Instant::now();
            let left = u32::try_from(routers.len() + 1).unwrap_or(u32::MAX);
            let share = now + deadline.saturating_duration_since(now) / left;
            let address = router.pool.address();
            let answer = timeout_at(share, self.ask(&router, target, need, share)).await;
            let answer = answer.unwrap_or_else(|_| Answer::None(no_answer(address, share - now)));
            match answer {
                Answer::Table(table) => return Ok(table),
                Answer::Failure(payload) => {
                    let last = is_final(&payload);
                    missing = Missing::Unlisted(router);
                    if last {
                        return Err(missing);
                    }
                }
                Answer::Unusable(reason) => {
                    tracing::debug!(router = address, reason, "A routing table cannot be used.");
                    if !matches!(missing, Missing::Unlisted(_)) {
                        missing = Missing::Refused(unusable(target, address, reason));
                    }
                }
                Answer::None(ConnectError::Failure(payload)) => {
                    if !is_transient(&payload) {
                        return Err(Missing::Login(payload.into()));
                    }
                }
                Answer::None(ConnectError::Refused(refusal)) => {
                    if matches!(missing, Missing::Refused(Refusal::Unreachable { .. })) {
                        missing = Missing::Refused(refusal);
                    }
                }
            }
        }
    }

    /// Sends ROUTE to one router.
    async fn ask(
        self: &Arc<Self>,
        router: &Arc<Member>,
        target: &Target,
        need: &Need,
        deadline: Instant,
    ) -> Answer {
        let mut lease = match router.obtain(Want::Lease(need), deadline).await {
            Ok(lease) => lease,
            Err(error) => return Answer::None(error),
        };
        let context = MapView::parse(&self.context).unwrap_or(MapView::EMPTY);
        let (database, impersonated) = match target {
            Target::Database(name) => (Some(&**name).filter(|name| !name.is_empty()), None),
            Target::Home(home) => (None, home.impersonated.as_deref()),
        };
        let address = self.members.seed().pool.address();
        let connection = lease.connection_mut();
        connection.queue_with(Tag::ROUTE, true, |out| {
            write_route(address, &context, database, impersonated, out);
        });
        let mut answer = None;
        let drained = connection.drain(&self.buffers, |_, summary, payload| {
            answer = Some((summary.outcome, Arc::<[u8]>::from(payload)));
        });
        if let Err(error) = drained.await {
            let address = router.pool.address().to_owned();
            lease.discard();
            return Answer::None(Refusal::Unreachable { address, reason: error.to_string() }.into());
        }
        match answer {
            Some((Outcome::Success { .. }, payload)) => match Listing::parse(&payload) {
                Ok(listing) => self
                    .adopt(target, &listing, router, need)
                    .map_or(Answer::Unusable("it lists no server that can be used"), Answer::Table),
                Err(reason) => Answer::Unusable(reason),
            },
            Some((Outcome::Failure, payload)) => {
                if code(&payload).starts_with("Neo.ClientError.Security.") {
                    need.principal.doubt();
                }
                Answer::Failure(payload)
            }
            _ => Answer::Unusable("ROUTE was ignored"),
        }
    }
}

fn no_answer(address: &str, waited: Duration) -> ConnectError {
    let reason = format!("no answer to ROUTE within {waited:?}");
    Refusal::Unreachable { address: address.to_owned(), reason }.into()
}

fn unusable(target: &Target, router: &str, reason: &str) -> Refusal {
    let database = match target {
        Target::Database(name) => name.to_string(),
        Target::Home(_) => "(home)".to_owned(),
    };
    Refusal::NoMember { role: "member", database, reason: format!("the routing table of {router}: {reason}") }
}

fn code(payload: &[u8]) -> &str {
    Summary::parse(payload).ok().and_then(|summary| summary.code()).unwrap_or_default()
}

/// True if every router would say the same, as the drivers see it.
fn is_final(payload: &[u8]) -> bool {
    let code = code(payload);
    matches!(
        code,
        "Neo.ClientError.Database.DatabaseNotFound"
            | "Neo.ClientError.Transaction.InvalidBookmark"
            | "Neo.ClientError.Transaction.InvalidBookmarkMixture"
            | "Neo.ClientError.Statement.TypeError"
            | "Neo.ClientError.Statement.ArgumentError"
            | "Neo.ClientError.Request.Invalid"
    ) || (code.starts_with("Neo.ClientError.Security.")
        && code != "Neo.ClientError.Security.AuthorizationExpired")
}
