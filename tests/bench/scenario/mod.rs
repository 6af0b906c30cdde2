//! The scenarios, and what they share: settings, interleaved rounds, and the figures drawn from them.

mod busy;
mod cache;
mod coalesce;
mod connect;
mod gnn;
mod guard;
mod idle;
mod latency;
mod sight;
mod stream;
mod stub;

use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use bolt_wire::packstream::Value;
use clap::ValueEnum;

use crate::arena::{Arena, Programs, Target, Way};
use crate::bolt::{Inbox, Login, Request, Session};
use crate::load::{self, Job, Pace, Round};
use crate::report::{Table, Verdict, maybe, median, micros, number};

/// What can be measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Scenario {
    /// Added latency in front of Neo4j.
    Latency,
    /// The proxy's own cost per request, in front of the stub.
    Stub,
    /// Large results and values, both ways.
    Stream,
    /// Many clients that do nothing.
    Idle,
    /// Many busy clients over few upstream connections.
    Busy,
    /// Connect, log in, one query, close.
    Connect,
    /// Group commit: single writes, direct, through Sidebolt without and with it, and batched by hand.
    Coalesce,
    /// Hot reads: direct, and through Sidebolt without and with its cache.
    Cache,
    /// Limits, the queue and the circuit breaker: what they cost, what they hold.
    Guard,
    /// What seeing the queries costs: sight on and off, before the stub.
    Sight,
    /// Graphs and embeddings: `CALL gnn.…`.
    Gnn,
    /// 100,000 nodes and 500,000 relationships written as singles; long, and only run when it is named.
    Bulk,
}

/// What every scenario needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The real Neo4j.
    pub(crate) neo4j: Target,
    /// Credentials and version.
    pub(crate) login: Login,
    /// The proxies' programs.
    pub(crate) programs: Programs,
    /// How often each way is measured; figures are medians over the rounds.
    pub(crate) rounds: usize,
    /// How often a round that other processes disturbed is repeated.
    pub(crate) repeats: usize,
    /// Measured time of one round.
    pub(crate) time: Duration,
    /// Threads of the load.
    pub(crate) client_threads: usize,
    /// Threads of the stub.
    pub(crate) stub_threads: usize,
    /// Clients of `idle`.
    pub(crate) idle_clients: usize,
    /// Clients of `busy`.
    pub(crate) busy_clients: usize,
    /// What the names of `coalesce`'s loads must have in them.
    pub(crate) only: Option<String>,
}

/// What a scenario found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    /// Tables to print.
    pub(crate) tables: Vec<Table>,
    /// Figures with targets.
    pub(crate) verdicts: Vec<Verdict>,
    /// What the reader must know beside the figures.
    pub(crate) notes: Vec<String>,
    /// Cores that other processes kept busy, round by round.
    foreign: Vec<f64>,
}

impl Scenario {
    /// Starts what the scenario needs, measures, and ends it.
    pub(crate) fn run(self, settings: &Settings) -> Result<Findings> {
        let mut findings = match self {
            Self::Latency => latency::run(settings),
            Self::Stub => stub::run(settings),
            Self::Stream => stream::run(settings),
            Self::Idle => idle::run(settings),
            Self::Busy => busy::run(settings),
            Self::Connect => connect::run(settings),
            Self::Coalesce => coalesce::run(settings),
            Self::Cache => cache::run(settings),
            Self::Guard => guard::run(settings),
            Self::Sight => sight::run(settings),
            Self::Gnn => gnn::run(settings),
            Self::Bulk => coalesce::bulk(settings),
        }?;
        if let Some(cores) = median(findings.foreign.iter().copied()).filter(|cores| *cores > 0.05) {
            let cores = number(cores);
            findings
                .notes
                .push(format!("other processes kept {cores} cores busy (median): repeat on a quiet machine"));
        }
        Ok(findings)
    }
}

impl Settings {
    /// Proxies in front of Neo4j.
    fn before_neo4j(&self, pool_size: usize) -> Result<Arena> {
        Arena::before(self.neo4j, pool_size, &self.programs)
    }

    /// Proxies in front of the stub.
    fn before_stub(&self, pool_size: usize) -> Result<Arena> {
        Arena::before_stub(self.stub_threads, pool_size, &self.programs)
    }

    /// Logged-in sessions at a target.
    fn sessions(&self, target: Target, count: usize) -> Result<Vec<Session>> {
        let opened = (0..count).map(|_| Session::open(target.address, None, &self.login)).collect();
        Result::with_context(opened, || format!("way: {}", target.way))
    }

    /// Keeps an upstream busy without measuring, so that a just-started one does not get faster from round to round.
    fn warm(&self, target: Target, requests: &[Request]) -> Result<()> {
        let mut sessions = self.sessions(target, 8)?;
        let job = Job { time: self.time * 8, ..self.job(target, target, requests.to_vec(), Pace::Closed) };
        load::run(&mut sessions, &job)?;
        sessions.into_iter().for_each(Session::close);
        Ok(())
    }

