//! `CALL gnn.NAME(ARGUMENTS) YIELD … REST`: read by the tokens of its text.  [hot path: `looks_like_call`]

use bolt_wire::packstream::{MapView, Value};
use open_cypher::{Keyword, TokenKind};

use super::Trouble;
use super::procedures::{self, Column, Procedure};
use crate::console::{Argument, Words, chosen};

/// The namespace of these procedures.
pub(crate) const NAMESPACE: &str = "gnn";

/// A call, as it was written.
#[derive(Debug)]
pub(crate) struct Call {
    /// The procedure.
    pub(crate) procedure: &'static Procedure,
    arguments: Vec<Argument>,
    /// The columns that are wanted, and the names that they get.
    pub(crate) columns: Vec<(&'static Column, String)>,
    /// What stands behind YIELD, for Neo4j.
    pub(crate) rest: Option<String>,
}

impl Call {
    /// The call that a text is; `None` if it does not begin with one of these procedures.
    pub(crate) fn of(text: &str) -> Option<Result<Self, Trouble>> {
        let mut words = Words::behind(text, NAMESPACE)?;
        Some(Self::read(&mut words))
    }

    /// Reads what follows the namespace.
    fn read(words: &mut Words<'_>) -> Result<Self, Trouble> {
        let name = words.names(NAMESPACE).ok_or_else(|| refuse(words))?;
        let procedure = procedures::find(&name).ok_or_else(|| procedures::unknown(&name))?;
        let arguments = words.arguments().ok_or_else(|| refuse(words))?;
        let yields = words.is("YIELD");
        let wanted = words.yields().ok_or_else(|| refuse(words))?;
        words.take(TokenKind::Semicolon);
        let rest = words.rest().map(str::to_owned);
        if rest.is_some() && !yields {
            return Err(Trouble::Syntax(format!(
                "Procedure call inside a query does not support naming results implicitly (name explicitly using `YIELD` instead): \
                 write `CALL {name}(…) YIELD {} {}`.",
                procedure.columns.first().map_or("…", |column| column.name),
                rest.unwrap_or_default()
            )));
        }
        let columns = columns(procedure, wanted)?;
        let call = Self { procedure, arguments, columns, rest };
        call.count()?;
        Ok(call)
    }

    /// Whether there are as many arguments as the procedure takes.
    fn count(&self) -> Result<(), Trouble> {
        let (got, Procedure { least, arguments, name, .. }) = (self.arguments.len(), self.procedure);
        if (*least..=arguments.len()).contains(&got) {
            return Ok(());
        }
        Err(Trouble::Syntax(format!(
            "Procedure call provides {got} argument{}, expected {}: {name} has the signature {}.",
            if got == 1 { "" } else { "s" },
            if *least == arguments.len() {
                least.to_string()
            } else {
                format!("{least} to {}", arguments.len())
            },
            self.procedure.signature()
        )))
    }

    /// The names that its columns get.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.columns.iter().map(|(_, name)| name.as_str()).collect()
    }

    /// The arguments' values, with the parameters that came with the call.
    pub(crate) fn values(&self, parameters: &MapView<'_>) -> Result<Vec<Value>, Trouble> {
        let values = self.arguments.iter().map(|argument| argument.value(parameters));
        values.collect::<Result<_, _>>().map_err(Trouble::from)
    }
}

/// The columns that are wanted; none named = all.
fn columns(
    procedure: &'static Procedure,
    wanted: Option<Vec<(String, String)>>,
) -> Result<Vec<(&'static Column, String)>, Trouble> {
    let known: Vec<_> = procedure.columns.iter().map(|column| column.name).collect();
    let columns = chosen(procedure.name, &known, wanted.as_deref()).map_err(Trouble::Syntax)?;
    Ok(columns.into_iter().filter_map(|(at, name)| Some((procedure.columns.get(at)?, name))).collect())
}

fn refuse(words: &Words<'_>) -> Trouble {
    Trouble::Syntax(format!(
        "Sidebolt answers calls of gnn.… itself and cannot read {}. Write `CALL gnn.NAME(ARGUMENTS) YIELD COLUMN AS NAME, …` with \
         literals, lists, maps or parameters as arguments; what follows YIELD is Cypher of any kind.",
        words.place()
    ))
}

