//! The load engine: sessions that were logged in beforehand send prepared requests, closed or open loop,
//! on one reactor per thread. What one request costs here is a write, a read and a few hundred nanoseconds.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::unix::pipe;
use tokio::sync::Semaphore;
use tokio::task::LocalSet;

use crate::bolt::{Answer, Inbox, Request, Session};
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
    /// When to send.
    pub(crate) pace: Pace,
    /// Ignored time at the beginning.
    pub(crate) warm_up: Duration,
    /// Measured time.
    pub(crate) time: Duration,
    /// Threads that send.
    pub(crate) threads: usize,
    /// Processes whose CPU time is read at both ends of the measured time.
    pub(crate) watched: Vec<u32>,
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
        let all: Vec<u32> = watched.iter().copied().chain([std::process::id()]).collect();
        std::thread::sleep(self.start.saturating_duration_since(Instant::now()));
        let before: Vec<Duration> = all.iter().map(|pid| process::cpu(*pid)).collect::<Result<_>>()?;
        let machine = process::machine_cpu()?;
        std::thread::sleep(self.end.saturating_duration_since(Instant::now()));
        for (pid, before) in all.iter().zip(before) {
            round.cpu.push(process::cpu(*pid)?.saturating_sub(before));
        }
        let machine = process::machine_cpu()?.saturating_sub(machine);
        round.foreign_cpu = machine.saturating_sub(round.cpu.iter().sum());
        round.own_cpu = round.cpu.pop().unwrap_or_default();
        Ok(())
    }
}

/// Runs one measurement on `sessions`, which stay logged in; those whose connection broke are left out.
pub(crate) fn run(sessions: &mut Vec<Session>, job: &Job) -> Result<Round> {
    let window = Window::new(job.warm_up, job.time);
    let threads = job.threads.clamp(1, sessions.len().max(1));
    let mut shares: Vec<Vec<Session>> = (0..threads).map(|_| Vec::new()).collect();
    for (index, session) in sessions.drain(..).enumerate() {
        shares[index % threads].push(session);
    }
    let mut round = Round { time: job.time, ..Round::default() };
    std::thread::scope(|scope| -> Result<()> {
        let running: Vec<_> = shares
            .into_iter()
            .enumerate()
            .map(|(index, share)| scope.spawn(move || run_share(share, job, window, index, threads)))
            .collect();
        window.watch_cpu(&job.watched, &mut round)?;
        for thread in running {
            let (share, back) = thread.join().map_err(|_| anyhow::anyhow!("a load thread panicked"))??;
            round.merge(share);
            sessions.extend(back);
        }
        Ok(())
    })?;
    Ok(round)
}

/// One thread's share of the sessions.
fn run_share(
    sessions: Vec<Session>,
    job: &Job,
    window: Window,
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
            let worker = Worker::new(session, Rc::clone(&requests), nth * threads + index, window)?;
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
    requests: Rc<[Request]>,
    turn: usize,
    window: Window,
    inbox: Inbox,
    round: Round,
    done: u64,
}

impl Worker {
    fn new(session: Session, requests: Rc<[Request]>, turn: usize, window: Window) -> Result<Self> {
        session.stream.set_nonblocking(true)?;
        let stream = TcpStream::from_std(session.stream)?;
        let (inbox, round) = (Inbox::default(), Round::default());
        Ok(Self { stream, server: session.server, requests, turn, window, inbox, round, done: 0 })
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
        let Self { stream, server, round, .. } = self;
        (round, alive.then(|| back_to_blocking(stream, server).ok()).flatten())
    }

    /// Sends until the measurement ends; false = the connection broke.
    async fn send_all(&mut self, due: Option<Due>) -> bool {
        tokio::time::sleep_until(self.window.begin.into()).await;
        while Instant::now() < self.window.end {
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
        let request = &self.requests[self.turn % self.requests.len()];
        self.turn += 1;
        self.stream.write_all(&request.wire).await?;
        let answer = collect(&mut self.stream, &mut self.inbox, request).await?;
        Ok(answer.verdict(request))
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

fn back_to_blocking(stream: TcpStream, server: String) -> Result<Session> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    Ok(Session { stream, server })
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
            pace,
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
