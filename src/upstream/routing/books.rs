//! What is known: a table per database, the home databases of users, and the routers to ask.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::{Duration, Instant};

use super::Fault;
use super::listing::{MAX_DATABASE, Role};
use super::member::{Member, in_order, least};
use crate::upstream::pool::Pool;
use crate::upstream::principal::Principal;
use crate::upstream::{Access, Need};

/// Databases, and users with a home database, that are known at once; more push out those asked for longest ago.
pub(super) const KNOWN: usize = 10_000;
/// The share of a table's time after which the next request has it fetched anew, without waiting for it.
const FRESH: f64 = 0.8;
/// The same for a table in which nobody can take writes, or reads: it will not stay like that.
const HURRY: Duration = Duration::from_secs(5);
/// How long a table may be used beyond its time while no router can be asked: at most as long again, and not longer than this.
const GRACE: Duration = Duration::from_secs(300);

/// A routing table in use.
#[derive(Clone)]
pub(super) struct Table {
    /// The database's own name; empty if the router did not say it.
    pub(super) database: Arc<str>,
    writers: Vec<Arc<Member>>,
    readers: Vec<Arc<Member>>,
    routers: Vec<Arc<Member>>,
    pub(super) fetched: Instant,
    /// From here on it is fetched anew by the way.
    due: Instant,
    expires: Instant,
    /// It may be used until then if no other can be had.
    ends: Instant,
    /// Something is wrong with it: it is due at once.
    doubted: Arc<AtomicBool>,
}

impl Table {
    /// A table that was fetched just now; `None` if it lists nobody who takes requests.
    pub(super) fn new(database: &str, ttl: Duration, roles: [Vec<Arc<Member>>; 3]) -> Option<Self> {
        let [writers, readers, routers] = roles;
        if writers.is_empty() && readers.is_empty() {
            return None;
        }
        let now = Instant::now();
        // Varied, so that the tables of several proxies and databases are not all due together.
        let ttl = ttl.mul_f64(1.0 - 0.1 * fastrand::f64());
        let is_whole = [&writers, &readers].iter().all(|members| least(members).is_some());
        let fresh = ttl.mul_f64(FRESH).min(if is_whole { ttl } else { HURRY });
        Some(Self {
            database: database.into(),
            writers,
            readers,
            routers,
            fetched: now,
            due: now + fresh,
            expires: now + ttl,
            ends: now + ttl + ttl.min(GRACE),
            doubted: Arc::default(),
        })
    }

    /// The members of a role.
    pub(super) fn of(&self, role: Role) -> &[Arc<Member>] {
        match role {
            Role::Writer => &self.writers,
            Role::Reader => &self.readers,
            Role::Router => &self.routers,
        }
    }

    /// Those that may stand in for a role: the leader reads if nobody else can.
    fn stand_ins(&self, role: Role) -> &[Arc<Member>] {
        if role == Role::Reader { &self.writers } else { &[] }
    }

    /// Who takes a request without further ado.
    pub(super) fn best(&self, role: Role) -> Option<&Arc<Member>> {
        least(self.of(role)).or_else(|| least(self.stand_ins(role)))
    }

    /// Those that are to be tried, best first, and then those that remain if none of them can be reached.
    pub(super) fn candidates(&self, role: Role) -> [Vec<Arc<Member>>; 2] {
        let (down, up): (Vec<_>, Vec<_>) = in_order(self.of(role)).into_iter().partition(|m| m.is_down());
        let (down_too, mut rest): (Vec<_>, Vec<_>) =
            in_order(self.stand_ins(role)).into_iter().partition(|m| m.is_down());
        rest.extend(down);
        rest.extend(down_too);
        [up, rest]
    }

    /// True if somebody can take requests of that role, as far as is known.
    pub(super) fn serves(&self, role: Role) -> bool {
        self.best(role).is_some()
    }

