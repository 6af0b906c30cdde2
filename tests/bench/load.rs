//! The load engine: sessions that were logged in beforehand send prepared requests, closed or open loop,
//! on one reactor per thread. What one request costs here is a write, a read and a few hundred nanoseconds.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::unix::pipe;
use tokio::sync::Semaphore;
use tokio::task::LocalSet;

use crate::bolt::{Answer, Inbox, Key, Request, Session};
use crate::histogram::Histogram;
use crate::process;

/// How long after the end of a measurement the last answers may come.
const PATIENCE: Duration = Duration::from_secs(60);

/// When a session sends its next request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// As soon as it has the answer to the one before.
    Closed,
    /// So many requests a second over all sessions, due at fixed times. A request that is due waits for a free session,
    /// and its latency counts from when it was due: a slow answer is not hidden by the requests it kept back.
    Open(f64),
}

/// One measurement.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// Sent in turn, each session beginning at another one.
    pub(crate) requests: Vec<Request>,
    /// What is written into the gaps of the requests.
    pub(crate) keys: Option<Keys>,
    /// When to send.
    pub(crate) pace: Pace,
    /// The measurement ends when so many requests are answered, whatever time that takes; none = after `time`.
    pub(crate) limit: Option<u64>,
    /// Ignored time at the beginning.
    pub(crate) warm_up: Duration,
    /// Measured time.
    pub(crate) time: Duration,
    /// Threads that send.
    pub(crate) threads: usize,
    /// Processes whose CPU time is read at both ends of the measured time.
    pub(crate) watched: Vec<u32>,
}

/// Values for the gaps of requests: each row of each request gets a number that no other has had, and its values from that.
#[derive(Clone)]
pub(crate) struct Keys {
    next: Arc<AtomicU64>,
    of: Arc<dyn Fn(u64) -> [Key; 2] + Send + Sync>,
}

impl Keys {
    /// Values that depend on a row's number in this way.
    pub(crate) fn new(of: impl Fn(u64) -> [Key; 2] + Send + Sync + 'static) -> Self {
        Self { next: Arc::default(), of: Arc::new(of) }
    }

    /// The same values, going on where these are.
    pub(crate) fn with(&self, of: impl Fn(u64) -> [Key; 2] + Send + Sync + 'static) -> Self {
        Self { next: Arc::clone(&self.next), of: Arc::new(of) }
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("next", &self.next).finish_non_exhaustive()
    }
}

/// What was measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Round {
    /// Latencies of the requests that ended well within the measured time.
    pub(crate) latency: Histogram,
    /// Length of the measured time.
    pub(crate) time: Duration,
    /// Requests that failed at any time.
    pub(crate) errors: u64,
    /// The first failure.
    pub(crate) first_error: Option<String>,
    /// Requests that were due within the measured time and could not even be sent (open loop).
    pub(crate) backlog: u64,
    /// Requests of each session within the measured time.
    pub(crate) per_session: Vec<u64>,
    /// CPU time of each watched process.
    pub(crate) cpu: Vec<Duration>,
    /// CPU time of the load itself.
    pub(crate) own_cpu: Duration,
    /// CPU time of everything that is neither watched nor the load.
    pub(crate) foreign_cpu: Duration,
}

impl Round {
    /// Requests a second.
    pub(crate) fn rate(&self) -> f64 {
        self.latency.count() as f64 / self.time.as_secs_f64()
    }

    /// Cores that were kept busy by what is neither watched nor the load.
    pub(crate) fn foreign_cores(&self) -> f64 {
        self.foreign_cpu.as_secs_f64() / self.time.as_secs_f64()
    }

    /// CPU microseconds of watched process `index` for each request.
    pub(crate) fn cpu_per_request(&self, index: usize) -> Option<f64> {
        let requests = self.latency.count();
        let cpu = self.cpu.get(index)?;
        (requests > 0).then(|| cpu.as_secs_f64() * 1e6 / requests as f64)
    }

    /// Adds what another thread or session measured in the same time.
    pub(crate) fn merge(&mut self, other: Self) {
        self.latency.merge(&other.latency);
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
        self.backlog += other.backlog;
        self.per_session.extend(other.per_session);
    }
}

/// The measured time, the same for all threads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// The first request may be sent.
    pub(crate) begin: Instant,
    /// From here on requests count.
    pub(crate) start: Instant,
    /// From here on they do not count any more and none is begun.
    pub(crate) end: Instant,
}

impl Window {
    /// A window that begins in a moment, when all threads are there.
    pub(crate) fn new(warm_up: Duration, time: Duration) -> Self {
        let begin = Instant::now() + Duration::from_millis(5);
        let start = begin + warm_up;
        Self { begin, start, end: start + time }
    }

