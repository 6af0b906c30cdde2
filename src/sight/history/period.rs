//! Reports about a day, a week or a month: what went through, what was wrong, what is about to run short, what to do.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::bucket::{Bucket, Spent};
use super::store::Store;
use crate::sight::queries::{Row, now};
use crate::sight::{Sight, Viewer, in_words, moment};
use crate::statement::fingerprint;

/// Queries and errors in a report.
const ROWS: usize = 20;
/// Alerts in a report.
const ALERTS: usize = 200;
/// Seconds of an hour and a day.
const HOUR: u64 = 3600;
const DAY: u64 = 86_400;
/// From which factor on something is remarkable.
const REMARKABLE: f64 = 1.5;
/// How much of its scatter a straight line must explain to be a trend.
const EXPLAINED: f64 = 0.5;

/// How much time a report is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Period {
    /// 24 hours, in hours.
    Daily,
    /// Seven days, in days.
    Weekly,
    /// Thirty days, in days.
    Monthly,
}

impl Period {
    /// Reads its name.
    pub(crate) fn read(name: &str) -> Option<Self> {
        [Self::Daily, Self::Weekly, Self::Monthly].into_iter().find(|period| period.word() == name)
    }

    /// Its name.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
        }
    }

    /// Seconds of a part, and how many there are.
    fn parts(self) -> (u64, u64) {
        match self {
            Self::Daily => (HOUR, 24),
            Self::Weekly => (DAY, 7),
            Self::Monthly => (DAY, 30),
        }
    }
}

/// A part of the period: when it began, and what went on.
type Part = (u64, Bucket);

/// The report about the period that ends with the running hour.
pub(super) fn report(store: &Store, period: Period, sight: &Sight) -> Result<Value, redb::Error> {
    let (length, count) = period.parts();
    let end = (now() / 1000 / HOUR + 1) * HOUR;
    let from = end.saturating_sub(length * count);
    let before = from.saturating_sub(length * count);
    let hours = store.hours(before, end)?;
    let days = store.days(before, end)?;
    let mut alerts = store.alerts(from * 1000, end * 1000)?;
    let many = alerts.len();
    alerts.drain(..many.saturating_sub(ALERTS));
    let all = with_days(hours, &days);
    let parts: Vec<Part> = (0..count)
        .map(|nth| {
            let begin = from + nth * length;
            (begin, sum(&all, begin, begin + length))
        })
        .collect();
    let (whole, last) = (sum(&all, from, end), sum(&all, before, from));
    let rows = sight.top(usize::MAX, &Viewer::of_all());
    let queries = queries(&whole, &last, &rows, sight);
    let capacity = capacity(&parts, length);
    let said = recommendations(&whole, &last, &capacity, &queries);
    Ok(json!({
        "period": period.word(),
        "from": moment(from * 1000),
        "to": moment(end * 1000),
        "totals": totals(&whole),
        "before": (last.seconds > 0).then(|| totals(&last)),
        "change": change(&whole, &last),
        "parts": parts.iter().map(|(begin, bucket)| part(*begin, bucket)).collect::<Vec<_>>(),
        "errors": counted(&whole.errors, "code"),
        "refusals": counted(&whole.refusals, "reason"),
        "alerts": alerts.iter().rev().collect::<Vec<_>>(),
        "capacity": capacity,
        "queries": queries,
        "recommendations": said,
    }))
}

/// Hours, and days of which no hour is left.
fn with_days(mut hours: Vec<Part>, days: &[Part]) -> Vec<Part> {
    let first = hours.first().map_or(u64::MAX, |(begin, _)| *begin);
    hours.splice(0..0, days.iter().filter(|(begin, _)| begin + DAY <= first).cloned());
    hours
}

/// What began in a time.
fn sum(all: &[Part], from: u64, to: u64) -> Bucket {
    let mut sum = Bucket::default();
    for (_, bucket) in all.iter().filter(|(begin, _)| (from..to).contains(begin)) {
        sum.add(bucket);
    }
    sum
}

fn rounded(number: f64, digits: i32) -> f64 {
    let unit = 10f64.powi(digits);
    (number * unit).round() / unit
}

fn share(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| rounded(part / whole, 4))
}

fn totals(bucket: &Bucket) -> Value {
    let times = bucket.percentiles().map(|times| times.map(|time| rounded(time, 3)));
    json!({
        "observedSeconds": bucket.seconds,
        "requests": bucket.requests,
        "failures": bucket.failures,
        "cached": bucket.cached,
        "batched": bucket.batched,
        "p50Ms": times.map(|times| times[0]),
        "p95Ms": times.map(|times| times[1]),
        "p99Ms": times.map(|times| times[2]),
    })
}

