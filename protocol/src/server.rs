//! The state machine that faces a driver: what a message means now, and what an answer changes.
//!
//! It holds the rules that Neo4j 5.26 and 2026.08 were observed to follow. Inside an exchange (from RUN or BEGIN to its last summary)
//! messages go on to Neo4j, legal or not, so that Neo4j's own answer is given; outside it, this machine answers.

use std::collections::VecDeque;

use crate::message::Outcome;
use crate::message::tag::Tag;
use crate::version::Version;

/// Where a driver's session stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// After the handshake: HELLO is due.
    Negotiation,
    /// After HELLO (from 5.1) or LOGOFF: LOGON is due.
    Authentication,
    /// Nothing is open.
    Ready,
    /// One request of its own is under way (ROUTE).
    Single,
    /// An auto-commit RUN is under way or its result is open.
    AutoCommit,
    /// A transaction is open.
    Transaction,
    /// COMMIT or ROLLBACK was sent.
    Ending,
    /// A request failed: everything is ignored until RESET.
    Failed,
    /// RESET was sent on: everything waits for its answer.
    Interrupted,
    /// The session is over.
    Defunct,
}

/// What is to be done with a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// HELLO: the session answers.
    Hello,
    /// LOGON: the session answers.
    Logon,
    /// LOGOFF: the session answers.
    Logoff,
    /// TELEMETRY: the session answers.
    Telemetry,
    /// Opens an exchange: needs an upstream connection.
    Start,
    /// Belongs to the open exchange: goes on at once.
    Continue,
    /// What it means depends on an answer that is still due.
    Wait,
    /// RESET of an open exchange: goes on at once, past everything that waits.
    Interrupt,
    /// RESET where nothing is open: SUCCESS.
    Reset,
    /// IGNORED.
    Ignore,
    /// FAILURE, then the connection is closed.
    Illegal,
    /// The connection is closed without a word (GOODBYE, or a signature that the version does not have).
    Close,
}

/// What an answer ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Answered {
    /// The request that it answers.
    pub tag: Tag,
    /// True if the exchange is over: the upstream connection is no longer needed.
    pub over: bool,
}

/// The session of one driver connection.
#[derive(Debug)]
pub struct Server {
    version: Version,
    state: State,
    in_flight: VecDeque<Tag>,
    /// The exchange stays open after a failure: what comes next is Neo4j's to judge.
    held: bool,
    /// Where the session stood when a request failed.
    failed_in: State,
}

impl Server {
    /// A session that has just negotiated `version`.
    pub fn new(version: Version) -> Self {
        Self {
            version,
            state: State::Negotiation,
            in_flight: VecDeque::new(),
            held: false,
            failed_in: State::Ready,
        }
    }

    /// The negotiated version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Where the session stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// Where the session stood when its last failed request came; Neo4j's messages name that state.
    pub fn failed_in(&self) -> State {
        self.failed_in
    }

    /// Requests sent on and not answered yet.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// True while an exchange holds an upstream connection.
    pub fn is_open(&self) -> bool {
        self.held
            || !self.in_flight.is_empty()
            || matches!(self.state, State::AutoCommit | State::Transaction | State::Ending | State::Single)
    }

    /// What a message means in the present state. Nothing changes yet.
    pub fn judge(&self, tag: Tag) -> Verdict {
        if !self.exists(tag) || tag == Tag::GOODBYE {
            return Verdict::Close;
        }
        if tag == Tag::RESET && self.is_open() {
            return Verdict::Interrupt;
        }
        // Who a connection is logged in as is never a driver's to change in the middle of an exchange, and Neo4j has it the same way.
        if matches!(tag, Tag::HELLO | Tag::LOGON | Tag::LOGOFF) && self.is_open() {
            return if self.in_flight.is_empty() { Verdict::Illegal } else { Verdict::Wait };
        }
        match self.state {
            State::Negotiation => {
                if tag == Tag::HELLO {
                    Verdict::Hello
                } else {
                    Verdict::Illegal
                }
            }
            State::Authentication => {
                if tag == Tag::LOGON {
                    Verdict::Logon
                } else {
                    Verdict::Illegal
                }
            }
            State::Ready => ready(tag),
            State::AutoCommit if self.in_flight.iter().any(|t| *t != Tag::RUN) => Verdict::Wait,
            State::AutoCommit | State::Transaction => Verdict::Continue,
            State::Single | State::Ending | State::Interrupted => Verdict::Wait,
            State::Failed if self.held => Verdict::Continue,
            State::Failed if !self.in_flight.is_empty() => Verdict::Wait,
            State::Failed => match tag {
                Tag::RESET => Verdict::Reset,
                Tag::BEGIN | Tag::LOGOFF | Tag::LOGON | Tag::HELLO => Verdict::Illegal,
                _ => Verdict::Ignore,
            },
            State::Defunct => Verdict::Close,
        }
    }

