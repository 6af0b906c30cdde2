//! Which environment variables are ours, and the keys they set.

use std::ffi::OsStr;

use super::error::nearest;
use super::schema::{Key, PREFIX, keys};

/// Environment variables that users know from elsewhere, and the keys they set.
const KNOWN_VARIABLES: [(&str, &str); 11] = [
    ("NEO4J_URI", "upstream.uri"),
    ("NEO4J_USERNAME", "auth.username"),
    ("NEO4J_PASSWORD", "auth.password"),
    ("NEO4J_MAX_POOL_SIZE", "pool.max_connection_pool_size"),
    ("NEO4J_FETCH_SIZE", "upstream.fetch_size"),
    ("GNN_DEVICE", "gnn.device"),
    ("GNN_EMBEDDING_DIM", "gnn.embedding_dim"),
    ("GNN_HIDDEN_DIM", "gnn.hidden_dim"),
    ("GNN_NUM_LAYERS", "gnn.num_layers"),
    ("GNN_PREWARM", "gnn.prewarm"),
    ("GNN_MODEL", "gnn.model"),
];

/// Variables with the prefix that are not keys: the file to read, and the build's own.
const NOT_KEYS: [&str; 5] = [
    "SIDEBOLT_CONFIG",
    "SIDEBOLT_GIT_HASH",
    "SIDEBOLT_CACHE",
    "SIDEBOLT_TEST_NO_SKIP",
    "SIDEBOLT_TEST_PICTURES",
];

/// What a variable is to us.
pub(super) enum Variable {
    /// It sets this key.
    Key(&'static str),
    /// It is none of ours.
    Foreign,
    /// It looks like ours, but sets no key; this one is nearest.
    Unknown(String),
}

/// Tells what a variable is.
pub(super) fn meaning(name: &str, value: &OsStr) -> Variable {
    if let Some((_, key)) = KNOWN_VARIABLES.iter().find(|(known, _)| *known == name) {
        return Variable::Key(key);
    }
    if !name.starts_with(PREFIX) || NOT_KEYS.contains(&name) || is_service_link(name, value) {
        return Variable::Foreign;
    }
    if let Some(key) = keys().iter().find(|key| key.variable() == name) {
        return Variable::Key(&key.path);
    }
    let known: Vec<String> = keys().iter().map(Key::variable).collect();
    let inside = format!("{name}__");
    let of_section = known.iter().find(|variable| variable.starts_with(&inside)).cloned();
    let near = || nearest(name, known.iter().map(String::as_str)).map(|(near, _)| near.to_owned());
    Variable::Unknown(of_section.or_else(near).unwrap_or_default())
}

/// Kubernetes gives every pod such variables for each service; one named `sidebolt…` must not break the start.
fn is_service_link(name: &str, value: &OsStr) -> bool {
    let is_port = |rest: &str| {
        let mut parts = rest.splitn(3, '_');
        let number = parts.next().is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        number && matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"))
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.split_once("_PORT_").is_some_and(|(_, rest)| is_port(rest))
        || (name.ends_with("_PORT") && value.to_str().is_some_and(|value| value.contains("://")))
}
