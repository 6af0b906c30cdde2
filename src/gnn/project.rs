//! A graph read from Neo4j: its nodes and relationships in column chunks, into compact arrays as they come.

use std::sync::Arc;

use bolt_wire::DecodeError;
use bolt_wire::packstream::Walker;
use tokio::time::Instant;

use super::budget::{Budget, Reserved};
use super::features::Column;
use super::fetch::Caller;
use super::fresh::Stamp;
use super::graph::{Graph, NOBODY, Positions};
use super::matrix::{Features, assemble};
use super::names::check_names;
use super::queries::not_an_id;
use super::spec::{Relationships, Spec, Way};
use super::{Trouble, fetch};
use crate::sight::now;
use crate::upstream::Lease;

/// What has been read so far.
pub(super) struct Nodes {
    ids: Vec<i64>,
    columns: Vec<Column>,
    labels: Vec<Vec<bool>>,
}

impl Nodes {
    /// None yet.
    pub(super) fn new(spec: &Spec) -> Self {
        let labels = if spec.one_hot_labels { spec.labels.len() } else { 0 };
        Self {
            ids: Vec::new(),
            columns: spec.features.iter().cloned().map(Column::new).collect(),
            labels: vec![Vec::new(); labels],
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let columns: usize = self.columns.iter().map(Column::bytes).sum();
        8 * self.ids.capacity() + columns + self.labels.iter().map(Vec::capacity).sum::<usize>()
    }

    /// Takes one node with the list of its values.
    pub(super) fn put(&mut self, id: i64, values: &mut Walker<'_>) -> Result<(), Trouble> {
        self.ids.push(id);
        self.put_values(id, values)
    }

    fn put_values(&mut self, id: i64, values: &mut Walker<'_>) -> Result<(), Trouble> {
        values.list_header().map_err(broken)?;
        for column in &mut self.columns {
            column.push(values, id)?;
        }
        for label in &mut self.labels {
            label.push(values.value().map_err(broken)? == [0xC3]);
        }
        Ok(())
    }

    /// Takes one chunk.
    fn take(&mut self, walker: &mut Walker<'_>, by_query: bool) -> Result<(), Trouble> {
        let count = walker.list_header().map_err(broken)?;
        let first = self.ids.len();
        for _ in 0..count {
            let id = walker.integer();
            if by_query && !id.as_ref().is_ok_and(|id| *id >= 0) {
                return Err(not_an_id(id.ok()));
            }
            self.ids.push(id.map_err(broken)?);
        }
        if self.columns.is_empty() && self.labels.is_empty() {
            return Ok(());
        }
        if walker.list_header().map_err(broken)? != count {
            return Err(broken(DecodeError::WrongFieldCount));
        }
        for at in first..first + count {
            let node = self.ids.get(at).copied().unwrap_or_default();
            self.put_values(node, walker)?;
        }
        Ok(())
    }
}

/// Relationships as positions of nodes.
#[derive(Default)]
pub(super) struct Edges {
    sources: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
    read: usize,
}

impl Edges {
    fn bytes(&self) -> usize {
        4 * (self.sources.capacity() + self.targets.capacity() + self.weights.capacity())
    }

    /// One more that was read, the way that it passes messages.
    fn add(&mut self, way: Way, source: u32, target: u32, weight: Option<f32>) {
        self.read += 1;
        match way {
            Way::Natural => self.put(source, target, weight),
            Way::Reverse => self.put(target, source, weight),
            Way::Undirected => {
                self.put(source, target, weight);
                self.put(target, source, weight);
            }
        }
    }

