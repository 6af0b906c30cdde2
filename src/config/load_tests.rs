//! Precedence, secrets, places of errors, and the table of bad configurations with their exact texts.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::config::{AuthMode, ListenTls, LogFormat};

/// Sources made of a file's text, variables and overrides; the directory lives as long as they do.
struct Given {
    directory: TempDir,
    sources: Sources,
}

fn given(yaml: &str, environment: &[(&str, &str)], overrides: &[(&str, &str)]) -> Given {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("proxy.yaml");
    fs::write(&file, yaml).expect("a file");
    let sources = Sources {
        file: Some(file),
        environment: environment.iter().map(|(name, value)| (name.into(), value.into())).collect(),
        overrides: overrides
            .iter()
            .map(|(key, value)| Override {
                flag: "--set".to_owned(),
                key: (*key).to_owned(),
                value: (*value).to_owned(),
            })
            .collect(),
    };
    Given { directory, sources }
}

impl Given {
    fn config(&self) -> Config {
        Config::load(&self.sources).unwrap_or_else(|e| panic!("{e}")).config
    }

    /// The report with the temporary directory taken out.
    fn errors(&self) -> String {
        let report = Config::load(&self.sources).map_or_else(|e| e.to_string(), |_| "accepted".to_owned());
        report.replace(&format!("{}/", self.directory.path().display()), "")
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.directory.path().join(name), text).expect("a file");
    }
}

#[test]
fn the_shipped_file_equals_the_defaults() {
    let shipped = include_str!("../../proxy.yaml");
    assert_eq!(given(shipped, &[], &[]).config(), Config::default());
    assert_eq!(Config::load(&Sources::default()).map(|l| l.config), Ok(Config::default()));
    assert_eq!(given("", &[], &[]).config(), Config::default());
    assert_eq!(given("listen:\npool:\n", &[], &[]).config(), Config::default());
}

#[test]
fn the_shipped_file_shows_every_key_with_a_comment_and_its_default() {
    let lines: Vec<&str> = include_str!("../../proxy.yaml").lines().collect();
    let (mut section, mut inner) = ("", "");
    let mut seen = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        if !line.starts_with([' ', '#']) && line.ends_with(':') {
            (section, inner) = (line.trim_end_matches(':'), "");
        } else if let Some(name) = line.strip_prefix("  ").and_then(|line| line.strip_suffix(':'))
            && !name.starts_with([' ', '#'])
        {
            inner = name;
        } else if !inner.is_empty() && !line.starts_with("    ") {
            inner = "";
        }
        let written = line.trim_start().trim_start_matches("# ");
        let Some((name, value)) = written.split_once(": ") else { continue };
        let in_tls = ["cert_file", "key_file", "client_ca_file", "required"].contains(&name)
            && ["listen", "admin"].contains(&section);
        let path = match line.starts_with([' ', '#']) {
            true if in_tls => format!("{section}.tls.{name}"),
            true if !inner.is_empty() => format!("{section}.{inner}.{name}"),
            true => format!("{section}.{name}"),
            false => name.to_owned(),
        };
        let Some(key) = schema::key(&path) else { continue };
        let comment = lines[index - 1].trim_start();
        assert!(comment.starts_with("# ") && comment.contains("efault"), "{path}: {comment}");
        assert_eq!(comment.contains("(restart)"), key.restart, "{path}: {comment}");
        let live = !line.trim_start().starts_with('#');
        if live {
            assert_eq!(Some(value), key.default.as_deref(), "{path}");
            assert!(comment.contains(&format!("Default {value}.")), "{path}: {comment}");
        }
        assert_eq!(live, key.default.is_some() && !in_tls, "{path}");
        seen.push(path);
    }
    let all: Vec<&str> = keys().iter().map(|key| key.path.as_str()).collect();
    assert_eq!(seen, all);
}

