//! The configuration as written: a tree of texts, each with the place it came from.

use std::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;

/// Where a value was written. Later ones overrule earlier ones.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Origin {
    /// Line and column in the file, from 1.
    File { line: usize, column: usize },
    /// An environment variable.
    Environment(String),
    /// A command-line flag.
    Flag(String),
}

impl Origin {
    /// The rank in which layers overrule each other.
    pub(super) fn layer(&self) -> u8 {
        match self {
            Self::File { .. } => 1,
            Self::Environment(_) => 2,
            Self::Flag(_) => 3,
        }
    }
}

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) origin: Origin,
    pub(super) value: Value,
}

/// What was written.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Nothing, `null` or `~`.
    Null,
    /// One value, as its text.
    Scalar(String),
    /// A list: entries named `[0]`, `[1]`, ….
    List(Vec<Entry>),
    /// A section.
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) origin: Origin,
    pub(super) node: Node,
}

/// Why a file could not be read as YAML.
pub(super) struct Syntax {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) message: String,
    pub(super) hint: &'static str,
}

impl Node {
    /// A tree in which nothing is written.
    pub(super) fn empty() -> Self {
        Self { origin: Origin::File { line: 1, column: 1 }, value: Value::Null }
    }

    /// Reads YAML without judging keys or values.
    pub(super) fn from_yaml(source: &str) -> Result<Self, Syntax> {
        // The deepest key is three levels down; the reader recurses, so that depth must not be the file's choice.
        let budget = serde_saphyr::budget! { max_depth: 16, max_nodes: 10_000 };
        // A password of digits may look like a number beyond all bounds.
        let non_finite = serde_saphyr::options::NonFiniteFloatPolicy::PassThrough;
        let options = serde_saphyr::options! { with_snippet: false, budget: budget, non_finite_float_policy: non_finite };
        match serde_saphyr::from_str_with_options::<Option<Spanned<Raw>>>(source, options) {
            Ok(Some(raw)) => Ok(node(raw, source)),
            Ok(None) => Ok(Self::empty()),
            Err(error) => {
                let at = error.location();
                let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
                let (message, hint) = syntax_message(&error);
                Err(Syntax {
                    line: at.map_or(0, |at| count(at.line())),
                    column: at.map_or(0, |at| count(at.column())),
                    message,
                    hint,
                })
            }
        }
    }

    fn entries(&self) -> &[Entry] {
        if let Value::Map(entries) | Value::List(entries) = &self.value { entries } else { &[] }
    }

    /// The same tree, as if every value had been written at `origin`.
    pub(super) fn moved_to(self, origin: &Origin) -> Self {
        let moved = |entries: Vec<Entry>| {
            let each = |entry: Entry| Entry {
                key: entry.key,
                origin: origin.clone(),
                node: entry.node.moved_to(origin),
            };
            entries.into_iter().map(each).collect()
        };
        let value = match self.value {
            Value::Map(entries) => Value::Map(moved(entries)),
            Value::List(entries) => Value::List(moved(entries)),
            value => value,
        };
        Self { origin: origin.clone(), value }
    }

    /// The entry at a dotted path.
    pub(super) fn entry(&self, path: &str) -> Option<&Entry> {
        let (first, rest) = split(path);
        let entry = self.entries().iter().find(|entry| entry.key == first)?;
        rest.map_or(Some(entry), |rest| entry.node.entry(rest))
    }

    /// The value at a dotted path, if one was written.
    pub(super) fn at(&self, path: &str) -> Option<&Self> {
        self.entry(path).map(|entry| &entry.node).filter(|node| !matches!(node.value, Value::Null))
    }

    /// Writes a value at a dotted path over whatever is there.
    pub(super) fn set(&mut self, path: &str, text: String, origin: Origin) {
        self.put(path, Value::Scalar(text), origin);
    }

