//! What a proxy adds to a query: RUN and PULL of a trivial statement and of an indexed point read on real Neo4j.

use anyhow::Result;

use super::{
    Findings, LATENCY_HEAD, Series, Settings, compare, half_rate, latency_rows, point_reads, prepare_items,
    series_of,
};
use crate::arena::Way;
use crate::bolt::Request;
use crate::load::Pace;
use crate::report::{Table, Verdict};

pub(super) fn run(settings: &Settings) -> Result<Findings> {
    prepare_items(settings)?;
    let arena = settings.before_neo4j(100)?;
    let mut findings = Findings::default();
    let mut table = Table::new("latency: RUN + PULL on Neo4j", &LATENCY_HEAD);
    for (name, requests) in
        [("RETURN 1", vec![Request::one_record("RETURN 1")]), ("point read", point_reads())]
    {
        settings.warm(arena.upstream, &requests)?;
        let mut rate = None;
        for connections in [1, 16] {
            let load = format!("{name}, {connections} conn.");
            let all = compare(settings, &arena, connections, &requests, Pace::Closed)?;
            latency_rows(&mut table, &load, &all, &mut findings);
            judge(&load, &all, &mut findings);
            rate = half_rate(&all);
        }
        let Some(rate) = rate else { continue };
        let load = format!("{name}, 16 conn., open loop, {rate:.0}/s");
        let all = compare(settings, &arena, 16, &requests, Pace::Open(rate))?;
        latency_rows(&mut table, &load, &all, &mut findings);
        judge(&load, &all, &mut findings);
    }
    findings.tables.push(table);
    Ok(findings)
}

/// Added p50 at most HAProxy's + 50 µs; p99 at most 1.3 × HAProxy's.
fn judge(load: &str, all: &[Series], findings: &mut Findings) {
    let Some((haproxy, sidebolt)) = series_of(all, Way::Haproxy).zip(series_of(all, Way::Sidebolt)) else {
        return;
    };
    let what = format!("{load}: p50 above HAProxy's (aim below 0)");
    findings.verdicts.push(Verdict::at_most(&what, 50.0, sidebolt.added(haproxy, 0.5), "µs"));
    let what = format!("{load}: p99 as a multiple of HAProxy's");
    findings.verdicts.push(Verdict::at_most(&what, 1.3, sidebolt.ratio(haproxy, 0.99), "×"));
}
