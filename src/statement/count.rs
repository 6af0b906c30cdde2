//! What each step of a write adds to the counters, and what must be looked up beside it to know.

use super::batch::{edge_pattern, node_pattern, own, quoted, reference};
use super::form::{Element, Form, Item, Map, Part, Path, Subject, Value, Verb, is_solo, may_be_null};
use super::shape::{Amount, Counter, Effect, When};

/// The effects of a form, and where its flags are computed.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) effects: Vec<Effect>,
    /// Those of each part.
    pub(super) flags: Vec<Flags>,
    /// How many they are.
    pub(super) count: usize,
}

/// A part's flags: numbers and expressions.
#[derive(Debug, Default)]
pub(super) struct Flags {
    /// Before the clause that matches or writes.
    pub(super) before: Vec<(usize, String)>,
    /// Behind it, before SET and REMOVE.
    pub(super) after: Vec<(usize, String)>,
    /// Behind those.
    pub(super) end: Vec<(usize, String)>,
}

/// Counts for one counter: what is certain, parameter maps, and expressions for flags.
#[derive(Default)]
struct Sum {
    certain: u32,
    maps: Vec<Path>,
    before: Vec<String>,
    after: Vec<String>,
    end: Vec<String>,
}

#[derive(Default)]
struct Sums {
    properties: Sum,
    added: Sum,
    removed: Sum,
}

/// The counters of a form.
pub(super) fn ledger(form: &Form) -> Result<Ledger, &'static str> {
    let mut ledger = Ledger::default();
    for part in &form.parts {
        let mut flags = Flags::default();
        ledger.part(form, part, &mut flags)?;
        ledger.flags.push(flags);
    }
    Ok(ledger)
}

impl Ledger {
    fn part(&mut self, form: &Form, part: &Part, flags: &mut Flags) -> Result<(), &'static str> {
        if part.verb != Verb::Match {
            self.written(part, flags)?;
        }
        let labels = form.parts.iter().find(|of| of.subject == part.then_of).map_or(&[][..], Part::labels);
        self.add(then(part, labels)?, When::Always, flags);
        Ok(())
    }

    fn written(&mut self, part: &Part, flags: &mut Flags) -> Result<(), &'static str> {
        let created = if part.verb == Verb::Merge {
            let pattern = match &part.element {
                Element::Node(node) => node_pattern(node, ""),
                Element::Edge(edge) => edge_pattern(edge, ""),
            };
            flags.before.push((self.count, format!("NOT EXISTS {{ MATCH {pattern} }}")));
            self.count += 1;
            When::Flag(self.count - 1)
        } else {
            When::Always
        };
        let thing = if part.is_edge() { Counter::RelationshipsCreated } else { Counter::NodesCreated };
        self.constant(thing, created, 1);
        self.constant(Counter::LabelsAdded, created, part.labels().len() as u32);
        self.sum(Counter::PropertiesSet, described(part), created, flags);
        self.add(on_create(part)?, created, flags);
        if let When::Flag(made) = created {
            self.add(on_match(part)?, When::NotFlag(made), flags);
        }
        Ok(())
    }

    fn constant(&mut self, counter: Counter, when: When, amount: u32) {
        if amount > 0 {
            self.effects.push(Effect { counter, when, amount: Amount::Constant(amount) });
        }
    }

    fn add(&mut self, sums: Sums, when: When, flags: &mut Flags) {
        self.sum(Counter::PropertiesSet, sums.properties, when, flags);
        self.sum(Counter::LabelsAdded, sums.added, when, flags);
        self.sum(Counter::LabelsRemoved, sums.removed, when, flags);
    }

    fn sum(&mut self, counter: Counter, sum: Sum, when: When, flags: &mut Flags) {
        self.constant(counter, when, sum.certain);
        for path in sum.maps {
            self.effects.push(Effect { counter, when, amount: Amount::MapSize(path) });
        }
        let places =
            [(&mut flags.before, sum.before), (&mut flags.after, sum.after), (&mut flags.end, sum.end)];
        for (place, expressions) in places {
            if !expressions.is_empty() {
                place.push((self.count, expressions.join(" + ")));
                self.effects.push(Effect { counter, when, amount: Amount::Flag(self.count) });
                self.count += 1;
            }
        }
    }
}