#[test]
fn the_shipped_file_works_with_every_comment_taken_off() {
    let mut yaml = String::new();
    for line in include_str!("../../proxy.yaml").lines() {
        let text = line.trim_start();
        let key = text.trim_start_matches("# ");
        let is_key = key.split_once(':').is_some_and(|(name, _)| {
            name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') && !text.contains(". ")
        });
        if is_key
            && line != "  tls: off"
            && !key.starts_with("password_file")
            && !key.starts_with("client_token_file")
            && !key.starts_with("token_file")
            && !key.starts_with("users_file")
        {
            yaml.push_str(&line.replacen("# ", "", 1));
            yaml.push('\n');
        }
    }
    let yaml = yaml.replace("bolt://neo4j", "neo4j+s://neo4j").replace("passthrough", "service");
    let given = given(&yaml, &[], &[]);
    for file in ["server.pem", "server.key", "clients.pem", "ca.pem", "client.pem", "client.key"] {
        given.write(file, "x");
    }
    let config = given.config();
    assert!(
        config.listen.tls.is_some()
            && config.admin.tls.is_some()
            && config.auth.client_token.is_some()
            && config.upstream.ca_file.is_some()
    );
    assert_eq!(config.listen.advertised_address.as_deref(), Some("db.example:7687"));
}

#[test]
fn later_layers_overrule_earlier_ones() {
    let yaml = "pool:\n  min_idle: 1\n  max_waiting: 1\n  max_connection_pool_size: 1\nauth: {username: u, password: p}\n";
    let environment = [("SIDEBOLT_POOL__MAX_WAITING", "2"), ("NEO4J_MAX_POOL_SIZE", "2")];
    let config = given(yaml, &environment, &[("pool.max_connection_pool_size", "3")]).config();
    let pool = config.pool;
    assert_eq!((pool.min_idle, pool.max_waiting, pool.max_connection_pool_size), (1, 2, 3));
    assert_eq!(pool.idle_timeout, Duration::from_secs(600));
}

#[test]
fn every_way_of_writing_is_read() {
    let yaml = "
listen: {address: localhost:1, websocket: off, max_login_message: 16MB, max_connections: 1_000}
pool: {lifetime_jitter: 0, idle_timeout: 1h 30m}
admin: {address: off}
log: {level: debug, format: json}
auth: {username: 0123, password: 1e999}
upstream: {uri: 'neo4j://[::1]?region=eu', fetch_size: -1, read_timeout: 0}
";
    let config = given(yaml, &[], &[]).config();
    assert_eq!(config.listen.address, SocketAddr::from(([127, 0, 0, 1], 1)));
    assert_eq!((config.listen.websocket, config.listen.max_connections), (false, 1000));
    assert_eq!(config.listen.max_login_message, 16_000_000);
    assert_eq!((config.pool.lifetime_jitter, config.pool.idle_timeout.as_secs()), (0.0, 5400));
    assert_eq!((config.admin.address, config.log.format), (None, LogFormat::Json));
    assert_eq!(config.auth.username.as_deref(), Some("0123"));
    assert_eq!(config.auth.password, Some(Secret("1e999".to_owned())));
    assert_eq!((config.upstream.fetch_size, config.upstream.read_timeout), (-1, Duration::ZERO));
}

