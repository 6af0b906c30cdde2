//! All registers of a run, which of them are hot when, and the book of what was found.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bolt_wire::packstream::Value;
use fastrand::Rng;
use parking_lot::Mutex;

use super::cell::Cell;
use super::forms::{FAMILIES, Kind, ROOM, Read, Write};
use super::rule::{Breach, Path, Rule};

/// Everything that the clients of a run share.
#[derive(Debug)]
pub(crate) struct World {
    /// What is promised.
    pub(crate) rule: Rule,
    /// When it began.
    pub(crate) started: Instant,
    /// The registers; their places are their numbers in the graph.
    pub(crate) cells: Vec<Cell>,
    /// Where they stand.
    pub(crate) slots: Vec<Slot>,
    /// What was found.
    pub(crate) book: Mutex<Book>,
    /// Statements that were answered.
    pub(crate) done: AtomicU64,
    letters: Mutex<VecDeque<Letter>>,
    names: AtomicU64,
    plan: Plan,
}

/// How much there is and what is done with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// How many clients there are.
    pub(crate) clients: usize,
    /// How many statements they send.
    pub(crate) statements: u64,
    /// Decides what is random.
    pub(crate) seed: u64,
    /// Few registers, all of them hot, and many writes, of a hundred so many around Sidebolt: for caches that lie.
    pub(crate) dense: Option<u32>,
}

impl Plan {
    /// How many families of registers there are: each has texts of its own, which have to be planned.
    fn families(self) -> usize {
        match (self.dense, self.statements) {
            (Some(_), _) => 1,
            (None, 0..50_000) => 2,
            _ => FAMILIES,
        }
    }
}

/// A place for a register, and its successors when it is full.
#[derive(Debug)]
pub(crate) struct Slot {
    /// What it is.
    pub(crate) kind: Kind,
    /// How it is written.
    pub(crate) writes: Vec<Arc<Write>>,
    /// How it is read.
    pub(crate) reads: Vec<Arc<Read>>,
    cells: Vec<usize>,
    current: AtomicUsize,
}

/// A bookmark that one client leaves for another.
#[derive(Clone, Debug)]
pub(crate) struct Letter {
    /// What it is.
    pub(crate) bookmark: Value,
    /// The register that it is about.
    pub(crate) slot: usize,
    /// The same.
    pub(crate) cell: usize,
    /// What it stands for.
    pub(crate) value: i64,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// Reads through each path.
    pub(crate) reads: [u64; Path::COUNT],
    /// Acknowledged writes through each path.
    pub(crate) writes: [u64; Path::COUNT],
    /// Reads that brought bookmarks.
    pub(crate) bookmarked: u64,
    /// Statements that failed, by code.
    pub(crate) refused: BTreeMap<String, u64>,
    /// Writes that were rolled back.
    pub(crate) undone: u64,
    /// Writes without an answer.
    pub(crate) unknown: u64,
    /// Connections that ended, or could not be made.
    pub(crate) broken: u64,
    /// What must not be.
    pub(crate) breaches: BTreeMap<Breach, u64>,
    /// The first of them, with the history of the register.
    pub(crate) shown: Vec<String>,
    /// Reads that missed something, whether they were allowed to or not.
    pub(crate) lagging: u64,
    /// By how much at most.
    pub(crate) lag: Duration,
    /// The longest wait for an answer.
    pub(crate) slowest: Duration,
}

/// How many registers a family has.
const MEMBERS: usize = 6;
/// How many breaches are told with all that belongs to them.
const SHOWN: usize = 5;
/// How many letters are kept.
const LETTERS: usize = 32;

/// A stretch of a run in which the clients are alike.
#[derive(Debug)]
pub(crate) struct Phase {
    /// Writes of a thousand statements.
    pub(crate) writes: u32,
    /// Of a hundred writes, those that go around Sidebolt.
    pub(crate) around: u32,
    /// Of a hundred writes, those that go through the other Sidebolt.
    pub(crate) second: u32,
    /// What is read most: a slot and the number of a text.
    pub(crate) hot: Vec<(usize, usize)>,
}

impl World {
    /// The registers of a run.
    pub(crate) fn new(rule: Rule, plan: Plan) -> Self {
        let started = Instant::now();
        // What can be counted up only so far has as many successors as may be needed.
        let successors = usize::try_from(plan.statements / 120_000).unwrap_or(0) + 2;
        let mut world = Self {
            rule,
            started,
            cells: Vec::new(),
            slots: Vec::new(),
            book: Mutex::default(),
            done: AtomicU64::new(0),
            letters: Mutex::default(),
            names: AtomicU64::new(0),
            plan,
        };
        for family in 0..plan.families() {
            (0..MEMBERS).for_each(|_| world.add(Kind::Family(family), 1));
        }
        (0..4).for_each(|_| world.add(Kind::Edge, 1));
        for kind in [Kind::Tick, Kind::Lit, Kind::Dim, Kind::Leaf, Kind::Tie] {
            (0..3).for_each(|_| world.add(kind, successors));
        }
        (0..plan.clients).for_each(|_| world.add(Kind::Owned, 64));
        world
    }

