//! A wrong stand-in for Sidebolt: falsifies now and then what a client is told, or what the database is told.

use bolt_wire::Tag;
use bolt_wire::packstream::Value;
use clap::ValueEnum;
use parking_lot::Mutex;
use sidebolt::bolt_client::Message;

use crate::plan::{Ask, Extra};
use crate::wire::{Broken, Connection, Reply};

/// What is done wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Fault {
    /// A counter is one too high.
    Counter,
    /// A number in a record is one too high.
    Value,
    /// A SUCCESS lacks one of its entries.
    Entry,
    /// A FAILURE has another code.
    Code,
    /// A write is answered, and rolled back.
    Lost,
    /// A write is done twice.
    Twice,
    /// The records are another client's.
    Swapped,
}

impl Fault {
    /// False for what only the comparison with a direct connection can show.
    pub(crate) fn shows_in_contests(self) -> bool {
        !matches!(self, Self::Entry | Self::Code)
    }
}

/// A fault, and how often it happens.
#[derive(Debug)]
pub(crate) struct Wrong {
    fault: Fault,
    /// It happens in one of so many chances.
    one_in: u8,
    random: Mutex<fastrand::Rng>,
    /// An earlier answer's records, for whom they do not belong to.
    kept: Mutex<Vec<Vec<Value>>>,
}

impl Wrong {
    /// Once in a hundred chances.
    pub(crate) fn new(fault: Fault) -> Self {
        Self::one_in(100, fault)
    }

    /// Once in so many chances.
    pub(crate) fn one_in(one_in: u8, fault: Fault) -> Self {
        let random = Mutex::new(fastrand::Rng::with_seed(fault as u64));
        Self { fault, one_in, random, kept: Mutex::default() }
    }

    fn now(&self) -> bool {
        self.random.lock().u8(0..self.one_in) == 0
    }

    /// Asks, and falsifies.
    pub(crate) async fn ask(&self, connection: &mut Connection, asks: &[Ask]) -> Result<Vec<Reply>, Broken> {
        let asks: Vec<Ask> = asks.iter().filter(|ask| !matches!(ask, Ask::Telemetry(_))).cloned().collect();
        let whole = matches!(asks[..], [Ask::Run(..), Ask::Pull(1000 | -1) | Ask::Discard(-1)]);
        match self.fault {
            Fault::Lost if whole && self.now() => lose(connection, &asks).await,
            Fault::Twice if whole && self.now() => {
                connection.ask_honestly(&asks).await?;
                connection.ask_honestly(&asks).await
            }
            _ => {
                let mut replies = connection.ask_honestly(&asks).await?;
                for reply in &mut replies {
                    self.falsify(reply);
                }
                Ok(replies)
            }
        }
    }

    fn falsify(&self, reply: &mut Reply) {
        match (self.fault, &mut reply.end) {
            (Fault::Counter, Message::Success(Value::Map(meta))) => {
                let stats = meta.iter_mut().find(|(name, _)| name == "stats");
                let Some((_, Value::Map(stats))) = stats else { return };
                let counter = stats.iter_mut().find_map(|(_, value)| match value {
                    Value::Integer(count) => Some(count),
                    _ => None,
                });
                if let Some(count) = counter
                    && self.now()
                {
                    *count += 1;
                }
            }
            (Fault::Entry, Message::Success(Value::Map(meta))) if !meta.is_empty() && self.now() => {
                let place = self.random.lock().usize(0..meta.len());
                meta.remove(place);
            }
            (Fault::Code, Message::Failure(Value::Map(meta))) if self.now() => {
                for (_, value) in meta.iter_mut().filter(|(name, _)| name.ends_with("code")) {
                    *value = "Neo.TransientError.General.OutOfMemoryError".into();
                }
            }
            (Fault::Value, _) => {
                let number = reply.records.iter_mut().flatten().find_map(|value| match value {
                    Value::Integer(number) => Some(number),
                    _ => None,
                });
                if let Some(number) = number
                    && self.now()
                {
                    *number = number.wrapping_add(1);
                }
            }
            (Fault::Swapped, _) if !reply.records.is_empty() => {
                let mut kept = self.kept.lock();
                if self.now() && !kept.is_empty() {
                    std::mem::swap(&mut *kept, &mut reply.records);
                } else {
                    kept.clone_from(&reply.records);
                }
            }
            _ => {}
        }
    }
}

/// The answer that an auto-commit statement would have got, and no commit.
async fn lose(connection: &mut Connection, asks: &[Ask]) -> Result<Vec<Reply>, Broken> {
    let [Ask::Run(text, parameters, extra), pull] = asks else {
        return connection.ask_honestly(asks).await;
    };
    let run = Ask::Run(text.clone(), parameters.clone(), Extra::none());
    let begin = Ask::Begin(Extra { entries: extra.entries.clone(), bookmarked: extra.bookmarked });
    let mut replies = connection.ask_honestly(&[begin, run, pull.clone()]).await?;
    let failed = replies.iter().any(|reply| reply.success().is_none());
    connection.ask_honestly(&[if failed { Ask::Reset } else { Ask::Rollback }]).await?;
    let begun = replies.remove(0);
    if failed {
        return connection.ask_honestly(asks).await;
    }
    let bookmark = connection.bookmark.clone().unwrap_or_else(|| "FB:x".into());
    for reply in &mut replies {
        let Message::Success(Value::Map(meta)) = &mut reply.end else { continue };
        meta.retain(|(name, _)| name != "qid");
        if reply.tag == Tag::RUN {
            meta.extend(begun.success().and_then(|m| m.get("db")).map(|db| ("db".to_owned(), db.clone())));
        } else {
            meta.push(("bookmark".to_owned(), bookmark.clone()));
            if meta.iter().all(|(name, _)| name != "db") {
                meta.push(("db".to_owned(), "neo4j".into()));
            }
        }
    }
    Ok(replies)
}
