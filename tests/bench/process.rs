//! What the kernel says about a process: CPU time, resident memory, sockets.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

/// `/proc/<pid>/stat` counts in hundredths of a second on every Linux (USER_HZ).
const TICK: Duration = Duration::from_millis(10);
const PAGE: u64 = 4096;

/// User and system time that a process has used so far, all its threads together.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("process {pid} has ended ({path})"))?;
    parse_cpu(&stat).with_context(|| format!("{path} has an unknown form"))
}

/// The fields after the process name, which is in parentheses and may hold anything.
fn parse_cpu(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(TICK * (user + system))
}

/// CPU time that the whole machine has used so far, what the hypervisor took away included.
pub(crate) fn machine_cpu() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat").context("/proc/stat cannot be read")?;
    parse_machine_cpu(&stat).context("/proc/stat has an unknown form")
}

/// The first line: user, nice, system, idle, iowait, irq, softirq, steal.
fn parse_machine_cpu(stat: &str) -> Option<Duration> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
    let ticks: Vec<u64> = fields.take(8).map_while(|field| field.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, steal] = ticks.try_into().ok()?;
    Some(Duration::from_millis((user + nice + system + irq + softirq + steal) * 10))
}

/// Resident memory in bytes.
pub(crate) fn rss(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/statm");
    let statm = fs::read_to_string(&path).with_context(|| format!("process {pid} has ended ({path})"))?;
    let pages: Option<u64> = statm.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse().ok());
    Ok(pages.with_context(|| format!("{path} has an unknown form"))? * PAGE)
}

/// Looks at a process's memory every few milliseconds and keeps the highest value.
#[derive(Debug)]
pub(crate) struct PeakRss {
    peak: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl PeakRss {
    /// Begins to look.
    pub(crate) fn watch(pid: u32) -> Result<Self> {
        let peak = Arc::new(AtomicU64::new(rss(pid)?));
        let ended = Arc::new(AtomicBool::new(false));
        let (seen, stop) = (Arc::clone(&peak), Arc::clone(&ended));
        let thread = std::thread::Builder::new().name("peak-rss".to_owned()).spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if let Ok(now) = rss(pid) {
                    seen.fetch_max(now, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        })?;
        Ok(Self { peak, ended, thread: Some(thread) })
    }

    /// Ends and gives the highest value in bytes.
    pub(crate) fn finish(mut self) -> u64 {
        self.stop();
        self.peak.load(Ordering::Relaxed)
    }

    fn stop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The thread only reads a file; if it panicked there is nothing more to save.
            let _ = thread.join();
        }
    }
}

impl Drop for PeakRss {
    fn drop(&mut self) {
        self.stop();
    }
}

/// One line of `/proc/net/tcp`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Socket {
    local_port: u16,
    remote_port: u16,
    state: u8,
    inode: u64,
}

const ESTABLISHED: u8 = 1;
const LISTEN: u8 = 10;

fn sockets() -> Result<Vec<Socket>> {
    let mut all = Vec::new();
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let table = fs::read_to_string(path).unwrap_or_default();
        all.extend(table.lines().skip(1).filter_map(parse_socket));
    }
    anyhow::ensure!(!all.is_empty(), "/proc/net/tcp cannot be read: sockets cannot be counted");
    Ok(all)
}

fn parse_socket(line: &str) -> Option<Socket> {
    let mut fields = line.split_ascii_whitespace();
    let port = |address: &str| u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok();
    let local_port = port(fields.nth(1)?)?;
    let remote_port = port(fields.next()?)?;
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    let inode = fields.nth(5)?.parse().ok()?;
    Some(Socket { local_port, remote_port, state, inode })
}

/// The inodes of the sockets that a process holds.
fn inodes(pid: u32) -> HashSet<u64> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let links = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    links
        .filter_map(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())
        .collect()
}

/// Established connections of a process to a port.
pub(crate) fn connections_to(pid: u32, port: u16) -> Result<usize> {
    let own = inodes(pid);
    let to_port = |s: &Socket| s.remote_port == port && s.state == ESTABLISHED && own.contains(&s.inode);
    Ok(sockets()?.iter().filter(|s| to_port(s)).count())
}

/// The process that listens on a port of this machine, if it may be seen.
pub(crate) fn listener(port: u16) -> Result<Option<u32>> {
    let sockets = sockets()?;
    let Some(socket) = sockets.iter().find(|s| s.local_port == port && s.state == LISTEN) else {
        return Ok(None);
    };
    let pids = fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(pids.into_iter().find(|pid: &u32| inodes(*pid).contains(&socket.inode)))
}

/// How many files and sockets a process may have open.
pub(crate) fn open_files_limit() -> u64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    line.and_then(|line| line.split_ascii_whitespace().nth(3)?.parse().ok()).unwrap_or(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_behind_any_process_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194304 100 0 0 0 12 30 0 0 20 0 1 0 100 1000 10";
        assert_eq!(parse_cpu(stat), Some(Duration::from_millis(420)));
        assert_eq!(parse_cpu("7 (cut) S 1"), None);
    }

    #[test]
    fn the_machines_time_is_all_but_idle_time() {
        let stat = "cpu  10 1 20 5000 700 2 3 4 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(parse_machine_cpu(stat), Some(Duration::from_millis(400)));
        assert_eq!(parse_machine_cpu("cpu  10 1"), None);
        assert!(machine_cpu().unwrap() > Duration::ZERO);
    }

    #[test]
    fn a_line_of_the_socket_table_is_read() {
        let line =
            "   0: 0100007F:1D3B 0100007F:C350 01 00000000:00000000 00:00000000 00000000  0 0 4711 1 0 20";
        let expected = Socket { local_port: 7483, remote_port: 50_000, state: ESTABLISHED, inode: 4711 };
        assert_eq!(parse_socket(line), Some(expected));
    }

    #[test]
    fn this_process_can_be_looked_at() {
        let listening = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listening.local_addr().unwrap().port();
        let pid = std::process::id();
        assert_eq!(listener(port).unwrap(), Some(pid));
        assert_eq!(connections_to(pid, port).unwrap(), 0);
        let _client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert_eq!(connections_to(pid, port).unwrap(), 1);
        assert!(PeakRss::watch(pid).unwrap().finish() > 100_000);
        assert!(open_files_limit() >= 256);
    }
}
