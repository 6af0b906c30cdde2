//! Texts that differ in their values only have one fingerprint.
//!
//! The normalised text is what people see, and its hash is what is kept and compared: both must stay what they are from one version of
//! Sidebolt to the next, so the tests hold some of them fast.

use open_cypher::{Keyword, TokenKind};

use super::tokens::Tokens;

/// What a literal becomes.
const VALUE: &str = "$?";
/// What the rest of a text becomes that cannot be read: it may be a secret behind a quote that is missing.
const UNREADABLE: &str = "$!";
/// What the rest of a long text becomes.
const CUT: &str = "$…";
/// Of a text that is too long to be looked into, this much is.
const GLANCE: usize = 16 << 10;

/// The hash of a normalised text.
pub(crate) fn hash(normalised: &str) -> u64 {
    let hash = blake3::hash(normalised.as_bytes());
    let first = hash.as_bytes().first_chunk().copied().unwrap_or_default();
    u64::from_be_bytes(first)
}

/// A fingerprint as people see it.
pub(crate) fn shown(fingerprint: u64) -> String {
    format!("{fingerprint:016x}")
}

/// The normalised text of a whole text, however long it is.
pub(crate) fn normalised(text: &str) -> String {
    if text.len() <= super::LONGEST { of_tokens(&Tokens::of(text)) } else { of_long(text) }
}

/// A text that is too long: by what it begins with.
pub(super) fn of_long(text: &str) -> String {
    let mut end = GLANCE.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let begin = text.get(..end).unwrap_or_default();
    let mut normalised = of_tokens(&Tokens::of(begin));
    if !normalised.ends_with(UNREADABLE) {
        normalised.push(' ');
        normalised.push_str(CUT);
    }
    normalised
}

/// Literals out, blanks and comments out, keywords in capitals; everything else as it stands.
pub(super) fn of_tokens(tokens: &Tokens<'_>) -> String {
    let mut writer = Writer { out: String::new(), frames: Vec::new(), last: None };
    let end = (0..tokens.len()).rev().find(|at| tokens.kind(*at) != Some(TokenKind::Semicolon));
    for at in 0..end.map_or(0, |end| end + 1) {
        let Some(kind) = tokens.kind(at) else { break };
        if kind == TokenKind::Invalid {
            writer.put(TokenKind::Parameter, UNREADABLE);
            break;
        }
        if kind == TokenKind::Minus && is_number(tokens.kind(at + 1)) && !writer.follows_operand() {
            continue;
        }
        writer.token(tokens, at, kind);
    }
    writer.out
}

/// What is open around a token.
struct Frame {
    opened: TokenKind,
    /// `-[…]-`: its numbers are lengths of paths.
    relationship: bool,
    /// `{1,3}` behind a pattern: its numbers are repetitions.
    repetition: bool,
    /// Where the item before begins and ends.
    before: Option<(usize, usize)>,
    /// Where this item begins.
    item: usize,
}

struct Writer {
    out: String,
    frames: Vec<Frame>,
    last: Option<TokenKind>,
}

impl Writer {
    fn token(&mut self, tokens: &Tokens<'_>, at: usize, kind: TokenKind) {
        use TokenKind as T;
        match kind {
            T::String => self.put(T::Parameter, VALUE),
            T::Integer | T::HexInteger | T::OctalInteger | T::Float if self.counts() => {
                self.put(kind, tokens.text(at));
            }
            T::Integer | T::HexInteger | T::OctalInteger | T::Float => self.put(T::Parameter, VALUE),
            T::Keyword(Keyword::True | Keyword::False) if !self.is_named(tokens, at) => {
                self.put(T::Parameter, VALUE);
            }
            T::Keyword(_) if !self.is_named(tokens, at) => {
                self.put(kind, &tokens.text(at).to_ascii_uppercase());
            }
            T::Keyword(_) => self.put(T::Identifier, tokens.text(at)),
            T::LeftParen | T::LeftBracket | T::LeftBrace => {
                let relationship =
                    kind == T::LeftBracket && matches!(self.last, Some(T::Minus | T::LeftArrow));
                let repetition =
                    kind == T::LeftBrace && matches!(tokens.kind(at + 1), Some(T::Integer | T::Comma));
                self.put(kind, tokens.text(at));
                let item = self.out.len();
                self.frames.push(Frame { opened: kind, relationship, repetition, before: None, item });
            }
            T::Comma => {
                self.end_item();
                self.put(kind, ",");
                let item = self.out.len();
                if let Some(frame) = self.frames.last_mut() {
                    frame.item = item;
                }
            }
            T::RightParen | T::RightBracket | T::RightBrace => {
                self.end_item();
                self.frames.pop();
                self.put(kind, tokens.text(at));
            }
            _ => self.put(kind, tokens.text(at)),
        }
    }

    /// Whether a word can only be a name. What follows the colon of a map is a value.
    fn is_named(&self, tokens: &Tokens<'_>, at: usize) -> bool {
        let in_braces = self.frames.last().is_some_and(|frame| frame.opened == TokenKind::LeftBrace);
        if in_braces && self.last == Some(TokenKind::Colon) {
            return matches!(tokens.kind(at + 1), Some(TokenKind::Colon | TokenKind::Dot));
        }
        tokens.is_named(at)
    }

