//! One request to the admin port, for the commands that ask a running Sidebolt.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cli::ConfigArgs;
use crate::config::Config;
use crate::transport::Transport;
use crate::transport::tls::{TlsConnector, Trust};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Largest answer that is read, in bytes.
const MOST: u64 = 64 << 20;

/// Where the port is, and how it is spoken to.
#[derive(Debug, PartialEq)]
struct Door {
    address: String,
    /// Whose certificate is believed; none = plain HTTP.
    tls: Option<Trust>,
    token: Option<String>,
}

/// Asks for a path, or posts a body of JSON there; the body of the answer if its status is 200. `admin`: what `--admin` says; `config`: the
/// configuration file.
pub(crate) async fn request(
    admin: &Option<String>,
    config: &Option<PathBuf>,
    path: &str,
    body: Option<&str>,
) -> Result<String, String> {
    let door = Door::find(admin, config)?;
    ask(&door, path, body, PATIENCE).await.map_err(|error| format!("{}{path}: {error}", door.address))
}

/// The same where the answer is JSON.
pub(crate) async fn request_json(
    admin: &Option<String>,
    config: &Option<PathBuf>,
    path: &str,
) -> Result<Value, String> {
    let text = request(admin, config, path, None).await?;
    serde_json::from_str(&text).map_err(|error| format!("{path}: {error}"))
}

impl Door {
    fn find(admin: &Option<String>, config: &Option<PathBuf>) -> Result<Self, String> {
        let sources = ConfigArgs { config: config.clone(), ..ConfigArgs::default() }.sources();
        let loaded = Config::load(&sources).map(|loaded| loaded.config.admin);
        if let Some(admin) = admin {
            // Where the configuration is not needed, it need not be right.
            let token = loaded.ok().and_then(|admin| admin.token.map(|secret| secret.0.clone()));
            return Ok(Self::named(admin, token));
        }
        let admin = loaded.map_err(|errors| errors.to_string())?;
        let mut address = admin.address.ok_or("admin.address is off, so nothing can be asked")?;
        // A port bound on all interfaces is asked on loopback.
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        let required = admin.tls.as_ref().filter(|tls| tls.required);
        let tls = required.map(|tls| Trust::Only(tls.cert_file.clone()));
        Ok(Self {
            address: address.to_string(),
            tls,
            token: admin.token.as_ref().map(|secret| secret.0.clone()),
        })
    }

    /// `host:port`, `http://host:port` or `https://host:port`.
    fn named(admin: &str, token: Option<String>) -> Self {
        let (tls, address) = match admin.split_once("://") {
            Some(("https", address)) => (Some(Trust::System), address),
            Some((_, address)) => (None, address),
            None => (None, admin),
        };
        Self { address: address.trim_end_matches('/').to_owned(), tls, token }
    }

    async fn connect(&self) -> Result<Transport, String> {
        let tcp = TcpStream::connect(&self.address).await.map_err(|error| error.to_string())?;
        let Some(trust) = &self.tls else { return Ok(Transport::Tcp(tcp)) };
        let connector = TlsConnector::new(trust, None).map_err(|error| error.to_string())?;
        let host = self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host);
        connector.connect(tcp, host).await.map_err(|error| error.to_string())
    }
}

async fn ask(door: &Door, path: &str, body: Option<&str>, limit: Duration) -> Result<String, String> {
    let words = |error: std::io::Error| error.to_string();
    let exchange = async {
        let mut stream = door.connect().await?;
        let method = if body.is_some() { "POST" } else { "GET" };
        let (address, body) = (&door.address, body.unwrap_or_default());
        let token = door
            .token
            .as_ref()
            .map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{token}\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.map_err(words)?;
        stream.flush().await.map_err(words)?;
        let mut answer = Vec::new();
        stream.take(MOST).read_to_end(&mut answer).await.map_err(words)?;
        Ok::<_, String>(answer)
    };
    let answer = match timeout(limit, exchange).await {
        Ok(answer) => answer?,
        Err(_) => return Err(format!("no answer within {} s", limit.as_secs_f32())),
    };
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let line = head.lines().next().unwrap_or_default();
    let mut words = line.splitn(3, ' ');
    match (words.next(), words.next()) {
        (Some(http), Some("200")) if http.starts_with("HTTP/1.") => Ok(body.to_owned()),
        (Some(http), Some(_)) if http.starts_with("HTTP/1.") => {
            Err(format!("{line}\n{body}").trim_end().to_owned())
        }
        _ => Err("the answer is not HTTP; is this the admin port?".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn door(address: &str) -> Door {
        Door::named(address, None)
    }

    #[test]
    fn addresses_may_have_a_scheme() {
        for (given, address, tls) in
            [("h:1", "h:1", None), ("http://h:1/", "h:1", None), ("https://h:1", "h:1", Some(Trust::System))]
        {
            assert_eq!(door(given), Door { address: address.to_owned(), tls, token: None });
        }
    }

    /// Answers one request with `answer` and returns what was asked.
    async fn asked(answer: &'static str) -> (Result<String, String>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let server = async {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.expect("a request"));
            }
            stream.write_all(answer.as_bytes()).await.expect("answered");
            String::from_utf8(request).expect("UTF-8")
        };
        let door = door(&address);
        tokio::join!(ask(&door, "/readyz", None, Duration::from_secs(20)), server)
    }

    #[tokio::test]
    async fn health_is_the_status_of_the_answer() {
        let (well, request) = asked("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n").await;
        assert_eq!(well, Ok("ok\n".to_owned()));
        assert!(request.starts_with("GET /readyz HTTP/1.1\r\nHost: 127.0.0.1:"), "{request}");
        let (ill, _) = asked("HTTP/1.1 503 Service Unavailable\r\n\r\nupstream unreachable\n").await;
        assert_eq!(ill, Err("HTTP/1.1 503 Service Unavailable\nupstream unreachable".to_owned()));
        for odd in ["", "\0\0\x05\x08", "SSH-2.0-x\r\n", "200 200 OK"] {
            let (not_http, _) = asked(odd).await;
            assert_eq!(
                not_http,
                Err("the answer is not HTTP; is this the admin port?".to_owned()),
                "{odd:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_silent_or_absent_port_is_ill() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let silent = ask(&door(&address), "/livez", None, Duration::from_millis(50)).await;
        assert_eq!(silent, Err("no answer within 0.05 s".to_owned()));
        drop(listener);
        let absent = ask(&door(&address), "/livez", None, Duration::from_secs(20)).await;
        assert!(absent.is_err_and(|error| error.contains("refused")));
    }
}
