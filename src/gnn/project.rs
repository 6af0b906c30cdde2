//! A graph read from Neo4j: its nodes and relationships in column chunks, into compact arrays as they come.

use std::sync::Arc;

use bolt_wire::DecodeError;
use bolt_wire::packstream::Walker;
use tokio::time::Instant;

use super::budget::{Budget, Reserved};
use super::features::{Column, Features, assemble};
use super::fetch::{Caller, NOTHING};
use super::fresh::Stamp;
use super::spec::{Relationships, Spec, Way};
use super::{Trouble, fetch};
use crate::sight::now;
use crate::upstream::Lease;

/// A graph that was read.
pub(crate) struct Graph {
    pub(crate) spec: Arc<Spec>,
    /// Tells it from every other that was ever read.
    pub(crate) version: u64,
    /// Neo4j's ids of its nodes, in order.
    pub(crate) ids: Vec<i64>,
    positions: Positions,
    /// What stands before an id in an element id.
    pub(crate) prefix: Box<str>,
    pub(crate) edges: gnn::Csr,
    pub(crate) features: Arc<gnn::Matrix>,
    /// What each feature is.
    pub(crate) names: Vec<String>,
    /// Values that were missing.
    pub(crate) missing: usize,
    /// Relationships that were read.
    pub(crate) relationships: usize,
    /// When reading began: for people, in milliseconds since 1970, and for ages.
    pub(crate) read: u64,
    pub(crate) since: Instant,
    /// How long it took.
    pub(crate) took: std::time::Duration,
    /// Up to which transaction it is right; none if nobody knows.
    pub(crate) stamp: Option<Stamp>,
    reserved: Reserved,
}

impl Graph {
    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.reserved.bytes()
    }

    /// Where a node stands.
    pub(crate) fn position(&self, id: i64) -> Option<u32> {
        self.positions.of(id, &self.ids)
    }

    /// A node's element id.
    pub(crate) fn element_id(&self, id: i64) -> String {
        format!("{}{id}", self.prefix)
    }
}

/// Where nodes stand, by their ids.
enum Positions {
    /// A place for each id from the first one on.
    Table { first: i64, places: Vec<u32> },
    /// Ids are too far apart: looked up among them.
    Search,
}

/// A place of the table that no node has.
const NOBODY: u32 = u32::MAX;

impl Positions {
    fn new(ids: &[i64]) -> Self {
        let (Some(first), Some(last)) = (ids.first(), ids.last()) else { return Self::Search };
        let span = usize::try_from(last.abs_diff(*first)).unwrap_or(usize::MAX);
        if span > 4 * ids.len() + 1024 {
            return Self::Search;
        }
        let mut places = vec![NOBODY; span + 1];
        for (position, id) in (0u32..).zip(ids) {
            if let Some(place) = usize::try_from(id - first).ok().and_then(|at| places.get_mut(at)) {
                *place = position;
            }
        }
        Self::Table { first: *first, places }
    }

    fn of(&self, id: i64, ids: &[i64]) -> Option<u32> {
        match self {
            Self::Table { first, places } => {
                let place = places.get(usize::try_from(id.checked_sub(*first)?).ok()?)?;
                Some(*place).filter(|place| *place != NOBODY)
            }
            Self::Search => ids.binary_search(&id).ok().and_then(|at| u32::try_from(at).ok()),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Table { places, .. } => 4 * places.len(),
            Self::Search => 0,
        }
    }
}

/// What has been read so far.
struct Nodes {
    ids: Vec<i64>,
    columns: Vec<Column>,
    labels: Vec<Vec<bool>>,
}

impl Nodes {
    fn bytes(&self) -> usize {
        let columns: usize = self.columns.iter().map(Column::bytes).sum();
        8 * self.ids.capacity() + columns + self.labels.iter().map(Vec::capacity).sum::<usize>()
    }

    /// Takes one chunk.
    fn take(&mut self, walker: &mut Walker<'_>) -> Result<(), Trouble> {
        let count = walker.list_header().map_err(broken)?;
        let first = self.ids.len();
        for _ in 0..count {
            self.ids.push(walker.integer().map_err(broken)?);
        }
        if self.columns.is_empty() && self.labels.is_empty() {
            return Ok(());
        }
        if walker.list_header().map_err(broken)? != count {
            return Err(broken(DecodeError::WrongFieldCount));
        }
        for at in first..first + count {
            let node = self.ids.get(at).copied().unwrap_or_default();
            walker.list_header().map_err(broken)?;
            for column in &mut self.columns {
                column.push(walker, node)?;
            }
            for label in &mut self.labels {
                label.push(walker.value().map_err(broken)? == [0xC3]);
            }
        }
        Ok(())
    }
}

