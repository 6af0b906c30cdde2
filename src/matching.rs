//! Which rule a request falls under: `when` of the configuration, compiled.  [hot path]
//!
//! What depends on the text alone is worked out once for each text and list of rules; a request costs a look at a table and a few
//! comparisons, and no regular expression.

use std::net::IpAddr;

use ipnet::IpNet;
use quick_cache::sync::Cache;
use regex::{Regex, RegexBuilder};

use crate::config::{AccessKind, When};
use crate::statement::Statement;

/// Rules that one list may have: as many as a word has bits.
pub(crate) const MOST: usize = 64;
/// Texts whose rules are remembered for each list.
const REMEMBERED: usize = 10_000;
/// Bytes that a compiled regular expression may take.
const LARGEST: usize = 1 << 20;

/// A request, as far as rules look at it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked<'a> {
    /// Its text; none while that is not known (BEGIN).
    pub(crate) statement: Option<&'a Statement>,
    /// Its access mode is `r`.
    pub(crate) reads: bool,
    /// The user's name.
    pub(crate) principal: &'a str,
    /// The client's address; none if that is not known.
    pub(crate) address: Option<IpAddr>,
    /// What the application calls itself.
    pub(crate) application: &'a str,
    /// The database; none if its name is not known.
    pub(crate) database: Option<&'a str>,
}

/// What a request counts as of which it cannot be told whether it names a label or type, or to which database it goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Doubt {
    /// As one that does: for rules that restrict.
    Holds,
    /// As one that does, but where the database is not known it is another one: for rules that count.
    Counts,
    /// As one that does not: for rules that allow.
    Fails,
}

/// A list of rules.
#[derive(Debug)]
pub(crate) struct Rules {
    list: Box<[Rule]>,
    /// By the statement's number: which rules hold as far as the text goes.
    texts: Cache<u64, u64>,
}

/// One `when`.
#[derive(Debug)]
struct Rule {
    doubt: Doubt,
    label: Option<Box<str>>,
    kind: Option<Box<str>>,
    text: Option<Regex>,
    fingerprint: Option<u64>,
    access: Option<AccessKind>,
    principal: Option<Name>,
    address: Option<IpNet>,
    application: Option<Name>,
    database: Option<Name>,
}

/// A name, or the beginning of one.
#[derive(Debug)]
struct Name {
    text: Box<str>,
    begins: bool,
}

impl Name {
    fn of(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(begin) => Self { text: begin.into(), begins: true },
            None => Self { text: text.into(), begins: false },
        }
    }

    fn is(&self, name: &str) -> bool {
        if self.begins { name.starts_with(&*self.text) } else { *self.text == *name }
    }
}

/// What is wrong with a `when`: the key, what it is, what to do about it.
pub(crate) type Fault = (&'static str, String, &'static str);

/// Says what is wrong with a `when`.
pub(crate) fn check(when: &When) -> Result<(), Fault> {
    let names = [
        ("label", &when.label),
        ("type", &when.r#type),
        ("text", &when.text),
        ("principal", &when.principal),
        ("application", &when.application),
        ("database", &when.database),
    ];
    for (key, name) in names {
        if name.as_ref().is_some_and(String::is_empty) {
            return Err((key, "is empty".to_owned(), "write what it is to be, or remove the key"));
        }
    }
    if let Some(text) = &when.text {
        compile(text)?;
    }
    if when.address.as_deref().is_some_and(|text| range(text).is_none()) {
        let hint = "write an address or a range of them, such as 10.1.2.3 or 10.0.0.0/8";
        return Err(("address", "is no address".to_owned(), hint));
    }
    if when.fingerprint.as_deref().is_some_and(|text| fingerprint(text).is_none()) {
        let hint = "write 16 hexadecimal digits, as CALL sidebolt.cache() shows them";
        return Err(("fingerprint", "is no fingerprint".to_owned(), hint));
    }
    Ok(())
}

/// An address, or a range of them.
fn range(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// A fingerprint as it is shown.
pub(crate) fn fingerprint(text: &str) -> Option<u64> {
    let digits = text.len() == 16 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    u64::from_str_radix(text, 16).ok().filter(|_| digits)
}

/// Compiles a regular expression, or says what is wrong with it.
pub(crate) fn compile(text: &str) -> Result<Regex, Fault> {
    let built = RegexBuilder::new(text).size_limit(LARGEST).dfa_size_limit(LARGEST).build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => (
            "text",
            "is too large as a regular expression".to_owned(),
            "make it simpler, without large repetitions",
        ),
        other => {
            // The last line says what, those before it show where.
            let what = other.to_string();
            let what = what.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            let hint = "write a regular expression, such as '(?i)match .* detach delete'";
            ("text", format!("is no regular expression: {what}"), hint)
        }
    })
}