    pub(super) fn put(&mut self, source: u32, target: u32, weight: Option<f32>) {
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
    let text = spec.nodes_text();
    caller.task.step("Nodes", 0);
    let nodes =
        read_chunks(caller, &mut lease, spec, &text, spec.parameters(), |bytes| reserved.set(bytes)).await?;
    if nodes.ids.is_empty() && spec.queries.is_some() {
        return Err(Trouble::wrong("Node-Query returned no nodes: let it match some that you may see."));
    }
    let read_nodes = nodes.bytes();
    // Sorting and sizing what may be a million nodes is work for another thread, and so is what follows the relationships.
    let (ids, features, positions) = {
        let spec = Arc::clone(spec);
        blocking(move || sorted(nodes, &spec)).await??
    };
    let base = 8 * ids.len() + positions.bytes() + features.matrix.bytes();
    reserved.set(base.max(read_nodes))?;
    let mut edges = Edges::default();
    caller.task.step("Relationships", 0);
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
    let mut graph =
        compose(spec, version, prefix, (ids, features, positions), edges, reserved, since).await?;
    (graph.stamp, graph.read) = (stamp, read);
    Ok(graph)
}

/// A graph of nodes that were read; `edges` says where its relationships go, by where nodes stand.
pub(super) async fn finish(
    spec: &Arc<Spec>,
    version: u64,
    prefix: Box<str>,
    nodes: Nodes,
    reserved: Reserved,
    since: Instant,
    edges: impl FnOnce(&dyn Fn(i64) -> Option<u32>) -> Edges,
) -> Result<Graph, Trouble> {
    let parts = {
        let spec = Arc::clone(spec);
        blocking(move || sorted(nodes, &spec)).await??
    };
    let edges = edges(&|id| parts.2.of(id, &parts.0));
    compose(spec, version, prefix, parts, edges, reserved, since).await
}

/// Puts the parts together.
async fn compose(
    spec: &Arc<Spec>,
    version: u64,
    prefix: Box<str>,
    (ids, features, positions): Sorted,
    edges: Edges,
    mut reserved: Reserved,
    since: Instant,
) -> Result<Graph, Trouble> {
    let (nodes, relationships, degree) = (ids.len(), edges.read, spec.degree);
    let base = 8 * nodes + positions.bytes();
    // The arrays that were read and what is made of them are there together for a moment.
    reserved.set(base + features.matrix.bytes() + 2 * edges.bytes() + 8 * nodes)?;
    let (edges, features) = blocking(move || build(nodes, &edges, features, degree)).await??;
    reserved.set(base + features.matrix.bytes() + edges.bytes())?;
    let Features { matrix, names, missing } = features;
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
        read: now(),
        since,
        took: since.elapsed(),
        stamp: None,
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

/// Reads chunks of nodes; `grown` hears how many bytes they take.
async fn read_chunks(
    caller: &Caller,
    lease: &mut Lease,
    spec: &Spec,
    text: &str,
    parameters: &[u8],
    mut grown: impl FnMut(usize) -> Result<(), Trouble>,
) -> Result<Nodes, Trouble> {
    let mut nodes = Nodes::new(spec);
    caller
        .read(lease, text, parameters, |walker| {
            let before = nodes.ids.len();
            nodes.take(walker, spec.queries.is_some())?;
            caller.task.more(nodes.ids.len() - before);
            grown(nodes.bytes())
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
        .read(lease, &spec.relationships_text(relationships), spec.parameters(), |walker| {
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
                match (position(source), position(target), &spec.queries) {
                    (Some(source), Some(target), _) => edges.add(relationships.way, source, target, weight),
                    (start, _, Some(queries)) => {
                        queries.stray(source, target, start.is_some()).map_or(Ok(()), Err)?;
                    }
                    _ => {}
                }
            }
            caller.task.more(count);
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
        return Err(Trouble::wrong(match spec.queries {
            Some(_) => format!("The node query gave node {} twice: write RETURN DISTINCT there.", twice[0]),
            None => format!("Node {} came twice from Neo4j; try again.", twice[0]),
        }));
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

pub(super) fn broken(error: DecodeError) -> Trouble {
    fetch::lost(&error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

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
