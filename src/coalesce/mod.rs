//! Group commit: concurrent single writes of one user to one database become batches, and each client gets its own exact answer.
//!
//! A write that finds its lane with room runs alone, as if there were no lane. While the lane is busy, arrivals gather, and leave
//! together as one transaction when it is free. Nobody is answered before its COMMIT succeeded.

mod advice;
mod answer;
mod batch;
mod commit;
mod deferred;
mod knowledge;
mod lane;
mod member;
mod metrics;
mod plan;
mod receive;
mod report;
mod shared;
mod transaction;
mod trouble;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

pub(crate) use deferred::Deferred;
pub(crate) use lane::{Lane, LaneKey, Submitted, Turn, Waiting};
pub(crate) use member::{Claim, Reply, Share, Write};
pub(crate) use metrics::CoalesceMetrics;
pub(crate) use receive::{next_summary, own_answer};
pub(crate) use report::{LaneReport, TextReport};
pub(crate) use shared::{Ballot, Outcome};

use crate::config::Coalesce;
use crate::statement::Statements;
use crate::upstream::Need;

/// Lanes at once; a write that would need one more is relayed.
const LANES: usize = 10_000;
/// A lane that was not used for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(300);

/// All lanes, and what is known of all texts.
pub(crate) struct Coalescer {
    /// What is known of texts.
    pub(crate) statements: Statements,
    lanes: Mutex<HashMap<LaneKey, Arc<Lane>>>,
}

impl Coalescer {
    pub(crate) fn new() -> Self {
        Self { statements: Statements::new(), lanes: Mutex::default() }
    }

    /// The lane of these writes; none if there are too many lanes.
    pub(crate) fn lane(&self, key: LaneKey, need: impl FnOnce() -> Need) -> Option<Arc<Lane>> {
        let mut lanes = self.lanes.lock();
        if let Some(lane) = lanes.get(&key) {
            return Some(Arc::clone(lane));
        }
        if lanes.len() >= LANES {
            return None;
        }
        let lane = Arc::new(Lane::new(need(), &key));
        lanes.insert(key, Arc::clone(&lane));
        Some(lane)
    }

    /// Forgets lanes that nobody uses. Called once in a while.
    pub(crate) fn sweep(&self) {
        self.lanes.lock().retain(|_, lane| !lane.is_forgotten(FORGOTTEN));
    }

    /// Sets the gauges.
    pub(crate) fn gauge(&self, config: &Coalesce, metrics: &CoalesceMetrics) {
        let (mut cap, mut waiting, lanes) = (0, 0, self.lanes.lock().values().cloned().collect::<Vec<_>>());
        for lane in &lanes {
            let load = lane.load(config.batch_size, config.max_batch_size);
            cap = cap.max(load.cap);
            waiting += load.waiting;
        }
        metrics.lanes.set(lanes.len() as i64);
        metrics.cap.set(cap as i64);
        metrics.waiting.set(waiting as i64);
    }
}
