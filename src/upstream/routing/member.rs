//! The servers of a cluster: one pool each, whether they were reachable lately, and the choice between them.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bolt_wire::message::Summary;
use parking_lot::{Mutex, RwLock};
use tokio::net::lookup_host;
use tokio::time::{Instant, timeout, timeout_at};

use super::listing::Address;
use crate::buffers::Buffers;
use crate::failure::Refusal;
use crate::metrics::Metrics;
use crate::upstream::Dialer;
use crate::upstream::Need;
use crate::upstream::connect::{ConnectError, Connector};
use crate::upstream::key::Key;
use crate::upstream::pool::{Lease, Pool};
use crate::upstream::principal::Principal;

/// Servers known at once; addresses beyond that are ignored.
const MAX_MEMBERS: usize = 1000;
/// IP addresses behind the name in `upstream.uri` that are tried.
const MAX_SEEDS: usize = 16;
/// Servers that are looked at together; the others have their turn at the next look.
const PROBES: usize = 32;
/// How often a server that is up is asked whether it still is.
const PROBE_EVERY: Duration = Duration::from_secs(30);

/// One server.
pub(super) struct Member {
    /// Its connections.
    pub(super) pool: Arc<Pool>,
    /// Why it could not be reached when it was tried last.
    down: Mutex<Option<String>>,
    /// True while `down` is set: read without the lock on the hot path.
    is_down: AtomicBool,
    /// Somebody is finding out whether it is back.
    trying: AtomicBool,
    /// A connection is being made to have it ready.
    warming: AtomicBool,
    probed: Mutex<Option<Instant>>,
}

/// What is wanted of a server.
#[derive(Clone, Copy)]
pub(super) enum Want<'a> {
    /// A pooled connection.
    Lease(&'a Need),
    /// A connection of its own, to prove credentials or to hear the greeting.
    Fresh(&'a Arc<Key>, Option<&'a Arc<Principal>>),
}

/// The only attempt at a server that is down.
struct Turn<'a>(Option<&'a AtomicBool>);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(trying) = self.0 {
            trying.store(false, Ordering::Release);
        }
    }
}

impl Member {
    fn new(pool: Arc<Pool>) -> Arc<Self> {
        Arc::new(Self {
            pool,
            down: Mutex::default(),
            is_down: AtomicBool::new(false),
            trying: AtomicBool::new(false),
            warming: AtomicBool::new(false),
            probed: Mutex::default(),
        })
    }

    /// True if it could not be reached when it was tried last.
    pub(super) fn is_down(&self) -> bool {
        self.is_down.load(Ordering::Acquire)
    }

    fn set_down(&self, reason: Option<String>) {
        let down = reason.is_some();
        let mut known = self.down.lock();
        if down != known.is_some() {
            let server = self.pool.address();
            match &reason {
                Some(reason) => tracing::warn!(server, reason, "A server of the cluster cannot be reached."),
                None => tracing::info!(server, "A server of the cluster can be reached again."),
            }
        }
        *known = reason;
        self.is_down.store(down, Ordering::Release);
    }

    /// A connection. While the server is down only one request at a time finds out whether it is back; the others are refused.
    pub(super) async fn obtain(&self, want: Want<'_>, deadline: Instant) -> Result<Lease, ConnectError> {
        let _turn = self.turn()?;
        let obtained = match want {
            Want::Lease(need) => self.pool.lease_until(need, deadline).await,
            Want::Fresh(key, principal) => self.pool.fresh(key, principal).await,
        };
        match &obtained {
            Err(ConnectError::Refused(Refusal::Unreachable { reason, .. })) => {
                self.set_down(Some(reason.clone()))
            }
            Err(ConnectError::Refused(
                Refusal::AcquisitionTimeout { .. } | Refusal::QueueFull { .. } | Refusal::BreakerOpen { .. },
            )) => {}
            _ if self.is_down() => self.set_down(None),
            _ => {}
        }
        obtained
    }

