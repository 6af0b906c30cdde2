//! Answers of Neo4j's on a connection of Sidebolt's own.

use bolt_wire::Tag;
use bolt_wire::chunk::{self, Extent};
use bolt_wire::message::{Outcome, Summary};
use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::answer::Given;
use super::trouble::Trouble;
use crate::session::Shared;
use crate::upstream::Connection;

/// One message of Neo4j's at the start of the connection's buffer.
pub(super) struct Heard {
    pub(super) extent: Extent,
    pub(super) tag: Tag,
}

/// Waits for the next message; the caller takes it away.
pub(super) async fn hear(
    connection: &mut Connection,
    shared: &Shared,
    most: usize,
) -> Result<Heard, Trouble> {
    let extent = connection.whole(&shared.buffers, most).await.map_err(|_| Trouble::Again("lost"))?;
    let Some(extent) = extent else { return Err(Trouble::Apart("large_result")) };
    let tag = chunk::peek_tag(&connection.inbuf).ok_or(Trouble::Again("lost"))?;
    Ok(Heard { extent, tag })
}

/// Takes a summary away: its metadata, or the whole FAILURE.
pub(super) fn take_summary(
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
pub(super) fn spend(budget: &mut usize, bytes: usize) -> Result<(), Trouble> {
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
