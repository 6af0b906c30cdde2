//! Rows that go into the rest of a query batch by batch: the same statement again and again in one transaction, its records given as they come.

use bolt_wire::Tag;
use bolt_wire::chunk;
use bolt_wire::message::request::open;
use bolt_wire::message::{Outcome, Summary};
use bolt_wire::packstream::value::put_message;
use bolt_wire::packstream::{MapEdit, MapView, Value, encode};
use bytes::{Buf, BufMut, BytesMut};
use open_cypher::{Keyword, Token, TokenKind};

use super::fetch::{Caller, lost};
use super::rows::{Rows, statement};
use super::write::with_parameters;
use super::{Call, Trouble};
use crate::console::Words;
use crate::upstream::{Connection, Lease};

/// Rows of a batch.
const ROWS: usize = 1_000;
/// Bytes of a batch, about.
const BYTES: usize = 1 << 20;
/// Records that are asked for at once.
const RECORDS: u64 = 1_000;

/// Rows, and how far the statement over them has come.
pub(crate) struct Feed {
    /// Whose statement it is.
    pub(crate) caller: Caller,
    /// The connection of a transaction of its own; none = the caller's transaction is open.
    pub(crate) lease: Option<Lease>,
    rows: Rows,
    /// The statement over one batch.
    text: String,
    /// The caller's own parameters, a PackStream map.
    parameters: Vec<u8>,
    /// The number of a batch's result that is open at Neo4j.
    open: Option<i64>,
    /// The number of the first batch that was run since somebody looked.
    pub(crate) ran: Option<i64>,
    /// What stood behind the last record of a batch; of one that had records, if there was one.
    summary: Vec<u8>,
    /// There were records.
    any: bool,
    /// Records and bytes that the client was given.
    pub(crate) given: (u64, u64),
}

