//! What of a session's requests goes into traces: chosen at RUN or BEGIN by their `traceparent`.

use bolt_wire::Tag;
use bolt_wire::chunk;
use bolt_wire::message::{Begin, Run};
use bytes::BytesMut;
use tokio::time::Instant;

use super::Session;
use super::requests::Message;
use crate::traces::{Choice, Stage, Trace, Wait, choose};

/// What is traced of the exchange that runs.
#[derive(Default)]
pub(super) struct Traced {
    choice: Choice,
    /// What was waited for, and belongs to the next request that goes to Neo4j.
    waits: Vec<Wait>,
}

impl Traced {
    /// The trace of a request that has just come, if it is traced.
    pub(super) fn request(&self, asked: Instant) -> Option<Box<Trace>> {
        let parent = match self.choice {
            Choice::No => return None,
            Choice::Begins => None,
            Choice::Under(parent) => Some(parent),
        };
        Some(Box::new(Trace { parent, asked, waits: Vec::new() }))
    }

    /// A request goes to Neo4j: what was waited for was its.
    pub(super) fn sent(&mut self, trace: &mut Option<Box<Trace>>) {
        if let Some(trace) = trace {
            trace.waits.append(&mut self.waits);
        }
    }
}

impl Session {
    /// The message that may begin an exchange stands at the start of `inbuf`.
    pub(super) fn trace_start(&mut self, message: Message) {
        self.watch.traced.choice = Choice::No;
        let config = self.shared.config.load();
        let otlp = &config.telemetry.otlp;
        if !otlp.is_on() || !matches!(message.tag, Tag::RUN | Tag::BEGIN) {
            return;
        }
        let mut scratch = BytesMut::new();
        let payload = chunk::payload(&self.inbuf, message.extent, &mut scratch);
        let extra = match message.tag {
            Tag::RUN => Run::parse(payload).map(|run| run.extra),
            _ => Begin::parse(payload).map(|begin| begin.extra),
        };
        let metadata = extra.ok().and_then(|extra| extra.map("tx_metadata"));
        let parent = metadata.as_ref().and_then(|metadata| metadata.string("traceparent"));
        self.watch.traced.choice = choose(parent, otlp.sample);
        self.watch.traced.waits.clear();
    }

    /// It was waited for something since `from`.
    pub(super) fn trace_wait(&mut self, what: Stage, from: Instant) {
        if self.watch.traced.choice != Choice::No {
            self.watch.traced.waits.push(Wait { what, from, to: Instant::now() });
        }
    }
}
