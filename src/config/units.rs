//! How durations, sizes, addresses and `off` are written. Each type here is only a way of writing, used by `serde(with)`.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use humantime_serde::re::humantime;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ListenTls;

/// `500ms`, `30s`, `5m`, `1h 30m`.
pub(super) struct DurationText;

/// `8192`, `8KiB`, `16MB`.
pub(super) struct SizeText;

/// `127.0.0.1:7687`, `[::1]:7687`, `localhost:7687`.
pub(super) struct AddressText;

/// An address, or `off`.
pub(super) struct OptionalAddress;

/// [`DurationText`] in an entry of a list, where it may be missing.
pub(super) struct OptionalDuration;

/// The section `listen.tls` or `admin.tls`, or `off`.
pub(super) struct OptionalTls;

/// How nothing is written where `off` is a choice.
pub(super) const OFF: &str = "off";

/// Reads a duration; the message says what is wrong with it.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if text.parse::<f64>().is_ok_and(|number| number != 0.0) {
        return Err(format!("`{text}` has no unit"));
    }
    humantime::parse_duration(text).map_err(|_| format!("`{text}` is not a duration"))
}

/// Reads a number of bytes; the message says what is wrong with it.
pub(super) fn parse_size(text: &str) -> Result<usize, String> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '_')).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "kib" => 1 << 10,
        "mb" => 1_000_000,
        "mib" => 1 << 20,
        "gb" => 1_000_000_000,
        "gib" => 1 << 30,
        _ => return Err(format!("`{text}` is not a size")),
    };
    let number: u64 = digits.replace('_', "").parse().map_err(|_| format!("`{text}` is not a size"))?;
    let bytes = number.checked_mul(factor).and_then(|bytes| usize::try_from(bytes).ok());
    bytes.ok_or_else(|| format!("`{text}` is more than this machine can count"))
}

/// Reads an address to bind; `localhost` is 127.0.0.1.
pub(super) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    let numeric = match text.strip_prefix("localhost:") {
        Some(port) => Cow::Owned(format!("127.0.0.1:{port}")),
        None => Cow::Borrowed(text),
    };
    numeric.parse().map_err(|_| format!("`{text}` is not an IP address with a port"))
}

/// Writes bytes in the largest unit that divides them.
fn size_text(bytes: usize) -> String {
    match bytes {
        0 => "0".to_owned(),
        b if b % (1 << 30) == 0 => format!("{}GiB", b >> 30),
        b if b % (1 << 20) == 0 => format!("{}MiB", b >> 20),
        b if b % (1 << 10) == 0 => format!("{}KiB", b >> 10),
        b => b.to_string(),
    }
}

/// Words that mean nothing where nothing is a choice (`false` is how YAML 1.1 tools rewrite `off`).
fn is_off(text: &str) -> bool {
    matches!(text.trim(), "off" | "Off" | "OFF" | "false" | "none")
}

/// Hands a value over as the text that stood in the file.
struct TextVisitor;

impl Visitor<'_> for TextVisitor {
    type Value = String;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("one value")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }
}

fn text<'de, D: Deserializer<'de>, T>(d: D, parse: fn(&str) -> Result<T, String>) -> Result<T, D::Error> {
    parse(&d.deserialize_str(TextVisitor)?).map_err(de::Error::custom)
}

impl DurationText {
    pub(super) fn serialize<S: Serializer>(value: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&humantime::format_duration(*value))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        text(d, parse_duration)
    }
}

impl OptionalDuration {
    pub(super) fn serialize<S: Serializer>(value: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => DurationText::serialize(value, s),
            None => s.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
        DurationText::deserialize(d).map(Some)
    }
}

impl SizeText {
    pub(super) fn serialize<S: Serializer>(value: &usize, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&size_text(*value))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<usize, D::Error> {
        text(d, parse_size)
    }
}

