//! Follows changes of the configuration while running: on SIGHUP, on request, and when a file that it is made from
//! changes. A bad configuration is refused and the old one stays.
//!
//! Everything takes effect at once but the keys marked `x-restart` in the schema, such as `listen.address`: those keep
//! their value and are logged as waiting for a restart. Sockets are bound and the log writer is built once, and sessions, bookmarks and
//! caches belong to one database.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::schema::lookup;
use super::{Config, ConfigError, ConfigErrors, Sources, keys};

/// What the files were when they were last looked at; none = could not be read.
type Fingerprints = BTreeMap<PathBuf, Option<blake3::Hash>>;

/// Reloads since the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Reloads that took effect.
    pub ok: u64,
    /// Reloads that were refused.
    pub refused: u64,
}

/// What a reload did.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Reloaded {
    /// Keys that have a new value.
    pub changed: Vec<&'static str>,
    /// Keys whose new value waits for a restart.
    pub pending_restart: Vec<&'static str>,
}

/// Why a reload that was asked for did nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReloadError {
    /// The configuration is bad; the old one stays.
    #[error("{0}")]
    Refused(#[from] ConfigErrors),
    /// The process is ending, or what follows the configuration failed.
    #[error("the configuration cannot be reloaded now")]
    Ended,
}

/// Follows the configuration until dropped.
#[derive(Debug)]
pub struct Reloader {
    counters: watch::Receiver<Counters>,
    requests: mpsc::Sender<oneshot::Sender<Result<Reloaded, ReloadError>>>,
    task: JoinHandle<()>,
}

/// How eagerly changes are followed.
#[derive(Clone, Copy)]
struct Pace {
    /// Silence after a change before it is read, as editors write in several steps.
    debounce: Duration,
    /// How often the files are compared even without a notice: some file systems give none.
    poll: Duration,
    /// Whether SIGHUP reloads.
    hangup: bool,
}

const PACE: Pace = Pace { debounce: Duration::from_millis(200), poll: Duration::from_secs(10), hangup: true };

impl Reloader {
    /// Follows `sources` from now on, in the current tokio runtime. `on_change` is called after each reload with the old
    /// and the new configuration, which may be equal when only the content of a certificate changed.
    pub fn start(
        sources: Sources,
        handle: Arc<ArcSwap<Config>>,
        on_change: impl Fn(&Config, &Config) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        Self::start_at(PACE, sources, handle, on_change)
    }

    fn start_at(
        pace: Pace,
        sources: Sources,
        handle: Arc<ArcSwap<Config>>,
        on_change: impl Fn(&Config, &Config) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let (counted, counters) = watch::channel(Counters::default());
        let (requests, asked) = mpsc::channel(8);
        let (noticed, notices) = mpsc::channel(1);
        let hangup = pace.hangup.then(|| signal(SignalKind::hangup())).transpose()?;
        let state = State {
            fingerprints: Fingerprints::new(),
            last_error: None,
            watcher: watcher(noticed),
            watched: BTreeSet::new(),
            on_change,
            counted,
            sources,
            handle,
        };
        let follower = Follower { state: Arc::new(Mutex::new(state)), pace, hangup, asked, notices };
        Ok(Self { counters, requests, task: tokio::spawn(follower.run()) })
    }

    /// Reloads since the start.
    pub fn counters(&self) -> Counters {
        *self.counters.borrow()
    }

    /// The counters as they change.
    pub fn subscribe(&self) -> watch::Receiver<Counters> {
        self.counters.clone()
    }

    /// Reloads now and says what came of it.
    pub async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(answer).await.map_err(|_| ReloadError::Ended)?;
        answered.await.map_err(|_| ReloadError::Ended)?
    }
}

impl Drop for Reloader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Waits for reasons to reload, one at a time.
struct Follower<F> {
    state: Arc<Mutex<State<F>>>,
    pace: Pace,
    hangup: Option<Signal>,
    asked: mpsc::Receiver<oneshot::Sender<Result<Reloaded, ReloadError>>>,
    notices: mpsc::Receiver<()>,
}

