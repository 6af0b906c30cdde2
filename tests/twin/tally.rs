//! What has been compared, and what came of it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use crate::contest::Match;
use crate::play::{Script, Seen};
use crate::sides::Sides;

/// What has come of it.
#[derive(Default)]
pub(crate) struct Tally {
    /// Print all that was sent and seen.
    pub(crate) tell: bool,
    /// How many statements, those of one side counted.
    pub(crate) statements: usize,
    rounds: usize,
    ways: BTreeMap<&'static str, usize>,
    contests: BTreeMap<String, usize>,
    outcomes: BTreeMap<String, usize>,
    differences: BTreeMap<String, usize>,
    /// Requests after a failure that Neo4j refuses and Sidebolt ignores.
    pub(crate) documented: usize,
    retries: [usize; 2],
    /// How long each side took.
    pub(crate) times: [Duration; 2],
}

impl Tally {
    /// How many differences there were.
    pub(crate) fn found(&self) -> usize {
        self.differences.values().sum()
    }

    /// Notes a difference.
    pub(crate) fn differ(&mut self, kind: String) {
        *self.differences.entry(kind).or_default() += 1;
    }

    /// Notes a contest.
    pub(crate) fn count_contest(&mut self, contest: &Match) {
        self.rounds += 1;
        self.statements += contest.statements();
        *self.contests.entry(format!("{:?}", contest.contest)).or_default() += contest.statements();
    }

    /// Notes a round, and what was seen in it.
    pub(crate) fn count_scripts(&mut self, scripts: &[Script], seen: &[Vec<Seen>]) {
        self.rounds += 1;
        for (side, retries) in seen.iter().zip(&mut self.retries) {
            *retries += side.iter().map(|seen| seen.retries).sum::<usize>();
        }
        for (script, seen) in scripts.iter().zip(seen.iter().flatten()) {
            for (unit, lines) in script.units.iter().zip(&seen.units) {
                self.statements += unit.statements;
                *self.ways.entry(unit.way).or_default() += 1;
                let failed =
                    lines.iter().find_map(|line| line.split_once("FAILURE ")?.1.split("Neo.").nth(1));
                let name = match failed {
                    Some(code) => code.split('"').next().unwrap_or_default(),
                    None if lines.iter().any(|line| line == "closed") => "closed",
                    None => "done",
                };
                *self.outcomes.entry(name.to_owned()).or_default() += 1;
            }
        }
    }

    /// Prints a table.
    pub(crate) fn print(&self, title: &str, sides: &Sides, took: Duration) -> Result<()> {
        println!("\n### Direct and through Sidebolt, {title}\n\n| figure | value |\n|---|---|");
        println!("| statements / rounds | {} / {} |", self.statements, self.rounds);
        for (name, figures) in [
            ("units by way", list(&self.ways)),
            ("units by outcome", list(&self.outcomes)),
            ("writes in contests", list(&self.contests)),
        ] {
            println!("| {name} | {figures} |");
        }
        println!(
            "| time direct / through / all | {:.0?} / {:.0?} / {took:.0?} |",
            self.times[0], self.times[1]
        );
        let metrics = sides.sidebolt.metrics("sidebolt_coalesce")?;
        let sum = |begin: &str| -> f64 {
            metrics.iter().filter(|(name, _)| name.starts_with(begin)).map(|(_, value)| value).sum()
        };
        let (batched, others) = (
            sum("sidebolt_coalesce_rows_total"),
            sum("sidebolt_coalesce_alone") + sum("sidebolt_coalesce_relayed"),
        );
        if batched + others > 0.0 {
            println!(
                "| committed writes that shared a batch | {batched} ({:.0} %) |",
                100.0 * batched / (batched + others)
            );
        }
        for (name, value) in metrics {
            if !name.contains("_bucket") {
                println!("| {name} | {value} |");
            }
        }
        let all = self.found();
        let kinds = if all == 0 { String::new() } else { format!(": {}", list(&self.differences)) };
        println!(
            "| managed transactions tried again direct / through | {} / {} |",
            self.retries[0], self.retries[1]
        );
        println!(
            "| malformed after a failure: refused direct, ignored by Sidebolt (documented) | {} |",
            self.documented
        );
        println!("| differences | {all}{kinds} |");
        Ok(())
    }
}

fn list(figures: &BTreeMap<impl std::fmt::Display + Ord, usize>) -> String {
    let all: Vec<String> = figures.iter().map(|(name, count)| format!("{name} {count}")).collect();
    all.join(", ")
}