    /// The same for any kind of value.
    pub(super) fn put(&mut self, path: &str, value: Value, origin: Origin) {
        let (first, rest) = split(path);
        if !matches!(self.value, Value::Map(_)) {
            *self = Self { origin: origin.clone(), value: Value::Map(Vec::new()) };
        }
        let Value::Map(entries) = &mut self.value else { return };
        let index = entries.iter().position(|entry| entry.key == first).unwrap_or_else(|| {
            let node = Self { origin: origin.clone(), value: Value::Null };
            entries.push(Entry { key: first.to_owned(), origin: origin.clone(), node });
            entries.len() - 1
        });
        let entry = &mut entries[index];
        match rest {
            Some(rest) => entry.node.put(rest, value, origin),
            None => {
                entry.node = Self { origin: origin.clone(), value };
                entry.origin = origin;
            }
        }
    }

    /// Removes what is at a path; true if something was there.
    pub(super) fn remove(&mut self, path: &[String]) -> bool {
        let Some((first, rest)) = path.split_first() else {
            return !matches!(std::mem::replace(&mut self.value, Value::Null), Value::Null);
        };
        let (Value::Map(entries) | Value::List(entries)) = &mut self.value else { return false };
        let Some(index) = entries.iter().position(|entry| entry.key == *first) else { return false };
        if rest.is_empty() {
            entries.remove(index);
            return true;
        }
        entries[index].node.remove(rest)
    }
}

/// The reader's message in a user's words, without the place, which is reported apart.
fn syntax_message(error: &serde_saphyr::Error) -> (String, &'static str) {
    match error.without_snippet() {
        serde_saphyr::Error::DuplicateMappingKey { .. } => {
            ("this key is given twice".to_owned(), "remove one of the two")
        }
        serde_saphyr::Error::MultipleDocuments { .. } => {
            ("a second document begins here".to_owned(), "keep one document, without a line `---` inside")
        }
        serde_saphyr::Error::Budget { .. } => (
            "too much, or too deeply nested".to_owned(),
            "a configuration has sections with keys and lists of short entries, nothing deeper",
        ),
        serde_saphyr::Error::AliasError { error, .. } => syntax_message(error),
        serde_saphyr::Error::NullIntoString { .. } => {
            ("this key has no name".to_owned(), "write `key: value`")
        }
        other => {
            let text = other.to_string();
            let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message);
            let hint = "check indentation (spaces, no tabs), colons and quotes around this line";
            (format!("not valid YAML: {message}"), hint)
        }
    }
}

fn split(path: &str) -> (&str, Option<&str>) {
    match path.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (path, None),
    }
}

