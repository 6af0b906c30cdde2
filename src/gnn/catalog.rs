//! The graphs that there are: by user, database and name.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Trouble;
use super::budget::Budget;
use super::fetch::{Caller, NOTHING};
use super::fresh::{Known, known};
use super::graph::Graph;
use super::project;
use super::spec::Spec;

/// Graphs of all users together.
const GRAPHS: usize = 10_000;
/// For so long it is believed which database a user's home is.
const HOME: Duration = Duration::from_secs(60);
/// Users whose home is remembered.
const HOMES: usize = 10_000;

/// Whose a graph is, and of which database.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Owner {
    principal: [u8; 32],
    impersonated: Option<Box<str>>,
    /// As Neo4j calls it, in small letters.
    pub(crate) database: Box<str>,
}

/// A graph by its name.
pub(crate) struct Named {
    pub(crate) name: Box<str>,
    pub(crate) owner: Owner,
    graph: ArcSwap<Graph>,
    /// Reading it anew: one at a time, and others wait for that one.
    renewal: tokio::sync::Mutex<()>,
}

impl Named {
    /// As it was read last.
    pub(crate) fn latest(&self) -> Arc<Graph> {
        self.graph.load_full()
    }
}

type Graphs = HashMap<(Owner, Box<str>), Arc<Named>>;
type Homes = HashMap<([u8; 32], Option<Box<str>>), (Instant, Box<str>)>;

/// All graphs.
#[derive(Default)]
pub(crate) struct Catalog {
    graphs: Mutex<Graphs>,
    homes: Mutex<Homes>,
    versions: AtomicU64,
    pub(crate) budget: Arc<Budget>,
}

impl Catalog {
    /// Whose the caller's graphs are. Asks Neo4j for his home database if he names none and nobody knows it.
    pub(crate) async fn owner(&self, caller: &Caller) -> Result<Owner, Trouble> {
        let access = &caller.need.access;
        let principal = caller.need.principal.id;
        let impersonated: Option<Box<str>> = access.impersonated.as_deref().map(Into::into);
        let owner = |name: &str| Owner {
            principal,
            impersonated: impersonated.clone(),
            database: name.to_lowercase().into(),
        };
        if let Some(named) = access.database.as_deref() {
            return Ok(owner(named));
        }
        let key = (principal, impersonated.clone());
        let remembered = self.homes.lock().get(&key).filter(|(since, _)| since.elapsed() < HOME).cloned();
        if let Some((_, home)) = remembered {
            return Ok(owner(&home));
        }
        let mut lease = caller.lease().await?;
        let ended = caller.read(&mut lease, "RETURN 1", NOTHING, |_| Ok(())).await?;
        let home = ended.database.ok_or_else(|| {
            Trouble::wrong(
                "Neo4j does not say which database is your home: name the database in the session.",
            )
        })?;
        let mut homes = self.homes.lock();
        if homes.len() >= HOMES {
            homes.clear();
        }
        homes.insert(key, (Instant::now(), home.clone()));
        drop(homes);
        Ok(owner(&home))
    }

