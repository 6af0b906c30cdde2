//! What an operator may set: one struct per section of `proxy.yaml`, with its defaults.
//!
//! Loading (YAML, environment, command line) is in `load`, following changes in `reload`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

mod breaker;
mod cache;
mod coalesce;
mod environment;
mod error;
mod excerpt;
mod gnn;
mod guard;
mod load;
mod read;
pub mod reload;
mod retry;
mod schema;
mod show;
mod sight;
mod telemetry;
mod tree;
mod units;
pub mod uri;
mod users;
mod validate;
mod when;

pub use breaker::Breaker;
pub use cache::{Cache, CacheRule, Consistency, Store};
pub use coalesce::Coalesce;
pub(crate) use error::meant;
pub use error::{ConfigError, ConfigErrors};
pub use gnn::{Device, Gnn};
pub use guard::{Action, Cost, Guard, Limit, Per, Rate, Rule, Unit};
pub use load::{Loaded, Override, Sources};
pub use retry::Retry;
pub use schema::{Key, keys};
pub use sight::{History, Parameters, Sight, SlowRule};
pub use telemetry::{Otlp, Telemetry};
pub use uri::{TlsTrust, UpstreamUri};
pub use users::Users;
pub use when::{AccessKind, When};

use units::{AddressText, DurationText, OptionalAddress, OptionalTls, SizeText};

/// The whole configuration. Every key has a default that is safe on loopback.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The side that faces the drivers.
    pub listen: Listen,
    /// The side that faces Neo4j.
    pub upstream: Upstream,
    /// How many upstream connections, and how long each may live or be waited for.
    pub pool: Pool,
    /// Whose credentials are used upstream.
    pub auth: Auth,
    /// Concurrent single writes become batches.
    pub coalesce: Coalesce,
    /// Answers of hot reads are kept while they are right.
    pub cache: Cache,
    /// A server that fails is left alone.
    pub breaker: Breaker,
    /// What failed for a passing reason is run again.
    pub retry: Retry,
    /// How much of Neo4j anybody may have.
    pub guard: Guard,
    /// What is seen of the queries.
    pub sight: Sight,
    /// What other programs are told of them.
    pub telemetry: Telemetry,
    /// Embeddings of nodes, as procedures.
    pub gnn: Gnn,
    /// What is held in memory for one client.
    pub limits: Limits,
    /// Indexes and constraints to make sure of at start: a list of entries with `label` or `type`, `properties`, and if wanted `unique: true`, `name`, `database`.
    #[schemars(extend("x-unit" = "list", "x-example" = "- {label: Resource, properties: [id], unique: true}"))]
    pub indexes: Vec<Index>,
    /// Metrics and health.
    pub admin: Admin,
    /// Log lines.
    pub log: Log,
    /// What happens at SIGTERM.
    pub shutdown: Shutdown,
}

/// `listen`: the Bolt port for drivers.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// Address and port to bind.
    #[serde(with = "AddressText")]
    #[schemars(extend("x-restart" = true))]
    pub address: SocketAddr,
    /// `host:port` that `neo4j://` clients are told when they named no address themselves; by default the address they connected to.
    pub advertised_address: Option<String>,
    /// TLS on the same port; off unless a certificate is named.
    #[serde(with = "OptionalTls")]
    pub tls: Option<ListenTls>,
    /// Accept Bolt over WebSocket (and answer plain HTTP GET) on the same port.
    pub websocket: bool,
    /// Clients at once, logged in or not.
    #[schemars(extend("x-min" = "1", "x-max" = "1000000"))]
    pub max_connections: usize,
    /// Clients at once from one address; 0 = only `max_connections` counts.
    #[schemars(extend("x-min" = "0", "x-max" = "1000000"))]
    pub max_connections_per_address: usize,
    /// From accept to the chosen Bolt version (TLS and WebSocket upgrade included).
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "1ms", "x-max" = "1h"))]
    pub handshake_timeout: Duration,
    /// From the handshake to a successful login.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "1ms", "x-max" = "1h"))]
    pub login_timeout: Duration,
    /// Largest message before login, in bytes.
    #[serde(with = "SizeText")]
    #[schemars(extend("x-min" = "1KiB", "x-max" = "16MiB"))]
    pub max_login_message: usize,
    /// How long a client may take none of its answers, or stop in the middle of a request, before it is closed.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "1s", "x-max" = "24h"))]
    pub write_timeout: Duration,
}

