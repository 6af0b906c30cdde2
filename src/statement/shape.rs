//! The forms of a write that many requests can share one statement for.

/// A recognised form: how many requests of one text become one statement, and how each one's own answer is told from its rows.
#[derive(Debug)]
pub(crate) struct Shape {
    /// What it does, for metrics.
    pub(crate) kind: Kind,
    /// The label or relationship type that it is about, for metrics and advice.
    pub(crate) name: Box<str>,
    /// Which way of running is exact.
    pub(crate) way: Way,
    /// The statement for many: reads `$rows`, a list of `{i: INTEGER, p: MAP}` (number of the request, its own parameters), and returns
    /// per row `i`, then `flags` columns (BOOLEAN or INTEGER, never null), then the request's own columns, in their order.
    /// A request without a row in it has matched nothing.
    pub(crate) batch: Box<str>,
    /// How many flags follow `i`.
    pub(crate) flags: usize,
    /// Names of the request's own columns; none = the text has no RETURN, and its answer no records.
    pub(crate) columns: Box<[Box<str>]>,
    /// What tells one row from another, if rows of one statement must differ.
    pub(crate) key: Key,
    /// A request with more than one row cannot be told what it did: the whole batch then counts as one whose counters do not
    /// add up. (With unique keys there never is one.)
    pub(crate) one_row: bool,
    /// What a request's parameters must be like. One that differs is run in another way.
    pub(crate) checks: Box<[Check]>,
    /// What each row of the result adds to its request's counters.
    pub(crate) effects: Box<[Effect]>,
    /// The indexes that make its matches cheap.
    pub(crate) schema: Box<[Schema]>,
}

/// What a shape does.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Kind {
    /// `MERGE (n:L {k: …})` …
    NodeMerge,
    /// `CREATE (n:L …)` …
    NodeCreate,
    /// `MATCH (n:L {k: …}) SET/REMOVE` …
    NodeUpdate,
    /// `MERGE (a)-[r:T]->(b)` …, the nodes by their keys.
    RelationshipMerge,
    /// `CREATE (a)-[r:T]->(b)` …, the nodes by their keys or new.
    RelationshipCreate,
}

/// A way to run many requests as one statement.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Way {
    /// `UNWIND $rows AS row …`: rows must not see each other.
    Unwind,
    /// `UNWIND $rows AS row CALL (row) {…}`: rows run one after the other (needs Neo4j 5.23).
    Rows,
}

/// What tells rows apart.
#[derive(Debug)]
pub(crate) struct Key {
    /// The values that together are the key; rows are sorted by them. A relationship's are those of its two nodes, then its own.
    pub(crate) parts: Box<[Operand]>,
    /// Two rows with equal keys must not share a statement.
    pub(crate) distinct: bool,
}

/// Where a value of a request comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Operand {
    /// `$a` or `$a.b.c`.
    Parameter(Box<[Box<str>]>),
    /// A literal: the same for every request of the text. Its PackStream bytes.
    Literal(Box<[u8]>),
}

/// What one parameter must be like.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Check {
    /// The path of the parameter (`$a.b.c`).
    pub(crate) path: Box<[Box<str>]>,
    /// What is required of it.
    pub(crate) requirement: Requirement,
}

/// What is required of a parameter. What does not meet it takes another way, with Neo4j's own answer or error.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Requirement {
    /// STRING, INTEGER or BOOLEAN: equal values have equal bytes (an INTEGER once it is in its shortest form).
    Key,
    /// Not null, and storable as a property (no map, node, relationship, path; lists of one scalar kind without null).
    Property,
    /// INTEGER or FLOAT.
    Number,
    /// Null, or a `Property`.
    Nullable,
    /// A map whose values are all `Property`, none null (what Neo4j counts for a null depends on whether it has seen the name before).
    Map {
        /// The key's own properties with their values: under such a name the map has nothing, or this very value.
        same: Box<[(Box<str>, Operand)]>,
    },
    /// Anything that is there.
    Any,
}

/// A counter of Neo4j's `stats`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Counter {
    /// `nodes-created`
    NodesCreated,
    /// `relationships-created`
    RelationshipsCreated,
    /// `properties-set`
    PropertiesSet,
    /// `labels-added`
    LabelsAdded,
    /// `labels-removed`
    LabelsRemoved,
}

/// What a row adds to a counter.
#[derive(Debug)]
pub(crate) struct Effect {
    /// The counter.
    pub(crate) counter: Counter,
    /// The rows that it holds for.
    pub(crate) when: When,
    /// How much.
    pub(crate) amount: Amount,
}

/// Which rows an effect holds for. Flags are counted from 0, behind `i`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum When {
    /// All.
    Always,
    /// Those whose flag is true.
    Flag(usize),
    /// Those whose flag is false.
    NotFlag(usize),
}

/// How much an effect counts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Amount {
    /// As much for every row.
    Constant(u32),
    /// What an INTEGER flag says.
    Flag(usize),
    /// Entries of a parameter map.
    MapSize(Box<[Box<str>]>),
}

/// An index or constraint that a shape's match needs to be cheap.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Schema {
    /// True for a relationship type.
    pub(crate) relationship: bool,
    /// The label or type.
    pub(crate) name: Box<str>,
    /// The properties, in order.
    pub(crate) properties: Box<[Box<str>]>,
}
