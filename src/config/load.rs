//! From file, environment and command line to a checked `Config`. Later ones overrule earlier ones, key by key.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::environment::{Variable, meaning};
use super::error::{COMMAND_LINE, MAX_ERRORS, meant, nearest};
use super::excerpt::excerpt;
use super::read::{Fault, FaultKind};
use super::schema::{self, keys};
use super::tree::{Node, Origin, Syntax, Value};
use super::validate::{self, Finding, reason};
use super::{Auth, Config, ConfigError, ConfigErrors, Secret, Users};

/// Largest file that is read as configuration or secret, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Where the configuration comes from.
#[derive(Clone, Default)]
pub struct Sources {
    /// The YAML file; none = defaults.
    pub file: Option<PathBuf>,
    /// The environment's variables; those that are not ours are ignored, and so are empty ones.
    pub environment: Vec<(OsString, OsString)>,
    /// The command line, later ones overrule earlier ones.
    pub overrides: Vec<Override>,
}

/// One key set on the command line.
#[derive(Clone)]
pub struct Override {
    /// The flag as the user knows it, such as `--listen`.
    pub flag: String,
    /// Dotted key.
    pub key: String,
    /// Its value as text.
    pub value: String,
}

impl fmt::Debug for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The value may be a secret.
        write!(f, "{} {}=…", self.flag, self.key)
    }
}

/// A configuration that may be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration, secrets read from their files.
    pub config: Config,
    /// Every file that it was made from: the YAML, the secrets, the certificates.
    pub files: Vec<PathBuf>,
    /// What is allowed but hardly meant.
    pub warnings: Vec<String>,
    /// For each key that is not at its default, where it was set.
    pub origins: BTreeMap<String, String>,
}

impl Config {
    /// Reads, overlays and checks; on failure reports up to twenty errors at once.
    pub fn load(sources: &Sources) -> Result<Loaded, ConfigErrors> {
        let mut loader = Loader::open(sources)?;
        loader.environment(&sources.environment);
        loader.command_line(&sources.overrides);
        loader.anchor_files();
        let mut config = loader.typed();
        loader.secrets(&mut config);
        let (findings, warnings) = validate::check(&config, &loader.tree, &loader.faulty);
        for finding in findings {
            loader.found(finding);
        }
        if !loader.errors.is_empty() {
            return Err(ConfigErrors::new(loader.errors));
        }
        Ok(Loaded { files: loader.files(&config), origins: loader.origins(), config, warnings })
    }
}

impl Sources {
    /// These sources with the environment of this process.
    pub fn with_process_environment(mut self) -> Self {
        self.environment = std::env::vars_os().collect();
        self
    }
}

struct Loader {
    file: Option<PathBuf>,
    text: String,
    tree: Node,
    /// Keys that are wrong and were taken out of the tree.
    faulty: HashSet<String>,
    errors: Vec<ConfigError>,
}

impl Loader {
    fn open(sources: &Sources) -> Result<Self, ConfigErrors> {
        let mut loader = Self {
            file: sources.file.clone(),
            text: String::new(),
            tree: Node::empty(),
            faulty: HashSet::new(),
            errors: Vec::new(),
        };
        let Some(file) = &sources.file else { return Ok(loader) };
        loader.text = read_text(file).map_err(|message| {
            let hint = Some("name another file with --config, or create it".to_owned());
            let file = Some(file.clone());
            ConfigErrors::new(vec![ConfigError { file, message, hint, ..ConfigError::default() }])
        })?;
        match Node::from_yaml(&loader.text) {
            Ok(tree) => loader.tree = tree,
            Err(syntax) => return Err(ConfigErrors::new(vec![loader.syntax(syntax)])),
        }
        Ok(loader)
    }

    fn syntax(&self, syntax: Syntax) -> ConfigError {
        ConfigError {
            file: self.file.clone(),
            line: syntax.line,
            column: syntax.column,
            message: syntax.message,
            hint: Some(syntax.hint.to_owned()),
            excerpt: excerpt(&self.text, syntax.line),
            ..ConfigError::default()
        }
    }

