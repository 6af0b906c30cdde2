//! A small Bolt client: for health checks, the demo's self-check and tests. Never on the relay path.
//!
//! One connection, one request at a time (or raw messages), and a deadline for every wait.

mod message;
mod options;

use std::future::Future;
use std::time::Duration;

use bolt_wire::chunk::{self, Found, MessageScanner};
use bolt_wire::handshake;
use bolt_wire::packstream::{Value, value};
use bolt_wire::{Tag, Version};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

pub use self::message::{Answer, ClientError, Message};
pub use self::options::{Auth, Choose, Options};

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

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    fn options(version: Choose) -> Options {
        Options { version, timeout: Duration::from_millis(300), ..Options::default() }
    }

    fn reply(tag: Tag, fields: &[Value]) -> Vec<u8> {
        let mut out = BytesMut::new();
        value::put_message(tag.0, fields, &mut out);
        out.to_vec()
    }

    fn success() -> Vec<u8> {
        reply(Tag::SUCCESS, &[Value::Map(Vec::new())])
    }

    fn failure() -> Vec<u8> {
        let code = Value::map([("neo4j_code", "Neo.ClientError.Statement.SyntaxError".into())]);
        reply(Tag::FAILURE, &[code])
    }

    /// A client on Bolt 5.8 whose peer says `replies`, all at once, and then nothing or the end.
    async fn against(replies: &[Vec<u8>], ends: bool) -> (BoltClient<DuplexStream>, DuplexStream) {
        let (near, mut far) = duplex(1 << 20);
        far.write_all(&handshake::version_bytes(Version::V5_8)).await.unwrap();
        for reply in [success(), success()].iter().chain(replies) {
            far.write_all(reply).await.unwrap();
        }
        let client = BoltClient::over(near, options(Choose::Exactly(Version::V5_8))).await.unwrap();
        if ends {
            far.shutdown().await.unwrap();
        }
        (client, far)
    }

    #[tokio::test]
    async fn a_failure_is_told_and_the_connection_goes_on() {
        let fields = Value::map([("fields", Value::List(vec!["x".into()]))]);
        let row = reply(Tag::RECORD, &[Value::List(vec![Value::Integer(1)])]);
        let noop = vec![0, 0];
        let replies = [
            failure(),
            reply(Tag::IGNORED, &[]),
            success(),
            reply(Tag::SUCCESS, &[fields]),
            row.clone(),
            noop,
            row,
            success(),
        ];
        let (mut client, _far) = against(&replies, false).await;
        let error = client.query("RETRUN 1").await.unwrap_err();
        assert_eq!(error.code(), Some("Neo.ClientError.Statement.SyntaxError"));
        let answer = client.query("UNWIND [1, 1] AS x RETURN x").await.unwrap();
        assert_eq!((answer.keys.len(), answer.records.len()), (1, 2));
    }

    #[tokio::test]
    async fn a_wait_that_was_given_up_makes_the_connection_useless() {
        let (mut client, _far) = against(&[], false).await;
        assert!(matches!(client.query("RETURN 1").await, Err(ClientError::Timeout { .. })));
        assert!(matches!(client.query("RETURN 1").await, Err(ClientError::OutOfStep)));
        let (mut client, _far) = against(&[success()], true).await;
        assert!(matches!(client.query("RETURN 1").await, Err(ClientError::Closed { .. })));
        assert!(matches!(client.reset().await, Err(ClientError::OutOfStep)));
        // The FAILURE is told even if the RESET behind it gets no answer.
        let (mut client, _far) = against(&[failure()], true).await;
        assert!(matches!(client.begin(Value::Map(Vec::new())).await, Err(ClientError::Failure { .. })));
        assert!(matches!(client.reset().await, Err(ClientError::OutOfStep)));
    }

    #[tokio::test]
    async fn too_large_an_answer_is_refused() {
        let row = reply(Tag::RECORD, &[Value::List(vec!["x".repeat(1000).into()])]);
        let (mut client, _far) = against(&[success(), row.clone(), row, success()], false).await;
        client.max_answer = 1500;
        assert!(matches!(client.query("RETURN 1").await, Err(ClientError::TooLarge(1500))));
        assert!(matches!(client.reset().await, Err(ClientError::OutOfStep)));
    }

    #[tokio::test]
    async fn what_is_no_bolt_server_is_named() {
        for (bytes, words) in
            [(&b"HTTP/1.1 400"[..], "HTTP port"), (&[0, 0, 0, 0][..], "none of the requested")]
        {
            let (near, mut far) = duplex(1024);
            far.write_all(bytes).await.unwrap();
            let error = BoltClient::over(near, options(Choose::Newest)).await.unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
        let hidden = format!("{:?}", Options { auth: Auth::basic("neo4j", "secret"), ..Options::default() });
        assert!(!hidden.contains("secret"), "{hidden}");
    }
}
