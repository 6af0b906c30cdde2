//! What is played both ways. One list; each transcript says in which versions it makes sense.

use bolt_wire::packstream::Value;
use bolt_wire::version::NotificationFilter;
use bolt_wire::{Tag, Version};

use crate::support::message::*;
use crate::support::neo4j::Neo4j;

/// One conversation.
pub struct Transcript {
    pub name: String,
    pub version: Version,
    pub login: Login,
    pub bursts: Vec<Burst>,
    /// The outcome differs from time to time on the server itself.
    pub race: bool,
    /// It changes data: the label's nodes are deleted before.
    pub writes: bool,
    /// RESET and GOODBYE follow, to see whether the connection is alive.
    pub probe: bool,
}

/// How a transcript begins.
pub enum Login {
    /// HELLO and LOGON that succeed.
    Usual,
    /// The first bursts are the login.
    Own,
}

/// Bytes sent at once, and the number of answers to wait for.
pub struct Burst {
    pub bytes: Vec<u8>,
    pub answers: usize,
    pub bytewise: bool,
}

impl Burst {
    pub fn of(messages: Vec<Vec<u8>>) -> Self {
        Self { answers: messages.len(), bytes: messages.concat(), bytewise: false }
    }
}

/// Collects transcripts.
struct Book {
    version: Version,
    label: String,
    password: String,
    all: Vec<Transcript>,
}

impl Book {
    fn add(&mut self, name: impl Into<String>, bursts: Vec<Vec<Vec<u8>>>) -> &mut Transcript {
        self.all.push(Transcript {
            name: name.into(),
            version: self.version,
            login: Login::Usual,
            bursts: bursts.into_iter().map(Burst::of).collect(),
            race: false,
            writes: false,
            probe: true,
        });
        self.all.last_mut().unwrap()
    }

    fn writes(&mut self, name: impl Into<String>, bursts: Vec<Vec<Vec<u8>>>) -> &mut Transcript {
        let transcript = self.add(name, bursts);
        transcript.writes = true;
        transcript
    }

    /// Without the usual login.
    fn raw(&mut self, name: impl Into<String>, bursts: Vec<Vec<Vec<u8>>>) -> &mut Transcript {
        let transcript = self.add(name, bursts);
        transcript.login = Login::Own;
        transcript
    }

    fn from(&self, major: u8, minor: u8) -> bool {
        self.version >= Version::new(major, minor)
    }

    fn login(&self) -> Vec<Vec<u8>> {
        login(self.version, Neo4j::USER, &self.password)
    }

    fn create(&self) -> Vec<u8> {
        run(&format!("CREATE (n:{} {{i: 1}}) RETURN n.i AS i", self.label))
    }

    fn count(&self) -> Vec<u8> {
        run(&format!("MATCH (n:{}) RETURN count(n) AS n", self.label))
    }
}

const NUMBERS: &str = "UNWIND range(1, 5) AS x RETURN x, 'row ' + x AS text";
const BAD: &str = "RETURN nonsense";
const LATE: &str = "UNWIND range(0, 5) AS x RETURN 1 / (x - 3) AS y";
const WARNS: &str = "MATCH (n:NoSuchLabelAnywhere) RETURN n.noSuchPropertyAnywhere AS p";
const HINTS: &str = "EXPLAIN MATCH (a:NoSuchLabelAnywhere), (b:NoSuchLabelAnywhere) RETURN a, b";

/// Every transcript of `version`.
pub fn all(version: Version, label: &str, password: &str) -> Vec<Transcript> {
    let mut book = Book { version, label: label.to_owned(), password: password.to_owned(), all: Vec::new() };
    auto_commit(&mut book);
    values(&mut book);
    transactions(&mut book);
    query_ids(&mut book);
    failures(&mut book);
    after_failures(&mut book);
    illegal(&mut book);
    resets(&mut book);
    before_login(&mut book);
    logins(&mut book);
    relogins(&mut book);
    routes(&mut book);
    telemetries(&mut book);
    notifications(&mut book);
    plans(&mut book);
    extras(&mut book);
    new_types(&mut book);
    bad_parameters(&mut book);
    malformed(&mut book);
    framing(&mut book);
    large(&mut book);
    goodbyes(&mut book);
    book.all
}

fn auto_commit(b: &mut Book) {
    b.add("auto-commit, pipelined", vec![vec![run(NUMBERS), pull_all()]]);
    b.add("auto-commit, step by step", vec![vec![run(NUMBERS)], vec![pull_all()]]);
    b.add("auto-commit, no rows", vec![vec![run("UNWIND [] AS x RETURN x"), pull_all()]]);
    b.add("auto-commit, no columns", vec![vec![run("MATCH (n:NoSuchLabelAnywhere) DELETE n"), pull_all()]]);
    b.add("pull in portions", vec![vec![run(NUMBERS), pull(2)], vec![pull(2)], vec![pull(2)]]);
    b.add("pull exactly all", vec![vec![run(NUMBERS), pull(5)], vec![pull(5)]]);
    b.add("pull in portions, pipelined", vec![vec![run(NUMBERS), pull(2), pull(2), pull_all()]]);
    b.add("pull some, discard the rest", vec![vec![run(NUMBERS), pull(2)], vec![discard(-1)]]);
    b.add("discard some, pull the rest", vec![vec![run(NUMBERS), discard(2)], vec![pull_all()]]);
    b.add("discard all", vec![vec![run(NUMBERS), discard(-1)]]);
    b.add(
        "pull beyond a thousand",
        vec![
            vec![run("UNWIND range(1, 2500) AS x RETURN x"), pull(1000)],
            vec![pull(1000)],
            vec![pull(1000)],
        ],
    );
    b.add(
        "several auto-commits in a burst",
        vec![vec![run(NUMBERS), pull_all(), run("RETURN 2"), pull_all(), run("RETURN 3"), discard(-1)]],
    );
    b.add(
        "a bad one among several",
        vec![
            vec![run("RETURN 1"), pull_all(), run(BAD), pull_all(), run("RETURN 3"), pull_all()],
            vec![reset(), run("RETURN 4"), pull_all()],
        ],
    );
    let create = b.create();
    let count = b.count();
    b.writes("a write and a read", vec![vec![create, pull_all(), count, pull_all()]]);
    let label = b.label.clone();
    b.writes(
        "counters of every kind",
        vec![
            vec![run(&format!("CREATE (a:{label} {{i: 1}})-[r:IT_REL {{i: 1}}]->(b:{label})")), pull_all()],
            vec![
                run(&format!("MATCH (a:{label})-[r:IT_REL]->(b) SET a.k = 'x' REMOVE a.i DELETE r")),
                pull_all(),
            ],
            vec![run(&format!("MATCH (a:{label}) DETACH DELETE a")), pull_all()],
        ],
    );
    b.writes(
        "CALL IN TRANSACTIONS",
        vec![vec![
            run(&format!(
                "UNWIND range(1, 6) AS x CALL (x) {{ CREATE (n:{label} {{i: x}}) }} IN TRANSACTIONS OF 2 ROWS"
            )),
            pull_all(),
        ]],
    );
    b.add(
        "a statement about the user",
        vec![vec![run("SHOW CURRENT USER YIELD user RETURN user"), pull_all()]],
    );
    b.add("a procedure", vec![vec![run("CALL db.ping()"), pull_all()]]);
}

