//! Random graphs and requests, the same for the same seed.

use bolt_wire::packstream::Value;

use crate::statement::{Operand, Requirement, Shape};

/// Keys of nodes are out of so many numbers, or their spellings.
const KEYS: i64 = 40;

/// Statements that make a graph out of `$nodes` and `$edges`.
pub(super) const GRAPH: [&str; 2] = [
    "UNWIND $nodes AS node \
     FOREACH (_ IN CASE node.label WHEN 0 THEN [1] ELSE [] END | CREATE (n:SbL) SET n = node.p \
       FOREACH (_ IN CASE WHEN node.more IN [1, 3] THEN [1] ELSE [] END | SET n:SbM) \
       FOREACH (_ IN CASE WHEN node.more IN [2, 3] THEN [1] ELSE [] END | SET n:SbN)) \
     FOREACH (_ IN CASE node.label WHEN 1 THEN [1] ELSE [] END | CREATE (n:SbX) SET n = node.p) \
     FOREACH (_ IN CASE node.label WHEN 2 THEN [1] ELSE [] END | CREATE (n:SbY) SET n = node.p)",
    "UNWIND $edges AS edge MATCH (a:SbX {k: edge.a}) MATCH (b:SbX|SbY {k: edge.b}) WHERE edge.y = b:SbY \
     CREATE (a)-[:SbT {s: edge.s, x: 1}]->(b)",
];

/// A source of graphs and requests.
pub(super) struct Requests {
    random: fastrand::Rng,
}

impl Requests {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed) }
    }

    /// Nodes and relationships that are there before, for `GRAPH`. Without unique keys some nodes share theirs.
    pub(super) fn graph(&mut self, unique: bool) -> Value {
        let mut nodes = Vec::new();
        for label in 0..3 {
            for key in 0..KEYS {
                let times = match self.random.u8(0..10) {
                    0..4 => 0,
                    9 if !unique => 2,
                    _ => 1,
                };
                for _ in 0..times {
                    nodes.push(self.node(label, key));
                }
            }
        }
        let edges = (0..self.random.usize(0..60)).map(|_| {
            let mut key = || Value::from(self.random.i64(0..KEYS));
            let (a, b) = (key(), key());
            Value::map([
                ("a", a),
                ("b", b),
                ("s", Value::from(self.random.i64(0..3))),
                ("y", Value::from(self.random.bool())),
            ])
        });
        Value::map([("edges", Value::List(edges.collect())), ("nodes", Value::List(nodes))])
    }

    fn node(&mut self, label: i64, key: i64) -> Value {
        let key = if self.random.u8(0..8) == 0 { Value::from(key.to_string()) } else { Value::from(key) };
        let mut properties = vec![("k".to_owned(), key)];
        if self.random.bool() {
            properties.push(("j".to_owned(), Value::from(1)));
        }
        for name in ["a", "b", "c", "x", "y", "we ird"] {
            let value = match self.random.u8(0..6) {
                0 => Value::from(5),
                1 => Value::from("old"),
                2 => Value::List(vec![Value::from(1), Value::from(2)]),
                _ => continue,
            };
            properties.push((name.to_owned(), value));
        }
        let more = Value::from(self.random.i64(0..4));
        Value::map([("label", Value::from(label)), ("more", more), ("p", Value::Map(properties))])
    }

    /// Parameters of requests that may share a statement.
    pub(super) fn of(&mut self, shape: &Shape) -> Vec<Value> {
        let wanted = match self.random.u8(0..4) {
            0 => 1,
            1 => self.random.usize(2..8),
            _ => self.random.usize(8..50),
        };
        let mut asked: Vec<Value> = Vec::new();
        let mut keys: Vec<Vec<Value>> = Vec::new();
        for _ in 0..wanted {
            let parameters = self.parameters(shape);
            let key: Vec<_> = shape
                .key
                .parts
                .iter()
                .map(|part| match part {
                    Operand::Parameter(path) => at(&parameters, path).cloned().unwrap_or(Value::Null),
                    Operand::Literal(bytes) => Value::decode(bytes).expect("a literal's bytes"),
                })
                .collect();
            if !meets(shape, &parameters) || shape.key.distinct && keys.contains(&key) {
                continue;
            }
            keys.push(key);
            asked.push(parameters);
        }
        asked
    }

    fn parameters(&mut self, shape: &Shape) -> Value {
        let mut parameters = Value::Map(Vec::new());
        let mut checks: Vec<_> = shape.checks.iter().collect();
        // Maps first, what lies in them later.
        checks.sort_by_key(|check| check.path.len());
        for check in checks {
            let value = match &check.requirement {
                _ if self.random.u8(0..40) == 0 => Value::Null,
                Requirement::Key => self.key(),
                Requirement::Nullable if self.random.u8(0..3) == 0 => Value::Null,
                Requirement::Property | Requirement::Nullable => self.property(),
                Requirement::Number if self.random.bool() => Value::Float(self.random.f64()),
                Requirement::Number => Value::from(self.random.i64(-3..9)),
                Requirement::Any => self.any(),
                Requirement::Map { same } => self.map(same, &parameters),
            };
            set(&mut parameters, &check.path, value);
        }
        parameters
    }

    fn key(&mut self) -> Value {
        match self.random.u8(0..12) {
            0 => Value::from(self.random.i64(0..KEYS).to_string()),
            1 => Value::from(self.random.bool()),
            2 => Value::from("row"),
            _ => Value::from(self.random.i64(0..KEYS)),
        }
    }

    fn property(&mut self) -> Value {
        match self.random.u8(0..10) {
            0 => Value::Float(self.random.f64()),
            1 => Value::from(self.random.bool()),
            2 => Value::from("a 'text' with $rows, `row` and \\"),
            3 => Value::List(vec![Value::from(1), Value::from(2)]),
            4 => Value::List(vec![Value::from("x"), Value::from("y")]),
            5 => Value::List(Vec::new()),
            // A date and a point.
            6 => Value::Struct(0x44, vec![Value::from(20_000 + self.random.i64(0..50))]),
            7 => Value::Struct(0x58, vec![Value::from(7203), Value::Float(1.5), Value::Float(2.5)]),
            _ => Value::from(self.random.i64(-5..200)),
        }
    }

    fn any(&mut self) -> Value {
        match self.random.u8(0..4) {
            0 => Value::Null,
            1 => Value::map([("q", Value::from(1)), ("list", Value::List(vec![Value::Null]))]),
            _ => self.property(),
        }
    }

    fn map(&mut self, same: &[(Box<str>, Operand)], parameters: &Value) -> Value {
        let mut entries = Vec::new();
        for name in ["a", "b", "c", "x", "y", "we ird", "i", "p", "row"] {
            if self.random.u8(0..3) == 0 {
                let value = if self.random.u8(0..60) == 0 { Value::Null } else { self.property() };
                entries.push((name.to_owned(), value));
            }
        }
        for (name, operand) in same {
            let value = match operand {
                Operand::Parameter(path) => at(parameters, path).cloned(),
                Operand::Literal(bytes) => Value::decode(bytes).ok(),
            };
            match (self.random.u8(0..6), value) {
                (0..4, Some(value)) => entries.push((name.to_string(), value)),
                (4, _) => entries.push((name.to_string(), self.key())),
                _ => {}
            }
        }
        Value::Map(entries)
    }
}