/// Why a text is refused that calls one of these procedures elsewhere than at its beginning; `None` if it does not.
pub(crate) fn misplaced(text: &str) -> Option<Trouble> {
    // Most texts do not even have the word.
    if !text.contains("gnn.") && !text.contains("gnn`") && !text.contains("gnn ") {
        return None;
    }
    let mut words = Words::of(text);
    while words.kind().is_some() {
        if !words.take(TokenKind::Keyword(Keyword::Call)) {
            words.skip();
            continue;
        }
        let named = words.name().is_some_and(|name| name == NAMESPACE);
        if named && words.kind() == Some(TokenKind::Dot) {
            return Some(Trouble::Syntax(
                "Sidebolt answers calls of gnn.… itself, so such a call must be the first thing in a query, without EXPLAIN, PROFILE or \
                 CYPHER before it: write `CALL gnn.NAME(ARGUMENTS) YIELD COLUMN AS NAME, …` first and the rest of the query behind it; \
                 what the call needs from the database can be asked for before, in a query of its own, and given as parameters."
                    .to_owned(),
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(text: &str) -> Call {
        Call::of(text).expect("a call").expect("one that can be read")
    }

    #[test]
    fn the_rest_is_kept_as_it_stands() {
        let plain = call("CALL gnn.graph.list()");
        assert_eq!((plain.procedure.name, plain.rest.as_deref()), ("gnn.graph.list", None));
        assert_eq!(plain.columns.len(), plain.procedure.columns.len());
        let text = "/* x */ call GNN.fastRP.stream('g', {embeddingDimension: $d, iterationWeights: [0, 1.0]}) \
                    YIELD nodeId AS id, embedding\n MATCH (n) WHERE id(n) = id RETURN n, embedding ORDER BY id LIMIT 3;";
        let long = call(text);
        let names: Vec<&str> = long.columns.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["id", "embedding"]);
        assert!(
            long.rest
                .as_deref()
                .is_some_and(|rest| rest.starts_with("MATCH (n)") && rest.ends_with("LIMIT 3;"))
        );
        let parameters = Value::map([("d", Value::Integer(3))]).to_bytes();
        let values = long.values(&MapView::parse(&parameters).unwrap()).unwrap();
        assert_eq!(values[1].get("embeddingDimension"), Some(&Value::Integer(3)));
        assert!(Call::of("CALL gnnx.y()").is_none() && Call::of("CALL gnn(1)").is_none());
        assert!(call("CALL gnn.graph.list() YIELD graphName WHERE graphName = 'a' RETURN 1").rest.is_some());
        assert!(call("CALL gnn.graph.list() YIELD *").rest.is_none());
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (text, words) in [
            ("CALL gnn.graph.list() RETURN 1", "using `YIELD`"),
            ("CALL gnn.graph.list() YIELD nope", "graphName"),
            ("CALL gnn.graph.list() YIELD graphName, nodeCount AS graphName", "already declared"),
            ("CALL gnn.graph.list(1 + 1)", "`+` at offset 22"),
            ("CALL gnn.graph.drop()", "expected 1 to 2"),
            ("CALL gnn.nope()", "no procedure with the name `gnn.nope`"),
        ] {
            let trouble = Call::of(text).expect("a call").expect_err("one that cannot be read");
            let failure = trouble.failure("gnn").expect("a failure of our own");
            assert!(failure.message.contains(words), "{text}: {}", failure.message);
        }
    }

    #[test]
    fn a_call_in_the_middle_is_found_and_nothing_else() {
        for text in [
            "MATCH (n) CALL gnn.fastRP.stream('g') YIELD nodeId RETURN nodeId",
            "EXPLAIN CALL gnn.graph.list()",
            "CYPHER 25 CALL gnn.graph.list()",
            "RETURN 1 AS x UNION CALL `gnn`.graph.list() YIELD nodeCount RETURN nodeCount AS x",
        ] {
            assert!(
                matches!(misplaced(text), Some(Trouble::Syntax(words)) if words.contains("first thing")),
                "{text}"
            );
        }
        for text in [
            "RETURN 'CALL gnn.graph.list()'",
            "MATCH (gnn) RETURN gnn.name",
            "CALL db.labels() // CALL gnn.x()\n",
            "CALL (gnn) { RETURN gnn.x AS y } RETURN y",
        ] {
            assert_eq!(misplaced(text), None, "{text}");
        }
    }
}
