//! The statement for many: written anew from the form, with names of its own.

use std::fmt::Write;

use super::count::Ledger;
use super::form::{Computed, Edge, Element, Form, Item, Map, Node, Part, Returned, Subject, Value, Verb};
use super::shape::Way;

/// The variable of what is named in a pattern.
pub(super) fn own(subject: Subject) -> String {
    match subject {
        Subject::Node(at) => format!("n{at}"),
        Subject::Edge(at) => format!("r{at}"),
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

/// The whole text.
pub(super) fn batch(form: &Form, ledger: &Ledger, way: Way) -> Box<str> {
    let mut body = Body { text: String::new(), scope: vec!["row".to_owned()] };
    for (part, flags) in form.parts.iter().zip(&ledger.flags) {
        body.with(&flags.before);
        body.part(part);
        body.with(&flags.after);
        part.then.iter().for_each(|items| steps(&mut body.text, "", &own(part.then_of), items));
        body.with(&flags.end);
    }
    let body = body.text;
    let flags: Vec<_> = (0..ledger.count).map(|flag| format!("f{flag}")).collect();
    let columns = form.columns.iter().enumerate();
    let columns: Vec<_> =
        columns.map(|(at, column)| format!("{} AS c{at}", returned(&column.value))).collect();
    match way {
        Way::Unwind => {
            let all = [vec!["row.i AS i".to_owned()], flags, columns].concat().join(", ");
            format!("UNWIND $rows AS row{body} RETURN {all}").into()
        }
        Way::Rows => {
            let inner = [flags.clone(), columns, vec!["1 AS one".to_owned()]].concat().join(", ");
            let names = (0..form.columns.len()).map(|at| format!("c{at}")).collect();
            let all = [vec!["row.i AS i".to_owned()], flags, names].concat().join(", ");
            format!("UNWIND $rows AS row CALL (row) {{{body} RETURN {inner} }} RETURN {all}").into()
        }
    }
}

/// The text between the rows and the answers.
struct Body {
    text: String,
    /// What is known there, to be carried on.
    scope: Vec<String>,
}

impl Body {
    fn part(&mut self, part: &Part) {
        let name = own(part.subject);
        let (verb, pattern) = match part.verb {
            Verb::Match => ("MATCH", self::pattern(&part.element, &name)),
            Verb::Merge => ("MERGE", self::pattern(&part.element, &name)),
            Verb::Create => ("CREATE", self::pattern(&part.element, &name)),
        };
        let _ = write!(self.text, " {verb} {pattern}");
        // A pattern cannot take a row's map, so that its properties follow as SET, which counts alike if none is null.
        if let Map::Parameter(path) = part.properties() {
            let _ = write!(self.text, " SET {name} = {}", reference(path));
        }
        part.on_create.iter().for_each(|items| steps(&mut self.text, " ON CREATE", &name, items));
        part.on_match.iter().for_each(|items| steps(&mut self.text, " ON MATCH", &name, items));
        self.scope.push(name);
    }

    /// Flags, computed where they stand; everything else goes on.
    fn with(&mut self, flags: &[(usize, String)]) {
        if flags.is_empty() {
            return;
        }
        let _ = write!(self.text, " WITH {}", self.scope.join(", "));
        for (number, flag) in flags {
            let _ = write!(self.text, ", {flag} AS f{number}");
            self.scope.push(format!("f{number}"));
        }
    }
}

fn pattern(element: &Element, name: &str) -> String {
    match element {
        Element::Node(node) => node_pattern(node, name),
        Element::Edge(edge) => edge_pattern(edge, name),
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
        Item::Set(key, value) => {
            let target = format!("{subject}.{}", quoted(key));
            match value {
                Value::Computed(value) => format!("{target} = {}", computed(value, &target)),
                value => format!("{target} = {}", valued(value)),
            }
        }
        Item::Merge(map) => format!("{subject} += {}", mapped(map)),
        Item::Replace(map) => format!("{subject} = {}", mapped(map)),
        Item::Remove(key) => format!("{subject}.{}", quoted(key)),
        Item::Labels(labels) | Item::RemoveLabels(labels) => format!("{subject}{}", labelled(labels)),
    }
}

/// A node's pattern.
pub(super) fn node_pattern(node: &Node, variable: &str) -> String {
    format!("({variable}{}{})", labelled(&node.labels), described(&node.properties))
}

/// A relationship's pattern.
pub(super) fn edge_pattern(edge: &Edge, variable: &str) -> String {
    let (from, to) = (own(edge.from), own(edge.to));
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
        // Only `step` knows what the property is for.
        Value::Computed(_) => "null".to_owned(),
    }
}

fn computed(value: &Computed, target: &str) -> String {
    match value {
        Computed::Target => target.to_owned(),
        Computed::Value(value) => valued(value),
        Computed::Coalesce(left, right) => {
            format!("coalesce({}, {})", computed(left, target), computed(right, target))
        }
        Computed::Binary(left, sign, right) => {
            format!("({} {sign} {})", computed(left, target), computed(right, target))
        }
    }
}

fn returned(value: &Returned) -> String {
    match value {
        Returned::Property(subject, key) => format!("{}.{}", own(*subject), quoted(key)),
        Returned::Of(function, subject) => format!("{function}({})", own(*subject)),
        Returned::Value(value) => valued(value),
    }
}
