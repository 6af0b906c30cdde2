//! What is known of a text: parsed once, kept by its exact bytes.

mod batch;
mod class;
mod count;
mod form;
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

pub(crate) use shape::{Amount, Counter, Kind, Operand, Requirement, Shape, Way, When};

use self::tokens::Tokens;

pub(crate) use table::Statements;

/// A longer text is not looked into.
const LONGEST: usize = 64 << 10;

/// A text and what is known of it.
#[derive(Debug)]
pub(crate) struct Statement {
    /// The text, byte for byte.
    pub(crate) text: Box<str>,
    /// Names of the parameters that it reads. A request that lacks one is Neo4j's to refuse.
    pub(crate) parameters: Box<[Box<str>]>,
    /// What it may do.
    pub(crate) class: Class,
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

    /// Looks into a text.
    pub(crate) fn parse(text: &str) -> Self {
        if text.len() > LONGEST {
            return Self {
                text: text.into(),
                parameters: Box::default(),
                class: Class::Other("it is too long"),
            };
        }
        let tokens = Tokens::of(text);
        let class = match class::judge(&tokens) {
            Ok(()) => Class::Write { shape: recognise::recognise(text, &tokens) },
            Err(reason) => Class::Other(reason),
        };
        Self { text: text.into(), parameters: tokens.parameters(), class }
    }
}
