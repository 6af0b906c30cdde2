//! `sidebolt demo`: a graph to try Sidebolt with. The embedded engine (feature `demo`), or real Neo4j, with the proxy before it.
//!
//! The embedded engine is grafeo. It is not Neo4j: what it is known to answer otherwise is refused (`vet`, `statement`), and what the
//! documentation shows on it is kept equal to Neo4j by `tests/contract`. Known to differ and not to be found before it runs: `round()`
//! of a negative half, the shortest path from a node to itself, a division by zero or an overflow inside WHERE or WITH (null instead
//! of a failure), and the order of `keys()` and `labels()`.

pub mod airports;
#[cfg(feature = "demo")]
mod answer;
#[cfg(feature = "demo")]
mod bookmark;
#[cfg(feature = "demo")]
mod connection;
#[cfg(feature = "demo")]
pub mod engine;
mod java;
#[cfg(feature = "demo")]
mod lex;
mod neo4j;
#[cfg(feature = "demo")]
mod refusal;
#[cfg(feature = "demo")]
mod rewrite;
#[cfg(feature = "demo")]
mod schema;
mod selfcheck;
#[cfg(feature = "demo")]
pub mod server;
#[cfg(feature = "demo")]
mod statement;
#[cfg(feature = "demo")]
mod values;
#[cfg(feature = "demo")]
mod vet;
#[cfg(feature = "demo")]
mod wire;
mod writers;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use indicatif::{ProgressBar, ProgressStyle};

use crate::app::App;
use crate::bolt_client::{BoltClient, Options};
use crate::cli::DemoArgs;
use crate::config::Config;
use self::writers::Plan;

/// The graph behind the proxy.
enum Upstream {
    #[cfg(feature = "demo")]
    Embedded(server::DemoServer),
    Neo4j(Box<neo4j::Neo4j>),
}

/// Starts a graph, fills it, puts the proxy before it, checks all of it, says how to use it, and waits for Ctrl-C.
pub async fn run(args: &DemoArgs) -> Result<()> {
    let upstream = Upstream::start(args).await?;
    let work = async {
        fill(upstream.address()).await?;
        let app = start_proxy(upstream.address(), args.port).await?;
        let address = app.bolt_address().to_string();
        let seen = selfcheck::run(&address).await.context("the self-check through the proxy failed")?;
        println!("{}", banner(&upstream.name(), app.bolt_address(), app.admin_address(), &seen));
        if args.writers > 0 {
            let clients = usize::from(args.writers);
            let plan = if args.check { Plan::brief(clients) } else { Plan::usual(clients) };
            let direct = upstream.address().to_string();
            let comparison = writers::compare(&direct, &address, plan).await;
            let comparison = comparison.context("the writes direct and through the proxy failed")?;
            println!("{}", comparison.report(&upstream.caution()));
        }
        if args.check {
            println!("Checked; stopping because of --check.");
        } else {
            println!("Ctrl-C ends it.");
            tokio::signal::ctrl_c().await.context("cannot wait for Ctrl-C")?;
        }
        app.drain().await;
        Ok(())
    };
    let result = tokio::select! {
        result = work => result,
        // While it starts; afterwards `work` takes it too, and both lead to the end.
        interrupted = tokio::signal::ctrl_c() => interrupted.context("cannot wait for Ctrl-C"),
    };
    upstream.stop().await;
    result
}

impl Upstream {
    async fn start(args: &DemoArgs) -> Result<Self> {
        if args.neo4j {
            return Ok(Self::Neo4j(Box::new(neo4j::Neo4j::start(args.keep).await?)));
        }
        Self::embedded().await
    }

    #[cfg(feature = "demo")]
    async fn embedded() -> Result<Self> {
        let engine = engine::Engine::new(engine::Waits::default())?;
        Ok(Self::Embedded(server::DemoServer::start(engine).await?))
    }

    #[cfg(not(feature = "demo"))]
    async fn embedded() -> Result<Self> {
        anyhow::bail!(
            "this build has no embedded engine; build it with `cargo build --release` (feature `demo`, on by default), \
             or use real Neo4j with `sidebolt demo --neo4j`"
        )
    }

    fn address(&self) -> SocketAddr {
        match self {
            #[cfg(feature = "demo")]
            Self::Embedded(server) => server.address(),
            Self::Neo4j(neo4j) => neo4j.address,
        }
    }

