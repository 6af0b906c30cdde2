//! A lane: the writes of one user to one database, alone while there is room and in batches while it is busy.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bolt_wire::packstream::MapView;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::batch;
use super::knowledge::{Knowledge, Texts};
use super::member::{Claim, Member, Reply, Write};
use super::plan::shape;
use crate::bookmark::Bookmark;
use crate::config::Coalesce;
use crate::session::Shared;
use crate::statement::Statement;
use crate::upstream::Need;

/// What the writes of a lane have in common.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct LaneKey {
    pub(crate) principal: [u8; 32],
    pub(crate) connection: crate::upstream::Key,
    /// Of transactions that clients begin and end themselves.
    pub(crate) managed: bool,
    /// BEGIN's metadata but for the bookmarks: database, time-out, transaction metadata, notification filter.
    pub(crate) begin: Box<[u8]>,
}

/// A lane.
pub(crate) struct Lane {
    /// The connection that its batches need.
    pub(super) need: Need,
    /// BEGIN's metadata but for the bookmarks (a PackStream map).
    pub(super) begin: Box<[u8]>,
    /// Its members begin and end their transactions themselves.
    pub(super) managed: bool,
    /// What Neo4j answers to BEGIN (a PackStream map).
    begun: Mutex<Option<Bytes>>,
    pub(super) texts: Mutex<Texts>,
    /// Smoothed time that members take to say COMMIT.
    pub(super) commit_wait: Mutex<Option<Duration>>,
    newest: Mutex<Option<(Bookmark, Arc<str>)>>,
    state: Mutex<State>,
    hasher: RandomState,
    /// Batches in a row that were not ready in time.
    slow: AtomicU32,
    /// BEGINs that were held and whose transaction did not join, since the last one that did.
    wasted: AtomicU32,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Member>,
    /// Writes that run alone, and since when.
    singles: Vec<(u64, Instant)>,
    /// Batches in flight, each with the hashes of what its rows may lock.
    batches: HashMap<u64, InFlight>,
    next: u64,
    pace: Pace,
    /// How long the queue is to be before it is looked through again beside batches in flight.
    look_at: usize,
    /// A look at the clock is due.
    watched: bool,
    /// When it was last used.
    used: Option<Instant>,
}

struct InFlight {
    since: Instant,
    rows: usize,
    /// It waits for the COMMITs of its members.
    holding: bool,
    locks: HashSet<u64>,
}

impl State {
    /// Rows in flight in batches.
    fn in_flight(&self) -> usize {
        self.batches.values().map(|batch| batch.rows).sum()
    }

    /// Writes that run alone and have not done so for too long: those hold nobody up.
    fn running(&self, config: &Coalesce) -> usize {
        let patience = self.pace.patience(config);
        self.singles.iter().filter(|(_, since)| since.elapsed() < patience).count()
    }
}

/// How many rows a batch may have: moved by measured time per row (additive increase, multiplicative decrease).
#[derive(Debug)]
struct Pace {
    rows: f64,
    /// Seconds per row of large batches: the best of late.
    per_row: Option<f64>,
    /// Smoothed time of a batch.
    took: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { rows: f64::NAN, per_row: None, took: Duration::ZERO }
    }
}

/// Rows by which a batch that was full and no slower may grow.
const INCREASE: f64 = 50.0;
/// What is left of a batch size that was too large.
const DECREASE: f64 = 0.7;
/// How much slower per row is too slow.
const TOLERANCE: f64 = 2.0;
/// What the best time per row gives way with each batch.
const FADE: f64 = 1.02;
/// A cap that noise does not go below.
const FLOOR: f64 = 64.0;
/// A batch that takes longer was too large, whatever its rows cost.
const LONG: Duration = Duration::from_millis(400);
/// Parameters that one batch carries at most, in bytes.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// Arrivals after which a backlog is looked through again for what could go beside the batches in flight.
const BACKLOG_STEP: usize = 32;
/// Rows that are worth a batch beside another.
const FEW: usize = 16;

