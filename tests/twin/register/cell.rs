//! One register: a number that only rises, what everybody knows of it, and when they came to know it.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::rule::Path;

/// What anybody may know of a register, and the last that happened to it.
#[derive(Debug)]
pub(crate) struct Cell {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Writes that were sent and have not surely failed: it cannot be higher.
    begun: i64,
    /// Writes that were acknowledged: it cannot be lower.
    acknowledged: i64,
    /// Of those, through each path.
    through: [i64; Path::COUNT],
    /// What others had been acknowledged when a write was sent that was acknowledged through this path.
    others: [i64; Path::COUNT],
    /// The greatest value that a write through this path was told.
    told: [i64; Path::COUNT],
    /// When it was known for the first time that it is at least so much; rising in both.
    known: VecDeque<(Instant, i64)>,
    /// Values that writes were told: no two the same.
    values: HashSet<i64>,
    /// Tickets given out, for writes that need a number of their own.
    tickets: i64,
    events: VecDeque<Event>,
}

/// What a reader may count on when it sends its request.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Floor {
    /// What somebody knew then.
    pub(crate) now: i64,
    /// What somebody knew that much earlier.
    pub(crate) earlier: i64,
    /// What was written through the reader's own path.
    pub(crate) same_path: i64,
}

impl std::ops::AddAssign for Floor {
    fn add_assign(&mut self, other: Self) {
        self.now += other.now;
        self.earlier += other.earlier;
        self.same_path += other.same_path;
    }
}

/// A write that is under way. Without an end its outcome is unknown: it may be there now, later or never.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    /// Which register.
    pub(crate) cell: usize,
    path: Path,
    known: i64,
    others: i64,
}

/// One line of a register's history.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// When its answer came.
    pub(crate) at: Instant,
    /// How long that took.
    pub(crate) took: Duration,
    /// Whose it was.
    pub(crate) client: usize,
    /// Where it went.
    pub(crate) path: Path,
    /// Its text.
    pub(crate) text: Arc<str>,
    /// What came of it.
    pub(crate) outcome: Outcome,
}

/// What came of a statement.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// It read this, and had to read at least that.
    Read(i64, i64),
    /// It is committed, and was told this.
    Wrote(Option<i64>),
    /// It surely did nothing: it was refused with a code, or undone.
    Undone(String),
    /// Nobody knows whether it is committed.
    Unknown,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(value, known) => write!(f, "read {value}, known then {known}"),
            Self::Wrote(Some(value)) => write!(f, "wrote {value}"),
            Self::Wrote(None) => write!(f, "wrote"),
            Self::Undone(why) => write!(f, "not written ({why})"),
            Self::Unknown => write!(f, "written or not, no answer"),
        }
    }
}

/// How many events are kept.
const EVENTS: usize = 20;
/// For how long it is kept what was known.
const MEMORY: Duration = Duration::from_secs(20);

impl Cell {
    /// A register that is at 0.
    pub(crate) fn new(now: Instant) -> Self {
        let inner = Inner { known: VecDeque::from([(now, 0)]), ..Inner::default() };
        Self { inner: Mutex::new(inner) }
    }

    /// A number that no other caller gets, from 1.
    pub(crate) fn ticket(&self) -> i64 {
        let mut inner = self.inner.lock();
        inner.tickets += 1;
        inner.tickets
    }

    /// A write is about to be sent.
    pub(crate) fn begin(&self, cell: usize, path: Path) -> Pending {
        let mut inner = self.inner.lock();
        inner.begun += 1;
        let others = inner.acknowledged - inner.through[path as usize];
        Pending { cell, path, known: inner.known_now(), others }
    }

    /// The write is committed, and was told this value; gives what the register is now at least, or what cannot be.
    pub(crate) fn acknowledged(&self, write: Pending, told: Option<i64>, at: Instant) -> Result<i64, String> {
        let mut inner = self.inner.lock();
        let place = write.path as usize;
        inner.acknowledged += 1;
        inner.through[place] += 1;
        inner.others[place] = inner.others[place].max(write.others);
        let least = write.known + 1;
        let value = told.unwrap_or(least);
        inner.told[place] = inner.told[place].max(value.max(least));
        inner.learn(value.max(least), at);
        let all = inner.acknowledged;
        inner.learn(all, at);
        let Some(told) = told else { return Ok(least) };
        if !inner.values.insert(told) {
            return Err(format!("two writes were told {told}"));
        }
        if told < least || told > inner.begun {
            return Err(format!("a write was told {told}, not {least} to {}", inner.begun));
        }
        Ok(told)
    }

