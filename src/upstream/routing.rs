//! `neo4j://` upstream: a routing table per database, kept as Neo4j's drivers keep it, and the member that takes a request.

mod flight;
mod listing;
mod member;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use bolt_wire::Version;
use parking_lot::{Mutex, RwLock};
use tokio::time::{Duration, Instant};

pub(crate) use self::listing::Role;

use self::flight::{Fetched, Flight};
use self::listing::{Listing, MAX_DATABASE};
use self::member::{Member, Members, Want, first_of, in_order, least};
use super::connect::{ConnectError, Greeting};
use super::key::Key;
use super::pool::{Lease, Pool};
use super::principal::Principal;
use super::{Access, Need};
use crate::buffers::Buffers;
use crate::config::{Config, UpstreamUri};
use crate::failure::Refusal;
use crate::metrics::Metrics;

/// Databases, and users with a home database, that are known at once; more push out those asked for longest ago.
const KNOWN: usize = 10_000;
/// The share of a table's time after which the next request has it fetched anew, without waiting for it.
const FRESH: f64 = 0.8;
/// How long a table may be used beyond its time while no router can be asked: at most as long again, and not longer than this.
const GRACE: Duration = Duration::from_secs(300);

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

/// A routing table in use.
#[derive(Clone)]
struct Table {
    /// The database's own name; empty if the router did not say it.
    database: Arc<str>,
    writers: Vec<Arc<Member>>,
    readers: Vec<Arc<Member>>,
    routers: Vec<Arc<Member>>,
    fetched: Instant,
    /// From here on it is fetched anew by the way.
    due: Instant,
    expires: Instant,
    /// It may be used until then if no other can be had.
    ends: Instant,
    /// Something is wrong with it: it is due at once.
    doubted: Arc<AtomicBool>,
}

impl Table {
    fn of(&self, role: Role) -> &[Arc<Member>] {
        match role {
            Role::Writer => &self.writers,
            Role::Reader => &self.readers,
            Role::Router => &self.routers,
        }
    }

    /// Those that may take a request, best first. The leader may read too, if nobody else can.
    fn candidates(&self, role: Role) -> Vec<Arc<Member>> {
        let mut candidates = in_order(self.of(role));
        if role == Role::Reader {
            let more = in_order(&self.writers).into_iter();
            let more: Vec<_> = more.filter(|m| !candidates.iter().any(|c| Arc::ptr_eq(c, m))).collect();
            candidates.extend(more);
        }
        candidates
    }

    fn has_up(&self, role: Role) -> bool {
        self.of(role).iter().any(|member| !member.is_down())
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due <= now || self.doubted.load(Ordering::Relaxed)
    }

    fn lists(&self, member: &Arc<Member>) -> bool {
        Role::ALL.iter().any(|role| self.of(*role).iter().any(|listed| Arc::ptr_eq(listed, member)))
    }
}

/// Whose home database is meant.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Home {
    principal: [u8; 32],
    impersonated: Option<Box<str>>,
}

/// A home database's name, as a router gave it.
struct HomeName {
    database: Arc<str>,
    due: Instant,
    expires: Instant,
}

/// What a table is asked for.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Target {
    Database(Arc<str>),
    Home(Home),
}

#[derive(Default)]
struct Books {
    tables: HashMap<Arc<str>, Arc<Table>>,
    homes: HashMap<Home, HomeName>,
    /// The routers of the newest table.
    routers: Vec<Arc<Member>>,
}

