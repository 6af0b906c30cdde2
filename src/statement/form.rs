//! A write as it was read from a text: names resolved, nothing of the text's own spelling left but literals and columns.

use super::shape::{Kind, Operand};

/// Names that lead to a value of the request: a parameter, and properties below it.
pub(super) type Path = Box<[Box<str>]>;

/// A whole write.
#[derive(Debug)]
pub(super) struct Form {
    pub(super) kind: Kind,
    /// What is matched, merged and created, in the order of the text.
    pub(super) parts: Vec<Part>,
    pub(super) columns: Vec<Column>,
}

/// One node or relationship, and the changes that follow it.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) verb: Verb,
    pub(super) element: Element,
    /// What the element is called.
    pub(super) subject: Subject,
    /// SET after ON CREATE and ON MATCH: clauses with their items.
    pub(super) on_create: Vec<Vec<Item>>,
    pub(super) on_match: Vec<Vec<Item>>,
    /// SET and REMOVE up to the next part: clauses with their items, and what they are about.
    pub(super) then: Vec<Vec<Item>>,
    pub(super) then_of: Subject,
}

impl Part {
    /// The element's properties.
    pub(super) fn properties(&self) -> &Map {
        match &self.element {
            Element::Node(node) => &node.properties,
            Element::Edge(edge) => &edge.properties,
        }
    }

    /// The element's labels; a relationship has none.
    pub(super) fn labels(&self) -> &[Box<str>] {
        match &self.element {
            Element::Node(node) => &node.labels,
            Element::Edge(_) => &[],
        }
    }

    pub(super) fn is_edge(&self) -> bool {
        matches!(self.element, Element::Edge(_))
    }

    /// The properties by which it is found.
    pub(super) fn key(&self) -> &[(Box<str>, Value)] {
        if self.verb == Verb::Create { &[] } else { self.properties().entries() }
    }

    /// Every item of every clause.
    pub(super) fn items(&self) -> impl Iterator<Item = &Item> {
        self.on_create.iter().chain(&self.on_match).chain(&self.then).flatten()
    }
}

/// How a part comes to its element.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verb {
    Match,
    Merge,
    Create,
}

/// A pattern.
#[derive(Debug)]
pub(super) enum Element {
    Node(Node),
    Edge(Edge),
}

/// A node pattern.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) labels: Vec<Box<str>>,
    pub(super) properties: Map,
}

/// A relationship pattern between two nodes.
#[derive(Debug)]
pub(super) struct Edge {
    pub(super) name: Box<str>,
    pub(super) properties: Map,
    pub(super) from: Subject,
    pub(super) to: Subject,
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
    /// What is computed, perhaps from the property that it is for.
    Computed(Computed),
}

/// An expression whose only null can come from the property that it is for.
#[derive(Clone, Debug)]
pub(super) enum Computed {
    /// That property.
    Target,
    Value(Box<Value>),
    /// `coalesce(…, value)`.
    Coalesce(Box<Self>, Box<Self>),
    Binary(Box<Self>, &'static str, Box<Self>),
}

impl Computed {
    /// True if it reads the property that it is for.
    pub(super) fn reads(&self) -> bool {
        match self {
            Self::Target => true,
            Self::Value(_) => false,
            Self::Coalesce(left, right) | Self::Binary(left, _, right) => left.reads() || right.reads(),
        }
    }

    /// True if it may be null.
    pub(super) fn may_be_null(&self) -> bool {
        match self {
            Self::Target => true,
            Self::Value(_) => false,
            Self::Coalesce(left, right) => left.may_be_null() && right.may_be_null(),
            Self::Binary(left, _, right) => left.may_be_null() || right.may_be_null(),
        }
    }

    /// The values in it.
    pub(super) fn values(&self) -> Vec<&Value> {
        match self {
            Self::Target => Vec::new(),
            Self::Value(value) => vec![value],
            Self::Coalesce(left, right) | Self::Binary(left, _, right) => {
                let mut values = left.values();
                values.extend(right.values());
                values
            }
        }
    }
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
            Self::Function(_) | Self::Computed(_) => None,
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

/// One step of SET or REMOVE.
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
    Edge(usize),
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

/// True if a step of SET may be to null: it stands alone, for steps side by side count together, and nothing before it can have
/// touched the property, so that a look before the first step tells what it counts.
pub(super) fn may_be_null(then: &[Vec<Item>], clause: usize, step: usize) -> bool {
    let Some(items) = then.get(clause) else { return false };
    let Some(Item::Set(key, Value::Parameter(_))) = items.get(step) else { return false };
    let earlier = then.iter().take(clause).flatten().chain(items.iter().take(step));
    is_solo(items, step) && !earlier.into_iter().any(|item| item.may_touch(key))
}

impl Item {
    /// True if it may set or remove this property.
    pub(super) fn may_touch(&self, key: &str) -> bool {
        match self {
            Self::Set(known, _) | Self::Remove(known) => **known == *key,
            Self::Merge(Map::Parameter(_)) | Self::Replace(_) => true,
            Self::Merge(Map::Entries(entries)) => entries.iter().any(|(known, _)| **known == *key),
            Self::Labels(_) | Self::RemoveLabels(_) => false,
        }
    }
}

/// True if no other step beside this one sets a single property: such steps count together.
pub(super) fn is_solo(items: &[Item], at: usize) -> bool {
    let sets = |at: Option<usize>| matches!(at.and_then(|at| items.get(at)), Some(Item::Set(..)));
    !sets(at.checked_sub(1)) && !sets(at.checked_add(1))
}
