//! ROUTE: Neo4j's routing table with Sidebolt's address in it, so that `neo4j://` clients stay on the proxy.

use bolt_wire::Tag;
use bolt_wire::chunk::{self, Extent};
use bolt_wire::message::Route;
use bolt_wire::packstream::{MapEdit, MapView, Walker, encode};
use bytes::{BufMut, BytesMut};

use super::Session;

impl Session {
    /// Remembers the address that the ROUTE at the start of `inbuf` names.
    pub(super) fn note_route_address(&mut self, extent: Extent) {
        let mut scratch = BytesMut::new();
        let payload = chunk::payload(&self.inbuf, extent, &mut scratch);
        let named =
            Route::parse(payload).ok().and_then(|route| route.context.string("address").map(str::to_owned));
        self.profile.routed = named;
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
