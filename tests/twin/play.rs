//! Plays one client's units and writes down what it saw.

use std::time::Duration;

use bolt_wire::packstream::Value;
use bolt_wire::{Tag, Version};

use crate::normal::Writer;
use crate::plan::{Ask, Step, Unit};
use crate::wire::{Broken, Connection, Endpoint, Reply};

/// One client of a round: what it speaks and what it does.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// Bolt's version.
    pub(crate) version: Version,
    /// One after the other.
    pub(crate) units: Vec<Unit>,
}

/// What a client saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// The lines of each unit.
    pub(crate) units: Vec<Vec<String>>,
    /// Transactions that were tried again after a transient error, as a driver does where its API says so.
    pub(crate) retries: usize,
}

/// How often a driver would, or more often.
const RETRIES: usize = 6;

/// How the line of a FAILURE begins that came after another one, where IGNORED is due.
pub(crate) const LATE: &str = "after a failure: ";

/// Plays a script from the first unit to the last.
pub(crate) async fn play(endpoint: Endpoint, script: Script) -> Seen {
    let mut player = Player { endpoint, version: script.version, connection: None, bookmark: None };
    let mut seen = Seen::default();
    for unit in &script.units {
        let mut view = View::default();
        player.unit(unit, &mut view).await;
        for _ in 0..RETRIES {
            if !unit.retried || !view.lines.iter().any(|line| line.contains("\"Neo.TransientError.")) {
                break;
            }
            seen.retries += 1;
            view = View::default();
            player.unit(unit, &mut view).await;
        }
        seen.units.push(if unit.deferred { what_stays(unit, &view.lines) } else { view.lines });
    }
    seen
}

/// Of a transaction whose writes may be answered early: the failure's code wherever it is told (where several writes would fail, a batch
/// may meet another one first), or what was read, and the end.
fn what_stays(unit: &Unit, lines: &[String]) -> Vec<String> {
    if matches!(unit.steps.last(), Some(Step::Burst(asks)) if matches!(asks[..], [Ask::Rollback])) {
        // Nobody will know what would have failed.
        return Vec::new();
    }
    if let Some((_, failure)) = lines.iter().find_map(|line| line.split_once("FAILURE ")) {
        let code = failure.find("Neo.").and_then(|at| failure[at..].split('"').next());
        return vec![format!("FAILURE {}", code.unwrap_or(failure))];
    }
    let stays = |line: &&String| ["COMMIT", "ROLLBACK", "closed"].iter().any(|word| line.starts_with(word));
    lines.iter().filter(|line| line.contains("type: \"r\"") || stays(line)).cloned().collect()
}

struct Player {
    endpoint: Endpoint,
    version: Version,
    connection: Option<Connection>,
    /// Survives the connection, as a driver's session does.
    bookmark: Option<Value>,
}

/// What one unit has shown so far.
#[derive(Default)]
struct View {
    writer: Writer,
    lines: Vec<String>,
    failed: bool,
    more: bool,
    /// Rows of the present statement, if their order is left to chance: they are shown when all are there.
    unordered: Option<Vec<Vec<Value>>>,
}

impl View {
    fn take(&mut self, asks: &[Ask], replies: &[Reply]) {
        let mut texts = asks.iter().filter_map(|ask| match ask {
            Ask::Run(text, ..) => Some(text),
            _ => None,
        });
        for reply in replies {
            if reply.tag == Tag::RUN {
                let ordered =
                    texts.next().is_none_or(|text| text.contains("ORDER BY") || text.starts_with("UNWIND"));
                self.unordered = (!ordered).then(Vec::new);
            }
            let late = if self.failed && reply.code().is_some() { LATE } else { "" };
            let rows = self.rows(reply);
            self.lines.push(format!("{late}{rows}{}", self.writer.end(reply)));
            match reply.success() {
                Some(meta) => {
                    self.more = meta.get("has_more") == Some(&true.into());
                    // A RESET that the unit itself asked for.
                    self.failed &= reply.tag != Tag::RESET;
                }
                None => self.failed = true,
            }
        }
    }

    fn rows(&mut self, reply: &Reply) -> String {
        let Some(kept) = &mut self.unordered else { return self.writer.rows(&reply.records) };
        kept.extend_from_slice(&reply.records);
        let count = format!("{} rows ", reply.records.len());
        let more = reply.success().is_some_and(|meta| meta.get("has_more") == Some(&true.into()));
        match reply.tag {
            Tag::PULL if !more => count + &self.writer.rows_in_any_order(std::mem::take(kept)),
            Tag::PULL => count,
            // Which rows were seen is chance too.
            _ => String::new(),
        }
    }
}

impl Player {
    async fn unit(&mut self, unit: &Unit, view: &mut View) {
        for step in &unit.steps {
            if view.failed && unit.stops && !matches!(step, Step::Vanish) {
                continue;
            }
            let whole = match step {
                Step::Burst(asks) => self.burst(asks, view).await,
                Step::Rest(n) => self.rest(*n, view).await,
                Step::Think(time) => {
                    if *time > 0 {
                        tokio::time::sleep(Duration::from_millis(*time)).await;
                    }
                    true
                }
                Step::Vanish => {
                    self.connection = None;
                    return;
                }
            };
            if !whole {
                return;
            }
        }
        // A transaction that was left open ends here too.
        if view.failed || view.more {
            self.burst(&[Ask::Reset], view).await;
        }
    }

    /// False if the connection is gone.
    async fn burst(&mut self, asks: &[Ask], view: &mut View) -> bool {
        if self.connection.is_none() {
            match Connection::open(&self.endpoint, self.version).await {
                Ok(mut connection) => {
                    connection.bookmark.clone_from(&self.bookmark);
                    self.connection = Some(connection);
                }
                Err(error) => {
                    view.lines.push(format!("no connection: {error}"));
                    return false;
                }
            }
        }
        let Some(connection) = &mut self.connection else { return false };
        let whole = connection.ask(asks).await;
        self.bookmark.clone_from(&connection.bookmark);
        match whole {
            Ok(replies) => {
                view.take(asks, &replies);
                true
            }
            Err(Broken { replies, why, error }) => {
                view.take(asks, &replies);
                view.lines.push(if why == "closed" { why.to_owned() } else { format!("{why}: {error}") });
                self.connection = None;
                false
            }
        }
    }

    async fn rest(&mut self, n: i64, view: &mut View) -> bool {
        while view.more && !view.failed {
            if !self.burst(&[Ask::Pull(n)], view).await {
                return false;
            }
        }
        true
    }
}