/// Relationships as positions of nodes.
#[derive(Default)]
struct Edges {
    sources: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
    read: usize,
}

impl Edges {
    fn bytes(&self) -> usize {
        4 * (self.sources.capacity() + self.targets.capacity() + self.weights.capacity())
    }

    fn put(&mut self, source: u32, target: u32, weight: Option<f32>) {
        self.sources.push(source);
        self.targets.push(target);
        self.weights.extend(weight);
    }
}

/// Reads a graph.
pub(crate) async fn read(
    caller: &Caller,
    spec: &Arc<Spec>,
    budget: &Arc<Budget>,
    version: u64,
) -> Result<Graph, Trouble> {
    let (since, read) = (Instant::now(), now());
    let before = Stamp::begin(caller, spec).await;
    let mut lease = caller.lease().await?;
    let mut reserved = budget.reserve();
    let prefix = check_names(caller, &mut lease, spec).await?;
    let nodes = read_nodes(caller, &mut lease, spec, &mut reserved).await?;
    let read_nodes = nodes.bytes();
    // Sorting and sizing what may be a million nodes is work for another thread, and so is what follows the relationships.
    let (ids, features, positions) = {
        let spec = Arc::clone(spec);
        blocking(move || sorted(nodes, &spec)).await??
    };
    let base = 8 * ids.len() + positions.bytes() + features.matrix.bytes();
    reserved.set(base.max(read_nodes))?;
    let mut edges = Edges::default();
    for relationships in &spec.relationships {
        read_edges(caller, &mut lease, spec, relationships, &mut edges, &mut reserved, base, |id| {
            positions.of(id, &ids)
        })
        .await?;
    }
    drop(lease);
    let stamp = match before {
        Some(before) => before.end(caller).await,
        None => None,
    };
    // The arrays that were read and what is made of them are there together for a moment.
    reserved.set(base + 2 * edges.bytes() + 8 * ids.len())?;
    let nodes = ids.len();
    let relationships = edges.read;
    let degree = spec.degree;
    let (edges, features) = blocking(move || build(nodes, &edges, features, degree)).await??;
    let bytes = 8 * ids.len() + positions.bytes() + features.matrix.bytes() + edges.bytes();
    reserved.set(bytes)?;
    let Features { matrix, names, missing } = features;
    let took = since.elapsed();
    Ok(Graph {
        spec: Arc::clone(spec),
        version,
        ids,
        positions,
        prefix,
        edges,
        features: Arc::new(matrix),
        names,
        missing,
        relationships,
        read,
        since,
        took,
        stamp,
        reserved,
    })
}

/// Work that would hold up a thread that others wait for.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Trouble> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| {
        Trouble::wrong(format!("Sidebolt failed while computing ({error}); please report this."))
    })
}

/// Whether the names that the graph is made of exist, and what element ids begin with.
async fn check_names(caller: &Caller, lease: &mut Lease, spec: &Spec) -> Result<Box<str>, Trouble> {
    let wanted = [
        ("label", "labels", "CALL db.labels() YIELD label RETURN collect(label)", spec.labels.clone()),
        (
            "relationship type",
            "types",
            "CALL db.relationshipTypes() YIELD relationshipType RETURN collect(relationshipType)",
            spec.relationships.iter().flat_map(|relationships| relationships.types.clone()).collect(),
        ),
    ];
    for (what, many, text, names) in wanted {
        if names.is_empty() {
            continue;
        }
        let mut known: Vec<String> = Vec::new();
        caller
            .read(lease, text, NOTHING, |walker| {
                for _ in 0..walker.list_header().map_err(broken)? {
                    known.push(walker.string().map_err(broken)?.to_owned());
                }
                Ok(())
            })
            .await?;
        if let Some(name) = names.iter().find(|name| !known.contains(name)) {
            let near = crate::config::meant(name, known.iter().map(String::as_str));
            let mean = near.map(|near| format!(" (Did you mean '{near}'?)")).unwrap_or_default();
            return Err(Trouble::wrong(format!(
                "Invalid projection, one or more {many} not found: '{name}'{mean}. The {what} must exist in the database, and be one that you may see."
            )));
        }
    }
    let mut prefix: Option<Box<str>> = None;
    let text = format!("MATCH {} RETURN elementId(n) LIMIT 1", spec.node("n"));
    caller
        .read(lease, &text, NOTHING, |walker| {
            prefix = walker
                .string()
                .map_err(broken)?
                .rsplit_once(':')
                .map(|(prefix, _)| format!("{prefix}:").into());
            Ok(())
        })
        .await?;
    prefix.ok_or_else(|| {
        Trouble::wrong(format!(
            "Node-Query returned no nodes: there is none that matches {}.",
            spec.node("n")
        ))
    })
}

