//! Bolt 4.4 against an independent implementation, the crate `bolt-proto`: what one writes the other reads.

use std::collections::HashMap;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bolt_proto::message as theirs;
use bolt_proto::value as parts;
use bolt_proto::{Message, Value as Their};
use bolt_wire::chunk::{self, Found, MessageScanner};
use bolt_wire::message::request::{only_map, open};
use bolt_wire::message::{Begin, Failure, Outcome, Route, Run, Summary};
use bolt_wire::packstream::value::put_message;
use bolt_wire::packstream::{MapView, Value};
use bolt_wire::{Tag, Version};
use bytes::BytesMut;
use proptest::collection::vec;
use proptest::prelude::*;

type TheirMap = HashMap<String, Their>;

/// Reads one message with `bolt-proto`. Its reader is asynchronous, but a slice is always ready.
fn read_theirs(wire: &[u8]) -> Message {
    let mut reading = pin!(Message::from_stream(wire));
    match reading.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(message) => message.unwrap_or_else(|error| panic!("bolt-proto: {error}: {wire:x?}")),
        Poll::Pending => panic!("a slice is always ready"),
    }
}

fn write_theirs(message: Message) -> Vec<u8> {
    message.into_chunks().unwrap().concat()
}

/// The payload of the one message in `wire`.
fn payload(wire: &[u8]) -> Vec<u8> {
    let Found::Message(extent) = MessageScanner::default().scan(wire) else {
        panic!("no message: {wire:x?}")
    };
    assert_eq!(extent.wire, wire.len());
    chunk::payload(wire, extent, &mut BytesMut::new()).to_vec()
}

/// Writes a message with this crate.
fn write_ours(tag: Tag, fields: &[Value]) -> BytesMut {
    let mut out = BytesMut::new();
    put_message(tag.0, fields, &mut out);
    out
}

/// `bolt-proto` keeps maps without order, so order is taken out of both sides.
fn sorted(value: Value) -> Value {
    match value {
        Value::List(items) => Value::List(items.into_iter().map(sorted).collect()),
        Value::Struct(signature, fields) => {
            Value::Struct(signature, fields.into_iter().map(sorted).collect())
        }
        Value::Map(entries) => {
            let mut entries: Vec<_> = entries.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            Value::Map(entries)
        }
        other => other,
    }
}

/// One of their values as ours, by its accessors and not by its bytes.
fn ours(value: &Their) -> Value {
    let map = |map: &TheirMap| sorted(Value::Map(map.iter().map(|(k, v)| (k.clone(), ours(v))).collect()));
    let strings =
        |items: &[String]| Value::List(items.iter().map(|item| Value::String(item.clone())).collect());
    let node = |node: &parts::Node| {
        let fields =
            vec![Value::Integer(node.node_identity()), strings(node.labels()), map(node.properties())];
        Value::Struct(0x4E, fields)
    };
    let unbound = |rel: &parts::UnboundRelationship| {
        let fields = vec![Value::Integer(rel.rel_identity()), rel.rel_type().into(), map(rel.properties())];
        Value::Struct(0x72, fields)
    };
    match value {
        Their::Null => Value::Null,
        Their::Boolean(value) => Value::Boolean(*value),
        Their::Integer(value) => Value::Integer(*value),
        Their::Float(value) => Value::Float(*value),
        Their::Bytes(value) => Value::Bytes(value.clone()),
        Their::String(value) => Value::String(value.clone()),
        Their::List(items) => Value::List(items.iter().map(ours).collect()),
        Their::Map(entries) => map(entries),
        Their::Node(value) => node(value),
        Their::UnboundRelationship(value) => unbound(value),
        Their::Relationship(rel) => {
            let ids = [rel.rel_identity(), rel.start_node_identity(), rel.end_node_identity()];
            let mut fields = ids.map(Value::Integer).to_vec();
            fields.extend([rel.rel_type().into(), map(rel.properties())]);
            Value::Struct(0x52, fields)
        }
        Their::Path(path) => {
            let fields = vec![
                Value::List(path.nodes().iter().map(node).collect()),
                Value::List(path.relationships().iter().map(unbound).collect()),
                Value::List(path.sequence().iter().copied().map(Value::Integer).collect()),
            ];
            Value::Struct(0x50, fields)
        }
        Their::Duration(value) => Value::Struct(
            0x45,
            vec![
                Value::Integer(value.months()),
                Value::Integer(value.days()),
                Value::Integer(value.seconds()),
                Value::Integer(value.nanos().into()),
            ],
        ),
        Their::Point2D(point) => {
            let fields =
                vec![Value::Integer(point.srid().into()), Value::Float(point.x()), Value::Float(point.y())];
            Value::Struct(0x58, fields)
        }
        Their::Point3D(point) => {
            let mut fields = vec![Value::Integer(point.srid().into())];
            fields.extend([point.x(), point.y(), point.z()].map(Value::Float));
            Value::Struct(0x59, fields)
        }
        other => panic!("{other:?} is compared by its bytes"),
    }
}

