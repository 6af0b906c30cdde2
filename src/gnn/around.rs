//! The neighbourhood of a few nodes: read hop by hop, and what the nodes that are met have by a second connection at the same time.

use std::collections::HashSet;

use bolt_wire::packstream::{Walker, encode};
use bytes::BytesMut;
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Trouble;
use super::budget::Reserved;
use super::features::compact;
use super::fetch::Caller;
use super::project::{Nodes, broken};
use super::spec::{Relationships, Spec, Way, alternatives};
use super::vicinity::{Parts, View, What};
use crate::upstream::Lease;

/// Nodes whose features one statement reads.
const PIECE: usize = 2048;

/// What was found.
pub(super) struct Found {
    pub(super) nodes: Nodes,
    /// Who is heard by whom.
    pub(super) pairs: Vec<(i64, i64)>,
    /// What was read and is not kept yet.
    pub(super) read: Parts,
    pub(super) reserved: Reserved,
}

/// Nodes whose features are still to be read.
#[derive(Default)]
struct Wanted {
    nodes: Vec<i64>,
    /// There will be no more.
    closed: bool,
}

/// Reading on its way.
struct Around<'a> {
    caller: &'a Caller,
    spec: &'a Spec,
    view: &'a View,
    text: String,
    found: Mutex<Found>,
    wanted: Mutex<Wanted>,
    /// There is more to read, or there never will be.
    news: Notify,
    over: CancellationToken,
}

/// Reads what the embeddings of these nodes depend on: so many neighbours of each in each hop.
pub(super) async fn around(
    caller: &Caller,
    spec: &Spec,
    view: &View,
    seeds: &[i64],
    sizes: &[usize],
    (mut lease, reserved): (Lease, Reserved),
) -> Result<Found, Trouble> {
    let found = Found { nodes: Nodes::new(spec), pairs: Vec::new(), read: Parts::default(), reserved };
    let around = Around {
        caller,
        spec,
        view,
        text: spec.nodes_text().replacen("MATCH (n)", "UNWIND $ids AS x MATCH (n) WHERE id(n) = x", 1),
        found: Mutex::new(found),
        wanted: Mutex::default(),
        news: Notify::new(),
        over: CancellationToken::new(),
    };
    tokio::try_join!(around.hops(&mut lease, seeds, sizes), around.beside())?;
    Ok(around.found.into_inner())
}

impl Around<'_> {
    /// Hop by hop, and then what is left of the features.
    async fn hops(&self, lease: &mut Lease, seeds: &[i64], sizes: &[usize]) -> Result<(), Trouble> {
        let mut known: HashSet<i64, RandomState> = seeds.iter().copied().collect();
        let mut frontier: Vec<i64> = known.iter().copied().collect();
        for most in sizes {
            frontier.sort_unstable();
            self.want(&frontier)?;
            let mut next = Vec::new();
            for (along, relationships) in self.spec.relationships.iter().enumerate() {
                next.extend(self.hop(lease, (along, relationships), &frontier, *most).await?);
            }
            next.retain(|id| known.insert(*id));
            frontier = next;
        }
        frontier.sort_unstable();
        self.want(&frontier)?;
        self.wanted.lock().closed = true;
        self.news.notify_one();
        self.features(lease).await?;
        self.over.cancel();
        Ok(())
    }

    /// Features by a second connection, if one can be had without taking anybody's turn.
    async fn beside(&self) -> Result<(), Trouble> {
        let spare = self.caller.shared.upstream.spare(&self.caller.need);
        match self.over.run_until_cancelled(spare).await {
            Some(Some(mut lease)) => self.features(&mut lease).await,
            _ => Ok(()),
        }
    }

    /// The features of these nodes are wanted: what is kept is taken, the rest will be read.
    fn want(&self, nodes: &[i64]) -> Result<(), Trouble> {
        let missing = self
            .recall(nodes, What::Features, |found, id, part| found.nodes.put(id, &mut Walker::new(part)))?;
        if !missing.is_empty() {
            self.wanted.lock().nodes.extend(missing);
            self.news.notify_one();
        }
        Ok(())
    }

    /// Takes what is kept of these nodes; gives those of which nothing is.
    fn recall(
        &self,
        nodes: &[i64],
        what: What,
        mut take: impl FnMut(&mut Found, i64, &[u8]) -> Result<(), Trouble>,
    ) -> Result<Vec<i64>, Trouble> {
        let mut missing = Vec::new();
        let (kept, mut found) = (self.view.kept(), self.found.lock());
        for id in nodes {
            match kept.as_ref().and_then(|kept| kept.get(*id, what)) {
                Some(part) => take(&mut found, *id, part)?,
                None => missing.push(*id),
            }
        }
        let metrics = &self.caller.shared.metrics.gnn;
        metrics.parts_kept.inc_by((nodes.len() - missing.len()) as u64);
        metrics.parts_read.inc_by(missing.len() as u64);
        found.settle()?;
        Ok(missing)
    }

    /// Reads one hop: who is heard by these nodes. Gives those that are heard.
    async fn hop(
        &self,
        lease: &mut Lease,
        (along, relationships): (usize, &Relationships),
        frontier: &[i64],
        most: usize,
    ) -> Result<Vec<i64>, Trouble> {
        let (what, mut heard) = (What::Neighbours { along, most }, Vec::new());
        let missing = self.recall(frontier, what, |found, id, part| found.hear(id, part, &mut heard))?;
        if missing.is_empty() {
            return Ok(heard);
        }
        let each = |walker: &mut Walker<'_>| {
            let node = walker.integer().map_err(broken)?;
            let neighbours = walker.value().map_err(broken)?;
            let mut found = self.found.lock();
            found.hear(node, neighbours, &mut heard)?;
            if self.view.keeps() {
                found.read.put(node, what, neighbours);
            }
            found.settle()
        };
        self.caller.read(lease, &hop_text(relationships), &with_ids(&missing, Some(most)), each).await?;
        Ok(heard)
    }

    /// Reads features until there are no more to read.
    async fn features(&self, lease: &mut Lease) -> Result<(), Trouble> {
        loop {
            let piece = {
                let mut wanted = self.wanted.lock();
                let left = wanted.nodes.len().saturating_sub(PIECE);
                let piece = wanted.nodes.split_off(left);
                if piece.is_empty() && wanted.closed {
                    break;
                }
                piece
            };
            if piece.is_empty() {
                self.news.notified().await;
                continue;
            }
            let mut short = BytesMut::new();
            let each = |walker: &mut Walker<'_>| {
                let mut ids = *walker;
                let count = ids.list_header().map_err(broken)?;
                walker.value().map_err(broken)?;
                walker.list_header().map_err(broken)?;
                let mut found = self.found.lock();
                for _ in 0..count {
                    let (id, values) = (ids.integer().map_err(broken)?, walker.value().map_err(broken)?);
                    found.nodes.put(id, &mut Walker::new(values))?;
                    if self.view.keeps() {
                        compact(values, &mut short)?;
                        found.read.put(id, What::Features, &short);
                    }
                }
                self.caller.task.more(count);
                found.settle()
            };
            self.caller.read(lease, &self.text, &with_ids(&piece, None), each).await?;
        }
        Ok(())
    }
}

