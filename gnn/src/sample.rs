//! Neighbourhoods of a few nodes, hop by hop.

use crate::kernel::gather::Hearing;
use crate::random::Random;
use crate::{Cancel, Csr, Error};

/// The nodes that some nodes' embeddings depend on, and who hears whom in each layer.
///
/// What is drawn for a node depends on the seed, the hop and the node only: not on the others asked for.
pub(crate) struct Sample {
    /// Nodes by their number here; those that were asked for come first.
    pub(crate) nodes: Vec<u32>,
    /// One for each layer, the first layer first.
    hops: Vec<Hop>,
    /// 1/√degree by number here, if it was asked for.
    symmetric: Vec<f32>,
}

/// Who hears whom in one layer.
struct Hop {
    offsets: Vec<u32>,
    sources: Vec<u32>,
    edge_values: Vec<f32>,
    scales: Vec<f32>,
    /// The targets in the graph if the sources are numbers of the graph, too.
    roots: Option<Vec<u32>>,
}

/// What a sample is to hold.
pub(crate) struct Request<'a> {
    /// How many neighbours at most, for the nodes asked for and then outwards; 0 for all.
    pub(crate) fan_out: &'a [usize],
    pub(crate) seed: u64,
    /// The first layer's sources are left as numbers of the graph.
    pub(crate) in_place: bool,
    pub(crate) symmetric: bool,
    pub(crate) edges: bool,
}

impl Sample {
    /// For nodes without doubles.
    pub(crate) fn draw(
        graph: &Csr,
        nodes: &[u32],
        request: &Request,
        cancel: &Cancel,
    ) -> Result<Self, Error> {
        let mut places = Places::with_capacity(nodes.len() * 8);
        let mut known = Vec::with_capacity(nodes.len() * 8);
        for &node in nodes {
            places.place(node, &mut known);
        }
        let mut hops = Vec::with_capacity(request.fan_out.len());
        for (hop, &most) in request.fan_out.iter().enumerate() {
            let keep = request.in_place && hop + 1 == request.fan_out.len();
            let mut drawn = Hop::with_targets(known.len());
            for (target, &node) in known.iter().enumerate() {
                if target % CHECK_EVERY == 0 {
                    cancel.check()?;
                }
                drawn.target(graph, node, most, hop, request);
            }
            if keep {
                drawn.roots = Some(known.clone());
            } else {
                for source in &mut drawn.sources {
                    *source = places.place(*source, &mut known);
                }
            }
            hops.push(drawn);
        }
        hops.reverse();
        let symmetric = if request.symmetric {
            let all = graph.symmetric();
            known.iter().map(|&node| all[node as usize]).collect()
        } else {
            Vec::new()
        };
        Ok(Self { nodes: known, hops, symmetric })
    }

    /// Who hears whom in a layer.
    pub(crate) fn hearing<'a>(
        &'a self,
        graph: &'a Csr,
        layer: usize,
        symmetric: bool,
        edges: bool,
    ) -> Hearing<'a> {
        let hop = &self.hops[layer];
        Hearing {
            offsets: &hop.offsets,
            sources: &hop.sources,
            edge_values: &hop.edge_values,
            edge_width: if edges { graph.edge_width() } else { 0 },
            roots: hop.roots.as_deref(),
            symmetric: match (symmetric, &hop.roots) {
                (false, _) => &[],
                (true, Some(_)) => graph.symmetric(),
                (true, None) => &self.symmetric,
            },
            scales: Some(&hop.scales),
        }
    }
}

impl Hop {
    fn with_targets(targets: usize) -> Self {
        let mut offsets = Vec::with_capacity(targets + 1);
        offsets.push(0);
        Self {
            offsets,
            sources: Vec::with_capacity(targets * 8),
            edge_values: Vec::new(),
            scales: Vec::with_capacity(targets),
            roots: None,
        }
    }

