//! From a form to a shape: what its requests must be like, and what tells them apart.

use super::batch::{batch, made};
use super::count::{ledger, merges};
use super::form::{Form, Item, Map, Path, Returned, Value};
use super::read::read;
use super::shape::{Check, Key, Kind, Operand, Requirement, Schema, Shape, Way};
use super::tokens::Tokens;

/// The coalescible form of a text that writes, or why it has none.
pub(super) fn recognise(text: &str, tokens: &Tokens<'_>) -> Result<Box<Shape>, &'static str> {
    let form = read(text, tokens)?;
    let checks = checks(&form)?;
    let ledger = ledger(&form, made(&form))?;
    let name = match (&form.edge, form.nodes.first()) {
        (Some(edge), _) => edge.name.clone(),
        (None, Some(node)) => node.labels.first().cloned().unwrap_or_default(),
        (None, None) => return Err("it has no node"),
    };
    Ok(Box::new(Shape {
        kind: form.kind,
        name,
        way: Way::Unwind,
        batch: batch(&form, &ledger),
        flags: ledger.before.len() + ledger.after.len(),
        key: Key {
            parts: parts(&form)?.into(),
            distinct: form.kind == Kind::NodeUpdate || merges(form.kind),
        },
        checks: checks.into(),
        effects: ledger.effects.into(),
        schema: schema(&form).into(),
        columns: form.columns.into_iter().map(|column| column.name).collect(),
    }))
}

/// The properties that find what is there: those of matched and merged patterns.
fn keyed(form: &Form) -> impl Iterator<Item = &(Box<str>, Value)> {
    let nodes = if form.kind == Kind::NodeCreate { &[][..] } else { form.nodes.as_slice() };
    let edge = form.edge.as_ref().filter(|_| merges(form.kind));
    let nodes = nodes.iter().map(|node| &node.properties);
    nodes.chain(edge.map(|edge| &edge.properties)).flat_map(|map| map.entries())
}

fn parts(form: &Form) -> Result<Vec<Operand>, &'static str> {
    keyed(form)
        .map(|(_, value)| {
            value.operand().ok_or("its key is not a parameter, a string, a whole number or a boolean")
        })
        .collect()
}

fn schema(form: &Form) -> Vec<Schema> {
    let nodes = if form.kind == Kind::NodeCreate { &[][..] } else { form.nodes.as_slice() };
    let mut wanted: Vec<Schema> = Vec::new();
    for node in nodes {
        let properties = node.properties.entries().iter().map(|(key, _)| key.clone()).collect();
        let name = node.labels.first().cloned().unwrap_or_default();
        let schema = Schema { relationship: false, name, properties };
        if !wanted.contains(&schema) {
            wanted.push(schema);
        }
    }
    wanted
}

fn checks(form: &Form) -> Result<Vec<Check>, &'static str> {
    let mut checks = Checks { list: Vec::new(), keys: own_keys(form) };
    for (_, value) in keyed(form) {
        checks.parameter(value, Requirement::Key);
    }
    match (form.kind, &form.edge, form.nodes.first()) {
        (Kind::NodeCreate, _, Some(node)) => checks.described(&node.properties),
        (Kind::RelationshipCreate, Some(edge), _) => checks.described(&edge.properties),
        _ => {}
    }
    for item in form.on_create.iter().chain(&form.on_match).chain(&form.then).flatten() {
        checks.item(item)?;
    }
    for column in &form.columns {
        if let Returned::Value(value) = &column.value {
            checks.parameter(value, Requirement::Any);
        }
    }
    Ok(checks.list)
}

/// The key properties of what is written: no step may change them, or rows could find each other's.
fn own_keys(form: &Form) -> Vec<(Box<str>, Value)> {
    match (form.kind, &form.edge, form.nodes.first()) {
        (Kind::RelationshipMerge, Some(edge), _) => edge.properties.entries().to_vec(),
        (Kind::NodeMerge | Kind::NodeUpdate, _, Some(node)) => node.properties.entries().to_vec(),
        _ => Vec::new(),
    }
}

struct Checks {
    list: Vec<Check>,
    keys: Vec<(Box<str>, Value)>,
}

impl Checks {
    fn parameter(&mut self, value: &Value, requirement: Requirement) {
        if let Value::Parameter(path) = value {
            self.path(path, requirement);
        }
    }

    fn path(&mut self, path: &Path, requirement: Requirement) {
        let check = Check { path: path.clone(), requirement };
        if !self.list.contains(&check) {
            self.list.push(check);
        }
    }

    /// A pattern that is created: null is left out only where the text says it.
    fn described(&mut self, properties: &Map) {
        match properties {
            Map::Parameter(path) => self.path(path, Requirement::Map { same: Box::default() }),
            Map::Entries(entries) => {
                entries.iter().for_each(|(_, value)| self.parameter(value, Requirement::Property));
            }
        }
    }

    fn item(&mut self, item: &Item) -> Result<(), &'static str> {
        match item {
            Item::Set(key, value) => self.entry(key, value),
            Item::Merge(Map::Entries(entries)) | Item::Replace(Map::Entries(entries)) => {
                entries.iter().try_for_each(|(key, value)| self.entry(key, value))
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
    fn entry(&mut self, key: &str, value: &Value) -> Result<(), &'static str> {
        if let Some((_, known)) = self.keys.iter().find(|(known, _)| **known == *key)
            && (known.operand().is_none() || known.operand() != value.operand())
        {
            return Err("it changes its own key");
        }
        self.parameter(value, Requirement::Property);
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
