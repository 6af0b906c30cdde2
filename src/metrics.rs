//! Every metric: its name, what it says, its labels.

use std::collections::{BTreeMap, HashSet};

use bolt_wire::Tag;
use parking_lot::Mutex;
use prometheus::core::Collector;
use prometheus::{
    Counter, Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::cache::CacheMetrics;
use crate::coalesce::CoalesceMetrics;
use crate::gnn::GnnMetrics;
use crate::guard::GuardMetrics;
use crate::openmetrics::{self, Exemplars};
use crate::sight::SightMetrics;

/// Distinct Neo4j codes that get their own label value; the servers know about 200.
const CODES: usize = 300;
/// The histogram whose buckets name traces.
const TRACED: &str = "sidebolt_exchange_seconds";
/// Its buckets, and those of all other times.
const SECONDS: [f64; 19] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0,
];

/// All metrics of one Sidebolt. Gauges are set when they are read.
pub(crate) struct Metrics {
    registry: Registry,
    reference: Vec<(String, String, String)>,
    codes: Mutex<HashSet<String>>,
    /// Client connections open.
    pub(crate) clients: IntGauge,
    /// Client connections accepted and refused by the listener.
    pub(crate) listener: IntGaugeVec,
    /// Logins by how they ended.
    pub(crate) logins: IntCounterVec,
    requests: [[IntCounter; 3]; 4],
    /// Requests refused by Sidebolt itself.
    pub(crate) refusals: IntCounterVec,
    failures: IntCounterVec,
    /// Clients closed for breaking the protocol.
    pub(crate) violations: IntCounter,
    /// Records relayed.
    pub(crate) records: IntCounter,
    /// Bytes relayed to clients.
    pub(crate) bytes_to_clients: IntCounter,
    /// Bytes read from clients.
    pub(crate) bytes_from_clients: IntCounter,
    /// Time of whole exchanges.
    pub(crate) exchange_seconds: Histogram,
    /// Time from a request's departure to its last answer.
    pub(crate) upstream_seconds: Histogram,
    /// NOOPs sent to waiting clients.
    pub(crate) noops: IntCounter,
    /// Leases by the reason why they are held.
    pub(crate) pinned: IntGaugeVec,
    /// Time waited for a connection.
    pub(crate) pool_wait: Histogram,
    /// Connections made.
    pub(crate) pool_opened: IntCounter,
    /// Connections closed.
    pub(crate) pool_closed: IntCounterVec,
    /// Connections cleaned after their client was gone.
    pub(crate) pool_resets: IntCounter,
    /// Connections that changed their user.
    pub(crate) pool_relogons: IntCounter,
    /// Connections by state.
    pub(crate) pool_connections: IntGaugeVec,
    /// Requests that wait for a connection.
    pub(crate) pool_waiting: IntGaugeVec,
    /// Time to make a connection.
    pub(crate) connect_seconds: Histogram,
    /// Failed attempts to make one.
    pub(crate) connect_failed: IntCounter,
    /// Exchanges whose upstream connection was lost.
    pub(crate) lost: IntCounter,
    /// Routing tables asked for, by what came of it.
    pub(crate) routing_refreshes: IntCounterVec,
    /// Servers listed in routing tables.
    pub(crate) routing_members: IntGaugeVec,
    /// Indexes that are to be made sure of.
    pub(crate) indexes: IntGaugeVec,
    /// Configuration reloads.
    pub(crate) reloads: IntGaugeVec,
    /// Group commit.
    pub(crate) coalesce: CoalesceMetrics,
    /// The cache's.
    pub(crate) cache: CacheMetrics,
    /// The guard's.
    pub(crate) guard: GuardMetrics,
    /// `CALL gnn.…`.
    pub(crate) gnn: GnnMetrics,
    /// What is seen of the queries.
    pub(crate) sight: SightMetrics,
    /// Requests that were traced.
    pub(crate) traced: IntCounter,
    /// Their traces, by how long they took.
    pub(crate) exemplars: Exemplars,
    /// Posts of their spans.
    pub(crate) trace_posts: IntCounterVec,
}

/// Registers metrics and keeps their description for the reference table.
pub(crate) struct Builder {
    registry: Registry,
    reference: Vec<(String, String, String)>,
}

