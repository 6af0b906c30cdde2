//! Properties that hold for all bytes, all values and all ways to cut a stream.

#[path = "../fuzz/bodies.rs"]
#[allow(dead_code)]
mod bodies;

use bolt_wire::chunk::{self, Found, MAX_CHUNK, MessageScanner};
use bolt_wire::handshake;
use bolt_wire::message::{Begin, Failure, Outcome, Run, Summary};
use bolt_wire::packstream::{MapEdit, MapView, Value, Walker, encode};
use bolt_wire::scan::Scanner;
use bolt_wire::{DecodeError, Tag, Version};
use bytes::BytesMut;
use proptest::collection::vec;
use proptest::prelude::*;

/// Any value: every type, every width, nested.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        8 => Just(Value::Null),
        8 => any::<bool>().prop_map(Value::Boolean),
        8 => any::<i64>().prop_map(Value::Integer),
        8 => (-200i64..200).prop_map(Value::Integer),
        8 => any::<f64>().prop_filter("NaN is not equal to itself", |f| !f.is_nan()).prop_map(Value::Float),
        8 => vec(any::<u8>(), 0..300).prop_map(Value::Bytes),
        8 => "\\PC{0,20}".prop_map(Value::String),
        8 => (0usize..400).prop_map(|size| Value::String("x".repeat(size))),
        1 => prop::sample::select(&[65_535usize, 65_536][..]).prop_map(|size| Value::String("x".repeat(size))),
        8 => any::<[u8; 16]>().prop_map(Value::Uuid),
    ];
    leaf.prop_recursive(5, 64, 20, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..20).prop_map(Value::List),
            vec(("\\PC{0,6}", inner.clone()), 0..20).prop_map(Value::Map),
            (any::<u8>(), vec(inner, 0..16)).prop_map(|(signature, fields)| Value::Struct(signature, fields)),
        ]
    })
}

/// A payload of any size up to a few chunks: mostly small, some at the edges of a chunk.
fn any_payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => vec(any::<u8>(), 1..40),
        1 => (0usize..4, any::<u8>()).prop_map(|(over, byte)| vec![byte; MAX_CHUNK - 1 + over]),
        1 => (0usize..200_000, any::<u8>()).prop_map(|(size, byte)| vec![byte; size + 1]),
    ]
}

/// One thing in a stream of responses.
#[derive(Clone, Debug)]
enum Item {
    Noop,
    Record(Vec<u8>),
    Summary(u8, Vec<u8>),
}

fn any_item() -> impl Strategy<Value = Item> {
    prop_oneof![
        1 => Just(Item::Noop),
        4 => any_payload().prop_map(Item::Record),
        2 => (prop_oneof![Just(0x70u8), Just(0x7E), Just(0x7F), any::<u8>()], vec(any::<u8>(), 0..30))
            .prop_filter("0x71 is a record", |(signature, _)| *signature != 0x71)
            .prop_map(|(signature, rest)| Item::Summary(signature, rest)),
    ]
}

/// Writes a payload in chunks whose sizes come from `sizes`, over and over.
fn put_in_chunks(payload: &[u8], sizes: &[usize], out: &mut Vec<u8>) {
    let (mut rest, mut at) = (payload, 0);
    while !rest.is_empty() {
        let size = sizes[at % sizes.len()].clamp(1, MAX_CHUNK).min(rest.len());
        // Tiny chunks for ever would make huge streams: after a while the rest goes in large ones.
        let size = if at > 64 { rest.len().min(MAX_CHUNK) } else { size };
        out.extend_from_slice(&u16::try_from(size).unwrap().to_be_bytes());
        out.extend_from_slice(&rest[..size]);
        rest = &rest[size..];
        at += 1;
    }
    out.extend_from_slice(&[0, 0]);
}

fn any_sizes() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        Just(vec![1]),
        Just(vec![MAX_CHUNK]),
        Just(vec![1, MAX_CHUNK]),
        vec(1usize..200, 1..5),
        vec(1usize..MAX_CHUNK, 1..4)
    ]
}

