//! One client's write in a batch, and the way back to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bolt_wire::Tag;
use bolt_wire::packstream::{MapView, Walker};
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::lane::Turn;
use super::shared::Ballot;
use crate::statement::{Operand, Requirement, Shape, Statement};

/// A write that waits for its batch, or is in it.
pub(crate) struct Member {
    pub(super) write: Write,
    /// When it came.
    pub(super) since: Instant,
    pub(super) claim: Arc<Claim>,
    pub(super) reply: oneshot::Sender<Reply>,
    /// Its number among those of a shared transaction.
    pub(super) voter: usize,
}

/// What a client asked for.
pub(crate) struct Write {
    /// The text.
    pub(crate) statement: Arc<Statement>,
    /// The parameters (a PackStream map).
    pub(crate) parameters: Bytes,
    /// PULL or DISCARD.
    pub(crate) fetch: Tag,
    /// How many records it asks for; negative = all.
    pub(crate) records: i64,
    /// True if it waits for bookmarks, which are known to be reached.
    pub(crate) bookmarked: bool,
    /// Its key, if it can be a row of its shape's statement.
    pub(crate) key: Option<RowKey>,
}

/// What tells a row from others of its text, in a form that can be sorted and compared.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct RowKey(pub(crate) Box<[Box<[u8]>]>);

/// Whose a write is: its client's, until a batch claims it or the client takes it back.
#[derive(Debug, Default)]
pub(crate) struct Claim(AtomicU8);

const WAITING: u8 = 0;
const CLAIMED: u8 = 1;
const WITHDRAWN: u8 = 2;

impl Claim {
    /// A claim on what cannot be taken back any more.
    pub(crate) fn taken() -> Self {
        Self(AtomicU8::new(CLAIMED))
    }

    /// The batch takes it; false if the client took it back.
    pub(super) fn claim(&self) -> bool {
        self.move_to(CLAIMED)
    }

    /// The client takes it back; false if it is in a batch already.
    pub(crate) fn withdraw(&self) -> bool {
        self.move_to(WITHDRAWN)
    }

