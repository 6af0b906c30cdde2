//! ROUTE and its answer: what is asked, and what a router lists. Nothing that a router says is believed unchecked.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bolt_wire::chunk;
use bolt_wire::packstream::{MapView, Walker, encode};
use bolt_wire::{DecodeError, Tag};
use bytes::{BufMut, BytesMut};

use crate::config::uri::host_and_port;

/// Addresses of one role that are taken from a table; what follows is ignored.
pub(super) const MAX_ADDRESSES: usize = 128;
/// A table is believed for at least this long, so that a wrong `ttl` does not become a ROUTE for every request.
const SHORTEST_TTL: u64 = 1;
/// A table is believed for at most this long.
const LONGEST_TTL: u64 = 3600;
/// No host name is longer.
const MAX_HOST: usize = 253;

/// What a server is listed for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    /// The leader: takes writes.
    Writer,
    /// Takes reads.
    Reader,
    /// Answers ROUTE.
    Router,
}

impl Role {
    /// All roles, in the order of the wire.
    pub(crate) const ALL: [Self; 3] = [Self::Writer, Self::Reader, Self::Router];

    /// For people and metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Writer => "writer",
            Self::Reader => "reader",
            Self::Router => "router",
        }
    }

    fn from_wire(name: &str) -> Option<Self> {
        match name {
            "WRITE" => Some(Self::Writer),
            "READ" => Some(Self::Reader),
            "ROUTE" => Some(Self::Router),
            _ => None,
        }
    }
}

/// A server's address as a table names it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Address {
    /// Name or IP address, without brackets.
    pub(super) host: Box<str>,
    /// Port.
    pub(super) port: u16,
}

impl Address {
    /// Takes `host:port` apart; `None` if it cannot be one.
    pub(super) fn parse(text: &str) -> Option<Self> {
        // Brackets and the port come on top of the host.
        if text.len() > MAX_HOST + 8 {
            return None;
        }
        let (host, port) = host_and_port(text).ok()?;
        (host.len() <= MAX_HOST).then(|| Self { host: host.to_ascii_lowercase().into(), port })
    }

    /// True if a connection to it would come back to the proxy that listens on `listen`.
    pub(super) fn leads_to(&self, listen: SocketAddr) -> bool {
        if listen.port() == 0 || self.port != listen.port() {
            return false;
        }
        match self.host.parse::<IpAddr>() {
            Ok(ip) => ip == listen.ip() || ip.is_unspecified() || (ip.is_loopback() && reaches(listen, ip)),
            Err(_) => {
                &*self.host == "localhost" && (listen.ip().is_unspecified() || listen.ip().is_loopback())
            }
        }
    }
}

/// True if a listener on an unspecified address takes connections to `ip`.
fn reaches(listen: SocketAddr, ip: IpAddr) -> bool {
    listen.ip().is_unspecified() && (listen.is_ipv6() || ip.is_ipv4())
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// What a router lists for a database.
#[derive(Debug)]
pub(super) struct Listing {
    /// The database's name, also where the home database was asked for.
    pub(super) database: Option<Box<str>>,
    /// How long it is to be believed.
    pub(super) ttl: Duration,
    /// The addresses of each role, each once, in the order of `Role::ALL`.
    pub(super) roles: [Vec<Address>; 3],
}

impl Listing {
    /// Reads the payload of ROUTE's SUCCESS; what cannot be used is left out, and `Err` says what cannot be a table at all.
    pub(super) fn parse(payload: &[u8]) -> Result<Self, &'static str> {
        let meta = payload.get(2..).and_then(|meta| MapView::parse(meta).ok());
        let Some(table) = meta.and_then(|meta| meta.map("rt")) else { return Err("it holds no table") };
        let ttl = table.integer("ttl").ok_or("its ttl is no integer")?;
        let seconds = u64::try_from(ttl).unwrap_or(0).clamp(SHORTEST_TTL, LONGEST_TTL);
        let servers = table.get("servers").ok_or("it lists no servers")?;
        Ok(Self {
            database: table.string("db").filter(|name| name.len() <= MAX_DATABASE).map(Into::into),
            ttl: Duration::from_secs(seconds),
            roles: read_servers(servers).map_err(|_| "its servers cannot be read")?,
        })
    }

    /// The addresses of a role.
    pub(super) fn of(&self, role: Role) -> &[Address] {
        let [writers, readers, routers] = &self.roles;
        match role {
            Role::Writer => writers,
            Role::Reader => readers,
            Role::Router => routers,
        }
    }
}