/// `listen.tls` and `admin.tls`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ListenTls {
    /// PEM file with the certificate chain.
    pub cert_file: PathBuf,
    /// PEM file with the private key.
    pub key_file: PathBuf,
    /// PEM file with the CAs that client certificates must come from; none = clients need no certificate.
    pub client_ca_file: Option<PathBuf>,
    /// Refuse clients that do not use TLS.
    #[serde(default)]
    pub required: bool,
}

/// `upstream`: Neo4j.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Upstream {
    /// `bolt://`, `bolt+s://`, `bolt+ssc://`, `neo4j://`, `neo4j+s://` or `neo4j+ssc://`, then `host` or `host:port`.
    #[schemars(extend("x-restart" = true))]
    pub uri: String,
    /// PEM file with the CAs to trust for `+s`, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file with Sidebolt's own certificate chain for a server that asks for one.
    pub cert_file: Option<PathBuf>,
    /// PEM file with the key of `cert_file`.
    pub key_file: Option<PathBuf>,
    /// From connect to the end of the TLS and Bolt handshakes.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "1ms", "x-max" = "1h"))]
    pub connection_timeout: Duration,
    /// TCP keep-alive interval; 0 = off.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "0s", "x-max" = "1day"))]
    pub keep_alive: Duration,
    /// Silence (no byte, not even a NOOP) after which a connection with an unanswered request is given up; 0 = use the server's own hint.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "0s", "x-max" = "1day"))]
    pub read_timeout: Duration,
    /// Records per PULL for the statements that Sidebolt sends itself.
    #[schemars(extend("x-min" = "-1", "x-max" = "1000000000"))]
    pub fetch_size: i64,
}

/// `pool`: the upstream connections of each server address.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pool {
    /// Upstream connections at once, per server address.
    #[schemars(extend("x-min" = "1", "x-max" = "100000"))]
    pub max_connection_pool_size: usize,
    /// Idle connections kept warm (needs `auth.username`).
    #[schemars(extend("x-min" = "0", "x-max" = "100000"))]
    pub min_idle: usize,
    /// How long a request may wait for a connection.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "1ms", "x-max" = "1h"))]
    pub connection_acquisition_timeout: Duration,
    /// Requests that may wait at once; more are refused at once.
    #[schemars(extend("x-min" = "0", "x-max" = "1000000"))]
    pub max_waiting: usize,
    /// Age after which an idle connection is replaced, less up to `lifetime_jitter`.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "1s", "x-max" = "30days"))]
    pub max_connection_lifetime: Duration,
    /// Share of the lifetime, 0 to 1, by which it varies, so that connections do not all end together.
    #[schemars(extend("x-min" = "0", "x-max" = "1"))]
    pub lifetime_jitter: f64,
    /// Idle time after which a connection above `min_idle` is closed.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "1s", "x-max" = "30days"))]
    pub idle_timeout: Duration,
    /// Idle time after which a connection is tested (RESET) before it is lent.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "0s", "x-max" = "30days"))]
    pub connection_liveness_check_timeout: Duration,
    /// How long the clean-up of a connection whose client vanished may take before it is closed.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "1ms", "x-max" = "10m"))]
    pub reset_timeout: Duration,
}

/// `auth`: whose credentials are used upstream.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// `passthrough`: the client's own. `service`: those below, for everybody.
    pub mode: AuthMode,
    /// How long a proof by the server of a client's credentials is believed.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "0s", "x-max" = "1day"))]
    pub cache_ttl: Duration,
    /// User for `service` mode, `pool.min_idle` and health checks.
    pub username: Option<String>,
    /// Password of `username`.
    pub password: Option<Secret>,
    /// File with the password (trailing newline ignored), instead of `password`.
    pub password_file: Option<PathBuf>,
    /// `service` mode: the credentials (basic or bearer) that clients must show; without it only loopback clients are let in.
    pub client_token: Option<Secret>,
    /// File with `client_token`.
    pub client_token_file: Option<PathBuf>,
    /// `service` mode: file with the users that may come in, `name:password` a line, instead of `client_token`. Rules and logs know them by these names.
    pub users_file: Option<PathBuf>,
    /// What `users_file` says.
    #[serde(skip)]
    pub users: Option<Users>,
}

