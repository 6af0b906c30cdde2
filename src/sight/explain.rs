//! Plans of slow queries, asked for off their clients' way.

use std::sync::Arc;
use std::time::Duration;

use bolt_wire::packstream::Value;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::advice::Plan;
use super::slow::{Wanted, in_words};
use crate::indexes;
use crate::session::Shared;
use crate::statement::fingerprint;

/// How long a plan may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the list of indexes is waited for.
const INDEXES: Duration = Duration::from_secs(15);
/// How often it is looked at meanwhile.
const PAUSE: Duration = Duration::from_millis(200);

/// Asks for the plans that are wanted, one at a time, until the end.
pub(crate) async fn keep_explaining(shared: Arc<Shared>, end: CancellationToken) {
    let work = async {
        loop {
            match shared.sight.slow.next() {
                Some(wanted) => explain(&shared, wanted).await,
                None => shared.sight.slow.asked.notified().await,
            }
        }
    };
    let _ = end.run_until_cancelled(work).await;
}

async fn explain(shared: &Shared, wanted: Wanted) {
    let config = shared.config.load_full();
    let text = &wanted.statement.text;
    let outcomes = &shared.metrics.sight.plans;
    let need = indexes::need(shared, &wanted.principal, wanted.database.as_ref()).await;
    let asked = shared.upstream.explain(&need, text, &config, &shared.buffers);
    let plan = match timeout(PATIENCE, asked).await {
        Ok(Ok(Some(plan))) => plan,
        other => {
            // It may be one that has no plan, such as a command of administration.
            let error = other
                .map_err(|_| "no answer in time".to_owned())
                .and_then(|answer| answer.map_err(|e| e.to_string()));
            tracing::debug!(?error, fingerprint = fingerprint::shown(wanted.key.0), "A plan cannot be had.");
            outcomes.with_label_values(&["failure"]).inc();
            return shared.sight.slow.learn(&wanted.key, None);
        }
    };
    outcomes.with_label_values(&["success"]).inc();
    let mut read = read(shared, &wanted, &plan).await;
    read.look_at(text, wanted.rows, wanted.varied);
    if let Some(advice) = in_words(&read.advice) {
        tracing::warn!(
            target: "slow",
            fingerprint = fingerprint::shown(wanted.key.0),
            database = wanted.database.as_deref(),
            advice,
            "A slow query could be faster."
        );
    }
    shared.sight.slow.learn(&wanted.key, Some(read));
}

/// Reads a plan once it is known which indexes there are: an index that is there, and not used, is not to be made.
async fn read(shared: &Shared, wanted: &Wanted, plan: &Value) -> Plan {
    // One that is known may have been dropped since.
    shared.indexes.doubt(wanted.database.as_deref());
    let until = Instant::now() + INDEXES;
    loop {
        let (read, known) = read_now(shared, wanted, plan);
        if known || Instant::now() >= until {
            return read;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Reads a plan by what is known of the indexes now; with whether that is all.
fn read_now(shared: &Shared, wanted: &Wanted, plan: &Value) -> (Plan, bool) {
    let known = std::cell::Cell::new(true);
    let read = Plan::read(plan, &|name, relationship, properties| {
        let covers = shared.indexes.covers(wanted.database.as_deref(), relationship, name, properties);
        known.set(known.get() && covers.is_some());
        covers
    });
    (read, known.get())
}
