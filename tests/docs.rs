//! The documentation is true: the README's tables equal the code, its commands run, and the files in `deploy/` say what it says.
//!
//! `UPDATE_README=1 cargo test --test docs` writes the tables anew.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sidebolt::config::{Config, Loaded, Sources, keys};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn readme() -> String {
    read("README.md")
}

fn yaml(path: &str) -> Value {
    parse_yaml(&read(path), path)
}

fn parse_yaml(text: &str, name: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn load(file: PathBuf) -> Loaded {
    let sources = Sources { file: Some(file), ..Sources::default() };
    Config::load(&sources).unwrap_or_else(|errors| panic!("{errors}"))
}

fn sidebolt(arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut command = program(directory.path());
    command.args(arguments).output().expect("the program runs")
}

/// The program without a configuration of this machine's.
fn program(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidebolt"));
    command.current_dir(directory);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("SIDEBOLT_") || name.starts_with("NEO4J_")) {
            command.env_remove(name);
        }
    }
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What stands between the marks of a generated table.
fn between<'a>(readme: &'a str, name: &str) -> &'a str {
    let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
    let (_, rest) = readme.split_once(&begin).unwrap_or_else(|| panic!("the README has no mark {begin}"));
    rest.split_once(&end).unwrap_or_else(|| panic!("the README has no mark {end}")).0
}

#[test]
fn the_tables_equal_the_code() {
    let tables = [
        ("keys", Config::reference_markdown()),
        ("metrics", sidebolt::metrics_reference()),
        ("failures", sidebolt::failures_reference()),
        ("procedures", sidebolt::procedures_reference()),
        ("gnn", sidebolt::gnn_reference()),
    ];
    let old = readme();
    let mut new = old.clone();
    for (name, table) in &tables {
        let found = between(&new, name).to_owned();
        let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
        new = new.replace(&format!("{begin}{found}{end}"), &format!("{begin}{table}{end}"));
    }
    if std::env::var_os("UPDATE_README").is_some() {
        std::fs::write(root().join("README.md"), &new).expect("the README can be written");
        return;
    }
    for (name, table) in &tables {
        for line in table.lines() {
            assert!(
                between(&old, name).contains(line),
                "missing in the README's table of {name} (UPDATE_README=1 cargo test --test docs writes it):\n{line}"
            );
        }
    }
    assert!(
        old == new,
        "the README's tables have lines that the code has not; UPDATE_README=1 writes them anew"
    );
}

#[test]
fn every_key_of_the_example_is_in_the_readme() {
    let readme = readme();
    let table = between(&readme, "keys");
    let example = read("proxy.yaml");
    let (mut path, mut seen) = (Vec::<(usize, String)>::new(), 0);
    for line in example.lines() {
        // Keys that are not set by default are shown as comments: `  # key: value`, but not as sentences.
        let bare = line.trim_start();
        let bare = bare.strip_prefix("# ").unwrap_or(bare);
        let Some((name, _)) = bare.split_once(':') else { continue };
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit())
        {
            continue;
        }
        let depth = line.len() - line.trim_start().len();
        path.retain(|(outer, _)| *outer < depth);
        path.push((depth, name.to_owned()));
        let key = path.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>().join(".");
        if keys().iter().any(|known| known.path == key) {
            assert!(table.contains(&format!("| `{key}` |")), "{key}");
            seen += 1;
        }
    }
    assert!(seen >= keys().len(), "proxy.yaml shows {seen} keys of {}", keys().len());
}

#[test]
fn variables_set_the_keys_that_the_readme_says() {
    let readme = readme();
    let section = readme.split("### Environment variables").nth(1).expect("a section on variables");
    let mut checked = 0;
    for row in section.lines().take_while(|line| !line.starts_with("###")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, variable, meaning, ..] = cells[..] else { continue };
        let Some(variable) = quoted(variable).filter(|name| *name != "SIDEBOLT_CONFIG") else { continue };
        let key = quoted(meaning).unwrap_or_else(|| panic!("{variable} sets no key: {meaning}"));
        // min_idle and a password need the rest of a login.
        let mut environment = vec![("NEO4J_USERNAME", "u"), ("NEO4J_PASSWORD", "p")];
        environment.retain(|(name, _)| *name != variable);
        let value = match key {
            "upstream.uri" => "bolt://h:1",
            "gnn.device" => "cpu",
            "gnn.prewarm" => "false",
            _ => "7",
        };
        environment.push((variable, value));
        let environment = environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let loaded = Config::load(&Sources { environment, ..Sources::default() });
        let loaded = loaded.unwrap_or_else(|errors| panic!("{variable}: {errors}"));
        assert_eq!(loaded.origins.get(key), Some(&format!("environment variable {variable}")));
        checked += 1;
    }
    assert!(checked >= 6, "{checked} variables found");
}