impl Pace {
    fn rows(&self, start: usize, most: usize) -> usize {
        let rows = if self.rows.is_nan() { start as f64 } else { self.rows };
        (rows as usize).clamp(1, most)
    }

    /// After this, what runs is not waited for by writes that cannot conflict with it.
    fn patience(&self, config: &Coalesce) -> Duration {
        (self.took * 4).max(config.patience)
    }

    /// A batch of `rows` (of at most `allowed`) took so long.
    fn measured(&mut self, rows: usize, allowed: usize, took: Duration, most: usize) {
        self.took = (self.took * 7 + took) / 8;
        let smaller = (rows as f64 * DECREASE).max(FLOOR).min(most as f64);
        // Few rows that take long are not slow because they are many, and cost more each whatever the cap is.
        if (rows as f64) < FLOOR && (took > LONG || rows < allowed) {
            return;
        }
        if took > LONG {
            self.rows = smaller;
            return;
        }
        if rows * 2 < allowed {
            return;
        }
        let per_row = took.as_secs_f64() / rows as f64;
        let best = self.per_row.map_or(per_row, |best| per_row.min(best * FADE));
        self.per_row = Some(best);
        if per_row > best * TOLERANCE {
            self.rows = smaller;
        } else if rows >= allowed {
            self.rows = (allowed as f64 + INCREASE).min(most as f64);
        }
    }
}

/// What a lane has to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Writes that wait.
    pub(super) waiting: usize,
    /// Batches in flight.
    pub(super) batches: usize,
    /// Writes that run alone.
    pub(super) alone: usize,
    /// Rows that a batch may have.
    pub(super) cap: usize,
}

/// What `Lane::submit` came to.
pub(crate) enum Submitted {
    /// The lane has room: the session runs it itself.
    Alone(Turn),
    /// It waits for a batch.
    Waiting(Waiting),
    /// Too many wait already.
    Full,
}

/// A write that was handed in.
pub(crate) struct Waiting {
    /// Tells what became of it.
    pub(crate) reply: oneshot::Receiver<Reply>,
    /// Takes it back.
    pub(crate) claim: Arc<Claim>,
}

/// The right to run one write alone. Given back when dropped, which lets what gathered meanwhile go.
pub(crate) struct Turn {
    lane: Arc<Lane>,
    shared: Arc<Shared>,
    /// Its number; none once it was taken back.
    number: Option<u64>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let mut state = self.lane.state.lock();
        state.singles.retain(|(other, _)| *other != number);
        self.lane.dispatch(&self.shared, &mut state);
    }
}

/// A batch's place in its lane. Given back when dropped.
pub(super) struct Place {
    lane: Arc<Lane>,
    shared: Arc<Shared>,
    number: u64,
    allowed: usize,
}

impl Place {
    pub(super) fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The whole batch went through at once.
    pub(super) fn measured(&self, rows: usize, took: Duration) {
        let most = self.shared.config.load().coalesce.max_batch_size;
        self.lane.state.lock().pace.measured(rows, self.allowed, took, most);
    }

    /// The batch waits for the COMMITs of its members: others that cannot conflict may go.
    pub(super) fn holds(&self) {
        let mut state = self.lane.state.lock();
        if let Some(batch) = state.batches.get_mut(&self.number) {
            batch.holding = true;
        }
        self.lane.dispatch(&self.shared, &mut state);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.lane.state.lock();
        state.batches.remove(&self.number);
        self.lane.dispatch(&self.shared, &mut state);
    }
}

impl Lane {
    pub(super) fn new(need: Need, key: &LaneKey) -> Self {
        Self {
            need,
            begin: key.begin.clone(),
            managed: key.managed,
            begun: Mutex::default(),
            commit_wait: Mutex::default(),
            texts: Mutex::default(),
            newest: Mutex::default(),
            state: Mutex::default(),
            hasher: RandomState::new(),
            slow: AtomicU32::new(0),
            wasted: AtomicU32::new(0),
        }
    }