    /// Another version of any graph.
    pub(super) fn next_version(&self) -> u64 {
        self.versions.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Reads a graph and keeps it under a name that is free.
    pub(crate) async fn project(
        &self,
        caller: &Caller,
        owner: Owner,
        name: &str,
        spec: Arc<Spec>,
    ) -> Result<Arc<Named>, Trouble> {
        let key = (owner.clone(), name.into());
        if self.graphs.lock().contains_key(&key) {
            return Err(exists(name));
        }
        let graph = project::read(caller, &spec, &self.budget, self.next_version()).await?;
        let named = Arc::new(Named {
            name: name.into(),
            owner,
            graph: ArcSwap::from_pointee(graph),
            renewal: tokio::sync::Mutex::default(),
        });
        let mut graphs = self.graphs.lock();
        if graphs.len() >= GRAPHS {
            return Err(Trouble::wrong(format!(
                "There are {GRAPHS} graphs already: drop some with gnn.graph.drop()."
            )));
        }
        if graphs.contains_key(&key) {
            return Err(exists(name));
        }
        graphs.insert(key, Arc::clone(&named));
        Ok(named)
    }

    /// Reads a graph that gets no name.
    pub(crate) async fn read(&self, caller: &Caller, spec: &Arc<Spec>) -> Result<Graph, Trouble> {
        project::read(caller, spec, &self.budget, self.next_version()).await
    }

    /// The graph of that name, as it is.
    pub(crate) fn find(&self, owner: &Owner, name: &str) -> Result<Arc<Named>, Trouble> {
        let graphs = self.graphs.lock();
        if let Some(named) = graphs.get(&(owner.clone(), name.into())) {
            return Ok(Arc::clone(named));
        }
        let own = graphs.keys().filter(|(other, _)| other == owner).map(|(_, name)| &**name);
        let near = crate::config::meant(name, own);
        let mean = near.map(|near| format!(" (Did you mean `{near}`?)")).unwrap_or_default();
        Err(Trouble::wrong(format!(
            "Graph with name `{name}` does not exist on database `{}`{mean}. It is made with gnn.graph.project(); gnn.graph.list() shows your \
             graphs. A graph is seen by the user who made it, and is gone when Sidebolt is started anew.",
            owner.database
        )))
    }

    /// The graph of that name as Neo4j has it now: read again if it has changed and may not be as old as it is.
    pub(crate) async fn current(
        &self,
        caller: &Caller,
        owner: &Owner,
        name: &str,
    ) -> Result<Arc<Graph>, Trouble> {
        let named = self.find(owner, name)?;
        let limit = caller.shared.config.load().gnn.max_staleness;
        let graph = named.latest();
        if usable(caller, &graph, limit).await? {
            return Ok(graph);
        }
        let _turn = named.renewal.lock().await;
        // Somebody else may have read it meanwhile, later than this call came.
        let graph = named.latest();
        if usable(caller, &graph, limit).await? {
            return Ok(graph);
        }
        let fresh = Arc::new(self.read(caller, &graph.spec).await?);
        caller.shared.gnn.batches.forget(graph.version);
        caller.shared.metrics.gnn.renewals.inc();
        named.graph.store(Arc::clone(&fresh));
        Ok(fresh)
    }

    /// Forgets a graph; whoever computes with it goes on.
    pub(crate) fn drop(&self, owner: &Owner, name: &str) -> Option<Arc<Named>> {
        self.graphs.lock().remove(&(owner.clone(), name.into()))
    }

    /// The graphs of one owner, by name.
    pub(crate) fn list(&self, owner: &Owner) -> Vec<Arc<Named>> {
        let graphs = self.graphs.lock();
        let mut own: Vec<_> = graphs.values().filter(|named| named.owner == *owner).cloned().collect();
        own.sort_by(|a, b| a.name.cmp(&b.name));
        own
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.graphs.lock().len()
    }
}

/// Whether a graph may be used as it is.
async fn usable(caller: &Caller, graph: &Graph, limit: Duration) -> Result<bool, Trouble> {
    let limit = graph.spec.max_staleness.unwrap_or(limit);
    if graph.since.elapsed() <= limit {
        return Ok(true);
    }
    match known(caller, graph.stamp.as_ref()).await {
        Known::Fresh => Ok(true),
        Known::Stale => Ok(false),
        // Where nobody can tell, a graph is what it was when it was read, unless a bound was set that it has passed.
        Known::Unknown => Ok(limit.is_zero()),
        Known::Unreachable => Err(Trouble::Passing(
            "Neo4j does not say whether the graph is still what it has; try again, or allow some age (gnn.max_staleness, maxStaleness)"
                .to_owned(),
        )),
    }
}

fn exists(name: &str) -> Trouble {
    Trouble::wrong(format!(
        "A graph with name '{name}' already exists. Drop it with gnn.graph.drop('{name}'), or take another name."
    ))
}
