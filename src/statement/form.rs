//! A write as it was read from a text: names resolved, nothing of the text's own spelling left but literals and columns.

use super::shape::{Kind, Operand};

/// Names that lead to a value of the request: a parameter, and properties below it.
pub(super) type Path = Box<[Box<str>]>;

/// A whole write.
#[derive(Debug)]
pub(super) struct Form {
    pub(super) kind: Kind,
    /// The node, or the two ends of the relationship in the order of the text.
    pub(super) nodes: Vec<Node>,
    pub(super) edge: Option<Edge>,
    /// SET after ON CREATE and ON MATCH, then SET and REMOVE: clauses with their items.
    pub(super) on_create: Vec<Vec<Item>>,
    pub(super) on_match: Vec<Vec<Item>>,
    pub(super) then: Vec<Vec<Item>>,
    pub(super) columns: Vec<Column>,
}

/// A node pattern.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) labels: Vec<Box<str>>,
    pub(super) properties: Map,
}

/// A relationship pattern between two of the nodes.
#[derive(Debug)]
pub(super) struct Edge {
    pub(super) name: Box<str>,
    pub(super) properties: Map,
    pub(super) from: usize,
    pub(super) to: usize,
}

/// Properties.
#[derive(Debug)]
pub(super) enum Map {
    Parameter(Path),
    Entries(Vec<(Box<str>, Value)>),
}

impl Map {
    /// The entries that are written out.
    pub(super) fn entries(&self) -> &[(Box<str>, Value)] {
        match self {
            Self::Parameter(_) => &[],
            Self::Entries(entries) => entries,
        }
    }
}

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Parameter(Path),
    Literal(Literal),
    /// A function without arguments that gives a value of its own, never null: `timestamp()`.
    Function(&'static str),
}

impl Value {
    pub(super) fn is_null(&self) -> bool {
        matches!(self, Self::Literal(literal) if literal.null)
    }

    /// The value as a part of a key.
    pub(super) fn operand(&self) -> Option<Operand> {
        match self {
            Self::Parameter(path) => Some(Operand::Parameter(path.clone())),
            Self::Literal(literal) => literal.bytes.clone().map(Operand::Literal),
            Self::Function(_) => None,
        }
    }
}

/// A literal as the text spells it.
#[derive(Clone, Debug)]
pub(super) struct Literal {
    pub(super) source: Box<str>,
    /// Its PackStream bytes if it can be a key: STRING, INTEGER, BOOLEAN.
    pub(super) bytes: Option<Box<[u8]>>,
    pub(super) null: bool,
}

/// One step of SET or REMOVE, on the node or on the relationship.
#[derive(Debug)]
pub(super) enum Item {
    Set(Box<str>, Value),
    Merge(Map),
    Replace(Map),
    Labels(Vec<Box<str>>),
    Remove(Box<str>),
    RemoveLabels(Vec<Box<str>>),
}

/// What is named in a pattern.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Subject {
    Node(usize),
    Edge,
}

/// One column of RETURN.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) name: Box<str>,
    pub(super) value: Returned,
}

/// What a column has.
#[derive(Debug)]
pub(super) enum Returned {
    Property(Subject, Box<str>),
    /// A function of the element: `elementId`, `id`, `type`.
    Of(&'static str, Subject),
    Value(Value),
}
