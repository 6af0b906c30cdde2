//! One batch: a transaction of many clients' writes, each answered after COMMIT and none before it.

use std::time::Duration;

use tokio::time::Instant;

use super::commit::commit;
use super::lane::Place;
use super::member::{Member, Reply};
use super::plan::Plan;
use super::shared;
use super::transaction::prepare;
use super::trouble::Trouble;

/// Transactions that one batch may take, however often it is taken apart.
const ATTEMPTS: usize = 40;
/// How long a batch may be tried at all; then its members run alone.
const TRIED: Duration = Duration::from_secs(30);
/// First wait after a deadlock; it doubles, and varies.
const BACK_OFF: Duration = Duration::from_millis(5);
/// Longest such wait.
const LONGEST_BACK_OFF: Duration = Duration::from_millis(500);

/// Runs a batch to its end: every member is answered, or told to run alone.
pub(super) async fn run(place: Place, members: Vec<Member>) {
    let metrics = &place.shared().metrics.coalesce;
    let now = Instant::now();
    for member in &members {
        metrics.wait_seconds.observe((now - member.since).as_secs_f64());
    }
    let whole = members.len();
    let end = now + TRIED;
    let mut work = vec![(members, true)];
    let mut attempts = 0;
    let mut pause = BACK_OFF;
    while let Some((members, derive)) = work.pop() {
        attempts += 1;
        if members.is_empty() {
            continue;
        }
        // What was taken apart down to one member is its session's to run: with Neo4j's own answer or error.
        let alone = (members.len() == 1 && attempts > 1) || attempts > ATTEMPTS || Instant::now() > end;
        if alone {
            members.into_iter().for_each(|member| send(member, Reply::Alone(None)));
            continue;
        }
        let started = Instant::now();
        let plan = Plan::of(place.lane(), members, derive);
        let trouble = match prepare(&place, &plan).await {
            Ok(prepared) if place.lane().managed => {
                shared::hold(&place, prepared, plan).await;
                continue;
            }
            Ok(prepared) => match commit(&place, prepared, plan).await {
                Ok(()) => {
                    if attempts == 1 {
                        place.measured(whole, started.elapsed());
                    }
                    continue;
                }
                Err((trouble, plan)) => (trouble, plan),
            },
            Err(trouble) => {
                if matches!(trouble, Trouble::Apart("slow")) {
                    // A text whose time nobody knows beforehand is the likelier cause.
                    for member in plan.members.iter().filter(|member| !member.write.statement.is_shaped()) {
                        place.lane().knowledge(&member.write.statement, |knowledge| knowledge.failed());
                    }
                    place.measured(plan.members.len(), started.elapsed());
                }
                (trouble, plan)
            }
        };
        if let (Trouble::Again(_), _) = trouble {
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
            pause = (pause * 2).min(LONGEST_BACK_OFF);
        }
        take_apart(&place, trouble.0, trouble.1, derive, &mut work);
    }
}

/// What becomes of the members of a transaction that did not come about.
fn take_apart(
    place: &Place,
    trouble: Trouble,
    plan: Plan,
    derive: bool,
    work: &mut Vec<(Vec<Member>, bool)>,
) {
    let metrics = &place.shared().metrics.coalesce;
    let mut members = plan.members;
    tracing::debug!(?trouble, members = members.len(), "A batch is taken apart.");
    match trouble {
        Trouble::Again(why) => {
            metrics.fallbacks.with_label_values(&[why]).inc();
            work.push((members, derive));
        }
        Trouble::Guilty(at) => {
            metrics.fallbacks.with_label_values(&["failure"]).inc();
            let guilty = members.remove(at);
            place.lane().knowledge(&guilty.write.statement, |knowledge| knowledge.failed());
            send(guilty, Reply::Alone(None));
            work.push((members, derive));
        }
        Trouble::Suspects(range) => {
            metrics.fallbacks.with_label_values(&["failure"]).inc();
            let middle = range.start + range.len() / 2;
            let half = members.drain(middle..range.end).collect();
            work.push((half, derive));
            work.push((members, derive));
        }
        Trouble::Mismatch(range, why) => {
            metrics.fallbacks.with_label_values(&[why]).inc();
            let apart: Vec<Member> = members.drain(range).collect();
            if let Some(first) = apart.first() {
                place.lane().knowledge(&first.write.statement, |knowledge| knowledge.mismatched(why));
            }
            // Their own statements are Neo4j's to answer, one by one inside a group.
            work.push((apart, false));
            work.push((members, derive));
        }
        Trouble::Apart(why) => {
            metrics.fallbacks.with_label_values(&[why]).inc();
            members.into_iter().for_each(|member| send(member, Reply::Alone(None)));
        }
        Trouble::Unknown | Trouble::Refused(_) => {
            members.into_iter().for_each(|member| send(member, Reply::Unknown));
        }
    }
}

/// A member whose client is gone is accounted for all the same: nobody is left to tell.
pub(super) fn send(member: Member, reply: Reply) {
    let _ = member.reply.send(reply);
}
