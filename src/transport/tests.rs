use super::kit::*;
use super::*;

use std::task::Poll;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn poll(transport: &mut Transport) -> Poll<io::Result<()>> {
    transport.poll_readable(&mut Context::from_waker(Waker::noop()))
}

async fn open(authority: &Authority) -> Port {
    Port::open(crate::config::Listen { tls: Some(authority.server()), ..listen() })
}

#[test]
fn small() {
    assert!(size_of::<Transport>() <= 40, "{}", size_of::<Transport>());
}

#[tokio::test]
async fn reports_kind_and_addresses() {
    let authority = Authority::new();
    let mut port = open(&authority).await;
    for kind in TransportKind::ALL {
        let (client, accepted, _guard) = port.pair(kind, &authority).await;
        assert_eq!(accepted.transport.kind(), kind);
        assert_eq!(accepted.peer, accepted.transport.peer_addr().unwrap());
        assert_eq!(accepted.peer, client.stream.local_addr().unwrap());
        assert_eq!(accepted.local, accepted.transport.local_addr().unwrap());
        assert_eq!(accepted.local, port.address);
        assert_eq!(accepted.secure, matches!(kind.as_str(), "tls" | "wss"));
        assert_eq!(accepted.secure, accepted.transport.is_secure());
        let socket = accepted.transport.socket().unwrap();
        assert!(socket.nodelay().unwrap());
        assert!(SockRef::from(socket).keepalive().unwrap());
    }
}

#[tokio::test]
async fn tells_readable_and_stale() {
    let authority = Authority::new();
    let mut port = open(&authority).await;
    for kind in TransportKind::ALL {
        let (mut client, accepted, _guard) = port.pair(kind, &authority).await;
        let mut server = accepted.transport;
        assert!(!server.is_stale(), "{kind:?}: nothing has come");

        client.send(b"0123456789").await;
        soon(server.readable()).await.unwrap();
        assert!(server.is_stale(), "{kind:?}: unexpected bytes");
        let mut four = [0; 4];
        soon(server.read_exact(&mut four)).await.unwrap();
        assert_eq!(&four, b"0123");
        assert!(poll(&mut server).is_ready(), "{kind:?}: six bytes are left");
        let mut six = [0; 6];
        soon(server.read_exact(&mut six)).await.unwrap();
        assert_eq!(&six, b"456789");
        assert!(!server.is_stale(), "{kind:?}: all is read");
        // On TCP the first answer may be early; a read then puts it right.
        if kind == TransportKind::Tcp {
            let mut cx = Context::from_waker(Waker::noop());
            let mut byte = [0];
            assert!(Pin::new(&mut server).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending());
        }
        assert!(poll(&mut server).is_pending(), "{kind:?}: nothing to read");

        drop(client);
        // A reset is an answer as good as an end: a TLS client leaves its session tickets unread.
        let _ = soon(server.readable()).await;
        assert!(server.is_stale(), "{kind:?}: the peer has gone");
        assert_eq!(soon(server.read(&mut four)).await.unwrap_or(0), 0);
    }
}

#[tokio::test]
async fn session_tickets_are_not_stale() {
    let authority = Authority::new();
    let mut port = open(&authority).await;
    let (mut client, accepted, _guard) = port.pair(TransportKind::Tls, &authority).await;
    let mut server = accepted.transport;
    // TLS 1.3 tickets are behind the handshake in the client's socket now.
    eventually("tickets have come", || {
        SockRef::from(client.stream.socket().unwrap()).peek(&mut [MaybeUninit::uninit()]).is_ok()
    })
    .await;
    assert!(!client.stream.is_stale());
    assert!(poll(&mut client.stream).is_pending());
    server.write_all(b"x").await.unwrap();
    soon(client.stream.readable()).await.unwrap();
    assert_eq!(soon(client.stream.read_u8()).await.unwrap(), b'x');
    // A TLS end without a close alert.
    drop(server);
    eventually("stale", || client.stream.is_stale()).await;
}

