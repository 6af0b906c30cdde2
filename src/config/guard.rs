//! `guard`: how much of Neo4j anybody may have.

use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::units::{DurationText, SizeText};
use super::when::When;
use crate::matching;

/// `guard`: how many requests there may be, and who waits. Every key counts from the next request on.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Guard {
    /// Limits: a list of entries with `name` and `rate` or `max_in_flight`, and if wanted `per`, `burst`, `when`. A request has to keep
    /// within every limit that it falls under.
    #[schemars(extend("x-unit" = "list", "x-example" = "- {name: each user, per: principal, rate: 100/s}"))]
    pub limits: Vec<Limit>,
    /// What requests cost that cost more than others: a list of entries with `cost` and `when`. The first that fits counts; other requests
    /// cost 1.
    #[schemars(extend("x-unit" = "list", "x-example" = "- {cost: 10, when: {label: Person}}"))]
    pub costs: Vec<Cost>,
    /// Requests that may wait at once because of a `max_in_flight`; more are refused at once, first those of the user who waits most.
    #[schemars(extend("x-min" = "0", "x-max" = "1000000"))]
    pub max_waiting: usize,
    /// How long a request may wait because of a `max_in_flight`.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "1ms", "x-max" = "1h"))]
    pub max_wait: Duration,
    /// Metadata `{sidebolt: {priority: 'high'}}` (or `'low'`) let a request go before those of other users too; otherwise only before the
    /// same user's.
    pub trust_priority: bool,
    /// Who may run what: a list of entries with `action` (`allow`, `deny`, `read_only`), and if wanted `when` and `reason`. The first `allow`
    /// or `deny` that fits decides; what none fits is allowed.
    #[schemars(extend("x-unit" = "list", "x-example" = "- {action: deny, when: {text: '(?i)detach delete'}}"))]
    pub rules: Vec<Rule>,
    /// Let nobody write: every request goes to Neo4j in access mode `r`, and what surely writes is refused at once.
    pub read_only: bool,
    /// The time-out of transactions (and of statements outside of them) that name none; 0s = as Neo4j has it.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "0s", "x-max" = "30days"))]
    pub tx_timeout: Duration,
    /// The longest time-out that one may name; 0s = any.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "0s", "x-max" = "30days"))]
    pub max_tx_timeout: Duration,
    /// A transaction whose client sends nothing for so long is rolled back, and its client told with its next request; 0s = never.
    #[serde(with = "DurationText")]
    #[schemars(extend("x-min" = "0s", "x-max" = "30days"))]
    pub idle_transaction_timeout: Duration,
    /// Longest text of a statement; 0 = any.
    #[serde(with = "SizeText")]
    #[schemars(extend("x-min" = "0", "x-max" = "1GiB"))]
    pub max_statement_bytes: usize,
    /// Largest parameters of a statement; 0 = any. A request above `limits.max_inspected_request` counts as too large.
    #[serde(with = "SizeText")]
    #[schemars(extend("x-min" = "0", "x-max" = "1GiB"))]
    pub max_parameter_bytes: usize,
    /// Rows that a result may have before it is ended with a FAILURE; 0 = any. Results that are read in turns count together. What an
    /// auto-commit statement that may write returns is never cut, for its writes may be committed by then.
    #[schemars(extend("x-min" = "0", "x-max" = "1000000000000"))]
    pub max_result_rows: u64,
    /// Bytes that a result may have on the wire, as `max_result_rows`; 0 = any.
    #[serde(with = "SizeText")]
    #[schemars(extend("x-min" = "0", "x-max" = "1000GiB"))]
    pub max_result_bytes: usize,
    /// Find out from how long requests take how many of them Neo4j can do with at once, and let the others wait; up to
    /// `pool.max_connection_pool_size`.
    pub adaptive: bool,
    /// How many times as long as at best a request may take before fewer are let in.
    #[schemars(extend("x-min" = "1.1", "x-max" = "100"))]
    pub adaptive_tolerance: f64,
    /// Refuse new requests, and forget cached answers, while Sidebolt itself takes more memory than this; 0 = never.
    #[serde(with = "SizeText")]
    #[schemars(extend("x-min" = "0", "x-max" = "1000GiB"))]
    pub max_memory: usize,
}

/// An entry of `guard.limits`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// Its name, for messages and metrics.
    pub name: String,
    /// Whether all share it, or each user (or address, …) has one of its own.
    #[serde(default)]
    pub per: Per,
    /// Requests in a time, such as `100/s`, `1000/m` or `5000/h`.
    #[serde(default)]
    pub rate: Option<Rate>,
    /// Requests that may come at once after a pause; by default those of one second, at least 1.
    #[serde(default)]
    pub burst: Option<u32>,
    /// Requests and transactions at Neo4j at once; more wait.
    #[serde(default)]
    pub max_in_flight: Option<u32>,
    /// Which requests it is about; by default all.
    #[serde(default)]
    pub when: When,
}

