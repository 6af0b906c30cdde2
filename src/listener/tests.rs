use tokio::io::AsyncWriteExt;

use super::*;
use crate::transport::kit::*;
use crate::transport::sniff::BOLT_MAGIC;

fn open_now(port: &Port) -> u64 {
    port.stats.open.load(Ordering::Relaxed)
}

async fn bolt(port: &mut Port) -> (TcpStream, ClientGuard) {
    let mut tcp = port.connect().await;
    tcp.write_all(&BOLT_MAGIC).await.unwrap();
    (tcp, port.session().await.1)
}

async fn is_refused(port: &Port) -> bool {
    let mut tcp = port.connect().await;
    let _ = tcp.write_all(&BOLT_MAGIC).await;
    let mut byte = [0];
    // Closed at once: an end, or a reset because of the unread magic.
    soon(tokio::io::AsyncReadExt::read(&mut tcp, &mut byte)).await.unwrap_or(0) == 0
}

#[tokio::test]
async fn total_limit_holds_and_frees() {
    let mut port = Port::open(Listen { max_connections: 2, ..listen() });
    let (_first, first) = bolt(&mut port).await;
    let (_second, _guard) = bolt(&mut port).await;
    assert!(is_refused(&port).await);
    assert_eq!(port.stats.refused_total.load(Ordering::Relaxed), 1);
    // A client counts for as long as its guard is held, not its socket.
    drop(first);
    let (_third, _guard) = bolt(&mut port).await;
    assert!(is_refused(&port).await);
    assert_eq!((open_now(&port), port.stats.accepted.load(Ordering::Relaxed)), (2, 5));
}

#[tokio::test]
async fn clients_that_say_nothing_count_too() {
    let port = Port::open(Listen { max_connections: 1, ..listen() });
    let silent = port.connect().await;
    eventually("counted", || open_now(&port) == 1).await;
    assert!(is_refused(&port).await);
    drop(silent);
    eventually("let go", || open_now(&port) == 0).await;
}

#[tokio::test]
async fn limit_per_address_follows_the_configuration() {
    let mut port = Port::open(Listen { max_connections_per_address: 1, ..listen() });
    let (_first, _first_guard) = bolt(&mut port).await;
    assert!(is_refused(&port).await);
    assert_eq!(port.stats.refused_per_address.load(Ordering::Relaxed), 1);
    let mut config = (**port.config.load()).clone();
    config.listen.max_connections_per_address = 2;
    port.config.store(Arc::new(config.clone()));
    let (_second, _second_guard) = bolt(&mut port).await;
    assert!(is_refused(&port).await);
    config.listen.max_connections_per_address = 0;
    port.config.store(Arc::new(config));
    let (_third, _third_guard) = bolt(&mut port).await;
    assert_eq!(open_now(&port), 3);
}

#[test]
fn addresses_are_forgotten() {
    let gate = Arc::new(Gate::default());
    let listen = Listen { max_connections: 10_000, max_connections_per_address: 2, ..Listen::default() };
    let mut guards = Vec::new();
    for n in 0..5_000_u32 {
        let peer = SocketAddr::from((n.to_be_bytes(), 1));
        guards.extend([gate.enter(peer, &listen).unwrap(), gate.enter(peer, &listen).unwrap()]);
        assert!(gate.enter(peer, &listen).is_none());
    }
    assert_eq!(gate.hosts.lock().len(), 5_000);
    assert!(gate.enter(([9, 9, 9, 9], 1).into(), &listen).is_none(), "10,000 in all");
    assert_eq!(gate.hosts.lock().len(), 5_000, "a refused address leaves nothing behind");
    // The very last client of the last address met both limits, and the total comes first.
    assert_eq!(gate.stats.refused_per_address.load(Ordering::Relaxed), 4_999);
    assert_eq!(gate.stats.refused_total.load(Ordering::Relaxed), 2);
    drop(guards);
    assert_eq!(gate.stats.open.load(Ordering::Relaxed), 0);
    let hosts = gate.hosts.lock();
    assert!(hosts.is_empty() && hosts.capacity() <= 1024, "{}", hosts.capacity());
}

#[test]
fn one_ipv6_network_is_one_address() {
    let of = |text: &str| host(text.parse().unwrap());
    assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1:2"));
    assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    assert_ne!(of("::1"), of("127.0.0.1"));
}

