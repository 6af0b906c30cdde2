//! What calls are doing now: `gnn.listProgress`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bolt_wire::packstream::Value;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::rows::{Output, Rows};
use super::{Caller, Gnn, millis};
use crate::sight::{moment, now};

/// One call's progress. Whoever works on it says where it is.
#[derive(Debug, Default)]
pub(crate) struct Task {
    step: Mutex<&'static str>,
    done: AtomicU64,
    /// 0 = nobody knows.
    total: AtomicU64,
    /// The last epoch's loss, as bits; 0 = there is none.
    loss: AtomicU32,
}

impl Task {
    /// The next step begins, of so much; 0 = nobody knows of how much.
    pub(super) fn step(&self, step: &'static str, total: usize) {
        let mut now = self.step.lock();
        *now = step;
        self.total.store(total as u64, Ordering::Relaxed);
        self.done.store(0, Ordering::Relaxed);
    }

    /// So much more of it is done.
    pub(super) fn more(&self, done: usize) {
        self.done.fetch_add(done as u64, Ordering::Relaxed);
    }

    /// An epoch is over.
    pub(super) fn epoch(&self, loss: f32) {
        self.loss.store(loss.to_bits(), Ordering::Relaxed);
        self.more(1);
    }
}

/// A call that runs.
struct Running {
    principal: [u8; 32],
    user: Box<str>,
    procedure: &'static str,
    since: Instant,
    began: u64,
    task: Arc<Task>,
}

/// All calls that run.
#[derive(Default)]
pub(crate) struct Tasks {
    running: Mutex<BTreeMap<u64, Running>>,
    next: AtomicU64,
}

/// Takes a call off the list when it ends, however it does.
pub(super) struct Listed<'t> {
    tasks: &'t Tasks,
    number: u64,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.tasks.running.lock().remove(&self.number);
    }
}

impl Tasks {
    /// Lists a call until what it gives is dropped.
    pub(super) fn list(&self, caller: &Caller, procedure: &'static str) -> Listed<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let principal = &caller.need.principal;
        let running = Running {
            principal: principal.id,
            user: principal.name.as_str().into(),
            procedure,
            since: Instant::now(),
            began: now(),
            task: Arc::clone(&caller.task),
        };
        self.running.lock().insert(number, running);
        Listed { tasks: self, number }
    }
}

impl Gnn {
    /// The caller's calls, the oldest first.
    pub(super) fn list_progress(&self, caller: &Caller) -> Output {
        let running = self.tasks.running.lock();
        let own = running.iter().filter(|(_, running)| running.principal == caller.need.principal.id);
        Output::Rows(Rows::table(own.map(|(number, running)| row(*number, running)).collect()))
    }
}

fn row(number: u64, running: &Running) -> Vec<Value> {
    let Task { step, done, total, loss } = &*running.task;
    let step = *step.lock();
    let [done, total] = [done, total].map(|count| count.load(Ordering::Relaxed));
    let loss = loss.load(Ordering::Relaxed);
    let whole = |count: u64| Value::Integer(i64::try_from(count).unwrap_or(i64::MAX));
    let known = total > 0;
    vec![
        format!("{number}").into(),
        (*running.user).into(),
        running.procedure.into(),
        if step.is_empty() { "Waiting".into() } else { step.into() },
        if known { format!("{:.1}%", 100.0 * done as f64 / total as f64).into() } else { "n/a".into() },
        whole(done),
        if known { whole(total) } else { Value::Null },
        if loss == 0 { Value::Null } else { Value::Float(f64::from(f32::from_bits(loss))) },
        moment(running.began).as_str().into(),
        millis(running.since),
    ]
}