/// `guard.limits[].per`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// All requests together.
    #[default]
    All,
    /// Each user.
    Principal,
    /// Each client address.
    Address,
    /// Each database.
    Database,
    /// Each application.
    Application,
}

impl Per {
    /// Its word.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Principal => "principal",
            Self::Address => "address",
            Self::Database => "database",
            Self::Application => "application",
        }
    }
}

/// An entry of `guard.costs`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// As how many requests one counts.
    pub cost: u32,
    /// Which requests.
    pub when: When,
}

/// An entry of `guard.rules`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What is to be done.
    pub action: Action,
    /// Why, for whom it meets.
    #[serde(default)]
    pub reason: Option<String>,
    /// Which requests; by default all.
    #[serde(default)]
    pub when: When,
}

/// `guard.rules[].action`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// They may run.
    Allow,
    /// They may not.
    Deny,
    /// They may read.
    ReadOnly,
}

/// `100/s`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    /// So many,
    pub count: u32,
    /// in this time.
    pub per: Unit,
}

/// The time of a rate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unit {
    /// `s`
    Second,
    /// `m`
    Minute,
    /// `h`
    Hour,
}

impl Rate {
    /// Time for one.
    pub(crate) fn interval(self) -> Duration {
        let whole = match self.per {
            Unit::Second => 1,
            Unit::Minute => 60,
            Unit::Hour => 3600,
        };
        Duration::from_secs(whole) / self.count.max(1)
    }

    /// Those of one second, at least 1.
    pub(crate) fn of_a_second(self) -> u32 {
        let interval = self.interval().as_nanos().max(1);
        u32::try_from(1_000_000_000 / interval).unwrap_or(u32::MAX).max(1)
    }

    fn parse(text: &str) -> Option<Self> {
        let (count, unit) = text.split_once('/')?;
        let per = match unit.trim() {
            "s" | "second" => Unit::Second,
            "m" | "minute" => Unit::Minute,
            "h" | "hour" => Unit::Hour,
            _ => return None,
        };
        let count = count.trim().replace('_', "").parse().ok()?;
        (1..=1_000_000).contains(&count).then_some(Self { count, per })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per {
            Unit::Second => "s",
            Unit::Minute => "m",
            Unit::Hour => "h",
        };
        write!(f, "{}/{unit}", self.count)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Rate;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rate such as 100/s")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Rate, E> {
                Rate::parse(text).ok_or_else(|| {
                    E::custom(format_args!(
                        "`{text}` is not a rate (1 to 1000000 and s, m or h, such as 100/s)"
                    ))
                })
            }
        }
        d.deserialize_str(Text)
    }
}

impl JsonSchema for Rate {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Rate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9_]+ ?/ ?(s|second|m|minute|h|hour)$" })
    }
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            limits: Vec::new(),
            costs: Vec::new(),
            max_waiting: 1000,
            max_wait: Duration::from_secs(5),
            trust_priority: false,
            rules: Vec::new(),
            read_only: false,
            tx_timeout: Duration::ZERO,
            max_tx_timeout: Duration::ZERO,
            idle_transaction_timeout: Duration::ZERO,
            max_statement_bytes: 0,
            max_parameter_bytes: 0,
            max_result_rows: 0,
            max_result_bytes: 0,
            adaptive: false,
            adaptive_tolerance: 2.0,
            max_memory: 0,
        }
    }
}