fn quoted(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.split('`').next()
}

/// Every `sidebolt …` in the README's code: command and flags.
fn commands(text: &str) -> Vec<(String, Vec<String>)> {
    let lines = text.split('`').chain(text.lines());
    let mut commands = Vec::new();
    for line in lines {
        let Some(at) = line.find("sidebolt ") else { continue };
        if !line[..at].split_whitespace().all(|word| word.contains('=')) {
            continue;
        }
        let line = line[at..].split('#').next().unwrap_or_default();
        let mut words =
            line.split_whitespace().skip(1).map(|word| word.trim_matches(['[', ']', ',', '.', ';']));
        let Some(command) = words.next() else { continue };
        let flags = words.filter(|word| word.starts_with("--")).map(str::to_owned).collect();
        commands.push((command.to_owned(), flags));
    }
    commands
}

#[test]
fn commands_and_flags_exist() {
    let commands = commands(&readme());
    let names: BTreeSet<&str> = commands.iter().map(|(name, _)| name.as_str()).collect();
    for wanted in ["run", "check", "healthcheck", "schema", "demo", "--version"] {
        assert!(names.contains(wanted), "the README does not show `sidebolt {wanted}`");
    }
    let mut help: BTreeMap<String, String> = BTreeMap::new();
    for (command, flags) in commands {
        let shown = help.entry(command.clone()).or_insert_with(|| {
            let arguments: &[&str] =
                if command == "--version" { &["--version"] } else { &[&command, "--help"] };
            let output = sidebolt(arguments);
            assert!(output.status.success(), "sidebolt {command}: {}", text(&output.stderr));
            text(&output.stdout)
        });
        for flag in flags {
            assert!(
                shown.contains(&format!("{flag} ")) || shown.contains(&format!("{flag}\n")),
                "{command} {flag}"
            );
        }
    }
}

#[test]
fn cheap_commands_do_what_the_readme_says() {
    let version = text(&sidebolt(&["--version"]).stdout);
    let spoken =
        version.lines().nth(1).and_then(|line| line.strip_prefix("Bolt ")).expect("a line of versions");
    let spoken = spoken.replace('-', "–").replacen(", 6.1", " and 6.1", 1);
    assert!(readme().contains(&format!("It serves Bolt {spoken}")), "{spoken}");

    let check = sidebolt(&["check"]);
    assert_eq!(check.status.code(), Some(0), "{}", text(&check.stderr));
    assert!(text(&check.stdout).contains("listen:\n  address: 127.0.0.1:7687\n"), "{}", text(&check.stdout));

    let schema: Value = serde_json::from_slice(&sidebolt(&["schema"]).stdout).expect("a JSON schema");
    assert!(schema["properties"]["listen"].is_object());
    assert_eq!(text(&sidebolt(&["schema", "--markdown"]).stdout), Config::reference_markdown());

    for bad in [&["check", "--set", "pool.min_idel=1"][..], &["run", "--listen", "nowhere"], &["start"]] {
        assert_eq!(sidebolt(bad).status.code(), Some(2), "{bad:?}");
    }
    let unwell = sidebolt(&["healthcheck", "--admin", "127.0.0.1:1"]);
    assert_eq!(unwell.status.code(), Some(1));
    let masked = sidebolt(&["check", "--set", "auth.username=u", "--set", "auth.password=hunter2"]);
    assert!(masked.status.success() && !text(&masked.stdout).contains("hunter2"), "{}", text(&masked.stdout));
}

