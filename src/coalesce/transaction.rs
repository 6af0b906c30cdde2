//! A batch at Neo4j, up to where COMMIT would be next: all that its members are to be answered.

use std::time::Duration;

use bolt_wire::Tag;
use bolt_wire::chunk;
use bolt_wire::packstream::{MapEdit, MapView, encode};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::time::{Instant, timeout_at};

use super::answer::{Counters, Given, read_row};
use super::knowledge::same_notifications;
use super::lane::Place;
use super::plan::{Plan, Segment, shape};
use super::receive::{hear, next_summary, own_answer, spend, take_summary};
use super::trouble::{Trouble, code};
use crate::session::Shared;
use crate::upstream::{Connection, Lease};

/// A transaction that is ready to be committed.
pub(super) struct Prepared {
    pub(super) lease: Lease,
    /// What each member was given.
    pub(super) given: Vec<Given>,
    /// The home database's name as BEGIN gave it: auto-commit answers carry it.
    pub(super) database: Option<Bytes>,
    /// When each segment was through.
    pub(super) took: Vec<Duration>,
}

/// BEGIN and all statements, up to where COMMIT would be next. Whatever goes wrong rolls back: the connection is cleaned or closed.
pub(super) async fn prepare(place: &Place, plan: &Plan) -> Result<Prepared, Trouble> {
    let shared = place.shared();
    let limit = place.lane().patience_with_batches(shared.config.load().coalesce.max_batch_time);
    let need = &place.lane().need;
    let mut lease = match shared.upstream.try_lease(need) {
        Some(lease) => lease,
        None => shared.upstream.lease(need).await.map_err(|_| Trouble::Apart("no_connection"))?,
    };
    let end = Instant::now() + limit;
    let mut transaction =
        Transaction { place, plan, shared, budget: shared.config.load().coalesce.max_result };
    let prepared = timeout_at(end, transaction.open(lease.connection_mut())).await;
    match prepared {
        Ok(Ok((given, database, took))) => {
            place.lane().was_ready(true);
            Ok(Prepared { lease, given, database, took })
        }
        Ok(Err(trouble)) => Err(trouble),
        Err(_) => {
            place.lane().forget_bookmark();
            place.lane().was_ready(false);
            Err(Trouble::Apart("slow"))
        }
    }
}

struct Transaction<'a> {
    place: &'a Place,
    plan: &'a Plan,
    shared: &'a Shared,
    /// Bytes of records that may still come.
    budget: usize,
}

