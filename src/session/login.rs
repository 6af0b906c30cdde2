//! From the Bolt magic to READY: version, HELLO, LOGON. Credentials are proved by Neo4j itself.

use std::future::poll_fn;
use std::sync::Arc;

use bolt_wire::chunk::{self, Extent, Found, MessageScanner};
use bolt_wire::handshake::{self, Choice};
use bolt_wire::message::request::only_map;
use bolt_wire::packstream::{MapEdit, MapView, Walker, encode};
use bolt_wire::server::{Server, State, Verdict};
use bolt_wire::{Tag, Version};
use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::filter::filter_keys;
use super::{Arrival, End, Exchange, Profile, Registration, Session, Shared, Step, again};
use crate::buffers::Inbox;
use crate::config::AuthMode;
use crate::failure::{self, Refusal};
use crate::transport::Transport;
use crate::upstream::{Access, ConnectError, Key, Principal};

/// Brings a client to READY.
pub(super) async fn log_in(
    shared: Arc<Shared>,
    arrival: Arrival,
    registration: Registration,
) -> Step<Session> {
    let Arrival { mut transport, local, since, .. } = arrival;
    let (handshake_timeout, login_timeout) = {
        let listen = &shared.config.load().listen;
        (listen.handshake_timeout, listen.login_timeout)
    };
    let deadline = since + handshake_timeout;
    let agreed = timeout_at(deadline, agree_on_version(&shared, &mut transport)).await;
    let (version, manifest, inbuf) = agreed.unwrap_or(Err(End::Login))?;
    let now = Instant::now();
    let mut session = Session {
        client: transport,
        inbuf: Inbox::new(inbuf),
        outbuf: BytesMut::new(),
        messages: MessageScanner::default(),
        machine: Server::new(version),
        manifest,
        profile: Box::default(),
        key: Arc::new(Key::plain(version)),
        principal: None,
        lease: None,
        greeted: None,
        telemetry: None,
        overtaken: 0,
        condemned: false,
        again: again::Again::default(),
        filling: None,
        writing: None,
        watch: super::watched::Watch::default(),
        reads: super::managed::Reads::default(),
        exchange: Exchange {
            tag: Tag::HELLO,
            asked: now,
            leased: now,
            failed: false,
            interrupted: false,
            watched: false,
            answered: false,
        },
        errand: None,
        spare: None,
        scratch: BytesMut::new(),
        held: None,
        guarded: super::guarded::Guarded::new(&shared),
        results: None,
        terms: super::gnn::Terms::default(),
        deferred: None,
        hints: super::hints::Hints::default(),
        api: None,
        lane: None,
        access: Access::default(),
        registration,
        local,
        tick: Box::pin(sleep_until(now)),
        last_heard: now,
        last_read: now,
        shared,
    };
    let logged_in = timeout(login_timeout, session.until_ready()).await.unwrap_or(Err(End::Login));
    match logged_in {
        Ok(()) => Ok(session),
        Err(end) => {
            session.finish(end).await;
            Err(end)
        }
    }
}

/// The Bolt version, whether the manifest chose it, and what the client sent behind it.
async fn agree_on_version(shared: &Shared, client: &mut Transport) -> Step<(Version, bool, BytesMut)> {
    let mut slots = [0; 16];
    client.read_exact(&mut slots).await.map_err(|_| End::ClientGone)?;
    let offered = shared.upstream.offered().await;
    let answer = async |client: &mut Transport, bytes: &[u8]| {
        client.write_all(bytes).await.map_err(|_| End::ClientGone)?;
        client.flush().await.map_err(|_| End::ClientGone)
    };
    let mut inbuf = shared.buffers.take();
    match handshake::choose(&slots, &offered) {
        Choice::Classic(version) => {
            answer(client, &handshake::version_bytes(version)).await?;
            Ok((version, false, inbuf))
        }
        Choice::Manifest => {
            handshake::write_manifest(&offered, &mut inbuf);
            answer(client, &inbuf).await?;
            inbuf.clear();
            loop {
                match handshake::read_manifest_choice(&inbuf, &offered) {
                    Ok(Some((version, used))) => {
                        inbuf.advance(used);
                        return Ok((version, true, inbuf));
                    }
                    Ok(None) => {}
                    Err(_) => return Err(End::Login),
                }
                if client.read_buf(&mut inbuf).await.map_err(|_| End::ClientGone)? == 0 {
                    return Err(End::ClientGone);
                }
            }
        }
        Choice::Nothing => {
            answer(client, &handshake::NO_VERSION).await?;
            let _ = client.shutdown().await;
            Err(End::Login)
        }
        Choice::Malformed => Err(End::Login),
    }
}

