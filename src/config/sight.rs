//! `sight`: what is seen of the queries.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::When;
use super::units::{DurationText, SizeText};

/// How much of the parameters of a slow query is shown.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Parameters {
    /// Nothing.
    Redact,
    /// Their names.
    Names,
    /// Their values too, and those that stand in the text.
    Full,
}

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
    /// A request that takes longer is logged (target `slow`) and kept; 0s = none.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "0s", "x-max" = "24h"))]
    pub slow_threshold: Duration,
    /// Exceptions: a list of entries with `when` (`label`, `type`, `text`, `fingerprint`, `access`, `principal`, `application`, `database`) and `threshold`; the first whose `when` holds decides.
    #[schemars(extend("x-unit" = "list", "x-example" = "- {when: {label: Report}, threshold: 10s}"))]
    pub slow_rules: Vec<SlowRule>,
    /// Slow requests that are kept for `CALL sidebolt.slow()`.
    #[schemars(extend("x-min" = "0", "x-max" = "100000"))]
    pub slow_kept: usize,
    /// Lines about slow requests in the log, each second; the next line says how many were left out.
    #[schemars(extend("x-min" = "0", "x-max" = "10000"))]
    pub slow_lines_per_second: u32,
    /// What is shown of the parameters of slow requests: `redact`, `names` or `full`, which shows the values in texts too.
    pub slow_parameters: Parameters,
    /// Ask Neo4j for the plan of a slow query (EXPLAIN, which runs nothing), once in ten minutes, to say what could be done about it.
    pub explain: bool,
    /// Learn what each query usually takes, and say so when it takes longer.
    pub baselines: bool,
    /// How often what queries take is compared with what they usually take.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "1s", "x-max" = "1m"))]
    pub compare_every: Duration,
    /// JSON file that keeps what was learnt across restarts: read at start, written every minute and at the end; its folder must be
    /// writable. None = it is learnt anew.
    #[schemars(extend("x-restart" = true))]
    pub baseline_file: Option<PathBuf>,
    /// What is kept for longer than an hour, for reports.
    pub history: History,
    /// URL (http or https) that each alert is posted to as JSON.
    pub webhook: Option<String>,
    /// URL of an Alertmanager, without `/api/v2/alerts`.
    pub alertmanager: Option<String>,
}

/// `sight.history`: what is kept for longer than an hour.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct History {
    /// Folder for the file `history.redb`: counts, latencies, errors, alerts and use of resources by minute, hour and day, for `sidebolt report --daily`. None = nothing
    /// is kept.
    #[schemars(extend("x-unit" = "folder", "x-restart" = true))]
    pub path: Option<PathBuf>,
    /// How long days are kept; minutes two days at most, hours ten weeks.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "1day", "x-max" = "10years"))]
    pub keep: Duration,
    /// Largest size of the file: the oldest minutes go first, then hours, then days.
    #[serde(with = "SizeText")]
    #[schemars(extend("x-min" = "4MiB", "x-max" = "16GiB"))]
    pub max_bytes: usize,
}

impl Default for History {
    fn default() -> Self {
        Self { path: None, keep: Duration::from_secs(31_557_600), max_bytes: 64 << 20 }
    }
}

/// An entry of `sight.slow_rules`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SlowRule {
    /// Which requests it is about; without keys all of them.
    pub when: When,
    /// Instead of `sight.slow_threshold`.
    #[serde(with = "DurationText")]
    pub threshold: Duration,
}

impl Default for SlowRule {
    fn default() -> Self {
        Self { when: When::default(), threshold: Duration::from_secs(1) }
    }
}

impl Default for Sight {
    fn default() -> Self {
        Self {
            enabled: true,
            max_queries: 1000,
            observers: None,
            slow_threshold: Duration::from_secs(1),
            slow_rules: Vec::new(),
            slow_kept: 1000,
            slow_lines_per_second: 10,
            slow_parameters: Parameters::Redact,
            explain: true,
            baselines: true,
            compare_every: Duration::from_secs(10),
            baseline_file: None,
            history: History::default(),
            webhook: None,
            alertmanager: None,
        }
    }
}