impl Builder {
    fn add<C: Collector + Clone + 'static>(&mut self, kind: &str, labels: &[&str], metric: C) -> C {
        for desc in metric.desc() {
            let name = match labels {
                [] => desc.fq_name.clone(),
                labels => format!("{}{{{}}}", desc.fq_name, labels.join(",")),
            };
            self.reference.push((name, kind.to_owned(), desc.help.clone()));
        }
        self.registry.register(Box::new(metric.clone())).expect("invariant: metric names differ");
        metric
    }

    pub(crate) fn counter(&mut self, name: &str, help: &str) -> IntCounter {
        let metric = IntCounter::new(name, help).expect("invariant: a valid name");
        self.add("counter", &[], metric)
    }

    pub(crate) fn counters(&mut self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        let metric = IntCounterVec::new(Opts::new(name, help), labels).expect("invariant: a valid name");
        self.add("counter", labels, metric)
    }

    pub(crate) fn gauge(&mut self, name: &str, help: &str) -> IntGauge {
        let metric = IntGauge::new(name, help).expect("invariant: a valid name");
        self.add("gauge", &[], metric)
    }

    pub(crate) fn gauges(&mut self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        let metric = IntGaugeVec::new(Opts::new(name, help), labels).expect("invariant: a valid name");
        self.add("gauge", labels, metric)
    }

    pub(crate) fn seconds(&mut self, name: &str, help: &str) -> Histogram {
        self.histogram(name, help, SECONDS.to_vec())
    }

    pub(crate) fn float_counter(&mut self, name: &str, help: &str) -> Counter {
        let metric = Counter::new(name, help).expect("invariant: a valid name");
        self.add("counter", &[], metric)
    }

    pub(crate) fn histogram(&mut self, name: &str, help: &str, buckets: Vec<f64>) -> Histogram {
        let opts = HistogramOpts::new(name, help).buckets(buckets);
        let metric = Histogram::with_opts(opts).expect("invariant: a valid name");
        self.add("histogram", &[], metric)
    }
}

impl Metrics {
    /// All metrics, at zero.
    pub(crate) fn new() -> Self {
        let mut b = Builder { registry: Registry::new(), reference: Vec::new() };
        Self {
            clients: b.gauge("sidebolt_clients", "Client connections that are open."),
            listener: b.gauges("sidebolt_listener_connections", "Client connections accepted, and refused by reason, since start.", &["outcome"]),
            logins: b.counters("sidebolt_logins_total", "Logins by how they ended: proved (by Neo4j), believed (proved within auth.cache_ttl), refused.", &["outcome"]),
            requests: requests(&b.counters("sidebolt_requests_total", "Exchanges by kind (auto_commit, transaction, route, other) and outcome (success, failure, interrupted).", &["kind", "outcome"])),
            refusals: b.counters("sidebolt_refusals_total", "Requests and logins that Sidebolt itself refused, by reason.", &["reason"]),
            failures: b.counters("sidebolt_failures_total", "FAILUREs from Neo4j by code.", &["code"]),
            violations: b.counter("sidebolt_violations_total", "Clients closed because they broke the protocol."),
            records: b.counter("sidebolt_records_total", "Records relayed to clients."),
            bytes_to_clients: b.counter("sidebolt_bytes_to_clients_total", "Bytes relayed from Neo4j to clients."),
            bytes_from_clients: b.counter("sidebolt_bytes_from_clients_total", "Bytes read from clients."),
            exchange_seconds: b.seconds(TRACED, "Time from an exchange's first request to its last answer, waiting included."),
            upstream_seconds: b.seconds("sidebolt_upstream_seconds", "Time for which an exchange held an upstream connection."),
            noops: b.counter("sidebolt_noops_total", "NOOPs sent to clients that wait for a connection."),
            pinned: b.gauges("sidebolt_pinned_connections", "Upstream connections held by clients, by reason: running (an answer is due), result (an auto-commit result is not read to its end), transaction (open, between requests).", &["reason"]),
            pool_wait: b.seconds("sidebolt_pool_wait_seconds", "Time that requests waited which found no connection ready at once."),
            pool_opened: b.counter("sidebolt_pool_opened_total", "Upstream connections made."),
            pool_closed: b.counters("sidebolt_pool_closed_total", "Upstream connections closed, by reason: idle, lifetime, dead, replaced (by one of another kind), unclean (clean-up failed), defunct (broken in use).", &["reason"]),
            pool_resets: b.counter("sidebolt_pool_resets_total", "Upstream connections cleaned after their client was gone in the middle of something."),
            pool_relogons: b.counter("sidebolt_pool_relogons_total", "Upstream connections that were logged in as another user, or again to prove credentials."),
            pool_connections: b.gauges("sidebolt_pool_connections", "Upstream connections by server and state (open, idle).", &["server", "state"]),
            pool_waiting: b.gauges("sidebolt_pool_waiting", "Requests that wait for a connection, by server.", &["server"]),
            connect_seconds: b.seconds("sidebolt_connect_seconds", "Time to make an upstream connection, up to HELLO's answer."),
            connect_failed: b.counter("sidebolt_connect_failures_total", "Attempts to make an upstream connection that failed."),
            lost: b.counter("sidebolt_upstream_lost_total", "Exchanges whose upstream connection was lost; their clients were closed."),
            routing_refreshes: b.counters("sidebolt_routing_refreshes_total", "Routing tables asked for, by outcome: success, refused (Neo4j said no), unusable (no table could be used), unreachable (no router answered).", &["outcome"]),
            routing_members: b.gauges("sidebolt_routing_members", "Distinct servers in the routing tables in use, by role (writer, reader, router).", &["role"]),
            indexes: b.gauges("sidebolt_indexes", "Indexes and constraints listed in `indexes`, by state (missing, populating, online, failed).", &["state"]),
            reloads: b.gauges("sidebolt_config_reloads", "Configuration reloads since start, by outcome (applied, refused).", &["outcome"]),
            coalesce: CoalesceMetrics::new(&mut b),
            cache: CacheMetrics::new(&mut b),
            guard: GuardMetrics::new(&mut b),
            gnn: GnnMetrics::new(&mut b),
            sight: SightMetrics::new(&mut b),
            traced: b.counter("sidebolt_traced_requests_total", "Requests that were chosen to be traced (telemetry.otlp)."),
            trace_posts: b.counters("sidebolt_trace_posts_total", "Posts of spans to the collector (telemetry.otlp.endpoint), by outcome (success, failure).", &["outcome"]),
            exemplars: Exemplars::new(TRACED, &SECONDS),
            codes: Mutex::default(),
            reference: b.reference,
            registry: b.registry,
        }
    }

