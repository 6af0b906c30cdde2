//! What a client does next: decided by the seed alone.

use fastrand::Rng;

use super::forms::Kind;
use super::rule::Path;
use super::world::{Phase, World};
use crate::plan::Ask;

/// One auto-commit statement or one transaction.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    /// Which way it takes.
    pub(crate) path: Path,
    /// How it is sent.
    pub(crate) way: Way,
    /// Which bookmarks go with it.
    pub(crate) marks: Marks,
    /// Access mode `r`.
    pub(crate) mode_r: bool,
    /// How its rows are fetched.
    pub(crate) pull: Pull,
    /// What it does.
    pub(crate) parts: Vec<Part>,
    /// How a transaction ends.
    pub(crate) end: End,
}

/// How requests are sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    /// RUN and PULL at once, as `session.run`.
    Auto,
    /// BEGIN, wait; RUN and PULL, wait; COMMIT: as `execute_write`.
    Managed,
    /// BEGIN, RUN and PULL at once, COMMIT: as `execute_query`.
    Query,
    /// BEGIN, any number of statements, an end.
    Explicit,
    /// The same, and Sidebolt may gather the writes.
    Deferred,
}

/// Which bookmarks go with a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Marks {
    /// None.
    No,
    /// The client's own.
    Own,
    /// One that another client has left, for the register that it is about.
    Letter,
}

/// How rows are fetched.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Pull {
    /// So many at a time until there are no more.
    By(i64),
    /// Not at all.
    Discard,
    /// One, and no more.
    OneDiscard,
}

/// One statement: a slot, and the number of a text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Part {
    /// A read.
    Read(usize, usize),
    /// A write.
    Write(usize, usize),
    /// A write that changes no register; the slot is one of a family.
    Idle(usize, usize),
    /// Take the lock of a family's register and read it; then set it to one more.
    LockAndSet(usize),
    /// The second half of that.
    Set(usize),
}

/// How a transaction ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// COMMIT.
    Commit,
    /// ROLLBACK.
    Rollback,
    /// RESET.
    Reset,
}

impl Op {
    /// The next one of a client; `last`: its last one.
    pub(crate) fn random(
        world: &World,
        phase: &Phase,
        client: usize,
        last: Option<&Self>,
        random: &mut Rng,
    ) -> Self {
        if let Some(last) = last.filter(|last| last.writes() && random.bool()) {
            return last.looked_after(world, phase, random);
        }
        if random.u32(0..1000) < phase.writes {
            Self::write(world, phase, client, random)
        } else {
            Self::read(world, phase, random)
        }
    }

    /// A read of what was just written, on the same way mostly.
    fn looked_after(&self, world: &World, phase: &Phase, random: &mut Rng) -> Self {
        let mut read = Self::read(world, phase, random);
        if random.u8(0..3) > 0 {
            read.path = self.path;
        }
        if read.marks == Marks::Letter {
            read.marks = Marks::No;
        }
        if let Some(Part::Write(slot, _) | Part::LockAndSet(slot)) = self.parts.last() {
            // Of its texts the one that is read most, if it is one of those.
            let hot = phase.hot.iter().find(|(hot, _)| hot == slot).map(|(_, form)| *form);
            read.parts = vec![Part::Read(*slot, hot.unwrap_or_else(|| random.usize(0..64)))];
        }
        read
    }

    fn read(world: &World, phase: &Phase, random: &mut Rng) -> Self {
        let one = |random: &mut Rng| {
            let hot = random.choice(&phase.hot).copied().filter(|_| random.u8(0..10) > 0);
            let (slot, form) =
                hot.unwrap_or_else(|| (random.usize(0..world.slots.len()), random.usize(0..64)));
            Part::Read(slot, form)
        };
        let (way, mode_r) = match random.u8(0..20) {
            0..=12 => (Way::Auto, false),
            13 => (Way::Auto, true),
            14..=16 => (Way::Managed, true),
            17 | 18 => (Way::Query, true),
            _ => (Way::Explicit, random.bool()),
        };
        let count = if way == Way::Explicit { random.usize(1..4) } else { 1 };
        let path = [Path::First, Path::Second, Path::Around][match random.u8(0..100) {
            0..=79 => 0,
            80..=95 => 1,
            _ => 2,
        }];
        let marks = match random.u8(0..10) {
            0..=6 => Marks::No,
            7 | 8 => Marks::Own,
            _ => Marks::Letter,
        };
        let pull = match random.u8(0..50) {
            0 => Pull::Discard,
            1 => Pull::OneDiscard,
            2 => Pull::By(2),
            3 => Pull::By(-1),
            _ => Pull::By(1000),
        };
        let end = if random.u8(0..8) == 0 { End::Rollback } else { End::Commit };
        let parts = (0..count).map(|_| one(random)).collect();
        Self { path, way, marks, mode_r, pull, parts, end }
    }