    /// A message was sent on: the state is now what it will be if all goes well.
    pub fn forwarded(&mut self, tag: Tag) {
        debug_assert!(
            matches!(
                self.judge(tag),
                Verdict::Start | Verdict::Continue | Verdict::Interrupt | Verdict::Telemetry
            ),
            "{tag} is not to be sent on in {:?}",
            self.state
        );
        self.in_flight.push_back(tag);
        self.state = match (self.state, tag) {
            (_, Tag::RESET) => State::Interrupted,
            (State::Ready, Tag::RUN) => State::AutoCommit,
            (State::Ready, Tag::BEGIN) => State::Transaction,
            (State::Ready, _) => State::Single,
            (State::Transaction, Tag::COMMIT | Tag::ROLLBACK) => State::Ending,
            (state, _) => state,
        };
        self.check_invariants();
    }

    /// The next answer came. `None` if none was due.
    pub fn answered(&mut self, outcome: Outcome) -> Option<Answered> {
        let tag = self.in_flight.pop_front()?;
        if outcome == Outcome::Failure {
            self.failed_in = match (self.state, tag) {
                (State::Transaction | State::Ending, tag) if tag != Tag::BEGIN => State::Transaction,
                (State::AutoCommit, tag) if tag != Tag::RUN => State::AutoCommit,
                _ => State::Ready,
            };
        }
        self.state = match (self.state, tag, outcome) {
            (State::Interrupted, Tag::RESET, Outcome::Success { .. }) if self.in_flight.is_empty() => {
                self.held = false;
                State::Ready
            }
            // A RESET that does not clean is Neo4j's last word: it closes the connection.
            (State::Interrupted, _, _) if self.in_flight.is_empty() => {
                self.held = false;
                State::Defunct
            }
            (State::Interrupted, _, _) => State::Interrupted,
            (_, _, Outcome::Failure | Outcome::Ignored) => State::Failed,
            (State::Failed, _, _) => State::Failed,
            (State::Single | State::Ending, _, _) if self.in_flight.is_empty() => State::Ready,
            (State::AutoCommit, Tag::PULL | Tag::DISCARD, Outcome::Success { has_more: false }) => {
                State::Ready
            }
            (state, _, _) => state,
        };
        self.check_invariants();
        let ended = matches!(self.state, State::Ready | State::Failed | State::Defunct);
        let over = !self.held && self.in_flight.is_empty() && ended;
        Some(Answered { tag, over })
    }

    /// An auto-commit statement of which nothing was answered is not run after all, or later: it was never sent on.
    pub fn taken_back(&mut self) {
        debug_assert_eq!(self.state, State::AutoCommit, "a transaction has begun");
        self.in_flight.clear();
        self.state = State::Ready;
        self.check_invariants();
    }

    /// A message was answered by the session itself, as Neo4j would have answered it, and not sent on.
    pub fn answered_here(&mut self, tag: Tag, outcome: Outcome) {
        debug_assert!(self.in_flight.is_empty(), "own answers come when no other is due");
        self.forwarded(tag);
        self.answered(outcome);
    }

    /// Keeps the exchange open until RESET although a request failed. After a malformed or illegal request the servers differ in
    /// what they do next, so everything else goes on to Neo4j, whose answers or close then are the client's.
    pub fn hold(&mut self) {
        self.held = true;
    }

    /// HELLO was answered with SUCCESS.
    pub fn greeted(&mut self) {
        debug_assert_eq!(self.state, State::Negotiation, "HELLO comes first");
        let reauth = self.version.features().reauth;
        self.state = if reauth { State::Authentication } else { State::Ready };
    }

