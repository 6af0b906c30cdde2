//! The servers of one run: Neo4j by tests/rig, and Sidebolt as a process.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wire::Endpoint;

/// A Neo4j of this run's own; it ends with this value.
#[derive(Debug)]
pub(crate) struct Neo4j {
    home: tempfile::TempDir,
    start: Vec<String>,
    pid: i32,
    /// How to reach it.
    pub(crate) endpoint: Endpoint,
}

impl Neo4j {
    /// Starts one of this version; `options` are the rig's.
    pub(crate) fn start(version: &str, options: &[&str]) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("twin-neo4j-").tempdir()?;
        let path = home.path().join("home").to_string_lossy().into_owned();
        let version = pinned(version)?;
        let mut start: Vec<String> = ["start", &version, "--home", &path].map(str::to_owned).to_vec();
        start.extend(options.iter().map(|&option| option.to_owned()));
        let (pid, endpoint) = launch(&start)?;
        start.extend(["--port".to_owned(), endpoint.address.port().to_string()]);
        Ok(Self { home, start, pid, endpoint })
    }

    /// Ends its process at once, as a crash would, and waits until it is gone.
    pub(crate) fn kill(&mut self) -> Result<()> {
        kill(Pid::from_raw(self.pid), Signal::SIGKILL)?;
        let deadline = Instant::now() + Duration::from_secs(30);
        // The rig that was its parent has ended, so that somebody else reaps it.
        while running(self.pid) {
            ensure!(Instant::now() < deadline, "the killed server is still there");
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Starts it again on the same port with the same data.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.pid = launch(&self.start)?.0;
        Ok(())
    }
}

impl Drop for Neo4j {
    fn drop(&mut self) {
        if running(self.pid) {
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
        let _ = self.home.path();
    }
}

fn running(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .and_then(|rest| rest.trim_start().chars().next())
        .is_some_and(|state| state != 'Z')
}

/// The first version in tests/rig/versions that is this one or begins with it.
fn pinned(version: &str) -> Result<String> {
    let known = String::from_utf8(rig(&["versions".to_owned()])?)?;
    let found = known
        .lines()
        .find(|line| line.strip_prefix(version).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')));
    found.map(str::to_owned).with_context(|| {
        format!("Neo4j {version} is not in tests/rig/versions; known: {}", known.trim().replace('\n', ", "))
    })
}

fn rig(arguments: &[String]) -> Result<Vec<u8>> {
    let rig = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rig/neo4j");
    let output = Command::new(&rig).args(arguments).output().with_context(|| rig.display().to_string())?;
    ensure!(output.status.success(), "tests/rig/neo4j: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

fn launch(arguments: &[String]) -> Result<(i32, Endpoint)> {
    let said: serde_json::Value = serde_json::from_slice(&rig(arguments)?)?;
    let number = |key: &str| said[key].as_u64().with_context(|| format!("the rig said no {key}"));
    let port = u16::try_from(number("port")?)?;
    let password = said["password"].as_str().context("the rig said no password")?.to_owned();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Ok((i32::try_from(number("pid")?)?, Endpoint { address, password, wrong: None }))
}

/// A Sidebolt process; it ends with this value.
#[derive(Debug)]
pub(crate) struct Sidebolt {
    folder: tempfile::TempDir,
    program: PathBuf,
    admin: SocketAddr,
    process: Option<Child>,
    /// Where clients connect to.
    pub(crate) address: SocketAddr,
}

impl Sidebolt {
    /// Starts the program in front of a server, with the defaults and these lines of configuration.
    pub(crate) fn start(program: &Path, upstream: SocketAddr, lines: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("twin-sidebolt-").tempdir()?;
        let (address, admin) = (free_address()?, free_address()?);
        let text = format!(
            "listen: {{address: \"{address}\"}}\nadmin: {{address: \"{admin}\"}}\nupstream: {{uri: \"bolt://{upstream}\"}}\n{lines}\n"
        );
        fs::write(folder.path().join("proxy.yaml"), text)?;
        let mut started = Self { folder, program: program.to_owned(), admin, process: None, address };
        started.restart()?;
        Ok(started)
    }

    /// Starts it (again) on the same ports.
    pub(crate) fn restart(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.folder.path().join("log"))?;
        let mut command = Command::new(&self.program);
        command.arg("run").arg("--config").arg(self.folder.path().join("proxy.yaml"));
        let overrides = |name: &str| name.starts_with("NEO4J_") || name.starts_with("SIDEBOLT_");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(overrides)) {
            command.env_remove(name);
        }
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn()?;
        let mut lines = BufReader::new(process.stdout.take().context("a pipe")?).lines();
        self.process = Some(process);
        for _ in 0..2 {
            let line = lines.next().transpose()?.unwrap_or_default();
            ensure!(line.starts_with("listening "), "Sidebolt did not start:\n{}", self.log()?);
        }
        Ok(())
    }

    /// Ends its process at once, as a crash would.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// What it wrote to its log.
    pub(crate) fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.path().join("log"))?)
    }

    /// Its metrics whose names begin like this, each with its labels.
    pub(crate) fn metrics(&self, prefix: &str) -> Result<Vec<(String, f64)>> {
        let mut stream = TcpStream::connect(self.admin)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: twin\r\nconnection: close\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        let Some((_, body)) = page.split_once("\r\n\r\n") else { bail!("/metrics: {page}") };
        let lines = body.lines().filter(|line| line.starts_with(prefix));
        Ok(lines
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(n, v)| (n.to_owned(), v.parse().unwrap_or(0.0)))
            .collect())
    }
}

impl Drop for Sidebolt {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