    fn turn(&self) -> Result<Turn<'_>, Refusal> {
        if !self.is_down() {
            return Ok(Turn(None));
        }
        if !self.trying.swap(true, Ordering::AcqRel) {
            return Ok(Turn(Some(&self.trying)));
        }
        let reason = self.down.lock().clone().unwrap_or_else(|| "it is being tried".to_owned());
        Err(Refusal::Unreachable { address: self.pool.address().to_owned(), reason })
    }

    /// Makes one more connection if too few are idle. Does not wait for it, and does it only once at a time.
    pub(super) fn warm(self: Arc<Self>, principal: &Arc<Principal>, context: &[u8]) {
        if self.warming.swap(true, Ordering::AcqRel) {
            return;
        }
        let (principal, context) = (Arc::clone(principal), Box::<[u8]>::from(context));
        tokio::spawn(async move {
            let _turn = Turn(Some(&self.warming));
            self.pool.warm(&principal, Some(&context)).await;
        });
    }

    /// True if it is time to find out whether the server is there: always if it is down, now and then if it is not.
    fn is_due(&self) -> bool {
        self.is_down() || self.probed.lock().is_none_or(|probed| probed.elapsed() >= PROBE_EVERY)
    }

    /// Finds out whether the server is there, unless somebody is at it.
    async fn probe(&self) {
        if self.trying.swap(true, Ordering::AcqRel) {
            return;
        }
        let _turn = Turn(Some(&self.trying));
        let reason = match self.pool.probe().await {
            Err(Refusal::Unreachable { reason, .. }) => Some(reason),
            _ => None,
        };
        *self.probed.lock() = Some(Instant::now());
        self.set_down(reason);
    }
}

/// The member to be used first: up, with the fewest leases; ties are broken by chance.
pub(super) fn least(members: &[Arc<Member>]) -> Option<&Arc<Member>> {
    let start = fastrand::usize(..members.len().max(1));
    let (before, from) = members.split_at_checked(start)?;
    let usable = |member: &&Arc<Member>| !member.is_down() && !member.pool.is_refusing();
    from.iter().chain(before).filter(usable).min_by_key(|member| member.pool.lent())
}

/// All members in the order in which they are to be tried.
pub(super) fn in_order<'a>(members: impl IntoIterator<Item = &'a Arc<Member>>) -> Vec<Arc<Member>> {
    let mut sorted: Vec<Arc<Member>> = Vec::new();
    for member in members {
        if !sorted.iter().any(|known| Arc::ptr_eq(known, member)) {
            sorted.push(Arc::clone(member));
        }
    }
    fastrand::shuffle(&mut sorted);
    // Keys change while others work: each is read once.
    sorted.sort_by_cached_key(|member| (member.is_down() || member.pool.is_refusing(), member.pool.lent()));
    sorted
}

/// Tries members one after the other until one gives a connection or says something that no other would say differently.
pub(super) async fn first_of(
    members: &[Arc<Member>],
    want: Want<'_>,
    deadline: Instant,
) -> Option<Result<Lease, ConnectError>> {
    let mut last = None;
    for (at, member) in members.iter().enumerate() {
        let left = members.len() - at;
        let result = if left > 1 {
            let started = Instant::now();
            let share = deadline.saturating_duration_since(started) / u32::try_from(left).unwrap_or(u32::MAX);
            timeout_at(started + share, member.obtain(want, started + share)).await.unwrap_or_else(|_| {
                // Busy or unreachable: that is found out without holding up the request.
                let suspect = Arc::clone(member);
                tokio::spawn(async move { suspect.probe().await });
                let address = member.pool.address().to_owned();
                Err(Refusal::Unreachable { address, reason: format!("no answer within {share:?}") }.into())
            })
        } else {
            member.obtain(want, deadline).await
        };
        match result {
            Err(error) if another_may_do(&error) => last = Some(Err(error)),
            result => return Some(result),
        }
        if Instant::now() >= deadline {
            break;
        }
    }
    last
}

/// False if the next member would say the same.
fn another_may_do(error: &ConnectError) -> bool {
    match error {
        ConnectError::Refused(_) => true,
        ConnectError::Failure(payload) => is_transient(payload),
    }
}

/// True if HELLO or LOGON failed for a reason that is the server's.
pub(crate) fn is_transient(payload: &[u8]) -> bool {
    let summary = Summary::parse(payload).ok();
    summary.and_then(|summary| summary.code()).is_some_and(|code| code.starts_with("Neo.TransientError."))
}

/// All servers that are known, and those behind the name in `upstream.uri`.
pub(super) struct Members {
    seed: Arc<Member>,
    seed_host: String,
    seed_port: u16,
    /// Behind the seed's name, if there is more than one.
    by_ip: Mutex<HashMap<IpAddr, Arc<Member>>>,
    by_address: RwLock<HashMap<Address, Arc<Member>>>,
    dialer: Arc<Dialer>,
    buffers: Arc<Buffers>,
    metrics: Arc<Metrics>,
}

