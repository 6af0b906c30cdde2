//! What this process and its host use, and what went through, each second for an hour. From /proc; elsewhere it stays empty.

use std::collections::VecDeque;
use std::fs;

use parking_lot::Mutex;
use serde::Serialize;

use super::histogram::{Histogram, Since, quantiles};

/// Seconds that are kept.
const KEPT: usize = 3600;
/// Clock ticks of a second in /proc, on every Linux there is.
const TICKS: f64 = 100.0;
/// Bytes of a sector in /proc/diskstats.
const SECTOR: f64 = 512.0;
/// Bytes of a page.
const PAGE: f64 = 4096.0;

/// One second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Sample {
    /// Seconds since 1970.
    pub(crate) time: u64,
    /// Requests that were over, and of these those that failed, were answered from the cache, by a batch.
    pub(crate) requests: u32,
    pub(crate) failures: u32,
    pub(crate) cached: u32,
    pub(crate) batched: u32,
    /// Milliseconds that they took.
    pub(crate) p50_ms: f32,
    pub(crate) p95_ms: f32,
    pub(crate) p99_ms: f32,
    pub(crate) clients: u32,
    /// Connections to Neo4j that are open, in use, and requests that wait for one.
    pub(crate) pool_open: u32,
    pub(crate) pool_lent: u32,
    pub(crate) pool_waiting: u32,
    /// Cores that are busy: of this process, of the host.
    pub(crate) process_cores: f32,
    pub(crate) host_cores: f32,
    /// Bytes.
    pub(crate) process_memory: u64,
    pub(crate) host_memory_used: u64,
    pub(crate) host_memory: u64,
    /// Bytes a second.
    pub(crate) disk_read: u64,
    pub(crate) disk_written: u64,
    pub(crate) net_received: u64,
    pub(crate) net_sent: u64,
    pub(crate) threads: u32,
    pub(crate) files: u32,
    /// How many files may be open; 0 = not known.
    pub(crate) files_most: u64,
    /// Bytes of the GPU's memory that are in use, whoever uses them, and in all; 0 = no GPU computes.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) gpu_memory_used: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) gpu_memory: u64,
}

fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

/// Counters that only grow, as read last.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Totals {
    process_ticks: f64,
    host_ticks: f64,
    disk: [f64; 2],
    net: [f64; 2],
    process_seconds: f64,
}

/// Sums of requests, as they are counted elsewhere.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Requests {
    pub(crate) calls: u64,
    pub(crate) failures: u64,
    pub(crate) cached: u64,
    pub(crate) batched: u64,
}

/// The last hour.
#[derive(Debug, Default)]
pub(crate) struct Resources {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    samples: VecDeque<Sample>,
    totals: Option<Totals>,
    requests: Requests,
    times: Since,
}

impl Resources {
    /// Adds a second. `sample` has what is not read here.
    pub(crate) fn add(&self, mut sample: Sample, requests: Requests, times: &Histogram) {
        let now = read(&mut sample);
        let mut inner = self.inner.lock();
        let last = inner.totals.replace(now).unwrap_or(now);
        let rate = |now: f64, last: f64| (now - last).max(0.0);
        sample.process_cores = (rate(now.process_ticks, last.process_ticks) / TICKS) as f32;
        sample.host_cores = (rate(now.host_ticks, last.host_ticks) / TICKS) as f32;
        let [read, written] = [0, 1].map(|at| rate(now.disk[at], last.disk[at]) as u64);
        let [received, sent] = [0, 1].map(|at| rate(now.net[at], last.net[at]) as u64);
        (sample.disk_read, sample.disk_written) = (read, written);
        (sample.net_received, sample.net_sent) = (received, sent);
        let before = std::mem::replace(&mut inner.requests, requests);
        let more = |now: u64, last: u64| u32::try_from(now.saturating_sub(last)).unwrap_or(u32::MAX);
        sample.requests = more(requests.calls, before.calls);
        sample.failures = more(requests.failures, before.failures);
        sample.cached = more(requests.cached, before.cached);
        sample.batched = more(requests.batched, before.batched);
        let steps = inner.times.steps(times);
        let [p50, p95, p99] = quantiles(&steps, [0.5, 0.95, 0.99]).unwrap_or_default();
        [sample.p50_ms, sample.p95_ms, sample.p99_ms] = [p50, p95, p99].map(|time| time as f32 / 1e6);
        if inner.samples.len() >= KEPT {
            inner.samples.pop_front();
        }
        inner.samples.push_back(sample);
    }

