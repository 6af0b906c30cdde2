//! The statement for many: written anew from the form, with names of its own.

use std::fmt::Write;

use super::count::{Ledger, merges};
use super::form::{Edge, Form, Item, Map, Node, Returned, Subject, Value};
use super::shape::Kind;

/// The variable of what is named in a pattern.
pub(super) fn own(subject: Subject) -> &'static str {
    match subject {
        Subject::Node(0) => "a",
        Subject::Node(_) => "b",
        Subject::Edge => "r",
    }
}

/// A name in back-ticks.
pub(super) fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A parameter of the row's request.
pub(super) fn reference(path: &[Box<str>]) -> String {
    path.iter().fold("row.p".to_owned(), |text, name| text + "." + &quoted(name))
}

/// The condition under which a MERGE finds nothing.
pub(super) fn made(form: &Form) -> Option<Box<str>> {
    if !merges(form.kind) {
        return None;
    }
    let pattern = match &form.edge {
        Some(edge) => edge_pattern(edge, None),
        None => form.nodes.first().map(|node| node_pattern(node, ""))?,
    };
    Some(format!("NOT EXISTS {{ MATCH {pattern} }}").into())
}

/// The whole text.
pub(super) fn batch(form: &Form, ledger: &Ledger) -> Box<str> {
    let mut text = "UNWIND $rows AS row".to_owned();
    let matched = if form.edge.is_some() || form.kind == Kind::NodeUpdate { form.nodes.len() } else { 0 };
    for (at, node) in form.nodes.iter().take(matched).enumerate() {
        text += &format!(" MATCH {}", node_pattern(node, own(Subject::Node(at))));
    }
    let mut scope: Vec<String> = vec!["row".to_owned()];
    scope.extend((0..matched).map(|at| own(Subject::Node(at)).to_owned()));
    with(&mut text, &mut scope, &ledger.before, 0);
    match (&form.edge, form.nodes.first()) {
        (Some(edge), _) => {
            text += &format!(" {} {}", clause(form.kind), edge_pattern(edge, Some("r")));
            scope.push("r".to_owned());
            replaced(&mut text, "r", &edge.properties);
        }
        (None, Some(node)) if matched == 0 => {
            text += &format!(" {} {}", clause(form.kind), node_pattern(node, "a"));
            scope.push("a".to_owned());
            replaced(&mut text, "a", &node.properties);
        }
        _ => {}
    }
    let subject = own(if form.edge.is_some() { Subject::Edge } else { Subject::Node(0) });
    form.on_create.iter().for_each(|items| steps(&mut text, " ON CREATE", subject, items));
    form.on_match.iter().for_each(|items| steps(&mut text, " ON MATCH", subject, items));
    with(&mut text, &mut scope, &ledger.after, ledger.before.len());
    form.then.iter().for_each(|items| steps(&mut text, "", subject, items));
    text += " RETURN row.i AS i";
    for flag in 0..ledger.before.len() + ledger.after.len() {
        let _ = write!(text, ", f{flag}");
    }
    for (at, column) in form.columns.iter().enumerate() {
        let _ = write!(text, ", {} AS c{at}", returned(&column.value));
    }
    text.into()
}

/// Flags, computed where they stand; everything else goes on.
fn with(text: &mut String, scope: &mut Vec<String>, flags: &[Box<str>], first: usize) {
    if flags.is_empty() {
        return;
    }
    let _ = write!(text, " WITH {}", scope.join(", "));
    for (at, flag) in flags.iter().enumerate() {
        let _ = write!(text, ", {flag} AS f{}", first + at);
        scope.push(format!("f{}", first + at));
    }
}

fn clause(kind: Kind) -> &'static str {
    if merges(kind) { "MERGE" } else { "CREATE" }
}

/// A pattern cannot take a row's map, so that its properties follow as SET, which counts alike if none is null.
fn replaced(text: &mut String, subject: &str, properties: &Map) {
    if let Map::Parameter(path) = properties {
        let _ = write!(text, " SET {subject} = {}", reference(path));
    }
}

fn steps(text: &mut String, when: &str, subject: &str, items: &[Item]) {
    let removes = matches!(items, [Item::Remove(_) | Item::RemoveLabels(_), ..]);
    let _ = write!(text, "{when} {} ", if removes { "REMOVE" } else { "SET" });
    for (at, item) in items.iter().enumerate() {
        let comma = if at == 0 { "" } else { ", " };
        let _ = write!(text, "{comma}{}", step(subject, item));
    }
}

fn step(subject: &str, item: &Item) -> String {
    match item {
        Item::Set(key, value) => format!("{subject}.{} = {}", quoted(key), valued(value)),
        Item::Merge(map) => format!("{subject} += {}", mapped(map)),
        Item::Replace(map) => format!("{subject} = {}", mapped(map)),
        Item::Remove(key) => format!("{subject}.{}", quoted(key)),
        Item::Labels(labels) | Item::RemoveLabels(labels) => format!("{subject}{}", labelled(labels)),
    }
}

fn node_pattern(node: &Node, variable: &str) -> String {
    format!("({variable}{}{})", labelled(&node.labels), described(&node.properties))
}

fn edge_pattern(edge: &Edge, variable: Option<&str>) -> String {
    let (from, to) = (own(Subject::Node(edge.from)), own(Subject::Node(edge.to)));
    let variable = variable.unwrap_or_default();
    format!("({from})-[{variable}:{}{}]->({to})", quoted(&edge.name), described(&edge.properties))
}

fn labelled(labels: &[Box<str>]) -> String {
    labels.iter().map(|label| format!(":{}", quoted(label))).collect()
}

fn described(properties: &Map) -> String {
    match properties {
        Map::Entries(entries) if !entries.is_empty() => format!(" {}", mapped(properties)),
        _ => String::new(),
    }
}

fn mapped(map: &Map) -> String {
    match map {
        Map::Parameter(path) => reference(path),
        Map::Entries(entries) => {
            let entries: Vec<_> =
                entries.iter().map(|(key, value)| format!("{}: {}", quoted(key), valued(value))).collect();
            format!("{{{}}}", entries.join(", "))
        }
    }
}

fn valued(value: &Value) -> String {
    match value {
        Value::Parameter(path) => reference(path),
        Value::Literal(literal) => literal.source.to_string(),
        Value::Function(name) => format!("{name}()"),
    }
}

fn returned(value: &Returned) -> String {
    match value {
        Returned::Property(subject, key) => format!("{}.{}", own(*subject), quoted(key)),
        Returned::Of(function, subject) => format!("{function}({})", own(*subject)),
        Returned::Value(value) => valued(value),
    }
}
