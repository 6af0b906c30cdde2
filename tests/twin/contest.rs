//! Rounds in which all clients want the same keys: no answer can be foretold, but all of them together obey a serial order.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::Result;
use bolt_wire::Version;
use bolt_wire::packstream::Value;
use fastrand::Rng;
use sidebolt::bolt_client::Message;

use crate::graph::Graph;
use crate::plan::{Ask, Extra};
use crate::wire::{Connection, Endpoint, Reply};

/// What Count's clients read with.
const READ: &str = "MATCH (n:TwU {id: $id}) RETURN n.c AS c";

/// What the clients fight for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Contest {
    /// Who counts a node's property up.
    Count,
    /// Who counts a relationship's property up.
    Link,
    /// Who creates what is unique.
    Create,
    /// Who is the first to set a property that is unique and no key.
    Mail,
    /// Nobody: each creates nodes of its own under the same key.
    Free,
    /// Who writes last.
    Last,
    /// Who creates and who deletes.
    Churn,
}

/// How one operation is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    /// An auto-commit statement.
    Auto,
    /// BEGIN, wait, statement, COMMIT, and again after a transient error.
    Managed,
    /// BEGIN and statement at once, COMMIT, and again after a transient error.
    Query,
    /// One transaction with two statements, on two keys.
    Pair,
}

/// One write that was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    text: &'static str,
    key: i64,
    /// Tells this write from all others.
    by: i64,
}

/// The writes that are sent together.
#[derive(Clone, Debug)]
struct Work {
    way: Way,
    ops: Vec<Op>,
}

/// What became of a write.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    op: Op,
    started: Instant,
    ended: Instant,
    outcome: Outcome,
}

#[derive(Clone, Debug)]
enum Outcome {
    Done { stats: BTreeMap<String, i64>, row: Vec<Value> },
    Failed(String),
    Broken(String),
}

/// A round: for each client its version and what it does.
#[derive(Clone, Debug)]
pub(crate) struct Match {
    /// What it is about.
    pub(crate) contest: Contest,
    clients: Vec<(Version, Vec<Work>)>,
    keys: i64,
}

impl Match {
    /// A random round.
    pub(crate) fn random(random: &mut Rng, versions: &[Version]) -> Self {
        use Contest::{Churn, Count, Create, Free, Last, Link, Mail};
        let all = [Count, Count, Count, Last, Last, Last, Link, Link, Create, Mail, Free, Churn];
        let contest = *random.choice(&all).unwrap_or(&Count);
        let clients = *random.choice(&[2_usize, 8, 16, 32, 64]).unwrap_or(&8);
        let (keys, texts) = (random.i64(1..8), contest.texts());
        let texts: Vec<_> = (0..random.usize(1..4)).map(|_| texts[random.usize(0..texts.len())]).collect();
        let mut by = 0;
        let mut op = |random: &mut Rng| {
            by += 1;
            Op { text: texts[random.usize(0..texts.len())], key: random.i64(0..keys), by }
        };
        // Versions do not share a batch.
        let one = (random.u8(0..3) > 0).then(|| random.usize(0..versions.len()));
        let mut client = |_| {
            let version = versions[one.unwrap_or_else(|| random.usize(0..versions.len()))];
            let work = (0..(1000 / clients).clamp(16, 50)).map(|_| {
                let ways = [Way::Auto, Way::Auto, Way::Auto, Way::Managed, Way::Query, Way::Pair];
                let way = ways[random.usize(0..ways.len())];
                let count = if way == Way::Pair { 2 } else { 1 };
                Work { way, ops: (0..count).map(|_| op(random)).collect() }
            });
            (version, work.collect())
        };
        Self { contest, clients: (0..clients).map(&mut client).collect(), keys }
    }

    /// How many writes it holds.
    pub(crate) fn statements(&self) -> usize {
        self.clients.iter().flat_map(|(_, work)| work).map(|work| work.ops.len()).sum()
    }

    /// What it is, in a line.
    pub(crate) fn told(&self) -> String {
        let texts: HashSet<&str> = self
            .clients
            .iter()
            .flat_map(|(_, work)| work)
            .flat_map(|work| &work.ops)
            .map(|op| op.text)
            .collect();
        format!("{:?}, {} clients, {} keys: {texts:?}", self.contest, self.clients.len(), self.keys)
    }

