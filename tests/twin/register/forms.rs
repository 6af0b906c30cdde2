//! How registers are kept in the graph, and the texts that raise and read them.

use std::sync::Arc;

use bolt_wire::packstream::Value;

/// Where the number of a register is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// A property of a node with a label of its family and a label that all have.
    Family(usize),
    /// A property of a relationship.
    Edge,
    /// A property that one client alone sets, to what it counted itself.
    Owned,
    /// As many as a node has relationships, and as there are nodes that name it.
    Tick,
    /// As many of its nodes as have got a label.
    Lit,
    /// As many of its nodes as have lost a label.
    Dim,
    /// As many of its nodes as have been deleted.
    Leaf,
    /// As many of a node's relationships as have been deleted.
    Tie,
}

/// How many labels there are that are families.
pub(crate) const FAMILIES: usize = 6;
/// What registers of some kinds can count to; then the next one takes their place.
pub(crate) const ROOM: i64 = 300;

/// A text that raises a register by one.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    /// The text.
    pub(crate) text: Arc<str>,
    /// What it returns.
    pub(crate) told: Told,
    /// Which parameters it has.
    pub(crate) takes: Takes,
}

/// What a write returns.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Told {
    /// No rows.
    Nothing,
    /// The new value.
    Value,
    /// An entity with the new value as its property `v`.
    Entity,
}

/// The parameters of a text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Takes {
    /// `id`: the register.
    Id,
    /// `id`, and `k`: a number that no other write of this register has.
    Ticket,
    /// `k`: the same, the register counted in.
    Key,
    /// `id` and `props: {v: …}`: the new value.
    Props,
    /// `id` and `key: 'v'`.
    Name,
    /// `ids`: several registers of one family.
    Ids,
    /// Nothing: all registers of the family.
    Family,
}

/// A text that reads a register.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    /// The text.
    pub(crate) text: Arc<str>,
    /// How its rows tell the value.
    pub(crate) rows: Rows,
}

/// How rows tell a value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Rows {
    /// One row with the value.
    One,
    /// One row with an entity or a map whose `v` it is.
    Entity,
    /// As many rows as the value says.
    Count,
    /// A row `id, v` for each register of the family; the text takes no parameters.
    Family,
    /// One row with the sum over the family; the text takes no parameters.
    Sum,
}

/// Texts that change nothing that is read, though most report updates: with parameters `id`, a register of a family, and `props`.
/// Of some, Neo4j counts no transaction, of others more than one.
pub(crate) const IDLE: &[&str] = &[
    "MATCH (r:Reg {id: $id}) SET r.same = 0",
    "MATCH (r:Reg {id: $id}) SET r.same = 0 RETURN r.v AS v",
    "MATCH (r:Reg {id: $id}) SET r.same = 1 SET r.same = 0",
    "MATCH (r:Reg {id: $id}) SET r:Odd REMOVE r:Odd",
    "MATCH (r:Reg {id: $id}) WHERE r.v < 0 SET r.v = 0",
    "MERGE (r:Reg {id: $id}) RETURN r.v AS v",
    "CREATE (x:RegOdd {of: $id}) DELETE x",
    // A property that nothing had before.
    "MATCH (o:RegOdd {id: $id}) SET o = $props",
];

impl Kind {
    /// True if its registers can count to `ROOM` and no further.
    pub(crate) fn is_finite(self) -> bool {
        matches!(self, Self::Tick | Self::Lit | Self::Dim | Self::Leaf | Self::Tie)
    }

    /// The label of a family.
    pub(crate) fn label(self) -> String {
        match self {
            Self::Family(number) => format!("Reg{}", char::from(b'A' + number as u8)),
            other => format!("Reg{other:?}"),
        }
    }

