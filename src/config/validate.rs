//! What the types cannot say: ranges, keys that need each other, files that must be readable.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use super::schema::{Key, keys, lookup};
use super::tree::{Node, Origin};
use super::units::{parse_duration, parse_size};
use super::uri::{TlsTrust, UpstreamUri, host_and_port};
use super::{AuthMode, Config, Index};
use crate::sight::Target;
use crate::{logging, matching};

/// One thing that a check found.
pub(super) struct Finding {
    pub(super) key: String,
    /// Where to point; none = the place of `key`.
    pub(super) at: Option<String>,
    pub(super) message: String,
    pub(super) hint: String,
}

/// Checks a configuration whose keys in `faulty` are already known to be wrong and stand at their defaults.
pub(super) fn check(config: &Config, tree: &Node, faulty: &HashSet<String>) -> (Vec<Finding>, Vec<String>) {
    let mut checker = Checker { config, tree, faulty, findings: Vec::new() };
    checker.ranges();
    checker.listen();
    checker.upstream();
    checker.pool();
    checker.auth();
    checker.indexes();
    checker.guard();
    checker.cache_rules();
    checker.sight();
    checker.log();
    checker.files();
    (checker.findings, warnings(config))
}

/// What is allowed but hardly meant.
fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    let open = !config.listen.address.ip().is_loopback();
    if config.auth.mode == AuthMode::Service
        && open
        && config.auth.client_token.is_none()
        && config.auth.users.is_none()
    {
        warnings.push(format!(
            "listen.address {} is open to other machines, but without auth.client_token or auth.users_file only loopback clients are let in",
            config.listen.address
        ));
    }
    if config.admin.address.is_some_and(|admin| !admin.ip().is_loopback()) {
        warnings.push("admin.address is open to other machines and has no login".to_owned());
    }
    if config.telemetry.otlp.endpoint.is_some() && !cfg!(feature = "otel") {
        warnings.push(
            "telemetry.otlp.endpoint has no effect: this program was built without the feature otel"
                .to_owned(),
        );
    }
    if config.telemetry.otlp.endpoint.is_some() && !config.sight.enabled {
        warnings.push("telemetry.otlp.endpoint has no effect without sight.enabled".to_owned());
    }
    warnings
}

struct Checker<'a> {
    config: &'a Config,
    tree: &'a Node,
    faulty: &'a HashSet<String>,
    findings: Vec<Finding>,
}