/// A pattern's properties: none that is null counts.
fn described(part: &Part) -> Sum {
    let mut sum = Sum::default();
    for (_, value) in part.properties().entries() {
        match value {
            Value::Parameter(path) if part.verb == Verb::Create => {
                sum.before.push(unless_null(&reference(path)))
            }
            value if value.is_null() => {}
            _ => sum.certain += 1,
        }
    }
    if let Map::Parameter(path) = part.properties() {
        sum.maps.push(path.clone());
    }
    sum
}

/// SET after ON CREATE: everything about the new element is known.
fn on_create(part: &Part) -> Result<Sums, &'static str> {
    let mut sums = Sums::default();
    let mut known: Vec<&str> = part.labels().iter().map(|label| &**label).collect();
    for (at, items) in part.on_create.iter().enumerate() {
        once(items)?;
        for (step, item) in items.iter().enumerate() {
            match item {
                Item::Labels(labels) => {
                    let new = labels.iter().filter(|label| !known.contains(&&***label)).count();
                    sums.added.certain += new as u32;
                    known.extend(labels.iter().map(|label| &**label));
                }
                Item::Replace(map) if (at, step) == (0, 0) => {
                    let keys = part.properties().entries().iter().map(|(key, _)| string(key));
                    let keys = keys.collect::<Vec<_>>().join(", ");
                    let flag = replaced(&format!("[{keys}]"), map, &mut sums.properties)?;
                    sums.properties.before.push(flag);
                }
                item => match counted(item, is_solo(items, step), &mut sums.properties)? {
                    Some(key) if lonely(&part.on_create, key) => {
                        sums.properties.after.push(unless_null(&property(part.subject, key)));
                    }
                    Some(_) => return Err(TWICE),
                    None => {}
                },
            }
        }
    }
    Ok(sums)
}

/// SET after ON MATCH: only steps that count alike whatever was there.
fn on_match(part: &Part) -> Result<Sums, &'static str> {
    let mut sums = Sums::default();
    for items in &part.on_match {
        once(items)?;
        for (step, item) in items.iter().enumerate() {
            match counted(item, is_solo(items, step), &mut sums.properties)? {
                Some(key) if lonely(&part.on_match, key) => {
                    sums.properties.after.push(unless_null(&property(part.subject, key)));
                }
                Some(_) => return Err(TWICE),
                None => {}
            }
        }
    }
    Ok(sums)
}

/// SET and REMOVE behind the write: what was there before is looked up.
fn then(part: &Part, labels: &[Box<str>]) -> Result<Sums, &'static str> {
    let mut sums = Sums::default();
    let mut touched = Touched::default();
    let n = own(part.then_of);
    for (clause, items) in part.then.iter().enumerate() {
        once(items)?;
        for (step, item) in items.iter().enumerate() {
            match item {
                Item::Labels(names) => {
                    for label in names {
                        touched.label(label)?;
                        if !labels.contains(label) {
                            let flag = format!("CASE WHEN {n}:{} THEN 0 ELSE 1 END", quoted(label));
                            sums.added.after.push(flag);
                        }
                    }
                }
                Item::RemoveLabels(names) => {
                    for label in names {
                        touched.label(label)?;
                        let flag = format!("CASE WHEN {n}:{} THEN 1 ELSE 0 END", quoted(label));
                        sums.removed.after.push(flag);
                    }
                }
                Item::Remove(key) => {
                    touched.looked_up(key)?;
                    sums.properties.after.push(unless_null(&property(part.then_of, key)));
                }
                Item::Replace(map) => {
                    touched.replaced()?;
                    let flag = replaced(&format!("keys({n})"), map, &mut sums.properties)?;
                    sums.properties.after.push(flag);
                }
                Item::Set(key, Value::Parameter(path)) if may_be_null(&part.then, clause, step) => {
                    let (value, old) = (reference(path), property(part.then_of, key));
                    let flag = format!("CASE WHEN {value} IS NULL AND {old} IS NULL THEN 0 ELSE 1 END");
                    sums.properties.after.push(flag);
                }
                item => match counted(item, is_solo(items, step), &mut sums.properties)? {
                    Some(key) if lonely(&part.then, key) => {
                        sums.properties.end.push(unless_null(&property(part.then_of, key)));
                    }
                    Some(_) => return Err(TWICE),
                    None => {}
                },
            }
            touched.item(item);
        }
    }
    Ok(sums)
}

const TWICE: &str = "it computes a property that it may set otherwise, too";

/// 1 if there is a value, 0 if it is null.
fn unless_null(value: &str) -> String {
    format!("CASE WHEN {value} IS NULL THEN 0 ELSE 1 END")
}