fn any_float() -> impl Strategy<Value = f64> {
    any::<f64>().prop_filter("NaN is not equal to itself", |value| !value.is_nan())
}

/// Any of their values that holds no other and can be made without a calendar.
fn any_leaf() -> impl Strategy<Value = Their> {
    prop_oneof![
        Just(Their::Null),
        any::<bool>().prop_map(Their::Boolean),
        any::<i64>().prop_map(Their::Integer),
        (-200i64..200).prop_map(Their::Integer),
        any_float().prop_map(Their::Float),
        vec(any::<u8>(), 0..300).prop_map(Their::Bytes),
        "\\PC{0,20}".prop_map(Their::String),
        (0usize..400).prop_map(|size| Their::String("y".repeat(size))),
        (any::<i64>(), any::<i64>(), any::<i64>(), any::<i32>())
            .prop_map(|(m, d, s, n)| Their::Duration(parts::Duration::new(m, d, s, n))),
        (any::<i32>(), any_float(), any_float())
            .prop_map(|(srid, x, y)| Their::Point2D(parts::Point2D::new(srid, x, y))),
        (any::<i32>(), any_float(), any_float(), any_float())
            .prop_map(|(srid, x, y, z)| Their::Point3D(parts::Point3D::new(srid, x, y, z))),
    ]
}

/// Any of their values, but for those of the calendar.
fn any_theirs() -> impl Strategy<Value = Their> {
    any_leaf().prop_recursive(4, 48, 18, |inner| {
        let map = || prop::collection::hash_map("[a-z]{0,8}", inner.clone(), 0..18);
        let node = (any::<i64>(), vec("[A-Z]{1,5}", 0..4), map())
            .prop_map(|(id, labels, properties)| parts::Node::new(id, labels, properties));
        let unbound = (any::<i64>(), "[A-Z]{1,9}", map())
            .prop_map(|(id, kind, properties)| parts::UnboundRelationship::new(id, kind, properties));
        prop_oneof![
            vec(inner.clone(), 0..18).prop_map(Their::List),
            map().prop_map(Their::Map),
            node.clone().prop_map(Their::Node),
            unbound.clone().prop_map(Their::UnboundRelationship),
            (any::<[i64; 3]>(), "[A-Z]{1,9}", map()).prop_map(|([id, start, end], kind, properties)| {
                Their::Relationship(parts::Relationship::new(id, start, end, kind, properties))
            }),
            (vec(node, 0..3), vec(unbound, 0..3), vec(-9i64..9, 0..6))
                .prop_map(|(nodes, rels, ids)| Their::Path(parts::Path::new(nodes, rels, ids))),
        ]
    })
}

fn any_their_map() -> impl Strategy<Value = TheirMap> {
    prop::collection::hash_map("[a-z_]{0,12}", any_theirs(), 0..6)
}

