//! A small Bolt client: for health checks, the demo's self-check and tests. Never on the relay path.
//!
//! One connection, one request at a time (or raw messages), and a deadline for every wait.

use std::future::Future;
use std::time::Duration;

use bolt_wire::chunk::{self, Found, MessageScanner};
use bolt_wire::handshake;
use bolt_wire::message::request;
use bolt_wire::packstream::{Value, value};
use bolt_wire::{DecodeError, Tag, Version};
use bytes::{Buf, BytesMut};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// How to connect.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which version to speak.
    pub version: Choose,
    /// Whom to log in as.
    pub auth: Auth,
    /// The routing context for HELLO; `None` = no server-side routing (`bolt://`).
    pub routing: Option<Value>,
    /// More entries for HELLO (notification filters, patches), put after the client's own.
    pub hello: Vec<(String, Value)>,
    /// What the server's logs will show.
    pub user_agent: String,
    /// Longest time for connecting (with login), and again for each request with its whole answer.
    pub timeout: Duration,
    /// Largest answer in bytes, all its records together.
    pub max_answer: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            version: Choose::Newest,
            auth: Auth::None,
            routing: None,
            hello: Vec::new(),
            user_agent: concat!("sidebolt/", env!("CARGO_PKG_VERSION")).to_owned(),
            timeout: Duration::from_secs(10),
            max_answer: 64 << 20,
        }
    }
}

/// Which version to ask for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Choose {
    /// Manifest handshake, and the newest version that both sides speak.
    Newest,
    /// Classic handshake for exactly this version.
    Exactly(Version),
    /// Manifest handshake, and exactly this version out of it.
    FromManifest(Version),
}

/// Credentials.
#[derive(Clone, Eq, PartialEq)]
pub enum Auth {
    /// Scheme `none`.
    None,
    /// Scheme `basic`.
    Basic {
        /// The user.
        principal: String,
        /// The password.
        credentials: String,
    },
    /// Scheme `bearer`.
    Bearer(String),
    /// Do not log in at all: the connection stays as the handshake left it (from 5.1: after HELLO).
    Later,
}

impl Auth {
    /// Scheme `basic`.
    pub fn basic(principal: impl Into<String>, credentials: impl Into<String>) -> Self {
        Self::Basic { principal: principal.into(), credentials: credentials.into() }
    }

    fn entries(&self) -> Vec<(String, Value)> {
        let entry = |key: &str, value: &str| (key.to_owned(), Value::from(value));
        match self {
            Self::None => vec![entry("scheme", "none")],
            Self::Basic { principal, credentials } => {
                vec![
                    entry("scheme", "basic"),
                    entry("principal", principal),
                    entry("credentials", credentials),
                ]
            }
            Self::Bearer(token) => vec![entry("scheme", "bearer"), entry("credentials", token)],
            Self::Later => Vec::new(),
        }
    }
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Basic { .. } => "Basic(hidden)",
            Self::Bearer(_) => "Bearer(hidden)",
            Self::Later => "Later",
        })
    }
}

/// Why a request has no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The network failed.
    #[error("{action}: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// The server took too long.
    #[error("no answer within {after:?} ({action})")]
    Timeout {
        /// What was being done.
        action: &'static str,
        /// The limit.
        after: Duration,
    },
    /// The server closed the connection.
    #[error("the server closed the connection ({action})")]
    Closed {
        /// What was being done.
        action: &'static str,
    },
    /// No version in common, or not a Bolt server.
    #[error("handshake: {0}")]
    Handshake(String),
    /// Bytes that are no Bolt message.
    #[error("the server sent bytes that are no Bolt message: {0}")]
    Decode(#[from] DecodeError),
    /// The server said no.
    #[error("{code}: {message}")]
    Failure {
        /// The Neo4j status code.
        code: String,
        /// The server's words.
        message: String,
        /// The whole metadata.
        meta: Value,
    },
    /// The answer is larger than `Options::max_answer`.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// A message that does not belong here.
    #[error("unexpected {0} from the server")]
    Unexpected(&'static str),
    /// An earlier wait was given up, so answers can no longer be told apart.
    #[error("the connection is out of step after an earlier error; connect again")]
    OutOfStep,
}

impl ClientError {
    /// The Neo4j status code, if the server sent one.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Failure { code, .. } => Some(code),
            _ => None,
        }
    }
}