impl Rules {
    /// Compiles rules that have been checked; what fails all the same never holds.
    pub(crate) fn new<'a>(whens: impl IntoIterator<Item = (&'a When, Doubt)>) -> Self {
        let list = whens.into_iter().take(MOST).map(|(when, doubt)| Rule::of(when, doubt)).collect();
        Self { list, texts: Cache::new(REMEMBERED) }
    }

    /// True if there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// True if a `when` can be decided without the text.
    pub(crate) fn needs_no_text(when: &When) -> bool {
        Rule::of(when, Doubt::Fails).needs_no_text()
    }

    /// True if one of them looks at the text.
    pub(crate) fn need_text(&self) -> bool {
        self.list.iter().any(|rule| !rule.needs_no_text() || rule.access.is_some())
    }

    /// The rules that a request falls under, as bits. Rules about a text hold for no request whose text is not known.
    pub(crate) fn holding(&self, asked: &Asked<'_>) -> u64 {
        if self.list.is_empty() {
            return 0;
        }
        let mut texts = match asked.statement {
            Some(statement) => self.of_text(statement),
            None => self.without_text(),
        };
        let reads = asked.reads || asked.statement.is_some_and(|statement| statement.reads_only);
        let mut holding = 0;
        while texts != 0 {
            let at = texts.trailing_zeros();
            texts &= texts - 1;
            if self.list.get(at as usize).is_some_and(|rule| rule.holds(asked, reads)) {
                holding |= 1 << at;
            }
        }
        holding
    }

    /// Which rules hold as far as the text goes.
    fn of_text(&self, statement: &Statement) -> u64 {
        if let Some(known) = self.texts.get(&statement.id) {
            return known;
        }
        let bits = self.bits(|rule| rule.holds_for(statement));
        self.texts.insert(statement.id, bits);
        bits
    }

    fn without_text(&self) -> u64 {
        self.bits(|rule| rule.needs_no_text())
    }

    fn bits(&self, holds: impl Fn(&Rule) -> bool) -> u64 {
        self.list.iter().enumerate().filter(|(_, rule)| holds(rule)).fold(0, |bits, (at, _)| bits | 1 << at)
    }
}

impl Rule {
    fn of(when: &When, doubt: Doubt) -> Self {
        let name = |name: &Option<String>| name.as_deref().map(Name::of);
        // `\b\B` is never found.
        let never = || Regex::new(r"\b\B").expect("invariant: a regular expression");
        Self {
            doubt,
            label: when.label.as_deref().map(Into::into),
            kind: when.r#type.as_deref().map(Into::into),
            text: when.text.as_deref().map(|text| compile(text).unwrap_or_else(|_| never())),
            fingerprint: when.fingerprint.as_deref().map(|text| fingerprint(text).unwrap_or_default()),
            access: when.access,
            principal: name(&when.principal),
            // What cannot be read is no address that anybody has.
            address: when
                .address
                .as_deref()
                .map(|text| range(text).unwrap_or_else(|| IpNet::from(IpAddr::from([0; 4])))),
            application: name(&when.application),
            database: name(&when.database),
        }
    }

    fn needs_no_text(&self) -> bool {
        self.label.is_none() && self.kind.is_none() && self.text.is_none() && self.fingerprint.is_none()
    }

    fn holds_for(&self, statement: &Statement) -> bool {
        let names = &statement.names;
        let open = names.open && self.doubt != Doubt::Fails;
        // A text that has not come whole may have anything in it.
        let unread = open && statement.text.is_empty();
        let among = |wanted: &Option<Box<str>>, names: &[Box<str>]| {
            wanted.as_ref().is_none_or(|wanted| open || names.contains(wanted))
        };
        among(&self.label, &names.labels)
            && among(&self.kind, &names.types)
            && self.text.as_ref().is_none_or(|text| unread || text.is_match(&statement.text))
            && self.fingerprint.is_none_or(|wanted| wanted == statement.fingerprint)
    }

