//! `sidebolt demo --neo4j`: real Neo4j Community from its published jars, on loopback, without a password.
//!
//! The jars are kept in `${SIDEBOLT_CACHE:-$HOME/.cache/sidebolt}/neo4j/<version>/lib`; `.complete` beside it is written last.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::java::{self, Release};
use crate::bolt_client::{BoltClient, Options};

/// A running Neo4j. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Neo4j {
    child: Child,
    /// Where it listens.
    pub(super) address: SocketAddr,
    /// Its version.
    pub(super) version: &'static str,
    home: PathBuf,
    keep: bool,
}

/// From the start to the first answer.
const START_TIMEOUT: Duration = Duration::from_secs(180);
/// From SIGTERM to the end.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Fetching the jars.
const FETCH_TIMEOUT: Duration = Duration::from_secs(1800);

const POM: &str = r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>sidebolt.demo</groupId><artifactId>neo4j-jars</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.neo4j.app</groupId><artifactId>neo4j-server</artifactId><version>VERSION</version></dependency>
    <dependency><groupId>org.neo4j</groupId><artifactId>neo4j</artifactId><version>VERSION</version></dependency>
  </dependencies>
</project>
"#;

impl Neo4j {
    /// Fetches what is missing and starts a server with an empty database; with `keep` its files stay at the end.
    pub(super) async fn start(keep: bool) -> Result<Self> {
        let (java, release) = java::find().await?;
        let lib = jars(release).await?;
        let home = std::env::temp_dir().join(format!("sidebolt-demo-{}", std::process::id()));
        let address = free_address()?;
        write_home(&home, address, release).with_context(|| format!("cannot write {}", home.display()))?;
        let log = File::create(home.join("console.log"))?;
        let child = command(&java, &lib, &home, release)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", java.display()))?;
        let mut neo4j = Self { child, address, version: release.version, home, keep };
        neo4j.wait_until_it_answers().await?;
        Ok(neo4j)
    }

    async fn wait_until_it_answers(&mut self) -> Result<()> {
        let bar = spinner(format!("Starting Neo4j {}", self.version));
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("Neo4j ended at its start ({status}):\n{}", self.last_words());
            }
            let options = Options { timeout: Duration::from_secs(2), ..Options::default() };
            if let Ok(client) = BoltClient::connect(&self.address.to_string(), options).await {
                client.close().await;
                bar.finish_and_clear();
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("Neo4j did not answer within {START_TIMEOUT:?}:\n{}", self.last_words());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(self.home.join("console.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n")
    }

    /// Ends the server as an operator would, and after a while as a power cut would.
    pub(super) async fn stop(mut self) {
        if let Some(pid) = self.child.id() {
            let terminate = Command::new("kill").arg(pid.to_string()).stderr(Stdio::null()).status().await;
            if terminate.is_ok_and(|status| status.success()) {
                let _ = tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await;
            }
        }
        if self.keep {
            println!("The files of this Neo4j stay in {}", self.home.display());
        }
    }
}

impl Drop for Neo4j {
    fn drop(&mut self) {
        let _ = self.child.start_kill();
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.home);
        }
    }
}

