//! The benchmark: `compare` runs the scenarios of `tests/bench/run`, `stub` and `load` are its two halves for use by hand.

mod arena;
mod bolt;
mod histogram;
mod load;
mod process;
mod report;
mod scenario;
mod stub;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use bolt_wire::Version;
use bolt_wire::packstream::Value;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::arena::{Programs, Target, Way};
use crate::bolt::{Login, Request, Session};
use crate::load::{Job, Pace};
use crate::report::{Table, first_line, maybe, micros, number};
use crate::scenario::{Scenario, Settings};

/// Measures Sidebolt beside a direct connection and HAProxy.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run scenarios and print tables in Markdown.
    Compare(CompareArgs),
    /// Send one statement again and again to one server.
    Load(LoadArgs),
    /// Answer as the fastest upstream there is: `stub:records=1000000,size=100`, `stub:value=40MiB`, `stub:delay=5ms`.
    Stub(stub::StubArgs),
}

/// How to log in.
#[derive(Args, Debug)]
struct LoginArgs {
    /// User name.
    #[arg(long, default_value = "neo4j")]
    user: String,
    /// Password.
    #[arg(long, env = "BENCH_PASSWORD", hide_env_values = true, default_value = "")]
    password: String,
    /// Bolt version to speak.
    #[arg(long, default_value = "5.8", value_parser = version)]
    bolt: Version,
}

impl LoginArgs {
    fn login(&self) -> Login {
        Login { version: self.bolt, user: self.user.clone(), password: self.password.clone() }
    }
}

#[derive(Args, Debug)]
struct CompareArgs {
    /// What to measure; everything if nothing is named.
    scenarios: Vec<Scenario>,
    /// The running Neo4j.
    #[arg(long)]
    neo4j: String,
    #[command(flatten)]
    login: LoginArgs,
    /// HAProxy's program; without it there is no such comparison.
    #[arg(long)]
    haproxy: Option<PathBuf>,
    /// Sidebolt's program; without it only the others are measured.
    #[arg(long)]
    sidebolt: Option<PathBuf>,
    /// Rounds of each measurement.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How often a round is repeated that other processes disturbed.
    #[arg(long, default_value_t = 2)]
    repeats: usize,
    /// Measured seconds of one round.
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    seconds: f64,
    /// Threads of HAProxy and of Sidebolt; 0 = their own choice.
    #[arg(long, default_value_t = 0)]
    proxy_threads: usize,
    /// Threads of the load.
    #[arg(long, default_value_t = 1)]
    client_threads: usize,
    /// Threads of the stub.
    #[arg(long, default_value_t = 1)]
    stub_threads: usize,
    /// Clients of the scenario `idle`.
    #[arg(long, default_value_t = 10_000)]
    idle_clients: usize,
    /// Clients of the scenario `busy`.
    #[arg(long, default_value_t = 1_000)]
    busy_clients: usize,
    /// Loads of the scenario `coalesce` to measure: those with this in their name, such as `relationship` or `32 sessions`.
    #[arg(long)]
    only: Option<String>,
    /// More lines for the table of versions, as `name=value`.
    #[arg(long = "version-of", value_parser = pair)]
    versions: Vec<(String, String)>,
}