/// One message from the server.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// SUCCESS with its metadata.
    Success(Value),
    /// FAILURE with its metadata.
    Failure(Value),
    /// IGNORED.
    Ignored,
    /// One row.
    Record(Vec<Value>),
}

impl Message {
    /// The metadata of SUCCESS; every other message as an error.
    pub fn success(self) -> Result<Value, ClientError> {
        match self {
            Self::Success(meta) => Ok(meta),
            Self::Failure(meta) => {
                let text = |key| meta.get(key).and_then(Value::as_str).map(str::to_owned);
                let code = text("neo4j_code").or_else(|| text("code")).unwrap_or_default();
                Err(ClientError::Failure { code, message: text("message").unwrap_or_default(), meta })
            }
            Self::Ignored => Err(ClientError::Unexpected("IGNORED")),
            Self::Record(_) => Err(ClientError::Unexpected("RECORD")),
        }
    }

    fn read(payload: &[u8]) -> Result<Self, ClientError> {
        let (tag, fields, mut walker) = request::open(payload)?;
        let first = if fields == 0 { Value::Map(Vec::new()) } else { Value::read(&mut walker)? };
        Ok(match (tag, first) {
            (Tag::SUCCESS, meta) => Self::Success(meta),
            (Tag::FAILURE, meta) => Self::Failure(meta),
            (Tag::IGNORED, _) => Self::Ignored,
            (Tag::RECORD, Value::List(values)) => Self::Record(values),
            (tag, _) => return Err(ClientError::Unexpected(tag.name().unwrap_or("message"))),
        })
    }
}

/// The whole answer to a statement.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The columns' names.
    pub keys: Vec<String>,
    /// The rows.
    pub records: Vec<Vec<Value>>,
    /// Metadata of RUN's SUCCESS.
    pub run: Value,
    /// Metadata of the last SUCCESS.
    pub summary: Value,
}

impl Answer {
    /// The value in the first row's column `key`.
    pub fn value(&self, key: &str) -> Option<&Value> {
        let column = self.keys.iter().position(|k| k == key)?;
        self.records.first()?.get(column)
    }

    /// A write counter by its wire name (`nodes-created`); 0 if the server did not name it.
    pub fn counter(&self, name: &str) -> i64 {
        self.summary.get("stats").and_then(|s| s.get(name)).and_then(Value::as_integer).unwrap_or(0)
    }
}

/// One connection. After a FAILURE it has been RESET, so it can be used on.
#[derive(Debug)]
pub struct BoltClient<S = TcpStream> {
    stream: S,
    version: Version,
    hello: Value,
    timeout: Duration,
    max_answer: usize,
    scanner: MessageScanner,
    input: BytesMut,
    output: BytesMut,
    /// False while an answer is due, and for good if a wait was given up or the network failed.
    in_step: bool,
    /// True if the connection could not be brought back after a FAILURE.
    lost: bool,
}