fn command(java: &Path, lib: &Path, home: &Path, release: Release) -> Command {
    let mut command = Command::new(java);
    command.args(["-Xms512m", "-Xmx512m", "-XX:+UseG1GC"]);
    for package in ["java.nio", "java.io", "sun.nio.ch", "java.util.concurrent", "java.lang"] {
        command.arg(format!("--add-opens=java.base/{package}=ALL-UNNAMED"));
    }
    command.args(["--enable-native-access=ALL-UNNAMED", "-cp"]).arg(lib.join("*")).arg(release.main);
    command.arg(format!("--home-dir={}", home.display()));
    command.arg(format!("--config-dir={}", home.join("conf").display())).arg("--console-mode");
    // Ctrl-C in the terminal is for us; Neo4j is stopped by us.
    command.stdin(Stdio::null()).process_group(0).kill_on_drop(true);
    command
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn write_home(home: &Path, address: SocketAddr, release: Release) -> std::io::Result<()> {
    for folder in ["conf", "data", "logs", "plugins", "import", "run"] {
        std::fs::create_dir_all(home.join(folder))?;
    }
    let settings = [
        "server.default_listen_address=127.0.0.1".to_owned(),
        format!("server.bolt.listen_address={address}"),
        format!("server.bolt.advertised_address={address}"),
        "server.http.enabled=false".to_owned(),
        "server.https.enabled=false".to_owned(),
        "dbms.usage_report.enabled=false".to_owned(),
        "dbms.security.auth_enabled=false".to_owned(),
        "server.memory.heap.initial_size=512m".to_owned(),
        "server.memory.heap.max_size=512m".to_owned(),
        "server.memory.pagecache.size=64m".to_owned(),
        "db.tx_log.preallocate=false".to_owned(),
        release.quick_stop.to_owned(),
    ];
    std::fs::write(home.join("conf/neo4j.conf"), settings.join("\n") + "\n")
}

/// The folder of a release's jars, fetched once.
async fn jars(release: Release) -> Result<PathBuf> {
    let folder = cache()?.join("neo4j").join(release.version);
    let lib = folder.join("lib");
    if folder.join(".complete").exists() {
        return Ok(lib);
    }
    let maven = java::maven()?;
    // Fetched beside its place and moved there whole, so that two fetches at once do no harm.
    let fresh = folder.with_file_name(format!(".{}-{}", release.version, std::process::id()));
    std::fs::create_dir_all(&fresh).with_context(|| format!("cannot write {}", fresh.display()))?;
    let fetched = fetch(&maven, &fresh, release).await.and_then(|()| {
        File::create(fresh.join(".complete"))?;
        if folder.exists() && !folder.join(".complete").exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        match std::fs::rename(&fresh, &folder) {
            Err(error) if !folder.join(".complete").exists() => Err(error.into()),
            _ => Ok(()),
        }
    });
    if fresh.exists() {
        let _ = std::fs::remove_dir_all(&fresh);
    }
    fetched.map(|()| lib)
}

async fn fetch(maven: &Path, folder: &Path, release: Release) -> Result<()> {
    std::fs::write(folder.join("pom.xml"), POM.replace("VERSION", release.version))?;
    let bar = spinner(format!("Fetching Neo4j {} (about 150 MB, once)", release.version));
    let mut child = Command::new(maven)
        .args(["-B", "-f"])
        .arg(folder.join("pom.xml"))
        .args(["dependency:copy-dependencies", "-DincludeScope=runtime"])
        .arg(format!("-DoutputDirectory={}", folder.join("lib").display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {}", maven.display()))?;
    let mut complaints = Vec::new();
    let watch = async {
        let output = child.stdout.take().context("Maven has no output")?;
        let (mut lines, mut jars) = (BufReader::new(output).lines(), 0u32);
        while let Some(line) = lines.next_line().await? {
            if line.contains("Downloaded") && line.contains(".jar") || line.contains("Copying ") {
                jars += 1;
                bar.set_message(format!("Fetching Neo4j {} ({jars} files)", release.version));
            }
            if line.contains("[ERROR]") && complaints.len() < 10 {
                complaints.push(line);
            }
        }
        anyhow::Ok(child.wait().await?)
    };
    let status = tokio::time::timeout(FETCH_TIMEOUT, watch).await.context("fetching took too long")??;
    bar.finish_and_clear();
    if !status.success() {
        bail!("Maven could not fetch Neo4j {} ({status}):\n{}", release.version, complaints.join("\n"));
    }
    Ok(())
}

fn cache() -> Result<PathBuf> {
    if let Some(cache) = std::env::var_os("SIDEBOLT_CACHE").filter(|c| !c.is_empty()) {
        return Ok(PathBuf::from(cache));
    }
    let home = std::env::var_os("HOME").context("neither SIDEBOLT_CACHE nor HOME is set; set one of them")?;
    Ok(PathBuf::from(home).join(".cache/sidebolt"))
}

fn spinner(message: String) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(message);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}