async fn read_nodes(
    caller: &Caller,
    lease: &mut Lease,
    spec: &Spec,
    reserved: &mut Reserved,
) -> Result<Nodes, Trouble> {
    let labels = if spec.one_hot_labels { spec.labels.len() } else { 0 };
    let mut nodes = Nodes {
        ids: Vec::new(),
        columns: spec.features.iter().cloned().map(Column::new).collect(),
        labels: vec![Vec::new(); labels],
    };
    caller
        .read(lease, &spec.nodes_text(), NOTHING, |walker| {
            nodes.take(walker)?;
            reserved.set(nodes.bytes())
        })
        .await?;
    Ok(nodes)
}

#[expect(clippy::too_many_arguments, reason = "what a chunk is read into and by what")]
async fn read_edges(
    caller: &Caller,
    lease: &mut Lease,
    spec: &Spec,
    relationships: &Relationships,
    edges: &mut Edges,
    reserved: &mut Reserved,
    base: usize,
    position: impl Fn(i64) -> Option<u32>,
) -> Result<(), Trouble> {
    // What has no weight of its own beside others that have one counts as 1.
    let weighted = spec.weighted();
    caller
        .read(lease, &spec.relationships_text(relationships), NOTHING, |walker| {
            let mut sources = *walker;
            let count = sources.list_header().map_err(broken)?;
            walker.value().map_err(broken)?;
            let mut targets = *walker;
            targets.list_header().map_err(broken)?;
            walker.value().map_err(broken)?;
            let mut weights = *walker;
            if relationships.weight.is_some() {
                weights.list_header().map_err(broken)?;
            }
            for _ in 0..count {
                let (source, target) =
                    (sources.integer().map_err(broken)?, targets.integer().map_err(broken)?);
                let weight = match &relationships.weight {
                    Some(name) => Some(weight(&mut weights, name, source, target)?),
                    None => weighted.then_some(1.0),
                };
                if let (Some(source), Some(target)) = (position(source), position(target)) {
                    edges.read += 1;
                    match relationships.way {
                        Way::Natural => edges.put(source, target, weight),
                        Way::Reverse => edges.put(target, source, weight),
                        Way::Undirected => {
                            edges.put(source, target, weight);
                            edges.put(target, source, weight);
                        }
                    }
                }
            }
            reserved.set(base + edges.bytes())
        })
        .await
        .map(drop)
}

fn weight(walker: &mut Walker<'_>, name: &str, source: i64, target: i64) -> Result<f32, Trouble> {
    let number = match walker.marker().map_err(broken)? {
        0xC1 => {
            let bits = walker.value().map_err(broken)?.get(1..).and_then(<[u8]>::first_chunk::<8>);
            bits.map(|bits| f64::from_be_bytes(*bits) as f32)
        }
        0x00..=0x7F | 0xF0..=0xFF | 0xC8..=0xCB => Some(walker.integer().map_err(broken)? as f32),
        _ => None,
    };
    number.filter(|number| number.is_finite()).ok_or_else(|| {
        Trouble::wrong(format!(
            "The property `{name}` of the relationship from node {source} to node {target} is no finite number."
        ))
    })
}

type Sorted = (Vec<i64>, Features, Positions);

