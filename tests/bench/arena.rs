//! The servers of a comparison: the upstream, HAProxy in front of it and Sidebolt in front of it, as child processes.

use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process;

/// How long a server may take to be ready, or to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A way to the upstream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    /// No proxy.
    Direct,
    /// HAProxy in TCP mode.
    Haproxy,
    /// Sidebolt.
    Sidebolt,
    /// Sidebolt without group commit.
    Uncoalesced,
    /// Sidebolt without its cache.
    Uncached,
    /// Sidebolt with its cache, each hit checked.
    Strict,
    /// Sidebolt with its cache, hits right within a bound.
    Bounded,
    /// Sidebolt without limits.
    Unguarded,
    /// Sidebolt with limits that nobody reaches.
    Guarded,
    /// With a limit that it finds itself.
    Adaptive,
    /// Sidebolt that sees nothing of the queries.
    Blind,
    /// Sidebolt that sees all and keeps it.
    Seeing,
    /// Sidebolt that traces one request in a hundred too.
    Tracing,
    /// No proxy, and the writes batched by the client itself.
    ByHand,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Haproxy => "HAProxy",
            Self::Sidebolt => "Sidebolt",
            Self::Uncoalesced => "Sidebolt, no group commit",
            Self::Uncached => "Sidebolt, no cache",
            Self::Strict => "Sidebolt, strict",
            Self::Bounded => "Sidebolt, bounded",
            Self::Unguarded => "Sidebolt, no limits",
            Self::Guarded => "Sidebolt, limits",
            Self::Adaptive => "Sidebolt, adaptive",
            Self::Blind => "Sidebolt, no sight",
            Self::Seeing => "Sidebolt, all of sight",
            Self::Tracing => "Sidebolt, sight and traces",
            Self::ByHand => "UNWIND by hand",
        })
    }
}

/// Where a way begins, and the process whose cost is counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// Which way.
    pub(crate) way: Way,
    /// Address for clients.
    pub(crate) address: SocketAddr,
    /// The proxy's process; for the direct way the upstream's, if it can be seen.
    pub(crate) pid: Option<u32>,
    /// Its admin port.
    pub(crate) admin: Option<SocketAddr>,
}

/// Programs and options for the servers.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// HAProxy; none = the comparison goes without it.
    pub(crate) haproxy: Option<PathBuf>,
    /// Sidebolt; none = the comparison goes without it.
    pub(crate) sidebolt: Option<PathBuf>,
    /// Threads that HAProxy and Sidebolt may use; 0 = as many as they like.
    pub(crate) threads: usize,
    /// Folder for configurations and logs.
    pub(crate) work: PathBuf,
}

/// An upstream with its proxies; all that were started here end when this is dropped.
#[derive(Debug)]
pub(crate) struct Arena {
    /// Direct, HAProxy, Sidebolt: those that exist.
    pub(crate) targets: Vec<Target>,
    /// The upstream.
    pub(crate) upstream: Target,
    _servers: Vec<Server>,
}

impl Arena {
    /// Proxies in front of an upstream that runs already.
    pub(crate) fn before(upstream: Target, pool_size: usize, programs: &Programs) -> Result<Self> {
        let (mut targets, mut servers) = (vec![upstream], Vec::new());
        if let Some(program) = &programs.haproxy {
            let (server, address) = start_haproxy(program, upstream.address, programs)?;
            targets.push(Target { way: Way::Haproxy, address, pid: Some(server.pid()), admin: None });
            servers.push(server);
        }
        if let Some(program) = &programs.sidebolt {
            // What is measured is the way to the upstream.
            let off = if schema_has(program, "\"cache\"")? { NO_CACHE } else { "" };
            let (server, [address, _]) = start_sidebolt(program, off, upstream.address, pool_size, programs)?;
            targets.push(Target { way: Way::Sidebolt, address, pid: Some(server.pid()), admin: None });
            servers.push(server);
        }
        Ok(Self { targets, upstream, _servers: servers })
    }

    /// Sidebolt without and with group commit in front of an upstream that runs already, and the latter's admin port.
    pub(crate) fn of_writers(upstream: Target, programs: &Programs) -> Result<(Self, Option<SocketAddr>)> {
        let (mut targets, mut servers, mut admin) = (vec![upstream], Vec::new(), None);
        if let Some(program) = &programs.sidebolt {
            // A build that knows no group commit is measured all the same, twice.
            let known = schema_has(program, "\"coalesce\"")?;
            let off = if known { "coalesce:\n  enabled: false\n" } else { "" };
            for (way, more) in [(Way::Uncoalesced, off), (Way::Sidebolt, "")] {
                let (server, [address, its_admin]) =
                    start_sidebolt(program, more, upstream.address, WRITERS_POOL, programs)?;
                targets.push(Target { way, address, pid: Some(server.pid()), admin: Some(its_admin) });
                servers.push(server);
                admin = Some(its_admin);
            }
        }
        targets.push(Target { way: Way::ByHand, ..upstream });
        Ok((Self { targets, upstream, _servers: servers }, admin))
    }

