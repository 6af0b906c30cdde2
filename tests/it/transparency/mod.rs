//! The same transcript, direct and through Sidebolt: every answer and every close must be equal.
//!
//! Not compared: the times `t_first` and `t_last`, `connection_id`, bookmarks, `advertised_address`, page cache figures and times of
//! PROFILE, and the server's own address where it stands for the proxy's. Everything else that differs is listed in `DOCUMENTED`.

mod handshakes;
mod random;
mod transcripts;

use std::fmt::Write as _;
use std::net::SocketAddr;

use bolt_wire::Version;
use bolt_wire::packstream::Value;

use crate::support::message;
use crate::support::neo4j::{Line, Neo4j};
use crate::support::raw_client::{Answer, Client};
use crate::support::sidebolt::Sidebolt;
use transcripts::{Burst, Login, Transcript};

/// What Sidebolt is known to answer differently: how the transcript's name begins and ends, and why. No driver does any of it.
const DOCUMENTED: &[(&str, &str, &str)] = &[
    (
        "auto-commit with qid 5",
        "",
        "Sidebolt's own FAILURE for a result number that a kept answer does not have names no cause",
    ),
    (
        "malformed: ",
        ", after a failure",
        "after a failure Neo4j still decodes a request and refuses a malformed one; Sidebolt ignores it unread, as it does any other",
    ),
    (
        "malformed: PULL",
        "",
        "malformed and not allowed at rest: Sidebolt says that it is not allowed, and closes",
    ),
    (
        "malformed: DISCARD",
        "",
        "malformed and not allowed at rest: Sidebolt says that it is not allowed, and closes",
    ),
    (
        "malformed: COMMIT",
        "",
        "malformed and not allowed at rest: Sidebolt says that it is not allowed, and closes",
    ),
    (
        "malformed: ROLLBACK",
        "",
        "malformed and not allowed at rest: Sidebolt says that it is not allowed, and closes",
    ),
    (
        "malformed: RESET",
        "",
        "a RESET with fields counts as one, and closes where Neo4j does not take it for one",
    ),
    ("malformed: a string", "", "what is no message at all is a close without a word"),
    ("malformed: a map", "", "what is no message at all is a close without a word"),
    ("malformed: an unknown marker", "", "what is no message at all is a close without a word"),
    (
        "HELLO with ",
        "",
        "a refused HELLO is always followed by a close; Neo4j leaves some of these connections open but useless",
    ),
    ("LOGON that is no map", "", "the message says less about the type, and a close follows"),
    (
        "GOODBYE ",
        "",
        "Neo4j sometimes answers a GOODBYE that interrupts something before it closes; nobody reads it",
    ),
    (
        "RESET overtakes a transaction",
        "",
        "Neo4j answers the overtaken BEGIN with FAILURE and closes; here it is ignored like the rest",
    ),
];

fn documented(name: &str) -> Option<&'static str> {
    let fits = |(from, to, _): &&(&str, &str, &str)| name.starts_with(from) && name.ends_with(to);
    DOCUMENTED.iter().find(fits).map(|(_, _, reason)| *reason)
}

/// How often a transcript is played until both sides showed the same.
const RACES: usize = 60;
/// How often one transcript may be cut short before that counts.
const LOSSES: usize = 3;

macro_rules! versions {
    ($($name:ident: $line:ident $major:literal, $minor:literal;)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            compare(Line::$line, Version::new($major, $minor), concat!("transparency::", stringify!($name))).await;
        })*
    };
}

versions! {
    bolt_4_4_on_5_26: Five 4, 4;
    bolt_5_0_on_5_26: Five 5, 0;
    bolt_5_1_on_5_26: Five 5, 1;
    bolt_5_2_on_5_26: Five 5, 2;
    bolt_5_3_on_5_26: Five 5, 3;
    bolt_5_4_on_5_26: Five 5, 4;
    bolt_5_6_on_5_26: Five 5, 6;
    bolt_5_7_on_5_26: Five 5, 7;
    bolt_5_8_on_5_26: Five 5, 8;
    bolt_4_4_on_2026: Calendar 4, 4;
    bolt_5_0_on_2026: Calendar 5, 0;
    bolt_5_1_on_2026: Calendar 5, 1;
    bolt_5_2_on_2026: Calendar 5, 2;
    bolt_5_3_on_2026: Calendar 5, 3;
    bolt_5_4_on_2026: Calendar 5, 4;
    bolt_5_6_on_2026: Calendar 5, 6;
    bolt_5_7_on_2026: Calendar 5, 7;
    bolt_5_8_on_2026: Calendar 5, 8;
    bolt_6_0_on_2026: Calendar 6, 0;
    bolt_6_1_on_2026: Calendar 6, 1;
}