    /// Plays it, and gives everything that cannot be.
    pub(crate) async fn play(&self, endpoint: &Endpoint, graph: &mut Graph) -> Result<Vec<String>> {
        if self.contest == Contest::Link {
            graph.rows(&format!("UNWIND range(0, {}) AS i CREATE (:TwU {{id: i}})", self.keys)).await?;
        }
        let mut tasks = Vec::new();
        for (version, work) in self.clients.clone() {
            tasks.push(tokio::spawn(client(endpoint.clone(), version, work)));
        }
        let mut entries = Vec::new();
        for task in tasks {
            entries.extend(task.await?);
        }
        let mut problems = Vec::new();
        for entry in &entries {
            if let Outcome::Broken(why) = &entry.outcome {
                problems.push(format!("a connection broke, though nobody broke it: {why}"));
            }
            problems.extend(self.contest.wrong_answer(entry));
        }
        for key in 0..self.keys {
            let of_key: Vec<&Entry> = entries.iter().filter(|entry| entry.op.key == key).collect();
            problems.extend(self.of_key(key, &of_key, graph).await?);
        }
        problems.truncate(20);
        Ok(problems)
    }

    /// What all answers of one key say together, and what the graph says.
    async fn of_key(&self, key: i64, entries: &[&Entry], graph: &mut Graph) -> Result<Vec<String>> {
        let done = entries.iter().copied().filter(|entry| matches!(entry.outcome, Outcome::Done { .. }));
        let (reads, done): (Vec<&Entry>, Vec<&Entry>) = done.partition(|entry| entry.op.text == READ);
        let created: i64 =
            done.iter().map(|e| e.stat("nodes-created") + e.stat("relationships-created")).sum();
        let deleted: i64 = done.iter().map(|e| e.stat("nodes-deleted")).sum();
        let found = graph.rows(&self.contest.result(key)).await?;
        let mut problems = Vec::new();
        let mut demand = |kept: bool, what: String| {
            if !kept {
                problems.push(format!("key {key}: {what}"));
            }
        };
        let there = i64::try_from(found.len())?;
        demand(
            created - deleted == there,
            format!("{created} were created and {deleted} deleted, {there} are there"),
        );
        match self.contest {
            Contest::Count | Contest::Link => {
                demand(created == i64::from(!done.is_empty()), format!("created {created} times"));
                let counted = found.first().and_then(|row| row[0].as_integer()).unwrap_or(0);
                let writes = i64::try_from(done.len())?;
                demand(counted == writes, format!("counted {counted} of {writes} acknowledged writes"));
                problems.extend(out_of_order(key, &done));
                problems.extend(unseen(key, &reads, &done));
            }
            Contest::Create | Contest::Mail => {
                demand(
                    done.len() == usize::from(!entries.is_empty()),
                    format!("{} of them created it", done.len()),
                );
                let by = found.first().and_then(|row| row[0].as_integer());
                demand(by == done.first().map(|e| e.op.by), format!("{by:?} created it, as the graph says"));
            }
            Contest::Free => {
                let there: HashMap<i64, usize> = counts(found.iter().filter_map(|row| row[0].as_integer()));
                for entry in &done {
                    let n = there.get(&entry.op.by).copied().unwrap_or(0);
                    demand(n == 1, format!("write {} was acknowledged and is there {n} times", entry.op.by));
                }
            }
            Contest::Last => problems.extend(not_the_last(key, &found, &done)),
            Contest::Churn => {}
        }
        Ok(problems)
    }
}

fn counts(values: impl Iterator<Item = i64>) -> HashMap<i64, usize> {
    let mut all = HashMap::new();
    values.for_each(|value| *all.entry(value).or_default() += 1);
    all
}

/// Counted values are 1..n, each once, and rise with time.
fn out_of_order(key: i64, done: &[&Entry]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut seen: Vec<(i64, &Entry)> =
        done.iter().filter_map(|entry| Some((entry.counted()?, *entry))).collect();
    seen.sort_by_key(|(value, _)| *value);
    for pair in seen.windows(2) {
        if pair[0].0 == pair[1].0 {
            problems.push(format!("key {key}: two clients were told {}", pair[0].0));
        }
    }
    for (value, entry) in &seen {
        let made = entry.stat("nodes-created") + entry.stat("relationships-created") > 0;
        if *value < 1 || *value > done.len() as i64 || made != (*value == 1) {
            problems.push(format!("key {key}: told {value} of {}, created: {made}", done.len()));
        }
    }
    // The latest start among the lower values must not lie behind the end of a higher one.
    let mut latest: Option<(i64, Instant)> = None;
    for (value, entry) in &seen {
        if let Some((lower, started)) = latest
            && entry.ended < started
        {
            problems
                .push(format!("key {key}: {value} was told before the write that was told {lower} began"));
        }
        if latest.is_none_or(|(_, started)| entry.started > started) {
            latest = Some((*value, entry.started));
        }
    }
    problems
}