    /// Whether a number here says how often something is repeated.
    fn counts(&self) -> bool {
        self.frames.last().is_some_and(|frame| frame.relationship || frame.repetition)
    }

    /// An item of a list that reads as the one before it is left out.
    fn end_item(&mut self) {
        let Some(frame) = self.frames.last_mut().filter(|frame| frame.opened == TokenKind::LeftBracket)
        else {
            return;
        };
        let end = self.out.len();
        let item = self.out.get(frame.item..end).unwrap_or_default().trim_start();
        match frame.before.and_then(|(begin, end)| Some((self.out.get(begin..end)?.trim_start(), end))) {
            Some((before, before_end)) if before == item => self.out.truncate(before_end),
            _ => frame.before = Some((frame.item, end)),
        }
    }

    fn put(&mut self, kind: TokenKind, text: &str) {
        if self.last.is_some_and(|last| self.is_apart(last, kind)) {
            self.out.push(' ');
        }
        self.out.push_str(text);
        self.last = Some(kind);
    }

    /// Whether a minus here takes one value from another.
    fn follows_operand(&self) -> bool {
        use TokenKind as T;
        matches!(
            self.last,
            Some(
                T::Identifier
                    | T::EscapedIdentifier
                    | T::Parameter
                    | T::RightParen
                    | T::RightBracket
                    | T::RightBrace
                    | T::Integer
            )
        )
    }

    /// Whether a blank stands between two tokens.
    fn is_apart(&self, last: TokenKind, next: TokenKind) -> bool {
        use TokenKind as T;
        let frame = self.frames.last();
        let in_braces = frame.is_some_and(|frame| frame.opened == T::LeftBrace);
        let in_path = frame.is_some_and(|frame| frame.relationship);
        let in_labels = in_path || frame.is_some_and(|frame| frame.opened == T::LeftParen);
        let joins = |kind| {
            matches!(kind, T::Pipe | T::Ampersand | T::Bang) && in_labels || kind == T::Star && in_path
        };
        match (last, next) {
            (T::LeftParen | T::LeftBracket | T::LeftBrace | T::Dot | T::DotDot | T::Dollar, _) => false,
            (
                _,
                T::RightParen
                | T::RightBracket
                | T::RightBrace
                | T::Comma
                | T::Dot
                | T::DotDot
                | T::Colon
                | T::DoubleColon
                | T::Semicolon,
            ) => false,
            (T::Comma, _) => true,
            (T::Colon, _) => in_braces,
            (last, next) if joins(last) || joins(next) => false,
            (T::Keyword(_), T::Minus | T::LeftParen | T::LeftBracket | T::LeftBrace) => true,
            (T::Minus | T::LeftArrow | T::RightArrow | T::DoubleColon, _) => false,
            (_, T::Minus | T::LeftArrow | T::RightArrow) => false,
            (T::Identifier | T::EscapedIdentifier | T::RightParen, T::LeftParen) => false,
            (
                T::Identifier | T::EscapedIdentifier | T::Parameter | T::RightParen | T::RightBracket,
                T::LeftBracket,
            ) => false,
            (T::RightParen, T::LeftBrace) => false,
            _ => true,
        }
    }
}