/// With `neo4j://` upstream a routing table stands between, and nobody can tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routed_bolt_5_8_on_5_26() {
    compare_through("neo4j", Line::Five, Version::V5_8, "transparency::routed_bolt_5_8_on_5_26").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routed_bolt_6_1_on_2026() {
    compare_through("neo4j", Line::Calendar, Version::V6_1, "transparency::routed_bolt_6_1_on_2026").await;
}

/// Runs every transcript of `version` both ways.
async fn compare(line: Line, version: Version, test: &str) {
    compare_through("bolt", line, version, test).await;
}

async fn compare_through(scheme: &str, line: Line, version: Version, test: &str) {
    let Some(neo4j) = Neo4j::of(line, test) else { return };
    let uri = format!("{scheme}://{}", neo4j.address);
    let sidebolt = Sidebolt::start(&neo4j.address, |config| config.upstream.uri = uri).await;
    let direct: SocketAddr = neo4j.address.parse().expect("NEO4J_…_ADDRESS is an IP address with a port");
    let label = format!("It_{scheme}_{}_{}_{line:?}", version.major, version.minor);
    prepare(&neo4j, &label).await;

    let only = std::env::var("TRANSCRIPT").unwrap_or_default();
    let all: Vec<Transcript> = transcripts::all(version, &label, &neo4j.password)
        .into_iter()
        .filter(|t| t.name.contains(&only))
        .collect();
    let (mut equal, mut known, mut different) = (0, 0, String::new());
    for transcript in &all {
        let sides = both(&neo4j, &label, transcript, direct, sidebolt.address).await;
        if sides.0 == sides.1 {
            equal += 1;
        } else if let Some(reason) = documented(&transcript.name) {
            known += 1;
            println!("  documented: {}: {reason}", transcript.name);
        } else {
            let _ = write!(different, "\n{}\n{}", transcript.name, difference(&sides.0, &sides.1));
        }
    }
    // Not captured by the harness: these lines are what the run shows.
    let count = different.matches("\n  direct  ").count();
    use std::io::Write as _;
    let _ = writeln!(
        std::io::stderr(),
        "transparency: Bolt {version} on {scheme}:// Neo4j {line:?}: {} transcripts, {equal} equal, {known} documented differences, {count} different",
        all.len(),
    );
    assert!(different.is_empty(), "Bolt {version} on {}:{different}", neo4j.address);
    sidebolt.at_rest().await;
}

/// Names that the transcripts use exist from the start, so that warnings do not depend on who comes first.
async fn prepare(neo4j: &Neo4j, label: &str) {
    neo4j
        .admin(&format!(
            "CREATE (n:{label} {{i: 1, k: 'x'}})-[r:IT_REL {{i: 1}}]->(m:{label}) DETACH DELETE n, m"
        ))
        .await;
}

async fn clean(neo4j: &Neo4j, label: &str) {
    neo4j.admin(&format!("MATCH (n:{label}) DETACH DELETE n")).await;
}

/// What both sides answered. Servers race with themselves too (a close overtakes a FAILURE, a RESET is late): what came through
/// Sidebolt must then be something that the server itself is seen to do; where a transcript is a race by design, one of several runs.
/// So it is, a few times, where an answer was missing because the connection was closed: Neo4j may have closed its own.
async fn both(
    neo4j: &Neo4j,
    label: &str,
    transcript: &Transcript,
    direct: SocketAddr,
    proxied: SocketAddr,
) -> (Vec<Answer>, Vec<Answer>) {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let tries = if documented(&transcript.name).is_some() { 1 } else { RACES };
    for _ in 0..tries {
        theirs.push(play_clean(transcript, direct, neo4j, label).await);
        if ours.is_empty() || transcript.race || (ours.len() <= LOSSES && cut_short(&ours, &theirs)) {
            ours.push(play_clean(transcript, proxied, neo4j, label).await);
        }
        if let Some(seen) = ours.iter().find(|seen| theirs.contains(seen)) {
            if ours.len() > 1 && !transcript.race {
                eprintln!(
                    "transparency: {}: cut short {} times, then equal",
                    transcript.name,
                    ours.len() - 1
                );
            }
            return (seen.clone(), seen.clone());
        }
    }
    (theirs.swap_remove(0), ours.swap_remove(0))
}

/// True if what came through Sidebolt is the beginning of the direct answers, and then a close.
fn cut_short(ours: &[Vec<Answer>], theirs: &[Vec<Answer>]) -> bool {
    let is_cut = |seen: &Vec<Answer>| match seen.split_last() {
        Some((Answer::Closed, before)) => theirs.iter().any(|direct| direct.starts_with(before)),
        _ => false,
    };
    ours.iter().all(is_cut)
}