fn values(b: &mut Book) {
    let nested = map([
        ("null", Value::Null),
        ("true", true.into()),
        (
            "ints",
            Value::List(
                [0, -16, -17, 127, 128, -128, 40_000, i64::MIN, i64::MAX].map(Value::Integer).to_vec(),
            ),
        ),
        ("float", Value::Float(-0.25)),
        ("bytes", Value::Bytes(vec![7; 300])),
        ("text", "é".repeat(200).into()),
        ("deep", map([("list", Value::List(vec![map([("x", 1.into())]), Value::List(vec![])]))])),
    ]);
    b.add(
        "parameters of every plain type",
        vec![vec![run_with("RETURN $p AS p, $p.ints AS ints", map([("p", nested)]), none()), pull_all()]],
    );
    let date_times = if b.from(5, 0) { (0x49, 0x69) } else { (0x46, 0x66) };
    let int = Value::Integer;
    let structs = vec![
        Value::Struct(0x44, vec![int(19_000)]),
        Value::Struct(0x54, vec![int(3_600_000_000_000), int(3600)]),
        Value::Struct(0x74, vec![int(1_000)]),
        Value::Struct(0x64, vec![int(1_700_000_000), int(5)]),
        Value::Struct(date_times.0, vec![int(1_700_000_000), int(5), int(3600)]),
        Value::Struct(date_times.1, vec![int(1_700_000_000), int(5), "Europe/Berlin".into()]),
        Value::Struct(0x45, vec![int(1), int(2), int(3), int(4)]),
        Value::Struct(0x58, vec![int(7203), Value::Float(1.0), Value::Float(2.0)]),
        Value::Struct(0x59, vec![int(9157), Value::Float(1.0), Value::Float(2.0), Value::Float(3.0)]),
    ];
    for one in structs {
        let Value::Struct(signature, _) = one else { unreachable!() };
        b.add(
            format!("parameter struct {signature:#x}"),
            vec![vec![run_with("RETURN $p AS p", map([("p", one)]), none()), pull_all()]],
        );
    }
    b.add("temporal and spatial results", vec![vec![
        run("RETURN date('2024-02-29'), time('12:00:00+01:00'), localtime('12:00'), datetime('2024-02-29T12:00:00[Europe/Berlin]'), \
             datetime('2024-02-29T12:00:00+01:00'), localdatetime('2024-02-29T12:00'), duration('P1M2DT3S'), point({x: 1, y: 2}), \
             point({latitude: 1, longitude: 2, height: 3})"),
        pull_all(),
    ]]);
    // 5 as CB, and a string with a four-byte length: legal, though longer than need be.
    let wide = [
        &[0xB3, 0x10, 0x89][..],
        b"RETURN $p",
        &[0xA1, 0x81, b'p', 0xCB, 0, 0, 0, 0, 0, 0, 0, 5, 0xA1, 0xD2, 0, 0, 0, 4],
        b"mode",
        &[0x81, b'r'],
    ]
    .concat();
    b.add("values in longer forms than need be", vec![vec![raw(&wide), pull_all()]]);
    b.writes("graph values", vec![
        vec![begin()],
        vec![
            run(&format!(
                "CREATE (a:{0} {{i: 1}})-[r:IT_REL {{i: 2}}]->(c:{0}) WITH a, r, c RETURN labels(a), properties(r), type(r), size(nodes((a)-[r]->(c)))",
                b.label
            )),
            pull_all(),
        ],
        vec![rollback()],
    ]);
}

fn transactions(b: &mut Book) {
    let (create, count) = (b.create(), b.count());
    b.writes(
        "a transaction in one burst",
        vec![vec![begin(), create.clone(), pull_all(), commit()], vec![count.clone(), pull_all()]],
    );
    b.writes(
        "a transaction step by step",
        vec![
            vec![begin()],
            vec![create.clone()],
            vec![pull_all()],
            vec![commit()],
            vec![count.clone(), pull_all()],
        ],
    );
    b.writes(
        "a rollback",
        vec![
            vec![begin(), create.clone(), pull_all()],
            vec![count.clone(), pull_all()],
            vec![rollback()],
            vec![count.clone(), pull_all()],
        ],
    );
    b.writes(
        "two transactions in one burst",
        vec![vec![
            begin(),
            create.clone(),
            pull_all(),
            commit(),
            begin(),
            count.clone(),
            pull_all(),
            commit(),
        ]],
    );
    b.writes(
        "commit with unread records",
        vec![
            vec![begin(), run(NUMBERS), pull(2)],
            vec![create.clone(), commit()],
            vec![count.clone(), pull_all()],
        ],
    );
    b.writes(
        "rollback with unread records",
        vec![
            vec![begin(), run(NUMBERS), pull(2), create.clone()],
            vec![rollback()],
            vec![count.clone(), pull_all()],
        ],
    );
    b.add("commit of nothing", vec![vec![begin(), commit()]]);
    b.add("rollback of nothing", vec![vec![begin()], vec![rollback()]]);
    b.add(
        "a read transaction",
        vec![vec![begin_with([("mode", "r".into())]), run(NUMBERS), pull_all(), commit()]],
    );
    b.writes(
        "a write in a read transaction",
        vec![vec![begin_with([("mode", "r".into())]), create.clone(), pull_all(), commit()]],
    );
    b.add("discard in a transaction", vec![vec![begin(), run(NUMBERS), discard(-1), commit()]]);
    b.add(
        "no CALL IN TRANSACTIONS in a transaction",
        vec![vec![
            begin(),
            run("UNWIND [1] AS x CALL (x) { RETURN x AS y } IN TRANSACTIONS RETURN y"),
            pull_all(),
            rollback(),
        ]],
    );
}

