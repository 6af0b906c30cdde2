//! `compare`: the same work direct and through Sidebolt, compared answer by answer; see `run`.

mod compare;
mod contest;
mod graph;
mod load;
mod lose;
mod normal;
mod plan;
mod play;
mod register;
mod relay;
mod round;
mod servers;
mod sides;
mod tally;
mod texts;
mod values;
mod wire;
mod wrong;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// Shows that Sidebolt answers as Neo4j does.
#[derive(Debug, Parser)]
#[command(name = "twin")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Random statements by many clients: the same answers and the same graph.
    Compare(compare::Args),
    /// Falsify what comes through Sidebolt in several ways: each must be found.
    SelfCheck(compare::CheckArgs),
    /// Kill, cut, stall and half-close under load: nothing acknowledged is lost, nothing is done twice.
    Lose(lose::Args),
    /// Registers read and written through two Sidebolts and around them: no read misses what it must see.
    Register(register::Args),
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let kept = runtime.block_on(async {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let work = async {
            match cli.command {
                Command::Compare(args) => compare::run(args).await,
                Command::SelfCheck(args) => compare::check(args).await,
                Command::Lose(args) => lose::run(args).await,
                Command::Register(args) => register::run(args).await,
            }
        };
        tokio::select! {
            kept = work => kept,
            // The servers end with what is dropped here.
            _ = interrupt.recv() => bail!("interrupted"),
            _ = terminate.recv() => bail!("terminated"),
        }
    });
    runtime.shutdown_background();
    Ok(if kept? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