/// A running proxy, ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn health_and_signals_are_as_the_readme_says() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut command = program(directory.path());
    // Nobody listens on port 1: alive, but not ready.
    command.args([
        "run",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--upstream",
        "bolt://127.0.0.1:1",
    ]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the program runs");
    let mut running = Running(child);
    let mut lines = BufReader::new(running.0.stdout.take().expect("its output")).lines();
    let admin = loop {
        let line = lines.next().expect("it says where it listens").expect("text");
        if let Some(address) = line.strip_prefix("listening admin ") {
            break address.to_owned();
        }
    };
    let alive = sidebolt(&["healthcheck", "--admin", &admin]);
    assert_eq!(alive.status.code(), Some(0), "{}", text(&alive.stderr));
    let ready = sidebolt(&["healthcheck", "--ready", "--admin", &admin]);
    assert_eq!(ready.status.code(), Some(1), "{}", text(&ready.stdout));
    assert!(text(&ready.stderr).contains("503"), "{}", text(&ready.stderr));

    let pid = Pid::from_raw(i32::try_from(running.0.id()).expect("a process id"));
    kill(pid, Signal::SIGTERM).expect("it can be signalled");
    assert_eq!(running.0.wait().expect("it ends").code(), Some(0), "nothing was open, so it drains at once");
}

#[test]
fn links_and_paths_exist() {
    let readme = readme();
    let targets = readme.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let headings: BTreeSet<String> = readme
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-"))
        .collect();
    for target in targets {
        match target.strip_prefix('#') {
            Some(anchor) => assert!(headings.contains(anchor), "{target}"),
            None => assert!(root().join(target).exists(), "{target}"),
        }
    }
    let tests = readme.split("\n## Tests\n").nth(1).expect("a section on tests");
    let places = tests.lines().filter_map(|row| row.split('|').nth(2));
    let places: Vec<&str> = places.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    let paths: Vec<&&str> =
        places.iter().filter(|place| place.contains('/') && !place.contains(' ')).collect();
    assert!(paths.len() >= 5, "{places:?}");
    for path in paths {
        assert!(root().join(path).exists(), "{path}");
    }
    let tree =
        readme.split("## Architecture").nth(1).and_then(|rest| rest.split("```").nth(1)).expect("the tree");
    let mut folder = String::new();
    for line in tree.lines().filter(|line| !line.is_empty()) {
        if !line.starts_with(' ') {
            folder.clear();
        }
        let names = line.split("  ").map(str::trim).filter(|name| !name.is_empty());
        for name in
            names.take_while(|name| name.ends_with('/') || (name.contains('.') && !name.contains(' ')))
        {
            assert!(root().join(&folder).join(name).exists(), "{folder}{name}");
            if !line.starts_with(' ') && name.ends_with('/') {
                folder = name.to_owned();
            }
        }
    }
    for module in read("src/lib.rs").lines().filter_map(|line| {
        let line = line.strip_prefix("pub ").unwrap_or(line);
        line.strip_prefix("mod ")?.strip_suffix(';')
    }) {
        let named = [format!("{module}/"), format!("{module}.rs")];
        assert!(named.iter().any(|name| tree.contains(name)), "the tree does not show the module {module}");
    }
}

/// The documents of a file with several.
fn documents(path: &str) -> Vec<Value> {
    read(path).split("\n---\n").map(|part| parse_yaml(part, path)).collect()
}

fn seconds(text: &str) -> u64 {
    let (number, unit) = text.split_at(text.len() - 1);
    let number: u64 = number.parse().unwrap_or_else(|_| panic!("{text}"));
    match unit {
        "s" => number,
        "m" => number * 60,
        _ => panic!("{text}"),
    }
}

