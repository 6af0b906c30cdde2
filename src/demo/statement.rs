//! A statement made ready for the engine: what it is, its columns in Neo4j's words, and its text without what the engine gets wrong.

use std::collections::HashMap;

use bolt_wire::message::Failure;
use bolt_wire::packstream::Value as Bolt;
use grafeo_common::types::{LogicalType, Value};
use grafeo_engine::Session;
use grafeo_engine::query::translate_cypher;

use super::lex::{Kind as TokenKind, Tokens};
use super::refusal::{from_engine, syntax, unsupported};
use super::rewrite::{CLAUSES, Rewrite};
use super::schema::{self, Command};
use super::values;
use super::vet::{self, Shape};

/// A statement that is ready to run.
pub(super) struct Prepared {
    /// The text for the engine.
    pub(super) text: String,
    /// Its parameters.
    pub(super) parameters: HashMap<String, Value>,
    /// What it does.
    pub(super) kind: Kind,
    /// Its columns; `None` if it returns nothing.
    pub(super) columns: Option<Columns>,
}

/// What a statement does.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// Reads.
    Read,
    /// Writes and returns nothing.
    Write,
    /// Writes and returns rows.
    ReadWrite,
    /// Tells something about the server.
    Procedure,
    /// Changes the schema.
    Schema(Command),
}

impl Kind {
    /// Bolt's `type`.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Read => "r",
            Self::Write => "w",
            Self::ReadWrite => "rw",
            Self::Procedure | Self::Schema(_) => "s",
        }
    }

    /// True for what needs the writer's place.
    pub(super) fn writes(&self) -> bool {
        !matches!(self, Self::Read | Self::Procedure)
    }
}

/// The columns of a statement.
pub(super) struct Columns {
    /// Their names; `None` for `RETURN *` and bare procedure calls: as the engine names them.
    names: Option<Vec<String>>,
    shapes: Vec<Shape>,
}

impl Columns {
    /// The names, in order.
    pub(super) fn names(&self, of_engine: &[String]) -> Result<Vec<String>, Failure> {
        let names = self.names.clone().unwrap_or_else(|| of_engine.to_vec());
        if names.len() != of_engine.len() {
            return Err(unsupported("the form of this RETURN"));
        }
        Ok(names)
    }

    /// Checks the plan's shapes against the types that the engine found; they differ where the engine errs.
    pub(super) fn agree(&self, types: &[LogicalType]) -> Result<(), Failure> {
        let entity = |t: &LogicalType| matches!(t, LogicalType::Node | LogicalType::Edge);
        for (at, found) in types.iter().enumerate() {
            let shape = self.shapes.get(at).unwrap_or(&Shape::Plain);
            let wrong = match found {
                LogicalType::List(item) => entity(item) && !shape.has_entity(),
                other => entity(other) && !matches!(shape, Shape::Node | Shape::Relationship),
            };
            if wrong {
                return Err(unsupported("grouping by this kind of value"));
            }
        }
        Ok(())
    }

    /// One value of column `at` for the client.
    pub(super) fn value(&self, at: usize, value: &Value, session: &Session) -> Result<Bolt, Failure> {
        values::to_bolt(value, self.shapes.get(at).unwrap_or(&Shape::Plain), session)
    }
}

