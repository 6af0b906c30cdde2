//! Which indexes there are, as SHOW INDEXES said last.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bolt_wire::packstream::Value;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::statement;
use crate::config::Index;

/// The statement whose rows `Listed::read` reads.
pub(super) const SHOW: &str = "SHOW INDEXES YIELD name, state, populationPercent, type, entityType, \
                               labelsOrTypes, properties, owningConstraint, failureMessage";
/// A missing index may have been made since: what was read longer ago proves no absence.
const FRESH: Duration = Duration::from_secs(10);
/// How often a database is asked at most.
const PACE: Duration = Duration::from_secs(5);
/// Databases that are remembered.
const DATABASES: usize = 100;

/// One row of SHOW INDEXES.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) state: State,
    /// It finds nodes or relationships by the values of their properties, whatever their type.
    range: bool,
    relationship: bool,
    /// The label or type.
    of: String,
    properties: Vec<String>,
    pub(super) constraint: bool,
    /// Why it failed.
    pub(super) failure: String,
}

/// How far an index is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum State {
    Online,
    /// Being built: percent.
    Populating(f64),
    Failed,
}

impl Listed {
    /// A row of `SHOW`; `None` = an index of no label or type, or a row of another shape.
    pub(super) fn read(row: &[Value]) -> Option<Self> {
        let [name, state, percent, kind, entity, of, properties, owner, failure] = row else { return None };
        let percent = match percent {
            Value::Float(percent) => *percent,
            _ => 0.0,
        };
        let [of] = of.as_list()? else { return None };
        let properties = properties.as_list()?.iter().filter_map(|name| name.as_str().map(str::to_owned));
        Some(Self {
            name: name.as_str()?.to_owned(),
            state: match state.as_str()? {
                "ONLINE" => State::Online,
                "FAILED" => State::Failed,
                _ => State::Populating(percent),
            },
            range: matches!(kind.as_str()?, "RANGE" | "BTREE"),
            relationship: entity.as_str()? == "RELATIONSHIP",
            of: of.as_str()?.to_owned(),
            properties: properties.collect(),
            constraint: owner.as_str().is_some(),
            failure: failure.as_str().unwrap_or_default().to_owned(),
        })
    }

    /// True if it is what `index` asks for.
    pub(super) fn is(&self, index: &Index) -> bool {
        self.range
            && self.relationship == index.r#type.is_some()
            && self.of == statement::of(index)
            && self.properties == index.properties
            && (self.constraint || !index.unique)
    }

    /// True if it finds what has these values for these properties: it may know only some of them.
    fn covers(&self, relationship: bool, of: &str, properties: &[impl AsRef<str>]) -> bool {
        self.range
            && self.state != State::Failed
            && self.relationship == relationship
            && self.of == of
            && !self.properties.is_empty()
            && self.properties.iter().all(|own| properties.iter().any(|name| name.as_ref() == own))
    }
}

/// Which indexes there are, by database (none = the home database).
#[derive(Default)]
pub(crate) struct Known {
    databases: Mutex<HashMap<Option<Arc<str>>, Reading>>,
    /// Somebody has asked about a database that has to be looked at.
    pub(super) asked: Notify,
}

#[derive(Default)]
struct Reading {
    listed: Option<Arc<[Listed]>>,
    when: Option<Instant>,
    wanted: bool,
}

impl Known {
    /// Whether an index is behind a match by `properties`; `None` = not known yet, it is being found out.
    pub(crate) fn covers(
        &self,
        database: Option<&str>,
        relationship: bool,
        label_or_type: &str,
        properties: &[impl AsRef<str>],
    ) -> Option<bool> {
        let database = database.map(Arc::from);
        let mut databases = self.databases.lock();
        if databases.len() >= DATABASES && !databases.contains_key(&database) {
            return None;
        }
        let reading = databases.entry(database).or_default();
        let covers = |listed: &Listed| listed.covers(relationship, label_or_type, properties);
        let found = reading.listed.as_ref().is_some_and(|listed| listed.iter().any(covers));
        let fresh = reading.when.is_some_and(|when| when.elapsed() < FRESH) && reading.listed.is_some();
        if found || fresh {
            return Some(found);
        }
        reading.wanted = true;
        self.asked.notify_one();
        None
    }

    /// Somebody has reason to think that what is known of a database is out of date.
    pub(crate) fn doubt(&self, database: Option<&str>) {
        let mut databases = self.databases.lock();
        if let Some(reading) = databases.get_mut(&database.map(Arc::from))
            && reading.when.is_some_and(|when| when.elapsed() >= PACE)
        {
            reading.listed = None;
        }
    }

