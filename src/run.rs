//! `sidebolt run`: configuration, start, signals, end.

use std::process::ExitCode;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::App;
use crate::cli::{BAD_CONFIGURATION, ConfigArgs, DemoArgs};
use crate::config::Config;
use crate::config::reload::Reloader;
use crate::logging;

/// Runs `work` on a runtime with a thread for each core.
pub fn on_runtime(work: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => {
            eprintln!("sidebolt: cannot start threads: {error}; raise the limit on processes (ulimit -u)");
            ExitCode::FAILURE
        }
    }
}

/// Runs the proxy until SIGTERM or SIGINT.
pub async fn run(args: &ConfigArgs) -> ExitCode {
    let sources = args.sources();
    let loaded = match Config::load(&sources) {
        Ok(loaded) => loaded,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    let started = async {
        let log = logging::init(&loaded.config.log)?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let config = Arc::new(ArcSwap::from_pointee(loaded.config));
        let signals = Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        };
        let app = App::start(Arc::clone(&config)).await?;
        let reconfigure = app.reconfigure();
        let reloader = Reloader::start(sources, config, move |_old, new| {
            if let Err(error) = log.set_level(&new.log.level) {
                tracing::error!(%error, "The new log level cannot be used.");
            }
            reconfigure(new);
        })?;
        app.follow(reloader);
        anyhow::Ok((app, signals))
    };
    match started.await {
        Ok((app, signals)) => serve(app, signals).await,
        Err(error) => {
            eprintln!("sidebolt: {error:#}");
            ExitCode::FAILURE
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Says where it listens, waits for a signal, and drains. A second signal ends at once.
async fn serve(app: App, mut signals: Signals) -> ExitCode {
    println!("listening bolt {}", app.bolt_address());
    if let Some(admin) = app.admin_address() {
        println!("listening admin {admin}");
    }
    signals.next().await;
    tracing::info!("Draining: open transactions may finish; a second signal ends at once.");
    tokio::select! {
        () = app.drain() => ExitCode::SUCCESS,
        () = signals.next() => ExitCode::FAILURE,
    }
}

/// `check --connect`: asks the upstream which versions it speaks.
pub fn try_upstream(config: &Config) -> Result<String, String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let config = Arc::new(ArcSwap::from_pointee(config.clone()));
        App::offered(&config).await
    })
}

/// `sidebolt demo`.
pub async fn demo(args: &DemoArgs) -> ExitCode {
    match crate::demo::run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sidebolt demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
