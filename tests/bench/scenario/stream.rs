//! Large results and values, down and up: bytes a second, and what of them stays in the proxy's memory.

use std::time::{Duration, Instant};

use anyhow::Result;
use bolt_wire::packstream::Value;

use super::{Findings, Settings};
use crate::arena::{Arena, Target, Way};
use crate::bolt::{Inbox, Request, Session};
use crate::process::{self, PeakRss};
use crate::report::{Table, Verdict, maybe, median};

const MIB: f64 = 1024.0 * 1024.0;
/// Room for buffers of one connection; a 100 MB result that was collected would show at once.
const ALLOWED_GROWTH_MIB: f64 = 8.0;

/// One kind of stream.
#[derive(Clone, Debug)]
struct Kind {
    name: &'static str,
    request: Request,
    /// Bytes are counted on the way up instead of on the way down.
    up: bool,
    /// How long the client waits before it reads.
    pause: Duration,
    /// Whether the rate has a target.
    rated: bool,
}

/// One measurement of one kind.
#[derive(Clone, Copy, Debug)]
struct Sample {
    bytes_per_second: Option<f64>,
    growth: Option<u64>,
    cpu_per_gb: Option<f64>,
}

pub(super) fn run(settings: &Settings) -> Result<Findings> {
    let mut findings = Findings::default();
    let head = ["stream", "way", "MB/s", "of direct", "of HAProxy", "proxy CPU s/GB", "RSS growth MiB"];
    for (upstream, arena, kinds) in [
        ("the stub", settings.before_stub(16)?, stub_kinds()),
        ("Neo4j", settings.before_neo4j(16)?, neo4j_kinds()),
    ] {
        let mut table = Table::new(format!("stream: from and to {upstream}, one connection"), &head);
        let fresh = fresh_memory(settings, &arena)?;
        for kind in kinds {
            let samples = sample(settings, &arena, &kind, &fresh)?;
            report(upstream, &kind, &arena, &samples, &mut table, &mut findings);
        }
        findings.tables.push(table);
    }
    Ok(findings)
}

fn stub_kinds() -> Vec<Kind> {
    let value = "x".repeat(40 << 20);
    let records = Request::query("stub:records=1000000,size=100", Value::map([]), Some(1_000_000));
    let kind = |name, request: &Request| Kind {
        name,
        request: request.clone(),
        up: false,
        pause: Duration::ZERO,
        rated: true,
    };
    vec![
        kind("1 M records of 100 B", &records),
        kind("40 MiB value down", &Request::one_record("stub:value=40MiB")),
        Kind {
            up: true,
            ..kind(
                "40 MiB parameter up",
                &Request::query("RETURN 1", Value::map([("x", value.into())]), Some(1)),
            )
        },
        Kind {
            pause: Duration::from_millis(500),
            rated: false,
            ..kind("1 M records, reader pauses 0.5 s", &records)
        },
    ]
}

fn neo4j_kinds() -> Vec<Kind> {
    let text = |size: usize| Value::map([("x", "x".repeat(size).into())]);
    // Ten doublings of 40 KiB: the value is made by the server, so that only the way down is large.
    let doubled = format!("WITH $x AS x {}RETURN x", "WITH x + x AS x ".repeat(10));
    let kind = |name, request| Kind { name, request, up: false, pause: Duration::ZERO, rated: true };
    vec![
        kind(
            "1 M records of 100 B",
            Request::query("UNWIND range(1, 1000000) AS i RETURN $x", text(100), Some(1_000_000)),
        ),
        kind("40 MiB value down", Request::query(&doubled, text(40 << 10), Some(1))),
        Kind {
            up: true,
            ..kind("40 MiB parameter up", Request::query("RETURN size($x)", text(40 << 20), Some(1)))
        },
    ]
}

/// Memory of each proxy after a first small query: growth counts from here, also what is kept from an earlier stream.
fn fresh_memory(settings: &Settings, arena: &Arena) -> Result<Vec<Option<u64>>> {
    let request = Request::one_record("RETURN 1");
    let one = |target: &Target| {
        let mut session = Session::open(target.address, None, &settings.login)?;
        session.ask(&request, &mut Inbox::default())?;
        session.close();
        proxy_of(*target).map(process::rss).transpose()
    };
    arena.targets.iter().map(one).collect()
}

