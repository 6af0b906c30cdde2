//! Clients that write without pause while everything around them breaks, and the book of what they were told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use bolt_wire::packstream::Value;
use bolt_wire::{Tag, Version};
use fastrand::Rng;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::graph::Graph;
use crate::plan::{Ask, Extra};
use crate::wire::{Connection, Endpoint, Reply};

/// What a write does.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Kind {
    /// MERGE of a node that is new.
    Merge,
    /// CREATE of a node that no constraint protects from being created twice.
    Create,
    /// CREATE of a relationship between two nodes that many want.
    Relate,
    /// MERGE of a node that is there or not, and a count.
    Count,
}

/// What a client knows of a write.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fate {
    /// It was acknowledged, and returned this.
    Done(Vec<Value>),
    /// It was refused with this code: it must not be there.
    Refused(String),
    /// The connection ended before the answer: it may be there, once.
    Unknown,
}

/// One write and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// What it did.
    pub(crate) kind: Kind,
    /// Its own number; for a count, the number of the counter.
    pub(crate) id: i64,
    /// What its client knows.
    pub(crate) fate: Fate,
}

/// What all clients together were told.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// Every write.
    pub(crate) entries: Vec<Entry>,
    /// Answers that cannot be right.
    pub(crate) wrong: Vec<String>,
    /// The longest wait for an answer.
    pub(crate) slowest: Duration,
}

/// Clients at work; they end when told to.
#[derive(Debug)]
pub(crate) struct Load {
    /// What they were told.
    pub(crate) book: Arc<Mutex<Book>>,
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

/// How many counters the clients share.
pub(crate) const COUNTERS: i64 = 12;
const HUBS: i64 = 4;
/// Before another attempt, as drivers do, when nobody answers or somebody refuses.
const PAUSE: Duration = Duration::from_millis(20);

impl Load {
    /// The constraints and the nodes that it needs.
    pub(crate) async fn prepare(graph: &mut Graph) -> Result<()> {
        graph.rows("CREATE CONSTRAINT lose_m FOR (n:LoseMerge) REQUIRE n.id IS UNIQUE").await?;
        graph.rows("CREATE CONSTRAINT lose_c FOR (n:LoseCount) REQUIRE n.id IS UNIQUE").await?;
        graph.rows("CREATE CONSTRAINT lose_h FOR (n:LoseHub) REQUIRE n.id IS UNIQUE").await?;
        graph.rows(&format!("UNWIND range(0, {}) AS i CREATE (:LoseHub {{id: i}})", HUBS - 1)).await.map(drop)
    }

