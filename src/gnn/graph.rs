//! A graph that was read from Neo4j: compact arrays, and where each node stands in them.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::budget::Reserved;
use super::fresh::Stamp;
use super::spec::Spec;

/// A graph that was read.
pub(crate) struct Graph {
    pub(crate) spec: Arc<Spec>,
    /// Tells it from every other that was ever read.
    pub(crate) version: u64,
    /// Neo4j's ids of its nodes, in order.
    pub(crate) ids: Vec<i64>,
    pub(super) positions: Positions,
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
    pub(crate) took: Duration,
    /// Up to which transaction it is right; none if nobody knows.
    pub(crate) stamp: Option<Stamp>,
    pub(super) reserved: Reserved,
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
pub(super) enum Positions {
    /// A place for each id from the first one on.
    Table { first: i64, places: Vec<u32> },
    /// Ids are too far apart: looked up among them.
    Search,
}

/// A place of the table that no node has.
pub(super) const NOBODY: u32 = u32::MAX;

impl Positions {
    pub(super) fn new(ids: &[i64]) -> Self {
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

    pub(super) fn of(&self, id: i64, ids: &[i64]) -> Option<u32> {
        match self {
            Self::Table { first, places } => {
                let place = places.get(usize::try_from(id.checked_sub(*first)?).ok()?)?;
                Some(*place).filter(|place| *place != NOBODY)
            }
            Self::Search => ids.binary_search(&id).ok().and_then(|at| u32::try_from(at).ok()),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Table { places, .. } => 4 * places.len(),
            Self::Search => 0,
        }
    }
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
}