/// What the YAML reader reports; the text of a plain number or word is looked up in the source, so that nothing is lost
/// (`0123`, `1e3`, `off`).
enum Raw {
    Null,
    Plain,
    Text(String),
    List(Vec<Spanned<Self>>),
    Map(Vec<(Spanned<String>, Spanned<Self>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value or a section")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_str<E>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

fn origin(at: serde_saphyr::Location) -> Origin {
    let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    Origin::File { line: count(at.line()), column: count(at.column()) }
}

fn node(raw: Spanned<Raw>, source: &str) -> Node {
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Text(text) => Value::Scalar(text),
        Raw::Plain => Value::Scalar(written(raw.defined, source)),
        Raw::List(items) => {
            let item = |(index, raw): (usize, Spanned<Raw>)| {
                let node = node(raw, source);
                Entry { key: format!("[{index}]"), origin: node.origin.clone(), node }
            };
            Value::List(items.into_iter().enumerate().map(item).collect())
        }
        Raw::Map(entries) => {
            Value::Map(entries.into_iter().map(|(key, raw)| entry(key, raw, source)).collect())
        }
    };
    Node { origin: origin(raw.referenced), value }
}

fn entry(key: Spanned<String>, raw: Spanned<Raw>, source: &str) -> Entry {
    let origin = origin(key.referenced);
    let mut node = node(raw, source);
    if matches!(node.value, Value::Null) {
        node.origin = origin.clone();
    }
    Entry { key: key.value, origin, node }
}

/// The text at a place of the source.
fn written(at: serde_saphyr::Location, source: &str) -> String {
    let span = at.span();
    let range = span.byte_offset().zip(span.byte_len()).and_then(|(start, len)| {
        let start = usize::try_from(start).ok()?;
        Some(start..start.checked_add(usize::try_from(len).ok()?)?)
    });
    range.and_then(|range| source.get(range)).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yaml(source: &str) -> Node {
        Node::from_yaml(source).unwrap_or_else(|e| panic!("{}:{}: {}", e.line, e.column, e.message))
    }

    fn text(node: &Node, path: &str) -> Option<String> {
        match node.at(path).map(|node| &node.value) {
            Some(Value::Scalar(text)) => Some(text.clone()),
            _ => None,
        }
    }

    #[test]
    fn values_keep_their_text_and_place() {
        let source = "# c\nä: {b: 0123, c: off}\nd:\n  e: 1_000 # note\n  f: \"0x1F\"\n  g: 1e3\n  h: true\n  i: -007\n  j: 30s\n  k: 2.50\n";
        let tree = yaml(source);
        let cases = [
            ("ä.b", "0123"),
            ("ä.c", "off"),
            ("d.e", "1_000"),
            ("d.f", "0x1F"),
            ("d.g", "1e3"),
            ("d.h", "true"),
            ("d.i", "-007"),
            ("d.j", "30s"),
            ("d.k", "2.50"),
        ];
        for (path, expected) in cases {
            assert_eq!(text(&tree, path).as_deref(), Some(expected), "{path}");
        }
        assert_eq!(tree.at("ä.c").map(|n| n.origin.clone()), Some(Origin::File { line: 2, column: 17 }));
        assert_eq!(tree.entry("d.e").map(|e| e.origin.clone()), Some(Origin::File { line: 4, column: 3 }));
        assert_eq!(tree.at("d.e").map(|n| n.origin.clone()), Some(Origin::File { line: 4, column: 6 }));
    }

    #[test]
    fn anchors_tags_and_blocks_are_read() {
        let tree = yaml(
            "a: &x 0042\nb: *x\nc: !!str 0042\nd: |\n  two\n  lines\ne: ~\nf:\ng: [1, {a: b}]\nh: &y yes\ni: *y\n",
        );
        for (path, expected) in
            [("a", "0042"), ("b", "0042"), ("c", "0042"), ("d", "two\nlines\n"), ("h", "yes"), ("i", "yes")]
        {
            assert_eq!(text(&tree, path).as_deref(), Some(expected), "{path}");
        }
        assert!(tree.at("e").is_none() && tree.at("f").is_none());
        assert_eq!(tree.entry("f").map(|e| e.node.origin.clone()), Some(Origin::File { line: 8, column: 1 }));
        assert_eq!(text(&tree, "g.[1].a").as_deref(), Some("b"));
        assert!(matches!(tree.at("g").map(|n| &n.value), Some(Value::List(items)) if items.len() == 2));
    }

    #[test]
    fn empty_files_are_empty_trees() {
        for source in ["", "\n\n", "# only a comment\n", "---\n", "~"] {
            assert!(matches!(yaml(source).value, Value::Null), "{source:?}");
        }
    }

    #[test]
    fn faults_of_yaml_have_a_place() {
        for (source, line) in
            [("a: 1\nb: [1\n", 2), ("a:\n\tb: 1\n", 2), ("a: 1\na: 2\n", 2), ("a: *nope\n", 1)]
        {
            let fault = Node::from_yaml(source).expect_err(source);
            assert_eq!(fault.line, line, "{source:?}: {}:{}: {}", fault.line, fault.column, fault.message);
        }
    }

    #[test]
    fn values_are_overlaid_and_removed() {
        let mut tree = yaml("a: off\nb:\n  c: 1\n");
        tree.set("a.x.y", "2".to_owned(), Origin::Flag("--set".to_owned()));
        tree.set("b.c", "3".to_owned(), Origin::Environment("E".to_owned()));
        assert_eq!(text(&tree, "a.x.y").as_deref(), Some("2"));
        assert_eq!(text(&tree, "b.c").as_deref(), Some("3"));
        assert!(tree.remove(&["a".to_owned(), "x".to_owned()]));
        assert!(!tree.remove(&["a".to_owned(), "x".to_owned()]));
        assert!(tree.at("a.x").is_none() && tree.at("a").is_some());
    }
}
