//! `upstream.uri`, taken apart.

use std::fmt;
use std::net::Ipv6Addr;

use super::error::meant;

/// The port of Bolt when the URI names none.
const DEFAULT_PORT: u16 = 7687;

/// Where Neo4j is and how it is reached.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct UpstreamUri {
    /// As written, in lower case: `bolt`, `neo4j+s`, ….
    pub scheme: &'static str,
    /// Name or IP address, without brackets.
    pub host: String,
    /// Port, 7687 by default.
    pub port: u16,
    /// `neo4j…://`: ask for a routing table, and send writes to the leader.
    pub routing: bool,
    /// Whether TLS is used and whom it trusts.
    pub tls: TlsTrust,
    /// What follows `?`, for the routing context; only with `neo4j…://`.
    pub routing_context: Option<String>,
}

/// Whether TLS is used upstream and whom it trusts.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum TlsTrust {
    /// No TLS.
    Off,
    /// `+s`: a certificate for this host from a known CA (the system's, or `upstream.ca_file`).
    Verify,
    /// `+ssc`: any certificate, self-signed ones too.
    Any,
}

/// Why a URI cannot be used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UriError {
    /// What is wrong; never repeats credentials.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

impl fmt::Display for UriError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.hint)
    }
}

impl std::error::Error for UriError {}

const SCHEMES: [(&str, bool, TlsTrust); 6] = [
    ("bolt", false, TlsTrust::Off),
    ("bolt+s", false, TlsTrust::Verify),
    ("bolt+ssc", false, TlsTrust::Any),
    ("neo4j", true, TlsTrust::Off),
    ("neo4j+s", true, TlsTrust::Verify),
    ("neo4j+ssc", true, TlsTrust::Any),
];

const EXAMPLE: &str = "write scheme://host:port, for example bolt://neo4j:7687";
const HOST_EXAMPLE: &str = "write host:port, for example neo4j:7687";

impl UpstreamUri {
    /// Takes a URI apart by the rules of the official drivers.
    pub fn parse(text: &str) -> Result<Self, UriError> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(fault("has no scheme", EXAMPLE));
        };
        let (scheme, routing, tls) = scheme_named(scheme)?;
        let (authority, query) = match rest.split_once('?') {
            Some((authority, query)) => (authority, Some(query)),
            None => (rest, None),
        };
        if authority.contains('@') {
            return Err(fault(
                "holds a user name or password",
                "put them into auth.username and auth.password_file",
            ));
        }
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        if authority.contains(['/', '#']) {
            return Err(fault("has a path", "end it after the port; clients choose the database themselves"));
        }
        let (host, port) = host_and_port(authority)?;
        let routing_context = query.filter(|query| !query.is_empty()).map(str::to_owned);
        if let Some(context) = &routing_context {
            check_context(context, routing)?;
        }
        Ok(Self { scheme, host, port, routing, tls, routing_context })
    }

    /// `host:port`, with brackets around an IPv6 address.
    pub fn address(&self) -> String {
        join(&self.host, self.port)
    }
}

impl fmt::Display for UpstreamUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.address())?;
        self.routing_context.iter().try_for_each(|context| write!(f, "?{context}"))
    }
}

/// Takes `host:port`, `host` or `[ipv6]:port` apart.
pub(crate) fn host_and_port(text: &str) -> Result<(String, u16), UriError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) =
                rest.split_once(']').ok_or_else(|| fault("has `[` without `]`", "write [::1]:7687"))?;
            host.parse::<Ipv6Addr>()
                .map_err(|_| fault(format!("`{host}` is not an IPv6 address"), "write [::1]:7687"))?;
            match after {
                "" => (host, None),
                _ => (
                    host,
                    Some(after.strip_prefix(':').ok_or_else(|| fault("has text after `]`", HOST_EXAMPLE))?),
                ),
            }
        }
        None => match text.rsplit_once(':') {
            Some((host, _)) if host.contains(':') => {
                return Err(fault("has an IPv6 address without brackets", "write [::1]:7687"));
            }
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return Err(fault("has no host", HOST_EXAMPLE));
    }
    if let Some(odd) = host.chars().find(|c| !(c.is_alphanumeric() || "-._:".contains(*c))) {
        return Err(fault(format!("has `{odd}` in the host"), HOST_EXAMPLE));
    }
    let port = match port {
        None => DEFAULT_PORT,
        Some(port) => match port.parse() {
            Ok(number) if number > 0 => number,
            _ => return Err(fault(format!("`{port}` is not a port"), "use a port from 1 to 65535")),
        },
    };
    Ok((host.to_owned(), port))
}

fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn scheme_named(written: &str) -> Result<(&'static str, bool, TlsTrust), UriError> {
    let scheme = written.to_ascii_lowercase();
    if let Some(known) = SCHEMES.iter().find(|known| known.0 == scheme) {
        return Ok(*known);
    }
    let hint = match scheme.as_str() {
        "http" | "https" | "ws" | "wss" => "that is not Bolt; write bolt://host:7687".to_owned(),
        _ => match meant(&scheme, SCHEMES.map(|known| known.0)) {
            Some(near) => format!("did you mean `{near}://`?"),
            None => format!("use one of {}", SCHEMES.map(|known| known.0).join(", ")),
        },
    };
    Err(fault(format!("unknown scheme `{written}`"), hint))
}

/// The rules of the drivers: only with routing, each part `key=value`, no key twice, and `address` is theirs.
fn check_context(context: &str, routing: bool) -> Result<(), UriError> {
    if !routing {
        return Err(fault(
            "has parameters, which bolt:// does not take",
            "remove what follows `?`, or use neo4j://",
        ));
    }
    let mut seen = Vec::new();
    for part in context.split('&') {
        match part.split_once('=') {
            Some((key, value)) if !key.is_empty() && !value.is_empty() => {
                if key == "address" || seen.contains(&key) {
                    return Err(fault(format!("parameter `{key}` may not be given here"), "remove it"));
                }
                seen.push(key);
            }
            _ => {
                return Err(fault(
                    format!("parameter `{part}` is not key=value"),
                    "write ?key=value&key=value",
                ));
            }
        }
    }
    Ok(())
}

fn fault(message: impl Into<String>, hint: impl Into<String>) -> UriError {
    UriError { message: message.into(), hint: hint.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> UpstreamUri {
        UpstreamUri::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn every_scheme_has_its_meaning() {
        for (scheme, routing, tls) in SCHEMES {
            let parsed = uri(&format!("{scheme}://db.example:1234"));
            assert_eq!((parsed.scheme, parsed.routing, parsed.tls), (scheme, routing, tls));
            assert_eq!(parsed.address(), "db.example:1234");
        }
        assert_eq!(uri("NEO4J+S://x").scheme, "neo4j+s");
    }

    #[test]
    fn hosts_ports_and_contexts() {
        assert_eq!(uri("bolt://neo4j").port, 7687);
        assert_eq!(uri("bolt://neo4j:1/").port, 1);
        assert_eq!(uri("bolt://[::1]").address(), "[::1]:7687");
        assert_eq!(uri("bolt://[::1]:9").host, "::1");
        assert_eq!(
            uri("neo4j://a?region=eu&policy=x").routing_context.as_deref(),
            Some("region=eu&policy=x")
        );
        assert_eq!(uri("neo4j://a?").routing_context, None);
        let text = "neo4j+ssc://[fe80::1]:70?a=b";
        assert_eq!(uri(text).to_string(), text);
    }

    #[test]
    fn bad_uris_say_why() {
        let cases = [
            ("neo4j:7687", "has no scheme"),
            ("blot://x", "unknown scheme `blot` (did you mean `bolt://`?)"),
            ("http://x:7474", "that is not Bolt"),
            ("zzzzzzzzz://x", "use one of bolt, bolt+s"),
            ("bolt://", "has no host"),
            ("bolt://:7687", "has no host"),
            ("bolt://x:0", "`0` is not a port"),
            ("bolt://x:70000", "`70000` is not a port"),
            ("bolt://x:", "`` is not a port"),
            ("bolt://::1:7687", "without brackets"),
            ("bolt://[::1", "without `]`"),
            ("bolt://[zz]:1", "`zz` is not an IPv6 address"),
            ("bolt://[::1]7687", "text after `]`"),
            ("bolt://x y", "has ` ` in the host"),
            ("bolt://x/neo4j", "has a path"),
            ("bolt://x?a=b", "bolt:// does not take"),
            ("neo4j://x?a", "`a` is not key=value"),
            ("neo4j://x?a=1&a=2", "`a` may not be given"),
            ("neo4j://x?address=1", "`address` may not be given"),
        ];
        for (text, part) in cases {
            let error = UpstreamUri::parse(text).expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        let error = UpstreamUri::parse("bolt://neo4j:hunter2@x").expect_err("credentials").to_string();
        assert!(error.contains("auth.password_file") && !error.contains("hunter2"), "{error}");
    }
}
