//! What each step of a write adds to the counters, and what must be looked up before it to know.

use super::batch::{own, quoted, reference};
use super::form::{Form, Item, Map, Path, Subject, Value};
use super::shape::{Amount, Counter, Effect, Kind, When};

/// The effects of a form, and the expressions of its flags.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) effects: Vec<Effect>,
    /// Flags that are computed before the clause that writes, and behind it, before SET and REMOVE.
    pub(super) before: Vec<Box<str>>,
    pub(super) after: Vec<Box<str>>,
}

/// Counts for one counter: what is certain, parameter maps, and flags.
#[derive(Default)]
struct Sum {
    certain: u32,
    maps: Vec<Path>,
    flags: Vec<Box<str>>,
}

#[derive(Default)]
struct Sums {
    properties: Sum,
    added: Sum,
    removed: Sum,
}

/// True if the form needs to know whether its row was created.
pub(super) fn merges(kind: Kind) -> bool {
    matches!(kind, Kind::NodeMerge | Kind::RelationshipMerge)
}

/// The counters of a form. The flag of a MERGE, whether it created, is the first.
pub(super) fn ledger(form: &Form, made: Option<Box<str>>) -> Result<Ledger, &'static str> {
    let mut ledger = Ledger::default();
    ledger.before.extend(made);
    let (subject, labels, properties) = match &form.edge {
        Some(edge) => (Subject::Edge, &[][..], &edge.properties),
        None => match form.nodes.first() {
            Some(node) => (Subject::Node(0), node.labels.as_slice(), &node.properties),
            None => return Err("it has no node"),
        },
    };
    let created = match form.kind {
        Kind::NodeUpdate => None,
        Kind::NodeMerge | Kind::RelationshipMerge => Some(When::Flag(0)),
        Kind::NodeCreate | Kind::RelationshipCreate => Some(When::Always),
    };
    let writer = Writer { form, subject: own(subject), labels };
    if let Some(when) = created {
        let thing = if form.edge.is_some() { Counter::RelationshipsCreated } else { Counter::NodesCreated };
        ledger.constant(thing, when, 1);
        ledger.constant(Counter::LabelsAdded, when, labels.len() as u32);
        ledger.map(properties, when);
        let sums = writer.on_create(properties)?;
        ledger.add(sums, when, true);
    }
    ledger.add(writer.on_match()?, When::NotFlag(0), true);
    ledger.add(writer.then()?, When::Always, false);
    Ok(ledger)
}

impl Ledger {
    fn constant(&mut self, counter: Counter, when: When, amount: u32) {
        if amount > 0 {
            self.effects.push(Effect { counter, when, amount: Amount::Constant(amount) });
        }
    }

    /// A pattern's properties: none that is null counts.
    fn map(&mut self, properties: &Map, when: When) {
        let certain = properties.entries().iter().filter(|(_, value)| !value.is_null()).count();
        self.constant(Counter::PropertiesSet, when, certain as u32);
        if let Map::Parameter(path) = properties {
            let amount = Amount::MapSize(path.clone());
            self.effects.push(Effect { counter: Counter::PropertiesSet, when, amount });
        }
    }

    fn add(&mut self, sums: Sums, when: When, before: bool) {
        let counters = [Counter::PropertiesSet, Counter::LabelsAdded, Counter::LabelsRemoved];
        for (counter, sum) in counters.into_iter().zip([sums.properties, sums.added, sums.removed]) {
            self.constant(counter, when, sum.certain);
            for path in sum.maps {
                self.effects.push(Effect { counter, when, amount: Amount::MapSize(path) });
            }
            if sum.flags.is_empty() {
                continue;
            }
            // Those before the write come first, and are complete when the others begin.
            let flags = if before { &mut self.before } else { &mut self.after };
            flags.push(sum.flags.join(" + ").into());
            let flag = self.before.len() + self.after.len() - 1;
            self.effects.push(Effect { counter, when, amount: Amount::Flag(flag) });
        }
    }
}

struct Writer<'a> {
    form: &'a Form,
    /// The variable of what is written.
    subject: &'static str,
    labels: &'a [Box<str>],
}

