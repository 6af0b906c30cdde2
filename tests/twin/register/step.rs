//! One statement of a client: its parameters, what it may count on, and what its answer is worth.

use std::sync::Arc;
use std::time::Instant;

use bolt_wire::packstream::Value;

use super::cell::{Event, Outcome, Pending};
use super::client::{Carried, Client, Stop};
use super::fetched::Fetched;
use super::forms::{IDLE, Kind, Read, Rows, Takes, Write};
use super::op::{End, Op, Part};
use super::rule::{Breach, Due, Path};
use super::world::Letter;
use crate::plan::{Ask, Extra};

/// What a transaction has done so far.
#[derive(Debug, Default)]
pub(super) struct Tx {
    writes: Vec<Wrote>,
    /// What it read, for what its bookmark will stand for.
    values: Vec<(usize, i64)>,
    /// What the last statement read: for the one that depends on it.
    locked: Option<(usize, i64)>,
    /// A write may be committed from now on.
    pub(super) committing: bool,
    /// The bookmark that came at its end.
    pub(super) bookmark: Option<Value>,
}

/// A write that is not committed yet.
#[derive(Debug)]
struct Wrote {
    pending: Pending,
    slot: usize,
    told: Option<i64>,
    text: Arc<str>,
    sent: Instant,
}

/// A statement that is about to be sent.
#[derive(Debug)]
pub(super) struct Step {
    text: Arc<str>,
    parameters: Value,
    sent: Instant,
    what: What,
}

#[derive(Debug)]
enum What {
    /// A text, and the registers that it reads.
    Read(Arc<Read>, Vec<(usize, Due)>),
    /// The places of its registers among the transaction's writes.
    Write(Arc<Write>, usize),
    /// It locks a register and reads it.
    Lock(usize, Due),
    /// The second half of that, or what changes no register.
    Nothing,
}

impl Step {
    /// RUN.
    pub(super) fn run(&self, extra: Extra) -> Ask {
        Ask::Run(self.text.to_string(), self.parameters.clone(), extra)
    }

    /// What a cache would know it by.
    pub(super) fn key(&self) -> (&str, &Value) {
        (&self.text, &self.parameters)
    }
}

const LOCK: &str = "MATCH (r:Reg {id: $id}) SET r.n = coalesce(r.n, 0) + 1 RETURN r.v AS v";
const SET: &str = "MATCH (r:Reg {id: $id}) SET r += $props";

impl Client {
    /// Makes a statement; none if there is no register left that it could write.
    pub(super) fn prepare(&self, path: Path, part: &Part, carried: &Carried, tx: &mut Tx) -> Option<Step> {
        let world = &self.world;
        match *part {
            Part::Read(place, form) => {
                let slot = &world.slots[place];
                let form = Arc::clone(&slot.reads[form % slot.reads.len()]);
                let all = matches!(form.rows, Rows::Family | Rows::Sum);
                let cells: Vec<usize> = match all {
                    true => world.family(place).into_iter().map(|(_, cell)| cell).collect(),
                    false => vec![slot.cell()],
                };
                let id = [("id", Value::Integer(cells[0] as i64))];
                let parameters = if all { Value::map([]) } else { Value::map(id) };
                let sent = Instant::now();
                let due = |&cell: &usize| (cell, self.due(cell, path, carried, tx, sent));
                let cells = cells.iter().map(due).collect();
                Some(Step { text: Arc::clone(&form.text), parameters, sent, what: What::Read(form, cells) })
            }
            Part::Write(slot, form) => self.prepare_write(path, slot, form, tx),
            Part::Idle(slot, form) => {
                let text: Arc<str> = IDLE[form % IDLE.len()].into();
                let id = Value::Integer(world.slots[slot].cell() as i64);
                let mut all = vec![("id", id.clone())];
                if text.contains("$props") {
                    let fresh = world.fresh();
                    all.push(("props", Value::map([("id", id), (&fresh, Value::Integer(1))])));
                }
                Some(Step { text, parameters: Value::map(all), sent: Instant::now(), what: What::Nothing })
            }
            Part::LockAndSet(slot) => {
                let cell = world.slots[slot].cell();
                let parameters = Value::map([("id", Value::Integer(cell as i64))]);
                let sent = Instant::now();
                let due = self.due(cell, path, carried, tx, sent);
                Some(Step { text: LOCK.into(), parameters, sent, what: What::Lock(cell, due) })
            }
            Part::Set(slot) => {
                let (cell, value) = tx.locked.take()?;
                let text: Arc<str> = SET.into();
                let sent = Instant::now();
                let pending = world.cells[cell].begin(cell, path);
                tx.writes.push(Wrote { pending, slot, told: Some(value + 1), text: Arc::clone(&text), sent });
                let props = Value::map([("v", Value::Integer(value + 1))]);
                let parameters = Value::map([("id", Value::Integer(cell as i64)), ("props", props)]);
                Some(Step { text, parameters, sent, what: What::Nothing })
            }
        }
    }