impl Checker<'_> {
    fn fail(&mut self, key: &str, message: impl Into<String>, hint: impl Into<String>) {
        self.findings.push(Finding {
            key: key.to_owned(),
            at: None,
            message: message.into(),
            hint: hint.into(),
        });
    }

    /// A key is missing because of what another key says: points there.
    fn missing(&mut self, key: &str, because: &str, message: impl Into<String>, hint: impl Into<String>) {
        // A wrong key in the same section may well be the one that is missed.
        let section = |key: &str| key.rsplit_once('.').map(|(section, _)| section.to_owned());
        if !self.faulty.iter().any(|faulty| section(faulty) == section(key)) {
            let at = Some(because.to_owned());
            self.findings.push(Finding {
                key: key.to_owned(),
                at,
                message: message.into(),
                hint: hint.into(),
            });
        }
    }

    fn ranges(&mut self) {
        let values = serde_json::to_value(self.config).unwrap_or_default();
        for key in keys() {
            let Some((min, max)) = &key.range else { continue };
            let Some(value) = lookup(&values, &key.path) else { continue };
            let bounds = measure(key, min).zip(measure(key, max));
            let inside = measure(key, &value)
                .zip(bounds)
                .is_some_and(|(value, (min, max))| min <= value && value <= max);
            if !inside {
                self.fail(&key.path, format!("{value} is out of range"), key.takes());
            }
        }
    }

    fn listen(&mut self) {
        let listen = &self.config.listen;
        if listen.address.port() == 0 && matches!(self.origin("listen.address"), Some(Origin::File { .. })) {
            self.fail(
                "listen.address",
                "port 0 takes any free port",
                "name the port that drivers use, such as 7687",
            );
        }
        if let Some(advertised) = &listen.advertised_address
            && host_and_port(advertised).is_err()
        {
            self.fail(
                "listen.advertised_address",
                format!("`{advertised}` is not host:port"),
                "write host:port, for example db.example:7687",
            );
        }
        if let (Some(admin), address) = (self.config.admin.address, listen.address)
            && admin == address
            && address.port() != 0
        {
            let (key, other) = match self.tree.at("admin.address") {
                Some(_) => ("admin.address", "listen.address"),
                None => ("listen.address", "admin.address"),
            };
            self.fail(key, format!("is the same as {other}"), "choose another port for one of the two");
        }
    }

    fn upstream(&mut self) {
        let upstream = &self.config.upstream;
        match UpstreamUri::parse(&upstream.uri) {
            Err(error) => self.fail("upstream.uri", error.message, error.hint),
            Ok(uri) => {
                if upstream.ca_file.is_some() && uri.tls != TlsTrust::Verify {
                    let hint = "use bolt+s:// or neo4j+s://, or remove ca_file";
                    self.fail("upstream.ca_file", format!("has no effect with {}://", uri.scheme), hint);
                }
                if upstream.cert_file.is_some() && uri.tls == TlsTrust::Off {
                    let hint = "use a scheme with +s or +ssc, or remove cert_file and key_file";
                    self.fail("upstream.cert_file", format!("has no effect with {}://", uri.scheme), hint);
                }
            }
        }
        let (cert, key) = ("upstream.cert_file", "upstream.key_file");
        match (&upstream.cert_file, &upstream.key_file) {
            (Some(_), None) => {
                self.missing(key, cert, "is missing, but cert_file is given", "name the key's PEM file")
            }
            (None, Some(_)) => {
                self.missing(
                    cert,
                    key,
                    "is missing, but key_file is given",
                    "name the certificate's PEM file",
                );
            }
            _ => {}
        }
        if !upstream.keep_alive.is_zero() && upstream.keep_alive.as_secs() == 0 {
            self.fail("upstream.keep_alive", "is less than one second", "write 1s or more, or 0s for off");
        }
        if upstream.fetch_size == 0 {
            self.fail("upstream.fetch_size", "would fetch nothing", "write 1 or more, or -1 for all at once");
        }
    }

    fn pool(&mut self) {
        let (pool, auth) = (&self.config.pool, &self.config.auth);
        if pool.min_idle > pool.max_connection_pool_size {
            let message = format!(
                "{} is more than pool.max_connection_pool_size {}",
                pool.min_idle, pool.max_connection_pool_size
            );
            self.fail("pool.min_idle", message, "keep fewer connections idle, or allow more");
        }
        if pool.min_idle > 0 && auth.mode == AuthMode::Passthrough {
            let hint = "set auth.username and auth.password_file, or min_idle: 0";
            if auth.username.is_none() {
                self.missing(
                    "auth.username",
                    "pool.min_idle",
                    "is missing, but pool.min_idle needs it",
                    hint,
                );
            } else if auth.password.is_none() {
                self.missing(
                    "auth.password",
                    "pool.min_idle",
                    "is missing, but pool.min_idle needs it",
                    hint,
                );
            }
        }
    }

    fn auth(&mut self) {
        let auth = &self.config.auth;
        match auth.mode {
            AuthMode::Service => {
                let because = "auth.mode";
                if auth.username.is_none() {
                    let hint = "set auth.username or NEO4J_USERNAME";
                    self.missing("auth.username", because, "is missing, but mode `service` needs it", hint);
                }
                if auth.password.is_none() {
                    let hint = "set auth.password_file or NEO4J_PASSWORD";
                    self.missing("auth.password", because, "is missing, but mode `service` needs it", hint);
                }
                if auth.users.is_some() && auth.client_token.is_some() {
                    self.fail("auth.users_file", "is given beside auth.client_token", "give one of the two");
                }
            }
            AuthMode::Passthrough => {
                let idle = if auth.users_file.is_some() {
                    Some("auth.users_file")
                } else if auth.client_token_file.is_some() {
                    Some("auth.client_token_file")
                } else {
                    auth.client_token.is_some().then_some("auth.client_token")
                };
                if let Some(key) = idle
                    && !self.faulty.contains("auth.mode")
                {
                    let hint = "set auth.mode: service, or remove it";
                    self.fail(
                        key,
                        "has no effect with mode `passthrough`, in which Neo4j checks the clients",
                        hint,
                    );
                }
            }
        }
        if auth.username.as_ref().is_some_and(String::is_empty) {
            self.fail("auth.username", "is empty", "name a user, or remove the key");
        }
    }

    fn indexes(&mut self) {
        if self.faulty.iter().any(|key| key.starts_with("indexes")) {
            return;
        }
        let indexes = &self.config.indexes;
        for (at, index) in indexes.iter().enumerate() {
            let key = format!("indexes.[{at}]");
            let earlier = indexes.iter().take(at).enumerate();
            let same = earlier.clone().find(|(_, other)| is_about_the_same(index, other));
            let taken = earlier.clone().find(|(_, other)| {
                index.name.is_some() && (&index.name, &index.database) == (&other.name, &other.database)
            });
            let (what, hint) = if let Some(found) = fault_of(index) {
                found
            } else if let Some((first, other)) = same {
                let hint = match index.unique == other.unique {
                    true => "remove one of the two",
                    false => "keep the one with unique: true, which has an index of its own",
                };
                (format!("is about the same as indexes[{first}]"), hint)
            } else if let Some((first, _)) = taken {
                (format!("has the name of indexes[{first}]"), "give each its own name, or none")
            } else {
                continue;
            };
            self.fail(&key, what, hint);
        }
    }

    fn guard(&mut self) {
        for (key, what, hint) in self.config.guard.faults() {
            self.fail(&key, what, hint);
        }
    }

    fn cache_rules(&mut self) {
        if self.faulty.iter().any(|key| key.starts_with("cache.rules")) {
            return;
        }
        let rules = &self.config.cache.rules;
        if rules.len() > matching::MOST {
            let hint = format!(
                "keep at most {}: one rule can have a regular expression for several texts",
                matching::MOST
            );
            self.fail("cache.rules", format!("has {} entries", rules.len()), hint);
        }
        for (at, rule) in rules.iter().enumerate() {
            let key = format!("cache.rules.[{at}]");
            if let Err((name, what, hint)) = matching::check(&rule.when) {
                self.fail(&format!("{key}.when.{name}"), what, hint);
            }
            for (name, span) in [("max_staleness", rule.max_staleness), ("ttl", rule.ttl)] {
                let longest = Duration::from_secs(24 * 3600);
                if span.is_some_and(|span| span.is_zero() || span > longest) {
                    self.fail(
                        &format!("{key}.{name}"),
                        "is out of range",
                        "write a duration from 1ms to 24h",
                    );
                }
            }
        }
    }

    fn sight(&mut self) {
        let rules = self.config.sight.slow_rules.clone();
        if rules.len() > matching::MOST && !self.faulty.iter().any(|key| key.starts_with("sight.slow_rules"))
        {
            let hint = format!("keep at most {}", matching::MOST);
            self.fail("sight.slow_rules", format!("has {} entries", rules.len()), hint);
        }
        for (at, rule) in rules.iter().enumerate() {
            if let Err((name, what, hint)) = matching::check(&rule.when) {
                self.fail(&format!("sight.slow_rules.[{at}].when.{name}"), what, hint);
            }
        }
        let sight = &self.config.sight;
        let urls = [
            ("sight.webhook", &sight.webhook),
            ("sight.alertmanager", &sight.alertmanager),
            ("telemetry.otlp.endpoint", &self.config.telemetry.otlp.endpoint),
        ];
        for (key, url) in urls.map(|(key, url)| (key, url.clone())) {
            if let Some(Err(what)) = url.as_deref().map(Target::parse) {
                self.fail(
                    key,
                    format!("is no address to post to: {what}"),
                    "write http://host:port/path or https://…",
                );
            }
        }
    }

    fn log(&mut self) {
        if let Err(message) = logging::parse_level(&self.config.log.level) {
            let hint =
                "write error, warn, info, debug or trace, or a filter like info,sidebolt::upstream=debug";
            self.fail("log.level", message, hint);
        }
    }

    fn files(&mut self) {
        let (tls, admin) = (self.config.listen.tls.as_ref(), self.config.admin.tls.as_ref());
        let upstream = &self.config.upstream;
        let files = [
            ("listen.tls.cert_file", tls.map(|tls| &tls.cert_file)),
            ("listen.tls.key_file", tls.map(|tls| &tls.key_file)),
            ("listen.tls.client_ca_file", tls.and_then(|tls| tls.client_ca_file.as_ref())),
            ("admin.tls.cert_file", admin.map(|tls| &tls.cert_file)),
            ("admin.tls.key_file", admin.map(|tls| &tls.key_file)),
            ("admin.tls.client_ca_file", admin.and_then(|tls| tls.client_ca_file.as_ref())),
            ("upstream.ca_file", upstream.ca_file.as_ref()),
            ("upstream.cert_file", upstream.cert_file.as_ref()),
            ("upstream.key_file", upstream.key_file.as_ref()),
        ];
        for (key, file) in files {
            if let Some(file) = file
                && let Err(message) = readable(file)
            {
                self.fail(key, message, "name a PEM file that this process may read");
            }
        }
    }

    fn origin(&self, key: &str) -> Option<&Origin> {
        self.tree.at(key).map(|node| &node.origin)
    }
}

