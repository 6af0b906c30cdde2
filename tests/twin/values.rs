//! Random values: keys that belong to one client, and anything else that may stand in a parameter.

use bolt_wire::Version;
use bolt_wire::packstream::Value;
use fastrand::Rng;

/// The part of the key space that one client uses alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    /// The client's number within its round.
    pub(crate) client: u16,
    /// What the client speaks: it decides how a time with a zone is written.
    pub(crate) version: Version,
    /// How much is to go wrong.
    pub(crate) mood: Mood,
}

/// How much is to go wrong in a round: failures keep writes from being batched.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Mood {
    /// Anything, anyhow.
    Wild,
    /// Few failures and odd values, most writes auto-commit.
    Calm,
    /// What suits a batch, and a failure in hundreds.
    Strict,
}

impl Space {
    /// True once in `often` times, and seldom if all is to be calm.
    pub(crate) fn oddly(self, often: u16, random: &mut Rng) -> bool {
        let seldom = match self.mood {
            Mood::Wild => 1,
            Mood::Calm => 12,
            Mood::Strict => 60,
        };
        random.u16(0..often * seldom) == 0
    }

    /// True unless anything goes.
    pub(crate) fn calm(self) -> bool {
        self.mood > Mood::Wild
    }

    /// A key of this client: one of few, so that statements meet the same nodes again and again.
    pub(crate) fn key(self, random: &mut Rng) -> Value {
        if self.calm() && !self.oddly(2, random) {
            return self.plain_key(random);
        }
        let n = random.u8(0..6);
        match random.u8(0..100) {
            0..=54 => self.word(n).into(),
            55..=79 => Value::Integer(self.number(n)),
            // Equal to the integer, but not the same value.
            80..=84 => Value::Float(self.number(n) as f64),
            85..=94 => self.odd_key(n),
            // No MERGE takes it, a CREATE does.
            95 | 96 => Value::Null,
            // Too long for an index.
            97 if random.u8(0..4) == 0 => format!("{}{}", self.word(n), "x".repeat(9000)).into(),
            98 => Value::map([("id", self.word(n).into())]),
            _ => self.word(n).into(),
        }
    }

    /// A key that any MERGE takes.
    pub(crate) fn plain_key(self, random: &mut Rng) -> Value {
        let n = random.u8(0..6);
        if random.u8(0..3) == 0 { Value::Integer(self.number(n)) } else { self.word(n).into() }
    }

    /// Some of the plain keys, each once.
    pub(crate) fn some_keys(self, random: &mut Rng) -> Vec<Value> {
        let all = (0..6).flat_map(|n| [self.word(n).into(), Value::Integer(self.number(n))]);
        all.filter(|_| random.u8(0..3) > 0).collect()
    }

    /// The same key as a literal in a text.
    pub(crate) fn literal_key(self, random: &mut Rng) -> String {
        let n = random.u8(0..6);
        match random.u8(0..8) {
            0..=3 => format!("'{}'", self.word(n)),
            4 => format!("\"{}\"", self.word(n)),
            5 | 6 => self.number(n).to_string(),
            _ => format!("{}.0", self.number(n)),
        }
    }

    /// What is unique under a second constraint.
    pub(crate) fn mail(self, random: &mut Rng) -> Value {
        format!("c{}m{}@example.org", self.client, random.u8(0..4)).into()
    }

    fn word(self, n: u8) -> String {
        format!("c{}k{n}", self.client)
    }

    fn number(self, n: u8) -> i64 {
        i64::from(self.client) * 1000 + i64::from(n)
    }

    fn odd_key(self, n: u8) -> Value {
        let client = i64::from(self.client);
        match n {
            // Beyond what a float can tell apart.
            0 => Value::Integer(9_007_199_254_740_993 + 64 * client),
            1 => Value::Float((9_007_199_254_740_992 + 64 * client) as f64),
            2 => Value::Struct(DATE, vec![Value::Integer(10_000 + client)]),
            // The same letters, composed and not; and letters that differ in case only.
            3 => format!("c{client}\u{e9}").into(),
            4 => format!("c{client}e\u{301}").into(),
            _ => Value::List(vec![Value::Integer(client), "list".into()]),
        }
    }

    /// Any value at all, for a property that has no constraint.
    pub(crate) fn any(self, random: &mut Rng) -> Value {
        // A new combination of types is a new plan, which costs the server as much as fifty statements.
        if random.u8(0..if self.calm() { 12 } else { 4 }) > 0 {
            return Value::Integer(i64::from(random.i8(..)));
        }
        match random.u8(0..100) {
            0..=34 => text(random),
            35..=42 => Value::Null,
            43..=47 => Value::Boolean(random.bool()),
            48..=52 => Value::Float(f64::from(random.i16(..)) / 8.0),
            53..=62 => list(random),
            63..=80 => self.extreme(random),
            81..=90 => self.temporal(random),
            91..=94 => point(random),
            95..=97 => Value::map([("x", Value::Integer(1)), ("deep", Value::map([("y", Value::Null)]))]),
            98 => Value::List(vec![Value::Integer(1), "two".into(), Value::Null]),
            _ => Value::String("long ".repeat(random.usize(1..20) * 1000)),
        }
    }

