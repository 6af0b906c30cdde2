//! What a client tells Sidebolt in transaction metadata: `{sidebolt: {coalesce: 'off'}}`. Neo4j does not see it.

use bolt_wire::Tag;
use bolt_wire::chunk;
use bolt_wire::message::{Begin, Run};
use bolt_wire::packstream::{MapEdit, MapView};
use bytes::BytesMut;

use super::Session;
use super::requests::Message;
use crate::config::Consistency;
use crate::failure::Refusal;
use crate::guard::Priority;

/// The key of transaction metadata that is Sidebolt's.
const KEY: &str = "sidebolt";

/// The keys that Neo4j does not see; all but the first only where traces are sent.
static OWN: [&str; 3] = [KEY, "traceparent", "tracestate"];

/// What a request asks of Sidebolt.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Hints {
    /// How its writes may be batched.
    pub(super) coalesce: Option<CoalesceHint>,
    /// Whether its reads may be answered from the cache.
    pub(super) cache: Option<CacheHint>,
    /// How urgent it is.
    pub(super) priority: Priority,
}

/// `cache`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum CacheHint {
    /// They are not.
    Off,
    /// They may be this fresh.
    Fresh(Consistency),
}

/// `coalesce`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum CoalesceHint {
    /// Not at all.
    Off,
    /// So that nobody can tell.
    Exact,
    /// Answered before they are sent.
    Deferred,
}

impl Session {
    /// Reads the hints of the RUN or BEGIN at the start of `inbuf` and takes them out of it. `None` if they were refused, which the client
    /// was told.
    pub(super) fn take_hints(&mut self, message: Message) -> Option<Message> {
        self.hints = Hints::default();
        let mut scratch = BytesMut::new();
        let payload = chunk::payload(&self.inbuf, message.extent, &mut scratch);
        let extra = match message.tag {
            Tag::RUN => Run::parse(payload).map(|run| run.extra),
            _ => Begin::parse(payload).map(|begin| begin.extra),
        };
        let Ok(extra) = extra else { return Some(message) };
        let Some(metadata) = extra.map("tx_metadata") else { return Some(message) };
        // One trace is no reason not to share a batch or an answer with another.
        let traced = self.shared.config.load().telemetry.otlp.is_on();
        let own = if traced { &OWN[..] } else { &OWN[..1] };
        if own.iter().all(|key| metadata.get(key).is_none()) {
            return Some(message);
        }
        match metadata.get(KEY).map(read).transpose() {
            Ok(hints) => self.hints = hints.unwrap_or_default(),
            Err(found) => {
                self.refuse_message(&Refusal::Hint { found }, message);
                return None;
            }
        }
        Some(self.edit(message, |extra| without(own, extra)))
    }
}

/// Takes keys out of the transaction metadata.
fn without(keys: &'static [&'static str], extra: &MapView<'_>) -> MapEdit<'static> {
    let mut edit = MapEdit::removing(&["tx_metadata"]);
    let left = |metadata: &MapView<'_>| metadata.iter().any(|(name, _)| !keys.contains(&name));
    if let Some(metadata) = extra.map("tx_metadata").filter(left) {
        edit.add("tx_metadata", |out| MapEdit::removing(keys).apply(&metadata, out));
    }
    edit
}

/// Reads the value of the key; what it was, if that means nothing.
fn read(value: &[u8]) -> Result<Hints, String> {
    let Ok(map) = MapView::parse(value) else { return Err("no map".to_owned()) };
    let mut hints = Hints::default();
    for (name, _) in map.iter() {
        match (name, map.string(name)) {
            ("coalesce", Some("off")) => hints.coalesce = Some(CoalesceHint::Off),
            ("coalesce", Some("exact")) => hints.coalesce = Some(CoalesceHint::Exact),
            ("coalesce", Some("deferred")) => hints.coalesce = Some(CoalesceHint::Deferred),
            ("cache", Some("off")) => hints.cache = Some(CacheHint::Off),
            ("cache", Some("strict")) => hints.cache = Some(CacheHint::Fresh(Consistency::Strict)),
            ("cache", Some("bounded")) => hints.cache = Some(CacheHint::Fresh(Consistency::Bounded)),
            ("cache", Some("ttl")) => hints.cache = Some(CacheHint::Fresh(Consistency::Ttl)),
            ("priority", Some("high")) => hints.priority = Priority::High,
            ("priority", Some("normal")) => hints.priority = Priority::Normal,
            ("priority", Some("low")) => hints.priority = Priority::Low,
            (name, Some(other)) => return Err(format!("{name}: '{other}'")),
            (name, None) => return Err(format!("{name}: a value that is no string")),
        }
    }
    Ok(hints)
}

#[cfg(test)]
mod tests {
    use bolt_wire::packstream::Value;

    use super::*;

    #[test]
    fn hints_are_read_and_nonsense_is_named() {
        let hint = |key: &str, value: Value| read(&Value::map([(key, value)]).to_bytes());
        assert_eq!(
            hint("coalesce", "off".into()),
            Ok(Hints { coalesce: Some(CoalesceHint::Off), ..Hints::default() })
        );
        assert_eq!(
            hint("coalesce", "deferred".into()),
            Ok(Hints { coalesce: Some(CoalesceHint::Deferred), ..Hints::default() })
        );
        assert_eq!(hint("priority", "low".into()).map(|hints| hints.priority), Ok(Priority::Low));
        assert_eq!(hint("coalesce", "of".into()), Err("coalesce: 'of'".to_owned()));
        assert_eq!(hint("colaesce", "off".into()), Err("colaesce: 'off'".to_owned()));
        assert!(hint("coalesce", Value::Integer(1)).is_err());
        assert!(read(&[0x01]).is_err());
    }
}