#[derive(Args, Debug)]
struct LoadArgs {
    /// Where to send, `host:port`.
    #[arg(long)]
    target: String,
    #[command(flatten)]
    login: LoginArgs,
    /// Connections.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Open loop with so many requests a second; closed loop without it.
    #[arg(long, value_parser = positive)]
    rate: Option<f64>,
    /// Statement.
    #[arg(long, default_value = "RETURN 1")]
    query: String,
    /// Measured seconds.
    #[arg(long, default_value_t = 5.0, value_parser = positive)]
    seconds: f64,
    /// Threads of the load.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Processes whose CPU time and memory are shown.
    #[arg(long)]
    pid: Vec<u32>,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Compare(args) => compare(&args),
        Command::Load(args) => single_load(&args),
        Command::Stub(args) => stub::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn compare(args: &CompareArgs) -> Result<()> {
    let address = resolve(&args.neo4j)?;
    let work = std::env::temp_dir().join(format!("sidebolt-bench-{}", std::process::id()));
    std::fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    let pid = process::listener(address.port())?;
    let settings = Settings {
        neo4j: Target { way: Way::Direct, address, pid, admin: None },
        login: args.login.login(),
        programs: Programs {
            haproxy: args.haproxy.clone(),
            sidebolt: args.sidebolt.clone(),
            threads: args.proxy_threads,
            work: work.clone(),
        },
        rounds: args.rounds.max(1),
        repeats: args.repeats,
        time: Duration::from_secs_f64(args.seconds),
        client_threads: args.client_threads,
        stub_threads: args.stub_threads,
        idle_clients: args.idle_clients,
        busy_clients: args.busy_clients,
        only: args.only.clone(),
    };
    print!("{}", report::header(&versions(args, &settings)?));
    let outcome = run_scenarios(args, &settings);
    if outcome.is_ok() {
        // Only logs and configurations of servers that ran without trouble are in it.
        let _ = std::fs::remove_dir_all(&work);
    }
    outcome
}

fn run_scenarios(args: &CompareArgs, settings: &Settings) -> Result<()> {
    let usual: Vec<_> = Scenario::value_variants().iter().copied().filter(|s| *s != Scenario::Bulk).collect();
    let chosen = if args.scenarios.is_empty() { &usual } else { &args.scenarios };
    let (mut verdicts, mut failed) = (Vec::new(), Vec::new());
    for scenario in chosen {
        eprintln!("bench: {scenario:?} …");
        match scenario.run(settings) {
            Ok(findings) => {
                findings.tables.iter().for_each(|table| print!("{}", table.render()));
                if !findings.notes.is_empty() {
                    println!("\n- {}", findings.notes.join("\n- "));
                }
                verdicts.extend(findings.verdicts);
            }
            Err(error) => {
                println!("\n{scenario:?} could not be measured: {error:#}");
                failed.push(format!("{scenario:?}"));
            }
        }
    }
    if !verdicts.is_empty() {
        print!("{}", report::verdicts(&verdicts));
    }
    anyhow::ensure!(failed.is_empty(), "not measured: {} (the reason stands above)", failed.join(", "));
    Ok(())
}

fn versions(args: &CompareArgs, settings: &Settings) -> Result<Vec<(String, String)>> {
    let server = scenario::server_name(settings.neo4j.address, &settings.login)?;
    let mut versions = vec![("upstream".to_owned(), format!("{server}, Bolt {}", args.login.bolt))];
    if let Some(haproxy) = &args.haproxy {
        versions.push(("HAProxy".to_owned(), first_line(haproxy, &["-v"])));
    }
    if let Some(sidebolt) = &args.sidebolt {
        versions.push(("Sidebolt".to_owned(), first_line(sidebolt, &["--version"])));
    }
    versions.extend(args.versions.iter().cloned());
    let method = format!(
        "{} interleaved rounds of {} s, medians; threads: load {}, stub {}, proxies {}",
        settings.rounds,
        args.seconds,
        args.client_threads,
        args.stub_threads,
        if args.proxy_threads == 0 { "their own choice".to_owned() } else { args.proxy_threads.to_string() }
    );
    versions.push(("method".to_owned(), method));
    Ok(versions)
}

fn single_load(args: &LoadArgs) -> Result<()> {
    let (address, login) = (resolve(&args.target)?, args.login.login());
    let count = args.connections.max(1);
    let mut sessions: Vec<Session> =
        (0..count).map(|_| Session::open(address, None, &login)).collect::<Result<_>>()?;
    let time = Duration::from_secs_f64(args.seconds);
    let job = Job {
        requests: vec![Request::query(&args.query, Value::map([]), None)],
        keys: None,
        limit: None,
        pace: args.rate.map_or(Pace::Closed, Pace::Open),
        warm_up: time / 10,
        time,
        threads: args.threads,
        watched: args.pid.clone(),
    };
    let round = load::run(&mut sessions, &job)?;
    let mut table = Table::new(format!("{} on {address}", args.query), &["", "value"]);
    let mut pair = |name: &str, value: String| table.row([name.to_owned(), value]);
    pair("requests/s", number(round.rate()));
    for (name, q) in [("p50 µs", 0.5), ("p90 µs", 0.9), ("p99 µs", 0.99)] {
        pair(name, number(micros(round.latency.quantile(q))));
    }
    pair("max µs", number(micros(round.latency.max())));
    pair("errors", round.errors.to_string());
    pair("due but never sent", round.backlog.to_string());
    let own = round.own_cpu.as_secs_f64() * 1e6 / round.latency.count() as f64;
    pair("load: CPU µs/request", number(own));
    for (index, pid) in args.pid.iter().enumerate() {
        pair(&format!("process {pid}: CPU µs/request"), maybe(round.cpu_per_request(index)));
        pair(&format!("process {pid}: RSS MiB"), number(process::rss(*pid)? as f64 / 1024.0 / 1024.0));
    }
    print!("{}", table.render());
    if let Some(first) = round.first_error {
        println!("\nfirst error: {first}");
    }
    Ok(())
}

fn resolve(target: &str) -> Result<SocketAddr> {
    let mut found = target
        .to_socket_addrs()
        .with_context(|| format!("{target:?} is no address; give host:port, such as 127.0.0.1:7687"))?;
    found.next().with_context(|| format!("{target} has no address"))
}

fn version(text: &str) -> Result<Version, String> {
    let numbers = text.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let version =
        numbers.map(|(major, minor)| Version::new(major, minor)).filter(|version| version.is_known());
    version.ok_or_else(|| format!("{text}: no Bolt version from 4.4 to 6.1"))
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| format!("{text}: not a number above 0"))
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text}: not name=value"))?;
    Ok((name.to_owned(), value.to_owned()))
}
