//! `sidebolt advise`: what the load of the last hour says about the configuration.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde_json::Value;

use crate::admin::request_json;
use crate::cli::AdviseArgs;

/// Prints it.
pub async fn advise(args: &AdviseArgs) -> ExitCode {
    match request_json(&args.admin, &args.config, "/api/advise").await {
        Ok(advice) => {
            let text = if args.json { format!("{advice:#}\n") } else { in_words(&advice) };
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Lines for proxy.yaml, each with its reason.
fn in_words(advice: &Value) -> String {
    let mut text = format!("# From {} requests in {} seconds.\n", advice["requests"], advice["seconds"]);
    let entries = advice["advice"].as_array().map(Vec::as_slice).unwrap_or_default();
    if advice["enough"] != true {
        text.push_str(
            "# Too little was seen to say anything: a minute and a thousand requests are needed.\n",
        );
    } else if entries.is_empty() {
        text.push_str("# Nothing to change.\n");
    }
    let mut section = "";
    for entry in entries {
        let (key, why) = (plain(&entry["key"]), plain(&entry["why"]));
        let (name, key) = key.split_once('.').unwrap_or(("", key));
        if name != section {
            let _ = writeln!(text, "{name}:");
            section = name;
        }
        let _ = writeln!(text, "  # {why} (now {}).", shown(&entry["now"]));
        let _ = writeln!(text, "  {key}: {}", shown(&entry["better"]));
    }
    text
}

fn plain(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A value as it stands in YAML.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(shown).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::{Config, Sources};

    #[test]
    fn what_is_advised_is_a_configuration() {
        let advice = json!({ "seconds": 300, "requests": 30_000, "enough": true, "advice": [
            { "key": "pool.max_connection_pool_size", "now": 100, "better": 15, "why": "few are used" },
            { "key": "guard.adaptive", "now": false, "better": true, "why": "nothing limits" },
            { "key": "guard.limits", "now": [], "better": ["{name: each user, per: principal, rate: 300/s}"], "why": "a loop" },
            { "key": "guard.max_memory", "now": 0, "better": "64MiB", "why": "30 MiB at most" },
        ]});
        let text = in_words(&advice);
        assert!(
            text.contains("# From 30000 requests in 300 seconds.\npool:\n  # few are used (now 100).\n"),
            "{text}"
        );
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("proxy.yaml");
        std::fs::write(&file, &text).expect("a file");
        let loaded = Config::load(&Sources { file: Some(file), ..Sources::default() }).expect("it is read");
        let config = loaded.config;
        assert_eq!(config.pool.max_connection_pool_size, 15);
        assert_eq!((config.guard.adaptive, config.guard.max_memory), (true, 64 << 20));
        assert_eq!(config.guard.limits.len(), 1);
    }

    #[test]
    fn little_is_said_to_be_little() {
        let advice = json!({ "seconds": 3, "requests": 7, "enough": false, "advice": [] });
        assert!(in_words(&advice).contains("Too little was seen"));
    }
}
