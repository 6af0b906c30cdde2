//! Schema commands: node indexes and uniqueness constraints with one property. Names and existence are kept here, because the engine
//! makes an index twice without a word.

use bolt_wire::message::Failure;
use grafeo_engine::GrafeoDB;

use super::lex::Tokens;
use super::refusal::{from_engine, unsupported};

/// A schema command.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Command {
    /// CREATE INDEX or CREATE CONSTRAINT.
    Create {
        /// What to make.
        rule: Rule,
        /// IF NOT EXISTS was said.
        if_not_exists: bool,
    },
    /// DROP INDEX or DROP CONSTRAINT.
    Drop {
        /// Which of the two.
        what: What,
        /// Its name.
        name: String,
        /// IF EXISTS was said.
        if_exists: bool,
    },
}

/// An index or a constraint.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Rule {
    what: What,
    name: String,
    label: String,
    property: String,
}

/// The two kinds of schema rules.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum What {
    /// A range index.
    Index,
    /// A uniqueness constraint.
    Constraint,
}

/// The rules there are.
#[derive(Debug, Default)]
pub(super) struct Schema {
    rules: Vec<Rule>,
}

/// Reads a schema command; `None` if the text is none.
pub(super) fn parse(tokens: &Tokens<'_>) -> Result<Option<Command>, Failure> {
    let mut at = 1;
    let create = tokens.is(0, "CREATE");
    if !create && !tokens.is(0, "DROP") {
        return Ok(None);
    }
    if create && tokens.is(1, "RANGE") {
        at += 1;
    }
    let what = match (tokens.is(at, "INDEX"), tokens.is(at, "CONSTRAINT")) {
        (true, _) => What::Index,
        (_, true) => What::Constraint,
        _ if ["TEXT", "POINT", "FULLTEXT", "VECTOR", "LOOKUP"].iter().any(|w| tokens.is(1, w)) => {
            return Err(unsupported("an index that is no range index"));
        }
        _ if create => return Ok(None),
        _ => return Err(unsupported("this DROP command")),
    };
    let mut reader = Reader { tokens, at: at + 1 };
    let command = if create { reader.create(what) } else { reader.drop(what) };
    match command {
        Some(command) if reader.at == tokens.list.len() => Ok(Some(command)),
        _ => Err(unsupported(
            "this schema command (the demo knows `CREATE INDEX name FOR (n:Label) ON (n.property)` and \
             `CREATE CONSTRAINT name FOR (n:Label) REQUIRE n.property IS UNIQUE`)",
        )),
    }
}

struct Reader<'a, 't> {
    tokens: &'a Tokens<'t>,
    at: usize,
}

impl Reader<'_, '_> {
    fn take(&mut self, words: &[&str]) -> Option<()> {
        self.tokens.are(self.at, words).then(|| self.at += words.len())
    }

    fn name(&mut self) -> Option<String> {
        let name = self.tokens.name(self.at);
        self.at += 1;
        let starts_well = name.chars().next().is_some_and(|c| c.is_alphanumeric() || c == '_');
        starts_well.then_some(name)
    }

    fn create(&mut self, what: What) -> Option<Command> {
        let anonymous = self.tokens.is(self.at, "FOR") || self.tokens.is(self.at, "IF");
        let name = if anonymous { String::new() } else { self.name()? };
        let if_not_exists = self.take(&["IF", "NOT", "EXISTS"]).is_some();
        self.take(&["FOR", "("])?;
        let variable = self.name()?;
        self.take(&[":"])?;
        let label = self.name()?;
        self.take(&[")"])?;
        let bracket = match what {
            What::Index => self.take(&["ON", "("]).map(|()| true)?,
            What::Constraint => {
                self.take(&["REQUIRE"])?;
                self.take(&["("]).is_some()
            }
        };
        (self.name()? == variable).then_some(())?;
        self.take(&["."])?;
        let property = self.name()?;
        if bracket {
            self.take(&[")"])?;
        }
        if what == What::Constraint {
            self.take(&["IS"])?;
            let _ = self.take(&["NODE"]);
            self.take(&["UNIQUE"])?;
        }
        let name = if name.is_empty() { generated_name(what, &label, &property) } else { name };
        Some(Command::Create { rule: Rule { what, name, label, property }, if_not_exists })
    }

    fn drop(&mut self, what: What) -> Option<Command> {
        let name = self.name()?;
        let if_exists = self.take(&["IF", "EXISTS"]).is_some();
        Some(Command::Drop { what, name, if_exists })
    }
}

fn generated_name(what: What, label: &str, property: &str) -> String {
    let kind = if what == What::Index { "index" } else { "constraint" };
    format!("{kind}_{label}_{property}")
}

impl Schema {
    /// Runs a command; gives its counters.
    pub(super) fn apply(
        &mut self,
        command: &Command,
        db: &GrafeoDB,
    ) -> Result<Vec<(&'static str, u64)>, Failure> {
        match command {
            Command::Create { rule, if_not_exists } => {
                if let Some(existing) = self.conflict(rule) {
                    return if *if_not_exists { Ok(Vec::new()) } else { Err(existing) };
                }
                self.make(rule, db)?;
                self.rules.push(rule.clone());
                Ok(vec![(rule.what.counter(true), 1)])
            }
            Command::Drop { what, name, if_exists } => {
                let found = self.rules.iter().position(|r| r.what == *what && r.name == *name);
                let Some(found) = found else {
                    return if *if_exists { Ok(Vec::new()) } else { Err(what.missing(name)) };
                };
                let kind = if *what == What::Index { "INDEX" } else { "CONSTRAINT" };
                db.session()
                    .execute_cypher(&format!("DROP {kind} {}", quoted(name)))
                    .map_err(|error| from_engine(&error))?;
                self.rules.remove(found);
                Ok(vec![(what.counter(false), 1)])
            }
        }
    }

