//! Requests as bytes.

use bolt_wire::packstream::Value;
use bolt_wire::packstream::value::put_message;
use bolt_wire::{Tag, Version, chunk};
use bytes::{BufMut, BytesMut};

/// Any message: signature and fields.
pub fn message(tag: Tag, fields: &[Value]) -> Vec<u8> {
    let mut out = BytesMut::new();
    put_message(tag.0, fields, &mut out);
    out.to_vec()
}

/// A message with this payload, whatever it is.
pub fn raw(payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    chunk::put_message(&mut out, |out| out.put_slice(payload));
    out.to_vec()
}

/// The same message in chunks of `size` bytes.
pub fn rechunk(wire: &[u8], size: usize) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), wire);
    while let Some((header, tail)) = rest.split_first_chunk::<2>() {
        let (body, tail) = tail.split_at(usize::from(u16::from_be_bytes(*header)));
        for piece in body.chunks(size) {
            out.extend(u16::try_from(piece.len()).unwrap().to_be_bytes());
            out.extend(piece);
        }
        if body.is_empty() {
            out.extend([0, 0]);
        }
        rest = tail;
    }
    out
}

/// A map.
pub fn map<'a>(entries: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
    Value::map(entries)
}

/// An empty map.
pub fn none() -> Value {
    Value::Map(Vec::new())
}

/// What every driver says in HELLO, and `more`. Up to 5.0 the credentials are in it.
pub fn hello_with<'a>(
    version: Version,
    login: Option<(&'a str, &'a str)>,
    more: impl IntoIterator<Item = (&'a str, Value)>,
) -> Vec<u8> {
    let mut entries = vec![("user_agent", Value::from("it/1.0"))];
    if version.features().bolt_agent {
        entries.push(("bolt_agent", map([("product", "it/1.0".into())])));
    }
    if let Some((user, password)) = login.filter(|_| version.features().auth_in_hello) {
        entries.extend(basic(user, password));
    }
    entries.extend(more);
    message(Tag::HELLO, &[map(entries)])
}

/// HELLO.
pub fn hello(version: Version, user: &str, password: &str) -> Vec<u8> {
    hello_with(version, Some((user, password)), [])
}

fn basic(user: &str, password: &str) -> [(&'static str, Value); 3] {
    [("scheme", "basic".into()), ("principal", user.into()), ("credentials", password.into())]
}

/// LOGON.
pub fn logon(user: &str, password: &str) -> Vec<u8> {
    message(Tag::LOGON, &[map(basic(user, password))])
}

/// HELLO and, where the version has it, LOGON.
pub fn login(version: Version, user: &str, password: &str) -> Vec<Vec<u8>> {
    let mut messages = vec![hello(version, user, password)];
    if version.features().reauth {
        messages.push(logon(user, password));
    }
    messages
}

/// RUN with parameters and extra.
pub fn run_with(text: &str, parameters: Value, extra: Value) -> Vec<u8> {
    message(Tag::RUN, &[text.into(), parameters, extra])
}

/// RUN.
pub fn run(text: &str) -> Vec<u8> {
    run_with(text, none(), none())
}

/// BEGIN with extra.
pub fn begin_with<'a>(extra: impl IntoIterator<Item = (&'a str, Value)>) -> Vec<u8> {
    message(Tag::BEGIN, &[map(extra)])
}

/// BEGIN.
pub fn begin() -> Vec<u8> {
    begin_with([])
}

/// PULL of `n` records.
pub fn pull(n: i64) -> Vec<u8> {
    message(Tag::PULL, &[map([("n", n.into())])])
}

/// PULL of everything.
pub fn pull_all() -> Vec<u8> {
    pull(-1)
}

/// DISCARD of `n` records.
pub fn discard(n: i64) -> Vec<u8> {
    message(Tag::DISCARD, &[map([("n", n.into())])])
}

/// ROUTE.
pub fn route(context: Value, extra: Value) -> Vec<u8> {
    message(Tag::ROUTE, &[context, Value::List(Vec::new()), extra])
}

/// TELEMETRY.
pub fn telemetry(api: i64) -> Vec<u8> {
    message(Tag::TELEMETRY, &[api.into()])
}

/// COMMIT.
pub fn commit() -> Vec<u8> {
    message(Tag::COMMIT, &[])
}

/// ROLLBACK.
pub fn rollback() -> Vec<u8> {
    message(Tag::ROLLBACK, &[])
}

/// RESET.
pub fn reset() -> Vec<u8> {
    message(Tag::RESET, &[])
}

/// LOGOFF.
pub fn logoff() -> Vec<u8> {
    message(Tag::LOGOFF, &[])
}

/// GOODBYE.
pub fn goodbye() -> Vec<u8> {
    message(Tag::GOODBYE, &[])
}