/// Makes a statement ready. Nothing runs yet.
pub(super) fn prepare(text: &str, parameters: &Bolt) -> Result<Prepared, Failure> {
    let text = text.trim_end().trim_end_matches(';');
    let tokens = Tokens::new(text);
    let mut parameters = values::parameters(parameters)?;
    refuse_prefixes(&tokens)?;
    if let Some(command) = schema::parse(&tokens)? {
        let text = text.to_owned();
        return Ok(Prepared { text, parameters, kind: Kind::Schema(command), columns: None });
    }
    let standalone = tokens.is(0, "CALL") && !tokens.is(1, "(") && !tokens.is(1, "{");
    if let Some(ready) = components(&tokens) {
        return Ok(ready);
    }
    refuse_repeats(&tokens)?;
    let labels = labels(text, &tokens);
    let (text, standalone) = match &labels {
        Some(text) => (text.as_str(), false),
        None => (text, standalone),
    };
    let tokens = if labels.is_some() { Tokens::new(text) } else { tokens };
    let names = returned(&tokens);
    let text = Rewrite::new(&tokens, &mut parameters).all(text)?;
    let plan = translate_cypher(&text).map_err(|error| from_engine(&error))?;
    let shapes = vet::check(&plan.root, &parameters)?;
    let kind = match (plan.root.has_mutations(), names.is_some()) {
        (false, _) => Kind::Read,
        (true, true) => Kind::ReadWrite,
        (true, false) => Kind::Write,
    };
    let columns = match names {
        Some(Returned::Named(names)) => Some(Columns { names: Some(names), shapes }),
        Some(Returned::Star) => return Err(unsupported("RETURN *")),
        None if standalone => Some(Columns { names: None, shapes }),
        None if kind == Kind::Read => {
            return Err(syntax("Query cannot conclude with a reading clause (must be a RETURN clause)"));
        }
        None => None,
    };
    Ok(Prepared { text, parameters, kind, columns })
}

fn refuse_prefixes(tokens: &Tokens<'_>) -> Result<(), Failure> {
    if tokens.list.is_empty() {
        return Err(syntax("Unexpected end of input: expected CYPHER, EXPLAIN, PROFILE or Query"));
    }
    for prefix in
        ["EXPLAIN", "PROFILE", "CYPHER", "USE", "SHOW", "LOAD", "TERMINATE", "ALTER", "GRANT", "FOREACH"]
    {
        if tokens.is(0, prefix) {
            return Err(unsupported(prefix));
        }
    }
    let words = (0..tokens.list.len()).map(|at| (at, tokens.word(at)));
    for (at, word) in words {
        let clause = tokens.list.get(at).is_some_and(|t| t.kind == TokenKind::Word)
            && !at.checked_sub(1).is_some_and(|b| tokens.is(b, ".") || tokens.is(b, ":"));
        if clause && word.eq_ignore_ascii_case("FOREACH") {
            return Err(unsupported("FOREACH (use UNWIND)"));
        }
    }
    Ok(())
}

/// `CALL db.labels()` as a query: the engine also names labels that no node has.
fn labels(text: &str, tokens: &Tokens<'_>) -> Option<String> {
    let called = tokens.are(0, &["CALL", "db", ".", "labels", "(", ")"]);
    let query = "MATCH (sidebolt_n) UNWIND labels(sidebolt_n) AS label WITH DISTINCT label";
    match tokens.list.len() {
        6 if called => Some(format!("{query} RETURN label")),
        _ if called && tokens.are(6, &["YIELD", "label"]) && !tokens.is(8, "AS") => {
            let rest = text.get(tokens.list.get(7)?.span.end..)?;
            Some(format!("{query}{rest}"))
        }
        _ => None,
    }
}

/// `CALL dbms.components()`, which tools ask first; the engine has no such procedure.
fn components(tokens: &Tokens<'_>) -> Option<Prepared> {
    if !tokens.are(0, &["CALL", "dbms", ".", "components", "(", ")"]) {
        return None;
    }
    let columns = ["name", "versions", "edition"].map(str::to_owned).to_vec();
    let names = match tokens.list.len() {
        6 => columns,
        _ if tokens.is(6, "YIELD") => {
            let mut names = (7..tokens.list.len()).take_while(|at| !tokens.is(*at, "RETURN"));
            let end = names.by_ref().last().map_or(7, |last| last + 1);
            let yielded: Vec<String> = (7..end).step_by(2).map(|at| tokens.name(at)).collect();
            // Only the plain form, which gives what it names; everything else goes the way of unknown procedures.
            let given: Vec<String> =
                (end + 1..tokens.list.len()).step_by(2).map(|at| tokens.name(at)).collect();
            if !(given.is_empty() || given == yielded) || !yielded.iter().all(|name| columns.contains(name)) {
                return None;
            }
            yielded
        }
        _ => return None,
    };
    let cell = |name: &String| match name.as_str() {
        "name" => "'Sidebolt demo graph (grafeo, not Neo4j)' AS name".to_owned(),
        "versions" => "['5.26.0'] AS versions".to_owned(),
        _ => "'demo' AS edition".to_owned(),
    };
    let text = format!("RETURN {}", names.iter().map(cell).collect::<Vec<_>>().join(", "));
    let shapes = vec![Shape::Plain; names.len()];
    let columns = Some(Columns { names: Some(names), shapes });
    Some(Prepared { text, parameters: HashMap::new(), kind: Kind::Procedure, columns })
}

