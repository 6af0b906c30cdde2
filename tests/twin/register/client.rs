//! One client: sends what the seed says, and compares what it is told with what it may count on.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bolt_wire::Version;
use bolt_wire::packstream::Value;
use fastrand::Rng;

use super::fetched::Fetched;
use super::liar::Liar;
use super::op::{End, Marks, Op, Pull, Way};
use super::rule::{Breach, Path};
use super::step::Tx;
use super::world::{Letter, World};
use crate::plan::{Ask, Extra};
use crate::wire::{Connection, Endpoint, PATIENCE, Reply};

/// Where a client sends to.
#[derive(Clone, Debug)]
pub(crate) struct Ways {
    /// The ends of the paths.
    pub(crate) endpoints: [Endpoint; Path::COUNT],
    /// What lies on them.
    pub(crate) liars: [Option<Arc<Liar>>; Path::COUNT],
}

/// A client and all that it knows.
#[derive(Debug)]
pub(crate) struct Client {
    pub(super) world: Arc<World>,
    pub(super) number: usize,
    pub(super) version: Version,
    ways: Ways,
    connections: [Option<Connection>; Path::COUNT],
    random: Rng,
    /// Its bookmarks.
    marks: Vec<Value>,
    /// What they stand for.
    pub(super) stands: HashMap<usize, i64>,
    /// What it wrote through each path.
    pub(super) own: HashMap<usize, [i64; Path::COUNT]>,
}

/// Why a request has no answer.
#[derive(Debug)]
pub(super) enum Stop {
    /// It was refused with this code.
    Refused(String),
    /// The connection is gone.
    Broken,
}

/// What goes with a request.
#[derive(Debug, Default)]
pub(super) struct Carried {
    bookmarks: Vec<Value>,
    /// Whether they are the client's own.
    pub(super) own: bool,
    /// Whose they are else.
    pub(super) letter: Option<Letter>,
}

impl Carried {
    /// True if it brings nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.bookmarks.is_empty()
    }
}

/// How many operations of a client belong to one stretch at most.
const STRETCH: u64 = 150;
/// Before another attempt, as drivers do, when nobody answers or somebody refuses.
const PAUSE: Duration = Duration::from_millis(20);
/// Bookmarks that a client keeps; then it sends them.
const MARKS: usize = 4;

impl Client {
    /// One that has done nothing yet.
    pub(crate) fn new(world: &Arc<World>, number: usize, version: Version, ways: &Ways, seed: u64) -> Self {
        Self {
            world: Arc::clone(world),
            number,
            version,
            ways: ways.clone(),
            connections: [const { None }; Path::COUNT],
            random: Rng::with_seed(seed.wrapping_mul(977).wrapping_add(number as u64)),
            marks: Vec::new(),
            stands: HashMap::new(),
            own: HashMap::new(),
        }
    }

    /// Sends so many statements.
    pub(crate) async fn work(mut self, statements: u64) {
        let stretch = (statements / 12).clamp(1, STRETCH);
        let (mut sent, mut number) = (0, 0);
        let mut phase = self.world.phase(0);
        let mut last: Option<Op> = None;
        while sent < statements {
            if number % stretch == 0 {
                phase = self.world.phase(number / stretch);
            }
            number += 1;
            let op = Op::random(&self.world, &phase, self.number, last.as_ref(), &mut self.random);
            sent += op.parts.len() as u64;
            last = Some(op.clone());
            self.perform(op).await;
        }
    }

    async fn perform(&mut self, op: Op) {
        let count = op.parts.len() as u64;
        if self.connect(op.path).await {
            let liar = self.ways.liars[op.path as usize].clone();
            let _writing = liar.as_ref().filter(|_| op.writes()).map(|liar| liar.write());
            let (carried, op) = self.carry(op);
            let (mut tx, started) = (Tx::default(), Instant::now());
            let result = match op.way {
                Way::Auto => self.auto(&op, &carried, &mut tx).await,
                _ => self.transaction(&op, &carried, &mut tx).await,
            };
            let took = started.elapsed();
            {
                let mut book = self.world.book.lock();
                book.slowest = book.slowest.max(took);
            }
            let refused = matches!(result, Err(Stop::Refused(_)));
            self.finish(&op, &carried, tx, result);
            if refused {
                tokio::time::sleep(PAUSE).await;
            }
        }
        self.world.done.fetch_add(count, Ordering::Relaxed);
    }

