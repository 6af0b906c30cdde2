//! The command line: what may be asked, and the commands that need no proxy (`check`, `schema`, `healthcheck`, `invalidate`).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{ArgGroup, Args, Parser, Subcommand};
use serde_json::json;

use crate::admin::request;
use crate::config::{Config, ConfigErrors, Loaded, Override, Sources};

/// The exit code of a bad configuration, as of a bad command line.
pub const BAD_CONFIGURATION: u8 = 2;

/// Where the configuration is looked for when none is named.
const USUAL_FILES: [&str; 2] = ["proxy.yaml", "/etc/sidebolt/proxy.yaml"];

/// What `--version` says: version, commit if known when built, protocol versions.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let commit = option_env!("SIDEBOLT_GIT_HASH").map_or_else(String::new, |hash| format!(" ({hash})"));
    format!("{}{commit}\nBolt 4.4, 5.0-5.4, 5.6-5.8, 6.0, 6.1", env!("CARGO_PKG_VERSION"))
});

/// A Neo4j-compatible Bolt proxy sidecar
#[derive(Debug, Parser)]
#[command(name = "sidebolt", version = VERSION.as_str(), arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What was asked for.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the proxy
    Run(ConfigArgs),
    /// Check the configuration and print what is in force; exit code 2 if it is bad
    Check(CheckArgs),
    /// Print the JSON schema of the configuration
    Schema(SchemaArgs),
    /// Try it out: a small database, the proxy before it, and a snippet to paste
    Demo(DemoArgs),
    /// Ask a running proxy for its health; exit code 0 if it is well, else 1
    Healthcheck(HealthcheckArgs),
    /// Show what a running proxy does, again and again
    Top(TopArgs),
    /// Print a report about the last hour, day, week or month of a running proxy
    Report(ReportArgs),
    /// Print what the load of the last hour says about the size of the pool and the limits
    Advise(AdviseArgs),
    /// Let a running proxy forget cached answers
    Invalidate(InvalidateArgs),
}