/// Within one MATCH, Neo4j never walks a relationship twice; the engine does. Two hops in the same direction are the same in both
/// (but for a relationship from a node to itself); anything longer is refused.
fn refuse_repeats(tokens: &Tokens<'_>) -> Result<(), Failure> {
    for at in (0..tokens.list.len()).filter(|at| tokens.is(*at, "MATCH")) {
        let end = (at + 1..tokens.list.len())
            .find(|at| {
                tokens.list.get(*at).is_some_and(|t| t.kind == TokenKind::Word) && ends_pattern(tokens, *at)
            })
            .unwrap_or(tokens.list.len());
        let mut hops = Vec::new();
        for here in at + 1..end {
            // A hop is one dash behind a node: `)-`, `)<-`.
            let left = tokens.are(here, &[")", "<", "-"]);
            if !left && !tokens.are(here, &[")", "-"]) {
                continue;
            }
            let dash = if left { here + 2 } else { here + 1 };
            let close = if tokens.is(dash + 1, "[") { matching(tokens, dash + 1) + 1 } else { dash + 1 };
            let right = tokens.is(close + 1, ">");
            hops.push(match (left, right) {
                (true, false) => Some(false),
                (false, true) => Some(true),
                _ => None,
            });
        }
        if hops.len() > 1 && tokens.is(at + 2, "=") {
            return Err(unsupported("a path over more than one relationship pattern"));
        }
        let fine = match hops.as_slice() {
            [] | [_] => true,
            [Some(a), Some(b)] => a == b,
            _ => false,
        };
        if !fine {
            return Err(unsupported(
                "a MATCH over more than two relationships, or over two that do not point the same way                  (write a MATCH for each)",
            ));
        }
    }
    Ok(())
}

fn ends_pattern(tokens: &Tokens<'_>, at: usize) -> bool {
    let named = at.checked_sub(1).is_some_and(|b| [".", ":", "$"].iter().any(|s| tokens.is(b, s)));
    !named && (tokens.is(at, "OPTIONAL") || CLAUSES.iter().any(|clause| tokens.is(at, clause)))
}

fn matching(tokens: &Tokens<'_>, open: usize) -> usize {
    let depth = tokens.list.get(open).map_or(0, |t| t.depth);
    let closes = |at: &usize| tokens.list.get(*at).is_some_and(|t| t.depth == depth);
    (open + 1..tokens.list.len()).find(closes).unwrap_or(tokens.list.len())
}

enum Returned {
    Named(Vec<String>),
    Star,
}

