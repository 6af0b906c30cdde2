//! The slow-query log: who waited long, for what, and where the time went.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bolt_wire::packstream::{MapView, Value};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::advice::{Advice, Plan};
use super::queries::Row;
use super::{Answered, Finished, Outcome, moment};
use crate::config::{self, Config, Parameters};
use crate::matching::{Asked, Doubt, Rules};
use crate::statement::{Statement, fingerprint};
use crate::upstream::Principal;

/// Bytes of a text or of parameters that are shown.
const SHOWN: usize = 2000;
/// Queries that may wait for their plan.
const WAITING: usize = 32;
/// Queries whose plan is kept.
const PLANS: usize = 1000;
/// How soon a plan is asked for again: indexes come and go.
const AGAIN: Duration = Duration::from_secs(600);

/// A request that took long.
#[derive(Clone, Debug)]
pub(crate) struct Slow {
    /// Milliseconds since 1970.
    pub(crate) when: u64,
    pub(crate) fingerprint: u64,
    pub(crate) text: Box<str>,
    pub(crate) principal: [u8; 32],
    pub(crate) user: Box<str>,
    pub(crate) database: Option<Box<str>>,
    pub(crate) application: Box<str>,
    pub(crate) client: Box<str>,
    pub(crate) answered: Answered,
    pub(crate) outcome: Outcome,
    pub(crate) code: Option<Box<str>>,
    pub(crate) took: Duration,
    pub(crate) waited: Duration,
    pub(crate) first: Duration,
    pub(crate) t_first: Option<i64>,
    pub(crate) t_last: Option<i64>,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    pub(crate) parameters: Option<Box<str>>,
}

/// A query whose plan is wanted.
pub(super) struct Wanted {
    pub(super) key: PlanKey,
    pub(super) statement: Arc<Statement>,
    pub(super) principal: Arc<Principal>,
    pub(super) database: Option<Arc<str>>,
    pub(super) rows: u64,
    pub(super) varied: bool,
}

/// The thresholds of the configuration in force; rules are compiled when they are first needed.
#[derive(Default)]
pub(super) struct Thresholds {
    compiled: ArcSwapOption<(Arc<Config>, Rules)>,
}

impl Thresholds {
    /// From when on a request is slow; zero = never.
    pub(super) fn of(&self, config: &Arc<Config>, finished: &Finished<'_>) -> Duration {
        let rules = &config.sight.slow_rules;
        if rules.is_empty() {
            return config.sight.slow_threshold;
        }
        let asked = Asked {
            statement: Some(finished.statement),
            reads: false,
            principal: &finished.principal.name,
            address: finished.client.map(|client| client.ip().to_canonical()),
            application: finished.application,
            database: finished.database.map(|name| &**name),
        };
        let known = self.compiled.load();
        let holding = match known.as_ref().filter(|known| Arc::ptr_eq(&known.0, config)) {
            Some(known) => known.1.holding(&asked),
            None => {
                let compiled = Rules::new(rules.iter().map(|rule| (&rule.when, Doubt::Fails)));
                let holding = compiled.holding(&asked);
                self.compiled.store(Some(Arc::new((Arc::clone(config), compiled))));
                holding
            }
        };
        let rule = rules.get(holding.trailing_zeros() as usize);
        rule.map_or(config.sight.slow_threshold, |rule| rule.threshold)
    }
}

/// Fingerprint, principal, database.
pub(crate) type PlanKey = (u64, [u8; 32], Option<Box<str>>);

/// What was slow of late, and why.
#[derive(Default)]
pub(super) struct SlowLog {
    kept: Mutex<VecDeque<Arc<Slow>>>,
    pace: Mutex<Pace>,
    plans: Mutex<HashMap<PlanKey, Known>>,
    waiting: Mutex<VecDeque<Wanted>>,
    /// A plan is wanted.
    pub(super) asked: Notify,
}

/// What is known of a plan.
struct Known {
    since: Instant,
    /// It was asked for, and there is no answer yet.
    due: bool,
    plan: Option<Arc<Plan>>,
}

