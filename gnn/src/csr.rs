//! The graph: for each node, whom it hears.

use crate::accelerate::{DeviceGraph, Resident};
use crate::kernel::gather::Hearing;
use crate::{Error, Matrix};
use std::sync::OnceLock;

/// Incoming edges by target. A node's neighbours are the nodes it gets messages from, as often as there are
/// edges, in the order in which the edges were given.
#[derive(Debug)]
pub struct Csr {
    offsets: Vec<u32>,
    sources: Vec<u32>,
    /// `width` numbers for each edge, in the order of `sources`.
    edge_values: Vec<f32>,
    edge_width: usize,
    /// Whether a number of an edge is below 0.
    negative: bool,
    symmetric: OnceLock<Vec<f32>>,
    /// On a device: without and with degrees.
    resident: [Resident<DeviceGraph>; 2],
}

/// Which way an edge carries messages.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Orientation {
    /// From its source to its target, as in PyTorch Geometric.
    #[default]
    Natural,
    /// From its target to its source.
    Reverse,
    /// Both ways.
    Undirected,
}

impl Csr {
    /// A graph from its edges.
    ///
    /// # Errors
    /// If the lists differ in length, name a node that there is not, or hold a weight that is not finite.
    pub fn from_edges(
        nodes: usize,
        sources: &[u32],
        targets: &[u32],
        weights: Option<&[f32]>,
        orientation: Orientation,
    ) -> Result<Self, Error> {
        let width = usize::from(weights.is_some());
        Self::build(nodes, sources, targets, weights.unwrap_or(&[]), width, orientation)
    }

    /// A graph whose edges have features: one row for each edge.
    ///
    /// # Errors
    /// As [`Csr::from_edges`].
    pub fn from_featured_edges(
        nodes: usize,
        sources: &[u32],
        targets: &[u32],
        features: &Matrix,
        orientation: Orientation,
    ) -> Result<Self, Error> {
        if features.rows() != sources.len() {
            let problem = format!("{} edges need as many rows, got {}", sources.len(), features.rows());
            return Err(Error::argument("edgeFeatures", problem));
        }
        Self::build(nodes, sources, targets, features.values(), features.columns(), orientation)
    }

    /// How many nodes.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.offsets.len() - 1
    }

    /// How many messages are sent: an undirected edge counts twice.
    #[must_use]
    pub fn edges(&self) -> usize {
        self.sources.len()
    }

    /// Whom a node hears.
    #[must_use]
    pub fn neighbours(&self, node: usize) -> &[u32] {
        &self.sources[self.range(node)]
    }

    /// How many numbers each edge has: 1 for weights, 0 for none.
    #[must_use]
    pub fn edge_width(&self) -> usize {
        self.edge_width
    }

    /// How much memory it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let degrees = self.symmetric.get().map_or(0, Vec::capacity);
        4 * (self.offsets.capacity() + self.sources.capacity() + self.edge_values.capacity() + degrees)
    }

    /// The largest number of neighbours of a node.
    #[must_use]
    pub fn max_degree(&self) -> usize {
        self.offsets.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max().unwrap_or(0)
    }

    pub(crate) fn has_negative_edges(&self) -> bool {
        self.negative
    }

    /// Where a node's neighbours stand among all of them.
    pub(crate) fn range(&self, node: usize) -> std::ops::Range<usize> {
        self.offsets[node] as usize..self.offsets[node + 1] as usize
    }

    /// The node that an edge leads to.
    pub(crate) fn target_of(&self, edge: usize) -> u32 {
        (self.offsets.partition_point(|offset| *offset as usize <= edge) - 1) as u32
    }

    /// All nodes hearing all their neighbours, without what edges hold.
    pub(crate) fn hearing(&self) -> Hearing<'_> {
        Hearing::new(&self.offsets, &self.sources)
    }

    pub(crate) fn sources(&self) -> &[u32] {
        &self.sources
    }

    pub(crate) fn edge_values(&self) -> &[f32] {
        &self.edge_values
    }

    pub(crate) fn resident(&self) -> &Resident<DeviceGraph> {
        &self.resident[0]
    }

    pub(crate) fn resident_symmetric(&self) -> &Resident<DeviceGraph> {
        &self.resident[1]
    }

    /// 1/√degree of each node as GCN counts: weights added up by target, other edges plus one loop. Kept.
    pub(crate) fn symmetric(&self) -> &[f32] {
        self.symmetric.get_or_init(|| {
            (0..self.nodes())
                .map(|node| {
                    let (mut degree, mut own) = (0.0, 1.0);
                    for edge in self.range(node) {
                        let weight = self.weight(edge);
                        if self.sources[edge] as usize == node { own = weight } else { degree += weight }
                    }
                    let root = f32::sqrt(degree + own);
                    if root > 0.0 { 1.0 / root } else { 0.0 }
                })
                .collect()
        })
    }

    /// An edge's weight: 1 where there are none, or more than one number an edge.
    pub(crate) fn weight(&self, edge: usize) -> f32 {
        if self.edge_width == 1 { self.edge_values[edge] } else { 1.0 }
    }

    fn build(
        nodes: usize,
        sources: &[u32],
        targets: &[u32],
        values: &[f32],
        width: usize,
        orientation: Orientation,
    ) -> Result<Self, Error> {
        check(nodes, sources, targets, values, width)?;
        let both = orientation == Orientation::Undirected;
        let total = sources.len() * if both { 2 } else { 1 };
        if u32::try_from(total).is_err() {
            return Err(Error::argument(
                "relationships",
                format!("{total} are more than the {} that fit", u32::MAX),
            ));
        }
        let (from, to) =
            if orientation == Orientation::Reverse { (targets, sources) } else { (sources, targets) };
        let mut offsets = vec![0u32; nodes + 1];
        for (index, &target) in to.iter().enumerate() {
            offsets[target as usize + 1] += 1;
            if both {
                offsets[from[index] as usize + 1] += 1;
            }
        }
        for node in 0..nodes {
            offsets[node + 1] += offsets[node];
        }
        let mut next = offsets.clone();
        let mut built = Self {
            offsets,
            sources: vec![0; total],
            edge_values: vec![0.0; total * width],
            edge_width: width,
            negative: values.iter().any(|value| *value < 0.0),
            symmetric: OnceLock::new(),
            resident: Default::default(),
        };
        let mut put = |source: u32, target: u32, edge: usize| {
            let at = next[target as usize] as usize;
            next[target as usize] += 1;
            built.sources[at] = source;
            built.edge_values[at * width..][..width].copy_from_slice(&values[edge * width..][..width]);
        };
        for (edge, (&source, &target)) in from.iter().zip(to).enumerate() {
            put(source, target, edge);
            if both {
                put(target, source, edge);
            }
        }
        Ok(built)
    }
}

