//! Bolt over WebSocket, server side: the HTTP answers of the Bolt port, and a byte stream over binary frames.

use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::handshake::machine::TryParse;
use tokio_tungstenite::tungstenite::handshake::server::Request;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext};
use tokio_tungstenite::tungstenite::{Error, Message, error::ProtocolError};

use super::Transport;

/// Bolt bytes in binary WebSocket frames. Frames and Bolt messages need not align, in either direction.
#[derive(Debug)]
pub struct WebSocket {
    carrier: Transport,
    frames: WebSocketContext,
    /// What is left of the newest frame.
    rest: Bytes,
    /// No more bytes will come: closed by the peer, or by us after a breach of the protocol.
    ended: bool,
    /// Who waits for room on the carrier. A pong that the reading side could not write goes out with that one's wake-up.
    writer: Option<Waker>,
}

/// What became of an HTTP request on the Bolt port.
#[derive(Debug)]
pub enum Upgraded {
    /// The connection now carries Bolt in WebSocket frames.
    WebSocket(Box<WebSocket>),
    /// A plain request was answered; the connection is over.
    Answered,
    /// An upgrade was refused; the connection is over.
    Refused,
}

impl WebSocket {
    /// Reads the rest of an HTTP request that begins with `start`, and answers it as Neo4j does.
    pub async fn upgrade(mut carrier: Transport, start: &[u8]) -> io::Result<Upgraded> {
        let mut head = Vec::with_capacity(1024);
        head.extend_from_slice(start);
        let end = read_head(&mut carrier, &mut head).await?;
        let answer = end.map_or_else(|| health_answer("1.1"), |_| answer(&head));
        carrier.write_all(answer.text.as_bytes()).await?;
        carrier.flush().await?;
        if let (Status::Upgrade, Some(end)) = (answer.status, end) {
            let frames =
                WebSocketContext::from_partially_read(head.split_off(end), Role::Server, Some(limits()));
            return Ok(Upgraded::WebSocket(Box::new(Self {
                carrier,
                frames,
                rest: Bytes::new(),
                ended: false,
                writer: None,
            })));
        }
        carrier.discard_input();
        carrier.shutdown().await?;
        Ok(if answer.status == Status::Health { Upgraded::Answered } else { Upgraded::Refused })
    }

    pub(super) fn carrier(&self) -> &Transport {
        &self.carrier
    }

