//! Who may be at Neo4j: seats, and a fair queue in front of them.
//!
//! A request needs a seat of each limit that it falls under and gets all of them or none. Who waits is served in turn by user, so that many
//! requests of one user do not hold up another's; within a user's by priority, then in order.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::keyed::State;

/// How urgent a request is.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Priority {
    /// Before others.
    High,
    /// As usual.
    #[default]
    Normal,
    /// After others.
    Low,
}

/// A seat that a request needs, and how many there are.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    /// Whose.
    pub(crate) state: Arc<State>,
    /// So many there are, now.
    pub(crate) most: Arc<AtomicU32>,
    /// The limit's name.
    pub(crate) rule: Arc<str>,
}

impl Seat {
    fn is_free(&self) -> bool {
        self.state.in_flight() < self.most.load(Ordering::Relaxed)
    }
}

/// What a request needs to get in.
#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    /// Its seats.
    pub(crate) seats: Arc<[Seat]>,
    /// Its user.
    pub(crate) user: Arc<str>,
    /// How urgent it is.
    pub(crate) priority: Priority,
    /// Priority counts among users too.
    pub(crate) trusted: bool,
}

impl Ticket {
    /// The limits whose seats are taken, for people.
    pub(crate) fn full(&self) -> String {
        let full = self.seats.iter().filter(|seat| !seat.is_free());
        let names: Vec<String> = full
            .map(|seat| format!("`{}` (max_in_flight {})", seat.rule, seat.most.load(Ordering::Relaxed)))
            .collect();
        if names.is_empty() { "its limits".to_owned() } else { names.join(" and ") }
    }
}

/// Waiting requests of one user that are looked at for one whose seats are free.
const LOOKED_AT: usize = 32;

/// The gate.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    line: Mutex<Line>,
    waiting: AtomicUsize,
}

#[derive(Debug, Default)]
struct Line {
    bands: [Band; 3],
    next: u64,
}

/// Those who wait with one priority.
#[derive(Debug, Default)]
struct Band {
    /// Users in the order of their turns.
    turns: VecDeque<Arc<str>>,
    queues: HashMap<Arc<str>, VecDeque<Waiter>>,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    priority: Priority,
    seats: Arc<[Seat]>,
    /// Says that it has its seats; dropped, that it was sent away.
    call: oneshot::Sender<()>,
}

/// What came of coming to the gate.
pub(crate) enum Entered {
    /// In.
    In(Permit),
    /// In the queue.
    Waits(Place),
    /// There is no place to wait.
    Full,
}

/// Seats that are taken; dropped, they are free.
#[derive(Debug)]
pub(crate) struct Permit {
    gate: Arc<Gate>,
    seats: Arc<[Seat]>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut line = self.gate.line.lock();
        free(&self.seats);
        line.serve(&self.gate);
    }
}

/// A place in the queue; dropped, it is given up.
#[derive(Debug)]
pub(crate) struct Place {
    gate: Arc<Gate>,
    ticket: Ticket,
    number: u64,
    called: Option<oneshot::Receiver<()>>,
}

