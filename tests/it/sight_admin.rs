//! The admin port's page, API and events, and who gets them.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use bolt_wire::Version;
use serde_json::Value;
use sidebolt::config::{Config, Limit, Per, Secret, When};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::message::*;
use crate::support::raw_client::Client;
use crate::support::scripted::Peer;
use crate::support::sidebolt::Sidebolt;
use crate::support::wait::{PATIENCE, in_time, within_async};

const V: Version = Version::V5_8;

async fn pair(config: impl FnOnce(&mut Config)) -> (Peer, Sidebolt) {
    let peer = Peer::start(|_| ()).await;
    let sidebolt = Sidebolt::start(peer.address, config).await;
    (peer, sidebolt)
}

/// Head and body of an answer; of what does not end, what came until `enough`.
async fn ask(sidebolt: &Sidebolt, request: &str, enough: impl Fn(&str) -> bool) -> (String, String) {
    in_time("an answer", async {
        let mut stream = TcpStream::connect(sidebolt.admin()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut read = Vec::new();
        loop {
            let ended = stream.read_buf(&mut read).await.unwrap() == 0;
            let text = String::from_utf8_lossy(&read).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n")
                && (ended || enough(body))
            {
                return (head.to_owned(), body.to_owned());
            }
            assert!(!ended, "{text}");
        }
    })
    .await
}

fn request(method: &str, path: &str, headers: &str) -> String {
    let host = if headers.contains("host:") { "" } else { "host: 127.0.0.1\r\n" };
    format!("{method} {path} HTTP/1.1\r\n{host}{headers}connection: close\r\n\r\n")
}

async fn status(sidebolt: &Sidebolt, method: &str, path: &str, headers: &str) -> u16 {
    let (head, _) = ask(sidebolt, &request(method, path, headers), |_| true).await;
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

/// The JSON at a path.
async fn json(sidebolt: &Sidebolt, path: &str) -> Value {
    let (status, body) = sidebolt.get(path).await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
}

/// A limit that limits nothing yet.
fn limit(name: &str) -> Limit {
    Limit {
        name: name.to_owned(),
        per: Per::Principal,
        rate: None,
        burst: None,
        max_in_flight: None,
        when: When::default(),
    }
}

fn openapi() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/openapi.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The schema's names of what an object has, without what is there on some machines only.
fn names(schema: &Value) -> BTreeSet<String> {
    let properties = schema["properties"].as_object().unwrap_or_else(|| panic!("{schema}"));
    let always = properties.iter().filter(|(_, schema)| schema["x-optional"] != true);
    always.map(|(name, _)| name.clone()).collect()
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap_or_else(|| panic!("{value}")).keys().cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_answers_what_its_description_says() {
    let folder = tempfile::tempdir().unwrap();
    let (_peer, sidebolt) = pair(|config| {
        config.sight.history.path = Some(folder.path().to_owned());
        config.sight.slow_threshold = std::time::Duration::from_nanos(1);
        config.sight.compare_every = std::time::Duration::from_secs(1);
        let limit = Limit {
            rate: serde_json::from_str("\"100000/h\"").ok(),
            burst: Some(1_000_000),
            ..limit("each")
        };
        config.guard.limits = vec![limit];
    })
    .await;
    let mut client = Client::login(sidebolt.address, V, "user", "hunter2").await;
    for text in ["MERGE (n:Thing {id: 4242})", "MATCH (n:Thing) RETURN n", "MATCH (n:Thing) RETURN n"] {
        client.query(text).await.unwrap();
    }
    let values = map([("p", "parameter42".into())]);
    // What is usual is known the sooner the quieter the machine is: it is asked until it is.
    let (client, asked) = (tokio::sync::Mutex::new(client), std::sync::atomic::AtomicU64::new(0));
    within_async(PATIENCE, "a baseline and a second", || async {
        if asked.load(Ordering::Relaxed) == 0
            || json(&sidebolt, "/api/baselines").await == Value::Array(vec![])
        {
            for _ in 0..300 {
                let call = run_with("ok | rows 2, big 4242", values.clone(), none());
                client.lock().await.query_with(call).await.unwrap();
            }
            asked.fetch_add(300, Ordering::Relaxed);
        }
        json(&sidebolt, "/api/baselines").await != Value::Array(vec![])
            && json(&sidebolt, "/api/resources").await != Value::Array(vec![])
            && sidebolt.get("/api/report").await.0 == 200
    })
    .await;
    let asked = asked.into_inner();
    let description = openapi();
    assert_eq!(json(&sidebolt, "/openapi.json").await, description);
    for (path, methods) in description["paths"].as_object().unwrap() {
        let Some(get) = methods.get("get") else { continue };
        let content = &get["responses"]["200"]["content"];
        let schema = &content["application/json"]["schema"];
        if path == "/api/live" || schema.is_null() {
            continue;
        }
        let answer = json(&sidebolt, path).await;
        assert!(!answer.to_string().contains("hunter2") && !answer.to_string().contains("4242"), "{answer}");
        assert!(!answer.to_string().contains("parameter42"), "{answer}");
        match schema["type"].as_str().unwrap() {
            "array" => {
                let first = answer.get(0).unwrap_or_else(|| panic!("{path} is empty"));
                assert_eq!(keys(first), names(&schema["items"]), "{path}");
            }
            _ if path == "/openapi.json" => {}
            _ => assert_eq!(keys(&answer), names(schema), "{path}"),
        }
    }
    let queries = json(&sidebolt, "/api/queries?limit=1").await;
    assert_eq!((&queries[0]["text"], &queries[0]["calls"]), (&"ok | rows $?, big $?".into(), &asked.into()));
    let overview = json(&sidebolt, "/api/overview").await;
    assert_eq!(
        keys(&overview["now"]),
        names(
            &description["paths"]["/api/resources"]["get"]["responses"]["200"]["content"]["application/json"]
                ["schema"]["items"]
        )
    );
    let (status, body) = sidebolt.get("/api/queries?limit=x").await;
    assert!(status == 400 && body.contains("limit: `x` is no number"), "{body}");
    assert_eq!(json(&sidebolt, "/api/queries?limit=0").await, Value::Array(vec![]));
    let (status, body) = sidebolt.get("/api/report?period=yearly").await;
    assert!(status == 400 && body.contains("write period=daily, weekly or monthly"), "{body}");
    // What went through is in the seconds.
    within_async(PATIENCE, "all requests are in the seconds, once each", || async {
        let seconds = json(&sidebolt, "/api/resources?seconds=3600").await;
        let requests = |second: &Value| second["requests"].as_u64().unwrap();
        seconds.as_array().unwrap().iter().map(requests).sum::<u64>() == asked + 3
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_needs_nothing_from_elsewhere_and_hears_of_news() {
    let (_peer, sidebolt) = pair(|_| ()).await;
    let (head, page) = ask(&sidebolt, &request("GET", "/", ""), |_| false).await;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("default-src 'none'"), "{head}");
    for outside in ["src=", "href=", "@import", "url(", "innerHTML", "eval(", "document.write"] {
        assert!(!page.contains(outside), "{outside}");
    }
    let addresses = page.match_indices("://").map(|(at, _)| &page[at.saturating_sub(5)..at + 13]);
    let foreign: Vec<_> = addresses.filter(|address| !address.contains("www.w3.org")).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    // Everything that it asks for is there.
    let description = openapi();
    for part in page.split("\"/api/").skip(1).chain(page.split("`/api/").skip(1)) {
        let path = format!("/api/{}", part.split(['"', '?', '`']).next().unwrap());
        assert!(description["paths"].get(&path).is_some(), "{path}");
    }
    let (head, events) =
        ask(&sidebolt, &request("GET", "/api/live", ""), |body| body.matches("data: ").count() > 1).await;
    assert!(head.contains("text/event-stream"), "{head}");
    assert!(events.contains("\"uptimeSeconds\":") && events.contains("\n\n"), "{events}");
    // Pages that are closed make room; too many are refused.
    let mut pages = Vec::new();
    let mut refused = 0;
    for _ in 0..40 {
        let mut stream = TcpStream::connect(sidebolt.admin()).await.unwrap();
        stream.write_all(request("GET", "/api/live", "").as_bytes()).await.unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.unwrap();
        refused += usize::from(&status[9..] == b"503");
        pages.push(stream);
    }
    assert!((8..=9).contains(&refused), "{refused}");
    drop(pages);
    within_async(PATIENCE, "room", || async { self::status(&sidebolt, "GET", "/api/live", "").await == 200 })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_keeps_others_out() {
    let (_peer, sidebolt) = pair(|_| ()).await;
    let mut client = Client::login(sidebolt.address, V, "user", "password").await;
    client.query("ok | rows 1").await.unwrap();
    // Without one, only who names it by its address.
    assert_eq!(status(&sidebolt, "GET", "/api/queries", "").await, 200);
    assert_eq!(status(&sidebolt, "GET", "/api/queries", "host: evil.example\r\n").await, 403);
    assert_eq!(status(&sidebolt, "GET", "/metrics", "host: sidebolt.monitoring\r\n").await, 200);
    assert_eq!(status(&sidebolt, "POST", "/api/queries/reset", "").await, 403);
    assert_eq!(status(&sidebolt, "GET", "/api/queries/reset", "").await, 405);
    sidebolt.reconfigure(|config| config.admin.token = Some(Secret("right".to_owned())));
    for path in ["/api/overview", "/api/queries", "/api/live", "/metrics", "/api/clients"] {
        assert_eq!(status(&sidebolt, "GET", path, "").await, 401, "{path}");
        assert_eq!(status(&sidebolt, "GET", path, "authorization: Bearer wrong\r\n").await, 401, "{path}");
        let right = "authorization: Bearer right\r\nhost: sidebolt.example\r\n";
        assert_eq!(status(&sidebolt, "GET", path, right).await, 200, "{path}");
    }
    for path in ["/", "/livez", "/readyz", "/healthz", "/openapi.json"] {
        assert_eq!(status(&sidebolt, "GET", path, "").await, 200, "{path}");
    }
    let change = "authorization: Bearer right\r\n";
    assert_eq!(status(&sidebolt, "POST", "/api/queries/reset", change).await, 403);
    assert_eq!(
        status(&sidebolt, "POST", "/api/queries/reset", &format!("{change}x-sidebolt: 1\r\n")).await,
        200
    );
    sidebolt.reconfigure(|config| config.admin.token = None);
    assert_eq!(json(&sidebolt, "/api/queries").await, Value::Array(vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_shows_it_in_a_terminal() {
    let (_peer, sidebolt) = pair(|config| config.admin.token = Some(Secret("right".to_owned()))).await;
    let mut client = Client::login(sidebolt.address, V, "user", "password").await;
    client.query("ok | big 4242").await.unwrap();
    let top = async |token: &str| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_sidebolt"));
        command.args(["top", "--once", "--admin", &sidebolt.admin().to_string()]);
        command.env("SIDEBOLT_ADMIN__TOKEN", token).env("COLUMNS", "200").kill_on_drop(true);
        let output = in_time("top", command.output()).await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    let (well, page, _) = top("right").await;
    assert!(well && page.contains("requests/s") && page.contains("ok | big $?"), "{page}");
    assert!(!page.contains("4242"), "{page}");
    for (form, words) in [("--rows=5", "ok | big $?"), ("--json", "\"memoryShare\":")] {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_sidebolt"));
        command.args(["report", form, "--admin", &sidebolt.admin().to_string()]);
        command.env("SIDEBOLT_ADMIN__TOKEN", "right").kill_on_drop(true);
        let output = in_time("report", command.output()).await.unwrap();
        let page = String::from_utf8_lossy(&output.stdout).replace("\\|", "|");
        assert!(output.status.success() && page.contains(words) && !page.contains("4242"), "{page}");
    }
    let (well, _, error) = top("wrong").await;
    assert!(!well && error.contains("401"), "{error}");
}
