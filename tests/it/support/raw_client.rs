//! A Bolt client that sends exactly what a test says and shows exactly what comes back.

use std::io;
use std::net::SocketAddr;

use bolt_wire::chunk::{self, Found, MessageScanner};
use bolt_wire::packstream::{Value, Walker};
use bolt_wire::{Version, handshake};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::message::{self, pull_all, reset, run};
use super::wait::in_time;

/// One message from the server, or its end.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// SUCCESS with its metadata.
    Success(Value),
    /// RECORD with its values.
    Record(Vec<Value>),
    /// IGNORED.
    Ignored,
    /// FAILURE with its metadata.
    Failure(Value),
    /// Something else: its payload.
    Other(Vec<u8>),
    /// The server closed the connection.
    Closed,
}

impl Answer {
    fn read(payload: &[u8]) -> Self {
        let meta = || Value::decode(payload.get(2..).unwrap_or_default());
        let known = match payload {
            [0xB1, 0x70, ..] => meta().map(Self::Success),
            [0xB1, 0x7F, ..] => meta().map(Self::Failure),
            [0xB0, 0x7E] => Ok(Self::Ignored),
            [0xB1, 0x71, fields @ ..] => {
                let mut walker = Walker::new(fields);
                walker.list_header().and_then(|count| {
                    (0..count).map(|_| Value::read(&mut walker)).collect::<Result<_, _>>().map(Self::Record)
                })
            }
            _ => return Self::Other(payload.to_vec()),
        };
        known.unwrap_or_else(|_| Self::Other(payload.to_vec()))
    }

    /// The code of a FAILURE; empty for anything else.
    pub fn code(&self) -> &str {
        match self {
            Self::Failure(meta) => meta
                .get("neo4j_code")
                .or_else(|| meta.get("code"))
                .and_then(Value::as_str)
                .unwrap_or_default(),
            _ => "",
        }
    }

    /// The message of a FAILURE; empty for anything else.
    pub fn text(&self) -> &str {
        match self {
            Self::Failure(meta) => meta.get("message").and_then(Value::as_str).unwrap_or_default(),
            _ => "",
        }
    }

    /// SUCCESS's metadata.
    #[track_caller]
    pub fn success(&self) -> &Value {
        match self {
            Self::Success(meta) => meta,
            other => panic!("SUCCESS was expected, not {other:?}"),
        }
    }

    /// True for SUCCESS.
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Success(_))
    }

    /// True for a message that answers a request, and for the end.
    pub fn is_last(&self) -> bool {
        !matches!(self, Self::Record(_))
    }
}

/// A client's connection.
pub struct Client {
    stream: TcpStream,
    buf: BytesMut,
    version: Version,
    /// NOOPs that have come.
    pub noops: usize,
}

impl Client {
    /// A connection with exactly `version` negotiated.
    pub async fn connect(address: SocketAddr, version: Version) -> io::Result<Self> {
        let mut client = Self::dial(address).await?;
        client.version = version;
        client.send(&handshake::request_exactly(version)).await?;
        let mut answer = [0; 4];
        in_time("the handshake's answer", client.stream.read_exact(&mut answer)).await?;
        if answer != handshake::version_bytes(version) {
            return Err(io::Error::other(format!("{version} was answered with {answer:?}")));
        }
        Ok(client)
    }

