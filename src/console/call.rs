//! The one form of a call, by the tokens of its text: a name, literals or parameters, and which columns are wanted.

use bolt_wire::message::Failure;
use bolt_wire::packstream::{MapView, Value};
use open_cypher::{Keyword, Token, TokenKind};

use super::procedures::{self, Asking, Procedure};
use super::{FORM, NAMESPACE, Table, looks_like_call};

/// A call of one of Sidebolt's procedures, as it was written.
#[derive(Debug, PartialEq)]
pub(crate) struct Call {
    /// The whole name, with its namespace.
    name: String,
    arguments: Vec<Argument>,
    /// Columns and the names that they get; none = all.
    yields: Option<Vec<(String, String)>>,
}

/// What stands between the brackets.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Argument {
    /// A value.
    Literal(Value),
    /// `$name`.
    Parameter(String),
    /// `{key: …}`.
    Map(Vec<(String, Self)>),
    /// `[…]`.
    List(Vec<Self>),
}

/// Maps and lists inside of each other.
const DEEPEST: usize = 8;

impl Argument {
    /// What it stands for, with the parameters that came with it.
    pub(crate) fn value(&self, parameters: &MapView<'_>) -> Result<Value, Failure> {
        match self {
            Self::Literal(value) => Ok(value.clone()),
            Self::Parameter(name) => {
                parameters.get(name).and_then(|bytes| Value::decode(bytes).ok()).ok_or_else(|| {
                    let code = ("Neo.ClientError.Statement.ParameterMissing", "42N51");
                    failure(code, format!("Expected parameter(s): {name}"))
                })
            }
            Self::Map(entries) => {
                let entry = |(key, value): &(String, Self)| Ok((key.clone(), value.value(parameters)?));
                entries.iter().map(entry).collect::<Result<_, _>>().map(Value::Map)
            }
            Self::List(items) => {
                items.iter().map(|item| item.value(parameters)).collect::<Result<_, _>>().map(Value::List)
            }
        }
    }
}

/// The code of what cannot be read.
pub(crate) const SYNTAX: (&str, &str) = ("Neo.ClientError.Statement.SyntaxError", "42001");

fn failure((code, status): (&'static str, &'static str), message: impl Into<String>) -> Failure {
    Failure::new(code, status, message)
}

impl Call {
    /// The call that a text is; `None` if it calls nothing of Sidebolt's, a FAILURE if it does so in a form that Sidebolt cannot answer.
    pub(crate) fn of(text: &str) -> Option<Result<Self, Failure>> {
        let mut words = Words::behind(text, NAMESPACE)?;
        Some(Self::read(&mut words).ok_or_else(|| words.refuse()))
    }

    /// Reads what follows the namespace.
    fn read(words: &mut Words<'_>) -> Option<Self> {
        let name = words.names(NAMESPACE)?;
        let arguments = words.arguments()?;
        let yields = words.yields()?;
        words.take(TokenKind::Semicolon);
        words.kind().is_none().then_some(Self { name, arguments, yields })
    }

    /// Answers it, with the parameters that came with it.
    pub(crate) fn answer(&self, asking: &Asking<'_>, parameters: &MapView<'_>) -> Result<Table, Failure> {
        let procedure = procedures::find(&self.name).ok_or_else(|| self.unknown())?;
        let columns = self.columns(procedure)?;
        let arguments = self.values(procedure, parameters)?;
        let mut rows = (procedure.rows)(asking, &arguments)?;
        if self.yields.is_some() {
            let chosen = |row: Vec<Value>| {
                columns.iter().map(|(at, _)| row.get(*at).cloned().unwrap_or(Value::Null)).collect()
            };
            rows = rows.into_iter().map(chosen).collect();
        }
        Ok(Table { columns: columns.into_iter().map(|(_, name)| name).collect(), rows })
    }

    /// Where each column of the answer stands among the procedure's, and its name.
    fn columns(&self, procedure: &Procedure) -> Result<Vec<(usize, String)>, Failure> {
        let known: Vec<_> = procedure.columns.iter().map(|column| column.name).collect();
        chosen(&self.name, &known, self.yields.as_deref()).map_err(|text| failure(SYNTAX, text))
    }