/// How many lines the log has had.
#[derive(Default)]
struct Pace {
    since: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Pace {
    /// Whether another line may be written, and how many were not since the last one.
    fn take(&mut self, most: u32) -> Option<u64> {
        let now = Instant::now();
        if self.since.is_none_or(|since| now - since >= Duration::from_secs(1)) {
            (self.since, self.lines) = (Some(now), 0);
        }
        if self.lines >= most {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl SlowLog {
    /// Keeps and logs a request that took long.
    pub(super) fn record(&self, finished: &Finished<'_>, row: &Row, config: &config::Sight) {
        let slow = Arc::new(Slow::of(finished, row, config));
        if let Some(left_out) = self.pace.lock().take(config.slow_lines_per_second) {
            slow.log(left_out);
        }
        let mut kept = self.kept.lock();
        while kept.len() >= config.slow_kept.max(1) {
            kept.pop_front();
        }
        if config.slow_kept > 0 {
            kept.push_back(slow);
        }
    }

    /// Asks for a query's plan, unless it is known or asked for already.
    pub(super) fn want(&self, wanted: Wanted) {
        let mut plans = self.plans.lock();
        if plans.len() >= PLANS {
            plans.retain(|_, known| known.since.elapsed() < AGAIN);
        }
        let room = plans.len() < PLANS;
        match plans.entry(wanted.key.clone()) {
            Entry::Occupied(known) if known.get().since.elapsed() < AGAIN => return,
            Entry::Occupied(mut known) => {
                (known.get_mut().since, known.get_mut().due) = (Instant::now(), true);
            }
            Entry::Vacant(place) if room => {
                place.insert(Known { since: Instant::now(), due: true, plan: None });
            }
            Entry::Vacant(_) => return,
        }
        drop(plans);
        let mut waiting = self.waiting.lock();
        if waiting.len() < WAITING {
            waiting.push_back(wanted);
            self.asked.notify_one();
        } else {
            drop(waiting);
            self.learn(&wanted.key, None);
        }
    }

    /// The next query whose plan is wanted.
    pub(super) fn next(&self) -> Option<Wanted> {
        self.waiting.lock().pop_front()
    }

    /// Takes a plan over; none: it cannot be had.
    pub(super) fn learn(&self, key: &PlanKey, plan: Option<Plan>) {
        if let Some(known) = self.plans.lock().get_mut(key) {
            (known.since, known.due, known.plan) = (Instant::now(), false, plan.map(Arc::new));
        }
    }

    /// A plan is on its way.
    pub(super) fn is_due(&self, key: &PlanKey) -> bool {
        self.plans.lock().get(key).is_some_and(|known| known.due)
    }

    /// A plan is out of date.
    pub(super) fn forget(&self, key: &PlanKey) {
        self.plans.lock().remove(key);
    }

    /// What is known of the plan of a query.
    pub(super) fn plan(&self, key: &PlanKey) -> Option<Arc<Plan>> {
        self.plans.lock().get(key)?.plan.clone()
    }

    /// The slow requests that `wanted` wants, the latest first.
    pub(super) fn latest(&self, most: usize, wanted: impl Fn(&Slow) -> bool) -> Vec<Arc<Slow>> {
        self.kept.lock().iter().rev().filter(|slow| wanted(slow)).take(most).cloned().collect()
    }
}

impl Slow {
    fn of(finished: &Finished<'_>, row: &Row, config: &config::Sight) -> Self {
        let full = config.slow_parameters == Parameters::Full;
        let text = if full { cut(&finished.statement.text) } else { row.text.to_string() };
        let parameters = match config.slow_parameters {
            Parameters::Redact => None,
            Parameters::Names => Some(finished.statement.parameters.join(", ")),
            Parameters::Full => finished.parameters.map(shown),
        };
        Self {
            when: super::queries::now(),
            fingerprint: row.fingerprint,
            text: text.into(),
            principal: row.principal,
            user: row.user.clone(),
            database: row.database.clone(),
            application: finished.application.into(),
            client: finished.client.map(|client| client.to_string()).unwrap_or_default().into(),
            answered: finished.answered,
            outcome: finished.outcome,
            code: finished.code.map(Into::into),
            took: finished.took,
            waited: finished.waited,
            first: finished.first,
            t_first: finished.t_first,
            t_last: finished.t_last,
            rows: finished.rows,
            bytes: finished.bytes,
            parameters: parameters.map(Into::into),
        }
    }

    /// What is left of the time behind RUN's answer.
    pub(crate) fn stream(&self) -> Duration {
        self.took.saturating_sub(self.waited + self.first)
    }

    /// The key of its plan.
    pub(crate) fn key(&self) -> PlanKey {
        (self.fingerprint, self.principal, self.database.clone())
    }

    fn log(&self, left_out: u64) {
        let millis = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        tracing::warn!(
            target: "slow",
            time = moment(self.when),
            fingerprint = fingerprint::shown(self.fingerprint),
            text = &*self.text,
            parameters = self.parameters.as_deref(),
            user = &*self.user,
            database = self.database.as_deref(),
            application = &*self.application,
            client = &*self.client,
            answered = self.answered.word(),
            outcome = self.outcome.word(),
            code = self.code.as_deref(),
            took_ms = millis(self.took),
            wait_ms = millis(self.waited),
            first_ms = millis(self.first),
            stream_ms = millis(self.stream()),
            t_first_ms = self.t_first,
            t_last_ms = self.t_last,
            rows = self.rows,
            bytes = self.bytes,
            left_out,
            "A query was slow."
        );
    }
}

/// Advice in one text; none = there is none.
pub(crate) fn in_words(advice: &[Advice]) -> Option<String> {
    let texts: Vec<&str> = advice.iter().map(|advice| advice.text.as_str()).collect();
    (!texts.is_empty()).then(|| texts.join(" "))
}

/// Parameters (a PackStream map) as they are logged where that is wanted.
fn shown(parameters: &[u8]) -> String {
    let Ok(map) = MapView::parse(parameters) else { return String::new() };
    let mut out = String::from("{");
    for (name, value) in map.iter() {
        if out.len() > SHOWN {
            out.push('…');
            break;
        }
        let value = Value::decode(value).map(|value| format!("{value:?}")).unwrap_or_default();
        if out.len() > 1 {
            out.push_str(", ");
        }
        out.push_str(&format!("{name}: {}", cut(&value)));
    }
    out.push('}');
    out
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_log_has_so_many_lines_a_second() {
        let mut pace = Pace::default();
        let taken: Vec<_> = (0..5).map(|_| pace.take(3)).collect();
        assert_eq!(taken, [Some(0), Some(0), Some(0), None, None]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((pace.take(3), pace.take(3)), (Some(2), Some(0)));
        assert_eq!(pace.take(0), None);
    }

    #[test]
    fn parameters_are_cut() {
        let value =
            Value::map([("name", "Ann".into()), ("long", "x".repeat(100_000).into()), ("z", 1.into())]);
        let text = shown(&value.to_bytes());
        assert!(
            text.starts_with("{name: String(\"Ann\"), long: String(\"xxx") && text.len() < 3 * SHOWN,
            "{text}"
        );
        assert_eq!(shown(&[0xFF]), "");
    }
}
