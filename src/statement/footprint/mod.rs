//! What the answer to a text depends on, what a text may change, and whether an answer may be kept.
//!
//! A *footprint* is a set of marks. An answer that depends on some marks stays what it is while only others are changed. Where
//! a text is not wholly understood its footprint is the whole database. What makes this right:
//!
//! - A row of an answer begins with a match. A new node can only get into one through a label that it has or through a pattern
//!   that any node meets; a new relationship through its type or a pattern that any relationship meets. So what a new thing
//!   carries besides matters to nobody, and what is deleted is found the same way.
//! - Everything else that can change in an answer is a property or a label of what was there before. An expression sees these
//!   where it names them, or through what shows all of them: a whole node in the answer, `properties(n)`, `labels(n)`.
//! - Identity and type never change.

mod functions;
mod kinds;
mod mark;
mod reads;
mod split;
mod touches;
mod writes;

#[cfg(test)]
mod real_neo4j;
#[cfg(test)]
mod tests;

use open_cypher::ast::{Query, StatementKind};

use self::functions::CLOCK;
pub(crate) use self::mark::{Footprint, Mark};
pub(super) use self::touches::{Writes, have_no_map};
use super::form::Path;
use super::tokens::Tokens;

/// What is known of the data behind a text.
#[derive(Debug)]
pub(super) struct Effects {
    /// True if it surely changes nothing.
    pub(super) reads_only: bool,
    /// Why an answer may not be kept.
    pub(super) cacheable: Result<(), &'static str>,
    /// Parameters of which it depends whether an answer may be kept: none of them may be a map.
    pub(super) moments: Box<[Path]>,
    /// What an answer depends on.
    pub(super) reads: Footprint,
    /// What it may change.
    pub(super) writes: Writes,
}

impl Effects {
    /// Looks into a text.
    pub(super) fn of(text: &str, tokens: &Tokens<'_>) -> Self {
        Self::known(text, tokens).unwrap_or_else(Self::unknown)
    }

    /// Of a text that nobody understands.
    pub(super) fn unknown(reason: &'static str) -> Self {
        let moments = Box::default();
        Self {
            reads_only: false,
            cacheable: Err(reason),
            moments,
            reads: Footprint::WHOLE,
            writes: Writes::Whole,
        }
    }

    fn known(text: &str, tokens: &Tokens<'_>) -> Result<Self, &'static str> {
        let parts = split::split(text, tokens)?;
        let queries = parts.iter().map(|part| parse(&part.text)).collect::<Result<Vec<_>, _>>()?;
        let found = reads::find(&queries);
        let (cacheable, moments) = match found.refusal {
            Some(reason) => (Err(reason), Box::default()),
            None if found.moments.is_empty() => (Ok(()), Box::default()),
            None => (Err(CLOCK), found.moments.into()),
        };
        if found.writes {
            let writes = writes::writes(&parts, &queries);
            return Ok(Self { reads_only: false, cacheable, moments, reads: Footprint::WHOLE, writes });
        }
        let reads = found.marks.into_footprint();
        Ok(Self { reads_only: true, cacheable, moments, reads, writes: Writes::nothing() })
    }
}

fn parse(text: &str) -> Result<Query, &'static str> {
    let parsed = open_cypher::parse(text).map_err(|_| "the parser does not know this form")?;
    let mut statements = parsed.program.statements.into_iter();
    match (statements.next().map(|statement| statement.kind), statements.next()) {
        (Some(StatementKind::Query(query)), None) if query.mode.is_none() => Ok(query.query),
        _ => Err("it is not one plain query"),
    }
}