    fn prepare_write(&self, path: Path, slot: usize, form: usize, tx: &mut Tx) -> Option<Step> {
        let (world, place) = (&self.world, slot);
        let slot = &world.slots[slot];
        let form = Arc::clone(&slot.writes[form % slot.writes.len()]);
        let (cell, ticket) = slot.take(&world.cells)?;
        let id = ("id", Value::Integer(cell as i64));
        let mut cells = vec![(place, cell)];
        let parameters = match form.takes {
            Takes::Id => Value::map([id]),
            Takes::Ticket => Value::map([id, ("k", Value::Integer(ticket))]),
            Takes::Key => Value::map([("k", Value::Integer(cell as i64 * 1000 + ticket))]),
            Takes::Props => {
                let props = Value::map([("v", Value::Integer(world.cells[cell].done() + 1))]);
                Value::map([id, ("props", props)])
            }
            Takes::Name => Value::map([id, ("key", "v".into())]),
            Takes::Ids => {
                cells = world.family(place).into_iter().skip(ticket as usize % 4).take(3).collect();
                let ids = cells.iter().map(|(_, cell)| Value::Integer(*cell as i64)).collect();
                Value::map([("ids", Value::List(ids))])
            }
            Takes::Family => {
                cells = world.family(place);
                Value::map([])
            }
        };
        let sent = Instant::now();
        let first = tx.writes.len();
        for (slot, cell) in cells {
            let pending = world.cells[cell].begin(cell, path);
            tx.writes.push(Wrote { pending, slot, told: None, text: Arc::clone(&form.text), sent });
        }
        Some(Step { text: Arc::clone(&form.text), parameters, sent, what: What::Write(form, first) })
    }

    /// What a read that is sent now may count on.
    fn due(&self, cell: usize, path: Path, carried: &Carried, tx: &Tx, sent: Instant) -> Due {
        let mut floor = self.world.cells[cell].floor(path, sent, self.world.rule.bound);
        // What it wrote itself comes on top of what is committed.
        floor.now += tx.pending(cell);
        let own = self.own.get(&cell).copied().unwrap_or_default();
        let bookmarks = match &carried.letter {
            Some(Letter { cell: about, value, .. }) if *about == cell => *value,
            _ if carried.own => self.stands.get(&cell).copied().unwrap_or(0),
            _ => 0,
        };
        Due { floor, own, bookmarks }
    }