#[tokio::test]
async fn bind_errors_say_what_to_do() {
    let taken = Listener::bind(&listen()).unwrap();
    let address = taken.local_addr().unwrap();
    let error = Listener::bind(&Listen { address, ..listen() }).unwrap_err();
    assert!(matches!(error, ListenError::InUse { .. }));
    let text = error.to_string();
    assert!(text.contains(&address.to_string()) && text.contains("choose another port"), "{text}");
    let nowhere = Listen { address: "192.0.2.1:0".parse().unwrap(), ..listen() };
    let text = Listener::bind(&nowhere).unwrap_err().to_string();
    assert!(text.contains("192.0.2.1") && text.contains("0.0.0.0"), "{text}");
    let tls = crate::config::ListenTls {
        cert_file: "/nowhere/cert.pem".into(),
        key_file: "/nowhere/key.pem".into(),
        client_ca_file: None,
        required: false,
    };
    let text = Listener::bind(&Listen { tls: Some(tls), ..listen() }).unwrap_err().to_string();
    assert!(text.contains("/nowhere/cert.pem"), "{text}");
}

#[tokio::test]
async fn every_address_means_ipv4_too() {
    let listen = Listen { address: "[::]:0".parse().unwrap(), ..listen() };
    let mut port = Port::open(listen);
    port.address = ([127, 0, 0, 1], port.address.port()).into();
    bolt(&mut port).await;
}

#[tokio::test]
async fn stop_closes_the_port_and_who_has_not_begun() {
    let mut port = Port::open(listen());
    let (mut session, _guard) = bolt(&mut port).await;
    let mut silent = port.connect().await;
    eventually("both are in", || open_now(&port) == 2).await;
    port.stop.cancel();
    soon(&mut port.running).await.unwrap();
    assert_eq!(to_end(&mut silent).await, b"");
    eventually("counted", || port.refused(Refusal::Stopped) == 1).await;
    port.tasks.close();
    soon(port.tasks.wait()).await;
    // The port is free at once; the session's socket was dropped by its handler.
    assert_eq!(to_end(&mut session).await, b"");
    Listener::bind(&Listen { address: port.address, ..listen() }).unwrap();
}

#[tokio::test(start_paused = true)]
async fn accept_errors_wait_longer_each_time() {
    let mut trouble = Trouble::default();
    let full = io::Error::from_raw_os_error(24);
    let mut pauses = Vec::new();
    for _ in 0..12 {
        let start = tokio::time::Instant::now();
        trouble.rest(&full).await;
        pauses.push(start.elapsed().as_millis() as u64);
    }
    assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000, 1000]);
    let start = tokio::time::Instant::now();
    trouble.rest(&io::ErrorKind::ConnectionAborted.into()).await;
    assert!(start.elapsed().is_zero(), "a client's own error costs nothing");
    trouble.end();
    trouble.rest(&full).await;
    assert_eq!(start.elapsed(), FIRST_PAUSE);
}

/// 10,000 idle clients: what the task adds to its session must be small.
#[tokio::test]
async fn the_task_adds_little_to_its_session() {
    let listener = Listener::bind(&listen()).unwrap();
    let door = Arc::new(Door {
        config: Arc::new(ArcSwap::from_pointee(Config::default())),
        tls: Arc::clone(&listener.tls),
        gate: Arc::clone(&listener.gate),
        stop: CancellationToken::new(),
    });
    let session = |accepted: Accepted, guard: ClientGuard| async move {
        std::future::pending::<()>().await;
        drop((accepted, guard));
    };
    let address = listener.local_addr().unwrap();
    let tcp = TcpStream::connect(address).await.unwrap();
    let guard = door.gate.enter(address, &listen()).unwrap();
    let task = serve(door, Arc::new(session), tcp, address, guard);
    assert!(size_of_val(&task) <= 48, "{}", size_of_val(&task));
    assert!(size_of::<Accepted>() <= 160 && size_of::<ClientGuard>() <= 32);
}

/// Changed files are noticed without being told.
#[tokio::test]
async fn the_certificate_is_watched() {
    let authority = Authority::new();
    let mut port = Port::open(Listen { tls: Some(authority.server()), ..listen() });
    port.pair(TransportKind::Tls, &authority).await;
    authority.server();
    tokio::time::pause();
    tokio::time::advance(CERTIFICATE_CHECK).await;
    tokio::time::resume();
    eventually("reloaded", || port.tls.reloads() == 1).await;
    let (_client, accepted, _guard) = port.pair(TransportKind::Tls, &authority).await;
    assert!(accepted.secure);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_at_once() {
    let mut port = Port::open(listen());
    let address = port.address;
    let clients = tokio::spawn(async move {
        let mut clients = Vec::new();
        for _ in 0..500 {
            let mut tcp = TcpStream::connect(address).await.unwrap();
            tcp.write_all(&BOLT_MAGIC).await.unwrap();
            clients.push(tcp);
        }
        clients
    });
    let mut sessions = Vec::new();
    for _ in 0..500 {
        sessions.push(port.session().await);
    }
    let clients = soon(clients).await.unwrap();
    assert_eq!(open_now(&port), 500);
    drop((clients, sessions));
    assert_eq!(open_now(&port), 0);
}