impl BoltClient {
    /// Connects to `host:port`, shakes hands and logs in.
    pub async fn connect(address: &str, options: Options) -> Result<Self, ClientError> {
        let deadline = Instant::now() + options.timeout;
        let connected = within(deadline, options.timeout, "connecting", TcpStream::connect(address)).await?;
        let stream = connected.map_err(|source| ClientError::Io { action: "connecting", source })?;
        stream.set_nodelay(true).map_err(|source| ClientError::Io { action: "connecting", source })?;
        Self::over(stream, options).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> BoltClient<S> {
    /// Shakes hands and logs in over a stream that is connected already (TLS, a pipe).
    pub async fn over(stream: S, options: Options) -> Result<Self, ClientError> {
        let mut client = Self {
            stream,
            version: Version::V4_4,
            hello: Value::Null,
            timeout: options.timeout,
            max_answer: options.max_answer,
            scanner: MessageScanner::default(),
            input: BytesMut::new(),
            output: BytesMut::new(),
            in_step: true,
            lost: false,
        };
        let deadline = Instant::now() + options.timeout;
        within(deadline, options.timeout, "handshake and login", client.open(&options)).await??;
        Ok(client)
    }

    /// The negotiated version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Metadata of HELLO's SUCCESS (server, connection_id, hints).
    pub fn hello(&self) -> &Value {
        &self.hello
    }

    /// Runs a statement and fetches all its rows; in a transaction if one is open.
    pub async fn run(&mut self, text: &str, params: Value, extra: Value) -> Result<Answer, ClientError> {
        self.timed("running a statement", async |client: &mut Self| {
            client.send(Tag::RUN, &[text.into(), params, extra]);
            client.send(Tag::PULL, &[Value::map([("n", Value::Integer(-1))])]);
            client.flush().await?;
            let run = client.answer_of(1).await?;
            let (records, summary) = client.records().await?;
            let keys = run.get("fields").and_then(Value::as_list).unwrap_or_default();
            let keys = keys.iter().filter_map(|key| key.as_str().map(str::to_owned)).collect();
            Ok(Answer { keys, records, run, summary })
        })
        .await
    }

    /// `run` without parameters.
    pub async fn query(&mut self, text: &str) -> Result<Answer, ClientError> {
        self.run(text, Value::Map(Vec::new()), Value::Map(Vec::new())).await
    }

    /// Opens a transaction; `extra` is a map (`mode`, `db`, `bookmarks`, `tx_timeout`, …).
    pub async fn begin(&mut self, extra: Value) -> Result<Value, ClientError> {
        self.request("beginning a transaction", Tag::BEGIN, &[extra]).await
    }

    /// Commits the open transaction; gives the summary with its bookmark.
    pub async fn commit(&mut self) -> Result<Value, ClientError> {
        self.request("committing", Tag::COMMIT, &[]).await
    }

    /// Rolls the open transaction back.
    pub async fn rollback(&mut self) -> Result<Value, ClientError> {
        self.request("rolling back", Tag::ROLLBACK, &[]).await
    }

    /// Logs in (from 5.1), first or after `logoff`.
    pub async fn logon(&mut self, auth: &Auth) -> Result<Value, ClientError> {
        self.request("logging in", Tag::LOGON, &[Value::Map(auth.entries())]).await
    }

    /// Logs out (from 5.1).
    pub async fn logoff(&mut self) -> Result<Value, ClientError> {
        self.request("logging out", Tag::LOGOFF, &[]).await
    }

    /// Asks for the routing table.
    pub async fn route(&mut self, context: Value, extra: Value) -> Result<Value, ClientError> {
        self.request("asking for the routing table", Tag::ROUTE, &[context, Value::List(vec![]), extra]).await
    }

    /// Interrupts and cleans.
    pub async fn reset(&mut self) -> Result<(), ClientError> {
        self.timed("resetting", async |client: &mut Self| {
            client.send(Tag::RESET, &[]);
            client.flush().await?;
            client.receive_now().await?.success().map(drop)
        })
        .await
    }

    /// Says GOODBYE and closes. An error is of no consequence, the connection is gone either way.
    pub async fn close(mut self) {
        self.send(Tag::GOODBYE, &[]);
        let deadline = Instant::now() + self.timeout;
        let _ = timeout_at(deadline, async {
            let _ = self.stream.write_all(&self.output).await;
            let _ = self.stream.shutdown().await;
        })
        .await;
    }

    /// Puts a message into the output buffer; `flush` sends it.
    pub fn send(&mut self, tag: Tag, fields: &[Value]) {
        value::put_message(tag.0, fields, &mut self.output);
    }

    /// Puts bytes into the output buffer as they are; `flush` sends them.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    /// Sends what was put into the output buffer, within the time-out.
    pub async fn flush(&mut self) -> Result<(), ClientError> {
        let deadline = Instant::now() + self.timeout;
        let written = timeout_at(deadline, async {
            self.stream.write_all(&self.output).await?;
            self.stream.flush().await
        })
        .await;
        self.output.clear();
        match written {
            Ok(written) => written.map_err(|source| self.broken("sending", source)),
            Err(_) => {
                self.in_step = false;
                Err(ClientError::Timeout { action: "sending", after: self.timeout })
            }
        }
    }

    /// The next message, whatever it is, within the time-out.
    pub async fn receive(&mut self) -> Result<Message, ClientError> {
        let deadline = Instant::now() + self.timeout;
        within(deadline, self.timeout, "waiting for a message", self.receive_now()).await?
    }

    /// The stream and what was read but not used, for tests that go below messages.
    pub fn into_parts(self) -> (S, BytesMut) {
        (self.stream, self.input)
    }

    async fn open(&mut self, options: &Options) -> Result<(), ClientError> {
        self.shake_hands(options.version).await?;
        let features = self.version.features();
        let mut hello = vec![("user_agent".to_owned(), Value::from(options.user_agent.as_str()))];
        if features.bolt_agent {
            let agent = Value::map([("product", Value::from(options.user_agent.as_str()))]);
            hello.push(("bolt_agent".to_owned(), agent));
        }
        if let Some(routing) = &options.routing {
            hello.push(("routing".to_owned(), routing.clone()));
        }
        hello.extend(options.hello.iter().cloned());
        let log_in = options.auth != Auth::Later;
        if features.auth_in_hello {
            hello.extend(options.auth.entries());
        }
        self.send(Tag::HELLO, &[Value::Map(hello)]);
        if features.reauth && log_in {
            self.send(Tag::LOGON, &[Value::Map(options.auth.entries())]);
        }
        self.flush().await?;
        self.hello = self.receive_now().await?.success()?;
        if features.reauth && log_in {
            self.receive_now().await?.success()?;
        }
        Ok(())
    }

    async fn shake_hands(&mut self, choose: Choose) -> Result<(), ClientError> {
        let request = match choose {
            Choose::Exactly(version) => handshake::request_exactly(version),
            Choose::Newest | Choose::FromManifest(_) => handshake::request_manifest(),
        };
        self.send_raw(&request);
        self.flush().await?;
        let answer = loop {
            match self.input.first_chunk::<4>() {
                Some(answer) => break *answer,
                None => self.fill("shaking hands").await?,
            }
        };
        self.input.advance(4);
        if answer == handshake::MANIFEST_V1 {
            return self.choose_from_manifest(choose).await;
        }
        if &answer == b"HTTP" {
            return Err(ClientError::Handshake(
                "this is an HTTP port; use the server's Bolt port (Neo4j: 7687)".to_owned(),
            ));
        }
        let Some(version) = handshake::version_from_bytes(answer).filter(|v| v.is_known()) else {
            return Err(ClientError::Handshake(format!(
                "the server speaks none of the requested versions (it answered {answer:02x?})"
            )));
        };
        self.version = version;
        Ok(())
    }

    async fn choose_from_manifest(&mut self, choose: Choose) -> Result<(), ClientError> {
        let (offered, used) = loop {
            match handshake::read_manifest(&self.input)? {
                Some(manifest) => break manifest,
                None => self.fill("shaking hands").await?,
            }
        };
        self.input.advance(used);
        let wanted = match choose {
            Choose::Newest => offered.last().copied(),
            Choose::Exactly(version) | Choose::FromManifest(version) => {
                offered.contains(&version).then_some(version)
            }
        };
        let Some(version) = wanted else {
            return Err(ClientError::Handshake(format!("the server offers {offered:?}")));
        };
        self.version = version;
        let choice = handshake::version_bytes(version);
        self.send_raw(&choice);
        self.send_raw(&[0]);
        Ok(())
    }

    /// One request with a one-message answer.
    async fn request(
        &mut self,
        action: &'static str,
        tag: Tag,
        fields: &[Value],
    ) -> Result<Value, ClientError> {
        self.timed(action, async |client: &mut Self| {
            client.send(tag, fields);
            client.flush().await?;
            client.answer_of(0).await
        })
        .await
    }

    /// A SUCCESS; after a FAILURE reads the `followers` IGNORED and resets.
    async fn answer_of(&mut self, followers: usize) -> Result<Value, ClientError> {
        match self.receive_now().await?.success() {
            Ok(meta) => Ok(meta),
            Err(failure @ ClientError::Failure { .. }) => {
                self.recover(followers).await;
                Err(failure)
            }
            Err(other) => Err(other),
        }
    }

    async fn records(&mut self) -> Result<(Vec<Vec<Value>>, Value), ClientError> {
        let mut records = Vec::new();
        let mut left = self.max_answer;
        loop {
            let (message, size) = self.receive_sized().await?;
            left = left.checked_sub(size).ok_or(ClientError::TooLarge(self.max_answer))?;
            match message {
                Message::Record(values) => records.push(values),
                other => match other.success() {
                    Ok(meta) => return Ok((records, meta)),
                    Err(failure) => {
                        self.recover(0).await;
                        return Err(failure);
                    }
                },
            }
        }
    }

    /// Brings the connection back after a FAILURE. If that fails, the connection is out of step and says so at its next use.
    async fn recover(&mut self, followers: usize) {
        let recovered = async {
            self.send(Tag::RESET, &[]);
            self.flush().await?;
            for _ in 0..followers {
                self.receive_now().await?;
            }
            self.receive_now().await?.success().map(drop)
        };
        let recovered: Result<(), ClientError> = recovered.await;
        self.lost |= recovered.is_err();
    }

    async fn timed<T>(
        &mut self,
        action: &'static str,
        work: impl AsyncFnOnce(&mut Self) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        if !std::mem::replace(&mut self.in_step, false) {
            return Err(ClientError::OutOfStep);
        }
        let after = self.timeout;
        let result = within(Instant::now() + after, after, action, work(self)).await?;
        // Only a whole answer, good or bad, leaves the connection in step.
        self.in_step = matches!(result, Ok(_) | Err(ClientError::Failure { .. })) && !self.lost;
        result
    }

    async fn receive_now(&mut self) -> Result<Message, ClientError> {
        Ok(self.receive_sized().await?.0)
    }

    async fn receive_sized(&mut self) -> Result<(Message, usize), ClientError> {
        loop {
            match self.scanner.scan(&self.input) {
                Found::Noop => self.input.advance(2),
                Found::Message(extent) => {
                    let wire = self.input.split_to(extent.wire);
                    let message = Message::read(chunk::payload(&wire, extent, &mut BytesMut::new()))?;
                    return Ok((message, extent.wire));
                }
                Found::Partial if self.input.len() > self.max_answer => {
                    return Err(ClientError::TooLarge(self.max_answer));
                }
                Found::Partial => self.fill("waiting for an answer").await?,
            }
        }
    }

    async fn fill(&mut self, action: &'static str) -> Result<(), ClientError> {
        match self.stream.read_buf(&mut self.input).await {
            Ok(0) => Err(ClientError::Closed { action }),
            Ok(_) => Ok(()),
            Err(source) => Err(self.broken(action, source)),
        }
    }

    fn broken(&mut self, action: &'static str, source: std::io::Error) -> ClientError {
        self.in_step = false;
        ClientError::Io { action, source }
    }
}

async fn within<T>(
    deadline: Instant,
    after: Duration,
    action: &'static str,
    work: impl Future<Output = T>,
) -> Result<T, ClientError> {
    timeout_at(deadline, work).await.map_err(|_| ClientError::Timeout { action, after })
}
