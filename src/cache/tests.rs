//! The ledger against a model of Neo4j: random histories of our own and foreign commits, reads and readings, in any order.

use std::collections::HashMap;
use std::sync::Arc;

use fastrand::Rng;

use super::ledger::{Basis, Before, Commits, Ledger, Moment, Span, Took};
use crate::statement::{Footprint, Mark};

const KEYS: usize = 6;

fn mark(key: usize) -> Mark {
    Mark::Key(format!("k{key}").into())
}

fn footprint(keys: &[usize]) -> Footprint {
    Footprint(Some(keys.iter().map(|key| mark(*key)).collect()))
}

/// What Neo4j holds.
#[derive(Default)]
struct Server {
    id: i64,
    values: HashMap<usize, u64>,
    next: u64,
}

impl Server {
    fn write(&mut self, keys: &[usize], ids: i64) {
        for key in keys {
            self.next += 1;
            self.values.insert(*key, self.next);
        }
        self.id += ids;
    }

    fn read(&self, keys: &[usize]) -> Vec<u64> {
        keys.iter().map(|key| self.values.get(key).copied().unwrap_or_default()).collect()
    }
}

/// Something on its way, in the steps in which the real one goes.
enum Way {
    Write { keys: Vec<usize>, named: Option<Vec<usize>>, effect: Effect, step: u8 },
    Read { keys: Vec<usize>, basis: Basis, carried: i64, seen: Option<(i64, Vec<u64>)> },
    Probe { moment: Moment, before: Before, seen: Option<i64>, truth: Vec<Vec<u64>> },
}

/// What a write of ours does to the ids.
#[derive(Clone, Copy, PartialEq)]
enum Effect {
    /// It changes something, and is known to take an id.
    Sure,
    /// It changes something, takes an id, and might not have.
    Unsure,
    /// It reports updates, changes nothing and takes no id.
    Nothing,
    /// It takes an id more, for a new name.
    Name,
    /// Its connection is lost; it happens all the same.
    Lost,
}

struct Kept {
    keys: Vec<usize>,
    basis: Basis,
    id: i64,
    values: Vec<u64>,
}

#[derive(Default)]
struct Tally {
    served: u64,
    beside: u64,
    wrong: u64,
}

/// One random history; counts what was served, what was served beside commits, and what was wrong.
fn history(seed: u64, trusting: bool, tally: &mut Tally) {
    let mut random = Rng::with_seed(seed);
    let commits = Commits::default();
    let ledger = Arc::new(Ledger::new([1; 16]));
    let mut server = Server { id: 10, ..Server::default() };
    let mut ways: Vec<Way> = Vec::new();
    let mut kept: Vec<Kept> = Vec::new();
    let foreign = random.u32(0..3) * 4;
    for _ in 0..400 {
        let some = |random: &mut Rng| -> Vec<usize> {
            (0..random.usize(1..3)).map(|_| random.usize(0..KEYS)).collect()
        };
        match random.u32(0..100) {
            0..12 if ways.len() < 6 => {
                let keys = some(&mut random);
                let effect = match random.u32(0..20) {
                    0..13 => Effect::Sure,
                    13..15 => Effect::Unsure,
                    15..17 => Effect::Nothing,
                    17..19 => Effect::Name,
                    _ => Effect::Lost,
                };
                let named = (random.u32(0..10) > 0).then(|| keys.clone());
                commits.begin();
                ways.push(Way::Write { keys, named, effect, step: 0 });
            }
            12..24 if ways.len() < 6 => {
                if let Some(carried) = ledger.newest() {
                    let keys = some(&mut random);
                    let basis = ledger.basis(&footprint(&keys));
                    ways.push(Way::Read { keys, basis, carried, seen: None });
                }
            }
            24..44 if ways.len() < 6 => {
                let (moment, before) = (commits.moment(), ledger.before());
                ways.push(Way::Probe { moment, before, seen: None, truth: Vec::new() });
            }
            n if n >= 44 && n < 44 + foreign => {
                let keys = some(&mut random);
                server.write(&keys, 1);
            }
            _ if !ways.is_empty() => {
                let at = random.usize(0..ways.len());
                let way = ways.swap_remove(at);
                ways.extend(advance(way, &ledger, &commits, &mut server, &mut kept, trusting, tally));
            }
            _ => {}
        }
    }
}

