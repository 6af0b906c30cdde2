//! The configuration's limits, compiled, and what they say to a request.  [hot path: `Guard::policy`, `Policy::admit`]

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::adaptive::Adaptive;
use super::bucket::Quota;
use super::budget::Budget;
use super::gate::{Gate, Priority, Seat, Ticket};
use super::keyed::{Keyed, State};
use super::pressure::Pressure;
use super::rules::Access;
use crate::config::{Config, Limit, Per};
use crate::failure::Refusal;
use crate::matching::{Asked, Doubt, Rules};

/// What the guard knows, for all sessions.
pub(crate) struct Guard {
    policy: ArcSwap<Policy>,
    /// One at a time compiles a new configuration.
    compiling: Mutex<()>,
    /// In front of Neo4j.
    pub(crate) gate: Arc<Gate>,
    /// What may be run again.
    pub(crate) budget: Budget,
    /// Sidebolt's own memory.
    pub(crate) pressure: Pressure,
    epoch: Instant,
}

/// One configuration's limits.
pub(crate) struct Policy {
    /// What it was made of.
    pub(crate) config: Arc<Config>,
    limits: Box<[Compiled]>,
    limited: Rules,
    costs: Rules,
    /// Who may run what.
    pub(crate) access: Access,
    /// What `guard.adaptive` has found out, whether it is on or not.
    pub(crate) adaptive: Arc<Adaptive>,
}

/// The name of the limit that `guard.adaptive` sets.
const ADAPTIVE: &str = "guard.adaptive";

/// A limit with what it counts.
struct Compiled {
    name: Arc<str>,
    per: Per,
    rate: Option<(Quota, String)>,
    most: Option<Arc<AtomicU32>>,
    keyed: Arc<Keyed>,
}

/// Who asks.
pub(crate) struct Asking<'a> {
    /// What rules look at.
    pub(crate) asked: Asked<'a>,
    /// Its user: the name, or what stands for it.
    pub(crate) who: &'a str,
    /// The client's address.
    pub(crate) address: IpAddr,
    /// How urgent it says it is.
    pub(crate) priority: Priority,
}

/// What one limit counts for one key.
pub(crate) struct LimitReport {
    /// The limit's name.
    pub(crate) name: Arc<str>,
    /// What it tells apart.
    pub(crate) per: Per,
    /// For whom.
    pub(crate) key: Box<[u8]>,
    /// Its rate, as it is written.
    pub(crate) rate: Option<String>,
    /// Requests that may come at once, and how many of them are left.
    pub(crate) burst: Option<(u32, u32)>,
    /// Seats.
    pub(crate) most: Option<u32>,
    /// The counts.
    pub(crate) state: Arc<State>,
}

impl LimitReport {
    /// For whom it is, in words; none = for all.
    pub(crate) fn named(&self) -> Option<String> {
        match self.per {
            Per::All => None,
            Per::Principal | Per::Database | Per::Application => {
                Some(String::from_utf8_lossy(&self.key).into_owned())
            }
            Per::Address => match (<[u8; 4]>::try_from(&*self.key), <[u8; 16]>::try_from(&*self.key)) {
                (Ok(four), _) => Some(IpAddr::from(four).to_string()),
                (_, Ok(sixteen)) => Some(IpAddr::from(sixteen).to_string()),
                _ => None,
            },
        }
    }
}

impl Guard {
    /// A guard for this configuration.
    pub(crate) fn new(config: &Arc<Config>) -> Self {
        Self {
            policy: ArcSwap::from_pointee(Policy::new(config, None)),
            compiling: Mutex::default(),
            gate: Arc::default(),
            budget: Budget::default(),
            pressure: Pressure::default(),
            epoch: Instant::now(),
        }
    }

    /// The policy of this configuration, which is that in force.
    pub(crate) fn policy(&self, config: &Arc<Config>) -> Arc<Policy> {
        let policy = self.policy.load_full();
        if Arc::ptr_eq(&policy.config, config) {
            return policy;
        }
        let _compiling = self.compiling.lock();
        let policy = self.policy.load_full();
        if Arc::ptr_eq(&policy.config, config) {
            return policy;
        }
        let policy = Arc::new(Policy::new(config, Some(&policy)));
        self.policy.store(Arc::clone(&policy));
        policy
    }

    /// The number that `guard.adaptive` has found; 0 while it is off.
    pub(crate) fn adaptive(&self) -> i64 {
        let policy = self.policy.load();
        let most = policy.adaptive.most.load(Ordering::Relaxed);
        if policy.config.guard.adaptive { most.into() } else { 0 }
    }

    /// Nanoseconds since it was made.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Forgets whom nobody has asked for in a while. Called once in a while.
    pub(crate) fn sweep(&self) {
        let now = self.now();
        self.policy.load().limits.iter().for_each(|limit| limit.keyed.sweep(now));
    }