/// No name of a database is longer than this, in bytes; Neo4j allows 63 characters, and twice that for a part of a composite one.
pub(super) const MAX_DATABASE: usize = 512;

fn read_servers(servers: &[u8]) -> Result<[Vec<Address>; 3], DecodeError> {
    let mut roles: [Vec<Address>; 3] = Default::default();
    let mut walker = Walker::new(servers);
    for _ in 0..walker.list_header()? {
        let server = MapView::parse(walker.value()?)?;
        let role = server.string("role").and_then(Role::from_wire);
        let (Some(role), Some(addresses)) = (role, server.get("addresses")) else { continue };
        let [writers, readers, routers] = &mut roles;
        let known = match role {
            Role::Writer => writers,
            Role::Reader => readers,
            Role::Router => routers,
        };
        read_addresses(addresses, known)?;
    }
    Ok(roles)
}

fn read_addresses(addresses: &[u8], known: &mut Vec<Address>) -> Result<(), DecodeError> {
    let mut walker = Walker::new(addresses);
    for _ in 0..walker.list_header()? {
        if known.len() >= MAX_ADDRESSES {
            break;
        }
        let value = walker.value()?;
        let Some(address) = Walker::new(value).string().ok().and_then(Address::parse) else { continue };
        if !known.contains(&address) {
            known.push(address);
        }
    }
    Ok(())
}

/// Appends ROUTE: the routing context with the address that `upstream.uri` names (a single server lists just this one), and the
/// database, or whose home database is meant.
pub(super) fn write_route(
    address: &str,
    context: &MapView<'_>,
    database: Option<&str>,
    impersonated: Option<&str>,
    out: &mut BytesMut,
) {
    chunk::put_message(out, |out| {
        out.put_slice(&[0xB3, Tag::ROUTE.0]);
        encode::map_header(context.len() + 1, out);
        encode::string("address", out);
        encode::string(address, out);
        for (name, value) in context.iter() {
            encode::string(name, out);
            out.put_slice(value);
        }
        encode::list_header(0, out);
        let extra = [("db", database), ("imp_user", impersonated)];
        encode::map_header(extra.iter().flat_map(|(_, value)| value).count(), out);
        for (name, value) in extra.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            encode::string(name, out);
            encode::string(value, out);
        }
    });
}

/// What follows `?` in `upstream.uri`, as a PackStream map.
pub(super) fn context(query: Option<&str>) -> Box<[u8]> {
    let entries: Vec<(&str, &str)> = query
        .into_iter()
        .flat_map(|query| query.split('&'))
        .filter_map(|part| part.split_once('='))
        .collect();
    let mut out = BytesMut::new();
    encode::map_header(entries.len(), &mut out);
    for (name, value) in entries {
        encode::string(&unescape(name), &mut out);
        encode::string(&unescape(value), &mut out);
    }
    out.to_vec().into()
}