    /// All texts that raise it.
    pub(crate) fn writes(self) -> Vec<Write> {
        use Takes::{Family, Id, Ids, Key, Name, Props, Ticket};
        use Told::{Entity, Nothing, Value};
        let all: &[(&str, Told, Takes)] = match self {
            Self::Family(_) => &[
                ("MATCH (r:L {id: $id}) SET r.v = r.v + 1 RETURN r.v AS v", Value, Id),
                ("MATCH (r:L {id: $id}) SET r.v = r.v + 1", Nothing, Id),
                (
                    "MERGE (r:L {id: $id}) ON CREATE SET r.v = 1 ON MATCH SET r.v = r.v + 1 RETURN r.v AS v",
                    Value,
                    Id,
                ),
                ("MERGE (r:L {id: $id}) SET r.v = coalesce(r.v, 0) + 1", Nothing, Id),
                ("MERGE (r:L {id: $id}) SET r.v = coalesce(r.v, 0) + 1 RETURN r", Entity, Id),
                ("MATCH (r:L {id: $id}) SET r += {v: r.v + 1} RETURN r.v AS v", Value, Id),
                // By another label than most reads name, and by none at all.
                ("MATCH (r:Reg {id: $id}) SET r.v = r.v + 1 RETURN r.v AS v", Value, Id),
                (
                    "MATCH (:RegGate {id: $id})-[:TO]->()-[:TO]->(r) SET r.v = r.v + 1 RETURN r.v AS v",
                    Value,
                    Id,
                ),
                // The first SET takes the lock; the property is named by nobody but the caller.
                (
                    "MATCH (r:L {id: $id}) SET r.n = coalesce(r.n, 0) + 1 WITH r SET r[$key] = r.v + 1 RETURN r.v AS v",
                    Value,
                    Name,
                ),
                ("MATCH (r:L {id: $id}) CALL (r) { SET r.v = r.v + 1 } RETURN r.v AS v", Value, Id),
                (
                    "MATCH (r:L {id: $id}) SET r.n = coalesce(r.n, 0) + 1 FOREACH (x IN [1] | SET r.v = r.v + 1)",
                    Nothing,
                    Id,
                ),
                ("UNWIND $ids AS id MATCH (r:L {id: id}) SET r.v = r.v + 1", Nothing, Ids),
                ("MATCH (r:L) SET r.v = r.v + 1", Nothing, Family),
            ],
            Self::Edge => &[
                (
                    "MATCH (a:RegEdge {id: $id}), (b:RegEnd {id: $id}) MERGE (a)-[r:REG_EDGE]->(b) SET r.v = coalesce(r.v, 0) + 1",
                    Nothing,
                    Id,
                ),
                (
                    "MATCH (a:RegEdge {id: $id}), (b:RegEnd {id: $id}) MERGE (a)-[r:REG_EDGE]->(b) \
                     ON CREATE SET r.v = 1 ON MATCH SET r.v = r.v + 1 RETURN r.v AS v",
                    Value,
                    Id,
                ),
                ("MATCH (:RegEdge {id: $id})-[r:REG_EDGE]->() SET r.v = r.v + 1 RETURN r.v AS v", Value, Id),
            ],
            Self::Owned => &[
                ("MERGE (r:RegOwned {id: $id}) SET r += $props", Nothing, Props),
                ("MERGE (r:RegOwned {id: $id}) SET r += $props RETURN r.v AS v", Value, Props),
                ("MERGE (r:RegOwned {id: $id}) SET r.v = $props.v RETURN r.v AS v", Value, Props),
                ("MATCH (r:RegOwned {id: $id}) SET r = $props, r.id = $id RETURN r", Entity, Props),
            ],
            Self::Tick => &[
                ("MATCH (h:RegTick {id: $id}) CREATE (h)-[:HAS]->(:Tick {of: $id})", Nothing, Id),
                (
                    "MATCH (h:RegTick {id: $id}) CREATE (h)-[:HAS]->(t:Tick {of: $id, k: $k}) RETURN t",
                    Nothing,
                    Ticket,
                ),
                ("MATCH (h:RegTick {id: $id}) MERGE (h)-[:HAS]->(:Tick {of: $id, k: $k})", Nothing, Ticket),
            ],
            Self::Lit => &[
                ("MATCH (b:Bulb {id: $k}) SET b:Lit", Nothing, Key),
                ("MERGE (b:Bulb {id: $k}) SET b:Lit RETURN b.id", Nothing, Key),
                ("CREATE (:Bulb:Lit {id: $k + 400, of: $k / 1000})", Nothing, Key),
            ],
            Self::Dim => &[("MATCH (b:Lamp {id: $k}) REMOVE b:Bright", Nothing, Key)],
            Self::Leaf => &[
                ("MATCH (b:Leaf {id: $k}) DETACH DELETE b", Nothing, Key),
                ("MATCH (b:Leaf {id: $k})<-[x:BEARS]-() DELETE x, b", Nothing, Key),
            ],
            Self::Tie => &[
                ("MATCH (:RegTie {id: $id})-[x:TIE {k: $k}]->() DELETE x", Nothing, Ticket),
                ("MATCH ()-[x:TIE {k: $k}]->(:RegKnot {id: $id}) DELETE x", Nothing, Ticket),
            ],
        };
        all.iter()
            .map(|&(text, told, takes)| Write {
                text: text.replace("r:L", &format!("r:{}", self.label())).into(),
                told,
                takes,
            })
            .collect()
    }