impl Members {
    /// Knows only the seed.
    pub(super) fn new(
        host: &str,
        port: u16,
        dialer: &Arc<Dialer>,
        buffers: &Arc<Buffers>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let connector = Connector::new(host, port, Arc::clone(dialer));
        let pool = Pool::new(connector, Arc::clone(&dialer.config), Arc::clone(buffers), Arc::clone(metrics));
        let seed = Member::new(pool);
        let address = Address { host: host.to_ascii_lowercase().into(), port };
        Self {
            by_address: RwLock::new(HashMap::from([(address, Arc::clone(&seed))])),
            seed,
            seed_host: host.to_owned(),
            seed_port: port,
            by_ip: Mutex::default(),
            dialer: Arc::clone(dialer),
            buffers: Arc::clone(buffers),
            metrics: Arc::clone(metrics),
        }
    }

    /// What `upstream.uri` names.
    pub(super) fn seed(&self) -> &Arc<Member> {
        &self.seed
    }

    /// The member at `address`; `None` if there are too many.
    pub(super) fn at(&self, address: &Address) -> Option<Arc<Member>> {
        if let Some(member) = self.by_address.read().get(address) {
            return Some(Arc::clone(member));
        }
        let mut known = self.by_address.write();
        if let Some(member) = known.get(address) {
            return Some(Arc::clone(member));
        }
        if known.len() >= MAX_MEMBERS {
            tracing::warn!(%address, most = MAX_MEMBERS, "A server is ignored: too many are listed.");
            return None;
        }
        let member = self.member(Connector::new(&address.host, address.port, Arc::clone(&self.dialer)));
        known.insert(address.clone(), Arc::clone(&member));
        Some(member)
    }

    fn member(&self, connector: Connector) -> Arc<Member> {
        let (config, buffers, metrics) = (&self.dialer.config, &self.buffers, &self.metrics);
        Member::new(Pool::new(connector, Arc::clone(config), Arc::clone(buffers), Arc::clone(metrics)))
    }

    /// Each server behind the seed's name, if there are several: the seed itself has tried only as many as it needed.
    pub(super) async fn behind_seed(&self) -> Vec<Arc<Member>> {
        let limit = self.dialer.config.load().upstream.connection_timeout;
        let found = timeout(limit, lookup_host((self.seed_host.as_str(), self.seed_port))).await;
        let Ok(Ok(found)) = found else { return Vec::new() };
        self.at_ips(found.map(|address| address.ip()).take(MAX_SEEDS).collect())
    }

    pub(super) fn at_ips(&self, mut ips: Vec<IpAddr>) -> Vec<Arc<Member>> {
        ips.sort_unstable();
        ips.dedup();
        if ips.len() < 2 {
            return Vec::new();
        }
        let mut known = self.by_ip.lock();
        known.retain(|ip, _| ips.contains(ip));
        ips.into_iter()
            .map(|ip| {
                let connect = || Connector::at(&self.seed_host, self.seed_port, ip, Arc::clone(&self.dialer));
                Arc::clone(known.entry(ip).or_insert_with(|| self.member(connect())))
            })
            .collect()
    }

    /// Every member, the seed first.
    pub(super) fn all(&self) -> Vec<Arc<Member>> {
        let mut all = vec![Arc::clone(&self.seed)];
        all.extend(self.by_address.read().values().filter(|m| !Arc::ptr_eq(m, &self.seed)).cloned());
        all.extend(self.by_ip.lock().values().cloned());
        all
    }

    /// Forgets members that are in no table and have no connection; closes the idle connections of those that are in none.
    pub(super) fn tidy(&self, listed: &HashSet<*const Member>) {
        let mut leaving = Vec::new();
        self.by_address.write().retain(|_, member| {
            if Arc::ptr_eq(member, &self.seed) || listed.contains(&Arc::as_ptr(member)) {
                return true;
            }
            let (open, _, waiting) = member.pool.counts();
            leaving.push(Arc::clone(member));
            open > 0 || waiting > 0
        });
        for member in leaving {
            let (open, idle, waiting) = member.pool.counts();
            if idle > 0 {
                let pool = Arc::clone(&member.pool);
                tokio::spawn(async move { pool.close_idle().await });
            } else if open == 0 && waiting == 0 {
                self.metrics.forget_server(member.pool.address());
            }
        }
    }

    /// Finds out about every member that may have come back or gone away. Does not wait for it.
    pub(super) fn probe(&self) {
        let mut due = self.all();
        due.retain(|member| member.is_due());
        fastrand::shuffle(&mut due);
        for member in due.into_iter().take(PROBES) {
            tokio::spawn(async move { member.probe().await });
        }
    }
}