#[test]
fn the_kubernetes_sidecar_agrees_with_its_configuration() {
    let documents = documents("deploy/kubernetes/sidecar.yaml");
    let of = |kind: &str| documents.iter().find(|d| d["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"));
    let (secret, map, deployment) = (of("Secret"), of("ConfigMap"), of("Deployment"));
    let pod = &deployment["spec"]["template"];
    let spec = &pod["spec"];
    let (sidecar, app) = (&spec["initContainers"][0], &spec["containers"][0]);

    // The Secret's keys lie where the pod mounts them.
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mount = |name: &str| {
        let mounts = sidecar["volumeMounts"].as_array().expect("mounts");
        let mount =
            mounts.iter().find(|mount| mount["name"] == name).unwrap_or_else(|| panic!("no mount {name}"));
        mount["mountPath"].as_str().expect("a path").to_owned()
    };
    let secrets = mount("neo4j-login");
    for (key, value) in secret["stringData"].as_object().expect("keys") {
        std::fs::write(directory.path().join(key), value.as_str().expect("text")).expect("a file");
    }
    let text = map["data"]["proxy.yaml"].as_str().expect("the configuration");
    assert!(text.contains(&secrets), "the password comes from the mounted Secret");
    let file = directory.path().join("proxy.yaml");
    std::fs::write(&file, text.replace(&secrets, directory.path().to_str().expect("UTF-8"))).expect("a file");
    let loaded = load(file);
    let config = &loaded.config;
    assert_eq!(mount("sidebolt"), "/etc/sidebolt", "where the program looks by itself");
    assert_eq!(config.auth.username.as_deref(), secret["stringData"]["username"].as_str());

    // Ports.
    let admin = config.admin.address.expect("an admin port");
    assert!(config.listen.address.ip().is_loopback(), "only the pod");
    assert!(!admin.ip().is_loopback(), "probes come from outside");
    let port = &sidecar["ports"][0];
    assert_eq!(port["containerPort"], admin.port());
    assert_eq!(pod["metadata"]["annotations"]["prometheus.io/port"], admin.port().to_string());
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let get = &sidecar[probe]["httpGet"];
        assert_eq!(get["port"], port["name"], "{probe}");
        let path = get["path"].as_str().expect("a path");
        assert!(read("src/admin.rs").contains(&format!("\"{path}\"")), "{probe} {path}");
    }
    let uri =
        app["env"].as_array().expect("variables").iter().find(|variable| variable["name"] == "NEO4J_URI");
    assert_eq!(
        uri.expect("the address")["value"],
        format!("bolt://localhost:{}", config.listen.address.port())
    );

    // Life and rights.
    assert_eq!(sidecar["restartPolicy"], "Always");
    assert!(sidecar.get("lifecycle").is_none(), "no preStop hook");
    let grace = spec["terminationGracePeriodSeconds"].as_u64().expect("seconds");
    assert!(grace > config.shutdown.drain_timeout.as_secs());
    for container in [sidecar, app] {
        let context = &container["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["capabilities"]["drop"][0], "ALL");
    }
    assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
    assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");

    let monitor = yaml("deploy/kubernetes/podmonitor.yaml");
    assert_eq!(monitor["spec"]["podMetricsEndpoints"][0]["port"], port["name"]);
    assert_eq!(monitor["spec"]["selector"]["matchLabels"], deployment["spec"]["selector"]["matchLabels"]);
    assert_eq!(monitor["spec"]["selector"]["matchLabels"], pod["metadata"]["labels"]);
}

#[test]
fn image_and_compose_agree_with_the_configuration() {
    let config = load(root().join("deploy/container.yaml")).config;
    let (bolt, admin) = (config.listen.address, config.admin.address.expect("an admin port"));
    assert!(bolt.ip().is_unspecified() && admin.ip().is_unspecified());

    let dockerfile = read("deploy/Dockerfile");
    let line = |start: &str| {
        let found = dockerfile.lines().rev().find_map(|line| line.trim().strip_prefix(start));
        found.unwrap_or_else(|| panic!("no {start} in the Dockerfile")).to_owned()
    };
    assert_eq!(line("EXPOSE "), format!("{} {}", bolt.port(), admin.port()));
    let user: u32 = line("USER ").split(':').next().and_then(|user| user.parse().ok()).expect("a number");
    assert_ne!(user, 0);
    let program: Vec<String> = serde_json::from_str(&line("ENTRYPOINT ")).expect("a list");
    let health: Vec<String> = serde_json::from_str(&format!("[\"/{}", line("CMD [\"/"))).expect("a list");
    assert_eq!((&health[0], health[1].as_str()), (&program[0], "healthcheck"));
    assert_eq!(
        line("COPY deploy/"),
        "container.yaml /etc/sidebolt/proxy.yaml",
        "where the program looks by itself"
    );
    let pinned = read("rust-toolchain.toml");
    assert!(pinned.contains(&format!("\"{}\"", line("ARG RUST="))), "one toolchain for all");
    let kept = read(".dockerignore");
    for source in
        dockerfile.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|l| !l.starts_with("--"))
    {
        let (sources, _) = source.rsplit_once(' ').expect("a target");
        for source in sources.split(' ') {
            assert!(root().join(source).exists(), "{source}");
            assert!(
                kept.lines().any(|line| line == format!("!{source}")),
                "{source} does not reach the build"
            );
        }
    }

    let compose = yaml("deploy/compose.yaml");
    let service = &compose["services"]["sidebolt"];
    let ports: Vec<&str> =
        service["ports"].as_array().expect("ports").iter().filter_map(Value::as_str).collect();
    for port in [bolt.port(), admin.port()] {
        assert!(ports.iter().any(|mapped| mapped.ends_with(&format!(":{port}"))), "{port}");
    }
    assert!(
        ports.iter().all(|mapped| mapped.starts_with("127.0.0.1:")),
        "open on this machine only: {ports:?}"
    );
    let environment = service["environment"].as_object().expect("variables");
    let environment: Vec<(_, _)> =
        environment.iter().map(|(name, value)| (name.into(), value.as_str().expect("text").into())).collect();
    let file = Some(root().join("deploy/container.yaml"));
    let loaded = Config::load(&Sources { file, environment: environment.clone(), ..Sources::default() });
    let loaded = loaded.unwrap_or_else(|errors| panic!("{errors}"));
    let set = loaded.origins.values().filter(|origin| origin.starts_with("environment")).count();
    assert_eq!(set, environment.len(), "every variable sets a key");
    let host = loaded.config.upstream.uri.trim_start_matches("bolt://").split(':').next().map(str::to_owned);
    assert!(
        compose["services"].get(host.expect("a host")).is_some(),
        "the upstream is a service of this file"
    );
    let grace = seconds(service["stop_grace_period"].as_str().expect("a time"));
    assert!(grace > loaded.config.shutdown.drain_timeout.as_secs());
    let health: Vec<&str> = service["healthcheck"]["test"]
        .as_array()
        .expect("a test")
        .iter()
        .filter_map(Value::as_str)
        .skip(1)
        .collect();
    assert_eq!(health, [&program[0], "healthcheck", "--ready"]);

    let prometheus = yaml("deploy/prometheus/prometheus.yaml");
    let target = &prometheus["scrape_configs"][0]["static_configs"][0]["targets"][0];
    assert_eq!(*target, format!("sidebolt:{}", admin.port()));
    let rules = prometheus["rule_files"][0].as_str().expect("a file");
    assert!(root().join("deploy/prometheus").join(rules).exists());
}

