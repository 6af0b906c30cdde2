//! Looks at everything now and then: what takes longer than usual, and whether Neo4j answers.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;

use super::alerts::{Alert, Alerts};
use super::baseline::{Found, Kept, Level, Subject};
use super::history::Keeper;
use super::queries::Row;
use super::resources::Sample;
use super::slow::Wanted;
use super::{Sight, kinds, now};
use crate::app::Health;
use crate::config::Config;
use crate::session::Shared;
use crate::statement::Statement;

/// How often it looks whether Neo4j answers.
const TICK: Duration = Duration::from_secs(1);
/// Ticks from one writing of the baselines to the next.
const WRITES: u64 = 60;
/// Seconds for which a resource must be short.
pub(super) const MINUTE: usize = 60;
/// Ticks in a row for which Neo4j must be silent, and must not.
const SILENT: u32 = 5;
/// How long the last writing may take.
const LAST: Duration = Duration::from_secs(10);
/// Bytes that a file of baselines may have.
const LARGEST: u64 = 64 << 20;

/// Watches until the end.
pub(crate) async fn keep_watch(shared: Arc<Shared>, health: Arc<Health>, end: CancellationToken) {
    let mut watchman = Watchman {
        shared,
        health,
        tick: 0,
        step: 0,
        silent: 0,
        file: BaselineFile::default(),
        keeper: Keeper::default(),
        gpu: Gpu::default(),
    };
    watchman.restore().await;
    watchman.keeper.open(&watchman.shared).await;
    let work = async {
        let mut every = tokio::time::interval(TICK);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            watchman.look().await;
        }
    };
    let _ = end.run_until_cancelled(work).await;
    watchman.keeper.finish(&watchman.shared).await;
    watchman.finish().await;
}

