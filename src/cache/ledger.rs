//! What is known of one database's commits: which kept answers are still what Neo4j would say.
//!
//! Transaction ids of a database are consecutive, and a *reading* (the bookmark of an empty transaction) carries the newest. The ids
//! that were taken between two readings are counted: if there are no more than those that our own commits surely took that were
//! acknowledged before the second one was asked for, then nobody else's commit hides among them, nor one of ours that is still on its
//! way, and the footprints of ours tell what has changed. If there are more, they may be those of commits that are on their way, and
//! nothing is known; but if none was on its way (a *quiet* reading), all that was kept of the database is out of date.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::statement::{Footprint, Mark};

/// Marks of one database that are told apart. With more, all answers are forgotten and it begins anew.
const MARKS: usize = 50_000;

/// Our own commits of all databases, as far as they are on their way.
#[derive(Debug, Default)]
pub(crate) struct Commits {
    in_flight: AtomicUsize,
    begun: AtomicU64,
}

impl Commits {
    pub(super) fn begin(&self) {
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.in_flight.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
    }

    /// A moment to compare with later. The order of the two reads matters: a commit that begins between them is seen as begun since.
    pub(super) fn moment(&self) -> Moment {
        let begun = self.begun.load(Ordering::SeqCst);
        Moment { begun, none: self.in_flight.load(Ordering::SeqCst) == 0 }
    }

    /// True if no commit of ours was on its way at that moment, and none has begun since.
    fn quiet_since(&self, moment: Moment) -> bool {
        moment.none && self.begun.load(Ordering::SeqCst) == moment.begun
    }
}

/// See [`Commits::moment`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    begun: u64,
    none: bool,
}

/// Whether a commit of ours took an id.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Took {
    /// It surely took one.
    One,
    /// It reported updates, and may have taken one or none.
    Perhaps,
}

/// What was settled when a reading came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Span {
    /// The newest id.
    pub(super) newest: i64,
    /// Answers of this id and newer ones, up to `settled`, …
    pub(super) base: i64,
    /// … are as good as at this id.
    pub(super) settled: i64,
}

impl Span {
    /// True if nothing that this span cannot explain has happened since that id.
    pub(crate) fn covers(&self, id: i64) -> bool {
        id == self.newest || (self.settled == self.newest && self.base <= id && id <= self.settled)
    }
}

#[derive(Debug)]
struct State {
    base: i64,
    /// None until the first quiet reading.
    settled: Option<i64>,
    /// Our own commits since then that surely took an id.
    sure: i64,
    /// A commit of ours may have gone uncounted.
    doubt: bool,
    /// Readings so far.
    readings: u64,
}

/// One database.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// Its id.
    pub(crate) database: [u8; 16],
    state: Mutex<State>,
    /// Counts our own commits.
    clock: AtomicU64,
    /// The clock when something that nobody can name was changed.
    whole: AtomicU64,
    /// The clock when anything was changed.
    any: Arc<AtomicU64>,
    marks: RwLock<HashMap<Mark, Arc<AtomicU64>>>,
    /// The newest id that was seen anywhere.
    newest: AtomicI64,
    /// Its name, as Neo4j gives it.
    name: Mutex<Option<Box<str>>>,
}

/// What an answer depends on, as it stood when it was asked for.
#[derive(Debug)]
pub(crate) struct Basis {
    clock: u64,
    slots: Box<[Arc<AtomicU64>]>,
}

impl Ledger {
    pub(crate) fn new(database: [u8; 16]) -> Self {
        let state = State { base: i64::MAX, settled: None, sure: 0, doubt: false, readings: 0 };
        Self {
            database,
            state: Mutex::new(state),
            clock: AtomicU64::new(0),
            whole: AtomicU64::new(0),
            any: Arc::default(),
            marks: RwLock::default(),
            newest: AtomicI64::new(-1),
            name: Mutex::default(),
        }
    }

    /// The newest id that was seen; a read that waits for it sees everything up to it.
    pub(crate) fn newest(&self) -> Option<i64> {
        Some(self.newest.load(Ordering::Acquire)).filter(|id| *id >= 0)
    }

    /// An answer told its name.
    pub(super) fn is_called(&self, name: Option<&str>) {
        let mut known = self.name.lock();
        if name.is_some() && known.as_deref() != name {
            *known = name.map(Into::into);
        }
    }

    /// True if its name is this one.
    pub(super) fn has_name(&self, name: &str) -> bool {
        self.name.lock().as_deref() == Some(name)
    }

    /// An id was seen in a bookmark.
    pub(crate) fn seen(&self, id: i64) {
        self.newest.fetch_max(id, Ordering::AcqRel);
    }

