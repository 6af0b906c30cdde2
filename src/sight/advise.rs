//! What the load of the last hour says about the pool's size and the guard's limits.

use serde_json::{Value, json};

use super::resources::Sample;
use crate::config::Config;

/// Seconds, and requests in them, below which nothing is said.
const SECONDS: usize = 60;
const REQUESTS: u64 = 1_000;

/// What the load was.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Load {
    seconds: usize,
    requests: u64,
    /// Of one second.
    most_requests: u32,
    /// Connections in use, and requests that waited for one, in all but the busiest hundredth of the seconds.
    lent: u32,
    waited: u32,
    most_lent: u32,
    /// Bytes of this process, at most.
    memory: u64,
    /// The longest query, in seconds.
    longest: f64,
}

impl Load {
    fn of(samples: &[Sample], longest: f64) -> Self {
        let most = |of: fn(&Sample) -> u32| samples.iter().map(of).max().unwrap_or(0);
        Self {
            seconds: samples.len(),
            requests: samples.iter().map(|sample| u64::from(sample.requests)).sum(),
            most_requests: most(|sample| sample.requests),
            lent: usual(samples, |sample| sample.pool_lent),
            waited: usual(samples, |sample| sample.pool_waiting),
            most_lent: most(|sample| sample.pool_lent),
            memory: samples.iter().map(|sample| sample.process_memory).max().unwrap_or(0),
            longest,
        }
    }
}

