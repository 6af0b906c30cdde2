//! How to connect, and as whom.

use std::time::Duration;

use bolt_wire::Version;
use bolt_wire::packstream::Value;

/// How to connect.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which version to speak.
    pub version: Choose,
    /// Whom to log in as.
    pub auth: Auth,
    /// The routing context for HELLO; `None` = no server-side routing (`bolt://`).
    pub routing: Option<Value>,
    /// More entries for HELLO (notification filters, patches), put after the client's own.
    pub hello: Vec<(String, Value)>,
    /// What the server's logs will show.
    pub user_agent: String,
    /// Longest time for connecting (with login), and again for each request with its whole answer.
    pub timeout: Duration,
    /// Largest answer in bytes, all its records together.
    pub max_answer: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            version: Choose::Newest,
            auth: Auth::None,
            routing: None,
            hello: Vec::new(),
            user_agent: concat!("sidebolt/", env!("CARGO_PKG_VERSION")).to_owned(),
            timeout: Duration::from_secs(10),
            max_answer: 64 << 20,
        }
    }
}

/// Which version to ask for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Choose {
    /// Manifest handshake, and the newest version that both sides speak.
    Newest,
    /// Classic handshake for exactly this version.
    Exactly(Version),
    /// Manifest handshake, and exactly this version out of it.
    FromManifest(Version),
}

/// Credentials.
#[derive(Clone, Eq, PartialEq)]
pub enum Auth {
    /// Scheme `none`.
    None,
    /// Scheme `basic`.
    Basic {
        /// The user.
        principal: String,
        /// The password.
        credentials: String,
    },
    /// Scheme `bearer`.
    Bearer(String),
    /// Do not log in at all: the connection stays as the handshake left it (from 5.1: after HELLO).
    Later,
}

impl Auth {
    /// Scheme `basic`.
    pub fn basic(principal: impl Into<String>, credentials: impl Into<String>) -> Self {
        Self::Basic { principal: principal.into(), credentials: credentials.into() }
    }

    pub(super) fn entries(&self) -> Vec<(String, Value)> {
        let entry = |key: &str, value: &str| (key.to_owned(), Value::from(value));
        match self {
            Self::None => vec![entry("scheme", "none")],
            Self::Basic { principal, credentials } => {
                vec![
                    entry("scheme", "basic"),
                    entry("principal", principal),
                    entry("credentials", credentials),
                ]
            }
            Self::Bearer(token) => vec![entry("scheme", "bearer"), entry("credentials", token)],
            Self::Later => Vec::new(),
        }
    }
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Basic { .. } => "Basic(hidden)",
            Self::Bearer(_) => "Bearer(hidden)",
            Self::Later => "Later",
        })
    }
}