    /// The databases to look at now.
    pub(super) fn wanted(&self) -> Vec<Option<Arc<str>>> {
        let mut databases = self.databases.lock();
        let due = databases
            .iter_mut()
            .filter(|(_, reading)| reading.wanted && reading.when.is_none_or(|when| when.elapsed() >= PACE));
        let due = due.map(|(database, reading)| {
            (reading.wanted, reading.when) = (false, Some(Instant::now()));
            database.clone()
        });
        due.collect()
    }

    /// Takes what a database has just said; nothing, if it said no.
    pub(super) fn learn(&self, database: Option<Arc<str>>, listed: Option<Arc<[Listed]>>) {
        let mut databases = self.databases.lock();
        if databases.len() < DATABASES || databases.contains_key(&database) {
            databases.insert(database, Reading { listed, when: Some(Instant::now()), wanted: false });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(state: &str, kind: &str, entity: &str, properties: &[&str], owner: Value) -> Vec<Value> {
        let properties = properties.iter().map(|name| Value::from(*name)).collect::<Vec<_>>();
        let of = vec![Value::from("Resource")];
        vec![
            "i".into(),
            state.into(),
            Value::Float(50.0),
            kind.into(),
            entity.into(),
            of.into(),
            properties.into(),
            owner,
            "".into(),
        ]
    }

    fn listed(rows: &[Vec<Value>]) -> Option<Arc<[Listed]>> {
        Some(rows.iter().filter_map(|row| Listed::read(row)).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_known_is_asked_for() {
        let known = Known::default();
        let ask = |properties: &[&str]| known.covers(Some("neo4j"), false, "Resource", properties);
        assert_eq!(ask(&["id"]), None);
        assert_eq!(known.wanted(), [Some("neo4j".into())]);
        assert!(known.wanted().is_empty(), "once is enough");
        let rows = [
            row("ONLINE", "RANGE", "NODE", &["tenant", "id"], Value::Null),
            row("FAILED", "RANGE", "NODE", &["a"], Value::Null),
            row("ONLINE", "TEXT", "NODE", &["b"], Value::Null),
            row("ONLINE", "RANGE", "RELATIONSHIP", &["c"], Value::Null),
            row("POPULATING", "RANGE", "NODE", &["d"], "owner".into()),
        ];
        known.learn(Some("neo4j".into()), listed(&rows));
        assert_eq!(ask(&["id", "tenant"]), Some(true));
        assert_eq!(ask(&["x", "id", "tenant"]), Some(true));
        assert_eq!(ask(&["d"]), Some(true));
        for none in [&["id"][..], &["a"], &["b"], &["c"], &[]] {
            assert_eq!(ask(none), Some(false), "{none:?}");
        }
        assert_eq!(known.covers(Some("neo4j"), true, "Resource", &["c"]), Some(true));
        assert_eq!(known.covers(None, true, "Resource", &["c"]), None);
        tokio::time::advance(FRESH).await;
        assert_eq!(ask(&["d"]), Some(true));
        assert_eq!(ask(&["a"]), None, "it may have been made since");
        assert!(known.wanted().contains(&Some("neo4j".into())));
    }

    #[test]
    fn an_index_is_found_among_others() {
        let wanted = Index {
            label: Some("Resource".to_owned()),
            properties: vec!["a".to_owned(), "b".to_owned()],
            ..Index::default()
        };
        let unique = Index { unique: true, ..wanted.clone() };
        let read = |row: &[Value]| Listed::read(row).unwrap();
        let plain = read(&row("ONLINE", "RANGE", "NODE", &["a", "b"], Value::Null));
        let owned = read(&row("POPULATING", "RANGE", "NODE", &["a", "b"], "c".into()));
        let turned = read(&row("ONLINE", "RANGE", "NODE", &["b", "a"], Value::Null));
        assert!(plain.is(&wanted) && !plain.is(&unique) && owned.is(&wanted) && owned.is(&unique));
        assert!(!turned.is(&wanted) && owned.state == State::Populating(50.0));
        assert_eq!(Listed::read(&[]), None);
    }

    #[test]
    fn databases_are_bounded() {
        let known = Known::default();
        for i in 0..2 * DATABASES {
            let _ = known.covers(Some(&i.to_string()), false, "A", &["a"]);
            known.learn(Some((i + DATABASES).to_string().into()), None);
        }
        assert!(known.databases.lock().len() <= DATABASES);
    }
}
