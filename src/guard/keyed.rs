//! What is counted for each user, address, …: a bucket and those in flight, kept while they matter.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::bucket::Bucket;

/// Keys that one limit tells apart; those beyond share one count.
const MOST: usize = 10_000;
/// Locks of one limit.
const SHARDS: usize = 16;

/// What is counted for one key.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Its rate.
    pub(crate) bucket: Bucket,
    /// At Neo4j now. Changed by the gate alone.
    pub(super) in_flight: AtomicU32,
    /// Waiting now. Changed by the gate alone.
    pub(super) waiting: AtomicU32,
    /// Requests let pass.
    pub(crate) admitted: AtomicU64,
    /// Requests refused.
    pub(crate) refused: AtomicU64,
}

impl State {
    /// At Neo4j now.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Waiting now.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    fn is_idle(&self, now: u64) -> bool {
        self.in_flight() == 0 && self.waiting() == 0 && self.bucket.is_full(now)
    }
}

type Shard = Mutex<HashMap<Box<[u8]>, Arc<State>>>;

/// The states of one limit.
#[derive(Debug, Default)]
pub(crate) struct Keyed {
    shards: [Shard; SHARDS],
    /// Of those for whom there was no place.
    rest: Arc<State>,
}

impl Keyed {
    /// The state of a key.
    pub(crate) fn of(&self, key: &[u8], now: u64) -> Arc<State> {
        let hash =
            key.iter().fold(0_usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(usize::from(*byte)));
        let mut shard = self.shards[hash % SHARDS].lock();
        if let Some(known) = shard.get(key) {
            return Arc::clone(known);
        }
        if shard.len() >= MOST / SHARDS {
            shard.retain(|_, state| Arc::strong_count(state) > 1 || !state.is_idle(now));
        }
        if shard.len() >= MOST / SHARDS {
            return Arc::clone(&self.rest);
        }
        let state = Arc::new(State::default());
        shard.insert(key.into(), Arc::clone(&state));
        state
    }

    /// Forgets what does not matter any longer. Called once in a while.
    pub(crate) fn sweep(&self, now: u64) {
        for shard in &self.shards {
            shard.lock().retain(|_, state| Arc::strong_count(state) > 1 || !state.is_idle(now));
        }
    }

    /// All of them, with their keys; at most so many.
    pub(crate) fn list(&self, most: usize) -> Vec<(Box<[u8]>, Arc<State>)> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            all.extend(shard.iter().map(|(key, state)| (key.clone(), Arc::clone(state))));
        }
        all.truncate(most);
        all
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::guard::bucket::Quota;

    #[test]
    fn what_is_kept_is_bounded_and_idle_keys_go() {
        let (keyed, quota) = (Keyed::default(), Quota::new(Duration::from_secs(1), 1));
        for i in 0..3 * MOST {
            let _ = keyed.of(i.to_string().as_bytes(), 0).bucket.take(quota, 1, 0);
        }
        assert!(keyed.list(usize::MAX).len() <= MOST);
        // Those who found no place share what there is for the rest.
        assert!(keyed.rest.bucket.take(quota, 1, 0).is_err());
        let ada = keyed.of(b"7", 0);
        keyed.sweep(5_000_000_000);
        assert_eq!(keyed.list(usize::MAX).len(), 1, "one is in use");
        assert!(Arc::ptr_eq(&ada, &keyed.of(b"7", 0)));
    }
}
