//! Values between Bolt and the engine.
//!
//! Towards the client everything is built in the form of Bolt 5 (element ids, UTC date-times); `for_version` takes it back for 4.4.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bolt_wire::Version;
use bolt_wire::message::Failure;
use bolt_wire::packstream::Value as Bolt;
use grafeo_common::types::{
    Date, Duration, EdgeId, NodeId, PropertyKey, Time, Timestamp, Value, ZonedDatetime,
};
use grafeo_engine::Session;

use super::refusal::{invalid_request, unsupported};
use super::vet::Shape;

const NODE: u8 = 0x4E;
const RELATIONSHIP: u8 = 0x52;
const UNBOUND_RELATIONSHIP: u8 = 0x72;
const PATH: u8 = 0x50;
const DATE: u8 = 0x44;
const TIME: u8 = 0x54;
const LOCAL_TIME: u8 = 0x74;
const DATE_TIME: u8 = 0x49;
const LEGACY_DATE_TIME: u8 = 0x46;
const LOCAL_DATE_TIME: u8 = 0x64;
const DURATION: u8 = 0x45;

const NANOS: i64 = 1_000_000_000;

/// A statement's parameters for the engine.
pub(super) fn parameters(params: &Bolt) -> Result<HashMap<String, Value>, Failure> {
    let Bolt::Map(entries) = params else {
        return Err(invalid_request("The parameters of RUN are no map"));
    };
    entries.iter().map(|(key, value)| Ok((key.clone(), to_engine(value)?))).collect()
}

/// One Bolt value for the engine.
pub(super) fn to_engine(value: &Bolt) -> Result<Value, Failure> {
    Ok(match value {
        Bolt::Null => Value::Null,
        Bolt::Boolean(value) => Value::Bool(*value),
        Bolt::Integer(value) => Value::Int64(*value),
        Bolt::Float(value) => Value::Float64(*value),
        Bolt::Bytes(value) => Value::Bytes(value.as_slice().into()),
        Bolt::String(value) => Value::from(value.as_str()),
        Bolt::List(items) => Value::List(items.iter().map(to_engine).collect::<Result<Vec<_>, _>>()?.into()),
        Bolt::Map(entries) => {
            let entry =
                |(key, value): &(String, Bolt)| Ok((PropertyKey::from(key.as_str()), to_engine(value)?));
            Value::Map(Arc::new(entries.iter().map(entry).collect::<Result<_, _>>()?))
        }
        Bolt::Struct(signature, fields) => struct_to_engine(*signature, fields)?,
        Bolt::Uuid(_) => return Err(unsupported("a UUID parameter")),
    })
}

fn struct_to_engine(signature: u8, fields: &[Bolt]) -> Result<Value, Failure> {
    let integers: Option<Vec<i64>> = fields.iter().map(Bolt::as_integer).collect();
    let wrong = || invalid_request(format!("A struct with signature {signature:#04x} is no parameter"));
    Ok(match (signature, integers.as_deref()) {
        (DATE, Some([days])) => Value::Date(Date::from_days(i32::try_from(*days).map_err(|_| wrong())?)),
        (LOCAL_TIME, Some([nanos])) => Value::Time(time_of(*nanos).ok_or_else(wrong)?),
        (TIME, Some([nanos, offset])) => {
            let offset = i32::try_from(*offset).map_err(|_| wrong())?;
            Value::Time(time_of(*nanos).ok_or_else(wrong)?.with_offset(offset))
        }
        (LOCAL_DATE_TIME, Some([seconds, nanos])) => Value::Timestamp(timestamp(*seconds, *nanos)?),
        (DATE_TIME | LEGACY_DATE_TIME, Some([seconds, nanos, offset])) => {
            let utc = if signature == DATE_TIME { *seconds } else { seconds.saturating_sub(*offset) };
            let offset = i32::try_from(*offset).map_err(|_| wrong())?;
            Value::ZonedDatetime(ZonedDatetime::from_timestamp_offset(timestamp(utc, *nanos)?, offset))
        }
        (DURATION, Some([months, days, seconds, nanos])) => {
            let nanos = seconds.checked_mul(NANOS).and_then(|n| n.checked_add(*nanos));
            let nanos = nanos.ok_or_else(|| unsupported("a duration of more than 292 years in seconds"))?;
            Value::Duration(Duration::new(*months, *days, nanos))
        }
        (0x66 | 0x69, None) => {
            return Err(unsupported("a date-time with a named time zone (send one with an offset)"));
        }
        (0x58 | 0x59, None) => return Err(unsupported("a point")),
        (0x56, None) => return Err(unsupported("a vector")),
        _ => return Err(wrong()),
    })
}

fn time_of(nanos: i64) -> Option<Time> {
    Time::from_nanos(u64::try_from(nanos).ok()?)
}