    /// All texts that read it.
    pub(crate) fn reads(self) -> Vec<Read> {
        use Rows::{Count, Entity, Family, One, Sum};
        let all: &[(&str, Rows)] = match self {
            Self::Family(_) => &[
                ("MATCH (r:L {id: $id}) RETURN r.v AS v", One),
                ("MATCH (r:L {id: $id}) RETURN r", Entity),
                ("MATCH (:RegGate {id: $id})-[:TO]->()-[:TO]->(r) RETURN r.v AS v", One),
                ("MATCH (r:L) RETURN r.id AS id, r.v AS v", Family),
                ("MATCH (r:L) RETURN sum(r.v) AS v", Sum),
                ("MATCH (r:Reg {id: $id}) RETURN r.v AS v", One),
                ("MATCH (r:L {id: $id}) RETURN r {.v} AS m", Entity),
                ("MATCH (r:Reg:L) RETURN r.id AS id, r.v AS v ORDER BY id", Family),
                ("MATCH (r:L {id: $id}) RETURN properties(r) AS p", Entity),
            ],
            Self::Edge => &[
                ("MATCH (:RegEdge {id: $id})-[r:REG_EDGE]->() RETURN r.v AS v", One),
                ("MATCH (:RegEdge {id: $id})-[r:REG_EDGE]->(:RegEnd) RETURN r", Entity),
                ("MATCH (:RegEnd {id: $id})<-[r]-() RETURN sum(r.v) AS v", One),
            ],
            Self::Owned => &[
                ("MATCH (r:RegOwned {id: $id}) RETURN r.v AS v", One),
                ("MATCH (r:RegOwned {id: $id}) RETURN r", Entity),
            ],
            Self::Tick => &[
                ("MATCH (h:RegTick {id: $id})-[:HAS]->() RETURN count(*) AS v", One),
                ("MATCH (h:RegTick {id: $id})-[:HAS]->(t:Tick) RETURN count(t) AS v", One),
                ("MATCH (h:RegTick {id: $id}) RETURN COUNT { (h)-[:HAS]->() } AS v", One),
                ("MATCH (:RegGate {id: $id})-[:TO]->()-[:HAS]->(t) RETURN count(t) AS v", One),
                ("MATCH (t:Tick {of: $id}) RETURN count(t) AS v", One),
                ("MATCH (h:RegTick {id: $id})-[:HAS]->(t) RETURN t.of AS of", Count),
            ],
            Self::Lit => &[
                ("MATCH (b:Lit {of: $id}) RETURN count(b) AS v", One),
                ("MATCH (b:Bulb {of: $id}) WHERE b:Lit RETURN count(b) AS v", One),
                ("MATCH (b:Bulb&Lit {of: $id}) RETURN b.id AS id", Count),
            ],
            Self::Dim => &[
                ("MATCH (b:Bright {of: $id}) RETURN 300 - count(b) AS v", One),
                ("MATCH (b:Lamp {of: $id}) WHERE NOT b:Bright RETURN count(b) AS v", One),
                (
                    "MATCH (b:Lamp {of: $id}) RETURN sum(CASE WHEN 'Bright' IN labels(b) THEN 0 ELSE 1 END) AS v",
                    One,
                ),
            ],
            Self::Leaf => &[
                (
                    "MATCH (t:RegLeaf {id: $id}) OPTIONAL MATCH (t)-[:BEARS]->(b) RETURN 300 - count(b) AS v",
                    One,
                ),
                ("MATCH (b:Leaf {of: $id}) RETURN 300 - count(b) AS v", One),
            ],
            Self::Tie => &[
                ("MATCH (t:RegTie {id: $id}) RETURN 300 - COUNT { (t)-[:TIE]->() } AS v", One),
                ("MATCH (:RegTie {id: $id})-[x:TIE]->(:RegKnot) RETURN 300 - count(x) AS v", One),
                ("MATCH (n:RegKnot {id: $id}) OPTIONAL MATCH (n)<-[x]-() RETURN 300 - count(x) AS v", One),
            ],
        };
        let label = self.label();
        let text = |text: &str| {
            text.replace("r:L ", &format!("r:{label} "))
                .replace("r:L)", &format!("r:{label})"))
                .replace(":L)", &format!(":{label})"))
        };
        all.iter().map(|&(pattern, rows)| Read { text: text(pattern).into(), rows }).collect()
    }

