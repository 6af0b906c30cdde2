//! Real Neo4j servers: those that the caller named, or, for tests that hurt one, a server of the test's own.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use bolt_wire::Version;
use bolt_wire::packstream::Value;
use parking_lot::Mutex;

use super::message;
use super::raw_client::Client;
use super::wait::{in_time, until};

/// A server that the tests share. They leave it as they found it.
#[derive(Clone, Debug)]
pub struct Neo4j {
    /// `5.26` or `2026`.
    pub line: Line,
    /// `host:port`.
    pub address: String,
    /// Its administrator's password (user `neo4j`).
    pub password: String,
}

/// A release line of Neo4j.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Line {
    /// 5.26 LTS: Bolt up to 5.8.
    Five,
    /// 2026.x: Bolt up to 6.1.
    Calendar,
}

impl Line {
    const ALL: [Self; 2] = [Self::Five, Self::Calendar];

    fn variable(self) -> &'static str {
        match self {
            Self::Five => "NEO4J_5_ADDRESS",
            Self::Calendar => "NEO4J_2026_ADDRESS",
        }
    }

    fn begins(self) -> &'static str {
        match self {
            Self::Five => "5.26.",
            Self::Calendar => "2026.",
        }
    }
}

impl Neo4j {
    /// The administrator.
    pub const USER: &str = "neo4j";

    /// The server of `line`, or `None` with a line that names the skipped test.
    pub fn of(line: Line, test: &str) -> Option<Self> {
        let variable = line.variable();
        let Ok(address) = std::env::var(variable) else {
            skip(
                test,
                &format!("needs a Neo4j {}x: set {variable}=host:port and NEO4J_PASSWORD", line.begins()),
            );
            return None;
        };
        let address = address.rsplit("://").next().unwrap_or_default().to_owned();
        let password = std::env::var("NEO4J_PASSWORD").unwrap_or_else(|_| "password".to_owned());
        Some(Self { line, address, password })
    }

    /// Every server that there is; skipped if there is none.
    pub fn all(test: &str) -> Vec<Self> {
        Line::ALL.into_iter().filter_map(|line| Self::of(line, test)).collect()
    }

    /// A logged-in connection to the server itself.
    pub async fn client(&self, version: Version) -> Client {
        let address = in_time("resolving", tokio::net::lookup_host(&self.address)).await;
        let address = address.ok().and_then(|mut all| all.next());
        let address = address.unwrap_or_else(|| panic!("{} names no address", self.address));
        Client::login(address, version, Self::USER, &self.password).await
    }

    /// Runs a statement on the server itself.
    pub async fn admin(&self, text: &str) -> Vec<Vec<Value>> {
        self.admin_with(message::run(text)).await
    }

    /// Runs a statement in the system database of the server itself.
    pub async fn system(&self, text: &str) -> Vec<Vec<Value>> {
        let extra = message::map([("db", "system".into())]);
        self.admin_with(message::run_with(text, message::none(), extra)).await
    }

    async fn admin_with(&self, run: Vec<u8>) -> Vec<Vec<Value>> {
        let mut client = self.client(Version::V5_8).await;
        client.query_with(run).await.unwrap_or_else(|answer| panic!("{answer:?}"))
    }
}

/// Names a test that cannot run here; fails it if the caller promised that everything runs.
pub fn skip(test: &str, reason: &str) {
    assert!(
        std::env::var_os("SIDEBOLT_TEST_NO_SKIP").is_none(),
        "{test} {reason}; SIDEBOLT_TEST_NO_SKIP forbids to skip it"
    );
    // Not `eprintln`: the test harness would swallow it.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
}

/// A server of one test's own, which may be stopped, killed and frozen. It ends with this value.
pub struct OwnNeo4j {
    home: tempfile::TempDir,
    /// Its process.
    pub pid: i32,
    /// How to reach it.
    pub server: Neo4j,
}

impl OwnNeo4j {
    /// Starts one from the cached jars; `None`, with a line that names the skipped test, if they are not there.
    pub fn start(line: Line, test: &str) -> Option<Self> {
        let cache = std::env::var_os("SIDEBOLT_CACHE").map(PathBuf::from).unwrap_or_else(|| {
            PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache").join("sidebolt")
        });
        let versions = std::fs::read_dir(cache.join("neo4j")).into_iter().flatten().flatten();
        let mut versions: Vec<String> = versions
            .filter(|entry| entry.path().join(".complete").exists())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.starts_with(line.begins()))
            .collect();
        versions.sort();
        let Some(version) = versions.pop() else {
            skip(test, "needs cached jars of Neo4j: run tests/rig/neo4j fetch VERSION");
            return None;
        };
        let home = tempfile::tempdir().expect("a folder for the server");
        let output = rig(&["start", &version, "--home", &home.path().join("home").to_string_lossy()]);
        let said: serde_json::Value = serde_json::from_str(&output).expect("the rig answers in JSON");
        let text = |key: &str| said[key].as_str().map(str::to_owned).unwrap_or_else(|| said[key].to_string());
        let server =
            Neo4j { line, address: format!("127.0.0.1:{}", text("port")), password: text("password") };
        let pid = text("pid").parse().expect("a process id");
        OWN.lock().push(pid);
        Some(Self { pid, home, server })
    }

    /// Stops its process and waits until every thread of it stands still.
    pub async fn freeze(&self) {
        self.signal(nix::sys::signal::Signal::SIGSTOP);
        let stopped = || {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid)).into_iter().flatten().flatten();
            tasks.into_iter().all(|task| {
                let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                // The state stands behind the name, which is in brackets.
                stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
            })
        };
        until("every thread of the server stands still", stopped).await;
    }

    /// Sends a signal to its process.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid), signal)
            .expect("the server's process is there");
    }
}

/// The processes of servers that tests own.
static OWN: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// Ends every server that a test owns, when the run ends early.
pub fn end_own() {
    for pid in OWN.lock().drain(..) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
}

impl Drop for OwnNeo4j {
    fn drop(&mut self) {
        OWN.lock().retain(|pid| *pid != self.pid);
        let pid = nix::unistd::Pid::from_raw(self.pid);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        let _ = self.home.path();
    }
}

fn rig(arguments: &[&str]) -> String {
    let program = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/rig/neo4j");
    let output = Command::new(&program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    assert!(output.status.success(), "rig {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
