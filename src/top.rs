//! `sidebolt top`: what a running Sidebolt does, in a terminal, again and again.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use crate::admin::request_json;
use crate::cli::TopArgs;

/// Characters of a line where nobody says how wide the terminal is.
const WIDTH: usize = 160;

/// Shows it until it is interrupted, or once.
pub async fn top(args: &TopArgs) -> ExitCode {
    let mut out = std::io::stdout();
    let clears = out.is_terminal() && !args.once;
    let width = std::env::var("COLUMNS").ok().and_then(|width| width.parse().ok()).unwrap_or(WIDTH);
    loop {
        let page = match look(args).await {
            Ok((overview, queries)) => page(&overview, &queries, width),
            Err(error) if args.once => {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
            Err(error) => format!("{error}\n"),
        };
        let clear = if clears { "\u{1b}[H\u{1b}[2J" } else { "" };
        // Who reads no more wants no more.
        if out.write_all(format!("{clear}{page}").as_bytes()).and_then(|()| out.flush()).is_err() || args.once
        {
            return ExitCode::SUCCESS;
        }
        tokio::time::sleep(Duration::from_secs(args.every.into())).await;
    }
}

async fn look(args: &TopArgs) -> Result<(Value, Value), String> {
    let read = async |path: &str| request_json(&args.admin, &args.config, path).await;
    Ok((read("/api/overview").await?, read(&format!("/api/queries?limit={}", args.rows)).await?))
}

/// One page: a few lines about all, the alerts, then the queries.
fn page(overview: &Value, queries: &Value, width: usize) -> String {
    let mut page = String::new();
    let now = &overview["now"];
    let count = |value: &Value| value.as_f64().unwrap_or_default();
    let state = match overview["reason"].as_str() {
        Some(reason) => format!("not ready: {reason}"),
        None => "ready".to_owned(),
    };
    let _ =
        writeln!(page, "Sidebolt {}  {}  {state}", plain(&overview["version"]), plain(&overview["upstream"]));
    let _ = writeln!(
        page,
        "requests/s {:.0}  failures/s {:.0}  p50 {:.2} ms  p95 {:.2} ms  p99 {:.2} ms  clients {:.0}",
        count(&now["requests"]),
        count(&now["failures"]),
        count(&now["p50_ms"]),
        count(&now["p95_ms"]),
        count(&now["p99_ms"]),
        count(&now["clients"])
    );
    let _ = writeln!(
        page,
        "connections {:.0} ({:.0} in use, {:.0} waiting)  cache {:.0} hits, {:.0} misses  cpu {:.2}  memory {:.0} MiB",
        count(&now["pool_open"]),
        count(&now["pool_lent"]),
        count(&now["pool_waiting"]),
        count(&overview["cache"]["hits"]),
        count(&overview["cache"]["misses"]),
        count(&now["process_cores"]),
        count(&now["process_memory"]) / f64::from(1 << 20)
    );
    for alert in overview["alerts"].as_array().into_iter().flatten() {
        let query = &alert["query"];
        let text = [&alert["message"], &query["text"], &query["advice"]].map(plain).join("  ");
        let _ = writeln!(page, "{}", cut(&format!("! {}  {text}", plain(&alert["level"])), width));
    }
    let _ = writeln!(
        page,
        "\n{:>9} {:>11} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8} {:>8}  QUERY",
        "CALLS", "TOTAL ms", "p50 ms", "p95 ms", "p99 ms", "ROWS", "FAILED", "CACHED", "BATCHED"
    );
    for query in queries.as_array().into_iter().flatten() {
        let line = format!(
            "{:>9.0} {:>11.1} {:>9.2} {:>9.2} {:>9.2} {:>9.0} {:>8.0} {:>8.0} {:>8.0}  {}",
            count(&query["calls"]),
            count(&query["totalMs"]),
            count(&query["p50Ms"]),
            count(&query["p95Ms"]),
            count(&query["p99Ms"]),
            count(&query["rows"]),
            count(&query["failures"]) + count(&query["refused"]),
            count(&query["cached"]),
            count(&query["batched"]),
            plain(&query["text"])
        );
        let _ = writeln!(page, "{}", cut(&line, width));
    }
    page
}

/// A text on one line, without what a terminal would obey.
fn plain(value: &Value) -> String {
    let text = value.as_str().unwrap_or_default();
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn cut(line: &str, width: usize) -> String {
    line.trim_end().chars().take(width.max(20)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_page_fits_and_obeys_nobody() {
        let overview = json!({
            "version": "1", "upstream": "bolt://x", "ready": false, "reason": "draining",
            "now": {"requests": 12, "p50_ms": 1.234, "clients": 3, "process_memory": 3 << 20},
            "cache": {"hits": 5, "misses": 6},
            "alerts": [{"level": "critical", "message": "It is slow.", "query": {"text": "MATCH", "advice": null}}],
        });
        let hostile = format!("RETURN \u{1b}[2J{}", "x".repeat(500));
        let queries = json!([{"calls": 7, "totalMs": 1.5, "failures": 1, "refused": 1, "text": hostile}]);
        let page = page(&overview, &queries, 120);
        assert!(
            page.contains("not ready: draining")
                && page.contains("requests/s 12")
                && page.contains("memory 3 MiB")
        );
        assert!(page.contains("! critical  It is slow.  MATCH\n"), "{page}");
        assert!(!page.contains('\u{1b}') && page.lines().all(|line| line.chars().count() <= 160), "{page}");
        let last = page.lines().last().unwrap();
        assert!(last.trim_start().starts_with('7') && last.chars().count() == 120, "{last}");
        // An answer of another kind is shown as far as it goes.
        assert!(super::page(&Value::Null, &Value::Null, 0).contains("QUERY"));
    }
}