/// What is wrong with an entry of `indexes` by itself, and what to do about it.
fn fault_of(index: &Index) -> Option<(String, &'static str)> {
    match (&index.label, &index.r#type) {
        (None, None) => {
            let hint = "name the label of the nodes, or the type of the relationships";
            return Some(("has neither label nor type".to_owned(), hint));
        }
        (Some(_), Some(_)) => {
            let hint = "an index is for nodes (label) or for relationships (type): make two entries of it";
            return Some(("has a label and a type".to_owned(), hint));
        }
        _ => {}
    }
    if index.properties.is_empty() {
        return Some(("has no properties".to_owned(), "name one or more, such as properties: [id]"));
    }
    let mut seen = HashSet::new();
    if let Some(twice) = index.properties.iter().find(|name| !seen.insert(*name)) {
        return Some((format!("names the property `{twice}` twice"), "remove one of the two"));
    }
    let names = [&index.label, &index.r#type, &index.name, &index.database].into_iter().flatten();
    for name in names.chain(&index.properties) {
        if name.is_empty() {
            return Some(("has an empty name".to_owned(), "write a name, or remove the key"));
        }
        if name.contains("\\u") || name.contains('\0') {
            let hint = "Cypher reads \\u inside a name as the beginning of another character: write that character itself";
            return Some((format!("has the name `{name}`, which cannot be written safely"), hint));
        }
    }
    None
}

/// Two entries that one index would serve.
fn is_about_the_same(one: &Index, other: &Index) -> bool {
    let of = |index: &Index| {
        (index.label.clone(), index.r#type.clone(), index.properties.clone(), index.database.clone())
    };
    of(one) == of(other)
}

/// A file can be opened and is one.
pub(super) fn readable(file: &Path) -> Result<(), String> {
    let problem = match std::fs::File::open(file).and_then(|file| file.metadata()) {
        Ok(metadata) if metadata.is_file() => return Ok(()),
        Ok(_) => "is not a file".to_owned(),
        Err(error) => reason(&error),
    };
    Err(format!("`{}` cannot be read: {problem}", file.display()))
}

/// The operating system's reason, without its number.
pub(super) fn reason(error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::NotFound => "no such file".to_owned(),
        ErrorKind::PermissionDenied => "permission denied".to_owned(),
        ErrorKind::IsADirectory => "is not a file".to_owned(),
        _ => error.to_string(),
    }
}

fn measure(key: &Key, text: &str) -> Option<f64> {
    match key.unit.as_str() {
        "duration" => parse_duration(text).ok().map(|duration| duration.as_secs_f64()),
        // Sizes and counts far below 2^53 are exact; those above are out of any range.
        "bytes" => parse_size(text).ok().map(|bytes| bytes as f64),
        _ => text.parse().ok(),
    }
}