    /// Compares an answer with what it must be.
    pub(super) fn digest(&mut self, path: Path, step: Step, fetched: Fetched, tx: &mut Tx) {
        let at = Instant::now();
        match &step.what {
            What::Nothing => {}
            What::Write(form, first) => match form.value(&fetched.records) {
                Ok(told) => tx.writes[*first].told = told.filter(|_| fetched.complete),
                Err(why) if fetched.complete => self.nonsense(path, &step, &why),
                Err(_) => {}
            },
            What::Lock(cell, due) => match &fetched.records[..] {
                [row] if matches!(row[..], [Value::Integer(_)]) => {
                    let value = row[0].as_integer().unwrap_or(0);
                    self.judge(path, &step, &[(*cell, *due)], value, true, at);
                    tx.locked = Some((*cell, value));
                }
                _ => self.nonsense(path, &step, &format!("{:?}", fetched.records)),
            },
            What::Read(form, cells) if fetched.complete => {
                {
                    let mut book = self.world.book.lock();
                    book.reads[path as usize] += 1;
                }
                match form.values(&fetched.records) {
                    Ok(values) => self.digest_read(path, &step, form.rows, cells, &values, at, tx),
                    Err(why) => self.nonsense(path, &step, &why),
                }
            }
            What::Read(..) => {}
        }
    }
    #[expect(clippy::too_many_arguments, reason = "all that a read is")]
    fn digest_read(
        &self,
        path: Path,
        step: &Step,
        rows: Rows,
        cells: &[(usize, Due)],
        values: &[(Option<i64>, i64)],
        at: Instant,
        tx: &mut Tx,
    ) {
        let fresh = !tx.writes.is_empty();
        if rows != Rows::Family {
            let Some(&(_, value)) = values.first() else { return };
            self.judge(path, step, cells, value, fresh, at);
            if let [(cell, _)] = cells {
                self.seen(*cell, value, at, tx);
            }
            return;
        }
        if values.len() != cells.len() {
            return self.nonsense(path, step, &format!("not a row for each: {values:?}"));
        }
        for (id, value) in values {
            let Some(register) = cells.iter().find(|(cell, _)| Some(*cell as i64) == *id) else {
                return self.nonsense(path, step, &format!("not these registers: {values:?}"));
            };
            self.judge(path, step, &[*register], *value, fresh, at);
            self.seen(register.0, *value, at, tx);
        }
    }

    /// Nobody may see less from now on, if what was seen is committed.
    fn seen(&self, cell: usize, value: i64, at: Instant, tx: &mut Tx) {
        if tx.pending(cell) == 0 && value <= self.world.cells[cell].ceiling() {
            self.world.cells[cell].seen(value, at);
            tx.values.push((cell, value));
        }
    }

    /// Compares one value, that of a register or the sum of several, with what it must be.
    fn judge(&self, path: Path, step: &Step, cells: &[(usize, Due)], value: i64, fresh: bool, at: Instant) {
        let world = &self.world;
        let mut due = Due::default();
        let mut ceiling = 0;
        for (cell, one) in cells {
            due += *one;
            ceiling += world.cells[*cell].ceiling();
        }
        if let [(cell, _)] = cells {
            self.note(*cell, path, step.sent, at, &step.text, Outcome::Read(value, due.floor.now));
            if value < due.floor.now {
                let since = world.cells[*cell].outdated_since(value);
                let lag = since.map(|since| step.sent.saturating_duration_since(since)).unwrap_or_default();
                let mut book = world.book.lock();
                book.lagging += 1;
                book.lag = book.lag.max(lag);
            }
        }
        if let Some(breach) = world.rule.breach(&due, path, fresh, value, ceiling) {
            let cells: Vec<usize> = cells.iter().map(|(cell, _)| *cell).collect();
            let sent = step.sent.duration_since(world.started).as_secs_f64() * 1e3;
            let what = format!(
                "client {} (Bolt {}, {path}) read {value} of {cells:?}, sent at {sent:.3} ms: {due:?}, at most {ceiling}\n  {}",
                self.number, self.version, step.text
            );
            world.breach(breach, &cells, &what);
        }
    }

    fn nonsense(&self, path: Path, step: &Step, why: &str) {
        let what = format!(
            "client {} (Bolt {}, {path}): {why}\n  {} {:?}",
            self.number, self.version, step.text, step.parameters
        );
        self.world.breach(Breach::Nonsense, &[], &what);
    }