/// The names of the columns: the text of each item of the last RETURN, or its alias.
fn returned(tokens: &Tokens<'_>) -> Option<Returned> {
    let outside = |at: &usize| tokens.list.get(*at).is_some_and(|t| t.depth == 0);
    let is_clause = |at: &usize| !at.checked_sub(1).is_some_and(|b| tokens.is(b, ".") || tokens.is(b, ":"));
    let count = tokens.list.len();
    let start = (0..count).rev().filter(outside).filter(is_clause).find(|at| tokens.is(*at, "RETURN"))? + 1;
    let start = if tokens.is(start, "DISTINCT") { start + 1 } else { start };
    let ends = |at: &usize| {
        tokens.are(*at, &["ORDER", "BY"])
            || ["SKIP", "OFFSET", "LIMIT", "UNION"].iter().any(|word| tokens.is(*at, word))
    };
    let end = (start..count).filter(outside).find(ends).unwrap_or(count);
    let mut names = Vec::new();
    let mut from = start;
    for at in start..=end {
        if at < end && !(tokens.is(at, ",") && outside(&at)) {
            continue;
        }
        let last = at.checked_sub(1)?;
        if tokens.is(from, "*") {
            return Some(Returned::Star);
        }
        let alias = last > from + 1 && tokens.is(last - 1, "AS");
        names.push(match (alias, last == from) {
            (true, _) => tokens.name(last),
            (false, true) if tokens.word(last).starts_with('`') => tokens.name(last),
            _ => tokens.source(from, last).to_owned(),
        });
        from = at + 1;
    }
    Some(Returned::Named(names))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Option<Vec<String>> {
        match returned(&Tokens::new(text)) {
            Some(Returned::Named(names)) => Some(names),
            _ => None,
        }
    }

    #[test]
    fn columns_have_the_names_that_neo4j_gives_them() {
        let table: &[(&str, &[&str])] = &[
            ("RETURN 1/0", &["1/0"]),
            ("MATCH (a) RETURN DISTINCT a.x , count( * )  AS n ORDER BY n", &["a.x", "n"]),
            ("RETURN `odd name`, $p, {a: [1, 2]} LIMIT 1", &["odd name", "$p", "{a: [1, 2]}"]),
            ("CALL { RETURN 1 AS x } RETURN x AS `a b` UNION RETURN 2 AS `a b`", &["a b"]),
            ("RETURN 1 AS a // , b", &["a"]),
            ("MATCH (a) RETURN a.return", &["a.return"]),
        ];
        for (text, expected) in table {
            assert_eq!(
                names(text).as_deref().map(|n| n.iter().map(String::as_str).collect()),
                Some(expected.to_vec()),
                "{text}"
            );
        }
        assert!(names("CREATE (a {return: 1})").is_none());
    }

    fn prepared(text: &str, parameters: &[(&str, Bolt)]) -> Result<Prepared, Failure> {
        prepare(text, &Bolt::map(parameters.iter().cloned()))
    }

    #[test]
    fn nested_parameters_become_literals_where_they_must() {
        let list = Bolt::List(vec![Bolt::from("it's"), Bolt::Null, Bolt::map([("k", Bolt::Integer(1))])]);
        let ready = prepared("RETURN $l AS l", &[("l", list.clone())]).unwrap();
        assert_eq!(ready.text, "RETURN [$sidebolt_1, null, {`k`: $sidebolt_2}] AS l");
        let kept = prepared("UNWIND $l AS x RETURN x", &[("l", list)]).unwrap();
        assert_eq!(kept.text, "UNWIND $l AS x RETURN x");
    }

    #[test]
    fn what_the_engine_gets_wrong_is_refused() {
        let code = |text| prepared(text, &[]).err().map(|failure| failure.code);
        let unsupported = Some("Neo.ClientError.Statement.UnsupportedOperationError");
        assert_eq!(code("RETURN 1/0"), Some("Neo.ClientError.Statement.ArithmeticError"));
        assert_eq!(code("RETURN nonsense(1)"), Some("Neo.ClientError.Statement.SyntaxError"));
        assert_eq!(code("RETURN $nope"), Some("Neo.ClientError.Statement.ParameterMissing"));
        assert_eq!(code("RETURN point({x: 1, y: 2})"), unsupported);
        assert_eq!(code("MATCH (a:A) RETURN a.born.year"), unsupported);
        assert_eq!(code("MATCH (a)-[*]->(b) RETURN b"), unsupported);
        assert_eq!(code("MATCH p = shortestPath((a:A)-[*..3]->(b:B)) RETURN nodes(p)"), unsupported);
        assert_eq!(code("MATCH p = shortestPath((a:A)-[*..3]->(b:B)) RETURN length(p)"), None);
        assert_eq!(code("MATCH (a)-[r]->(b) RETURN {a: a, l: [r]} AS m"), None);
    }
}