fn query_ids(b: &mut Book) {
    let qid = |tag, n: i64, qid: i64| message(tag, &[map([("n", n.into()), ("qid", qid.into())])]);
    b.add(
        "results side by side",
        vec![
            vec![begin(), run(NUMBERS), run("RETURN 'second'")],
            vec![qid(Tag::PULL, 2, 0), qid(Tag::PULL, -1, 1), qid(Tag::PULL, -1, 0)],
            vec![commit()],
        ],
    );
    b.add(
        "results side by side, in one burst",
        vec![vec![
            begin(),
            run(NUMBERS),
            run("RETURN 'second'"),
            qid(Tag::PULL, -1, 0),
            qid(Tag::DISCARD, -1, 1),
            commit(),
        ]],
    );
    b.add(
        "an unknown result in a transaction",
        vec![vec![begin(), run(NUMBERS), qid(Tag::PULL, -1, 7)], vec![pull_all(), rollback()]],
    );
    b.add(
        "a result pulled twice",
        vec![vec![begin(), run("RETURN 1"), pull_all()], vec![pull_all()], vec![rollback()]],
    );
    for id in [-1, 0, 5] {
        b.add(format!("auto-commit with qid {id}"), vec![vec![run(NUMBERS), qid(Tag::PULL, -1, id)]]);
    }
}

fn failures(b: &mut Book) {
    let again = || vec![reset(), run("RETURN 1"), pull_all()];
    b.add("a syntax error", vec![vec![run(BAD), pull_all()], again()]);
    b.add("a syntax error, step by step", vec![vec![run(BAD)], vec![pull_all()], again()]);
    b.add("an error after some records", vec![vec![run(LATE), pull_all()], again()]);
    b.add("an error in a later portion", vec![vec![run(LATE), pull(1)], vec![pull_all()], again()]);
    b.add("an error while discarding", vec![vec![run(LATE), discard(-1)], again()]);
    b.add("an error in a transaction", vec![vec![begin(), run(BAD), pull_all(), commit()], again()]);
    b.add(
        "an error in a transaction, step by step",
        vec![vec![begin()], vec![run(BAD)], vec![pull_all()], vec![rollback()], again()],
    );
    b.add("a late error in a transaction", vec![vec![begin(), run(LATE), pull_all(), commit()], again()]);
    b.add(
        "an unknown database",
        vec![vec![run_with("RETURN 1", none(), map([("db", "nope".into())])), pull_all()], again()],
    );
    b.add(
        "an unknown database at BEGIN",
        vec![vec![begin_with([("db", "nope".into())]), run("RETURN 1"), pull_all(), commit()], again()],
    );
    b.add(
        "a bookmark that is none",
        vec![
            vec![
                run_with("RETURN 1", none(), map([("bookmarks", Value::List(vec!["nonsense".into()]))])),
                pull_all(),
            ],
            again(),
        ],
    );
    b.add(
        "a bookmark that is none at BEGIN",
        vec![vec![begin_with([("bookmarks", Value::List(vec!["nonsense".into()]))])], again()],
    );
    b.add(
        "impersonation",
        vec![vec![run_with("RETURN 1", none(), map([("imp_user", "somebody".into())])), pull_all()], again()],
    );
    b.add("impersonation at BEGIN", vec![vec![begin_with([("imp_user", "somebody".into())])], again()]);
    b.add("a missing parameter", vec![vec![run("RETURN $missing"), pull_all()], again()]);
    b.add("an unknown procedure", vec![vec![run("CALL no.such.procedure()"), pull_all()], again()]);
    b.add(
        "a transaction time-out of nothing left",
        vec![
            vec![
                run_with(
                    "UNWIND range(1, 100000000) AS x WITH x WHERE x % 7 = 9 RETURN count(x)",
                    none(),
                    map([("tx_timeout", 300.into())]),
                ),
                pull_all(),
            ],
            again(),
        ],
    );
    let create = b.create();
    b.writes(
        "a write in read mode",
        vec![
            vec![
                run_with(&format!("CREATE (n:{})", b.label), none(), map([("mode", "r".into())])),
                pull_all(),
            ],
            vec![reset(), create, pull_all()],
        ],
    );
    let label = b.label.clone();
    b.writes(
        "a violated constraint of the moment",
        vec![
            vec![
                begin(),
                run(&format!("CREATE (a:{label})-[:IT_REL]->(b:{label})")),
                pull_all(),
                run(&format!("MATCH (a:{label})-[:IT_REL]->() DELETE a")),
                pull_all(),
                commit(),
            ],
            again(),
        ],
    );
}

/// Every request after each kind of failure.
fn after_failures(b: &mut Book) {
    let password = b.password.clone();
    let failed: [(&str, Vec<Vec<u8>>); 5] = [
        ("RUN failed", vec![run(BAD)]),
        ("PULL failed", vec![run(LATE), pull_all()]),
        ("BEGIN failed", vec![begin_with([("db", "nope".into())])]),
        ("RUN in a transaction failed", vec![begin(), run(BAD)]),
        ("PULL in a transaction failed", vec![begin(), run(LATE), pull_all()]),
    ];
    for (situation, first) in failed {
        for (name, request) in requests(b.version, &password) {
            b.add(format!("{situation}, then {name}"), vec![first.clone(), vec![request]]);
        }
    }
    b.add(
        "a failed ROUTE, then RUN",
        vec![
            vec![route(none(), map([("db", "nope".into())]))],
            vec![run("RETURN 1"), pull_all()],
            vec![reset(), run("RETURN 1"), pull_all()],
        ],
    );
}

/// One of each request.
fn requests(version: Version, password: &str) -> Vec<(&'static str, Vec<u8>)> {
    let features = version.features();
    let mut all = vec![
        ("HELLO", hello(version, Neo4j::USER, password)),
        ("RESET", reset()),
        ("RUN", run("RETURN 1")),
        ("PULL", pull_all()),
        ("DISCARD", discard(-1)),
        ("BEGIN", begin()),
        ("COMMIT", commit()),
        ("ROLLBACK", rollback()),
        ("ROUTE", route(none(), none())),
    ];
    if features.reauth {
        all.extend([("LOGON", logon(Neo4j::USER, password)), ("LOGOFF", logoff())]);
    }
    if features.telemetry {
        all.push(("TELEMETRY", telemetry(2)));
    }
    all
}

