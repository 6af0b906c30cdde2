//! `guard`: how much of Neo4j anybody may have.

use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::units::DurationText;
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
        }
    }
}

/// What is wrong: the key, what it is, what to do about it.
pub(super) type Faults = Vec<(String, String, &'static str)>;

impl Guard {
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
        for (key, count) in [("guard.limits", self.limits.len()), ("guard.costs", self.costs.len())] {
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