fn check(nodes: usize, sources: &[u32], targets: &[u32], values: &[f32], width: usize) -> Result<(), Error> {
    if nodes > u32::MAX as usize {
        return Err(Error::argument("nodes", format!("{nodes} are more than the {} that fit", u32::MAX)));
    }
    if sources.len() != targets.len() {
        let problem =
            format!("{} sources but {} targets: an edge has one of each", sources.len(), targets.len());
        return Err(Error::argument("relationships", problem));
    }
    if values.len() != sources.len() * width {
        let problem = format!("{} edges need as many weights, got {}", sources.len(), values.len());
        return Err(Error::argument("relationshipWeights", problem));
    }
    for (name, list) in [("sources", sources), ("targets", targets)] {
        if let Some(edge) = list.iter().position(|&node| node as usize >= nodes) {
            let problem =
                format!("edge {edge} names node {}, but there are {nodes} nodes, counted from 0", list[edge]);
            return Err(Error::argument(name, problem));
        }
    }
    if let Some(at) = values.iter().position(|value| !value.is_finite()) {
        let problem = format!("edge {} has {}: only finite numbers can be used", at / width, values[at]);
        return Err(Error::argument("relationshipWeights", problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_come_by_target_in_their_order() {
        let natural = Csr::from_edges(
            3,
            &[2, 0, 1, 0],
            &[0, 2, 0, 0],
            Some(&[1.0, 2.0, 3.0, 4.0]),
            Orientation::Natural,
        )
        .unwrap();
        assert_eq!(natural.neighbours(0), [2, 1, 0]);
        assert!(natural.neighbours(1).is_empty());
        assert_eq!(natural.neighbours(2), [0]);
        assert_eq!(natural.edge_values(), [1.0, 3.0, 4.0, 2.0]);
        let reverse = Csr::from_edges(3, &[2, 0, 1, 0], &[0, 2, 0, 0], None, Orientation::Reverse).unwrap();
        assert_eq!(reverse.neighbours(0), [2, 0]);
        assert_eq!(reverse.neighbours(1), [0]);
        let both = Csr::from_edges(3, &[2, 0], &[0, 1], None, Orientation::Undirected).unwrap();
        assert_eq!((both.edges(), both.neighbours(0), both.max_degree()), (4, &[2, 1][..], 2));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let error = |sources: &[u32], targets: &[u32], weights: Option<&[f32]>| {
            Csr::from_edges(2, sources, targets, weights, Orientation::Natural).unwrap_err().to_string()
        };
        assert_eq!(
            error(&[0, 2], &[1, 1], None),
            "`sources`: edge 1 names node 2, but there are 2 nodes, counted from 0"
        );
        assert_eq!(
            error(&[0], &[1, 1], None),
            "`relationships`: 1 sources but 2 targets: an edge has one of each"
        );
        assert_eq!(
            error(&[0], &[1], Some(&[])),
            "`relationshipWeights`: 1 edges need as many weights, got 0"
        );
        assert!(error(&[0], &[1], Some(&[f32::NAN])).contains("edge 0 has NaN"));
    }
}