    /// True if there is a connection; it is tried for long.
    async fn connect(&mut self, path: Path) -> bool {
        let (place, deadline) = (path as usize, Instant::now() + 3 * PATIENCE);
        while self.connections[place].is_none() {
            match Connection::open(&self.ways.endpoints[place], self.version).await {
                Ok(connection) => self.connections[place] = Some(connection),
                Err(error) if Instant::now() > deadline => {
                    let what = format!("client {} cannot connect ({path}): {error}", self.number);
                    self.world.breach(Breach::Nonsense, &[], &what);
                    return false;
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
        true
    }

    /// The bookmarks that go with it; a letter decides what is read.
    fn carry(&mut self, mut op: Op) -> (Carried, Op) {
        let mut carried = Carried::default();
        match op.marks {
            Marks::No if self.marks.len() < MARKS => {}
            Marks::No | Marks::Own => {
                carried.own = !self.marks.is_empty();
                carried.bookmarks.clone_from(&self.marks);
            }
            Marks::Letter => {
                carried.letter = self.world.letter(&mut self.random);
                if let Some(letter) = &carried.letter {
                    carried.bookmarks.push(letter.bookmark.clone());
                    op.turn_to(letter.slot);
                }
            }
        }
        (carried, op)
    }

    async fn auto(&mut self, op: &Op, carried: &Carried, tx: &mut Tx) -> Result<(), Stop> {
        let Some(step) = self.prepare(op.path, &op.parts[0], carried, tx) else { return Ok(()) };
        tx.committing = true;
        let run = step.run(extra(op, carried));
        let mut asks = vec![Ask::Telemetry(2), run, op.pull.first()];
        let liar =
            self.ways.liars[op.path as usize].clone().filter(|_| !op.writes() && op.pull == Pull::By(1000));
        let mut asked = None;
        if let Some(liar) = &liar {
            let key = format!("{:?} {} {}", step.key(), op.mode_r, self.version);
            match liar.answer(key, !carried.bookmarks.is_empty()) {
                Ok(replies) => {
                    let fetched = Fetched::of(replies);
                    tx.bookmark = fetched.bookmark.clone();
                    self.digest(op.path, step, fetched, tx);
                    return Ok(());
                }
                Err(needed) => asked = Some(needed),
            }
        }
        let replies = self.ask(op.path, std::mem::take(&mut asks)).await?;
        if let (Some(liar), Some(asked)) = (&liar, asked) {
            liar.keep(asked, &replies);
        }
        let fetched = self.rest(op, Fetched::of(replies)).await?;
        tx.bookmark = fetched.bookmark.clone();
        self.digest(op.path, step, fetched, tx);
        Ok(())
    }

    async fn transaction(&mut self, op: &Op, carried: &Carried, tx: &mut Tx) -> Result<(), Stop> {
        let mut lead = vec![Ask::Telemetry(op.way.api()), Ask::Begin(extra(op, carried))];
        if op.way != Way::Query {
            self.ask(op.path, std::mem::take(&mut lead)).await?;
        }
        for part in op.steps() {
            let Some(step) = self.prepare(op.path, &part, carried, tx) else { continue };
            let mut asks = std::mem::take(&mut lead);
            asks.extend([step.run(Extra::none()), op.pull.first()]);
            let fetched = self.ask(op.path, asks).await?;
            let fetched = self.rest(op, Fetched::of(fetched)).await?;
            self.digest(op.path, step, fetched, tx);
        }
        if !lead.is_empty() {
            // Nothing was sent at all.
            return Ok(());
        }
        tx.committing = op.end == End::Commit;
        let end = match op.end {
            End::Commit => Ask::Commit,
            End::Rollback => Ask::Rollback,
            End::Reset => Ask::Reset,
        };
        let replies = self.ask(op.path, vec![end]).await?;
        tx.bookmark = Fetched::of(replies).bookmark;
        Ok(())
    }

    /// The rows that have not been fetched yet.
    async fn rest(&mut self, op: &Op, mut fetched: Fetched) -> Result<Fetched, Stop> {
        while fetched.more {
            let asks = match op.pull {
                Pull::By(n) => vec![Ask::Pull(n)],
                Pull::Discard | Pull::OneDiscard => vec![Ask::Discard(-1)],
            };
            let replies = self.ask(op.path, asks).await?;
            fetched.add(replies);
        }
        fetched.complete &= op.pull != Pull::Discard;
        Ok(fetched)
    }

    async fn ask(&mut self, path: Path, asks: Vec<Ask>) -> Result<Vec<Reply>, Stop> {
        let place = path as usize;
        let Some(connection) = &mut self.connections[place] else { return Err(Stop::Broken) };
        let refused = |replies: &[Reply]| replies.iter().find_map(Reply::code).map(str::to_owned);
        match connection.ask(&asks).await {
            Ok(replies) => {
                let Some(code) = refused(&replies) else { return Ok(replies) };
                if connection.ask(&[Ask::Reset]).await.is_err() {
                    self.connections[place] = None;
                }
                Err(Stop::Refused(code))
            }
            Err(broken) => {
                self.connections[place] = None;
                self.world.book.lock().broken += 1;
                if broken.why != "closed" {
                    let what = format!("client {} ({path}): {}: {}", self.number, broken.why, broken.error);
                    self.world.breach(Breach::Nonsense, &[], &what);
                }
                Err(refused(&broken.replies).map_or(Stop::Broken, Stop::Refused))
            }
        }
    }

    /// Keeps the bookmark of what is done, and what it stands for.
    pub(super) fn mark(&mut self, carried: &Carried, bookmark: Value, values: Vec<(usize, i64)>) {
        if carried.own {
            self.marks.clear();
        }
        if !self.marks.contains(&bookmark) {
            self.marks.push(bookmark);
        }
        for (cell, value) in values {
            let stands = self.stands.entry(cell).or_default();
            *stands = value.max(*stands);
        }
    }
}

/// The map at the end of RUN and BEGIN.
fn extra(op: &Op, carried: &Carried) -> Extra {
    let mut extra = Extra::none();
    if !carried.bookmarks.is_empty() {
        extra.entries.push(("bookmarks".to_owned(), Value::List(carried.bookmarks.clone())));
    }
    if op.mode_r {
        extra.entries.push(("mode".to_owned(), "r".into()));
    }
    if op.way == Way::Deferred {
        let wanted = Value::map([("sidebolt", Value::map([("coalesce", "deferred".into())]))]);
        extra.entries.push(("tx_metadata".to_owned(), wanted));
    }
    extra
}