    /// Sidebolt without and with its cache in front of an upstream that runs already.
    pub(crate) fn of_readers(upstream: Target, programs: &Programs) -> Result<Self> {
        let (mut targets, mut servers) = (vec![upstream], Vec::new());
        if let Some(program) = &programs.sidebolt {
            for (way, more) in [
                (Way::Uncached, NO_CACHE),
                (Way::Strict, "cache:\n  consistency: strict\n"),
                (Way::Bounded, "cache:\n  consistency: bounded\n"),
            ] {
                let (server, [address, admin]) =
                    start_sidebolt(program, more, upstream.address, WRITERS_POOL, programs)?;
                targets.push(Target { way, address, pid: Some(server.pid()), admin: Some(admin) });
                servers.push(server);
            }
        }
        Ok(Self { targets, upstream, _servers: servers })
    }

    /// Sidebolts in front of an upstream that runs already, each with `more` in its configuration.
    pub(crate) fn of_sidebolts(
        upstream: Target,
        ways: &[(Way, &str)],
        pool_size: usize,
        programs: &Programs,
    ) -> Result<Self> {
        let program = programs.sidebolt.as_ref().context("there is no Sidebolt to be measured")?;
        let (mut targets, mut servers) = (Vec::new(), Vec::new());
        for (way, more) in ways {
            let (server, [address, admin]) =
                start_sidebolt(program, more, upstream.address, pool_size, programs)?;
            targets.push(Target { way: *way, address, pid: Some(server.pid()), admin: Some(admin) });
            servers.push(server);
        }
        Ok(Self { targets, upstream, _servers: servers })
    }

    /// A stub with proxies in front of it.
    pub(crate) fn before_stub(threads: usize, pool_size: usize, programs: &Programs) -> Result<Self> {
        let (server, address) = start_stub(threads, programs)?;
        let stub = Target { way: Way::Direct, address, pid: Some(server.pid()), admin: None };
        let mut arena = Self::before(stub, pool_size, programs)?;
        arena._servers.push(server);
        Ok(arena)
    }

    /// Sidebolts that differ in their configuration, before the stub.
    pub(crate) fn of_sidebolts_before_stub(
        threads: usize,
        ways: &[(Way, &str)],
        pool_size: usize,
        programs: &Programs,
    ) -> Result<Self> {
        let (server, address) = start_stub(threads, programs)?;
        let stub = Target { way: Way::Direct, address, pid: Some(server.pid()), admin: None };
        let mut arena = Self::of_sidebolts(stub, ways, pool_size, programs)?;
        arena._servers.push(server);
        Ok(arena)
    }

    /// The target of a way, if it takes part.
    pub(crate) fn target(&self, way: Way) -> Option<Target> {
        self.targets.iter().copied().find(|target| target.way == way)
    }
}

const NO_CACHE: &str = "cache:\n  enabled: false\n";

/// Upstream connections for writers: the default of Sidebolt and of the drivers.
const WRITERS_POOL: usize = 100;