/// Cuts a stream at the given places (taken modulo its length).
fn cut<'a>(stream: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
    places.extend([0, stream.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect()
}

/// The payloads of a stream that comes in pieces.
fn collect(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, usize) {
    let (mut found, mut noops) = (Vec::new(), 0);
    let (mut buffer, mut scanner) = (Vec::new(), MessageScanner::default());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match scanner.scan(&buffer) {
                Found::Noop => {
                    noops += 1;
                    buffer.drain(..2);
                }
                Found::Message(extent) => {
                    let mut scratch = BytesMut::new();
                    found.push(chunk::payload(&buffer, extent, &mut scratch).to_vec());
                    buffer.drain(..extent.wire);
                }
                Found::Partial => break,
            }
        }
    }
    assert!(buffer.is_empty(), "{} bytes are left", buffer.len());
    (found, noops)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn any_split_of_bytes_gives_the_same_messages(
        messages in vec(prop_oneof![1 => Just(None), 4 => any_payload().prop_map(Some)], 0..6),
        sizes in any_sizes(),
        cuts in vec(any::<usize>(), 0..12),
    ) {
        let mut stream = Vec::new();
        for message in &messages {
            match message {
                Some(payload) => put_in_chunks(payload, &sizes, &mut stream),
                None => stream.extend_from_slice(&[0, 0]),
            }
        }
        let expected: Vec<Vec<u8>> = messages.iter().flatten().cloned().collect();
        let (found, noops) = collect(&cut(&stream, &cuts));
        prop_assert_eq!(found, expected);
        prop_assert_eq!(noops, messages.iter().filter(|message| message.is_none()).count());
    }

    #[test]
    fn a_message_that_comes_byte_by_byte_is_found_at_its_last_byte(
        payload in vec(any::<u8>(), 1..600),
        sizes in any_sizes(),
    ) {
        let mut stream = Vec::new();
        put_in_chunks(&payload, &sizes, &mut stream);
        let mut scanner = MessageScanner::default();
        for end in 0..stream.len() {
            prop_assert_eq!(scanner.scan(&stream[..end]), Found::Partial);
            prop_assert!(scanner.announced(&stream[..end]) <= payload.len());
        }
        let Found::Message(extent) = scanner.scan(&stream) else { panic!("not found at its end") };
        prop_assert_eq!((extent.wire, extent.payload), (stream.len(), payload.len()));
        prop_assert_eq!(chunk::peek_tag(&stream), payload.get(1).map(|byte| Tag(*byte)));
    }

    #[test]
    fn put_message_and_the_scanner_agree(payload in any_payload(), before in vec(any::<u8>(), 0..9)) {
        let mut out = BytesMut::from(&before[..]);
        chunk::put_message(&mut out, |out| out.extend_from_slice(&payload));
        prop_assert_eq!(&out[..before.len()], &before[..]);
        prop_assert_eq!(collect(&[&out[before.len()..]]).0, vec![payload]);
    }

    #[test]
    fn the_scanner_parts_a_stream_as_the_slow_reference_does(
        items in vec(any_item(), 0..10),
        sizes in any_sizes(),
        cuts in vec(any::<usize>(), 0..12),
        end in any::<prop::sample::Index>(),
        whole in any::<bool>(),
    ) {
        let mut stream = Vec::new();
        for item in &items {
            match item {
                Item::Noop => stream.extend_from_slice(&[0, 0]),
                Item::Record(rest) => put_in_chunks(&[&[0xB1, 0x71], &rest[..]].concat(), &sizes, &mut stream),
                Item::Summary(signature, rest) => {
                    put_in_chunks(&[&[0xB1, *signature], &rest[..]].concat(), &sizes, &mut stream);
                }
            }
        }
        if !whole && !stream.is_empty() {
            stream.truncate(end.index(stream.len()));
        }
        let expected = bodies::partition(&stream);
        let (mut scanner, mut messages) = (Scanner::default(), MessageScanner::default());
        let (mut passed, mut records, mut summaries, mut buffer) = (Vec::new(), 0, Vec::new(), Vec::new());
        for piece in cut(&stream, &cuts) {
            buffer.extend_from_slice(piece);
            loop {
                let scan = scanner.scan(&buffer);
                passed.extend(buffer.drain(..scan.pass));
                records += scan.records;
                let Found::Message(extent) = (if scan.summary { messages.scan(&buffer) } else { Found::Partial })
                else {
                    break;
                };
                summaries.push(buffer.drain(..extent.wire).collect::<Vec<u8>>());
            }
        }
        prop_assert_eq!(records, expected.records);
        prop_assert!(passed == expected.passed, "{} bytes passed, not {}", passed.len(), expected.passed.len());
        prop_assert_eq!(&summaries, &expected.summaries);
        if whole {
            let of = |wanted: fn(&&Item) -> bool| items.iter().filter(wanted).count();
            prop_assert_eq!(records, of(|item| matches!(item, Item::Record(_))) as u64);
            prop_assert_eq!(expected.summaries.len(), of(|item| matches!(item, Item::Summary(..))));
            prop_assert!(buffer.is_empty());
        }
    }

    #[test]
    fn values_come_back(value in any_value()) {
        let bytes = value.to_bytes();
        prop_assert_eq!(Value::decode(&bytes), Ok(value));
    }

    #[test]
    fn the_walker_and_the_decoder_agree_on_every_length(value in any_value(), rest in vec(any::<u8>(), 0..9)) {
        let bytes = value.to_bytes();
        let long = [&bytes[..], &rest[..]].concat();
        let (mut walker, mut reader) = (Walker::new(&long), Walker::new(&long));
        prop_assert_eq!(walker.value().map(<[u8]>::len), Ok(bytes.len()));
        prop_assert_eq!(Value::read(&mut reader), Ok(value));
        prop_assert_eq!(walker.rest(), reader.rest());
        for end in [0, bytes.len() / 2, bytes.len() - 1] {
            prop_assert_eq!(Walker::new(&bytes[..end]).value(), Err(DecodeError::Truncated));
        }
    }

    #[test]
    fn an_edit_leaves_the_rest_byte_for_byte(
        entries in vec(("[a-d]{1,2}", prop_oneof![any_value().prop_map(|v| v.to_bytes()), wide_value()], any::<u8>()), 0..20),
        wide_head in any::<bool>(),
    ) {
        // Keys and heads in longer forms than needed are legal and must survive too.
        let mut map = Vec::new();
        match (wide_head, entries.len()) {
            (false, count @ 0..16) => map.push(0xA0 | count as u8),
            (_, count) => map.extend([0xD9, 0, count as u8]),
        }
        let mut pieces = Vec::new();
        for (key, value, form) in &entries {
            let mut piece = match form % 4 {
                0 => vec![0xD0, key.len() as u8],
                1 => vec![0xD1, 0, key.len() as u8],
                2 => vec![0xD2, 0, 0, 0, key.len() as u8],
                _ => vec![0x80 | key.len() as u8],
            };
            piece.extend_from_slice(key.as_bytes());
            piece.extend_from_slice(value);
            map.extend_from_slice(&piece);
            pieces.push((key.as_str(), piece));
        }
        let view = MapView::parse(&map).unwrap();
        prop_assert_eq!(view.len(), entries.len());
        for key in ["a", "b", "aa", "zz"] {
            let last = entries.iter().rev().find(|(k, _, _)| k == key).map(|(_, value, _)| &value[..]);
            prop_assert_eq!(view.get(key), last);
        }

        let remove = ["a", "bb", "cd", "zz"];
        let mut edit = MapEdit::removing(&remove);
        edit.add("zz", |out| encode::string("new", out)).add("yy", encode::null);
        let mut out = BytesMut::new();
        edit.apply(&view, &mut out);
        let kept: Vec<&[u8]> =
            pieces.iter().filter(|(key, _)| !remove.contains(key)).map(|(_, piece)| &piece[..]).collect();
        let mut expected = BytesMut::new();
        encode::map_header(kept.len() + 2, &mut expected);
        expected.extend_from_slice(&kept.concat());
        for (key, value) in [("zz", Value::from("new")), ("yy", Value::Null)] {
            encode::string(key, &mut expected);
            value.encode(&mut expected);
        }
        prop_assert_eq!(&out[..], &expected[..]);
    }

    #[test]
    fn a_changed_run_or_begin_keeps_what_it_does_not_change(
        text in "\\PC{0,40}",
        parameters in vec(("\\PC{0,6}", any_value()), 0..5),
        extra in vec(("[a-d]{1,2}", any_value()), 0..5),
    ) {
        let mut payload = BytesMut::from(&[0xB3, 0x10][..]);
        encode::string(&text, &mut payload);
        let parameters = Value::Map(parameters).to_bytes();
        payload.extend_from_slice(&parameters);
        let extra = Value::Map(extra);
        extra.encode(&mut payload);
        let run = Run::parse(&payload).unwrap();
        let mut same = BytesMut::new();
        run.write_with(&MapEdit::removing(&[]), &mut same);
        prop_assert_eq!(&same, &payload);

        let mut edit = MapEdit::removing(&["a"]);
        edit.add("a", |out| encode::integer(7, out));
        let mut changed = BytesMut::new();
        run.write_with(&edit, &mut changed);
        let again = Run::parse(&changed).unwrap();
        prop_assert_eq!((again.text, again.parameters), (&text[..], &parameters[..]));
        prop_assert_eq!(again.extra.integer("a"), Some(7));

        let begin = [&[0xB1, 0x11], &extra.to_bytes()[..]].concat();
        let mut same = BytesMut::new();
        Begin::parse(&begin).unwrap().write_with(&MapEdit::removing(&[]), &mut same);
        prop_assert_eq!(&same[..], &begin[..]);
    }

    #[test]
    fn own_failures_are_read_back_in_every_version(message in "\\PC{0,200}") {
        let failure = Failure::new("Neo.TransientError.Request.NoThreadsAvailable", "51N59", message);
        for version in Version::ALL {
            let mut out = BytesMut::new();
            failure.write(version, &mut out);
            let payloads = collect(&[&out]).0;
            prop_assert_eq!(payloads.len(), 1);
            let summary = Summary::parse(&payloads[0]).unwrap();
            prop_assert_eq!(summary.outcome, Outcome::Failure);
            prop_assert_eq!((summary.code(), summary.message()), (Some(failure.code), Some(&failure.message[..])));
        }
    }

    #[test]
    fn a_manifest_of_any_versions_is_read_back(offered in vec((0u8..8, any::<u8>()), 0..20), twice in any::<bool>()) {
        let mut offered: Vec<Version> =
            offered.into_iter().map(|(major, minor)| Version::new(major, minor)).chain(Version::ALL).collect();
        if twice {
            offered.extend_from_within(..);
        }
        let mut out = BytesMut::new();
        handshake::write_manifest(&offered, &mut out);
        prop_assert_eq!(handshake::read_manifest(&out[4..]), Ok(Some((Version::ALL.to_vec(), out.len() - 4))));
    }

    #[test]
    fn any_bytes_are_harmless(data in vec(any::<u8>(), 0..400)) {
        for (_, body) in bodies::ALL {
            body(&data);
        }
    }

    #[test]
    fn bytes_that_look_like_packstream_are_harmless(data in vec(likely_byte(), 0..400)) {
        for (_, body) in bodies::ALL {
            body(&data);
        }
    }

    #[test]
    fn a_valid_value_with_one_wrong_byte_is_harmless(
        value in any_value(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut bytes = value.to_bytes();
        bytes.truncate(4096);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bodies::walker(&bytes);
        bodies::values(&bytes);
    }
}

