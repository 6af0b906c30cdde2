//! What is known of a text: parsed once, kept by its exact bytes.

mod batch;
mod class;
mod count;
pub(crate) mod fingerprint;
mod footprint;
mod form;
mod names;
mod pattern;
mod read;
mod recognise;
mod shape;
mod table;
mod tokens;
mod value;

#[cfg(test)]
mod real_neo4j;
#[cfg(test)]
mod tests;

pub(crate) use footprint::{Footprint, Mark};
pub(crate) use names::Names;
pub(crate) use shape::{Amount, Counter, Kind, Operand, Requirement, Shape, Way, When};

use std::sync::atomic::{AtomicU64, Ordering};

use bolt_wire::packstream::{Value, Walker};
use parking_lot::Mutex;

use self::footprint::{Effects, Writes, have_no_map};
use self::tokens::Tokens;

pub(crate) use table::Statements;

/// A longer text is not looked into.
const LONGEST: usize = 64 << 10;

/// A text and what is known of it.
#[derive(Debug)]
pub(crate) struct Statement {
    /// Tells it from every other, and from a later one of the same text.
    pub(crate) id: u64,
    /// The text, byte for byte.
    pub(crate) text: Box<str>,
    /// What it has in common with texts that differ in their values only.
    pub(crate) fingerprint: u64,
    /// Names of the parameters that it reads. A request that lacks one is Neo4j's to refuse.
    pub(crate) parameters: Box<[Box<str>]>,
    /// The labels and types that it names.
    pub(crate) names: Names,
    /// What it may do.
    pub(crate) class: Class,
    /// True if it surely changes nothing, on whatever data.
    pub(crate) reads_only: bool,
    /// Whether an answer may be kept while the data that it depends on stay what they are, or why not; whatever the
    /// parameters are. `keeps` allows some more.
    pub(crate) cacheable: Result<(), &'static str>,
    /// What its answer depends on.
    pub(crate) reads: Footprint,
    /// Parameters that decide whether an answer may be kept, if nothing else forbids it: none of them may be a map.
    moments: Box<[form::Path]>,
    /// What it may change.
    writes: Writes,
    /// It has a shape, and neither removes a property nor sets one to a null that stands in the text.
    is_plain: bool,
    /// What the cache has made of it.
    pub(crate) cached: Cached,
}

/// What the cache has made of a text.
#[derive(Debug, Default)]
pub(crate) struct Cached {
    /// How often it was answered from the cache.
    pub(crate) hits: AtomicU64,
    /// How often it could have been, and was not.
    pub(crate) misses: AtomicU64,
    /// How often its answers were forgotten by hand.
    pub(crate) epoch: AtomicU64,
    /// What became of the last answer of Neo4j's.
    last: Mutex<Option<&'static str>>,
}

impl Cached {
    /// This became of an answer of Neo4j's.
    pub(crate) fn note(&self, outcome: &'static str) {
        *self.last.lock() = Some(outcome);
    }

    /// What became of the last one.
    pub(crate) fn last(&self) -> Option<&'static str> {
        *self.last.lock()
    }
}

/// What a text may do, as far as it can be told without running it.
#[derive(Debug)]
pub(crate) enum Class {
    /// It writes data, and may run inside a transaction beside other writes.
    Write {
        /// The coalescible form that it has, or why it has none.
        shape: Result<Box<Shape>, &'static str>,
    },
    /// Anything else (reads, procedures, schema, administration, …), and why no group may take it.
    Other(&'static str),
}

impl Statement {
    /// True if many requests of it can share one statement.
    pub(crate) fn is_shaped(&self) -> bool {
        matches!(&self.class, Class::Write { shape: Ok(_) })
    }

    /// What a request with these parameters (a PackStream map) may change.
    pub(crate) fn touches(&self, parameters: &[u8]) -> Footprint {
        self.writes.with(parameters)
    }

    /// True if each property that a request with these parameters sets gets a value that is not null, and none is removed.
    pub(crate) fn sets_plainly(&self, parameters: &[u8]) -> bool {
        self.is_plain && !has_null(&mut Walker::new(parameters))
    }

    /// `cacheable` of a request with these parameters (a PackStream map): `datetime($since)` is a clock only where it is given
    /// a map.
    pub(crate) fn keeps(&self, parameters: &[u8]) -> Result<(), &'static str> {
        match self.cacheable {
            Err(_) if !self.moments.is_empty() && have_no_map(parameters, &self.moments) => Ok(()),
            cacheable => cacheable,
        }
    }

    /// True if an answer of it may be kept, with some parameters at least.
    pub(crate) fn may_keep(&self) -> bool {
        self.cacheable.is_ok() || !self.moments.is_empty()
    }

    /// Of a text that has not come whole.
    pub(crate) fn unread() -> Self {
        let reason = "it is too long";
        let (class, effects) = (Class::Other(reason), Effects::unknown(reason));
        Self::of("", "", Box::default(), Names::unknown(), class, effects)
    }

    /// Looks into a text.
    pub(crate) fn parse(text: &str) -> Self {
        if text.len() > LONGEST {
            let reason = "it is too long";
            let normalised = fingerprint::of_long(text);
            let (class, effects) = (Class::Other(reason), Effects::unknown(reason));
            return Self::of(text, &normalised, Box::default(), Names::unknown(), class, effects);
        }
        let tokens = Tokens::of(text);
        let normalised = fingerprint::of_tokens(&tokens);
        let class = match class::judge(&tokens) {
            Ok(()) => Class::Write { shape: recognise::recognise(text, &tokens) },
            Err(reason) => Class::Other(reason),
        };
        let effects = Effects::of(text, &tokens);
        Self::of(text, &normalised, tokens.parameters(), Names::of(&tokens), class, effects)
    }

    fn of(
        text: &str,
        normalised: &str,
        parameters: Box<[Box<str>]>,
        names: Names,
        class: Class,
        effects: Effects,
    ) -> Self {
        let Effects { reads_only, cacheable, moments, reads, writes } = effects;
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let shaped = matches!(&class, Class::Write { shape: Ok(_) });
        Self {
            id,
            text: text.into(),
            fingerprint: fingerprint::hash(normalised),
            parameters,
            names,
            class,
            reads_only,
            cacheable,
            reads,
            moments,
            writes,
            is_plain: shaped && !has_word(text, "remove") && !has_word(text, "null"),
            cached: Cached::default(),
        }
    }
}

/// True if a text has these letters anywhere, in whatever case.
fn has_word(text: &str, word: &str) -> bool {
    text.as_bytes().windows(word.len()).any(|letters| letters.eq_ignore_ascii_case(word.as_bytes()))
}

/// True if there is a null anywhere in a value, or it cannot be read.
fn has_null(walker: &mut Walker<'_>) -> bool {
    fn within(value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::List(items) => items.iter().any(within),
            Value::Map(entries) => entries.iter().any(|(_, value)| within(value)),
            _ => false,
        }
    }
    Value::read(walker).map_or(true, |value| within(&value))
}
