//! Cuts a text into queries that the parser knows: subqueries (`CALL { … }`) become queries of their own, FOREACH becomes
//! UNWIND, a lone pattern in braces gets its MATCH, hints to the planner and the language's number go.

use open_cypher::{Keyword, TokenKind};

use crate::statement::tokens::Tokens;

/// More tokens are not looked into.
const MOST_TOKENS: usize = 2_000;
/// Deeper brackets are not looked into: trees are walked with recursion.
const DEEPEST: usize = 48;

/// Columns that tell where what was a FOREACH begins and ends. No text has such names: see `check`.
pub(super) const ENTER: &str = "\u{1}enter";
pub(super) const LEAVE: &str = "\u{1}leave";

type Read<T> = Result<T, &'static str>;

/// A query for the parser.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) text: String,
    /// Names that it takes from the query around it.
    pub(super) imported: Vec<String>,
}

/// The parts of a text, the one that answers first.
pub(super) fn split(text: &str, tokens: &Tokens<'_>) -> Read<Vec<Part>> {
    check(text, tokens)?;
    let begin = match (tokens.is(0, "CYPHER"), tokens.kind(1)) {
        (true, Some(TokenKind::Integer)) if matches!(tokens.text(1), "5" | "25") => 2,
        (true, _) => return Err("it begins with options of CYPHER"),
        (false, _) => 0,
    };
    if let Some((_, reason)) = PREFIXES.iter().find(|(word, _)| tokens.is(begin, word)) {
        return Err(reason);
    }
    let mut splitter = Splitter { text, tokens, parts: vec![Part::default()] };
    let whole = splitter.copy(begin, tokens.len())?;
    if let Some(first) = splitter.parts.first_mut() {
        first.text = whole;
    }
    Ok(splitter.parts)
}

/// What a text may begin with that is no query.
const PREFIXES: [(&str, &str); 8] = [
    ("EXPLAIN", "it asks for a plan"),
    ("PROFILE", "it asks for a plan"),
    ("USE", "it chooses a graph (USE)"),
    ("SHOW", "it shows the state of the server"),
    ("TERMINATE", "it is a command"),
    ("DROP", "it is a command"),
    ("ALTER", "it is a command"),
    ("LOAD", "it loads a file"),
];

/// Says why the tokens may not be what Neo4j reads, or are too many.
fn check(text: &str, tokens: &Tokens<'_>) -> Read<()> {
    if let Some(doubt) = tokens.doubt {
        return Err(doubt);
    }
    if tokens.len() == 0 {
        return Err("it is empty");
    }
    if tokens.len() > MOST_TOKENS {
        return Err("it is too long");
    }
    // Control characters that may be blanks to one and a part of a name to the other.
    if text.contains(['\u{1}', '\u{85}']) {
        return Err("it has a control character");
    }
    let mut depth = 0usize;
    for at in 0..tokens.len() {
        match tokens.kind(at) {
            Some(TokenKind::LeftParen | TokenKind::LeftBracket | TokenKind::LeftBrace) => depth += 1,
            Some(TokenKind::RightParen | TokenKind::RightBracket | TokenKind::RightBrace) => {
                depth = depth.saturating_sub(1);
            }
            Some(TokenKind::Keyword(Keyword::Case)) => depth += 1,
            Some(TokenKind::Keyword(Keyword::End)) => depth = depth.saturating_sub(1),
            Some(TokenKind::Identifier | TokenKind::Parameter) if !tokens.text(at).is_ascii() => {
                return Err("a name outside of back-ticks is not ASCII");
            }
            _ => {}
        }
        if depth > DEEPEST {
            return Err("its brackets are too deep");
        }
    }
    Ok(())
}

struct Splitter<'t> {
    text: &'t str,
    tokens: &'t Tokens<'t>,
    parts: Vec<Part>,
}

