//! ROUTE: Neo4j's routing table with Sidebolt's address in it, so that `neo4j://` clients stay on the proxy.

use bolt_wire::Tag;
use bolt_wire::chunk::{self, Extent};
use bolt_wire::message::request::open;
use bolt_wire::packstream::{MapEdit, MapView, Walker, encode};
use bytes::{BufMut, BytesMut};

use super::Session;
use crate::failure::Refusal;

/// What a ROUTE asks for.
#[derive(Debug, Default)]
pub(super) enum Asked {
    /// What cannot be answered from what is known of the client.
    #[default]
    Other,
    /// The client's home database.
    Home,
    /// This database.
    Database(Box<str>),
}

impl Session {
    /// Remembers the address and the database that the ROUTE at the start of `inbuf` names.
    pub(super) fn note_route(&mut self, extent: Extent) {
        let mut scratch = BytesMut::new();
        let payload = chunk::payload(&self.inbuf, extent, &mut scratch);
        let (routed, asked) = read_route(payload).unwrap_or_default();
        self.profile.routed = routed;
        self.profile.asked = asked;
    }

    /// Remembers the home database that a table names.
    pub(super) fn learn_home(&self, payload: &[u8]) {
        let meta = payload.get(2..).and_then(|meta| MapView::parse(meta).ok());
        if let (Asked::Home, Some(principal)) = (&self.profile.asked, &self.principal)
            && let Some(table) = meta.and_then(|meta| meta.map("rt"))
            && let Some(database) = table.string("db").filter(|name| name.len() <= MAX_NAME)
        {
            self.shared.upstream.learn_home(principal, database);
        }
    }

    /// Answers ROUTE here if no server could be asked: drivers give up on a failed ROUTE, but this proxy is there to be asked again.
    pub(super) fn route_here(&mut self, refusal: &Refusal) -> bool {
        if !matches!(
            refusal,
            Refusal::Unreachable { .. } | Refusal::NoMember { .. } | Refusal::BreakerOpen { .. }
        ) {
            return false;
        }
        tracing::debug!(session = self.registration.id, %refusal, "ROUTE was answered without Neo4j.");
        let address = self.route_address();
        let home = self.principal.as_ref().and_then(|principal| self.shared.upstream.home(principal));
        let database: Option<Box<str>> = match &self.profile.asked {
            Asked::Other => None,
            Asked::Home => home.as_deref().map(Into::into),
            Asked::Database(name) => Some(name.clone()),
        };
        self.put_answer(|out| own_table(&address, database.as_deref(), out));
        self.shared.metrics.finished(Tag::ROUTE, false, false);
        true
    }

    /// The address under which this client reaches the proxy: what ROUTE said, else what HELLO said, else the configured one, else
    /// the one it connected to.
    pub(super) fn route_address(&self) -> String {
        let named = self.profile.routed.clone().or_else(|| self.profile.address.clone());
        named
            .or_else(|| self.shared.config.load().listen.advertised_address.clone())
            .unwrap_or_else(|| self.local.to_string())
    }
}

/// No address and no name of a database that is longer is remembered.
const MAX_NAME: usize = 512;

/// The address in the routing context, and what is asked for.
fn read_route(payload: &[u8]) -> Option<(Option<String>, Asked)> {
    let (Tag::ROUTE, 3, mut walker) = open(payload).ok()? else { return None };
    let context = MapView::parse(walker.value().ok()?).ok()?;
    walker.value().ok()?;
    let extra = MapView::parse(walker.value().ok()?).ok()?;
    let asked = match extra.string("db") {
        Some(name) if name.len() <= MAX_NAME => Asked::Database(name.into()),
        Some(_) => Asked::Other,
        None if extra.has("imp_user") => Asked::Other,
        None => Asked::Home,
    };
    let address = context.string("address").filter(|address| address.len() <= MAX_NAME);
    Some((address.map(str::to_owned), asked))
}

