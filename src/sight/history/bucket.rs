//! What went on in a minute, an hour or a day: sums that can be added to each other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::sight::histogram::quantiles;
use crate::sight::resources::Sample;

/// Queries that an hour keeps: those that took most time.
pub(super) const QUERIES: usize = 40;
/// Letters of their texts.
const TEXT: usize = 200;

/// What went on in some time.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(crate) struct Bucket {
    /// Seconds that were looked at.
    pub(super) seconds: u64,
    pub(super) requests: u64,
    pub(super) failures: u64,
    pub(super) cached: u64,
    pub(super) batched: u64,
    /// How long requests took: steps of the histogram, and how many there were of each.
    pub(super) times: Vec<(u32, u64)>,
    /// Neo4j's failures by code, and Sidebolt's own refusals by reason.
    pub(super) errors: BTreeMap<String, u64>,
    pub(super) refusals: BTreeMap<String, u64>,
    /// Connections to Neo4j: in use on average over the seconds and at most, requests that waited, how many there may be.
    pub(super) lent_sum: u64,
    pub(super) lent_most: u32,
    pub(super) waiting_most: u32,
    pub(super) connections: u32,
    pub(super) clients_most: u32,
    /// Bytes: at most, and at the end.
    pub(super) memory_most: u64,
    pub(super) memory_last: u64,
    pub(super) host_used_most: u64,
    pub(super) host_used_last: u64,
    pub(super) host_memory: u64,
    /// Cores that were busy, over the seconds and at most.
    pub(super) cores_sum: f64,
    pub(super) cores_most: f64,
    pub(super) host_cores_sum: f64,
    pub(super) host_cores_most: f64,
    pub(super) files_most: u32,
    pub(super) files_limit: u64,
    /// The queries that took most time; kept by hours only.
    pub(super) queries: Vec<Spent>,
}

/// What a query took.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(crate) struct Spent {
    pub(super) fingerprint: u64,
    pub(super) user: Box<str>,
    pub(super) database: Option<Box<str>>,
    pub(super) text: Box<str>,
    pub(super) calls: u64,
    pub(super) failures: u64,
    /// Nanoseconds, all together.
    pub(super) took: u64,
}

impl Spent {
    /// Whether it is the same query of the same user.
    fn is_same(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint && self.user == other.user && self.database == other.database
    }

    /// A text as it is kept.
    pub(super) fn cut(text: &str) -> Box<str> {
        match text.char_indices().nth(TEXT) {
            Some((end, _)) => format!("{}…", &text[..end]).into(),
            None => text.into(),
        }
    }
}

impl Bucket {
    /// Adds a second.
    pub(super) fn second(&mut self, sample: &Sample) {
        self.seconds += 1;
        self.requests += u64::from(sample.requests);
        self.failures += u64::from(sample.failures);
        self.cached += u64::from(sample.cached);
        self.batched += u64::from(sample.batched);
        self.lent_sum += u64::from(sample.pool_lent);
        self.lent_most = self.lent_most.max(sample.pool_lent);
        self.waiting_most = self.waiting_most.max(sample.pool_waiting);
        self.clients_most = self.clients_most.max(sample.clients);
        self.memory_most = self.memory_most.max(sample.process_memory);
        self.host_used_most = self.host_used_most.max(sample.host_memory_used);
        (self.memory_last, self.host_used_last) = (sample.process_memory, sample.host_memory_used);
        self.host_memory = sample.host_memory;
        self.cores_sum += f64::from(sample.process_cores);
        self.cores_most = self.cores_most.max(sample.process_cores.into());
        self.host_cores_sum += f64::from(sample.host_cores);
        self.host_cores_most = self.host_cores_most.max(sample.host_cores.into());
        self.files_most = self.files_most.max(sample.files);
        self.files_limit = sample.files_most;
    }

    /// Adds what went on after this.
    pub(super) fn add(&mut self, later: &Self) {
        for (own, more) in [
            (&mut self.seconds, later.seconds),
            (&mut self.requests, later.requests),
            (&mut self.failures, later.failures),
            (&mut self.cached, later.cached),
            (&mut self.batched, later.batched),
            (&mut self.lent_sum, later.lent_sum),
        ] {
            *own = own.saturating_add(more);
        }
        self.times = merged(&self.times, &later.times);
        for (own, more) in [(&mut self.errors, &later.errors), (&mut self.refusals, &later.refusals)] {
            for (name, count) in more {
                *own.entry(name.clone()).or_default() += count;
            }
        }
        self.lent_most = self.lent_most.max(later.lent_most);
        self.waiting_most = self.waiting_most.max(later.waiting_most);
        self.clients_most = self.clients_most.max(later.clients_most);
        self.memory_most = self.memory_most.max(later.memory_most);
        self.host_used_most = self.host_used_most.max(later.host_used_most);
        self.files_most = self.files_most.max(later.files_most);
        self.cores_sum += later.cores_sum;
        self.host_cores_sum += later.host_cores_sum;
        self.cores_most = self.cores_most.max(later.cores_most);
        self.host_cores_most = self.host_cores_most.max(later.host_cores_most);
        if later.seconds > 0 {
            (self.memory_last, self.host_used_last) = (later.memory_last, later.host_used_last);
            (self.host_memory, self.files_limit) = (later.host_memory, later.files_limit);
            self.connections = later.connections;
        }
        self.spend(&later.queries);
    }