    fn name(&self) -> String {
        match self {
            #[cfg(feature = "demo")]
            Self::Embedded(_) => {
                "built-in in-memory demo graph (grafeo), not Neo4j; a subset of Cypher; timings are not Neo4j timings"
                    .to_owned()
            }
            Self::Neo4j(neo4j) => format!("real Neo4j Community {}, without a password", neo4j.version),
        }
    }

    /// What the figures of the writes mean.
    fn caution(&self) -> String {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let shared = format!("Graph, proxy and clients share this machine ({cores} cores) for a few seconds");
        match self {
            #[cfg(feature = "demo")]
            Self::Embedded(_) => format!(
                "{shared}, and\n  the graph is not Neo4j: it writes one transaction at a time, in memory. So this shows that and how writes are batched,\n  \
                 not what is gained with Neo4j; `sidebolt demo --neo4j` shows that."
            ),
            Self::Neo4j(_) => format!(
                "{shared}, so this\n  is a sight of it and no benchmark: that is tests/bench, and your own load on your own server."
            ),
        }
    }

    async fn stop(self) {
        match self {
            #[cfg(feature = "demo")]
            Self::Embedded(server) => drop(server),
            Self::Neo4j(neo4j) => neo4j.stop().await,
        }
    }
}

async fn fill(address: SocketAddr) -> Result<()> {
    let options = Options { timeout: Duration::from_secs(60), ..Options::default() };
    let mut client = BoltClient::connect(&address.to_string(), options).await?;
    let bar = ProgressBar::new(u64::try_from(airports::rows()).unwrap_or(u64::MAX));
    if let Ok(style) = ProgressStyle::with_template("{msg} {bar:40} {pos}/{len}") {
        bar.set_style(style);
    }
    bar.set_message("Airports and routes");
    let progress = |rows: usize| bar.inc(u64::try_from(rows).unwrap_or(0));
    airports::seed(&mut client, progress).await.context("the graph could not be filled")?;
    bar.finish_and_clear();
    client.close().await;
    Ok(())
}

async fn start_proxy(upstream: SocketAddr, port: Option<u16>) -> Result<App> {
    let mut config = Config::default();
    config.upstream.uri = format!("bolt://{upstream}");
    config.listen.address = loopback(port.unwrap_or_else(|| free_or_any(7687)));
    config.admin.address = Some(loopback(free_or_any(9090)));
    Ok(App::start(Arc::new(ArcSwap::from_pointee(config))).await?)
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// `port`, or 0 (any) if something listens there.
fn free_or_any(port: u16) -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_or(0, |_| port)
}

/// What is said when everything stands.
fn banner(upstream: &str, bolt: SocketAddr, admin: Option<SocketAddr>, seen: &[String]) -> String {
    let checks: String = seen.iter().map(|line| format!("\n    {line}")).collect();
    let admin = admin.map(|admin| format!("\n  admin:    http://{admin}/metrics")).unwrap_or_default();
    format!(
        r#"
Sidebolt demo
  upstream: {upstream}
  proxy:    bolt://{bolt} or neo4j://{bolt}{admin}
  checked through the proxy:{checks}

Python (pip install neo4j):

    from neo4j import GraphDatabase
    with GraphDatabase.driver("neo4j://{bolt}", auth=None) as driver:
        records, summary, keys = driver.execute_query(
            "MATCH (:Airport {{iata: $iata}})-[r:ROUTE]->(b) "
            "RETURN b.iata AS airport, r.flights AS flights ORDER BY flights DESC LIMIT 5", iata="JFK")
        for record in records:
            print(record.data())

JavaScript:  neo4j.driver('neo4j://{bolt}')
Java:        GraphDatabase.driver("neo4j://{bolt}", AuthTokens.none())
Go:          neo4j.NewDriverWithContext("neo4j://{bolt}", neo4j.NoAuth())
"#
    )
}

#[cfg(all(test, feature = "demo"))]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn the_demo_fills_its_graph_and_passes_its_own_check_through_the_proxy() {
        let upstream = Upstream::embedded().await.unwrap();
        fill(upstream.address()).await.unwrap();
        let app = start_proxy(upstream.address(), Some(0)).await.unwrap();
        for address in [upstream.address(), app.bolt_address()] {
            let seen = selfcheck::run(&address.to_string()).await.unwrap();
            assert_eq!(seen.len(), 6, "{seen:?}");
        }
        let text = banner(&upstream.name(), app.bolt_address(), app.admin_address(), &["fine".to_owned()]);
        assert!(text.contains("not Neo4j") && text.contains(&app.bolt_address().to_string()));
        app.drain().await;
        upstream.stop().await;
    }
}