    /// A connection without handshake.
    pub async fn dial(address: SocketAddr) -> io::Result<Self> {
        let stream = in_time("connecting", TcpStream::connect(address)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buf: BytesMut::new(), version: Version::V5_8, noops: 0 })
    }

    /// A logged-in connection.
    #[track_caller]
    pub fn login<'a>(
        address: SocketAddr,
        version: Version,
        user: &'a str,
        password: &'a str,
    ) -> impl Future<Output = Self> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let mut client = match Self::connect(address, version).await {
                Ok(client) => client,
                Err(error) => panic!("{caller}: connecting to {address}: {error}"),
            };
            for answer in client.ask(&message::login(version, user, password)).await {
                assert!(answer.is_success(), "{caller}: login of {user}: {answer:?}");
            }
            client
        }
    }

    /// Sends bytes.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        in_time("sending", self.stream.write_all(bytes)).await
    }

    /// Sends bytes in segments of one byte.
    pub async fn send_bytewise(&mut self, bytes: &[u8]) -> io::Result<()> {
        for byte in bytes {
            self.send(&[*byte]).await?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// The next message.
    pub async fn read(&mut self) -> Answer {
        in_time("an answer", self.next()).await
    }

    /// The next message, whenever it comes.
    pub async fn next(&mut self) -> Answer {
        let mut scanner = MessageScanner::default();
        loop {
            match scanner.scan(&self.buf) {
                Found::Noop => {
                    self.noops += 1;
                    self.buf.advance(2);
                }
                Found::Message(extent) => {
                    let mut scratch = BytesMut::new();
                    let answer = Answer::read(chunk::payload(&self.buf, extent, &mut scratch));
                    self.buf.advance(extent.wire);
                    return answer;
                }
                Found::Partial => match self.stream.read_buf(&mut self.buf).await {
                    Ok(0) | Err(_) => return Answer::Closed,
                    Ok(_) => {}
                },
            }
        }
    }

    /// Bytes as they come; empty at the end of the connection.
    pub async fn read_bytes(&mut self) -> Vec<u8> {
        if self.buf.is_empty() {
            let _ = in_time("bytes", self.stream.read_buf(&mut self.buf)).await;
        }
        self.buf.split().to_vec()
    }

    /// Sends requests at once and reads until each is answered or the connection ends; records are dropped.
    pub async fn ask(&mut self, requests: &[Vec<u8>]) -> Vec<Answer> {
        let answers = self.ask_all(requests).await;
        answers.into_iter().filter(Answer::is_last).collect()
    }

    /// Sends requests at once and reads until each is answered or the connection ends.
    pub async fn ask_all(&mut self, requests: &[Vec<u8>]) -> Vec<Answer> {
        // A server that closes early is seen while reading.
        let _ = self.send(&requests.concat()).await;
        self.read_answers(requests.len()).await
    }

    /// Reads until `count` requests are answered or the connection ends.
    pub async fn read_answers(&mut self, count: usize) -> Vec<Answer> {
        let (mut answers, mut last) = (Vec::new(), 0);
        while last < count {
            let answer = self.read().await;
            last += usize::from(answer.is_last());
            let closed = answer == Answer::Closed;
            answers.push(answer);
            if closed {
                break;
            }
        }
        answers
    }

    /// One request, one answer.
    pub async fn one(&mut self, request: Vec<u8>) -> Answer {
        self.ask(&[request]).await.pop().unwrap()
    }

    /// The rows of an auto-commit statement, or the FAILURE or end that came instead; a FAILURE is followed by RESET.
    pub async fn query(&mut self, text: &str) -> Result<Vec<Vec<Value>>, Answer> {
        self.query_with(run(text)).await
    }

    /// The same with a RUN of the caller's.
    pub async fn query_with(&mut self, run: Vec<u8>) -> Result<Vec<Vec<Value>>, Answer> {
        let answers = self.ask_all(&[run, pull_all()]).await;
        let mut rows = Vec::new();
        for answer in answers {
            match answer {
                Answer::Record(row) => rows.push(row),
                Answer::Success(_) => {}
                Answer::Failure(_) => {
                    let reset = self.one(reset()).await;
                    assert!(matches!(reset, Answer::Success(_) | Answer::Closed), "RESET: {reset:?}");
                    return Err(answer);
                }
                other => return Err(other),
            }
        }
        Ok(rows)
    }

    /// The first value of the first row of an auto-commit statement.
    #[track_caller]
    pub fn value<'a>(&'a mut self, text: &'a str) -> impl Future<Output = Value> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            match self.query(text).await {
                Ok(rows) => rows.into_iter().flatten().next().unwrap_or(Value::Null),
                Err(answer) => panic!("{caller}: {text}: {answer:?}"),
            }
        }
    }

    /// True if the server has closed: nothing more comes but the end.
    pub async fn is_closed(&mut self) -> bool {
        self.read().await == Answer::Closed
    }

    /// Ends without GOODBYE, with a TCP reset instead of FIN.
    pub fn abort(self) {
        let _ = self.stream.set_zero_linger();
    }

    /// Sends FIN and keeps reading.
    pub async fn half_close(&mut self) {
        let _ = self.stream.shutdown().await;
    }
}

/// What `answers` are, in one word each.
pub fn kinds(answers: &[Answer]) -> Vec<&'static str> {
    let kind = |answer: &Answer| match answer {
        Answer::Success(_) => "SUCCESS",
        Answer::Record(_) => "RECORD",
        Answer::Ignored => "IGNORED",
        Answer::Failure(_) => "FAILURE",
        Answer::Other(_) => "OTHER",
        Answer::Closed => "closed",
    };
    answers.iter().map(kind).collect()
}