    /// The write surely is not there, and will not be.
    pub(crate) fn failed(&self, _: Pending) {
        self.inner.lock().begun -= 1;
    }

    /// What a reader on this path may count on who sends now.
    pub(crate) fn floor(&self, path: Path, now: Instant, earlier: Duration) -> Floor {
        let inner = self.inner.lock();
        let place = path as usize;
        Floor {
            now: inner.known_now(),
            earlier: inner.known_at(now.checked_sub(earlier).unwrap_or(now)),
            same_path: inner.told[place].max(inner.through[place] + inner.others[place]),
        }
    }

    /// What it cannot exceed.
    pub(crate) fn ceiling(&self) -> i64 {
        self.inner.lock().begun
    }

    /// How many writes were acknowledged.
    pub(crate) fn done(&self) -> i64 {
        self.inner.lock().acknowledged
    }

    /// Somebody has read this value.
    pub(crate) fn seen(&self, value: i64, at: Instant) {
        self.inner.lock().learn(value, at);
    }

    /// When it became known that it is more than this, if that is still kept.
    pub(crate) fn outdated_since(&self, value: i64) -> Option<Instant> {
        let inner = self.inner.lock();
        inner.known.iter().find(|(_, known)| *known > value).map(|(at, _)| *at)
    }

    /// Something happened.
    pub(crate) fn note(&self, event: Event) {
        let mut inner = self.inner.lock();
        if inner.events.len() == EVENTS {
            inner.events.pop_front();
        }
        inner.events.push_back(event);
    }

    /// The last events, one a line.
    pub(crate) fn history(&self, from: Instant) -> Vec<String> {
        let inner = self.inner.lock();
        let line = |event: &Event| {
            let Event { at, took, client, path, text, outcome } = event;
            let sent = (*at - *took).duration_since(from).as_secs_f64() * 1e3;
            format!("{sent:>11.3} ms +{took:<7.1?} client {client:<2} {path:<6} {outcome}: {text}")
        };
        inner.events.iter().map(line).collect()
    }
}

impl Inner {
    fn known_now(&self) -> i64 {
        self.known.back().map_or(0, |(_, value)| *value)
    }

    fn known_at(&self, when: Instant) -> i64 {
        self.known.iter().rev().find(|(at, _)| *at <= when).map_or(0, |(_, value)| *value)
    }

    fn learn(&mut self, value: i64, at: Instant) {
        if value <= self.known_now() {
            return;
        }
        // Answers are noted a little after they came, and not always in that order.
        let at = self.known.back().map_or(at, |(last, _)| at.max(*last));
        self.known.push_back((at, value));
        while self.known.len() > 2 && self.known[1].0 + MEMORY < at {
            self.known.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_millis(50);

    #[test]
    fn floors_follow_what_was_acknowledged() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let cell = Cell::new(start);
        let (one, two) = (cell.begin(0, Path::First), cell.begin(0, Path::Second));
        assert_eq!((cell.floor(Path::First, at(0), BOUND).now, cell.ceiling()), (0, 2));
        assert_eq!(cell.acknowledged(two, Some(1), at(100)), Ok(1));
        let floor = cell.floor(Path::First, at(120), BOUND);
        assert_eq!(floor, Floor { now: 1, earlier: 0, same_path: 0 });
        assert_eq!(cell.floor(Path::First, at(150), BOUND).earlier, 1);
        assert_eq!(cell.acknowledged(one, None, at(160)), Ok(1));
        // Two were acknowledged, whatever they were told; but nobody knows that the first one saw the second.
        let floor = cell.floor(Path::First, at(170), BOUND);
        assert_eq!(floor, Floor { now: 2, earlier: 1, same_path: 1 });
        cell.begin(0, Path::First);
        cell.failed(cell.begin(0, Path::First));
        assert_eq!(cell.ceiling(), 3);
        assert_eq!(cell.outdated_since(1), Some(at(160)));
    }

    #[test]
    fn a_value_told_twice_or_never_begun_is_found() {
        let now = Instant::now();
        let cell = Cell::new(now);
        let writes = [cell.begin(0, Path::First), cell.begin(0, Path::First), cell.begin(0, Path::First)];
        assert_eq!(cell.acknowledged(writes[0], Some(1), now), Ok(1));
        assert!(cell.acknowledged(writes[1], Some(1), now).is_err());
        assert!(cell.acknowledged(writes[2], Some(4), now).is_err());
    }
}
