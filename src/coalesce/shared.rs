//! A transaction that several clients share: each began one of its own, wrote once, and says COMMIT or something else.
//!
//! Its members cannot see each other: their rows have shapes and distinct keys. They are answered before COMMIT, as a transaction's
//! requests are. Who does not commit is taken out: everything is rolled back, and the others' writes run again, unseen as long as they
//! answer the same.

use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::answer::Form;
use super::commit::{account, drop_or_discard, send_commit};
use super::lane::Place;
use super::member::{Member, Reply, Share};
use super::plan::Plan;
use super::transaction::{Prepared, prepare};
use super::trouble::Trouble;

/// Transactions that are tried for those who said COMMIT.
const ROUNDS: usize = 6;
/// Shortest time that COMMITs are waited for.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);
/// What a usual wait is multiplied with before it is too long.
const GENEROUS: u32 = 8;

/// A client's vote on the transaction that it shares. Dropped without one, it is against.
pub(crate) struct Ballot {
    voter: usize,
    votes: Option<mpsc::UnboundedSender<(usize, bool)>>,
    outcome: oneshot::Receiver<Outcome>,
}

/// What became of a member of a shared transaction.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It is committed, with this bookmark.
    Committed(Option<String>),
    /// It was taken out because its COMMIT did not come in time: nothing of it is there, and its client does not know.
    TakenOut,
    /// It is not committed, and another run would answer otherwise than was answered.
    Outdated,
    /// Neo4j refused COMMIT with this FAILURE.
    Refused(Bytes),
    /// Nobody knows whether it is committed.
    Unknown,
}

impl Ballot {
    /// Votes for COMMIT; the outcome follows.
    pub(crate) fn commit(&mut self) {
        self.vote(true);
    }

    /// What has become of it.
    pub(crate) async fn outcome(&mut self) -> Outcome {
        (&mut self.outcome).await.unwrap_or(Outcome::Unknown)
    }

    fn vote(&mut self, commit: bool) {
        if let Some(votes) = self.votes.take() {
            // If nobody counts any longer, the outcome says why.
            let _ = votes.send((self.voter, commit));
        }
    }
}

impl Drop for Ballot {
    fn drop(&mut self) {
        self.vote(false);
    }
}

/// One who shares the transaction.
struct Voter {
    comparable: Bytes,
    outcome: oneshot::Sender<Outcome>,
    vote: Option<bool>,
}

/// Answers the members of a transaction that is ready to be committed, counts their votes, and ends it.
pub(super) async fn hold(place: &Place, prepared: Prepared, plan: Plan) {
    let (votes, mut counted) = mpsc::unbounded_channel();
    let mut voters: Vec<Option<Voter>> = Vec::with_capacity(plan.members.len());
    let mut members = Vec::with_capacity(plan.members.len());
    for (voter, (member, given)) in plan.members.into_iter().zip(&prepared.given).enumerate() {
        let (sender, outcome) = oneshot::channel();
        let comparable = given.answer(Form::Comparable);
        let ballot = Ballot { voter, votes: Some(votes.clone()), outcome };
        let share =
            Share { answer: given.answer(Form::InTransaction), comparable: comparable.clone(), ballot };
        let Member { write, since, claim, reply, .. } = member;
        // Its client is answered; from here on only the vote and the outcome connect them.
        let (silent, _) = oneshot::channel();
        members.push(Member { write, since, claim, reply: silent, voter });
        // A client that is gone drops its ballot, which is a vote.
        let _ = reply.send(Reply::Given(Box::new(share)));
        voters.push(Some(Voter { comparable, outcome: sender, vote: None }));
    }
    drop(votes);
    place.holds();
    let mut prepared = Some(prepared);
    count(place, &mut prepared, &mut voters, &mut counted).await;
    let plan = Plan { members, segments: plan.segments };
    end(place, prepared, plan, voters).await;
}

/// Waits for votes until all are in or the time is up; with one against it, the transaction is rolled back at once.
async fn count(
    place: &Place,
    prepared: &mut Option<Prepared>,
    voters: &mut [Option<Voter>],
    counted: &mut mpsc::UnboundedReceiver<(usize, bool)>,
) {
    let most = place.shared().config.load().coalesce.max_commit_wait;
    let usual = place.lane().commit_wait.lock().map_or(most, |usual| usual * GENEROUS);
    let since = Instant::now();
    let end = since + usual.clamp(SHORTEST_WAIT.min(most), most);
    let mut open = voters.len();
    while open > 0 {
        let Ok(Some((voter, commit))) = timeout_at(end, counted.recv()).await else { break };
        open -= 1;
        if let Some(Some(voter)) = voters.get_mut(voter) {
            voter.vote = Some(commit);
        }
        if !commit {
            // All of it has to run again: who goes on by itself is not to wait for the locks.
            *prepared = None;
        }
    }
    let took = since.elapsed();
    let mut usual = place.lane().commit_wait.lock();
    *usual = Some(usual.map_or(took, |usual| (usual * 7 + took) / 8));
}

