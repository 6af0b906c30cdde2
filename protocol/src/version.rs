//! Bolt versions, and the one table of what each has.

use std::fmt;

/// A negotiated Bolt version.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Version {
    /// Major version.
    pub major: u8,
    /// Minor version.
    pub minor: u8,
}

/// How a version lets a client filter notifications.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NotificationFilter {
    /// Before 5.2: not at all.
    None,
    /// 5.2–5.4: `notifications_disabled_categories`.
    Categories,
    /// From 5.6: `notifications_disabled_classifications`.
    Classifications,
}

/// One row of the version table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Features {
    /// Credentials travel in HELLO; there is no LOGON (up to 5.0).
    pub auth_in_hello: bool,
    /// LOGON and LOGOFF exist, so a connection can change its user (5.1).
    pub reauth: bool,
    /// HELLO may ask for the `utc` patch (4.3, 4.4).
    pub utc_patch: bool,
    /// Notification filters (5.2, renamed in 5.6).
    pub notification_filter: NotificationFilter,
    /// HELLO must carry `bolt_agent` (5.3).
    pub bolt_agent: bool,
    /// TELEMETRY exists (5.4).
    pub telemetry: bool,
    /// FAILURE carries `neo4j_code` and a GQL status (5.7).
    pub gql_failure: bool,
}

impl Version {
    /// Bolt 4.4.
    pub const V4_4: Self = Self::new(4, 4);
    /// Bolt 5.0.
    pub const V5_0: Self = Self::new(5, 0);
    /// Bolt 5.8.
    pub const V5_8: Self = Self::new(5, 8);
    /// Bolt 6.0.
    pub const V6_0: Self = Self::new(6, 0);
    /// Bolt 6.1.
    pub const V6_1: Self = Self::new(6, 1);

    /// Every version this crate speaks, oldest first. 5.5 never existed on a server.
    pub const ALL: [Self; 11] = [
        Self::V4_4,
        Self::V5_0,
        Self::new(5, 1),
        Self::new(5, 2),
        Self::new(5, 3),
        Self::new(5, 4),
        Self::new(5, 6),
        Self::new(5, 7),
        Self::V5_8,
        Self::V6_0,
        Self::V6_1,
    ];

    /// A version by its numbers; whether it is spoken here is another matter.
    pub const fn new(major: u8, minor: u8) -> Self {
        Self { major, minor }
    }

    /// True if this crate speaks the version.
    pub fn is_known(self) -> bool {
        Self::ALL.contains(&self)
    }

    /// This version's row of the table.
    pub fn features(self) -> Features {
        let from = |major, minor| self >= Self::new(major, minor);
        Features {
            auth_in_hello: !from(5, 1),
            reauth: from(5, 1),
            utc_patch: !from(5, 0),
            notification_filter: match (from(5, 2), from(5, 6)) {
                (_, true) => NotificationFilter::Classifications,
                (true, _) => NotificationFilter::Categories,
                _ => NotificationFilter::None,
            },
            bolt_agent: from(5, 3),
            telemetry: from(5, 4),
            gql_failure: from(5, 7),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_changes_where_the_protocol_did() {
        assert!(Version::V5_0.features().auth_in_hello);
        assert!(Version::new(5, 1).features().reauth);
        assert!(!Version::new(5, 1).features().auth_in_hello);
        assert_eq!(Version::new(5, 1).features().notification_filter, NotificationFilter::None);
        assert_eq!(Version::new(5, 4).features().notification_filter, NotificationFilter::Categories);
        assert_eq!(Version::V6_1.features().notification_filter, NotificationFilter::Classifications);
        assert!(!Version::new(5, 6).features().gql_failure);
        assert!(Version::new(5, 7).features().gql_failure);
        assert!(Version::V4_4.features().utc_patch && !Version::V5_0.features().utc_patch);
        assert!(!Version::new(5, 5).is_known());
    }
}
