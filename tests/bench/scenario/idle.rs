//! Many logged-in clients that do nothing: memory of each, upstream connections held for them, CPU time.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Findings, Settings};
use crate::arena::{Target, Way};
use crate::bolt::{Inbox, Request, Session};
use crate::process;
use crate::report::{Table, Verdict, maybe, number};

/// Clients from one source address, well below the number of ephemeral ports.
const PER_ADDRESS: usize = 20_000;
/// Upstream connections that Sidebolt's pool may hold.
const POOL: usize = 4;
/// How long nothing happens while CPU time is counted.
const QUIET: Duration = Duration::from_secs(5);

/// What was seen of one proxy.
#[derive(Clone, Copy, Debug)]
struct Seen {
    clients: usize,
    logins_per_second: f64,
    bytes_per_client: f64,
    bytes_per_client_used: f64,
    upstream_connections: usize,
    cpu_ms_per_second: f64,
    /// Transactions that could be open at once beside the idle clients.
    free: usize,
}

pub(super) fn run(settings: &Settings) -> Result<Findings> {
    let mut findings = Findings::default();
    let head = [
        "way",
        "clients",
        "logins/s",
        "RSS B/client",
        "RSS B/client after a query",
        "upstream connections",
        "CPU ms/s while idle",
    ];
    let mut table = Table::new("idle: logged-in clients that do nothing", &head);
    // Each upstream connection that HAProxy needs is one more file, in HAProxy and in the upstream: it is measured
    // in front of the stub, and with as many clients as there are files for.
    let files = usize::try_from(process::open_files_limit()).unwrap_or(usize::MAX);
    let wanted = settings.idle_clients;
    {
        let arena = settings.before_stub(100)?;
        if let Some(haproxy) = arena.target(Way::Haproxy) {
            let clients = wanted.min((files / 2).saturating_sub(400));
            let seen = observe(settings, haproxy, arena.upstream, clients)?;
            row(&mut table, "HAProxy, before the stub", seen);
        }
    }
    let arena = settings.before_neo4j(POOL)?;
    if let Some(sidebolt) = arena.target(Way::Sidebolt) {
        let clients = wanted.min(files.saturating_sub(500));
        if clients < wanted {
            findings.notes.push(format!(
                "idle: only {clients} clients, because a process may have {files} files open here (ulimit -n)"
            ));
        }
        let seen = observe(settings, sidebolt, arena.upstream, clients)?;
        row(&mut table, "Sidebolt, before Neo4j", seen);
        let bytes = format!("{clients} idle clients: memory of each (aim 5,000)");
        let held = format!("{clients} idle clients: upstream connections they hold of a pool of {POOL}");
        let pinned = (POOL - seen.free).max(seen.upstream_connections.saturating_sub(POOL)) as f64;
        findings.verdicts.extend([
            Verdict::at_most(&bytes, 12_000.0, Some(seen.bytes_per_client_used), "B"),
            Verdict::at_most(&held, 0.0, Some(pinned), ""),
        ]);
    }
    findings.tables.push(table);
    Ok(findings)
}

fn row(table: &mut Table, name: &str, seen: Seen) {
    table.row([
        name.to_owned(),
        seen.clients.to_string(),
        number(seen.logins_per_second),
        number(seen.bytes_per_client),
        number(seen.bytes_per_client_used),
        seen.upstream_connections.to_string(),
        maybe(Some(seen.cpu_ms_per_second)),
    ]);
}

fn observe(settings: &Settings, proxy: Target, upstream: Target, clients: usize) -> Result<Seen> {
    let pid = proxy.pid.context("invariant: a proxy has a process")?;
    let request = Request::one_record("RETURN 1");
    let mut inbox = Inbox::default();
    // A first client, so that what a proxy sets up once is not counted as a client's share.
    let mut first = Session::open(proxy.address, None, &settings.login)?;
    first.ask(&request, &mut inbox)?;
    let (empty, begun) = (process::rss(pid)?, Instant::now());
    let mut sessions = Vec::with_capacity(clients);
    for nth in 0..clients {
        let source = source(nth, proxy.address.ip());
        let session = Session::open(proxy.address, source, &settings.login);
        sessions.push(session.with_context(|| format!("idle client {nth} of {clients}"))?);
    }
    let logins_per_second = clients as f64 / begun.elapsed().as_secs_f64();
    let per_client = |rss: u64| rss.saturating_sub(empty) as f64 / clients as f64;
    let bytes_per_client = per_client(process::rss(pid)?);
    for session in &mut sessions {
        session.ask(&request, &mut inbox)?;
    }
    let bytes_per_client_used = per_client(process::rss(pid)?);
    let cpu = process::cpu(pid)?;
    std::thread::sleep(QUIET);
    let cpu = process::cpu(pid)?.saturating_sub(cpu);
    let upstream_connections = process::connections_to(pid, upstream.address.port())?;
    let free = open_transactions(settings, proxy)?;
    first.close();
    sessions.into_iter().for_each(Session::close);
    Ok(Seen {
        clients,
        logins_per_second,
        bytes_per_client,
        bytes_per_client_used,
        upstream_connections,
        cpu_ms_per_second: cpu.as_secs_f64() * 1e3 / QUIET.as_secs_f64(),
        free,
    })
}

/// How many transactions, up to the size of the pool, can be open at once: each needs an upstream connection of its own,
/// so all of them succeed only if the idle clients hold none.
fn open_transactions(settings: &Settings, proxy: Target) -> Result<usize> {
    let mut inbox = Inbox::default();
    let mut busy = Vec::new();
    while busy.len() < POOL {
        let mut session = Session::open(proxy.address, None, &settings.login)?;
        match session.ask(&Request::begin(), &mut inbox) {
            Ok(_) => busy.push(session),
            Err(_) => break,
        }
    }
    let free = busy.len();
    busy.into_iter().for_each(Session::close);
    Ok(free)
}

/// Loopback has many addresses, each with its own ports.
fn source(nth: usize, target: IpAddr) -> Option<IpAddr> {
    if !target.is_loopback() {
        return None;
    }
    let last = u8::try_from(2 + nth / PER_ADDRESS).unwrap_or(254);
    Some(Ipv4Addr::new(127, 0, 0, last).into())
}
