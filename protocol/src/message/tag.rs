//! Message signatures and their names.

use std::fmt;

/// A message's signature byte.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Tag(pub u8);

macro_rules! tags {
    ($($(#[$doc:meta])* $name:ident = $byte:literal;)*) => {
        impl Tag {
            $($(#[$doc])* pub const $name: Self = Self($byte);)*

            /// The message's name in the specification; `None` for a signature that no version has.
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

tags! {
    /// Opens the session; carries the credentials up to Bolt 5.0.
    HELLO = 0x01;
    /// Ends the session.
    GOODBYE = 0x02;
    /// Interrupts and cleans.
    RESET = 0x0F;
    /// Runs a statement.
    RUN = 0x10;
    /// Opens a transaction.
    BEGIN = 0x11;
    /// Commits it.
    COMMIT = 0x12;
    /// Rolls it back.
    ROLLBACK = 0x13;
    /// Skips records.
    DISCARD = 0x2F;
    /// Fetches records.
    PULL = 0x3F;
    /// Names the driver API in use (5.4).
    TELEMETRY = 0x54;
    /// Asks for the routing table.
    ROUTE = 0x66;
    /// Logs in (5.1).
    LOGON = 0x6A;
    /// Logs out (5.1).
    LOGOFF = 0x6B;
    /// Summary: done.
    SUCCESS = 0x70;
    /// One row.
    RECORD = 0x71;
    /// Summary: not run, because an earlier request failed.
    IGNORED = 0x7E;
    /// Summary: failed.
    FAILURE = 0x7F;
}

impl Tag {
    /// True for the messages a client may send.
    pub fn is_request(self) -> bool {
        self.0 < Self::SUCCESS.0 && self.name().is_some()
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#04x}", self.0),
        }
    }
}