/// A read sees every write that ended before it began, and none that began after its end.
fn unseen(key: i64, reads: &[&Entry], done: &[&Entry]) -> Vec<String> {
    let mut problems = Vec::new();
    for read in reads {
        let least = done.iter().filter(|write| write.ended < read.started).count() as i64;
        let most = done.iter().filter(|write| write.started < read.ended).count() as i64;
        let seen = read.counted().unwrap_or(0);
        if seen < least || seen > most {
            problems.push(format!(
                "key {key}: a read saw {seen} writes, of {least} that were done and {most} begun"
            ));
        }
    }
    problems
}

/// What is left is what was written last: by a write that no other one followed.
fn not_the_last(key: i64, found: &[Vec<Value>], done: &[&Entry]) -> Vec<String> {
    let Some(row) = found.first() else { return Vec::new() };
    let Some(last) = done.iter().find(|entry| row[0] == Value::Integer(entry.op.by)) else {
        return vec![format!("key {key}: {row:?} is left, and no acknowledged write wrote it")];
    };
    let mut problems = Vec::new();
    if row[0] != row[1] {
        problems.push(format!("key {key}: {row:?} are halves of two writes"));
    }
    if done.iter().any(|entry| entry.started > last.ended) {
        problems
            .push(format!("key {key}: write {} is left, though another one began after its end", last.op.by));
    }
    problems
}