/// What is wrong: the key, what it is, what to do about it.
pub(super) type Faults = Vec<(String, String, &'static str)>;

impl Guard {
    /// True if requests are measured, or their time-outs are.
    pub(crate) fn measures(&self) -> bool {
        self.bounds_results()
            || self.adaptive
            || self.max_memory > 0
            || self.max_statement_bytes > 0
            || self.max_parameter_bytes > 0
            || !self.tx_timeout.is_zero()
            || !self.max_tx_timeout.is_zero()
    }

    /// True if results are measured.
    pub(crate) fn bounds_results(&self) -> bool {
        self.max_result_rows > 0 || self.max_result_bytes > 0
    }

    /// The time-out in milliseconds that a transaction gets instead of the one that it names.
    pub(crate) fn timeout(&self, named: Option<i64>) -> Option<i64> {
        let millis = |limit: Duration| i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
        let most = Some(millis(self.max_tx_timeout)).filter(|most| *most > 0);
        let usual = Some(millis(self.tx_timeout)).filter(|usual| *usual > 0);
        match (named, most) {
            // No end at all.
            (Some(0), Some(most)) => Some(most),
            (Some(named), Some(most)) if named > most => Some(most),
            (Some(_), _) => None,
            (None, most) => usual.map(|usual| most.map_or(usual, |most| usual.min(most))).or(most),
        }
    }

    /// What the types cannot say.
    pub(super) fn faults(&self) -> Faults {
        let mut faults = Faults::new();
        for (at, limit) in self.limits.iter().enumerate() {
            let key = format!("guard.limits.[{at}]");
            if let Some((what, hint)) = limit.fault(self.limits.get(..at).unwrap_or_default()) {
                faults.push((key.clone(), what, hint));
            }
            check_when(&key, &limit.when, &mut faults);
        }
        for (at, cost) in self.costs.iter().enumerate() {
            let key = format!("guard.costs.[{at}]");
            if !(1..=1_000_000).contains(&cost.cost) {
                let hint = "write a number from 1 to 1000000";
                faults.push((key.clone(), format!("has the cost {}", cost.cost), hint));
            }
            check_when(&key, &cost.when, &mut faults);
        }
        for (at, rule) in self.rules.iter().enumerate() {
            let key = format!("guard.rules.[{at}]");
            if rule.action == Action::ReadOnly && !matching::Rules::needs_no_text(&rule.when) {
                let hint = "whether a transaction may write is decided at its BEGIN: use principal, application or database";
                faults.push((key.clone(), "depends on the text".to_owned(), hint));
            }
            check_when(&key, &rule.when, &mut faults);
        }
        let lists = [
            ("guard.limits", self.limits.len()),
            ("guard.costs", self.costs.len()),
            ("guard.rules", self.rules.len()),
        ];
        for (key, count) in lists {
            too_many(key, count, &mut faults);
        }
        faults
    }
}

/// More entries than a request can be matched with.
pub(super) fn too_many(key: &str, count: usize, faults: &mut Faults) {
    if count > matching::MOST {
        let what = format!("has {count} entries, {} at most", matching::MOST);
        faults.push((key.to_owned(), what, "put together what belongs together"));
    }
}

/// What is wrong with the `when` of an entry.
pub(super) fn check_when(entry: &str, when: &When, faults: &mut Faults) {
    if let Err((key, what, hint)) = matching::check(when) {
        faults.push((format!("{entry}.when.{key}"), what, hint));
    }
}

impl Limit {
    fn fault(&self, before: &[Self]) -> Option<(String, &'static str)> {
        let fault = |what: &str, hint| Some((what.to_owned(), hint));
        if self.name.is_empty() || self.name.len() > 64 {
            return fault("has a name of no or more than 64 characters", "write a short name");
        }
        if before.iter().any(|other| other.name == self.name) {
            return Some((format!("has the name `{}`, as another one", self.name), "give each its own name"));
        }
        if self.rate.is_none() && self.max_in_flight.is_none() {
            let hint = "give a rate, such as rate: 100/s, or max_in_flight, or both";
            return fault("limits nothing", hint);
        }
        if self.burst.is_some() && self.rate.is_none() {
            return fault("has a burst without a rate", "give a rate, such as rate: 100/s, or remove burst");
        }
        if self.burst == Some(0) || self.max_in_flight == Some(0) {
            return fault("lets nothing pass", "write 1 or more");
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_given_and_capped() {
        let guard = |usual, most| Guard {
            tx_timeout: Duration::from_millis(usual),
            max_tx_timeout: Duration::from_millis(most),
            ..Guard::default()
        };
        for (usual, most, named, expected) in [
            (0, 0, None, None),
            (0, 0, Some(5), None),
            (10, 0, None, Some(10)),
            (10, 0, Some(99), None),
            (10, 50, None, Some(10)),
            (90, 50, None, Some(50)),
            (0, 50, None, Some(50)),
            (0, 50, Some(50), None),
            (0, 50, Some(51), Some(50)),
            (0, 50, Some(0), Some(50)),
            (0, 50, Some(-1), None),
        ] {
            assert_eq!(guard(usual, most).timeout(named), expected, "{usual} {most} {named:?}");
        }
    }

    #[test]
    fn rates_are_read_and_written() {
        for (text, count, written) in
            [("100/s", 100, "100/s"), ("1_000 / minute", 1000, "1000/m"), ("5/h", 5, "5/h")]
        {
            let rate = Rate::parse(text).unwrap();
            assert_eq!((rate.count, rate.to_string().as_str()), (count, written));
        }
        for text in ["100", "0/s", "-1/s", "1.5/s", "1/d", "/s", "99999999/s"] {
            assert_eq!(Rate::parse(text), None, "{text}");
        }
        let rate = |text: &str| Rate::parse(text).unwrap();
        assert_eq!((rate("100/s").of_a_second(), rate("600/m").of_a_second()), (100, 10));
        assert_eq!((rate("5/h").of_a_second(), rate("5/h").interval()), (1, Duration::from_secs(720)));
    }
}