impl Place {
    /// Waits for the seats; none if it is sent away.
    pub(crate) async fn wait(mut self) -> Option<Permit> {
        let called = self.called.as_mut()?;
        let came = called.await.is_ok();
        self.called = None;
        came.then(|| Permit { gate: Arc::clone(&self.gate), seats: Arc::clone(&self.ticket.seats) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(mut called) = self.called.take() else { return };
        called.close();
        if called.try_recv().is_ok() {
            // It was called in the same moment.
            drop(Permit { gate: Arc::clone(&self.gate), seats: Arc::clone(&self.ticket.seats) });
        } else {
            self.gate.line.lock().leave(&self.gate, &self.ticket, self.number);
        }
    }
}

impl Gate {
    /// Those who wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Lets a request in, whoever is there: what has begun is not refused.
    pub(crate) fn force(self: &Arc<Self>, ticket: Ticket) -> Permit {
        let _line = self.line.lock();
        for seat in ticket.seats.iter() {
            seat.state.in_flight.fetch_add(1, Ordering::Relaxed);
        }
        Permit { gate: Arc::clone(self), seats: ticket.seats }
    }

    /// Lets a request in, or lets it wait. Where no more than `most` may wait and that many do, the last one of whoever waits with most
    /// requests is sent away, be it this one.
    pub(crate) fn enter(self: &Arc<Self>, ticket: Ticket, most: usize) -> Entered {
        let mut line = self.line.lock();
        if !line.waits_already(&ticket) && take(&ticket.seats) {
            return Entered::In(Permit { gate: Arc::clone(self), seats: ticket.seats });
        }
        if self.waiting() >= most && !line.make_room(self, &ticket) {
            return Entered::Full;
        }
        let (call, called) = oneshot::channel();
        let number = line.next;
        line.next += 1;
        line.queue(&ticket, number, call);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Entered::Waits(Place { gate: Arc::clone(self), ticket, number, called: Some(called) })
    }
}

/// Takes all seats, or none.
fn take(seats: &[Seat]) -> bool {
    if !seats.iter().all(Seat::is_free) {
        return false;
    }
    for seat in seats {
        seat.state.in_flight.fetch_add(1, Ordering::Relaxed);
    }
    true
}

fn free(seats: &[Seat]) {
    for seat in seats {
        seat.state.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where a ticket's requests wait.
fn band(ticket: &Ticket) -> usize {
    if ticket.trusted { ticket.priority as usize } else { Priority::Normal as usize }
}

impl Line {
    /// Its user's requests wait for the same seats: it does not overtake them.
    fn waits_already(&self, ticket: &Ticket) -> bool {
        let queue = self.bands.get(band(ticket)).and_then(|band| band.queues.get(&ticket.user));
        queue.is_some_and(|queue| {
            let same = |waiter: &Waiter| {
                waiter.priority <= ticket.priority
                    && waiter.seats.len() == ticket.seats.len()
                    && waiter
                        .seats
                        .iter()
                        .zip(ticket.seats.iter())
                        .all(|(a, b)| Arc::ptr_eq(&a.state, &b.state))
            };
            queue.iter().take(LOOKED_AT).any(same)
        })
    }

    fn queue(&mut self, ticket: &Ticket, number: u64, call: oneshot::Sender<()>) {
        let Some(band) = self.bands.get_mut(band(ticket)) else { return };
        for seat in ticket.seats.iter() {
            seat.state.waiting.fetch_add(1, Ordering::Relaxed);
        }
        let waiter = Waiter { number, priority: ticket.priority, seats: Arc::clone(&ticket.seats), call };
        if let Some(queue) = band.queues.get_mut(&ticket.user) {
            let at = queue.partition_point(|other| other.priority <= waiter.priority);
            queue.insert(at, waiter);
            return;
        }
        band.queues.insert(Arc::clone(&ticket.user), VecDeque::from([waiter]));
        band.turns.push_back(Arc::clone(&ticket.user));
    }

    /// Somebody gives up.
    fn leave(&mut self, gate: &Gate, ticket: &Ticket, number: u64) {
        let Some(band) = self.bands.get_mut(band(ticket)) else { return };
        let Some(queue) = band.queues.get_mut(&ticket.user) else { return };
        if let Some(at) = queue.iter().position(|waiter| waiter.number == number)
            && let Some(waiter) = queue.remove(at)
        {
            waiter.left(gate);
        }
        if queue.is_empty() {
            band.forget(&ticket.user);
        }
    }

    /// Sends the last one of the user who waits with most requests away; false if that would be the newcomer.
    fn make_room(&mut self, gate: &Gate, ticket: &Ticket) -> bool {
        let own = self
            .bands
            .iter()
            .filter_map(|band| band.queues.get(&ticket.user))
            .map(VecDeque::len)
            .sum::<usize>();
        let longest = |band: &Band| {
            band.queues
                .iter()
                .max_by_key(|(_, queue)| queue.len())
                .map(|(user, queue)| (Arc::clone(user), queue.len()))
        };
        let most =
            self.bands.iter().enumerate().filter_map(|(at, band)| longest(band).map(|found| (at, found)));
        let Some((at, (user, count))) = most.max_by_key(|(_, (_, count))| *count) else { return false };
        if count <= own + 1 {
            return false;
        }
        let Some(band) = self.bands.get_mut(at) else { return false };
        if let Some(queue) = band.queues.get_mut(&user) {
            if let Some(waiter) = queue.pop_back() {
                waiter.left(gate);
            }
            if queue.is_empty() {
                band.forget(&user);
            }
        }
        true
    }

    /// Calls those whose seats are free, in turn.
    fn serve(&mut self, gate: &Gate) {
        if gate.waiting() == 0 {
            return;
        }
        for band in &mut self.bands {
            let mut passed_over = 0;
            while passed_over < band.turns.len() {
                let Some(user) = band.turns.pop_front() else { break };
                let Some(queue) = band.queues.get_mut(&user) else { continue };
                let served = call_one(queue, gate);
                if queue.is_empty() {
                    band.queues.remove(&user);
                } else {
                    band.turns.push_back(user);
                }
                passed_over = if served { 0 } else { passed_over + 1 };
            }
        }
    }
}

/// Calls the first of a user's requests whose seats are free.
fn call_one(queue: &mut VecDeque<Waiter>, gate: &Gate) -> bool {
    let mut at = 0;
    while at < queue.len().min(LOOKED_AT) {
        if !queue.get(at).is_some_and(|waiter| take(&waiter.seats)) {
            at += 1;
            continue;
        }
        let Some(waiter) = queue.remove(at) else { return false };
        let seats = Arc::clone(&waiter.seats);
        if waiter.left(gate).send(()).is_ok() {
            return true;
        }
        // It gave up in the same moment.
        free(&seats);
    }
    false
}

impl Waiter {
    /// It waits no longer.
    fn left(self, gate: &Gate) -> oneshot::Sender<()> {
        gate.waiting.fetch_sub(1, Ordering::Relaxed);
        for seat in self.seats.iter() {
            seat.state.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        self.call
    }
}

impl Band {
    fn forget(&mut self, user: &Arc<str>) {
        self.queues.remove(user);
        self.turns.retain(|other| other != user);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(most: u32) -> Seat {
        Seat { state: Arc::default(), most: Arc::new(AtomicU32::new(most)), rule: "rule".into() }
    }

    fn ticket(user: &str, seats: &[&Seat]) -> Ticket {
        let seats = seats.iter().map(|seat| (*seat).clone()).collect();
        Ticket { seats, user: user.into(), priority: Priority::Normal, trusted: false }
    }

    fn waits(entered: Entered) -> Place {
        match entered {
            Entered::Waits(place) => place,
            Entered::In(_) => panic!("it is in"),
            Entered::Full => panic!("it is full"),
        }
    }

    fn permit(entered: Entered) -> Permit {
        match entered {
            Entered::In(permit) => permit,
            _ => panic!("it is not in"),
        }
    }

    fn is_called(place: &mut Place) -> bool {
        place.called.as_mut().is_some_and(|called| called.try_recv().is_ok()) && {
            // `wait` would have taken the seats over.
            place.called = None;
            drop(Permit { gate: Arc::clone(&place.gate), seats: Arc::clone(&place.ticket.seats) });
            true
        }
    }

    #[tokio::test]
    async fn users_take_turns() {
        let (gate, one) = (Arc::new(Gate::default()), seat(1));
        let first = permit(gate.enter(ticket("a", &[&one]), 100));
        let mut order = Vec::new();
        let (done, mut came) = tokio::sync::mpsc::channel(100);
        for (user, count) in [("greedy", 6), ("ada", 2), ("bob", 1)] {
            for _ in 0..count {
                let place = waits(gate.enter(ticket(user, &[&one]), 100));
                let done = done.clone();
                tokio::spawn(async move {
                    let permit = place.wait().await;
                    done.send(user).await.unwrap();
                    drop(permit);
                });
            }
        }
        drop((done, first));
        while let Some(user) = came.recv().await {
            order.push(user);
        }
        let expected = ["greedy", "ada", "bob", "greedy", "ada", "greedy", "greedy", "greedy", "greedy"];
        assert_eq!(order, expected);
        assert_eq!((gate.waiting(), one.state.in_flight(), one.state.waiting()), (0, 0, 0));
        assert!(gate.line.lock().bands.iter().all(|band| band.turns.is_empty() && band.queues.is_empty()));
    }

    #[test]
    fn who_waits_for_one_seat_holds_up_nobody_for_another() {
        let (gate, all, rule) = (Arc::new(Gate::default()), seat(2), seat(1));
        let first = permit(gate.enter(ticket("a", &[&all, &rule]), 100));
        let mut blocked = waits(gate.enter(ticket("a", &[&all, &rule]), 100));
        let other = permit(gate.enter(ticket("a", &[&all]), 100));
        assert_eq!(all.state.in_flight(), 2);
        drop(other);
        assert!(!is_called(&mut blocked), "its rule has no seat");
        drop(first);
        assert!(is_called(&mut blocked));
        assert_eq!((all.state.in_flight(), rule.state.in_flight()), (0, 0));
    }

    #[test]
    fn the_queue_is_bounded_and_the_greediest_goes_first() {
        let (gate, one) = (Arc::new(Gate::default()), seat(1));
        let first = permit(gate.enter(ticket("a", &[&one]), 3));
        let mut greedy: Vec<_> = (0..3).map(|_| waits(gate.enter(ticket("greedy", &[&one]), 3))).collect();
        assert!(matches!(gate.enter(ticket("greedy", &[&one]), 3), Entered::Full));
        let mut ada = waits(gate.enter(ticket("ada", &[&one]), 3));
        assert_eq!(gate.waiting(), 3);
        let last = greedy.pop().unwrap().called.take().unwrap().try_recv();
        assert_eq!(last, Err(oneshot::error::TryRecvError::Closed), "it was sent away");
        // Who has no more than others sends nobody away.
        assert!(matches!(gate.enter(ticket("ada", &[&one]), 3), Entered::Full));
        drop(first);
        assert!(is_called(&mut greedy[0]) && is_called(&mut ada) && is_called(&mut greedy[1]));
        assert_eq!((gate.waiting(), one.state.in_flight()), (0, 0));
    }

    #[test]
    fn who_gives_up_leaves_nothing_behind() {
        let (gate, one) = (Arc::new(Gate::default()), seat(1));
        let first = permit(gate.enter(ticket("a", &[&one]), 100));
        let places: Vec<_> = (0..50).map(|_| waits(gate.enter(ticket("b", &[&one]), 100))).collect();
        let kept = waits(gate.enter(ticket("c", &[&one]), 100));
        drop(places);
        assert_eq!((gate.waiting(), one.state.waiting()), (1, 1));
        drop(first);
        // Called, and gone before it heard of it.
        assert_eq!(one.state.in_flight(), 1);
        drop(kept);
        assert_eq!((gate.waiting(), one.state.in_flight(), one.state.waiting()), (0, 0, 0));
    }

    #[test]
    fn priority_goes_before_its_own_and_where_trusted_before_all() {
        let (gate, one) = (Arc::new(Gate::default()), seat(1));
        let urgent =
            |user: &str, trusted| Ticket { priority: Priority::High, trusted, ..ticket(user, &[&one]) };
        let first = permit(gate.enter(ticket("a", &[&one]), 100));
        let mut ada = waits(gate.enter(ticket("ada", &[&one]), 100));
        let mut plain = waits(gate.enter(ticket("bob", &[&one]), 100));
        let mut high = waits(gate.enter(urgent("bob", false), 100));
        drop(first);
        assert!(!is_called(&mut plain) && !is_called(&mut high), "others come before");
        assert!(is_called(&mut ada) && is_called(&mut high) && is_called(&mut plain));
        let first = permit(gate.enter(ticket("a", &[&one]), 100));
        let mut ada = waits(gate.enter(Ticket { trusted: true, ..ticket("ada", &[&one]) }, 100));
        let mut bob = waits(gate.enter(urgent("bob", true), 100));
        drop(first);
        assert!(is_called(&mut bob) && is_called(&mut ada));
    }
}
