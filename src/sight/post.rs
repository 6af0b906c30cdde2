//! One HTTP POST: all that alerts and traces need of HTTP.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::transport::Transport;
use crate::transport::tls::{TlsConnector, Trust};

/// How long a POST may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where something is posted to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Target {
    tls: bool,
    host: String,
    port: u16,
    path: String,
    /// `user:password`, for basic authorisation.
    credentials: Option<String>,
}

impl Target {
    /// Reads `http://` or `https://`, host, port and path; what is wrong, if it is none.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let (tls, rest) = match url.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => return Err("it begins neither with http:// nor with https://".to_owned()),
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (credentials, place) = match authority.rsplit_once('@') {
            Some((credentials, place)) => (Some(credentials.to_owned()), place),
            None => (None, authority),
        };
        let default = if tls { 443 } else { 80 };
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| format!("`{port}` is no port"))?)
            }
            _ => (place, default),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err("it names no host".to_owned());
        }
        if url.contains(|c: char| c.is_ascii_control() || c == ' ') {
            return Err("it has blanks or control characters".to_owned());
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { tls, host, port, path, credentials })
    }

    /// The same host with another path behind its own.
    pub(crate) fn with_path(mut self, path: &str) -> Self {
        self.path = format!("{}{path}", self.path.trim_end_matches('/'));
        self
    }

    /// Posts JSON; what went wrong, unless the answer is 2xx.
    pub(crate) async fn post(&self, body: &str) -> Result<(), String> {
        self.post_as("application/json", body.as_bytes()).await
    }

    /// Posts something of a kind.
    pub(crate) async fn post_as(&self, kind: &str, body: &[u8]) -> Result<(), String> {
        let status = timeout(PATIENCE, self.exchange(kind, body)).await;
        let status = status.map_err(|_| format!("no answer within {PATIENCE:?}"))??;
        if (200..300).contains(&status) { Ok(()) } else { Err(format!("the answer was {status}")) }
    }

    async fn exchange(&self, kind: &str, body: &[u8]) -> Result<u16, String> {
        let words = |error: std::io::Error| error.to_string();
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(words)?;
        let mut stream = if self.tls {
            let connector = tokio::task::spawn_blocking(|| TlsConnector::new(&Trust::System, None)).await;
            let connector =
                connector.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
            connector.connect(tcp, &self.host).await.map_err(|error| error.to_string())?
        } else {
            Transport::Tcp(tcp)
        };
        let credentials = self.credentials.as_ref().map_or_else(String::new, |credentials| {
            format!("authorization: Basic {}\r\n", STANDARD.encode(credentials))
        });
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: {}:{}\r\nuser-agent: sidebolt\r\ncontent-type: {kind}\r\n{credentials}\
             content-length: {}\r\nconnection: close\r\n\r\n",
            self.path,
            self.host,
            self.port,
            body.len()
        );
        stream.write_all(head.as_bytes()).await.map_err(words)?;
        stream.write_all(body).await.map_err(words)?;
        stream.flush().await.map_err(words)?;
        let mut answer = Vec::new();
        while answer.len() < 12 {
            if stream.read_buf(&mut answer).await.map_err(words)? == 0 {
                return Err("the connection was closed before an answer".to_owned());
            }
        }
        let status = answer.get(9..12).and_then(|status| std::str::from_utf8(status).ok());
        status.and_then(|status| status.parse().ok()).ok_or_else(|| "the answer is no HTTP".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_nonsense_is_named() {
        let read = |url: &str| {
            Target::parse(url).map(|t| (t.tls, t.host, t.port, t.path, t.credentials.unwrap_or_default()))
        };
        let target = |tls, host: &str, port, path: &str, credentials: &str| {
            Ok((tls, host.to_owned(), port, path.to_owned(), credentials.to_owned()))
        };
        assert_eq!(read("http://a.example"), target(false, "a.example", 80, "/", ""));
        assert_eq!(read("https://u:p@x:8443/a/b?c=d"), target(true, "x", 8443, "/a/b?c=d", "u:p"));
        assert_eq!(read("http://[::1]:9093/alerts"), target(false, "::1", 9093, "/alerts", ""));
        assert_eq!(read("http://[::1]"), target(false, "::1", 80, "/", ""));
        for (url, words) in [
            ("ftp://x", "neither"),
            ("x", "neither"),
            ("http://", "no host"),
            ("http://x:y/", "no port"),
            ("http://x/a\r\nb", "blanks"),
        ] {
            assert!(read(url).unwrap_err().contains(words), "{url}");
        }
        let path = Target::parse("http://x/am/").unwrap().with_path("/api/v2/alerts").path;
        assert_eq!(path, "/am/api/v2/alerts");
    }
}