    /// The last seconds, the oldest first.
    pub(crate) fn latest(&self, seconds: usize) -> Vec<Sample> {
        let inner = self.inner.lock();
        inner.samples.iter().skip(inner.samples.len().saturating_sub(seconds)).copied().collect()
    }

    /// Seconds of CPU that this process has used.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.inner.lock().totals.map_or(0.0, |totals| totals.process_seconds)
    }
}

/// Reads /proc into a sample; gives the counters that only grow.
fn read(sample: &mut Sample) -> Totals {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (process_ticks, threads, memory) = process(&text("/proc/self/stat"));
    (sample.threads, sample.process_memory) = (threads, memory);
    sample.files = fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u32);
    sample.files_most = files_most(&text("/proc/self/limits"));
    (sample.host_memory, sample.host_memory_used) = memory_of_host(&text("/proc/meminfo"));
    Totals {
        process_ticks,
        process_seconds: process_ticks / TICKS,
        host_ticks: host(&text("/proc/stat")),
        disk: disks(&text("/proc/diskstats")),
        net: net(&text("/proc/net/dev")),
    }
}

/// Bytes that this process has in memory; 0 where /proc does not tell.
pub(crate) fn resident() -> u64 {
    process(&fs::read_to_string("/proc/self/stat").unwrap_or_default()).2
}

fn number(word: Option<&str>) -> f64 {
    word.and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

/// Ticks, threads and bytes of /proc/self/stat. The name of the program may have blanks and brackets.
fn process(stat: &str) -> (f64, u32, u64) {
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let words: Vec<&str> = rest.split_ascii_whitespace().collect();
    let at = |field: usize| number(words.get(field - 3).copied());
    (at(14) + at(15), at(20) as u32, (at(24) * PAGE) as u64)
}

fn files_most(limits: &str) -> u64 {
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    number(line.and_then(|line| line.split_ascii_whitespace().nth(3))) as u64
}

/// Bytes there are, and bytes that are used for more than caches.
fn memory_of_host(meminfo: &str) -> (u64, u64) {
    let kilobytes = |name: &str| {
        let line = meminfo.lines().find(|line| line.starts_with(name));
        number(line.and_then(|line| line.split_ascii_whitespace().nth(1))) as u64
    };
    let (all, free) = (kilobytes("MemTotal:") * 1024, kilobytes("MemAvailable:") * 1024);
    (all, all.saturating_sub(free))
}

/// Ticks for which a core was busy.
fn host(stat: &str) -> f64 {
    let line = stat.lines().find(|line| line.starts_with("cpu "));
    let ticks: Vec<f64> = line
        .into_iter()
        .flat_map(|line| line.split_ascii_whitespace().skip(1))
        .map(|word| number(Some(word)))
        .collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are in user.
    [0, 1, 2, 5, 6, 7].iter().filter_map(|at| ticks.get(*at)).sum()
}

/// Bytes read from and written to whole disks.
fn disks(stats: &str) -> [f64; 2] {
    let mut sums = [0.0; 2];
    for line in stats.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let Some(name) = words.get(2) else { continue };
        // Partitions are in their disk, and so is what stands on others.
        let part = name.starts_with("loop")
            || name.starts_with("ram")
            || name.starts_with("dm-")
            || name.starts_with("md")
            || (name.starts_with("nvme") && name.contains('p'))
            || (!name.starts_with("nvme") && name.ends_with(|c: char| c.is_ascii_digit()));
        if !part {
            sums[0] += number(words.get(5).copied()) * SECTOR;
            sums[1] += number(words.get(9).copied()) * SECTOR;
        }
    }
    sums
}

