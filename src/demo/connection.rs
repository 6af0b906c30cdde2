//! One client of the demo server: requests in order, each answered as Neo4j answers it.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use bolt_wire::message::{Failure, Outcome, request};
use bolt_wire::packstream::{Value, Walker, value};
use bolt_wire::server::{Server, State, Verdict};
use bolt_wire::{Tag, Version};
use tokio::net::TcpStream;

use super::answer::{self, DATABASE, Open};
use super::engine::{Desk, Rows};
use super::refusal::invalid_request;
use super::server::Common;
use super::statement;
use super::values;
use super::wire::Wire;

/// Drivers and tools read the number; people read the rest.
const SERVER: &str = "Neo4j/5.26.0-sidebolt-demo";

/// A client that has shaken hands.
pub(super) struct Connection {
    common: Arc<Common>,
    wire: Wire,
    machine: Server,
    number: u64,
    from_manifest: bool,
    utc: bool,
    desk: Desk,
    /// The open results: one of an auto-commit statement, or those of a transaction by qid.
    results: Vec<Open>,
    /// What BEGIN, or RUN outside a transaction, asked for.
    options: Options,
}

#[derive(Clone, Copy, Debug, Default)]
struct Options {
    read_only: bool,
    /// The client named no database, so from 5.8 it is told which one it got.
    unnamed: bool,
}

/// What a request came to.
enum Answer {
    Success(Value),
    /// FAILURE.
    Failure(Failure),
    /// Nothing more is answered: a RESET or the client's end has overtaken the request.
    Interrupted,
}

impl From<Result<Value, Failure>> for Answer {
    fn from(result: Result<Value, Failure>) -> Self {
        result.map_or_else(Self::Failure, Self::Success)
    }
}

impl Connection {
    /// Shakes hands and sees the client through its login. `None` = it came to nothing.
    pub(super) async fn open(
        stream: TcpStream,
        common: Arc<Common>,
        number: u64,
    ) -> io::Result<Option<Self>> {
        let mut wire = Wire::new(stream)?;
        let Some((version, from_manifest)) = wire.shake_hands(&Version::ALL).await? else { return Ok(None) };
        let desk = common.engine.desk();
        let machine = Server::new(version);
        let mut connection = Self {
            common,
            wire,
            machine,
            number,
            from_manifest,
            utc: version >= Version::V5_0,
            desk,
            results: Vec::new(),
            options: Options::default(),
        };
        while connection.machine.state() != State::Ready {
            let Some(message) = connection.wire.next().await? else { return Ok(None) };
            if !connection.handle(&message).await? {
                return Ok(None);
            }
        }
        connection.wire.logged_in();
        Ok(Some(connection))
    }

    /// Answers until the client goes.
    pub(super) async fn serve(mut self) -> io::Result<()> {
        while let Some(message) = self.wire.next().await? {
            if !self.handle(&message).await? {
                break;
            }
        }
        Ok(())
    }

    /// Handles one message; false = the connection is closed.
    async fn handle(&mut self, payload: &[u8]) -> io::Result<bool> {
        let Ok((tag, fields)) = read(payload) else {
            return self.refuse_and_close(invalid_request("The message cannot be decoded")).await;
        };
        let verdict = self.machine.judge(tag);
        // What stands before a RESET in the same burst is not run, nor judged.
        let logged_in = !matches!(self.machine.state(), State::Negotiation | State::Authentication);
        if self.wire.reset_is_ahead() && logged_in && verdict != Verdict::Close {
            self.put(Tag::IGNORED, &[]);
            return Ok(true);
        }
        match verdict {
            Verdict::Hello => return self.hello(fields.first()).await,
            Verdict::Logon => {
                self.machine.logged_on();
                self.wire.logged_in();
                let advertised = self.machine.version() >= Version::V5_8;
                let address = ("advertised_address", Value::from(self.common.address.to_string()));
                self.succeed(Value::map(advertised.then_some(address)));
            }
            Verdict::Logoff => {
                self.machine.logged_off();
                self.succeed(Value::map([]));
            }
            Verdict::Telemetry => match fields.first().and_then(Value::as_integer) {
                Some(0..=3) => self.succeed(Value::map([])),
                _ => {
                    self.machine.refused();
                    self.fail(&invalid_request("TELEMETRY names an API from 0 to 3"));
                }
            },
            Verdict::Interrupt => {
                self.clean();
                self.machine.forwarded(Tag::RESET);
                self.succeed(Value::map([]));
                self.machine.answered(Outcome::DONE);
            }
            Verdict::Reset => {
                self.machine.reset();
                self.succeed(Value::map([]));
            }
            Verdict::Start | Verdict::Continue if self.is_legal(tag) => {
                return self.exchange(tag, &fields).await;
            }
            Verdict::Ignore => self.put(Tag::IGNORED, &[]),
            Verdict::Close => {
                self.wire.close().await?;
                return Ok(false);
            }
            Verdict::Start | Verdict::Continue | Verdict::Illegal | Verdict::Wait => {
                let message = format!(
                    "Message {tag} cannot be handled by session in the {:?} state",
                    self.machine.state()
                );
                return self.refuse_and_close(invalid_request(message)).await;
            }
        }
        Ok(true)
    }