#[test]
fn every_key_can_be_set_by_the_environment_and_the_command_line() {
    let given = given("", &[], &[]);
    given.write("f", "ada:x");
    let file = given.directory.path().join("f").display().to_string();
    for key in keys().iter().filter(|key| !key.path.ends_with(".tls")) {
        let value = match (key.unit.as_str(), &key.default, key.path.as_str()) {
            ("file", ..) => file.clone(),
            (_, Some(default), _) => default.clone(),
            (_, None, "listen.advertised_address") => "h:1".to_owned(),
            (_, None, "sight.webhook" | "sight.alertmanager" | "telemetry.otlp.endpoint") => {
                "http://h".to_owned()
            }
            _ => "x".to_owned(),
        };
        let mut environment = vec![(key.variable(), value.clone())];
        let mut set = |name: &str, value: &str| environment.push((name.to_owned(), value.to_owned()));
        if key.path.starts_with("admin.tls.") {
            set("SIDEBOLT_ADMIN__TLS__CERT_FILE", &file);
            set("SIDEBOLT_ADMIN__TLS__KEY_FILE", &file);
        }
        if key.path.starts_with("listen.tls.") {
            set("SIDEBOLT_LISTEN__TLS__CERT_FILE", &file);
            set("SIDEBOLT_LISTEN__TLS__KEY_FILE", &file);
        }
        if key.path.starts_with("upstream.") && key.unit == "file" {
            set("NEO4J_URI", "bolt+s://x");
            set("SIDEBOLT_UPSTREAM__CERT_FILE", &file);
            set("SIDEBOLT_UPSTREAM__KEY_FILE", &file);
        }
        if key.path.starts_with("auth.client_token") || key.path == "auth.users_file" {
            set("SIDEBOLT_AUTH__MODE", "service");
            set("NEO4J_USERNAME", "u");
            set("NEO4J_PASSWORD", "p");
        }
        let sources = Sources {
            environment: environment.iter().map(|(n, v)| (n.into(), v.into())).collect(),
            ..Sources::default()
        };
        let loaded = Config::load(&sources).unwrap_or_else(|e| panic!("{}: {e}", key.path));
        assert_eq!(loaded.origins[&key.path], format!("environment variable {}", key.variable()));
        let overrides = environment
            .iter()
            .map(|(name, value)| {
                let Variable::Key(key) = meaning(name, value.as_ref()) else { panic!("{name} sets no key") };
                Override { flag: "--set".to_owned(), key: key.to_owned(), value: value.clone() }
            })
            .collect();
        let by_flag = Config::load(&Sources { overrides, ..Sources::default() });
        assert_eq!(by_flag.map(|l| l.config), Ok(loaded.config), "{}", key.path);
    }
}

#[test]
fn tls_can_be_built_from_variables_over_off() {
    let given = given("listen: {tls: off}\n", &[], &[]);
    given.write("c", "x");
    let file = given.directory.path().join("c");
    let mut sources = given.sources.clone();
    for name in ["SIDEBOLT_LISTEN__TLS__CERT_FILE", "SIDEBOLT_LISTEN__TLS__KEY_FILE"] {
        sources.environment.push((name.into(), file.clone().into()));
    }
    let loaded = Config::load(&sources).unwrap_or_else(|e| panic!("{e}"));
    let tls =
        ListenTls { cert_file: file.clone(), key_file: file.clone(), client_ca_file: None, required: false };
    assert_eq!(loaded.config.listen.tls, Some(tls));
    assert_eq!(loaded.files, [given.directory.path().join("proxy.yaml"), file.clone(), file]);
    sources.overrides.push(Override { flag: "--set".into(), key: "listen.tls".into(), value: "off".into() });
    assert_eq!(Config::load(&sources).map(|l| l.config.listen.tls), Ok(None));
}

#[test]
fn secrets_come_from_files_and_later_layers_win() {
    let yaml = "auth:\n  mode: service\n  username: u\n  password_file: pw\n  client_token_file: token\n";
    let given = given(yaml, &[], &[]);
    given.write("pw", "pass word \n");
    given.write("token", "t\r\n");
    let auth = given.config().auth;
    assert_eq!(auth.mode, AuthMode::Service);
    assert_eq!(auth.password, Some(Secret("pass word ".to_owned())));
    assert_eq!(auth.client_token, Some(Secret("t".to_owned())));
    assert_eq!(auth.password_file, Some(given.directory.path().join("pw")));

    let mut sources = given.sources.clone();
    sources.environment.push(("NEO4J_PASSWORD".into(), "from env".into()));
    let auth = Config::load(&sources).unwrap_or_else(|e| panic!("{e}")).config.auth;
    assert_eq!((auth.password, auth.password_file), (Some(Secret("from env".to_owned())), None));

    sources.overrides.push(Override {
        flag: "--set".into(),
        key: "auth.password_file".into(),
        value: given.directory.path().join("token").display().to_string(),
    });
    let auth = Config::load(&sources).unwrap_or_else(|e| panic!("{e}")).config.auth;
    assert_eq!(auth.password, Some(Secret("t".to_owned())));
}

