//! One load on every way to write, in interleaved rounds, and the figures that come of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::statements::{Api, Write};
use crate::arena::{Arena, Target, Way};
use crate::bolt::{Request, Session};
use crate::load::{self, Job, Keys, Pace, Round};
use crate::report::{Table, maybe, median, micros, number};
use crate::scenario::{Findings, Settings, page, watched};

/// A load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    /// What is written.
    pub(super) write: Write,
    /// How a client writes it.
    pub(super) api: Api,
    /// Clients.
    pub(super) sessions: usize,
}

impl Case {
    /// What it is, in a table.
    pub(super) fn name(&self) -> String {
        let write = match self.write {
            Write::Node => "MERGE node",
            Write::Relationship => "MERGE relationship",
            Write::Grouped => "grouped write",
        };
        let api = if self.api == Api::Managed { ", execute_write" } else { "" };
        format!("{write}{api}, {} sessions", self.sessions)
    }
}

/// The servers, and the numbers that rows have.
pub(super) struct Ground {
    pub(super) settings: Settings,
    pub(super) arena: Arena,
    /// Where Sidebolt tells its metrics.
    pub(super) admin: Option<SocketAddr>,
    pub(super) keys: Keys,
}

/// What one way did in one round.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) round: Round,
    /// Rows of each request.
    pub(super) rows: u64,
    /// Rows of a batch, as far as Sidebolt or the client made batches.
    pub(super) batch: Option<f64>,
    /// What Sidebolt's group commit counted meanwhile, the time around the measurement included.
    counts: BTreeMap<String, f64>,
    proxied: bool,
}

impl Sample {
    /// Rows a second.
    pub(super) fn rate(&self) -> f64 {
        self.round.rate() * self.rows as f64
    }

    fn quantile(&self, q: f64) -> f64 {
        micros(self.round.latency.quantile(q))
    }

    fn per_row(&self, cpu: Duration) -> f64 {
        cpu.as_secs_f64() * 1e6 / (self.round.latency.count() * self.rows) as f64
    }

    /// CPU microseconds of Neo4j for each row.
    pub(super) fn server_cpu(&self) -> Option<f64> {
        self.round.cpu.get(usize::from(self.proxied)).map(|cpu| self.per_row(*cpu))
    }

    fn proxy_cpu(&self) -> Option<f64> {
        self.round.cpu.first().filter(|_| self.proxied).map(|cpu| self.per_row(*cpu))
    }
}

/// All rounds of one way.
#[derive(Clone, Debug)]
pub(super) struct Samples {
    pub(super) way: Way,
    pub(super) samples: Vec<Sample>,
}

impl Samples {
    fn median(&self, figure: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        median(self.samples.iter().filter_map(figure))
    }

    /// Median of the quotients of a figure here and in the same round of another way.
    pub(super) fn against(&self, other: &Self, figure: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        let pairs = self.samples.iter().zip(&other.samples);
        median(pairs.filter_map(|(own, its)| Some(figure(own)? / figure(its)?)))
    }

    /// Median of requests' p50 as a multiple of another way's.
    pub(super) fn p50_against(&self, other: &Self) -> Option<f64> {
        self.against(other, |sample| Some(sample.quantile(0.5)))
    }
}

/// The samples of a way, if it took part.
pub(super) fn of(all: &[Samples], way: Way) -> Option<&Samples> {
    all.iter().find(|samples| samples.way == way && !samples.samples.is_empty())
}

impl Ground {
    /// What Sidebolt's group commit has counted so far, by metric and labels.
    fn counts(&self) -> BTreeMap<String, f64> {
        let page = self.admin.and_then(|admin| page(admin).ok()).unwrap_or_default();
        let own = page.lines().filter_map(|line| line.strip_prefix("sidebolt_coalesce_"));
        own.filter_map(|line| line.rsplit_once(' '))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect()
    }

    /// Sends through one way.
    pub(super) fn send(
        &self,
        target: Target,
        sessions: &mut Vec<Session>,
        requests: Vec<Request>,
        keys: Keys,
        limit: Option<u64>,
    ) -> Result<Sample> {
        let rows = requests.first().map_or(1, Request::rows);
        // What gets in the way of a batch's gaps (a chunk's end) would be sent as it is.
        ensure!(
            requests.iter().all(|r| r.then.is_some() || (r.gaps.len() as u64).is_multiple_of(rows)),
            "a batch is too long"
        );
        let upstream = self.arena.upstream;
        let proxied = target.address != upstream.address;
        let pids = if proxied { watched(target, upstream) } else { upstream.pid.into_iter().collect() };
        let time = self.settings.time;
        let job = Job {
            requests,
            keys: Some(keys),
            pace: Pace::Closed,
            limit,
            warm_up: time / 4,
            time,
            threads: self.settings.client_threads,
            watched: pids,
        };
        let before = self.counts();
        let round = load::run(sessions, &job).with_context(|| format!("way: {}", target.way))?;
        let mut counts = BTreeMap::new();
        if target.way == Way::Sidebolt {
            counts = self.counts();
            counts.iter_mut().for_each(|(name, now)| *now -= before.get(name).unwrap_or(&0.0));
        }
        let count = |name: &str| counts.get(name).copied().unwrap_or_default();
        let made = count("batch_rows_sum") / count("batch_rows_count");
        let batch = match target.way {
            Way::ByHand => Some(rows as f64),
            _ => Some(made).filter(|batch| batch.is_finite()),
        };
        Ok(Sample { round, rows, batch, counts, proxied })
    }