    /// In an exchange the machine leaves judging to Neo4j, which is us.
    fn is_legal(&self, tag: Tag) -> bool {
        match self.machine.state() {
            State::AutoCommit => matches!(tag, Tag::PULL | Tag::DISCARD),
            State::Transaction => {
                matches!(tag, Tag::RUN | Tag::PULL | Tag::DISCARD | Tag::COMMIT | Tag::ROLLBACK)
            }
            _ => true,
        }
    }

    async fn hello(&mut self, extra: Option<&Value>) -> io::Result<bool> {
        let extra = extra.cloned().unwrap_or(Value::Null);
        let features = self.machine.version().features();
        if extra.get("user_agent").is_none() || features.bolt_agent && extra.get("bolt_agent").is_none() {
            let message = "HELLO must have user_agent and, from Bolt 5.3, bolt_agent";
            return self.refuse_and_close(invalid_request(message)).await;
        }
        let mut meta = vec![
            ("server", Value::from(SERVER)),
            ("connection_id", Value::from(format!("bolt-{}", self.number))),
            ("hints", Value::map([])),
        ];
        if self.from_manifest {
            meta.push(("protocol_version", Value::from(self.machine.version().to_string())));
        }
        let patches = extra.get("patch_bolt").and_then(Value::as_list).unwrap_or_default();
        if features.utc_patch && patches.contains(&Value::from("utc")) {
            self.utc = true;
            meta.push(("patch_bolt", Value::List(vec!["utc".into()])));
        }
        self.machine.greeted();
        self.succeed(Value::map(meta));
        Ok(true)
    }

    /// A request of an exchange.
    async fn exchange(&mut self, tag: Tag, fields: &[Value]) -> io::Result<bool> {
        let in_transaction = self.machine.state() == State::Transaction;
        self.machine.forwarded(tag);
        let field = |at: usize| fields.get(at).unwrap_or(&Value::Null);
        let answer = match tag {
            Tag::RUN => self.run(field(0), field(1), field(2), in_transaction).await,
            Tag::BEGIN => self.begin(field(0)).map(|()| self.with_database(Vec::new())).into(),
            Tag::PULL | Tag::DISCARD => self.fetch(tag, field(0), in_transaction).await?,
            Tag::COMMIT => self.commit().await,
            Tag::ROLLBACK => {
                self.clean();
                Answer::Success(Value::map([]))
            }
            _ => Answer::Success(self.routing_table(field(0))),
        };
        let outcome = match answer {
            Answer::Success(meta) => {
                let has_more = meta.get("has_more").is_some();
                self.succeed(meta);
                Outcome::Success { has_more }
            }
            Answer::Failure(failure) => {
                self.clean();
                self.fail(&failure);
                Outcome::Failure
            }
            Answer::Interrupted => {
                self.clean();
                if !self.wire.reset_is_ahead() {
                    return Ok(false);
                }
                self.put(Tag::IGNORED, &[]);
                Outcome::Ignored
            }
        };
        self.machine.answered(outcome);
        Ok(true)
    }

    async fn run(&mut self, text: &Value, params: &Value, extra: &Value, in_transaction: bool) -> Answer {
        if !in_transaction && let Err(failure) = self.begin(extra) {
            return Answer::Failure(failure);
        }
        let started = Instant::now();
        let prepared = match statement::prepare(text.as_str().unwrap_or_default(), params) {
            Ok(prepared) => prepared,
            Err(failure) => return Answer::Failure(failure),
        };
        if prepared.kind.writes() && self.options.read_only {
            let message = "Writing in read access mode not allowed. Attempted write to neo4j";
            let code = "Neo.ClientError.Statement.AccessMode";
            return Answer::Failure(Failure::new(code, "08N03", message));
        }
        if in_transaction && matches!(prepared.kind, statement::Kind::Schema(_)) {
            return Answer::Failure(super::refusal::unsupported("a schema command inside a transaction"));
        }
        let rows = tokio::select! {
            biased;
            rows = self.desk.run(prepared) => rows,
            _ = self.wire.interrupted() => return Answer::Interrupted,
        };
        match rows {
            Ok(rows) => Answer::Success(self.opened(rows, started, in_transaction)),
            Err(failure) => Answer::Failure(failure),
        }
    }

    fn opened(&mut self, rows: Rows, started: Instant, in_transaction: bool) -> Value {
        let keys = rows.keys.iter().map(|key| Value::from(key.as_str())).collect::<Vec<_>>();
        let mut meta = vec![("t_first", answer::millis(started)), ("fields", Value::List(keys))];
        if in_transaction {
            meta.push(("qid", Value::Integer(i64::try_from(self.results.len()).unwrap_or(i64::MAX))));
        }
        self.results.push(Open::new(rows, started));
        if in_transaction { Value::map(meta) } else { self.with_database(meta) }
    }

