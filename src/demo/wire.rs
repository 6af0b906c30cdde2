//! One client's socket: whole messages in, a buffer out, and an eye on what arrives while something runs.

use std::collections::VecDeque;
use std::io;

use bolt_wire::chunk::{self, Found, MessageScanner};
use bolt_wire::{Tag, Version, handshake};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Largest message before login, as Neo4j has it.
pub(super) const MAX_LOGIN_MESSAGE: usize = 8 * 1024;
/// Largest message after login, and the most that is read ahead.
const MAX_MESSAGE: usize = 64 << 20;
/// Messages that are read ahead.
const MAX_AHEAD: usize = 1024;
/// From here on the output is sent even if more requests wait.
const MAX_OUTPUT: usize = 64 * 1024;

/// A client's socket.
pub(super) struct Wire {
    stream: TcpStream,
    scanner: MessageScanner,
    input: BytesMut,
    /// Whole payloads that were read and not handled.
    ahead: VecDeque<Vec<u8>>,
    ahead_bytes: usize,
    resets: usize,
    /// What is to be sent.
    pub(super) output: BytesMut,
    /// Largest message that is accepted now.
    limit: usize,
}

impl Wire {
    /// Takes a socket over.
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            scanner: MessageScanner::default(),
            input: BytesMut::new(),
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            resets: 0,
            output: BytesMut::new(),
            limit: MAX_LOGIN_MESSAGE,
        })
    }

    /// Shakes hands; gives the version and whether it was chosen from the manifest. `None` = no agreement, close.
    pub(super) async fn shake_hands(&mut self, offered: &[Version]) -> io::Result<Option<(Version, bool)>> {
        let Some(request) = self.exactly::<20>().await? else { return Ok(None) };
        let Some((&handshake::MAGIC, slots)) = request.split_first_chunk::<4>() else { return Ok(None) };
        let Some(slots) = slots.first_chunk::<16>() else { return Ok(None) };
        match handshake::choose(slots, offered) {
            handshake::Choice::Classic(version) => {
                self.output.extend_from_slice(&handshake::version_bytes(version));
                Ok(Some((version, false)))
            }
            handshake::Choice::Manifest => {
                handshake::write_manifest(offered, &mut self.output);
                self.flush().await?;
                loop {
                    match handshake::read_manifest_choice(&self.input, offered) {
                        Ok(Some((version, used))) => {
                            self.input.advance(used);
                            return Ok(Some((version, true)));
                        }
                        Ok(None) if self.fill().await? => {}
                        _ => return Ok(None),
                    }
                }
            }
            handshake::Choice::Nothing => {
                self.output.extend_from_slice(&handshake::NO_VERSION);
                self.flush().await?;
                Ok(None)
            }
            handshake::Choice::Malformed => Ok(None),
        }
    }

    /// The login is done: larger messages are welcome.
    pub(super) fn logged_in(&mut self) {
        self.limit = MAX_MESSAGE;
    }

    /// The next message; sends what is due before it waits. `None` = the client is gone.
    pub(super) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            self.cut()?;
            if self.output.len() > MAX_OUTPUT {
                self.flush().await?;
            }
            if let Some(payload) = self.ahead.pop_front() {
                self.ahead_bytes -= payload.len();
                self.resets -= usize::from(is_reset(&payload));
                return Ok(Some(payload));
            }
            self.flush().await?;
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// True if a RESET was read and not handled: what stands before it is not to be run.
    pub(super) fn reset_is_ahead(&self) -> bool {
        self.resets > 0
    }

    /// Returns when a RESET has arrived or the client is gone (then false). For use beside something that runs; can be dropped.
    pub(super) async fn interrupted(&mut self) -> bool {
        loop {
            if self.cut().is_err() {
                return false;
            }
            if self.resets > 0 {
                return true;
            }
            if self.ahead.len() >= MAX_AHEAD || self.ahead_bytes >= self.limit {
                std::future::pending::<()>().await;
            }
            if !matches!(self.fill().await, Ok(true)) {
                return false;
            }
        }
    }

    /// Sends what is due.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.output).await?;
        self.output.clear();
        self.stream.flush().await
    }

    /// Sends what is due and closes so that the client still gets it.
    pub(super) async fn close(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.stream.shutdown().await
    }

    /// Sends records while many are written.
    pub(super) async fn relieve(&mut self) -> io::Result<()> {
        if self.output.len() > MAX_OUTPUT { self.flush().await } else { Ok(()) }
    }

    async fn exactly<const N: usize>(&mut self) -> io::Result<Option<[u8; N]>> {
        while self.input.len() < N {
            if !self.fill().await? {
                return Ok(None);
            }
        }
        let bytes = self.input.first_chunk::<N>().copied();
        self.input.advance(N);
        Ok(bytes)
    }

    async fn fill(&mut self) -> io::Result<bool> {
        Ok(self.stream.read_buf(&mut self.input).await? > 0)
    }

    /// Cuts whole messages out of what was read.
    fn cut(&mut self) -> io::Result<()> {
        while self.ahead.len() < MAX_AHEAD && !self.input.is_empty() {
            let extent = match self.scanner.scan(&self.input) {
                Found::Noop => {
                    self.input.advance(2);
                    continue;
                }
                Found::Partial if self.input.len() > self.limit => return Err(too_large(self.limit)),
                Found::Partial => return Ok(()),
                Found::Message(extent) => extent,
            };
            if extent.payload > self.limit {
                return Err(too_large(self.limit));
            }
            let wire = self.input.split_to(extent.wire);
            let payload = chunk::payload(&wire, extent, &mut BytesMut::new()).to_vec();
            self.resets += usize::from(is_reset(&payload));
            self.ahead_bytes += payload.len();
            self.ahead.push_back(payload);
        }
        Ok(())
    }
}

fn is_reset(payload: &[u8]) -> bool {
    payload.get(1) == Some(&Tag::RESET.0)
}

fn too_large(limit: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a message is larger than {limit} bytes"))
}