impl Contest {
    fn texts(self) -> &'static [&'static str] {
        match self {
            Self::Count => &[
                "MERGE (n:TwU {id: $id}) ON CREATE SET n.c = 1 ON MATCH SET n.c = n.c + 1 RETURN n.c AS c",
                "MERGE (n:TwU {id: $id}) ON CREATE SET n.c = 1 ON MATCH SET n.c = n.c + 1",
                "MERGE (n:TwU {id: $id}) SET n.c = coalesce(n.c, 0) + 1 RETURN n.c AS c",
                "MERGE (n:TwU {id: $id}) SET n.c = coalesce(n.c, 0) + 1",
                "MERGE (n:TwU {id: $id}) SET n.c = coalesce(n.c, 0) + 1 RETURN n",
                READ,
            ],
            Self::Link => &[
                "MATCH (a:TwU {id: $id}), (b:TwU {id: $id + 1}) MERGE (a)-[r:TW_R]->(b) \
                 ON CREATE SET r.c = 1 ON MATCH SET r.c = r.c + 1 RETURN r.c AS c",
                "MATCH (a:TwU {id: $id}), (b:TwU {id: $id + 1}) MERGE (a)-[r:TW_R]->(b) SET r.c = coalesce(r.c, 0) + 1",
                "MATCH (a:TwU {id: $id}), (b:TwU {id: $id + 1}) MERGE (a)-[r:TW_R]->(b) \
                 SET r.c = coalesce(r.c, 0) + 1 RETURN r",
            ],
            Self::Create => &[
                "CREATE (n:TwU {id: $id, by: $by})",
                "CREATE (n:TwU {id: $id, by: $by}) RETURN n.by AS by",
                "CREATE (n:TwU {id: $id}) SET n.by = $by",
            ],
            Self::Mail => &[
                "MERGE (n:TwV {id: $by}) SET n.mail = $id, n.by = $by",
                "MERGE (n:TwV {id: $by}) SET n.by = $by, n.mail = $id RETURN n.by AS by",
                "MERGE (n:TwV {id: $by}) SET n += $mail RETURN n.by AS by",
                "CREATE (n:TwV {id: $by, mail: $id, by: $by})",
            ],
            Self::Free => &[
                "CREATE (n:TwN {id: $id, by: $by})",
                "CREATE (n:TwN {id: $id, by: $by}) RETURN n.by AS by",
                "CREATE (n:TwN {id: $id}) SET n += $props RETURN n.by AS by",
            ],
            Self::Last => &[
                "MERGE (n:TwU {id: $id}) SET n.v = $by, n.by = $by",
                "MERGE (n:TwU {id: $id}) SET n.v = $by, n.by = $by RETURN n.by AS by",
                "MERGE (n:TwU {id: $id}) SET n += $props",
                "MERGE (n:TwU {id: $id}) SET n += $props RETURN n.v AS v, n.by AS by",
                "MERGE (n:TwU {id: $id}) ON CREATE SET n += $props ON MATCH SET n += $props",
            ],
            Self::Churn => &["MERGE (n:TwU {id: $id})", "MATCH (n:TwU {id: $id}) DELETE n"],
        }
    }

    /// The counters of the write that creates, and of any other one, where they are always the same.
    fn expected(self, text: &str) -> (i64, i64) {
        match self {
            Self::Count => (2, 1),
            Self::Link => (1, 1),
            Self::Create => (2, 2),
            Self::Mail => (3, 2),
            Self::Free if text.contains("$props") => (3, 3),
            Self::Free => (2, 2),
            Self::Last => (3, 2),
            Self::Churn if text.starts_with("MERGE") => (1, 0),
            Self::Churn => (0, 0),
        }
    }

    fn result(self, key: i64) -> String {
        match self {
            Self::Link => {
                format!("MATCH (a:TwU {{id: {key}}})-[r:TW_R]->(b:TwU {{id: {key} + 1}}) RETURN r.c")
            }
            Self::Count => format!("MATCH (n:TwU {{id: {key}}}) RETURN n.c"),
            Self::Mail => format!("MATCH (n:TwV {{mail: {key}}}) RETURN n.by"),
            Self::Free => format!("MATCH (n:TwN {{id: {key}}}) RETURN n.by"),
            _ => format!("MATCH (n:TwU {{id: {key}}}) RETURN n.by, n.v"),
        }
    }

    /// What is wrong with one answer, whatever the others are.
    fn wrong_answer(self, entry: &Entry) -> Option<String> {
        let Outcome::Done { stats, row } = &entry.outcome else {
            let Outcome::Failed(code) = &entry.outcome else { return None };
            let expected = code.starts_with("Neo.TransientError.")
                || matches!(self, Self::Create | Self::Mail) && code == "Neo.ClientError.Schema.ConstraintValidationFailed"
                // Somebody else deleted the node meanwhile.
                || self == Self::Churn && code == "Neo.ClientError.Statement.EntityNotFound";
            return (!expected).then(|| format!("{:?} failed with {code}", entry.op));
        };
        if entry.op.text == READ {
            return (!stats.is_empty()).then(|| format!("a read was told {stats:?}"));
        }
        let made = entry.stat("nodes-created") + entry.stat("relationships-created");
        let (creating, other) = self.expected(entry.op.text);
        let properties = if made > 0 { creating } else { other };
        let nodes = if self == Self::Link { 0 } else { made };
        let mut right: BTreeMap<String, i64> = BTreeMap::new();
        let deleted = if self == Self::Churn { entry.stat("nodes-deleted").min(1) } else { 0 };
        for (name, value) in [
            ("nodes-created", nodes.min(1)),
            ("relationships-created", if self == Self::Link { made.min(1) } else { 0 }),
            ("labels-added", nodes.min(1)),
            ("nodes-deleted", deleted),
            ("properties-set", properties),
        ] {
            if value > 0 {
                right.insert(name.to_owned(), value);
            }
        }
        if *stats != right {
            return Some(format!("{:?} was told {stats:?} instead of {right:?}", entry.op));
        }
        let names_writer = entry.op.text.ends_with("AS by");
        (names_writer && row.iter().any(|value| *value != Value::Integer(entry.op.by)))
            .then(|| format!("{:?} was told {row:?}: another's answer", entry.op))
    }
}

impl Entry {
    fn stat(&self, name: &str) -> i64 {
        match &self.outcome {
            Outcome::Done { stats, .. } => stats.get(name).copied().unwrap_or(0),
            _ => 0,
        }
    }

    /// The value that a count returned.
    fn counted(&self) -> Option<i64> {
        let Outcome::Done { row, .. } = &self.outcome else { return None };
        match row.first()? {
            Value::Integer(value) => Some(*value),
            Value::Struct(b'N', fields) => fields.get(2)?.get("c")?.as_integer(),
            Value::Struct(b'R', fields) => fields.get(4)?.get("c")?.as_integer(),
            _ => Some(i64::MIN),
        }
    }
}

