//! `neo4j://` upstream: a routing table per database, kept as Neo4j's drivers keep it, and the member that takes a request.

mod books;
mod flight;
mod listing;
mod member;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bolt_wire::Version;
use parking_lot::{Mutex, RwLock};
use tokio::time::{Duration, Instant};

pub(crate) use self::listing::Role;
use self::member::is_transient;

use self::books::{Books, Home, Known, Table, Target};
use self::flight::{Flight, Missing};
use self::listing::Listing;
use self::member::{Member, Members, Want, first_of, in_order};
use super::connect::{ConnectError, Greeting};
use super::key::Key;
use super::pool::{Lease, Pool};
use super::principal::Principal;
use super::{Access, Need};
use crate::buffers::Buffers;
use crate::config::{Config, UpstreamUri};
use crate::failure::Refusal;
use crate::metrics::Metrics;
use crate::upstream::Dialer;

/// What a server did that its place in the tables does not agree with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    /// It refused a write: it is not the leader (any more).
    NotLeader,
    /// It does not have the database now.
    Unavailable,
    /// A connection to it broke in use.
    Lost,
}

impl Fault {
    /// What a FAILURE's code says about the server.
    pub(crate) fn of(code: &str) -> Option<Self> {
        match code {
            "Neo.ClientError.Cluster.NotALeader" | "Neo.ClientError.General.ForbiddenOnReadOnlyDatabase" => {
                Some(Self::NotLeader)
            }
            "Neo.TransientError.General.DatabaseUnavailable" => Some(Self::Unavailable),
            _ => None,
        }
    }
}

/// Neo4j as a cluster (or as a single server that is addressed like one).
pub(crate) struct Router {
    members: Members,
    /// The routing context of `upstream.uri`, a PackStream map.
    context: Box<[u8]>,
    books: RwLock<Books>,
    flights: Mutex<HashMap<Target, Flight>>,
    config: Arc<ArcSwap<Config>>,
    buffers: Arc<Buffers>,
    metrics: Arc<Metrics>,
}

