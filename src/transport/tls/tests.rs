use std::sync::Arc;

use rcgen::ExtendedKeyUsagePurpose;
use rustls::crypto::ring;
use rustls::{ClientConfig, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::config::{ListenTls, Upstream};
use crate::transport::Transport;
use crate::transport::kit::*;
use crate::transport::sniff::{BOLT_MAGIC, Refusal};

fn port(tls: ListenTls) -> Port {
    Port::open(crate::config::Listen { tls: Some(tls), ..listen() })
}

async fn connect(
    port: &Port,
    trust: &Trust,
    own: Option<(&Path, &Path)>,
    host: &str,
) -> Result<Transport, TlsError> {
    soon(TlsConnector::new(trust, own).unwrap().connect(port.connect().await, host)).await
}

/// The certificate that the server shows now.
async fn shown(port: &Port) -> Vec<u8> {
    let client = connect(port, &Trust::Any, None, "localhost").await.unwrap();
    let Transport::Tls(tls) = client else { panic!("not TLS") };
    tls.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn client_certificates() {
    let (authority, strangers) = (Authority::new(), Authority::new());
    let mut port = port(ListenTls { client_ca_file: Some(authority.ca()), ..authority.server() });
    let (cert, key) = authority.client();
    let mut client = connect(&port, &authority.trust(), Some((&cert, &key)), "localhost").await.unwrap();
    client.write_all(&BOLT_MAGIC).await.unwrap();
    client.flush().await.unwrap();
    assert!(port.session().await.0.secure);

    let (wrong_cert, wrong_key) = strangers.client();
    let (server_cert, server_key) = authority.issue("other", &["x"], ExtendedKeyUsagePurpose::ServerAuth);
    let wrong = [None, Some((&*wrong_cert, &*wrong_key)), Some((&*server_cert, &*server_key))];
    for (n, own) in (1..).zip(wrong) {
        // In TLS 1.3 the client learns of the refusal with its first read.
        let mut client = connect(&port, &authority.trust(), own, "localhost").await.unwrap();
        let _ = client.write_all(&BOLT_MAGIC).await;
        let error = soon(client.read_u8()).await.unwrap_err();
        // The refusal itself, not a mere reset.
        assert!(error.to_string().contains("received fatal alert"), "{error}");
        eventually("counted", || port.refused(Refusal::TlsFailed) == n).await;
    }
    assert!(port.sessions.try_recv().is_err());
}

#[tokio::test]
async fn both_versions_and_names() {
    let authority = Authority::new();
    let mut port = port(authority.server());
    for (versions, expected) in [
        (&[&rustls::version::TLS12], ProtocolVersion::TLSv1_2),
        (&[&rustls::version::TLS13], ProtocolVersion::TLSv1_3),
    ] {
        let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(ca_file(&authority.ca(), "ca").unwrap())
            .with_no_client_auth();
        let connector = TlsConnector { client: Arc::new(client) };
        for host in ["localhost", "127.0.0.1"] {
            let mut client = connector.connect(port.connect().await, host).await.unwrap();
            assert!(client.is_secure());
            client.write_all(&BOLT_MAGIC).await.unwrap();
            client.flush().await.unwrap();
            let (mut accepted, _guard) = port.session().await;
            accepted.transport.write_all(b"hi").await.unwrap();
            accepted.transport.flush().await.unwrap();
            let mut hi = [0; 2];
            soon(client.read_exact(&mut hi)).await.unwrap();
            assert_eq!(&hi, b"hi");
            let Transport::Tls(tls) = &client else { panic!("not TLS") };
            assert_eq!(tls.get_ref().1.protocol_version(), Some(expected));
        }
    }
}

#[tokio::test]
async fn reload_while_connections_live() {
    let authority = Authority::new();
    let settings = authority.server();
    let mut port = port(settings.clone());
    let (mut client, mut accepted, _guard) =
        port.pair(crate::transport::TransportKind::Tls, &authority).await;
    let first = shown(&port).await;
    assert!(!port.tls.reload(Some(&settings)).unwrap(), "nothing changed");

    let renewed = authority.server();
    assert_eq!(renewed, settings, "the same files");
    assert!(port.tls.reload(Some(&settings)).unwrap());
    let second = shown(&port).await;
    assert_ne!(first, second);

    // A half-written pair: the old one stays, and the error is reported once.
    authority.issue("other", &["localhost"], ExtendedKeyUsagePurpose::ServerAuth);
    std::fs::copy(settings.key_file.with_file_name("other.key"), &settings.key_file).unwrap();
    let error = port.tls.reload(Some(&settings)).unwrap_err().to_string();
    assert!(error.contains("server.pem") && error.contains("server.key"), "{error}");
    assert!(!port.tls.reload(Some(&settings)).unwrap());
    assert_eq!(shown(&port).await, second);
    // The other half arrives.
    std::fs::copy(settings.cert_file.with_file_name("other.pem"), &settings.cert_file).unwrap();
    assert!(port.tls.reload(Some(&settings)).unwrap());
    assert_ne!(shown(&port).await, second);
    // Gone files keep the old one too.
    std::fs::remove_file(&settings.cert_file).unwrap();
    assert!(port.tls.reload(Some(&settings)).is_err());
    assert!(port.tls.is_on());
    assert_eq!((port.tls.reloads(), port.tls.failures()), (2, 2));

    accepted.transport.write_all(b"still here").await.unwrap();
    accepted.transport.flush().await.unwrap();
    let mut got = [0; 10];
    soon(client.stream.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"still here");
    // Off and on again, as the configuration says.
    assert!(port.tls.reload(None).unwrap());
    assert!(!port.tls.is_on());
}

/// A resumed session must not get past a client CA that was changed meanwhile.
#[tokio::test]
async fn nobody_resumes_past_a_changed_client_ca() {
    let (authority, other) = (Authority::new(), Authority::new());
    let settings = ListenTls { client_ca_file: Some(authority.ca()), ..authority.server() };
    let mut port = port(settings.clone());
    let (cert, key) = authority.client();
    let connector = TlsConnector::new(&authority.trust(), Some((&cert, &key))).unwrap();
    for _ in 0..2 {
        let mut client = connector.connect(port.connect().await, "localhost").await.unwrap();
        client.write_all(&BOLT_MAGIC).await.unwrap();
        client.flush().await.unwrap();
        let (mut accepted, _guard) = port.session().await;
        accepted.transport.write_all(b"!").await.unwrap();
        accepted.transport.flush().await.unwrap();
        soon(client.read_u8()).await.unwrap();
    }
    assert!(port.tls.reload(Some(&ListenTls { client_ca_file: Some(other.ca()), ..settings })).unwrap());
    let mut client = connector.connect(port.connect().await, "localhost").await.unwrap();
    let _ = client.write_all(&BOLT_MAGIC).await;
    assert!(soon(client.read_u8()).await.is_err());
    eventually("refused", || port.refused(Refusal::TlsFailed) == 1).await;
}

#[tokio::test]
async fn upstream_failures_say_what_to_do() {
    let (authority, other) = (Authority::new(), Authority::new());
    let port = port(authority.server());
    let unknown = connect(&port, &other.trust(), None, "localhost").await.unwrap_err().to_string();
    assert!(unknown.contains("UnknownIssuer") && unknown.contains("set upstream.ca_file"), "{unknown}");
    let name = connect(&port, &authority.trust(), None, "neo4j.example").await.unwrap_err().to_string();
    assert!(name.contains("neo4j.example") && name.contains("one of the certificate's names"), "{name}");
    let ip = connect(&port, &authority.trust(), None, "[::1]").await.unwrap_err().to_string();
    assert!(ip.contains("one of the certificate's names"), "{ip}");
    let host = connect(&port, &authority.trust(), None, "not a host").await.unwrap_err().to_string();
    assert!(host.contains("neither a host name nor an IP address"), "{host}");
    for host in ["neo4j.example", "10.0.0.1", "::1", "[::1]"] {
        connect(&port, &Trust::Any, None, host).await.unwrap();
    }
}

#[tokio::test]
async fn upstream_without_tls_is_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for answer in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b""] {
        let server = async {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut hello = [0; 5];
            tcp.read_exact(&mut hello).await.unwrap();
            tcp.write_all(answer).await.unwrap();
        };
        let client = async {
            let tcp = TcpStream::connect(address).await.unwrap();
            TlsConnector::new(&Trust::Any, None).unwrap().connect(tcp, "localhost").await.unwrap_err()
        };
        let ((), error) = soon(async { tokio::join!(server, client) }).await;
        assert!(error.to_string().contains("may not use TLS on this port"), "{error}");
    }
}