fn proxy_of(target: Target) -> Option<u32> {
    target.pid.filter(|_| target.way != Way::Direct)
}

/// Interleaved rounds; of the first one, which warms up, only the memory counts.
fn sample(
    settings: &Settings,
    arena: &Arena,
    kind: &Kind,
    fresh: &[Option<u64>],
) -> Result<Vec<Vec<Sample>>> {
    let mut sessions = Vec::new();
    for target in &arena.targets {
        sessions.push(Session::open(target.address, None, &settings.login)?);
    }
    let mut samples = vec![Vec::new(); arena.targets.len()];
    for round in 0..=settings.rounds {
        for nth in 0..arena.targets.len() {
            let index = (round + nth) % arena.targets.len();
            let mut measured = once(&mut sessions[index], arena.targets[index], kind)?;
            measured.growth =
                measured.growth.zip(fresh[index]).map(|(peak, fresh)| peak.saturating_sub(fresh));
            if round == 0 {
                (measured.bytes_per_second, measured.cpu_per_gb) = (None, None);
            }
            samples[index].push(measured);
        }
    }
    sessions.into_iter().for_each(Session::close);
    Ok(samples)
}

/// One stream; `growth` is still the peak itself.
fn once(session: &mut Session, target: Target, kind: &Kind) -> Result<Sample> {
    let proxy = proxy_of(target);
    let cpu = proxy.map(process::cpu).transpose()?;
    let peak = proxy.map(PeakRss::watch).transpose()?;
    let mut inbox = Inbox::with_capacity(256 * 1024);
    let begun = Instant::now();
    session.send(&kind.request)?;
    std::thread::sleep(kind.pause);
    let answer = session.read_answer(&kind.request, &mut inbox)?;
    let seconds = begun.elapsed().saturating_sub(kind.pause).as_secs_f64();
    let bytes = if kind.up { kind.request.wire.len() as f64 } else { answer.bytes as f64 };
    let used =
        proxy.map(process::cpu).transpose()?.zip(cpu).map(|(after, before)| after.saturating_sub(before));
    Ok(Sample {
        bytes_per_second: Some(bytes / seconds),
        growth: peak.map(PeakRss::finish),
        cpu_per_gb: used.map(|cpu| cpu.as_secs_f64() / (bytes / 1e9)),
    })
}

fn report(
    upstream: &str,
    kind: &Kind,
    arena: &Arena,
    samples: &[Vec<Sample>],
    table: &mut Table,
    findings: &mut Findings,
) {
    let of = |way| arena.targets.iter().position(|target| target.way == way).and_then(|i| samples.get(i));
    let ratio = |own: &[Sample], way| {
        let other = of(way)?;
        median(own.iter().zip(other).filter_map(|(a, b)| Some(a.bytes_per_second? / b.bytes_per_second?)))
    };
    let growth = |own: &[Sample]| own.iter().filter_map(|s| s.growth).max().map(|bytes| bytes as f64 / MIB);
    for (target, own) in arena.targets.iter().zip(samples) {
        table.row([
            kind.name.to_owned(),
            target.way.to_string(),
            maybe(median(own.iter().filter_map(|s| s.bytes_per_second)).map(|rate| rate / 1e6)),
            maybe(ratio(own, Way::Direct)),
            maybe(ratio(own, Way::Haproxy)),
            maybe(median(own.iter().filter_map(|s| s.cpu_per_gb))),
            maybe(growth(own)),
        ]);
    }
    let Some(sidebolt) = of(Way::Sidebolt) else { return };
    let name = format!("{}, {upstream}", kind.name);
    if kind.rated {
        let what = format!("{name}: rate as a multiple of HAProxy's");
        findings.verdicts.push(Verdict::at_least(&what, 0.85, ratio(sidebolt, Way::Haproxy), "×"));
    }
    let what = format!("{name}: growth of memory");
    findings.verdicts.push(Verdict::at_most(&what, ALLOWED_GROWTH_MIB, growth(sidebolt), "MiB"));
}