    /// Hands a write in.
    pub(crate) fn submit(self: &Arc<Self>, shared: &Arc<Shared>, write: Write) -> Submitted {
        let config = shared.config.load();
        let mut state = self.state.lock();
        let now = Instant::now();
        state.used = Some(now);
        if let Some(turn) = self.room(shared, &mut state) {
            return Submitted::Alone(turn);
        }
        if state.queue.len() >= config.coalesce.max_waiting {
            return Submitted::Full;
        }
        let (reply, receiver) = oneshot::channel();
        let claim = Arc::new(Claim::default());
        state.queue.push_back(Member { write, since: now, claim: Arc::clone(&claim), reply, voter: 0 });
        // A backlog that conflicts with what runs is looked through now and then only.
        let holding = state.batches.values().all(|batch| batch.holding);
        if holding || state.queue.len() >= state.look_at {
            self.dispatch(shared, &mut state);
        }
        self.watch(shared, &mut state);
        Submitted::Waiting(Waiting { reply: receiver, claim })
    }

    /// A turn, if nothing else runs or waits.
    pub(crate) fn take_turn(self: &Arc<Self>, shared: &Arc<Shared>) -> Option<Turn> {
        let mut state = self.state.lock();
        state.used = Some(Instant::now());
        self.room(shared, &mut state)
    }

    fn room(self: &Arc<Self>, shared: &Arc<Shared>, state: &mut State) -> Option<Turn> {
        let config = &shared.config.load().coalesce;
        let idle =
            state.batches.is_empty() && state.queue.is_empty() && state.running(config) < config.singles;
        idle.then(|| self.turn(shared, state))
    }

    fn turn(self: &Arc<Self>, shared: &Arc<Shared>, state: &mut State) -> Turn {
        let number = state.next;
        state.next += 1;
        state.singles.push((number, Instant::now()));
        Turn { lane: Arc::clone(self), shared: Arc::clone(shared), number: Some(number) }
    }

    /// Sends off what may go.
    fn dispatch(self: &Arc<Self>, shared: &Arc<Shared>, state: &mut State) {
        let config = shared.config.load();
        let coalesce = &config.coalesce;
        let allowed = state.pace.rows(coalesce.batch_size, coalesce.max_batch_size);
        loop {
            if state.queue.is_empty() {
                return;
            }
            let now = Instant::now();
            let idle = state.batches.is_empty() && state.running(coalesce) < coalesce.singles;
            // Two batches keep Neo4j busy while one of them is committed; more are for a large backlog.
            let half = state.batches.len() == 1 && state.queue.len() >= FEW.max(state.in_flight());
            let backlog = half || state.queue.len() >= allowed;
            let patience = state.pace.patience(coalesce);
            let stuck = state.batches.values().all(|batch| now - batch.since > patience);
            // Who waits for its members' COMMITs leaves Neo4j idle.
            let holding = state.batches.values().all(|batch| batch.holding);
            let more = state.batches.len() < coalesce.max_batches
                && !state.batches.is_empty()
                && (backlog || stuck || holding);
            if !idle && !more {
                return;
            }
            let members = self.take(state, allowed, !idle);
            state.look_at = if members.is_empty() { state.queue.len() + BACKLOG_STEP } else { 0 };
            if members.is_empty() {
                return;
            }
            self.send_off(shared, state, members, allowed);
            if idle {
                return;
            }
        }
    }

    /// Starts a batch, or lets a single write run alone.
    fn send_off(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        state: &mut State,
        mut members: Vec<Member>,
        allowed: usize,
    ) {
        if members.len() == 1
            && state.batches.is_empty()
            && let Some(member) = members.pop()
        {
            let turn = self.turn(shared, state);
            // A client that vanished just now drops the turn, which would lock what is locked here.
            if let Err(Reply::Alone(Some(mut turn))) = member.reply.send(Reply::Alone(Some(turn))) {
                turn.number = None;
                state.singles.pop();
            }
            return;
        }
        let number = state.next;
        state.next += 1;
        let locks = members.iter().flat_map(|member| self.locks(member)).collect();
        state
            .batches
            .insert(number, InFlight { since: Instant::now(), rows: members.len(), holding: false, locks });
        let place = Place { lane: Arc::clone(self), shared: Arc::clone(shared), number, allowed };
        tokio::spawn(batch::run(place, members));
    }