#[test]
fn bad_files_say_what_to_do() {
    let (authority, other) = (Authority::new(), Authority::new());
    let good = authority.server();
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.pem");
    let junk = folder.path().join("junk.pem");
    std::fs::write(&junk, "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n").unwrap();
    let cut = folder.path().join("cut.pem");
    std::fs::write(&cut, "-----BEGIN PRIVATE KEY-----\nTOPSECRET\n").unwrap();
    for (settings, words) in [
        (
            ListenTls { cert_file: missing.clone(), ..good.clone() },
            ["listen.tls.cert_file", "missing.pem", "check that"],
        ),
        (
            ListenTls { key_file: missing.clone(), ..good.clone() },
            ["listen.tls.key_file", "missing.pem", "check that"],
        ),
        (
            ListenTls { cert_file: good.key_file.clone(), ..good.clone() },
            ["server.key", "no such", "BEGIN CERTIFICATE"],
        ),
        (
            ListenTls { key_file: good.cert_file.clone(), ..good.clone() },
            ["server.pem", "no such", "BEGIN PRIVATE KEY"],
        ),
        (
            ListenTls { cert_file: junk.clone(), ..good.clone() },
            ["junk.pem", "not valid PEM", "BEGIN CERTIFICATE"],
        ),
        (ListenTls { key_file: cut, ..good.clone() }, ["cut.pem", "no end line", "BEGIN PRIVATE KEY"]),
        (
            ListenTls { key_file: other.server().key_file, ..good.clone() },
            ["server.pem", "server.key", "the key must be"],
        ),
        (
            ListenTls { client_ca_file: Some(missing), ..good.clone() },
            ["listen.tls.client_ca_file", "missing.pem", "check that"],
        ),
    ] {
        let error = TlsAcceptor::load(Some(&settings)).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{words:?}: {error}");
        assert!(!error.contains("TOPSECRET"));
    }
    assert!(TlsAcceptor::load(Some(&good)).unwrap().is_on());
    assert!(!TlsAcceptor::load(None).unwrap().is_on());
}

#[test]
fn upstream_settings_choose_the_trust() {
    let authority = Authority::new();
    let (cert, key) = authority.client();
    let ca = Upstream { ca_file: Some(authority.ca()), ..Upstream::default() };
    TlsConnector::for_upstream(&ca, false).unwrap();
    let missing = Upstream { ca_file: Some("/nowhere/ca.pem".into()), ..Upstream::default() };
    assert!(
        TlsConnector::for_upstream(&missing, false).unwrap_err().to_string().contains("upstream.ca_file")
    );
    // +ssc does not look at the CA.
    TlsConnector::for_upstream(&missing, true).unwrap();
    let pair = Upstream { cert_file: Some(cert), key_file: Some(key), ..ca.clone() };
    TlsConnector::for_upstream(&pair, false).unwrap();
    let half = Upstream { key_file: None, ..pair };
    assert!(matches!(TlsConnector::for_upstream(&half, false), Err(TlsError::HalfPair)));
}
