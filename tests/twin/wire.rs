//! One client's connection: bursts of requests and their whole answers, as they came.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bolt_wire::packstream::Value;
use bolt_wire::{Tag, Version};
use sidebolt::bolt_client::{Auth, BoltClient, Choose, ClientError, Message, Options};

use crate::plan::{Ask, Extra};
use crate::wrong::Wrong;

/// Whom to talk to.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// The password of the user `neo4j`.
    pub(crate) password: String,
    /// How answers are to be falsified: to see that it is found.
    pub(crate) wrong: Option<Arc<Wrong>>,
}

/// The whole answer to one request.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    /// What was asked for.
    pub(crate) tag: Tag,
    /// The rows.
    pub(crate) records: Vec<Vec<Value>>,
    /// What came at the end.
    pub(crate) end: Message,
}

impl Reply {
    /// The metadata of a SUCCESS.
    pub(crate) fn success(&self) -> Option<&Value> {
        match &self.end {
            Message::Success(meta) => Some(meta),
            _ => None,
        }
    }

    /// The code of a FAILURE.
    pub(crate) fn code(&self) -> Option<&str> {
        match &self.end {
            Message::Failure(meta) => meta.get("neo4j_code").or_else(|| meta.get("code"))?.as_str(),
            _ => None,
        }
    }
}

/// Why a burst has no whole answer.
#[derive(Debug)]
pub(crate) struct Broken {
    /// What was answered before.
    pub(crate) replies: Vec<Reply>,
    /// In a word: `closed`, `refused` or `hangs`.
    pub(crate) why: &'static str,
    /// In more words.
    pub(crate) error: ClientError,
}

/// A connection that is logged in.
#[derive(Debug)]
pub(crate) struct Connection {
    client: BoltClient,
    wrong: Option<Arc<Wrong>>,
    /// The newest bookmark that came.
    pub(crate) bookmark: Option<Value>,
    telemetry: bool,
}

/// No answer takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

impl Connection {
    /// Connects and logs in.
    pub(crate) async fn open(endpoint: &Endpoint, version: Version) -> Result<Self, ClientError> {
        let options = Options {
            version: Choose::FromManifest(version),
            auth: Auth::basic("neo4j", &endpoint.password),
            user_agent: "twin/1".to_owned(),
            timeout: PATIENCE,
            ..Options::default()
        };
        let classic = Options { version: Choose::Exactly(version), ..options.clone() };
        let options = if version < Version::new(5, 7) { classic } else { options };
        let client = BoltClient::connect(&endpoint.address.to_string(), options).await?;
        let hint = client.hello().get("hints").and_then(|hints| hints.get("telemetry.enabled"));
        let telemetry = version.features().telemetry && hint == Some(&Value::Boolean(true));
        Ok(Self { client, wrong: endpoint.wrong.clone(), bookmark: None, telemetry })
    }

    /// Sends all requests at once and waits for all answers.
    pub(crate) async fn ask(&mut self, asks: &[Ask]) -> Result<Vec<Reply>, Broken> {
        match self.wrong.clone() {
            Some(wrong) => wrong.ask(self, asks).await,
            None => self.ask_honestly(asks).await,
        }
    }

    /// `ask`, and nothing falsified.
    pub(crate) async fn ask_honestly(&mut self, asks: &[Ask]) -> Result<Vec<Reply>, Broken> {
        let mut replies = Vec::with_capacity(asks.len());
        let tags: Vec<Tag> = asks.iter().filter_map(|ask| self.put(ask)).collect();
        let mut failed = self.client.flush().await.err();
        for tag in tags {
            if failed.is_some() {
                break;
            }
            match self.reply(tag).await {
                Ok(reply) => replies.push(reply),
                Err(error) => failed = Some(error),
            }
        }
        let Some(error) = failed else {
            // Drivers may be asked for TELEMETRY by the proxy alone; its answer says nothing.
            replies.retain(|reply| reply.tag != Tag::TELEMETRY || reply.success().is_none());
            return Ok(replies);
        };
        let why = match error {
            ClientError::Timeout { .. } => "hangs",
            ClientError::Io { .. } | ClientError::Closed { .. } => "closed",
            _ => "nonsense",
        };
        Err(Broken { replies, why, error })
    }

    fn put(&mut self, ask: &Ask) -> Option<Tag> {
        let (tag, fields) = match ask {
            Ask::Run(text, parameters, extra) => {
                (Tag::RUN, vec![text.as_str().into(), parameters.clone(), self.extra(extra)])
            }
            Ask::Pull(n) => (Tag::PULL, vec![Value::map([("n", Value::Integer(*n))])]),
            Ask::Discard(n) => (Tag::DISCARD, vec![Value::map([("n", Value::Integer(*n))])]),
            Ask::Begin(extra) => (Tag::BEGIN, vec![self.extra(extra)]),
            Ask::Commit => (Tag::COMMIT, Vec::new()),
            Ask::Rollback => (Tag::ROLLBACK, Vec::new()),
            Ask::Reset => (Tag::RESET, Vec::new()),
            Ask::Telemetry(_) if !self.telemetry => return None,
            Ask::Telemetry(api) => (Tag::TELEMETRY, vec![Value::Integer(*api)]),
        };
        self.client.send(tag, &fields);
        Some(tag)
    }

    fn extra(&self, extra: &Extra) -> Value {
        let mut entries = extra.entries.clone();
        if let (true, Some(bookmark)) = (extra.bookmarked, &self.bookmark)
            && !entries.iter().any(|(name, _)| name == "bookmarks")
        {
            entries.push(("bookmarks".to_owned(), Value::List(vec![bookmark.clone()])));
        }
        Value::Map(entries)
    }

    async fn reply(&mut self, tag: Tag) -> Result<Reply, ClientError> {
        let mut records = Vec::new();
        loop {
            match self.client.receive().await? {
                Message::Record(values) => records.push(values),
                end => {
                    let reply = Reply { tag, records, end };
                    if let Some(bookmark) = reply.success().and_then(|meta| meta.get("bookmark")) {
                        self.bookmark = Some(bookmark.clone());
                    }
                    return Ok(reply);
                }
            }
        }
    }
}