    /// A job at a target.
    fn job(&self, target: Target, upstream: Target, requests: Vec<Request>, pace: Pace) -> Job {
        let warm_up = self.time / 4;
        let watched = watched(target, upstream);
        Job {
            requests,
            keys: None,
            pace,
            limit: None,
            warm_up,
            time: self.time,
            threads: self.client_threads,
            watched,
        }
    }
}

/// The processes whose CPU time is read: the proxy's, if there is one, and the upstream's, if it can be seen.
fn watched(target: Target, upstream: Target) -> Vec<u32> {
    let proxy = target.pid.filter(|_| target.way != Way::Direct);
    proxy.into_iter().chain(upstream.pid).collect()
}

/// All rounds of one way.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    target: Target,
    upstream: Target,
    rounds: Vec<Round>,
}

impl Series {
    /// Median over the rounds of a quantile, in microseconds.
    fn quantile(&self, q: f64) -> Option<f64> {
        median(self.rounds.iter().filter(|r| r.latency.count() > 0).map(|r| micros(r.latency.quantile(q))))
    }

    /// The longest latency of all rounds, in microseconds.
    fn max(&self) -> Option<f64> {
        self.rounds.iter().map(|r| micros(r.latency.max())).max_by(f64::total_cmp)
    }

    /// Median of requests a second.
    fn rate(&self) -> Option<f64> {
        median(self.rounds.iter().map(Round::rate))
    }

    /// Median of CPU microseconds of the proxy for each request.
    fn proxy_cpu(&self) -> Option<f64> {
        if self.target.way == Way::Direct {
            return None;
        }
        median(self.rounds.iter().filter_map(|r| r.cpu_per_request(0)))
    }

    /// Median of CPU microseconds of the upstream for each request.
    fn upstream_cpu(&self) -> Option<f64> {
        self.upstream.pid?;
        let index = watched(self.target, self.upstream).len() - 1;
        median(self.rounds.iter().filter_map(|r| r.cpu_per_request(index)))
    }

    /// Median of CPU microseconds of the load for each request.
    fn client_cpu(&self) -> Option<f64> {
        let per_request = |r: &Round| r.own_cpu.as_secs_f64() * 1e6 / r.latency.count() as f64;
        median(self.rounds.iter().map(per_request))
    }

    fn errors(&self) -> u64 {
        self.rounds.iter().map(|round| round.errors).sum()
    }

    /// Median over the rounds of a comparison with the same round of another way: drift of the machine cancels out.
    fn paired(&self, other: &Self, compare: impl Fn(&Round, &Round) -> f64) -> Option<f64> {
        median(self.rounds.iter().zip(&other.rounds).map(|(own, its)| compare(own, its)))
    }

    /// Added latency over another way at a quantile, in microseconds.
    fn added(&self, other: &Self, q: f64) -> Option<f64> {
        self.paired(other, |own, its| micros(own.latency.quantile(q)) - micros(its.latency.quantile(q)))
    }

    /// Latency at a quantile as a multiple of another way's.
    fn ratio(&self, other: &Self, q: f64) -> Option<f64> {
        self.paired(other, |own, its| micros(own.latency.quantile(q)) / micros(its.latency.quantile(q)))
    }
}

/// Half of what the slowest way can do: all ways get the same load and none is full.
fn half_rate(all: &[Series]) -> Option<f64> {
    let slowest = all.iter().filter_map(Series::rate).min_by(f64::total_cmp);
    slowest.map(|rate| (rate / 2.0).max(1.0))
}

/// The series of a way, if it took part.
fn series_of(all: &[Series], way: Way) -> Option<&Series> {
    all.iter().find(|series| series.target.way == way)
}

/// Measures every target once in each round, each round beginning with another target. A round that other processes
/// disturbed is repeated whole, and of its attempts the quietest is kept.
fn interleave(
    settings: &Settings,
    arena: &Arena,
    mut measure: impl FnMut(usize, Target) -> Result<Round>,
) -> Result<Vec<Series>> {
    let targets = &arena.targets;
    let empty = |target: &Target| Series { target: *target, upstream: arena.upstream, rounds: Vec::new() };
    let mut all: Vec<Series> = targets.iter().map(empty).collect();
    for round in 0..settings.rounds {
        let mut quietest: Option<Vec<Round>> = None;
        for _ in 0..=settings.repeats {
            let mut attempt = vec![Round::default(); targets.len()];
            for nth in 0..targets.len() {
                let index = (round + nth) % targets.len();
                let way = targets[index].way;
                attempt[index] = measure(index, targets[index]).with_context(|| format!("way: {way}"))?;
            }
            if quietest.as_ref().is_none_or(|other| disturbance(&attempt) < disturbance(other)) {
                quietest = Some(attempt);
            }
            if quietest.as_ref().is_some_and(|rounds| disturbance(rounds) <= QUIET_ENOUGH) {
                break;
            }
        }
        for (series, round) in all.iter_mut().zip(quietest.into_iter().flatten()) {
            series.rounds.push(round);
        }
    }
    Ok(all)
}

/// Cores that other processes may keep busy during a round.
const QUIET_ENOUGH: f64 = 0.2;