/// What is known for a request.
enum Known {
    /// A table, perhaps due or expired.
    Table(Arc<Table>),
    /// Nothing yet.
    Nothing,
    /// No server can have a database of that name: any of them will say so.
    Nowhere,
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
        config: &Arc<ArcSwap<Config>>,
        buffers: &Arc<Buffers>,
        metrics: &Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            members: Members::new(&uri.host, uri.port, config, buffers, metrics),
            context: listing::context(uri.routing_context.as_deref()),
            books: RwLock::default(),
            flights: Mutex::default(),
            config: Arc::clone(config),
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
        let Known::Table(table) = self.known(need) else { return None };
        let now = Instant::now();
        if table.expires <= now {
            return None;
        }
        self.refresh_ahead(&table, need, now);
        least(table.of(role))?.pool.try_lease(need)
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
                // A router has refused to list this database: it refuses the request in its own words too.
                Err(Fetched::Refusing(router)) => return router.obtain(Want::Lease(need), deadline).await,
                Err(Fetched::Login(payload)) => return Err(ConnectError::Failure(payload[..].into())),
                Err(Fetched::Refused(refusal)) => return Err(last.unwrap_or_else(|| refusal.into())),
                Err(Fetched::Nowhere) => return self.anybody(Want::Lease(need), deadline).await,
                Err(Fetched::Table(_)) => break,
            };
            match first_of(&table.candidates(role), Want::Lease(need), deadline).await {
                Some(Ok(lease)) => {
                    self.refresh_ahead(&table, need, Instant::now());
                    return Ok(lease);
                }
                Some(Err(error)) => last = Some(error),
                None => {}
            }
            table.doubted.store(true, Ordering::Relaxed);
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

    /// A server contradicted the tables: it leaves them, and they are fetched anew with the next request.
    pub(crate) fn report(&self, server: &Arc<Pool>, principal: &Principal, access: &Access, fault: Fault) {
        let name = match self.known_name(principal, access) {
            Some(name) => name,
            None if fault == Fault::Lost => Arc::from(""),
            None => return,
        };
        let mut books = self.books.write();
        let database = books.tables.get(&name).map(|table| Arc::clone(&table.database));
        for (key, table) in &mut books.tables {
            let same = *key == name || database.as_ref() == Some(&table.database);
            if !same && fault != Fault::Lost {
                continue;
            }
            let stays = |member: &Arc<Member>| !Arc::ptr_eq(&member.pool, server);
            if Role::ALL.iter().all(|role| table.of(*role).iter().all(stays)) {
                continue;
            }
            let table = Arc::make_mut(table);
            table.writers.retain(stays);
            if fault != Fault::NotLeader {
                table.readers.retain(stays);
                table.routers.retain(stays);
            }
            table.doubted.store(true, Ordering::Relaxed);
        }
        drop(books);
        tracing::info!(server = server.address(), ?fault, "A server left the routing tables.");
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

    /// Distinct servers by role, for the metrics.
    pub(crate) fn count(&self, role: Role) -> usize {
        let books = self.books.read();
        let mut pools: Vec<_> =
            books.tables.values().flat_map(|table| table.of(role)).map(Arc::as_ptr).collect();
        pools.sort_unstable();
        pools.dedup();
        pools.len()
    }

    /// Housekeeping, once in a while: what is over goes, and servers are looked at. Gives the reason why no request can be served.
    pub(crate) async fn look(&self) -> Option<String> {
        self.tidy();
        self.members.probe();
        let homes: Vec<Arc<Table>> = {
            let books = self.books.read();
            books.homes.values().filter_map(|home| books.tables.get(&home.database).cloned()).collect()
        };
        let up = |table: &Arc<Table>| table.has_up(Role::Writer) || table.has_up(Role::Reader);
        if homes.iter().any(up) {
            return None;
        }
        let seed = self.members.seed();
        let trouble =
            if seed.is_down() { seed.pool.probe().await } else { seed.pool.offered().await }.err()?;
        Some(trouble.to_string())
    }

    fn tidy(&self) {
        let now = Instant::now();
        let mut books = self.books.write();
        books.tables.retain(|_, table| table.ends > now);
        books.homes.retain(|_, home| home.expires > now);
        let Books { tables, routers, .. } = &*books;
        let listed = |member: &Arc<Member>| {
            routers.iter().any(|router| Arc::ptr_eq(router, member))
                || tables.values().any(|t| t.lists(member))
        };
        self.members.tidy(listed);
        drop(books);
        self.flights.lock().retain(|_, flight| flight.is_of_use(now));
    }

    /// Any server at all, routers first, the seed and what is behind its name last.
    async fn anybody(&self, want: Want<'_>, deadline: Instant) -> Result<Lease, ConnectError> {
        let mut servers = self.routers();
        let mut last = first_of(&servers, want, deadline).await;
        if !matches!(last, Some(Ok(_))) {
            servers = self.members.behind_seed().await;
            last = first_of(&servers, want, deadline).await.or(last);
        }
        last.unwrap_or_else(|| Err(self.nowhere().into()))
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
            Some(ConnectError::Refused(Refusal::Unreachable { address, reason })) => {
                format!("{address}: {reason}")
            }
            Some(error) => return error,
        };
        let name = self.known_name(&need.principal, &need.access);
        let database = name.map_or_else(|| "(home)".to_owned(), |name| name.to_string());
        Refusal::NoMember { role: role.name(), database, reason }.into()
    }

    /// The name of the database that a request is about, if it is known.
    fn known_name(&self, principal: &Principal, access: &Access) -> Option<Arc<str>> {
        let books = self.books.read();
        match &access.database {
            Some(name) => books.tables.get_key_value(&**name).map(|(name, _)| Arc::clone(name)),
            None => books.homes.get(&Home::of(principal, access)).map(|home| Arc::clone(&home.database)),
        }
    }

    fn known(&self, need: &Need) -> Known {
        let table = |found: Option<&Arc<Table>>| found.cloned().map_or(Known::Nothing, Known::Table);
        let books = self.books.read();
        match &need.access.database {
            Some(name) if name.len() > MAX_DATABASE => Known::Nowhere,
            Some(name) => table(books.tables.get(&**name)),
            None => match books.homes.get(&Home::of(&need.principal, &need.access)) {
                Some(home) if home.expires > Instant::now() => table(books.tables.get(&home.database)),
                _ => Known::Nothing,
            },
        }
    }

    /// A table with somebody for `role` in it, or else the newest that can be had.
    async fn table(
        self: &Arc<Self>,
        need: &Need,
        role: Role,
        anew: bool,
        deadline: Instant,
    ) -> Result<Arc<Table>, Fetched> {
        let known = match self.known(need) {
            Known::Nowhere => return Err(Fetched::Nowhere),
            Known::Table(table) => Some(table),
            Known::Nothing => None,
        };
        let now = Instant::now();
        let usable = known.as_ref().filter(|table| !anew && table.expires > now && table.has_up(role));
        if let Some(table) = usable {
            return Ok(Arc::clone(table));
        }
        match self.fetch(self.target(need), need, deadline).await {
            Fetched::Table(table) => Ok(table),
            // While nobody can be asked, what is known may be used a little longer: a server that is asked wrongly says so.
            Fetched::Refused(refusal) => match known.filter(|table| !anew && table.ends > now) {
                Some(table) => Ok(table),
                None => Err(Fetched::Refused(refusal)),
            },
            other => Err(other),
        }
    }

    fn target(&self, need: &Need) -> Target {
        match &need.access.database {
            Some(name) => Target::Database((**name).into()),
            None => {
                let home = Home::of(&need.principal, &need.access);
                let books = self.books.read();
                match books.homes.get(&home).filter(|known| known.expires > Instant::now()) {
                    // The name is still good: users share the table.
                    Some(known) => Target::Database(Arc::clone(&known.database)),
                    None => Target::Home(home),
                }
            }
        }
    }

    /// Has what is due soon fetched without waiting for it.
    fn refresh_ahead(self: &Arc<Self>, table: &Table, need: &Need, now: Instant) {
        if table.is_due(now) {
            self.fly(self.target(need), need);
        }
        if need.access.database.is_none() {
            let home = Home::of(&need.principal, &need.access);
            let due = self.books.read().homes.get(&home).is_some_and(|known| known.due <= now);
            if due {
                self.fly(Target::Home(home), need);
            }
        }
    }

    /// Takes what `router` lists into use.
    fn adopt(&self, target: &Target, listing: &Listing, router: &Arc<Member>) -> Option<Arc<Table>> {
        let [writers, readers, routers] = Role::ALL.map(|role| self.listed(listing, role, router));
        if writers.is_empty() && readers.is_empty() {
            return None;
        }
        let now = Instant::now();
        // Varied, so that the tables of several proxies and databases are not all due together.
        let ttl = listing.ttl.mul_f64(1.0 - 0.1 * fastrand::f64());
        let (due, expires) = (now + ttl.mul_f64(FRESH), now + ttl);
        let database: Arc<str> = listing.database.as_deref().unwrap_or_default().into();
        let table = Arc::new(Table {
            database: Arc::clone(&database),
            writers,
            readers,
            routers,
            fetched: now,
            due,
            expires,
            ends: expires + ttl.min(GRACE),
            doubted: Arc::default(),
        });
        let mut books = self.books.write();
        make_room(&mut books);
        if !table.routers.is_empty() {
            books.routers.clone_from(&table.routers);
        }
        let key = match target {
            Target::Database(name) => Arc::clone(name),
            Target::Home(home) => {
                books.homes.insert(home.clone(), HomeName { database: Arc::clone(&database), due, expires });
                database
            }
        };
        books.tables.insert(key, Arc::clone(&table));
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

impl Home {
    fn of(principal: &Principal, access: &Access) -> Self {
        Self { principal: principal.id, impersonated: access.impersonated.clone() }
    }
}

/// Keeps the books bounded: beyond the limit, half of what is there goes, the oldest first.
fn make_room(books: &mut Books) {
    if books.tables.len() >= KNOWN {
        let mut ages: Vec<_> = books.tables.values().map(|table| table.fetched).collect();
        let (_, middle, _) = ages.select_nth_unstable(KNOWN / 2);
        let middle = *middle;
        books.tables.retain(|_, table| table.fetched > middle);
    }
    if books.homes.len() >= KNOWN {
        let mut ages: Vec<_> = books.homes.values().map(|home| home.expires).collect();
        let (_, middle, _) = ages.select_nth_unstable(KNOWN / 2);
        let middle = *middle;
        books.homes.retain(|_, home| home.expires > middle);
    }
}