    /// The single writes of a case, as each session of a way sends them.
    pub(super) fn singles(case: &Case, sessions: &[Session]) -> Vec<Request> {
        let telemetry = sessions.first().is_some_and(|session| session.telemetry);
        vec![case.write.request(case.api, telemetry)]
    }

    /// Interleaved rounds of a case on every way, each round beginning with another; by hand comes last, with batches as large as
    /// Sidebolt's were on average.
    pub(super) fn rounds(&self, case: &Case) -> Result<Vec<Samples>> {
        let targets = &self.arena.targets;
        let empty = |target: &Target| Samples { way: target.way, samples: Vec::new() };
        let mut all: Vec<Samples> = targets.iter().map(empty).collect();
        let mut sessions: Vec<Vec<Session>> = Vec::new();
        for target in targets {
            let count = if target.way == Way::ByHand { 1 } else { case.sessions };
            sessions.push(self.settings.sessions(*target, count)?);
        }
        let singles = targets.len() - 1;
        for round in 0..self.settings.rounds {
            let mut batch = None;
            for nth in 0..singles {
                let index = (round + nth) % singles;
                let (target, own) = (targets[index], &mut sessions[index]);
                while own.len() < case.sessions {
                    own.push(Session::open(target.address, None, &self.settings.login)?);
                }
                let requests = Self::singles(case, own);
                let sample = self.send(target, own, requests, self.keys.with(case.write.keys()), None)?;
                batch = batch.or(sample.batch);
                all[index].samples.push(sample);
            }
            // Without group commit there is no such batch: every session's row in one is what it could be at most.
            let rows = batch.map_or(case.sessions, |batch| batch.round() as usize);
            if let Some(request) = case.write.batch(rows as u64).filter(|_| rows > 1) {
                let (target, own) = (targets[singles], &mut sessions[singles]);
                if own.is_empty() {
                    own.push(Session::open(target.address, None, &self.settings.login)?);
                }
                let sample =
                    self.send(target, own, vec![request], self.keys.with(case.write.keys()), None)?;
                all[singles].samples.push(sample);
            }
        }
        sessions.into_iter().flatten().for_each(Session::close);
        Ok(all)
    }
}

/// Heads of a table of cases.
pub(super) const HEAD: [&str; 11] = [
    "load",
    "way",
    "rows/s",
    "p50 µs",
    "p99 µs",
    "Neo4j CPU µs/row",
    "proxy CPU µs/row",
    "client CPU µs/row",
    "mean batch",
    "rows/s, times direct",
    "errors",
];

/// One row for each way.
pub(super) fn rows(table: &mut Table, case: &str, all: &[Samples], findings: &mut Findings) {
    let direct = of(all, Way::Direct);
    for way in all.iter().filter(|way| !way.samples.is_empty()) {
        let errors: u64 = way.samples.iter().map(|sample| sample.round.errors).sum();
        table.row([
            case.to_owned(),
            way.way.to_string(),
            maybe(way.median(|s| Some(s.rate()))),
            maybe(way.median(|s| Some(s.quantile(0.5)))),
            maybe(way.median(|s| Some(s.quantile(0.99)))),
            maybe(way.median(Sample::server_cpu)),
            maybe(way.median(Sample::proxy_cpu)),
            maybe(way.median(|s| Some(s.per_row(s.round.own_cpu)))),
            maybe(way.median(|s| s.batch)),
            maybe(direct.and_then(|direct| way.against(direct, |s| Some(s.rate())))),
            number(errors as f64),
        ]);
        if let Some(first) = way.samples.iter().find_map(|sample| sample.round.first_error.clone()) {
            findings.notes.push(format!("{case}, {}: {errors} errors, the first: {first}", way.way));
        }
        findings.notes.extend(shares(case, &way.samples));
        findings.foreign.extend(way.samples.iter().map(|sample| sample.round.foreign_cores()));
    }
}

/// What Sidebolt did with a load's writes, in percent of them.
pub(super) fn shares(case: &str, samples: &[Sample]) -> Option<String> {
    let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
    for (name, count) in samples.iter().flat_map(|sample| &sample.counts) {
        *sums.entry(name).or_default() += count;
    }
    let kept = |name: &str| {
        ["alone_total", "relayed_total", "rows_total"].iter().any(|metric| name.starts_with(metric))
    };
    let all: f64 = sums.iter().filter(|(name, _)| kept(name)).map(|(_, count)| count).sum();
    let troubles = |name: &str| {
        ["fallbacks_total", "late_total", "ledger_mismatches_total"]
            .iter()
            .any(|metric| name.starts_with(metric))
    };
    let shares = sums.iter().filter(|(_, count)| **count > 0.0).filter_map(|(name, count)| match name {
        name if kept(name) => Some(format!("{name} {} %", number(100.0 * count / all))),
        name if troubles(name) => Some(format!("{name} {}", number(*count))),
        _ => None,
    });
    let shares: Vec<String> = shares.collect();
    (!shares.is_empty()).then(|| format!("{case}: {}", shares.join(", ").replace('"', "")))
}