/// Cores that other processes kept busy, at the worst of some measurements.
fn disturbance(rounds: &[Round]) -> f64 {
    rounds.iter().map(Round::foreign_cores).fold(0.0, f64::max)
}

/// Interleaved rounds of the same load on sessions that stay logged in all the time.
fn compare(
    settings: &Settings,
    arena: &Arena,
    connections: usize,
    requests: &[Request],
    pace: Pace,
) -> Result<Vec<Series>> {
    let mut sessions = Vec::new();
    for target in &arena.targets {
        sessions.push(settings.sessions(*target, connections)?);
    }
    let all = interleave(settings, arena, |index, target| {
        let job = settings.job(target, arena.upstream, requests.to_vec(), pace);
        let own = &mut sessions[index];
        // A session that broke was counted as an error; the next round is measured with the full number again.
        while own.len() < connections {
            own.push(Session::open(target.address, None, &settings.login)?);
        }
        load::run(own, &job)
    })?;
    sessions.into_iter().flatten().for_each(Session::close);
    Ok(all)
}

const LATENCY_HEAD: [&str; 12] = [
    "load",
    "way",
    "requests/s",
    "p50 µs",
    "p90 µs",
    "p99 µs",
    "max µs",
    "added p50",
    "added p99",
    "proxy CPU µs",
    "upstream CPU µs",
    "errors",
];

/// One row for each way: latencies, what was added to the direct way, CPU time for each request.
fn latency_rows(table: &mut Table, load: &str, all: &[Series], findings: &mut Findings) {
    let direct = series_of(all, Way::Direct);
    for series in all {
        let added = |q| direct.filter(|_| series.target.way != Way::Direct).and_then(|d| series.added(d, q));
        table.row([
            load.to_owned(),
            series.target.way.to_string(),
            maybe(series.rate()),
            maybe(series.quantile(0.5)),
            maybe(series.quantile(0.9)),
            maybe(series.quantile(0.99)),
            maybe(series.max()),
            crate::report::signed(added(0.5)),
            crate::report::signed(added(0.99)),
            maybe(series.proxy_cpu()),
            maybe(series.upstream_cpu()),
            number(series.errors() as f64),
        ]);
        note_troubles(load, series, findings);
    }
}

/// Says what went wrong: figures of a load with errors must not be read without it.
fn note_troubles(load: &str, series: &Series, findings: &mut Findings) {
    let first = series.rounds.iter().find_map(|round| round.first_error.clone());
    if let Some(first) = first {
        let (errors, way) = (series.errors(), series.target.way);
        findings.notes.push(format!("{load}, {way}: {errors} errors, the first: {first}"));
    }
    let backlog: u64 = series.rounds.iter().map(|round| round.backlog).sum();
    let sent: u64 = series.rounds.iter().map(|round| round.latency.count()).sum();
    // Each session may have its last one under way when a round ends.
    let usual = series.rounds.iter().map(|round| round.per_session.len() as u64).sum::<u64>() + sent / 100;
    if backlog > usual {
        let way = series.target.way;
        findings.notes.push(format!(
            "{load}, {way}: {backlog} requests were due and never sent ({sent} were): the rate was too high"
        ));
    }
    findings.foreign.extend(series.rounds.iter().map(Round::foreign_cores));
}

/// Nodes in the data set of the point reads.
const ITEMS: i64 = 10_000;

/// Makes the data set, once; what is there already stays.
fn prepare_items(settings: &Settings) -> Result<()> {
    let mut session = Session::open(settings.neo4j.address, None, &settings.login)?;
    let mut inbox = Inbox::default();
    let statements = [
        "CREATE CONSTRAINT bench_item IF NOT EXISTS FOR (n:BenchItem) REQUIRE n.id IS UNIQUE",
        "UNWIND range(1, $items) AS id MERGE (n:BenchItem {id: id}) SET n.name = 'item ' + id",
        "CALL db.awaitIndexes()",
    ];
    for statement in statements {
        let request = Request::query(statement, Value::map([("items", ITEMS.into())]), Some(0));
        session.ask(&request, &mut inbox).with_context(|| format!("data set: {statement}"))?;
    }
    session.close();
    Ok(())
}

/// Reads of one node by its indexed key, spread over the data set.
fn point_reads() -> Vec<Request> {
    let read = |nth: i64| {
        let parameters = Value::map([("id", (1 + nth * 7919 % ITEMS).into())]);
        Request::query("MATCH (n:BenchItem {id: $id}) RETURN n.name", parameters, Some(1))
    };
    (0..256).map(read).collect()
}

/// The server's own name and version, as HELLO tells it.
pub(crate) fn server_name(address: SocketAddr, login: &Login) -> Result<String> {
    let session = Session::open(address, None, login)?;
    let name = session.server.clone();
    session.close();
    Ok(name)
}

/// The page of metrics.
pub(crate) fn page(admin: SocketAddr) -> Result<String> {
    get(admin, "/metrics")
}

/// What an admin port answers, head and body.
pub(crate) fn get(admin: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(admin)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}
