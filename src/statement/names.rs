//! The labels and relationship types that a text names, by its tokens.

use open_cypher::{Keyword, TokenKind};

use super::tokens::{Tokens, unquoted};

/// Labels and types, each once. Where a name may be either, it counts as both.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Labels of nodes.
    pub(crate) labels: Box<[Box<str>]>,
    /// Types of relationships.
    pub(crate) types: Box<[Box<str>]>,
    /// The text may name others: it has `$(…)` behind a colon, or cannot be read.
    pub(crate) open: bool,
}

impl Names {
    /// Of a text that nobody looks into.
    pub(super) fn unknown() -> Self {
        Self { open: true, ..Self::default() }
    }

    /// Of the text with these tokens.
    pub(super) fn of(tokens: &Tokens<'_>) -> Self {
        let mut reader =
            Reader { tokens, labels: Vec::new(), types: Vec::new(), open: tokens.doubt.is_some() };
        reader.read();
        Self { labels: reader.labels.into(), types: reader.types.into(), open: reader.open }
    }
}

/// What a bracket that is open here is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Inside {
    /// `(`.
    Round,
    /// `[` of a relationship.
    Relationship,
    /// `[` of a list or an index.
    List,
    /// `{` of a map, whose colons follow keys.
    Map,
    /// `{` of a subquery.
    Block,
}

struct Reader<'a, 't> {
    tokens: &'a Tokens<'t>,
    labels: Vec<Box<str>>,
    types: Vec<Box<str>>,
    open: bool,
}

impl Reader<'_, '_> {
    fn read(&mut self) {
        let mut inside = Vec::new();
        let mut at = 0;
        while at < self.tokens.len() {
            match self.tokens.kind(at) {
                Some(TokenKind::LeftParen) => inside.push(Inside::Round),
                Some(TokenKind::LeftBracket) => inside.push(self.bracket(at)),
                Some(TokenKind::LeftBrace) => inside.push(self.brace(at)),
                Some(TokenKind::RightParen | TokenKind::RightBracket | TokenKind::RightBrace) => {
                    inside.pop();
                }
                Some(TokenKind::Colon) if !self.is_key(at, inside.last()) => {
                    at = self.expression(at, inside.last());
                    continue;
                }
                _ if self.tokens.is(at, "IS") && self.is_test(at) => {
                    at = self.expression(at, None);
                    continue;
                }
                _ => {}
            }
            at += 1;
        }
    }

    /// A relationship's bracket stands behind a line.
    fn bracket(&self, at: usize) -> Inside {
        let line = matches!(self.tokens.before(at), Some(TokenKind::Minus | TokenKind::LeftArrow));
        let inner = self.tokens.kind(at + 1);
        let empty = matches!(
            inner,
            Some(TokenKind::Colon | TokenKind::RightBracket | TokenKind::Star | TokenKind::LeftBrace)
        );
        // `a - [x IN …]` is a difference of lists; its names then count as both.
        if line && (empty || !self.tokens.is(at + 2, "IN")) { Inside::Relationship } else { Inside::List }
    }

    /// A subquery begins with a word that no key is, or with a pattern.
    fn brace(&self, at: usize) -> Inside {
        let key = matches!(
            self.tokens.kind(at + 2),
            Some(TokenKind::Colon | TokenKind::Comma | TokenKind::RightBrace | TokenKind::Dot)
        );
        match self.tokens.kind(at + 1) {
            Some(TokenKind::LeftParen) => Inside::Block,
            Some(TokenKind::Keyword(_) | TokenKind::Identifier) if !key => Inside::Block,
            _ => Inside::Map,
        }
    }

    /// True if the colon follows a map's key.
    fn is_key(&self, at: usize, inside: Option<&Inside>) -> bool {
        let before = at.checked_sub(2).and_then(|before| self.tokens.kind(before));
        inside == Some(&Inside::Map) && matches!(before, Some(TokenKind::LeftBrace | TokenKind::Comma))
    }

    /// `n IS Person`, not `n IS NULL` and the like.
    fn is_test(&self, at: usize) -> bool {
        const OTHERS: [&str; 8] = ["NULL", "NOT", "TYPED", "NORMALIZED", "NFC", "NFD", "NFKC", "NFKD"];
        !OTHERS.iter().any(|word| self.tokens.is(at + 1, word))
            && self.tokens.kind(at + 1) != Some(TokenKind::Colon)
    }