    fn extreme(self, random: &mut Rng) -> Value {
        match random.u8(0..12) {
            0 => Value::Float(f64::NAN),
            1 => Value::Float(f64::INFINITY),
            2 => Value::Float(-0.0),
            3 => Value::Integer(i64::MAX),
            4 => Value::Integer(i64::MIN),
            5 => Value::Bytes(vec![0, 255, random.u8(..)]),
            6 => Value::Bytes(Vec::new()),
            7 => Value::List(Vec::new()),
            8 => "".into(),
            9 => "'\"\\`$ \u{0} \u{1F600}".into(),
            10 => Value::Integer(i64::from(i32::MIN)),
            _ => Value::Float(1.0),
        }
    }

    fn temporal(self, random: &mut Rng) -> Value {
        let number = |n: i64| Value::Integer(n);
        let day = i64::from(random.u8(..));
        let zoned = if self.version.features().utc_patch { (0x46, 0x66) } else { (0x49, 0x69) };
        match random.u8(0..9) {
            0 => Value::Struct(DATE, vec![number(day)]),
            1 => Value::Struct(0x54, vec![number(day * 1_000_000_007), number(3600)]),
            2 => Value::Struct(0x74, vec![number(day * 1_000_000_007)]),
            3 => Value::Struct(0x64, vec![number(day * 86_399), number(999_999_999)]),
            4 => Value::Struct(0x45, vec![number(day), number(-day), number(day * 7), number(1)]),
            5 => Value::Struct(zoned.0, vec![number(day * 86_399), number(1), number(-7200)]),
            6 => Value::Struct(zoned.1, vec![number(day * 86_399), number(1), "Europe/Berlin".into()]),
            // No such zone, no such day.
            7 if day % 4 == 0 => Value::Struct(zoned.1, vec![number(day), number(1), "Nowhere/Land".into()]),
            8 if day % 4 == 0 => Value::Struct(DATE, vec![number(i64::MAX)]),
            _ => Value::Struct(DATE, vec![number(-day)]),
        }
    }

    /// Properties for `+=` and `=`: small mostly, sometimes wrong, sometimes huge.
    pub(crate) fn properties(self, random: &mut Rng) -> Value {
        if self.oddly(60, random) {
            return self.any(random);
        }
        match random.u8(0..if self.calm() { 250 } else { 60 }) {
            0 => return Value::Map(Vec::new()),
            1 => return huge(random),
            _ => {}
        }
        let mut entries = Vec::new();
        for _ in 0..random.usize(0..5) {
            let name = random.choice(NAMES).copied().unwrap_or("x");
            if entries.iter().all(|(other, _)| other != name) {
                entries.push((name.to_owned(), self.any(random)));
            }
        }
        if self.calm() && !self.oddly(2, random) {
            return Value::Map(entries);
        }
        match random.u8(0..48) {
            // A key twice: no driver sends it.
            0 => entries.extend(entries.first().cloned()),
            1 => entries.push(("id".to_owned(), self.key(random))),
            2 => entries.push(("mail".to_owned(), self.mail(random))),
            _ => {}
        }
        Value::Map(entries)
    }
}

/// Property names without a constraint, made known to the database before anything is compared.
pub(crate) const NAMES: &[&str] = &["x", "y", "c", "v", "we ird", "größe", "list", "name"];

const DATE: u8 = 0x44;

fn text(random: &mut Rng) -> Value {
    let words = ["a", "A", "b", "", " ", "null", "1", "Ünïcödé", "\u{1F600}", "c0k0", "$id", "}"];
    random.choice(words).unwrap_or("a").into()
}

fn list(random: &mut Rng) -> Value {
    let size = random.usize(0..6);
    let mut one: Box<dyn FnMut() -> Value> = match random.u8(0..4) {
        0 => Box::new(|| Value::Integer(i64::from(random.i8(..)))),
        1 => Box::new(|| text(random)),
        2 => Box::new(|| Value::Float(f64::from(random.i8(..)))),
        _ => Box::new(|| Value::Boolean(random.bool())),
    };
    Value::List((0..size).map(|_| one()).collect())
}

fn point(random: &mut Rng) -> Value {
    let x = || Value::Float(12.5);
    match random.u8(0..16) {
        0..=4 => Value::Struct(0x58, vec![Value::Integer(7203), x(), x()]),
        5..=9 => Value::Struct(0x58, vec![Value::Integer(4326), x(), x()]),
        10..=14 => Value::Struct(0x59, vec![Value::Integer(9157), x(), x(), x()]),
        // No such reference system.
        _ => Value::Struct(0x58, vec![Value::Integer(1), x(), x()]),
    }
}

/// Beyond one chunk, or many entries.
fn huge(random: &mut Rng) -> Value {
    if random.bool() {
        Value::map([("v", Value::String("wide ".repeat(14_000))), ("x", Value::Integer(1))])
    } else {
        Value::map([("list", Value::List((0..30_000).map(Value::Integer).collect()))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_two_clients_never_meet() {
        let mut random = Rng::with_seed(1);
        let mut seen = std::collections::HashMap::new();
        for turn in 0..40_000_u16 {
            let client = turn % 64;
            let key = Space { client, version: Version::V5_8, mood: Mood::Wild }.key(&mut random);
            // Cypher takes 1 and 1.0 for equal.
            let name = match &key {
                Value::Null => continue,
                Value::Float(value) => format!("{:?}", Value::Integer(*value as i64)),
                other => format!("{other:?}"),
            };
            assert_eq!(*seen.entry(name).or_insert(client), client, "{key:?}");
        }
    }
}