/// A value in a longer form than it needs.
fn wide_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(vec![0xCB, 0, 0, 0, 0, 0, 0, 0, 5]),
        Just(vec![0xC9, 0, 1]),
        Just(vec![0xD2, 0, 0, 0, 1, b'x']),
        Just(vec![0xD6, 0, 0, 0, 1, 0xC0]),
        Just(vec![0xDA, 0, 0, 0, 1, 0xD1, 0, 1, b'k', 0xC0]),
        Just(vec![0xCE, 0, 0, 0, 1, 9]),
    ]
}

/// Markers, chunk headers and small numbers more often than other bytes.
fn likely_byte() -> impl Strategy<Value = u8> {
    prop_oneof![
        4 => prop::sample::select(&[0u8, 0, 0, 1, 2, 4, 0x70, 0x71, 0x7E, 0x7F, 0xB1, 0xB3, 0x10, 0x11, 0xA1, 0x81,
            0x91, 0xC0, 0xC1, 0xC8, 0xC9, 0xCA, 0xCB, 0xCC, 0xD0, 0xD1, 0xD4, 0xD8, 0xE0, 0xFF][..]),
        1 => any::<u8>(),
    ]
}

/// Sizes that would need gigabytes, and counts that would loop for minutes, end at once.
#[test]
fn hostile_sizes_end_at_once() {
    let heads: &[&[u8]] = &[
        &[0xD6, 0xFF, 0xFF, 0xFF, 0xFF],
        &[0xDA, 0xFF, 0xFF, 0xFF, 0xFF],
        &[0xD2, 0xFF, 0xFF, 0xFF, 0xFF],
        &[0xCE, 0xFF, 0xFF, 0xFF, 0xFF],
        &[0xD5, 0xFF, 0xFF],
        &[0xD9, 0xFF, 0xFF],
    ];
    for head in heads {
        for inner in heads {
            let bytes = [&[0x9F], *head, *inner, &[0xC0; 64]].concat();
            assert_eq!(Walker::new(&bytes).value(), Err(DecodeError::Truncated));
            assert!(Value::decode(&bytes).is_err());
            assert!(MapView::parse(&bytes[1..]).is_err());
        }
    }
    // Every list announces four thousand million items: sums must not wrap.
    let mut nested = Vec::new();
    for _ in 0..10_000 {
        nested.extend_from_slice(&[0xD6, 0xFF, 0xFF, 0xFF, 0xFF]);
    }
    assert_eq!(Walker::new(&nested).value(), Err(DecodeError::Truncated));
    assert_eq!(Value::decode(&nested), Err(DecodeError::Truncated));
}

#[test]
fn nesting_is_followed_to_its_limit_and_no_further() {
    let nested = |depth: usize| [vec![0x91; depth], vec![0xC0]].concat();
    let limit = bolt_wire::packstream::MAX_DEPTH;
    assert!(Value::decode(&nested(limit - 1)).is_ok());
    assert_eq!(Value::decode(&nested(limit)), Err(DecodeError::TooDeep));
    assert_eq!(Walker::new(&nested(1_000_000)).value().map(<[u8]>::len), Ok(1_000_001));
}