    /// True for an instant within the measured time.
    pub(crate) fn counts(&self, now: Instant) -> bool {
        now >= self.start && now < self.end
    }

    /// Waits for both ends of the measured time and notes the CPU time that was used in between.
    pub(crate) fn watch_cpu(&self, watched: &[u32], round: &mut Round) -> Result<()> {
        std::thread::sleep(self.start.saturating_duration_since(Instant::now()));
        let meter = Meter::start(watched)?;
        std::thread::sleep(self.end.saturating_duration_since(Instant::now()));
        meter.finish(round)
    }
}

/// CPU time at the beginning of a measurement.
#[derive(Debug)]
pub(crate) struct Meter {
    processes: Vec<(u32, Duration)>,
    machine: Duration,
}

impl Meter {
    /// Notes what the processes, this one and the machine have used so far.
    pub(crate) fn start(watched: &[u32]) -> Result<Self> {
        let all = watched.iter().copied().chain([std::process::id()]);
        let processes = all.map(|pid| Ok((pid, process::cpu(pid)?))).collect::<Result<_>>()?;
        Ok(Self { processes, machine: process::machine_cpu()? })
    }

    /// Writes into `round` what was used since.
    pub(crate) fn finish(self, round: &mut Round) -> Result<()> {
        for (pid, before) in self.processes {
            round.cpu.push(process::cpu(pid)?.saturating_sub(before));
        }
        let machine = process::machine_cpu()?.saturating_sub(self.machine);
        round.foreign_cpu = machine.saturating_sub(round.cpu.iter().sum());
        round.own_cpu = round.cpu.pop().unwrap_or_default();
        Ok(())
    }
}

/// Longer than any measurement without a fixed time.
const ENDLESS: Duration = Duration::from_secs(3600);

/// Runs one measurement on `sessions`, which stay logged in; those whose connection broke are left out.
pub(crate) fn run(sessions: &mut Vec<Session>, job: &Job) -> Result<Round> {
    let window = match job.limit {
        None => Window::new(job.warm_up, job.time),
        Some(_) => Window::new(Duration::ZERO, ENDLESS),
    };
    let left = job.limit.map(|limit| Arc::new(AtomicI64::new(limit.try_into().unwrap_or(i64::MAX))));
    let threads = job.threads.clamp(1, sessions.len().max(1));
    let mut shares: Vec<Vec<Session>> = (0..threads).map(|_| Vec::new()).collect();
    for (index, session) in sessions.drain(..).enumerate() {
        shares[index % threads].push(session);
    }
    let mut round = Round { time: job.time, ..Round::default() };
    let begun = Meter::start(&job.watched)?;
    std::thread::scope(|scope| -> Result<()> {
        let running: Vec<_> = shares
            .into_iter()
            .enumerate()
            .map(|(index, share)| {
                let left = left.clone();
                scope.spawn(move || run_share(share, job, window, left, index, threads))
            })
            .collect();
        if left.is_none() {
            window.watch_cpu(&job.watched, &mut round)?;
        }
        for thread in running {
            let (share, back) = thread.join().map_err(|_| anyhow::anyhow!("a load thread panicked"))??;
            round.merge(share);
            sessions.extend(back);
        }
        Ok(())
    })?;
    if left.is_some() {
        round.time = window.begin.elapsed();
        begun.finish(&mut round)?;
    }
    Ok(round)
}

/// One thread's share of the sessions.
fn run_share(
    sessions: Vec<Session>,
    job: &Job,
    window: Window,
    left: Option<Arc<AtomicI64>>,
    index: usize,
    threads: usize,
) -> Result<(Round, Vec<Session>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let due = match job.pace {
            Pace::Closed => None,
            Pace::Open(rate) => Some(Due::begin(rate, index, threads, window)?),
        };
        let requests: Rc<[Request]> = job.requests.clone().into();
        let mut workers = Vec::new();
        for (nth, session) in sessions.into_iter().enumerate() {
            let mut worker = Worker::new(session, Rc::clone(&requests), nth * threads + index, window)?;
            (worker.keys, worker.left) = (job.keys.clone(), left.clone());
            workers.push(tokio::task::spawn_local(worker.work(due.clone())));
        }
        let (mut round, mut back) = (Round::default(), Vec::new());
        for worker in workers {
            let (share, session) = worker.await.context("a session's task panicked")?;
            round.merge(share);
            back.extend(session);
        }
        round.backlog += due.map_or(0, |due| due.waiting.borrow().len() as u64);
        Ok((round, back))
    })
}

/// The requests of an open loop that are due and not yet sent.
#[derive(Clone, Debug)]
struct Due {
    waiting: Rc<RefCell<VecDeque<Instant>>>,
    ready: Rc<Semaphore>,
}