/// A child process that is ended (SIGTERM, then SIGKILL) when dropped.
#[derive(Debug)]
struct Server {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Server {
    fn start(name: &'static str, command: &mut Command, work: &Path, stdout: Stdio) -> Result<Self> {
        let log = work.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let program = command.get_program().to_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { name, child, log })
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reads standard output until every prefix was seen; gives what followed each.
    fn read_ready(&mut self, prefixes: &'static [&'static str]) -> Result<Vec<String>> {
        let stdout = self.child.stdout.take().context("standard output is not piped")?;
        let (sender, lines) = mpsc::channel();
        // The thread reads on until the server ends, so that a full pipe never stops it.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                for (index, prefix) in prefixes.iter().enumerate() {
                    if let Some(rest) = line.strip_prefix(prefix) {
                        // Nobody listens any more once the server is ready.
                        let _ = sender.send((index, rest.trim().to_owned()));
                    }
                }
            }
        });
        let (deadline, mut found) = (Instant::now() + PATIENCE, vec![None; prefixes.len()]);
        while found.iter().any(Option::is_none) {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((index, rest)) => found[index] = Some(rest),
                Err(_) => {
                    let ended =
                        self.child.try_wait()?.map_or_else(String::new, |status| format!(" ({status})"));
                    bail!("{} did not say {prefixes:?}{ended}{}", self.name, self.last_words())
                }
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// Waits until the address accepts connections.
    fn wait_for(&mut self, address: SocketAddr) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended at once ({status}){}", self.name, self.last_words());
            }
            if Instant::now() > deadline {
                bail!("{} does not accept connections at {address}{}", self.name, self.last_words());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(10)..];
        if last.is_empty() { String::new() } else { format!("; its last lines:\n  {}", last.join("\n  ")) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Ok(pid) = i32::try_from(self.child.id()) else { return };
        // An error means that it has ended already.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start_stub(threads: usize, programs: &Programs) -> Result<(Server, SocketAddr)> {
    let own = std::env::current_exe().context("cannot find the benchmark's own program")?;
    let mut command = Command::new(own);
    command.args(["stub", "--port", "0", "--threads", &threads.to_string()]);
    let mut server = Server::start("stub", &mut command, &programs.work, Stdio::piped())?;
    let ready = server.read_ready(&["listening stub "])?;
    Ok((server, address_of(&ready)?))
}

fn start_haproxy(program: &Path, upstream: SocketAddr, programs: &Programs) -> Result<(Server, SocketAddr)> {
    let address = free_address()?;
    let threads = match programs.threads {
        0 => String::new(),
        threads => format!("    nbthread {threads}\n"),
    };
    // Two sockets for each client, and a few files of its own.
    let clients = (process::open_files_limit() / 2).saturating_sub(200).clamp(100, 50_000);
    let text = format!(
        "global\n    maxconn {clients}\n{threads}\
         defaults\n    mode tcp\n    timeout connect 10s\n    timeout client 1h\n    timeout server 1h\n\
         frontend clients\n    bind {address}\n    default_backend upstream\n\
         backend upstream\n    server only {upstream}\n"
    );
    let config = programs.work.join("haproxy.cfg");
    fs::write(&config, text)?;
    // -db: in the foreground, one process, so that its pid is the one that is counted.
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(&config);
    let mut server = Server::start("haproxy", &mut command, &programs.work, Stdio::null())?;
    server.wait_for(address)?;
    Ok((server, address))
}

/// True if the program's JSON schema has this in it.
fn schema_has(program: &Path, text: &str) -> Result<bool> {
    let output = Command::new(program).arg("schema").output().context("`sidebolt schema` cannot be run")?;
    Ok(String::from_utf8_lossy(&output.stdout).contains(text))
}

/// Starts one with `more` in its configuration; gives its addresses for clients and for administrators.
fn start_sidebolt(
    program: &Path,
    more: &str,
    upstream: SocketAddr,
    pool_size: usize,
    programs: &Programs,
) -> Result<(Server, [SocketAddr; 2])> {
    let (address, admin) = (free_address()?, free_address()?);
    let text = format!(
        "listen:\n  address: \"{address}\"\nupstream:\n  uri: \"bolt://{upstream}\"\n\
         pool:\n  max_connection_pool_size: {pool_size}\nadmin:\n  address: \"{admin}\"\n{more}"
    );
    let config = programs.work.join(format!("sidebolt-{}.yaml", address.port()));
    fs::write(&config, text)?;
    let mut command = Command::new(program);
    command.arg("run").arg("--config").arg(&config);
    // Keys of the sections that stand above already.
    for key in more.lines().filter_map(|line| line.strip_prefix("# set: ")) {
        command.args(["--set", key]);
    }
    let overrides = |name: &str| name.starts_with("NEO4J_") || name.starts_with("SIDEBOLT_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(overrides)) {
        command.env_remove(name);
    }
    if programs.threads > 0 {
        command.env("TOKIO_WORKER_THREADS", programs.threads.to_string());
    }
    let mut server = Server::start("sidebolt", &mut command, &programs.work, Stdio::piped())?;
    let ready = server.read_ready(&["listening bolt ", "listening admin "])?;
    let address = address_of(&ready)?;
    server.wait_for(address)?;
    Ok((server, [address, admin]))
}

/// A port that is free now; neither proxy is asked to choose one, HAProxy because it could not tell.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn address_of(ready: &[String]) -> Result<SocketAddr> {
    let first = ready.first().map(String::as_str).unwrap_or_default();
    first.parse().with_context(|| format!("{first:?} is no address"))
}