impl<F: Fn(&Config, &Config) + Send + Sync + 'static> Follower<F> {
    async fn run(mut self) {
        let mut poll = interval(self.pace.poll);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // The first tick comes at once: it sets up the watches, and sees what changed since the first load.
            tokio::select! {
                answer = self.asked.recv() => {
                    let Some(answer) = answer else { return };
                    let result = self.off_thread(|state| state.reload()).await.unwrap_or(Err(ReloadError::Ended));
                    // Who asked may be gone; the reload counts all the same.
                    let _ = answer.send(result);
                }
                () = hung_up(&mut self.hangup) => {
                    tracing::info!("SIGHUP: reloading the configuration.");
                    self.off_thread(|state| state.reload().is_ok()).await;
                }
                Some(()) = self.notices.recv() => {
                    self.settle().await;
                    self.off_thread(State::look).await;
                }
                _ = poll.tick() => {
                    self.off_thread(State::look).await;
                }
            }
        }
    }

    /// Waits until the files are left alone for a moment, but not for ever.
    async fn settle(&mut self) {
        for _ in 0..20 {
            if timeout(self.pace.debounce, self.notices.recv()).await.is_err() {
                return;
            }
        }
    }

    /// Files are read, and `on_change` runs, where blocking is allowed.
    async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut State<F>) -> T + Send + 'static,
    ) -> Option<T> {
        let state = self.state.clone();
        match tokio::task::spawn_blocking(move || work(&mut state.lock())).await {
            Ok(done) => Some(done),
            Err(error) => {
                tracing::error!(%error, "Reloading the configuration failed.");
                None
            }
        }
    }
}

async fn hung_up(hangup: &mut Option<Signal>) {
    match hangup {
        Some(hangup) => {
            hangup.recv().await;
        }
        None => std::future::pending().await,
    }
}

fn watcher(noticed: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let notice = move |event: notify::Result<notify::Event>| {
        let kind = event.map_or(EventKind::Any, |event| event.kind);
        let only_read = match kind {
            EventKind::Access(access) => access != AccessKind::Close(AccessMode::Write),
            _ => false,
        };
        if !only_read {
            // A full channel already holds a notice.
            let _ = noticed.try_send(());
        }
    };
    notify::recommended_watcher(notice)
        .inspect_err(
            |error| tracing::warn!(%error, "Files are not watched, only compared every few seconds."),
        )
        .ok()
}

struct State<F> {
    sources: Sources,
    handle: Arc<ArcSwap<Config>>,
    on_change: F,
    counted: watch::Sender<Counters>,
    /// Of the files that the running, or last tried, configuration is made from.
    fingerprints: Fingerprints,
    /// Why the files as they are were refused.
    last_error: Option<ConfigErrors>,
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
}

impl<F: Fn(&Config, &Config)> State<F> {
    /// Reloads if a file changed, or if a refused configuration has become good (a file that it names may have come).
    fn look(&mut self) {
        let first = self.fingerprints.is_empty();
        let now = fingerprints(self.fingerprints.keys().chain(&self.sources.file));
        if first || now != self.fingerprints || self.last_error.is_some() {
            let changed = now != self.fingerprints && !first;
            match self.load() {
                Ok(config) if changed || config != **self.handle.load() || self.last_error.is_some() => {
                    self.apply(config);
                }
                Ok(_) => {}
                Err(errors) if changed || self.last_error.as_ref() != Some(&errors) => self.refuse(errors),
                Err(_) => {}
            }
        }
        self.watch();
    }

    /// Reloads in any case.
    fn reload(&mut self) -> Result<Reloaded, ReloadError> {
        let loaded = self.load();
        let result = match loaded {
            Ok(config) => Ok(self.apply(config)),
            Err(errors) => {
                self.refuse(errors.clone());
                Err(errors.into())
            }
        };
        self.watch();
        result
    }