/// The hint that asks drivers which API a request comes from.
const TELEMETRY: &str = "telemetry.enabled";

impl Session {
    /// HELLO and LOGON, until nothing is missing.
    async fn until_ready(&mut self) -> Step {
        loop {
            while let Some(extent) = self.login_message()? {
                let wire = self.inbuf.split_to(extent.wire);
                let Some(tag) = chunk::peek_tag(&wire) else { return Err(End::Closed) };
                match self.machine.judge(tag) {
                    Verdict::Hello => self.hello(&wire, extent).await?,
                    Verdict::Logon => log_on(self, &wire, extent).await?,
                    Verdict::Close => return Err(End::Closed),
                    _ => {
                        self.refuse_illegal(tag);
                        return Err(End::Violation);
                    }
                }
                self.flush_client().await?;
                if self.machine.state() == State::Ready {
                    return Ok(());
                }
            }
            poll_fn(|cx| self.poll_client_or_end(cx)).await?;
        }
    }

    /// The next message before login, which must be small.
    fn login_message(&mut self) -> Step<Option<Extent>> {
        let limit = self.shared.config.load().listen.max_login_message;
        loop {
            let size = match self.messages.scan(&self.inbuf) {
                Found::Noop => {
                    self.inbuf.advance(2);
                    continue;
                }
                Found::Message(extent) if extent.payload <= limit => return Ok(Some(extent)),
                Found::Message(extent) => extent.payload,
                // A chunk that announces too much is refused before it has come.
                Found::Partial => match self.messages.announced(&self.inbuf) {
                    announced if announced > limit => announced,
                    _ => return Ok(None),
                },
            };
            let version = self.version();
            failure::write_too_large(size, limit, version, &mut self.outbuf);
            return Err(End::Violation);
        }
    }

    /// FAILURE for a message that is not allowed now; the caller closes.
    pub(super) fn refuse_illegal(&mut self, tag: Tag) {
        self.shared.metrics.violations.inc();
        let (state, version) = (self.machine.state(), self.version());
        if state == State::Failed {
            return failure::write_illegal_after_failure(
                tag,
                self.machine.failed_in(),
                version,
                &mut self.outbuf,
            );
        }
        let server = self.server_agent();
        failure::write_illegal(tag, state, version, &server, &mut self.outbuf);
    }

    /// `Neo4j/5.26.30` and the like; empty before any connection was made.
    fn server_agent(&self) -> String {
        let greeting = self.shared.upstream.greeting(&self.key);
        let meta = greeting.as_deref().and_then(|meta| MapView::parse(meta).ok()).unwrap_or(MapView::EMPTY);
        meta.string("server").unwrap_or_default().to_owned()
    }

    async fn hello(&mut self, wire: &[u8], extent: Extent) -> Step {
        let mut scratch = BytesMut::new();
        let payload = chunk::payload(wire, extent, &mut scratch);
        let version = self.version();
        let hello = only_map(payload).ok();
        if !hello.is_some_and(|hello| is_usual(&hello, version)) {
            self.hear_neo4j(wire, hello.is_some()).await?;
        }
        let hello = hello.unwrap_or(MapView::EMPTY);
        let routing = hello.map("routing");
        *self.profile = profile(&hello, version);
        self.registration.set_application(&self.profile.application);
        let features = version.features();
        let principal = if features.auth_in_hello { Some(self.admit(&hello)?) } else { None };
        self.key = Arc::new(Key {
            version,
            utc: features.utc_patch && asks_for_utc(&hello),
            routing: self.shared.upstream.routing_context(routing.map(|context| without_address(&context))),
            filter: None,
            principal: principal.as_ref().map(|principal| principal.account),
        });
        let ttl = self.shared.config.load().auth.cache_ttl;
        let believed = principal.as_ref().is_none_or(|principal| principal.is_proved(ttl));
        if !believed || self.shared.upstream.greeting(&self.key).is_none() {
            let lease = self.shared.upstream.fresh(&self.key, principal.as_ref()).await;
            let lease = lease.map_err(|error| self.refuse_login(&error))?;
            if features.auth_in_hello {
                drop(lease);
            } else {
                self.greeted = Some(Box::new(lease));
            }
        }
        if let Some(principal) = &principal {
            self.count_login(if believed { "believed" } else { "proved" });
            self.principal = Some(Arc::clone(principal));
            self.registration.set_who(Some(principal));
        }
        self.put_greeting();
        self.machine.greeted();
        Ok(())
    }