impl Due {
    /// Begins to make requests due: this thread's share of the rate, shifted so that the threads take turns.
    fn begin(rate: f64, index: usize, threads: usize, window: Window) -> Result<Self> {
        let due = Self { waiting: Rc::default(), ready: Rc::new(Semaphore::new(0)) };
        let gap = threads as f64 / rate;
        let first = window.begin + Duration::from_secs_f64(index as f64 / rate);
        let timer =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        // A timer that fires more often than this would itself be the load.
        let period = Duration::from_secs_f64(gap).max(Duration::from_micros(50));
        timer.set(Expiration::Interval(TimeSpec::from_duration(period)), TimerSetTimeFlags::empty())?;
        // The reactor's own timers are right to a millisecond only. A timer descriptor is read like a pipe: eight bytes a tick.
        let ticks = pipe::Receiver::from_owned_fd_unchecked(OwnedFd::from(timer))?;
        tokio::task::spawn_local(due.clone().keep_time(ticks, first, gap, window.end));
        Ok(due)
    }

    async fn keep_time(self, mut ticks: pipe::Receiver, first: Instant, gap: f64, end: Instant) {
        let mut sent = 0u64;
        loop {
            let now = Instant::now();
            let mut next = first + Duration::from_secs_f64(sent as f64 * gap);
            while next <= now && next < end {
                self.waiting.borrow_mut().push_back(next);
                self.ready.add_permits(1);
                sent += 1;
                next = first + Duration::from_secs_f64(sent as f64 * gap);
            }
            if now >= end {
                self.ready.close();
                return;
            }
            if ticks.read(&mut [0; 8]).await.is_err() {
                self.ready.close();
                return;
            }
        }
    }

    /// Waits for a request to be due; `None` = the measurement is over.
    async fn next(&self) -> Option<Instant> {
        self.ready.acquire().await.ok()?.forget();
        self.waiting.borrow_mut().pop_front()
    }
}

/// One session at work.
#[derive(Debug)]
struct Worker {
    stream: TcpStream,
    server: String,
    telemetry: bool,
    requests: Rc<[Request]>,
    keys: Option<Keys>,
    left: Option<Arc<AtomicI64>>,
    turn: usize,
    window: Window,
    inbox: Inbox,
    outbox: Vec<u8>,
    round: Round,
    done: u64,
}

impl Worker {
    fn new(session: Session, requests: Rc<[Request]>, turn: usize, window: Window) -> Result<Self> {
        session.stream.set_nonblocking(true)?;
        let stream = TcpStream::from_std(session.stream)?;
        let (inbox, round) = (Inbox::default(), Round::default());
        let Session { server, telemetry, .. } = session;
        let (keys, left, outbox) = (None, None, Vec::new());
        Ok(Self {
            stream,
            server,
            telemetry,
            requests,
            keys,
            left,
            turn,
            window,
            inbox,
            outbox,
            round,
            done: 0,
        })
    }

    async fn work(mut self, due: Option<Due>) -> (Round, Option<Session>) {
        let last = self.window.end + PATIENCE;
        let alive = match tokio::time::timeout_at(last.into(), self.send_all(due)).await {
            Ok(alive) => alive,
            Err(_) => {
                self.fail(format!("no answer {} s after the end of the measurement", PATIENCE.as_secs()));
                false
            }
        };
        self.round.per_session.push(self.done);
        let Self { stream, server, telemetry, round, .. } = self;
        let back = back_to_blocking(stream).map(|stream| Session { stream, server, telemetry });
        (round, back.ok().filter(|_| alive))
    }

    /// Sends until the measurement ends; false = the connection broke.
    async fn send_all(&mut self, due: Option<Due>) -> bool {
        tokio::time::sleep_until(self.window.begin.into()).await;
        while Instant::now() < self.window.end {
            if self.left.as_ref().is_some_and(|left| left.fetch_sub(1, Ordering::Relaxed) <= 0) {
                return true;
            }
            let since = match &due {
                None => Instant::now(),
                Some(due) => match due.next().await {
                    Some(since) => since,
                    None => return true,
                },
            };
            match self.one().await {
                Ok(Ok(_)) => self.note(since),
                Ok(Err(failure)) => {
                    self.fail(failure);
                    if let Err(error) = self.recover().await {
                        self.fail(format!("after a failure: {error:#}"));
                        return false;
                    }
                }
                Err(error) => {
                    self.fail(format!("{error:#}"));
                    return false;
                }
            }
        }
        true
    }

