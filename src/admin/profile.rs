//! Profiles of CPU and heap, as `go tool pprof`, Parca and Pyroscope read them: gzipped protocol buffers.

use std::io::Write;
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flate2::Compression;
use flate2::write::GzEncoder;
use pprof::ProfilerGuardBuilder;
use pprof::protos::Message;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::sleep;

use super::Context;

/// Seconds and samples a second that may be asked for.
const SECONDS: std::ops::RangeInclusive<u64> = 1..=300;
const FREQUENCY: std::ops::RangeInclusive<i32> = 1..=1000;
/// Code that a sample must not interrupt: the unwinder would wait for itself.
const SPARED: [&str; 4] = ["libc", "libgcc", "pthread", "vdso"];

/// A profile of the CPU is being taken: there is one signal handler for the whole process.
static TAKING: Mutex<()> = Mutex::const_new(());

type Refusal = (StatusCode, String);

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wanted {
    seconds: u64,
    frequency: i32,
}

impl Default for Wanted {
    fn default() -> Self {
        // 99 and not 100, so that what happens a hundred times a second is not always met.
        Self { seconds: 10, frequency: 99 }
    }
}

pub(super) fn routes() -> Router<Context> {
    Router::new().route("/debug/pprof/profile", get(cpu)).route("/debug/pprof/heap", get(heap))
}

/// Where CPU time goes, for so many seconds.
async fn cpu(State(context): State<Context>, Query(wanted): Query<Wanted>) -> Response {
    let stop = context.stop.clone();
    let taken = match allowed(&context) {
        Ok(()) => stop.run_until_cancelled(take(wanted)).await,
        Err(refusal) => Some(Err(refusal)),
    };
    answer(taken.unwrap_or_else(|| Err((StatusCode::SERVICE_UNAVAILABLE, "Sidebolt is ending".to_owned()))))
}

async fn take(wanted: Wanted) -> Result<Vec<u8>, Refusal> {
    if !SECONDS.contains(&wanted.seconds) || !FREQUENCY.contains(&wanted.frequency) {
        let words =
            "seconds may be 1 to 300, frequency 1 to 1000: /debug/pprof/profile?seconds=10&frequency=99";
        return Err((StatusCode::BAD_REQUEST, words.to_owned()));
    }
    let Ok(taking) = TAKING.try_lock() else {
        let words = "another profile is being taken: ask again when it is over";
        return Err((StatusCode::CONFLICT, words.to_owned()));
    };
    let profiler = ProfilerGuardBuilder::default().frequency(wanted.frequency).blocklist(&SPARED).build();
    let profiler = profiler.map_err(|error| failed(&error))?;
    sleep(Duration::from_secs(wanted.seconds)).await;
    // Names are looked up in the program's symbols: that takes a while.
    let work = tokio::task::spawn_blocking(move || {
        let profile =
            profiler.report().build().and_then(|report| report.pprof()).map_err(|error| failed(&error))?;
        drop((profiler, taking));
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(&profile.encode_to_vec()).map_err(|error| failed(&error))?;
        packed.finish().map_err(|error| failed(&error))
    });
    work.await.map_err(|error| failed(&error))?
}

/// What is allocated now, by where.
async fn heap(State(context): State<Context>) -> Response {
    answer(match allowed(&context) {
        Ok(()) => dump().await,
        Err(refusal) => Err(refusal),
    })
}

async fn dump() -> Result<Vec<u8>, Refusal> {
    let Some(control) = jemalloc_pprof::PROF_CTL.as_ref() else {
        let words = "the heap is not sampled: start Sidebolt with the environment variable _RJEM_MALLOC_CONF=prof:true,lg_prof_sample:19";
        return Err((StatusCode::NOT_IMPLEMENTED, words.to_owned()));
    };
    let mut control = control.lock().await;
    if !control.activated() {
        control.activate().map_err(|error| failed(&error))?;
        let words = "the heap is sampled from now on: ask again later for what was allocated meanwhile";
        return Err((StatusCode::SERVICE_UNAVAILABLE, words.to_owned()));
    }
    control.dump_pprof().map_err(|error| failed(&error))
}

fn allowed(context: &Context) -> Result<(), Refusal> {
    let on = context.shared.config.load().admin.profiling;
    let words = "profiles are off: set admin.profiling to true";
    if on { Ok(()) } else { Err((StatusCode::NOT_FOUND, words.to_owned())) }
}

fn failed(error: &dyn std::fmt::Display) -> Refusal {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("no profile could be taken: {error}"))
}

fn answer(profile: Result<Vec<u8>, Refusal>) -> Response {
    match profile {
        Ok(profile) => ([(CONTENT_TYPE, "application/octet-stream")], profile).into_response(),
        Err((status, words)) => (status, format!("{words}\n")).into_response(),
    }
}