/// One step of one of them; what is left of it.
fn advance(
    way: Way,
    ledger: &Arc<Ledger>,
    commits: &Commits,
    server: &mut Server,
    kept: &mut Vec<Kept>,
    trusting: bool,
    tally: &mut Tally,
) -> Option<Way> {
    match way {
        Way::Write { keys, named, effect, step: 0 } => {
            match effect {
                Effect::Nothing => {}
                Effect::Name => server.write(&keys, 2),
                _ => server.write(&keys, 1),
            }
            Some(Way::Write { keys, named, effect, step: 1 })
        }
        Way::Write { named, effect, .. } => {
            let changed = named.map_or(Footprint::WHOLE, |keys| footprint(&keys));
            match effect {
                Effect::Lost => ledger.doubt(),
                Effect::Sure | Effect::Name => ledger.committed(Took::One, &changed),
                // The mistake that the teeth are for: what may have taken none counts as one.
                Effect::Unsure | Effect::Nothing if trusting => ledger.committed(Took::One, &changed),
                Effect::Unsure | Effect::Nothing => ledger.committed(Took::Perhaps, &changed),
            }
            commits.end();
            None
        }
        Way::Read { keys, basis, carried, seen: None } => {
            let seen = Some((server.id, server.read(&keys)));
            Some(Way::Read { keys, basis, carried, seen })
        }
        Way::Read { keys, basis, carried, seen: Some((id, values)) } => {
            ledger.seen(id);
            if id == carried {
                kept.push(Kept { keys, basis, id, values });
            }
            None
        }
        Way::Probe { moment, before, seen: None, .. } => {
            let truth = (0..KEYS).map(|key| server.read(&[key])).collect();
            Some(Way::Probe { moment, before, seen: Some(server.id), truth })
        }
        Way::Probe { moment, before, seen: Some(id), truth } => {
            let span = ledger.reading(id, commits, moment, before).span;
            serve(span, ledger, kept, &truth, tally);
            None
        }
    }
}

/// Whoever asked before the probe was sent may be given what holds at it: it must be what Neo4j held then.
fn serve(span: Span, ledger: &Ledger, kept: &mut Vec<Kept>, truth: &[Vec<u64>], tally: &mut Tally) {
    kept.retain(|entry| {
        if !(span.covers(entry.id) && ledger.is_untouched(&entry.basis)) {
            return span.base <= entry.id || entry.id >= span.newest;
        }
        tally.served += 1;
        tally.beside += u64::from(entry.id != span.newest);
        let now: Vec<u64> = entry.keys.iter().filter_map(|key| truth[*key].first().copied()).collect();
        tally.wrong += u64::from(now != entry.values);
        true
    });
}

fn play(trusting: bool) -> Tally {
    let mut tally = Tally::default();
    for seed in 0..3_000 {
        history(seed, trusting, &mut tally);
    }
    tally
}

#[test]
fn what_is_served_is_what_neo4j_would_say() {
    let tally = play(false);
    assert_eq!(tally.wrong, 0);
    // It is not right because it does nothing.
    assert!(
        tally.served > 20_000 && tally.beside > 3_500,
        "{} served, {} beside commits",
        tally.served,
        tally.beside
    );
}

#[test]
fn the_model_finds_a_wrong_count() {
    assert!(play(true).wrong > 0);
}

#[test]
fn another_past_clears_everything() {
    let (commits, ledger) = (Commits::default(), Ledger::new([1; 16]));
    let read = |id: i64| ledger.reading(id, &commits, commits.moment(), ledger.before());
    assert!(!read(10).cleared);
    let basis = ledger.basis(&footprint(&[1]));
    assert!(read(10).span.covers(10) && ledger.is_untouched(&basis));
    assert!(read(9).cleared && !ledger.is_untouched(&basis));
    assert_eq!(ledger.newest(), Some(9));
}