    /// True if it is time to fetch it anew.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due <= now || self.doubted.load(Ordering::Relaxed)
    }

    /// True while it may be used without asking.
    pub(super) fn is_current(&self, now: Instant) -> bool {
        now < self.expires
    }

    /// True while it may be used if nobody can be asked.
    pub(super) fn is_tolerable(&self, now: Instant) -> bool {
        now < self.ends
    }

    /// Something is wrong with it.
    pub(super) fn doubt(&self) {
        self.doubted.store(true, Ordering::Relaxed);
    }

    fn members(&self) -> impl Iterator<Item = &Arc<Member>> {
        Role::ALL.into_iter().flat_map(|role| self.of(role))
    }

    /// Takes a server out; false if it was not in.
    fn remove(self: &mut Arc<Self>, server: &Arc<Pool>, fault: Fault) -> bool {
        let stays = |member: &Arc<Member>| !Arc::ptr_eq(&member.pool, server);
        let concerned = if fault == Fault::NotLeader { &[Role::Writer][..] } else { &Role::ALL };
        if concerned.iter().all(|role| self.of(*role).iter().all(stays)) {
            return false;
        }
        let table = Arc::make_mut(self);
        table.writers.retain(stays);
        if fault != Fault::NotLeader {
            table.readers.retain(stays);
            table.routers.retain(stays);
        }
        table.doubt();
        true
    }
}

/// Whose home database is meant.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Home {
    principal: [u8; 32],
    /// The user in whose name the request runs, if that is another.
    pub(super) impersonated: Option<Arc<str>>,
}

impl Home {
    /// That of a request which names no database.
    pub(super) fn of(principal: &Principal, access: &Access) -> Self {
        Self { principal: principal.id, impersonated: access.impersonated.clone() }
    }
}

/// A home database's name, as a router gave it.
struct HomeName {
    database: Arc<str>,
    due: Instant,
    expires: Instant,
    /// It may be used until then if it cannot be asked for.
    ends: Instant,
    /// The request for which it was asked: it can be asked again.
    need: Need,
}

/// What a table is asked for.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) enum Target {
    /// A database by name.
    Database(Arc<str>),
    /// A user's home database.
    Home(Home),
}

/// What is known for a request.
pub(super) enum Known {
    /// A table, perhaps due or expired.
    Table(Arc<Table>),
    /// The table of the home database, whose name is soon to be asked for again.
    Aging(Arc<Table>),
    /// The table of what was the home database: its name has to be asked for again.
    Former(Arc<Table>),
    /// Nothing yet.
    Nothing,
    /// No server can have a database of that name: any of them will say so.
    Nowhere,
}

/// All that is known.
#[derive(Default)]
pub(super) struct Books {
    tables: HashMap<Arc<str>, Arc<Table>>,
    homes: HashMap<Home, HomeName>,
    /// The routers of the newest table.
    pub(super) routers: Vec<Arc<Member>>,
}

impl Books {
    /// The table for a request.
    pub(super) fn known(&self, need: &Need, now: Instant) -> Known {
        let is_endless =
            |name: &Option<Arc<str>>| name.as_ref().is_some_and(|name| name.len() > MAX_DATABASE);
        if is_endless(&need.access.database) || is_endless(&need.access.impersonated) {
            return Known::Nowhere;
        }
        let table = |name: &Arc<str>| self.tables.get(name).cloned();
        if let Some(name) = &need.access.database {
            return table(name).map_or(Known::Nothing, Known::Table);
        }
        let Some(home) = self.homes.get(&Home::of(&need.principal, &need.access)) else {
            return Known::Nothing;
        };
        let known = match now {
            _ if now < home.due => Known::Table,
            _ if now < home.expires => Known::Aging,
            _ => Known::Former,
        };
        table(&home.database).map_or(Known::Nothing, known)
    }

    /// What is to be asked for. Users share the table of a database; a home database's name is asked for again in its own time.
    pub(super) fn target(&self, need: &Need) -> Target {
        if let Some(name) = &need.access.database {
            return Target::Database(Arc::clone(name));
        }
        let home = Home::of(&need.principal, &need.access);
        match self.homes.get(&home).filter(|known| known.expires > Instant::now()) {
            Some(known) => Target::Database(Arc::clone(&known.database)),
            None => Target::Home(home),
        }
    }