/// Every request in each state.
fn illegal(b: &mut Book) {
    let password = b.password.clone();
    let states: [(&str, Vec<Vec<u8>>); 5] = [
        ("READY", vec![]),
        ("an open result", vec![run(NUMBERS), pull(2)]),
        ("an unpulled result", vec![run(NUMBERS)]),
        ("a transaction", vec![begin()]),
        ("a result in a transaction", vec![begin(), run(NUMBERS), pull(2)]),
    ];
    for (state, first) in states {
        for (name, request) in requests(b.version, &password) {
            b.add(format!("{name} in {state}"), vec![first.clone(), vec![request]]);
        }
        b.add(format!("an unknown signature in {state}"), vec![first.clone(), vec![message(Tag(0x33), &[])]]);
        b.add(
            format!("a SUCCESS from the client in {state}"),
            vec![first.clone(), vec![message(Tag::SUCCESS, &[none()])]],
        );
    }
    if !b.version.features().reauth {
        b.add("LOGON before it existed", vec![vec![logon("a", "b")]]);
        b.add("LOGOFF before it existed", vec![vec![logoff()]]);
    }
    if !b.version.features().telemetry {
        b.add("TELEMETRY before it existed", vec![vec![telemetry(1)]]);
    }
}

fn resets(b: &mut Book) {
    let (create, count) = (b.create(), b.count());
    let fine = || vec![run("RETURN 1"), pull_all()];
    b.add("RESET at rest", vec![vec![reset()], vec![reset()], fine()]);
    b.add("RESETs in one burst at rest", vec![vec![reset(), reset(), reset()], fine()]);
    b.writes(
        "RESET in a transaction",
        vec![vec![begin(), create.clone(), pull_all()], vec![reset()], vec![count.clone(), pull_all()]],
    );
    b.add("RESET in an open result", vec![vec![run(NUMBERS), pull(2)], vec![reset()], fine()]);
    b.add("RESET of an unpulled result", vec![vec![run(NUMBERS)], vec![reset()], fine()]);
    b.writes(
        "RESET in a result in a transaction",
        vec![
            vec![begin(), create.clone(), run(NUMBERS), pull(2)],
            vec![reset()],
            vec![count.clone(), pull_all()],
        ],
    );
    b.add("RESET after COMMIT", vec![vec![begin(), commit()], vec![reset()], fine()]);
    b.add("two RESETs after a failure", vec![vec![run(BAD)], vec![reset(), reset()], fine()]).race = true;
    b.add("RESET overtakes a query", vec![vec![run(NUMBERS), pull_all(), reset()], fine()]).race = true;
    b.add("two RESETs overtake a query", vec![vec![run(NUMBERS), pull_all(), reset(), reset()], fine()])
        .race = true;
    b.add("RESET overtakes a transaction", vec![vec![begin(), run(NUMBERS), pull_all(), reset()], fine()])
        .race = true;
    b.add(
        "RESET between two queries",
        vec![vec![run(NUMBERS), pull_all(), reset(), run("RETURN 2"), pull_all()]],
    )
    .race = true;
    b.add(
        "RESET of something long",
        vec![
            vec![run("UNWIND range(1, 1000000000) AS x WITH x WHERE x % 7 = 9 RETURN count(x)")],
            vec![pull_all(), noop(), reset()],
            fine(),
        ],
    )
    .race = true;
    // The NOOP is no request.
    let long = b.all.last_mut().unwrap();
    long.bursts[1].answers = 2;
}

fn noop() -> Vec<u8> {
    vec![0, 0]
}

/// Every request before HELLO and between HELLO and LOGON.
fn before_login(b: &mut Book) {
    let (version, password) = (b.version, b.password.clone());
    for (name, request) in requests(version, &password) {
        if name != "HELLO" {
            b.raw(format!("{name} before HELLO"), vec![vec![request.clone()]]);
        }
        // HELLO again is taken for a login without a token, answered after seconds with an internal error: see `DOCUMENTED`.
        if version.features().reauth && !matches!(name, "LOGON" | "HELLO") {
            b.raw(format!("{name} before LOGON"), vec![vec![hello(version, "", "")], vec![request]]);
        }
    }
    if version.features().reauth {
        b.raw(
            "RUN behind HELLO, in one burst",
            vec![vec![hello(version, "", ""), run("RETURN 1"), pull_all()]],
        );
    }
    let wrong = message(Tag(0x33), &[]);
    b.raw("an unknown signature before HELLO", vec![vec![wrong]]);
    let mut all = b.login();
    all.extend([run("RETURN 1"), pull_all()]);
    b.raw("everything in one burst", vec![all]);
}

fn logins(b: &mut Book) {
    let version = b.version;
    let reauth = version.features().reauth;
    let attempt = move |token: Vec<(&'static str, Value)>| {
        if reauth {
            vec![vec![hello(version, "", "")], vec![message(Tag::LOGON, &[map(token)])]]
        } else {
            vec![vec![hello_with(version, None, token)]]
        }
    };
    let tokens: Vec<(&str, Vec<(&str, Value)>)> = vec![
        (
            "an unknown user",
            vec![("scheme", "basic".into()), ("principal", "nobody".into()), ("credentials", "x".into())],
        ),
        ("no token", vec![]),
        ("no scheme", vec![("principal", "nobody".into()), ("credentials", "x".into())]),
        ("no principal", vec![("scheme", "basic".into()), ("credentials", "x".into())]),
        ("no credentials", vec![("scheme", "basic".into()), ("principal", "nobody".into())]),
        ("scheme none", vec![("scheme", "none".into())]),
        ("scheme bearer", vec![("scheme", "bearer".into()), ("credentials", "token".into())]),
        (
            "scheme kerberos",
            vec![("scheme", "kerberos".into()), ("principal", "".into()), ("credentials", "x".into())],
        ),
        (
            "an unknown scheme",
            vec![("scheme", "zzz".into()), ("principal", "a".into()), ("credentials", "x".into())],
        ),
        (
            "a scheme that is a number",
            vec![("scheme", 1.into()), ("principal", "a".into()), ("credentials", "x".into())],
        ),
        (
            "a principal that is a number",
            vec![("scheme", "basic".into()), ("principal", 1.into()), ("credentials", "x".into())],
        ),
        (
            "credentials that are a number",
            vec![("scheme", "basic".into()), ("principal", "a".into()), ("credentials", 1.into())],
        ),
        (
            "another realm",
            vec![
                ("scheme", "basic".into()),
                ("principal", "nobody".into()),
                ("credentials", "x".into()),
                ("realm", "elsewhere".into()),
            ],
        ),
    ];
    for (name, token) in tokens {
        b.raw(format!("login with {name}"), attempt(token));
    }
    let right = [
        ("scheme", Value::from("basic")),
        ("principal", Neo4j::USER.into()),
        ("credentials", b.password.as_str().into()),
    ];
    let mut native = attempt(right.iter().cloned().chain([("realm", "native".into())]).collect());
    native.push(vec![run("RETURN 1"), pull_all()]);
    b.raw("login with the native realm", native);
    let mut unknown = attempt(right.iter().cloned().chain([("zzz", 1.into())]).collect());
    unknown.push(vec![run("RETURN 1"), pull_all()]);
    b.raw("login with an unknown key", unknown);
    if reauth {
        b.raw(
            "requests behind a refused LOGON",
            vec![vec![hello(version, "", ""), logon("nobody", "x"), run("RETURN 1"), pull_all()]],
        );
        b.raw(
            "LOGON that is no map",
            vec![vec![hello(version, "", "")], vec![message(Tag::LOGON, &[1.into()])]],
        );
    }
}