/// A part as it is shown.
fn part(begin: u64, bucket: &Bucket) -> Value {
    let mut part = totals(bucket);
    let seconds = bucket.seconds as f64;
    for (name, value) in [
        ("from", json!(moment(begin * 1000))),
        ("poolMost", bucket.lent_most.into()),
        ("poolAverage", json!(share(bucket.lent_sum as f64, seconds))),
        ("poolWaiting", bucket.waiting_most.into()),
        ("clients", bucket.clients_most.into()),
        ("memoryBytes", bucket.memory_most.into()),
        ("hostMemoryBytes", bucket.host_used_most.into()),
        ("cores", json!(share(bucket.cores_sum, seconds))),
        ("hostCores", json!(share(bucket.host_cores_sum, seconds))),
        ("hostCoresMost", json!(rounded(bucket.host_cores_most, 2))),
    ] {
        part[name] = value;
    }
    part
}

/// How many times as much as in the period before; nothing where there was none.
fn change(now: &Bucket, before: &Bucket) -> Value {
    let factor = |now: f64, before: f64| (before > 0.0).then(|| rounded(now / before, 3));
    let rate = |bucket: &Bucket| bucket.requests as f64 / bucket.seconds.max(1) as f64;
    let failed = |bucket: &Bucket| bucket.failures as f64 / bucket.requests.max(1) as f64;
    let (own, last) = (now.percentiles(), before.percentiles());
    let time = |at: usize| factor(own?[at], last?[at]);
    json!({
        "requestsPerSecond": factor(rate(now), rate(before)),
        "failureShare": factor(failed(now), failed(before)),
        "p50": time(0), "p95": time(1), "p99": time(2),
    })
}

fn counted(counts: &BTreeMap<String, u64>, name: &str) -> Vec<Value> {
    let mut counts: Vec<_> = counts.iter().collect();
    counts.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    counts.into_iter().take(ROWS).map(|(what, count)| json!({ name: what, "count": count })).collect()
}

/// The queries that took most time, beside the period before.
fn queries(whole: &Bucket, before: &Bucket, rows: &[Arc<Row>], sight: &Sight) -> Vec<Value> {
    let mean = |spent: &Spent| spent.took as f64 / spent.calls.max(1) as f64 / 1e6;
    let query = |spent: &Spent| {
        let is_same = |other: &&Spent| {
            other.fingerprint == spent.fingerprint
                && other.user == spent.user
                && other.database == spent.database
        };
        let last = before.queries.iter().find(is_same).map(mean);
        let row = rows.iter().find(|row| {
            row.fingerprint == spent.fingerprint && row.user == spent.user && row.database == spent.database
        });
        let plan = row.and_then(|row| sight.plan(&row.key()));
        json!({
            "fingerprint": fingerprint::shown(spent.fingerprint),
            "text": spent.text,
            "user": spent.user,
            "database": spent.database,
            "calls": spent.calls,
            "failures": spent.failures,
            "totalMs": rounded(spent.took as f64 / 1e6, 3),
            "meanMs": rounded(mean(spent), 3),
            "change": last.filter(|last| *last > 0.0).map(|last| rounded(mean(spent) / last, 3)),
            "advice": plan.and_then(|plan| in_words(&plan.advice)),
        })
    };
    whole.queries.iter().take(ROWS).map(query).collect()
}