    fn target(&mut self, graph: &Csr, node: u32, most: usize, hop: usize, request: &Request) {
        let range = graph.range(node as usize);
        let (have, before) = (range.len(), self.sources.len());
        if most == 0 || have <= most {
            self.sources.extend_from_slice(&graph.sources()[range.clone()]);
            if request.edges {
                self.edge_values.extend_from_slice(
                    &graph.edge_values()[range.start * graph.edge_width()..range.end * graph.edge_width()],
                );
            }
        } else {
            let mut random = Random::keyed(request.seed, &[hop as u64, u64::from(node)]);
            choose(&mut random, have, most, |position| {
                let edge = range.start + position;
                self.sources.push(graph.sources()[edge]);
                if request.edges {
                    self.edge_values.extend_from_slice(
                        &graph.edge_values()[edge * graph.edge_width()..][..graph.edge_width()],
                    );
                }
            });
        }
        let got = self.sources.len() - before;
        self.scales.push(if got == have { 1.0 } else { have as f32 / got as f32 });
        self.offsets.push(self.sources.len() as u32);
    }
}

/// `count` of the numbers below `of`, each set of them as likely as the other, in rising order.
fn choose(random: &mut Random, of: usize, count: usize, mut with: impl FnMut(usize)) {
    if count > FEW || of < 4 * count {
        // Knuth's Algorithm S.
        let mut left = count;
        for position in 0..of {
            if random.below(of - position) < left {
                left -= 1;
                with(position);
            }
        }
        return;
    }
    // Floyd's algorithm.
    let mut chosen = [0usize; FEW];
    for (filled, top) in (of - count..of).enumerate() {
        let drawn = random.below(top + 1);
        chosen[filled] = if chosen[..filled].contains(&drawn) { top } else { drawn };
    }
    let chosen = &mut chosen[..count];
    chosen.sort_unstable();
    chosen.iter().for_each(|position| with(*position));
}

/// The nodes without doubles in the order in which they come, and where each one stands among those.
pub(crate) fn distinct(nodes: &[u32]) -> (Vec<u32>, Vec<usize>) {
    let mut order: Vec<usize> = (0..nodes.len()).collect();
    order.sort_by_key(|index| nodes[*index]);
    let mut first = vec![0; nodes.len()];
    for (position, &index) in order.iter().enumerate() {
        let same = position
            .checked_sub(1)
            .map(|before| order[before])
            .filter(|before| nodes[*before] == nodes[index]);
        first[index] = same.map_or(index, |before| first[before]);
    }
    let (mut distinct, mut places) = (Vec::with_capacity(nodes.len()), Vec::with_capacity(nodes.len()));
    for (index, &node) in nodes.iter().enumerate() {
        if first[index] == index {
            places.push(distinct.len());
            distinct.push(node);
        } else {
            places.push(places[first[index]]);
        }
    }
    (distinct, places)
}

/// Numbers given to nodes in the order in which they come: a hash table with open addressing.
struct Places {
    /// A node plus 1, and its number; 0 is free.
    slots: Vec<(u32, u32)>,
    mask: usize,
}

impl Places {
    fn with_capacity(nodes: usize) -> Self {
        let slots = (nodes * 2).next_power_of_two().max(64);
        Self { slots: vec![(0, 0); slots], mask: slots - 1 }
    }

    /// The node's number; if it is new, it is appended to `known`.
    fn place(&mut self, node: u32, known: &mut Vec<u32>) -> u32 {
        let slot = self.find(node);
        if self.slots[slot].0 != 0 {
            return self.slots[slot].1;
        }
        let number = known.len() as u32;
        known.push(node);
        self.slots[slot] = (node + 1, number);
        if known.len() * 2 > self.slots.len() {
            self.grow(known);
        }
        number
    }

    fn find(&self, node: u32) -> usize {
        let mut slot = (node.wrapping_mul(0x9e37_79b1) as usize ^ (node >> 15) as usize) & self.mask;
        while self.slots[slot].0 != 0 && self.slots[slot].0 != node + 1 {
            slot = (slot + 1) & self.mask;
        }
        slot
    }

    fn grow(&mut self, known: &[u32]) {
        *self = Self::with_capacity(known.len() * 4);
        for (number, &node) in known.iter().enumerate() {
            let slot = self.find(node);
            self.slots[slot] = (node + 1, number as u32);
        }
    }
}

/// Up to so many are drawn by Floyd's algorithm.
const FEW: usize = 64;
const CHECK_EVERY: usize = 1024;