    /// A text that gives the number and the value of each, but of those at 0.
    pub(crate) fn result(self) -> &'static str {
        match self {
            Self::Family(_) => "MATCH (r:Reg) RETURN r.id, r.v",
            Self::Edge => "MATCH (a:RegEdge)-[r:REG_EDGE]->() RETURN a.id, r.v",
            Self::Owned => "MATCH (r:RegOwned) RETURN r.id, r.v",
            Self::Tick => "MATCH (h:RegTick)-[:HAS]->() RETURN h.id, count(*)",
            Self::Lit => "MATCH (b:Lit) RETURN b.of, count(*)",
            Self::Dim => "MATCH (b:Lamp) WHERE NOT b:Bright RETURN b.of, count(*)",
            Self::Leaf => "MATCH (t:RegLeaf) OPTIONAL MATCH (t)-[:BEARS]->(b) RETURN t.id, 300 - count(b)",
            Self::Tie => "MATCH (t:RegTie) RETURN t.id, 300 - COUNT { (t)-[:TIE]->() }",
        }
    }

    /// The statements that put registers of this kind with these numbers into the graph, at 0.
    pub(crate) fn creates(self, ids: &[i64]) -> Vec<String> {
        let all = format!("UNWIND {ids:?} AS id");
        let parts = format!("{all} UNWIND range(1, {ROOM}) AS k");
        let gate =
            format!("{all} MATCH (r:{} {{id: id}}) CREATE (:RegGate {{id: id}})-[:TO]->", self.label());
        match self {
            Self::Family(_) => vec![
                format!(
                    "{all} CREATE (:Reg:{} {{id: id, v: 0, n: 0, same: 0}}), (:RegOdd {{id: id}})",
                    self.label()
                ),
                format!("{gate}(:RegMid)-[:TO]->(r)"),
            ],
            Self::Edge => {
                vec![format!("{all} CREATE (:RegEdge {{id: id}})-[:REG_EDGE {{v: 0}}]->(:RegEnd {{id: id}})")]
            }
            Self::Owned => vec![format!("{all} CREATE (:RegOwned {{id: id, v: 0}})")],
            Self::Tick => vec![format!("{all} CREATE (:RegTick {{id: id}})"), format!("{gate}(r)")],
            Self::Lit => vec![format!("{parts} CREATE (:Bulb {{id: id * 1000 + k, of: id}})")],
            Self::Dim => vec![format!("{parts} CREATE (:Lamp:Bright {{id: id * 1000 + k, of: id}})")],
            Self::Leaf => vec![
                format!("{all} CREATE (:RegLeaf {{id: id}})"),
                format!(
                    "{parts} MATCH (t:RegLeaf {{id: id}}) CREATE (t)-[:BEARS]->(:Leaf {{id: id * 1000 + k, of: id}})"
                ),
            ],
            Self::Tie => vec![
                format!("{all} CREATE (:RegTie {{id: id}}), (:RegKnot {{id: id}})"),
                format!(
                    "{parts} MATCH (t:RegTie {{id: id}}), (n:RegKnot {{id: id}}) CREATE (t)-[:TIE {{k: k}}]->(n)"
                ),
            ],
        }
    }
}

