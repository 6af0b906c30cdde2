//! From a form to a shape: what its requests must be like, and what tells them apart.

use super::batch::batch;
use super::count::ledger;
use super::form::{Element, Form, Item, Map, Part, Path, Returned, Value, Verb, may_be_null};
use super::read::read;
use super::shape::{Check, Key, Operand, Requirement, Schema, Shape, Way};
use super::tokens::Tokens;

/// The coalescible form of a text that writes, or why it has none.
pub(super) fn recognise(text: &str, tokens: &Tokens<'_>) -> Result<Box<Shape>, &'static str> {
    let form = read(text, tokens)?;
    let checks = checks(&form)?;
    let ledger = ledger(&form)?;
    let way = way(&form);
    Ok(Box::new(Shape {
        kind: form.kind,
        name: name(&form),
        way,
        batch: batch(&form, &ledger, way),
        flags: ledger.count,
        key: Key { parts: parts(&form)?.into(), distinct: way == Way::Unwind && is_keyed(&form) },
        one_row: way == Way::Rows && form.parts.len() > 1,
        checks: checks.into(),
        effects: ledger.effects.into(),
        schema: schema(&form).into(),
        columns: form.columns.into_iter().map(|column| column.name).collect(),
    }))
}

/// Rows that cannot see each other need no subquery: those of one keyed node, of one relationship between two matched nodes,
/// and of nothing but new things.
fn way(form: &Form) -> Way {
    let reads = form.parts.iter().flat_map(Part::items).any(|item| match item {
        Item::Set(_, Value::Computed(computed)) => computed.reads(),
        _ => false,
    });
    let own = |part: &Part| part.then.is_empty() || part.then_of == part.subject;
    let free = match form.parts.as_slice() {
        [part] => own(part),
        [a, b, edge] if [a, b].iter().all(|part| part.verb == Verb::Match && part.then.is_empty()) => {
            edge.is_edge() && own(edge)
        }
        parts => parts.iter().all(|part| part.verb == Verb::Create && own(part)),
    };
    if free && !reads { Way::Unwind } else { Way::Rows }
}

/// True if a row may change what it has found.
fn is_keyed(form: &Form) -> bool {
    form.parts
        .iter()
        .any(|part| part.verb == Verb::Merge || part.verb == Verb::Match && !part.then.is_empty())
}

/// The type of the last relationship, or the label of the last node that is written.
fn name(form: &Form) -> Box<str> {
    let edge = form.parts.iter().rfind(|part| part.is_edge());
    let written = form.parts.iter().rfind(|part| part.verb != Verb::Match);
    let named = edge.or(written).or_else(|| form.parts.last()).map(|part| match &part.element {
        Element::Edge(edge) => edge.name.clone(),
        Element::Node(node) => node.labels.first().cloned().unwrap_or_default(),
    });
    named.unwrap_or_default()
}

fn parts(form: &Form) -> Result<Vec<Operand>, &'static str> {
    let values = form.parts.iter().flat_map(Part::key).map(|(_, value)| value.operand());
    values
        .map(|operand| operand.ok_or("its key is not a parameter, a string, a whole number or a boolean"))
        .collect()
}

fn schema(form: &Form) -> Vec<Schema> {
    let mut wanted: Vec<Schema> = Vec::new();
    for part in form.parts.iter().filter(|part| !part.is_edge() && part.verb != Verb::Create) {
        let properties = part.key().iter().map(|(key, _)| key.clone()).collect();
        let name = part.labels().first().cloned().unwrap_or_default();
        let schema = Schema { relationship: false, name, properties };
        if !wanted.contains(&schema) {
            wanted.push(schema);
        }
    }
    wanted
}

