use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::*;
use crate::transport::TransportKind;
use crate::transport::kit::*;
use crate::transport::tls::{TlsConnector, Trust};

async fn tls_client(port: &Port) -> Transport {
    let connector = TlsConnector::new(&Trust::Any, None).unwrap();
    soon(connector.connect(port.connect().await, "localhost")).await.unwrap()
}

/// Sends `bytes` and expects an orderly end without a byte of answer.
async fn refused_silently(port: &Port, bytes: &[u8], reason: Refusal) {
    let before = port.refused(reason);
    let mut tcp = port.connect().await;
    tcp.write_all(bytes).await.unwrap();
    assert_eq!(to_end(&mut tcp).await, b"", "{bytes:?}");
    eventually("counted", || port.refused(reason) == before + 1).await;
}

#[tokio::test]
async fn bolt_over_every_transport() {
    let authority = Authority::new();
    let mut port = Port::open(Listen { tls: Some(authority.server()), ..listen() });
    for kind in TransportKind::ALL {
        let (mut client, mut accepted, _guard) = port.pair(kind, &authority).await;
        client.send(b"slots").await;
        let mut slots = [0; 5];
        soon(accepted.transport.read_exact(&mut slots)).await.unwrap();
        assert_eq!(&slots, b"slots", "{kind:?}: only the magic is consumed");
    }
    assert!(port.stats.transports().all(|(_, count)| count == 1));
}

#[tokio::test]
async fn byte_by_byte() {
    let authority = Authority::new();
    let mut port = Port::open(Listen { tls: Some(authority.server()), ..listen() });
    let mut tcp = port.connect().await;
    for byte in BOLT_MAGIC {
        tcp.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(!port.session().await.0.secure);

    // A TLS handshake that arrives byte by byte, through a pipe between the client and the port.
    let (near, far) = tokio::io::duplex(1);
    let tcp = port.connect().await;
    tokio::spawn(async move {
        let (mut far, mut tcp) = (far, tcp);
        tokio::io::copy_bidirectional_with_sizes(&mut far, &mut tcp, 1, 1).await
    });
    let mut roots = rustls::RootCertStore::empty();
    let ca = rustls::pki_types::pem::PemObject::from_pem_file(authority.ca()).unwrap();
    roots.add(ca).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let mut tls = soon(connector.connect("localhost".try_into().unwrap(), near)).await.unwrap();
    for byte in BOLT_MAGIC {
        tls.write_all(&[byte]).await.unwrap();
        tls.flush().await.unwrap();
    }
    assert!(port.session().await.0.secure);
}

#[tokio::test]
async fn wrong_beginnings_are_closed_without_a_word() {
    let port = Port::open(listen());
    for bytes in [&b"\x00\x01\x02\x03"[..], b"\x60\x60\xb0\x18", b"SSH-2.0-OpenSSH\r\n", &[b'x'; 50_000]] {
        refused_silently(&port, bytes, Refusal::BadMagic).await;
    }
    refused_silently(&port, b"\x16\x03\x01\x00\x05hello", Refusal::TlsOff).await;
}

#[tokio::test]
async fn closing_early_is_counted_as_such() {
    let port = Port::open(listen());
    for (n, bytes) in (1..).zip([&b""[..], b"\x60\x60\xb0", b"GET / HTTP/1.1\r\n"]) {
        let mut tcp = port.connect().await;
        tcp.write_all(bytes).await.unwrap();
        tcp.shutdown().await.unwrap();
        assert_eq!(to_end(&mut tcp).await, b"");
        eventually("counted", || port.refused(Refusal::Closed) == n).await;
    }
}

#[tokio::test]
async fn required_tls_refuses_plain() {
    let authority = Authority::new();
    let tls = crate::config::ListenTls { required: true, ..authority.server() };
    let mut port = Port::open(Listen { tls: Some(tls), ..listen() });
    refused_silently(&port, &BOLT_MAGIC, Refusal::TlsRequired).await;
    refused_silently(&port, b"GET / HTTP/1.1\r\n\r\n", Refusal::TlsRequired).await;
    let (_client, accepted, _guard) = port.pair(TransportKind::Tls, &authority).await;
    assert!(accepted.secure);
}

#[tokio::test]
async fn inside_tls() {
    let authority = Authority::new();
    let port = Port::open(Listen { tls: Some(authority.server()), ..listen() });
    let mut client = tls_client(&port).await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    client.flush().await.unwrap();
    let answer = to_end(&mut client).await;
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "an answer and a proper end of TLS");
    for bytes in [&b"\x16\x03\x01\x00\x05hello"[..], b"\x00\x01\x02\x03"] {
        let mut client = tls_client(&port).await;
        client.write_all(bytes).await.unwrap();
        client.flush().await.unwrap();
        assert_eq!(to_end(&mut client).await, b"", "a proper end of TLS");
    }
    eventually("counted", || port.refused(Refusal::BadMagic) == 2).await;
    // Looks like TLS and is not.
    refused_silently(&port, b"\x16\x03\x01\x00\x05hello", Refusal::TlsFailed).await;
}

#[tokio::test]
async fn websocket_can_be_off() {
    let port = Port::open(Listen { websocket: false, ..listen() });
    refused_silently(&port, upgrade_request().as_bytes(), Refusal::WebSocketOff).await;
}

#[tokio::test]
async fn the_slow_meet_the_deadline() {
    let authority = Authority::new();
    let handshake_timeout = Duration::from_millis(50);
    let mut port = Port::open(Listen { tls: Some(authority.server()), handshake_timeout, ..listen() });
    let before: [&[u8]; 4] = [b"", b"\x60\x60\xb0", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00\x01"];
    for (n, bytes) in (1..).zip(before) {
        let mut tcp = port.connect().await;
        tcp.write_all(bytes).await.unwrap();
        assert_eq!(to_end(&mut tcp).await, b"");
        eventually("counted", || port.refused(Refusal::Timeout) == n).await;
    }
    // A drip of bytes does not extend it.
    let mut tcp = port.connect().await;
    let dripping = async {
        while tcp.write_all(b"GET ").await.is_ok() {
            tokio::task::yield_now().await
        }
    };
    soon(dripping).await;
    // Behind TLS and behind the upgrade.
    let mut client = tls_client(&port).await;
    let mut byte = [0];
    assert_eq!(soon(client.read(&mut byte)).await.unwrap_or(0), 0);
    let mut ws = port.connect().await;
    ws.write_all(upgrade_request().as_bytes()).await.unwrap();
    assert!(to_end(&mut ws).await.starts_with(b"HTTP/1.1 101 "));
    eventually("all counted", || port.refused(Refusal::Timeout) >= 6).await;
    assert!(port.sessions.try_recv().is_err());
    eventually("all let go", || port.stats.open.load(std::sync::atomic::Ordering::Relaxed) == 0).await;
}
