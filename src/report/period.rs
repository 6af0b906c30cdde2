//! The report about a day, a week or a month, as a page.

use serde_json::Value;

use super::page::Page;
use super::{number, rows, text};

/// What the admin port answers, as a page.
pub(super) fn page(report: &Value) -> Page {
    let mut page = Page::default();
    page.title(format!("Sidebolt, {} report", text(&report["period"])));
    let (totals, before) = (&report["totals"], &report["before"]);
    page.sentence(format!(
        "{} to {}. {} requests, {} failed, {} from the cache, {} in batches; {} seconds were looked at.",
        text(&report["from"]),
        text(&report["to"]),
        totals["requests"],
        totals["failures"],
        totals["cached"],
        totals["batched"],
        totals["observedSeconds"]
    ));
    latency(&mut page, report, totals, before);
    parts(&mut page, rows(&report["parts"]));
    wrong(&mut page, report);
    capacity(&mut page, &report["capacity"]);
    queries(&mut page, rows(&report["queries"]));
    page.heading("What could be done");
    let said = rows(&report["recommendations"]).iter().map(text).collect();
    page.list(said, "Nothing is known.");
    page
}

/// A number with so many digits; a dash where there is none.
fn shown(value: &Value, digits: usize) -> String {
    value.as_f64().map_or_else(|| "–".to_owned(), |number| format!("{number:.digits$}"))
}

fn times(value: &Value) -> String {
    value.as_f64().map_or_else(|| "–".to_owned(), |factor| format!("{factor:.2} ×"))
}

fn percent(value: &Value) -> String {
    value.as_f64().map_or_else(|| "–".to_owned(), |share| format!("{:.1} %", share * 100.0))
}

fn bytes(value: &Value) -> String {
    value.as_f64().map_or_else(|| "–".to_owned(), |bytes| format!("{:.0} M", bytes / 1e6))
}

fn latency(page: &mut Page, report: &Value, totals: &Value, before: &Value) {
    page.heading("Latency");
    let rows = [("p50", "p50Ms"), ("p95", "p95Ms"), ("p99", "p99Ms")].map(|(name, key)| {
        [name.to_owned(), shown(&totals[key], 3), shown(&before[key], 3), times(&report["change"][name])]
    });
    page.table(["", "ms", "ms, period before", "change"], rows.into(), "");
}

fn parts(page: &mut Page, parts: &[Value]) {
    page.heading("Over time");
    let row = |part: &Value| {
        [
            text(&part["from"]).chars().take(16).collect::<String>().replace('T', " "),
            part["requests"].to_string(),
            part["failures"].to_string(),
            shown(&part["p50Ms"], 2),
            shown(&part["p95Ms"], 2),
            shown(&part["p99Ms"], 2),
            part["poolMost"].to_string(),
            part["poolWaiting"].to_string(),
            bytes(&part["memoryBytes"]),
            bytes(&part["hostMemoryBytes"]),
            shown(&part["hostCores"], 2),
        ]
    };
    let head = [
        "from (UTC)",
        "requests",
        "failed",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "connections, most",
        "waiting, most",
        "memory, bytes",
        "host's memory, bytes",
        "host's cores",
    ];
    let seen = parts.iter().filter(|part| number(&part["observedSeconds"]) > 0.0);
    page.table(head, seen.map(row).collect(), "Nothing was looked at.");
}

fn wrong(page: &mut Page, report: &Value) {
    page.heading("Violations of baselines, and other alerts");
    let row = |alert: &Value| {
        let query = &alert["query"];
        [
            text(&alert["level"]),
            text(&alert["since"]),
            alert["until"].as_str().unwrap_or("–").to_owned(),
            text(&alert["message"]),
            text(&query["text"]),
            text(&query["advice"]),
        ]
    };
    let head = ["level", "since", "until", "what", "query", "advice"];
    page.table(head, rows(&report["alerts"]).iter().map(row).collect(), "None.");
    page.heading("Errors");
    let row = |name: &'static str| move |error: &Value| [text(&error[name]), error["count"].to_string()];
    page.table(
        ["code", "times"],
        rows(&report["errors"]).iter().map(row("code")).collect(),
        "None of Neo4j's.",
    );
    let refusals = rows(&report["refusals"]).iter().map(row("reason")).collect();
    page.table(["refused by Sidebolt because of", "times"], refusals, "None of Sidebolt's.");
}

