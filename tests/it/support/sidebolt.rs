//! Sidebolt in this process, on ports of its own.

use std::collections::HashMap;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Once};
use std::time::Duration;

use arc_swap::ArcSwap;
use sidebolt::app::App;
use sidebolt::config::Config;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::wait::{self, PATIENCE};

/// A running Sidebolt.
pub struct Sidebolt {
    /// Where clients connect to.
    pub address: SocketAddr,
    admin: SocketAddr,
    config: Arc<ArcSwap<Config>>,
    app: App,
}

impl Sidebolt {
    /// Starts one in front of `upstream` (`host:port`), with the defaults but for what `change` sets.
    pub async fn start(upstream: impl std::fmt::Display, change: impl FnOnce(&mut Config)) -> Self {
        fail_on_panics();
        let mut config = Config::default();
        config.listen.address = SocketAddr::from(([127, 0, 0, 1], 0));
        config.admin.address = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        config.upstream.uri = format!("bolt://{upstream}");
        // Only a failing test waits this long: on a busy machine Neo4j may take seconds to say which versions it speaks.
        config.pool.connection_acquisition_timeout = PATIENCE;
        config.listen.handshake_timeout = PATIENCE;
        config.listen.login_timeout = PATIENCE;
        config.upstream.connection_timeout = PATIENCE;
        // A scripted peer has no plans.
        config.sight.explain = false;
        change(&mut config);
        let config = Arc::new(ArcSwap::from_pointee(config));
        let app = App::start(Arc::clone(&config)).await.expect("Sidebolt starts");
        let (address, admin) = (app.bolt_address(), app.admin_address().expect("an admin port"));
        Self { address, admin, config, app }
    }

    /// Where the admin port is.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Changes the configuration while it runs.
    pub fn reconfigure(&self, change: impl FnOnce(&mut Config)) {
        let mut config = Config::clone(&self.config.load());
        change(&mut config);
        self.config.store(Arc::new(config));
    }

    /// Every metric, by name and labels as they are exposed.
    pub async fn metrics(&self) -> HashMap<String, f64> {
        let (status, body) = self.get("/metrics").await;
        assert_eq!(status, 200);
        body.lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
            .collect()
    }

    /// The sum over all series of a metric whose labels contain `label` (empty = all).
    pub async fn metric(&self, name: &str, label: &str) -> f64 {
        let own = |series: &str| series.split('{').next() == Some(name) && series.contains(label);
        self.metrics().await.iter().filter(|(series, _)| own(series)).map(|(_, value)| value).sum()
    }

    /// Upstream connections: open, idle, and requests that wait.
    pub async fn pool(&self) -> (usize, usize, usize) {
        let metrics = self.metrics().await;
        let sum = |name: &str, label: &str| {
            metrics
                .iter()
                .filter(|(k, _)| k.starts_with(name) && k.contains(label))
                .map(|(_, v)| v)
                .sum::<f64>() as usize
        };
        (
            sum("sidebolt_pool_connections", "\"open\""),
            sum("sidebolt_pool_connections", "\"idle\""),
            sum("sidebolt_pool_waiting", ""),
        )
    }

    /// Status and body of a page of the admin port.
    pub async fn get(&self, path: &str) -> (u16, String) {
        get(self.admin, path).await
    }

    /// Waits until no upstream connection is held and nobody waits: nothing has leaked.
    #[track_caller]
    pub fn at_rest(&self) -> impl Future<Output = ()> + '_ {
        let caller = std::panic::Location::caller();
        async move {
            let started = tokio::time::Instant::now();
            loop {
                let (open, idle, waiting) = self.pool().await;
                let pinned = self.metric("sidebolt_pinned_connections", "").await;
                if open == idle && waiting == 0 && pinned == 0.0 {
                    return;
                }
                let state = format!("open {open}, idle {idle}, waiting {waiting}, pinned {pinned}");
                assert!(started.elapsed() < PATIENCE, "{caller}: connections leaked: {state}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// Drains it; gives the time that took.
    pub async fn drain(self) -> Duration {
        let started = tokio::time::Instant::now();
        wait::in_time("the drain", self.app.drain()).await;
        started.elapsed()
    }
}

/// Status and body of a page of an admin port.
pub async fn get(admin: SocketAddr, path: &str) -> (u16, String) {
    let page = async {
        let mut stream = TcpStream::connect(admin).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = wait::in_time("the admin port's answer", page).await.expect("the admin port answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("an HTTP status");
    (status, body.to_owned())
}

/// A panic anywhere but in a test's own code ends the whole run: Sidebolt's tasks would swallow it.
fn fail_on_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let in_test = panic.location().is_some_and(|place| place.file().starts_with("tests/"));
            usual(panic);
            if !in_test {
                // Not `eprintln`: the test harness would swallow it.
                let trace = std::backtrace::Backtrace::force_capture();
                let _ = writeln!(std::io::stderr(), "Sidebolt panicked, the run fails: {panic}\n{trace}");
                super::neo4j::end_own();
                std::process::exit(101);
            }
        }));
    });
}