    /// Takes the members of the next batch out of the queue. Where others run already, only rows that cannot conflict with theirs.
    fn take(&self, state: &mut State, allowed: usize, beside: bool) -> Vec<Member> {
        let mut taken: Vec<Member> = Vec::with_capacity(allowed.min(state.queue.len()));
        let mut seen: HashSet<(*const Statement, u64)> = HashSet::new();
        let mut left = VecDeque::new();
        let mut bytes = 0;
        while taken.len() < allowed && bytes < BATCH_BYTES {
            let Some(member) = state.queue.pop_front() else { break };
            if member.reply.is_closed() {
                continue;
            }
            let beside_others = beside
                && (member.write.key.is_none()
                    || self
                        .locks(&member)
                        .any(|lock| state.batches.values().any(|b| b.locks.contains(&lock))));
            let distinct = shape(&member.write.statement).is_some_and(|shape| shape.key.distinct);
            let repeated = member.write.key.as_ref().filter(|_| distinct).is_some_and(|key| {
                !seen.insert((Arc::as_ptr(&member.write.statement), self.hasher.hash_one(key)))
            });
            if beside_others || repeated {
                left.push_back(member);
                continue;
            }
            if member.claim.claim() {
                bytes += member.write.parameters.len();
                taken.push(member);
            }
        }
        // What stays keeps its place before what came later.
        while let Some(member) = left.pop_back() {
            state.queue.push_front(member);
        }
        taken
    }

    /// Hashes of the nodes that a row may lock.
    fn locks(&self, member: &Member) -> impl Iterator<Item = u64> {
        member.write.key.iter().flat_map(|key| key.0.iter()).map(|part| self.hasher.hash_one(part))
    }

    /// Looks again when patience with what runs is over.
    fn watch(self: &Arc<Self>, shared: &Arc<Shared>, state: &mut State) {
        if state.watched || state.queue.is_empty() {
            return;
        }
        state.watched = true;
        let (lane, shared) = (Arc::clone(self), Arc::clone(shared));
        let patience = state.pace.patience(&shared.config.load().coalesce);
        tokio::spawn(async move {
            tokio::time::sleep(patience + patience / 10).await;
            let mut state = lane.state.lock();
            state.watched = false;
            lane.dispatch(&shared, &mut state);
            lane.watch(&shared, &mut state);
        });
    }

    /// How long a batch may take until it can be committed: a server that cannot do it in the usual time is given more.
    pub(super) fn patience_with_batches(&self, usual: Duration) -> Duration {
        /// Doublings of the usual time.
        const MOST: u32 = 4;
        usual * 2u32.pow(self.slow.load(Ordering::Relaxed).min(MOST))
    }