    /// LOGON was answered with SUCCESS.
    pub fn logged_on(&mut self) {
        debug_assert_eq!(self.state, State::Authentication, "LOGON comes after HELLO or LOGOFF");
        self.state = State::Ready;
    }

    /// LOGOFF was answered with SUCCESS.
    pub fn logged_off(&mut self) {
        debug_assert_eq!(self.state, State::Ready, "LOGOFF needs a session at rest");
        self.state = State::Authentication;
    }

    /// A request was answered by the session itself with FAILURE.
    pub fn refused(&mut self) {
        debug_assert!(self.in_flight.is_empty(), "own answers come when no other is due");
        self.failed_in = State::Ready;
        self.state = State::Failed;
    }

    /// RESET was answered by the session itself with SUCCESS.
    pub fn reset(&mut self) {
        debug_assert!(matches!(self.state, State::Ready | State::Failed), "nothing is open");
        self.state = State::Ready;
        self.check_invariants();
    }

    /// The connection is being closed.
    pub fn close(&mut self) {
        self.state = State::Defunct;
        self.held = false;
        self.in_flight.clear();
    }

    fn exists(&self, tag: Tag) -> bool {
        let features = self.version.features();
        match tag {
            Tag::LOGON | Tag::LOGOFF => features.reauth,
            Tag::TELEMETRY => features.telemetry,
            _ => tag.is_request(),
        }
    }

    fn check_invariants(&self) {
        debug_assert!(
            self.state != State::Single || !self.in_flight.is_empty(),
            "a single request is under way"
        );
        debug_assert!(self.state != State::Ending || !self.in_flight.is_empty(), "its end is under way");
        debug_assert!(self.state != State::Interrupted || !self.in_flight.is_empty(), "a RESET is under way");
        debug_assert!(self.state != State::Ready || self.in_flight.is_empty(), "READY owes nothing");
    }
}

