//! `CALL sidebolt.…`: procedures that Sidebolt itself answers, over Bolt, to whoever is logged in.  [hot path: `looks_like_call`]

mod baselines;
mod cache;
mod call;
mod coalesce;
mod guard;
mod procedures;
mod sight;
mod slow;
mod state;

use bolt_wire::packstream::Value;

pub(crate) use call::{Argument, Call, SYNTAX, Words, chosen};
pub(crate) use procedures::{Asking, listed, reference_markdown};

/// The namespace of Sidebolt's procedures.
pub(crate) const NAMESPACE: &str = "sidebolt";
/// How a call is written.
const FORM: &str = "CALL sidebolt.NAME(ARGUMENTS) YIELD COLUMN AS NAME, …";

/// What a call answers.
#[derive(Debug, PartialEq)]
pub(crate) struct Table {
    /// Names of the columns.
    pub(crate) columns: Vec<String>,
    /// The rows.
    pub(crate) rows: Vec<Vec<Value>>,
}

/// Whether a text, of which these are the first bytes, calls a procedure of this namespace: no parsing, no allocation. A text that is
/// cut before it can be told counts as one that does.
pub(crate) fn looks_like_call(text: &[u8], namespace: &str) -> bool {
    let mut rest = Prefix(text);
    // `None` stands for the end of what is there.
    let found = (|| {
        rest.blanks()?;
        if !rest.word(b"call")? || !rest.blanks()? {
            return Some(false);
        }
        let quoted = rest.byte(b'`')?;
        if !rest.word(namespace.as_bytes())? || (quoted && !rest.byte(b'`')?) {
            return Some(false);
        }
        rest.blanks()?;
        rest.byte(b'.')
    })();
    found.unwrap_or(true)
}

/// Whether the first word of a text is this one, in whatever case: no parsing, no allocation.
pub(crate) fn begins_with(text: &[u8], word: &[u8]) -> bool {
    let mut rest = Prefix(text);
    rest.blanks().and_then(|_| rest.word(word)).unwrap_or(false)
}

/// What is left of a text's first bytes. Every step gives `None` where they end before it is decided.
struct Prefix<'t>(&'t [u8]);

impl Prefix<'_> {
    /// Skips blanks and comments; whether there were any.
    fn blanks(&mut self) -> Option<bool> {
        let before = self.0.len();
        loop {
            match self.0 {
                [b' ' | b'\t' | b'\n' | b'\r' | 0x0B | 0x0C, rest @ ..] => self.0 = rest,
                [b'/', b'/', rest @ ..] => {
                    let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'))?;
                    self.0 = rest.get(end..)?;
                }
                [b'/', b'*', rest @ ..] => {
                    let end = rest.windows(2).position(|pair| pair == b"*/")?;
                    self.0 = rest.get(end + 2..)?;
                }
                [] | [b'/'] => return None,
                _ => return Some(self.0.len() < before),
            }
        }
    }

    /// Skips a word, in whatever case.
    fn word(&mut self, word: &[u8]) -> Option<bool> {
        let length = word.len().min(self.0.len());
        let (Some(first), Some(begin)) = (self.0.get(..length), word.get(..length)) else {
            return Some(false);
        };
        if !first.eq_ignore_ascii_case(begin) {
            return Some(false);
        }
        if length < word.len() {
            return None;
        }
        self.0 = self.0.get(length..).unwrap_or_default();
        Some(true)
    }

    /// Skips this byte, if it is the next.
    fn byte(&mut self, byte: u8) -> Option<bool> {
        let (first, rest) = self.0.split_first()?;
        if *first == byte {
            self.0 = rest;
        }
        Some(*first == byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_by_their_first_bytes() {
        for text in [
            "CALL sidebolt.coalesce()",
            "call SIDEBOLT.x",
            " \n\t// why\n/* a * b */ CaLl\n/**/`sidebolt` . `x`()",
            "CALL sidebolt.",
            // Cut.
            "",
            "C",
            "CAL",
            "CALL side",
            "CALL sidebolt ",
            "/* and so on",
            "// and so on",
            " /",
        ] {
            assert!(looks_like_call(text.as_bytes(), NAMESPACE), "{text}");
        }
        for text in [
            "RETURN 1",
            "CALLsidebolt.x()",
            "CALL db.labels()",
            "CALL sidebolts.x()",
            "CALL sidebolt(1)",
            "CALL (x) { RETURN 1 }",
            "CALL `sidebolt.x`()",
            "EXPLAIN CALL sidebolt.x()",
            "/ CALL sidebolt.x()",
        ] {
            assert!(!looks_like_call(text.as_bytes(), NAMESPACE), "{text}");
        }
    }
}