    /// A HELLO that is unlike those of drivers: Neo4j itself is asked, and unless it accepts, its words are the client's.
    async fn hear_neo4j(&mut self, hello: &[u8], readable: bool) -> Step {
        if self.shared.config.load().auth.mode == AuthMode::Service {
            // Credentials in it would be the proxy's token, which is none of Neo4j's business.
            return if readable { Ok(()) } else { Err(End::Violation) };
        }
        let version = self.version();
        match self.shared.upstream.greet(version, hello).await.map_err(|error| self.refuse_login(&error))? {
            Some(payload) if payload.get(1) == Some(&Tag::SUCCESS.0) => {
                if readable {
                    Ok(())
                } else {
                    Err(End::Closed)
                }
            }
            Some(payload) => {
                self.put_answer(|out| out.put_slice(&payload));
                Err(End::Violation)
            }
            None => Err(End::Closed),
        }
    }

    /// HELLO's SUCCESS: Neo4j's own, with the proxy's connection id.
    fn put_greeting(&mut self) {
        let greeting = self.shared.upstream.greeting(&self.key);
        let meta = greeting.as_deref().and_then(|meta| MapView::parse(meta).ok()).unwrap_or(MapView::EMPTY);
        let id = format!("sidebolt-{}", self.registration.id);
        let version = self.version();
        let asks = version.features().telemetry && self.shared.config.load().coalesce.enabled;
        let gone: &[&str] = &["connection_id", "protocol_version", "hints"];
        let mut edit = MapEdit::removing(if asks { gone } else { &gone[..2] });
        edit.add("connection_id", |out| encode::string(&id, out));
        if self.manifest && version.features().gql_failure {
            edit.add("protocol_version", |out| encode::string(&version.to_string(), out));
        }
        // Drivers are to say which API a request comes from: that tells transactions which end by themselves.
        let mut hints = BytesMut::new();
        if asks {
            MapEdit::removing(&[TELEMETRY])
                .add(TELEMETRY, |out| encode::boolean(true, out))
                .apply(&meta.map("hints").unwrap_or(MapView::EMPTY), &mut hints);
            edit.add("hints", |out| out.put_slice(&hints));
        }
        let mut answer = BytesMut::new();
        edit.apply(&meta, &mut answer);
        self.put_success(&answer);
    }

    /// The principal for a client's credentials: its own, or in service mode Sidebolt's if the client may come in, under the name of the user
    /// that it is.
    fn admit(&mut self, credentials: &MapView<'_>) -> Step<Arc<Principal>> {
        let config = self.shared.config.load_full();
        if config.auth.mode == AuthMode::Passthrough {
            return Ok(self.shared.identities.principal(credentials));
        }
        if let Some(users) = &config.auth.users {
            let shown = |key| credentials.string(key).unwrap_or_default();
            let (name, password) = (shown("principal"), shown("credentials"));
            if shown("scheme") != "basic" || !users.knows(name, password) {
                return Err(self.refuse_login(&ConnectError::Refused(Refusal::UserMismatch)));
            }
            return Ok(self.shared.identities.user(&config.auth, name));
        }
        let refusal = match &config.auth.client_token {
            None if self.registration.peer.ip().is_loopback() => None,
            None => Some(Refusal::TokenRequired),
            Some(token) => {
                let shown = credentials.string("credentials").unwrap_or_default();
                // Hashes are compared, so that the time taken says nothing about the token.
                (blake3::hash(shown.as_bytes()) != blake3::hash(token.0.as_bytes()))
                    .then_some(Refusal::TokenMismatch)
            }
        };
        match refusal {
            None => Ok(self.shared.identities.service(&config.auth)),
            Some(refusal) => Err(self.refuse_login(&ConnectError::Refused(refusal))),
        }
    }

    /// The FAILURE that ends a login.
    fn refuse_login(&mut self, error: &ConnectError) -> End {
        self.count_login("refused");
        let version = self.version();
        match error {
            ConnectError::Refused(refusal) => {
                self.shared.metrics.refusals.with_label_values(&[refusal.label()]).inc();
                tracing::info!(session = self.registration.id, peer = %self.registration.peer, %refusal, "A login was refused.");
                refusal.to_failure().write(version, &mut self.outbuf);
            }
            ConnectError::Failure(payload) => self.put_answer(|out| out.put_slice(payload)),
        }
        End::Login
    }

    fn count_login(&self, outcome: &str) {
        self.shared.metrics.logins.with_label_values(&[outcome]).inc();
    }
}