fn relogins(b: &mut Book) {
    if !b.version.features().reauth {
        return;
    }
    let user = || vec![run("SHOW CURRENT USER YIELD user RETURN user"), pull_all()];
    let again = logon(Neo4j::USER, &b.password);
    b.add("LOGOFF and LOGON", vec![vec![logoff()], vec![again.clone()], user()]);
    b.add(
        "LOGOFF and LOGON with a query in one burst",
        vec![[vec![logoff(), again.clone()], user()].concat()],
    );
    b.add(
        "LOGOFF and LOGON behind a query, in one burst",
        vec![[user(), vec![logoff(), again.clone()], user()].concat()],
    );
    b.add(
        "LOGOFF and LOGON behind a transaction, in one burst",
        vec![vec![
            begin(),
            run("RETURN 1"),
            pull_all(),
            commit(),
            logoff(),
            again.clone(),
            run("RETURN 2"),
            pull_all(),
        ]],
    );
    for (name, request) in requests(b.version, &b.password.clone()) {
        if !matches!(name, "LOGON" | "HELLO") {
            b.add(format!("LOGOFF, then {name}"), vec![vec![logoff()], vec![request]]);
        }
    }
    b.add("LOGOFF and a refused LOGON", vec![vec![logoff()], vec![logon("nobody", "x")]]);
    b.add(
        "LOGOFF, a refused LOGON and a query in one burst",
        vec![[vec![logoff(), logon("nobody", "x")], user()].concat()],
    );
    let create = b.create();
    b.writes("LOGOFF in a transaction loses it", vec![vec![begin(), create, pull_all(), logoff()]]);
}

fn routes(b: &mut Book) {
    let address = || map([("address", "proxy.example:7687".into())]);
    b.add("ROUTE with an address", vec![vec![route(address(), map([("db", Value::Null)]))]]);
    b.add(
        "ROUTE with more context",
        vec![vec![route(map([("address", "proxy.example:7687".into()), ("region", "eu".into())]), none())]],
    );
    b.add("ROUTE without an address", vec![vec![route(none(), map([("db", "neo4j".into())]))]]);
    b.add("ROUTE for the system database", vec![vec![route(address(), map([("db", "system".into())]))]]);
    b.add(
        "ROUTE for an unknown database",
        vec![
            vec![route(address(), map([("db", "nope".into())]))],
            vec![reset(), run("RETURN 1"), pull_all()],
        ],
    );
    b.add(
        "ROUTE as in 4.3",
        vec![vec![message(Tag::ROUTE, &[address(), Value::List(vec![]), Value::Null])], vec![reset()]],
    );
    b.add("ROUTE with impersonation", vec![vec![route(address(), map([("imp_user", "somebody".into())]))]]);
    b.add(
        "ROUTE before a query, in one burst",
        vec![vec![route(address(), none()), run("RETURN 1"), pull_all()]],
    );
    b.add("ROUTEs in one burst", vec![vec![route(address(), none()), route(address(), none())]]);
    let (version, password) = (b.version, b.password.clone());
    let mut login = login(version, Neo4j::USER, &password);
    login[0] = hello_with(version, Some((Neo4j::USER, &password)), [("routing", address())]);
    b.raw("routing in HELLO", vec![login, vec![route(address(), none())], vec![run("RETURN 1"), pull_all()]]);
    let mut null = crate::support::message::login(version, Neo4j::USER, &password);
    null[0] = hello_with(version, Some((Neo4j::USER, &password)), [("routing", Value::Null)]);
    b.raw("null routing in HELLO", vec![null, vec![run("RETURN 1"), pull_all()]]);
}

fn telemetries(b: &mut Book) {
    if !b.version.features().telemetry {
        return;
    }
    for api in 0..=3 {
        b.add(format!("TELEMETRY {api}"), vec![vec![telemetry(api), run("RETURN 1"), pull_all()]]);
    }
    b.add("TELEMETRY of an unknown API", vec![vec![telemetry(4)], vec![run("RETURN 1")], vec![reset()]]);
    b.add("TELEMETRY of a string", vec![vec![message(Tag::TELEMETRY, &["x".into()])], vec![reset()]]);
    b.add(
        "TELEMETRY before a transaction",
        vec![vec![telemetry(1), begin(), run("RETURN 1"), pull_all(), commit()]],
    );
    b.add("TELEMETRY in a transaction", vec![vec![begin()], vec![telemetry(1)]]);
}

