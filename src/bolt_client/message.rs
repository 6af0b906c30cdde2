//! What comes back: messages, whole answers, errors.

use std::time::Duration;

use bolt_wire::message::request;
use bolt_wire::packstream::Value;
use bolt_wire::{DecodeError, Tag};
use thiserror::Error;

/// Why a request has no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The network failed.
    #[error("{action}: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// The server took too long.
    #[error("no answer within {after:?} ({action})")]
    Timeout {
        /// What was being done.
        action: &'static str,
        /// The limit.
        after: Duration,
    },
    /// The server closed the connection.
    #[error("the server closed the connection ({action})")]
    Closed {
        /// What was being done.
        action: &'static str,
    },
    /// No version in common, or not a Bolt server.
    #[error("handshake: {0}")]
    Handshake(String),
    /// Bytes that are no Bolt message.
    #[error("the server sent bytes that are no Bolt message: {0}")]
    Decode(#[from] DecodeError),
    /// The server said no.
    #[error("{code}: {message}")]
    Failure {
        /// The Neo4j status code.
        code: String,
        /// The server's words.
        message: String,
        /// The whole metadata.
        meta: Value,
    },
    /// The answer is larger than `Options::max_answer`.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// A message that does not belong here.
    #[error("unexpected {0} from the server")]
    Unexpected(&'static str),
    /// An earlier wait was given up, so answers can no longer be told apart.
    #[error("the connection is out of step after an earlier error; connect again")]
    OutOfStep,
}

impl ClientError {
    /// The Neo4j status code, if the server sent one.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Failure { code, .. } => Some(code),
            _ => None,
        }
    }
}

/// One message from the server.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// SUCCESS with its metadata.
    Success(Value),
    /// FAILURE with its metadata.
    Failure(Value),
    /// IGNORED.
    Ignored,
    /// One row.
    Record(Vec<Value>),
}

impl Message {
    /// The metadata of SUCCESS; every other message as an error.
    pub fn success(self) -> Result<Value, ClientError> {
        match self {
            Self::Success(meta) => Ok(meta),
            Self::Failure(meta) => {
                let text = |key| meta.get(key).and_then(Value::as_str).map(str::to_owned);
                let code = text("neo4j_code").or_else(|| text("code")).unwrap_or_default();
                Err(ClientError::Failure { code, message: text("message").unwrap_or_default(), meta })
            }
            Self::Ignored => Err(ClientError::Unexpected("IGNORED")),
            Self::Record(_) => Err(ClientError::Unexpected("RECORD")),
        }
    }

    pub(super) fn read(payload: &[u8]) -> Result<Self, ClientError> {
        let (tag, fields, mut walker) = request::open(payload)?;
        let first = if fields == 0 { Value::Map(Vec::new()) } else { Value::read(&mut walker)? };
        Ok(match (tag, first) {
            (Tag::SUCCESS, meta) => Self::Success(meta),
            (Tag::FAILURE, meta) => Self::Failure(meta),
            (Tag::IGNORED, _) => Self::Ignored,
            (Tag::RECORD, Value::List(values)) => Self::Record(values),
            (tag, _) => return Err(ClientError::Unexpected(tag.name().unwrap_or("message"))),
        })
    }
}

/// The whole answer to a statement.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The columns' names.
    pub keys: Vec<String>,
    /// The rows.
    pub records: Vec<Vec<Value>>,
    /// Metadata of RUN's SUCCESS.
    pub run: Value,
    /// Metadata of the last SUCCESS.
    pub summary: Value,
}

impl Answer {
    /// The value in the first row's column `key`.
    pub fn value(&self, key: &str) -> Option<&Value> {
        let column = self.keys.iter().position(|k| k == key)?;
        self.records.first()?.get(column)
    }

    /// A write counter by its wire name (`nodes-created`); 0 if the server did not name it.
    pub fn counter(&self, name: &str) -> i64 {
        self.summary.get("stats").and_then(|s| s.get(name)).and_then(Value::as_integer).unwrap_or(0)
    }
}