    fn move_to(&self, next: u8) -> bool {
        self.0.compare_exchange(WAITING, next, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// What became of a write.
pub(crate) enum Reply {
    /// It is committed: the answers to RUN and to PULL or DISCARD, as they go to the client.
    Answer(Bytes),
    /// It ran in a shared transaction, which waits for its client's COMMIT.
    Given(Box<Share>),
    /// COMMIT was refused with this FAILURE: the answer to RUN, and the FAILURE for PULL or DISCARD.
    Refused(Bytes),
    /// The session is to run it itself; with its turn, if it has the lane.
    Alone(Option<Turn>),
    /// Nobody knows whether it is committed.
    Unknown,
}

/// A client's part in a shared transaction.
pub(crate) struct Share {
    /// The answers to RUN and PULL, as they go to the client.
    pub(crate) answer: Bytes,
    /// The same without times: what another run of it must answer too.
    pub(crate) comparable: Bytes,
    /// Its vote.
    pub(crate) ballot: Ballot,
}

impl Write {
    /// The key of a row of `shape` with these parameters; none if they do not meet its checks, so that only Neo4j's own way will do.
    pub(crate) fn row_key(statement: &Statement, shape: &Shape, parameters: &[u8]) -> Option<RowKey> {
        let map = MapView::parse(parameters).ok()?;
        if statement.parameters.iter().any(|name| map.get(name).is_none()) {
            return None;
        }
        for check in &shape.checks {
            let value = lookup(&map, &check.path)?;
            if !meets(&check.requirement, value, &map) {
                return None;
            }
        }
        let parts = shape.key.parts.iter().map(|part| operand(&map, part));
        Some(RowKey(parts.collect::<Option<_>>()?))
    }
}

/// A key's value, so that equal values have equal bytes.
fn operand(parameters: &MapView<'_>, operand: &Operand) -> Option<Box<[u8]>> {
    match operand {
        Operand::Parameter(path) => canonical(lookup(parameters, path)?),
        Operand::Literal(bytes) => canonical(bytes),
    }
}

/// The value at a path of maps.
pub(super) fn lookup<'a>(map: &MapView<'a>, path: &[Box<str>]) -> Option<&'a [u8]> {
    let (first, rest) = path.split_first()?;
    let mut value = map.get(first)?;
    for name in rest {
        value = MapView::parse(value).ok()?.get(name)?;
    }
    Some(value)
}

const NULL: u8 = 0xC0;
/// A map with more entries is not looked through.
const LARGEST_MAP: usize = 256;

/// Whether a value is what is required. What cannot be read is not.
fn meets(requirement: &Requirement, value: &[u8], parameters: &MapView<'_>) -> bool {
    match requirement {
        Requirement::Any => true,
        Requirement::Key => canonical(value).is_some(),
        Requirement::Property => storable(value),
        Requirement::Nullable => value == [NULL] || storable(value),
        Requirement::Number => {
            matches!(scalar(value), Some(PropertyKind::Integer | PropertyKind::Float))
        }
        Requirement::Map { same } => {
            let Ok(map) = MapView::parse(value) else { return false };
            if map.len() > LARGEST_MAP {
                return false;
            }
            let mut names: Vec<&str> = Vec::with_capacity(map.len());
            for (name, value) in map.iter() {
                if names.contains(&name) || !storable(value) {
                    return false;
                }
                let key = same.iter().find(|(key, _)| **key == *name);
                if key.is_some_and(|(_, key)| operand(parameters, key) != canonical(value)) {
                    return false;
                }
                names.push(name);
            }
            names.len() == map.len()
        }
    }
}

/// What kind of property a value is: values of one kind can stand together in a list.
#[derive(Clone, Copy, Eq, PartialEq)]
enum PropertyKind {
    Boolean,
    Integer,
    Float,
    String,
    Structure(u8),
}

/// True if Neo4j surely stores the value as a property: a scalar, a temporal or spatial value, or a list of scalars of one kind.
fn storable(value: &[u8]) -> bool {
    if scalar(value).is_some() {
        return true;
    }
    let mut walker = Walker::new(value);
    let Ok(items) = walker.list_header() else { return false };
    let mut first = None;
    (0..items).all(|_| {
        let kind = walker.value().ok().and_then(scalar);
        kind.is_some_and(|kind| {
            !matches!(kind, PropertyKind::Structure(_)) && *first.get_or_insert(kind) == kind
        })
    })
}

fn scalar(value: &[u8]) -> Option<PropertyKind> {
    /// Date, time, date and time, duration; points.
    const STRUCTURES: &[u8] = b"DTtdIiFfEXY";
    match *value.first()? {
        0xC2 | 0xC3 => Some(PropertyKind::Boolean),
        0xC1 => Some(PropertyKind::Float),
        0x00..=0x7F | 0xF0..=0xFF | 0xC8..=0xCB => Some(PropertyKind::Integer),
        0x80..=0x8F | 0xD0..=0xD2 => Some(PropertyKind::String),
        0xB0..=0xBF => {
            value.get(1).filter(|tag| STRUCTURES.contains(tag)).map(|t| PropertyKind::Structure(*t))
        }
        _ => None,
    }
}

/// A key's value so that equal values have equal bytes: STRING, INTEGER or BOOLEAN.
fn canonical(value: &[u8]) -> Option<Box<[u8]>> {
    let mut walker = Walker::new(value);
    Some(match scalar(value)? {
        PropertyKind::Boolean => value.into(),
        PropertyKind::Integer => {
            let integer = walker.integer().ok()?;
            // Sorted as numbers are: the sign bit turned.
            let sorted = (integer as u64) ^ (1 << 63);
            [&[0xCB][..], &sorted.to_be_bytes()].concat().into()
        }
        PropertyKind::String => [b"s", walker.string().ok()?.as_bytes()].concat().into(),
        PropertyKind::Float | PropertyKind::Structure(_) => return None,
    })
}

/// The entries of a parameter map.
pub(super) fn map_size(parameters: &[u8], path: &[Box<str>]) -> Option<u64> {
    let map = MapView::parse(parameters).ok()?;
    Some(MapView::parse(lookup(&map, path)?).ok()?.len() as u64)
}