    /// Checks what BEGIN, or RUN outside a transaction, asks for.
    fn begin(&mut self, extra: &Value) -> Result<(), Failure> {
        let database = extra.get("db").and_then(Value::as_str);
        if let Some(other) = database.filter(|name| *name != DATABASE) {
            let code = "Neo.ClientError.Database.DatabaseNotFound";
            let message = format!("Database does not exist. Database name: '{other}'.");
            return Err(Failure::new(code, "22N51", message));
        }
        if extra.get("imp_user").and_then(Value::as_str).is_some() {
            let code = "Neo.ClientError.Statement.ArgumentError";
            return Err(Failure::new(code, "50N42", "Impersonation is not supported in the demo graph"));
        }
        self.common.bookmarks.check(extra.get("bookmarks"), self.common.engine.newest_commit())?;
        let read_only = extra.get("mode").and_then(Value::as_str) == Some("r");
        self.options = Options { read_only, unnamed: database.is_none() };
        Ok(())
    }

    fn with_database(&self, mut meta: Vec<(&str, Value)>) -> Value {
        if self.options.unnamed && self.machine.version() >= Version::V5_8 {
            meta.push(("db", DATABASE.into()));
        }
        Value::map(meta)
    }

    async fn fetch(&mut self, tag: Tag, extra: &Value, in_transaction: bool) -> io::Result<Answer> {
        let asked = extra.get("n").and_then(Value::as_integer).unwrap_or(-1);
        if asked == 0 || asked < -1 {
            let message = format!("Expecting size to be at least 1 or -1, but was {asked}");
            return Ok(Answer::Failure(invalid_request(message)));
        }
        let qid = extra.get("qid").and_then(Value::as_integer).unwrap_or(-1);
        let newest = self.results.len().wrapping_sub(1);
        let at = if qid < 0 { newest } else { usize::try_from(qid).unwrap_or(usize::MAX) };
        let (version, utc) = (self.machine.version(), self.utc);
        let Some(open) = self.results.get_mut(at).filter(|open| !open.done) else {
            let code = "Neo.ClientError.Request.InvalidFormat";
            return Ok(Answer::Failure(Failure::new(code, "50N42", format!("No such statement: {qid}"))));
        };
        for row in open.take(asked).filter(|_| tag == Tag::PULL) {
            let row = row.into_iter().map(|value| values::for_version(value, version, utc)).collect();
            value::put_message(Tag::RECORD.0, &[Value::List(row)], &mut self.wire.output);
            self.wire.relieve().await?;
        }
        if open.has_more() {
            return Ok(Answer::Success(Value::map([("has_more", true.into())])));
        }
        open.done = true;
        Ok(self.finished(at, in_transaction).await)
    }

    /// The summary behind the last record. An auto-commit statement is committed before it.
    async fn finished(&mut self, at: usize, in_transaction: bool) -> Answer {
        let bookmark = match in_transaction {
            true => None,
            false => match self.desk.commit().await {
                Ok(commit) => Some(self.common.bookmarks.write(commit)),
                Err(failure) => return Answer::Failure(failure),
            },
        };
        let Some(open) = self.results.get_mut(at) else {
            return Answer::Failure(super::refusal::broken("a result is missing"));
        };
        let statuses = self.machine.version() >= Version::new(5, 6);
        let meta = open.summary(bookmark, statuses);
        if !in_transaction {
            self.results.clear();
        }
        Answer::Success(meta)
    }

    async fn commit(&mut self) -> Answer {
        self.results.clear();
        match self.desk.commit().await {
            Ok(commit) => {
                Answer::Success(Value::map([("bookmark", self.common.bookmarks.write(commit).into())]))
            }
            Err(failure) => Answer::Failure(failure),
        }
    }

    /// ROUTE: everything is where the client came to.
    fn routing_table(&self, context: &Value) -> Value {
        let address = context.get("address").and_then(Value::as_str).map(str::to_owned);
        answer::routing_table(&address.unwrap_or_else(|| self.common.address.to_string()))
    }

    /// Rolls back and forgets all open results.
    fn clean(&mut self) {
        self.desk.rollback();
        self.results.clear();
    }

    fn succeed(&mut self, meta: Value) {
        self.put(Tag::SUCCESS, &[meta]);
    }

    fn fail(&mut self, failure: &Failure) {
        failure.write(self.machine.version(), &mut self.wire.output);
    }

    fn put(&mut self, tag: Tag, fields: &[Value]) {
        value::put_message(tag.0, fields, &mut self.wire.output);
    }

    async fn refuse_and_close(&mut self, failure: Failure) -> io::Result<bool> {
        self.clean();
        self.fail(&failure);
        self.machine.close();
        self.wire.close().await?;
        Ok(false)
    }
}

fn read(payload: &[u8]) -> Result<(Tag, Vec<Value>), bolt_wire::DecodeError> {
    let (tag, fields, mut walker) = request::open(payload)?;
    let fields = (0..fields).map(|_| Value::read(&mut walker)).collect::<Result<Vec<_>, _>>()?;
    ended(&walker).map(|()| (tag, fields))
}

fn ended(walker: &Walker<'_>) -> Result<(), bolt_wire::DecodeError> {
    if walker.is_empty() { Ok(()) } else { Err(bolt_wire::DecodeError::TrailingBytes) }
}