    fn environment(&mut self, variables: &[(OsString, OsString)]) {
        // Sorted, so that the drivers' names come first and the more specific names overrule them.
        let mut ours: Vec<(&str, &OsString)> =
            variables.iter().filter_map(|(name, value)| Some((name.to_str()?, value))).collect();
        ours.sort_unstable();
        for (name, value) in ours {
            let problem = |key: &str, message: &str, hint| ConfigError {
                source: Some(environment(name)),
                key: key.to_owned(),
                message: message.to_owned(),
                hint,
                ..ConfigError::default()
            };
            match (meaning(name, value), value.to_str()) {
                (Variable::Unknown(near), _) => {
                    let hint =
                        format!("did you mean {near}? Sections and keys are joined by two underscores");
                    self.errors.push(problem("", "sets no key", Some(hint)));
                }
                (Variable::Foreign, _) | (_, Some("")) => {}
                (Variable::Key(key), Some(text)) => {
                    self.overlay(key, text, Origin::Environment(name.to_owned()));
                }
                (Variable::Key(key), None) => self.errors.push(problem(key, "is not UTF-8", None)),
            }
        }
    }

    fn command_line(&mut self, overrides: &[Override]) {
        for Override { flag, key, value } in overrides {
            if schema::key(key).is_some() {
                self.overlay(key, value, Origin::Flag(flag.clone()));
                continue;
            }
            let near = nearest(key, keys().iter().map(|key| key.path.as_str())).map_or("", |(near, _)| near);
            self.errors.push(ConfigError {
                source: Some(command_line(flag)),
                key: key.clone(),
                message: "no such key".to_owned(),
                hint: Some(format!("did you mean `{near}`?")),
                ..ConfigError::default()
            });
        }
    }

    /// Writes a text over what stands at a key; a list is written as in YAML, in one line.
    fn overlay(&mut self, key: &str, text: &str, origin: Origin) {
        let is_list = schema::key(key).is_some_and(|key| key.unit == "list");
        match is_list.then(|| Node::from_yaml(text)) {
            Some(Ok(node)) => {
                let node = node.moved_to(&origin);
                self.tree.put(key, node.value, origin);
            }
            // What is no YAML is one value, which is then refused as such.
            Some(Err(_)) | None => self.tree.set(key, text.to_owned(), origin),
        }
    }

    /// Relative paths in the file are relative to the file's directory, as it does not matter from where one starts.
    fn anchor_files(&mut self) {
        let Some(directory) = self.file.as_deref().and_then(Path::parent).map(Path::to_owned) else { return };
        for key in keys().iter().filter(|key| matches!(key.unit.as_str(), "file" | "folder")) {
            if let Some(Node { origin: origin @ Origin::File { .. }, value: Value::Scalar(text) }) =
                self.tree.at(&key.path)
            {
                let (origin, path) = (origin.clone(), directory.join(text));
                if let Some(path) = path.to_str() {
                    self.tree.set(&key.path, path.to_owned(), origin);
                }
            }
        }
    }

    /// Reads the tree into the structs. What cannot be read is reported, taken out, and the rest tried again.
    fn typed(&mut self) -> Config {
        while self.errors.len() < MAX_ERRORS {
            match Config::deserialize(&self.tree) {
                Ok(config) => return config,
                Err(fault) => {
                    let path: Vec<String> = fault.path.iter().rev().cloned().collect();
                    self.fault(fault, &path.join("."));
                    if !self.tree.remove(&path) {
                        break;
                    }
                }
            }
        }
        Config::default()
    }