    /// The name of the database that a request is about, for people.
    pub(super) fn name(&self, need: &Need) -> Arc<str> {
        match self.target(need) {
            Target::Database(name) => name,
            Target::Home(_) => "(home)".into(),
        }
    }

    /// Takes a new table into use. Beyond the limit half of what is there goes, the oldest first.
    pub(super) fn adopt(&mut self, target: &Target, table: &Arc<Table>, need: &Need) {
        if self.tables.len() >= KNOWN {
            let middle = middle(self.tables.values().map(|table| table.fetched));
            self.tables.retain(|_, table| table.fetched > middle);
        }
        if self.homes.len() >= KNOWN {
            let middle = middle(self.homes.values().map(|home| home.expires));
            self.homes.retain(|_, home| home.expires > middle);
        }
        if !table.routers.is_empty() {
            self.routers.clone_from(&table.routers);
        }
        let key = match target {
            Target::Database(name) => Arc::clone(name),
            Target::Home(home) => {
                let database = Arc::clone(&table.database);
                let name = HomeName {
                    database: Arc::clone(&database),
                    due: table.due,
                    expires: table.expires,
                    ends: table.ends,
                    need: need.clone(),
                };
                self.homes.insert(home.clone(), name);
                database
            }
        };
        self.tables.insert(key, Arc::clone(table));
    }

    /// A server contradicted the tables: it leaves those that are concerned. False if it was in none of them.
    pub(super) fn report(
        &mut self,
        server: &Arc<Pool>,
        principal: &Principal,
        access: &Access,
        fault: Fault,
    ) -> bool {
        let name = match &access.database {
            Some(name) => Some(Arc::clone(name)),
            None => self.homes.get(&Home::of(principal, access)).map(|home| Arc::clone(&home.database)),
        };
        // A database may be known under several names.
        let database =
            name.as_ref().and_then(|name| self.tables.get(name)).map(|table| Arc::clone(&table.database));
        let concerned = |key: &Arc<str>, table: &Table| {
            fault == Fault::Lost || name.as_ref() == Some(key) || database.as_ref() == Some(&table.database)
        };
        let mut removed = false;
        for (key, table) in &mut self.tables {
            removed |= concerned(key, table) && table.remove(server, fault);
        }
        removed
    }

    /// Forgets what is over.
    pub(super) fn tidy(&mut self, now: Instant) {
        self.tables.retain(|_, table| table.is_tolerable(now));
        self.homes.retain(|_, home| home.ends > now);
    }

    /// True if a table lists this member.
    pub(super) fn lists(&self, member: &Arc<Member>) -> bool {
        self.tables.values().any(|table| table.members().any(|listed| Arc::ptr_eq(listed, member)))
    }

    /// All members that are listed.
    pub(super) fn listed(&self) -> HashSet<*const Member> {
        let tables = self.tables.values().flat_map(|table| table.members());
        tables.chain(&self.routers).map(Arc::as_ptr).collect()
    }

    /// Distinct members of a role.
    pub(super) fn count(&self, role: Role) -> usize {
        self.tables.values().flat_map(|table| table.of(role)).map(Arc::as_ptr).collect::<HashSet<_>>().len()
    }

    /// Whether the home database of anybody can be read or written; `None` if no home database is known.
    pub(super) fn home_is_up(&self) -> Option<bool> {
        let mut tables = self.homes.values().filter_map(|home| self.tables.get(&home.database)).peekable();
        tables.peek()?;
        Some(tables.any(|table| table.serves(Role::Reader)))
    }

    /// Somebody's home database, and the request for which it was asked.
    pub(super) fn some_home(&self) -> Option<(Target, Need)> {
        self.homes.iter().next().map(|(home, known)| (Target::Home(home.clone()), known.need.clone()))
    }
}

fn middle(times: impl Iterator<Item = Instant>) -> Instant {
    let mut times: Vec<_> = times.collect();
    let at = times.len() / 2;
    *times.select_nth_unstable(at).1
}