/// Constraints and indexes, by name and what they are on.
pub(crate) fn schema() -> Vec<String> {
    let unique = [
        "RegOdd", "Reg", "RegGate", "RegEdge", "RegEnd", "RegOwned", "RegTick", "Bulb", "Lamp", "RegLeaf",
        "Leaf", "RegTie", "RegKnot",
    ];
    let families = (0..FAMILIES).map(|number| Kind::Family(number).label());
    let constraint = |label: String| format!("CONSTRAINT reg_{label} FOR (n:{label}) REQUIRE n.id IS UNIQUE");
    let mut all: Vec<String> =
        unique.map(str::to_owned).into_iter().chain(families).map(constraint).collect();
    all.extend(
        ["Tick", "Bulb", "Lit", "Lamp", "Bright", "Leaf"]
            .map(|label| format!("INDEX reg_of_{label} FOR (n:{label}) ON (n.of)")),
    );
    all
}

impl Write {
    /// The value that its rows tell.
    pub(crate) fn value(&self, records: &[Vec<Value>]) -> Result<Option<i64>, String> {
        match (self.told, records) {
            (Told::Nothing, _) => Ok(None),
            (Told::Value, [row]) => one(row).map(Some),
            (Told::Entity, [row]) => entity(row).map(Some),
            _ => Err(format!("{} rows: {records:?}", records.len())),
        }
    }
}

impl Read {
    /// The value that its rows tell, or that of each register with its number.
    pub(crate) fn values(&self, records: &[Vec<Value>]) -> Result<Vec<(Option<i64>, i64)>, String> {
        match (self.rows, records) {
            (Rows::One | Rows::Sum, [row]) => Ok(vec![(None, one(row)?)]),
            (Rows::Entity, [row]) => Ok(vec![(None, entity(row)?)]),
            (Rows::Count, rows) => Ok(vec![(None, rows.len() as i64)]),
            (Rows::Family, rows) => rows
                .iter()
                .map(|row| match row[..] {
                    [Value::Integer(id), Value::Integer(value)] => Ok((Some(id), value)),
                    _ => Err(format!("no numbers: {row:?}")),
                })
                .collect(),
            _ => Err(format!("{} rows: {records:?}", records.len())),
        }
    }
}

fn one(row: &[Value]) -> Result<i64, String> {
    row.first().and_then(Value::as_integer).ok_or_else(|| format!("no number: {row:?}"))
}

fn entity(row: &[Value]) -> Result<i64, String> {
    let properties = match row.first() {
        Some(Value::Struct(b'N', fields)) => fields.get(2),
        Some(Value::Struct(b'R', fields)) => fields.get(4),
        map => map,
    };
    let value = properties.and_then(|all| all.get("v")).and_then(Value::as_integer);
    value.ok_or_else(|| format!("no v: {row:?}"))
}
