//! Who may use the admin port: everybody who can reach it, or who shows the token.

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Context;

/// What a change must be sent with: no page of another site can.
const OWN: &str = "x-sidebolt";

/// Why a request is not let through.
type Refusal = (StatusCode, &'static str);

/// Lets a request of a person or a program through, or says why not.
pub(super) async fn check(State(context): State<Context>, request: Request, next: Next) -> Response {
    let config = context.shared.config.load_full();
    let token = config.admin.token.as_ref().map(|secret| secret.0.as_str());
    let (method, headers) = (request.method(), request.headers());
    let refused = match token {
        Some(_) => without_token(token, headers),
        None => from_elsewhere(headers),
    };
    match refused.or_else(|| careless(method, headers)) {
        Some((status, words)) => (status, format!("{words}\n")).into_response(),
        None => next.run(request).await,
    }
}

/// The same where only the token counts.
pub(super) async fn check_token(State(context): State<Context>, request: Request, next: Next) -> Response {
    let config = context.shared.config.load_full();
    let token = config.admin.token.as_ref().map(|secret| secret.0.as_str());
    match without_token(token, request.headers()) {
        Some((status, words)) => (status, format!("{words}\n")).into_response(),
        None => next.run(request).await,
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn without_token(token: Option<&str>, headers: &HeaderMap) -> Option<Refusal> {
    let shown = text(headers, AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
    let right = token.is_none_or(|token| shown.is_some_and(|shown| is_same(shown, token)));
    let words = "this needs the header `Authorization: Bearer TOKEN` with the token of admin.token";
    (!right).then_some((StatusCode::UNAUTHORIZED, words))
}

/// Without a token, a page of another site must not get here by a name that it lets point to this address.
fn from_elsewhere(headers: &HeaderMap) -> Option<Refusal> {
    let words = "without admin.token this port answers to IP addresses and localhost only: set a token";
    (!text(headers, HOST).is_none_or(is_plain)).then_some((StatusCode::FORBIDDEN, words))
}

/// A change that a page of another site could send.
fn careless(method: &Method, headers: &HeaderMap) -> Option<Refusal> {
    let json = text(headers, CONTENT_TYPE).is_some_and(|kind| kind.starts_with("application/json"));
    let changes = !matches!(*method, Method::GET | Method::HEAD);
    let words = "a change needs the header `X-Sidebolt: 1`, or a body of `Content-Type: application/json`";
    (changes && !json && !headers.contains_key(OWN)).then_some((StatusCode::FORBIDDEN, words))
}

/// Compares in a time that tells nothing of where they differ.
fn is_same(a: &str, b: &str) -> bool {
    blake3::hash(a.as_bytes()) == blake3::hash(b.as_bytes())
}

/// An IP address or localhost, with or without a port.
fn is_plain(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(token: Option<&str>, method: Method, headers: &[(&'static str, &str)]) -> u16 {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        let headers: HeaderMap = headers.collect();
        let refused = match token {
            Some(_) => without_token(token, &headers),
            None => from_elsewhere(&headers),
        };
        refused.or_else(|| careless(&method, &headers)).map_or(200, |(status, _)| status.as_u16())
    }

    #[test]
    fn a_token_is_needed_where_there_is_one() {
        let (get, post) = (Method::GET, Method::POST);
        assert_eq!(status(Some("t"), get.clone(), &[]), 401);
        assert_eq!(status(Some("t"), get.clone(), &[("authorization", "Bearer x")]), 401);
        assert_eq!(status(Some("t"), get.clone(), &[("authorization", "t")]), 401);
        let right = ("authorization", "Bearer t");
        assert_eq!(status(Some("t"), get, &[right, ("host", "sidebolt.example")]), 200);
        assert_eq!(status(Some("t"), post.clone(), &[right]), 403);
        assert_eq!(status(Some("t"), post, &[right, ("x-sidebolt", "1")]), 200);
    }

    #[test]
    fn pages_of_other_sites_get_nothing() {
        for host in ["127.0.0.1:9090", "localhost", "LOCALHOST:1", "[::1]:9090", "[::1]", "10.0.0.1"] {
            assert_eq!(status(None, Method::GET, &[("host", host)]), 200, "{host}");
        }
        for host in ["evil.example", "evil.example:9090", "127.0.0.1.evil.example", "localhost.evil"] {
            assert_eq!(status(None, Method::GET, &[("host", host)]), 403, "{host}");
        }
        let here = ("host", "127.0.0.1");
        assert_eq!(status(None, Method::POST, &[here]), 403);
        assert_eq!(status(None, Method::POST, &[here, ("content-type", "text/plain")]), 403);
        assert_eq!(status(None, Method::POST, &[here, ("content-type", "application/json")]), 200);
    }
}