/// `auth.mode`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// Each client's own credentials, proved by Neo4j.
    Passthrough,
    /// Sidebolt's own credentials upstream.
    Service,
}

/// `limits`: bytes held in memory for one client.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// A request up to this size is held whole and inspected; a larger one streams through.
    #[serde(with = "SizeText")]
    #[schemars(extend("x-min" = "1KiB", "x-max" = "1GiB"))]
    pub max_inspected_request: usize,
    /// Largest summary (SUCCESS, FAILURE) that is accepted from Neo4j.
    #[serde(with = "SizeText")]
    #[schemars(extend("x-min" = "64KiB", "x-max" = "1GiB"))]
    pub max_summary: usize,
    /// Bytes of pipelined requests held while an earlier one runs.
    #[serde(with = "SizeText")]
    #[schemars(extend("x-min" = "1KiB", "x-max" = "1GiB"))]
    pub max_pipelined: usize,
}

/// `indexes`: an index or constraint that Sidebolt makes sure of.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Index {
    /// The label of the nodes; `type` for relationships instead.
    pub label: Option<String>,
    /// The type of the relationships; `label` for nodes instead.
    pub r#type: Option<String>,
    /// The properties, one or more, in order.
    pub properties: Vec<String>,
    /// A uniqueness constraint (which has an index of its own) instead of an index.
    pub unique: bool,
    /// Its name; Neo4j chooses one if there is none.
    pub name: Option<String>,
    /// The database; none = the user's home database.
    pub database: Option<String>,
}

/// `admin`: metrics and health over HTTP.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Address and port, or `off` for no admin port.
    #[serde(with = "OptionalAddress")]
    #[schemars(extend("x-restart" = true))]
    pub address: Option<SocketAddr>,
    /// Who asks for anything but health must show it (`Authorization: Bearer …`).
    pub token: Option<Secret>,
    /// File with `token`.
    pub token_file: Option<PathBuf>,
    /// HTTPS on the same port; off unless a certificate is named.
    #[serde(with = "OptionalTls")]
    pub tls: Option<ListenTls>,
}

/// `log`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter like `info,sidebolt::upstream=debug`.
    pub level: String,
    /// `text` or `json`.
    #[schemars(extend("x-restart" = true))]
    pub format: LogFormat,
}

/// `log.format`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `shutdown`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shutdown {
    /// How long running transactions may take to finish after SIGTERM.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "0s", "x-max" = "1day"))]
    pub drain_timeout: Duration,
}

/// A string that never shows in logs or debug output and is wiped when dropped.
#[derive(Clone, Default, Deserialize, JsonSchema, PartialEq)]
#[serde(transparent)]
#[schemars(extend("x-secret" = true))]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 7687)),
            advertised_address: None,
            tls: None,
            websocket: true,
            max_connections: 20_000,
            max_connections_per_address: 0,
            handshake_timeout: Duration::from_secs(5),
            login_timeout: Duration::from_secs(30),
            max_login_message: 8 * 1024,
            write_timeout: Duration::from_secs(15 * 60),
        }
    }
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            uri: "bolt://neo4j:7687".to_owned(),
            ca_file: None,
            cert_file: None,
            key_file: None,
            connection_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(60),
            read_timeout: Duration::ZERO,
            fetch_size: 1000,
        }
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            max_connection_pool_size: 100,
            min_idle: 0,
            connection_acquisition_timeout: Duration::from_secs(60),
            max_waiting: 10_000,
            max_connection_lifetime: Duration::from_secs(3600),
            lifetime_jitter: 0.1,
            idle_timeout: Duration::from_secs(600),
            connection_liveness_check_timeout: Duration::from_secs(30),
            reset_timeout: Duration::from_secs(5),
        }
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            mode: AuthMode::Passthrough,
            cache_ttl: Duration::from_secs(60),
            username: None,
            password: None,
            password_file: None,
            client_token: None,
            client_token_file: None,
            users_file: None,
            users: None,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_inspected_request: 1024 * 1024, max_summary: 16 * 1024 * 1024, max_pipelined: 1024 * 1024 }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            address: Some(SocketAddr::from(([127, 0, 0, 1], 9090))),
            token: None,
            token_file: None,
            tls: None,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { drain_timeout: Duration::from_secs(30) }
    }
}
