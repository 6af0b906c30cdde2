//! Notification filters: HELLO's becomes a part of each request, because the connections are shared.

use bolt_wire::message::{Begin, Run};
use bolt_wire::packstream::{MapEdit, MapView};
use bolt_wire::version::NotificationFilter;
use bolt_wire::{Tag, Version, chunk};
use bytes::{BufMut, BytesMut};

use crate::upstream::Connection;

/// The keys that filter notifications in `version`, in HELLO, RUN and BEGIN.
pub(super) fn filter_keys(version: Version) -> &'static [&'static str] {
    match version.features().notification_filter {
        NotificationFilter::None => &[],
        NotificationFilter::Categories => {
            &["notifications_minimum_severity", "notifications_disabled_categories"]
        }
        NotificationFilter::Classifications => {
            &["notifications_minimum_severity", "notifications_disabled_classifications"]
        }
    }
}

/// Queues RUN or BEGIN with what HELLO's notification filter adds to it; false if that is nothing, or if it cannot be read.
pub(super) fn queue_filtered(
    tag: Tag,
    payload: &[u8],
    filter: &MapView<'_>,
    connection: &mut Connection,
) -> bool {
    let known = filter_keys(connection.key.version);
    let queued =
        |out: &mut BytesMut, write: &dyn Fn(&mut BytesMut)| chunk::put_message(out, |out| write(out));
    match tag {
        Tag::RUN => {
            let Ok(run) = Run::parse(payload) else { return false };
            let Some(edit) = inherited(filter, &run.extra, known) else { return false };
            connection.queue_with(tag, false, |out| queued(out, &|out| run.write_with(&edit, out)));
        }
        Tag::BEGIN => {
            let Ok(begin) = Begin::parse(payload) else { return false };
            let Some(edit) = inherited(filter, &begin.extra, known) else { return false };
            connection.queue_with(tag, false, |out| queued(out, &|out| begin.write_with(&edit, out)));
        }
        _ => return false,
    }
    true
}

/// Metadata of RUN or BEGIN with what HELLO's notification filter (a PackStream map, or nothing) adds to it.
pub(super) fn inherited_keys(version: Version, filter: &[u8], extra: &MapView<'_>) -> Box<[u8]> {
    let filter = MapView::parse(filter).unwrap_or(MapView::EMPTY);
    let edit = inherited(&filter, extra, filter_keys(version)).unwrap_or_default();
    let mut out = BytesMut::new();
    edit.apply(extra, &mut out);
    out.to_vec().into()
}

/// The key of a filter's lowest severity; `OFF` switches notifications off.
const SEVERITY: &str = "notifications_minimum_severity";

/// What a request takes over from HELLO's filter, as both servers were seen to do it: each key that it does not give itself, but
/// nothing if HELLO switched notifications OFF and the request gives any key. The name that another version has for a key means nothing.
fn inherited(filter: &MapView<'_>, extra: &MapView<'_>, known: &[&str]) -> Option<MapEdit<'static>> {
    let gives_any = known.iter().any(|key| extra.get(key).is_some());
    if gives_any && filter.string(SEVERITY) == Some("OFF") {
        return None;
    }
    let mut edit = MapEdit::removing(&[]);
    let mut any = false;
    for (key, value) in filter.iter().filter(|(key, _)| extra.get(key).is_none()) {
        edit.add(key, |out| out.put_slice(value));
        any = true;
    }
    any.then_some(edit)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of what Neo4j 5.26.30 and 2026.08.1 did with every pair of filters.
    #[test]
    fn a_request_inherits_what_it_does_not_give() {
        use bolt_wire::packstream::Value;
        let (severity, disabled) = (SEVERITY, "notifications_disabled_classifications");
        let list = |name: &str| Value::List(vec![name.into()]);
        let known = [severity, disabled];
        let merged = |hello: &[(&str, Value)], request: &[(&str, Value)]| {
            let (hello, request) =
                (Value::map(hello.to_vec()).to_bytes(), Value::map(request.to_vec()).to_bytes());
            let (hello, request) = (MapView::parse(&hello).unwrap(), MapView::parse(&request).unwrap());
            let mut out = BytesMut::new();
            inherited(&hello, &request, &known)?.apply(&request, &mut out);
            Value::decode(&out).ok()
        };
        let warning = (severity, Value::from("WARNING"));
        let unrecognized = (disabled, list("UNRECOGNIZED"));
        let both = || Some(Value::map([warning.clone(), unrecognized.clone()]));
        assert_eq!(merged(&[warning.clone(), unrecognized.clone()], &[]), both());
        assert_eq!(merged(std::slice::from_ref(&unrecognized), std::slice::from_ref(&warning)), both());
        let other = (disabled, list("PERFORMANCE"));
        assert_eq!(
            merged(&[warning.clone(), unrecognized.clone()], std::slice::from_ref(&other)),
            Some(Value::map([other.clone(), warning.clone()]))
        );
        let off = (severity, Value::from("OFF"));
        assert_eq!(merged(&[off.clone(), unrecognized.clone()], &[other]), None);
        assert_eq!(merged(std::slice::from_ref(&off), &[]), Some(Value::map([off])));
        assert_eq!(merged(&[], &[]), None);
    }
}
