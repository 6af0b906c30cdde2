//! `SHOW PROCEDURES`: Neo4j's own rows and those of Sidebolt's procedures, and the rest of the statement over both.

use bolt_wire::DecodeError;
use bolt_wire::packstream::{Value, Walker};
use bytes::BytesMut;
use open_cypher::{Keyword, Token, TokenKind};

use super::fetch::{Caller, lost};
use super::procedures;
use super::rows::Rows;
use super::spec::escaped;
use super::{Trouble, with_parameters};
use crate::console::{self, Words};
use crate::session::Shared;

/// The one database in which rows cannot be given to a statement.
const SYSTEM: &str = "system";

/// A statement that shows procedures, as it was written. What Neo4j would not accept is not told apart: Neo4j is asked.
#[derive(Debug)]
pub(crate) struct Show {
    text: String,
    /// What stands before WHERE or YIELD.
    head: String,
    /// Only what somebody may execute.
    executable: bool,
    wanted: Wanted,
    /// What stands behind the columns, in pieces: between them stood the `*` of RETURN.
    rest: Vec<String>,
    /// The rest says what is returned.
    returns: bool,
}

/// The columns of Neo4j's that are wanted.
#[derive(Debug, PartialEq)]
enum Wanted {
    /// Those that are there without YIELD.
    Usual,
    /// `YIELD *`.
    All,
    /// These, and the names that they get.
    These(Vec<(String, String)>),
}

/// Neo4j's rows.
struct Found {
    columns: Vec<String>,
    rows: Vec<Vec<Value>>,
}

/// A procedure of Sidebolt's own.
pub(crate) struct Listed {
    pub(crate) name: &'static str,
    pub(crate) says: &'static str,
    pub(crate) mode: &'static str,
    pub(crate) works_on_system: bool,
    /// As `name = default :: TYPE`.
    pub(crate) arguments: &'static [&'static str],
    /// Name, type and meaning of each.
    pub(crate) columns: Vec<(&'static str, &'static str, &'static str)>,
}

impl Show {
    /// The statement that a text is; `None` if it shows no procedures, or cannot be read.
    pub(crate) fn of(text: &str) -> Option<Self> {
        if !console::begins_with(text.as_bytes(), b"show") {
            return None;
        }
        let mut words = Words::of(text);
        if !words.word("SHOW") || !(words.word("PROCEDURES") || words.word("PROCEDURE")) {
            return None;
        }
        let executable = words.word("EXECUTABLE");
        if executable && words.word("BY") {
            let current = words.is("CURRENT");
            words.name()?;
            if current {
                words.word("USER");
            }
        }
        let head = text.get(..text.len() - words.rest().map_or(0, str::len))?.to_owned();
        let named = words.is("YIELD");
        let wanted = match words.yields()? {
            Some(columns) => Wanted::These(once(columns)),
            None if named => Wanted::All,
            None => Wanted::Usual,
        };
        let (rest, returns) = pieces(text, words.left())?;
        Some(Self { text: text.to_owned(), head, executable, wanted, rest, returns })
    }

