//! Statements of Sidebolt's own for a call: with its caller's credentials, the records looked at as they come and not kept.

use std::sync::Arc;
use std::time::Duration;

use bolt_wire::Tag;
use bolt_wire::chunk::{self, Extent};
use bolt_wire::message::request::open;
use bolt_wire::message::{Outcome, Summary};
use bolt_wire::packstream::{MapView, Value, Walker, encode};
use bolt_wire::version::NotificationFilter;
use bytes::{Buf, BufMut, BytesMut};
use tokio::time::{Instant, timeout};

use super::{Task, Trouble};
use crate::session::Shared;
use crate::upstream::{Connection, Lease, Need};

/// Most bytes of one record.
const RECORD: usize = 256 << 20;
/// A map without entries.
pub(crate) const NOTHING: &[u8] = &[0xA0];

/// Who calls, and on what terms: his statements run as they would if he had sent them himself.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) shared: Arc<Shared>,
    /// His connections: his own credentials, his database.
    pub(crate) need: Need,
    /// Bookmarks that he waits for (a PackStream list).
    pub(crate) bookmarks: Option<Box<[u8]>>,
    /// When his time is over.
    pub(crate) deadline: Option<Instant>,
    /// His session may write.
    pub(crate) writes: bool,
    /// His transaction is open: what is written belongs into it.
    pub(crate) in_transaction: bool,
    /// His Bolt version has vectors.
    pub(crate) vectors: bool,
    /// Set once nobody waits for the answer any longer.
    pub(crate) cancel: gnn::Cancel,
    /// Where his call is.
    pub(crate) task: Arc<Task>,
}

/// What stands behind an answer's last record.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// The names of the answer's columns.
    pub(crate) fields: Vec<String>,
    /// The database's name.
    pub(crate) database: Option<Box<str>>,
    /// The bookmark, if something was committed.
    pub(crate) bookmark: Option<Box<str>>,
}

impl Caller {
    /// A connection that is logged in as he is.
    pub(crate) async fn lease(&self) -> Result<Lease, Trouble> {
        Ok(self.shared.upstream.lease(&self.need).await?)
    }