/// `$rows` of a batch.
pub(super) fn rows(asked: &[Value]) -> Value {
    let rows = asked.iter().enumerate();
    let rows = rows
        .map(|(at, parameters)| Value::map([("i", Value::Integer(at as i64)), ("p", parameters.clone())]));
    Value::map([("rows", Value::List(rows.collect()))])
}

/// The value at a path.
pub(super) fn at<'v>(parameters: &'v Value, path: &[Box<str>]) -> Option<&'v Value> {
    path.iter().try_fold(parameters, |value, name| value.get(name))
}

fn set(parameters: &mut Value, path: &[Box<str>], value: Value) {
    let (Some((first, rest)), Value::Map(entries)) = (path.split_first(), parameters) else { return };
    let found = entries.iter().position(|(name, _)| **name == **first);
    match (found, rest.is_empty()) {
        (Some(at), true) => entries[at].1 = value,
        (None, true) => entries.push((first.to_string(), value)),
        (Some(at), false) => set(&mut entries[at].1, rest, value),
        (None, false) => {
            let mut inner = Value::Map(Vec::new());
            set(&mut inner, rest, value);
            entries.push((first.to_string(), inner));
        }
    }
}

/// True if a request may be in a batch.
fn meets(shape: &Shape, parameters: &Value) -> bool {
    shape.checks.iter().all(|check| {
        let Some(value) = at(parameters, &check.path) else { return false };
        match &check.requirement {
            Requirement::Key => matches!(value, Value::String(_) | Value::Integer(_) | Value::Boolean(_)),
            Requirement::Property => is_property(value),
            Requirement::Nullable => *value == Value::Null || is_property(value),
            Requirement::Number => matches!(value, Value::Integer(_) | Value::Float(_)),
            Requirement::Any => true,
            Requirement::Map { same } => {
                let Value::Map(entries) = value else { return false };
                let kept = same.iter().all(|(name, operand)| match (value.get(name), operand) {
                    (None, _) => true,
                    (Some(value), Operand::Parameter(path)) => at(parameters, path) == Some(value),
                    (Some(value), Operand::Literal(bytes)) => {
                        Value::decode(bytes).is_ok_and(|known| known == *value)
                    }
                });
                kept && entries.iter().all(|(_, value)| is_property(value))
            }
        }
    })
}

fn is_property(value: &Value) -> bool {
    match value {
        Value::Null | Value::Map(_) => false,
        Value::List(items) => {
            let kind = |value: &Value| std::mem::discriminant(value);
            let scalar = |value: &Value| !matches!(value, Value::Null | Value::Map(_) | Value::List(_));
            items.iter().all(|item| scalar(item) && kind(item) == kind(&items[0]))
        }
        _ => true,
    }
}