/// How much of what there is was used, and when it will be used up if that goes on.
fn capacity(parts: &[Part], length: u64) -> Value {
    let seen: Vec<&Part> = parts.iter().filter(|(_, bucket)| bucket.seconds > 0).collect();
    let Some((_, last)) = seen.last() else { return Value::Null };
    let most = |of: &dyn Fn(&Bucket) -> f64| seen.iter().map(|(_, bucket)| of(bucket)).fold(0.0, f64::max);
    let line = |of: &dyn Fn(&Bucket) -> f64| {
        let points = seen.iter().map(|(begin, bucket)| (*begin as f64 / DAY as f64, of(bucket)));
        growth(&points.collect::<Vec<_>>())
    };
    let days = |growth: Option<f64>, used: f64, all: f64| {
        let growth = growth.filter(|growth| all > used && *growth > all / 1000.0)?;
        Some(rounded((all - used) / growth, 1))
    };
    let connections = f64::from(last.connections);
    let lent = |bucket: &Bucket| f64::from(bucket.lent_most);
    let memory = |bucket: &Bucket| bucket.host_used_last as f64;
    let (pool_growth, memory_growth) = (line(&lent), line(&memory));
    let own_growth = line(&|bucket| bucket.memory_last as f64);
    let requests = line(&|bucket| bucket.requests as f64 / bucket.seconds.max(1) as f64);
    let host = last.host_memory as f64;
    json!({
        "connections": last.connections,
        "poolShare": share(most(&lent), connections),
        "poolWaiting": most(&|bucket| f64::from(bucket.waiting_most)),
        "poolGrowthPerDay": pool_growth.map(|growth| rounded(growth, 3)),
        "daysToFullPool": days(pool_growth, lent(last), connections),
        "memoryShare": share(most(&|bucket| bucket.host_used_most as f64), host),
        "memoryGrowthBytesPerDay": memory_growth.map(f64::round),
        "daysToFullMemory": days(memory_growth, memory(last), host),
        "ownMemoryBytes": last.memory_last,
        "ownMemoryGrowthBytesPerDay": own_growth.map(f64::round),
        "filesShare": share(most(&|bucket| f64::from(bucket.files_most)), last.files_limit as f64),
        "hostCoresMost": rounded(most(&|bucket| bucket.host_cores_most), 2),
        "requestsPerSecondGrowthPerDay": requests.map(|growth| rounded(growth, 3)),
        "partSeconds": length,
    })
}

/// How much something grows in a day: the slope of the straight line through the points, if they are near it.
fn growth(points: &[(f64, f64)]) -> Option<f64> {
    let count = points.len() as f64;
    if points.len() < 4 {
        return None;
    }
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (mean_at, mean_value) = (mean(|point| point.0), mean(|point| point.1));
    let (mut both, mut own, mut others) = (0.0, 0.0, 0.0);
    for (at, value) in points {
        both += (at - mean_at) * (value - mean_value);
        own += (at - mean_at).powi(2);
        others += (value - mean_value).powi(2);
    }
    let explained = if others > 0.0 { both * both / (own * others) } else { 0.0 };
    (own > 0.0 && explained >= EXPLAINED).then(|| both / own)
}

/// What could be done, in sentences.
fn recommendations(now: &Bucket, before: &Bucket, capacity: &Value, queries: &[Value]) -> Vec<String> {
    let mut said = Vec::new();
    let number = |name: &str| capacity[name].as_f64().unwrap_or(0.0);
    if number("poolShare") >= 0.8 || number("poolWaiting") > 0.0 {
        said.push("Connections to Neo4j were short: raise pool.max_connection_pool_size if Neo4j has threads to spare.".to_owned());
    }
    for (name, what) in
        [("daysToFullPool", "connections to Neo4j"), ("daysToFullMemory", "memory of this host")]
    {
        if let Some(days) = capacity[name].as_f64().filter(|days| *days <= 90.0) {
            said.push(format!("If it goes on like this, the {what} will be used up in {days} days."));
        }
    }
    if number("memoryShare") >= 0.8 {
        said.push("Memory was short: give the host more, or lower cache.capacity.".to_owned());
    }
    if number("filesShare") >= 0.8 {
        said.push("Open files were short: raise the limit (ulimit -n).".to_owned());
    }
    if now.requests > 0 && now.failures as f64 / now.requests as f64 >= 0.01 {
        let worst = now.errors.iter().max_by_key(|(_, count)| **count);
        let worst =
            worst.map_or_else(String::new, |(code, count)| format!(", most often {code} ({count} times)"));
        let percent = 100.0 * now.failures as f64 / now.requests as f64;
        said.push(format!("{percent:.1} % of all requests failed{worst}."));
    }
    if let (Some(own), Some(last)) = (now.percentiles(), before.percentiles()) {
        for (at, name) in ["p50", "p95", "p99"].into_iter().enumerate() {
            let factor = own[at] / last[at].max(1e-6);
            if factor >= REMARKABLE {
                said.push(format!(
                    "The {name} is {factor:.1} times that of the period before ({:.2} ms instead of {:.2} ms): see the queries below that changed.",
                    own[at], last[at]
                ));
                break;
            }
        }
    }
    for query in queries {
        let text = query["text"].as_str().unwrap_or_default();
        if let Some(advice) = query["advice"].as_str() {
            said.push(format!("{text}: {advice}"));
        } else if let Some(change) = query["change"].as_f64().filter(|change| *change >= REMARKABLE) {
            said.push(format!("{text}: takes {change:.1} times as long as in the period before."));
        }
    }
    said
}

#[cfg(test)]
#[path = "period_tests.rs"]
mod tests;