#[test]
fn the_environment_of_others_is_left_alone() {
    let environment = [
        ("SIDEBOLT_CONFIG", "/etc/x.yaml"),
        ("SIDEBOLT_SERVICE_HOST", "10.0.0.1"),
        ("SIDEBOLT_SERVICE_PORT", "7687"),
        ("SIDEBOLT_SERVICE_PORT_BOLT", "7687"),
        ("SIDEBOLT_PORT", "tcp://10.0.0.1:7687"),
        ("SIDEBOLT_PORT_7687_TCP", "tcp://10.0.0.1:7687"),
        ("SIDEBOLT_PORT_7687_TCP_PROTO", "tcp"),
        ("SIDEBOLT_ADMIN_PORT_9090_TCP_ADDR", "10.0.0.1"),
        ("NEO4J_AUTH", "neo4j/x"),
        ("NEO4J_PASSWORD", ""),
        ("SIDEBOLT_POOL__MIN_IDLE", ""),
        ("PATH", "/bin"),
    ];
    assert_eq!(given("", &environment, &[]).config(), Config::default());
}

#[test]
fn our_own_variables_overrule_the_drivers_names() {
    let environment = [("SIDEBOLT_UPSTREAM__URI", "bolt://b"), ("NEO4J_URI", "bolt://a")];
    assert_eq!(given("", &environment, &[]).config().upstream.uri, "bolt://b");
}

#[test]
fn dubious_settings_are_warned_of() {
    let yaml = "listen: {address: 0.0.0.0:7687}\nauth: {mode: service, username: u, password: p}\nadmin: {address: 0.0.0.0:1}";
    let warnings = Config::load(&given(yaml, &[], &[]).sources).map(|l| l.warnings.join("\n")).expect("good");
    assert!(
        warnings.contains("without auth.client_token") && warnings.contains("has no login"),
        "{warnings}"
    );
}

#[test]
fn several_errors_are_reported_together() {
    let yaml = "listen:\n  adress: 1.2.3.4:5\n  max_connections: many\npol:\n  min_idle: 3\n";
    let environment = [("NEO4J_FETCH_SIZE", "lots")];
    let expected = "\
proxy.yaml:2:3: listen.adress: no such key
  2 |   adress: 1.2.3.4:5
    |   ^
  hint: did you mean `address`?
proxy.yaml:3:20: listen.max_connections: `many` is not a whole number
  3 |   max_connections: many
    |                    ^
  hint: write a number from 1 to 1000000
proxy.yaml:4:1: pol: no such key
  4 | pol:
    | ^
  hint: did you mean `pool`?
environment variable NEO4J_FETCH_SIZE: upstream.fetch_size: `lots` is not a whole number
  hint: write a number from -1 to 1000000000
command line --set: pool.min_idel: no such key
  hint: did you mean `pool.min_idle`?";
    assert_eq!(given(yaml, &environment, &[("pool.min_idel", "3")]).errors(), expected);
}

#[test]
fn a_hundred_errors_are_cut_at_twenty() {
    let yaml: String = (0..100).map(|n| format!("wrong{n}: 1\n")).collect();
    let report = Config::load(&given(&yaml, &[], &[]).sources).expect_err("bad");
    assert_eq!(report.iter().count(), 20);
}

#[test]
fn secrets_never_show_in_errors_or_debug() {
    let cases = [
        "auth:\n  passwort: hunter2\n",
        "auth:\n  password: hunter2\n   bad: 1\n",
        "auth: {password: hunter2, mode: x}\n",
        "auth: {mode: x, password: hunter2}\n",
        "auth:\n  password:\n    hunter2: 1\n",
        "auth:\n  password: |\n    hunter2\n   x\n  y: [",
        "auth:\n  - password: hunter2\n",
        "auth:\n  client_token: \"hunter2\n",
        "upstream: {uri: 'bolt://neo4j:hunter2@x'}\n",
        "upstream:\n  uri: blot://neo4j:hunter2@x\n",
        "auth: hunter2\n",
        "password: hunter2\n",
    ];
    for yaml in cases {
        let report = given(yaml, &[], &[]).errors();
        assert!(!report.contains("hunter2"), "{yaml}\n{report}");
    }
    let config = given("auth: {username: u, password: hunter2}", &[], &[]).config();
    assert!(!format!("{config:?}").contains("hunter2"));
    assert!(!serde_json::to_string(&config).expect("JSON").contains("hunter2"));
}

