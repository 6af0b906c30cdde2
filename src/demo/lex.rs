//! Tokens of a Cypher text, with their places: enough to name columns as Neo4j does and to put literals in place of parameters.
//! It judges nothing; the engine's own parser does.

use std::ops::Range;

/// What a token is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// A word: keyword, name, or a name in backticks.
    Word,
    /// A string literal.
    Text,
    /// A number literal.
    Number,
    /// `$name`.
    Parameter,
    /// Any other single character.
    Symbol,
}

/// A token and where it stands in the text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Token {
    /// What it is.
    pub(super) kind: Kind,
    /// Bytes of the text.
    pub(super) span: Range<usize>,
    /// How many brackets of any sort are open before it (a closing one counts as outside).
    pub(super) depth: usize,
}

/// A text cut into tokens.
#[derive(Clone, Debug)]
pub(super) struct Tokens<'a> {
    text: &'a str,
    /// The tokens in order, without white space and comments.
    pub(super) list: Vec<Token>,
}

impl<'a> Tokens<'a> {
    /// Cuts `text`. An unfinished string or comment reaches to the end.
    pub(super) fn new(text: &'a str) -> Self {
        let mut cutter = Cutter { text, at: 0, depth: 0, list: Vec::new() };
        while cutter.step() {}
        Self { text, list: cutter.list }
    }

    /// The text of token `index`; empty behind the end.
    pub(super) fn word(&self, index: usize) -> &'a str {
        self.list.get(index).and_then(|token| self.text.get(token.span.clone())).unwrap_or_default()
    }

    /// True if token `index` is the given keyword or symbol, in any case.
    pub(super) fn is(&self, index: usize, word: &str) -> bool {
        let is_word = self.list.get(index).is_some_and(|t| matches!(t.kind, Kind::Word | Kind::Symbol));
        is_word && self.word(index).eq_ignore_ascii_case(word)
    }

    /// True if the tokens from `index` on are these keywords.
    pub(super) fn are(&self, index: usize, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(n, word)| self.is(index + n, word))
    }

    /// The source between the start of token `from` and the end of token `to`.
    pub(super) fn source(&self, from: usize, to: usize) -> &'a str {
        match (self.list.get(from), self.list.get(to)) {
            (Some(from), Some(to)) => self.text.get(from.span.start..to.span.end).unwrap_or_default(),
            _ => "",
        }
    }

    /// The name that a word or a parameter token stands for, without backticks or `$`.
    pub(super) fn name(&self, index: usize) -> String {
        let word = self.word(index);
        let bare = word.strip_prefix('$').unwrap_or(word);
        match bare.strip_prefix('`').and_then(|b| b.strip_suffix('`')) {
            Some(quoted) => quoted.replace("``", "`"),
            None => bare.to_owned(),
        }
    }
}

struct Cutter<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    list: Vec<Token>,
}

impl Cutter<'_> {
    fn step(&mut self) -> bool {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let Some(first) = rest.chars().next() else { return false };
        if first.is_whitespace() {
            self.at += first.len_utf8();
            return true;
        }
        if rest.starts_with("//") {
            self.at += rest.find('\n').unwrap_or(rest.len());
            return true;
        }
        if let Some(comment) = rest.strip_prefix("/*") {
            self.at += comment.find("*/").map_or(rest.len(), |end| end + 4);
            return true;
        }
        let (kind, length) = match first {
            '\'' | '"' => (Kind::Text, quoted(rest, first)),
            '`' => (Kind::Word, quoted_name(rest)),
            '$' => (Kind::Parameter, 1 + parameter(rest.get(1..).unwrap_or_default())),
            c if c.is_ascii_digit() => (Kind::Number, number(rest)),
            c if is_name(c) => (Kind::Word, name(rest)),
            c => (Kind::Symbol, c.len_utf8()),
        };
        if matches!(first, ')' | ']' | '}') {
            self.depth = self.depth.saturating_sub(1);
        }
        self.list.push(Token { kind, span: self.at..self.at + length, depth: self.depth });
        if matches!(first, '(' | '[' | '{') {
            self.depth += 1;
        }
        self.at += length;
        true
    }
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn name(rest: &str) -> usize {
    rest.find(|c| !is_name(c)).unwrap_or(rest.len())
}

fn parameter(rest: &str) -> usize {
    if rest.starts_with('`') { quoted_name(rest) } else { name(rest) }
}

/// Digits with at most one point that is followed by a digit (`1..3` is a range), and an exponent.
fn number(rest: &str) -> usize {
    let mut at = name(rest);
    let after_point = |at: usize| rest.get(at + 1..).and_then(|r| r.chars().next());
    if rest.get(at..).is_some_and(|r| r.starts_with('.'))
        && after_point(at).is_some_and(|c| c.is_ascii_digit())
    {
        at += 1 + name(rest.get(at + 1..).unwrap_or_default());
    }
    let exponent = rest.get(..at).is_some_and(|r| r.ends_with(['e', 'E']) && !r.starts_with("0x"));
    if exponent && rest.get(at..).is_some_and(|r| r.starts_with(['-', '+'])) {
        at += 1 + name(rest.get(at + 1..).unwrap_or_default());
    }
    at
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn quoted_name(rest: &str) -> usize {
    let mut at = 1;
    loop {
        let tail = rest.get(at..).unwrap_or_default();
        let Some(end) = tail.find('`') else { return rest.len() };
        at += end + 1;
        if !rest.get(at..).unwrap_or_default().starts_with('`') {
            return at;
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        let tokens = Tokens::new(text);
        (0..tokens.list.len()).map(|i| tokens.word(i)).collect()
    }

    #[test]
    fn texts_are_cut_into_tokens() {
        let text =
            "MATCH (a:`A``b` {x: $p, s: 'it\\'s // no'}) // comment\n/* more */ RETURN a.x*1.5e-3, [1..3]";
        let expected = [
            "MATCH",
            "(",
            "a",
            ":",
            "`A``b`",
            "{",
            "x",
            ":",
            "$p",
            ",",
            "s",
            ":",
            "'it\\'s // no'",
            "}",
            ")",
            "RETURN",
            "a",
            ".",
            "x",
            "*",
            "1.5e-3",
            ",",
            "[",
            "1",
            ".",
            ".",
            "3",
            "]",
        ];
        assert_eq!(words(text), expected);
        let tokens = Tokens::new(text);
        assert_eq!(tokens.name(4), "A`b");
        assert_eq!(tokens.name(8), "p");
        assert_eq!(tokens.list[8].depth, 2);
        assert_eq!(tokens.list[14].depth, 0);
        assert!(tokens.is(15, "return") && tokens.are(15, &["RETURN", "a"]));
    }

    #[test]
    fn unfinished_texts_end_at_the_end() {
        for text in ["'abc", "/* abc", "`abc", "$", "1.", "\"a\\"] {
            assert!(words(text).len() <= 2, "{text}");
        }
    }
}
