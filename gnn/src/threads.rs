//! The crate's own threads.

use crate::Error;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::OnceLock;

/// Sets how many threads compute, for all callers together; 0 means one for each processor. To be called
/// once, before anything is computed; without it there is one for each processor.
///
/// # Errors
/// If computing has begun, or the threads cannot be started.
pub fn set_threads(count: usize) -> Result<(), Error> {
    let pool = build(count)?;
    POOL.set(pool).map_err(|_| Error::argument("threads", "is set once, before the first computation"))
}

/// How many threads compute.
#[must_use]
pub fn threads() -> usize {
    install(rayon::current_num_threads)
}

/// Runs something on the crate's threads; on those of the caller's pool if it is in one.
pub(crate) fn install<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    if rayon::current_thread_index().is_some() {
        return work();
    }
    match pool() {
        Some(pool) => pool.install(work),
        None => work(),
    }
}

/// None if no thread could be started: then everything runs where rayon puts it.
fn pool() -> Option<&'static ThreadPool> {
    if POOL.get().is_none() {
        // Another caller may have been faster: its pool is as good.
        if let Ok(pool) = build(0) {
            let _ = POOL.set(pool);
        }
    }
    POOL.get()
}

fn build(count: usize) -> Result<ThreadPool, Error> {
    ThreadPoolBuilder::new()
        .num_threads(count)
        .thread_name(|index| format!("gnn-{index}"))
        .build()
        .map_err(|error| Error::argument("threads", format!("{count} threads cannot be started: {error}")))
}

static POOL: OnceLock<ThreadPool> = OnceLock::new();