fn timestamp(seconds: i64, nanos: i64) -> Result<Timestamp, Failure> {
    if nanos % 1000 != 0 {
        return Err(unsupported("a date-time finer than a microsecond"));
    }
    let micros = seconds.checked_mul(1_000_000).and_then(|s| s.checked_add(nanos / 1000));
    Ok(Timestamp::from_micros(micros.ok_or_else(|| unsupported("a date-time that far away"))?))
}

/// One value of the engine's for the client. `shape` says what bare ids are.
pub(super) fn to_bolt(value: &Value, shape: &Shape, session: &Session) -> Result<Bolt, Failure> {
    Ok(match value {
        Value::Null if *shape == Shape::Sum => Bolt::Integer(0),
        Value::Null if *shape == Shape::Computed => {
            return Err(unsupported("arithmetic that gives null (Neo4j may fail here)"));
        }
        Value::Null if *shape == Shape::Temporal => return Err(unsupported("a date or time of this form")),
        _ if *shape == Shape::Deleted => return Err(unsupported("returning what was deleted")),
        Value::Null => Bolt::Null,
        Value::Bool(value) => Bolt::Boolean(*value),
        Value::Int64(value) => match shape {
            Shape::Node => node_by_id(*value, session)?,
            Shape::Relationship => relationship_by_id(*value, session)?,
            shape if shape.has_entity() => return Err(unsupported("returning this expression")),
            _ => Bolt::Integer(*value),
        },
        Value::Float64(value) => Bolt::Float(*value),
        Value::String(value) => Bolt::from(value.as_str()),
        Value::Bytes(value) => Bolt::Bytes(value.to_vec()),
        Value::Timestamp(at) => {
            Bolt::Struct(LOCAL_DATE_TIME, seconds_and_nanos(*at).map(Bolt::Integer).to_vec())
        }
        Value::Date(date) => Bolt::Struct(DATE, vec![Bolt::Integer(date.as_days().into())]),
        Value::Time(time) => {
            let nanos = Bolt::Integer(i64::try_from(time.as_nanos()).unwrap_or_default());
            match time.offset_seconds() {
                None => Bolt::Struct(LOCAL_TIME, vec![nanos]),
                Some(offset) => Bolt::Struct(TIME, vec![nanos, Bolt::Integer(offset.into())]),
            }
        }
        Value::Duration(d) => {
            let (seconds, nanos) = (d.nanos().div_euclid(NANOS), d.nanos().rem_euclid(NANOS));
            Bolt::Struct(DURATION, [d.months(), d.days(), seconds, nanos].map(Bolt::Integer).to_vec())
        }
        Value::ZonedDatetime(at) => {
            let [seconds, nanos] = seconds_and_nanos(at.as_timestamp());
            let offset = at.offset_seconds().into();
            Bolt::Struct(DATE_TIME, [seconds, nanos, offset].map(Bolt::Integer).to_vec())
        }
        Value::List(items) => {
            let item = match shape {
                Shape::List(item) => item,
                shape if shape.has_entity() => return Err(unsupported("returning this expression")),
                _ => &Shape::Plain,
            };
            Bolt::List(items.iter().map(|i| to_bolt(i, item, session)).collect::<Result<_, _>>()?)
        }
        Value::Map(map) => map_to_bolt(map, shape, session)?,
        Value::Path { nodes, edges } => path(nodes, edges, session)?,
        _ => return Err(unsupported("a value of this type")),
    })
}

fn seconds_and_nanos(at: Timestamp) -> [i64; 2] {
    let micros = at.as_micros();
    [micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000) * 1000]
}

/// A map, or the engine's picture of a node or a relationship: a map with `_id` and its kin.
fn map_to_bolt(
    map: &BTreeMap<PropertyKey, Value>,
    shape: &Shape,
    session: &Session,
) -> Result<Bolt, Failure> {
    let integer = |key: &str| match map.get(&PropertyKey::from(key)) {
        Some(Value::Int64(value)) => Ok(*value),
        _ => Err(unsupported("returning this expression")),
    };
    let properties =
        |own: &[&str]| own_properties(map.iter().filter(|(key, _)| !own.contains(&key.as_str())), session);
    match (shape, map.get(&PropertyKey::from("_labels")), map.get(&PropertyKey::from("_type"))) {
        (Shape::Node, Some(Value::List(labels)), _) => {
            let labels =
                labels.iter().map(|l| to_bolt(l, &Shape::Plain, session)).collect::<Result<_, _>>()?;
            Ok(node(integer("_id")?, labels, properties(&["_id", "_labels"])?))
        }
        (Shape::Relationship, _, Some(Value::String(kind))) => {
            let properties = properties(&["_id", "_type", "_source", "_target"])?;
            let (from, to) = (integer("_source")?, integer("_target")?);
            Ok(relationship(integer("_id")?, from, to, kind.as_str(), properties))
        }
        (Shape::Map(shapes), _, _) => {
            let entry = |(key, value): (&PropertyKey, &Value)| {
                let shape = shapes.iter().find(|(k, _)| k == key.as_str()).map_or(&Shape::Plain, |(_, s)| s);
                Ok((key.as_str().to_owned(), to_bolt(value, shape, session)?))
            };
            Ok(Bolt::Map(map.iter().map(entry).collect::<Result<_, Failure>>()?))
        }
        (shape, _, _) if shape.has_entity() => Err(unsupported("returning this expression")),
        _ => {
            let entry = |(key, value): (&PropertyKey, &Value)| {
                Ok((key.as_str().to_owned(), to_bolt(value, &Shape::Plain, session)?))
            };
            Ok(Bolt::Map(map.iter().map(entry).collect::<Result<_, Failure>>()?))
        }
    }
}

