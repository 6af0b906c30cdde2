//! Connect, log in, one query, close: what a process pays that keeps no connection.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Findings, LATENCY_HEAD, Settings, interleave, latency_rows, series_of, watched};
use crate::arena::Way;
use crate::bolt::{Inbox, Login, Request, Session};
use crate::load::{Round, Window};
use crate::report::{Table, Verdict, micros};

pub(super) fn run(settings: &Settings) -> Result<Findings> {
    let arena = settings.before_neo4j(100)?;
    let mut findings = Findings::default();
    let title = "connect: TCP connect, Bolt handshake, login, RETURN 1, close (a request = all of it)";
    let mut table = Table::new(title, &LATENCY_HEAD);
    // Not one of the measurements: a server that has just started gets faster with every login.
    measure(arena.upstream.address, &settings.login, 8, settings.time * 8, &[])?;
    for workers in [1, 8] {
        let all = interleave(settings, &arena, |_, target| {
            let pids = watched(target, arena.upstream);
            measure(target.address, &settings.login, workers, settings.time, &pids)
        })?;
        let load = format!("{workers} at once");
        latency_rows(&mut table, &load, &all, &mut findings);
        if let (Some(direct), Some(sidebolt)) = (series_of(&all, Way::Direct), series_of(&all, Way::Sidebolt))
        {
            let faster = direct.paired(sidebolt, |its, own| {
                micros(its.latency.quantile(0.5)) / micros(own.latency.quantile(0.5))
            });
            let what = format!("connect + query + close, {load}: times as fast as direct (p50)");
            findings.verdicts.push(Verdict::at_least(&what, 2.0, faster, "×"));
        }
    }
    findings.tables.push(table);
    Ok(findings)
}

fn measure(
    address: SocketAddr,
    login: &Login,
    workers: usize,
    time: Duration,
    pids: &[u32],
) -> Result<Round> {
    let window = Window::new(time / 4, time);
    let mut round = Round { time, ..Round::default() };
    std::thread::scope(|scope| -> Result<()> {
        let running: Vec<_> = (0..workers).map(|_| scope.spawn(|| work(address, login, window))).collect();
        window.watch_cpu(pids, &mut round)?;
        for thread in running {
            round.merge(thread.join().map_err(|_| anyhow::anyhow!("a load thread panicked"))?);
        }
        Ok(())
    })?;
    Ok(round)
}

fn work(address: SocketAddr, login: &Login, window: Window) -> Round {
    let (mut round, mut inbox) = (Round::default(), Inbox::default());
    let request = Request::one_record("RETURN 1");
    while Instant::now() < window.end {
        let begun = Instant::now();
        let outcome = Session::open(address, None, login).and_then(|mut session| {
            session.ask(&request, &mut inbox)?;
            session.close();
            Ok(())
        });
        match outcome {
            Ok(()) if window.counts(Instant::now()) => round.latency.record(begun.elapsed()),
            Ok(()) => {}
            Err(error) => {
                round.errors += 1;
                round.first_error.get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }
    round
}
