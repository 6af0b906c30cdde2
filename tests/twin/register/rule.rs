//! What a reader must see, and what it may.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;

use super::cell::Floor;

/// Which way a request takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Path {
    /// Through the first Sidebolt.
    First,
    /// Through another one before the same Neo4j.
    Second,
    /// Straight to Neo4j.
    Around,
}

impl Path {
    /// How many there are.
    pub(crate) const COUNT: usize = 3;
    /// All of them.
    pub(crate) const ALL: [Self; Self::COUNT] = [Self::First, Self::Second, Self::Around];
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::First => "first",
            Self::Second => "second",
            Self::Around => "around",
        })
    }
}

/// What the cache promises.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Mode {
    /// Every read sees all that was acknowledged to anybody before it was sent.
    Strict,
    /// What others wrote past this Sidebolt may be missing for a stated time.
    Bounded,
}

/// The promise of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    /// Which.
    pub(crate) mode: Mode,
    /// The stated time of `bounded`.
    pub(crate) bound: Duration,
}

/// How a promise can be broken.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Breach {
    /// Older than what was acknowledged to somebody before (strict).
    Stale,
    /// The same, by more than the stated time (bounded).
    BeyondBound,
    /// A client does not see what it wrote itself.
    OwnWrite,
    /// What was written through the same Sidebolt is not seen.
    SamePath,
    /// Older than the bookmarks that came with the read.
    Bookmark,
    /// More than was ever begun: undone, done twice, or invented.
    Future,
    /// An answer that no such statement has: rows, types, values told twice.
    Nonsense,
}

impl Breach {
    /// All, with the names of their rows.
    pub(crate) const ALL: [(Self, &'static str); 7] = [
        (Self::Stale, "stale reads"),
        (Self::BeyondBound, "reads beyond the bound"),
        (Self::OwnWrite, "own writes missed"),
        (Self::SamePath, "writes of the same Sidebolt missed"),
        (Self::Bookmark, "bookmarks not honoured"),
        (Self::Future, "values from the future"),
        (Self::Nonsense, "answers that cannot be"),
    ];
}

/// What one read may count on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Due {
    /// What everybody knew.
    pub(crate) floor: Floor,
    /// What the reader wrote itself through each path.
    pub(crate) own: [i64; Path::COUNT],
    /// What the bookmarks stand for that were sent along; 0 without any.
    pub(crate) bookmarks: i64,
}

impl std::ops::AddAssign for Due {
    fn add_assign(&mut self, other: Self) {
        self.floor += other.floor;
        self.bookmarks += other.bookmarks;
        self.own.iter_mut().zip(other.own).for_each(|(own, other)| *own += other);
    }
}

impl Rule {
    /// What is wrong with a value that was read on this path; `fresh`: no cache may have answered.
    pub(crate) fn breach(
        self,
        due: &Due,
        path: Path,
        fresh: bool,
        value: i64,
        ceiling: i64,
    ) -> Option<Breach> {
        let strict = self.mode == Mode::Strict || fresh || path == Path::Around;
        let own = if strict { due.own.into_iter().max().unwrap_or(0) } else { due.own[path as usize] };
        let least = if strict { due.floor.now } else { due.floor.earlier };
        if value > ceiling {
            Some(Breach::Future)
        } else if value < own {
            Some(Breach::OwnWrite)
        } else if value < due.bookmarks {
            Some(Breach::Bookmark)
        } else if !strict && value < due.floor.same_path {
            Some(Breach::SamePath)
        } else if value < least {
            Some(if strict { Breach::Stale } else { Breach::BeyondBound })
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_breach_has_its_name() {
        let bound = Duration::from_millis(50);
        let floor = Floor { now: 9, earlier: 5, same_path: 3 };
        let due = Due { floor, own: [2, 7, 0], bookmarks: 4 };
        let of = |mode, path, fresh, value| Rule { mode, bound }.breach(&due, path, fresh, value, 10);
        assert_eq!(of(Mode::Strict, Path::First, false, 9), None);
        assert_eq!(of(Mode::Strict, Path::First, false, 8), Some(Breach::Stale));
        assert_eq!(of(Mode::Strict, Path::First, false, 6), Some(Breach::OwnWrite));
        assert_eq!(of(Mode::Strict, Path::First, false, 3), Some(Breach::OwnWrite));
        assert_eq!(of(Mode::Strict, Path::First, false, 11), Some(Breach::Future));
        assert_eq!(of(Mode::Bounded, Path::First, false, 5), None);
        assert_eq!(of(Mode::Bounded, Path::First, false, 4), Some(Breach::BeyondBound));
        assert_eq!(of(Mode::Bounded, Path::First, false, 3), Some(Breach::Bookmark));
        assert_eq!(of(Mode::Bounded, Path::First, false, 1), Some(Breach::OwnWrite));
        // Straight to Neo4j, or where no cache may answer, nothing may be missing.
        assert_eq!(of(Mode::Bounded, Path::Around, false, 8), Some(Breach::Stale));
        assert_eq!(of(Mode::Bounded, Path::First, true, 8), Some(Breach::Stale));
        let due = Due { bookmarks: 0, own: [0; 3], ..due };
        let rule = Rule { mode: Mode::Bounded, bound };
        assert_eq!(rule.breach(&due, Path::First, false, 2, 10), Some(Breach::SamePath));
    }
}
