//! The table: every refusal of Sidebolt's own as the FAILURE that drivers understand.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use bolt_wire::message::Failure;
use bolt_wire::packstream::Value;
use bolt_wire::packstream::value::put_message;
use bolt_wire::server::State;
use bolt_wire::{Tag, Version};
use bytes::BytesMut;
use thiserror::Error;

/// The code with which Neo4j itself sheds load. Every official driver retries it in managed transactions and keeps its connection.
const SHED: &str = "Neo.TransientError.Request.NoThreadsAvailable";
/// The GQL status that belongs to it.
const SHED_STATUS: &str = "51N59";
/// The code for credentials that are not accepted.
const UNAUTHORIZED: &str = "Neo.ClientError.Security.Unauthorized";
/// The GQL status that belongs to it.
const UNAUTHORIZED_STATUS: &str = "42NFF";

/// Why Sidebolt itself refuses a request. Neo4j's own failures are forwarded and never come here.
#[derive(Clone, Debug, Error)]
pub(crate) enum Refusal {
    /// No connection to Neo4j could be made.
    #[error("Neo4j at {address} cannot be reached: {reason}")]
    Unreachable {
        /// The server's address.
        address: String,
        /// What the attempt said.
        reason: String,
    },
    /// Neo4j does not speak the client's Bolt version (any more).
    #[error("Neo4j at {address} does not speak Bolt {version}")]
    VersionUnsupported {
        /// The server's address.
        address: String,
        /// The client's version.
        version: Version,
    },
    /// Every connection stayed busy for too long.
    #[error(
        "no connection to {address} became free within {waited:?} (pool.max_connection_pool_size is {size})"
    )]
    AcquisitionTimeout {
        /// The server's address.
        address: String,
        /// How long the request waited.
        waited: Duration,
        /// The pool's size.
        size: usize,
    },
    /// Too many requests are waiting already.
    #[error("{waiting} requests are waiting for a connection to {address} already (pool.max_waiting)")]
    QueueFull {
        /// The server's address.
        address: String,
        /// Requests that wait.
        waiting: usize,
    },
    /// The server has failed too often lately: nobody is sent there.
    #[error(
        "Neo4j at {address} cannot be reached or fails, and its circuit breaker is open (the last failure: {reason})"
    )]
    BreakerOpen {
        /// The server's address.
        address: String,
        /// The last failure.
        reason: String,
        /// When to try again.
        retry: Duration,
    },
    /// A rate of `guard.limits` is used up.
    #[error(
        "the limit `{rule}` lets no more than {limit} pass{whom}, and {left} are left for a request that costs {cost}"
    )]
    RateLimited {
        /// The limit's name.
        rule: String,
        /// Its rate.
        limit: String,
        /// For whom.
        whom: String,
        /// Tokens left.
        left: u32,
        /// Tokens wanted.
        cost: u32,
        /// When there are enough.
        retry: Duration,
    },
    /// Too many are at Neo4j, and too many wait.
    #[error("{why} because of {rules}")]
    Crowded {
        /// The limits that are full.
        rules: String,
        /// What happened.
        why: String,
    },
    /// Sidebolt itself takes too much memory.
    #[error("Sidebolt takes {used} bytes of memory, {most} at most (guard.max_memory)")]
    Memory {
        /// Bytes that it takes.
        used: u64,
        /// Bytes that it may take.
        most: usize,
    },
    /// A rule of `guard.rules` denies it.
    #[error("this statement is not allowed here ({rule})")]
    Denied {
        /// The rule, or its reason.
        rule: String,
    },
    /// Its user may only read.
    #[error("writing is not allowed here (guard.read_only or a rule read_only)")]
    ReadOnly,
    /// A statement is larger than it may be.
    #[error("the statement's {what} has {bytes} bytes, {most} at most ({key})")]
    TooLarge {
        /// Text or parameters.
        what: &'static str,
        /// Its bytes.
        bytes: usize,
        /// So many there may be.
        most: usize,
        /// The key that says so.
        key: &'static str,
    },
    /// A result has more than it may have.
    #[error("the result has more than {most} {what} ({key})")]
    ResultTooLarge {
        /// Rows or bytes.
        what: &'static str,
        /// So many there may be.
        most: u64,
        /// The key that says so.
        key: &'static str,
    },
    /// Its client sent nothing for too long.
    #[error("the transaction was rolled back: nothing came for {limit:?} (guard.idle_transaction_timeout)")]
    Idle {
        /// The limit.
        limit: Duration,
    },
    /// No member of the cluster takes this request.
    #[error("no {role} is known for database {database}: {reason}")]
    NoMember {
        /// What was looked for.
        role: &'static str,
        /// The database.
        database: String,
        /// What the last look said.
        reason: String,
    },
    /// A transaction's write, run again without others that shared its commit, would be answered otherwise than it was.
    #[error(
        "the transaction's write was rolled back with one that shared its commit, and would be answered otherwise now"
    )]
    Outdated,
    /// Transaction metadata has hints for Sidebolt that mean nothing.
    #[error("the transaction metadata sidebolt has {found}, which means nothing")]
    Hint {
        /// What it has.
        found: String,
    },
    /// `auth.mode: service`, and the client has not shown the token.
    #[error("the credentials are not those of auth.client_token")]
    TokenMismatch,
    /// `auth.mode: service` without a token lets only loopback clients in.
    #[error("clients from other machines need auth.client_token or auth.users_file to be set")]
    TokenRequired,
    /// `auth.mode: service`, and the client has not shown a user's name and password.
    #[error("the credentials are not those of a user of auth.users_file")]
    UserMismatch,
}

