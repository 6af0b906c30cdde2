use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use bolt_wire::packstream::{MapView, Value};
use tokio::io::DuplexStream;

use super::*;
use crate::config::UpstreamUri;
use crate::failure::Refusal;
use crate::transport::memory;
use crate::upstream::principal::Identities;
use crate::upstream::{Access, Dialer};

fn pool(size: usize) -> Arc<Pool> {
    let mut config = Config::default();
    config.pool.max_connection_pool_size = size;
    let config = Arc::new(ArcSwap::from_pointee(config));
    let uri = UpstreamUri::parse("bolt://127.0.0.1:1").unwrap();
    let dialer = Dialer::new(&uri, &config).unwrap();
    let connector = Connector::new("127.0.0.1", 1, dialer);
    Pool::new(connector, config, Arc::default(), Arc::new(Metrics::new()))
}

fn need() -> Need {
    let token = Value::map([("scheme", "none".into())]).to_bytes();
    let principal = Identities::default().principal(&MapView::parse(&token).unwrap());
    Need { key: Arc::new(Key::plain(Version::V5_8)), principal, access: Access::default() }
}

/// A lent connection, and the other end of its pipe.
fn lend(pool: &Arc<Pool>) -> (Lease, DuplexStream) {
    pool.inner.lock().open += 1;
    let (transport, far) = memory::pipe(1024);
    let expires = Instant::now() + Duration::from_secs(3600);
    let connection = Box::new(Connection::new(transport, Arc::new(Key::plain(Version::V5_8)), expires));
    (Lease::new(pool, connection, pool.slot()), far)
}

fn is_pending(work: std::pin::Pin<&mut impl Future>) -> bool {
    work.poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Cut off in the very moment in which it was served, a request must not take the connection with it.
#[tokio::test]
async fn what_was_handed_to_nobody_goes_to_the_next() {
    let (pool, need) = (pool(1), need());
    let (lease, _far) = lend(&pool);
    let now = Instant::now();
    let mut first = Box::pin(pool.obtain(Some(&need), now, later()));
    let mut second = pin!(pool.obtain(Some(&need), now, later()));
    assert!(is_pending(first.as_mut()) && is_pending(second.as_mut()));
    drop(lease);
    assert_eq!(pool.counts(), (1, 0, 1));
    drop(first);
    assert!(matches!(second.await, Ok(Handover::Connection(..))));
    // What the second was given is dropped here: closed, and its place is free.
    assert_eq!(pool.counts(), (0, 0, 0));
}

#[tokio::test]
async fn what_was_handed_to_the_last_who_left_rests_in_the_pool() {
    let (pool, need) = (pool(1), need());
    let (lease, _far) = lend(&pool);
    let mut only = Box::pin(pool.obtain(Some(&need), Instant::now(), later()));
    assert!(is_pending(only.as_mut()));
    drop(lease);
    drop(only);
    assert_eq!(pool.counts(), (1, 1, 0));
}

/// The right to make a connection passes on in the same way.
#[tokio::test]
async fn a_free_place_goes_to_the_next() {
    let (pool, need) = (pool(1), need());
    let (lease, _far) = lend(&pool);
    let now = Instant::now();
    let mut first = Box::pin(pool.obtain(Some(&need), now, later()));
    let mut second = pin!(pool.obtain(Some(&need), now, later()));
    assert!(is_pending(first.as_mut()) && is_pending(second.as_mut()));
    lease.discard();
    drop(first);
    assert!(matches!(second.await, Ok(Handover::Slot(_))));
    assert_eq!(pool.counts(), (0, 0, 0));
}

/// A row of connections that are all dead costs no more time than a request may wait.
#[tokio::test(start_paused = true)]
async fn dead_connections_do_not_outlast_the_deadline() {
    let (pool, need) = (pool(10), need());
    let leases: Vec<_> = (0..10).map(|_| lend(&pool)).collect();
    // The other ends stay open and say nothing.
    let _far: Vec<_> = leases.into_iter().map(|(_, far)| far).collect();
    need.principal.prove(Version::V5_8, &[0xA0]);
    tokio::time::advance(Duration::from_secs(50)).await;
    let mut config = Config::clone(&pool.config.load());
    config.pool.connection_liveness_check_timeout = Duration::from_secs(30);
    config.pool.reset_timeout = Duration::from_secs(5);
    pool.config.store(Arc::new(config));
    let started = Instant::now();
    let leased = pool.lease_until(&need, started + Duration::from_secs(12)).await;
    assert!(matches!(leased, Err(ConnectError::Refused(Refusal::AcquisitionTimeout { .. }))));
    assert!(started.elapsed() <= Duration::from_secs(15), "{:?}", started.elapsed());
}

/// Who is logged in on it is open: it is closed at once.
#[tokio::test]
async fn half_a_login_is_never_cleaned() {
    let pool = pool(1);
    let (mut lease, _far) = lend(&pool);
    lease.connection_mut().queue_own(Tag::LOGON);
    drop(lease);
    assert_eq!(pool.counts(), (0, 0, 0));
}