fn node_by_id(id: i64, session: &Session) -> Result<Bolt, Failure> {
    let found = u64::try_from(id).ok().and_then(|raw| session.get_node(NodeId::new(raw))).ok_or_else(gone)?;
    let labels = found.labels.iter().map(|label| Bolt::from(label.as_str())).collect();
    Ok(node(id, labels, own_properties(found.properties.iter(), session)?))
}

fn relationship_by_id(id: i64, session: &Session) -> Result<Bolt, Failure> {
    let found = u64::try_from(id).ok().and_then(|raw| session.get_edge(EdgeId::new(raw))).ok_or_else(gone)?;
    let end = |id: NodeId| i64::try_from(id.as_u64()).unwrap_or_default();
    let properties = own_properties(found.properties.iter(), session)?;
    Ok(relationship(id, end(found.src), end(found.dst), found.edge_type.as_str(), properties))
}

fn gone() -> Failure {
    unsupported("returning an entity that was deleted by the same statement")
}

fn own_properties<'a>(
    properties: impl Iterator<Item = (&'a PropertyKey, &'a Value)>,
    session: &Session,
) -> Result<Bolt, Failure> {
    let entry = |(key, value): (&PropertyKey, &Value)| {
        if matches!(value, Value::Map(_)) {
            return Err(unsupported("a map as a property (Neo4j would not have stored it)"));
        }
        Ok((key.as_str().to_owned(), to_bolt(value, &Shape::Plain, session)?))
    };
    let mut entries = properties.map(entry).collect::<Result<Vec<_>, _>>()?;
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(Bolt::Map(entries))
}

fn node(id: i64, labels: Vec<Bolt>, properties: Bolt) -> Bolt {
    let element_id = Bolt::from(format!("n:{id}"));
    Bolt::Struct(NODE, vec![Bolt::Integer(id), Bolt::List(labels), properties, element_id])
}

fn relationship(id: i64, from: i64, to: i64, kind: &str, properties: Bolt) -> Bolt {
    let ids = [format!("e:{id}"), format!("n:{from}"), format!("n:{to}")].map(Bolt::from);
    let mut fields = vec![Bolt::Integer(id), Bolt::Integer(from), Bolt::Integer(to), kind.into(), properties];
    fields.extend(ids);
    Bolt::Struct(RELATIONSHIP, fields)
}

/// A path: its distinct nodes and relationships, and the walk as signed indices.
fn path(nodes: &[Value], edges: &[Value], session: &Session) -> Result<Bolt, Failure> {
    let resolve = |values: &[Value], shape: Shape| -> Result<Vec<Bolt>, Failure> {
        values.iter().map(|value| to_bolt(value, &shape, session)).collect()
    };
    let (nodes, edges) = (resolve(nodes, Shape::Node)?, resolve(edges, Shape::Relationship)?);
    let (mut seen_nodes, mut seen_edges, mut walk) = (Vec::new(), Vec::<Bolt>::new(), Vec::new());
    let index = |seen: &mut Vec<Bolt>, value: &Bolt| match seen.iter().position(|s| s == value) {
        Some(at) => at,
        None => {
            seen.push(value.clone());
            seen.len() - 1
        }
    };
    let broken = || unsupported("returning this path");
    if nodes.len() != edges.len() + 1 {
        return Err(broken());
    }
    for (step, at) in nodes.iter().enumerate() {
        let node_index = index(&mut seen_nodes, at);
        let Some(edge) = step.checked_sub(1).and_then(|before| edges.get(before)) else { continue };
        let (Bolt::Struct(RELATIONSHIP, fields), Bolt::Struct(NODE, here)) = (edge, at) else {
            return Err(broken());
        };
        let [id, _, to, kind, properties, element_id, ..] = fields.as_slice() else { return Err(broken()) };
        let unbound = [id, kind, properties, element_id].map(Bolt::clone).to_vec();
        let edge_index = 1 + index(&mut seen_edges, &Bolt::Struct(UNBOUND_RELATIONSHIP, unbound));
        let forwards = here.first() == Some(to);
        let edge_index = i64::try_from(edge_index).unwrap_or(i64::MAX);
        walk.push(Bolt::Integer(if forwards { edge_index } else { -edge_index }));
        walk.push(Bolt::Integer(i64::try_from(node_index).unwrap_or(i64::MAX)));
    }
    Ok(Bolt::Struct(PATH, vec![Bolt::List(seen_nodes), Bolt::List(seen_edges), Bolt::List(walk)]))
}