/// Commits for those who said so, without those who did not.
async fn end(place: &Place, prepared: Option<Prepared>, plan: Plan, mut voters: Vec<Option<Voter>>) {
    let mut plan = plan;
    let mut prepared = prepared;
    let mut derive = true;
    for _ in 0..ROUNDS {
        let against = take_out(place, &mut plan, &mut voters);
        if against {
            // Rolls back.
            prepared = None;
        }
        if plan.members.is_empty() {
            return;
        }
        let ready = match prepared.take() {
            Some(ready) => ready,
            None => {
                plan = Plan::of(place.lane(), std::mem::take(&mut plan.members), derive);
                match prepare(place, &plan).await {
                    Ok(ready) if same(&ready, &plan, &mut voters) => ready,
                    Ok(_) => continue,
                    // Nobody's fault: their own statements will do.
                    Err(Trouble::Mismatch(..)) => {
                        derive = false;
                        continue;
                    }
                    Err(trouble) => {
                        blame(trouble, &plan, &mut voters).await;
                        continue;
                    }
                }
            }
        };
        if settle(place, ready, &plan, &mut voters).await.is_break() {
            return;
        }
    }
    voters.into_iter().flatten().for_each(|voter| tell(voter, Outcome::Outdated));
}

/// Takes out who did not vote for COMMIT; true if there was somebody whose write the transaction has.
fn take_out(place: &Place, plan: &mut Plan, voters: &mut [Option<Voter>]) -> bool {
    let before = plan.members.len();
    plan.members.retain(|member| {
        let Some(slot) = voters.get_mut(member.voter) else { return false };
        if slot.as_ref().is_some_and(|voter| voter.vote == Some(true)) {
            return true;
        }
        if let Some(voter) = slot.take() {
            place.lane().knowledge(&member.write.statement, |knowledge| {
                if voter.vote.is_some() { knowledge.went_on() } else { knowledge.was_late() }
            });
            if voter.vote.is_none() {
                place.shared().metrics.coalesce.late.inc();
                tell(voter, Outcome::TakenOut);
            }
        }
        false
    });
    plan.members.len() < before
}

/// A client that is gone has nobody to be told.
fn tell(voter: Voter, outcome: Outcome) {
    let _ = voter.outcome.send(outcome);
}

/// Whether everybody's answer is the one that was given; who has another is out.
fn same(ready: &Prepared, plan: &Plan, voters: &mut [Option<Voter>]) -> bool {
    let mut same = true;
    for (member, given) in plan.members.iter().zip(&ready.given) {
        let Some(slot) = voters.get_mut(member.voter) else { continue };
        if slot.as_ref().is_some_and(|voter| voter.comparable != given.answer(Form::Comparable))
            && let Some(voter) = slot.take()
        {
            same = false;
            tell(voter, Outcome::Outdated);
        }
    }
    same
}

/// Whoever made another run fail is out.
async fn blame(trouble: Trouble, plan: &Plan, voters: &mut [Option<Voter>]) {
    let range = match trouble {
        Trouble::Again(_) => {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(2..20))).await;
            return;
        }
        Trouble::Guilty(at) => at..at + 1,
        Trouble::Suspects(range) | Trouble::Mismatch(range, _) => range,
        Trouble::Apart(_) | Trouble::Refused(_) | Trouble::Unknown => 0..plan.members.len(),
    };
    for member in plan.members.get(range).unwrap_or_default() {
        if let Some(voter) = voters.get_mut(member.voter).and_then(Option::take) {
            tell(voter, Outcome::Outdated);
        }
    }
}

/// COMMIT, and everybody is told; goes on if it is worth another round.
async fn settle(
    place: &Place,
    ready: Prepared,
    plan: &Plan,
    voters: &mut Vec<Option<Voter>>,
) -> ControlFlow<()> {
    let Prepared { mut lease, given, took, .. } = ready;
    let answer = send_commit(place, lease.connection_mut(), plan, &given).await;
    drop_or_discard(lease, &answer);
    let outcome: Box<dyn Fn() -> Outcome + Send> = match answer {
        Ok(bookmark) => {
            account(place, plan, &took, bookmark.as_deref());
            for member in &plan.members {
                place.lane().knowledge(&member.write.statement, |knowledge| knowledge.stood_alone());
            }
            Box::new(move || Outcome::Committed(bookmark.clone()))
        }
        Err(Trouble::Again(_)) => return ControlFlow::Continue(()),
        Err(Trouble::Refused(failure)) => Box::new(move || Outcome::Refused(failure.clone())),
        Err(Trouble::Unknown) => Box::new(|| Outcome::Unknown),
        Err(_) => Box::new(|| Outcome::Outdated),
    };
    std::mem::take(voters).into_iter().flatten().for_each(|voter| tell(voter, outcome()));
    ControlFlow::Break(())
}