impl Transaction<'_> {
    async fn open(
        &mut self,
        connection: &mut Connection,
    ) -> Result<(Vec<Given>, Option<Bytes>, Vec<Duration>), Trouble> {
        self.begin(connection);
        self.plan.queue(connection);
        let begun = self.summary(connection).await?;
        let begun = begun.map_err(|failure| {
            self.place.lane().forget_bookmark();
            Trouble::of(&failure, None)
        })?;
        self.place.lane().learn_begun(&begun);
        let database = MapView::parse(&begun).ok().and_then(|map| map.get("db").map(Bytes::copy_from_slice));
        let mut given: Vec<Given> = Vec::with_capacity(self.plan.members.len());
        let mut took = Vec::with_capacity(self.plan.segments.len());
        let mut since = Instant::now();
        for segment in &self.plan.segments {
            let range = segment.range.clone();
            if segment.derived {
                given.extend(range.clone().map(|_| Given::default()));
                let given = given.get_mut(range).unwrap_or_default();
                self.derived(connection, segment, given).await?;
            } else {
                let member = self.verbatim(connection, segment).await?;
                given.push(member);
            }
            took.push(since.elapsed());
            since = Instant::now();
        }
        Ok((given, database, took))
    }

    fn begin(&self, connection: &mut Connection) {
        let lane = self.place.lane();
        let begin = MapView::parse(&lane.begin).unwrap_or(MapView::EMPTY);
        let mut edit = MapEdit::removing(&[]);
        let bookmarked = self.plan.members.iter().any(|member| member.write.bookmarked);
        if let Some(bookmark) = lane.newest().filter(|_| bookmarked) {
            edit.add("bookmarks", |out| {
                encode::list_header(1, out);
                encode::string(&bookmark, out);
            });
        }
        connection.queue_with(Tag::BEGIN, false, |out| {
            chunk::put_message(out, |out| {
                out.put_slice(&[0xB1, Tag::BEGIN.0]);
                edit.apply(&begin, out);
            });
        });
    }

    /// The next message, which must be a summary.
    async fn summary(&mut self, connection: &mut Connection) -> Result<Result<Bytes, Bytes>, Trouble> {
        next_summary(connection, self.shared, self.budget).await
    }

    /// The answers to one member's own statement.
    async fn verbatim(&mut self, connection: &mut Connection, segment: &Segment) -> Result<Given, Trouble> {
        let at = segment.range.start;
        let member = self.plan.members.get(at).ok_or(Trouble::Apart("empty"))?;
        let most = u64::try_from(member.write.records).unwrap_or(u64::MAX);
        let given = match own_answer(connection, self.shared, &mut self.budget, most).await? {
            Ok(given) => given,
            Err(failure) => return Err(Trouble::of(&failure, Some(at..at + 1))),
        };
        if given.rows > most {
            self.place.lane().knowledge(&member.write.statement, |knowledge| {
                knowledge.leave_alone("more_records_than_pulled");
            });
            return Err(Trouble::Guilty(at));
        }
        let records = given.rows > 0;
        self.place.lane().knowledge(&member.write.statement, |knowledge| {
            knowledge.learn(&given.run, &given.summary, records);
        });
        Ok(given)
    }

    /// The answers to a shape's statement, given to its members and checked.
    async fn derived(
        &mut self,
        connection: &mut Connection,
        segment: &Segment,
        given: &mut [Given],
    ) -> Result<(), Trouble> {
        let range = segment.range.clone();
        let members = self.plan.members.get(range.clone()).unwrap_or_default();
        let Some(first) = members.first() else { return Ok(()) };
        let Some(shape) = shape(&first.write.statement) else { return Ok(()) };
        let suspects = |failure: Bytes| Trouble::of(&failure, Some(range.clone()));
        let mismatch = |why| Trouble::Mismatch(range.clone(), why);
        let run = self.summary(connection).await?.map_err(|failure| {
            // A server that does not know the form: each write's own text is one that it knows.
            let unknown = code(&failure) == "Neo.ClientError.Statement.SyntaxError";
            if unknown { mismatch("syntax") } else { suspects(failure) }
        })?;
        let summary = loop {
            let heard = hear(connection, self.shared, self.budget).await?;
            if heard.tag != Tag::RECORD {
                break take_summary(connection, self.shared, &heard)?.map_err(suspects)?;
            }
            let mut scratch = BytesMut::new();
            let payload = chunk::payload(&connection.inbuf, heard.extent, &mut scratch);
            let (number, row) = read_row(shape, payload).ok_or_else(|| mismatch("row"))?;
            let (Some(given), Some(member)) = (given.get_mut(number), members.get(number)) else {
                return Err(mismatch("row"));
            };
            if !row.give(shape, &member.write.parameters, given) {
                return Err(mismatch("row"));
            }
            if shape.one_row && given.rows > 1 {
                return Err(mismatch("several_rows"));
            }
            if !shape.columns.is_empty()
                && member.write.records >= 0
                && given.rows > member.write.records as u64
            {
                return Err(mismatch("more_records_than_pulled"));
            }
            connection.inbuf.advance(heard.extent.wire);
            spend(&mut self.budget, heard.extent.wire)?;
        };
        let run = MapView::parse(&run).unwrap_or(MapView::EMPTY);
        let summary = MapView::parse(&summary).unwrap_or(MapView::EMPTY);
        let mut sum = Counters::default();
        given.iter().for_each(|member| sum.add(&member.counters));
        if Counters::read(summary.map("stats")) != Some(sum) {
            self.shared.metrics.coalesce.mismatches.inc();
            tracing::warn!(text = %first.write.statement.text, "A batch's counters were not those derived; its writes run one by one.");
            return Err(mismatch("ledger"));
        }
        let times = (run.integer("t_first").unwrap_or(0), summary.integer("t_last").unwrap_or(0));
        self.place.lane().knowledge(&first.write.statement, |knowledge| {
            let run = knowledge.run.clone().ok_or_else(|| mismatch("unknown_answer"))?;
            let run = Bytes::from_owner(run);
            let summaries =
                [false, true].map(|records| knowledge.summary(records).cloned().map(Bytes::from_owner));
            for known in summaries.iter().flatten() {
                if !same_notifications(&MapView::parse(known).unwrap_or(MapView::EMPTY), &summary) {
                    return Err(mismatch("notifications"));
                }
            }
            for member in given {
                let records = member.rows > 0 && !shape.columns.is_empty();
                let known = summaries.get(usize::from(records)).cloned().flatten();
                member.run = run.clone();
                member.summary = known.ok_or_else(|| mismatch("unknown_answer"))?;
                member.times = Some(times);
            }
            Ok(())
        })
    }
}