/// LOGON: believed if Neo4j has vouched for these credentials lately, else proved on a connection of its own.
pub(super) async fn log_on(session: &mut Session, wire: &[u8], extent: Extent) -> Step {
    let mut scratch = BytesMut::new();
    let payload = chunk::payload(wire, extent, &mut scratch);
    let version = session.version();
    let Ok(credentials) = only_map(payload) else {
        let server = session.server_agent();
        failure::write_bad_field("extra", "Expected a map", version, &server, &mut session.outbuf);
        return Err(End::Violation);
    };
    let principal = session.admit(&credentials)?;
    let ttl = session.shared.config.load().auth.cache_ttl;
    let greeted = session.greeted.take();
    let known = principal.logon(version, ttl);
    let outcome = if known.is_some() { "believed" } else { "proved" };
    if known.is_none() {
        let proved = match greeted {
            Some(mut lease) => lease.log_on(&principal).await,
            None => session.shared.upstream.fresh(&session.key, Some(&principal)).await.map(drop),
        };
        proved.map_err(|error| session.refuse_login(&error))?;
    }
    let meta = principal.logon(version, ttl).unwrap_or_else(|| Arc::from([0xA0]));
    let meta = MapView::parse(&meta).unwrap_or(MapView::EMPTY);
    let mut edit = MapEdit::removing(&["advertised_address"]);
    if meta.has("advertised_address") {
        let address = session.route_address();
        edit.add("advertised_address", |out| encode::string(&address, out));
    }
    let mut answer = BytesMut::new();
    edit.apply(&meta, &mut answer);
    session.put_success(&answer);
    session.count_login(outcome);
    session.registration.set_who(Some(&principal));
    session.principal = Some(principal);
    session.lane = None;
    session.machine.logged_on();
    Ok(())
}

/// True for a HELLO as drivers send it: what Neo4j insists on is there, and of the right type.
fn is_usual(hello: &MapView<'_>, version: Version) -> bool {
    let is_string = |value: &[u8]| Walker::new(value).string().is_ok();
    let agent = hello.map("bolt_agent");
    let fits = agent.is_some_and(|agent| agent.has("product") && agent.iter().all(|(_, v)| is_string(v)));
    let filter_fits = filter_keys(version).iter().all(|key| hello.get(key).is_none_or(is_usual_filter));
    hello.string("user_agent").is_some()
        && (fits || !version.features().bolt_agent)
        && (!hello.has("routing") || hello.map("routing").is_some())
        && filter_fits
}

/// True for a severity or a list of classes that every server knows.
fn is_usual_filter(value: &[u8]) -> bool {
    const SEVERITIES: [&str; 3] = ["OFF", "WARNING", "INFORMATION"];
    const CLASSES: [&str; 8] = [
        "HINT",
        "UNRECOGNIZED",
        "UNSUPPORTED",
        "PERFORMANCE",
        "DEPRECATION",
        "SECURITY",
        "TOPOLOGY",
        "GENERIC",
    ];
    let mut walker = Walker::new(value);
    if let Ok(severity) = walker.string() {
        return SEVERITIES.contains(&severity);
    }
    let Ok(count) = walker.list_header() else { return false };
    (0..count).all(|_| walker.string().is_ok_and(|class| CLASSES.contains(&class)))
}

fn profile(hello: &MapView<'_>, version: Version) -> Profile {
    let known = filter_keys(version);
    let mut filter = MapEdit::removing(&[]);
    let mut any = false;
    for key in known {
        if let Some(value) = hello.get(key) {
            filter.add(key, |out| out.put_slice(value));
            any = true;
        }
    }
    let mut bytes = BytesMut::new();
    if any {
        filter.apply(&MapView::EMPTY, &mut bytes);
    }
    let address = hello.map("routing").and_then(|routing| routing.string("address").map(str::to_owned));
    let agent = hello.string("user_agent").unwrap_or_default();
    let application = agent.split('/').next().unwrap_or_default().chars().take(LONGEST_NAME).collect();
    Profile { address, application, filter: bytes.to_vec().into(), ..Profile::default() }
}

/// Characters of an application's name that are kept.
const LONGEST_NAME: usize = 128;

fn asks_for_utc(hello: &MapView<'_>) -> bool {
    let Some(patches) = hello.get("patch_bolt") else { return false };
    let mut walker = Walker::new(patches);
    let count = walker.list_header().unwrap_or(0);
    (0..count).any(|_| walker.value().is_ok_and(|patch| Walker::new(patch).string() == Ok("utc")))
}

fn without_address(context: &MapView<'_>) -> Box<[u8]> {
    let mut bytes = BytesMut::new();
    MapEdit::removing(&["address"]).apply(context, &mut bytes);
    bytes.to_vec().into()
}
