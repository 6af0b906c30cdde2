//! What is wrong now, and who is told: the log, a webhook, Alertmanager, whoever looks.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::baseline::{Change, Level};
use super::post::Target;
use super::{PlanKey, Sight, in_words, kinds, moment};
use crate::session::Shared;
use crate::statement::fingerprint;

/// Alerts that are over and still shown.
const PAST: usize = 200;
/// Alerts that may be active at once.
const ACTIVE: usize = 1000;
/// News that may wait to be told.
const NEWS: usize = 200;
/// How often Alertmanager is told again what is still wrong.
const AGAIN: Duration = Duration::from_secs(60);
/// How long a plan is waited for before an alert is told.
const PLAN: Duration = Duration::from_secs(15);
/// How often it is looked at meanwhile.
const PAUSE: Duration = Duration::from_millis(100);
/// Shares of a resource that are a warning, and critical.
const SCARCE: [f64; 2] = [0.8, 0.95];
/// How far below that it is over.
const EASES: f64 = 0.05;
/// How long Alertmanager believes it.
const BELIEVED: u64 = 240_000;

/// Something that is or was wrong.
#[derive(Clone, Debug)]
pub(crate) struct Alert {
    /// What it is about: `slowdown`, `upstream`, `memory`, `gpu_memory`, ….
    pub(crate) kind: &'static str,
    pub(crate) level: Level,
    pub(crate) message: String,
    /// Milliseconds since 1970.
    pub(crate) since: u64,
    /// When it was over; none = it is not.
    pub(crate) until: Option<u64>,
    pub(crate) query: Option<Query>,
}

/// The query that an alert is about.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    pub(crate) fingerprint: u64,
    pub(crate) user: Box<str>,
    pub(crate) database: Option<Box<str>>,
    pub(crate) text: Box<str>,
    /// Of the plan that explains it.
    pub(crate) plan: Option<PlanKey>,
}