    fn holds(&self, asked: &Asked<'_>, reads: bool) -> bool {
        let is = |wanted: &Option<Name>, name: &str| wanted.as_ref().is_none_or(|wanted| wanted.is(name));
        self.access.is_none_or(|access| (access == AccessKind::Read) == reads)
            && is(&self.principal, asked.principal)
            && is(&self.application, asked.application)
            && self.address.is_none_or(|range| asked.address.is_some_and(|address| range.contains(&address)))
            && match (&self.database, asked.database) {
                (Some(wanted), Some(name)) => wanted.is(name),
                (Some(_), None) => self.doubt == Doubt::Holds,
                (None, _) => true,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn when(change: impl FnOnce(&mut When)) -> When {
        let mut when = When::default();
        change(&mut when);
        when
    }

    fn holds(when: &When, asked: &Asked<'_>) -> bool {
        Rules::new([(when, Doubt::Holds)]).holding(asked) == 1
    }

    #[test]
    fn every_key_has_to_hold() {
        let statement = Statement::parse("MATCH (n:Person)-[:KNOWS]->(m) RETURN m.name");
        let asked = Asked {
            statement: Some(&statement),
            reads: false,
            principal: "ada",
            address: Some(IpAddr::from([10, 1, 2, 3])),
            application: "loader",
            database: Some("movies"),
        };
        let text = |text: &str| Some(text.to_owned());
        for (rule, expected) in [
            (When::default(), true),
            (when(|w| w.label = text("Person")), true),
            (when(|w| w.label = text("person")), false),
            (when(|w| (w.label, w.r#type) = (text("Person"), text("KNOWS"))), true),
            (when(|w| (w.label, w.r#type) = (text("Person"), text("LIKES"))), false),
            (when(|w| w.text = text("(?i)return M\\.")), true),
            (when(|w| w.text = text("^RETURN")), false),
            (when(|w| w.access = Some(AccessKind::Read)), true),
            (when(|w| w.access = Some(AccessKind::Write)), false),
            (when(|w| w.principal = text("ada")), true),
            (when(|w| w.principal = text("ad")), false),
            (when(|w| w.principal = text("ad*")), true),
            (when(|w| (w.principal, w.database) = (text("*"), text("mov*"))), true),
            (when(|w| w.application = text("reader")), false),
            (when(|w| w.address = text("10.1.0.0/16")), true),
            (when(|w| w.address = text("10.1.2.3")), true),
            (when(|w| w.address = text("10.1.2.4")), false),
            (when(|w| w.address = text("fd00::/8")), false),
        ] {
            assert_eq!(holds(&rule, &asked), expected, "{rule:?}");
        }
    }

    #[test]
    fn a_write_is_what_may_write() {
        let write = when(|w| w.access = Some(AccessKind::Write));
        for (text, reads, expected) in [
            ("CREATE (n)", false, true),
            ("CREATE (n)", true, false),
            ("CALL db.labels()", false, true),
            ("RETURN 1", false, false),
        ] {
            let statement = Statement::parse(text);
            let asked = Asked { statement: Some(&statement), reads, ..Asked::default() };
            assert_eq!(holds(&write, &asked), expected, "{text}");
        }
        assert!(
            holds(&write, &Asked::default()) && !holds(&write, &Asked { reads: true, ..Asked::default() })
        );
    }

    #[test]
    fn a_text_that_is_not_known_falls_under_no_rule_about_texts() {
        let asked = Asked { principal: "ada", ..Asked::default() };
        assert!(!holds(&when(|w| w.text = Some(".".to_owned())), &asked));
        assert!(!holds(&when(|w| w.label = Some("A".to_owned())), &asked));
        assert!(holds(&when(|w| w.principal = Some("ada".to_owned())), &asked));
    }

    #[test]
    fn doubt_counts_against_the_request() {
        let open = Statement::parse("MATCH (n:$($label)) RETURN n");
        let asked = Asked { statement: Some(&open), ..Asked::default() };
        let rule = when(|w| w.label = Some("Secret".to_owned()));
        let rules = Rules::new([(&rule, Doubt::Holds), (&rule, Doubt::Fails)]);
        assert_eq!(rules.holding(&asked), 0b01);
        let rule = when(|w| w.database = Some("movies".to_owned()));
        let rules = Rules::new([(&rule, Doubt::Holds), (&rule, Doubt::Fails)]);
        assert_eq!(rules.holding(&asked), 0b01);
    }

    #[test]
    fn nonsense_is_named() {
        let fault = |text: &str| check(&when(|w| w.text = Some(text.to_owned()))).unwrap_err();
        assert_eq!(fault("a(b").1, "is no regular expression: unclosed group");
        assert_eq!(fault("").1, "is empty");
        assert_eq!(fault("(a{1000}){1000}").1, "is too large as a regular expression");
        assert_eq!(check(&when(|w| w.text = Some("a+b".to_owned()))), Ok(()));
    }
}