    /// Loads, with fingerprints taken before, so that a change in between is seen at the next look.
    fn load(&mut self) -> Result<Config, ConfigErrors> {
        let mut files: BTreeSet<PathBuf> =
            self.fingerprints.keys().chain(&self.sources.file).cloned().collect();
        loop {
            self.fingerprints = fingerprints(&files);
            self.refuse_empty()?;
            let loaded = Config::load(&self.sources)?;
            let named: BTreeSet<PathBuf> = loaded.files.into_iter().collect();
            if named.is_subset(&files) {
                self.fingerprints.retain(|file, _| named.contains(file));
                return Ok(loaded.config);
            }
            files.extend(named);
        }
    }

    /// An empty file while running is one that is being written, or was cut by a full disk, not a wish for defaults.
    fn refuse_empty(&self) -> Result<(), ConfigErrors> {
        match &self.sources.file {
            Some(file) if std::fs::metadata(file).is_ok_and(|metadata| metadata.len() == 0) => {
                Err(ConfigErrors::new(vec![ConfigError {
                    file: Some(file.clone()),
                    message: "is empty".to_owned(),
                    hint: Some("write at least a comment line to go back to the defaults".to_owned()),
                    ..ConfigError::default()
                }]))
            }
            _ => Ok(()),
        }
    }

    fn apply(&mut self, mut new: Config) -> Reloaded {
        let old = self.handle.load_full();
        let pending_restart = keep_until_restart(&old, &mut new);
        let changed = changed_keys(&old, &new);
        let new = Arc::new(new);
        self.handle.store(new.clone());
        self.last_error = None;
        tracing::info!(changed = changed.join(", "), "Configuration reloaded.");
        if !pending_restart.is_empty() {
            tracing::warn!(keys = pending_restart.join(", "), "Changed keys wait for a restart.");
        }
        (self.on_change)(&old, &new);
        self.counted.send_modify(|counters| counters.ok += 1);
        Reloaded { changed, pending_restart }
    }

    fn refuse(&mut self, errors: ConfigErrors) {
        tracing::error!(%errors, "Configuration refused, the old one stays.");
        self.last_error = Some(errors);
        self.counted.send_modify(|counters| counters.refused += 1);
    }

    /// Watches the directories of the files, and of what they link to: a swapped link is a change of its directory.
    fn watch(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let files = self.fingerprints.keys().chain(&self.sources.file);
        let wanted: BTreeSet<PathBuf> = files
            .flat_map(|file| [Some(file.clone()), std::fs::canonicalize(file).ok()])
            .flatten()
            .map(|file| match file.parent() {
                Some(directory) if !directory.as_os_str().is_empty() => directory.to_owned(),
                _ => PathBuf::from("."),
            })
            .collect();
        for gone in self.watched.difference(&wanted) {
            // A directory that was removed is no longer watched anyway.
            let _ = watcher.unwatch(gone);
        }
        // Watching again is free, and needed where a directory was removed and made anew.
        self.watched = wanted;
        self.watched.retain(|directory| watcher.watch(directory, RecursiveMode::NonRecursive).is_ok());
    }
}

fn fingerprints<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> Fingerprints {
    let read = |file: &Path| std::fs::read(file).ok().map(|bytes| blake3::hash(&bytes));
    files.into_iter().map(|file| (file.clone(), read(file))).collect()
}

/// Puts the old values of keys that need a restart into the new configuration; names those that differ.
fn keep_until_restart(old: &Config, new: &mut Config) -> Vec<&'static str> {
    let mut pending = Vec::new();
    macro_rules! keep {
        ($($section:ident$(.$key:ident)+),*) => {$(
            if new.$section$(.$key)+ != old.$section$(.$key)+ {
                new.$section$(.$key)+ = old.$section$(.$key)+.clone();
                pending.push(concat!(stringify!($section), $(".", stringify!($key)),+));
            }
        )*};
    }
    keep!(
        listen.address,
        upstream.uri,
        sight.baseline_file,
        sight.history.path,
        gnn.max_running,
        gnn.device,
        gnn.threads,
        admin.address,
        log.format
    );
    pending
}