/// The calendar's structs of 4.4: what they must be called by `bolt-proto`, and the struct.
fn any_moment() -> impl Strategy<Value = (&'static str, Value)> {
    let day = 0i64..86_400_000_000_000;
    let nanos = 0i64..1_000_000_000;
    // No zone with summer time: local times that never were are not what is tested here.
    let zone = prop::sample::select(&["UTC", "Asia/Tokyo", "Etc/GMT+5"][..]);
    let offset = (-18 * 60i64..18 * 60).prop_map(|minutes| minutes * 60);
    let integers = |values: &[i64]| values.iter().copied().map(Value::Integer).collect::<Vec<_>>();
    prop_oneof![
        (-700_000i64..700_000).prop_map(move |days| ("Date", Value::Struct(0x44, integers(&[days])))),
        (day.clone(), offset.clone())
            .prop_map(move |(nanos, offset)| ("Time", Value::Struct(0x54, integers(&[nanos, offset])))),
        day.prop_map(move |nanos| ("LocalTime", Value::Struct(0x74, integers(&[nanos])))),
        (-9_000_000_000i64..9_000_000_000, nanos.clone())
            .prop_map(move |(s, n)| ("LocalDateTime", Value::Struct(0x64, integers(&[s, n])))),
        (-9_000_000_000i64..9_000_000_000, nanos.clone(), offset).prop_map(move |(s, n, offset)| (
            "DateTimeOffset",
            Value::Struct(0x46, integers(&[s, n, offset]))
        )),
        (700_000_000i64..1_800_000_000, nanos, zone).prop_map(move |(s, n, zone)| {
            let mut fields = integers(&[s, n]);
            fields.push(zone.into());
            ("DateTimeZoned", Value::Struct(0x66, fields))
        }),
    ]
}

fn name(value: &Their) -> String {
    let shown = format!("{value:?}");
    shown.split('(').next().unwrap_or_default().to_owned()
}

fn map_of(value: TheirMap) -> Value {
    ours(&Their::Map(value))
}

