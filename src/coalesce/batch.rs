//! One batch: a transaction of many clients' writes, each answered after COMMIT and none before it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bolt_wire::Tag;
use bolt_wire::chunk::{self, Extent};
use bolt_wire::message::{Outcome, Summary};
use bolt_wire::packstream::{MapEdit, MapView, encode};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::time::{Instant, timeout_at};

use super::advice;
use super::answer::{Counters, Form, Given, read_row};
use super::knowledge::same_notifications;
use super::lane::Place;
use super::member::{Member, Reply};
use super::plan::{Plan, Segment, shape};
use super::shared;
use crate::cache::Changes;
use crate::session::Shared;
use crate::statement::{Statement, Way};
use crate::upstream::{Connection, Lease};

/// Transactions that one batch may take, however often it is taken apart.
const ATTEMPTS: usize = 40;
/// How long a batch may be tried at all; then its members run alone.
const TRIED: Duration = Duration::from_secs(30);
/// First wait after a deadlock; it doubles, and varies.
const BACK_OFF: Duration = Duration::from_millis(5);
/// Longest such wait.
const LONGEST_BACK_OFF: Duration = Duration::from_millis(500);

/// Why a transaction did not come about, and whose fault it was. Nothing of it is committed, except where it says so.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It may go through next time: a deadlock, or a connection lost before COMMIT.
    Again(&'static str),
    /// This member's own statement failed.
    Guilty(usize),
    /// One of these failed.
    Suspects(Range<usize>),
    /// The rows of these were not what their shape lets expect.
    Mismatch(Range<usize>, &'static str),
    /// Nothing for a batch.
    Apart(&'static str),
    /// Neo4j refused COMMIT with this FAILURE.
    Refused(Bytes),
    /// COMMIT was sent, and its answer did not come: perhaps it is committed.
    Unknown,
}

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

/// Runs a batch to its end: every member is answered, or told to run alone.
pub(super) async fn run(place: Place, members: Vec<Member>) {
    let metrics = &place.shared().metrics.coalesce;
    let now = Instant::now();
    for member in &members {
        metrics.wait_seconds.observe((now - member.since).as_secs_f64());
    }
    let whole = members.len();
    let end = now + TRIED;
    let mut work = vec![(members, true)];
    let mut attempts = 0;
    let mut pause = BACK_OFF;
    while let Some((members, derive)) = work.pop() {
        attempts += 1;
        if members.is_empty() {
            continue;
        }
        // What was taken apart down to one member is its session's to run: with Neo4j's own answer or error.
        let alone = (members.len() == 1 && attempts > 1) || attempts > ATTEMPTS || Instant::now() > end;
        if alone {
            members.into_iter().for_each(|member| send(member, Reply::Alone(None)));
            continue;
        }
        let started = Instant::now();
        let plan = Plan::of(place.lane(), members, derive);
        let trouble = match prepare(&place, &plan).await {
            Ok(prepared) if place.lane().managed => {
                shared::hold(&place, prepared, plan).await;
                continue;
            }
            Ok(prepared) => match commit(&place, prepared, plan).await {
                Ok(()) => {
                    if attempts == 1 {
                        place.measured(whole, started.elapsed());
                    }
                    continue;
                }
                Err((trouble, plan)) => (trouble, plan),
            },
            Err(trouble) => {
                if matches!(trouble, Trouble::Apart("slow")) {
                    // A text whose time nobody knows beforehand is the likelier cause.
                    for member in plan.members.iter().filter(|member| !member.write.statement.is_shaped()) {
                        place.lane().knowledge(&member.write.statement, |knowledge| knowledge.failed());
                    }
                    place.measured(plan.members.len(), started.elapsed());
                }
                (trouble, plan)
            }
        };
        if let (Trouble::Again(_), _) = trouble {
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
            pause = (pause * 2).min(LONGEST_BACK_OFF);
        }
        take_apart(&place, trouble.0, trouble.1, derive, &mut work);
    }
}

/// What becomes of the members of a transaction that did not come about.
fn take_apart(
    place: &Place,
    trouble: Trouble,
    plan: Plan,
    derive: bool,
    work: &mut Vec<(Vec<Member>, bool)>,
) {
    let metrics = &place.shared().metrics.coalesce;
    let mut members = plan.members;
    tracing::debug!(?trouble, members = members.len(), "A batch is taken apart.");
    match trouble {
        Trouble::Again(why) => {
            metrics.fallbacks.with_label_values(&[why]).inc();
            work.push((members, derive));
        }
        Trouble::Guilty(at) => {
            metrics.fallbacks.with_label_values(&["failure"]).inc();
            let guilty = members.remove(at);
            place.lane().knowledge(&guilty.write.statement, |knowledge| knowledge.failed());
            send(guilty, Reply::Alone(None));
            work.push((members, derive));
        }
        Trouble::Suspects(range) => {
            metrics.fallbacks.with_label_values(&["failure"]).inc();
            let middle = range.start + range.len() / 2;
            let half = members.drain(middle..range.end).collect();
            work.push((half, derive));
            work.push((members, derive));
        }
        Trouble::Mismatch(range, why) => {
            metrics.fallbacks.with_label_values(&[why]).inc();
            let apart: Vec<Member> = members.drain(range).collect();
            if let Some(first) = apart.first() {
                place.lane().knowledge(&first.write.statement, |knowledge| knowledge.mismatched(why));
            }
            // Their own statements are Neo4j's to answer, one by one inside a group.
            work.push((apart, false));
            work.push((members, derive));
        }
        Trouble::Apart(why) => {
            metrics.fallbacks.with_label_values(&[why]).inc();
            members.into_iter().for_each(|member| send(member, Reply::Alone(None)));
        }
        Trouble::Unknown | Trouble::Refused(_) => {
            members.into_iter().for_each(|member| send(member, Reply::Unknown));
        }
    }
}

/// A member whose client is gone is accounted for all the same: nobody is left to tell.
pub(super) fn send(member: Member, reply: Reply) {
    let _ = member.reply.send(reply);
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

/// One message of Neo4j's at the start of the connection's buffer.
struct Heard {
    extent: Extent,
    tag: Tag,
}

/// Waits for the next message; the caller takes it away.
async fn hear(connection: &mut Connection, shared: &Shared, most: usize) -> Result<Heard, Trouble> {
    let extent = connection.whole(&shared.buffers, most).await.map_err(|_| Trouble::Again("lost"))?;
    let Some(extent) = extent else { return Err(Trouble::Apart("large_result")) };
    let tag = chunk::peek_tag(&connection.inbuf).ok_or(Trouble::Again("lost"))?;
    Ok(Heard { extent, tag })
}

/// Takes a summary away: its metadata, or the whole FAILURE.
fn take_summary(
    connection: &mut Connection,
    shared: &Shared,
    heard: &Heard,
) -> Result<Result<Bytes, Bytes>, Trouble> {
    let mut scratch = BytesMut::new();
    let payload = chunk::payload(&connection.inbuf, heard.extent, &mut scratch);
    let summary = Summary::parse(payload).map_err(|_| Trouble::Again("lost"))?;
    let outcome = summary.outcome;
    let bytes = match outcome {
        Outcome::Success { .. } => Ok(Bytes::copy_from_slice(payload.get(2..).unwrap_or_default())),
        Outcome::Failure | Outcome::Ignored => {
            shared.metrics.failure(summary.code().unwrap_or_default());
            Err(Bytes::copy_from_slice(payload))
        }
    };
    connection.inbuf.advance(heard.extent.wire);
    connection.machine.received(outcome).ok_or(Trouble::Again("lost"))?;
    Ok(bytes)
}

/// The next summary: its metadata, or the whole FAILURE.
pub(crate) async fn next_summary(
    connection: &mut Connection,
    shared: &Shared,
    most: usize,
) -> Result<Result<Bytes, Bytes>, Trouble> {
    let heard = hear(connection, shared, most).await?;
    take_summary(connection, shared, &heard)
}

/// Takes records off what an answer may have.
fn spend(budget: &mut usize, bytes: usize) -> Result<(), Trouble> {
    *budget = budget.checked_sub(bytes).ok_or(Trouble::Apart("large_result"))?;
    Ok(())
}

/// The answers to RUN and PULL or DISCARD: what they give, or the FAILURE that one of them got. Reads no further than one record past
/// `most`.
pub(crate) async fn own_answer(
    connection: &mut Connection,
    shared: &Shared,
    budget: &mut usize,
    most: u64,
) -> Result<Result<Given, Bytes>, Trouble> {
    let mut given = Given::default();
    match next_summary(connection, shared, *budget).await? {
        Ok(run) => given.run = run,
        Err(failure) => return Ok(Err(failure)),
    }
    loop {
        let heard = hear(connection, shared, *budget).await?;
        if heard.tag != Tag::RECORD {
            return Ok(take_summary(connection, shared, &heard)?.map(|summary| {
                given.summary = summary;
                given
            }));
        }
        given.records.put_slice(connection.inbuf.get(..heard.extent.wire).unwrap_or_default());
        given.rows += 1;
        connection.inbuf.advance(heard.extent.wire);
        spend(budget, heard.extent.wire)?;
        if given.rows > most {
            return Ok(Ok(given));
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

/// The code of a FAILURE.
fn code(failure: &[u8]) -> &str {
    Summary::parse(failure).ok().and_then(|summary| summary.code()).unwrap_or_default()
}

impl Trouble {
    /// What a FAILURE before COMMIT means for the members that it may have come from; none = for the transaction as a whole.
    fn of(failure: &[u8], range: Option<Range<usize>>) -> Self {
        let code = code(failure);
        if is_repeatable(code) {
            return Self::Again("deadlock");
        }
        let own = code.starts_with("Neo.ClientError.")
            && !code.starts_with("Neo.ClientError.Security.")
            && !code.starts_with("Neo.ClientError.Cluster.");
        match range {
            Some(range) if own && range.len() == 1 => Self::Guilty(range.start),
            Some(range) if own || code.starts_with("Neo.TransientError.") => Self::Suspects(range),
            _ => Self::Apart("refused"),
        }
    }
}

/// Failures after which the same transaction may go through, and surely nothing is committed.
fn is_repeatable(code: &str) -> bool {
    matches!(
        code,
        "Neo.TransientError.Transaction.DeadlockDetected"
            | "Neo.TransientError.Transaction.LockClientStopped"
            | "Neo.TransientError.Transaction.LockAcquisitionTimeout"
    )
}

/// COMMIT; then, and only then, everybody is answered.
async fn commit(place: &Place, prepared: Prepared, plan: Plan) -> Result<(), (Trouble, Plan)> {
    let Prepared { mut lease, given, database, took } = prepared;
    let answer = send_commit(place, lease.connection_mut(), &plan, &given).await;
    drop_or_discard(lease, &answer);
    match answer {
        Ok(bookmark) => {
            settle(place, plan, given, database, took, bookmark.as_deref());
            Ok(())
        }
        Err(Trouble::Refused(failure)) => {
            for (member, given) in plan.members.into_iter().zip(given) {
                send(member, Reply::Refused(given.refusal(database.as_deref(), &failure)));
            }
            Ok(())
        }
        Err(Trouble::Suspects(_)) => {
            let all = 0..plan.members.len();
            Err((Trouble::Suspects(all), plan))
        }
        Err(trouble) => Err((trouble, plan)),
    }
}

/// A connection whose COMMIT was not answered is of no more use.
pub(super) fn drop_or_discard<T>(lease: Lease, answer: &Result<T, Trouble>) {
    if matches!(answer, Err(Trouble::Unknown)) { lease.discard() } else { drop(lease) }
}

/// What a batch may change, for the cache; and whether all that it sets are plain values.
fn changes(plan: &Plan, given: &[Given]) -> Changes {
    let mut changes = Changes::default();
    for segment in &plan.segments {
        let members = plan.members.get(segment.range.clone()).unwrap_or_default();
        for (member, given) in members.iter().zip(given.get(segment.range.clone()).unwrap_or_default()) {
            let write = &member.write;
            changes.ask(write.statement.touches(&write.parameters));
            let stats = given.stats(segment.derived);
            let stats = stats.as_ref().and_then(|stats| MapView::parse(stats).ok());
            changes.did(stats.as_ref(), segment.derived && write.statement.sets_plainly(&write.parameters));
        }
    }
    changes
}

/// Sends COMMIT and waits for its answer: the bookmark. The cache is told what it changed before anybody else.
pub(super) async fn send_commit(
    place: &Place,
    connection: &mut Connection,
    plan: &Plan,
    given: &[Given],
) -> Result<Option<String>, Trouble> {
    let shared = place.shared();
    let ticket = shared.cache.begin();
    let answer = ask_commit(shared, connection).await;
    if let Some(ticket) = ticket {
        match &answer {
            Ok(bookmark) => {
                let counts_sets = shared.upstream.counts_sets(&place.lane().need.key);
                ticket.committed(&changes(plan, given), bookmark.as_deref(), counts_sets);
            }
            // Dropped, it stands for what nobody knows.
            Err(Trouble::Unknown) => drop(ticket),
            Err(_) => ticket.nothing(),
        }
    }
    answer
}

async fn ask_commit(shared: &Shared, connection: &mut Connection) -> Result<Option<String>, Trouble> {
    connection.queue_with(Tag::COMMIT, false, |out| {
        chunk::put_message(out, |out| out.put_slice(&[0xB0, Tag::COMMIT.0]));
    });
    // From here on the outcome is open until Neo4j has said it.
    let limit = Instant::now() + shared.read_timeout();
    let most = shared.config.load().limits.max_summary;
    let heard = timeout_at(limit, connection.whole(&shared.buffers, most)).await;
    let Ok(Ok(Some(extent))) = heard else { return Err(Trouble::Unknown) };
    let mut scratch = BytesMut::new();
    let payload = chunk::payload(&connection.inbuf, extent, &mut scratch);
    let Ok(summary) = Summary::parse(payload) else { return Err(Trouble::Unknown) };
    let outcome = summary.outcome;
    let answer = match outcome {
        Outcome::Success { .. } => Ok(summary.meta.string("bookmark").map(str::to_owned)),
        Outcome::Ignored => Err(Trouble::Unknown),
        Outcome::Failure => {
            let code = summary.code().unwrap_or_default();
            shared.metrics.failure(code);
            Err(if is_repeatable(code) {
                Trouble::Again("deadlock")
            } else if code.starts_with("Neo.ClientError.Schema.")
                || code.starts_with("Neo.ClientError.Statement.")
            {
                Trouble::Suspects(0..0)
            } else {
                Trouble::Refused(Bytes::copy_from_slice(payload))
            })
        }
    };
    connection.inbuf.advance(extent.wire);
    connection.inbuf.rest(&shared.buffers);
    if connection.machine.received(outcome).is_none() {
        return Err(Trouble::Unknown);
    }
    answer
}

/// The transaction is committed: answers go out, and what was measured is kept.
fn settle(
    place: &Place,
    plan: Plan,
    given: Vec<Given>,
    database: Option<Bytes>,
    took: Vec<Duration>,
    bookmark: Option<&str>,
) {
    account(place, &plan, &took, bookmark);
    for (member, given) in plan.members.into_iter().zip(given) {
        send(
            member,
            Reply::Answer(given.answer(Form::AutoCommit { database: database.as_deref(), bookmark })),
        );
    }
}

/// What a committed batch adds to the metrics and to what is known of its lane and texts.
pub(super) fn account(place: &Place, plan: &Plan, took: &[Duration], bookmark: Option<&str>) {
    if let Some(bookmark) = bookmark {
        place.lane().reached(bookmark);
    }
    let metrics = &place.shared().metrics.coalesce;
    metrics.batch_size.observe(plan.members.len() as f64);
    let mut ways: Vec<&'static str> = Vec::new();
    // Answers of a pipeline come in bursts: only what a text's statements took together says something.
    let mut texts: HashMap<(*const Statement, bool), (&Arc<Statement>, usize, Duration)> = HashMap::new();
    for (segment, took) in plan.segments.iter().zip(took) {
        let Some(first) = plan.members.get(segment.range.start) else { continue };
        let statement = &first.write.statement;
        let key = (Arc::as_ptr(statement), segment.derived);
        let (_, rows, sum) = texts.entry(key).or_insert((statement, 0, Duration::ZERO));
        *rows += segment.range.len();
        *sum += *took;
    }
    for ((_, derived), (statement, rows, took)) in texts {
        let shape = shape(statement);
        let way = match shape.filter(|_| derived).map(|shape| shape.way) {
            Some(Way::Unwind) => "unwind",
            Some(Way::Rows) => "rows",
            None => "grouped",
        };
        let kind = shape.map_or("other", |shape| shape.kind.name());
        metrics.rows.with_label_values(&[way, kind]).inc_by(rows as u64);
        if !ways.contains(&way) {
            ways.push(way);
        }
        let (saved, look) = place.lane().knowledge(statement, |knowledge| {
            knowledge.succeeded(rows);
            knowledge.batches += 1;
            if derived {
                knowledge.derived_took(took, rows)
            } else {
                knowledge.grouped_took(took, rows, shape.is_some())
            }
            (knowledge.saved(took, rows), shape.is_some() && knowledge.indexes.is_due())
        });
        if look {
            advice::look(&place.shared().indexes, place.lane(), statement, true);
        }
        metrics.saved_seconds.inc_by(saved);
    }
    for way in ways {
        metrics.batches.with_label_values(&[way]).inc();
    }
}