    fn make(&self, rule: &Rule, db: &GrafeoDB) -> Result<(), Failure> {
        let [name, label, property] = [&rule.name, &rule.label, &rule.property].map(|word| quoted(word));
        let session = db.session();
        let run = |text: String| session.execute_cypher(&text).map_err(|error| from_engine(&error));
        match rule.what {
            What::Index => {
                run(format!("CREATE INDEX {name} FOR (n:{label}) ON (n.{property})"))?;
            }
            What::Constraint => {
                // The engine does not look at what is there already.
                let twice = format!(
                    "MATCH (n:{label}) WHERE n.{property} IS NOT NULL WITH n.{property} AS value, count(*) AS times \
                     WHERE times > 1 RETURN value LIMIT 1"
                );
                if !run(twice)?.rows().is_empty() {
                    let code = "Neo.DatabaseError.Schema.ConstraintCreationFailed";
                    let message = format!("Unable to create Constraint: :{label}({property}) has duplicates");
                    return Err(Failure::new(code, "50N11", message));
                }
                run(format!("CREATE CONSTRAINT {name} FOR (n:{label}) REQUIRE n.{property} IS UNIQUE"))?;
                // The engine's constraints have no index of their own.
                session.create_property_index(&rule.property);
            }
        }
        Ok(())
    }

    /// Why a rule cannot be made: an equal one, one with its name, or one on the same property.
    fn conflict(&self, rule: &Rule) -> Option<Failure> {
        let schema = |kind: &str| match kind {
            "equivalent" => "Neo.ClientError.Schema.EquivalentSchemaRuleAlreadyExists",
            "index name" => "Neo.ClientError.Schema.IndexWithNameAlreadyExists",
            "constraint name" => "Neo.ClientError.Schema.ConstraintWithNameAlreadyExists",
            "index" => "Neo.ClientError.Schema.IndexAlreadyExists",
            _ => "Neo.ClientError.Schema.ConstraintAlreadyExists",
        };
        let same_place = |r: &&Rule| r.label == rule.label && r.property == rule.property;
        let by_name = self.rules.iter().find(|r| r.name == rule.name);
        let by_place = self.rules.iter().find(same_place);
        let (kind, other) = match (by_name, by_place) {
            (Some(other), _) if other == rule => ("equivalent", other),
            (_, Some(other)) if other.what == What::Index => ("index", other),
            (_, Some(other)) => ("constraint", other),
            (Some(other), None) if other.what == What::Index => ("index name", other),
            (Some(other), None) => ("constraint name", other),
            (None, None) => return None,
        };
        let message = format!(
            "{:?} `{}` on :{}({}) exists already",
            other.what, other.name, other.label, other.property
        );
        Some(Failure::new(schema(kind), "22N71", message))
    }
}

impl What {
    fn counter(self, added: bool) -> &'static str {
        match (self, added) {
            (Self::Index, true) => "indexes-added",
            (Self::Index, false) => "indexes-removed",
            (Self::Constraint, true) => "constraints-added",
            (Self::Constraint, false) => "constraints-removed",
        }
    }

    fn missing(self, name: &str) -> Failure {
        let code = match self {
            Self::Index => "Neo.DatabaseError.Schema.IndexDropFailed",
            Self::Constraint => "Neo.DatabaseError.Schema.ConstraintDropFailed",
        };
        Failure::new(code, "50N00", format!("Unable to drop {self:?} `{name}`: there is none of that name"))
    }
}

fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(text: &str) -> Result<Option<Command>, Failure> {
        parse(&Tokens::new(text))
    }

    #[test]
    fn rules_are_made_once_and_dropped_once() {
        let (db, mut schema) = (GrafeoDB::new_in_memory(), Schema::default());
        let mut run = |text: &str| schema.apply(&command(text).unwrap().unwrap(), &db).map_err(|f| f.code);
        let create = "CREATE CONSTRAINT c FOR (a:A) REQUIRE a.k IS UNIQUE";
        assert_eq!(run(create), Ok(vec![("constraints-added", 1)]));
        assert_eq!(run(create), Err("Neo.ClientError.Schema.EquivalentSchemaRuleAlreadyExists"));
        assert_eq!(run("CREATE CONSTRAINT c IF NOT EXISTS FOR (a:A) REQUIRE a.k IS UNIQUE"), Ok(vec![]));
        assert_eq!(
            run("CREATE INDEX i IF NOT EXISTS FOR (a:`A B`) ON (a.k)"),
            Ok(vec![("indexes-added", 1)])
        );
        assert_eq!(run("DROP INDEX i"), Ok(vec![("indexes-removed", 1)]));
        assert_eq!(run("DROP INDEX i IF EXISTS"), Ok(vec![]));
        assert_eq!(run("DROP INDEX i"), Err("Neo.DatabaseError.Schema.IndexDropFailed"));
        assert_eq!(run("DROP CONSTRAINT c"), Ok(vec![("constraints-removed", 1)]));
    }

    #[test]
    fn other_texts_are_no_schema_commands_or_are_refused() {
        assert_eq!(command("CREATE (index:INDEX)").ok(), Some(None));
        assert_eq!(command("MATCH (n) RETURN n").ok(), Some(None));
        assert!(command("CREATE TEXT INDEX i FOR (a:A) ON (a.k)").is_err());
        assert!(command("CREATE CONSTRAINT c FOR (a:A) REQUIRE a.k IS NOT NULL").is_err());
        assert!(command("CREATE INDEX i FOR (a:A) ON (a.k, a.l)").is_err());
    }
}
