use std::time::Duration;

use super::*;
use crate::transport::kit::*;
use crate::transport::sniff::Refusal;
use crate::transport::{TransportKind, memory};

const HEALTH: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\naccess-control-allow-origin: *\r\n\
                      vary: Accept\r\ndate: <date>\r\ncontent-length: 0\r\n\r\n";

/// What the port answers to `request`, and that it closes; the date is masked.
async fn answer_to(port: &Port, request: &[u8]) -> String {
    let mut tcp = port.connect().await;
    tcp.write_all(request).await.unwrap();
    let text = String::from_utf8(to_end(&mut tcp).await).unwrap();
    match text.split_once("date: ") {
        Some((before, after)) => {
            format!("{before}date: <date>{}", &after["Sat, 21 Nov 2026 05:22:33 GMT".len()..])
        }
        None => text,
    }
}

#[tokio::test]
async fn answers_get_as_neo4j_does() {
    let port = Port::open(listen());
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(20_000));
    for request in [
        "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\nConnection: close\r\n\r\n",
        "GET /browser?x=1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET / HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n",
        "GET / HTTP/1.1\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n",
        "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        &long,
    ] {
        assert_eq!(answer_to(&port, request.as_bytes()).await, HEALTH, "{request:.60}");
    }
    for request in ["GET / HTTP/1.0\r\n\r\n", "GET \x01\x02\x03\r\n\r\n", "GET /\r\n\r\n"] {
        assert_eq!(answer_to(&port, request.as_bytes()).await, HEALTH.replace("1.1", "1.0"), "{request:?}");
    }
    eventually("all counted", || port.refused(Refusal::HttpAnswered) == 11).await;
}

