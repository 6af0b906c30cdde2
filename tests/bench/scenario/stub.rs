//! The proxy's own cost: requests per second of its CPU time, in front of an upstream that answers at once.

use anyhow::Result;

use super::{Findings, LATENCY_HEAD, Series, Settings, compare, half_rate, latency_rows, series_of};
use crate::arena::Way;
use crate::bolt::Request;
use crate::load::Pace;
use crate::report::{Table, Verdict, maybe};

pub(super) fn run(settings: &Settings) -> Result<Findings> {
    let arena = settings.before_stub(100)?;
    let mut findings = Findings::default();
    let requests = [Request::one_record("RETURN 1")];
    let head = ["load", "way", "requests/s", "CPU µs/request", "requests/s/core", "load's CPU µs/request"];
    let mut cost = Table::new("stub: the proxy's own cost of RUN + PULL", &head);
    let mut latency = Table::new("stub: latency", &LATENCY_HEAD);
    for connections in [1, 16, 64] {
        let closed = compare(settings, &arena, connections, &requests, Pace::Closed)?;
        let load = format!("closed, {connections} conn.");
        cost_rows(&mut cost, &load, &closed);
        latency_rows(&mut latency, &load, &closed, &mut findings);
        if connections > 1 {
            let sidebolt = series_of(&closed, Way::Sidebolt).and_then(per_core);
            let what = format!("stub, {connections} conn.: requests/s/core (aim 80,000)");
            findings.verdicts.push(Verdict::at_least(&what, 40_000.0, sidebolt, ""));
        }
        let Some(rate) = half_rate(&closed) else { continue };
        let open = compare(settings, &arena, connections, &requests, Pace::Open(rate))?;
        let load = format!("open, {connections} conn., {rate:.0}/s");
        cost_rows(&mut cost, &load, &open);
        latency_rows(&mut latency, &load, &open, &mut findings);
    }
    findings.tables.extend([cost, latency]);
    Ok(findings)
}

fn cost_rows(table: &mut Table, load: &str, all: &[Series]) {
    for series in all {
        table.row([
            load.to_owned(),
            series.target.way.to_string(),
            maybe(series.rate()),
            maybe(series.proxy_cpu()),
            maybe(per_core(series)),
            maybe(series.client_cpu()),
        ]);
    }
}

/// Requests for each second of the proxy's CPU time.
fn per_core(series: &Series) -> Option<f64> {
    series.proxy_cpu().filter(|micros| *micros > 0.0).map(|micros| 1e6 / micros)
}