async fn client(endpoint: Endpoint, version: Version, work: Vec<Work>) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut connection = None;
    for Work { way, ops } in work {
        if connection.is_none() {
            connection = Connection::open(&endpoint, version).await.ok();
        }
        let Some(open) = &mut connection else { break };
        let broken = send(open, way, &ops, &mut entries).await;
        if broken {
            connection = None;
        }
    }
    entries
}

/// Sends one operation until it is done or refused for good; true if the connection is gone.
async fn send(connection: &mut Connection, way: Way, ops: &[Op], entries: &mut Vec<Entry>) -> bool {
    /// Attempts at a transaction; then its transient error counts as a refusal, as it does for a driver.
    const ATTEMPTS: u32 = 12;
    let transient =
        |o: &Outcome| matches!(o, Outcome::Failed(code) if code.starts_with("Neo.TransientError."));
    for number in 1.. {
        let started = Instant::now();
        let attempt = attempt(connection, way, ops).await;
        let ended = Instant::now();
        let outcomes = attempt.unwrap_or_else(|why| vec![Outcome::Broken(why); ops.len()]);
        if way != Way::Auto && number < ATTEMPTS && outcomes.iter().any(transient) {
            let longest = Duration::from_millis(4 << number.min(7));
            tokio::time::sleep(longest.mul_f64(fastrand::f64())).await;
            continue;
        }
        let broken = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Broken(_)));
        for (op, outcome) in ops.iter().zip(outcomes) {
            entries.push(Entry { op: op.clone(), started, ended, outcome });
        }
        return broken;
    }
    false
}

/// One attempt: the outcome of each statement, or why the connection broke. A failure undoes them all.
async fn attempt(connection: &mut Connection, way: Way, ops: &[Op]) -> Result<Vec<Outcome>, String> {
    let run = |op: &Op| {
        let props = Value::map([("v", Value::Integer(op.by)), ("by", Value::Integer(op.by))]);
        let mail = Value::map([("mail", Value::Integer(op.key)), ("by", Value::Integer(op.by))]);
        let own = [("id", Value::Integer(op.key)), ("by", Value::Integer(op.by))];
        let parameters = own.into_iter().chain([("props", props), ("mail", mail)]);
        Ask::Run(op.text.to_owned(), Value::map(parameters), Extra::none())
    };
    let begin = Ask::Begin(Extra::none());
    let first = run(&ops[0]);
    let bursts = match way {
        Way::Auto => vec![vec![Ask::Telemetry(2), first, Ask::Pull(1000)]],
        Way::Managed => vec![vec![Ask::Telemetry(0), begin], vec![first, Ask::Pull(1000)], vec![Ask::Commit]],
        Way::Query => vec![vec![Ask::Telemetry(3), begin, first, Ask::Pull(1000)], vec![Ask::Commit]],
        Way::Pair => {
            let second = vec![run(&ops[1]), Ask::Pull(1000)];
            vec![vec![begin], vec![first, Ask::Pull(1000)], second, vec![Ask::Commit]]
        }
    };
    let mut done = Vec::new();
    for burst in &bursts {
        let replies =
            connection.ask(burst).await.map_err(|broken| format!("{}: {}", broken.why, broken.error))?;
        if let Some(code) = replies.iter().find_map(Reply::code) {
            let failed = Outcome::Failed(code.to_owned());
            connection.ask(&[Ask::Reset]).await.map_err(|broken| broken.error.to_string())?;
            return Ok(vec![failed; ops.len()]);
        }
        done.extend(replies.into_iter().filter(|reply| reply.tag == bolt_wire::Tag::PULL).map(outcome));
    }
    Ok(done)
}

fn outcome(reply: Reply) -> Outcome {
    let Message::Success(meta) = &reply.end else { return Outcome::Broken("no SUCCESS".to_owned()) };
    let mut stats = BTreeMap::new();
    if let Some(Value::Map(entries)) = meta.get("stats") {
        stats.extend(entries.iter().filter_map(|(name, value)| Some((name.clone(), value.as_integer()?))));
    }
    Outcome::Done { stats, row: reply.records.into_iter().next().unwrap_or_default() }
}
