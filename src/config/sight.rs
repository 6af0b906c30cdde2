//! `sight`: what is seen of the queries.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `sight`: what was asked, how often, how long it took.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sight {
    /// Count every query by its fingerprint, user and database.
    pub enabled: bool,
    /// Queries in the table; beyond that those that are worth least are forgotten.
    #[schemars(extend("x-min" = "1", "x-max" = "10000"))]
    pub max_queries: usize,
    /// Names of the users who may see what others do in `CALL sidebolt.…`, with commas between; everybody sees their own.
    pub observers: Option<String>,
}

impl Default for Sight {
    fn default() -> Self {
        Self { enabled: true, max_queries: 1000, observers: None }
    }
}