    fn fault(&mut self, fault: Fault, path: &str) {
        let mut key = path.to_owned();
        let (message, hint) = match fault.kind {
            FaultKind::Value(message) if path.is_empty() => (
                format!("the file {message}"),
                Some("write sections with keys, such as `pool:` and below it `  min_idle: 5`".to_owned()),
            ),
            FaultKind::Value(message) => {
                let hint = schema::key(path).map(schema::Key::takes).or_else(|| in_list(path));
                (message, hint.or_else(|| Some("write its keys below it, indented".to_owned())))
            }
            FaultKind::MissingKey(name) => {
                key = format!("{path}.{name}");
                ("is missing".to_owned(), schema::key(&key).map(schema::Key::takes))
            }
            FaultKind::UnknownKey(known) => ("no such key".to_owned(), Some(instead_of(path, known))),
        };
        self.faulty.insert(key.clone());
        let root = fault.path.is_empty().then(|| self.tree.origin.clone());
        let error = self.at(fault.origin.or(root).as_ref(), key, message, hint);
        self.errors.push(error);
    }

    fn found(&mut self, finding: Finding) {
        let place = finding.at.as_deref().unwrap_or(&finding.key);
        let origin = self.tree.at(place).map(|node| node.origin.clone());
        let error = self.at(origin.as_ref(), finding.key, finding.message, Some(finding.hint));
        self.errors.push(error);
    }

    fn at(&self, origin: Option<&Origin>, key: String, message: String, hint: Option<String>) -> ConfigError {
        let key = key.replace(".[", "[");
        let error = ConfigError { key, message, hint, ..ConfigError::default() };
        match origin {
            Some(Origin::File { line, column }) => ConfigError {
                file: self.file.clone(),
                line: *line,
                column: *column,
                excerpt: excerpt(&self.text, *line),
                ..error
            },
            Some(Origin::Environment(name)) => ConfigError { source: Some(environment(name)), ..error },
            Some(Origin::Flag(flag)) => ConfigError { source: Some(command_line(flag)), ..error },
            None => error,
        }
    }

    /// Takes each secret from the key or from its file, whichever was set in the later layer.
    fn secrets(&mut self, config: &mut Config) {
        let auth = &mut config.auth;
        self.secret("auth.password", &mut auth.password, &mut auth.password_file);
        self.secret("auth.client_token", &mut auth.client_token, &mut auth.client_token_file);
        self.users(auth);
        let admin = &mut config.admin;
        self.secret("admin.token", &mut admin.token, &mut admin.token_file);
    }

    fn secret(&mut self, key: &str, secret: &mut Option<Secret>, file: &mut Option<PathBuf>) {
        let file_key = format!("{key}_file");
        let Some(path) = file.clone() else { return };
        let layer = |key: &str| self.tree.at(key).map_or(0, |node| node.origin.layer());
        let (own, from_file) = (layer(key), layer(&file_key));
        if secret.is_some() && own > from_file {
            *file = None;
            return;
        }
        if secret.is_some() && own == from_file {
            let (message, hint) = (format!("is given beside {key}"), "give one of the two".to_owned());
            return self.found(Finding { key: file_key, at: None, message, hint });
        }
        match read_text(&path) {
            Ok(text) => {
                let text = text.strip_suffix('\n').unwrap_or(&text);
                let text = text.strip_suffix('\r').unwrap_or(text);
                if text.is_empty() {
                    let (message, hint) =
                        (format!("`{}` is empty", path.display()), "write the secret into it".to_owned());
                    self.secret_fault(file_key, message, hint);
                }
                *secret = Some(Secret(text.to_owned()));
            }
            Err(message) => {
                let message = format!("`{}` {message}", path.display());
                self.secret_fault(file_key, message, "name a file that this process may read".to_owned());
            }
        }
    }

    fn users(&mut self, auth: &mut Auth) {
        let Some(path) = &auth.users_file else { return };
        let read = read_text(path)
            .map_err(|message| (message, "name a file that this process may read"))
            .and_then(|text| {
                Users::parse(&text).map_err(|message| (message, "write `name:password`, one user a line"))
            });
        match read {
            Ok(users) => auth.users = Some(users),
            Err((message, hint)) => {
                let message = format!("`{}` {message}", path.display());
                self.secret_fault("auth.users_file".to_owned(), message, hint.to_owned());
            }
        }
    }