#[tokio::test]
async fn closes_on_other_methods_without_a_word() {
    let port = Port::open(listen());
    for method in ["HEAD", "POST", "OPTIONS", "get", "GETX", "PUT"] {
        let request = format!("{method} / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(answer_to(&port, request.as_bytes()).await, "", "{method}");
    }
    eventually("all counted", || port.refused(Refusal::BadMagic) == 6).await;
}

#[tokio::test]
async fn answers_bad_upgrades() {
    let port = Port::open(listen());
    let good = upgrade_request();
    for (request, answer) in [
        (
            good.replace("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""),
            "HTTP/1.1 400 Bad Request\r\n\r\nnot a WebSocket request: missing key",
        ),
        (
            good.replace("Sec-WebSocket-Version: 13\r\n", ""),
            "HTTP/1.1 400 Bad Request\r\n\r\nnot a WebSocket request: missing version",
        ),
        (
            good.replace("Version: 13", "Version: 99"),
            "HTTP/1.1 426 Upgrade Required\r\nsec-websocket-version: 13\r\ncontent-length: 0\r\n\r\n",
        ),
        (
            good.replace("GET /", "GET /x"),
            "HTTP/1.1 404 Not Found\r\n\r\nBolt over WebSocket is at the path /",
        ),
    ] {
        assert_eq!(answer_to(&port, request.as_bytes()).await, answer);
    }
    eventually("all counted", || port.refused(Refusal::BadUpgrade) == 4).await;
}

#[tokio::test]
async fn upgrades_as_neo4j_does() {
    let mut port = Port::open(listen());
    let extras = "Sec-WebSocket-Protocol: bolt\r\nSec-WebSocket-Extensions: permessage-deflate\r\nOrigin: http://x\r\n";
    let mut client = Client { stream: Transport::Tcp(port.connect().await), framed: true };
    // Byte by byte, and the first frame in the same segment as the end of the request.
    let mut request = upgrade_request().replace("Host: localhost\r\n", extras).into_bytes();
    let last = request.split_off(request.len() - 1);
    for byte in request {
        client.raw(&[byte]).await;
    }
    client.raw(&[last, frame(BINARY, b"\x60\x60\xb0\x17rest")].concat()).await;
    let answer = client.head().await;
    assert_eq!(
        answer,
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    );
    let (mut accepted, _guard) = port.session().await;
    let mut rest = [0; 4];
    soon(accepted.transport.read_exact(&mut rest)).await.unwrap();
    assert_eq!(&rest, b"rest");
}

/// A WebSocket client and the server's side, behind the magic.
async fn open() -> (Port, Client, Transport, crate::listener::ClientGuard) {
    let authority = Authority::new();
    let mut port = Port::open(listen());
    let (client, accepted, guard) = port.pair(TransportKind::WebSocket, &authority).await;
    (port, client, accepted.transport, guard)
}

#[tokio::test]
async fn frames_need_not_align_with_anything() {
    let (_port, mut client, mut server, _guard) = open().await;
    client.send(b"").await;
    for byte in b"one" {
        client.send(&[*byte]).await;
    }
    client.raw(&frame_with(BINARY, b"tw", true)).await;
    client.raw(&frame_with(0, b"", true)).await;
    client.raw(&frame(PING, b"between fragments")).await;
    client.raw(&frame_with(0x80, b"o", true)).await;
    // A frame that arrives byte by byte.
    for byte in frame(BINARY, b"three") {
        client.raw(&[byte]).await;
    }
    let mut got = [0; 11];
    soon(server.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"onetwothree");
    assert_eq!(client.next_frame().await, (PONG, b"between fragments".to_vec()));
}

#[tokio::test]
async fn one_write_is_one_frame() {
    let (_port, mut client, mut server, _guard) = open().await;
    let n = server
        .write_vectored(&[IoSlice::new(b"head"), IoSlice::new(b""), IoSlice::new(b"tail")])
        .await
        .unwrap();
    assert_eq!(n, 8);
    assert_eq!(client.next_frame().await, (BINARY, b"headtail".to_vec()));
    assert_eq!(server.write(b"").await.unwrap(), 0);
    let large = vec![7; MAX_FRAME_OUT + 1];
    assert_eq!(
        server.write_vectored(&[IoSlice::new(b"x"), IoSlice::new(&large)]).await.unwrap(),
        MAX_FRAME_OUT
    );
    let (opcode, payload) = client.next_frame().await;
    assert_eq!((opcode, payload.len()), (BINARY, MAX_FRAME_OUT));
    assert_eq!(payload[..2], *b"x\x07");
}

#[tokio::test]
async fn pings_are_answered_and_pongs_ignored() {
    let (_port, mut client, mut server, _guard) = open().await;
    client.raw(&frame(PONG, b"unasked")).await;
    client.raw(&frame(PING, b"pp")).await;
    // The pong goes out although the session only waits for something to read.
    let waiting = tokio::spawn(async move { server.readable().await.map(|()| server) });
    assert_eq!(client.next_frame().await, (PONG, b"pp".to_vec()));
    client.send(b"!").await;
    let mut server = soon(waiting).await.unwrap().unwrap();
    assert_eq!(server.read_u8().await.unwrap(), b'!');
}

#[tokio::test]
async fn a_close_is_answered_and_ends_the_stream() {
    for payload in [&b""[..], b"\x03\xe8bye"] {
        let (_port, mut client, mut server, _guard) = open().await;
        client.send(b"last").await;
        client.raw(&frame(CLOSE, payload)).await;
        assert_eq!(to_end(&mut server).await, b"last");
        assert_eq!(client.next_frame().await, (CLOSE, payload.to_vec()));
        assert!(server.is_stale());
        assert_eq!(server.write(b"late").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        soon(server.flush()).await.unwrap();
        soon(server.shutdown()).await.unwrap();
        assert_eq!(to_end(&mut client.stream).await, b"");
    }
}

#[tokio::test]
async fn shutdown_says_bye_and_still_reads() {
    let (_port, mut client, mut server, _guard) = open().await;
    server.write_all(b"last").await.unwrap();
    soon(server.shutdown()).await.unwrap();
    assert_eq!(client.next_frame().await, (BINARY, b"last".to_vec()));
    assert_eq!(client.next_frame().await, (CLOSE, b"\x03\xe8Bye".to_vec()));
    client.send(b"on its way").await;
    client.raw(&frame(CLOSE, b"\x03\xe8")).await;
    assert_eq!(to_end(&mut server).await, b"on its way");
    assert_eq!(to_end(&mut client.stream).await, b"");
}

#[tokio::test]
async fn a_lost_client_is_an_end() {
    let (_port, client, mut server, _guard) = open().await;
    drop(client);
    assert_eq!(to_end(&mut server).await, b"");
}

#[tokio::test]
async fn breaches_are_refused_with_their_code() {
    let half_text = [frame_with(TEXT, b"a", true), frame_with(0x80, b"b", true)].concat();
    let too_many = [frame_with(BINARY, &[0; 40_000], true), frame_with(0, &[0; 40_000], true)].concat();
    for (what, bytes, code) in [
        ("text", frame(TEXT, b"hello"), 1003_u16),
        ("fragmented text", half_text, 1003),
        ("text that is not UTF-8", frame(TEXT, b"\xff"), 1003),
        ("65,537 bytes", frame(BINARY, &[0; 65_537]), 1009),
        ("announced 2^63 bytes", [&b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff"[..], &[0; 4]].concat(), 1009),
        ("80,000 bytes in fragments", too_many, 1009),
        ("no mask", frame_with(0x82, b"x", false), 1002),
        ("reserved bit", frame_with(0xc2, b"x", true), 1002),
        ("reserved opcode", frame(3, b"x"), 1002),
        ("long ping", frame(PING, &[0; 126]), 1002),
        ("fragmented ping", frame_with(PING, b"x", true), 1002),
        ("continues nothing", frame(0, b"x"), 1002),
    ] {
        let (_port, mut client, mut server, _guard) = open().await;
        client.send(b"before").await;
        let mut before = [0; 6];
        soon(server.read_exact(&mut before)).await.unwrap();
        client.raw(&bytes).await;
        let mut buf = [0; 8];
        let error = soon(server.read(&mut buf)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{what}");
        let (opcode, payload) = client.next_frame().await;
        assert_eq!((opcode, u16::from_be_bytes([payload[0], payload[1]])), (CLOSE, code), "{what}");
        assert!(payload.len() <= 125);
        assert_eq!(soon(server.read(&mut buf)).await.unwrap(), 0, "{what}: the end after the error");
        assert!(server.write(b"x").await.is_err());
    }
}

#[tokio::test]
async fn largest_frame_passes() {
    let (_port, mut client, mut server, _guard) = open().await;
    let payload: Vec<u8> = (0..MAX_FRAME_IN).map(|i| (i % 253) as u8).collect();
    client.send(&payload).await;
    let mut got = vec![0; payload.len()];
    soon(server.read_exact(&mut got)).await.unwrap();
    assert!(got == payload);
}

#[tokio::test]
async fn a_breach_before_the_magic_is_a_bad_upgrade() {
    let port = Port::open(listen());
    let mut client = Client { stream: Transport::Tcp(port.connect().await), framed: true };
    client.raw(upgrade_request().as_bytes()).await;
    client.head().await;
    client.raw(&frame(TEXT, b"hello")).await;
    let (opcode, payload) = client.next_frame().await;
    assert_eq!((opcode, &payload[..2]), (CLOSE, &1003_u16.to_be_bytes()[..]));
    assert_eq!(to_end(&mut client.stream).await, b"");
    eventually("counted", || port.refused(Refusal::BadUpgrade) == 1).await;

    let mut client = Client { stream: Transport::Tcp(port.connect().await), framed: true };
    client.raw(upgrade_request().as_bytes()).await;
    client.head().await;
    client.send(b"GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(client.next_frame().await, (CLOSE, b"\x03\xe8Bye".to_vec()));
    assert_eq!(to_end(&mut client.stream).await, b"");
    eventually("counted", || port.refused(Refusal::BadMagic) == 1).await;
}

/// On a pipe of 64 bytes, so that everything blocks all the time.
#[tokio::test]
async fn a_blocked_writer_waits_and_pongs_go_out_with_it() {
    let (carrier, far) = memory::pipe(64);
    let mut client = Client { stream: memory::wrap(far), framed: true };
    let upgrading = tokio::spawn(async move { WebSocket::upgrade(carrier, b"").await });
    client.raw(upgrade_request().as_bytes()).await;
    client.head().await;
    let Upgraded::WebSocket(ws) = soon(upgrading).await.unwrap().unwrap() else { panic!("not upgraded") };
    let (mut read, mut write) = tokio::io::split(Transport::WebSocket(ws));
    // Two tasks, each with its own waker.
    let reading = tokio::spawn(async move {
        let mut got = Vec::new();
        read.read_to_end(&mut got).await.map(|_| got)
    });
    let writing = tokio::spawn(async move {
        for _ in 0..20 {
            write.write_all(&[b'w'; 100]).await.unwrap();
        }
        write.flush().await.unwrap();
        write
    });
    // Let the writer run into the full pipe, then ask for pongs, which cannot go out yet.
    tokio::task::yield_now().await;
    for n in 0..5 {
        client.raw(&frame(PING, &[n; 30])).await;
        client.send(b"r").await;
    }
    let (mut written, mut pongs) = (0, 0);
    while written < 2000 || pongs == 0 {
        match client.next_frame().await {
            (BINARY, payload) => written += payload.len(),
            (PONG, payload) => {
                assert_eq!(payload.len(), 30);
                pongs += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(written, 2000);
    soon(writing).await.unwrap();
    client.raw(&frame(CLOSE, b"")).await;
    loop {
        if client.next_frame().await.0 == CLOSE {
            break;
        }
    }
    assert_eq!(soon(reading).await.unwrap().unwrap(), b"rrrrr");
}

#[test]
fn dates() {
    let date = |seconds| http_date(UNIX_EPOCH + Duration::from_secs(seconds));
    assert_eq!(date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
    assert_eq!(date(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
    assert_eq!(date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
    assert_eq!(date(1_795_238_553), "Sat, 21 Nov 2026 05:22:33 GMT");
    assert_eq!(date(4_107_542_399), "Sun, 28 Feb 2100 23:59:59 GMT");
    assert_eq!(date(4_107_542_400), "Mon, 01 Mar 2100 00:00:00 GMT");
    assert_eq!(date(1_767_225_599), "Wed, 31 Dec 2025 23:59:59 GMT");
}
