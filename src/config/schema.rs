//! The keys as data: JSON schema, list of keys and reference table, all from the structs and their comments.

use std::fmt::Write as _;
use std::sync::OnceLock;

use schemars::generate::SchemaSettings;
use serde::Deserialize;
use serde::de::{self, Visitor};
use serde_json::Value;

use super::{
    Admin, Auth, Breaker, Cache, Coalesce, Config, Gnn, Guard, History, Limits, Listen, ListenTls, Log, Otlp,
    Pool, Retry, Shutdown, Sight, Telemetry, Upstream,
};

/// One key of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Dotted path, such as `listen.tls.cert_file`.
    pub path: String,
    /// How its value is written: `duration`, `bytes`, `number`, `file`, ….
    pub unit: String,
    /// Its default as written in the file; none = not set.
    pub default: Option<String>,
    /// Its meaning, one sentence.
    pub meaning: String,
    /// Smallest and largest value, as written.
    pub range: Option<(String, String)>,
    /// The words that may be chosen from.
    pub choices: Vec<String>,
    /// A change counts only after a restart.
    pub restart: bool,
    /// Its value is never shown.
    pub secret: bool,
    /// An entry of a list.
    pub example: Option<String>,
}

impl Key {
    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        format!("{PREFIX}{}", self.path.to_uppercase().replace('.', "__"))
    }

    /// What may be written, in words.
    pub(super) fn takes(&self) -> String {
        let range = match &self.range {
            Some((min, max)) => format!(" from {min} to {max}"),
            None => String::new(),
        };
        match self.unit.as_str() {
            "duration" => format!("write a duration{range}, with its unit: 500ms, 30s, 5m or 1h"),
            "bytes" => format!("write a size{range}: 8192, 8KiB, 1MiB or 16MB"),
            "number" => format!("write a number{range}"),
            "true/false" => "write true or false".to_owned(),
            "choice" => format!("write {}", self.choices.join(" or ")),
            "address" => "write IP:port, for example 127.0.0.1:7687 or 0.0.0.0:7687".to_owned(),
            "address or off" => "write IP:port, for example 127.0.0.1:9090, or off".to_owned(),
            "section or off" => "write off, or a section with cert_file and key_file".to_owned(),
            "file" => "write the path of a file".to_owned(),
            "folder" => "write the path of a folder".to_owned(),
            "list" => {
                let example = self.example.as_deref().unwrap_or("- {when: {label: Resource}, …}");
                format!("write a list of entries such as `{example}`")
            }
            _ => "write one value".to_owned(),
        }
    }
}

/// What the environment variables of keys begin with.
pub(super) const PREFIX: &str = "SIDEBOLT_";

/// Every key, in the order of the structs.
pub fn keys() -> &'static [Key] {
    static KEYS: OnceLock<Vec<Key>> = OnceLock::new();
    KEYS.get_or_init(|| {
        let mut keys = Vec::new();
        collect(&root(), "", &mut keys);
        keys
    })
}

/// The key at a dotted path.
pub(super) fn key(path: &str) -> Option<&'static Key> {
    keys().iter().find(|key| key.path == path)
}

impl Config {
    /// The JSON schema of `proxy.yaml`.
    pub fn schema() -> String {
        format!("{:#}\n", root())
    }

    /// The table of keys for the reference documentation, in Markdown.
    pub fn reference_markdown() -> String {
        let mut table = "| key | default | unit | meaning |\n|---|---|---|---|\n".to_owned();
        for key in keys() {
            let default = key.default.as_ref().map_or_else(String::new, |text| format!("`{text}`"));
            let unit = match (&key.range, key.choices.is_empty()) {
                (Some((min, max)), _) => format!("{}, {min} to {max}", key.unit),
                (None, false) => key.choices.iter().map(|c| format!("`{c}`")).collect::<Vec<_>>().join(", "),
                (None, true) => key.unit.clone(),
            };
            let restart = if key.restart { " Needs a restart." } else { "" };
            let _ = writeln!(table, "| `{}` | {default} | {unit} | {}{restart} |", key.path, key.meaning);
        }
        table
    }
}

fn root() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<Config>().to_value();
    schema["$id"] = "proxy.schema.json".into();
    strip_section_defaults(&mut schema);
    state_ranges(&mut schema);
    schema
}

/// A section's default only repeats the defaults of its keys.
fn strip_section_defaults(schema: &mut Value) {
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for property in properties.values_mut() {
        if property.get("properties").is_some()
            && let Some(object) = property.as_object_mut()
        {
            object.remove("default");
        }
        strip_section_defaults(property);
    }
}

/// Says the ranges of plain numbers in the words of JSON schema too.
fn state_ranges(schema: &mut Value) {
    for (ours, standard) in [("x-min", "minimum"), ("x-max", "maximum")] {
        let number = schema.get(ours).and_then(Value::as_str).and_then(|text| text.parse::<i64>().ok());
        if let Some(number) = number
            && schema.get("x-unit").is_none()
        {
            schema[standard] = number.into();
        }
    }
    for property in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        state_ranges(property.1);
    }
}

/// Appends the keys of a section, those of its own sections right after them.
fn collect(section: &Value, prefix: &str, keys: &mut Vec<Key>) {
    let Some(properties) = section["properties"].as_object() else { return };
    let mut names: Vec<&String> = properties.keys().collect();
    let order = declared(prefix.trim_end_matches('.'));
    names.sort_by_key(|name| order.iter().position(|field| *field == name.as_str()));
    for name in names {
        let schema = &properties[name];
        let path = format!("{prefix}{name}");
        if schema.get("properties").is_some() {
            collect(schema, &format!("{path}."), keys);
            continue;
        }
        let choice =
            schema["anyOf"].as_array().and_then(|any| any.iter().find(|s| s.get("properties").is_some()));
        keys.push(leaf(schema, path.clone()));
        if let Some(inner) = choice {
            collect(inner, &format!("{path}."), keys);
        }
    }
}

