//! What is known of a text: parsed once, kept by its exact bytes.

mod shape;

pub(crate) use shape::{
    Amount, Check, Counter, Effect, Key, Kind, Operand, Requirement, Schema, Shape, Way, When,
};

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
