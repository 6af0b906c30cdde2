//! A cache that lies, before Sidebolt: to see that what it does wrong is found.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::wire::Reply;

/// What a lying cache does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    /// For how long it gives an old answer, from when that was asked for.
    pub(crate) keeps: Duration,
    /// Forgets all when a write goes through it, and keeps nothing that was read meanwhile.
    pub(crate) minds_writes: bool,
    /// Forgets all when a write begins, and not again when it has ended.
    pub(crate) forgets_too_early: bool,
    /// Does not answer reads that bring bookmarks.
    pub(crate) minds_bookmarks: bool,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Liar {
    habits: Habits,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    answers: HashMap<String, (Instant, Vec<Reply>)>,
    /// Writes under way.
    writes: usize,
    /// Rises with every write that ends.
    epoch: u64,
    hits: u64,
}

/// What is needed to keep an answer that has been asked for.
#[derive(Debug)]
pub(crate) struct Asked {
    key: String,
    at: Instant,
    epoch: Option<u64>,
}

/// A write under way.
#[derive(Debug)]
pub(crate) struct Writing<'l>(&'l Liar);

impl Liar {
    /// One with these habits.
    pub(crate) fn new(habits: Habits) -> Self {
        Self { habits, kept: Mutex::default() }
    }

    /// An old answer, or what is needed to keep the new one.
    pub(crate) fn answer(&self, key: String, bookmarked: bool) -> Result<Vec<Reply>, Asked> {
        let (mut kept, now) = (self.kept.lock(), Instant::now());
        let honest = self.habits.minds_bookmarks && bookmarked;
        if !honest
            && let Some((at, replies)) = kept.answers.get(&key)
            && now - *at < self.habits.keeps
        {
            let replies = replies.clone();
            kept.hits += 1;
            return Ok(replies);
        }
        let quiet = kept.writes == 0 || !self.habits.minds_writes || self.habits.forgets_too_early;
        Err(Asked { key, at: now, epoch: quiet.then_some(kept.epoch) })
    }

    /// Keeps an answer.
    pub(crate) fn keep(&self, asked: Asked, replies: &[Reply]) {
        let mut kept = self.kept.lock();
        let blind = !self.habits.minds_writes || self.habits.forgets_too_early;
        if blind || kept.writes == 0 && asked.epoch == Some(kept.epoch) {
            kept.answers.insert(asked.key, (asked.at, replies.to_vec()));
        }
    }

    /// A write begins; it ends with what is returned.
    pub(crate) fn write(&self) -> Writing<'_> {
        let mut kept = self.kept.lock();
        kept.writes += 1;
        if self.habits.minds_writes {
            kept.answers.clear();
        }
        Writing(self)
    }

    /// How often it lied, or might have.
    pub(crate) fn hits(&self) -> u64 {
        self.kept.lock().hits
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let mut kept = self.0.kept.lock();
        kept.writes -= 1;
        kept.epoch += 1;
        if self.0.habits.minds_writes && !self.0.habits.forgets_too_early {
            kept.answers.clear();
        }
    }
}
