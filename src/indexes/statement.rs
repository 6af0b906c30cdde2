//! The statements that make indexes and constraints.

use std::borrow::Cow;
use std::fmt;

use crate::config::Index;

/// The statement that makes sure of an index or constraint.
pub(super) fn create(index: &Index) -> String {
    let name = index.name.as_deref().map_or_else(String::new, |name| format!("{} ", quoted(name)));
    let (variable, pattern) = pattern(of(index), index.r#type.is_some(), &quoted);
    let properties = list(&index.properties, variable, &quoted);
    if index.unique {
        return format!("CREATE CONSTRAINT {name}IF NOT EXISTS FOR {pattern} REQUIRE {properties} IS UNIQUE");
    }
    format!("CREATE INDEX {name}IF NOT EXISTS FOR {pattern} ON {properties}")
}

/// The statement that makes a slow match fast, ready to be run.
pub(crate) fn advice(label_or_type: &str, relationship: bool, properties: &[impl AsRef<str>]) -> String {
    let (variable, pattern) = pattern(label_or_type, relationship, &readable);
    format!("CREATE INDEX IF NOT EXISTS FOR {pattern} ON {}", list(properties, variable, &readable))
}

/// An index in words, for logs: `(:Resource {id}) unique`.
pub(super) struct Words<'a>(pub(super) &'a Index);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, close) = if self.0.r#type.is_some() { ("-[", "]-") } else { ("(", ")") };
        write!(f, "{open}:{} {{{}}}{close}", of(self.0), self.0.properties.join(", "))?;
        if self.0.unique {
            f.write_str(" unique")?;
        }
        if let Some(database) = &self.0.database {
            write!(f, " in {database}")?;
        }
        Ok(())
    }
}

/// The label or type that an index is for.
pub(super) fn of(index: &Index) -> &str {
    index.label.as_deref().or(index.r#type.as_deref()).unwrap_or_default()
}

type Quote = dyn Fn(&str) -> Cow<'_, str>;

fn pattern(name: &str, relationship: bool, quote: &Quote) -> (&'static str, String) {
    let name = quote(name);
    if relationship { ("r", format!("()-[r:{name}]-()")) } else { ("n", format!("(n:{name})")) }
}

fn list(properties: &[impl AsRef<str>], variable: &str, quote: &Quote) -> String {
    let each = properties.iter().map(|property| format!("{variable}.{}", quote(property.as_ref())));
    format!("({})", each.collect::<Vec<_>>().join(", "))
}

/// A name that cannot end before its end.
fn quoted(name: &str) -> Cow<'_, str> {
    format!("`{}`", name.replace('`', "``")).into()
}

/// The same, without quotes where none are needed.
fn readable(name: &str) -> Cow<'_, str> {
    let plain = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain { name.into() } else { quoted(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(relationship: bool, properties: &[&str]) -> Index {
        let name = Some("Re`source".to_owned());
        let (label, r#type) = if relationship { (None, name) } else { (name, None) };
        let properties = properties.iter().map(|name| (*name).to_owned()).collect();
        Index { label, r#type, properties, ..Index::default() }
    }

    #[test]
    fn names_stay_names() {
        let node = index(false, &["id", "a`) ON (n.b"]);
        assert_eq!(
            create(&node),
            "CREATE INDEX IF NOT EXISTS FOR (n:`Re``source`) ON (n.`id`, n.`a``) ON (n.b`)"
        );
        let unique = Index { unique: true, name: Some("x` y".to_owned()), ..node };
        assert_eq!(
            create(&unique),
            "CREATE CONSTRAINT `x`` y` IF NOT EXISTS FOR (n:`Re``source`) REQUIRE (n.`id`, n.`a``) ON (n.b`) IS UNIQUE"
        );
        let relationship = index(true, &["since"]);
        assert_eq!(
            create(&relationship),
            "CREATE INDEX IF NOT EXISTS FOR ()-[r:`Re``source`]-() ON (r.`since`)"
        );
        let unique = Index { unique: true, ..relationship };
        assert_eq!(
            create(&unique),
            "CREATE CONSTRAINT IF NOT EXISTS FOR ()-[r:`Re``source`]-() REQUIRE (r.`since`) IS UNIQUE"
        );
        assert_eq!(Words(&unique).to_string(), "-[:Re`source {since}]- unique");
    }

    #[test]
    fn advice_reads_well() {
        assert_eq!(
            advice("Resource", false, &["tenant", "id"]),
            "CREATE INDEX IF NOT EXISTS FOR (n:Resource) ON (n.tenant, n.id)"
        );
        assert_eq!(
            advice("LINKS TO", true, &["2x".to_owned()]),
            "CREATE INDEX IF NOT EXISTS FOR ()-[r:`LINKS TO`]-() ON (r.`2x`)"
        );
    }
}