/// Bytes received and sent, without the loop to oneself.
fn net(dev: &str) -> [f64; 2] {
    let mut sums = [0.0; 2];
    for (name, counts) in dev.lines().filter_map(|line| line.split_once(':')) {
        if name.trim() != "lo" {
            let words: Vec<&str> = counts.split_ascii_whitespace().collect();
            sums[0] += number(words.first().copied());
            sums[1] += number(words.get(8).copied());
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read() {
        let stat = "42 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 9 0 100 200000 300 x";
        assert_eq!(process(stat), (300.0, 9, 300 * 4096));
        assert_eq!(process(""), (0.0, 0, 0));
        assert_eq!(
            files_most("Max cpu time  unlimited unlimited\nMax open files    1024   4096   files\n"),
            1024
        );
        assert_eq!(memory_of_host("MemTotal: 100 kB\nMemAvailable:  40 kB\n"), (102_400, 61_440));
        assert_eq!(host("cpu  10 1 5 1000 7 2 3 4 100 0\ncpu0 1 1 1 1\n"), 25.0);
        let disks_text = "259 0 nvme0n1 1 0 10 0 1 0 20 0\n259 1 nvme0n1p1 1 0 10 0 1 0 20 0\n8 0 sda 1 0 2 0 1 0 4 0\n8 1 sda1 1 0 2 0 1 0 4 0\n";
        assert_eq!(disks(disks_text), [12.0 * SECTOR, 24.0 * SECTOR]);
        let dev = "Inter-| Receive\n face |bytes\n    lo: 5 0 0 0 0 0 0 0 5 0\n  eth0: 7 1 0 0 0 0 0 0 9 1\n";
        assert_eq!(net(dev), [7.0, 9.0]);
    }

    #[test]
    fn a_gpu_is_told_of_where_there_is_one() {
        let without = serde_json::to_value(Sample::default()).unwrap();
        assert!(without.as_object().unwrap().keys().all(|key| !key.contains("gpu")), "{without}");
        let with = Sample { gpu_memory_used: 3 << 30, gpu_memory: 8 << 30, ..Sample::default() };
        let with = serde_json::to_value(with).unwrap();
        assert_eq!(
            (&with["gpu_memory_used"], &with["gpu_memory"]),
            (&(3u64 << 30).into(), &(8u64 << 30).into())
        );
        assert_eq!(with.as_object().unwrap().len(), without.as_object().unwrap().len() + 2);
    }

    #[test]
    fn an_hour_is_kept_and_rates_are_of_one_second() {
        let (resources, times) = (Resources::default(), Histogram::default());
        for second in 0..KEPT as u64 + 10 {
            for _ in 0..3 {
                times.record(second * 1_000_000);
            }
            let requests = Requests { calls: 3 * (second + 1), failures: second / 2, ..Requests::default() };
            resources.add(Sample { time: second, ..Sample::default() }, requests, &times);
        }
        let all = resources.latest(usize::MAX);
        assert_eq!((all.len(), all[0].time, resources.latest(5).len()), (KEPT, 10, 5));
        let last = all.last().unwrap();
        assert_eq!((last.requests, last.failures + all[KEPT - 2].failures), (3, 1));
        assert!((last.p50_ms - 3609.0).abs() < 0.01 * 3609.0, "{last:?}");
        assert!(
            last.process_memory > 0 && last.threads > 0 && last.files > 0 && last.host_memory > 0,
            "{last:?}"
        );
        assert!(last.host_memory_used < last.host_memory && last.files_most > 0, "{last:?}");
    }
}