/// What is asked of Neo4j.
pub(crate) enum Ask<'a> {
    /// To begin: with BEGIN's metadata, if the transaction is its own. Gives the columns (a PackStream list).
    Begin(&'a [u8]),
    /// Some of the next records, at most so many, with PULL or DISCARD: they are appended.
    Records { tag: Tag, most: u64, out: &'a mut BytesMut },
    /// To end. Gives what stands behind the last record: a batch's own metadata, with the bookmark of a transaction of its own.
    End,
}

/// What came of it.
#[derive(Default)]
pub(crate) struct Gave {
    /// How many records.
    pub(crate) records: u64,
    /// What was asked for besides.
    pub(crate) meta: Vec<u8>,
}

impl Feed {
    /// Whether rows are to be given to the rest of a call's query in batches: there are many, and it gives the same for some of them as it
    /// does among all.
    pub(crate) fn suits(caller: &Caller, call: &Call, rows: &Rows) -> bool {
        let Some(rest) = &call.rest else { return false };
        if rows.len() <= batch(rows) || !goes_row_by_row(rest) {
            return false;
        }
        let known = caller.shared.coalescer.statements.get(&statement(&call.names(), rest));
        known.reads_only && known.cacheable.is_ok()
    }

    /// Rows for the rest of a call's query, with the parameters that came with it.
    pub(crate) fn new(caller: Caller, call: &Call, rows: Rows, parameters: Vec<u8>) -> Self {
        Self {
            caller,
            lease: None,
            rows,
            text: statement(&call.names(), call.rest.as_deref().unwrap_or_default()),
            parameters,
            open: None,
            ran: None,
            summary: vec![0xA0],
            any: false,
            given: (0, 0),
        }
    }

    /// True if there are no records left, as far as is known.
    pub(crate) fn is_over(&self) -> bool {
        self.open.is_none() && self.rows.is_over()
    }

    /// No more batches are wanted.
    pub(crate) fn skip(&mut self) {
        self.rows.skip(u64::MAX);
    }

    /// Asks Neo4j. After a FAILURE of Neo4j's the connection has answered everything; after another error it is not to be used.
    pub(crate) async fn ask(&mut self, connection: &mut Connection, ask: Ask<'_>) -> Result<Gave, Trouble> {
        match ask {
            Ask::Begin(begin) => self.begin(connection, begin).await,
            Ask::Records { tag, most, out } => self.records(connection, tag, most, out).await,
            Ask::End => self.end(connection).await,
        }
    }

    async fn begin(&mut self, connection: &mut Connection, begin: &[u8]) -> Result<Gave, Trouble> {
        if !self.caller.in_transaction {
            connection.queue_with(Tag::BEGIN, true, |out| {
                chunk::put_message(out, |out| {
                    out.put_slice(&[0xB1, Tag::BEGIN.0]);
                    out.put_slice(begin);
                });
            });
        }
        let meta = self.run_batch(connection).await?;
        let meta = MapView::parse(&meta).unwrap_or(MapView::EMPTY);
        Ok(Gave { records: 0, meta: meta.get("fields").unwrap_or(&[0x90]).to_vec() })
    }

    async fn records(
        &mut self,
        connection: &mut Connection,
        tag: Tag,
        most: u64,
        out: &mut BytesMut,
    ) -> Result<Gave, Trouble> {
        if self.open.is_none() {
            self.run_batch(connection).await?;
        }
        let number = self.open.unwrap_or(-1);
        connection.queue_with(tag, true, |out| {
            put_message(tag.0, &[fetching(most.min(RECORDS).cast_signed(), number)], out);
        });
        let Gave { records, meta } = self.answers(connection, out).await?;
        let view = MapView::parse(&meta).unwrap_or(MapView::EMPTY);
        if view.boolean("has_more") != Some(true) {
            self.open = None;
            if records > 0 || !self.any {
                self.summary = meta;
            }
        }
        self.any |= records > 0;
        Ok(Gave { records, meta: Vec::new() })
    }

    async fn end(&mut self, connection: &mut Connection) -> Result<Gave, Trouble> {
        let mut edit = MapEdit::removing(&["bookmark"]);
        if !self.caller.in_transaction {
            connection.queue_own(Tag::COMMIT);
            let committed = self.answers(connection, &mut BytesMut::new()).await?;
            let committed = MapView::parse(&committed.meta).unwrap_or(MapView::EMPTY);
            if let Some(bookmark) = committed.get("bookmark") {
                edit.add("bookmark", |out| out.put_slice(bookmark));
            }
        }
        let mut meta = BytesMut::new();
        edit.apply(&MapView::parse(&self.summary).unwrap_or(MapView::EMPTY), &mut meta);
        Ok(Gave { records: 0, meta: meta.to_vec() })
    }

    /// Runs the statement over the next batch. Gives RUN's metadata.
    async fn run_batch(&mut self, connection: &mut Connection) -> Result<Vec<u8>, Trouble> {
        let parameters = with_parameters(&self.parameters, &[self.rows.next(batch(&self.rows))]);
        connection.queue_with(Tag::RUN, true, |out| {
            chunk::put_message(out, |out| {
                out.put_slice(&[0xB3, Tag::RUN.0]);
                encode::string(&self.text, out);
                out.put_slice(&parameters);
                encode::map_header(0, out);
            });
        });
        drop(parameters);
        let answered = self.answers(connection, &mut BytesMut::new()).await?;
        let number = MapView::parse(&answered.meta).ok().and_then(|meta| meta.integer("qid")).unwrap_or(-1);
        self.open = Some(number);
        self.ran.get_or_insert(number);
        Ok(answered.meta)
    }

    /// Waits for all answers that are due. Records are appended as they came; metadata are the last one's.
    async fn answers(&self, connection: &mut Connection, out: &mut BytesMut) -> Result<Gave, Trouble> {
        let (mut scratch, mut gave, mut failure) = (BytesMut::new(), Gave::default(), None);
        while connection.machine.due() > 0 {
            let extent = self.caller.next(connection).await?;
            let payload = chunk::payload(&connection.inbuf, extent, &mut scratch);
            let (tag, _, _) = open(payload).map_err(|error| lost(&error.to_string()))?;
            if tag == Tag::RECORD {
                out.put_slice(connection.inbuf.get(..extent.wire).unwrap_or_default());
                gave.records += 1;
            } else {
                let summary = Summary::parse(payload).map_err(|error| lost(&error.to_string()))?;
                if connection.machine.received(summary.outcome).is_none() {
                    return Err(lost("it gave an answer that was not asked for"));
                }
                if summary.outcome == Outcome::Failure {
                    failure.get_or_insert_with(|| self.caller.failed(&summary, payload));
                }
                gave.meta = payload.get(2..).unwrap_or_default().to_vec();
            }
            connection.inbuf.advance(extent.wire);
        }
        connection.inbuf.rest(&self.caller.shared.buffers);
        failure.map_or(Ok(gave), Err)
    }
}

/// What a PULL or DISCARD of the result with this number says.
pub(crate) fn fetching(n: i64, number: i64) -> Value {
    Value::map([("n", n.into()), ("qid", number.into())])
}

/// How many of these rows are a batch.
fn batch(rows: &Rows) -> usize {
    (BYTES / rows.row_bytes().max(1)).clamp(1, ROWS)
}

/// Words that make a row's result depend on other rows, or may.
const WORDS: [&str; 26] = [
    "AVG",
    "CALL",
    "COLLECT",
    "COUNT",
    "DISTINCT",
    "EXISTS",
    "FILTER",
    "FINISH",
    "FOREACH",
    "GROUP",
    "INSERT",
    "LET",
    "LIMIT",
    "MAX",
    "MIN",
    "NEXT",
    "OFFSET",
    "ORDER",
    "PERCENTILECONT",
    "PERCENTILEDISC",
    "SKIP",
    "STDEV",
    "STDEVP",
    "SUM",
    "UNION",
    "USE",
];

/// Whether what stands behind YIELD gives for each row the same, whatever the others are. Where a name looks like one of the words, no.
fn goes_row_by_row(rest: &str) -> bool {
    let words = Words::of(rest);
    let tokens = words.left();
    let kind = |at: usize| tokens.get(at).map(|token: &Token| token.kind);
    let text = |at: usize| tokens.get(at).and_then(|token| token.text(rest)).unwrap_or_default();
    let is = |at: usize, word: &str| text(at).eq_ignore_ascii_case(word);
    tokens.iter().enumerate().all(|(at, token)| {
        let before = at.checked_sub(1).and_then(kind);
        match token.kind {
            TokenKind::Keyword(_) | TokenKind::Identifier => {
                let named = matches!(before, Some(TokenKind::Dot | TokenKind::Colon | TokenKind::Dollar));
                let compares = is(at, "WITH") && at > 0 && (is(at - 1, "STARTS") || is(at - 1, "ENDS"));
                named || compares || !(is(at, "WITH") || WORDS.iter().any(|word| is(at, word)))
            }
            TokenKind::EscapedIdentifier => {
                // A label or type stands behind a colon, not a function.
                kind(at + 1) != Some(TokenKind::LeftParen) || before == Some(TokenKind::Colon)
            }
            _ => true,
        }
    }) && tokens.iter().any(|token| token.kind == TokenKind::Keyword(Keyword::Return))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_row_by_row_is_told_from_the_rest() {
        for rest in [
            "RETURN id, embedding",
            "MATCH (n) WHERE id(n) = id RETURN n.name AS name, embedding",
            "MATCH (n:Count) WHERE elementId(n) = e AND n.count > 1 AND n.name STARTS WITH 'x' RETURN n.`a b`, $limit",
            "WHERE size(embedding) = 3 OPTIONAL MATCH (n)-[:`MAX`]->(m) WHERE id(n) = id UNWIND labels(m) AS l RETURN [x IN embedding | x * 2], l",
            "MATCH (n) WHERE id(n) = id RETURN CASE WHEN n.x ENDS WITH 'y' THEN 'LIMIT' ELSE null END AS z // COUNT",
        ] {
            assert!(goes_row_by_row(rest), "{rest}");
        }
        for rest in [
            "RETURN count(*)",
            "RETURN DISTINCT id",
            "RETURN id ORDER BY id",
            "RETURN id LIMIT 3",
            "WITH id RETURN id",
            "RETURN `collect`(id)",
            "RETURN id UNION RETURN 1 AS id",
            "MATCH (n) WHERE EXISTS { (n)--() } RETURN n",
            "RETURN COUNT { MATCH (n) } AS n",
            "CALL db.labels() YIELD label RETURN label",
            "CALL (id) { RETURN 1 AS x } RETURN x",
            "WHERE id > 3 FINISH",
            "MATCH (n) WHERE id(n) = id SET n.x = 1",
        ] {
            assert!(!goes_row_by_row(rest), "{rest}");
        }
    }
}