impl Refusal {
    /// What to do about it.
    fn advice(&self) -> Cow<'static, str> {
        let advice = match self {
            Self::BreakerOpen { retry, .. } | Self::RateLimited { retry, .. } => {
                let millis = u64::try_from(retry.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
                return format!("try again in {:?}", Duration::from_millis(millis)).into();
            }
            Self::Crowded { .. } => "try again later, or raise max_in_flight",
            Self::Memory { .. } => "try again later, or raise guard.max_memory",
            Self::Denied { .. } | Self::ReadOnly => "ask whoever runs Sidebolt",
            Self::TooLarge { .. } => "send less at once",
            Self::ResultTooLarge { .. } => "ask for less, with LIMIT for example",
            Self::Idle { .. } => "begin another one, and do not pause in it",
            Self::Unreachable { .. } => "try again; if it stays, check upstream.uri and that Neo4j runs",
            Self::VersionUnsupported { .. } => "connect again to negotiate another version",
            Self::AcquisitionTimeout { .. } => {
                "try again, shorten transactions, or raise pool.max_connection_pool_size"
            }
            Self::QueueFull { .. } => "try again later",
            Self::NoMember { .. } => "try again; if it stays, check the cluster",
            Self::Outdated => "try again",
            Self::Hint { .. } => {
                "give {coalesce: 'off'}, {coalesce: 'exact'} or {coalesce: 'deferred'}; {cache: 'off'}, {cache: 'strict'}, {cache: 'bounded'} or {cache: 'ttl'}; {priority: 'high'}, {priority: 'normal'} or {priority: 'low'}"
            }
            Self::TokenMismatch | Self::TokenRequired => "give the token as password or bearer credentials",
            Self::UserMismatch => "check user and password",
        };
        advice.into()
    }