/// Undoes percent-encoding; what is none stays as it is.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digits =
            after.first_chunk::<2>().filter(|pair| *first == b'%' && pair.iter().all(u8::is_ascii_hexdigit));
        let byte = digits.and_then(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok());
        out.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use bolt_wire::message::Route;
    use bolt_wire::packstream::Value;

    use super::*;

    fn payload(table: Value) -> Vec<u8> {
        let mut payload = vec![0xB1, 0x70];
        payload.extend(Value::map([("rt", table)]).to_bytes());
        payload
    }

    fn server(role: &str, addresses: Vec<Value>) -> Value {
        Value::map([("addresses", addresses.into()), ("role", role.into())])
    }

    fn listing(servers: Vec<Value>, ttl: i64) -> Result<Listing, &'static str> {
        Listing::parse(&payload(Value::map([
            ("servers", servers.into()),
            ("ttl", ttl.into()),
            ("db", "neo4j".into()),
        ])))
    }

    #[test]
    fn a_table_is_read() {
        let read = listing(
            vec![
                server("WRITE", vec!["A:1".into()]),
                server("READ", vec!["b:2".into(), "[::1]:3".into()]),
                server("ROUTE", vec!["c".into()]),
            ],
            300,
        )
        .unwrap();
        let names = |role| read.of(role).iter().map(Address::to_string).collect::<Vec<_>>();
        assert_eq!(names(Role::Writer), ["a:1"]);
        assert_eq!(names(Role::Reader), ["b:2", "[::1]:3"]);
        assert_eq!(names(Role::Router), ["c:7687"]);
        assert_eq!((read.ttl, read.database.as_deref()), (Duration::from_secs(300), Some("neo4j")));
    }

    #[test]
    fn a_hostile_table_is_cut_down_to_what_can_be_used() {
        let garbage = ["", ":", "a:0", "a:70000", "a b:1", "[::1", "\u{0}:1", &"x".repeat(300), "::1:5"];
        let mut addresses: Vec<Value> = garbage.map(Value::from).into();
        addresses.extend([Value::Null, Value::Integer(7), "ok:1".into(), "OK:1".into(), "ok:1".into()]);
        let read =
            listing(vec![server("READ", addresses), server("FUTURE", vec!["x:1".into()])], 300).unwrap();
        assert_eq!(read.of(Role::Reader).iter().map(Address::to_string).collect::<Vec<_>>(), ["ok:1"]);
        assert!(read.of(Role::Writer).is_empty());

        let many = (0..100_000).map(|i| Value::from(format!("h{i}:1"))).collect::<Vec<_>>();
        let read = listing(vec![server("WRITE", many.clone()), server("WRITE", many)], 300).unwrap();
        assert_eq!(read.of(Role::Writer).len(), MAX_ADDRESSES);
        for (ttl, seconds) in [(i64::MIN, 1), (-1, 1), (0, 1), (5, 5), (i64::MAX, LONGEST_TTL)] {
            assert_eq!(listing(vec![], ttl).unwrap().ttl, Duration::from_secs(seconds));
        }
    }

    #[test]
    fn what_is_no_table_says_why() {
        let refused = |payload: &[u8]| Listing::parse(payload).unwrap_err();
        assert_eq!(refused(&[]), "it holds no table");
        assert_eq!(refused(&[0xB1, 0x70, 0xA0]), "it holds no table");
        assert_eq!(refused(&payload(Value::map([]))), "its ttl is no integer");
        assert_eq!(refused(&payload(Value::map([("ttl", 3.into())]))), "it lists no servers");
        let odd = |servers| payload(Value::map([("ttl", 3.into()), ("servers", servers)]));
        assert_eq!(refused(&odd(7.into())), "its servers cannot be read");
        assert_eq!(refused(&odd(vec![7.into()].into())), "its servers cannot be read");
        let nested = Value::map([("role", "READ".into()), ("addresses", "a:1".into())]);
        assert_eq!(refused(&odd(vec![nested].into())), "its servers cannot be read");
    }

    #[test]
    fn route_names_the_servers_own_address() {
        let context = context(Some("region=eu%20west&policy=a%zz"));
        let mut out = BytesMut::new();
        write_route("db:7687", &MapView::parse(&context).unwrap(), Some("x"), None, &mut out);
        let route = Route::parse(&out[2..out.len() - 2]).unwrap();
        assert_eq!(route.context.string("address"), Some("db:7687"));
        assert_eq!(route.context.string("region"), Some("eu west"));
        assert_eq!(route.context.string("policy"), Some("a%zz"));
        assert_eq!(route.database, Some("x"));
        out.clear();
        write_route("db:7687", &MapView::EMPTY, None, Some("ann"), &mut out);
        assert_eq!(Route::parse(&out[2..out.len() - 2]).unwrap().database, None);
    }

    #[test]
    fn the_proxys_own_address_is_recognised() {
        let leads =
            |address: &str, listen: &str| Address::parse(address).unwrap().leads_to(listen.parse().unwrap());
        assert!(leads("127.0.0.1:7687", "127.0.0.1:7687") && leads("localhost:7687", "127.0.0.1:7687"));
        assert!(leads("localhost:7687", "0.0.0.0:7687") && leads("127.0.0.1:7687", "0.0.0.0:7687"));
        assert!(!leads("127.0.0.1:7688", "127.0.0.1:7687") && !leads("127.0.0.1:7687", "10.0.0.1:7687"));
        assert!(!leads("127.0.0.2:7687", "127.0.0.1:7687") && !leads("db:7687", "0.0.0.0:7687"));
    }
}