/// How much of what there is was used in each second, the least of a minute: what passes by is no matter.
fn shares(minute: &[Sample], connections: usize) -> [(&'static str, f64); 5] {
    let cores = std::thread::available_parallelism().map_or(1.0, |count| count.get() as f64);
    let least = |share: &dyn Fn(&Sample) -> f64| {
        if minute.len() < MINUTE { 0.0 } else { minute.iter().map(share).fold(f64::INFINITY, f64::min) }
    };
    let of = |used: f64, all: f64| if all > 0.0 { used / all } else { 0.0 };
    [
        ("memory", least(&|s| of(s.host_memory_used as f64, s.host_memory as f64))),
        ("cpu", least(&|s| of(f64::from(s.host_cores), cores))),
        ("files", least(&|s| of(f64::from(s.files), s.files_most as f64))),
        ("gpu_memory", least(&|s| of(s.gpu_memory_used as f64, s.gpu_memory as f64))),
        ("pool", least(&|s| of(f64::from(s.pool_lent), connections as f64))),
    ]
}

/// What has been short for a minute is an alert. `connections`: how many the pools may have.
pub(super) fn note_resources(alerts: &Alerts, minute: &[Sample], connections: usize) {
    for (kind, share) in shares(minute, connections) {
        alerts.note_resource(kind, share);
    }
}

struct Watchman {
    shared: Arc<Shared>,
    health: Arc<Health>,
    tick: u64,
    /// Looks at the queries.
    step: u64,
    /// Ticks for which Neo4j has not answered.
    silent: u32,
    file: BaselineFile,
    keeper: Keeper,
    gpu: Gpu,
}

/// The GPU's memory, read where a driver that hangs holds up nobody.
#[derive(Default)]
struct Gpu {
    reading: Option<JoinHandle<Option<[u64; 2]>>>,
}

impl Gpu {
    /// Bytes that were in use a moment ago, and in all; nothing if that is not known.
    async fn look(&mut self, enabled: bool) -> [u64; 2] {
        if self.reading.as_ref().is_some_and(|reading| !reading.is_finished()) {
            return [0; 2];
        }
        let read = match self.reading.take() {
            Some(reading) => reading.await.ok().flatten(),
            None => None,
        };
        self.reading = enabled.then(|| tokio::task::spawn_blocking(gnn::gpu_memory));
        read.filter(|_| enabled).map_or([0; 2], |[all, free]| [all.saturating_sub(free), all])
    }
}

impl Watchman {
    async fn look(&mut self) {
        self.tick += 1;
        self.look_at_upstream();
        let config = self.shared.config.load_full();
        let gpu = self.gpu.look(config.gnn.enabled).await;
        self.sample(gpu);
        if self.tick.is_multiple_of(config.sight.compare_every.as_secs().max(1)) {
            self.step += 1;
            self.shared.sight.step(self.step, &config);
        }
        self.keeper.tick(&self.shared, now() / 1000).await;
        if self.tick.is_multiple_of(WRITES) {
            self.write().await;
        }
    }

    /// What is used now; too much of it is an alert. `gpu`: bytes of its memory that are in use, and in all.
    fn sample(&self, [gpu_memory_used, gpu_memory]: [u64; 2]) {
        let shared = &self.shared;
        let mut sample = Sample {
            time: now() / 1000,
            gpu_memory_used,
            gpu_memory,
            clients: u32::try_from(shared.registry.len()).unwrap_or(u32::MAX),
            ..Sample::default()
        };
        let mut most = 0;
        for pool in shared.upstream.pools() {
            let (open, idle, waiting) = pool.counts();
            sample.pool_open += open as u32;
            sample.pool_lent += open.saturating_sub(idle) as u32;
            sample.pool_waiting += waiting as u32;
            most += shared.config.load().pool.max_connection_pool_size;
        }
        shared.sight.sample(sample);
        note_resources(&shared.sight.alerts, &shared.sight.resources.latest(MINUTE), most);
    }

    /// Neo4j that does not answer is an emergency.
    fn look_at_upstream(&mut self) {
        let reason = self.health.trouble();
        self.silent = match &reason {
            Some(_) => (self.silent + 1).min(2 * SILENT),
            None => self.silent.saturating_sub(1),
        };
        let alerts = &self.shared.sight.alerts;
        if self.silent == 0 {
            alerts.set("upstream".to_owned(), now(), None);
        } else if let Some(reason) = reason.filter(|_| self.silent >= SILENT) {
            let (kind, level) = ("upstream", Level::Emergency);
            let alert = Alert { kind, level, message: reason, since: now(), until: None, query: None };
            alerts.set("upstream".to_owned(), now(), Some(alert));
        }
    }

    async fn restore(&self) {
        let config = self.shared.config.load_full();
        let Some(path) = config.sight.baseline_file.clone() else { return };
        let read = tokio::task::spawn_blocking(move || read(&path)).await;
        match read {
            Ok(Ok(kept)) => self.shared.sight.baselines.lock().restore(kept, config.sight.max_queries),
            Ok(Err(error)) => {
                tracing::warn!(error, "sight.baseline_file cannot be used; baselines are learnt anew.");
            }
            Err(_) => {}
        }
    }

    async fn write(&mut self) {
        let Some(path) = self.shared.config.load().sight.baseline_file.clone() else { return };
        let kept = self.shared.sight.baselines.lock().kept();
        if let Ok(text) = serde_json::to_string(&kept) {
            self.file.write(path, text).await;
        }
    }

    /// Writes what there is, unless the disk hangs.
    async fn finish(&mut self) {
        let work = async {
            self.file.settle().await;
            self.write().await;
            self.file.settle().await;
        };
        let _ = timeout(LAST, work).await;
    }
}

/// The file that baselines are kept in.
#[derive(Default)]
struct BaselineFile {
    /// What was written last.
    written: Option<String>,
    /// What is being written.
    writing: Option<JoinHandle<Result<String, (PathBuf, std::io::Error)>>>,
}

impl BaselineFile {
    /// Begins to write what is new. A disk that takes its time holds up nothing else: what comes meanwhile is written later.
    async fn write(&mut self, path: PathBuf, text: String) {
        if self.writing.as_ref().is_some_and(|writing| !writing.is_finished()) {
            return;
        }
        self.settle().await;
        if self.written.as_deref() != Some(&text) {
            self.writing = Some(tokio::task::spawn_blocking(move || match replace(&path, &text) {
                Ok(()) => Ok(text),
                Err(error) => Err((path, error)),
            }));
        }
    }

    /// Waits for what is being written.
    async fn settle(&mut self) {
        let Some(writing) = self.writing.take() else { return };
        match writing.await {
            Ok(Ok(text)) => self.written = Some(text),
            Ok(Err((path, error))) => tracing::warn!(
                %error,
                path = %path.display(),
                "sight.baseline_file cannot be written; give a path that Sidebolt may write to."
            ),
            Err(_) => {}
        }
    }
}

fn read(path: &Path) -> Result<Vec<Kept>, String> {
    let size = match std::fs::metadata(path) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.to_string()),
    };
    if size > LARGEST {
        return Err(format!("it has {size} bytes; at most {LARGEST} are read"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    serde_json::from_str(&text).map_err(|error| format!("{error}; remove it"))
}

/// Writes a file so that it is whole, the old one or the new one.
fn replace(path: &Path, content: &str) -> std::io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let written = std::fs::File::create(&new).and_then(|mut file| {
        file.write_all(content.as_bytes())?;
        file.sync_all()
    });
    if written.is_err() {
        // Half of it only takes room.
        let _ = std::fs::remove_file(&new);
    }
    written.and_then(|()| std::fs::rename(&new, path))
}

impl Sight {
    /// Looks at all queries; `step` counts the looks.
    pub(crate) fn step(&self, step: u64, config: &Config) {
        if !config.sight.enabled || !config.sight.baselines {
            return;
        }
        let mut rows = self.queries.top(usize::MAX, |_| true);
        rows.extend(self.kinds.rows());
        let mut baselines = self.baselines.lock();
        let Found { changes, suspects } = baselines.step(step, &rows, config.sight.max_queries + 3);
        let kinds = baselines.kinds(step);
        drop(baselines);
        for row in suspects.iter().filter(|_| config.sight.explain) {
            self.want_plan(row);
        }
        let now = now();
        for change in changes.iter().filter(|change| kinds::name(change.subject.0).is_none()) {
            self.alerts.set(id(&change.subject), now, Alert::of(change, now));
        }
        for (subject, change) in &kinds {
            self.alerts.set(id(subject), now, change.as_ref().and_then(|change| Alert::of(change, now)));
        }
    }

    /// The plan of a query is wanted anew: it may be another one than before.
    fn want_plan(&self, row: &Row) {
        let (Some(principal), Some(example)) = (Weak::upgrade(&row.who), &row.example) else { return };
        let key = row.key();
        self.slow.forget(&key);
        self.slow.want(Wanted {
            key,
            statement: Arc::new(Statement::parse(example)),
            principal,
            database: row.database.as_deref().map(Into::into),
            rows: 0,
            varied: row.is_varied(),
        });
    }
}

fn id(subject: &Subject) -> String {
    let (fingerprint, user, database) = subject;
    format!("slowdown {fingerprint:016x} {user:?} {database:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(minute: &[Sample]) -> Option<Level> {
        let alerts = Alerts::default();
        note_resources(&alerts, minute, 100);
        let all = alerts.all().0;
        assert!(
            all.iter()
                .all(|alert| alert.kind == "gpu_memory" && alert.message.contains("of the GPU's memory"))
        );
        all.first().map(|alert| alert.level)
    }

    #[test]
    fn a_gpu_that_is_full_for_a_minute_is_an_alert() {
        let sample = |used| Sample { gpu_memory_used: used, gpu_memory: 100, ..Sample::default() };
        for (used, expected) in
            [(80, None), (81, Some(Level::Warning)), (95, Some(Level::Warning)), (96, Some(Level::Critical))]
        {
            assert_eq!(level(&[sample(used); MINUTE]), expected, "{used} %");
        }
        assert_eq!(level(&[sample(99); MINUTE - 1]), None, "not yet a minute");
        assert_eq!(level(&[Sample::default(); MINUTE]), None, "no GPU");
    }

    #[tokio::test]
    async fn without_a_gpu_nothing_is_read() {
        let mut gpu = Gpu::default();
        assert_eq!((gpu.look(false).await, gpu.reading.is_none()), ([0; 2], true));
        // Where there is none, and while it is read.
        assert_eq!((gpu.look(true).await, gpu.reading.is_some()), ([0; 2], true));
        let (answer, held) = std::sync::mpsc::channel::<()>();
        gpu.reading = Some(tokio::task::spawn_blocking(move || held.recv().ok().map(|()| [100, 30])));
        assert_eq!(gpu.look(true).await, [0; 2]);
        answer.send(()).unwrap();
        while !gpu.reading.as_ref().unwrap().is_finished() {
            tokio::task::yield_now().await;
        }
        assert_eq!(gpu.look(true).await, [70, 100]);
    }

    #[tokio::test]
    async fn a_disk_that_hangs_holds_up_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("baselines.json");
        // It hangs until somebody reads.
        let pipe = folder.path().join("baselines.json.new");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let mut file = BaselineFile::default();
        for text in ["first", "second"] {
            file.write(path.clone(), text.to_owned()).await;
        }
        assert!(!file.writing.as_ref().unwrap().is_finished() && file.written.is_none());
        let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(pipe));
        assert_eq!(read.await.unwrap().unwrap(), "first");
        file.settle().await;
        // A pipe is no file; it goes on with what there is then.
        file.write(path.clone(), "third".to_owned()).await;
        file.settle().await;
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "third");
        assert_eq!(file.written.as_deref(), Some("third"));
        // A folder that is gone leaves nothing behind, and no word of it is believed to be written.
        file.write(folder.path().join("gone/baselines.json"), "fourth".to_owned()).await;
        file.settle().await;
        assert_eq!(file.written.as_deref(), Some("third"));
    }
}