/// Nodes in the order of their ids, so that a graph does not depend on the order in which it was read.
fn sorted(nodes: Nodes, spec: &Spec) -> Result<Sorted, Trouble> {
    let Nodes { ids, columns, labels } = nodes;
    let rows = ids.len();
    let count = u32::try_from(rows).ok().filter(|count| *count != NOBODY);
    let count = count.ok_or_else(|| Trouble::wrong("There are more than 2^32 nodes."))?;
    let mut by_id: Vec<u32> = (0..count).collect();
    if !ids.is_sorted() {
        by_id.sort_unstable_by_key(|at| ids.get(*at as usize).copied().unwrap_or_default());
    }
    let mut order = vec![0; rows];
    for (row, at) in (0u32..).zip(&by_id) {
        if let Some(place) = order.get_mut(*at as usize) {
            *place = row;
        }
    }
    let in_order: Vec<i64> = by_id.iter().filter_map(|at| ids.get(*at as usize).copied()).collect();
    if let Some(twice) = in_order.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Trouble::wrong(format!("Node {} came twice from Neo4j; try again.", twice[0])));
    }
    let mut features = assemble(columns, rows, &order)?;
    if !labels.is_empty() {
        let names = spec.labels.iter().map(|label| format!(":{label}"));
        let value = |column: usize, at: u32| {
            f32::from(u8::from(labels.get(column).and_then(|own| own.get(at as usize)) == Some(&true)))
        };
        features = wider(features, names.collect(), |row, column| {
            value(column, by_id.get(row).copied().unwrap_or_default())
        })?;
    }
    let positions = Positions::new(&in_order);
    Ok((in_order, features, positions))
}

/// The same with more columns.
fn wider(
    features: Features,
    names: Vec<String>,
    value: impl Fn(usize, usize) -> f32,
) -> Result<Features, Trouble> {
    let (rows, old, more) = (features.matrix.rows(), features.matrix.columns(), names.len());
    let mut values = Vec::with_capacity(rows * (old + more));
    for row in 0..rows {
        values.extend_from_slice(features.matrix.row(row));
        values.extend((0..more).map(|column| value(row, column)));
    }
    let mut all = features.names;
    all.extend(names);
    Ok(Features {
        matrix: gnn::Matrix::new(rows, old + more, values)?,
        names: all,
        missing: features.missing,
    })
}

/// The arrays that computing wants.
fn build(
    nodes: usize,
    edges: &Edges,
    features: Features,
    degree: bool,
) -> Result<(gnn::Csr, Features), Trouble> {
    let weights = Some(edges.weights.as_slice()).filter(|weights| !weights.is_empty());
    let features = if degree {
        let mut counts = vec![[0u32; 2]; nodes];
        for (side, ends) in [(0, &edges.targets), (1, &edges.sources)] {
            for end in ends {
                if let Some(count) = counts.get_mut(*end as usize).and_then(|counts| counts.get_mut(side)) {
                    *count += 1;
                }
            }
        }
        let names = ["log1p(degree in)".to_owned(), "log1p(degree out)".to_owned()];
        wider(features, names.into(), |row, column| {
            let count = counts.get(row).and_then(|counts| counts.get(column)).copied().unwrap_or_default();
            (count as f32).ln_1p()
        })?
    } else {
        features
    };
    let csr =
        gnn::Csr::from_edges(nodes, &edges.sources, &edges.targets, weights, gnn::Orientation::Natural)?;
    Ok((csr, features))
}

fn broken(error: DecodeError) -> Trouble {
    fetch::lost(&error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_found_by_their_ids_whether_near_or_far_apart() {
        for ids in [vec![3, 4, 7, 9], vec![-5, 0, 1 << 40, i64::MAX]] {
            let positions = Positions::new(&ids);
            for (at, id) in (0u32..).zip(&ids) {
                assert_eq!(positions.of(*id, &ids), Some(at));
            }
            for other in [5, -6, i64::MIN, i64::MAX - 1] {
                assert_eq!(positions.of(other, &ids), None);
            }
        }
        assert_eq!(Positions::new(&[]).of(0, &[]), None);
    }

    #[test]
    fn degrees_count_what_comes_and_goes() {
        let edges = Edges { sources: vec![0, 0, 1], targets: vec![1, 2, 2], weights: Vec::new(), read: 3 };
        let none = assemble(Vec::new(), 3, &[0, 1, 2]).unwrap();
        let (csr, features) = build(3, &edges, none, true).unwrap();
        assert_eq!((csr.nodes(), csr.edges(), features.matrix.columns()), (3, 3, 2));
        let log = |count: f32| count.ln_1p();
        assert_eq!(features.matrix.values(), [0.0, log(2.0), log(1.0), log(1.0), log(2.0), 0.0]);
    }
}