fn capacity(page: &mut Page, capacity: &Value) {
    page.heading("Capacity");
    let until = |value: &Value| {
        value.as_f64().map_or_else(|| "not in sight".to_owned(), |days| format!("{days} days"))
    };
    let signed = |value: &Value, unit: f64| {
        value.as_f64().map_or_else(|| "no trend".to_owned(), |growth| format!("{:+.1}", growth / unit))
    };
    let rows = vec![
        [
            "connections to Neo4j".to_owned(),
            percent(&capacity["poolShare"]),
            signed(&capacity["poolGrowthPerDay"], 1.0),
            until(&capacity["daysToFullPool"]),
        ],
        [
            "memory of the host, MB".to_owned(),
            percent(&capacity["memoryShare"]),
            signed(&capacity["memoryGrowthBytesPerDay"], 1e6),
            until(&capacity["daysToFullMemory"]),
        ],
        [
            "memory of Sidebolt, MB".to_owned(),
            bytes(&capacity["ownMemoryBytes"]),
            signed(&capacity["ownMemoryGrowthBytesPerDay"], 1e6),
            "–".to_owned(),
        ],
        ["open files".to_owned(), percent(&capacity["filesShare"]), "–".to_owned(), "–".to_owned()],
        [
            "requests a second".to_owned(),
            "–".to_owned(),
            signed(&capacity["requestsPerSecondGrowthPerDay"], 1.0),
            "–".to_owned(),
        ],
    ];
    page.table(["", "used at most", "growth a day", "full in"], rows, "");
}

fn queries(page: &mut Page, queries: &[Value]) {
    page.heading("Queries that took most time");
    let row = |query: &Value| {
        [
            text(&query["text"]),
            text(&query["user"]),
            query["calls"].to_string(),
            query["failures"].to_string(),
            shown(&query["totalMs"], 1),
            shown(&query["meanMs"], 3),
            times(&query["change"]),
        ]
    };
    let head = ["query", "user", "calls", "failed", "total ms", "mean ms", "change"];
    page.table(head, queries.iter().map(row).collect(), "None.");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_is_a_page_whatever_it_lacks() {
        let report = json!({
            "period": "weekly", "from": "2026-11-14T19:00:00.000Z", "to": "T",
            "totals": {"requests": 12, "failures": 1, "cached": 0, "batched": 0, "observedSeconds": 60, "p50Ms": 1.5},
            "before": null, "change": {"p50": 2.0},
            "parts": [{"from": "2026-11-14T19:00:00.000Z", "observedSeconds": 60, "requests": 12, "p50Ms": 1.5, "memoryBytes": 5e6}],
            "alerts": [{"level": "critical", "since": "S", "until": null, "message": "Slow.", "query": {"text": "MATCH", "advice": "CREATE INDEX"}}],
            "errors": [{"code": "Neo.X", "count": 3}], "refusals": [],
            "capacity": {"poolShare": 0.5, "daysToFullPool": 3.5, "poolGrowthPerDay": 1.0},
            "queries": [{"text": "MATCH", "user": "ann", "calls": 3, "totalMs": 4.0, "meanMs": 2.0, "change": 1.7}],
            "recommendations": ["Do it."],
        });
        let page = page(&report).markdown();
        for words in [
            "# Sidebolt, weekly report",
            "12 requests, 1 failed",
            "| p50 | 1.500 | – | 2.00 × |",
            "| 2026-11-14 19:00 | 12 |",
            "| critical | S | – | Slow. | MATCH | CREATE INDEX |",
            "| Neo.X | 3 |",
            "None of Sidebolt's.",
            "| connections to Neo4j | 50.0 % | +1.0 | 3.5 days |",
            "| MATCH | ann | 3 |",
            "- Do it.",
        ] {
            assert!(page.contains(words), "{words}: {page}");
        }
        let empty = super::page(&Value::Null).html();
        assert!(empty.contains("Nothing is known.") && empty.contains("Nothing was looked at."), "{empty}");
    }
}