    /// Adds what queries took; those that took least are left out where there are too many.
    fn spend(&mut self, later: &[Spent]) {
        for more in later {
            match self.queries.iter_mut().find(|own| own.is_same(more)) {
                Some(own) => {
                    own.calls += more.calls;
                    own.failures += more.failures;
                    own.took += more.took;
                }
                None => self.queries.push(more.clone()),
            }
        }
        self.queries.sort_by(|a, b| b.took.cmp(&a.took).then(a.fingerprint.cmp(&b.fingerprint)));
        self.queries.truncate(QUERIES);
    }

    /// Milliseconds below which half, 95 % and 99 % of all requests were; none if there was no request.
    pub(super) fn percentiles(&self) -> Option<[f64; 3]> {
        let steps: Vec<(usize, u64)> = self.times.iter().map(|(at, count)| (*at as usize, *count)).collect();
        Some(quantiles(&steps, [0.5, 0.95, 0.99])?.map(|time| time as f64 / 1e6))
    }
}

/// The sum of two sparse histograms.
fn merged(one: &[(u32, u64)], other: &[(u32, u64)]) -> Vec<(u32, u64)> {
    let mut sum: BTreeMap<u32, u64> = one.iter().copied().collect();
    for (at, count) in other {
        *sum.entry(*at).or_default() += count;
    }
    sum.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sight::histogram::{Histogram, Since};

    #[test]
    fn sums_of_parts_are_those_of_the_whole() {
        let mut random = fastrand::Rng::with_seed(7);
        let (histogram, mut since) = (Histogram::default(), Since::default());
        let (mut all, mut exact) = (Bucket::default(), Vec::new());
        for minute in 0..60u32 {
            let mut bucket = Bucket { connections: 10, ..Bucket::default() };
            for second in 0..60 {
                let time = random.u64(10_000..50_000_000);
                histogram.record(time);
                exact.push(time);
                bucket.second(&Sample {
                    requests: 1,
                    failures: u32::from(second == 0),
                    pool_lent: minute % 8,
                    process_memory: u64::from(minute) + 1,
                    host_cores: 0.5,
                    ..Sample::default()
                });
            }
            bucket.times = since.steps(&histogram).into_iter().map(|(at, n)| (at as u32, n)).collect();
            bucket.errors.insert("Neo.A".to_owned(), 2);
            let spent = |nth: u32, took| Spent {
                fingerprint: nth.into(),
                calls: 1,
                took,
                text: "t".into(),
                ..Spent::default()
            };
            bucket.queries = vec![spent(1, 1000), spent(minute + 10, u64::from(minute))];
            all.add(&bucket);
        }
        assert_eq!((all.seconds, all.requests, all.failures), (3600, 3600, 60));
        assert_eq!((all.lent_most, all.memory_most, all.memory_last), (7, 60, 60));
        assert_eq!((all.errors["Neo.A"], all.connections, all.host_cores_sum), (120, 10, 1800.0));
        assert_eq!((all.queries.len(), all.queries[0].calls, all.queries[0].took), (QUERIES, 60, 60_000));
        exact.sort_unstable();
        for (found, share) in all.percentiles().unwrap().into_iter().zip([0.5, 0.95, 0.99]) {
            let exact = exact[(share * 3600.0) as usize - 1] as f64 / 1e6;
            assert!((found - exact).abs() <= 0.01 * exact, "{share}: {found} for {exact}");
        }
        let read: Bucket = serde_json::from_str(&serde_json::to_string(&all).unwrap()).unwrap();
        assert_eq!(read, all);
        // What an older Sidebolt has not written is zero.
        assert_eq!(serde_json::from_str::<Bucket>("{}").unwrap(), Bucket::default());
        assert_eq!(Bucket::default().percentiles(), None);
    }

    #[test]
    fn texts_are_cut_between_letters() {
        assert_eq!(&*Spent::cut("short"), "short");
        let cut = Spent::cut(&"ä".repeat(300));
        assert_eq!(cut.chars().count(), TEXT + 1);
    }
}
