//! `sidebolt report`: the last hour of a running Sidebolt, or its last day, week or month, as Markdown, HTML or JSON.

mod page;
mod period;

use std::process::ExitCode;

use serde_json::{Value, json};

use self::page::Page;
use crate::admin::request_json;
use crate::cli::ReportArgs;

/// Prints the report.
pub async fn report(args: &ReportArgs) -> ExitCode {
    let period = args.period();
    let gathered = match period {
        Some(name) => ask(args, &format!("/api/report?period={name}")).await,
        None => gather(args).await,
    };
    match gathered {
        Ok(report) => {
            let page = || if period.is_some() { period::page(&report) } else { hour(&report) };
            let text = match (args.json, args.html) {
                (true, _) => format!("{report:#}"),
                (_, true) => page().html(),
                _ => page().markdown(),
            };
            println!("{}", text.trim_end());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn ask(args: &ReportArgs, path: &str) -> Result<Value, String> {
    request_json(&args.admin, &args.config, path).await
}

async fn gather(args: &ReportArgs) -> Result<Value, String> {
    let read = async |path: &str| ask(args, path).await;
    let resources = read("/api/resources?seconds=3600").await?;
    let overview = read("/api/overview").await?;
    let most: f64 = rows(&overview["pools"]).iter().map(|pool| number(&pool["most"])).sum();
    Ok(json!({
        "load": load(rows(&resources)),
        "capacity": capacity(rows(&resources), most),
        "overview": overview,
        "alerts": read("/api/alerts").await?,
        "queries": read(&format!("/api/queries?limit={}", args.rows)).await?,
        "baselines": read(&format!("/api/baselines?limit={}", args.rows)).await?,
        "slow": read(&format!("/api/slow?limit={}", args.rows)).await?,
    }))
}

fn rows(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}

fn largest(seconds: &[Value], name: &str) -> f64 {
    seconds.iter().map(|second| number(&second[name])).fold(0.0, f64::max)
}

/// What went through, each tenth of the time apart: sums, and the worst percentiles of a second.
fn load(seconds: &[Value]) -> Value {
    let part = |seconds: &[Value]| {
        let sum = |name: &str| seconds.iter().map(|second| number(&second[name])).sum::<f64>();
        json!({
            "from": seconds.first().map(|second| second["time"].clone()),
            "seconds": seconds.len(),
            "requests": sum("requests"),
            "failures": sum("failures"),
            "cached": sum("cached"),
            "batched": sum("batched"),
            "worstP50Ms": largest(seconds, "p50_ms"),
            "worstP99Ms": largest(seconds, "p99_ms"),
        })
    };
    let parts: Vec<Value> = seconds.chunks(seconds.len().div_ceil(10).max(1)).map(part).collect();
    json!({ "all": part(seconds), "parts": parts })
}

/// How much of what there is was used at most, and when it will be used up if that goes on.
fn capacity(seconds: &[Value], connections: f64) -> Value {
    let last = seconds.last().unwrap_or(&Value::Null);
    let share = |used: f64, all: f64| if all > 0.0 { Some(used / all) } else { None };
    let growth = growth(seconds, "host_memory_used");
    let free = number(&last["host_memory"]) - number(&last["host_memory_used"]);
    // Less than a megabyte an hour is noise.
    let hours = (growth > 1e6 && free > 0.0).then(|| (free / growth * 10.0).round() / 10.0);
    json!({
        "poolShare": share(largest(seconds, "pool_lent"), connections),
        "poolWaiting": largest(seconds, "pool_waiting"),
        "memoryShare": share(largest(seconds, "host_memory_used"), number(&last["host_memory"])),
        "memoryGrowthBytesPerHour": growth.round(),
        "hoursToFullMemory": hours,
        "filesShare": share(largest(seconds, "files"), number(&last["files_most"])),
        "hostCores": largest(seconds, "host_cores"),
        "processCores": largest(seconds, "process_cores"),
    })
}

/// How much something grows in an hour: the slope of the straight line through all seconds.
fn growth(seconds: &[Value], name: &str) -> f64 {
    let count = seconds.len() as f64;
    if seconds.len() < 60 {
        return 0.0;
    }
    let mean_at = (count - 1.0) / 2.0;
    let mean = seconds.iter().map(|second| number(&second[name])).sum::<f64>() / count;
    let (mut both, mut own) = (0.0, 0.0);
    for (at, second) in seconds.iter().enumerate() {
        let off = at as f64 - mean_at;
        both += off * (number(&second[name]) - mean);
        own += off * off;
    }
    both / own * 3600.0
}

/// A text; nothing where there is none.
fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The last hour as a page.
fn hour(report: &Value) -> Page {
    let mut page = Page::default();
    let (overview, load) = (&report["overview"], &report["load"]);
    let all = &load["all"];
    page.title(format!("Sidebolt, {}", text(&overview["time"])));
    page.sentence(format!(
        "{} · {:.0} s are looked at · {:.0} requests, {:.0} failed, {:.0} from the cache, {:.0} in batches",
        text(&overview["upstream"]),
        number(&all["seconds"]),
        number(&all["requests"]),
        number(&all["failures"]),
        number(&all["cached"]),
        number(&all["batched"])
    ));
    page.heading("Load");
    let row = |part: &Value| {
        let [seconds, requests, failures] =
            ["seconds", "requests", "failures"].map(|name| format!("{:.0}", number(&part[name])));
        let [p50, p99] = ["worstP50Ms", "worstP99Ms"].map(|name| format!("{:.2}", number(&part[name])));
        [seconds, requests, failures, p50, p99]
    };
    let head = ["seconds", "requests", "failed", "worst p50 ms", "worst p99 ms"];
    page.table(head, rows(&load["parts"]).iter().map(row).collect(), "Nothing was looked at.");
    page.heading("Alerts");
    let alerts = [&report["alerts"]["active"], &report["alerts"]["past"]].into_iter().flat_map(rows);
    let alert = |alert: &Value| {
        let [level, since, message] = ["level", "since", "message"].map(|name| text(&alert[name]));
        let until = alert["until"].as_str().unwrap_or("now");
        format!("{level}, {since} to {until}: {message} {}", text(&alert["query"]["text"]))
    };
    page.list(alerts.map(alert).collect(), "None.");
    page.heading("Capacity");
    page.sentence(used(&report["capacity"]));
    page.heading("Queries");
    let row = |query: &Value| {
        let [calls, failures] = ["calls", "failures"].map(|name| format!("{:.0}", number(&query[name])));
        let [total, p50, p99] =
            ["totalMs", "p50Ms", "p99Ms"].map(|name| format!("{:.2}", number(&query[name])));
        [text(&query["text"]), calls, total, p50, p99, failures]
    };
    let head = ["query", "calls", "total ms", "p50 ms", "p99 ms", "failed"];
    page.table(head, rows(&report["queries"]).iter().map(row).collect(), "None.");
    page.heading("What could be done");
    page.list(recommendations(report), "Nothing is known.");
    page
}

/// How much of what there is was used, in words.
fn used(capacity: &Value) -> String {
    let percent = |name: &str| {
        capacity[name].as_f64().map_or_else(|| "?".to_owned(), |share| format!("{:.0} %", share * 100.0))
    };
    let full = capacity["hoursToFullMemory"].as_f64();
    format!(
        "At most {} of the connections to Neo4j were in use ({:.0} requests waited), {} of the host's memory, {} of the open files; \
         the host's memory grows by {:.0} MB an hour{}.",
        percent("poolShare"),
        number(&capacity["poolWaiting"]),
        percent("memoryShare"),
        percent("filesShare"),
        number(&capacity["memoryGrowthBytesPerHour"]) / 1e6,
        full.map_or_else(String::new, |hours| format!(" and is full in {hours} h"))
    )
}

fn recommendations(report: &Value) -> Vec<String> {
    let mut said = Vec::new();
    for query in rows(&report["queries"]).iter().filter(|query| query["advice"].is_string()) {
        said.push(format!("{}: {}", text(&query["text"]), text(&query["advice"])));
    }
    let capacity = &report["capacity"];
    if number(&capacity["poolShare"]) > 0.8 || number(&capacity["poolWaiting"]) > 0.0 {
        said.push("Connections to Neo4j were short: raise pool.max_connection_pool_size if Neo4j has threads to spare.".to_owned());
    }
    if number(&capacity["memoryShare"]) > 0.8 {
        said.push("Memory was short: give the host more, or lower cache.capacity.".to_owned());
    }
    if number(&capacity["filesShare"]) > 0.8 {
        said.push("Open files were short: raise the limit (ulimit -n).".to_owned());
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Vec<Value> {
        let second = |at: u64| {
            json!({
                "time": at, "requests": 2, "failures": at % 2, "p50_ms": 1.0, "p99_ms": at, "pool_lent": 9,
                "host_memory": 10_000_000_000u64, "host_memory_used": 4_000_000_000u64 + at * 1_000_000,
            })
        };
        (0..count).map(second).collect()
    }

    #[test]
    fn load_and_growth_are_summed_up() {
        let load = load(&seconds(100));
        assert_eq!((&load["all"]["requests"], &load["all"]["failures"]), (&200.0.into(), &50.0.into()));
        assert_eq!((rows(&load["parts"]).len(), &load["parts"][9]["worstP99Ms"]), (10, &99.0.into()));
        let capacity = capacity(&seconds(600), 10.0);
        assert_eq!(capacity["memoryGrowthBytesPerHour"], 3.6e9);
        let hours = number(&capacity["hoursToFullMemory"]);
        assert!((hours - 1.5).abs() < 0.01, "{capacity}");
        assert_eq!(capacity["poolShare"], 0.9);
        assert_eq!(super::capacity(&seconds(30), 0.0)["hoursToFullMemory"], Value::Null);
        assert_eq!(super::load(&[])["parts"], Value::Array(vec![]));
    }

    #[test]
    fn the_page_says_what_could_be_done() {
        let report = json!({
            "overview": {"time": "T", "upstream": "bolt://x"},
            "load": load(&seconds(100)),
            "capacity": capacity(&seconds(600), 10.0),
            "alerts": {"active": [{"level": "critical", "since": "S", "message": "Slow.", "until": null}], "past": []},
            "queries": [{"text": "MATCH (a|b)", "calls": 3, "advice": "Create the index: CREATE INDEX"}],
        });
        let page = hour(&report).markdown();
        for words in [
            "200 requests, 50 failed",
            "critical, S to now: Slow.",
            "| MATCH (a\\|b) | 3 |",
            "full in 1.5 h",
            "- MATCH (a|b): Create the index: CREATE INDEX",
            "raise pool.max_connection_pool_size",
        ] {
            assert!(page.contains(words), "{words}: {page}");
        }
        assert!(hour(&Value::Null).html().contains("Nothing is known."));
    }
}