#[tokio::test]
async fn readable_wakes_a_waiting_task() {
    let authority = Authority::new();
    let mut port = open(&authority).await;
    for kind in TransportKind::ALL {
        let (mut client, accepted, _guard) = port.pair(kind, &authority).await;
        let mut server = accepted.transport;
        let waiting = tokio::spawn(async move {
            let mut got = Vec::new();
            loop {
                server.readable().await.unwrap();
                let mut byte = [0];
                if server.read(&mut byte).await.unwrap() == 0 {
                    return got;
                }
                got.push(byte[0]);
            }
        });
        for byte in b"abc" {
            client.send(&[*byte]).await;
        }
        let _ = client.stream.shutdown().await;
        assert_eq!(soon(waiting).await.unwrap(), b"abc", "{kind:?}");
    }
}

#[tokio::test]
async fn half_closed_client_still_gets_its_answer() {
    let authority = Authority::new();
    let mut port = open(&authority).await;
    for kind in [TransportKind::Tcp, TransportKind::Tls] {
        let (mut client, accepted, _guard) = port.pair(kind, &authority).await;
        let mut server = accepted.transport;
        client.send(b"question").await;
        client.stream.shutdown().await.unwrap();
        assert_eq!(to_end(&mut server).await, b"question");
        server.write_all(b"answer").await.unwrap();
        server.shutdown().await.unwrap();
        assert_eq!(to_end(&mut client.stream).await, b"answer", "{kind:?}");
    }
}

/// Much data both ways at once through small socket buffers: what one side has not read holds the other one up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn carries_every_byte_under_back_pressure() {
    let authority = Authority::new();
    let mut port = open(&authority).await;
    for kind in TransportKind::ALL {
        let (client, accepted, _guard) = port.pair(kind, &authority).await;
        let mut server = accepted.transport;
        let echo = tokio::spawn(async move {
            let mut buf = vec![0; 3000];
            loop {
                let n = server.read(&mut buf).await.unwrap();
                if n == 0 {
                    return server.shutdown().await.unwrap();
                }
                let (head, tail) = buf[..n].split_at(n / 2);
                // Two slices, and what the vectored write leaves over.
                let sent = server.write_vectored(&[IoSlice::new(head), IoSlice::new(tail)]).await.unwrap();
                server.write_all(&buf[sent..n]).await.unwrap();
                server.flush().await.unwrap();
            }
        });
        let data: Vec<u8> = (0..400_000_u32).map(|i| (i % 251) as u8).collect();
        let framed = client.framed;
        let (mut read, mut write) = tokio::io::split(client.stream);
        let copy = data.clone();
        let sending = tokio::spawn(async move {
            for part in copy.chunks(7001) {
                let bytes = if framed { frame(BINARY, part) } else { part.to_vec() };
                write.write_all(&bytes).await.unwrap();
            }
            write.flush().await.unwrap();
            write
        });
        let mut got = Vec::new();
        let receive = async {
            while got.len() < data.len() {
                if framed {
                    let (opcode, payload) = read_frame_half(&mut read).await;
                    assert_eq!(opcode, BINARY);
                    got.extend(payload);
                } else {
                    assert!(read.read_buf(&mut got).await.unwrap() > 0);
                }
            }
        };
        soon(receive).await;
        assert!(got == data, "{kind:?}");
        let mut write = soon(sending).await.unwrap();
        write.shutdown().await.unwrap();
        soon(echo).await.unwrap();
    }
}

async fn read_frame_half(read: &mut tokio::io::ReadHalf<Transport>) -> (u8, Vec<u8>) {
    let first = read.read_u8().await.unwrap();
    let length = match read.read_u8().await.unwrap() {
        126 => usize::from(read.read_u16().await.unwrap()),
        n => usize::from(n),
    };
    let mut payload = vec![0; length];
    read.read_exact(&mut payload).await.unwrap();
    (first & 0x0f, payload)
}

#[tokio::test]
async fn in_memory_pipe_behaves_like_a_socket() {
    let (mut near, mut far) = memory::pipe(16);
    assert!(poll(&mut near).is_pending());
    assert!(!near.is_stale());
    far.write_all(b"hello").await.unwrap();
    assert!(poll(&mut near).is_ready());
    assert!(near.is_stale());
    let mut five = [0; 5];
    near.read_exact(&mut five).await.unwrap();
    assert_eq!(&five, b"hello");
    assert!(poll(&mut near).is_pending());
    near.write_all(b"x").await.unwrap();
    assert_eq!(far.read_u8().await.unwrap(), b'x');
    drop(far);
    assert!(poll(&mut near).is_ready());
    assert!(near.is_stale());
    assert_eq!(near.read(&mut five).await.unwrap(), 0);
}
