//! The guard: what it costs who is let pass, how exact it is, how fast it refuses, and what it keeps from whom.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bolt_wire::packstream::Value;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Findings, Settings, compare, series_of};
use crate::arena::{Arena, Target, Way};
use crate::bolt::{Inbox, Login, Request, Session};
use crate::histogram::Histogram;
use crate::load::Pace;
use crate::report::{Table, Verdict, maybe, micros, number};

/// What the words of an open breaker have in them.
const OPEN: &str = "circuit breaker is open";
/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

const LIMITS: &str = "cache:\n  enabled: false\nguard:\n  limits:\n  \
    - {name: all, rate: 1000000/s, max_in_flight: 10000}\n  \
    - {name: each, per: principal, rate: 1000000/s, max_in_flight: 10000}\n  \
    - {name: deletes, rate: 1/s, when: {text: '(?i)detach delete'}}\n  \
    rules:\n  - {action: deny, when: {label: Secret}}\n";
const NONE: &str = "cache:\n  enabled: false\n";

pub(super) fn run(settings: &Settings) -> Result<Findings> {
    let mut findings = Findings::default();
    cost(settings, &mut findings)?;
    rate(settings, &mut findings)?;
    abuse(settings, &mut findings)?;
    overload(settings, &mut findings)?;
    breaker(settings, &mut findings)?;
    Ok(findings)
}

/// An upstream that answers at once, on a port of its own, which it can be started on again.
struct Stub {
    child: Child,
    address: SocketAddr,
}

impl Stub {
    fn start(address: Option<SocketAddr>) -> Result<Self> {
        let address = match address {
            Some(address) => address,
            None => TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?,
        };
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["stub", "--port", &address.port().to_string()]).stdout(Stdio::null());
        let stub = Self { child: command.spawn().context("the stub cannot be started")?, address };
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            anyhow::ensure!(begun.elapsed() < PATIENCE, "the stub does not accept connections");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(stub)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }

    fn target(&self) -> Target {
        Target { way: Way::Direct, address: self.address, pid: Some(self.child.id()), admin: None }
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What became of a crowd's requests.
#[derive(Default)]
struct Outcome {
    /// Times of those that were answered.
    answered: Histogram,
    /// Times of those that were refused, with the RESET that follows.
    refused: Histogram,
    /// Connections that were closed.
    closed: u64,
    time: Duration,
    last: Option<String>,
}

impl Outcome {
    fn merge(&mut self, other: Self) {
        self.answered.merge(&other.answered);
        self.refused.merge(&other.refused);
        self.closed += other.closed;
        self.time = self.time.max(other.time);
        self.last = other.last.or_else(|| self.last.take());
    }

    fn rate(&self) -> f64 {
        self.answered.count() as f64 / self.time.as_secs_f64()
    }

    fn p99(&self) -> f64 {
        micros(self.answered.quantile(0.99))
    }
}

/// Many clients of one user that ask again at once, whatever they heard; after a refusal they wait for `pause`.
fn crowd(
    target: Target,
    login: &Login,
    clients: usize,
    request: &Request,
    time: Duration,
    pause: Duration,
) -> Result<Outcome> {
    let open = || Session::open(target.address, None, login);
    let sessions = (0..clients).map(|_| open()).collect::<Result<Vec<_>>>()?;
    let begun = Instant::now();
    let each = |mut session: Session| {
        let (mut outcome, mut inbox) = (Outcome::default(), Inbox::default());
        while begun.elapsed() < time {
            let asked = Instant::now();
            match session.ask(request, &mut inbox) {
                Ok(_) => outcome.answered.record(asked.elapsed()),
                Err(error) if error.to_string().starts_with("Neo.") => {
                    outcome.refused.record(asked.elapsed());
                    outcome.last = Some(error.to_string());
                    std::thread::sleep(pause);
                }
                Err(error) => {
                    outcome.closed += 1;
                    outcome.last = Some(error.to_string());
                    match open() {
                        Ok(anew) => session = anew,
                        Err(_) => std::thread::sleep(Duration::from_millis(20)),
                    }
                }
            }
        }
        outcome.time = begun.elapsed();
        session.close();
        outcome
    };
    let mut all = Outcome::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            sessions.into_iter().map(|session| scope.spawn(move || each(session))).collect();
        for thread in threads {
            if let Ok(outcome) = thread.join() {
                all.merge(outcome);
            }
        }
    });
    Ok(all)
}