    /// Starts them.
    pub(crate) fn start(endpoint: &Endpoint, versions: &[Version], clients: i64, seed: u64) -> Self {
        let (book, acknowledged) = (Arc::default(), Arc::new(AtomicU64::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let client = |number: i64| {
            let mut random = Rng::with_seed(seed.wrapping_mul(977).wrapping_add(number.unsigned_abs()));
            let client = Client {
                endpoint: endpoint.clone(),
                version: versions[random.usize(0..versions.len())],
                next: number * 1_000_000_000,
                random,
                book: Arc::clone(&book),
                acknowledged: Arc::clone(&acknowledged),
            };
            tokio::spawn(client.work(Arc::clone(&stop)))
        };
        let clients = (1..=clients).map(client).collect();
        Self { book, acknowledged, stop, clients }
    }

    /// How many writes were acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Ends all clients, each after its present write; gives how many did not end in time.
    pub(crate) async fn finish(&mut self, patience: Duration) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let deadline = tokio::time::Instant::now() + patience;
        let mut hung = 0;
        for client in &mut self.clients {
            if tokio::time::timeout_at(deadline, &mut *client).await.is_err() {
                client.abort();
                hung += 1;
            }
        }
        hung
    }
}

struct Client {
    endpoint: Endpoint,
    version: Version,
    next: i64,
    random: Rng,
    book: Arc<Mutex<Book>>,
    acknowledged: Arc<AtomicU64>,
}

impl Client {
    async fn work(mut self, stop: Arc<AtomicBool>) {
        let mut connection = None;
        while !stop.load(Ordering::Relaxed) {
            let Some(open) = &mut connection else {
                connection = Connection::open(&self.endpoint, self.version).await.ok();
                if connection.is_none() {
                    tokio::time::sleep(PAUSE).await;
                }
                continue;
            };
            let kinds = [Kind::Merge, Kind::Merge, Kind::Create, Kind::Create, Kind::Relate, Kind::Count];
            let kind = kinds[self.random.usize(0..kinds.len())];
            self.next += 1;
            let id = if kind == Kind::Count { self.random.i64(0..COUNTERS) } else { self.next };
            let started = Instant::now();
            let fate = self.write(open, kind, id).await;
            let (broken, refused) = (fate == Fate::Unknown, matches!(fate, Fate::Refused(_)));
            self.note(Entry { kind, id, fate }, started.elapsed());
            if broken {
                connection = None;
            }
            if refused {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    fn note(&self, entry: Entry, took: Duration) {
        let mut book = self.book.lock();
        book.slowest = book.slowest.max(took);
        if let Fate::Done(row) = &entry.fate {
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
            if entry.kind != Kind::Count && row[..] != [Value::Integer(entry.id)] {
                book.wrong.push(format!("{entry:?}: another's answer"));
            }
        }
        book.entries.push(entry);
    }

    /// One write, auto-commit or managed.
    async fn write(&mut self, connection: &mut Connection, kind: Kind, id: i64) -> Fate {
        let run = Ask::Run(kind.text().to_owned(), self.parameters(id), Extra::none());
        let begin = Ask::Begin(Extra::none());
        let bursts = match self.random.u8(0..6) {
            0 => vec![vec![Ask::Telemetry(0), begin], vec![run, Ask::Pull(1000)], vec![Ask::Commit]],
            1 => vec![vec![Ask::Telemetry(3), begin, run, Ask::Pull(1000)], vec![Ask::Commit]],
            _ => vec![vec![Ask::Telemetry(2), run, Ask::Pull(1000)]],
        };
        let mut answer = None;
        for burst in bursts {
            let Ok(replies) = connection.ask(&burst).await else { return Fate::Unknown };
            if let Some(code) = replies.iter().find_map(Reply::code) {
                let fate = Fate::Refused(code.to_owned());
                // If even this breaks, the next write finds out.
                let _ = connection.ask(&[Ask::Reset]).await;
                return fate;
            }
            answer = replies.into_iter().find(|reply| reply.tag == Tag::PULL).or(answer);
        }
        let Some(reply) = answer else { return Fate::Unknown };
        if let Some(problem) = kind.wrong_counters(&reply) {
            self.book.lock().wrong.push(format!("{kind:?} {id}: {problem}"));
        }
        Fate::Done(reply.records.into_iter().next().unwrap_or_default())
    }

    fn parameters(&mut self, id: i64) -> Value {
        let (a, b) = (self.random.i64(0..HUBS), self.random.i64(0..HUBS));
        let props = Value::map([("a", Value::Integer(id)), ("b", "text".into())]);
        Value::map([
            ("id", Value::Integer(id)),
            ("a", Value::Integer(a)),
            ("b", Value::Integer(b)),
            ("props", props),
        ])
    }
}

impl Kind {
    fn text(self) -> &'static str {
        match self {
            Self::Merge => "MERGE (n:LoseMerge {id: $id}) SET n += $props RETURN n.id AS id",
            Self::Create => "CREATE (n:LoseFree {id: $id, x: 1}) RETURN n.id AS id",
            Self::Relate => {
                "MATCH (a:LoseHub {id: $a}), (b:LoseHub {id: $b}) CREATE (a)-[r:LOSE {id: $id}]->(b) RETURN r.id AS id"
            }
            Self::Count => "MERGE (n:LoseCount {id: $id}) SET n.c = coalesce(n.c, 0) + 1 RETURN n.c AS c",
        }
    }

    /// What a client of one write must be told of what it changed.
    fn wrong_counters(self, reply: &Reply) -> Option<String> {
        let Some(Value::Map(entries)) = reply.success()?.get("stats") else {
            return Some("no counters".to_owned());
        };
        let stats: BTreeMap<&str, i64> =
            entries.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_integer()?))).collect();
        let first = stats.contains_key("nodes-created");
        let right: &[(&str, i64)] = match self {
            Self::Merge => &[("labels-added", 1), ("nodes-created", 1), ("properties-set", 3)],
            Self::Create => &[("labels-added", 1), ("nodes-created", 1), ("properties-set", 2)],
            Self::Relate => &[("properties-set", 1), ("relationships-created", 1)],
            Self::Count if first => &[("labels-added", 1), ("nodes-created", 1), ("properties-set", 2)],
            Self::Count => &[("properties-set", 1)],
        };
        (!stats.iter().map(|(name, value)| (*name, *value)).eq(right.iter().copied()))
            .then(|| format!("{stats:?}"))
    }
}