/// The value that 99 of 100 seconds do not exceed.
fn usual(samples: &[Sample], of: fn(&Sample) -> u32) -> u32 {
    let mut values: Vec<u32> = samples.iter().map(of).collect();
    values.sort_unstable();
    values.get((values.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0)
}

/// Half as much again, in fives.
fn with_room(count: u32) -> u32 {
    (count + count.div_ceil(2)).div_ceil(5).max(1) * 5
}

/// Advice for this configuration, from the seconds of the last hour and the longest query in seconds.
pub(crate) fn advise(samples: &[Sample], longest: f64, servers: usize, config: &Config) -> Value {
    let load = Load::of(samples, longest);
    let enough = load.seconds >= SECONDS && load.requests >= REQUESTS;
    let advice = if enough { list(&load, servers, config) } else { Vec::new() };
    json!({
        "seconds": load.seconds,
        "requests": load.requests,
        "enough": enough,
        "advice": advice,
    })
}

fn list(load: &Load, servers: usize, config: &Config) -> Vec<Value> {
    let mut advice = Vec::new();
    let mut say = |key: &str, now: Value, better: Value, why: String| {
        advice.push(json!({ "key": key, "now": now, "better": better, "why": why }));
    };
    let pool = u32::try_from(config.pool.max_connection_pool_size).unwrap_or(u32::MAX);
    let servers = u32::try_from(servers.max(1)).unwrap_or(1);
    let needed = with_room((load.lent + load.waited).div_ceil(servers));
    if load.waited > 0 && needed > pool {
        let why = format!(
            "{} connections were in use and {} requests waited for one in the busiest hundredth of the seconds",
            load.lent, load.waited
        );
        say("pool.max_connection_pool_size", pool.into(), needed.into(), why);
    } else if pool >= 20 && needed.saturating_mul(4) <= pool {
        let why = format!(
            "no more than {} connections were in use at once: a smaller pool protects Neo4j from a sudden crowd",
            load.most_lent
        );
        say("pool.max_connection_pool_size", pool.into(), needed.into(), why);
    }
    let guard = &config.guard;
    if !guard.adaptive && !guard.limits.iter().any(|limit| limit.max_in_flight.is_some()) {
        let why = "nothing limits how many requests are at Neo4j at once but the pool's size; the others wait, in turn by user";
        say("guard.adaptive", false.into(), true.into(), why.to_owned());
    }
    if !guard.limits.iter().any(|limit| limit.rate.is_some()) {
        let rate = with_room(load.most_requests.saturating_mul(2));
        let limit = format!("{{name: each user, per: principal, rate: {rate}/s}}");
        let why = format!(
            "twice the {} requests of the busiest second: nobody has come near it, and a loop that runs wild is stopped",
            load.most_requests
        );
        say("guard.limits", json!([]), json!([limit]), why);
    }
    if guard.max_tx_timeout.is_zero() && load.longest > 0.0 {
        let seconds = (load.longest * 2.0).ceil().max(10.0) as u64;
        let why = format!("the longest query took {:.1} s; nothing ends one that never would", load.longest);
        say("guard.max_tx_timeout", "0s".into(), format!("{seconds}s").into(), why);
    }
    if guard.max_memory == 0 && load.memory > 0 {
        let mebibytes = (load.memory * 2).div_ceil(64 << 20) * 64;
        let why = format!("Sidebolt took {} MiB at most", load.memory >> 20);
        say("guard.max_memory", 0.into(), format!("{mebibytes}MiB").into(), why);
    }
    advice
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(lent: u32, waiting: u32) -> Vec<Sample> {
        let second = Sample {
            requests: 100,
            pool_lent: lent,
            pool_waiting: waiting,
            process_memory: 30 << 20,
            ..Sample::default()
        };
        vec![second; 300]
    }

    fn better(advice: &Value, key: &str) -> Option<Value> {
        let entries = advice["advice"].as_array()?;
        entries.iter().find(|entry| entry["key"] == key).map(|entry| entry["better"].clone())
    }

    #[test]
    fn a_pool_is_made_larger_where_requests_wait_and_smaller_where_it_is_idle() {
        let mut config = Config::default();
        config.pool.max_connection_pool_size = 20;
        let key = "pool.max_connection_pool_size";
        assert_eq!(better(&advise(&samples(20, 10), 0.2, 1, &config), key), Some(json!(45)));
        assert_eq!(better(&advise(&samples(40, 20), 0.2, 2, &config), key), Some(json!(45)), "each of two");
        assert_eq!(better(&advise(&samples(20, 0), 0.2, 1, &config), key), None, "nobody waits");
        assert_eq!(better(&advise(&samples(2, 0), 0.2, 1, &config), key), Some(json!(5)));
        // One second in three hundred is no rule.
        let mut rare = samples(5, 0);
        rare[7] = samples(20, 50)[0];
        assert_eq!(better(&advise(&rare, 0.2, 1, &config), key), None);
    }

    #[test]
    fn limits_leave_room_and_what_is_set_is_left_alone() {
        let mut config = Config::default();
        let advice = advise(&samples(9, 0), 7.3, 1, &config);
        assert_eq!(better(&advice, "guard.max_tx_timeout"), Some(json!("15s")));
        assert_eq!(better(&advice, "guard.max_memory"), Some(json!("64MiB")));
        let limit = json!(["{name: each user, per: principal, rate: 300/s}"]);
        assert_eq!(better(&advice, "guard.limits"), Some(limit));
        assert_eq!(better(&advice, "guard.adaptive"), Some(json!(true)));
        config.guard.max_tx_timeout = std::time::Duration::from_secs(60);
        (config.guard.max_memory, config.guard.adaptive) = (1 << 30, true);
        let advice = advise(&samples(9, 0), 7.3, 1, &config);
        for key in ["guard.max_tx_timeout", "guard.max_memory", "guard.adaptive"] {
            assert_eq!(better(&advice, key), None, "{key}");
        }
    }

    #[test]
    fn little_says_nothing() {
        let config = Config::default();
        for few in [&samples(9, 0)[..59], &vec![Sample::default(); 300][..], &[]] {
            let advice = advise(few, 1.0, 1, &config);
            assert_eq!((&advice["enough"], &advice["advice"]), (&json!(false), &json!([])));
        }
    }
}