fn property(subject: Subject, key: &str) -> String {
    format!("{}.{}", own(subject), quoted(key))
}

/// True if one step alone touches this property.
fn lonely(clauses: &[Vec<Item>], key: &str) -> bool {
    clauses.iter().flatten().filter(|item| item.may_touch(key)).count() == 1
}

/// What earlier steps have changed, so that a look before them no longer tells what a later one counts.
#[derive(Default)]
struct Touched<'f> {
    keys: Vec<&'f str>,
    labels: Vec<&'f str>,
    any: bool,
}

impl<'f> Touched<'f> {
    fn item(&mut self, item: &'f Item) {
        match item {
            Item::Set(key, _) | Item::Remove(key) => self.keys.push(key),
            Item::Merge(map) | Item::Replace(map) => {
                self.keys.extend(map.entries().iter().map(|(key, _)| &**key));
                self.any |= matches!((item, map), (Item::Replace(_), _) | (_, Map::Parameter(_)));
            }
            Item::Labels(_) | Item::RemoveLabels(_) => {}
        }
    }

    fn looked_up(&self, key: &str) -> Result<(), &'static str> {
        if self.any || self.keys.contains(&key) {
            Err("it sets or removes a property that it may have set before")
        } else {
            Ok(())
        }
    }

    fn replaced(&self) -> Result<(), &'static str> {
        if self.any || !self.keys.is_empty() { Err("it replaces properties that it has set") } else { Ok(()) }
    }

    fn label(&mut self, label: &'f str) -> Result<(), &'static str> {
        if self.labels.contains(&label) {
            return Err("it changes one label twice");
        }
        self.labels.push(label);
        Ok(())
    }
}

/// Steps of one SET count together, so that none may name a property again.
fn once(items: &[Item]) -> Result<(), &'static str> {
    let mut keys: Vec<&str> = Vec::new();
    for item in items {
        let named: Vec<&str> = match item {
            Item::Set(key, _) | Item::Remove(key) => vec![key],
            Item::Merge(map) | Item::Replace(map) => map.entries().iter().map(|(key, _)| &**key).collect(),
            Item::Labels(_) | Item::RemoveLabels(_) => continue,
        };
        if named.iter().any(|key| keys.contains(key)) {
            return Err("it sets one property twice");
        }
        keys.extend(named);
    }
    Ok(())
}

/// Steps that count alike whatever was there before; else the property that counts unless it is null then.
fn counted<'i>(item: &'i Item, solo: bool, sum: &mut Sum) -> Result<Option<&'i str>, &'static str> {
    match item {
        Item::Set(key, Value::Computed(computed)) if computed.may_be_null() => {
            // Steps side by side count together, and for a null nobody can tell how.
            return if solo { Ok(Some(key)) } else { Err("it sets a property to what may be null") };
        }
        Item::Set(_, value) => certain([value], sum)?,
        Item::Merge(Map::Entries(entries)) => certain(entries.iter().map(|(_, value)| value), sum)?,
        Item::Merge(Map::Parameter(path)) => sum.maps.push(path.clone()),
        Item::Replace(_) => return Err("it replaces properties where what it counts cannot be told"),
        Item::Labels(_) => return Err("it sets a label ON MATCH"),
        Item::Remove(_) | Item::RemoveLabels(_) => return Err("it removes where it should set"),
    }
    Ok(None)
}

fn certain<'v>(values: impl IntoIterator<Item = &'v Value>, sum: &mut Sum) -> Result<(), &'static str> {
    for value in values {
        if value.is_null() {
            return Err("it sets a property to null");
        }
        sum.certain += 1;
    }
    Ok(())
}

/// `n = map`: the map's own entries, and, as an expression, how many old ones it has not.
fn replaced(old: &str, map: &Map, sum: &mut Sum) -> Result<String, &'static str> {
    let new = match map {
        Map::Parameter(path) => {
            sum.maps.push(path.clone());
            format!("keys({})", reference(path))
        }
        Map::Entries(entries) => {
            certain(entries.iter().map(|(_, value)| value), sum)?;
            let keys: Vec<_> = entries.iter().map(|(key, _)| string(key)).collect();
            format!("[{}]", keys.join(", "))
        }
    };
    Ok(format!("size([k IN {old} WHERE NOT k IN {new}])"))
}

/// A name as a string literal.
fn string(name: &str) -> String {
    format!("'{}'", name.replace('\\', "\\\\").replace('\'', "\\'"))
}