/// What limits cost who keeps within them.
fn cost(settings: &Settings, findings: &mut Findings) -> Result<()> {
    let stub = Stub::start(None)?;
    let ways = [(Way::Unguarded, NONE), (Way::Guarded, LIMITS)];
    let arena = Arena::of_sidebolts(stub.target(), &ways, 100, &settings.programs)?;
    let head = ["clients", "way", "requests/s", "p50 µs", "p99 µs", "proxy CPU µs"];
    let mut table =
        Table::new("guard: two limits, a rule on the text and one on labels, nobody near them", &head);
    for clients in [1, 16] {
        let all = compare(settings, &arena, clients, &[Request::one_record("RETURN 1")], Pace::Closed)?;
        for series in &all {
            table.row([
                clients.to_string(),
                series.target.way.to_string(),
                maybe(series.rate()),
                maybe(series.quantile(0.5)),
                maybe(series.quantile(0.99)),
                maybe(series.proxy_cpu()),
            ]);
        }
        let own = series_of(&all, Way::Guarded).zip(series_of(&all, Way::Unguarded));
        let cpu = own.and_then(|(own, other)| Some(own.proxy_cpu()? - other.proxy_cpu()?));
        let what = format!("guard, {clients} clients: CPU added by limits and rules");
        findings.verdicts.push(Verdict::at_most(&what, 2.0, cpu, "µs"));
    }
    findings.tables.push(table);
    Ok(())
}

/// How exact a rate is, and how fast a refusal.
fn rate(settings: &Settings, findings: &mut Findings) -> Result<()> {
    const RATE: f64 = 1000.0;
    let stub = Stub::start(None)?;
    let more = format!("{NONE}guard:\n  limits: [{{name: all, rate: {RATE}/s, burst: 5}}]\n");
    let arena = Arena::of_sidebolts(stub.target(), &[(Way::Guarded, &more)], 100, &settings.programs)?;
    let time = settings.time * 5;
    let request = Request::one_record("RETURN 1");
    let pause = Duration::from_micros(500);
    let outcome = crowd(arena.targets[0], &settings.login, 4, &request, time, pause)?;
    let mut table = Table::new(
        "guard: 1,000 requests a second allowed, four clients that ask for more",
        &["seconds", "answered/s", "refused/s", "refusal p50 µs", "refusal p99 µs", "closed"],
    );
    table.row([
        number(outcome.time.as_secs_f64()),
        number(outcome.rate()),
        number(outcome.refused.count() as f64 / outcome.time.as_secs_f64()),
        number(micros(outcome.refused.quantile(0.5))),
        number(micros(outcome.refused.quantile(0.99))),
        outcome.closed.to_string(),
    ]);
    findings.tables.push(table);
    let away = (outcome.rate() / RATE - 1.0).abs() * 100.0;
    findings.verdicts.extend([
        Verdict::at_most("guard: admitted rate, away from what is configured", 2.0, Some(away), "%"),
        Verdict::at_most(
            "guard: refusal p99, with the RESET behind it",
            1000.0,
            Some(micros(outcome.refused.quantile(0.99))),
            "µs",
        ),
        Verdict::at_most("guard: connections closed by refusals", 0.0, Some(outcome.closed as f64), ""),
    ]);
    Ok(())
}