    /// What is asked of Neo4j instead: a statement over Neo4j's rows and Sidebolt's, and the parameter with them. `None` if it is to go on as
    /// it is: Neo4j refuses it, or nothing can be made of it.
    pub(crate) async fn listed(
        &self,
        caller: &Caller,
        parameters: &[u8],
    ) -> Result<Option<(String, (&'static str, BytesMut))>, Trouble> {
        match self.ask(caller, parameters).await {
            // Neo4j's own answer to the statement itself is the right one.
            Err(Trouble::Neo4j(_)) => Ok(None),
            other => other,
        }
    }

    async fn ask(
        &self,
        caller: &Caller,
        parameters: &[u8],
    ) -> Result<Option<(String, (&'static str, BytesMut))>, Trouble> {
        // Open transactions that hold all connections would wait for each other.
        if caller.in_transaction && is_full(&caller.shared) {
            return Ok(None);
        }
        let mut lease = caller.lease().await?;
        let explained =
            caller.read(&mut lease, &format!("EXPLAIN {}", self.text), parameters, |_| Ok(())).await?;
        if explained.database.as_deref() == Some(SYSTEM) {
            return Ok(None);
        }
        let mut rows = Vec::new();
        let ended = caller
            .read(&mut lease, &format!("{}\nYIELD *", self.head), super::fetch::NOTHING, |walker| {
                rows.push(row(walker).map_err(|error| lost(&error.to_string()))?);
                Ok(())
            })
            .await?;
        let found = Found { columns: ended.fields, rows };
        let Some((text, parameter)) = self.continued(found, &explained.fields) else { return Ok(None) };
        // Nothing is guessed: the other statement has the same columns, and Neo4j accepts it.
        let parameters = with_parameters(parameters, std::slice::from_ref(&parameter));
        let again = caller.read(&mut lease, &format!("EXPLAIN {text}"), &parameters, |_| Ok(())).await?;
        Ok((again.fields == explained.fields).then_some((text, parameter)))
    }

    /// The statement over all rows, if it answers with these columns.
    fn continued(&self, found: Found, fields: &[String]) -> Option<(String, (&'static str, BytesMut))> {
        let same = |names: &[String]| names.iter().map(|name| (name.clone(), name.clone())).collect();
        let wanted = match &self.wanted {
            Wanted::Usual => same(fields),
            Wanted::All => same(&found.columns),
            Wanted::These(columns) => columns.clone(),
        };
        let mut columns: Vec<&str> = wanted.iter().map(|(column, _)| column.as_str()).collect();
        columns.sort_unstable();
        columns.dedup();
        let rows = found.with_own(self.executable, &columns)?;
        let given: Vec<_> =
            wanted.iter().map(|(column, name)| format!("{} AS {}", escaped(column), escaped(name))).collect();
        let names: Vec<_> = wanted.iter().map(|(_, name)| escaped(name)).collect();
        let names = names.join(", ");
        let mut rest = format!("WITH {}\n{}", given.join(", "), self.rest.join(&names));
        if !self.returns {
            rest.push_str("\nRETURN ");
            rest.push_str(&names);
        }
        Some(Rows::all_of(rows, columns.len()).continued(&columns, &rest))
    }
}

impl Found {
    /// These columns of all rows, in the order of the procedures' names. A procedure of Sidebolt's hides one of Neo4j's with its name, for
    /// Sidebolt answers its calls.
    fn with_own(self, executable: bool, columns: &[&str]) -> Option<Vec<Vec<Value>>> {
        let place = |name: &str| self.columns.iter().position(|column| column == name);
        let (name, places) =
            (place("name")?, columns.iter().map(|column| place(column)).collect::<Option<Vec<_>>>()?);
        // Whoever may execute nothing is nobody that Neo4j knows.
        let mut own = if executable && self.rows.is_empty() { Vec::new() } else { own() };
        own.sort_unstable_by_key(|listed| listed.name);
        let mut own = own.into_iter().peekable();
        let put = |listed: Listed| columns.iter().map(|column| listed.value(column)).collect();
        let mut all = Vec::new();
        for row in self.rows {
            let theirs = row.get(name).and_then(Value::as_str).unwrap_or_default();
            while let Some(listed) = own.next_if(|listed| listed.name < theirs) {
                all.push(put(listed));
            }
            if own.peek().is_none_or(|listed| listed.name != theirs) {
                all.push(places.iter().map(|at| row.get(*at).cloned().unwrap_or(Value::Null)).collect());
            }
        }
        all.extend(own.map(put));
        Some(all)
    }
}

impl Listed {
    /// What stands in a column of Neo4j's, in its words.
    fn value(&self, column: &str) -> Value {
        match column {
            "name" => self.name.into(),
            "description" => self.says.into(),
            "mode" => self.mode.into(),
            "worksOnSystem" => self.works_on_system.into(),
            "signature" => self.signature().into(),
            "argumentDescription" => {
                Value::List(self.arguments.iter().map(|argument| described(argument)).collect())
            }
            "returnDescription" => {
                let result = |(name, kind, says): &(&str, &str, &str)| {
                    Value::map([
                        ("name", (*name).into()),
                        ("type", (*kind).into()),
                        ("description", (*says).into()),
                        ("isDeprecated", false.into()),
                    ])
                };
                Value::List(self.columns.iter().map(result).collect())
            }
            "admin" | "isDeprecated" => false.into(),
            "option" => Value::map([("deprecated", false.into())]),
            // Roles are not Sidebolt's to know, and nothing has taken its place.
            _ => Value::Null,
        }
    }

    fn signature(&self) -> String {
        let arguments: Vec<_> = self.arguments.iter().map(|argument| typed(argument)).collect();
        let columns: Vec<_> =
            self.columns.iter().map(|(name, kind, _)| format!("{name} :: {kind}")).collect();
        format!("{}({}) :: ({})", self.name, arguments.join(", "), columns.join(", "))
    }
}

/// Whether a server has no connection left to lend.
fn is_full(shared: &Shared) -> bool {
    let most = shared.config.load().pool.max_connection_pool_size;
    shared.upstream.pools().iter().any(|pool| pool.lent() >= most)
}

/// All of Sidebolt's own procedures.
fn own() -> Vec<Listed> {
    let listed = |procedure: &procedures::Procedure| Listed {
        name: procedure.name,
        says: procedure.says,
        mode: if procedure.writes { "WRITE" } else { "READ" },
        works_on_system: false,
        arguments: procedure.arguments,
        columns: procedure.columns.iter().map(|column| (column.name, column.kind, column.says)).collect(),
    };
    procedures::ALL.iter().map(listed).chain(console::listed()).collect()
}

/// An argument with its type.
fn typed(argument: &str) -> String {
    if argument.contains(" :: ") { argument.to_owned() } else { format!("{argument} :: ANY") }
}

/// An argument as Neo4j describes one.
fn described(argument: &str) -> Value {
    let whole = typed(argument);
    let (left, kind) = whole.split_once(" :: ").unwrap_or((&whole, "ANY"));
    let (name, default) = left.split_once(" = ").map_or((left, None), |(name, value)| (name, Some(value)));
    let mut entries = vec![
        ("name", name.into()),
        ("type", kind.into()),
        ("description", Value::from(whole.as_str())),
        ("isDeprecated", false.into()),
    ];
    if let Some(value) = default {
        let value = format!("DefaultParameterValue{{value={value}, type={kind}}}");
        entries.push(("default", value.into()));
    }
    Value::map(entries)
}

/// The values of a record, behind its header.
fn row(walker: &mut Walker<'_>) -> Result<Vec<Value>, DecodeError> {
    let mut values = Vec::new();
    while !walker.is_empty() {
        values.push(Value::read(walker)?);
    }
    Ok(values)
}

/// Each column once: some servers take the same one twice, and give it once.
fn once(columns: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut each: Vec<(String, String)> = Vec::with_capacity(columns.len());
    for column in columns {
        if !each.contains(&column) {
            each.push(column);
        }
    }
    each
}

/// The text of these tokens without a semicolon at its end, cut where `*` stands behind RETURN, and whether there is a RETURN.
fn pieces(text: &str, tokens: &[Token]) -> Option<(Vec<String>, bool)> {
    let end = tokens.iter().rposition(|token| token.kind != TokenKind::Semicolon).map_or(0, |at| at + 1);
    let tokens = tokens.get(..end)?;
    let (Some(first), Some(last)) = (tokens.first(), tokens.last()) else {
        return Some((vec![String::new()], false));
    };
    let whole = first.span.start..last.span.end;
    let Some(at) = returns(tokens) else { return Some((vec![text.get(whole)?.to_owned()], false)) };
    let mut behind = tokens.iter().skip(at + 1);
    let mut star = behind.next();
    if star.is_some_and(|token| token.kind == TokenKind::Keyword(Keyword::Distinct)) {
        star = behind.next();
    }
    let pieces = match star.filter(|token| token.kind == TokenKind::Star) {
        Some(star) => {
            vec![text.get(whole.start..star.span.start)?, text.get(star.span.end..whole.end)?]
        }
        None => vec![text.get(whole)?],
    };
    Some((pieces.into_iter().map(str::to_owned).collect(), true))
}

/// Where the clause RETURN begins. Inside of brackets it is another query's, and behind these it is a name.
fn returns(tokens: &[Token]) -> Option<usize> {
    let (mut depth, mut before) = (0_usize, None);
    for (at, token) in tokens.iter().enumerate() {
        match token.kind {
            TokenKind::LeftParen | TokenKind::LeftBracket | TokenKind::LeftBrace => depth += 1,
            TokenKind::RightParen | TokenKind::RightBracket | TokenKind::RightBrace => {
                depth = depth.checked_sub(1)?;
            }
            TokenKind::Keyword(Keyword::Return)
                if depth == 0
                    && !matches!(
                        before,
                        Some(TokenKind::Dot | TokenKind::Dollar | TokenKind::Keyword(Keyword::As))
                    ) =>
            {
                return Some(at);
            }
            _ => {}
        }
        before = Some(token.kind);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(text: &str) -> Show {
        Show::of(text).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn what_shows_procedures_is_read() {
        let bare = show("/* x */ show // y\n Procedures ; // z");
        assert_eq!((bare.executable, &bare.wanted, bare.returns), (false, &Wanted::Usual, false));
        assert_eq!(bare.rest, [""]);
        for text in
            ["EXECUTABLE", "EXECUTABLE BY CURRENT USER", "EXECUTABLE BY `a b`", "EXECUTABLE BY current"]
        {
            let head = format!("SHOW PROCEDURE {text} ");
            let executable = show(&format!("{head}YIELD * WHERE name = 'a';"));
            assert_eq!((executable.executable, &executable.head), (true, &head));
            assert_eq!((&executable.wanted, executable.returns), (&Wanted::All, false));
            assert_eq!(executable.rest, ["WHERE name = 'a'"]);
        }
        let some = show(
            "SHOW PROCEDURES YIELD name AS n, mode, name AS n ORDER BY n // all\n RETURN DISTINCT * LIMIT 1;;",
        );
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(some.wanted, Wanted::These(vec![pair("name", "n"), pair("mode", "mode")]));
        assert_eq!(
            (&some.rest[..], some.returns),
            (&["ORDER BY n // all\n RETURN DISTINCT ".to_owned(), " LIMIT 1".to_owned()][..], true)
        );
    }

    #[test]
    fn another_query_has_its_own_return() {
        for (text, returns) in [
            ("WHERE EXISTS { RETURN 1 AS x }", false),
            ("WHERE option.return = $return", false),
            ("WHERE name IN [x IN ['RETURN'] | `RETURN`]", false),
            ("WHERE true RETURN count(*)", true),
        ] {
            assert_eq!(show(&format!("SHOW PROCEDURES YIELD name {text}")).returns, returns, "{text}");
        }
    }

    #[test]
    fn what_does_not_is_left() {
        for text in [
            "",
            "SHOW",
            "SHO",
            "SHOW FUNCTIONS",
            "SHOW ALL PROCEDURES",
            "SHOWPROCEDURES",
            "SHOW `PROCEDURES`",
            "EXPLAIN SHOW PROCEDURES",
            "CALL sidebolt.procedures()",
            "SHOW PROCEDURES EXECUTABLE BY",
            "SHOW PROCEDURES EXECUTABLE BY $p",
            "SHOW PROCEDURES YIELD name, ",
        ] {
            assert!(Show::of(text).is_none(), "{text}");
        }
    }

    fn found(names: &[&str]) -> Found {
        let rows = names.iter().map(|name| vec![Value::Null, (*name).into()]).collect();
        Found { columns: vec!["mode".to_owned(), "name".to_owned()], rows }
    }

    #[test]
    fn both_lists_become_one_by_name() {
        let names = |rows: Vec<Vec<Value>>| -> Vec<String> {
            rows.iter().filter_map(|row| row[0].as_str().map(str::to_owned)).collect()
        };
        let all =
            names(found(&["db.labels", "gnn.device", "tx.getMetaData"]).with_own(true, &["name"]).unwrap());
        assert!(all.is_sorted() && all.len() == own().len() + 2, "{all:?}");
        // Sidebolt's own is the one that answers.
        let both = found(&["gnn.device"]).with_own(false, &["mode", "name"]).unwrap();
        assert!(both.contains(&vec!["READ".into(), "gnn.device".into()]) && both.len() == own().len());
        // Somebody that Neo4j does not know may execute nothing.
        assert!(found(&[]).with_own(true, &["name"]).unwrap().is_empty());
        assert_eq!(found(&[]).with_own(false, &["name"]).unwrap().len(), own().len());
        assert!(found(&[]).with_own(false, &["nope"]).is_none());
    }

    #[test]
    fn the_rest_stands_over_all_rows() {
        let columns = ["name".to_owned(), "mode".to_owned()];
        let text =
            |text: &str, fields: &[String]| show(text).continued(found(&["db.labels"]), fields).unwrap().0;
        assert_eq!(
            text("SHOW PROCEDURES WHERE mode = 'READ' // x", &columns),
            "UNWIND $__gnn AS __gnnRow WITH __gnnRow[0] AS `mode`, __gnnRow[1] AS `name` WITH `name` AS `name`, `mode` AS `mode`\n\
             WHERE mode = 'READ'\nRETURN `name`, `mode`"
        );
        assert_eq!(
            text("SHOW PROCEDURES YIELD name AS `a``b` RETURN *, 1 AS one", &columns),
            "UNWIND $__gnn AS __gnnRow WITH __gnnRow[0] AS `name` WITH `name` AS `a``b`\nRETURN `a``b`, 1 AS one"
        );
        assert!(show("SHOW PROCEDURES YIELD nope").continued(found(&[]), &columns).is_none());
    }

    #[test]
    fn arguments_are_described() {
        let cut = described("graphName = null :: STRING");
        assert_eq!(cut.get("default"), Some(&"DefaultParameterValue{value=null, type=STRING}".into()));
        assert_eq!(described("scope").get("type"), Some(&"ANY".into()));
        assert!(described("scope").get("default").is_none());
    }
}