    fn values(&self, procedure: &Procedure, parameters: &MapView<'_>) -> Result<Vec<Value>, Failure> {
        let (got, wanted) = (self.arguments.len(), procedure.arguments.len());
        if got != wanted {
            let text = format!(
                "Procedure call provides {got} argument{}, expected {wanted}: {} has the signature {}.",
                if got == 1 { "" } else { "s" },
                self.name,
                procedure.signature()
            );
            return Err(failure(SYNTAX, text));
        }
        self.arguments.iter().map(|argument| argument.value(parameters)).collect()
    }

    fn unknown(&self) -> Failure {
        let known: Vec<_> = procedures::ALL.iter().map(Procedure::signature).collect();
        let text = format!(
            "There is no procedure with the name `{}` registered for this database instance: Sidebolt has {}.",
            self.name,
            known.join(", ")
        );
        failure(("Neo.ClientError.Procedure.ProcedureNotFound", "42N08"), text)
    }
}

/// Where each wanted column stands among those that a procedure has, and the name that it gets; none named = all.
pub(crate) fn chosen(
    procedure: &str,
    known: &[&str],
    wanted: Option<&[(String, String)]>,
) -> Result<Vec<(usize, String)>, String> {
    let Some(wanted) = wanted else {
        return Ok(known.iter().map(|name| (*name).to_owned()).enumerate().collect());
    };
    let mut columns: Vec<(usize, String)> = Vec::with_capacity(wanted.len());
    for (column, name) in wanted {
        let Some(at) = known.iter().position(|known| known == column) else {
            let known = known.join(", ");
            return Err(format!("Unknown procedure output: `{column}`. {procedure} gives: {known}."));
        };
        if columns.iter().any(|(_, other)| other == name) {
            return Err(format!("Variable `{name}` already declared"));
        }
        columns.push((at, name.clone()));
    }
    Ok(columns)
}

/// The tokens of a text that are left.
pub(crate) struct Words<'t> {
    text: &'t str,
    tokens: Vec<Token>,
    at: usize,
}

impl<'t> Words<'t> {
    /// Of this text.
    pub(crate) fn of(text: &'t str) -> Self {
        let mut tokens = open_cypher::lex(text).tokens;
        tokens.retain(|token| !token.is_trivia());
        Self { text, tokens, at: 0 }
    }

    /// What stands behind `CALL` and this namespace; `None` if the text does not begin with them.
    pub(crate) fn behind(text: &'t str, namespace: &str) -> Option<Self> {
        if !looks_like_call(text.as_bytes(), namespace) {
            return None;
        }
        let mut words = Self::of(text);
        let calls = words.take(TokenKind::Keyword(Keyword::Call))
            && words.name()?.eq_ignore_ascii_case(namespace)
            && words.kind() == Some(TokenKind::Dot);
        calls.then_some(words)
    }

    /// The whole name of a procedure, of which the namespace was taken.
    pub(crate) fn names(&mut self, namespace: &str) -> Option<String> {
        let mut name = namespace.to_owned();
        while self.take(TokenKind::Dot) {
            name.push('.');
            name.push_str(&self.name()?);
        }
        Some(name)
    }

    /// The next one's kind.
    pub(crate) fn kind(&self) -> Option<TokenKind> {
        self.tokens.get(self.at).map(|token| token.kind)
    }