impl Splitter<'_> {
    /// The source of these tokens, with what the parser does not know replaced.
    fn copy(&mut self, begin: usize, end: usize) -> Read<String> {
        let mut out = String::new();
        // Brackets that are open here, by their place.
        let mut open: Vec<usize> = Vec::new();
        let (mut at, mut from) = (begin, begin);
        while at < end {
            match self.tokens.kind(at) {
                Some(TokenKind::LeftParen | TokenKind::LeftBracket | TokenKind::LeftBrace) => open.push(at),
                Some(TokenKind::RightParen | TokenKind::RightBracket | TokenKind::RightBrace) => {
                    open.pop();
                }
                _ => {}
            }
            let Some((next, replacement)) = self.replaced(at, end, open.last().copied())? else {
                at += 1;
                continue;
            };
            out.push_str(self.source(from, at));
            out.push_str(&replacement);
            (at, from) = (next, next);
        }
        out.push_str(self.source(from, end));
        Ok(out)
    }

    /// What stands for the tokens from here on, and where it ends.
    fn replaced(&mut self, at: usize, end: usize, open: Option<usize>) -> Read<Option<(usize, String)>> {
        match self.tokens.kind(at) {
            Some(TokenKind::Pipe) if self.is_label_choice(at, open) => Ok(Some((at + 1, "&".to_owned()))),
            Some(TokenKind::Pipe) if self.is_doubtful_bar(at, open) => {
                Err("it has a bar behind a label in a list, which may be two things")
            }
            Some(TokenKind::Keyword(_) | TokenKind::Identifier) if !self.tokens.is_named(at) => match open {
                Some(open) if self.tokens.is(at, "WHERE") && self.is_pattern(open) => {
                    let close = self.closing(open)?;
                    let condition = self.copy(at + 1, close)?;
                    self.parts.push(Part { text: format!("RETURN {condition}"), imported: Vec::new() });
                    Ok(Some((close, String::new())))
                }
                _ => self.word(at, end),
            },
            _ => Ok(None),
        }
    }

    /// True for `|` between labels that are all meant as they are, outside of `[…]`, where it may be another thing. For what
    /// is read it is the same whether a node has one of them or all, and the parser takes it for the end of a pattern.
    fn is_label_choice(&self, at: usize, open: Option<usize>) -> bool {
        let tokens = self.tokens;
        if open.is_some_and(|open| tokens.kind(open) == Some(TokenKind::LeftBracket)) {
            return false;
        }
        let is_name = |at| tokens.is_word(at) || tokens.kind(at) == Some(TokenKind::EscapedIdentifier);
        let is_joint = |at| matches!(tokens.kind(at), Some(TokenKind::Pipe | TokenKind::Ampersand));
        let (mut first, mut last) = (at, at);
        while first >= 2 && is_joint(first) && is_name(first - 1) {
            first -= 2;
        }
        while is_joint(last) && is_name(last + 1) {
            last += 2;
        }
        let goes_on = matches!(
            tokens.kind(last),
            Some(
                TokenKind::Pipe
                    | TokenKind::Ampersand
                    | TokenKind::Colon
                    | TokenKind::LeftParen
                    | TokenKind::Dot
            )
        );
        tokens.kind(first) == Some(TokenKind::Colon) && first != at && last > at && !goes_on
    }

    /// True for `[x IN list WHERE x:A | x.b]`: the parser takes what follows for another label.
    fn is_doubtful_bar(&self, at: usize, open: Option<usize>) -> bool {
        let tokens = self.tokens;
        let Some(open) = open.filter(|open| tokens.kind(*open) == Some(TokenKind::LeftBracket)) else {
            return false;
        };
        if self.is_pattern(open) {
            return false;
        }
        // Where the last part of what may be a label begins.
        let mut first = at.saturating_sub(1);
        if tokens.kind(first) == Some(TokenKind::RightParen) {
            let opens = (open..first).filter(|at| tokens.kind(*at) == Some(TokenKind::LeftParen));
            first = opens.rev().find(|opening| self.closing(*opening) == Ok(first)).unwrap_or(first);
        }
        let joint = matches!(
            tokens.before(first),
            Some(TokenKind::Colon | TokenKind::Ampersand | TokenKind::Bang | TokenKind::Pipe)
        );
        joint || first > 0 && tokens.is(first - 1, "IS")
    }

    /// True for the bracket of a node, of a part of a path, or of a relationship: WHERE in it is about the pattern.
    fn is_pattern(&self, open: usize) -> bool {
        let tokens = self.tokens;
        match (tokens.kind(open), tokens.before(open)) {
            (Some(TokenKind::LeftParen), Some(TokenKind::Keyword(Keyword::Match))) => true,
            (Some(TokenKind::LeftParen), _) => {
                open > 0 && !tokens.is_word(open - 1) && !self.is_escaped(open - 1)
            }
            (Some(TokenKind::LeftBracket), Some(TokenKind::Minus | TokenKind::LeftArrow)) => {
                !tokens.is(open + 2, "IN")
            }
            _ => false,
        }
    }

    fn is_escaped(&self, at: usize) -> bool {
        self.tokens.kind(at) == Some(TokenKind::EscapedIdentifier)
    }

    /// What stands for a clause or an expression that begins with this word.
    fn word(&mut self, at: usize, end: usize) -> Read<Option<(usize, String)>> {
        let tokens = self.tokens;
        if tokens.is(at, "CALL") {
            return self.subquery(at);
        }
        if tokens.is(at, "OPTIONAL") && tokens.is(at + 1, "CALL") {
            return Ok(Some((at + 1, " ".to_owned())));
        }
        if tokens.is(at, "FOREACH") && tokens.kind(at + 1) == Some(TokenKind::LeftParen) {
            return self.foreach(at).map(Some);
        }
        if SUBQUERIES.iter().any(|word| tokens.is(at, word))
            && tokens.kind(at + 1) == Some(TokenKind::LeftBrace)
            && (tokens.kind(at + 2) == Some(TokenKind::LeftParen)
                || tokens.kind(at + 3) == Some(TokenKind::Equal))
        {
            return Ok(Some((at + 2, format!("{} {{ MATCH ", tokens.text(at)))));
        }
        if tokens.is(at, "USING") && HINTS.iter().any(|word| tokens.is(at + 1, word)) {
            return self.hint(at + 1, end).map(|next| Some((next, " ".to_owned())));
        }
        Ok(None)
    }

    /// `CALL { … }`, `CALL (a, b) { … }`.
    fn subquery(&mut self, at: usize) -> Read<Option<(usize, String)>> {
        let tokens = self.tokens;
        let mut open = at + 1;
        let mut imported = Vec::new();
        if tokens.kind(open) == Some(TokenKind::LeftParen) {
            let close = self.closing(open)?;
            for name in open + 1..close {
                if tokens.is_word(name) {
                    imported.push(tokens.text(name).to_owned());
                }
            }
            open = close + 1;
        }
        if tokens.kind(open) != Some(TokenKind::LeftBrace) {
            return Ok(None);
        }
        let close = self.closing(open)?;
        if tokens.is(close + 1, "IN") {
            return Err("it commits on its own (IN TRANSACTIONS)");
        }
        let slot = self.parts.len();
        self.parts.push(Part::default());
        let text = self.copy(open + 1, close)?;
        if let Some(part) = self.parts.get_mut(slot) {
            *part = Part { text, imported };
        }
        Ok(Some((close + 1, " WITH * ".to_owned())))
    }

    /// `FOREACH (x IN list | clauses)`.
    fn foreach(&mut self, at: usize) -> Read<(usize, String)> {
        const UNKNOWN: &str = "its FOREACH has an unknown form";
        let tokens = self.tokens;
        let close = self.closing(at + 1)?;
        if !tokens.is(at + 3, "IN") {
            return Err(UNKNOWN);
        }
        let (mut pipe, mut bar) = (at + 4, None);
        while pipe < close && bar.is_none() {
            match tokens.kind(pipe) {
                Some(TokenKind::LeftParen | TokenKind::LeftBracket | TokenKind::LeftBrace) => {
                    pipe = self.closing(pipe)?;
                }
                Some(TokenKind::Pipe) => bar = Some(pipe),
                _ => {}
            }
            pipe += 1;
        }
        let bar = bar.ok_or(UNKNOWN)?;
        let list = self.source(at + 4, bar).to_owned();
        let clauses = self.copy(bar + 1, close)?;
        let name = tokens.text(at + 2);
        Ok((
            close + 1,
            format!(" WITH *, 0 AS `{ENTER}` UNWIND {list} AS {name} {clauses} WITH *, 0 AS `{LEAVE}` "),
        ))
    }

    /// A hint behind USING; gives what follows it.
    fn hint(&self, at: usize, end: usize) -> Read<usize> {
        let tokens = self.tokens;
        let mut at = at;
        if tokens.is(at, "JOIN") {
            at += 2;
            while tokens.kind(at + 1) == Some(TokenKind::Comma) {
                at += 2;
            }
            return if at < end { Ok(at + 1) } else { Err("its hint is cut off") };
        }
        while HINTS.iter().any(|word| tokens.is(at, word)) && tokens.kind(at + 1) != Some(TokenKind::Colon) {
            at += 1;
        }
        if tokens.kind(at + 1) != Some(TokenKind::Colon) {
            return Err("its hint has an unknown form");
        }
        match tokens.kind(at + 3) {
            Some(TokenKind::LeftParen) => self.closing(at + 3).map(|close| close + 1),
            _ => Ok(at + 3),
        }
    }

    /// Where the bracket that opens here closes.
    fn closing(&self, open: usize) -> Read<usize> {
        let mut depth = 0usize;
        for at in open..self.tokens.len() {
            match self.tokens.kind(at) {
                Some(TokenKind::LeftParen | TokenKind::LeftBracket | TokenKind::LeftBrace) => depth += 1,
                Some(TokenKind::RightParen | TokenKind::RightBracket | TokenKind::RightBrace) => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Ok(at);
            }
        }
        Err("a bracket is not closed")
    }

    /// The source from the begin of a token to the begin of another.
    fn source(&self, from: usize, to: usize) -> &str {
        self.text.get(self.tokens.start(from)..self.tokens.start(to)).unwrap_or_default()
    }
}

/// Words before a query in braces, which may be no more than a pattern.
const SUBQUERIES: [&str; 2] = ["COUNT", "EXISTS"];
/// Words of hints to the planner.
const HINTS: [&str; 7] = ["INDEX", "SCAN", "JOIN", "TEXT", "RANGE", "POINT", "SEEK"];