    /// What is counted, by limit; at most so many for each.
    pub(crate) fn limits(&self, most: usize) -> Vec<LimitReport> {
        let now = self.now();
        let policy = self.policy.load_full();
        let report = |limit: &Compiled| {
            let rows = limit.keyed.list(most).into_iter().map(|(key, state)| LimitReport {
                name: Arc::clone(&limit.name),
                per: limit.per,
                key,
                rate: limit.rate.as_ref().map(|(_, text)| text.clone()),
                burst: limit.rate.as_ref().map(|(quota, _)| (quota.burst, state.bucket.left(*quota, now))),
                most: limit.most.as_ref().map(|most| most.load(Ordering::Relaxed)),
                state,
            });
            rows.collect::<Vec<_>>()
        };
        let adaptive = policy.config.guard.adaptive.then(|| LimitReport {
            name: ADAPTIVE.into(),
            per: Per::All,
            key: Box::default(),
            rate: None,
            burst: None,
            most: Some(policy.adaptive.most.load(Ordering::Relaxed)),
            state: Arc::clone(&policy.adaptive.state),
        });
        policy.limits.iter().flat_map(report).chain(adaptive).collect()
    }
}

impl Policy {
    fn new(config: &Arc<Config>, before: Option<&Self>) -> Self {
        let guard = &config.guard;
        let known = |limit: &Limit| {
            let same = |other: &&Compiled| *other.name == *limit.name && other.per == limit.per;
            before.and_then(|before| before.limits.iter().find(same)).map(|other| Arc::clone(&other.keyed))
        };
        let compile = |limit: &Limit| Compiled {
            name: limit.name.as_str().into(),
            per: limit.per,
            rate: limit.rate.map(|rate| {
                let burst = limit.burst.unwrap_or_else(|| rate.of_a_second());
                (Quota::new(rate.interval(), burst), rate.to_string())
            }),
            most: limit.max_in_flight.map(|most| Arc::new(AtomicU32::new(most))),
            keyed: known(limit).unwrap_or_default(),
        };
        Self {
            limits: guard.limits.iter().map(compile).collect(),
            limited: Rules::new(guard.limits.iter().map(|limit| (&limit.when, Doubt::Counts))),
            costs: Rules::new(guard.costs.iter().map(|cost| (&cost.when, Doubt::Counts))),
            access: Access::new(guard),
            adaptive: before.map(|before| Arc::clone(&before.adaptive)).unwrap_or_default(),
            config: Arc::clone(config),
        }
    }

    /// True if it limits nothing.
    pub(crate) fn is_off(&self) -> bool {
        self.limits.is_empty() && self.access.is_off() && !self.config.guard.measures()
    }

    /// Whether a statement is small enough.
    pub(crate) fn measure(&self, text: usize, parameters: usize) -> Result<(), Refusal> {
        let guard = &self.config.guard;
        for (what, bytes, most, key) in [
            ("text", text, guard.max_statement_bytes, "guard.max_statement_bytes"),
            ("parameters", parameters, guard.max_parameter_bytes, "guard.max_parameter_bytes"),
        ] {
            if most > 0 && bytes > most {
                return Err(Refusal::TooLarge { what, bytes, most, key });
            }
        }
        Ok(())
    }

    /// True if statements inside of transactions are looked at.
    pub(crate) fn judges_statements(&self) -> bool {
        let guard = &self.config.guard;
        !self.access.is_off() || guard.max_statement_bytes > 0 || guard.max_parameter_bytes > 0
    }

    /// True if a request's text is looked at.
    pub(crate) fn needs_text(&self) -> bool {
        self.limited.need_text()
            || self.costs.need_text()
            || !self.access.is_off()
            || self.config.guard.bounds_results()
    }

    /// Counts a request; with what it needs to get to Neo4j, if anything. Refused, it was counted by no limit.
    pub(crate) fn admit(&self, asking: &Asking<'_>, now: u64) -> Result<Option<Ticket>, Refusal> {
        let mut holding = self.limited.holding(&asking.asked);
        let cost = self.cost(&asking.asked);
        let mut taken: Vec<(Arc<State>, Quota)> = Vec::new();
        let mut seats = Vec::new();
        while holding != 0 {
            let at = holding.trailing_zeros() as usize;
            holding &= holding - 1;
            let Some(limit) = self.limits.get(at) else { continue };
            let state = limit.state(asking, now);
            if let Some((quota, text)) = &limit.rate {
                if let Err(wait) = state.bucket.take(*quota, cost, now) {
                    taken.iter().for_each(|(state, quota)| state.bucket.put_back(*quota, cost));
                    state.refused.fetch_add(1, Ordering::Relaxed);
                    return Err(Refusal::RateLimited {
                        rule: limit.name.to_string(),
                        limit: text.clone(),
                        whom: limit.whom(asking),
                        left: state.bucket.left(*quota, now),
                        cost,
                        retry: wait,
                    });
                }
                taken.push((Arc::clone(&state), *quota));
            }
            state.admitted.fetch_add(1, Ordering::Relaxed);
            if let Some(most) = &limit.most {
                seats.push(Seat { state, most: Arc::clone(most), rule: Arc::clone(&limit.name) });
            }
        }
        if self.config.guard.adaptive {
            seats.push(Seat {
                state: Arc::clone(&self.adaptive.state),
                most: Arc::clone(&self.adaptive.most),
                rule: ADAPTIVE.into(),
            });
        }
        Ok((!seats.is_empty()).then(|| Ticket {
            seats: seats.into(),
            user: asking.who.into(),
            priority: asking.priority,
            trusted: self.config.guard.trust_priority,
        }))
    }

