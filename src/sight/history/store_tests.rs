use std::time::Duration;

use serde_json::json;

use super::*;

fn minute(requests: u64, step: u32) -> Bucket {
    Bucket {
        seconds: 60,
        requests,
        times: (0..200).map(|at| (step + at, requests)).collect(),
        ..Bucket::default()
    }
}

/// A day in November.
const DAY: u64 = 20_400 * 86_400;

#[test]
fn minutes_make_hours_and_days_and_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("a/b");
    let store = Store::open(&place).unwrap();
    for nth in 0..180 {
        store.add(DAY + nth * 60, &minute(nth, 100), &[]).unwrap();
    }
    // The rest of a minute, behind a restart.
    drop(store);
    let store = Store::open(&place).unwrap();
    store.add(DAY + 179 * 60, &minute(1, 100), &[]).unwrap();
    let hours = store.hours(0, u64::MAX).unwrap();
    let sums: Vec<(u64, u64, u64)> =
        hours.iter().map(|(begin, b)| (begin - DAY, b.seconds, b.requests)).collect();
    let of = |hour: u64| (hour * 60..hour * 60 + 60).sum::<u64>();
    assert_eq!(sums, [(0, 3600, of(0)), (3600, 3600, of(1)), (7200, 3660, of(2) + 1)]);
    let days = store.days(0, u64::MAX).unwrap();
    assert_eq!(days.len(), 1);
    assert_eq!((days[0].0, days[0].1.requests), (DAY, of(0) + of(1) + of(2) + 1));
    assert_eq!(days[0].1.times[0], (100, days[0].1.requests));
    assert_eq!(store.minutes(0, u64::MAX).unwrap().len(), 180);
    assert_eq!(store.hours(DAY + 1, DAY + 7200).unwrap().len(), 1);
    assert!(Store::open(&place).err().unwrap().contains("another process"));
}

#[test]
fn what_is_old_goes() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    for day in 0..100 {
        let alert = ((1000 * (DAY + day * 86_400), 7), json!({"level": "info"}));
        store.add(DAY + day * 86_400, &minute(1, 0), &[alert]).unwrap();
    }
    let now = DAY + 99 * 86_400;
    store.forget(now, 90 * 86_400).unwrap();
    let counts = [
        store.minutes(0, u64::MAX).unwrap().len(),
        store.hours(0, u64::MAX).unwrap().len(),
        store.days(0, u64::MAX).unwrap().len(),
        store.alerts(0, u64::MAX).unwrap().len(),
    ];
    assert_eq!(counts, [3, 71, 91, 91]);
}

#[test]
fn an_alert_keeps_its_worst_level() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let key = (DAY * 1000, 1);
    for (level, until) in [("warning", None), ("critical", None), ("info", Some("later"))] {
        let alert = json!({"level": level, "message": level, "until": until});
        store.add(DAY, &Bucket::default(), &[(key, alert)]).unwrap();
    }
    let expected = json!({"level": "critical", "message": "critical", "until": "later"});
    assert_eq!(store.alerts(0, u64::MAX).unwrap(), [expected]);
}

#[test]
fn the_file_stays_within_its_bound_and_keeps_the_newest() {
    const MOST: u64 = 4 << 20;
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path()).unwrap();
    // Each takes about 80 kB in each table; all together 10 MB of minutes, 2.5 MB of hours.
    let mut largest = 0;
    let mut bucket = minute(0, 0);
    bucket.times = (0..4000).map(|at| (at, 1_000_000_000_000)).collect();
    for nth in 0..120u64 {
        store.add(DAY + nth * 900, &bucket, &[]).unwrap();
        store.bound(MOST).unwrap();
        largest = largest.max(store.size());
    }
    assert!(largest <= MOST, "{largest}");
    let minutes = store.minutes(0, u64::MAX).unwrap();
    assert!(store.hours(0, u64::MAX).unwrap().len() > 5, "minutes go before hours");
    assert_eq!(minutes.last().unwrap().0, DAY + 119 * 900);
    assert_eq!(store.days(0, u64::MAX).unwrap().len(), 2);
}