    /// Counts an exchange that is over.
    pub(crate) fn finished(&self, tag: Tag, failed: bool, interrupted: bool) {
        let [auto_commit, transaction, route, other] = &self.requests;
        let [success, failure, reset] = match tag {
            Tag::RUN => auto_commit,
            Tag::BEGIN => transaction,
            Tag::ROUTE => route,
            _ => other,
        };
        match (failed, interrupted) {
            (_, true) => reset.inc(),
            (true, _) => failure.inc(),
            _ => success.inc(),
        }
    }

    /// Auto-commit exchanges that are over.
    pub(crate) fn auto_commits(&self) -> u64 {
        let [auto_commit, ..] = &self.requests;
        auto_commit.iter().map(IntCounter::get).sum()
    }

    /// Counts a FAILURE of Neo4j's. Codes come from the server, so their number is bounded here.
    pub(crate) fn failure(&self, code: &str) {
        let mut codes = self.codes.lock();
        let known = codes.contains(code)
            || (codes.len() < CODES && code.len() <= 128 && codes.insert(code.to_owned()));
        drop(codes);
        self.failures.with_label_values(&[if known { code } else { "other" }]).inc();
    }

    /// Neo4j's failures by code, and Sidebolt's own refusals by reason, since the start.
    pub(crate) fn failed(&self) -> (BTreeMap<String, u64>, BTreeMap<String, u64>) {
        (by_label(&self.failures), by_label(&self.refusals))
    }

    /// Drops the series of a server that is no longer used.
    pub(crate) fn forget_server(&self, server: &str) {
        // An error means that there was none.
        for state in ["open", "idle"] {
            let _ = self.pool_connections.remove_label_values(&[server, state]);
        }
        let _ = self.pool_waiting.remove_label_values(&[server]);
        self.guard.forget_server(server);
    }

    /// The exposition for Prometheus.
    pub(crate) fn expose(&self) -> String {
        let mut out = Vec::new();
        // Writing to a vector does not fail; a metric that cannot be encoded would be a bug that the tests see.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// The same in OpenMetrics' format, with traces.
    pub(crate) fn expose_openmetrics(&self) -> String {
        openmetrics::encode(&self.registry.gather(), &self.exemplars)
    }

    /// The table of all metrics in Markdown, as the README has it.
    pub(crate) fn reference_markdown(&self) -> String {
        let mut table = String::from("| metric | type | meaning |\n|---|---|---|\n");
        for (name, kind, help) in &self.reference {
            table.push_str(&format!("| `{name}` | {kind} | {help} |\n"));
        }
        table
    }
}

/// The counts of a counter with one label, by its value.
fn by_label(counters: &IntCounterVec) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for family in counters.collect() {
        for metric in family.get_metric() {
            let label = metric.get_label().first().map(|label| label.value().to_owned());
            counts.insert(label.unwrap_or_default(), metric.get_counter().get_value() as u64);
        }
    }
    counts
}

/// The counters of `sidebolt_requests_total`, looked up once: they are on the hot path.
fn requests(all: &IntCounterVec) -> [[IntCounter; 3]; 4] {
    ["auto_commit", "transaction", "route", "other"].map(|kind| {
        ["success", "failure", "interrupted"].map(|outcome| all.with_label_values(&[kind, outcome]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        let metrics = Metrics::new();
        for (name, kind, help) in &metrics.reference {
            let name = name.split('{').next().unwrap();
            assert!(name.starts_with("sidebolt_") && help.ends_with('.'), "{name}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
            assert_eq!(kind == "histogram", name.ends_with("_seconds") || name.ends_with("_rows"), "{name}");
            assert!(metrics.reference_markdown().contains(name));
        }
    }

    #[test]
    fn codes_of_a_hostile_server_are_bounded() {
        let metrics = Metrics::new();
        for i in 0..10 * CODES {
            metrics.failure(&format!("Neo.ClientError.Made.Up{i}"));
        }
        let series = metrics.expose().lines().filter(|l| l.starts_with("sidebolt_failures_total")).count();
        assert_eq!(series, CODES + 1);
    }
}