    /// Runs a statement that reads, outside of any transaction of his, and looks at each record.
    pub(crate) async fn read(
        &self,
        lease: &mut Lease,
        text: &str,
        parameters: &[u8],
        each: impl FnMut(&mut Walker<'_>) -> Result<(), Trouble>,
    ) -> Result<Ended, Trouble> {
        self.ask(lease.connection_mut(), text, parameters, true, each).await
    }

    /// Runs a statement, and looks at each record. What fails leaves the connection as it is: the lease cleans it.
    pub(crate) async fn ask(
        &self,
        connection: &mut Connection,
        text: &str,
        parameters: &[u8],
        reads: bool,
        mut each: impl FnMut(&mut Walker<'_>) -> Result<(), Trouble>,
    ) -> Result<Ended, Trouble> {
        self.queue(connection, text, parameters, reads);
        let (mut scratch, mut ended) = (BytesMut::new(), Ended::default());
        while connection.machine.due() > 0 {
            let extent = self.next(connection).await?;
            let payload = chunk::payload(&connection.inbuf, extent, &mut scratch);
            let (tag, _, mut walker) = open(payload).map_err(|error| lost(&error.to_string()))?;
            if tag == Tag::RECORD {
                walker.list_header().map_err(|error| lost(&error.to_string()))?;
                each(&mut walker)?;
                connection.inbuf.advance(extent.wire);
                continue;
            }
            let summary = Summary::parse(payload).map_err(|error| lost(&error.to_string()))?;
            if connection.machine.received(summary.outcome).is_none() {
                return Err(lost("it gave an answer that was not asked for"));
            }
            match summary.outcome {
                Outcome::Failure => {
                    return Err(self.failed(&summary, payload));
                }
                _ => ended.note(&summary.meta),
            }
            connection.inbuf.advance(extent.wire);
        }
        connection.inbuf.rest(&self.shared.buffers);
        Ok(ended)
    }

    /// Notes a FAILURE of Neo4j's, with this payload.
    pub(super) fn failed(&self, summary: &Summary<'_>, payload: &[u8]) -> Trouble {
        let code = summary.code().unwrap_or_default();
        self.shared.metrics.failure(code);
        if code.starts_with("Neo.ClientError.Security.") {
            self.need.principal.doubt();
        }
        Trouble::Neo4j(payload.to_vec())
    }

    /// Waits for the answer's next message.
    pub(super) async fn next(&self, connection: &mut Connection) -> Result<Extent, Trouble> {
        let silence = self.shared.read_timeout();
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let limit = left.map_or(silence, |left| left.min(silence)).max(Duration::from_millis(1));
        match timeout(limit, connection.whole(&self.shared.buffers, RECORD)).await {
            Ok(Ok(Some(extent))) => Ok(extent),
            Ok(Ok(None)) => {
                Err(Trouble::wrong(format!("a record of more than {RECORD} bytes came from Neo4j")))
            }
            Ok(Err(error)) => Err(lost(&error.to_string())),
            Err(_) if left.is_some_and(|left| left <= limit) => Err(expired()),
            Err(_) => {
                connection.give_up();
                Err(lost(&format!("it was silent for {silence:?}")))
            }
        }
    }

    fn queue(&self, connection: &mut Connection, text: &str, parameters: &[u8], reads: bool) {
        connection.queue_with(Tag::RUN, true, |out| {
            chunk::put_message(out, |out| {
                out.put_slice(&[0xB3, Tag::RUN.0]);
                encode::string(text, out);
                out.put_slice(parameters);
                self.put_extra(reads, out);
            });
        });
        connection.queue_with(Tag::PULL, true, |out| {
            chunk::put_message(out, |out| {
                out.put_slice(&[0xB1, Tag::PULL.0]);
                encode::map_header(1, out);
                encode::string("n", out);
                encode::integer(-1, out);
            });
        });
    }

    /// RUN's metadata.
    fn put_extra(&self, reads: bool, out: &mut BytesMut) {
        let features = self.need.key.version.features();
        let silent = features.notification_filter != NotificationFilter::None;
        let access = &self.need.access;
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let entries = [
            reads,
            access.database.is_some(),
            access.impersonated.is_some(),
            self.bookmarks.is_some(),
            left.is_some(),
            silent,
        ];
        encode::map_header(entries.iter().filter(|is| **is).count(), out);
        if reads {
            encode::string("mode", out);
            encode::string("r", out);
        }
        for (name, value) in [("db", &access.database), ("imp_user", &access.impersonated)] {
            if let Some(value) = value {
                encode::string(name, out);
                encode::string(value, out);
            }
        }
        if let Some(bookmarks) = &self.bookmarks {
            encode::string("bookmarks", out);
            out.put_slice(bookmarks);
        }
        if let Some(left) = left {
            encode::string("tx_timeout", out);
            encode::integer(i64::try_from(left.as_millis()).unwrap_or(i64::MAX).max(1), out);
        }
        if silent {
            encode::string("notifications_minimum_severity", out);
            encode::string("OFF", out);
        }
    }
}

impl Ended {
    fn note(&mut self, meta: &MapView<'_>) {
        for (place, key) in [(&mut self.database, "db"), (&mut self.bookmark, "bookmark")] {
            if let Some(value) = meta.string(key) {
                *place = Some(value.into());
            }
        }
        if let Some(Ok(Value::List(fields))) = meta.get("fields").map(Value::decode) {
            self.fields = fields.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect();
        }
    }
}

/// The caller's time is over.
pub(crate) fn expired() -> Trouble {
    Trouble::Cancelled("its time-out (tx_timeout) has struck".to_owned())
}

/// The connection is lost; what was read so far is dropped.
pub(crate) fn lost(reason: &str) -> Trouble {
    Trouble::Passing(format!("the connection to Neo4j was lost: {reason}; try again"))
}
