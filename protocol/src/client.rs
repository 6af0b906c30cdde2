//! The state machine that faces Neo4j: which answers are due on a connection, and whether it is clean.

use std::collections::VecDeque;

use crate::message::Outcome;
use crate::message::tag::Tag;

/// Where the server's side of a connection stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// Nothing is open.
    Ready,
    /// An auto-commit result is open.
    Streaming,
    /// A transaction is open.
    Transaction,
    /// A request failed: RESET is due.
    Failed,
    /// An answer came that nobody asked for, or the connection ended.
    Defunct,
}

/// A request whose answer is due.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Expected {
    /// The request.
    pub tag: Tag,
    /// True if its answer is Sidebolt's own and goes to no client.
    pub own: bool,
}

/// One connection to Neo4j, after its login.
#[derive(Debug)]
pub struct Client {
    place: Place,
    expected: VecDeque<Expected>,
}

impl Default for Client {
    fn default() -> Self {
        Self { place: Place::Ready, expected: VecDeque::with_capacity(8) }
    }
}

impl Client {
    /// Where the connection stands, as far as answers have come.
    pub fn place(&self) -> Place {
        self.place
    }

    /// True if nothing is open and nothing is due: the connection can be lent.
    pub fn is_clean(&self) -> bool {
        self.place == Place::Ready && self.expected.is_empty()
    }

    /// Answers that are due.
    pub fn due(&self) -> usize {
        self.expected.len()
    }

    /// The next answer's request.
    pub fn next(&self) -> Option<Expected> {
        self.expected.front().copied()
    }

    /// A request was sent for the client that has the connection.
    pub fn sent(&mut self, tag: Tag) {
        self.expected.push_back(Expected { tag, own: false });
    }

    /// A request of Sidebolt's own was sent.
    pub fn sent_own(&mut self, tag: Tag) {
        self.expected.push_back(Expected { tag, own: true });
    }

    /// What the next answer belongs to.
    pub fn next_due(&self) -> Option<Expected> {
        self.expected.front().copied()
    }

    /// An answer came; gives the request that it answers. `None` (and a defunct connection) if none was due. An answer that no server gives
    /// there makes the connection defunct too: perhaps it is another request's.
    pub fn received(&mut self, outcome: Outcome) -> Option<Expected> {
        let Some(expected) = self.expected.pop_front() else {
            self.place = Place::Defunct;
            return None;
        };
        self.place = match (self.place, expected.tag, outcome) {
            (Place::Defunct, _, _) => Place::Defunct,
            (_, Tag::RESET, Outcome::Success { .. }) => Place::Ready,
            (_, Tag::RESET, Outcome::Failure) => Place::Defunct,
            // After a failure everything is ignored until RESET, and without one only what a RESET overtakes.
            (Place::Failed, _, Outcome::Success { .. }) => Place::Defunct,
            (Place::Failed, _, Outcome::Ignored) => Place::Failed,
            (_, _, Outcome::Ignored) if !self.expected.iter().any(|next| next.tag == Tag::RESET) => {
                Place::Defunct
            }
            (_, _, Outcome::Failure | Outcome::Ignored) => Place::Failed,
            (Place::Ready, Tag::RUN, _) => Place::Streaming,
            (Place::Ready, Tag::BEGIN, _) => Place::Transaction,
            (Place::Streaming, Tag::PULL | Tag::DISCARD, Outcome::Success { has_more: false }) => {
                Place::Ready
            }
            (Place::Transaction, Tag::COMMIT | Tag::ROLLBACK, _) => Place::Ready,
            (place, _, _) => place,
        };
        Some(expected)
    }

    /// The connection ended or is not to be trusted any more.
    pub fn lost(&mut self) {
        self.place = Place::Defunct;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_clean_after_its_last_answer() {
        let mut client = Client::default();
        for tag in [Tag::BEGIN, Tag::RUN, Tag::PULL, Tag::COMMIT] {
            client.sent(tag);
        }
        for (outcome, place) in [
            (Outcome::DONE, Place::Transaction),
            (Outcome::DONE, Place::Transaction),
            (Outcome::Success { has_more: true }, Place::Transaction),
            (Outcome::DONE, Place::Ready),
        ] {
            assert!(!client.is_clean());
            client.received(outcome).unwrap();
            assert_eq!(client.place(), place);
        }
        assert!(client.is_clean());
    }

    #[test]
    fn answers_out_of_place_cost_the_connection() {
        let play = |tags: &[Tag], outcomes: &[Outcome]| {
            let mut client = Client::default();
            tags.iter().for_each(|tag| client.sent(*tag));
            outcomes.iter().for_each(|outcome| assert!(client.received(*outcome).is_some()));
            client.place()
        };
        let (run, pull, reset) = (Tag::RUN, Tag::PULL, Tag::RESET);
        let (done, ignored, failure) = (Outcome::DONE, Outcome::Ignored, Outcome::Failure);
        assert_eq!(play(&[run, pull], &[done, ignored]), Place::Defunct);
        assert_eq!(play(&[run], &[ignored]), Place::Defunct);
        assert_eq!(play(&[run, pull], &[failure, done]), Place::Defunct);
        assert_eq!(play(&[run, pull, reset], &[failure, done, done]), Place::Defunct);
        // A RESET overtakes what the server has not begun.
        assert_eq!(play(&[run, pull, reset], &[done, ignored]), Place::Failed);
        assert_eq!(play(&[run, pull, reset], &[ignored, ignored, done]), Place::Ready);
        assert_eq!(play(&[run, pull], &[failure, ignored]), Place::Failed);
    }

    #[test]
    fn a_failure_needs_a_reset() {
        let mut client = Client::default();
        client.sent(Tag::RUN);
        client.sent(Tag::PULL);
        client.received(Outcome::Failure);
        client.received(Outcome::Ignored);
        assert_eq!((client.place(), client.due()), (Place::Failed, 0));
        client.sent_own(Tag::RESET);
        assert_eq!(client.received(Outcome::DONE), Some(Expected { tag: Tag::RESET, own: true }));
        assert!(client.is_clean());
    }

    #[test]
    fn an_ignored_request_needs_a_reset() {
        let mut client = Client::default();
        client.sent(Tag::RUN);
        client.sent(Tag::RESET);
        client.sent(Tag::RESET);
        client.received(Outcome::Ignored);
        client.received(Outcome::Ignored);
        assert!(!client.is_clean());
        client.received(Outcome::DONE);
        assert!(client.is_clean());
    }

    #[test]
    fn an_answer_that_nobody_asked_for_ends_the_connection() {
        let mut client = Client::default();
        assert_eq!(client.received(Outcome::DONE), None);
        assert_eq!(client.place(), Place::Defunct);
    }
}