    /// Becomes ready when there are payload bytes, or the end.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.rest.is_empty() && !self.ended {
            let writer = self.writer.as_ref().unwrap_or_else(|| cx.waker());
            let mut wire = Wire { carrier: &mut self.carrier, reader: cx.waker(), writer };
            match self.frames.read(&mut wire) {
                Ok(Message::Binary(payload)) => self.rest = payload,
                // The next read sends the pong.
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(Message::Close(_)) => {
                    self.ended = true;
                    // Best effort: the peer that asked for the end may be gone.
                    let _ = self.frames.flush(&mut wire);
                }
                Ok(Message::Text(_) | Message::Frame(_)) => {
                    return Poll::Ready(Err(self.refuse(cx, CloseCode::Unsupported, TEXT_REFUSED)));
                }
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(Error::Io(error)) => {
                    self.ended = true;
                    return Poll::Ready(Err(error));
                }
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => self.ended = true,
                // A bare end of the TCP stream is an end like any other.
                Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => self.ended = true,
                Err(Error::Capacity(_)) => {
                    return Poll::Ready(Err(self.refuse(cx, CloseCode::Size, TOO_LARGE)));
                }
                Err(Error::Utf8(_)) => {
                    return Poll::Ready(Err(self.refuse(cx, CloseCode::Unsupported, TEXT_REFUSED)));
                }
                Err(error) => {
                    let reason = error.to_string();
                    return Poll::Ready(Err(self.refuse(cx, CloseCode::Protocol, &reason)));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Tells the peer why this is the end, as far as the socket takes it now.
    fn refuse(&mut self, cx: &Context<'_>, code: CloseCode, reason: &str) -> io::Error {
        self.ended = true;
        let mut wire = Wire { carrier: &mut self.carrier, reader: cx.waker(), writer: cx.waker() };
        let mut end = reason.len().min(120);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let _ = self.frames.close(&mut wire, Some(CloseFrame { code, reason: reason[..end].into() }));
        io::Error::new(io::ErrorKind::InvalidData, format!("WebSocket: {reason}"))
    }

    /// Runs `step` on the frame codec; "would block" becomes pending, the end of the connection `Ok`.
    fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        step: impl FnOnce(&mut WebSocketContext, &mut Wire<'_>) -> Result<(), Error>,
    ) -> Poll<io::Result<()>> {
        let mut wire = Wire { carrier: &mut self.carrier, reader: cx.waker(), writer: cx.waker() };
        match step(&mut self.frames, &mut wire) {
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                self.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Err(Error::Io(error)) => return Poll::Ready(Err(error)),
            Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => {}
            Err(error) => return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error))),
        }
        self.writer = None;
        Poll::Ready(Ok(()))
    }

    /// Sends one frame once the ones before it are gone, which holds at most one frame of output in memory.
    fn poll_send(&mut self, cx: &mut Context<'_>, make: impl FnOnce() -> Bytes) -> Poll<io::Result<usize>> {
        ready!(self.poll_step(cx, |frames, wire| frames.flush(wire)))?;
        if !self.frames.can_write() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let payload = make();
        let length = payload.len();
        if length == 0 {
            return Poll::Ready(Ok(0));
        }
        // Pending here means that the frame waits in the codec's buffer: it is taken, and the next write or flush
        // sends the rest.
        match self.poll_step(cx, |frames, wire| frames.write(wire, Message::Binary(payload))) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(length)),
        }
    }
}

impl AsyncRead for WebSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_fill(cx))?;
        let n = this.rest.len().min(buf.remaining());
        buf.put_slice(&this.rest[..n]);
        this.rest.advance(n);
        if this.rest.is_empty() {
            // Lets go of the memory behind the frame.
            this.rest = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WebSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let part = &buf[..buf.len().min(MAX_FRAME_OUT)];
        self.get_mut().poll_send(cx, || Bytes::copy_from_slice(part))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, || {
            let total: usize = bufs.iter().map(|buf| buf.len()).sum();
            let mut frame = BytesMut::with_capacity(total.min(MAX_FRAME_OUT));
            for buf in bufs {
                let room = MAX_FRAME_OUT - frame.len();
                frame.extend_from_slice(&buf[..buf.len().min(room)]);
            }
            frame.freeze()
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_step(cx, |frames, wire| frames.flush(wire))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let bye = CloseFrame { code: CloseCode::Normal, reason: "Bye".into() };
        ready!(this.poll_step(cx, |frames, wire| frames.close(wire, Some(bye))))?;
        Pin::new(&mut this.carrier).poll_shutdown(cx)
    }
}

/// The carrier as the blocking stream that the frame codec expects; "pending" becomes "would block".
struct Wire<'a> {
    carrier: &'a mut Transport,
    reader: &'a Waker,
    writer: &'a Waker,
}

impl Read for Wire<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(buf);
        let carrier = Pin::new(&mut *self.carrier);
        blocking(carrier.poll_read(&mut Context::from_waker(self.reader), &mut buf))?;
        Ok(buf.filled().len())
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let carrier = Pin::new(&mut *self.carrier);
        blocking(carrier.poll_write(&mut Context::from_waker(self.writer), buf))
    }

    fn flush(&mut self) -> io::Result<()> {
        let carrier = Pin::new(&mut *self.carrier);
        blocking(carrier.poll_flush(&mut Context::from_waker(self.writer)))
    }
}

fn blocking<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

/// Largest frame, and largest message of several frames, from a client: Neo4j's own limit (observed: 65,536 passes,
/// 65,537 is refused with close code 1009).
const MAX_FRAME_IN: usize = 64 * 1024;
/// Largest frame to a client.
const MAX_FRAME_OUT: usize = 16 * 1024;
const MAX_HEAD: usize = 16 * 1024;
const TEXT_REFUSED: &str = "text frames are not accepted: send Bolt in binary frames";
const TOO_LARGE: &str = "Max frame length of 65536 has been exceeded.";

fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(4 * 1024)
        // Frames go to the socket at once; what it does not take is held, and `poll_send` then waits.
        .write_buffer_size(0)
        .max_write_buffer_size(2 * MAX_FRAME_OUT)
        .max_frame_size(Some(MAX_FRAME_IN))
        .max_message_size(Some(MAX_FRAME_IN))
}

/// Reads until the blank line; `None` when the head grows too large.
async fn read_head(carrier: &mut Transport, head: &mut Vec<u8>) -> io::Result<Option<usize>> {
    let mut searched = 0;
    loop {
        if let Some(at) = head[searched..].windows(4).position(|four| four == b"\r\n\r\n") {
            return Ok(Some(searched + at + 4));
        }
        searched = head.len().saturating_sub(3);
        if head.len() >= MAX_HEAD {
            return Ok(None);
        }
        if carrier.read_buf(head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Upgrade,
    Health,
    Refused,
}

struct Answer {
    status: Status,
    text: String,
}

/// Neo4j's answers, byte for byte as observed on 5.26 and 2026.08, save two: a path other than `/` in an upgrade is
/// refused (Neo4j never answers it), and only WebSocket version 13 is accepted (Neo4j also takes 7 and 8).
fn answer(head: &[u8]) -> Answer {
    let Ok(Some((_, request))) = Request::try_parse(head) else {
        // HTTP/1.0 and what is not HTTP at all gets the same answer in the older dialect.
        return health_answer("1.0");
    };
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let names = |value: &str, word: &str| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(word));
    if !header("connection").is_some_and(|value| names(value, "upgrade"))
        || !header("upgrade").is_some_and(|value| names(value, "websocket"))
    {
        return health_answer("1.1");
    }
    if request.uri().path() != "/" || request.uri().query().is_some() {
        return refused("404 Not Found", "Bolt over WebSocket is at the path /");
    }
    match header("sec-websocket-version") {
        Some("13") => {}
        Some(_) => {
            let text =
                "HTTP/1.1 426 Upgrade Required\r\nsec-websocket-version: 13\r\ncontent-length: 0\r\n\r\n";
            return Answer { status: Status::Refused, text: text.to_owned() };
        }
        None => return refused("400 Bad Request", "not a WebSocket request: missing version"),
    }
    let Some(key) = header("sec-websocket-key") else {
        return refused("400 Bad Request", "not a WebSocket request: missing key");
    };
    Answer {
        status: Status::Upgrade,
        text: format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
             sec-websocket-accept: {}\r\n\r\n",
            derive_accept_key(key.as_bytes())
        ),
    }
}

fn refused(status: &str, reason: &str) -> Answer {
    Answer { status: Status::Refused, text: format!("HTTP/1.1 {status}\r\n\r\n{reason}") }
}

/// The answer to a plain GET, which load balancers use as a health check.
fn health_answer(version: &str) -> Answer {
    Answer {
        status: Status::Health,
        text: format!(
            "HTTP/{version} 200 OK\r\ncontent-type: application/json\r\naccess-control-allow-origin: *\r\n\
             vary: Accept\r\ndate: {}\r\ncontent-length: 0\r\n\r\n",
            http_date(SystemTime::now())
        ),
    }
}

/// `Sat, 21 Nov 2026 05:22:33 GMT`.
fn http_date(now: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Walks the civil calendar; a few dozen steps.
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut rest) = (1970, days);
    while rest >= 365 + u64::from(is_leap(year)) {
        rest -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = "";
    for (name, length) in MONTHS.iter().zip(lengths) {
        month = name;
        if rest < length {
            break;
        }
        rest -= length;
    }
    let weekday = DAYS[(days % 7) as usize];
    format!(
        "{weekday}, {:02} {month} {year} {:02}:{:02}:{:02} GMT",
        rest + 1,
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests;
