//! Round after round, and the check of the check: that what is wrong is found.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::ValueEnum as _;

use crate::round::{Pool, Round};
use crate::sides::{Servers, Sides};
use crate::tally::Tally;
use crate::wrong::{Fault, Wrong};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many statements, those of one side counted.
    #[arg(long, default_value_t = 100_000)]
    cases: usize,
    /// Decides everything that is random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this round of the seed.
    #[arg(long)]
    round: Option<u64>,
    /// Only rounds in which all clients want the same keys.
    #[arg(long)]
    contests: bool,
    /// Print all that was sent and seen; best with --round.
    #[arg(long)]
    tell: bool,
    /// Differences after which the run ends.
    #[arg(long, default_value_t = 10)]
    enough: usize,
    #[command(flatten)]
    servers: Servers,
}

/// True if both sides were equal.
pub(crate) async fn run(args: Args) -> Result<bool> {
    let started = Instant::now();
    let mut sides = Sides::start(&args.servers).await?;
    let mut tally = Tally::default();
    tally.tell = args.tell;
    let pool = Pool::new(args.seed);
    let mut shown = Instant::now();
    for number in args.round.unwrap_or(0).. {
        if args.contests && !Round::is_together(number) {
            continue;
        }
        let round = Round::random(args.seed, number, &pool, &sides.versions);
        for text in round.play(&mut sides, &mut tally).await? {
            println!("\nDIFFERENCE, --seed {} --round {number}: {text}", args.seed);
        }
        let (statements, differences) = (tally.statements, tally.found());
        let done = statements >= args.cases || args.round.is_some() || differences >= args.enough;
        if done || shown.elapsed() > Duration::from_secs(15) {
            shown = Instant::now();
            eprintln!("twin: {statements} statements, {differences} differences, {:.0?}", started.elapsed());
        }
        if done {
            break;
        }
    }
    let server = args.servers.kind.neo4j.as_ref().unwrap_or(&args.servers.kind.version);
    tally.print(&format!("seed {}, {server}", args.seed), &sides, started.elapsed())?;
    ensure!(tally.statements > 0, "nothing was compared");
    sides.clean_up().await?;
    Ok(tally.found() == 0)
}

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// Decides everything that is random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    servers: Servers,
}

/// True if each fault of a wrong stand-in is found, in rounds of either kind, and nothing is found without one.
pub(crate) async fn check(args: CheckArgs) -> Result<bool> {
    const ROUNDS: u64 = 60;
    let mut sides = Sides::start(&args.servers).await?;
    let pool = Pool::new(args.seed);
    let mut kept = true;
    println!("| fault | clients with keys of their own | clients with the same keys |\n|---|---|---|");
    for fault in Fault::value_variants() {
        sides.through.wrong = Some(Arc::new(Wrong::new(*fault)));
        let mut cells = Vec::new();
        for together in [false, true] {
            let mut tally = Tally::default();
            let numbers = (0..ROUNDS).filter(|number| Round::is_together(*number) == together);
            for number in numbers {
                if tally.found() == 0 {
                    let round = Round::random(args.seed, number, &pool, &sides.versions);
                    round.play(&mut sides, &mut tally).await?;
                }
            }
            let needed = !together || fault.shows_in_contests();
            kept &= tally.found() > 0 || !needed;
            cells.push(match (tally.found(), needed) {
                (0, true) => format!("NOT FOUND in {} statements", tally.statements),
                (0, false) => "cannot show".to_owned(),
                _ => format!("found in {} statements", tally.statements),
            });
        }
        println!("| {fault:?} | {} |", cells.join(" | "));
    }
    sides.through.wrong = None;
    let mut tally = Tally::default();
    for number in 0..4 {
        Round::random(args.seed, number, &pool, &sides.versions).play(&mut sides, &mut tally).await?;
    }
    println!("| none | {} differences in {} statements | |", tally.found(), tally.statements);
    sides.clean_up().await?;
    Ok(kept && tally.found() == 0)
}
