//! A statement of Sidebolt's own, with all its rows.

use std::future::poll_fn;
use std::time::Duration;

use bolt_wire::Tag;
use bolt_wire::chunk::{self, Found, MessageScanner};
use bolt_wire::message::{Outcome, Summary, request};
use bolt_wire::packstream::Value;
use bolt_wire::packstream::value::put_message;
use bytes::{Buf, BytesMut};
use thiserror::Error;
use tokio::time::timeout;

use super::{ConnectError, Connection, Need, Upstream};
use crate::buffers::Buffers;
use crate::config::Config;

/// Why a statement of Sidebolt's own has no answer.
#[derive(Clone, Debug, Error, PartialEq)]
pub(crate) enum QueryError {
    /// There is no connection, or it was lost.
    #[error("{0}")]
    Connection(String),
    /// Neo4j said no.
    #[error("{code}: {message}")]
    Refused {
        /// The Neo4j status code.
        code: String,
        /// Its words.
        message: String,
    },
}

impl QueryError {
    /// Neo4j's refusal, from the payload of a FAILURE.
    fn refused(payload: &[u8]) -> Self {
        let summary = Summary::parse(payload).ok();
        let text = |text: Option<&str>| text.unwrap_or("no reason given").to_owned();
        Self::Refused {
            code: text(summary.as_ref().and_then(|summary| summary.code())),
            message: text(summary.as_ref().and_then(|summary| summary.message())),
        }
    }
}

impl From<ConnectError> for QueryError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Refused(refusal) => Self::Connection(refusal.to_string()),
            ConnectError::Failure(payload) => Self::refused(&payload),
        }
    }
}

/// Most bytes of rows that are held.
const MAX_ROWS: usize = 16 * 1024 * 1024;
/// How long a server may be silent that has not said how long it may be.
const SILENCE: Duration = Duration::from_secs(120);

impl Upstream {
    /// Runs a statement without parameters and gives its rows. It may take as long as the server gives signs of life.
    pub(crate) async fn query(
        &self,
        need: &Need,
        text: &str,
        config: &Config,
        buffers: &Buffers,
    ) -> Result<Vec<Vec<Value>>, QueryError> {
        self.answer(need, text, config, buffers).await.map(|(rows, _)| rows)
    }

    /// The plan of a statement, which is not run.
    pub(crate) async fn explain(
        &self,
        need: &Need,
        text: &str,
        config: &Config,
        buffers: &Buffers,
    ) -> Result<Option<Value>, QueryError> {
        let (_, summary) = self.answer(need, &format!("EXPLAIN {text}"), config, buffers).await?;
        Ok(summary.and_then(|summary| summary.get("plan").cloned()))
    }

    /// The rows of a statement and the metadata behind them.
    async fn answer(
        &self,
        need: &Need,
        text: &str,
        config: &Config,
        buffers: &Buffers,
    ) -> Result<(Vec<Vec<Value>>, Option<Value>), QueryError> {
        let mut lease = self.lease(need).await?;
        let connection = lease.connection_mut();
        let database = need.access.database.as_deref().map(|database| ("db", database.into()));
        let extra = Value::map(database);
        connection.queue_with(Tag::RUN, true, |out| {
            put_message(Tag::RUN.0, &[text.into(), Value::Map(Vec::new()), extra], out);
        });
        let mut answer = Answer::new(connection, config);
        loop {
            answer.connection.queue_with(Tag::PULL, true, |out| {
                let n = Value::map([("n", config.upstream.fetch_size.into())]);
                put_message(Tag::PULL.0, &[n], out);
            });
            match answer.read(buffers).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    lease.connection_mut().machine.lost();
                    return Err(error);
                }
            }
        }
        match answer.failure {
            Some(failure) => Err(failure),
            None => Ok((answer.rows, answer.last.and_then(|payload| Value::decode(payload.get(2..)?).ok()))),
        }
    }
}

/// What has come of an answer.
struct Answer<'a> {
    connection: &'a mut Connection,
    silence: Duration,
    messages: MessageScanner,
    rows: Vec<Vec<Value>>,
    bytes: usize,
    failure: Option<QueryError>,
    /// The last SUCCESS.
    last: Option<Vec<u8>>,
}

impl<'a> Answer<'a> {
    fn new(connection: &'a mut Connection, config: &Config) -> Self {
        let configured = Some(config.upstream.read_timeout).filter(|limit| !limit.is_zero());
        let silence = configured.or(connection.recv_timeout).unwrap_or(SILENCE);
        let messages = MessageScanner::default();
        Self { connection, silence, messages, rows: Vec::new(), bytes: 0, failure: None, last: None }
    }

    /// Reads what is due; true if there are more rows to ask for. An error means that the connection is lost.
    async fn read(&mut self, buffers: &Buffers) -> Result<bool, QueryError> {
        let lost = |reason: String| QueryError::Connection(format!("the connection was lost: {reason}"));
        self.within(async |connection| connection.flush().await).await.map_err(lost)?;
        let mut more = false;
        while self.connection.machine.due() > 0 {
            match self.messages.scan(&self.connection.inbuf) {
                Found::Noop => self.connection.inbuf.advance(2),
                Found::Message(extent) => {
                    let mut scratch = BytesMut::new();
                    let payload = chunk::payload(&self.connection.inbuf, extent, &mut scratch).to_vec();
                    self.connection.inbuf.advance(extent.wire);
                    more = self.message(&payload).map_err(lost)?;
                }
                Found::Partial if self.bytes + self.connection.inbuf.len() > MAX_ROWS => {
                    return Err(lost(format!("an answer is larger than {MAX_ROWS} bytes")));
                }
                Found::Partial => {
                    let filled = self.within(async |connection| {
                        poll_fn(|cx| connection.poll_fill(cx, buffers)).await.map(drop)
                    });
                    filled.await.map_err(lost)?;
                }
            }
        }
        self.connection.inbuf.rest(buffers);
        Ok(more && self.failure.is_none())
    }

    async fn within(
        &mut self,
        work: impl AsyncFnOnce(&mut Connection) -> std::io::Result<()>,
    ) -> Result<(), String> {
        match timeout(self.silence, work(self.connection)).await {
            Ok(done) => done.map_err(|error| error.to_string()),
            Err(_) => Err(format!("the server was silent for {:?}", self.silence)),
        }
    }

    /// Takes one message; true if it says that there is more.
    fn message(&mut self, payload: &[u8]) -> Result<bool, String> {
        let bad = |error: bolt_wire::DecodeError| error.to_string();
        let (tag, _, mut walker) = request::open(payload).map_err(bad)?;
        if tag == Tag::RECORD {
            self.bytes += payload.len();
            if let Value::List(row) = Value::read(&mut walker).map_err(bad)? {
                self.rows.push(row);
            }
            return Ok(false);
        }
        let summary = Summary::parse(payload).map_err(bad)?;
        if self.connection.machine.received(summary.outcome).is_none() {
            return Err("an answer that was not asked for".to_owned());
        }
        if matches!(summary.outcome, Outcome::Success { has_more: false }) {
            self.last = Some(payload.to_vec());
        }
        if summary.outcome == Outcome::Failure && self.failure.is_none() {
            self.failure = Some(QueryError::refused(payload));
        }
        Ok(matches!(summary.outcome, Outcome::Success { has_more: true }))
    }
}