/// Metrics by name with their kind and labels, from the reference table.
fn metrics() -> BTreeMap<String, (String, Vec<String>)> {
    let table = sidebolt::metrics_reference();
    let rows = table.lines().skip(2).map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let name = quoted(cells[1]).expect("a name");
        let (name, labels) = name.split_once('{').unwrap_or((name, ""));
        let labels =
            labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()).map(str::to_owned);
        (name.to_owned(), (cells[2].to_owned(), labels.collect()))
    });
    rows.collect()
}

/// The metrics in an expression, with the labels that it asks for, and what it aggregates by.
fn metrics_in(expression: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for (at, _) in expression.match_indices("sidebolt_") {
        let rest = &expression[at..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let matchers = rest[end..].strip_prefix('{').and_then(|m| m.split('}').next()).unwrap_or_default();
        let labels = matchers.split(',').filter_map(|matcher| {
            let end = matcher.find(['=', '!'])?;
            Some(matcher[..end].trim().to_owned())
        });
        found.push((rest[..end].to_owned(), labels.collect()));
    }
    found
}

/// Fails unless the metrics of an expression exist, with the labels that it asks for; gives the labels that there are.
fn known_labels(
    metrics: &BTreeMap<String, (String, Vec<String>)>,
    name: &str,
    expression: &str,
    used: &mut BTreeSet<String>,
) -> BTreeSet<String> {
    let mut labels = BTreeSet::from(["instance", "job", "le"].map(str::to_owned));
    for (metric, asked) in metrics_in(expression) {
        let base = ["_bucket", "_sum", "_count"]
            .into_iter()
            .find_map(|suffix| {
                let base = metric.strip_suffix(suffix)?;
                metrics.get(base).filter(|(kind, _)| kind == "histogram").map(|_| base)
            })
            .unwrap_or(&metric);
        let (kind, known) = metrics.get(base).unwrap_or_else(|| panic!("{name}: no metric {metric}"));
        assert_eq!(kind == "histogram", base != metric, "{name}: a histogram has _bucket, _sum and _count");
        for label in asked {
            let has = known.contains(&label) || ["instance", "job"].contains(&label.as_str());
            assert!(has, "{name}: {metric} has no label {label}");
        }
        labels.extend(known.iter().cloned());
        used.insert(base.to_owned());
    }
    labels
}

/// The labels that an expression sums by.
fn summed_by(expression: &str) -> Vec<String> {
    let lists = expression.split("by (").skip(1).filter_map(|rest| rest.split(')').next());
    lists.flat_map(|list| list.split(", ")).map(str::to_owned).collect()
}

#[test]
fn records_and_panels_use_metrics_that_exist() {
    let metrics = metrics();
    let mut used = BTreeSet::new();
    let records = yaml("deploy/prometheus/records.yaml");
    let records = records["groups"][0]["rules"].as_array().expect("rules");
    let mut expressions: Vec<(String, String)> = Vec::new();
    for rule in records {
        let name = rule["record"].as_str().expect("a name");
        assert!(name.starts_with("sidebolt:") && name.matches(':').count() == 2, "{name}");
        expressions.push((name.to_owned(), rule["expr"].as_str().expect("text").to_owned()));
    }
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/sidebolt.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let (mut places, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels {
        let title = panel["title"].as_str().expect("a title").to_owned();
        assert!(numbers.insert(panel["id"].as_i64()), "{title}: its number is another's");
        assert!(places.insert(panel["gridPos"].to_string()), "{title}: its place is another's");
        for target in panel["targets"].as_array().expect("targets") {
            let expression = target["expr"].as_str().expect("text");
            assert!(expression.contains("instance=~\"$instance\""), "{title}: {expression}");
            let labels = known_labels(&metrics, &title, expression, &mut used);
            let legend = target["legendFormat"].as_str().expect("text");
            let shown = legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next());
            let by = summed_by(expression);
            for label in shown {
                assert!(labels.contains(label) && by.iter().any(|by| by == label), "{title}: {legend}");
            }
            expressions.push((title.clone(), expression.to_owned()));
        }
    }
    for (name, expression) in &expressions {
        let labels = known_labels(&metrics, name, expression, &mut used);
        for label in summed_by(expression) {
            assert!(labels.contains(&label), "{name}: no label {label}");
        }
        let (open, close) = (expression.matches('(').count(), expression.matches(')').count());
        assert_eq!(open, close, "{name}: {expression}");
    }
    let files = yaml("deploy/prometheus/prometheus.yaml");
    for file in files["rule_files"].as_array().expect("files") {
        assert!(root().join("deploy/prometheus").join(file.as_str().expect("a name")).exists(), "{file}");
    }
    assert!(used.len() >= 20 && panels.len() >= 15, "{used:?}");
}

#[test]
fn alerts_use_metrics_that_exist() {
    let metrics = metrics();
    let rules = yaml("deploy/prometheus/alerts.yaml");
    let rules = rules["groups"][0]["rules"].as_array().expect("rules");
    let mut used = BTreeSet::new();
    for rule in rules {
        let (name, expression) =
            (rule["alert"].as_str().expect("a name"), rule["expr"].as_str().expect("text"));
        let labels = known_labels(&metrics, name, expression, &mut used);
        let by = expression.split("by (").skip(1).filter_map(|rest| rest.split(')').next());
        let shown = rule.to_string();
        let shown: Vec<String> = shown
            .split("$labels.")
            .skip(1)
            .map(|rest| rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect())
            .collect();
        for label in by.flat_map(|list| list.split(", ")).map(str::to_owned).chain(shown) {
            assert!(labels.contains(&label), "{name}: no label {label}");
        }
        assert!(matches!(rule["labels"]["severity"].as_str(), Some("critical" | "warning")), "{name}");
    }
    assert!(used.len() >= 7, "{used:?}");
}

#[test]
fn promtool_agrees_with_the_rules() {
    let promtool = |arguments: &[&str]| {
        let mut command = Command::new("promtool");
        command.current_dir(root().join("deploy/prometheus")).args(arguments).output()
    };
    if promtool(&["--version"]).is_err() {
        assert!(std::env::var_os("SIDEBOLT_TEST_NO_SKIP").is_none(), "promtool is missing");
        eprintln!("SKIPPED promtool_agrees_with_the_rules: needs promtool, of the Debian package prometheus");
        return;
    }
    for arguments in [["check", "config", "prometheus.yaml"], ["test", "rules", "tests.yaml"]] {
        let output = promtool(&arguments).expect("promtool runs");
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
    }
}

#[test]
fn times_in_the_files_are_read_as_they_are_meant() {
    assert_eq!((seconds("40s"), seconds("2m")), (40, 120));
    let config = load(root().join("proxy.yaml")).config;
    assert_eq!(config, Config::default(), "proxy.yaml shows the defaults");
    assert_eq!(config.shutdown.drain_timeout, Duration::from_secs(30));
}
