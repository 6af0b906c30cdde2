//! All sessions: what each is doing, and how each is told to end.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::upstream::Principal;

/// Why a session holds an upstream connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Pin {
    /// It holds none.
    None,
    /// An answer is due.
    Running,
    /// An auto-commit result is not read to its end.
    Result,
    /// A transaction is open, between two requests.
    Transaction,
}

impl Pin {
    /// Every reason to hold a connection.
    pub(crate) const HELD: [Self; 3] = [Self::Running, Self::Result, Self::Transaction];

    /// The name under which metrics count it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Running => "running",
            Self::Result => "result",
            Self::Transaction => "transaction",
        }
    }
}

/// One session, as others see it.
pub(crate) struct Handle {
    /// Sidebolt's own number for it.
    pub(crate) id: u64,
    /// The client's address.
    pub(crate) peer: SocketAddr,
    /// Since when, in milliseconds since 1970.
    pub(crate) since: u64,
    /// Who is logged in.
    who: Mutex<Option<Arc<Principal>>>,
    /// What its application calls itself.
    application: OnceLock<Box<str>>,
    /// The fingerprint of what it asked last; 0 = nothing yet.
    asked: AtomicU64,
    pin: AtomicU8,
    ending: AtomicBool,
    waker: Mutex<Option<Waker>>,
    registry: Arc<Registry>,
}

/// Every session there is.
#[derive(Default)]
pub(crate) struct Registry {
    sessions: Mutex<HashMap<u64, Arc<Handle>>>,
    next: AtomicU64,
    ending: AtomicBool,
}

/// Keeps a session in the registry for as long as it lives.
pub(crate) struct Registration(Arc<Handle>);

impl Registry {
    /// Enters a session.
    pub(crate) fn enter(self: &Arc<Self>, peer: SocketAddr) -> Registration {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let handle = Arc::new(Handle {
            id,
            peer,
            since: crate::sight::now(),
            who: Mutex::default(),
            application: OnceLock::new(),
            asked: AtomicU64::new(0),
            pin: AtomicU8::new(Pin::None as u8),
            ending: AtomicBool::new(false),
            waker: Mutex::default(),
            registry: Arc::clone(self),
        });
        self.sessions.lock().insert(id, Arc::clone(&handle));
        Registration(handle)
    }

    /// Sessions there are.
    pub(crate) fn len(&self) -> usize {
        self.sessions.lock().len()
    }

    /// Every session there is.
    pub(crate) fn all(&self) -> Vec<Arc<Handle>> {
        self.sessions.lock().values().cloned().collect()
    }

    /// Sessions by the reason why they hold a connection, in the order of `Pin::HELD`.
    pub(crate) fn pinned(&self) -> [usize; 3] {
        let sessions = self.sessions.lock();
        Pin::HELD.map(|pin| sessions.values().filter(|s| s.pin.load(Ordering::Relaxed) == pin as u8).count())
    }

    /// Asks every session, and those that come later, to end at their next message boundary without an open exchange.
    pub(crate) fn end_all(&self) {
        self.ending.store(true, Ordering::SeqCst);
        let sessions: Vec<_> = self.sessions.lock().values().cloned().collect();
        for session in sessions {
            session.end();
        }
    }

    /// True once `end_all` was called.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }
}

impl Handle {
    /// The client's address, IPv4 as IPv4.
    pub(crate) fn address(&self) -> IpAddr {
        self.peer.ip().to_canonical()
    }

    /// Asks the session to end at its next message boundary without an open exchange.
    pub(crate) fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
        if let Some(waker) = self.waker.lock().take() {
            waker.wake();
        }
    }

    /// True if the session was asked to end.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed) || self.registry.is_ending()
    }

    /// Becomes ready when the session is asked to end.
    pub(crate) fn poll_ending(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_ending() {
            return Poll::Ready(());
        }
        let mut waker = self.waker.lock();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        drop(waker);
        // It may have been asked between the look and the registration.
        if self.is_ending() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Who is logged in.
    pub(crate) fn who(&self) -> Option<Arc<Principal>> {
        self.who.lock().clone()
    }

    /// Somebody is logged in, or nobody any longer.
    pub(crate) fn set_who(&self, who: Option<&Arc<Principal>>) {
        *self.who.lock() = who.cloned();
    }

    /// What its application calls itself; empty = it has not said.
    pub(crate) fn application(&self) -> &str {
        self.application.get().map(|name| &**name).unwrap_or_default()
    }

    /// Its application calls itself this.
    pub(crate) fn set_application(&self, name: &str) {
        // It says so once.
        let _ = self.application.set(name.into());
    }

    /// The fingerprint of what it asked last.
    pub(crate) fn asked(&self) -> Option<u64> {
        Some(self.asked.load(Ordering::Relaxed)).filter(|fingerprint| *fingerprint != 0)
    }

    /// It asks this.
    pub(crate) fn set_asked(&self, fingerprint: u64) {
        self.asked.store(fingerprint, Ordering::Relaxed);
    }

    /// Why the session holds a connection.
    pub(crate) fn pin(&self) -> Pin {
        let pin = self.pin.load(Ordering::Relaxed);
        Pin::HELD.into_iter().find(|held| *held as u8 == pin).unwrap_or(Pin::None)
    }

    /// Says why the session holds a connection from now on.
    pub(crate) fn set_pin(&self, pin: Pin) {
        self.pin.store(pin as u8, Ordering::Relaxed);
    }
}

impl std::ops::Deref for Registration {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.0
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.0.registry.sessions.lock().remove(&self.0.id);
    }
}