#[test]
fn files_that_cannot_be_read_say_why() {
    let given = given("", &[], &[]);
    let with_file = |name: &str| {
        let sources = Sources { file: Some(given.directory.path().join(name)), ..Sources::default() };
        let report = Config::load(&sources).expect_err(name).to_string();
        report.replace(&format!("{}/", given.directory.path().display()), "")
    };
    let hint = "\n  hint: name another file with --config, or create it";
    assert_eq!(with_file("none.yaml"), format!("none.yaml: cannot be read: no such file{hint}"));
    fs::create_dir(given.directory.path().join("dir")).expect("a directory");
    assert_eq!(with_file("dir"), format!("dir: cannot be read: is not a file{hint}"));
    fs::write(given.directory.path().join("latin"), [0xe4, 0xf6]).expect("a file");
    assert_eq!(with_file("latin"), format!("latin: cannot be read: it is not UTF-8{hint}"));
    given.write("big", &"#\n".repeat(1 << 20));
    assert_eq!(with_file("big"), format!("big: cannot be read: 2097152 bytes is more than 1048576{hint}"));
}

#[test]
fn damaged_files_never_panic() {
    let shipped: Vec<char> = include_str!("../../proxy.yaml").chars().filter(|c| *c != '#').collect();
    let pieces: Vec<char> = "{}[]:,-&*!|>'\"%@`#?~\t\n ä€😀\u{0}\u{feff}0o1e.".chars().collect();
    let mut random = fastrand::Rng::with_seed(7);
    let given = given("", &[], &[]);
    let mut refused = 0;
    for _ in 0..2000 {
        let from = random.usize(..shipped.len());
        let mut text: Vec<char> = shipped.iter().skip(from).take(random.usize(..600)).copied().collect();
        for _ in 0..random.usize(..6) {
            let at = random.usize(..=text.len());
            text.insert(at, pieces[random.usize(..pieces.len())]);
        }
        given.write("proxy.yaml", &text.iter().collect::<String>());
        refused +=
            usize::from(Config::load(&given.sources).is_err_and(|errors| !errors.to_string().is_empty()));
    }
    assert!(refused > 1000, "{refused}");
}

#[test]
fn hostile_files_are_refused_in_time() {
    let bomb = "a: &a [x, x, x, x]\n".to_owned()
        + &(b'b'..b'z')
            .map(|c| format!("{}: &{0} [*{1}, *{1}, *{1}, *{1}]\n", c as char, (c - 1) as char))
            .collect::<String>();
    let cases = [
        "[".repeat(100_000),
        "{a: ".repeat(100_000),
        "- ".repeat(100_000),
        format!("{}: 1\n", "k".repeat(500_000)),
        format!("pool: {{min_idle: {}}}\n", "9".repeat(500_000)),
        (0..200).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect(),
        bomb,
    ];
    for yaml in cases {
        let report = given(&yaml, &[], &[]).errors();
        assert!(report != "accepted", "{}…: {report}", &yaml[..20]);
        assert!(report.len() < 1000, "{report}");
    }
}

/// Each case: what is given (lines `$ NAME=value` are variables, `--set key=value` overrides, the rest is the file), then
/// the whole report.
#[test]
fn bad_configurations_are_refused_with_these_texts() {
    let cases: Vec<&str> = include_str!("bad_configurations.txt").split("=====\n").skip(1).collect();
    assert!(cases.len() >= 40);
    let mut wrong = String::new();
    for case in cases {
        let (input, expected) = case.split_once("-----\n").unwrap_or((case, ""));
        let pair = |line: &'static str, mark| line.strip_prefix(mark)?.split_once('=');
        let environment: Vec<_> = input.lines().filter_map(|line| pair(line, "$ ")).collect();
        let overrides: Vec<_> = input.lines().filter_map(|line| pair(line, "--set ")).collect();
        let is_file = |line: &&str| !line.starts_with("$ ") && !line.starts_with("--set ");
        let yaml: String = input.lines().filter(is_file).map(|line| format!("{line}\n")).collect();
        let given = given(&yaml, &environment, &overrides);
        given.write("empty", "");
        given.write("some", "x");
        given.write("users", "ada:x");
        let errors = given.errors();
        if errors != expected.trim_end() {
            wrong += &format!("=====\n{input}-----\n{errors}\n");
        }
    }
    assert!(wrong.is_empty(), "these reports differ:\n{wrong}");
}