    fn cost(&self, asked: &Asked<'_>) -> u32 {
        if self.costs.is_empty() {
            return 1;
        }
        let first = self.costs.holding(asked).trailing_zeros() as usize;
        self.config.guard.costs.get(first).map_or(1, |cost| cost.cost)
    }
}

impl Compiled {
    fn state(&self, asking: &Asking<'_>, now: u64) -> Arc<State> {
        match self.per {
            Per::All => self.keyed.of(b"", now),
            Per::Principal => self.keyed.of(asking.who.as_bytes(), now),
            Per::Database => self.keyed.of(asking.asked.database.unwrap_or_default().as_bytes(), now),
            Per::Application => self.keyed.of(asking.asked.application.as_bytes(), now),
            Per::Address => match asking.address {
                IpAddr::V4(address) => self.keyed.of(&address.octets(), now),
                IpAddr::V6(address) => self.keyed.of(&address.octets(), now),
            },
        }
    }

    fn whom(&self, asking: &Asking<'_>) -> String {
        let named = |what: &str, name: &str| format!(" for {what} `{name}`");
        match self.per {
            Per::All => String::new(),
            Per::Principal => named("user", asking.who),
            Per::Database => named("database", asking.asked.database.unwrap_or("(home)")),
            Per::Application => named("application", asking.asked.application),
            Per::Address => named("address", &asking.address.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Cost, When};

    fn limit(name: &str, per: Per, rate: &str) -> Limit {
        let rate = (!rate.is_empty()).then(|| serde_json::from_value(rate.into()).unwrap());
        Limit { name: name.to_owned(), per, rate, burst: None, max_in_flight: None, when: When::default() }
    }

    fn policy(limits: Vec<Limit>) -> Policy {
        let mut config = Config::default();
        config.guard.limits = limits;
        Policy::new(&Arc::new(config), None)
    }

    fn asking(principal: &str) -> Asking<'_> {
        let asked = Asked { principal, ..Asked::default() };
        Asking { asked, who: principal, address: IpAddr::from([127, 0, 0, 1]), priority: Priority::Normal }
    }

    const NOW: u64 = 1_000_000_000_000;

    #[test]
    fn each_user_has_its_own_and_a_refusal_takes_nothing() {
        let policy = policy(vec![limit("all", Per::All, "4/s"), limit("each", Per::Principal, "2/s")]);
        for _ in 0..2 {
            assert!(policy.admit(&asking("ada"), NOW).is_ok());
        }
        for _ in 0..10 {
            let refusal = policy.admit(&asking("ada"), NOW).unwrap_err().to_string();
            assert!(refusal.contains("`each`") && refusal.contains("2/s pass for user `ada`"), "{refusal}");
        }
        // The refused ones have taken nothing from all.
        assert!(policy.admit(&asking("bob"), NOW).is_ok() && policy.admit(&asking("bob"), NOW).is_ok());
        let refusal = policy.admit(&asking("eve"), NOW).unwrap_err().to_string();
        assert!(refusal.contains("`all`"), "{refusal}");
    }

    #[test]
    fn what_costs_more_counts_more() {
        let mut config = Config::default();
        config.guard.limits = vec![limit("all", Per::All, "10/s")];
        let when = When { principal: Some("eve".to_owned()), ..When::default() };
        config.guard.costs = vec![Cost { cost: 5, when }];
        let policy = Policy::new(&Arc::new(config), None);
        assert!(policy.admit(&asking("eve"), NOW).is_ok());
        assert_eq!((0..10).filter(|_| policy.admit(&asking("ada"), NOW).is_ok()).count(), 5);
    }

    #[test]
    fn a_new_configuration_goes_on_counting() {
        let guard = Guard::new(&Arc::new({
            let mut config = Config::default();
            config.guard.limits = vec![limit("a", Per::All, "2/s"), limit("b", Per::Principal, "")];
            config.guard.limits[1].max_in_flight = Some(1);
            config
        }));
        let before = guard.policy.load_full();
        assert!(guard.policy(&before.config).admit(&asking("ada"), NOW).unwrap().is_some());
        let mut config = Config::clone(&before.config);
        config.guard.limits.remove(1);
        let config = Arc::new(config);
        let after = guard.policy(&config);
        assert!(after.admit(&asking("ada"), NOW).unwrap().is_none(), "no seat is needed any longer");
        assert!(after.admit(&asking("ada"), NOW).is_err());
        assert!(Arc::ptr_eq(&guard.policy(&config), &after));
    }
}