impl AddressText {
    pub(super) fn serialize<S: Serializer>(value: &SocketAddr, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<SocketAddr, D::Error> {
        text(d, parse_address)
    }
}

impl OptionalAddress {
    pub(super) fn serialize<S: Serializer>(value: &Option<SocketAddr>, s: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(address) => s.collect_str(address),
            None => s.serialize_str(OFF),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<SocketAddr>, D::Error> {
        text(d, |text| if is_off(text) { Ok(None) } else { parse_address(text).map(Some) })
    }
}

impl OptionalTls {
    pub(super) fn serialize<S: Serializer>(value: &Option<ListenTls>, s: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(tls) => tls.serialize(s),
            None => s.serialize_str(OFF),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<ListenTls>, D::Error> {
        d.deserialize_any(TlsVisitor)
    }
}

struct TlsVisitor;

impl<'de> Visitor<'de> for TlsVisitor {
    type Value = Option<ListenTls>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("`off` or a section with cert_file and key_file")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        if is_off(text) {
            Ok(None)
        } else {
            Err(E::custom(format_args!("`{text}` is neither `off` nor a section")))
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        ListenTls::deserialize(MapAccessDeserializer::new(map)).map(Some)
    }
}

macro_rules! schema_of {
    ($($type:ident = $schema:expr;)*) => {$(
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                let schema: fn(&mut SchemaGenerator) -> Schema = $schema;
                schema(generator)
            }
        }
    )*};
}

schema_of! {
    DurationText = |_| json_schema!({ "type": "string", "x-unit": "duration" });
    OptionalDuration = |generator| DurationText::json_schema(generator);
    SizeText = |_| json_schema!({
        "type": ["string", "integer"],
        "pattern": "^[0-9_]+ ?([KkMmGg]?[Ii]?[Bb])?$",
        "x-unit": "bytes",
    });
    AddressText = |_| json_schema!({ "type": "string", "x-unit": "address" });
    OptionalAddress = |_| json_schema!({ "type": ["string", "boolean"], "x-unit": "address or off" });
    OptionalTls = |generator| json_schema!({
        "anyOf": [{ "enum": [OFF, false] }, generator.subschema_for::<ListenTls>()],
        "x-unit": "section or off",
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(parse_duration(" 1h 30m "), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        assert_eq!(parse_duration("30"), Err("`30` has no unit".to_owned()));
        assert_eq!(parse_duration("soon"), Err("`soon` is not a duration".to_owned()));
        assert_eq!(parse_duration("-1s"), Err("`-1s` is not a duration".to_owned()));
        assert_eq!(
            parse_duration("99999999999999999999s"),
            Err("`99999999999999999999s` is not a duration".to_owned())
        );
    }

    #[test]
    fn sizes_have_binary_and_decimal_units() {
        let cases = [
            ("8192", 8192),
            ("8KiB", 8192),
            ("8 kib", 8192),
            ("1MiB", 1 << 20),
            ("16MB", 16_000_000),
            ("2gb", 2_000_000_000),
            ("1_000", 1000),
            ("7B", 7),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "KiB", "1.5MiB", "-1", "8 kilos", "0x10", "8K"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert_eq!(
            parse_size("99999999999GiB"),
            Err("`99999999999GiB` is more than this machine can count".to_owned())
        );
    }

    #[test]
    fn sizes_are_written_so_that_they_read_back() {
        for bytes in [0, 1, 1000, 1023, 1024, 8192, 1 << 20, (1 << 20) + 1, 3 << 30] {
            assert_eq!(parse_size(&size_text(bytes)), Ok(bytes));
        }
        assert_eq!(size_text(16 << 20), "16MiB");
    }

    #[test]
    fn addresses_are_numbers_or_localhost() {
        assert_eq!(parse_address("localhost:7687"), Ok(SocketAddr::from(([127, 0, 0, 1], 7687))));
        assert_eq!(parse_address("[::1]:1").map(|a| a.is_ipv6()), Ok(true));
        for text in ["7687", ":7687", "neo4j:7687", "127.0.0.1", "127.0.0.1:70000", "localhost:x"] {
            assert!(parse_address(text).is_err(), "{text}");
        }
    }
}