/// Appends the payload of ROUTE's SUCCESS with every address replaced by `address`. What is not understood stays as it is.
pub(super) fn rewrite(payload: &[u8], address: &str, out: &mut BytesMut) {
    let start = out.len();
    if rewrite_table(payload, address, out).is_none() {
        out.truncate(start);
        out.put_slice(payload);
    }
}

fn rewrite_table(payload: &[u8], address: &str, out: &mut BytesMut) -> Option<()> {
    let meta = MapView::parse(payload.get(2..)?).ok()?;
    let table = meta.map("rt")?;
    let mut servers = BytesMut::new();
    let mut walker = Walker::new(table.get("servers")?);
    let count = walker.list_header().ok()?;
    encode::list_header(count, &mut servers);
    for _ in 0..count {
        let server = MapView::parse(walker.value().ok()?).ok()?;
        let mut edit = MapEdit::removing(&["addresses"]);
        edit.add("addresses", |out| {
            encode::list_header(1, out);
            encode::string(address, out);
        });
        edit.apply(&server, &mut servers);
    }
    let mut edit = MapEdit::removing(&["servers"]);
    edit.add("servers", |out| out.put_slice(&servers));
    let mut changed = MapEdit::removing(&["rt"]);
    changed.add("rt", |out| edit.apply(&table, out));
    out.put_slice(&[0xB1, Tag::SUCCESS.0]);
    changed.apply(&meta, out);
    Some(())
}

/// The payload of a SUCCESS for ROUTE, made without Neo4j.
pub(super) fn own_table(address: &str, database: Option<&str>, out: &mut BytesMut) {
    out.put_slice(&[0xB1, Tag::SUCCESS.0]);
    encode::map_header(1, out);
    encode::string("rt", out);
    encode::map_header(3, out);
    encode::string("servers", out);
    encode::list_header(3, out);
    for role in ["WRITE", "READ", "ROUTE"] {
        encode::map_header(2, out);
        encode::string("addresses", out);
        encode::list_header(1, out);
        encode::string(address, out);
        encode::string("role", out);
        encode::string(role, out);
    }
    encode::string("ttl", out);
    encode::integer(OWN_TTL, out);
    encode::string("db", out);
    match database {
        Some(database) => encode::string(database, out),
        None => encode::null(out),
    }
}

/// Seconds for which a table that Neo4j did not give is to be believed: short, so that a real one replaces it soon.
const OWN_TTL: i64 = 10;

#[cfg(test)]
mod tests {
    use bolt_wire::message::Summary;
    use bolt_wire::packstream::Value;

    use super::*;

    #[test]
    fn every_address_becomes_the_proxys() {
        let server = |role: &str, addresses: &[&str]| {
            let addresses = addresses.iter().map(|a| (*a).into()).collect::<Vec<Value>>();
            Value::map([("addresses", addresses.into()), ("role", role.into())])
        };
        let servers =
            vec![server("WRITE", &["a:1"]), server("READ", &["b:1", "c:1"]), server("ROUTE", &["a:1"])];
        let table = Value::map([("servers", servers.into()), ("ttl", 300.into()), ("db", "neo4j".into())]);
        let mut payload = vec![0xB1, 0x70];
        payload.extend(Value::map([("rt", table)]).to_bytes());

        let mut out = BytesMut::new();
        rewrite(&payload, "proxy:7687", &mut out);
        let meta = Value::decode(&out[2..]).unwrap();
        let table = meta.get("rt").unwrap();
        assert_eq!(table.get("ttl"), Some(&300.into()));
        for server in table.get("servers").unwrap().as_list().unwrap() {
            assert_eq!(server.get("addresses"), Some(&vec!["proxy:7687".into()].into()));
        }
    }

    #[test]
    fn what_is_no_table_passes_as_it_is() {
        let mut out = BytesMut::new();
        rewrite(&[0xB1, 0x70, 0xA0], "proxy:7687", &mut out);
        assert_eq!(out[..], [0xB1, 0x70, 0xA0]);
        out.clear();
        own_table("proxy:1", None, &mut out);
        assert!(Summary::parse(&out).unwrap().meta.map("rt").unwrap().has("servers"));
    }
}