impl Found {
    /// A node's neighbours, as they came.
    fn hear(&mut self, node: i64, neighbours: &[u8], heard: &mut Vec<i64>) -> Result<(), Trouble> {
        let mut walker = Walker::new(neighbours);
        for _ in 0..walker.list_header().map_err(broken)? {
            let neighbour = walker.integer().map_err(broken)?;
            self.pairs.push((neighbour, node));
            heard.push(neighbour);
        }
        Ok(())
    }

    /// Takes from the budget what there is now.
    fn settle(&mut self) -> Result<(), Trouble> {
        // A neighbour is in `pairs`, may be in the next frontier, and in the set of those that are known.
        self.reserved.set(64 * self.pairs.capacity() + self.nodes.bytes() + self.read.bytes())
    }
}

/// The statement that gives neighbours of nodes.
fn hop_text(relationships: &Relationships) -> String {
    let types = alternatives(&relationships.types);
    let (left, right) = match relationships.way {
        Way::Natural => ("<-", "-"),
        Way::Reverse => ("-", "->"),
        Way::Undirected => ("-", "-"),
    };
    format!(
        "UNWIND $ids AS i MATCH (n) WHERE id(n) = i RETURN i, COLLECT {{ MATCH (n){left}[{types}]{right}(m) RETURN id(m) LIMIT $most }}"
    )
}

/// The parameters `ids` and, if there is one, `most`.
pub(super) fn with_ids(ids: &[i64], most: Option<usize>) -> BytesMut {
    let mut out = BytesMut::with_capacity(32 + 9 * ids.len());
    encode::map_header(1 + usize::from(most.is_some()), &mut out);
    encode::string("ids", &mut out);
    encode::list_header(ids.len(), &mut out);
    ids.iter().for_each(|id| encode::integer(*id, &mut out));
    if let Some(most) = most {
        encode::string("most", &mut out);
        encode::integer(i64::try_from(most).unwrap_or(i64::MAX), &mut out);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hop_goes_where_messages_come_from() {
        let text = |way: Way, types: &[&str]| {
            let types = types.iter().map(|name| (*name).to_owned()).collect();
            hop_text(&Relationships { types, way, weight: None })
        };
        assert!(text(Way::Natural, &["A", "B"]).contains("MATCH (n)<-[:`A`|`B`]-(m) RETURN id(m)"));
        assert!(text(Way::Reverse, &["A"]).contains("MATCH (n)-[:`A`]->(m)"));
        assert!(text(Way::Undirected, &[]).contains("MATCH (n)-[]-(m)"));
    }
}