    fn add(&mut self, kind: Kind, successors: usize) {
        let first = self.cells.len();
        let started = self.started;
        self.cells.extend((0..successors).map(|_| Cell::new(started)));
        self.slots.push(Slot {
            kind,
            writes: kind.writes().into_iter().map(Arc::new).collect(),
            reads: kind.reads().into_iter().map(Arc::new).collect(),
            cells: (first..first + successors).collect(),
            current: AtomicUsize::new(0),
        });
    }

    /// The statements that put all registers into the graph.
    pub(crate) fn creates(&self) -> Vec<String> {
        let mut kinds: Vec<(Kind, Vec<i64>)> = Vec::new();
        for slot in &self.slots {
            let ids = slot.cells.iter().map(|&cell| cell as i64);
            match kinds.iter_mut().find(|(kind, _)| *kind == slot.kind) {
                Some((_, all)) => all.extend(ids),
                None => kinds.push((slot.kind, ids.collect())),
            }
        }
        kinds.iter().flat_map(|(kind, ids)| kind.creates(ids)).collect()
    }

    /// The slot that belongs to a client.
    pub(crate) fn owned(&self, client: usize) -> usize {
        let first = self.slots.iter().position(|slot| slot.kind == Kind::Owned).unwrap_or(0);
        first + client
    }

    /// A slot that anybody may write.
    pub(crate) fn shared(&self, random: &mut Rng) -> usize {
        let families = self.shared_families();
        if random.u8(0..3) > 0 { random.usize(0..families) } else { random.usize(families..self.owned(0)) }
    }

    /// How many slots there are of families: the first ones.
    pub(crate) fn shared_families(&self) -> usize {
        self.plan.families() * MEMBERS
    }

    /// The slots of a slot's family and the registers that stand there; else the slot itself.
    pub(crate) fn family(&self, slot: usize) -> Vec<(usize, usize)> {
        let kind = self.slots[slot].kind;
        let all = if matches!(kind, Kind::Family(_)) { 0..self.slots.len() } else { slot..slot + 1 };
        all.filter(|&other| self.slots[other].kind == kind)
            .map(|other| (other, self.slots[other].cell()))
            .collect()
    }

    /// The stretch with this number.
    pub(crate) fn phase(&self, number: u64) -> Phase {
        let mut random =
            Rng::with_seed(self.plan.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(number));
        let (writes, around, second) = match random.u8(0..10) {
            // Nearly nobody writes, or mostly others do; the cache can be of use.
            0..=2 => (3, 0, 0),
            3 | 4 => (8, 35, 30),
            5 => (20, 0, 0),
            6 | 7 => (40, 10, 15),
            8 => (100, 30, 30),
            _ => (300, 5, 15),
        };
        if let Some(around) = self.plan.dense {
            let hot = (0..3).map(|_| (self.shared(&mut random), random.usize(0..64))).collect();
            return Phase { writes: 100, around, second: around.min(100 - around), hot };
        }
        let hot = |random: &mut Rng| (random.usize(0..self.slots.len()), random.usize(0..64));
        let hot = (0..random.usize(4..20)).map(|_| hot(&mut random)).collect();
        Phase { writes, around, second, hot }
    }

    /// Leaves a letter for somebody.
    pub(crate) fn post(&self, letter: Letter) {
        let mut letters = self.letters.lock();
        if letters.len() == LETTERS {
            letters.pop_front();
        }
        letters.push_back(letter);
    }

    /// A name that was not there before.
    pub(crate) fn fresh(&self) -> String {
        format!("fresh{}", self.names.fetch_add(1, Ordering::Relaxed))
    }

    /// One of the last letters.
    pub(crate) fn letter(&self, random: &mut Rng) -> Option<Letter> {
        let letters = self.letters.lock();
        let back = random.usize(0..4).min(letters.len().checked_sub(1)?);
        letters.get(letters.len() - 1 - back).cloned()
    }

    /// Something must not be.
    pub(crate) fn breach(&self, breach: Breach, cells: &[usize], what: &str) {
        let mut book = self.book.lock();
        *book.breaches.entry(breach).or_default() += 1;
        if book.shown.len() < SHOWN {
            let mut text = format!("{breach:?}: {what}");
            for &cell in cells {
                let lines = self.cells[cell].history(self.started);
                text.push_str(&format!("\n  register {cell}:\n    {}", lines.join("\n    ")));
            }
            book.shown.push(text);
        }
    }

    /// How many statements were answered.
    pub(crate) fn answered(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
}

impl Slot {
    /// The register that stands here now.
    pub(crate) fn cell(&self) -> usize {
        let last = self.cells.len() - 1;
        self.cells[self.current.load(Ordering::Relaxed).min(last)]
    }

    /// The register to be written, and a number that no other write of it has; none if there is no room left.
    pub(crate) fn take(&self, cells: &[Cell]) -> Option<(usize, i64)> {
        loop {
            let current = self.current.load(Ordering::Relaxed);
            let &cell = self.cells.get(current)?;
            let ticket = cells[cell].ticket();
            if !self.kind.is_finite() || ticket <= ROOM {
                return Some((cell, ticket));
            }
            self.next(cell);
        }
    }

    /// The register has had its time: its successor takes its place.
    pub(crate) fn next(&self, cell: usize) {
        let place = cell - self.cells[0];
        let _ = self.current.compare_exchange(place, place + 1, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl Book {
    /// How often something was that must not be.
    pub(crate) fn found(&self) -> u64 {
        self.breaches.values().sum()
    }
}
