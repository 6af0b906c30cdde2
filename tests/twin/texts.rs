//! Random statements: the shapes that may be coalesced, their near-misses, and what never can be.

use std::fmt::Write as _;

use bolt_wire::packstream::Value;
use fastrand::Rng;

use crate::values::Space;

/// A text with the parameters that it names. `KEY` in the text stands for a literal of the client's own.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    text: String,
    parameters: Vec<(String, Kind)>,
    /// True if it may be sent where only reads may.
    pub(crate) reads: bool,
}

/// What a parameter is meant to hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Key,
    Keys,
    Any,
    Properties,
    Row,
    Rows,
    Number,
    Mail,
    Name,
}

impl Statement {
    /// A statement of a random shape.
    pub(crate) fn random(random: &mut Rng) -> Self {
        let mut writer = Writer { random, parameters: Vec::new(), plain: false };
        let (text, reads) = writer.statement();
        let text = disguise(text, writer.random);
        Self { text, parameters: writer.parameters, reads }
    }

    /// A statement that writes one node or one relationship, and that the server is likely to take.
    /// `plain`: of the forms that are the commonest in applications, and nothing beside.
    pub(crate) fn shaped(plain: bool, random: &mut Rng) -> Self {
        let mut writer = Writer { random, parameters: Vec::new(), plain };
        let text = if writer.random.u8(0..3) == 0 { writer.relationship() } else { writer.node() };
        Self { text, parameters: writer.parameters, reads: false }
    }

    /// The text and parameters that one client sends, now and then with one missing, wrong or too many.
    pub(crate) fn fill(&self, space: Space, random: &mut Rng) -> (String, Value) {
        let mut text = self.text.clone();
        while text.contains(LITERAL) {
            text = text.replacen(LITERAL, &space.literal_key(random), 1);
        }
        let mut entries = Vec::new();
        for (name, kind) in &self.parameters {
            let loose = !matches!(kind, Kind::Key | Kind::Mail);
            let value = if space.oddly(200, random) {
                continue;
            } else if loose && space.oddly(50, random) {
                space.any(random)
            } else if space.oddly(70, random) {
                Value::Null
            } else {
                kind.value(space, random)
            };
            entries.push((name.clone(), value));
        }
        if random.u8(0..50) == 0 {
            entries.push(("unused".to_owned(), space.any(random)));
        }
        if space.oddly(250, random)
            && let Some(twice) = entries.first().cloned()
        {
            entries.push(twice);
        }
        (text, Value::Map(entries))
    }
}

impl Kind {
    fn value(self, space: Space, random: &mut Rng) -> Value {
        let row = |random: &mut Rng| {
            Value::map([
                ("id", space.key(random)),
                ("other", space.plain_key(random)),
                ("x", space.any(random)),
                ("props", space.properties(random)),
            ])
        };
        match self {
            Self::Key => space.key(random),
            Self::Keys => Value::List((0..random.u8(0..4)).map(|_| space.plain_key(random)).collect()),
            Self::Any => space.any(random),
            Self::Properties => space.properties(random),
            Self::Row => row(random),
            Self::Rows => Value::List((0..random.u8(0..4)).map(|_| row(random)).collect()),
            Self::Number => Value::Integer(random.i64(-3..10)),
            Self::Mail => space.mail(random),
            Self::Name => random.choice(["x", "y", "v", "no such", ""]).unwrap_or("x").into(),
        }
    }
}

/// Labels: unique by `id`; also by `mail`; unique by `a` and `b`; indexed; nothing; with a name that needs quotes.
pub(crate) const LABELS: &[&str] = &["TwU", "TwV", "TwC", "TwI", "TwN", "`Tw ünï`"];
/// Relationship types; `TW_S` is unique by `id`.
pub(crate) const TYPES: &[&str] = &["TW_R", "TW_S", "`TW odd`"];
const LITERAL: &str = "\u{ab}key\u{bb}";