    fn secret_fault(&mut self, key: String, message: String, hint: String) {
        self.faulty.insert(key.clone());
        self.found(Finding { key, at: None, message, hint });
    }

    fn files(&self, config: &Config) -> Vec<PathBuf> {
        let (upstream, auth) = (&config.upstream, &config.auth);
        let files = [
            self.file.as_ref(),
            auth.password_file.as_ref(),
            auth.client_token_file.as_ref(),
            auth.users_file.as_ref(),
            config.admin.token_file.as_ref(),
            upstream.ca_file.as_ref(),
            upstream.cert_file.as_ref(),
            upstream.key_file.as_ref(),
        ];
        let certificates = [&config.listen.tls, &config.admin.tls]
            .into_iter()
            .flatten()
            .flat_map(|tls| [Some(&tls.cert_file), Some(&tls.key_file), tls.client_ca_file.as_ref()]);
        files.into_iter().chain(certificates).flatten().cloned().collect()
    }

    fn origins(&self) -> BTreeMap<String, String> {
        let origin = |key: &schema::Key| {
            let origin = match &self.tree.at(&key.path)?.origin {
                Origin::File { line, .. } => format!("{}:{line}", self.file.as_ref()?.display()),
                Origin::Environment(name) => environment(name),
                Origin::Flag(flag) => command_line(flag),
            };
            Some((key.path.clone(), origin))
        };
        keys().iter().filter_map(origin).collect()
    }
}

fn environment(name: &str) -> String {
    format!("environment variable {name}")
}

fn command_line(flag: &str) -> String {
    format!("{COMMAND_LINE} {flag}")
}

/// What may be written at a place inside a list.
fn in_list(path: &str) -> Option<String> {
    let (list, rest) = path.split_once(".[")?;
    Some(match rest.split_once(']')?.1 {
        ".unique" => "write true or false".to_owned(),
        ".properties" => "write a list of names, such as [id]".to_owned(),
        ".label" | ".type" | ".name" | ".database" => "write one name".to_owned(),
        _ => schema::key(list)?.takes(),
    })
}

/// What to write instead of a key that does not exist.
fn instead_of(path: &str, known: &[&str]) -> String {
    let (section, name) = path.rsplit_once('.').unwrap_or(("", path));
    if let Some(near) = meant(name, known.iter().copied()) {
        return format!("did you mean `{near}`?");
    }
    let words =
        |candidate: &&&str| name.split('_').all(|word| candidate.split('_').any(|other| other == word));
    let mut alike = known.iter().filter(words);
    if let (Some(one), None) = (alike.next(), alike.next()) {
        return format!("did you mean `{one}`?");
    }
    let section = section.replace(".[", "[");
    let elsewhere = keys().iter().find(|key| key.path.rsplit('.').next() == Some(name));
    match elsewhere {
        Some(key) => format!("did you mean `{}`?", key.path),
        None if section.is_empty() => format!("the sections are {}", known.join(", ")),
        None => format!("the keys of `{section}` are {}", known.join(", ")),
    }
}

/// Reads a small UTF-8 file; the message says why not.
pub(super) fn read_text(file: &Path) -> Result<String, String> {
    let cannot = |why: String| format!("cannot be read: {why}");
    let metadata = std::fs::metadata(file).map_err(|error| cannot(reason(&error)))?;
    if metadata.is_dir() {
        return Err(cannot("is not a file".to_owned()));
    }
    if metadata.len() > MAX_FILE {
        return Err(cannot(format!("{} bytes is more than {MAX_FILE}", metadata.len())));
    }
    let bytes = std::fs::read(file).map_err(|error| cannot(reason(&error)))?;
    let text = String::from_utf8(bytes).map_err(|_| cannot("it is not UTF-8".to_owned()))?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