fn meta(view: &MapView<'_>) -> Value {
    let entries = view.iter().map(|(key, value)| (key.to_owned(), Value::decode(value).unwrap()));
    sorted(Value::Map(entries.collect()))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn a_record_of_theirs_is_read_by_ours(fields in vec(any_theirs(), 0..8)) {
        let expected: Vec<Value> = fields.iter().map(ours).collect();
        let wire = write_theirs(Message::Record(theirs::Record::new(fields)));
        prop_assert_eq!(chunk::peek_tag(&wire), Some(Tag::RECORD));
        let decoded = sorted(Value::decode(&payload(&wire)).unwrap());
        prop_assert_eq!(decoded, Value::Struct(0x71, vec![Value::List(expected)]));
    }

    #[test]
    fn a_record_of_ours_is_read_by_theirs(fields in vec(any_theirs(), 0..8)) {
        // Their values only give the shapes; the bytes are ours.
        let fields: Vec<Value> = fields.iter().map(ours).collect();
        let wire = write_ours(Tag::RECORD, &[Value::List(fields.clone())]);
        let Message::Record(record) = read_theirs(&wire) else { panic!("no RECORD") };
        let read: Vec<Value> = record.fields().iter().map(ours).collect();
        prop_assert_eq!(read, fields);
    }

    #[test]
    fn scalars_and_lists_are_written_alike(
        // Without maps, which have no order over there.
        fields in vec(any_leaf().prop_recursive(3, 32, 18, |inner| vec(inner, 0..18).prop_map(Their::List)), 0..8),
    ) {
        let decoded: Vec<Value> = fields.iter().map(ours).collect();
        let wire = write_theirs(Message::Record(theirs::Record::new(fields)));
        let ours = write_ours(Tag::RECORD, &[Value::List(decoded)]);
        prop_assert_eq!(payload(&wire), payload(&ours));
    }

    #[test]
    fn moments_are_read_as_what_they_are_and_come_back(moments in vec(any_moment(), 1..6)) {
        let fields: Vec<Value> = moments.iter().map(|(_, value)| value.clone()).collect();
        let wire = write_ours(Tag::RECORD, &[Value::List(fields.clone())]);
        let message = read_theirs(&wire);
        let Message::Record(record) = &message else { panic!("no RECORD") };
        let names: Vec<String> = record.fields().iter().map(name).collect();
        let expected: Vec<&str> = moments.iter().map(|(name, _)| *name).collect();
        prop_assert_eq!(names, expected);
        let back = Value::decode(&payload(&write_theirs(message))).unwrap();
        prop_assert_eq!(back, Value::Struct(0x71, vec![Value::List(fields)]));
    }

    #[test]
    fn run_is_read_both_ways(text in "\\PC{0,60}", parameters in any_their_map(), extra in any_their_map()) {
        let (expected, expected_extra) = (map_of(parameters.clone()), map_of(extra.clone()));
        let message = theirs::RunWithMetadata::new(text.clone(), parameters, extra);
        let bytes = payload(&write_theirs(Message::RunWithMetadata(message)));
        let run = Run::parse(&bytes).unwrap();
        prop_assert_eq!(run.text, &text);
        prop_assert_eq!(sorted(Value::decode(run.parameters).unwrap()), expected.clone());
        prop_assert_eq!(meta(&run.extra), expected_extra.clone());

        let wire = write_ours(Tag::RUN, &[text.as_str().into(), expected.clone(), expected_extra.clone()]);
        let Message::RunWithMetadata(run) = read_theirs(&wire) else { panic!("no RUN") };
        prop_assert_eq!(run.statement(), text);
        prop_assert_eq!(map_of(run.parameters().clone()), expected);
        prop_assert_eq!(map_of(run.metadata().clone()), expected_extra);
    }

    #[test]
    fn messages_of_one_map_are_read_both_ways(map in any_their_map()) {
        let expected = map_of(map.clone());
        let messages = [
            (Tag::HELLO, Message::Hello(theirs::Hello::new(map.clone()))),
            (Tag::BEGIN, Message::Begin(theirs::Begin::new(map.clone()))),
            (Tag::PULL, Message::Pull(theirs::Pull::new(map.clone()))),
            (Tag::DISCARD, Message::Discard(theirs::Discard::new(map.clone()))),
            (Tag::SUCCESS, Message::Success(theirs::Success::new(map.clone()))),
            (Tag::FAILURE, Message::Failure(theirs::Failure::new(map))),
        ];
        for (tag, message) in messages {
            let wire = write_theirs(message);
            prop_assert_eq!(chunk::peek_tag(&wire), Some(tag));
            let bytes = payload(&wire);
            let read = match tag {
                Tag::BEGIN => meta(&Begin::parse(&bytes).unwrap().extra),
                Tag::SUCCESS | Tag::FAILURE => meta(&Summary::parse(&bytes).unwrap().meta),
                _ => meta(&only_map(&bytes).unwrap()),
            };
            prop_assert_eq!(&read, &expected, "{}", tag);
            let read = match read_theirs(&write_ours(tag, std::slice::from_ref(&expected))) {
                Message::Hello(message) if tag == Tag::HELLO => message.metadata().clone(),
                Message::Begin(message) if tag == Tag::BEGIN => message.metadata().clone(),
                Message::Pull(message) if tag == Tag::PULL => message.metadata().clone(),
                Message::Discard(message) if tag == Tag::DISCARD => message.metadata().clone(),
                Message::Success(message) if tag == Tag::SUCCESS => message.metadata().clone(),
                Message::Failure(message) if tag == Tag::FAILURE => message.metadata().clone(),
                other => panic!("{tag} was read as {other:?}"),
            };
            prop_assert_eq!(map_of(read), expected.clone());
        }
    }

    #[test]
    fn route_is_read_both_ways(
        context in any_their_map(), bookmarks in vec("\\PC{0,20}", 0..4), db in proptest::option::of("[a-z]{1,9}"),
    ) {
        let metadata: TheirMap = [("db".to_owned(), Their::from(db.clone()))].into();
        let expected = map_of(context.clone());
        let message = theirs::RouteWithMetadata::new(context, bookmarks.clone(), metadata.clone());
        let bytes = payload(&write_theirs(Message::RouteWithMetadata(message)));
        let route = Route::parse(&bytes).unwrap();
        prop_assert_eq!(meta(&route.context), expected.clone());
        prop_assert_eq!(route.database, db.as_deref());

        let list = Value::List(bookmarks.iter().map(|bookmark| bookmark.as_str().into()).collect());
        let wire = write_ours(Tag::ROUTE, &[expected.clone(), list, map_of(metadata)]);
        let Message::RouteWithMetadata(route) = read_theirs(&wire) else { panic!("no ROUTE") };
        prop_assert_eq!(map_of(route.context().clone()), expected);
        prop_assert_eq!(route.bookmarks(), bookmarks);
    }

    #[test]
    fn a_failure_of_ours_is_one_of_theirs(text in "\\PC{0,99}") {
        let code = "Neo.TransientError.Request.NoThreadsAvailable";
        let mut out = BytesMut::new();
        Failure::new(code, "51N59", text.as_str()).write(Version::V4_4, &mut out);
        let Message::Failure(failure) = read_theirs(&out) else { panic!("no FAILURE") };
        let expected: TheirMap =
            [("code".to_owned(), Their::from(code)), ("message".to_owned(), Their::from(text))].into();
        prop_assert_eq!(failure.metadata(), &expected);
    }
}

