//! Traces, as an OpenTelemetry collector receives them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bolt_wire::packstream::Value;
use bolt_wire::{Tag, Version};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use prost::Message as _;
use sidebolt::config::{CacheRule, Config, Limit, Per, Store, When};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::message::*;
use crate::support::neo4j::{Neo4j, skip};
use crate::support::raw_client::Client;
use crate::support::scripted::Peer;
use crate::support::sidebolt::{Sidebolt, get};
use crate::support::wait::{PATIENCE, in_time, until, within_async};

const V: Version = Version::V5_8;
/// The application's trace, and the span of it that asks.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A collector: takes OTLP over HTTP in protobuf.
struct Collector {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
    services: Arc<Mutex<Vec<String>>>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (spans, services) = <(Arc<Mutex<Vec<Span>>>, Arc<Mutex<Vec<String>>>)>::default();
        let (into, names) = (Arc::clone(&spans), Arc::clone(&services));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut read = Vec::new();
                let (head, body) = loop {
                    assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0, "a whole request");
                    let Some(end) = read.windows(4).position(|part| part == b"\r\n\r\n") else { continue };
                    let head = String::from_utf8_lossy(&read[..end]).to_lowercase();
                    let length = head.split("content-length: ").nth(1).unwrap();
                    let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
                    if read.len() >= end + 4 + length {
                        break (head, read[end + 4..].to_vec());
                    }
                };
                assert!(head.starts_with("post /v1/traces http/1.1"), "{head}");
                assert!(head.contains("content-type: application/x-protobuf"), "{head}");
                let request = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
                for resource in request.resource_spans {
                    let attributes = resource.resource.unwrap().attributes;
                    let name = attributes.iter().find(|attribute| attribute.key == "service.name").unwrap();
                    names.lock().push(words(name.value.clone().unwrap().value));
                    into.lock().extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            }
        });
        Self { address, spans, services }
    }

    /// Sets Sidebolt to send traces here; `sample` of what has no parent.
    fn set(&self, config: &mut Config, sample: f64) {
        config.telemetry.otlp.endpoint = Some(format!("http://{}/v1/traces", self.address));
        config.telemetry.otlp.sample = sample;
    }

    /// Waits until there are so many spans of a name; gives all that there are.
    async fn wait(&self, name: &str, count: usize) -> Vec<Span> {
        let spans = || self.spans.lock().clone();
        until(name, || spans().iter().filter(|span| span.name == name).count() >= count).await;
        spans()
    }
}

fn words(value: Option<any_value::Value>) -> String {
    match value {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(span: &Span) -> HashMap<String, String> {
    let pairs = span.attributes.iter().cloned();
    pairs.map(|pair| (pair.key, words(pair.value.and_then(|value| value.value)))).collect()
}

/// The spans below another.
fn below<'a>(spans: &'a [Span], parent: &Span) -> Vec<&'a str> {
    let own = spans.iter().filter(|span| span.parent_span_id == parent.span_id);
    let mut names: Vec<&str> = own.map(|span| span.name.as_str()).collect();
    names.sort_unstable();
    names
}

