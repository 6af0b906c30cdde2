//! Both sides of a comparison: a server, and Sidebolt with a server behind it.

use std::net::ToSocketAddrs as _;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use bolt_wire::Version;

use crate::graph::Graph;
use crate::servers::{Neo4j, Sidebolt};
use crate::wire::{Connection, Endpoint};

/// Which servers to use.
#[derive(Debug, clap::Args)]
pub(crate) struct Servers {
    /// Neo4j's version, one of tests/rig/versions.
    #[arg(long, default_value = "5.26.30")]
    pub(crate) version: String,
    /// 2: a server for each side; 1: one for both, which take turns with it, and which plans each text only once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    servers: u8,
    /// A running and empty Neo4j, host:port, for both sides, instead of this run's own. All it holds is deleted.
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
    sidebolt: PathBuf,
    /// One more line for Sidebolt's configuration; may be given several times.
    #[arg(long = "config", value_name = "YAML")]
    config: Vec<String>,
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
    _own: Vec<Neo4j>,
}

impl Sides {
    /// Starts what has to be started, and prepares the databases.
    pub(crate) async fn start(servers: &Servers) -> Result<Self> {
        let mut own = Vec::new();
        let (direct, behind) = match &servers.neo4j {
            Some(address) => {
                let address = address.to_socket_addrs()?.next().with_context(|| address.clone())?;
                let endpoint = Endpoint { address, password: servers.password.clone(), wrong: None };
                (endpoint.clone(), endpoint)
            }
            None => {
                let mut options = vec!["--heap", &servers.heap];
                NEO4J_SETTINGS.iter().for_each(|setting| options.extend(["--set", setting]));
                for _ in 0..servers.servers {
                    own.push(Neo4j::start(&servers.version, &options)?);
                }
                let of = |place: usize| own.get(place).map(|neo4j| neo4j.endpoint.clone());
                let direct = of(0).context("a server")?;
                (direct.clone(), of(1).unwrap_or(direct))
            }
        };
        let sidebolt = Sidebolt::start(&servers.sidebolt, behind.address, &servers.config.join("\n"))?;
        let through = Endpoint { address: sidebolt.address, ..behind.clone() };
        let versions = versions(&direct).await?;
        let graphs = [Graph::open(&direct).await?, Graph::open(&behind).await?];
        let shared = direct.address == behind.address;
        let mut sides = Self { direct, through, graphs, shared, sidebolt, versions, _own: own };
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
async fn versions(server: &Endpoint) -> Result<Vec<Version>> {
    let mut known = Vec::new();
    for version in Version::ALL {
        if version <= Version::V6_0 && Connection::open(server, version).await.is_ok() {
            known.push(version);
        }
    }
    ensure!(!known.is_empty(), "{} speaks no Bolt version, or the password is wrong", server.address);
    Ok(known)
}