impl Writer<'_> {
    /// SET after ON CREATE: everything about the new element is known.
    fn on_create(&self, properties: &Map) -> Result<Sums, &'static str> {
        let mut sums = Sums::default();
        let mut known: Vec<&str> = self.labels.iter().map(|label| &**label).collect();
        for (at, items) in self.form.on_create.iter().enumerate() {
            once(items)?;
            for (step, item) in items.iter().enumerate() {
                match item {
                    Item::Labels(labels) => {
                        let new = labels.iter().filter(|label| !known.contains(&&***label)).count();
                        sums.added.certain += new as u32;
                        known.extend(labels.iter().map(|label| &**label));
                    }
                    Item::Replace(map) if (at, step) == (0, 0) => {
                        let keys = properties.entries().iter().map(|(key, _)| string(key));
                        let keys = keys.collect::<Vec<_>>().join(", ");
                        replace(&format!("[{keys}]"), map, &mut sums.properties)?;
                    }
                    item => properties_of(item, &mut sums.properties)?,
                }
            }
        }
        Ok(sums)
    }

    /// SET after ON MATCH: only steps that count alike whatever was there.
    fn on_match(&self) -> Result<Sums, &'static str> {
        let mut sums = Sums::default();
        for items in &self.form.on_match {
            once(items)?;
            items.iter().try_for_each(|item| properties_of(item, &mut sums.properties))?;
        }
        Ok(sums)
    }

    /// SET and REMOVE behind the write: what was there before is looked up.
    fn then(&self) -> Result<Sums, &'static str> {
        let mut sums = Sums::default();
        let mut touched = Touched::default();
        for items in &self.form.then {
            once(items)?;
            for item in items {
                self.step(item, &mut touched, &mut sums)?;
            }
        }
        Ok(sums)
    }

    fn step<'f>(
        &self,
        item: &'f Item,
        touched: &mut Touched<'f>,
        sums: &mut Sums,
    ) -> Result<(), &'static str> {
        let n = self.subject;
        match item {
            Item::Labels(labels) => {
                for label in labels {
                    touched.label(label)?;
                    if !self.labels.contains(label) {
                        sums.added
                            .flags
                            .push(format!("CASE WHEN {n}:{} THEN 0 ELSE 1 END", quoted(label)).into());
                    }
                }
            }
            Item::RemoveLabels(labels) => {
                for label in labels {
                    touched.label(label)?;
                    sums.removed
                        .flags
                        .push(format!("CASE WHEN {n}:{} THEN 1 ELSE 0 END", quoted(label)).into());
                }
            }
            Item::Remove(key) => {
                touched.removed(key)?;
                let flag = format!("CASE WHEN {n}.{} IS NULL THEN 0 ELSE 1 END", quoted(key));
                sums.properties.flags.push(flag.into());
            }
            Item::Replace(map) => {
                touched.replaced()?;
                replace(&format!("keys({n})"), map, &mut sums.properties)?;
                touched.map(map);
            }
            Item::Merge(map) => {
                properties_of(item, &mut sums.properties)?;
                touched.map(map);
            }
            Item::Set(key, _) => {
                properties_of(item, &mut sums.properties)?;
                touched.keys.push(key);
            }
        }
        Ok(())
    }
}

/// What earlier steps have changed, so that a look before them no longer tells what a later one counts.
#[derive(Default)]
struct Touched<'f> {
    keys: Vec<&'f str>,
    labels: Vec<&'f str>,
    any: bool,
}

impl<'f> Touched<'f> {
    fn map(&mut self, map: &'f Map) {
        self.keys.extend(map.entries().iter().map(|(key, _)| &**key));
        self.any |= matches!(map, Map::Parameter(_));
    }

    fn removed(&mut self, key: &'f str) -> Result<(), &'static str> {
        if self.any || self.keys.contains(&key) {
            return Err("it removes a property that it may have set");
        }
        self.keys.push(key);
        Ok(())
    }

    fn replaced(&mut self) -> Result<(), &'static str> {
        if self.any || !self.keys.is_empty() {
            return Err("it replaces properties that it has set");
        }
        self.any = true;
        Ok(())
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

/// Steps that count alike whatever was there before.
fn properties_of(item: &Item, sum: &mut Sum) -> Result<(), &'static str> {
    match item {
        Item::Set(_, value) => certain([value], sum),
        Item::Merge(Map::Entries(entries)) => certain(entries.iter().map(|(_, value)| value), sum),
        Item::Merge(Map::Parameter(path)) => {
            sum.maps.push(path.clone());
            Ok(())
        }
        Item::Replace(_) => Err("it replaces properties where what it counts cannot be told"),
        Item::Labels(_) => Err("it sets a label ON MATCH"),
        Item::Remove(_) | Item::RemoveLabels(_) => Err("it removes where it should set"),
    }
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

/// `n = map`: the map's own entries, and each old one that it has not.
fn replace(old: &str, map: &Map, sum: &mut Sum) -> Result<(), &'static str> {
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
    sum.flags.push(format!("size([k IN {old} WHERE NOT k IN {new}])").into());
    Ok(())
}

/// A name as a string literal.
fn string(name: &str) -> String {
    format!("'{}'", name.replace('\\', "\\\\").replace('\'', "\\'"))
}