    /// The name under which metrics count it.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::VersionUnsupported { .. } => "version_unsupported",
            Self::AcquisitionTimeout { .. } => "acquisition_timeout",
            Self::QueueFull { .. } => "queue_full",
            Self::BreakerOpen { .. } => "breaker_open",
            Self::RateLimited { .. } => "rate_limited",
            Self::Crowded { .. } => "crowded",
            Self::Memory { .. } => "memory",
            Self::Denied { .. } => "denied",
            Self::ReadOnly => "read_only",
            Self::TooLarge { .. } => "too_large",
            Self::ResultTooLarge { .. } => "result_too_large",
            Self::Idle { .. } => "idle_transaction",
            Self::NoMember { .. } => "no_member",
            Self::Outdated => "outdated",
            Self::Hint { .. } => "hint",
            Self::TokenMismatch => "token_mismatch",
            Self::TokenRequired => "token_required",
            Self::UserMismatch => "user_mismatch",
        }
    }

    /// The message for the driver.
    pub(crate) fn to_failure(&self) -> Failure {
        let (code, status) = self.code();
        Failure::new(code, status, format!("Sidebolt: {self}; {}.", self.advice()))
    }

    /// Neo4j code and GQL status.
    pub(crate) fn code(&self) -> (&'static str, &'static str) {
        match self {
            Self::TokenMismatch | Self::TokenRequired | Self::UserMismatch => {
                (UNAUTHORIZED, UNAUTHORIZED_STATUS)
            }
            Self::Hint { .. } => ("Neo.ClientError.Statement.ArgumentError", "22N00"),
            Self::Denied { .. } => ("Neo.ClientError.Security.Forbidden", UNAUTHORIZED_STATUS),
            Self::ReadOnly => ("Neo.ClientError.Statement.AccessMode", "25N06"),
            Self::TooLarge { .. } | Self::ResultTooLarge { .. } => {
                ("Neo.ClientError.General.LimitExceeded", "22N00")
            }
            Self::Idle { .. } => ("Neo.ClientError.Transaction.TransactionTimedOut", "25N14"),
            Self::Outdated => ("Neo.TransientError.Transaction.Outdated", "40000"),
            Self::Unreachable { .. }
            | Self::VersionUnsupported { .. }
            | Self::AcquisitionTimeout { .. }
            | Self::QueueFull { .. }
            | Self::BreakerOpen { .. }
            | Self::RateLimited { .. }
            | Self::Crowded { .. }
            | Self::Memory { .. }
            | Self::NoMember { .. } => (SHED, SHED_STATUS),
        }
    }

    /// The one after this in the reference table. A new refusal has no place here yet, which the compiler notices.
    fn following(&self) -> Option<Self> {
        let address = || "neo4j:7687".to_owned();
        Some(match self {
            Self::Unreachable { .. } => {
                Self::VersionUnsupported { address: address(), version: Version::V6_1 }
            }
            Self::VersionUnsupported { .. } => {
                Self::AcquisitionTimeout { address: address(), waited: Duration::from_secs(60), size: 100 }
            }
            Self::AcquisitionTimeout { .. } => Self::QueueFull { address: address(), waiting: 10_000 },
            Self::QueueFull { .. } => Self::BreakerOpen {
                address: address(),
                reason: "Connection refused".to_owned(),
                retry: Duration::from_millis(499),
            },
            Self::BreakerOpen { .. } => Self::RateLimited {
                rule: "each user".to_owned(),
                limit: "100/s".to_owned(),
                whom: " for user `ada`".to_owned(),
                left: 0,
                cost: 1,
                retry: Duration::from_millis(9),
            },
            Self::RateLimited { .. } => Self::Crowded {
                rules: "`all` (max_in_flight 50)".to_owned(),
                why: "1000 requests wait already (guard.max_waiting)".to_owned(),
            },
            Self::Crowded { .. } => Self::Memory { used: 545_259_520, most: 536_870_912 },
            Self::Memory { .. } => Self::Denied { rule: "deletes are for the night".to_owned() },
            Self::Denied { .. } => Self::ReadOnly,
            Self::ReadOnly => {
                Self::TooLarge { what: "text", bytes: 70_000, most: 65_536, key: "guard.max_statement_bytes" }
            }
            Self::TooLarge { .. } => {
                Self::ResultTooLarge { what: "rows", most: 100_000, key: "guard.max_result_rows" }
            }
            Self::ResultTooLarge { .. } => Self::Idle { limit: Duration::from_secs(60) },
            Self::Idle { .. } => Self::NoMember {
                role: "writer",
                database: "neo4j".to_owned(),
                reason: "an election may be under way".to_owned(),
            },
            Self::NoMember { .. } => Self::Outdated,
            Self::Outdated => Self::Hint { found: "coalesce: 'never'".to_owned() },
            Self::Hint { .. } => Self::TokenMismatch,
            Self::TokenMismatch => Self::TokenRequired,
            Self::TokenRequired => Self::UserMismatch,
            Self::UserMismatch => return None,
        })
    }
}

/// The table of Sidebolt's own refusals in Markdown, as the README has it; each with an example of its message.
pub(crate) fn reference_markdown() -> String {
    let first =
        Refusal::Unreachable { address: "neo4j:7687".to_owned(), reason: "Connection refused".to_owned() };
    let mut table =
        String::from("| reason | code | GQL status | message, for example |\n|---|---|---|---|\n");
    for refusal in std::iter::successors(Some(first), Refusal::following) {
        let Failure { code, gql_status, message, .. } = refusal.to_failure();
        let _ = writeln!(table, "| `{}` | `{code}` | `{gql_status}` | {message} |", refusal.label());
    }
    table
}

/// The code with which Neo4j answers what its state machine or its decoder does not allow.
const INVALID: &str = "Neo.ClientError.Request.Invalid";