fn ready(tag: Tag) -> Verdict {
    match tag {
        Tag::RUN | Tag::BEGIN | Tag::ROUTE => Verdict::Start,
        Tag::RESET => Verdict::Reset,
        Tag::TELEMETRY => Verdict::Telemetry,
        Tag::LOGOFF => Verdict::Logoff,
        _ => Verdict::Illegal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MORE: Outcome = Outcome::Success { has_more: true };

    fn ready_session() -> Server {
        let mut server = Server::new(Version::V5_8);
        server.greeted();
        server.logged_on();
        server
    }

    #[test]
    fn an_auto_commit_result_is_open_until_its_last_summary() {
        let mut server = ready_session();
        assert_eq!(server.judge(Tag::RUN), Verdict::Start);
        server.forwarded(Tag::RUN);
        assert_eq!(server.judge(Tag::PULL), Verdict::Continue);
        server.forwarded(Tag::PULL);
        assert_eq!(server.judge(Tag::PULL), Verdict::Wait);
        assert_eq!(server.judge(Tag::RUN), Verdict::Wait);
        assert_eq!(server.answered(Outcome::DONE), Some(Answered { tag: Tag::RUN, over: false }));
        assert_eq!(server.answered(MORE), Some(Answered { tag: Tag::PULL, over: false }));
        assert_eq!(server.judge(Tag::DISCARD), Verdict::Continue);
        server.forwarded(Tag::DISCARD);
        assert_eq!(server.answered(Outcome::DONE), Some(Answered { tag: Tag::DISCARD, over: true }));
        assert_eq!(server.state(), State::Ready);
        assert_eq!(server.answered(Outcome::DONE), None);
    }

    #[test]
    fn a_pipelined_transaction_goes_on_at_once_and_fails_as_a_whole() {
        let mut server = ready_session();
        for tag in [Tag::BEGIN, Tag::RUN, Tag::PULL, Tag::COMMIT] {
            assert!(matches!(server.judge(tag), Verdict::Start | Verdict::Continue));
            server.forwarded(tag);
        }
        assert_eq!(server.judge(Tag::RUN), Verdict::Wait);
        assert!(!server.answered(Outcome::DONE).unwrap().over);
        assert!(!server.answered(Outcome::Failure).unwrap().over);
        assert!(!server.answered(Outcome::Ignored).unwrap().over);
        assert!(server.answered(Outcome::Ignored).unwrap().over);
        assert_eq!(server.failed_in(), State::Transaction);
        for tag in [Tag::RUN, Tag::PULL, Tag::DISCARD, Tag::COMMIT, Tag::ROLLBACK, Tag::ROUTE, Tag::TELEMETRY]
        {
            assert_eq!(server.judge(tag), Verdict::Ignore);
        }
        assert_eq!(server.judge(Tag::BEGIN), Verdict::Illegal);
        assert_eq!(server.judge(Tag::LOGOFF), Verdict::Illegal);
        server.reset();
        assert_eq!(server.state(), State::Ready);
    }

    #[test]
    fn a_reset_of_an_open_exchange_ends_it_whatever_the_answers_are() {
        let mut server = ready_session();
        server.forwarded(Tag::RUN);
        server.forwarded(Tag::PULL);
        assert_eq!(server.judge(Tag::RESET), Verdict::Interrupt);
        server.forwarded(Tag::RESET);
        assert_eq!(server.judge(Tag::RUN), Verdict::Wait);
        for outcome in [Outcome::DONE, Outcome::Failure] {
            assert!(!server.answered(outcome).unwrap().over);
        }
        assert!(server.answered(Outcome::DONE).unwrap().over);
        assert_eq!(server.state(), State::Ready);
    }

    #[test]
    fn a_held_exchange_goes_on_to_neo4j_until_reset() {
        let mut server = ready_session();
        server.forwarded(Tag::RUN);
        server.hold();
        assert!(!server.answered(Outcome::Failure).unwrap().over);
        assert_eq!(server.judge(Tag::PULL), Verdict::Continue);
        assert_eq!(server.judge(Tag::RESET), Verdict::Interrupt);
        server.forwarded(Tag::RESET);
        assert!(server.answered(Outcome::DONE).unwrap().over);
        assert_eq!(server.judge(Tag::RUN), Verdict::Start);
    }

    #[test]
    fn a_login_never_goes_on_in_an_open_exchange() {
        let mut server = ready_session();
        server.forwarded(Tag::RUN);
        for tag in [Tag::HELLO, Tag::LOGON, Tag::LOGOFF] {
            assert_eq!(server.judge(tag), Verdict::Wait);
        }
        server.hold();
        server.answered(Outcome::Failure);
        for tag in [Tag::HELLO, Tag::LOGON, Tag::LOGOFF] {
            assert_eq!(server.judge(tag), Verdict::Illegal);
        }
    }

    #[test]
    fn a_reset_that_does_not_clean_ends_the_session() {
        for outcome in [Outcome::Failure, Outcome::Ignored] {
            let mut server = ready_session();
            server.forwarded(Tag::BEGIN);
            server.forwarded(Tag::RESET);
            server.answered(Outcome::DONE);
            assert_eq!(server.answered(outcome), Some(Answered { tag: Tag::RESET, over: true }));
            assert_eq!((server.state(), server.is_open()), (State::Defunct, false));
            assert_eq!(server.judge(Tag::RUN), Verdict::Close);
        }
    }

    #[test]
    fn of_several_resets_the_last_one_counts() {
        let mut server = ready_session();
        server.forwarded(Tag::BEGIN);
        server.forwarded(Tag::RESET);
        server.forwarded(Tag::RESET);
        assert!(!server.answered(Outcome::Ignored).unwrap().over);
        assert!(!server.answered(Outcome::Ignored).unwrap().over);
        assert!(server.answered(Outcome::DONE).unwrap().over);
    }

    #[test]
    fn what_ready_does_not_allow_is_illegal() {
        let server = ready_session();
        for tag in [Tag::PULL, Tag::DISCARD, Tag::COMMIT, Tag::ROLLBACK, Tag::HELLO, Tag::LOGON] {
            assert_eq!(server.judge(tag), Verdict::Illegal);
        }
        assert_eq!(server.judge(Tag(0x33)), Verdict::Close);
        assert_eq!(server.judge(Tag::SUCCESS), Verdict::Close);
        let mut old = Server::new(Version::V4_4);
        old.greeted();
        assert_eq!(old.state(), State::Ready);
        assert_eq!(old.judge(Tag::LOGOFF), Verdict::Close);
        assert_eq!(old.judge(Tag::TELEMETRY), Verdict::Close);
    }
}