fn notifications(b: &mut Book) {
    b.add("a warning", vec![vec![run(WARNS), pull_all()]]);
    b.add("a warning and a discard", vec![vec![run(WARNS), discard(-1)]]);
    b.add("a hint", vec![vec![run(HINTS), pull_all()]]);
    b.add("a deprecation", vec![vec![run("EXPLAIN MATCH (a)-[:A|:B]->(b) RETURN a"), pull_all()]]);
    b.add("no data at all", vec![vec![run("UNWIND [] AS x RETURN x"), discard(-1)]]);
    let (right, wrong) = match b.version.features().notification_filter {
        NotificationFilter::Categories => {
            ("notifications_disabled_categories", "notifications_disabled_classifications")
        }
        _ => ("notifications_disabled_classifications", "notifications_disabled_categories"),
    };
    let list = |names: &[&str]| Value::List(names.iter().map(|name| Value::from(*name)).collect());
    let severity = "notifications_minimum_severity";
    let filters: Vec<(&str, Vec<(&str, Value)>)> = vec![
        ("OFF", vec![(severity, "OFF".into())]),
        ("WARNING", vec![(severity, "WARNING".into())]),
        ("INFORMATION", vec![(severity, "INFORMATION".into())]),
        ("an unknown severity", vec![(severity, "LOUD".into())]),
        ("a severity that is a number", vec![(severity, 1.into())]),
        ("a null severity", vec![(severity, Value::Null)]),
        ("UNRECOGNIZED disabled", vec![(right, list(&["UNRECOGNIZED"]))]),
        ("PERFORMANCE disabled", vec![(right, list(&["PERFORMANCE"]))]),
        ("nothing disabled", vec![(right, list(&[]))]),
        ("an unknown class disabled", vec![(right, list(&["NONSENSE"]))]),
        ("classes that are no list", vec![(right, "x".into())]),
        ("the key of another version", vec![(wrong, list(&["UNRECOGNIZED"]))]),
        ("both", vec![(severity, "INFORMATION".into()), (right, list(&["PERFORMANCE", "HINT"]))]),
    ];
    let (version, password) = (b.version, b.password.clone());
    let with_hello = |filter: &[(&'static str, Value)]| {
        let mut all = login(version, Neo4j::USER, &password);
        all[0] = hello_with(version, Some((Neo4j::USER, &password)), filter.iter().cloned());
        all
    };
    // The borrowed names are all constants.
    let filters: Vec<(&'static str, Vec<(&'static str, Value)>)> = filters;
    for (name, filter) in &filters {
        b.raw(
            format!("HELLO with filter {name}"),
            vec![
                with_hello(filter),
                vec![run(WARNS), pull_all(), run(HINTS), pull_all()],
                vec![begin(), run(WARNS), pull_all(), commit()],
            ],
        );
        let extra = map(filter.iter().cloned());
        b.add(
            format!("RUN with filter {name}"),
            vec![
                vec![run_with(WARNS, none(), extra.clone()), pull_all()],
                vec![reset(), run_with(HINTS, none(), extra), pull_all()],
            ],
        );
        b.add(
            format!("BEGIN with filter {name}"),
            vec![vec![begin_with(filter.iter().cloned()), run(WARNS), pull_all(), commit()]],
        );
        // A request that gives either key replaces both of HELLO's.
        b.raw(
            format!("HELLO with OFF, RUN with filter {name}"),
            vec![
                with_hello(&[(severity, "OFF".into())]),
                vec![run_with(WARNS, none(), map(filter.iter().cloned())), pull_all()],
                vec![reset(), begin_with(filter.iter().cloned()), run(WARNS), pull_all(), commit()],
            ],
        );
    }
    b.raw(
        "HELLO with OFF, RUN in a transaction with a filter",
        vec![
            with_hello(&[(severity, "OFF".into())]),
            vec![begin(), run_with(WARNS, none(), map([(right, list(&[]))])), pull_all(), commit()],
        ],
    );
}

fn plans(b: &mut Book) {
    b.add("EXPLAIN", vec![vec![run("EXPLAIN UNWIND [1, 2, 3] AS x RETURN x ORDER BY x"), pull_all()]]);
    b.add("EXPLAIN, discarded", vec![vec![run("EXPLAIN UNWIND [1, 2, 3] AS x RETURN x"), discard(-1)]]);
    b.add("PROFILE", vec![vec![run("PROFILE UNWIND [1, 2, 3] AS x RETURN x ORDER BY x"), pull_all()]]);
    b.add(
        "PROFILE in a transaction",
        vec![vec![begin(), run("PROFILE RETURN 1 AS x"), pull_all(), commit()]],
    );
}

fn extras(b: &mut Book) {
    let with = |extra: Value| vec![vec![run_with("RETURN 1 AS x", none(), extra), pull_all()]];
    b.add("db given", with(map([("db", "neo4j".into())])));
    b.add("db null", with(map([("db", Value::Null)])));
    b.add("db in capitals", with(map([("db", "NEO4J".into())])));
    b.add(
        "db given at BEGIN",
        vec![vec![begin_with([("db", "neo4j".into())]), run("RETURN 1"), pull_all(), commit()]],
    );
    b.add(
        "the system database",
        vec![vec![
            run_with("SHOW CURRENT USER YIELD user RETURN user", none(), map([("db", "system".into())])),
            pull_all(),
        ]],
    );
    b.add("mode r", with(map([("mode", "r".into())])));
    b.add("mode w", with(map([("mode", "w".into())])));
    b.add("an unknown key", with(map([("foo", 1.into())])));
    b.add("metadata", with(map([("tx_metadata", map([("app", "it".into()), ("n", 1.into())]))])));
    b.add("a time-out", with(map([("tx_timeout", 60_000.into())])));
    b.add("no bookmarks", with(map([("bookmarks", Value::List(vec![]))])));
    b.add(
        "metadata at BEGIN",
        vec![vec![
            begin_with([
                ("tx_metadata", map([("app", "it".into())])),
                ("tx_timeout", 60_000.into()),
                ("foo", 1.into()),
            ]),
            run_with("RETURN 1", none(), map([("db", "nope".into()), ("mode", "r".into())])),
            pull_all(),
            commit(),
        ]],
    );
}

fn new_types(b: &mut Book) {
    b.add(
        "a vector as result",
        vec![vec![run("CYPHER 25 RETURN vector([1, 2, 3], 3, FLOAT32) AS v"), pull_all()]],
    );
    b.add("vectors of every type as result", vec![vec![
        run("CYPHER 25 RETURN vector([1, 2], 2, INTEGER8), vector([1, 2], 2, INTEGER16), vector([1, 2], 2, INTEGER32), \
             vector([1, 2], 2, INTEGER), vector([1, 2], 2, FLOAT)"),
        pull_all(),
    ]]);
    b.add(
        "a UUID as result",
        vec![vec![run("CYPHER 25 RETURN uuid('5c1b8c6e-0d0d-4b52-9a15-7f8a0c7e7d11') AS u"), pull_all()]],
    );
    b.add("a UUID's type", vec![vec![run("CYPHER 25 RETURN valueType(uuid()) AS t"), pull_all()]]);
    let vector = Value::Struct(
        0x56,
        vec![Value::Bytes(vec![0xC6]), Value::Bytes(vec![0x3F, 0x80, 0, 0, 0x40, 0, 0, 0])],
    );
    b.add(
        "a vector as parameter",
        vec![vec![run_with("RETURN $p AS p", map([("p", vector)]), none()), pull_all()], vec![reset()]],
    );
    b.add(
        "a UUID as parameter",
        vec![
            vec![run_with("RETURN $p AS p", map([("p", Value::Uuid([7; 16]))]), none()), pull_all()],
            vec![reset()],
        ],
    );
    b.add(
        "a UUID as parameter in a transaction",
        vec![
            vec![
                begin(),
                run_with("RETURN $p AS p", map([("p", Value::Uuid([7; 16]))]), none()),
                pull_all(),
                commit(),
            ],
            vec![reset()],
        ],
    );
}

