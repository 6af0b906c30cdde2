//! What distinguishes the connections of one pool.

use bolt_wire::Version;

/// Two connections with equal keys can serve the same clients (from 5.1 after a LOGON).
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Key {
    /// The exact Bolt version: values, metadata and failures depend on it.
    pub(crate) version: Version,
    /// The `utc` patch of 4.4.
    pub(crate) utc: bool,
    /// HELLO's routing context without the address, as a PackStream map; none = the client asked for no routing.
    pub(crate) routing: Option<Box<[u8]>>,
    /// HELLO's notification filter, as PackStream entries; only for requests too large to carry it themselves.
    pub(crate) filter: Option<Box<[u8]>>,
    /// Up to 5.0, where a connection cannot change its user: the principal.
    pub(crate) principal: Option<[u8; 32]>,
}

impl Key {
    /// The usual kind of connection.
    pub(crate) fn plain(version: Version) -> Self {
        Self { version, utc: false, routing: None, filter: None, principal: None }
    }
}