#[test]
fn a_broken_file_is_put_aside() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("history.redb"), [7; 100_000]).unwrap();
    let opened = Store::open(folder.path());
    let store = opened.unwrap();
    store.add(DAY, &minute(1, 0), &[]).unwrap();
    assert_eq!(store.hours(0, u64::MAX).unwrap().len(), 1);
    assert_eq!(std::fs::read(folder.path().join("history.broken")).unwrap(), [7; 100_000]);
    drop(store);
    // A folder that cannot be one.
    std::fs::write(folder.path().join("file"), "x").unwrap();
    assert!(Store::open(&folder.path().join("file")).is_err());
}

/// Written by a process of its own, which is killed in the middle.
#[test]
fn kill_9_loses_nothing_that_was_written() {
    const PLACE: &str = "SIDEBOLT_TEST_HISTORY";
    if let Some(place) = std::env::var_os(PLACE) {
        let store = Store::open(Path::new(&place)).unwrap();
        for nth in 0.. {
            store.add(DAY + nth * 60, &minute(nth, 0), &[]).unwrap();
            std::fs::write(Path::new(&place).join("done.new"), nth.to_string()).unwrap();
            std::fs::rename(Path::new(&place).join("done.new"), Path::new(&place).join("done")).unwrap();
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let done = || {
        let text = std::fs::read_to_string(folder.path().join("done")).ok()?;
        text.parse::<u64>().ok()
    };
    for round in 1..=3u64 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sight::history::store::tests::kill_9_loses_nothing_that_was_written"])
            .env(PLACE, folder.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let began = std::time::Instant::now();
        while done().is_none_or(|done| done < round * 7) && began.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let written = done().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let minutes = store.minutes(0, u64::MAX).unwrap();
        assert!(minutes.len() as u64 > written, "{} of {written}", minutes.len());
        let hours: u64 = store.hours(0, u64::MAX).unwrap().iter().map(|(_, hour)| hour.seconds).sum();
        let sum: u64 = minutes.iter().map(|(_, minute)| minute.seconds).sum();
        assert_eq!(hours, sum, "each minute is in its hour, or not at all");
    }
}

/// A disk that may be full.
#[derive(Debug, Default)]
struct Disk {
    content: redb::backends::InMemoryBackend,
    is_full: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl redb::StorageBackend for Disk {
    fn len(&self) -> std::io::Result<u64> {
        self.content.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.content.read(offset, out)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.content.set_len(len)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.content.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        if self.is_full.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.content.write(offset, data)
    }
}

#[test]
fn a_disk_that_was_full_is_written_to_again() {
    use crate::sight::history::{History, Wanted};
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::default();
    let is_full = std::sync::Arc::clone(&disk.is_full);
    let database = Database::builder().create_with_backend(disk).unwrap();
    let store = Store { database, path: folder.path().join("history.redb") };
    let history = History { store: std::sync::Arc::new(parking_lot::RwLock::new(Some(store))) };
    let wanted = Wanted { keep: Some(Duration::from_secs(86_400)), most: 64 << 20 };
    let mut minutes = vec![(DAY, minute(1, 0))];
    history.add(&wanted, folder.path(), &mut minutes, &[]).unwrap();
    minutes.extend([(DAY + 60, minute(2, 0)), (DAY + 120, minute(3, 0))]);
    is_full.store(true, std::sync::atomic::Ordering::Relaxed);
    let error = history.add(&wanted, folder.path(), &mut minutes, &[]).unwrap_err();
    assert!(error.to_lowercase().contains("storage") && minutes.len() == 2, "{error}");
    // With room, nothing is missing. (What was opened anew is the real file.)
    is_full.store(false, std::sync::atomic::Ordering::Relaxed);
    history.add(&wanted, folder.path(), &mut minutes, &[]).unwrap();
    assert!(minutes.is_empty());
    let kept = history.store.read().as_ref().unwrap().minutes(0, u64::MAX).unwrap();
    assert_eq!(kept.iter().map(|(second, _)| *second).collect::<Vec<_>>(), [DAY + 60, DAY + 120]);
}