/// Parameters that the servers' decoders refuse, and what happens then.
fn bad_parameters(b: &mut Book) {
    let int = Value::Integer;
    let node = Value::Struct(0x4E, vec![int(1), Value::List(vec![]), none(), "1".into()]);
    let old = if b.from(5, 0) { 0x46 } else { 0x49 };
    let values: Vec<(&str, Value)> = vec![
        ("a node", node),
        ("a date-time of another version", Value::Struct(old, vec![int(1), int(2), int(3)])),
        ("an unknown struct", Value::Struct(0x01, vec![int(1)])),
        ("a struct with too few fields", Value::Struct(0x44, vec![])),
        ("an unsupported type", Value::Struct(0x3F, vec!["X".into(), int(1), int(2), none()])),
    ];
    let mut all: Vec<(String, Vec<u8>)> = values
        .into_iter()
        .map(|(name, value)| (name.to_owned(), run_with("RETURN $p AS p", map([("p", value)]), none())))
        .collect();
    let head = [&[0xB3, 0x10, 0x89][..], b"RETURN $p"].concat();
    let with = |parameters: &[u8]| raw(&[&head[..], parameters, &[0xA0]].concat());
    all.push(("a repeated key".to_owned(), with(&[0xA2, 0x81, b'p', 1, 0x81, b'p', 2])));
    all.push(("an unknown marker".to_owned(), with(&[0xA1, 0x81, b'p', 0xC4])));
    all.push(("a key that is a number".to_owned(), with(&[0xA1, 1, 1])));
    all.push(("a null key".to_owned(), with(&[0xA1, 0xC0, 1])));
    all.push(("parameters that are no map".to_owned(), with(&[0x90])));
    all.push(("a string that is not UTF-8".to_owned(), with(&[0xA1, 0x81, b'p', 0x82, 0xFF, 0xFE])));
    let fine = || vec![reset(), run("RETURN 1"), pull_all()];
    for (name, bad) in all {
        b.add(format!("parameter: {name}, then PULL at once"), vec![vec![bad.clone(), pull_all()], fine()]);
        b.add(
            format!("parameter: {name}, then RUN"),
            vec![vec![bad.clone()], vec![run("RETURN 1"), pull_all()], fine()],
        );
        b.add(format!("parameter: {name}, then RESET"), vec![vec![bad.clone()], fine()]);
        b.add(
            format!("parameter: {name}, in a transaction"),
            vec![vec![begin(), bad.clone()], vec![run("RETURN 2"), pull_all()], vec![rollback()], fine()],
        );
    }
}

/// Requests with wrong fields, at rest, in a transaction and in a failed session.
fn malformed(b: &mut Book) {
    let none = none;
    let shapes: Vec<(&str, Vec<u8>)> = vec![
        ("RUN with two fields", message(Tag::RUN, &["RETURN 1".into(), none()])),
        ("RUN with four fields", message(Tag::RUN, &["RETURN 1".into(), none(), none(), none()])),
        ("RUN without fields", message(Tag::RUN, &[])),
        ("RUN with a number for text", message(Tag::RUN, &[1.into(), none(), none()])),
        ("RUN with a list for extra", message(Tag::RUN, &["RETURN 1".into(), none(), Value::List(vec![])])),
        ("RUN with a bad mode", run_with("RETURN 1", none(), map([("mode", "x".into())]))),
        ("RUN with a numeric mode", run_with("RETURN 1", none(), map([("mode", 1.into())]))),
        ("RUN with a numeric db", run_with("RETURN 1", none(), map([("db", 1.into())]))),
        (
            "RUN with bookmarks that are no list",
            run_with("RETURN 1", none(), map([("bookmarks", "x".into())])),
        ),
        ("RUN with metadata that is no map", run_with("RETURN 1", none(), map([("tx_metadata", 1.into())]))),
        ("RUN with a time-out that is text", run_with("RETURN 1", none(), map([("tx_timeout", "x".into())]))),
        ("RUN with a negative time-out", run_with("RETURN 1", none(), map([("tx_timeout", (-1).into())]))),
        ("RUN with text that is not UTF-8", raw(&[0xB3, 0x10, 0x82, 0xFF, 0xFE, 0xA0, 0xA0])),
        (
            "RUN with bytes behind it",
            raw(&[&[0xB3, 0x10, 0x88][..], b"RETURN 1", &[0xA0, 0xA0, 0x01]].concat()),
        ),
        ("RUN that ends inside its text", raw(&[0xB3, 0x10, 0x88, b'R'])),
        ("BEGIN without fields", message(Tag::BEGIN, &[])),
        ("BEGIN with a number", message(Tag::BEGIN, &[1.into()])),
        ("BEGIN with a bad mode", begin_with([("mode", "x".into())])),
        ("PULL of zero", pull(0)),
        ("PULL of minus two", pull(-2)),
        ("PULL without n", message(Tag::PULL, &[none()])),
        ("PULL without fields", message(Tag::PULL, &[])),
        ("PULL with text for n", message(Tag::PULL, &[map([("n", "x".into())])])),
        ("DISCARD of zero", discard(0)),
        ("COMMIT with a field", message(Tag::COMMIT, &[1.into()])),
        ("ROLLBACK with a field", message(Tag::ROLLBACK, &[1.into()])),
        ("RESET with a field", message(Tag::RESET, &[1.into()])),
        ("ROUTE with two fields", message(Tag::ROUTE, &[none(), Value::List(vec![])])),
        ("ROUTE with a number for context", message(Tag::ROUTE, &[1.into(), Value::List(vec![]), none()])),
        ("a string instead of a message", raw(&[0x81, b'x'])),
        ("a map instead of a message", raw(&[0xA0])),
        ("an unknown marker instead of a message", raw(&[0xC4])),
        ("a message without a signature", raw(&[0xB1])),
        ("a message with a hostile size", raw(&[0xB3, 0x10, 0xD2, 0x7F, 0xFF, 0xFF, 0xFF, b'x'])),
        (
            "a message with a hostile list",
            raw(&[0xB3, 0x10, 0x81, b'x', 0xA1, 0x81, b'p', 0xD6, 0x7F, 0xFF, 0xFF, 0xFF]),
        ),
    ];
    let fine = || vec![reset(), run("RETURN 1"), pull_all()];
    for (name, bad) in shapes {
        b.add(
            format!("malformed: {name}"),
            vec![vec![bad.clone()], vec![run("RETURN 1"), pull_all()], fine()],
        );
        b.add(format!("malformed: {name}, behind RUN"), vec![vec![run(NUMBERS)], vec![bad.clone()], fine()]);
        b.add(
            format!("malformed: {name}, in a transaction"),
            vec![vec![begin()], vec![bad.clone()], vec![run("RETURN 2"), pull_all()], fine()],
        );
        b.add(format!("malformed: {name}, after a failure"), vec![vec![run(BAD)], vec![bad], fine()]);
    }
    let version = b.version;
    let reauth = version.features().reauth;
    let mut hellos: Vec<(&str, Vec<u8>)> = vec![
        ("no user agent", message(Tag::HELLO, &[map([("scheme", "none".into())])])),
        ("a numeric user agent", message(Tag::HELLO, &[map([("user_agent", 1.into())])])),
        ("no field", message(Tag::HELLO, &[])),
        ("two fields", message(Tag::HELLO, &[none(), none()])),
        ("a number", message(Tag::HELLO, &[1.into()])),
    ];
    if version.features().bolt_agent {
        let agent =
            |agent: Value| message(Tag::HELLO, &[map([("user_agent", "it".into()), ("bolt_agent", agent)])]);
        hellos.push(("no bolt agent", message(Tag::HELLO, &[map([("user_agent", "it".into())])])));
        hellos.push(("a bolt agent that is text", agent("x".into())));
        hellos.push(("a bolt agent without product", agent(map([("platform", "x".into())]))));
        hellos.push(("a bolt agent with a number", agent(map([("product", 1.into())]))));
    }
    if reauth {
        hellos.push(("routing that is text", hello_with(version, None, [("routing", "x".into())])));
        hellos.push(("an unknown key", hello_with(version, None, [("zzz", 1.into())])));
    }
    for (name, bad) in hellos {
        b.raw(format!("HELLO with {name}"), vec![vec![bad]]);
    }
    let huge = hello_with(version, Some(("a", "b")), [("zzz", "x".repeat(9000).into())]);
    b.raw("HELLO that is too large", vec![vec![huge]]).probe = false;
}

