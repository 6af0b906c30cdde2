//! The configuration in force, as YAML that can be read again; secrets are masked.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::schema::{keys, lookup};
use super::{Config, Loaded};

impl Loaded {
    /// Every key with its value, and where it was set unless it is the default.
    pub fn effective(&self) -> String {
        show(&self.config, &self.origins)
    }
}

fn show(config: &Config, origins: &BTreeMap<String, String>) -> String {
    let values = serde_json::to_value(config).unwrap_or_default();
    let mut yaml = String::new();
    let (mut section, mut inner) = ("", "");
    for key in keys() {
        let (parent, name) = key.path.rsplit_once('.').unwrap_or(("", &key.path));
        let off = |section: &str| match section {
            "listen.tls" => config.listen.tls.is_none(),
            "admin.tls" => config.admin.tls.is_none(),
            _ => false,
        };
        if off(parent) {
            continue;
        }
        let top = parent.split('.').next().unwrap_or(parent);
        if parent.is_empty() {
            // A list may stand alone.
            section = "";
            let origin = origins.get(&key.path).map_or_else(String::new, |origin| format!(" # {origin}"));
            let _ = writeln!(yaml, "{name}: {}{origin}", lookup(&values, &key.path).unwrap_or_default());
            continue;
        }
        if top != section {
            section = top;
            let _ = writeln!(yaml, "{section}:");
        }
        // A section inside of one has a line of its own, unless it is a key that may be off.
        if parent.contains('.') && parent != inner && !keys().iter().any(|key| key.path == parent) {
            inner = parent;
            let name = parent.rsplit('.').next().unwrap_or(parent);
            let _ = writeln!(yaml, "{}{name}:", "  ".repeat(parent.matches('.').count()));
        }
        let indent = "  ".repeat(key.path.matches('.').count());
        let origin = origins.get(&key.path).map_or_else(String::new, |origin| format!(" # {origin}"));
        let _ = match lookup(&values, &key.path) {
            Some(_) if key.path.ends_with(".tls") && !off(&key.path) => {
                writeln!(yaml, "{indent}{name}:")
            }
            // A list is shown as JSON, which is YAML too.
            Some(value) if key.unit == "list" => writeln!(yaml, "{indent}{name}: {value}{origin}"),
            Some(value) => writeln!(yaml, "{indent}{name}: {}{origin}", scalar(&value)),
            None => writeln!(yaml, "{indent}# {name}: not set"),
        };
    }
    yaml
}

/// A text as YAML, in quotes unless it surely needs none.
fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || " _-./:+,".contains(c);
    let safe = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && text.chars().all(plain)
        && !text.contains(": ")
        && !text.ends_with([' ', ':'])
        && !matches!(text, "null" | "Null" | "NULL");
    if safe || text.parse::<f64>().is_ok() { text.to_owned() } else { format!("{text:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Secret, Sources};

    #[test]
    fn what_is_shown_reads_back_as_the_same() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (file, pem) = (directory.path().join("proxy.yaml"), directory.path().join("x y.pem"));
        std::fs::write(&pem, "x").expect("a file");
        let yaml = format!(
            "listen:\n  tls: {{cert_file: '{0}', key_file: '{0}', required: true}}\n  max_login_message: 1025\n\
             upstream: {{uri: 'neo4j://[::1]:1?a=b', fetch_size: -1}}\npool: {{idle_timeout: 1h 30m}}\n\
             auth: {{mode: service, username: '~ : #\"', password: hunter2}}\nadmin: {{address: off}}\n\
             indexes:\n- {{label: 'A `b`: #', properties: [id, \"x y\"], unique: yes}}\n\
             guard:\n  limits:\n  - {{name: 'a: #', per: principal, rate: 10/m, when: {{text: 'x \"y\"'}}}}\n\
             cache: {{rules: [{{when: {{label: 'A: #'}}, ttl: 5s}}]}}\n",
            pem.display()
        );
        std::fs::write(&file, yaml).expect("a file");
        let sources = Sources { file: Some(file.clone()), ..Sources::default() };
        let mut loaded = Config::load(&sources).unwrap_or_else(|e| panic!("{e}"));
        let shown = loaded.effective();
        assert!(!shown.contains("hunter2") && shown.contains("  password: \"***\" # "), "{shown}");
        assert!(
            shown.contains("  max_login_message: 1025 # ") && shown.contains("proxy.yaml:3\n"),
            "{shown}"
        );
        assert!(shown.contains("  # password_file: not set\n"), "{shown}");
        std::fs::write(&file, &shown).expect("a file");
        let again = Config::load(&sources).unwrap_or_else(|e| panic!("{e}\n{shown}"));
        loaded.config.auth.password = Some(Secret("***".to_owned()));
        assert_eq!(again.config, loaded.config);
    }

    #[test]
    fn defaults_are_shown_without_origin() {
        let loaded = Config::load(&Sources::default()).expect("defaults");
        let shown = loaded.effective();
        assert!(
            shown.starts_with(
                "listen:\n  address: 127.0.0.1:7687\n  # advertised_address: not set\n  tls: off\n"
            ),
            "{shown}"
        );
        assert_eq!(shown.lines().filter(|line| !line.starts_with(' ')).count(), 17);
    }
}