#[test]
fn messages_without_fields_are_read_both_ways() {
    let messages = [
        (Tag::RESET, Message::Reset),
        (Tag::COMMIT, Message::Commit),
        (Tag::ROLLBACK, Message::Rollback),
        (Tag::GOODBYE, Message::Goodbye),
        (Tag::IGNORED, Message::Ignored),
    ];
    for (tag, message) in messages {
        let wire = write_theirs(message.clone());
        assert_eq!(wire, write_ours(tag, &[]));
        let bytes = payload(&wire);
        let (read, fields, walker) = open(&bytes).unwrap();
        assert_eq!((read, fields, walker.is_empty()), (tag, 0, true));
        assert_eq!(read_theirs(&write_ours(tag, &[])), message);
    }
    assert_eq!(Summary::parse(&payload(&write_theirs(Message::Ignored))).unwrap().outcome, Outcome::Ignored);
}

/// Sizes around every change of marker, in both directions.
#[test]
fn sizes_at_the_edges_of_markers_are_written_alike() {
    for size in [0usize, 15, 16, 255, 256, 65_535, 65_536] {
        let values = [
            Value::String("x".repeat(size)),
            Value::Bytes(vec![7; size]),
            Value::List(vec![Value::Null; size]),
        ];
        for value in values {
            let wire = write_ours(Tag::RECORD, &[Value::List(vec![value.clone()])]);
            let message = read_theirs(&wire);
            let Message::Record(record) = &message else { panic!("no RECORD") };
            assert_eq!(ours(&record.fields()[0]), value);
            assert_eq!(payload(&write_theirs(message)), payload(&wire), "{size}");
        }
        let map = Value::Map((0..size).map(|at| (format!("{at:06}"), Value::Integer(1))).collect());
        let wire = write_ours(Tag::RECORD, &[Value::List(vec![map.clone()])]);
        let Message::Record(record) = read_theirs(&wire) else { panic!("no RECORD") };
        assert_eq!(ours(&record.fields()[0]), map);
    }
    for edge in [-129i64, -128, -17, -16, 127, 128, 32_767, 32_768, 2_147_483_647, 2_147_483_648, i64::MIN] {
        for integer in [edge.saturating_sub(1), edge, edge.saturating_add(1)] {
            let wire = write_ours(Tag::RECORD, &[Value::List(vec![Value::Integer(integer)])]);
            assert_eq!(payload(&write_theirs(read_theirs(&wire))), payload(&wire), "{integer}");
        }
    }
}
