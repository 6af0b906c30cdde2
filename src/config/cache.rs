//! `cache`: answers of hot reads.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::When;
use super::units::{DurationText, OptionalDuration, SizeText};

/// How fresh a cached answer is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// Each hit is checked: nobody can tell it from Neo4j's own answer.
    Strict,
    /// Other programs' writes are seen within `max_staleness`, writes through this Sidebolt at once.
    Bounded,
    /// Other programs' writes are seen within `ttl`, writes through this Sidebolt at once.
    Ttl,
}

/// `cache`: answers of hot reads are kept, and served while it is known that Neo4j would say the same.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    /// Serve hot reads from memory.
    pub enabled: bool,
    /// How fresh an answer must be: `strict`, `bounded` or `ttl`.
    pub consistency: Consistency,
    /// With `bounded`: how old the newest known transaction id may be.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "1ms", "x-max" = "1h"))]
    pub max_staleness: Duration,
    /// With `ttl`: how long an answer is served.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "1ms", "x-max" = "24h"))]
    pub ttl: Duration,
    /// While Neo4j does not answer: serve what was right no longer ago than this. 0s = never.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "0s", "x-max" = "24h"))]
    pub stale_if_error: Duration,
    /// Bytes of all answers together; a change empties the cache.
    #[serde(with = "SizeText")]
    #[schemars(extend("x-min" = "64KiB", "x-max" = "64GiB"))]
    pub capacity: usize,
    /// A larger answer is not kept.
    #[serde(with = "SizeText")]
    #[schemars(extend("x-min" = "1KiB", "x-max" = "256MiB"))]
    pub max_entry_bytes: usize,
    /// Larger answers are kept compressed (LZ4).
    #[serde(with = "SizeText")]
    #[schemars(extend("x-min" = "1KiB", "x-max" = "256MiB"))]
    pub compress_above: usize,
    /// How long a read waits at most for an equal one that is on its way.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "0s", "x-max" = "1m"))]
    pub max_wait: Duration,
    /// One hit in so many goes to Neo4j all the same, to compare: a wrong answer is logged and empties the cache. 0 = none.
    #[schemars(extend("x-min" = "0", "x-max" = "1000000000"))]
    pub verify_every: u32,
    /// Exceptions: a list of entries with `when` (`label`, `type`, `text`, `fingerprint`, `access`, `principal`, `application`, `database`) and `store`, `consistency`, `max_staleness` or `ttl`; the first whose `when` holds decides.
    #[schemars(extend("x-unit" = "list"))]
    pub rules: Vec<CacheRule>,
}

/// An entry of `cache.rules`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheRule {
    /// Which requests it is about; without keys all of them.
    pub when: When,
    /// `hot`: from the second use on and if it is worth it; `always`: from the first use on; `never`.
    pub store: Store,
    /// Instead of `cache.consistency`.
    pub consistency: Option<Consistency>,
    /// Instead of `cache.max_staleness`.
    #[serde(with = "OptionalDuration", skip_serializing_if = "Option::is_none")]
    pub max_staleness: Option<Duration>,
    /// Instead of `cache.ttl`.
    #[serde(with = "OptionalDuration", skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
}

/// Which answers are kept.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    /// Those that are asked for again and cost more than a probe.
    #[default]
    Hot,
    /// All.
    Always,
    /// None.
    Never,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            enabled: true,
            consistency: Consistency::Strict,
            max_staleness: Duration::from_millis(50),
            ttl: Duration::from_secs(60),
            stale_if_error: Duration::ZERO,
            capacity: 64 * 1024 * 1024,
            max_entry_bytes: 1024 * 1024,
            compress_above: 64 * 1024,
            max_wait: Duration::from_secs(5),
            verify_every: 0,
            rules: Vec::new(),
        }
    }
}