/// The keys whose values differ.
fn changed_keys(old: &Config, new: &Config) -> Vec<&'static str> {
    let values = |config: &Config| serde_json::to_value(config).unwrap_or_default();
    let (before, after) = (values(old), values(new));
    let differs = |path: &str| match path {
        "auth.password" => old.auth.password != new.auth.password,
        "auth.client_token" => old.auth.client_token != new.auth.client_token,
        "listen.tls" => old.listen.tls.is_some() != new.listen.tls.is_some(),
        "admin.tls" => old.admin.tls.is_some() != new.admin.tls.is_some(),
        _ => lookup(&before, path) != lookup(&after, path),
    };
    keys().iter().map(|key| key.path.as_str()).filter(|path| differs(path)).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    const FAST: Pace =
        Pace { debounce: Duration::from_millis(2), poll: Duration::from_secs(3600), hangup: false };

    /// A followed configuration in a directory of its own.
    struct Rig {
        directory: TempDir,
        handle: Arc<ArcSwap<Config>>,
        reloader: Reloader,
        calls: Arc<Mutex<Vec<(usize, usize)>>>,
    }

    impl Rig {
        async fn start(pace: Pace, prepare: impl FnOnce(&Path)) -> Self {
            let directory = tempfile::tempdir().expect("a temporary directory");
            prepare(directory.path());
            let sources = Sources { file: Some(directory.path().join("proxy.yaml")), ..Sources::default() };
            let config = Config::load(&sources).unwrap_or_else(|e| panic!("{e}")).config;
            let handle = Arc::new(ArcSwap::from_pointee(config));
            let calls = Arc::new(Mutex::new(Vec::new()));
            let seen = calls.clone();
            let on_change = move |old: &Config, new: &Config| {
                seen.lock().push((old.pool.max_waiting, new.pool.max_waiting));
            };
            let reloader = Reloader::start_at(pace, sources, handle.clone(), on_change).expect("a reloader");
            let rig = Self { directory, handle, reloader, calls };
            // A reload by hand comes after the first look: from here on the watches stand.
            rig.reloader.reload().await.expect("the first reload");
            rig
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.directory.path().join(name), text).expect("a file");
        }

        /// Replaces a file in one step, as careful tools do.
        fn replace(&self, name: &str, text: &str) {
            self.write("new", text);
            fs::rename(self.directory.path().join("new"), self.directory.path().join(name))
                .expect("a rename");
        }

        async fn until(&self, what: &str, done: impl Fn(&Config, Counters) -> bool) {
            let mut counters = self.reloader.subscribe();
            let waiting = counters.wait_for(|counters| done(&self.handle.load(), *counters));
            let ended = timeout(Duration::from_secs(20), waiting).await;
            assert!(ended.is_ok_and(|r| r.is_ok()), "{what}: {:?}", self.reloader.counters());
        }
    }

    fn waiting(n: usize) -> String {
        format!("pool: {{max_waiting: {n}}}\n")
    }

    fn one_file(directory: &Path) {
        fs::write(directory.join("proxy.yaml"), waiting(1)).expect("a file");
    }

    #[tokio::test]
    async fn two_hundred_changes_are_followed() {
        let rig = Rig::start(FAST, one_file).await;
        for n in 2..202 {
            if n % 2 == 0 {
                rig.write("proxy.yaml", &waiting(n));
            } else {
                rig.replace("proxy.yaml", &waiting(n));
            }
            rig.until(&format!("change {n}"), |config, _| config.pool.max_waiting == n).await;
        }
        let calls = rig.calls.lock().clone();
        assert_eq!(calls.last(), Some(&(200, 201)));
        assert!(
            calls.windows(2).all(|pair| pair[0].1 == pair[1].0),
            "each call starts where the last one ended"
        );
    }

    #[tokio::test]
    async fn a_bad_file_is_refused_and_a_good_one_taken_again() {
        let rig = Rig::start(FAST, one_file).await;
        rig.replace("proxy.yaml", "pool: {max_waiting: many}\n");
        rig.until("refused", |_, counters| counters.refused == 1).await;
        assert_eq!(rig.handle.load().pool.max_waiting, 1);
        let error = rig.reloader.reload().await.expect_err("still bad").to_string();
        assert!(error.contains("proxy.yaml:1:21: pool.max_waiting: `many` is not a whole number"), "{error}");
        rig.replace("proxy.yaml", &waiting(3));
        rig.until("taken", |config, _| config.pool.max_waiting == 3).await;
        assert_eq!(rig.reloader.counters().refused, 2);
    }

    #[tokio::test]
    async fn a_refused_file_that_is_put_back_is_good_again() {
        let rig = Rig::start(FAST, one_file).await;
        rig.replace("proxy.yaml", "pool: [\n");
        rig.until("refused", |_, counters| counters.refused == 1).await;
        let before = rig.reloader.counters().ok;
        rig.replace("proxy.yaml", &waiting(1));
        rig.until("put back", |_, counters| counters.ok == before + 1).await;
    }

    #[tokio::test]
    async fn an_emptied_file_is_no_wish_for_defaults() {
        let rig = Rig::start(FAST, one_file).await;
        rig.write("proxy.yaml", "");
        rig.until("refused", |_, counters| counters.refused == 1).await;
        assert_eq!(rig.handle.load().pool.max_waiting, 1);
        rig.write("proxy.yaml", "# defaults\n");
        rig.until("taken", |config, _| *config == Config::default()).await;
    }

    #[tokio::test]
    async fn a_swapped_link_is_a_change() {
        // The layout of a mounted ConfigMap: proxy.yaml -> ..data/proxy.yaml, ..data -> a directory per version.
        let version = |directory: &Path, n: usize| {
            let folder = directory.join(format!("..version_{n}"));
            fs::create_dir(&folder).expect("a folder");
            fs::write(folder.join("proxy.yaml"), waiting(n)).expect("a file");
            symlink(format!("..version_{n}"), directory.join("..data_tmp")).expect("a link");
            fs::rename(directory.join("..data_tmp"), directory.join("..data")).expect("a rename");
        };
        let rig = Rig::start(FAST, |directory| {
            version(directory, 1);
            symlink("..data/proxy.yaml", directory.join("proxy.yaml")).expect("a link");
        })
        .await;
        for n in 2..22 {
            version(rig.directory.path(), n);
            rig.until(&format!("version {n}"), |config, _| config.pool.max_waiting == n).await;
            let old = rig.directory.path().join(format!("..version_{}", n - 1));
            fs::remove_dir_all(old).expect("the old version goes");
        }
        assert_eq!(rig.reloader.counters().refused, 0);
    }

    #[tokio::test]
    async fn a_file_linked_from_elsewhere_is_followed() {
        let elsewhere = tempfile::tempdir().expect("a temporary directory");
        let target = elsewhere.path().join("real.yaml");
        fs::write(&target, waiting(1)).expect("a file");
        let rig =
            Rig::start(FAST, |directory| symlink(&target, directory.join("proxy.yaml")).expect("a link"))
                .await;
        fs::write(&target, waiting(2)).expect("a file");
        rig.until("the target changed", |config, _| config.pool.max_waiting == 2).await;
    }

    #[tokio::test]
    async fn a_deleted_file_is_refused_until_it_returns() {
        let rig = Rig::start(FAST, one_file).await;
        fs::remove_file(rig.directory.path().join("proxy.yaml")).expect("removed");
        rig.until("refused", |_, counters| counters.refused == 1).await;
        assert_eq!(rig.handle.load().pool.max_waiting, 1);
        rig.write("proxy.yaml", &waiting(2));
        rig.until("returned", |config, _| config.pool.max_waiting == 2).await;
    }

    #[tokio::test]
    async fn secrets_and_certificates_are_followed() {
        let rig = Rig::start(FAST, |directory| {
            let yaml = "auth: {username: u, password_file: secrets/pw}\nlisten: {tls: {cert_file: c, key_file: k}}\n";
            fs::create_dir(directory.join("secrets")).expect("a folder");
            for (name, text) in [("proxy.yaml", yaml), ("secrets/pw", "one"), ("c", "1"), ("k", "1")] {
                fs::write(directory.join(name), text).expect("a file");
            }
        })
        .await;
        rig.replace("secrets/pw", "two");
        let password = |config: &Config| config.auth.password.as_ref().map(|secret| secret.0.clone());
        rig.until("the password", |config, _| password(config).as_deref() == Some("two")).await;
        let before = rig.reloader.counters().ok;
        rig.replace("c", "2");
        rig.until("the certificate", |_, counters| counters.ok > before).await;
        rig.write("secrets/other", "ignored");
        rig.write("secrets/pw", "");
        rig.until("an empty password", |_, counters| counters.refused == 1).await;
        assert_eq!(password(&rig.handle.load()).as_deref(), Some("two"));
    }

    #[tokio::test]
    async fn a_named_file_that_comes_late_is_taken_when_it_comes() {
        let pace = Pace { poll: Duration::from_millis(5), ..FAST };
        let rig = Rig::start(pace, one_file).await;
        let late = tempfile::tempdir().expect("a temporary directory");
        let file = late.path().join("pw");
        rig.replace("proxy.yaml", &format!("auth: {{username: u, password_file: {}}}\n", file.display()));
        rig.until("refused", |_, counters| counters.refused == 1).await;
        fs::write(&file, "late").expect("a file");
        rig.until("taken", |config, _| config.auth.password.is_some()).await;
        assert_eq!(rig.reloader.counters().refused, 1, "the same refusal is reported once");
    }

    #[tokio::test]
    async fn what_changed_before_the_start_is_seen() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        one_file(directory.path());
        let sources = Sources { file: Some(directory.path().join("proxy.yaml")), ..Sources::default() };
        let handle = Arc::new(ArcSwap::from_pointee(Config::default()));
        let reloader = Reloader::start_at(FAST, sources, handle.clone(), |_, _| {}).expect("a reloader");
        let mut counters = reloader.subscribe();
        let seen = timeout(Duration::from_secs(20), counters.wait_for(|counters| counters.ok == 1)).await;
        assert!(seen.is_ok_and(|r| r.is_ok()));
        assert_eq!(handle.load().pool.max_waiting, 1);
    }

    #[tokio::test]
    async fn keys_that_need_a_restart_keep_their_value() {
        let rig = Rig::start(FAST, one_file).await;
        let yaml = "listen: {address: 127.0.0.1:1, max_connections: 5}\nlog: {format: json, level: debug}\n";
        rig.write("proxy.yaml", yaml);
        rig.until("taken", |config, _| config.listen.max_connections == 5).await;
        let config = rig.handle.load_full();
        assert_eq!(config.listen.address, Config::default().listen.address);
        assert_eq!(config.log.level, "debug");
        let again = rig.reloader.reload().await.expect("good");
        let pending = vec!["listen.address", "log.format"];
        assert_eq!(again, Reloaded { changed: Vec::new(), pending_restart: pending });
    }

    #[tokio::test]
    async fn sighup_reloads() {
        let rig = Rig::start(Pace { hangup: true, ..FAST }, one_file).await;
        let before = rig.reloader.counters().ok;
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGHUP).expect("a signal");
        rig.until("reloaded", |_, counters| counters.ok > before).await;
    }

    #[test]
    fn the_kept_keys_are_those_of_the_schema() {
        let mut new = Config::default();
        new.listen.address.set_port(1);
        new.upstream.uri = "bolt://x".to_owned();
        new.sight.baseline_file = Some("x".into());
        new.sight.history.path = Some("x".into());
        (new.gnn.max_running, new.gnn.device, new.gnn.threads) = (1, super::super::Device::Cpu, 1);
        new.admin.address = None;
        new.log.format = super::super::LogFormat::Json;
        let kept = keep_until_restart(&Config::default(), &mut new);
        assert_eq!(new, Config::default());
        let marked: Vec<&str> =
            keys().iter().filter(|key| key.restart).map(|key| key.path.as_str()).collect();
        assert_eq!(kept, marked);
    }

    #[test]
    fn changes_are_named_by_key() {
        let old = Config::default();
        let mut new = old.clone();
        new.pool.min_idle = 1;
        new.auth.password = Some(super::super::Secret("x".to_owned()));
        new.limits.max_summary = 1 << 16;
        assert_eq!(changed_keys(&old, &new), ["pool.min_idle", "auth.password", "limits.max_summary"]);
    }
}
