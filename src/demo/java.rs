//! Looks for the Java and the Maven that real Neo4j needs.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::process::Command;

/// A version of Neo4j that the demo can fetch, and what it runs on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Release {
    /// Neo4j's version.
    pub(super) version: &'static str,
    /// Oldest Java.
    oldest: u32,
    /// Newest Java.
    newest: u32,
    /// The class to start.
    pub(super) main: &'static str,
    /// The setting that lets it stop at once.
    pub(super) quick_stop: &'static str,
}

/// Long-term support first.
const RELEASES: [Release; 2] = [
    Release {
        version: "5.26.30",
        oldest: 17,
        newest: 21,
        main: "org.neo4j.server.CommunityEntryPoint",
        quick_stop: "internal.dbms.bolt.netty_server_shutdown_quiet_period=0",
    },
    Release {
        version: "2026.08.1",
        oldest: 21,
        newest: 99,
        main: "org.neo4j.server.Neo4jCommunity",
        quick_stop: "internal.dbms.bolt.netty_server_shutdown_quiet_period_duration=0s",
    },
];

/// What a person without Java and Maven has to do.
const INSTALL: &str = "install it with: sudo apt-get install -y --no-install-recommends openjdk-17-jre-headless maven\n\
                       (macOS: brew install openjdk@17 maven), or set JAVA_HOME to a Java 17 or newer";

/// A Java of this machine and the release that runs on it.
pub(super) async fn find() -> Result<(PathBuf, Release)> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    for candidate in candidates() {
        let Ok(real) = candidate.canonicalize() else { continue };
        if !seen.insert(real.clone()) {
            continue;
        }
        if let Some(major) = major_version(&real).await {
            found.push((real, major));
        }
    }
    choose(&found).map_or_else(
        || {
            let seen: Vec<String> =
                found.iter().map(|(path, major)| format!("{} is {major}", path.display())).collect();
            let seen = if seen.is_empty() { "none is here".to_owned() } else { seen.join(", ") };
            bail!("real Neo4j needs Java 17 or newer ({seen});\n{INSTALL}")
        },
        Ok,
    )
}

fn choose(found: &[(PathBuf, u32)]) -> Option<(PathBuf, Release)> {
    RELEASES.iter().find_map(|release| {
        let fits = |(_, major): &&(PathBuf, u32)| (release.oldest..=release.newest).contains(major);
        found.iter().find(fits).map(|(path, _)| (path.clone(), *release))
    })
}

/// Maven, for fetching the jars.
pub(super) fn maven() -> Result<PathBuf> {
    match in_path("mvn").next() {
        Some(maven) => Ok(maven),
        None => bail!("Maven is needed once to fetch Neo4j's jars and is not here;\n{INSTALL}"),
    }
}

/// JAVA_HOME, then PATH, then where systems put Javas.
fn candidates() -> impl Iterator<Item = PathBuf> {
    let home = std::env::var_os("JAVA_HOME").map(|home| Path::new(&home).join("bin/java"));
    let mut systems: Vec<PathBuf> = ["/usr/lib/jvm", "/opt/homebrew/opt", "/usr/local/opt"]
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flat_map(|entries| entries.flatten().map(|entry| entry.path().join("bin/java")))
        .collect();
    systems.sort();
    home.into_iter().chain(in_path("java")).chain(systems)
}

fn in_path(program: &str) -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.into_iter().map(move |folder| folder.join(program)).filter(|file| file.is_file())
}

async fn major_version(java: &Path) -> Option<u32> {
    let run = Command::new(java).arg("-version").kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_secs(30), run).await.ok()?.ok()?;
    parse_major(&String::from_utf8_lossy(&output.stderr))
}

/// `… version "17.0.12" …`, and `"1.8.0"` for 8.
fn parse_major(text: &str) -> Option<u32> {
    let (_, version) = text.split_once("version \"")?;
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok());
    match numbers.next()? {
        1 => numbers.next(),
        major => Some(major),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_releases_chosen() {
        assert_eq!(parse_major("openjdk version \"17.0.12\" 2024-07-16"), Some(17));
        assert_eq!(parse_major("java version \"1.8.0_411\""), Some(8));
        assert_eq!(parse_major("openjdk version \"25\" 2025-09-16"), Some(25));
        assert_eq!(parse_major("no such thing"), None);
        let version = |majors: &[u32]| {
            let found: Vec<(PathBuf, u32)> =
                majors.iter().map(|m| (PathBuf::from(m.to_string()), *m)).collect();
            choose(&found).map(|(java, release)| (java.display().to_string(), release.version))
        };
        assert_eq!(version(&[25, 17]), Some(("17".to_owned(), "5.26.30")));
        assert_eq!(version(&[25]), Some(("25".to_owned(), "2026.08.1")));
        assert_eq!(version(&[8, 11]), None);
    }
}