    /// What is known before a probe is sent.
    pub(super) fn before(&self) -> Before {
        let state = self.state.lock();
        Before { readings: state.readings, sure: state.sure }
    }

    /// Takes a reading whose probe was sent at `moment`, when so much was known.
    pub(super) fn reading(&self, newest: i64, commits: &Commits, moment: Moment, before: Before) -> Step {
        self.seen(newest);
        let mut state = self.state.lock();
        let mut step = Step { span: state.span(newest), cleared: false };
        if state.readings != before.readings {
            // Another reading came between: this one is older than what is known.
            return step;
        }
        state.readings += 1;
        let back = state.settled.is_some_and(|settled| newest < settled);
        let known = state.settled.filter(|_| !state.doubt);
        // Under this lock: a commit that is counted has begun before.
        if commits.quiet_since(moment) {
            if known.is_none_or(|settled| newest != settled + state.sure) {
                step.cleared = known.is_some();
                state.base = newest;
            }
            state.settled = Some(newest);
            (state.sure, state.doubt) = (0, false);
        } else if known.is_some_and(|settled| newest == settled + before.sure) {
            // Those that were acknowledged since have newer ids.
            state.settled = Some(newest);
            state.sure -= before.sure;
        } else if back {
            step.cleared = true;
            (state.base, state.settled, state.sure) = (i64::MAX, None, 0);
        }
        if back {
            // Another past: nothing that was kept is of it.
            self.newest.store(newest, Ordering::Release);
            self.touch_whole();
        }
        step.span = state.span(newest);
        step
    }

    /// A commit of ours is known, and its client is not told yet.
    pub(crate) fn committed(&self, took: Took, footprint: &Footprint) {
        self.touch(footprint);
        if took == Took::One {
            self.state.lock().sure += 1;
        }
    }

    /// A commit of ours may have happened or not, now or later, or changed nobody knows what.
    pub(crate) fn doubt(&self) {
        self.touch_whole();
        self.state.lock().doubt = true;
    }

    /// Nothing that was kept counts any longer.
    pub(crate) fn forget(&self) {
        self.touch_whole();
        let mut state = self.state.lock();
        (state.base, state.settled, state.sure, state.doubt) = (i64::MAX, None, 0, false);
    }

    /// Whatever depends on this is out of date.
    pub(crate) fn touch(&self, footprint: &Footprint) {
        let Some(marks) = &footprint.0 else { return self.touch_whole() };
        let now = self.clock.fetch_add(1, Ordering::SeqCst) + 1;
        self.any.store(now, Ordering::SeqCst);
        let known = self.marks.read();
        for slot in marks.iter().filter_map(|mark| known.get(mark)) {
            slot.store(now, Ordering::SeqCst);
        }
    }

    fn touch_whole(&self) {
        let now = self.clock.fetch_add(1, Ordering::SeqCst) + 1;
        self.whole.store(now, Ordering::SeqCst);
    }

    /// What an answer with this footprint will depend on, from now on.
    pub(crate) fn basis(&self, footprint: &Footprint) -> Basis {
        let clock = self.clock.load(Ordering::SeqCst);
        let Some(marks) = &footprint.0 else {
            return Basis { clock, slots: [Arc::clone(&self.any)].into() };
        };
        let known = self.marks.read();
        if let Some(slots) = marks.iter().map(|mark| known.get(mark).cloned()).collect() {
            return Basis { clock, slots };
        }
        drop(known);
        let mut known = self.marks.write();
        if known.len() + marks.len() > MARKS {
            known.clear();
            self.touch_whole();
        }
        let slots = marks.iter().map(|mark| Arc::clone(known.entry(mark.clone()).or_default())).collect();
        // Before the slots were there, nobody could have moved them.
        Basis { clock: self.clock.load(Ordering::SeqCst), slots }
    }

    /// True if no commit of ours has touched what the answer depends on.
    pub(crate) fn is_untouched(&self, basis: &Basis) -> bool {
        self.whole.load(Ordering::SeqCst) <= basis.clock
            && basis.slots.iter().all(|slot| slot.load(Ordering::SeqCst) <= basis.clock)
    }
}

impl State {
    fn span(&self, newest: i64) -> Span {
        Span { newest, base: self.base, settled: self.settled.unwrap_or(-1) }
    }
}

/// What is known when a probe is sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Before {
    /// Readings so far: one that was begun before another has come says nothing new.
    readings: u64,
    /// Ids that our own commits surely took since the last one.
    sure: i64,
}

/// What a reading came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Step {
    pub(super) span: Span,
    /// It showed a commit that cannot be explained.
    pub(super) cleared: bool,
}