/// Where a session stands when a message comes that is not allowed there, in Neo4j's words.
fn state_name(state: State, version: Version) -> &'static str {
    match state {
        State::Negotiation if version.features().reauth => "NEGOTIATION",
        State::Negotiation | State::Authentication => "AUTHENTICATION",
        State::AutoCommit => "AUTO_COMMIT",
        State::Transaction | State::Ending => "IN_TRANSACTION",
        _ => "READY",
    }
}

/// FAILURE for a message that is not allowed in `state`: as Neo4j 5.26 and 2026.08 were seen to answer it, each in its own words.
pub(crate) fn write_illegal(tag: Tag, state: State, version: Version, server: &str, out: &mut BytesMut) {
    let kind = message_type(tag);
    let state = state_name(state, version);
    let text = format!("Message of type {kind} cannot be handled by a session in the {state} state.");
    write_invalid(&text, "08N06", PROTOCOL_ERROR, Some(invalid_state(&kind, state)), version, server, out);
}

/// FAILURE for a message that is not allowed after a failure in `state`. Both servers say it in the same words, with the message's
/// fields, which are left out here.
pub(crate) fn write_illegal_after_failure(tag: Tag, state: State, version: Version, out: &mut BytesMut) {
    let kind = format!("{}{{}}", message_type(tag));
    let state = state_name(state, version);
    let text = format!("Message '{kind}' cannot be handled by session in the {state} state");
    write_invalid(&text, "08N06", PROTOCOL_ERROR, Some(invalid_state(&kind, state)), version, "", out);
}

/// `RunMessage` and the like.
fn message_type(tag: Tag) -> String {
    let (first, rest) = tag.name().unwrap_or("Unknown").split_at(1);
    format!("{first}{}Message", rest.to_lowercase())
}

/// The cause that Neo4j gives for a message that its state does not allow.
fn invalid_state(message: &str, state: &str) -> Value {
    let detail = format!("Message {message} cannot be handled by session in the '{state}' state.");
    Value::map([
        ("message", format!("08N10: {detail}").into()),
        ("gql_status", "08N10".into()),
        ("description", format!("error: connection exception - invalid server state. {detail}").into()),
        ("diagnostic_record", client_error()),
    ])
}

/// FAILURE for a message before login that is larger than `limit`.
pub(crate) fn write_too_large(size: usize, limit: usize, version: Version, out: &mut BytesMut) {
    let text = format!("Value of size {size} exceeded limit of {limit}");
    let mut failure = Failure::new(INVALID, "22N56", text);
    failure.description = format!(
        "error: data exception - protocol message length limit overflow. Protocol message length limit exceeded (limit: {limit})."
    );
    failure.write(version, out);
}

/// FAILURE for a HELLO or LOGON with a field that cannot be used.
pub(crate) fn write_bad_field(
    field: &str,
    expected: &str,
    version: Version,
    server: &str,
    out: &mut BytesMut,
) {
    let text = format!("Illegal value for field \"{field}\": {expected}");
    write_invalid(&text, "08N06", PROTOCOL_ERROR, None, version, server, out);
}

const PROTOCOL_ERROR: &str = "error: connection exception - protocol error. General network protocol error.";
const UNEXPECTED: &str = "error: general processing exception - unexpected error. Unexpected error has occurred. See debug log for details.";

fn client_error() -> Value {
    Value::map([("_classification", "CLIENT_ERROR".into())])
}

fn write_invalid(
    text: &str,
    status: &str,
    description: &str,
    cause: Option<Value>,
    version: Version,
    server: &str,
    out: &mut BytesMut,
) {
    let mut fields = Vec::with_capacity(6);
    if !version.features().gql_failure {
        fields.extend([("code", INVALID.into()), ("message", text.into())]);
    } else {
        fields.extend([("neo4j_code", INVALID.into()), ("message", text.into())]);
        // The 5.x servers have no GQL status for these yet.
        let (status, description) =
            if server.starts_with("Neo4j/5.") { ("50N42", UNEXPECTED) } else { (status, description) };
        fields.extend([("gql_status", status.into()), ("description", description.into())]);
        if status != "50N42" {
            fields.push(("diagnostic_record", client_error()));
            fields.extend(cause.map(|cause| ("cause", cause)));
        }
    }
    put_message(Tag::FAILURE.0, &[Value::map(fields)], out);
}
