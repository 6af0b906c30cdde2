//! COMMIT of a batch, and what follows it: answers, the cache, what was measured.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bolt_wire::Tag;
use bolt_wire::chunk;
use bolt_wire::message::{Outcome, Summary};
use bolt_wire::packstream::MapView;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::time::{Instant, timeout_at};

use super::advice;
use super::answer::{Form, Given};
use super::batch::send;
use super::lane::Place;
use super::member::Reply;
use super::plan::{Plan, shape};
use super::transaction::Prepared;
use super::trouble::{Trouble, is_repeatable};
use crate::cache::Changes;
use crate::session::Shared;
use crate::statement::{Statement, Way};
use crate::upstream::{Connection, Lease};

/// COMMIT; then, and only then, everybody is answered.
pub(super) async fn commit(place: &Place, prepared: Prepared, plan: Plan) -> Result<(), (Trouble, Plan)> {
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