    /// One request: the connection's fate outside, the answer's inside.
    async fn one(&mut self) -> Result<Result<Answer, String>> {
        let requests = Rc::clone(&self.requests);
        let mut request = &requests[self.turn % requests.len()];
        self.turn += 1;
        let keys = self.keys.as_ref();
        let first =
            keys.map(|keys| (keys.next.fetch_add(request.rows(), Ordering::Relaxed), Arc::clone(&keys.of)));
        loop {
            match &first {
                Some((first, of)) if !request.gaps.is_empty() => {
                    request.fill(&mut self.outbox, |row| of(first + row));
                    self.stream.write_all(&self.outbox).await?;
                }
                _ => self.stream.write_all(&request.wire).await?,
            }
            let answer = collect(&mut self.stream, &mut self.inbox, request).await?;
            match (answer.verdict(request), &request.then) {
                (Ok(_), Some(then)) => request = then,
                (verdict, _) => return Ok(verdict),
            }
        }
    }

    async fn recover(&mut self) -> Result<()> {
        let reset = Request::reset();
        self.stream.write_all(&reset.wire).await?;
        collect(&mut self.stream, &mut self.inbox, &reset).await?;
        Ok(())
    }

    fn note(&mut self, since: Instant) {
        let now = Instant::now();
        if self.window.counts(now) {
            self.round.latency.record(now.duration_since(since));
            self.done += 1;
        }
    }

    fn fail(&mut self, reason: String) {
        self.round.errors += 1;
        self.round.first_error.get_or_insert(reason);
    }
}

fn back_to_blocking(stream: TcpStream) -> Result<std::net::TcpStream> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

async fn collect(stream: &mut TcpStream, inbox: &mut Inbox, request: &Request) -> Result<Answer> {
    let mut answer = Answer::default();
    loop {
        let read = stream.read(inbox.room()).await?;
        anyhow::ensure!(read > 0, "the server closed the connection");
        if inbox.arrived(read, &mut answer, request)? {
            return Ok(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use bolt_wire::Version;
    use bolt_wire::packstream::Value;

    use super::*;
    use crate::stub::tests::{login, start};

    fn sessions(count: usize) -> Vec<Session> {
        let address = start();
        (0..count).map(|_| Session::open(address, None, &login(Version::V5_8)).unwrap()).collect()
    }

    fn job(text: &str, pace: Pace, threads: usize) -> Job {
        Job {
            requests: vec![Request::query(text, Value::map([]), Some(1))],
            keys: None,
            pace,
            limit: None,
            warm_up: Duration::ZERO,
            time: Duration::from_millis(500),
            threads,
            watched: vec![std::process::id()],
        }
    }

    #[test]
    fn a_closed_loop_counts_what_every_session_did() {
        let mut all = sessions(5);
        for threads in [1, 2] {
            let round = run(&mut all, &job("RETURN 1", Pace::Closed, threads)).unwrap();
            assert_eq!((round.errors, round.per_session.len(), all.len()), (0, 5, 5));
            assert_eq!(round.per_session.iter().sum::<u64>(), round.latency.count());
            assert!(round.latency.count() > 0 && round.cpu.len() == 1);
        }
    }

    #[test]
    fn failures_are_counted_and_leave_usable_sessions() {
        let mut all = sessions(2);
        let round = run(&mut all, &job("stub:rows=1", Pace::Closed, 1)).unwrap();
        assert!(round.errors > 0 && round.latency.count() == 0);
        assert!(round.first_error.unwrap().contains("SyntaxError"));
        assert_eq!(run(&mut all, &job("RETURN 1", Pace::Closed, 1)).unwrap().errors, 0);
    }

    #[test]
    fn a_number_of_requests_takes_the_time_that_it_takes() {
        let mut all = sessions(3);
        let job = Job { limit: Some(50), ..job("stub:delay=5ms", Pace::Closed, 2) };
        let round = run(&mut all, &job).unwrap();
        assert_eq!((round.latency.count(), round.errors, all.len()), (50, 0, 3));
        assert!(round.time >= Duration::from_millis(5 * 16) && round.time < ENDLESS, "{:?}", round.time);
        assert_eq!(round.cpu.len(), 1);
    }

    /// 100 a second are due and each takes at least 50 ms of the only session: most wait, and their waiting is in the figures.
    #[test]
    fn an_open_loop_does_not_hide_the_waiting() {
        let round = run(&mut sessions(1), &job("stub:delay=50ms", Pace::Open(100.0), 1)).unwrap();
        let done = round.latency.count();
        assert!(done <= 10, "{done} in half a second, one after the other");
        assert!(done + round.backlog >= 45, "50 were due: {done} done, {} left", round.backlog);
        let expected = Duration::from_millis(40 * done.saturating_sub(1));
        assert!(round.latency.max() >= expected, "{:?} is less than {expected:?}", round.latency.max());
    }

    #[test]
    fn an_open_loop_keeps_its_rate() {
        let round = run(&mut sessions(4), &job("RETURN 1", Pace::Open(200.0), 2)).unwrap();
        assert_eq!(round.errors, 0);
        let due = round.latency.count() + round.backlog;
        assert!((90..=101).contains(&due), "{due} instead of 100");
    }
}
