//! What it costs to see the queries: sight off, on with everything that it can keep, and with traces, in the same rounds.

use std::net::TcpListener;

use anyhow::{Context, Result};

use super::{Findings, LATENCY_HEAD, Series, Settings, compare, latency_rows, series_of};
use crate::arena::{Arena, Way};
use crate::bolt::Request;
use crate::load::Pace;
use crate::report::{Table, Verdict, maybe};

const OFF: &str = "cache:\n  enabled: false\nsight:\n  enabled: false\n";

pub(super) fn run(settings: &Settings) -> Result<Findings> {
    let folder = tempfile::tempdir().context("a folder for the history")?;
    let history = folder.path().join("seeing");
    let on = format!("cache:\n  enabled: false\nsight:\n  history: {{path: {}}}\n", history.display());
    // A collector that never answers: what is traced goes into the queue and is dropped there.
    let collector = TcpListener::bind("127.0.0.1:0")?;
    let traces = format!(
        "cache:\n  enabled: false\ntelemetry:\n  otlp: {{endpoint: 'http://{}/v1/traces', sample: 0.01}}\n",
        collector.local_addr()?
    );
    let ways = [(Way::Blind, OFF), (Way::Seeing, on.as_str()), (Way::Tracing, traces.as_str())];
    let arena = Arena::of_sidebolts_before_stub(settings.stub_threads, &ways, 100, &settings.programs)?;
    let mut findings = Findings::default();
    let requests = [Request::one_record("RETURN 1")];
    let head = ["load", "way", "requests/s", "CPU µs/request", "added CPU µs/request"];
    let mut cost = Table::new("sight: what seeing a query costs", &head);
    let mut latency = Table::new("sight: latency", &LATENCY_HEAD);
    for connections in [1, 16, 64] {
        let all = compare(settings, &arena, connections, &requests, Pace::Closed)?;
        let load = format!("closed, {connections} conn.");
        let blind = series_of(&all, Way::Blind);
        for series in &all {
            let added =
                blind.filter(|_| series.target.way != Way::Blind).and_then(|blind| added(series, blind));
            cost.row([
                load.clone(),
                series.target.way.to_string(),
                maybe(series.rate()),
                maybe(series.proxy_cpu()),
                crate::report::signed(added),
            ]);
            if series.target.way == Way::Seeing {
                let what = format!("sight, {connections} conn.: CPU µs added to a request");
                findings.verdicts.push(Verdict::at_most(&what, 5.0, added, "µs"));
            }
        }
        latency_rows(&mut latency, &load, &all, &mut findings);
    }
    findings.tables.extend([cost, latency]);
    findings.notes.push("allocations of a request with sight on: 0, tests/alloc.rs".to_owned());
    Ok(findings)
}

/// CPU microseconds for each request over another way, round by round.
fn added(series: &Series, other: &Series) -> Option<f64> {
    series.paired(other, |own, its| {
        own.cpu_per_request(0).unwrap_or_default() - its.cpu_per_request(0).unwrap_or_default()
    })
}