async fn play_clean(transcript: &Transcript, address: SocketAddr, neo4j: &Neo4j, label: &str) -> Vec<Answer> {
    if transcript.writes {
        clean(neo4j, label).await;
    }
    play(transcript, address, neo4j).await
}

/// Plays a transcript and gives its masked answers, and how it ended.
async fn play(transcript: &Transcript, address: SocketAddr, neo4j: &Neo4j) -> Vec<Answer> {
    let _named = Named(format!("{}, at {address}", transcript.name));
    let mut client = Client::connect(address, transcript.version).await.expect("the handshake succeeds");
    let login = match &transcript.login {
        Login::Usual => vec![Burst::of(message::login(transcript.version, Neo4j::USER, &neo4j.password))],
        Login::Own => Vec::new(),
    };
    let mut answers = Vec::new();
    for burst in login.iter().chain(&transcript.bursts) {
        // A server that has closed is noticed by the answers.
        let _ = if burst.bytewise {
            client.send_bytewise(&burst.bytes).await
        } else {
            client.send(&burst.bytes).await
        };
        answers.extend(client.read_answers(burst.answers).await);
        if answers.last() == Some(&Answer::Closed) {
            break;
        }
    }
    // RESET tells an open connection from one that is closing; GOODBYE shows whether anything else was on its way.
    for last in [message::reset(), message::goodbye()] {
        if transcript.probe && answers.last() != Some(&Answer::Closed) {
            answers.extend(client.ask_all(&[last]).await);
        }
    }
    let addresses = [address.to_string(), neo4j.address.clone()];
    answers.iter().map(|answer| masked(answer, &addresses)).collect()
}

/// Names what was going on when a test fails in the middle of it.
struct Named(String);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in the transcript {:?}", self.0);
        }
    }
}

/// An answer without what may differ.
fn masked(answer: &Answer, addresses: &[String]) -> Answer {
    match answer {
        Answer::Success(meta) => Answer::Success(mask(meta, addresses)),
        Answer::Failure(meta) => Answer::Failure(mask(meta, addresses)),
        other => other.clone(),
    }
}

fn mask(value: &Value, addresses: &[String]) -> Value {
    const MASKED: [&str; 9] = [
        "t_first",
        "t_last",
        "connection_id",
        "bookmark",
        "advertised_address",
        "pageCacheHits",
        "pageCacheMisses",
        "pageCacheHitRatio",
        "time",
    ];
    match value {
        Value::Map(entries) => {
            let masked = |(key, value): &(String, Value)| {
                let value = if MASKED.contains(&key.as_str()) { "*".into() } else { mask(value, addresses) };
                (key.clone(), value)
            };
            // Documented difference: Sidebolt asks drivers for telemetry.
            let asked = |(key, _): &&(String, Value)| key != "telemetry.enabled";
            let mut entries: Vec<_> = entries.iter().filter(asked).map(masked).collect();
            // The order of a map's entries has no meaning, and the servers' own varies.
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Map(entries)
        }
        Value::List(items) => Value::List(items.iter().map(|item| mask(item, addresses)).collect()),
        Value::String(text) if addresses.contains(text) => "<address>".into(),
        Value::String(text) => without_fields(text).into(),
        other => other.clone(),
    }
}

/// Documented difference: where Neo4j prints the fields of a message that is not allowed after a failure, Sidebolt prints none.
fn without_fields(text: &str) -> String {
    match (
        text.split_once("Message{"),
        text.rsplit_once("} cannot").or_else(|| text.rsplit_once("}' cannot")),
    ) {
        (Some((before, _)), Some((_, after))) => format!("{before}Message{{}} cannot{after}"),
        _ => text.to_owned(),
    }
}

/// The first answers that differ: in short unless they look alike then.
fn difference(direct: &[Answer], proxied: &[Answer]) -> String {
    let Some(at) = (0..direct.len().max(proxied.len())).find(|at| direct.get(*at) != proxied.get(*at)) else {
        return String::new();
    };
    let short = |answer: Option<&Answer>| match answer {
        Some(failure @ Answer::Failure(_)) => format!("FAILURE {} {:?}", failure.code(), failure.text()),
        Some(Answer::Record(_)) => "RECORD".to_owned(),
        Some(Answer::Success(meta)) => {
            let text = format!("{meta:?}");
            format!("SUCCESS {}", text.chars().take(1500).collect::<String>())
        }
        other => format!("{other:?}"),
    };
    let (mut a, mut b) = (short(direct.get(at)), short(proxied.get(at)));
    if a == b {
        (a, b) = (format!("{:?}", direct.get(at)), format!("{:?}", proxied.get(at)));
    }
    format!("  direct  #{at}: {a}\n  proxied #{at}: {b}")
}
