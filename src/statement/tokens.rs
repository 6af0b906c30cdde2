//! The tokens of a text, and what in it Neo4j may read otherwise than the tokens say.

use open_cypher::{Keyword, Token, TokenKind};

/// A text's tokens without blanks and comments.
pub(super) struct Tokens<'t> {
    text: &'t str,
    list: Vec<Token>,
    /// Why the tokens may not be Neo4j's own.
    pub(super) doubt: Option<&'static str>,
}

impl<'t> Tokens<'t> {
    pub(super) fn of(text: &'t str) -> Self {
        let mut list = open_cypher::lex(text).tokens;
        let doubt = list.iter().find_map(|token| doubt(text, *token)).or_else(|| {
            let escapes = text.contains("\\u") || text.contains("\\U");
            escapes.then_some("it has a Unicode escape, which Neo4j may resolve before anything else")
        });
        list.retain(|token| !token.is_trivia());
        Self { text, list, doubt }
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// The class of a token; `None` outside.
    pub(super) fn kind(&self, at: usize) -> Option<TokenKind> {
        self.list.get(at).map(|token| token.kind)
    }

    /// The class of the token before; `None` at the begin.
    pub(super) fn before(&self, at: usize) -> Option<TokenKind> {
        self.kind(at.checked_sub(1)?)
    }

    /// The source of a token, empty outside.
    pub(super) fn text(&self, at: usize) -> &'t str {
        self.list.get(at).and_then(|token| token.text(self.text)).unwrap_or_default()
    }

    /// Where a token begins in the text; behind the last one, where that ends.
    pub(super) fn start(&self, at: usize) -> usize {
        match self.list.get(at) {
            Some(token) => token.span.start,
            None => self.list.last().map_or(0, |token| token.span.end),
        }
    }

    /// A word that is not in back-ticks, be it a keyword or a name.
    pub(super) fn is_word(&self, at: usize) -> bool {
        matches!(self.kind(at), Some(TokenKind::Keyword(_) | TokenKind::Identifier))
    }

    /// This very word, in whatever case.
    pub(super) fn is(&self, at: usize, word: &str) -> bool {
        self.is_word(at) && self.text(at).eq_ignore_ascii_case(word)
    }

    /// True if a word here can only be a name: of a property, label, type, parameter or alias.
    pub(super) fn is_named(&self, at: usize) -> bool {
        let introduced = matches!(
            self.before(at),
            Some(TokenKind::Dot | TokenKind::Colon | TokenKind::Dollar | TokenKind::Keyword(Keyword::As))
        );
        introduced || matches!(self.kind(at + 1), Some(TokenKind::Colon | TokenKind::Dot))
    }

    /// Only tokens of which this module knows that Neo4j reads them as the parser does.
    pub(super) fn only_plain(&self) -> Result<(), &'static str> {
        (0..self.list.len()).try_for_each(|at| match self.kind(at) {
            Some(TokenKind::Keyword(keyword)) if !self.is_named(at) => plain_keyword(keyword),
            Some(TokenKind::Identifier | TokenKind::Parameter) if !self.text(at).is_ascii() => {
                Err("a name outside of back-ticks is not ASCII")
            }
            Some(
                TokenKind::Keyword(_)
                | TokenKind::Identifier
                | TokenKind::EscapedIdentifier
                | TokenKind::Parameter
                | TokenKind::Dollar
                | TokenKind::Integer
                | TokenKind::Float
                | TokenKind::String
                | TokenKind::LeftParen
                | TokenKind::RightParen
                | TokenKind::LeftBrace
                | TokenKind::RightBrace
                | TokenKind::LeftBracket
                | TokenKind::RightBracket
                | TokenKind::Comma
                | TokenKind::Dot
                | TokenKind::Colon
                | TokenKind::Plus
                | TokenKind::Minus
                | TokenKind::Star
                | TokenKind::Equal
                | TokenKind::PlusEqual
                | TokenKind::LeftArrow
                | TokenKind::RightArrow,
            ) => Ok(()),
            Some(TokenKind::Semicolon) => Err("it ends with a semicolon"),
            _ => Err("it has an operator that no shape has"),
        })
    }

    /// Names of the parameters, each once, in order of appearance.
    pub(super) fn parameters(&self) -> Box<[Box<str>]> {
        let mut names: Vec<Box<str>> = Vec::new();
        for at in 0..self.list.len() {
            let name: Box<str> = match self.kind(at) {
                Some(TokenKind::Parameter) => self.text(at).get(1..).unwrap_or_default().into(),
                Some(TokenKind::Dollar) => match self.kind(at + 1) {
                    Some(TokenKind::EscapedIdentifier) => unquoted(self.text(at + 1)).into(),
                    Some(TokenKind::Identifier | TokenKind::Keyword(_) | TokenKind::Integer) => {
                        self.text(at + 1).into()
                    }
                    _ => continue,
                },
                _ => continue,
            };
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names.into()
    }
}

/// A name out of its back-ticks.
pub(super) fn unquoted(text: &str) -> String {
    let inner = text.strip_prefix('`').and_then(|text| text.strip_suffix('`')).unwrap_or(text);
    inner.replace("``", "`")
}

fn doubt(text: &str, token: Token) -> Option<&'static str> {
    let source = token.text(text).unwrap_or_default();
    match token.kind {
        TokenKind::Invalid => Some("it has a character or a quote that cannot be read"),
        // Neo4j knows no escapes in back-ticks.
        TokenKind::EscapedIdentifier if source.contains('\\') => Some("it has a backslash in back-ticks"),
        // Neo4j ends the outer comment where the inner one ends.
        TokenKind::BlockComment if source.get(2..).is_some_and(|rest| rest.contains("/*")) => {
            Some("it has a comment in a comment")
        }
        _ => None,
    }
}

fn plain_keyword(keyword: Keyword) -> Result<(), &'static str> {
    match keyword {
        Keyword::And
        | Keyword::As
        | Keyword::Create
        | Keyword::False
        | Keyword::Match
        | Keyword::Merge
        | Keyword::Null
        | Keyword::On
        | Keyword::Remove
        | Keyword::Return
        | Keyword::Set
        | Keyword::True
        | Keyword::Where => Ok(()),
        Keyword::Delete | Keyword::Detach => Err("it deletes"),
        Keyword::Unwind => Err("it unwinds a list of its own"),
        Keyword::With => Err("it has WITH"),
        Keyword::Call => Err("it has a subquery"),
        Keyword::Optional => Err("it has OPTIONAL MATCH"),
        Keyword::Union => Err("it has UNION"),
        Keyword::Order | Keyword::Skip | Keyword::Limit | Keyword::Offset | Keyword::Distinct => {
            Err("its RETURN sorts, cuts or folds rows")
        }
        _ => Err("it has a keyword that no shape has"),
    }
}
