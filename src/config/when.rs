//! `when`: which requests a rule is about.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which requests a rule is about: those for which every key that is given holds; without keys all of them.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct When {
    /// Its text names this label.
    pub label: Option<String>,
    /// Its text names this relationship type.
    pub r#type: Option<String>,
    /// A regular expression that is found somewhere in its text.
    pub text: Option<String>,
    /// The fingerprint that its text has, as `CALL sidebolt.cache()` shows it: 16 hexadecimal digits.
    pub fingerprint: Option<String>,
    /// `read`: its access mode is `r`, or its text surely changes nothing. `write`: any other.
    pub access: Option<AccessKind>,
    /// The name of its user; with `*` at the end, the beginning of it.
    pub principal: Option<String>,
    /// Its application: `app` in the transaction metadata, or else the user agent that its driver was given, without what stands behind
    /// a slash; with `*` at the end, the beginning of it.
    pub application: Option<String>,
    /// The address of its client, or a range of them: `10.1.2.3`, `10.0.0.0/8` or `fd00::/8`.
    pub address: Option<String>,
    /// The name of its database; with `*` at the end, the beginning of it.
    pub database: Option<String>,
}

/// `when.access`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessKind {
    /// It only reads.
    Read,
    /// It may write.
    Write,
}