/// Creates some nodes of every label, so that MATCH finds something.
pub(crate) const SEED: &str = "UNWIND $keys AS k CREATE (:TwU {id: k, c: 1, x: 1}), (:TwV {id: k, y: 'y'}), (:TwI {id: k, c: 1}), \
     (:TwN {id: k}), (:`Tw ünï` {id: k, v: 1.5}), (:TwC {a: k, b: 1, x: 2}), (:TwC {a: k, b: 2})";

struct Writer<'r> {
    random: &'r mut Rng,
    parameters: Vec<(String, Kind)>,
    /// Only the commonest forms.
    plain: bool,
}

impl Writer<'_> {
    fn statement(&mut self) -> (String, bool) {
        match self.random.u8(0..100) {
            0..=46 => (self.node(), false),
            47..=67 => (self.relationship(), false),
            68..=74 => (self.several(), false),
            75..=80 => (self.loops(), false),
            81..=85 => (self.deletion(), false),
            86..=89 => (self.broken(), false),
            90..=92 => (self.special(), false),
            _ => (self.read(), true),
        }
    }

    /// A choice below `all`; of the common ones if it is to be plain.
    fn choice(&mut self, all: u8, common: &[u8]) -> u8 {
        if self.plain { common[self.random.usize(0..common.len())] } else { self.random.u8(0..all) }
    }

    fn one_of<'t>(&mut self, words: &[&'t str]) -> &'t str {
        words[self.random.usize(0..words.len())]
    }

    fn parameter(&mut self, name: &str, kind: Kind) -> String {
        if !self.parameters.iter().any(|(n, _)| n == name) {
            self.parameters.push((name.to_owned(), kind));
        }
        if self.random.u8(0..30) == 0 { format!("$`{name}`") } else { format!("${name}") }
    }

    fn label(&mut self) -> String {
        let label = LABELS[[0, 0, 0, 0, 1, 1, 2, 3, 4, 5][self.random.usize(0..10)]].to_owned();
        match self.choice(30, &[2]) {
            0 => format!("{label}:TwM"),
            1 => "".to_owned(),
            _ => label,
        }
    }

    /// What the key of a node is compared with.
    fn key(&mut self, name: &str) -> String {
        match self.choice(40, &[1, 9, 9, 9, 9, 9, 9]) {
            0 => LITERAL.to_owned(),
            1 => format!("{}.id", self.parameter("row", Kind::Row)),
            2 => format!("{}['id']", self.parameter("row", Kind::Row)),
            3 => format!("coalesce({}, 'c')", self.parameter(name, Kind::Key)).replace("'c'", LITERAL),
            _ => self.parameter(name, Kind::Key),
        }
    }

    /// `(n:Label {id: $id})` and its like.
    fn pattern(&mut self, variable: &str, key: &str) -> String {
        let label = self.label();
        let colon = if label.is_empty() { "" } else { ":" };
        let inner = if label == "TwC" {
            format!("a: {}, b: {}", self.key(key), self.parameter("b", Kind::Number))
        } else {
            match self.choice(24, &[1, 9, 9, 9, 9, 9]) {
                0 => format!("id: {}, x: {}", self.key(key), self.parameter("x", Kind::Any)),
                1 => format!("id: {}, c: 1", self.key(key)),
                _ => format!("id: {}", self.key(key)),
            }
        };
        format!("({variable}{colon}{label} {{{inner}}})")
    }

    fn node(&mut self) -> String {
        let mut text = match self.choice(20, &[0, 0, 0, 0, 9, 9, 15, 17, 17]) {
            0..=8 => format!("MERGE {}{}", self.pattern("n", "id"), self.on("n")),
            9..=13 => format!("CREATE {}", self.pattern("n", "id")),
            14 => format!("OPTIONAL MATCH {}", self.pattern("n", "id")),
            15 => {
                let label = self.label();
                let colon = if label.is_empty() { "" } else { ":" };
                format!("MATCH (n{colon}{label}) WHERE n.id = {}", self.key("id"))
            }
            16 => {
                let (pattern, number) = (self.pattern("n", "id"), self.parameter("c", Kind::Number));
                format!("MATCH {pattern} WHERE n.c > {number}")
            }
            _ => format!("MATCH {}", self.pattern("n", "id")),
        };
        let (is_match, wants) =
            (text.contains("MATCH (") && !text.starts_with("MERGE"), self.random.u8(0..4));
        if is_match || wants > 0 {
            text.push_str(&self.changes("n"));
        }
        text + &self.returns("n")
    }

    fn on(&mut self, variable: &str) -> String {
        let create = |writer: &mut Self| format!(" ON CREATE SET {}", writer.items(variable));
        let found = |writer: &mut Self| format!(" ON MATCH SET {}", writer.items(variable));
        match self.random.u8(0..12) {
            0 | 1 => create(self),
            2 | 3 => found(self),
            4 => create(self) + &found(self),
            5 => found(self) + &create(self),
            _ => String::new(),
        }
    }

    /// SET and REMOVE clauses.
    fn changes(&mut self, variable: &str) -> String {
        let mut text = String::new();
        for _ in 0..if self.random.u8(0..6) == 0 { 2 } else { 1 } {
            match self.choice(10, &[0, 1, 1, 1, 1, 1, 1]) {
                0 => {
                    let what = self.one_of(&[".x", ":TwM", ".`we ird`", ".c, n.v", ":TwI:TwM", ".none"]);
                    let what = what.replace("n.", &format!("{variable}."));
                    let _ = write!(text, " REMOVE {variable}{what}");
                }
                _ => {
                    let _ = write!(text, " SET {}", self.items(variable));
                }
            }
        }
        text
    }

    fn items(&mut self, variable: &str) -> String {
        let count = if self.random.u8(0..3) == 0 { self.random.usize(2..4) } else { 1 };
        let items: Vec<String> = (0..count).map(|_| self.item(variable)).collect();
        items.join(", ")
    }

    fn item(&mut self, n: &str) -> String {
        let any = |writer: &mut Self| {
            let name = writer.one_of(&["x", "v", "y"]);
            writer.parameter(name, Kind::Any)
        };
        let common = [0, 0, 0, 0, 10, 10, 10, 10, 18, 18, 29, 32, 33, 34, 37, 39, 40, 47];
        match self.choice(48, &common) {
            0..=9 => {
                let name = self.one_of(&["x", "v", "y", "`we ird`", "größe"]);
                format!("{n}.{name} = {}", any(self))
            }
            10..=17 => format!("{n} += {}", self.parameter("props", Kind::Properties)),
            18..=20 => format!("{n} = {}", self.parameter("all", Kind::Properties)),
            21..=25 => format!("{n}.c = coalesce({n}.c, 0) + 1"),
            26 | 27 => format!("{n}.c = {n}.c + 1"),
            28 => format!("{n}.c = {n}.c + {}", self.parameter("step", Kind::Number)),
            29 => format!("{n} += {{x: {}, y: 1}}", any(self)),
            30 => format!("{n}.x = {n}.y"),
            31 => format!("{n}.y = {n}.x, {n}.x = {}", any(self)),
            32 => format!("{n}.x = null"),
            33 => {
                format!("{n}.v = {}", self.one_of(&["1", "-0.5", "'text'", "true", "[1, 2]", "1e3", "0x1F"]))
            }
            34 => format!("{n}.v = {}.x", self.parameter("row", Kind::Row)),
            35 => format!("{n}.v = {}['x']", self.parameter("row", Kind::Row)),
            36 => format!("{n}.v = {} + 1", self.parameter("x", Kind::Any)),
            37 => format!(
                "{n}.clock = {}",
                self.one_of(&["timestamp()", "datetime()", "rand()", "randomUUID()"])
            ),
            38 => format!("{n}.v = 1 / {}", self.parameter("step", Kind::Number)),
            39 => format!("{n}.mail = {}", self.parameter("mail", Kind::Mail)),
            40 => format!("{n}.id = {}", self.parameter("newId", Kind::Key)),
            41 => format!("{n}[{}] = 1", self.parameter("key", Kind::Name)),
            42 => format!("{n}.list = coalesce({n}.list, []) + {}", any(self)),
            43 => format!("{n}.v = date({})", any(self)),
            44 => format!("{n}.v = size({})", self.parameter("keys", Kind::Keys)),
            45 => format!("{n}.v = CASE WHEN {n}.c > 2 THEN 'many' ELSE 'few' END"),
            46 => format!("{n} += {}.props", self.parameter("row", Kind::Row)),
            // Only nodes have labels.
            _ if n == "r" && self.random.u8(0..4) > 0 => "r.w = 1".to_owned(),
            _ => format!("{n}:{}", self.one_of(&["TwM", "TwI", "TwM:TwI", "TwV"])),
        }
    }

    fn returns(&mut self, n: &str) -> String {
        if self.random.u8(0..5) < 2 {
            return String::new();
        }
        let what = match self.choice(26, &[0, 0, 4, 6, 7, 8, 14, 16, 17]) {
            0..=3 => format!("{n}.id AS id"),
            4 | 5 => format!("{n}.id"),
            6 => format!("{n}.id, {n}.x, {n}.c"),
            7 => format!("{n}.x AS x, {n}.v AS v, {n}.c AS `c c`"),
            8 | 9 => format!("{n}.c"),
            10 | 11 => n.to_owned(),
            12 => format!("properties({n})"),
            13 => format!("labels({n}) AS labels"),
            14 => format!("elementId({n}) AS e, {n}.id AS id"),
            15 => "count(*)".to_owned(),
            16 => "1 AS one".to_owned(),
            17 => format!("{} AS v", self.parameter("v", Kind::Any)),
            18 => "*".to_owned(),
            19 => format!("{n} {{.id, .c}}"),
            20 => format!("DISTINCT {n}.id"),
            21 => format!("{n}.c + 1, {n}.none"),
            22 => format!("{n}.id ORDER BY {n}.id LIMIT 1"),
            23 => format!("size([({n})--() | 1]) AS degree"),
            24 => format!("{n}.id AS id LIMIT 0"),
            _ => format!("exists {{ ({n})-->() }} AS found"),
        };
        format!(" RETURN {what}")
    }

    fn relationship(&mut self) -> String {
        let (a, b) = (self.pattern("a", "from"), self.pattern("b", "to"));
        let kind = TYPES[[0, 0, 0, 0, 1, 2][self.random.usize(0..6)]];
        let own = match self.choice(6, &[0, 1, 2, 2, 2]) {
            0 => format!(" {{id: {}}}", self.parameter("id", Kind::Key)),
            1 => " {w: 1}".to_owned(),
            _ => String::new(),
        };
        let arrow = match self.choice(12, &[0, 2, 2, 2]) {
            0 => format!("<-[r:{kind}{own}]-"),
            1 => format!("-[r:{kind}{own}]-"),
            _ => format!("-[r:{kind}{own}]->"),
        };
        let mut text = match self.choice(16, &[0, 0, 0, 7, 7, 9, 9]) {
            0..=6 => format!("MATCH {a}, {b} MERGE (a){arrow}(b){}", self.on("r")),
            7 | 8 => format!("MATCH {a} MATCH {b} MERGE (a){arrow}(b){}", self.on("r")),
            9 | 10 => format!("MATCH {a}, {b} CREATE (a){arrow}(b)"),
            11 => format!("MERGE {a} MERGE {b} MERGE (a){arrow}(b)"),
            12 => format!("MERGE {a}{arrow}{b}"),
            13 => format!("CREATE {a}{arrow}{b}"),
            14 => format!("MATCH {a}{arrow}{b}"),
            _ => format!("MATCH {a}, {b} MERGE (a){arrow}(b) SET a.c = coalesce(a.c, 0) + 1"),
        };
        if self.random.bool() {
            let _ = write!(text, " SET {}", self.items("r"));
        }
        if self.random.u8(0..5) < 2 {
            let common = if self.plain { 5 } else { 10 };
            let all = [
                "r.w AS w",
                "r.c",
                "type(r)",
                "a.id, b.id",
                "a.id AS a, r.x AS x",
                "r",
                "count(r)",
                "a, r, b",
                "elementId(r) AS e, elementId(startNode(r)) AS s",
                "properties(r) AS p",
            ];
            let what = self.one_of(&all[..common]);
            let _ = write!(text, " RETURN {what}");
        }
        text
    }

    fn several(&mut self) -> String {
        let (n, m) = (self.pattern("n", "id"), self.pattern("m", "to"));
        match self.random.u8(0..8) {
            0 => {
                format!("MERGE {n} MERGE {m} SET n.c = coalesce(n.c, 0) + 1, m.v = 1{}", self.returns("m"))
            }
            1 => format!("MERGE {n}{} WITH n MATCH {m}{}", self.changes("n"), self.changes("m")),
            2 => format!("CREATE {n}, {m}{}", self.returns("n")),
            3 => format!("MERGE {n} WITH n WHERE n.c > 1{}{}", self.changes("n"), self.returns("n")),
            4 => format!("MERGE {n} CALL {{ WITH n MERGE {m} RETURN m }} RETURN m.id"),
            5 => format!("MATCH {n} SET n.v = 'union' RETURN n.id AS id UNION MATCH {m} RETURN m.id AS id"),
            6 => {
                format!("MERGE {n}{} MERGE {m}{}{}", self.changes("n"), self.changes("m"), self.returns("n"))
            }
            _ => format!(
                "MATCH {n} OPTIONAL MATCH (n)-[r]->(m) WITH n, count(r) AS rels SET n.v = rels RETURN rels"
            ),
        }
    }

    fn loops(&mut self) -> String {
        let label = self.label();
        let colon = if label.is_empty() { "" } else { ":" };
        let (keys, rows) = ("keys", "rows");
        match self.random.u8(0..6) {
            0 => {
                let keys = self.parameter(keys, Kind::Keys);
                format!(
                    "FOREACH (k IN {keys} | MERGE (m{colon}{label} {{id: k}}) SET m.c = coalesce(m.c, 0) + 1)"
                )
            }
            1 => {
                let (n, keys) = (self.pattern("n", "id"), self.parameter(keys, Kind::Keys));
                format!("MERGE {n} FOREACH (k IN {keys} | SET n.v = k)")
            }
            2 => {
                let rows = self.parameter(rows, Kind::Rows);
                format!(
                    "UNWIND {rows} AS row MERGE (n{colon}{label} {{id: row.id}}) SET n += row.props{}",
                    self.returns("n")
                )
            }
            3 => {
                let keys = self.parameter(keys, Kind::Keys);
                format!(
                    "UNWIND {keys} AS k MATCH (n{colon}{label} {{id: k}}) SET n.c = coalesce(n.c, 0) + 1 RETURN n.c ORDER BY k"
                )
            }
            4 => {
                let keys = self.parameter(keys, Kind::Keys);
                format!("UNWIND {keys} AS k CREATE (n{colon}{label} {{id: k, x: 1}})")
            }
            _ => {
                let keys = self.parameter(keys, Kind::Keys);
                format!(
                    "UNWIND {keys} AS k CALL {{ WITH k MERGE (n{colon}{label} {{id: k}}) }} IN TRANSACTIONS OF 2 ROWS"
                )
            }
        }
    }

    fn deletion(&mut self) -> String {
        let n = self.pattern("n", "id");
        match self.random.u8(0..5) {
            0 => format!("MATCH {n} DELETE n"),
            1 => format!("MATCH {n} DETACH DELETE n"),
            2 => format!("MATCH {n} WITH n, n.c AS c DETACH DELETE n RETURN c"),
            3 => format!("MATCH {n}-[r]->() DELETE r RETURN count(*) AS gone"),
            _ => format!("MERGE {n} DELETE n"),
        }
    }

    /// What the server refuses, or warns of.
    fn broken(&mut self) -> String {
        let n = self.pattern("n", "id");
        match self.random.u8(0..16) {
            0 => format!("MERG {n}"),
            1 => format!("MERGE {n} RETURN m"),
            2 => format!("MERGE {} SET n.x = 1", n.trim_end_matches(')')),
            3 => format!("MERGE {n} SET n.x"),
            4 => format!("MERGE {n} RETURN n.x, n.x"),
            5 => format!("MERGE {n} MERGE {n}"),
            6 => format!("MERGE {n} SET n.x = {{a: 1}}"),
            7 => format!("MERGE {n} SET n.x = $"),
            8 => "MERGE (n:TwU {id: null})".to_owned(),
            9 => format!("MERGE {n} SET n.v = nosuch(1)"),
            10 => format!("CREATE {n} SET n.v = 1 / 0"),
            11 => format!("MERGE {n} ON CREATE SET m.x = 1"),
            12 => format!("MATCH {n}"),
            13 => String::new(),
            14 => format!("CREATE {n} RETURN id(n) * 0 AS zero"),
            _ => format!("MERGE {n} SET n.x = 'open"),
        }
    }

    fn special(&mut self) -> String {
        let n = self.pattern("n", "id");
        match self.random.u8(0..7) {
            0 => format!("EXPLAIN MERGE {n}"),
            1 => format!("CYPHER runtime=slotted MERGE {n} SET n.v = 1"),
            2 => format!("CYPHER 25 MERGE {n} SET n.v = 1"),
            3 => format!("USE neo4j MERGE {n} SET n.v = 1"),
            4 => format!("MERGE {n} WITH n CALL db.labels() YIELD label WITH n, count(*) AS c SET n.v = 1"),
            5 => format!("CALL {{ MERGE {n} RETURN n }} RETURN n.id"),
            _ => format!("PROFILE MERGE {n}"),
        }
    }

    fn read(&mut self) -> String {
        let n = self.pattern("n", "id");
        match self.random.u8(0..6) {
            0 => format!("MATCH {n} RETURN n"),
            1 => format!("MATCH {n} RETURN n.c, n.x"),
            2 => format!("MATCH {n}-[r]->(m) RETURN count(r)"),
            3 => format!("OPTIONAL MATCH {n} RETURN n.id"),
            4 => format!(
                "MATCH (n:TwU) WHERE n.id IN {} RETURN n.id, n.c ORDER BY toString(n.id)",
                self.parameter("keys", Kind::Keys)
            ),
            _ => format!(
                "UNWIND range(1, {}) AS i RETURN i, {} AS v",
                self.parameter("b", Kind::Number),
                self.parameter("x", Kind::Any)
            ),
        }
    }
}

/// The same statement in another dress: spaces, comments, case, a semicolon.
fn disguise(text: String, random: &mut Rng) -> String {
    match random.u8(0..40) {
        0 => text.replace(' ', "  "),
        1 => text.replacen(" SET ", "\nSET ", 1),
        2 => format!("/* MERGE (n) */ {text}"),
        3 => format!("{text} // done"),
        4 => text.replacen("MERGE", "merge", 1).replacen(" SET ", " set ", 1),
        5 => format!("{text};"),
        6 => format!("\n\t{text}\n"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_texts_and_many_of_them() {
        let texts = |seed| -> Vec<String> {
            let mut random = Rng::with_seed(seed);
            (0..2000).map(|_| Statement::random(&mut random).text).collect()
        };
        assert_eq!(texts(7), texts(7));
        let different: std::collections::HashSet<String> = texts(7).into_iter().collect();
        assert!(different.len() > 1000, "{}", different.len());
    }
}