fn leaf(schema: &Value, path: String) -> Key {
    let text = |name: &str| schema.get(name).and_then(Value::as_str).map(str::to_owned);
    let choices: Vec<String> = choices(schema);
    let types = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).find(|t| *t != "null"),
        one => one.as_str(),
    };
    let unit = text("x-unit").unwrap_or_else(|| match types {
        Some("boolean") => "true/false".to_owned(),
        Some("integer" | "number") => "number".to_owned(),
        _ if !choices.is_empty() => "choice".to_owned(),
        _ if path.ends_with("_file") => "file".to_owned(),
        _ => "text".to_owned(),
    });
    let default = match schema.get("default") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(other) => Some(other.to_string()),
    };
    Key {
        meaning: text("description").unwrap_or_default().replace('\n', " "),
        example: text("x-example"),
        range: text("x-min").zip(text("x-max")),
        restart: schema["x-restart"] == true,
        secret: schema["x-secret"] == true,
        path,
        unit,
        default,
        choices,
    }
}

/// The value at a dotted path of a configuration in JSON, as it would be written; none = not set.
pub(super) fn lookup(values: &Value, path: &str) -> Option<String> {
    match path.split('.').try_fold(values, |value, name| value.get(name))? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// The words of an enum, whether its variants are documented or not.
fn choices(schema: &Value) -> Vec<String> {
    let words = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    match (&schema["enum"], &schema["oneOf"]) {
        (list @ Value::Array(_), _) => words(list),
        (_, Value::Array(variants)) => {
            variants.iter().filter_map(|v| v["const"].as_str()).map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}

/// The fields of the struct of a section, in the order in which they are declared.
fn declared(section: &str) -> &'static [&'static str] {
    match section {
        "" => fields::<Config>(),
        "listen" => fields::<Listen>(),
        "listen.tls" | "admin.tls" => fields::<ListenTls>(),
        "upstream" => fields::<Upstream>(),
        "pool" => fields::<Pool>(),
        "auth" => fields::<Auth>(),
        "coalesce" => fields::<Coalesce>(),
        "cache" => fields::<Cache>(),
        "breaker" => fields::<Breaker>(),
        "retry" => fields::<Retry>(),
        "guard" => fields::<Guard>(),
        "sight" => fields::<Sight>(),
        "sight.history" => fields::<History>(),
        "telemetry" => fields::<Telemetry>(),
        "telemetry.otlp" => fields::<Otlp>(),
        "gnn" => fields::<Gnn>(),
        "limits" => fields::<Limits>(),
        "admin" => fields::<Admin>(),
        "log" => fields::<Log>(),
        "shutdown" => fields::<Shutdown>(),
        _ => &[],
    }
}

fn fields<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    T::deserialize(FieldNames).err().map_or(&[], |found| found.0)
}

/// A deserializer that only listens which fields a struct asks for, and says so in its error.
struct FieldNames;

#[derive(Debug)]
struct Found(&'static [&'static str]);

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

impl std::error::Error for Found {}

impl de::Error for Found {
    fn custom<T: std::fmt::Display>(_: T) -> Self {
        Self(&[])
    }
}

impl<'de> de::Deserializer<'de> for FieldNames {
    type Error = Found;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Found> {
        Err(Found(&[]))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Found> {
        Err(Found(fields))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_schema_equals_the_types() {
        let committed: Value =
            serde_json::from_str(include_str!("../../deploy/proxy.schema.json")).expect("JSON");
        let current: Value = serde_json::from_str(&Config::schema()).expect("JSON");
        assert_eq!(committed, current, "run `sidebolt schema > deploy/proxy.schema.json`");
    }

    #[test]
    fn keys_stand_in_the_order_of_the_structs() {
        let paths: Vec<&str> = keys().iter().map(|key| key.path.as_str()).collect();
        let start = ["listen.address", "listen.advertised_address", "listen.tls", "listen.tls.cert_file"];
        assert_eq!(paths[..4], start);
        assert_eq!(paths.last(), Some(&"shutdown.drain_timeout"));
        let mut sorted = paths.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), paths.len());
        for key in keys() {
            let section = key.path.rsplit_once('.').map_or("", |(section, _)| section);
            assert!(!declared(section).is_empty(), "`{section}` is missing in `declared`");
        }
    }

    #[test]
    fn every_key_says_what_it_is() {
        for key in keys() {
            assert!(key.meaning.len() > 10, "{} has no meaning", key.path);
            let counted = matches!(key.unit.as_str(), "duration" | "bytes" | "number");
            assert_eq!(counted, key.range.is_some(), "{}: a number has a range, others have none", key.path);
            assert_eq!(
                key.secret,
                key.path.ends_with("password") || key.path.ends_with("token"),
                "{}",
                key.path
            );
        }
        let mode = key("auth.mode").expect("auth.mode");
        assert_eq!(
            (mode.unit.as_str(), mode.choices.join(" ")),
            ("choice", "passthrough service".to_owned())
        );
        assert_eq!(mode.default.as_deref(), Some("passthrough"));
        assert_eq!(mode.variable(), "SIDEBOLT_AUTH__MODE");
    }

    #[test]
    fn the_reference_names_each_key_once() {
        let table = Config::reference_markdown();
        assert_eq!(table.lines().count(), keys().len() + 2);
        assert!(table.contains("| `listen.max_login_message` | `8KiB` | bytes, 1KiB to 16MiB | "), "{table}");
        assert!(table.contains("| `auth.mode` | `passthrough` | `passthrough`, `service` | "), "{table}");
    }
}
