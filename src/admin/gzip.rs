//! Answers are packed for whoever takes them packed.

use std::io::Write as _;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;

/// A smaller answer goes as it is.
const LEAST: usize = 1024;
/// A larger one is packed where it holds up nobody.
const LARGE: usize = 64 << 10;
/// Answers are made in memory, and none is larger.
const MOST: usize = 256 << 20;

/// Packs the answer with gzip if its client takes that.
pub(super) async fn gzip(request: Request, next: Next) -> Response {
    let wanted = is_wanted(request.headers());
    let mut response = next.run(request).await;
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    // Events go out as they come, and profiles are packed already.
    if kind.starts_with("text/event-stream")
        || kind == "application/octet-stream"
        || response.headers().contains_key(CONTENT_ENCODING)
    {
        return response;
    }
    response.headers_mut().append(VARY, HeaderValue::from_static("accept-encoding"));
    if !wanted {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let Ok(body) = to_bytes(body, MOST).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    if body.len() < LEAST {
        return Response::from_parts(head, Body::from(body));
    }
    let packed = match body.len() {
        ..LARGE => packed(&body),
        _ => {
            let body = body.clone();
            tokio::task::spawn_blocking(move || packed(&body)).await.unwrap_or_default()
        }
    };
    let Some(packed) = packed else { return Response::from_parts(head, Body::from(body)) };
    head.headers.remove(CONTENT_LENGTH);
    head.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    Response::from_parts(head, Body::from(packed))
}

fn packed(body: &Bytes) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok()
}

/// Whether gzip is among what a client takes.
fn is_wanted(headers: &HeaderMap) -> bool {
    let names = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let mut codings = names.flat_map(|names| names.split(',')).map(|coding| {
        let (name, rest) = coding.split_once(';').unwrap_or((coding, ""));
        let weight =
            rest.trim().strip_prefix("q=").map_or(1.0, |weight| weight.trim().parse().unwrap_or(0.0));
        (name.trim().to_ascii_lowercase(), weight)
    });
    codings.any(|(name, weight): (String, f64)| (name == "gzip" || name == "x-gzip") && weight > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_asks_for_it_gets_it() {
        let wanted =
            |value: &str| is_wanted(&HeaderMap::from_iter([(ACCEPT_ENCODING, value.parse().unwrap())]));
        for value in ["gzip", "deflate, gzip;q=1.0, *;q=0.5", "br, GZIP", "x-gzip", "gzip; q=0.1"] {
            assert!(wanted(value), "{value}");
        }
        for value in ["", "br", "gzip;q=0", "deflate, gzip; q=0.0", "gzipped", "gzip;q=x"] {
            assert!(!wanted(value), "{value}");
        }
        assert!(!is_wanted(&HeaderMap::new()));
    }
}