    /// The next one, as it stands there.
    pub(crate) fn source(&self) -> &'t str {
        self.tokens.get(self.at).and_then(|token| token.text(self.text)).unwrap_or_default()
    }

    /// Takes a token of this kind, if it is the next.
    pub(crate) fn take(&mut self, kind: TokenKind) -> bool {
        let found = self.kind() == Some(kind);
        self.at += usize::from(found);
        found
    }

    /// Steps over the next one, whatever it is.
    pub(crate) fn skip(&mut self) {
        self.at += 1;
    }

    /// Whether the next one is this very word, in whatever case.
    pub(crate) fn is(&self, word: &str) -> bool {
        let is_word = matches!(self.kind(), Some(TokenKind::Keyword(_) | TokenKind::Identifier));
        is_word && self.source().eq_ignore_ascii_case(word)
    }

    /// Takes this very word, in whatever case.
    pub(crate) fn word(&mut self, word: &str) -> bool {
        let found = self.is(word);
        self.at += usize::from(found);
        found
    }

    /// A name, with or without back-ticks.
    pub(crate) fn name(&mut self) -> Option<String> {
        let source = self.source();
        let name = match self.kind()? {
            TokenKind::Identifier | TokenKind::Keyword(_) => source.to_owned(),
            TokenKind::EscapedIdentifier => source.strip_prefix('`')?.strip_suffix('`')?.replace("``", "`"),
            _ => return None,
        };
        self.at += 1;
        Some(name)
    }

    /// `(…)`, or nothing.
    pub(crate) fn arguments(&mut self) -> Option<Vec<Argument>> {
        let mut arguments = Vec::new();
        if !self.take(TokenKind::LeftParen) || self.take(TokenKind::RightParen) {
            return Some(arguments);
        }
        loop {
            arguments.push(self.argument(0)?);
            if self.take(TokenKind::RightParen) {
                return Some(arguments);
            }
            if !self.take(TokenKind::Comma) {
                return None;
            }
        }
    }

    /// `[VALUE, …]`, behind its bracket.
    fn list(&mut self, depth: usize) -> Option<Argument> {
        let mut items = Vec::new();
        if depth == DEEPEST {
            return None;
        }
        if self.take(TokenKind::RightBracket) {
            return Some(Argument::List(items));
        }
        loop {
            items.push(self.argument(depth + 1)?);
            if self.take(TokenKind::RightBracket) {
                return Some(Argument::List(items));
            }
            if !self.take(TokenKind::Comma) {
                return None;
            }
        }
    }

    /// `{key: VALUE, …}`, behind its bracket.
    fn map(&mut self, depth: usize) -> Option<Argument> {
        let mut entries = Vec::new();
        if depth == DEEPEST {
            return None;
        }
        if self.take(TokenKind::RightBrace) {
            return Some(Argument::Map(entries));
        }
        loop {
            let key = self.name()?;
            if !self.take(TokenKind::Colon) {
                return None;
            }
            entries.push((key, self.argument(depth + 1)?));
            if self.take(TokenKind::RightBrace) {
                return Some(Argument::Map(entries));
            }
            if !self.take(TokenKind::Comma) {
                return None;
            }
        }
    }

    fn argument(&mut self, depth: usize) -> Option<Argument> {
        if self.take(TokenKind::LeftBrace) {
            return self.map(depth);
        }
        if self.take(TokenKind::LeftBracket) {
            return self.list(depth);
        }
        let before = self.at;
        let negative = self.take(TokenKind::Minus);
        let source = self.source();
        let signed = || if negative { format!("-{source}") } else { source.to_owned() };
        let argument = match self.kind()? {
            TokenKind::Integer => Argument::Literal(Value::Integer(signed().parse().ok()?)),
            TokenKind::Float => Argument::Literal(Value::Float(signed().parse().ok()?)),
            _ if negative => {
                self.at = before;
                return None;
            }
            TokenKind::String => Argument::Literal(Value::String(unquoted(source)?)),
            TokenKind::Keyword(Keyword::True) => Argument::Literal(Value::Boolean(true)),
            TokenKind::Keyword(Keyword::False) => Argument::Literal(Value::Boolean(false)),
            TokenKind::Keyword(Keyword::Null) => Argument::Literal(Value::Null),
            TokenKind::Parameter => Argument::Parameter(source.get(1..)?.to_owned()),
            TokenKind::Dollar => {
                self.at += 1;
                return self.name().map(Argument::Parameter);
            }
            _ => return None,
        };
        self.at += 1;
        Some(argument)
    }

    /// `YIELD …`; nothing and `*` stand for all columns.
    pub(crate) fn yields(&mut self) -> Option<Option<Vec<(String, String)>>> {
        if !self.word("YIELD") || self.take(TokenKind::Star) {
            return Some(None);
        }
        let mut columns = Vec::new();
        loop {
            let column = self.name()?;
            let name = if self.word("AS") { self.name()? } else { column.clone() };
            columns.push((column, name));
            if !self.take(TokenKind::Comma) {
                return Some(Some(columns));
            }
        }
    }

    /// What is left of the text; none at its end.
    pub(crate) fn rest(&self) -> Option<&'t str> {
        self.text.get(self.tokens.get(self.at)?.span.start..)
    }

    /// The tokens that are left.
    pub(crate) fn left(&self) -> &[Token] {
        self.tokens.get(self.at..).unwrap_or_default()
    }

    /// The next token and where it stands, in words.
    pub(crate) fn place(&self) -> String {
        match self.tokens.get(self.at) {
            Some(token) => {
                let offset = token.span.start;
                let found: String = self.source().chars().take(40).collect();
                format!("`{found}` at offset {offset}")
            }
            None => "its end".to_owned(),
        }
    }

    /// FAILURE for the token that was not expected.
    fn refuse(&self) -> Failure {
        let place = self.place();
        let text = format!(
            "Sidebolt answers calls of sidebolt.… itself and cannot read {place}. Write `{FORM}`, with literals or parameters as arguments, \
             and nothing behind it; YIELD may be left out. What exists: CALL sidebolt.procedures()."
        );
        failure(SYNTAX, text)
    }
}