fn is_number(kind: Option<TokenKind>) -> bool {
    use TokenKind as T;
    matches!(kind, Some(T::Integer | T::HexInteger | T::OctalInteger | T::Float))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::Statement;

    fn same(texts: &[&str], expected: &str) {
        for text in texts {
            assert_eq!(normalised(text), expected, "{text}");
            assert_eq!(Statement::parse(text).fingerprint, hash(expected), "{text}");
        }
    }

    #[test]
    fn values_blanks_comments_and_case_make_no_difference() {
        same(
            &[
                "MATCH (n:Person {name: 'Ann', age: 42}) RETURN n.name AS name",
                "match(n:Person{name:\"Bob\",age:-7.5e3})return n.name as name;",
                "/* who? */ Match (n:Person\n{ name : 'it\\'s' , age : 0x1F }) // x\n RETURN n.name AS name ;;",
            ],
            "MATCH (n:Person {name: $?, age: $?}) RETURN n.name AS name",
        );
        same(
            &["MATCH (n) WHERE n.id IN [1, 2, 3] RETURN n", "MATCH (n) WHERE n.id IN ['a'] RETURN n"],
            "MATCH (n) WHERE n.id IN [$?] RETURN n",
        );
        same(
            &[
                "UNWIND [{a: 1, b: [1, 2]}, {a: 2, b: [3]}] AS row CREATE (n:A) SET n = row",
                "UNWIND [{a: true, b: ['x']}] AS row CREATE (n:A) SET n = row",
            ],
            "UNWIND [{a: $?, b: [$?]}] AS row CREATE (n:A) SET n = row",
        );
        same(
            &["MATCH (n) WHERE n.a - 1 > -1 RETURN count(n) SKIP 5 LIMIT 10"],
            "MATCH (n) WHERE n.a-$? > $? RETURN COUNT (n) SKIP $? LIMIT $?",
        );
    }

    #[test]
    fn what_means_something_else_stays_another() {
        let texts = [
            "MATCH (n:A {id: $id}) RETURN n",
            "MATCH (n:A {id: $key}) RETURN n",
            "MATCH (n:a {id: $id}) RETURN n",
            "MATCH (n:A {key: $id}) RETURN n",
            "MATCH (n:A {id: 1}) RETURN n",
            "MATCH (n:A {id: null}) RETURN n",
            "MATCH (n:`A` {id: $id}) RETURN n",
            "MATCH (n:A)-[:R]->() RETURN n",
            "MATCH (n:A)<-[:R]-() RETURN n",
            "MATCH (n:A)-[:R*1..3]->() RETURN n",
            "MATCH (n:A)-[:R*1..4]->() RETURN n",
            "MATCH (n:A)-[:R*]->() RETURN n",
            "MATCH ((n:A)-[:R]->()){1,3} RETURN n",
            "MATCH ((n:A)-[:R]->()){1,4} RETURN n",
            "EXPLAIN MATCH (n:A {id: $id}) RETURN n",
            "MATCH (n:A {id: [$a, $b]}) RETURN n",
            "MATCH (n:A {id: [1, $b]}) RETURN n",
        ];
        let mut seen = std::collections::HashMap::new();
        for text in texts {
            let other = seen.insert(Statement::parse(text).fingerprint, text);
            assert_eq!(other, None, "{text}");
        }
    }

    #[test]
    fn fingerprints_are_the_same_in_every_version_of_sidebolt() {
        for (text, fingerprint) in [
            ("RETURN 1", "66a412a82bd36fb0"),
            (
                "MATCH (n:Person {name: $name})-[r:KNOWS*1..2]->(m) RETURN m.name ORDER BY m.name",
                "e68715ad4c1ffa1f",
            ),
            ("MERGE (n:`A b` {id: $id}) ON CREATE SET n.x = 1 SET n += $props", "c02c50882dc7c71d"),
        ] {
            let statement = Statement::parse(text);
            let normalised = normalised(text);
            assert_eq!(shown(statement.fingerprint), fingerprint, "{normalised}");
        }
    }

    #[test]
    fn no_literal_is_seen_whatever_the_text() {
        for text in [
            "CREATE (n {password: 'secret42",
            "CREATE (n {password: \"secret42' })",
            "CREATE (n {password: 'x\\'secret42'})",
            "CREATE (n {password: 'x\\\\'}) SET n.p = 'secret42'",
            "CREATE USER u SET PASSWORD 'secret42' CHANGE NOT REQUIRED",
            "RETURN 'a' /* ' */ , 'secret42' // 'secret42",
            "RETURN 'secret42\u{0}' + \"\\u0027secret42\"",
            "RETURN '😀' + 'secret42' + `x``y`",
            "RETURN `unterminated secret42",
            "RETURN 1 /* secret42",
            "RETURN 'a\nsecret42'",
            "RETURN 'bad \\q secret42'",
        ] {
            let normalised = normalised(text);
            assert!(!normalised.contains("secret42"), "{text}: {normalised}");
        }
    }

    #[test]
    fn any_text_is_read_in_bounded_space() {
        let nested = "[".repeat(20_000) + &"]".repeat(20_000);
        let open = "(".repeat(60_000);
        let many = format!("RETURN [{}]", "1,".repeat(20_000));
        let mixed: String =
            "'`\"/*\\$:{}[]()-><|*.,é😀\u{0}\u{feff}x1 ".chars().cycle().take(30_000).collect();
        for text in [nested.as_str(), &open, &many, &mixed, "", ";", "$", "`", "'", "}])", ",,,", "-", "-1"] {
            let normalised = normalised(text);
            assert!(normalised.len() <= 2 * text.len() + 8, "{} of {}", normalised.len(), text.len());
        }
        assert_eq!(normalised(&many), "RETURN [$?,]");
    }

    #[test]
    fn a_long_text_has_one_by_its_begin() {
        let long = |value: &str| format!("UNWIND [{}] AS x RETURN x", vec![value; 40_000].join(", "));
        let ones = Statement::parse(&long("1"));
        assert!(ones.text.len() > crate::statement::LONGEST);
        assert!(normalised(&ones.text).starts_with("UNWIND [$?"), "{}", normalised(&ones.text));
        assert!(normalised(&ones.text).len() < 2 * GLANCE);
        assert_ne!(ones.fingerprint, Statement::parse(&format!("EXPLAIN {}", long("1"))).fingerprint);
        assert_eq!(ones.fingerprint, Statement::parse(&long("3")).fingerprint);
        // Cut in the middle of a character.
        let wide = format!("RETURN '{}'", "😀".repeat(30_000));
        assert_eq!(normalised(&wide), format!("RETURN {UNREADABLE}"));
    }
}
