//! What is kept for longer than an hour, reports about it, and the admin port over TLS and packed.

use std::io::Read;
use std::path::Path;
use std::process::Output;

use bolt_wire::Version;
use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;
use sidebolt::config::{Config, ListenTls, Secret};
use sidebolt::transport::tls::{TlsConnector, Trust};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

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

/// A command of the program, with this in its environment.
async fn command(arguments: &[&str], environment: &[(&str, &str)]) -> (Output, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_sidebolt"));
    command.args(arguments).kill_on_drop(true);
    environment.iter().for_each(|(name, value)| {
        command.env(name, value);
    });
    let output = in_time("a command", command.output()).await.unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output, text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_survives_a_restart_and_makes_reports() {
    let folder = tempfile::tempdir().unwrap();
    let (peer, sidebolt) = pair(|_| ()).await;
    let (status, body) = sidebolt.get("/api/report").await;
    assert!(status == 409 && body.contains("set sight.history.path"), "{body}");
    let (output, text) =
        command(&["report", "--weekly", "--admin", &sidebolt.admin().to_string()], &[]).await;
    assert!(!output.status.success() && text.contains("sight.history.path"), "{text}");
    sidebolt.drain().await;

    let keep = |config: &mut Config| config.sight.history.path = Some(folder.path().join("history"));
    for _ in 0..2 {
        let sidebolt = Sidebolt::start(peer.address, keep).await;
        let mut client = Client::login(sidebolt.address, V, "user", "password").await;
        for _ in 0..50 {
            client.query("ok | rows 2, big 4242").await.unwrap();
        }
        client.query("fail Neo.ClientError.X.Y | a").await.unwrap_err();
        drop(client);
        // A second's sample has them.
        within_async(PATIENCE, "a sample", || async {
            let (_, body) = sidebolt.get("/api/resources").await;
            let samples: Value = serde_json::from_str(&body).unwrap();
            let requests =
                samples.as_array().unwrap().iter().map(|sample| sample["requests"].as_u64().unwrap());
            requests.sum::<u64>() == 51
        })
        .await;
        sidebolt.drain().await;
    }

    let sidebolt = Sidebolt::start(peer.address, keep).await;
    within_async(PATIENCE, "the history", || async { sidebolt.get("/api/report").await.0 == 200 }).await;
    for period in ["daily", "weekly", "monthly"] {
        let (_, body) = sidebolt.get(&format!("/api/report?period={period}")).await;
        let report: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(report["totals"]["requests"], 102, "{body}");
        assert_eq!(
            report["errors"],
            serde_json::json!([{"code": "Neo.ClientError.X.Y", "count": 2}]),
            "{body}"
        );
        let query = &report["queries"][0];
        assert_eq!(
            (&query["text"], &query["calls"]),
            (&"ok | rows $?, big $?".into(), &100.into()),
            "{body}"
        );
        assert!(
            report["totals"]["p99Ms"].as_f64().unwrap() > 0.0
                && report["recommendations"].to_string().contains("% of all requests failed"),
            "{body}"
        );
        assert!(!body.contains("4242"), "{body}");
    }
    let admin = sidebolt.admin().to_string();
    for (form, words) in [
        ("", "# Sidebolt, daily report"),
        ("--html", "<h1>Sidebolt, daily report</h1>"),
        ("--json", "\"period\": \"daily\""),
    ] {
        let arguments = ["report", "--daily", "--admin", &admin, form];
        let arguments = if form.is_empty() { &arguments[..4] } else { &arguments[..] };
        let (output, text) = command(arguments, &[]).await;
        assert!(
            output.status.success() && text.contains(words) && text.contains("Neo.ClientError.X.Y"),
            "{text}"
        );
    }
    sidebolt.drain().await;
}

/// A certificate and its key as files; gives the settings.
fn certificate(folder: &Path, name: &str) -> ListenTls {
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let (cert_file, key_file) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
    std::fs::write(&cert_file, cert.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    ListenTls { cert_file, key_file, client_ca_file: None, required: false }
}

/// Head and body of what is answered to a GET.
async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
    headers: &str,
) -> (String, Vec<u8>) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{headers}connection: close\r\n\r\n");
    let mut answer = Vec::new();
    in_time("an answer", async {
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        stream.read_to_end(&mut answer).await.unwrap();
    })
    .await;
    let end = answer.windows(4).position(|part| part == b"\r\n\r\n").unwrap();
    (String::from_utf8_lossy(&answer[..end]).to_lowercase(), answer[end + 4..].to_vec())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_packed_for_who_wants_them_so() {
    let (_peer, sidebolt) = pair(|_| ()).await;
    let ask = async |path: &str, headers: &str| {
        exchange(TcpStream::connect(sidebolt.admin()).await.unwrap(), path, headers).await
    };
    for path in ["/", "/metrics", "/openapi.json"] {
        let (head, plain) = ask(path, "").await;
        assert!(!head.contains("content-encoding") && head.contains("vary: accept-encoding"), "{head}");
        let (head, packed) = ask(path, "accept-encoding: br, gzip\r\n").await;
        assert!(head.contains("content-encoding: gzip"), "{path}: {head}");
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut unpacked).unwrap();
        assert!(packed.len() * 2 < plain.len(), "{path}: {} of {}", packed.len(), plain.len());
        if path != "/metrics" {
            assert!(unpacked == plain, "{path}");
        }
    }
    // What is small, and what goes on for ever.
    let (head, body) = ask("/livez", "accept-encoding: gzip\r\n").await;
    assert!(!head.contains("content-encoding") && body == b"ok\n", "{head}");
    let mut stream = TcpStream::connect(sidebolt.admin()).await.unwrap();
    let request = "GET /api/live HTTP/1.1\r\nhost: 127.0.0.1\r\naccept-encoding: gzip\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    in_time("an event", async {
        while !String::from_utf8_lossy(&seen).contains("uptimeSeconds") {
            assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_port_speaks_https() {
    let folder = tempfile::tempdir().unwrap();
    let tls = certificate(folder.path(), "one");
    let settings = tls.clone();
    let (_peer, sidebolt) = pair(move |config| config.admin.tls = Some(settings)).await;
    let ask = async |trust: &ListenTls| {
        let tcp = TcpStream::connect(sidebolt.admin()).await.unwrap();
        let connector = TlsConnector::new(&Trust::Only(trust.cert_file.clone()), None).unwrap();
        let stream = connector.connect(tcp, "localhost").await.map_err(|error| error.to_string())?;
        Ok::<_, String>(exchange(stream, "/api/overview", "").await)
    };
    let (head, body) = ask(&tls).await.unwrap();
    assert!(
        head.starts_with("http/1.1 200") && String::from_utf8_lossy(&body).contains("uptimeSeconds"),
        "{head}"
    );
    // Another certificate than the one that is believed, and none at all.
    let other = certificate(folder.path(), "other");
    assert!(ask(&other).await.unwrap_err().contains("handshake"));
    assert_eq!(sidebolt.get("/livez").await.0, 200, "plain HTTP on the same port");

    // The certificate is replaced while it runs.
    std::fs::copy(&other.cert_file, &tls.cert_file).unwrap();
    std::fs::copy(&other.key_file, &tls.key_file).unwrap();
    within_async(PATIENCE, "the new certificate", || async { ask(&other).await.is_ok() }).await;

    // Nothing else any longer; the program finds its way by the configuration.
    sidebolt.reconfigure(|config| {
        config.admin.tls.as_mut().unwrap().required = true;
        config.admin.token = Some(Secret("right".to_owned()));
    });
    let (status, body) = sidebolt.get("/livez").await;
    assert!(status == 400 && body.contains("HTTPS only"), "{body}");
    let file = folder.path().join("proxy.yaml");
    let yaml = format!(
        "admin:\n  address: {}\n  token: right\n  tls: {{cert_file: {}, key_file: {}, required: true}}\n",
        sidebolt.admin(),
        other.cert_file.display(),
        other.key_file.display()
    );
    std::fs::write(&file, yaml).unwrap();
    let file = file.to_str().unwrap();
    let (output, text) = command(&["top", "--once", "--config", file], &[]).await;
    assert!(output.status.success() && text.contains("requests/s"), "{text}");
    // By its address alone, whom the system's CAs vouch for; one name more is the certificate's own.
    let (output, text) =
        command(&["healthcheck", "--admin", &format!("https://{}", sidebolt.admin())], &[]).await;
    assert!(!output.status.success() && text.contains("TLS"), "{text}");
}