/// A string out of its quotes. Escapes other than the usual ones are not understood.
fn unquoted(source: &str) -> Option<String> {
    let inner = source.get(1..source.len().checked_sub(1)?)?;
    let mut text = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        text.push(match character {
            '\\' => match characters.next()? {
                escaped @ ('\\' | '\'' | '"') => escaped,
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                _ => return None,
            },
            plain => plain,
        });
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(text: &str) -> Call {
        Call::of(text).unwrap_or_else(|| panic!("{text} is none")).unwrap_or_else(|f| panic!("{text}: {f:?}"))
    }

    fn refusal(text: &str) -> Failure {
        Call::of(text).unwrap_or_else(|| panic!("{text} is none")).unwrap_err()
    }

    #[test]
    fn what_is_sidebolts_is_read() {
        let plain = call("CALL sidebolt.coalesce()");
        assert_eq!((plain.name.as_str(), &plain.yields), ("sidebolt.coalesce", &None));
        for text in [
            "call Sidebolt.coalesce",
            "/* x */ CALL // y\n `sidebolt`.`coalesce` ( ) ;",
            "CALL sidebolt.coalesce() YIELD *",
        ] {
            assert_eq!(call(text), plain, "{text}");
        }
        let chosen = call("CALL sidebolt.coalesce.lanes() yield database AS `as`, waiting;");
        assert_eq!(chosen.name, "sidebolt.coalesce.lanes");
        let names = |pair: (&str, &str)| (pair.0.to_owned(), pair.1.to_owned());
        assert_eq!(chosen.yields, Some(vec![names(("database", "as")), names(("waiting", "waiting"))]));
    }

    #[test]
    fn arguments_are_literals_and_parameters() {
        let all =
            call(r#"CALL sidebolt.x(1, -2, 0.5, -1e3, 'it\'s', "a\nb", true, false, null, $p, $`a b`)"#);
        let literals = [
            Value::Integer(1),
            Value::Integer(-2),
            Value::Float(0.5),
            Value::Float(-1000.0),
            "it's".into(),
            "a\nb".into(),
            true.into(),
            false.into(),
            Value::Null,
        ];
        let mut expected: Vec<Argument> = literals.into_iter().map(Argument::Literal).collect();
        expected.extend(["p", "a b"].map(|name| Argument::Parameter(name.to_owned())));
        assert_eq!(all.arguments, expected);
        let map = call("CALL sidebolt.x({a: $p, `b c`: {d: 1}, e: {}})");
        let key = |name: &str| name.to_owned();
        let one = Argument::Map(vec![(key("d"), Argument::Literal(Value::Integer(1)))]);
        let entries = vec![
            (key("a"), Argument::Parameter(key("p"))),
            (key("b c"), one),
            (key("e"), Argument::Map(Vec::new())),
        ];
        assert_eq!(map.arguments, [Argument::Map(entries)]);
    }

    #[test]
    fn what_is_not_sidebolts_is_left() {
        for text in
            ["CALL db.labels()", "RETURN 1", "", "CALL", "CALL sidebolt", "CALL sidebolt(1)", "CALL side"]
        {
            assert_eq!(Call::of(text), None, "{text}");
        }
    }

    #[test]
    fn another_form_is_told_how_to_be_written() {
        for (text, place) in [
            ("CALL sidebolt.", "its end"),
            ("CALL sidebolt.x(", "its end"),
            ("CALL sidebolt.x(1 + 1)", "`+` at offset 18"),
            ("CALL sidebolt.x([1 2])", "`2` at offset 19"),
            ("CALL sidebolt.x(-$p)", "`-` at offset 16"),
            ("CALL sidebolt.x({a 1})", "`1` at offset 19"),
            ("CALL sidebolt.x({a: 1)", "`)` at offset 21"),
            ("CALL sidebolt.x({a:{a:{a:{a:{a:{a:{a:{a:{a:1}}}}}}}}})", "`a` at offset 41"),
            ("CALL sidebolt.x() RETURN 1", "`RETURN` at offset 18"),
            ("CALL sidebolt.x() YIELD a WHERE a > 1", "`WHERE` at offset 26"),
            ("CALL sidebolt.x() YIELD a, ", "its end"),
            ("CALL sidebolt.x(); RETURN 1", "`RETURN` at offset 19"),
            ("CALL sidebolt.x() YIELD", "its end"),
        ] {
            let refused = refusal(text);
            assert_eq!(refused.code, "Neo.ClientError.Statement.SyntaxError", "{text}");
            assert!(
                refused.message.contains(place) && refused.message.contains(FORM),
                "{text}: {}",
                refused.message
            );
        }
    }

    #[test]
    fn columns_and_arguments_are_checked() {
        let procedure = procedures::find("sidebolt.coalesce.lanes").unwrap();
        let columns = |text: &str| call(text).columns(procedure).map_err(|failure| failure.message);
        assert_eq!(columns("CALL sidebolt.coalesce.lanes()").unwrap().len(), procedure.columns.len());
        let chosen = columns("CALL sidebolt.coalesce.lanes() YIELD user AS who, user").unwrap();
        assert_eq!(chosen, [(1, "who".to_owned()), (1, "user".to_owned())]);
        assert!(columns("CALL sidebolt.coalesce.lanes() YIELD nope").unwrap_err().contains("batchCap"));
        let twice = columns("CALL sidebolt.coalesce.lanes() YIELD user, waiting AS user").unwrap_err();
        assert!(twice.contains("already declared"), "{twice}");

        let none = MapView::EMPTY;
        let many = call("CALL sidebolt.coalesce.lanes(1)").values(procedure, &none).unwrap_err();
        assert!(many.message.contains("1 argument, expected 0"), "{}", many.message);
        let unknown = call("CALL sidebolt.nope()").unknown();
        assert_eq!(unknown.code, "Neo.ClientError.Procedure.ProcedureNotFound");
        assert!(unknown.message.contains("sidebolt.coalesce()"), "{}", unknown.message);

        let one = Procedure { arguments: &["limit"], ..*procedure };
        let parameters = Value::map([("n", Value::Integer(3))]).to_bytes();
        let parameters = MapView::parse(&parameters).unwrap();
        let values = |text: &str| call(text).values(&one, &parameters);
        assert_eq!(values("CALL sidebolt.x($n)").unwrap(), [Value::Integer(3)]);
        assert!(values("CALL sidebolt.x()").unwrap_err().message.contains("(limit)"));
        assert_eq!(
            values("CALL sidebolt.x($m)").unwrap_err().code,
            "Neo.ClientError.Statement.ParameterMissing"
        );
    }
}