    fn note(&self, cell: usize, path: Path, sent: Instant, at: Instant, text: &Arc<str>, outcome: Outcome) {
        let event = Event {
            at,
            took: at.saturating_duration_since(sent),
            client: self.number,
            path,
            text: Arc::clone(text),
            outcome,
        };
        self.world.cells[cell].note(event);
    }

    /// What is known of the writes now that all is over.
    pub(super) fn finish(&mut self, op: &Op, carried: &Carried, tx: Tx, result: Result<(), Stop>) {
        let at = Instant::now();
        let Tx { writes, mut values, committing, bookmark, .. } = tx;
        let committed = result.is_ok() && committing;
        match &result {
            // A failure of the database itself may come after the commit.
            Err(Stop::Refused(code)) if committing && code.starts_with("Neo.DatabaseError.") => {
                self.lost(op, &writes, at);
                *self.world.book.lock().refused.entry(code.clone()).or_default() += 1;
            }
            Err(Stop::Refused(code)) => {
                self.undone(op, &writes, at, code);
                *self.world.book.lock().refused.entry(code.clone()).or_default() += 1;
            }
            Err(Stop::Broken) if committing => self.lost(op, &writes, at),
            Err(Stop::Broken) => self.undone(op, &writes, at, "the connection broke before COMMIT"),
            Ok(()) if !committed => {
                self.undone(op, &writes, at, if op.end == End::Reset { "reset" } else { "rolled back" })
            }
            Ok(()) => {
                for write in &writes {
                    let Some(value) = self.committed(op, write, at) else { continue };
                    values.push((write.pending.cell, value));
                    if let Some(bookmark) = bookmark.clone().filter(|_| value % 2 == 0) {
                        let (slot, cell) = (write.slot, write.pending.cell);
                        self.world.post(Letter { bookmark, slot, cell, value });
                    }
                }
            }
        }
        let carries = !carried.is_empty();
        self.world.book.lock().bookmarked += u64::from(carries && !op.writes());
        if let Some(bookmark) = bookmark.filter(|_| committed) {
            self.mark(carried, bookmark, values);
        }
    }

    fn committed(&mut self, op: &Op, write: &Wrote, at: Instant) -> Option<i64> {
        let Wrote { pending, told, text, sent, .. } = write;
        let cell = &self.world.cells[pending.cell];
        let least = cell.acknowledged(*pending, *told, at);
        self.note(pending.cell, op.path, *sent, at, text, Outcome::Wrote(*told));
        self.world.book.lock().writes[op.path as usize] += 1;
        match least {
            Ok(value) => {
                let own = self.own.entry(pending.cell).or_default();
                own[op.path as usize] = value.max(own[op.path as usize]);
                Some(value)
            }
            Err(why) => {
                let what =
                    format!("client {} (Bolt {}, {}): {why}\n  {text}", self.number, self.version, op.path);
                self.world.breach(Breach::Nonsense, &[pending.cell], &what);
                None
            }
        }
    }

    fn undone(&self, op: &Op, writes: &[Wrote], at: Instant, why: &str) {
        self.world.book.lock().undone += writes.len() as u64;
        for Wrote { pending, text, sent, .. } in writes {
            self.world.cells[pending.cell].failed(*pending);
            self.note(pending.cell, op.path, *sent, at, text, Outcome::Undone(why.to_owned()));
        }
    }

    fn lost(&self, op: &Op, writes: &[Wrote], at: Instant) {
        self.world.book.lock().unknown += writes.len() as u64;
        for Wrote { pending, slot, text, sent, .. } in writes {
            self.note(pending.cell, op.path, *sent, at, text, Outcome::Unknown);
            let slot = &self.world.slots[*slot];
            if slot.kind == Kind::Owned {
                // It may come yet, and set the register back.
                slot.next(pending.cell);
            }
        }
    }
}

impl Tx {
    /// Its own writes of a register.
    fn pending(&self, cell: usize) -> i64 {
        self.writes.iter().filter(|write| write.pending.cell == cell).count() as i64
    }
}