/// One user with ten times the clients of each other.
fn abuse(settings: &Settings, findings: &mut Findings) -> Result<()> {
    let stub = Stub::start(None)?;
    let more = format!("{NONE}guard:\n  limits: [{{name: all, max_in_flight: 8}}]\n");
    let ways = [(Way::Unguarded, NONE), (Way::Guarded, more.as_str())];
    let arena = Arena::of_sidebolts(stub.target(), &ways, 8, &settings.programs)?;
    let request = Request::one_record("stub:delay=5ms");
    let head = ["way", "the others' p50 µs alone", "beside it", "their p99 µs alone", "beside it", "errors"];
    let mut table = Table::new(
        "guard: ten users with one client each, over 8 connections; then beside one user with 100 clients",
        &head,
    );
    for target in &arena.targets {
        let others = |greedy: bool| -> Result<Outcome> {
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let login = Login { user: "greedy".to_owned(), ..settings.login.clone() };
                let (stop, request) = (&stop, &request);
                let abuser = greedy.then(|| {
                    scope.spawn(move || -> Result<()> {
                        while !stop.load(Ordering::Relaxed) {
                            crowd(
                                *target,
                                &login,
                                100,
                                request,
                                settings.time / 2,
                                Duration::from_millis(1),
                            )?;
                        }
                        Ok(())
                    })
                });
                if greedy {
                    std::thread::sleep(settings.time / 4);
                }
                let each: Vec<_> = (0..10)
                    .map(|user| {
                        let login = Login { user: format!("user{user}"), ..settings.login.clone() };
                        scope.spawn(move || {
                            crowd(*target, &login, 1, request, settings.time * 2, Duration::ZERO)
                        })
                    })
                    .collect();
                let mut all = Outcome::default();
                for thread in each {
                    all.merge(thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))??);
                }
                stop.store(true, Ordering::Relaxed);
                if let Some(abuser) = abuser {
                    abuser.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
                }
                Ok(all)
            })
        };
        let (alone, beside) = (others(false)?, others(true)?);
        let p50 = |outcome: &Outcome| micros(outcome.answered.quantile(0.5));
        table.row([
            target.way.to_string(),
            number(p50(&alone)),
            number(p50(&beside)),
            number(alone.p99()),
            number(beside.p99()),
            (beside.refused.count() + beside.closed).to_string(),
        ]);
        if target.way == Way::Guarded {
            let more = (beside.p99() / alone.p99() - 1.0) * 100.0;
            findings.verdicts.push(Verdict::at_most(
                "guard: the others' p99 beside an abusive user",
                20.0,
                Some(more),
                "% more",
            ));
        }
    }
    findings.tables.push(table);
    Ok(())
}

/// Five times what Neo4j can do, with and without limits.
fn overload(settings: &Settings, findings: &mut Findings) -> Result<()> {
    const SEATS: usize = 4;
    const WAIT: Duration = Duration::from_millis(250);
    let more =
        format!("{NONE}guard:\n  max_wait: 250ms\n  limits: [{{name: all, max_in_flight: {SEATS}}}]\n");
    let adaptive = format!("{NONE}guard:\n  max_wait: 1s\n  adaptive: true\n");
    let ways = [(Way::Unguarded, NONE), (Way::Guarded, more.as_str()), (Way::Adaptive, adaptive.as_str())];
    let arena = Arena::of_sidebolts(settings.neo4j, &ways, 100, &settings.programs)?;
    let request = Request::query(
        "UNWIND range(1, 20000) AS x WITH x WHERE x % 7 = 0 RETURN sum(x) AS s",
        Value::map([]),
        Some(1),
    );
    let login = &settings.login;
    let head = ["way", "clients", "answered/s", "p50 µs", "p99 µs", "refused/s", "closed"];
    let mut table = Table::new("guard: Neo4j at and beyond its capacity", &head);
    let mut row = |way: Way, clients: usize, outcome: &Outcome| {
        table.row([
            way.to_string(),
            clients.to_string(),
            number(outcome.rate()),
            number(micros(outcome.answered.quantile(0.5))),
            number(outcome.p99()),
            number(outcome.refused.count() as f64 / outcome.time.as_secs_f64()),
            outcome.closed.to_string(),
        ]);
    };
    crowd(arena.targets[0], login, SEATS, &request, settings.time * 4, Duration::ZERO)?;
    let peak = crowd(arena.targets[0], login, SEATS, &request, settings.time * 4, Duration::ZERO)?;
    row(Way::Unguarded, SEATS, &peak);
    // Whoever is refused comes again after a moment, as drivers do (they wait for a second).
    let crowd_of =
        |target: Target| crowd(target, login, 200, &request, settings.time * 10, Duration::from_millis(200));
    for target in &arena.targets {
        let outcome = crowd_of(*target)?;
        row(target.way, 200, &outcome);
        if target.way == Way::Adaptive {
            findings.verdicts.push(Verdict::at_least(
                "guard, adaptive: answered under overload, of the peak",
                0.9,
                Some(outcome.rate() / peak.rate()),
                "×",
            ));
        }
        if target.way == Way::Guarded {
            let service = micros(peak.answered.quantile(0.99));
            let bound = micros(WAIT) + 3.0 * service;
            findings.verdicts.extend([
                Verdict::at_least(
                    "guard: answered under overload, of the peak",
                    0.9,
                    Some(outcome.rate() / peak.rate()),
                    "×",
                ),
                Verdict::at_most(
                    "guard: p99 under overload (wait + 3 × p99 at the peak)",
                    bound,
                    Some(outcome.p99()),
                    "µs",
                ),
                Verdict::at_most(
                    "guard: connections closed under overload",
                    0.0,
                    Some(outcome.closed as f64),
                    "",
                ),
            ]);
        }
    }
    findings.tables.push(table);
    Ok(())
}