fn framing(b: &mut Book) {
    let query = || [run(NUMBERS), pull(2), pull_all()];
    let chunked = |size| query().iter().flat_map(|wire| rechunk(wire, size)).collect::<Vec<u8>>();
    for size in [1, 2, 7] {
        let t = b.add(format!("chunks of {size}"), vec![]);
        t.bursts.push(Burst { bytes: chunked(size), answers: 3, bytewise: false });
    }
    let t = b.add("one byte at a time", vec![]);
    t.bursts.push(Burst { bytes: query().concat(), answers: 3, bytewise: true });
    let t = b.add("chunks of one byte, one byte at a time", vec![]);
    t.bursts.push(Burst { bytes: chunked(1), answers: 3, bytewise: true });
    let t = b.add("NOOPs between requests", vec![]);
    let bytes = query().iter().flat_map(|wire| [&[0, 0, 0, 0], &wire[..], &[0, 0]].concat()).collect();
    t.bursts.push(Burst { bytes, answers: 3, bytewise: false });
    let login = b.login();
    let count = login.len();
    let bytes: Vec<u8> = login.iter().flat_map(|wire| [&[0, 0][..], &rechunk(wire, 3)].concat()).collect();
    let t = b.raw("a login in small chunks with NOOPs", vec![]);
    t.bursts.push(Burst { bytes: bytes.clone(), answers: count, bytewise: false });
    t.bursts.push(Burst::of(vec![run("RETURN 1"), pull_all()]));
    let t = b.raw("a login one byte at a time", vec![]);
    t.bursts.push(Burst { bytes, answers: count, bytewise: true });
    t.bursts.push(Burst::of(vec![run("RETURN 1"), pull_all()]));
}

fn large(b: &mut Book) {
    let text = |size: usize| Value::from("0123456789abcdef".repeat(size / 16));
    let size = |bytes| run_with("RETURN size($p) AS size", map([("p", text(bytes))]), none());
    b.add("a parameter of 300 kB", vec![vec![size(300_000), pull_all()]]);
    b.add("a parameter of 3 MB", vec![vec![size(3_000_000), pull_all()], vec![run("RETURN 1"), pull_all()]]);
    b.add("a parameter of 3 MB in a transaction", vec![vec![begin(), size(3_000_000), pull_all(), commit()]]);
    b.add(
        "two parameters of 3 MB in a burst",
        vec![vec![size(3_000_000), pull_all(), size(3_000_000), pull_all()]],
    );
    b.add(
        "a parameter of 3 MB after a failure",
        vec![vec![run(BAD), size(3_000_000), pull_all()], vec![reset(), size(3_000_000), pull_all()]],
    );
    b.add(
        "a parameter of 3 MB in a statement that fails",
        vec![
            vec![run_with("RETURN size($p) + nonsense", map([("p", text(3_000_000))]), none()), pull_all()],
            vec![reset(), run("RETURN 1"), pull_all()],
        ],
    );
    b.add("a record of 3 MB", vec![vec![
        run("UNWIND range(1, 3) AS x RETURN x, reduce(s = '0123456789abcdef', i IN range(1, 17) | s + s) AS text"),
        pull_all(),
    ]]);
    b.add(
        "a parameter of 3 MB as result",
        vec![vec![run_with("RETURN $p AS p", map([("p", text(3_000_000))]), none()), pull_all()]],
    );
    b.add("many records", vec![vec![run("UNWIND range(1, 20000) AS x RETURN x, x * 0.5"), pull_all()]]);
    let (version, password) = (b.version, b.password.clone());
    let mut filtered = login(version, Neo4j::USER, &password);
    let off = [("notifications_minimum_severity", Value::from("OFF"))];
    filtered[0] = hello_with(version, Some((Neo4j::USER, &password)), off);
    let warns = run_with(WARNS, map([("p", text(3_000_000))]), none());
    b.raw(
        "a filter in HELLO and a parameter of 3 MB",
        vec![filtered, vec![warns, pull_all()], vec![run(WARNS), pull_all()]],
    );
}

fn goodbyes(b: &mut Book) {
    let password = b.password.clone();
    b.add("GOODBYE", vec![vec![goodbye()]]);
    b.add("GOODBYE with a request behind it", vec![vec![goodbye(), run("RETURN 1"), pull_all()]]);
    b.add("GOODBYE in a transaction", vec![vec![begin(), run("RETURN 1"), pull_all()], vec![goodbye()]])
        .race = true;
    b.add("GOODBYE in an open result", vec![vec![run(NUMBERS), pull(1)], vec![goodbye()]]).race = true;
    b.add("GOODBYE after a failure", vec![vec![run(BAD)], vec![goodbye()]]).race = true;
    b.raw("GOODBYE before HELLO", vec![vec![goodbye()]]);
    if b.version.features().reauth {
        b.raw("GOODBYE before LOGON", vec![vec![hello(b.version, Neo4j::USER, &password)], vec![goodbye()]]);
    }
    let create = b.create();
    b.writes("GOODBYE behind a query, in one burst", vec![vec![create, pull_all(), goodbye()]]).race = true;
}