/// An alert that has begun, ended or changed its level, and when.
type News = (Instant, Alert);
/// The channels that it is sent by.
type Queues = [(&'static str, mpsc::Sender<Alert>); 2];

/// All of them.
pub(crate) struct Alerts {
    active: Mutex<BTreeMap<String, Alert>>,
    past: Mutex<VecDeque<Alert>>,
    news: mpsc::Sender<News>,
    heard: Mutex<Option<mpsc::Receiver<News>>>,
}

impl Default for Alerts {
    fn default() -> Self {
        let (news, heard) = mpsc::channel(NEWS);
        Self { active: Mutex::default(), past: Mutex::default(), news, heard: Mutex::new(Some(heard)) }
    }
}

impl Alerts {
    /// Takes the state of one thing: its level, if there is something wrong with it.
    pub(crate) fn set(&self, id: String, now: u64, state: Option<Alert>) {
        let mut active = self.active.lock();
        let before = active.get(&id);
        if before.map(|alert| alert.level) == state.as_ref().map(|alert| alert.level) {
            return;
        }
        let ended = active.remove(&id);
        let news = match state {
            Some(mut alert) => {
                alert.since = ended.map_or(alert.since, |ended| ended.since);
                if !has_room(&mut active, alert.level) {
                    return;
                }
                active.insert(id, alert.clone());
                Some(alert)
            }
            None => ended.map(|mut alert| {
                alert.until = Some(now);
                let mut past = self.past.lock();
                if past.len() >= PAST {
                    past.pop_front();
                }
                past.push_back(alert.clone());
                alert
            }),
        };
        drop(active);
        if let Some(news) = news {
            // Who cannot keep up misses some; the state is shown all the same.
            let _ = self.news.try_send((Instant::now(), news));
        }
    }

    /// How much of a resource was used, at least, for a minute.
    pub(super) fn note_resource(&self, kind: &'static str, share: f64) {
        let now = super::now();
        let held = self.active.lock().get(kind).map(|alert| alert.level);
        // What has begun ends well below.
        let margin = |level| if held >= Some(level) { EASES } else { 0.0 };
        let level = if share > SCARCE[1] - margin(Level::Critical) {
            Some(Level::Critical)
        } else if share > SCARCE[0] - margin(Level::Warning) {
            Some(Level::Warning)
        } else {
            None
        };
        let what = match kind {
            "memory" => "of this host's memory",
            "cpu" => "of this host's cores",
            "gpu_memory" => "of the GPU's memory (by this process and others)",
            "files" => "of the files that this process may open",
            _ => "of the connections to Neo4j (pool.max_connection_pool_size)",
        };
        let message = format!("{:.0} % {what} is in use.", share * 100.0);
        let alert = level.map(|level| Alert { kind, level, message, since: now, until: None, query: None });
        self.set(kind.to_owned(), now, alert);
    }

    /// What is wrong now, the worst first, and what was, the latest first.
    pub(crate) fn all(&self) -> (Vec<Alert>, Vec<Alert>) {
        let mut active: Vec<_> = self.active.lock().values().cloned().collect();
        active.sort_by(|a, b| b.level.cmp(&a.level).then(a.since.cmp(&b.since)));
        (active, self.past.lock().iter().rev().cloned().collect())
    }

    /// How many there are of each level.
    pub(crate) fn count(&self, level: Level) -> usize {
        self.active.lock().values().filter(|alert| alert.level == level).count()
    }
}

impl Alert {
    /// A slowdown that has begun; none if it has ended.
    pub(super) fn of(change: &Change, now: u64) -> Option<Self> {
        let level = change.level?;
        let millis = |nanoseconds: u64| nanoseconds as f64 / 1e6;
        let (fingerprint, user, database) = change.subject.clone();
        let kind = kinds::name(fingerprint);
        let message = format!(
            "{} {:.1} times as long as usual: {:.2} ms instead of {:.2} ms (medians).",
            kind.map_or_else(|| "A query takes".to_owned(), |name| format!("{name} take")),
            change.factor,
            millis(change.median),
            millis(change.baseline.p50)
        );
        let plan = change.row.as_ref().map(|row| row.key());
        let text = change.baseline.text.clone();
        let query = kind.is_none().then_some(Query { fingerprint, user, database, text, plan });
        Some(Self { kind: "slowdown", level, message, since: now, until: None, query })
    }

    /// As JSON, with what its query's plan says.
    pub(crate) fn json(&self, sight: &Sight) -> Value {
        let mut alert = json!({
            "kind": self.kind,
            "level": self.level.word(),
            "status": if self.until.is_some() { "resolved" } else { "firing" },
            "message": self.message,
            "since": moment(self.since),
            "until": self.until.map(moment),
        });
        if let Some(query) = &self.query {
            alert["query"] = json!({
                "fingerprint": fingerprint::shown(query.fingerprint),
                "user": query.user,
                "database": query.database,
                "text": query.text,
                "advice": query.advice(sight),
            });
        }
        alert
    }

    /// As Alertmanager wants it.
    fn for_alertmanager(&self, sight: &Sight, now: u64) -> Value {
        let mut labels = json!({
            "alertname": format!("Sidebolt{}", capital(self.kind)),
            "severity": self.level.word(),
        });
        let mut annotations = json!({"summary": self.message});
        if let Some(query) = &self.query {
            labels["fingerprint"] = fingerprint::shown(query.fingerprint).into();
            labels["user"] = (&*query.user).into();
            labels["database"] = query.database.as_deref().unwrap_or("home").into();
            annotations["query"] = (&*query.text).into();
            annotations["advice"] = query.advice(sight).unwrap_or_default().into();
        }
        json!({
            "labels": labels,
            "annotations": annotations,
            "startsAt": moment(self.since),
            "endsAt": moment(self.until.unwrap_or(now + BELIEVED)),
        })
    }

    fn log(&self, sight: &Sight) {
        let query = self.query.as_ref();
        let advice = query.and_then(|query| query.advice(sight));
        let fingerprint = query.map(|query| fingerprint::shown(query.fingerprint));
        let text = query.map(|query| &*query.text);
        let (kind, level, message) = (self.kind, self.level.word(), self.message.as_str());
        match (self.until, self.level) {
            (Some(_), _) => {
                tracing::info!(target: "alert", kind, level, fingerprint, text, message, "An alert is over.")
            }
            (None, Level::Info) => {
                tracing::info!(target: "alert", kind, level, fingerprint, text, advice, message, "An alert.");
            }
            (None, Level::Warning) => {
                tracing::warn!(target: "alert", kind, level, fingerprint, text, advice, message, "An alert.");
            }
            (None, _) => {
                tracing::error!(target: "alert", kind, level, fingerprint, text, advice, message, "An alert.");
            }
        }
    }
}

impl Query {
    /// What could be done about it, if its plan is known.
    pub(crate) fn advice(&self, sight: &Sight) -> Option<String> {
        in_words(&sight.plan(self.plan.as_ref()?)?.advice)
    }
}

/// Whether one more of this level may be active. What is less bad makes room.
fn has_room(active: &mut BTreeMap<String, Alert>, level: Level) -> bool {
    if active.len() < ACTIVE {
        return true;
    }
    let least = active.iter().min_by_key(|(_, alert)| (alert.level, std::cmp::Reverse(alert.since)));
    let Some(least) = least.filter(|(_, alert)| alert.level < level).map(|(id, _)| id.clone()) else {
        return false;
    };
    active.remove(&least).is_some()
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Tells what is new, until the end. Each channel has a queue of its own: one that hangs holds up no other.
pub(crate) async fn keep_telling(shared: Arc<Shared>, end: CancellationToken) {
    let Some(heard) = shared.sight.alerts.heard.lock().take() else { return };
    let (webhook, letters) = mpsc::channel(NEWS);
    let (alertmanager, notices) = mpsc::channel(NEWS);
    let queues = [("webhook", webhook), ("alertmanager", alertmanager)];
    let work = async {
        tokio::join!(hear(&shared, heard, &queues), post_each(&shared, letters), post_all(&shared, notices))
    };
    let _ = end.run_until_cancelled(work).await;
}

/// Takes what is new. Why is as important as that: what has a plan waits for it, and nothing else does.
async fn hear(shared: &Shared, mut heard: mpsc::Receiver<News>, queues: &Queues) {
    let mut unexplained: VecDeque<News> = VecDeque::new();
    loop {
        let news = if unexplained.is_empty() {
            heard.recv().await
        } else {
            timeout(PAUSE, heard.recv()).await.unwrap_or_default()
        };
        match news {
            Some((_, alert)) if plan(&alert).is_none() => tell(shared, &alert, queues),
            Some(news) => unexplained.push_back(news),
            None if heard.is_closed() => return,
            None => {}
        }
        while let Some((since, alert)) = unexplained.pop_front() {
            let due = plan(&alert).is_some_and(|plan| shared.sight.slow.is_due(plan));
            if due && since.elapsed() < PLAN {
                unexplained.push_front((since, alert));
                break;
            }
            tell(shared, &alert, queues);
        }
    }
}

fn plan(alert: &Alert) -> Option<&PlanKey> {
    alert.query.as_ref()?.plan.as_ref()
}

fn tell(shared: &Shared, alert: &Alert, queues: &Queues) {
    alert.log(&shared.sight);
    shared.metrics.sight.alerts.with_label_values(&[alert.kind, alert.level.word()]).inc();
    let config = shared.config.load();
    let wanted = [config.sight.webhook.is_some(), config.sight.alertmanager.is_some()];
    for ((channel, queue), wanted) in queues.iter().zip(wanted) {
        if wanted && queue.try_send(alert.clone()).is_err() {
            count(shared, channel, Err(format!("{NEWS} alerts wait already")));
        }
    }
}

/// Posts alerts to the webhook, one by one.
async fn post_each(shared: &Shared, mut letters: mpsc::Receiver<Alert>) {
    while let Some(alert) = letters.recv().await {
        let Some(url) = shared.config.load().sight.webhook.clone() else { continue };
        let sent = match Target::parse(&url) {
            Ok(target) => target.post(&alert.json(&shared.sight).to_string()).await,
            Err(reason) => Err(reason),
        };
        count(shared, "webhook", sent);
    }
}

/// Posts alerts to Alertmanager, and now and then again what is still wrong.
async fn post_all(shared: &Shared, mut notices: mpsc::Receiver<Alert>) {
    let mut again = tokio::time::interval(AGAIN);
    again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let mut alerts = Vec::new();
        tokio::select! {
            _ = notices.recv_many(&mut alerts, NEWS) => {}
            _ = again.tick() => alerts = shared.sight.alerts.all().0,
        }
        to_alertmanager(shared, &alerts).await;
    }
}

async fn to_alertmanager(shared: &Shared, alerts: &[Alert]) {
    let config = shared.config.load_full();
    let Some(url) = config.sight.alertmanager.as_ref().filter(|_| !alerts.is_empty()) else { return };
    let now = super::now();
    let body: Vec<Value> = alerts.iter().map(|alert| alert.for_alertmanager(&shared.sight, now)).collect();
    let sent = match Target::parse(url) {
        Ok(target) => target.with_path("/api/v2/alerts").post(&Value::from(body).to_string()).await,
        Err(reason) => Err(reason),
    };
    count(shared, "alertmanager", sent);
}

fn count(shared: &Shared, channel: &'static str, sent: Result<(), String>) {
    let outcome = if sent.is_ok() { "success" } else { "failure" };
    shared.metrics.sight.posts.with_label_values(&[channel, outcome]).inc();
    if let Err(reason) = sent {
        // The address may have a password in it.
        tracing::warn!(channel, reason, "An alert could not be sent; check sight.{channel}.");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_have_two_levels_and_do_not_flutter() {
        let alerts = Alerts::default();
        let mut seen = Vec::new();
        for share in [0.79, 0.81, 0.78, 0.76, 0.74, 0.96, 0.92, 0.89, 0.1] {
            alerts.note_resource("memory", share);
            seen.push(alerts.all().0.first().map(|alert| alert.level));
        }
        let (warning, critical) = (Some(Level::Warning), Some(Level::Critical));
        assert_eq!(seen, [None, warning, warning, warning, None, critical, critical, warning, None]);
        assert_eq!(alerts.all().1.len(), 2);
    }

    #[test]
    fn many_alerts_leave_room_for_what_is_worse() {
        let alerts = Alerts::default();
        let mut heard = alerts.heard.lock().take().unwrap();
        let alert = |level| Alert {
            kind: "slowdown",
            level,
            message: String::new(),
            since: 0,
            until: None,
            query: None,
        };
        for nth in 0..ACTIVE + 10 {
            alerts.set(format!("{nth}"), 1, Some(alert(Level::Warning)));
        }
        assert_eq!(alerts.all().0.len(), ACTIVE);
        while heard.try_recv().is_ok() {}
        // Looked at each second, it is told once.
        for now in 0..3 {
            alerts.set("upstream".to_owned(), now, Some(alert(Level::Emergency)));
            alerts.set("late".to_owned(), now, Some(alert(Level::Warning)));
        }
        assert_eq!(heard.try_recv().unwrap().1.level, Level::Emergency);
        assert!(heard.try_recv().is_err());
        let (active, _) = alerts.all();
        assert_eq!(
            (active.len(), active[0].level, active[1].level),
            (ACTIVE, Level::Emergency, Level::Warning)
        );
        alerts.set("upstream".to_owned(), 4, None);
        assert!(heard.try_recv().unwrap().1.until.is_some());
    }
}