/// A server that is killed, started again, and frozen.
fn breaker(settings: &Settings, findings: &mut Findings) -> Result<()> {
    let stub = Stub::start(None)?;
    let more = format!("{NONE}breaker:\n  probe_interval: 250ms\n");
    let arena = Arena::of_sidebolts(stub.target(), &[(Way::Guarded, &more)], 100, &settings.programs)?;
    let (target, login, address) = (arena.targets[0], &settings.login, stub.address);
    let request = Request::one_record("RETURN 1");
    let mut idle = settings.sessions(target, 50)?;
    let mut inbox = Inbox::default();
    drop(stub);
    let (killed, mut failures) = (Instant::now(), 0);
    let first = loop {
        match idle[0].ask(&request, &mut inbox) {
            Err(error) if error.to_string().contains(OPEN) => break killed.elapsed(),
            Err(_) => failures += 1,
            Ok(_) => anyhow::bail!("a killed server answered"),
        }
    };
    let open = crowd(target, login, 8, &request, settings.time * 2, Duration::ZERO)?;
    let stub = Stub::start(Some(address))?;
    let answers = Instant::now();
    while idle[1].ask(&request, &mut inbox).is_err() {
        anyhow::ensure!(answers.elapsed() < PATIENCE, "the breaker stays open");
        std::thread::sleep(Duration::from_millis(1));
    }
    let back = answers.elapsed();
    let closed = idle.iter_mut().filter_map(|session| session.ask(&request, &mut inbox).err());
    let closed = closed.filter(|error| !error.to_string().starts_with("Neo.")).count();
    let frozen = frozen(settings, &stub)?;
    let mut table = Table::new("guard: the circuit breaker", &["what", "figure"]);
    for (what, figure) in [
        ("failures before the first refusal at once", failures.to_string()),
        ("milliseconds from the kill to it", number(first.as_secs_f64() * 1e3)),
        (
            "refusals a second while it is open, 8 clients",
            number(open.refused.count() as f64 / open.time.as_secs_f64()),
        ),
        ("their p99, with the RESET behind it, µs", number(micros(open.refused.quantile(0.99)))),
        ("milliseconds from the port's first answer to the first success", number(back.as_secs_f64() * 1e3)),
        ("idle clients that were closed, of 50", closed.to_string()),
        (
            "milliseconds until a frozen server is given up (read_timeout 1s)",
            number(frozen.as_secs_f64() * 1e3),
        ),
    ] {
        table.row([what.to_owned(), figure]);
    }
    findings.tables.push(table);
    findings.verdicts.extend([
        Verdict::at_most("guard: failures before the breaker opens", 5.0, Some(f64::from(failures)), ""),
        Verdict::at_most(
            "guard: refusal p99 while it is open, with the RESET",
            1000.0,
            Some(micros(open.refused.quantile(0.99))),
            "µs",
        ),
        Verdict::at_most(
            "guard: first success after the server is back",
            1000.0,
            Some(back.as_secs_f64() * 1e3),
            "ms",
        ),
        Verdict::at_most("guard: idle clients closed by an outage", 0.0, Some(closed as f64), ""),
        Verdict::at_most(
            "guard: a frozen server is given up within its time-out",
            1100.0,
            Some(frozen.as_secs_f64() * 1e3),
            "ms",
        ),
    ]);
    Ok(())
}

/// How long a request takes that a frozen server does not answer.
fn frozen(settings: &Settings, stub: &Stub) -> Result<Duration> {
    let more = format!("{NONE}# set: upstream.read_timeout=1s\n");
    let arena = Arena::of_sidebolts(stub.target(), &[(Way::Guarded, &more)], 100, &settings.programs)?;
    let mut session = Session::open(arena.targets[0].address, None, &settings.login)?;
    let (request, mut inbox) = (Request::one_record("RETURN 1"), Inbox::default());
    session.ask(&request, &mut inbox)?;
    stub.signal(Signal::SIGSTOP)?;
    let asked = Instant::now();
    let answer = session.ask(&request, &mut inbox);
    let took = asked.elapsed();
    stub.signal(Signal::SIGCONT)?;
    anyhow::ensure!(answer.is_err(), "a frozen server answered");
    Ok(took)
}