/// Metadata with a parent of the application's.
fn traced(flags: &str) -> Value {
    let metadata = map([
        ("traceparent", format!("00-{TRACE}-{PARENT}-{flags}").as_str().into()),
        ("tracestate", "x=y".into()),
        ("app", "shop".into()),
    ]);
    map([("tx_metadata", metadata)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_spans_of_their_clients_trace() {
    let (peer, collector) = (Peer::start(|_| ()).await, Collector::start().await);
    let sidebolt = Sidebolt::start(peer.address, |config| collector.set(config, 0.0)).await;
    let mut client = Client::login(sidebolt.address, V, "user", "password").await;
    client.query_with(run_with("ok | rows 3, big 4242", none(), traced("01"))).await.unwrap();
    // Not chosen: by the application's flag, and by chance, which is 0.
    client.query_with(run_with("ok | rows 1", none(), traced("00"))).await.unwrap();
    client.query("ok | rows 1").await.unwrap();
    // A transaction, whose statements are the trace's too.
    let begin = begin_with([("db", "movies".into()), ("tx_metadata", metadata_of(traced("01")))]);
    client
        .ask_all(&[begin, run("ok | rows 5"), pull_all(), run("fail Neo.ClientError.X.Y | a"), pull_all()])
        .await;
    client.one(reset()).await;

    let spans = collector.wait("upstream", 3).await;
    assert!(spans.iter().all(|span| hex(&span.trace_id) == TRACE), "{spans:?}");
    let asked: Vec<&Span> = spans.iter().filter(|span| hex(&span.parent_span_id) == PARENT).collect();
    assert_eq!(asked.len(), 3, "{spans:?}");
    let of =
        |text: &str| asked.iter().find(|span| attributes(span)["db.query.text"] == text).copied().unwrap();
    let first = of("ok | rows $?, big $?");
    assert_eq!((first.name.as_str(), first.kind, below(&spans, first)), ("OK", 3, vec!["upstream"]));
    let known = attributes(first);
    let expected = [
        ("db.system.name", "neo4j"),
        ("db.operation.name", "OK"),
        ("db.response.returned_rows", "4"),
        ("server.address", "127.0.0.1"),
        ("server.port", &peer.address.port().to_string()),
        ("client.address", "127.0.0.1"),
        ("sidebolt.answered", "neo4j"),
    ];
    for (name, value) in expected {
        assert_eq!(known[name], value, "{name}");
    }
    assert!(!known.contains_key("error.type") && !known.contains_key("db.namespace"), "{known:?}");
    assert!(!format!("{spans:?}").contains("4242"), "no value is in a trace");
    let child =
        spans.iter().find(|span| span.name == "upstream" && span.parent_span_id == first.span_id).unwrap();
    assert!(
        first.start_time_unix_nano <= child.start_time_unix_nano
            && child.start_time_unix_nano < child.end_time_unix_nano
    );
    assert!(child.end_time_unix_nano <= first.end_time_unix_nano + 1_000_000, "{first:?} {child:?}");

    let known = attributes(of("ok | rows $?"));
    assert_eq!((known["db.namespace"].as_str(), of("ok | rows $?").name.as_str()), ("movies", "OK movies"));
    let failed = of("fail Neo.ClientError.X.Y | a");
    let known = attributes(failed);
    assert_eq!(
        (known["error.type"].as_str(), known["db.response.status_code"].as_str()),
        ("Neo.ClientError.X.Y", "Neo.ClientError.X.Y")
    );
    assert_eq!(failed.status.as_ref().unwrap().code, 2);
    assert!(collector.services.lock().iter().all(|name| name == "sidebolt"));
    assert_eq!(sidebolt.metric("sidebolt_traced_requests_total", "").await, 3.0);
    // Neo4j sees the rest of the metadata.
    let seen = format!("{:?}", peer.log());
    assert!(seen.contains("shop") && !seen.contains("traceparent") && !seen.contains("tracestate"), "{seen}");

    // By chance, which is 1; then another collector, while it runs.
    sidebolt.reconfigure(|config| config.telemetry.otlp.sample = 1.0);
    client.query("ok | rows 1, big 10").await.unwrap();
    let spans = collector.wait("upstream", 4).await;
    let root = spans.iter().find(|span| span.name == "OK" && span.parent_span_id.is_empty()).unwrap();
    assert!(hex(&root.trace_id) != TRACE && below(&spans, root).contains(&"upstream"), "{spans:?}");
    let other = Collector::start().await;
    sidebolt.reconfigure(|config| other.set(config, 1.0));
    client.query("ok | rows 2").await.unwrap();
    other.wait("upstream", 1).await;
    sidebolt.reconfigure(|config| config.telemetry.otlp.endpoint = None);
    client.query_with(run_with("ok | rows 3", none(), traced("01"))).await.unwrap();
    assert_eq!(sidebolt.metric("sidebolt_traced_requests_total", "").await, 5.0);
    assert!(format!("{:?}", peer.log()).contains("traceparent"), "without traces nothing is taken out");
}

/// The metadata in a RUN's extra.
fn metadata_of(extra: Value) -> Value {
    extra.get("tx_metadata").unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_is_a_step_of_its_own() {
    let limit = Limit {
        name: "one".to_owned(),
        per: Per::All,
        rate: None,
        burst: None,
        max_in_flight: Some(1),
        when: When::default(),
    };
    for (step, limits, waiting) in
        [("queue", vec![limit], "sidebolt_guard_waiting"), ("pool wait", vec![], "sidebolt_pool_waiting")]
    {
        let (peer, collector) = (Peer::start(|_| ()).await, Collector::start().await);
        let sidebolt = Sidebolt::start(peer.address, |config| {
            collector.set(config, 1.0);
            config.guard.max_wait = PATIENCE;
            config.pool.max_connection_pool_size = if limits.is_empty() { 1 } else { 10 };
            config.guard.limits = limits;
        })
        .await;
        let login = || Client::login(sidebolt.address, V, "user", "password");
        let (mut first, mut second) = (login().await, login().await);
        let held = tokio::spawn(async move { first.query("ok | hold, rows 1").await });
        until("the first is there", || peer.count(Tag::RUN) == 1).await;
        let waits = tokio::spawn(async move { second.query("ok | rows 2").await });
        within_async(PATIENCE, step, || async { sidebolt.metric(waiting, "").await == 1.0 }).await;
        peer.set(|settings| settings.released = true);
        held.await.unwrap().unwrap();
        waits.await.unwrap().unwrap();
        let spans = collector.wait("upstream", 2).await;
        let is_second =
            |span: &&Span| attributes(span).get("db.query.text").is_some_and(|text| text == "ok | rows $?");
        let second = spans.iter().find(is_second).unwrap();
        assert_eq!(below(&spans, second), [step, "upstream"], "{spans:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_collector_holds_nobody_up() {
    let peer = Peer::start(|_| ()).await;
    // One that accepts and never answers, and one that is not there.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    for address in [silent.local_addr().unwrap(), gone] {
        let sidebolt = Sidebolt::start(peer.address, |config| {
            config.telemetry.otlp.endpoint = Some(format!("http://{address}/v1/traces"));
            config.telemetry.otlp.sample = 1.0;
        })
        .await;
        let mut client = Client::login(sidebolt.address, V, "user", "password").await;
        // Twice as many spans as may wait.
        let requests: Vec<_> = (0..100).flat_map(|_| [run("ok | rows 1"), pull_all()]).collect();
        for _ in 0..40 {
            let answers = client.ask_all(&requests).await;
            assert!(answers.iter().filter(|answer| answer.is_last()).all(|answer| answer.is_success()));
        }
        assert_eq!(sidebolt.metric("sidebolt_traced_requests_total", "").await, 4000.0);
        if address == gone {
            within_async(PATIENCE, "a failure is counted", || async {
                sidebolt.metric("sidebolt_trace_posts_total", "failure").await > 0.0
            })
            .await;
        }
        drop(client);
        let took = sidebolt.drain().await;
        assert!(took < Duration::from_secs(60), "{took:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_neo4j_answers_by_cache_and_batch_within_traces() {
    for neo4j in Neo4j::all("traces::real_neo4j_answers_by_cache_and_batch_within_traces") {
        let collector = Collector::start().await;
        let sidebolt = Sidebolt::start(&neo4j.address, |config| {
            collector.set(config, 0.0);
            config.cache.rules = vec![CacheRule { store: Store::Always, ..CacheRule::default() }];
        })
        .await;
        let login = || Client::login(sidebolt.address, V, Neo4j::USER, &neo4j.password);
        let mut client = login().await;
        // Each of a span of its own of the application's, which keeps nobody from sharing.
        let nth = |n: usize| {
            let parent = format!("00-{TRACE}-{n:016x}-01");
            map([("tx_metadata", map([("traceparent", parent.as_str().into())]))])
        };
        neo4j.admin("CREATE (:TraceRead {id: 1})").await;
        let client_of_reads = tokio::sync::Mutex::new(&mut client);
        let asked = std::sync::atomic::AtomicUsize::new(1);
        within_async(PATIENCE, "an answer from the cache", || async {
            let n = asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let read = run_with("MATCH (n:TraceRead {id: 1}) RETURN n.id", none(), nth(n));
            client_of_reads.lock().await.query_with(read).await.unwrap();
            sidebolt.metric("sidebolt_cache_hits_total", "").await > 0.0
        })
        .await;
        let mut all = tokio::task::JoinSet::new();
        for task in 0..16 {
            let mut client = login().await;
            all.spawn(async move {
                for v in 0..20 {
                    let values = map([("id", (task as i64).into()), ("v", v.into())]);
                    let text = "MERGE (n:TraceWrite {id: $id}) SET n.v = $v";
                    client.query_with(run_with(text, values, nth(1000 + task))).await.unwrap();
                }
            });
        }
        all.join_all().await;
        assert!(sidebolt.metric("sidebolt_coalesce_rows_total", "").await > 0.0);
        collector.wait("cache", 1).await;
        let spans = collector.wait("batch", 1).await;
        let batched = spans.iter().find(|span| span.name == "batch").unwrap();
        let merge = spans.iter().find(|span| span.span_id == batched.parent_span_id).unwrap();
        let known = attributes(merge);
        assert_eq!(
            (known["db.operation.name"].as_str(), known["sidebolt.answered"].as_str()),
            ("MERGE", "batch")
        );
        assert_eq!((hex(&merge.trace_id), merge.parent_span_id.len()), (TRACE.to_owned(), 8));
        neo4j.admin("MATCH (n) WHERE n:TraceRead OR n:TraceWrite DELETE n").await;
    }
}

/// Prometheus with exemplars, of the Debian package; it ends with this value.
struct Prometheus {
    child: tokio::process::Child,
    address: SocketAddr,
    _home: tempfile::TempDir,
}

impl Prometheus {
    /// One that asks an admin port each second; `None` if there is none on this machine.
    async fn start(admin: SocketAddr) -> Option<Self> {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("prometheus.yaml");
        let targets = format!(
            "scrape_configs:\n- {{job_name: sidebolt, scrape_interval: 1s, static_configs: [{{targets: ['{admin}']}}]}}\n"
        );
        std::fs::write(&file, targets).unwrap();
        let mut child = tokio::process::Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", home.path().join("data").display()))
            .args(["--web.listen-address=127.0.0.1:0", "--enable-feature=exemplar-storage"])
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .ok()?;
        let mut lines = tokio::io::BufReader::new(child.stderr.take().unwrap()).lines();
        let address = in_time("Prometheus listens", async {
            loop {
                let line = lines.next_line().await.unwrap().expect("Prometheus runs");
                let address = line.split("address=").nth(1).and_then(|rest| rest.split(' ').next());
                match address.and_then(|address| address.parse::<SocketAddr>().ok()) {
                    Some(address) if address.port() != 0 => break address,
                    _ => {}
                }
            }
        });
        let address = address.await;
        // It waits where nobody reads what it says.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Some(Self { child, address, _home: home })
    }

    async fn ask(&self, path: &str) -> serde_json::Value {
        let (status, body) = get(self.address, path).await;
        if status != 200 {
            return serde_json::Value::Null;
        }
        // Long answers come in chunks.
        let json = body.get(body.find('{').unwrap_or(0)..=body.rfind('}').unwrap_or(0)).unwrap_or_default();
        serde_json::from_str(json).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_name_traces_where_they_may() {
    const TEST: &str = "traces::metrics_name_traces_where_they_may";
    let (peer, collector) = (Peer::start(|_| ()).await, Collector::start().await);
    let sidebolt = Sidebolt::start(peer.address, |config| collector.set(config, 0.0)).await;
    let mut client = Client::login(sidebolt.address, V, "user", "password").await;
    client.query("ok | rows 1").await.unwrap();
    let open = async || {
        let mut stream = TcpStream::connect(sidebolt.admin()).await.unwrap();
        let accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
        let request = format!(
            "GET /metrics HTTP/1.1\r\nhost: localhost\r\naccept: {accept}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        in_time("metrics", stream.read_to_string(&mut answer)).await.unwrap();
        answer
    };
    assert!(!open().await.contains("trace_id"), "nothing was traced");
    client.query_with(run_with("ok | rows 3", none(), traced("01"))).await.unwrap();
    let answer = open().await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "{head}"
    );
    let traces: Vec<&str> = body.lines().filter(|line| line.contains("trace_id")).collect();
    let [line] = traces.as_slice() else { panic!("{traces:?}") };
    let (bucket, exemplar) = line.split_once(" # ").unwrap();
    let bound =
        bucket.strip_prefix("sidebolt_exchange_seconds_bucket{le=\"").unwrap().split('"').next().unwrap();
    let exemplar = exemplar.strip_prefix(&format!("{{trace_id=\"{TRACE}\"}} ")).unwrap();
    let [seconds, at] = [0, 1].map(|nth| exemplar.split(' ').nth(nth).unwrap().parse::<f64>().unwrap());
    assert!(bound == "+Inf" || seconds <= bound.parse().unwrap(), "{line}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!(seconds > 0.0 && (now - 600.0..=now + 1.0).contains(&at), "{line}");
    assert!(body.ends_with("\n# EOF\n"), "{body}");
    // Who does not ask for it gets what it always got.
    let (_, plain) = sidebolt.get("/metrics").await;
    assert!(!plain.contains("trace_id") && !plain.contains("# EOF"), "{plain}");
    assert!(plain.contains("# TYPE sidebolt_requests_total counter\n"), "{plain}");
    // A trace that begins here is named as the collector knows it.
    sidebolt.reconfigure(|config| config.telemetry.otlp.sample = 1.0);
    client.query("ok | rows 7").await.unwrap();
    let spans = collector.wait("OK", 2).await;
    let own = spans.iter().find(|span| span.parent_span_id.is_empty()).unwrap();
    assert!(open().await.contains(&format!("trace_id=\"{}\"", hex(&own.trace_id))), "{own:?}");

    // Prometheus reads all of it.
    let Some(mut prometheus) = Prometheus::start(sidebolt.admin()).await else {
        return skip(TEST, "needs Prometheus: install the Debian package prometheus");
    };
    let path = "/api/v1/query_exemplars?query=sidebolt_exchange_seconds_bucket&start=0&end=9999999999";
    within_async(PATIENCE, "Prometheus knows the trace", || async {
        prometheus.ask(path).await.to_string().contains(&hex(&own.trace_id))
    })
    .await;
    let targets = prometheus.ask("/api/v1/targets?state=active").await;
    let target = &targets["data"]["activeTargets"][0];
    assert_eq!((&target["health"], &target["lastError"]), (&"up".into(), &"".into()), "{target}");
    let metadata = prometheus.ask("/api/v1/metadata?metric=sidebolt_requests").await;
    assert_eq!(metadata["data"]["sidebolt_requests"][0]["type"], "counter", "{metadata}");
    prometheus.child.kill().await.unwrap();
}