    /// The names behind the colon at `colon`: `A`, `A|B`, `A&!(B|C)`, `$(…)`. Gives where they end.
    fn expression(&mut self, colon: usize, inside: Option<&Inside>) -> usize {
        let mut at = colon + 1;
        let mut open = 0;
        loop {
            while matches!(self.tokens.text(at), "!" | "(" | ":") {
                open += usize::from(self.tokens.text(at) == "(");
                at += 1;
            }
            match self.tokens.kind(at) {
                Some(TokenKind::Keyword(_) | TokenKind::Identifier) => {
                    self.found(colon, self.tokens.text(at).into(), inside);
                }
                Some(TokenKind::EscapedIdentifier) => {
                    self.found(colon, unquoted(self.tokens.text(at)).into(), inside);
                }
                Some(TokenKind::Dollar | TokenKind::Parameter) => self.open = true,
                _ if self.tokens.text(at) == "%" => {}
                _ => return at - open,
            }
            at += 1;
            while open > 0 && self.tokens.text(at) == ")" {
                (open, at) = (open - 1, at + 1);
            }
            if !matches!(self.tokens.text(at), "|" | "&" | ":") {
                return at;
            }
            at += 1;
        }
    }

    fn found(&mut self, colon: usize, name: Box<str>, inside: Option<&Inside>) {
        let opening =
            |at: Option<usize>| at.and_then(|at| self.tokens.kind(at)) == Some(TokenKind::LeftParen);
        let node = inside == Some(&Inside::Round)
            && (opening(colon.checked_sub(1)) || opening(colon.checked_sub(2)));
        let set = self.tokens.before(colon.saturating_sub(1)) == Some(TokenKind::Keyword(Keyword::Set));
        let relationship = inside == Some(&Inside::Relationship);
        let add = |to: &mut Vec<Box<str>>| {
            if !to.contains(&name) {
                to.push(name.clone());
            }
        };
        if !relationship {
            add(&mut self.labels);
        }
        if !(node || set) {
            add(&mut self.types);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> (String, String, bool) {
        let names = Names::of(&Tokens::of(text));
        (names.labels.join(" "), names.types.join(" "), names.open)
    }

    #[test]
    fn labels_and_types_are_told_apart() {
        for (text, labels, types) in [
            ("MATCH (n:Person {name: $a}) RETURN n", "Person", ""),
            ("MATCH (:A:B)-[:KNOWS]->(c:`C d`) RETURN 1", "A B C d", "KNOWS"),
            ("MATCH (a:A|B&!C)<-[r:R|:S|T*1..3 {x: 1}]-(b) RETURN {a: a, b: r}", "A B C", "R S T"),
            ("MATCH (n) SET n:X:Y, n.z = {k: 1, l: [1, {m: 2}]}", "X Y", ""),
            ("MATCH (n) WHERE n:P OR n.x = 1 RETURN n", "P", "P"),
            ("MATCH (n) CALL { WITH n MATCH (n)-[:IN_IT]->(m:M) RETURN m } RETURN m", "M", "IN_IT"),
            ("MATCH (n) WHERE EXISTS { (n)-[:HAS]->(:K) } RETURN n {.a, b: n.c}", "K", "HAS"),
            (
                "MATCH (n IS Person)-[r IS KNOWS]->() WHERE n.x IS NOT NULL RETURN n",
                "Person KNOWS",
                "Person KNOWS",
            ),
            ("UNWIND $rows AS row MERGE (n:Row {id: row.id}) SET n += row", "Row", ""),
            ("RETURN [x IN [1] WHERE x > 0 | {a: x}], 'MATCH (n:No)' // :No", "", ""),
            ("MATCH (n:match) RETURN n", "match", ""),
        ] {
            assert_eq!(names(text), (labels.to_owned(), types.to_owned(), false), "{text}");
        }
    }

    #[test]
    fn what_may_name_more_is_open() {
        for text in ["MATCH (n:$($l)) RETURN n", "CREATE (n:$(l))", "MATCH (n:Per\\u0073on) RETURN n"] {
            assert!(names(text).2, "{text}");
        }
    }
}