/// What `top` shows.
#[derive(Args, Clone, Debug)]
pub struct TopArgs {
    /// Queries shown
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rows: u16,
    /// Seconds from one look to the next
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub every: u16,
    /// Look once
    #[arg(long)]
    pub once: bool,
    /// Address of the admin port, `https://HOST:PORT` for HTTPS [default: admin.address of the configuration]
    #[arg(long, value_name = "HOST:PORT")]
    pub admin: Option<String>,
    /// Configuration file, for the address and the token of the admin port
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What `report` prints.
#[derive(Args, Clone, Debug)]
#[command(group = ArgGroup::new("period"), group = ArgGroup::new("form"))]
pub struct ReportArgs {
    /// About the last 24 hours instead of the last one (needs sight.history.path, as the next two)
    #[arg(long, group = "period")]
    pub daily: bool,
    /// About the last seven days
    #[arg(long, group = "period")]
    pub weekly: bool,
    /// About the last thirty days
    #[arg(long, group = "period")]
    pub monthly: bool,
    /// As JSON instead of Markdown
    #[arg(long, group = "form")]
    pub json: bool,
    /// As an HTML page
    #[arg(long, group = "form")]
    pub html: bool,
    /// Queries in it
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rows: u16,
    /// Address of the admin port, `https://HOST:PORT` for HTTPS [default: admin.address of the configuration]
    #[arg(long, value_name = "HOST:PORT")]
    pub admin: Option<String>,
    /// Configuration file, for the address and the token of the admin port
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl ReportArgs {
    /// The period, as the admin port calls it; none = the last hour.
    pub(crate) fn period(&self) -> Option<&'static str> {
        let all = [(self.daily, "daily"), (self.weekly, "weekly"), (self.monthly, "monthly")];
        all.into_iter().find_map(|(wanted, name)| wanted.then_some(name))
    }
}

/// Where the configuration comes from, and what overrules it.
#[derive(Args, Clone, Debug, Default)]
pub struct ConfigArgs {
    /// Configuration file [default: SIDEBOLT_CONFIG, ./proxy.yaml, /etc/sidebolt/proxy.yaml, or none]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address for drivers, over listen.address
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<String>,
    /// Neo4j, over upstream.uri
    #[arg(long, value_name = "URI")]
    pub upstream: Option<String>,
    /// Address for metrics and health, or `off`, over admin.address
    #[arg(long, value_name = "IP:PORT")]
    pub admin: Option<String>,
    /// Set any key, such as `pool.min_idle=5`; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value)]
    pub set: Vec<Override>,
}

/// `sidebolt check`.
#[derive(Args, Clone, Debug, Default)]
pub struct CheckArgs {
    /// Where the configuration comes from.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Also connect to Neo4j and log in, as far as credentials are configured; exit code 1 if that fails
    #[arg(long)]
    pub connect: bool,
}

/// `sidebolt schema`.
#[derive(Args, Clone, Debug, Default)]
pub struct SchemaArgs {
    /// Print the table of keys in Markdown instead
    #[arg(long)]
    pub markdown: bool,
}

/// `sidebolt demo`.
#[derive(Args, Clone, Debug, Default)]
pub struct DemoArgs {
    /// Use real Neo4j Community from its published jars (needs Java) instead of the embedded engine
    #[arg(long)]
    pub neo4j: bool,
    /// Port for drivers on loopback [default: 7687, or a free one if that is taken]
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// With --neo4j: keep its database and logs at the end
    #[arg(long)]
    pub keep: bool,
    /// Clients that write at once, direct and through the proxy, to show group commit; 0 = none
    #[arg(long, value_name = "CLIENTS", default_value_t = 64, value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub writers: u16,
    /// End after the self-check and a short run of the writers
    #[arg(long)]
    pub check: bool,
}

/// What `advise` prints.
#[derive(Args, Clone, Debug, Default)]
pub struct AdviseArgs {
    /// As JSON instead of lines for the configuration
    #[arg(long)]
    pub json: bool,
    /// Address of the admin port, `https://HOST:PORT` for HTTPS [default: admin.address of the configuration]
    #[arg(long, value_name = "HOST:PORT")]
    pub admin: Option<String>,
    /// Configuration file, for the address and the token of the admin port
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `sidebolt invalidate`.
#[derive(Args, Clone, Debug, Default)]
#[command(group = ArgGroup::new("scope").required(true))]
pub struct InvalidateArgs {
    /// All of them
    #[arg(long, group = "scope")]
    pub all: bool,
    /// Those of this database
    #[arg(long, group = "scope", value_name = "NAME")]
    pub database: Option<String>,
    /// Those that depend on nodes with this label
    #[arg(long, group = "scope", value_name = "NAME")]
    pub label: Option<String>,
    /// Those that depend on relationships of this type
    #[arg(long, group = "scope", value_name = "NAME")]
    pub r#type: Option<String>,
    /// Those of texts in which this regular expression is found
    #[arg(long, group = "scope", value_name = "REGEX")]
    pub text: Option<String>,
    /// Those of texts with this fingerprint
    #[arg(long, group = "scope", value_name = "HEX")]
    pub fingerprint: Option<String>,
    /// Address of the admin port, `https://HOST:PORT` for HTTPS [default: admin.address of the configuration]
    #[arg(long, value_name = "HOST:PORT")]
    pub admin: Option<String>,
    /// Configuration file, if --admin is not given
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `sidebolt healthcheck`.
#[derive(Args, Clone, Debug, Default)]
pub struct HealthcheckArgs {
    /// Address of the admin port, `https://HOST:PORT` for HTTPS [default: admin.address of the configuration]
    #[arg(long, value_name = "HOST:PORT")]
    pub admin: Option<String>,
    /// Ask whether it is ready for clients, not only whether it is alive
    #[arg(long)]
    pub ready: bool,
    /// Configuration file, if --admin is not given
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Reads the command line of this process; ends it with help, version or an error where that is the answer.
pub fn parse() -> Command {
    Cli::parse().command
}

impl ConfigArgs {
    /// The sources that these flags and the environment of this process name.
    pub fn sources(&self) -> Sources {
        let flags = [
            ("--listen", "listen.address", &self.listen),
            ("--upstream", "upstream.uri", &self.upstream),
            ("--admin", "admin.address", &self.admin),
        ];
        let named = flags.into_iter().filter_map(|(flag, key, value)| {
            Some(Override { flag: flag.to_owned(), key: key.to_owned(), value: value.clone()? })
        });
        Sources {
            file: self.config.clone().or_else(named_by_environment).or_else(|| first_existing(&USUAL_FILES)),
            overrides: self.set.iter().cloned().chain(named).collect(),
            ..Sources::default()
        }
        .with_process_environment()
    }
}

fn key_and_value(text: &str) -> Result<Override, String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, for example pool.min_idle=5")?;
    Ok(Override { flag: "--set".to_owned(), key: key.trim().to_owned(), value: value.to_owned() })
}

/// `SIDEBOLT_CONFIG`; empty is as good as not set.
fn named_by_environment() -> Option<PathBuf> {
    std::env::var_os("SIDEBOLT_CONFIG").filter(|file| !file.is_empty()).map(PathBuf::from)
}

fn first_existing(files: &[&str]) -> Option<PathBuf> {
    files.iter().map(Path::new).find(|file| file.exists()).map(Path::to_owned)
}

/// `sidebolt check`: prints the configuration in force, or what is wrong. `connect` tries Neo4j and says what it found.
pub fn check(args: &CheckArgs, connect: impl FnOnce(&Config) -> Result<String, String>) -> ExitCode {
    let sources = args.config.sources();
    let report = checked(&sources, Config::load(&sources), args.connect.then_some(connect));
    print(std::io::stdout(), &report.out);
    print(std::io::stderr(), &report.err);
    ExitCode::from(report.code)
}

/// What `check` prints, and its exit code.
struct Report {
    out: String,
    err: String,
    code: u8,
}

fn checked(
    sources: &Sources,
    loaded: Result<Loaded, ConfigErrors>,
    connect: Option<impl FnOnce(&Config) -> Result<String, String>>,
) -> Report {
    let place = sources
        .file
        .as_ref()
        .map_or_else(|| "No file, defaults".to_owned(), |file| file.display().to_string());
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(errors) => {
            let count = errors.iter().count();
            let err = format!(
                "{errors}\n\nBad configuration: {count} error{}.\n",
                if count == 1 { "" } else { "s" }
            );
            return Report { out: String::new(), err, code: BAD_CONFIGURATION };
        }
    };
    let mut err = String::new();
    for warning in &loaded.warnings {
        let _ = writeln!(err, "warning: {warning}");
    }
    let _ = writeln!(err, "{place}: the configuration is good.");
    let mut code = 0;
    if let Some(connect) = connect {
        let uri = &loaded.config.upstream.uri;
        match connect(&loaded.config) {
            Ok(found) => {
                let _ = writeln!(err, "{uri}: {found}");
            }
            Err(problem) => {
                let _ = writeln!(err, "{uri}: {problem}");
                code = 1;
            }
        }
    }
    Report { out: loaded.effective(), err, code }
}

/// `sidebolt schema`.
pub fn schema(args: &SchemaArgs) -> ExitCode {
    let text = if args.markdown { Config::reference_markdown() } else { Config::schema() };
    print(std::io::stdout(), &text);
    ExitCode::SUCCESS
}

/// `sidebolt healthcheck`: one HTTP request to the admin port.
pub async fn healthcheck(args: &HealthcheckArgs) -> ExitCode {
    let path = if args.ready { "/readyz" } else { "/livez" };
    said(request(&args.admin, &args.config, path, None).await)
}

/// `sidebolt invalidate`: one HTTP request to the admin port.
pub async fn invalidate(args: &InvalidateArgs) -> ExitCode {
    let scopes = [
        ("database", &args.database),
        ("label", &args.label),
        ("type", &args.r#type),
        ("text", &args.text),
        ("fingerprint", &args.fingerprint),
    ];
    let named = scopes.into_iter().find_map(|(key, value)| Some(json!({ key: value.as_ref()? })));
    let body = named.unwrap_or_else(|| json!({ "all": true })).to_string();
    said(request(&args.admin, &args.config, "/api/cache/invalidate", Some(&body)).await)
}

/// Prints what was answered, and whether that is well.
fn said(result: Result<String, String>) -> ExitCode {
    match result {
        Ok(answer) => {
            print(std::io::stdout(), &format!("{}\n", answer.trim_end()));
            ExitCode::SUCCESS
        }
        Err(error) => {
            print(std::io::stderr(), &format!("{error}\n"));
            ExitCode::FAILURE
        }
    }
}

/// Prints; a reader that went away (`| head`) is no error.
fn print(mut to: impl std::io::Write, text: &str) {
    let _ = to.write_all(text.as_bytes()).and_then(|()| to.flush());
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        let words = std::iter::once("sidebolt").chain(line.split_whitespace());
        Cli::try_parse_from(words).map(|cli| cli.command).map_err(|error| error.to_string())
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_become_overrides_and_win_over_set() {
        let line = "run --config x.yaml --listen 0.0.0.0:1 --upstream bolt://u --admin off \
                    --set listen.address=9.9.9.9:9 --set pool.min_idle=5";
        let Ok(Command::Run(args)) = parsed(line) else { panic!("not run") };
        let sources = args.sources();
        assert_eq!(sources.file, Some(PathBuf::from("x.yaml")));
        let given: Vec<(&str, &str, &str)> =
            sources.overrides.iter().map(|o| (o.flag.as_str(), o.key.as_str(), o.value.as_str())).collect();
        let expected = [
            ("--set", "listen.address", "9.9.9.9:9"),
            ("--set", "pool.min_idle", "5"),
            ("--listen", "listen.address", "0.0.0.0:1"),
            ("--upstream", "upstream.uri", "bolt://u"),
            ("--admin", "admin.address", "off"),
        ];
        assert_eq!(given, expected);
        let sources = Sources { overrides: sources.overrides[2..].to_vec(), ..Sources::default() };
        let config = Config::load(&sources).unwrap_or_else(|e| panic!("{e}")).config;
        assert_eq!((config.listen.address.to_string(), config.admin.address), ("0.0.0.0:1".to_owned(), None));
    }

    #[test]
    fn other_commands_are_read() {
        assert!(matches!(parsed("check --connect"), Ok(Command::Check(CheckArgs { connect: true, .. }))));
        assert!(matches!(parsed("schema --markdown"), Ok(Command::Schema(SchemaArgs { markdown: true }))));
        assert!(matches!(
            parsed("demo --neo4j --port 0 --keep"),
            Ok(Command::Demo(DemoArgs { neo4j: true, port: Some(0), keep: true, writers: 64, check: false }))
        ));
        assert!(matches!(
            parsed("healthcheck --ready --admin h:1"),
            Ok(Command::Healthcheck(HealthcheckArgs { ready: true, .. }))
        ));
        assert!(matches!(
            parsed("invalidate --label Person"),
            Ok(Command::Invalidate(InvalidateArgs { label: Some(name), .. })) if name == "Person"
        ));
    }

    #[test]
    fn bad_lines_say_what_to_write() {
        for (line, part) in [
            ("", "Usage: sidebolt <COMMAND>"),
            ("start", "unrecognized subcommand 'start'"),
            ("invalidate", "<--all|--database <NAME>|--label <NAME>"),
            ("invalidate --all --label x", "cannot be used with"),
            ("run --lisen x", "a similar argument exists: '--listen'"),
            ("run --set pool.min_idle", "write KEY=VALUE, for example pool.min_idle=5"),
            ("report --daily --weekly", "cannot be used with"),
            ("report --html --json", "cannot be used with"),
            ("demo --port 70000", "70000 is not in 0..=65535"),
        ] {
            let error = parsed(line).expect_err(line);
            assert!(error.contains(part), "{line}: {error}");
        }
        let version = parsed("--version").expect_err("version");
        assert!(version.starts_with(concat!("sidebolt ", env!("CARGO_PKG_VERSION"))), "{version}");
        assert!(version.contains("\nBolt 4.4, 5.0-5.4"), "{version}");
    }

    #[test]
    fn the_first_usual_file_is_taken() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (one, two) = (directory.path().join("one"), directory.path().join("two"));
        let files = [one.to_str().expect("UTF-8"), two.to_str().expect("UTF-8")];
        assert_eq!(first_existing(&files), None);
        std::fs::write(&two, "").expect("a file");
        assert_eq!(first_existing(&files), Some(two.clone()));
        std::fs::write(&one, "").expect("a file");
        assert_eq!(first_existing(&files), Some(one.clone()));
    }

    fn report(yaml: &str, connect: Option<Result<String, String>>) -> Report {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("proxy.yaml");
        std::fs::write(&file, yaml).expect("a file");
        let sources = Sources { file: Some(file), ..Sources::default() };
        checked(&sources, Config::load(&sources), connect.map(|result| move |_: &Config| result))
    }

    #[test]
    fn check_prints_what_is_in_force_or_what_is_wrong() {
        let good = report("pool: {max_waiting: 7}\nadmin: {address: 0.0.0.0:9090}\n", None);
        assert_eq!(good.code, 0);
        assert!(
            good.out.contains("  max_waiting: 7 # ") && good.out.contains("proxy.yaml:1\n"),
            "{}",
            good.out
        );
        assert!(good.err.starts_with("warning: admin.address is open"), "{}", good.err);
        assert!(good.err.ends_with("proxy.yaml: the configuration is good.\n"), "{}", good.err);

        let bad = report("pool: {max_waiting: x, min_idle: y}\n", None);
        assert_eq!((bad.code, bad.out.as_str()), (2, ""));
        assert!(
            bad.err.contains("proxy.yaml:1:21: pool.max_waiting") && bad.err.ends_with("2 errors.\n"),
            "{}",
            bad.err
        );
    }

    #[test]
    fn check_tells_what_connecting_found() {
        let found = report("", Some(Ok("Neo4j/5.26.0, Bolt 5.8".to_owned())));
        assert_eq!(found.code, 0);
        assert!(found.err.ends_with("\nbolt://neo4j:7687: Neo4j/5.26.0, Bolt 5.8\n"), "{}", found.err);
        let lost = report("", Some(Err("connection refused".to_owned())));
        assert_eq!(lost.code, 1);
        assert!(lost.err.ends_with("bolt://neo4j:7687: connection refused\n"), "{}", lost.err);
    }
}