impl Router {
    /// Knows nothing but what `upstream.uri` names.
    pub(crate) fn new(
        uri: &UpstreamUri,
        dialer: &Arc<Dialer>,
        buffers: &Arc<Buffers>,
        metrics: &Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            members: Members::new(&uri.host, uri.port, dialer, buffers, metrics),
            context: listing::context(uri.routing_context.as_deref()),
            books: RwLock::default(),
            flights: Mutex::default(),
            config: Arc::clone(&dialer.config),
            buffers: Arc::clone(buffers),
            metrics: Arc::clone(metrics),
        })
    }

    /// HELLO's routing context of every upstream connection, without the address.
    pub(crate) fn context(&self) -> &[u8] {
        &self.context
    }

    /// A connection that can be used at once: the usual case.
    pub(crate) fn try_lease(self: &Arc<Self>, need: &Need) -> Option<Lease> {
        let role = need.access.role();
        if role == Role::Router {
            return None;
        }
        let now = Instant::now();
        let known = self.books.read().known(need, now);
        let (Known::Table(table) | Known::Aging(table)) = &known else { return None };
        if !table.is_current(now) {
            return None;
        }
        self.refresh_ahead(&known, need, now);
        table.best(role)?.pool.try_lease(need)
    }

    /// A connection, waiting for it and for a table if need be. A table that was there already and leads nowhere is fetched anew once.
    pub(crate) async fn lease(self: &Arc<Self>, need: &Need) -> Result<Lease, ConnectError> {
        let started = Instant::now();
        let deadline = started + self.config.load().pool.connection_acquisition_timeout;
        let role = need.access.role();
        if role == Role::Router {
            return self.anybody(Want::Lease(need), deadline).await;
        }
        let mut last = None;
        for anew in [false, true] {
            let table = match self.table(need, role, anew, deadline).await {
                Ok(table) => table,
                // A router does not list this database: it refuses the request in its own words too.
                Err(Missing::Unlisted(router)) => return router.obtain(Want::Lease(need), deadline).await,
                Err(Missing::Nowhere) => return self.anybody(Want::Lease(need), deadline).await,
                Err(Missing::Login(payload)) => return Err(ConnectError::Failure(payload[..].into())),
                Err(Missing::Refused(refusal)) => return Err(last.unwrap_or_else(|| refusal.into())),
            };
            for members in table.candidates(role) {
                match first_of(&members, Want::Lease(need), deadline).await {
                    Some(result) if is_settled(&result) => return result,
                    Some(Err(error)) => {
                        table.doubt();
                        last = Some(error);
                    }
                    _ => {}
                }
            }
            if table.fetched >= started || Instant::now() >= deadline {
                break;
            }
        }
        Err(self.nobody(need, role, last))
    }

    /// A connection of its own to whatever server can be reached.
    pub(crate) async fn fresh(
        &self,
        key: &Arc<Key>,
        principal: Option<&Arc<Principal>>,
    ) -> Result<Lease, ConnectError> {
        let deadline = Instant::now() + self.config.load().pool.connection_acquisition_timeout;
        self.anybody(Want::Fresh(key, principal), deadline).await
    }

    /// The answer to a client's own HELLO of the first server that can be reached; `None` if it only closes.
    pub(crate) async fn greet(
        &self,
        version: Version,
        hello: &[u8],
    ) -> Result<Option<Vec<u8>>, ConnectError> {
        let mut last = None;
        for member in self.routers() {
            match member.pool.greet(version, hello).await {
                Err(
                    error @ ConnectError::Refused(Refusal::Unreachable { .. } | Refusal::BreakerOpen { .. }),
                ) => {
                    last = Some(error);
                }
                answer => return answer,
            }
        }
        Err(last.unwrap_or_else(|| self.nowhere().into()))
    }

    /// Keeps `pool.min_idle` connections to each listed server ready, and before that the table of the home database.
    pub(crate) async fn warm(self: &Arc<Self>, principal: &Arc<Principal>) {
        let Some(version) = self.offered().await.and_then(|offered| offered.iter().max().copied()) else {
            return;
        };
        let key = Arc::new(Key { routing: Some(self.context.clone()), ..Key::plain(version) });
        let need = Need { key, principal: Arc::clone(principal), access: Access::default() };
        if matches!(self.books.read().known(&need, Instant::now()), Known::Nothing) {
            let home = self.books.read().target(&need);
            self.fly(home, &need);
        }
        for member in self.members.all() {
            if self.books.read().lists(&member) && !member.is_down() {
                member.warm(principal, &self.context);
            }
        }
    }

    /// A server contradicted the tables: it leaves them, and they are fetched anew with the next request.
    pub(crate) fn report(&self, server: &Arc<Pool>, principal: &Principal, access: &Access, fault: Fault) {
        if self.books.write().report(server, principal, access, fault) {
            let database = access.database.as_deref();
            tracing::info!(server = server.address(), ?fault, database, "A server left the routing tables.");
        }
    }

    /// The versions that every server offers which has said so; those of the first that answers if none has.
    pub(crate) async fn offered(&self) -> Option<Arc<[Version]>> {
        let all = in_order(&self.members.all());
        let heard: Vec<_> =
            all.iter().filter(|m| !m.is_down()).filter_map(|member| member.pool.offered_last()).collect();
        let Some((first, others)) = heard.split_first() else {
            for member in all {
                if let Ok(versions) = member.pool.offered().await {
                    return Some(versions);
                }
            }
            return None;
        };
        if others.iter().all(|other| other == first) {
            return Some(Arc::clone(first));
        }
        let common: Arc<[Version]> =
            first.iter().filter(|v| others.iter().all(|other| other.contains(v))).copied().collect();
        Some(if common.is_empty() { Arc::clone(first) } else { common })
    }

    /// What a server says in HELLO, if one has said it before.
    pub(crate) fn greeting(&self, key: &Key) -> Option<Greeting> {
        self.members.all().iter().find_map(|member| member.pool.greeting(key.version, key.utc))
    }

    /// The shortest receive time-out that a server advertises.
    pub(crate) fn recv_timeout(&self) -> Option<Duration> {
        self.members.all().iter().filter_map(|member| member.pool.recv_timeout()).min()
    }

    /// The pools of all servers.
    pub(crate) fn pools(&self) -> Vec<Arc<Pool>> {
        self.members.all().iter().map(|member| Arc::clone(&member.pool)).collect()
    }

    /// True if no more than one server is known.
    pub(crate) fn is_single(&self) -> bool {
        let books = self.books.read();
        Role::ALL.iter().all(|role| books.count(*role) <= 1)
    }

    /// Distinct servers by role, for the metrics.
    pub(crate) fn count(&self, role: Role) -> usize {
        self.books.read().count(role)
    }

    /// Housekeeping, once in a while: what is over goes, and servers are looked at. Gives the reason why no request can be served.
    pub(crate) async fn look(self: &Arc<Self>) -> Option<String> {
        self.tidy();
        self.members.probe();
        let home_is_up = self.books.read().home_is_up();
        match home_is_up {
            Some(true) => None,
            Some(false) => {
                // Without traffic nobody else would find out where the database is now.
                let some = self.books.read().some_home();
                if let Some((home, need)) = some {
                    self.fly(home, &need);
                }
                Some("no writer or reader of the home database can be reached".to_owned())
            }
            None => {
                let seed = self.members.seed();
                let looked = if seed.is_down() { seed.pool.probe().await } else { seed.pool.offered().await };
                looked.err().map(|refusal| refusal.to_string())
            }
        }
    }

    fn tidy(&self) {
        let now = Instant::now();
        self.flights.lock().retain(|_, flight| flight.is_of_use(now));
        let listed = {
            let mut books = self.books.write();
            books.tidy(now);
            books.listed()
        };
        self.members.tidy(&listed);
    }

    /// Any server at all, routers first, the seed and what is behind its name last.
    async fn anybody(&self, want: Want<'_>, deadline: Instant) -> Result<Lease, ConnectError> {
        let last = first_of(&self.routers(), want, deadline).await;
        match last {
            Some(Err(ConnectError::Refused(Refusal::VersionUnsupported { .. }))) => {
                // Another of the servers behind the seed's name may have it; those that cannot be reached were tried with the seed.
                let servers = self.members.behind_seed().await;
                first_of(&servers, want, deadline).await.or(last)
            }
            last => last,
        }
        .unwrap_or_else(|| Err(self.nowhere().into()))
    }

    /// The routers to ask, best first, the seed last.
    fn routers(&self) -> Vec<Arc<Member>> {
        let mut routers = in_order(&self.books.read().routers);
        let seed = self.members.seed();
        if !routers.iter().any(|router| Arc::ptr_eq(router, seed)) {
            routers.push(Arc::clone(seed));
        }
        routers
    }

    fn nowhere(&self) -> Refusal {
        let address = self.members.seed().pool.address().to_owned();
        Refusal::Unreachable { address, reason: "no server answers".to_owned() }
    }

    /// Why nobody took the request.
    fn nobody(&self, need: &Need, role: Role, last: Option<ConnectError>) -> ConnectError {
        let reason = match last {
            None => "the cluster names none; an election may be under way".to_owned(),
            Some(ConnectError::Refused(
                Refusal::Unreachable { address, reason } | Refusal::BreakerOpen { address, reason, .. },
            )) => format!("{address}: {reason}"),
            Some(error) => return error,
        };
        let database = self.books.read().name(need).to_string();
        Refusal::NoMember { role: role.name(), database, reason }.into()
    }

    /// A table with somebody for `role` in it, or else the newest that can be had.
    async fn table(
        self: &Arc<Self>,
        need: &Need,
        role: Role,
        anew: bool,
        deadline: Instant,
    ) -> Result<Arc<Table>, Missing> {
        let now = Instant::now();
        let known = self.books.read().known(need, now);
        if !anew
            && let Known::Table(table) | Known::Aging(table) = &known
            && table.is_current(now)
            && table.serves(role)
        {
            self.refresh_ahead(&known, need, now);
            return Ok(Arc::clone(table));
        }
        let known = match known {
            Known::Nowhere => return Err(Missing::Nowhere),
            Known::Table(table) | Known::Aging(table) | Known::Former(table) => Some(table),
            Known::Nothing => None,
        };
        // While nobody can be asked, what is known may be used a little longer: a server that is asked wrongly says so.
        let known = known.filter(|table| !anew && table.is_tolerable(now) && table.serves(role));
        let patience =
            if known.is_some() { now + deadline.saturating_duration_since(now) / 2 } else { deadline };
        let target = self.books.read().target(need);
        match (self.fetch(target, need, patience).await, known) {
            (Err(Missing::Refused(_)), Some(table)) => Ok(table),
            (fetched, _) => fetched,
        }
    }

    /// Has what is due soon fetched without waiting for it.
    fn refresh_ahead(self: &Arc<Self>, known: &Known, need: &Need, now: Instant) {
        let (Known::Table(table) | Known::Aging(table)) = known else { return };
        if table.is_due(now) {
            let target = self.books.read().target(need);
            self.fly(target, need);
        }
        if matches!(known, Known::Aging(_)) {
            self.fly(Target::Home(Home::of(&need.principal, &need.access)), need);
        }
    }

    /// Takes what `router` lists into use; `None` if it lists nobody who can be used.
    fn adopt(
        &self,
        target: &Target,
        listing: &Listing,
        router: &Arc<Member>,
        need: &Need,
    ) -> Option<Arc<Table>> {
        let roles = Role::ALL.map(|role| self.listed(listing, role, router));
        let table = Table::new(listing.database.as_deref().unwrap_or_default(), listing.ttl, roles)?;
        let table = Arc::new(table);
        self.books.write().adopt(target, &table, need);
        Some(table)
    }

    /// The members of a role. Where Neo4j advertises the proxy itself, the server that answered is meant if it is the only one.
    fn listed(&self, listing: &Listing, role: Role, router: &Arc<Member>) -> Vec<Arc<Member>> {
        let listen = self.config.load().listen.address;
        let (own, others): (Vec<_>, Vec<_>) =
            listing.of(role).iter().partition(|address| address.leads_to(listen));
        if others.is_empty() && !own.is_empty() {
            return vec![Arc::clone(router)];
        }
        others.into_iter().filter_map(|address| self.members.at(address)).collect()
    }
}

/// True if no other server and no other table would change it: a connection, a refused login, or a server that is there but busy.
fn is_settled(obtained: &Result<Lease, ConnectError>) -> bool {
    match obtained {
        Ok(_)
        | Err(ConnectError::Refused(Refusal::AcquisitionTimeout { .. } | Refusal::QueueFull { .. })) => true,
        Err(ConnectError::Failure(payload)) => !is_transient(payload),
        Err(ConnectError::Refused(_)) => false,
    }
}
