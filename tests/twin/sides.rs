//! Both sides of a comparison: a server, and Sidebolt with a server behind it.

use std::net::ToSocketAddrs as _;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use bolt_wire::Version;

use crate::graph::Graph;
use crate::servers::{Neo4j, Sidebolt};
use crate::wire::{Connection, Endpoint};

/// Which servers to use for a comparison.
#[derive(Debug, clap::Args)]
pub(crate) struct Servers {
    /// 2: a server for each side; 1: one for both, which take turns with it, and which plans each text only once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    servers: u8,
    #[command(flatten)]
    pub(crate) kind: Kind,
}

/// Which programs to use.
#[derive(Debug, clap::Args)]
pub(crate) struct Kind {
    /// Neo4j's version, one of tests/rig/versions or its beginning.
    #[arg(long, default_value = "5.26.30")]
    pub(crate) version: String,
    /// A running and empty Neo4j, host:port, instead of this run's own. All it holds is deleted.
    #[arg(long, env = "TWIN_NEO4J")]
    pub(crate) neo4j: Option<String>,
    /// The password of its user neo4j.
    #[arg(long, env = "TWIN_PASSWORD", hide_env_values = true, default_value = "")]
    password: String,
    /// The heap of the servers that are started.
    #[arg(long, default_value = "700m")]
    heap: String,
    /// Sidebolt's program.
    #[arg(long)]
    pub(crate) sidebolt: PathBuf,
    /// One more line for Sidebolt's configuration; may be given several times.
    #[arg(long = "config", value_name = "YAML")]
    pub(crate) config: Vec<String>,
}

impl Kind {
    /// The Neo4j that is named, or else one that is started and ends with what is returned.
    pub(crate) fn neo4j(&self) -> Result<(Option<Neo4j>, Endpoint)> {
        if let Some(address) = &self.neo4j {
            let address = address.to_socket_addrs()?.next().with_context(|| address.clone())?;
            return Ok((None, Endpoint { address, password: self.password.clone(), wrong: None }));
        }
        let mut options = vec!["--heap", &self.heap];
        NEO4J_SETTINGS.iter().for_each(|setting| options.extend(["--set", setting]));
        let neo4j = Neo4j::start(&self.version, &options)?;
        let endpoint = neo4j.endpoint.clone();
        Ok((Some(neo4j), endpoint))
    }
}

/// Plans are kept, though the graph grows from nothing in each round: planning is most of what the servers do here.
const NEO4J_SETTINGS: &[&str] =
    &["dbms.cypher.min_replan_interval=1h", "server.memory.query_cache.per_db_cache_num_entries=20000"];

/// Both sides of the comparison.
pub(crate) struct Sides {
    /// The server itself.
    pub(crate) direct: Endpoint,
    /// Sidebolt.
    pub(crate) through: Endpoint,
    /// Straight to the server of each side, for what belongs to no client.
    pub(crate) graphs: [Graph; 2],
    /// The server behind Sidebolt is the direct one: the sides take turns with it.
    shared: bool,
    /// Its process.
    pub(crate) sidebolt: Sidebolt,
    /// The Bolt versions that the server has, up to 6.0.
    pub(crate) versions: Vec<Version>,
    _own: [Option<Neo4j>; 2],
}

impl Sides {
    /// Starts what has to be started, and prepares the databases.
    pub(crate) async fn start(servers: &Servers) -> Result<Self> {
        let kind = &servers.kind;
        let (first, direct) = kind.neo4j()?;
        let two = servers.servers == 2 && first.is_some();
        let (second, behind) = if two { kind.neo4j()? } else { (None, direct.clone()) };
        let sidebolt = Sidebolt::start(&kind.sidebolt, behind.address, &kind.config.join("\n"))?;
        let through = Endpoint { address: sidebolt.address, ..behind.clone() };
        let versions = versions(&direct).await?;
        let graphs = [Graph::open(&direct).await?, Graph::open(&behind).await?];
        let shared = direct.address == behind.address;
        let mut sides = Self { direct, through, graphs, shared, sidebolt, versions, _own: [first, second] };
        for graph in sides.databases() {
            graph.must_be_empty().await?;
            graph.prepare().await?;
        }
        Ok(sides)
    }

    /// Leaves the databases as they were.
    pub(crate) async fn clean_up(mut self) -> Result<()> {
        for graph in self.databases() {
            graph.clean_up().await?;
        }
        Ok(())
    }

    fn databases(&mut self) -> &mut [Graph] {
        let count = if self.shared { 1 } else { 2 };
        &mut self.graphs[..count]
    }
}

/// The Bolt versions that the server has, up to 6.0.
pub(crate) async fn versions(server: &Endpoint) -> Result<Vec<Version>> {
    let mut known = Vec::new();
    for version in Version::ALL {
        if version <= Version::V6_0 && Connection::open(server, version).await.is_ok() {
            known.push(version);
        }
    }
    ensure!(!known.is_empty(), "{} speaks no Bolt version, or the password is wrong", server.address);
    Ok(known)
}