/// A value as `version` has it: before 5.0 without element ids, and without the `utc` patch with local date-times.
pub(super) fn for_version(value: Bolt, version: Version, utc: bool) -> Bolt {
    if version >= Version::V5_0 {
        return value;
    }
    let each = |items: Vec<Bolt>| items.into_iter().map(|i| for_version(i, version, utc)).collect::<Vec<_>>();
    match value {
        Bolt::List(items) => Bolt::List(each(items)),
        Bolt::Map(entries) => {
            Bolt::Map(entries.into_iter().map(|(k, v)| (k, for_version(v, version, utc))).collect())
        }
        Bolt::Struct(signature, fields) => {
            let keep = match signature {
                NODE => 3,
                RELATIONSHIP => 5,
                UNBOUND_RELATIONSHIP => 3,
                _ => fields.len(),
            };
            let mut fields = each(fields);
            fields.truncate(keep);
            match (signature, utc, fields.as_slice()) {
                (DATE_TIME, false, [Bolt::Integer(seconds), nanos, Bolt::Integer(offset)]) => {
                    let local = Bolt::Integer(seconds.saturating_add(*offset));
                    Bolt::Struct(LEGACY_DATE_TIME, vec![local, nanos.clone(), Bolt::Integer(*offset)])
                }
                _ => Bolt::Struct(signature, fields),
            }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(value: &Bolt) -> Bolt {
        let db = grafeo_engine::GrafeoDB::new_in_memory();
        to_bolt(&to_engine(value).unwrap(), &Shape::Plain, &db.session()).unwrap()
    }

    fn integers(signature: u8, fields: &[i64]) -> Bolt {
        Bolt::Struct(signature, fields.iter().map(|f| Bolt::Integer(*f)).collect())
    }

    #[test]
    fn parameters_come_back_as_they_went() {
        let value = Bolt::map([
            ("a", Bolt::List(vec![Bolt::Null, Bolt::Boolean(true), Bolt::Integer(-7), Bolt::Float(1.5)])),
            ("b", Bolt::Bytes(vec![1, 2])),
            ("c", Bolt::from("é")),
            ("d", integers(DATE, &[19_000])),
            ("e", integers(TIME, &[3_600 * NANOS, 7_200])),
            ("f", integers(LOCAL_TIME, &[5])),
            ("g", integers(DATE_TIME, &[-1, 999_999_000, -3_600])),
            ("h", integers(LOCAL_DATE_TIME, &[1_700_000_000, 1_000])),
            ("i", integers(DURATION, &[1, -2, -3, 4])),
        ]);
        assert_eq!(there_and_back(&value), value);
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let point = Bolt::Struct(0x58, vec![Bolt::Integer(7203), Bolt::Float(1.0), Bolt::Float(2.0)]);
        let fine = integers(LOCAL_DATE_TIME, &[1, 1]);
        for value in [point, fine, Bolt::Uuid([0; 16])] {
            let refusal = to_engine(&value).unwrap_err();
            assert_eq!(refusal.code, "Neo.ClientError.Statement.UnsupportedOperationError");
        }
        let node = Bolt::Struct(NODE, vec![]);
        assert_eq!(to_engine(&node).unwrap_err().code, "Neo.ClientError.Request.Invalid");
    }

    #[test]
    fn bolt_4_4_gets_its_own_forms() {
        let at = integers(DATE_TIME, &[100, 0, 3_600]);
        let legacy = integers(LEGACY_DATE_TIME, &[3_700, 0, 3_600]);
        assert_eq!(for_version(at.clone(), Version::V4_4, false), legacy);
        assert_eq!(for_version(at.clone(), Version::V4_4, true), at);
        assert_eq!(to_engine(&legacy), to_engine(&at));
        let Bolt::Struct(_, fields) = for_version(node(1, vec![], Bolt::Map(vec![])), Version::V4_4, false)
        else {
            panic!("a node")
        };
        assert_eq!(fields.len(), 3);
    }
}