    fn write(world: &World, phase: &Phase, client: usize, random: &mut Rng) -> Self {
        let draw = random.u32(0..100);
        let path = if draw < phase.around {
            Path::Around
        } else if draw < phase.around + phase.second {
            Path::Second
        } else {
            Path::First
        };
        let one = |random: &mut Rng| {
            if random.u8(0..4) == 0 {
                return Part::Idle(random.usize(0..world.shared_families()), random.usize(0..64));
            }
            let hot = random.choice(&phase.hot).copied().filter(|_| random.bool());
            let slot = hot.map(|(slot, _)| slot).filter(|&slot| world.slots[slot].kind != Kind::Owned);
            let slot = slot.unwrap_or_else(|| world.shared(random));
            Part::Write(slot, random.usize(0..64))
        };
        let owned = Part::Write(world.owned(client), random.usize(0..64));
        let (way, parts) = match random.u8(0..20) {
            0..=8 => (Way::Auto, vec![if random.u8(0..5) == 0 { owned } else { one(random) }]),
            9..=11 => (Way::Managed, vec![if random.u8(0..5) == 0 { owned } else { one(random) }]),
            12..=14 => (Way::Query, vec![if random.u8(0..5) == 0 { owned } else { one(random) }]),
            15 | 16 => (Way::Explicit, mixed(world, random)),
            17 => (Way::Explicit, vec![Part::LockAndSet(random.usize(0..world.shared_families()))]),
            18 => (Way::Managed, vec![Part::LockAndSet(random.usize(0..world.shared_families()))]),
            _ => (Way::Deferred, mixed(world, random)),
        };
        let end = match random.u8(0..if way == Way::Explicit { 4 } else { 20 }) {
            0 if random.bool() => End::Reset,
            0 => End::Rollback,
            _ => End::Commit,
        };
        let marks = if random.u8(0..3) == 0 { Marks::Own } else { Marks::No };
        Self { path, way, marks, mode_r: false, pull: Pull::By(1000), parts, end }
    }
}

impl Op {
    /// True if it writes, or tries to.
    pub(crate) fn writes(&self) -> bool {
        self.parts.iter().any(|part| !matches!(part, Part::Read(..)))
    }

    /// Reads this slot and nothing else.
    pub(crate) fn turn_to(&mut self, letter: usize) {
        for part in &mut self.parts {
            if let Part::Read(slot, _) = part {
                *slot = letter;
            }
        }
    }

    /// Its statements one by one.
    pub(crate) fn steps(&self) -> Vec<Part> {
        let each = |part: &Part| match *part {
            Part::LockAndSet(slot) => vec![Part::LockAndSet(slot), Part::Set(slot)],
            part => vec![part],
        };
        self.parts.iter().flat_map(each).collect()
    }
}

impl Way {
    /// The number that TELEMETRY has for it.
    pub(crate) fn api(self) -> i64 {
        match self {
            Self::Managed => 0,
            Self::Explicit | Self::Deferred => 1,
            Self::Auto => 2,
            Self::Query => 3,
        }
    }
}

impl Pull {
    /// The request that follows RUN.
    pub(crate) fn first(self) -> Ask {
        match self {
            Self::By(n) => Ask::Pull(n),
            Self::Discard => Ask::Discard(-1),
            Self::OneDiscard => Ask::Pull(1),
        }
    }
}

/// Writes and reads of the same registers, in the order in which everybody locks them.
fn mixed(world: &World, random: &mut Rng) -> Vec<Part> {
    let mut slots: Vec<usize> = (0..random.usize(1..4)).map(|_| world.shared(random)).collect();
    slots.sort_unstable();
    slots.dedup();
    let mut parts = Vec::new();
    for slot in slots {
        if random.u8(0..3) == 0 {
            parts.push(Part::Read(slot, random.usize(0..64)));
        }
        parts.push(Part::Write(slot, random.usize(0..64)));
        if random.bool() {
            parts.push(Part::Read(slot, random.usize(0..64)));
        }
    }
    parts
}