    /// A batch was ready in time, or was not.
    pub(super) fn was_ready(&self, in_time: bool) {
        if in_time {
            self.slow.store(0, Ordering::Relaxed);
        } else {
            self.slow.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether a BEGIN is worth holding: those before it joined, or it is time to try again.
    pub(crate) fn holds(&self) -> bool {
        /// Transactions in a row that did not join, which are enough to know.
        const ENOUGH: u32 = 8;
        /// One in so many is tried again.
        const RETRY: u32 = 32;
        let wasted = self.wasted.load(Ordering::Relaxed);
        if wasted >= ENOUGH {
            self.wasted.fetch_add(1, Ordering::Relaxed);
        }
        wasted < ENOUGH || wasted.is_multiple_of(RETRY)
    }

    /// A transaction whose BEGIN was held joined others, or did not.
    pub(crate) fn joined(&self, joined: bool) {
        if joined {
            self.wasted.store(0, Ordering::Relaxed);
        } else {
            self.wasted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What Neo4j answers to BEGIN, if it is known.
    pub(crate) fn begun(&self) -> Option<Bytes> {
        self.begun.lock().clone()
    }

    /// Neo4j answered BEGIN (a PackStream map).
    pub(crate) fn learn_begun(&self, meta: &[u8]) {
        let mut begun = self.begun.lock();
        if begun.as_deref() != Some(meta) {
            *begun = Some(Bytes::copy_from_slice(meta));
        }
    }

    /// Whether what a bookmark stands for is surely there: Sidebolt has seen a newer one of the same database.
    pub(crate) fn has_reached(&self, bookmark: &Bookmark) -> bool {
        self.newest.lock().as_ref().is_some_and(|(newest, _)| {
            newest.database == bookmark.database && newest.transaction >= bookmark.transaction
        })
    }

    /// A bookmark that Neo4j gave.
    pub(crate) fn reached(&self, text: &str) {
        let Some(bookmark) = Bookmark::parse(text) else { return };
        let mut newest = self.newest.lock();
        let older = newest.as_ref().is_none_or(|(known, _)| {
            known.database != bookmark.database || known.transaction < bookmark.transaction
        });
        if older {
            *newest = Some((bookmark, text.into()));
        }
    }

    /// The newest bookmark that Neo4j gave.
    pub(super) fn newest(&self) -> Option<Arc<str>> {
        self.newest.lock().as_ref().map(|(_, text)| Arc::clone(text))
    }

    /// Neo4j may have been set back: what it gave before says nothing.
    pub(super) fn forget_bookmark(&self) {
        *self.newest.lock() = None;
    }

    /// What is known of a text in this lane.
    pub(crate) fn knowledge<T>(
        &self,
        statement: &Arc<Statement>,
        look: impl FnOnce(&mut Knowledge) -> T,
    ) -> T {
        look(self.texts.lock().of(statement))
    }

    /// True if nothing runs or waits, and nothing did lately.
    pub(super) fn is_forgotten(&self, after: Duration) -> bool {
        let state = self.state.lock();
        state.queue.is_empty()
            && state.batches.is_empty()
            && state.singles.is_empty()
            && state.used.is_none_or(|used| used.elapsed() > after)
    }

    /// What it has to do now; batches begin with `start` rows and have `most` at most.
    pub(super) fn load(&self, start: usize, most: usize) -> Load {
        let state = self.state.lock();
        Load {
            waiting: state.queue.len(),
            batches: state.batches.len(),
            alone: state.singles.len(),
            cap: state.pace.rows(start, most),
        }
    }

    /// The database that it writes to, if its clients name one.
    pub(crate) fn database(&self) -> Option<&str> {
        MapView::parse(&self.begin).ok().and_then(|begin| begin.string("db"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 10_000;

    #[test]
    fn a_slow_while_does_not_end_batches_for_good() {
        let mut pace = Pace::default();
        assert_eq!(pace.rows(500, MOST), 500);
        // Whatever is slow: a stalled server says nothing about the size.
        for rows in [1, 2, 62, 400, 1, 30, 12, 8, 1] {
            pace.measured(rows, pace.rows(500, MOST), LONG * 3, MOST);
        }
        assert_eq!(pace.rows(500, MOST), 280);
        pace.measured(70, 70, LONG * 3, MOST);
        assert_eq!(pace.rows(500, MOST), FLOOR as usize);
        // Full batches that are fast again grow.
        for _ in 0..30 {
            let allowed = pace.rows(500, MOST);
            pace.measured(allowed, allowed, Duration::from_micros(50) * allowed as u32, MOST);
        }
        assert!(pace.rows(500, MOST) > 500, "{pace:?}");
    }

    #[test]
    fn a_small_batch_size_grows_too() {
        let mut pace = Pace::default();
        pace.measured(2, pace.rows(2, MOST), Duration::from_millis(1), MOST);
        assert!(pace.rows(2, MOST) > 2, "{pace:?}");
    }
}