fn checks(form: &Form) -> Result<Vec<Check>, &'static str> {
    let mut checks = Checks { list: Vec::new(), keys: Vec::new() };
    for part in &form.parts {
        part.key().iter().for_each(|(_, value)| checks.parameter(value, Requirement::Key));
        if part.verb == Verb::Create {
            checks.described(part.properties());
        }
        checks.keys = part.key().to_vec();
        part.on_create.iter().chain(&part.on_match).flatten().try_for_each(|item| checks.item(item))?;
        let of = form.parts.iter().find(|of| of.subject == part.then_of);
        checks.keys = of.map(|of| of.key().to_vec()).unwrap_or_default();
        checks.then(&part.then)?;
    }
    for column in &form.columns {
        if let Returned::Value(value) = &column.value {
            checks.parameter(value, Requirement::Any);
        }
    }
    Ok(checks.list)
}

struct Checks {
    list: Vec<Check>,
    /// The key of what is changed: no step may change it, or rows could find each other's.
    keys: Vec<(Box<str>, Value)>,
}

impl Checks {
    fn parameter(&mut self, value: &Value, requirement: Requirement) {
        match value {
            Value::Parameter(path) => self.path(path, requirement),
            Value::Computed(computed) => {
                computed.values().into_iter().for_each(|value| self.parameter(value, Requirement::Number));
            }
            Value::Literal(_) | Value::Function(_) => {}
        }
    }

    fn path(&mut self, path: &Path, requirement: Requirement) {
        let check = Check { path: path.clone(), requirement };
        if !self.list.contains(&check) {
            self.list.push(check);
        }
    }

    /// A pattern that is created.
    fn described(&mut self, properties: &Map) {
        match properties {
            Map::Parameter(path) => self.path(path, Requirement::Map { same: Box::default() }),
            Map::Entries(entries) => {
                entries.iter().for_each(|(_, value)| self.parameter(value, Requirement::Nullable));
            }
        }
    }

    fn then(&mut self, clauses: &[Vec<Item>]) -> Result<(), &'static str> {
        for (clause, items) in clauses.iter().enumerate() {
            for (step, item) in items.iter().enumerate() {
                match item {
                    Item::Set(key, value) if may_be_null(clauses, clause, step) => {
                        self.entry(key, value, Requirement::Nullable)?;
                    }
                    item => self.item(item)?,
                }
            }
        }
        Ok(())
    }

    fn item(&mut self, item: &Item) -> Result<(), &'static str> {
        match item {
            Item::Set(key, value) => self.entry(key, value, Requirement::Property),
            Item::Merge(Map::Entries(entries)) | Item::Replace(Map::Entries(entries)) => {
                entries.iter().try_for_each(|(key, value)| self.entry(key, value, Requirement::Property))
            }
            Item::Merge(Map::Parameter(path)) | Item::Replace(Map::Parameter(path)) => {
                let same = self.same(path);
                self.path(path, Requirement::Map { same });
                Ok(())
            }
            Item::Remove(key) if self.keys.iter().any(|(known, _)| known == key) => {
                Err("it removes its own key")
            }
            Item::Remove(_) | Item::Labels(_) | Item::RemoveLabels(_) => Ok(()),
        }
    }

    /// A property may be set if it is not of the key, or to what it is already.
    fn entry(&mut self, key: &str, value: &Value, requirement: Requirement) -> Result<(), &'static str> {
        if let Some((_, known)) = self.keys.iter().find(|(known, _)| **known == *key)
            && (known.operand().is_none() || known.operand() != value.operand())
        {
            return Err("it changes its own key");
        }
        self.parameter(value, requirement);
        Ok(())
    }

    /// The key's properties with their values, but those that come out of this very map.
    fn same(&self, path: &Path) -> Box<[(Box<str>, Operand)]> {
        let entries = self.keys.iter().filter_map(|(key, value)| Some((key.clone(), value.operand()?)));
        entries
            .filter(|(key, operand)| match operand {
                Operand::Parameter(of) => {
                    of.split_last().is_none_or(|(last, rest)| last != key || *rest != **path)
                }
                Operand::Literal(_) => true,
            })
            .collect()
    }
}
