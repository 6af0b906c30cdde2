//! What makes a slow query slow, as its plan and its text tell, and what can be done about it.

use bolt_wire::packstream::Value;
use open_cypher::{Keyword, TokenKind};

use crate::indexes::advice as create_index;
use crate::statement::fingerprint;

/// Records beyond which a result without LIMIT is remarkable.
const LARGE: u64 = 10_000;
/// Steps of a plan that are looked at.
const STEPS: usize = 200;
/// How deep a plan may be.
const DEPTH: usize = 100;

/// What could be done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Advice {
    /// What it is about: `missing_index`, `all_nodes_scan`, ….
    pub(crate) kind: &'static str,
    /// What to do.
    pub(crate) text: String,
}

/// What the plan of a query says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// One step a line, deeper ones further in; without values.
    pub(crate) text: String,
    pub(crate) advice: Vec<Advice>,
}

/// Whether there is an index for a label (or type, if true) and its properties; `None` = not known.
type HasIndex<'a> = dyn Fn(&str, bool, &[String]) -> Option<bool> + 'a;

/// A step of a plan.
struct Step<'a> {
    operator: &'a str,
    details: &'a str,
    children: &'a [Value],
}

impl<'a> Step<'a> {
    fn of(plan: &'a Value) -> Self {
        let operator = plan.get("operatorType").and_then(Value::as_str).unwrap_or_default();
        let details = plan.get("args").and_then(|args| args.get("Details")).and_then(Value::as_str);
        Self {
            operator: operator.split('@').next().unwrap_or_default(),
            details: details.unwrap_or_default(),
            children: plan.get("children").and_then(Value::as_list).unwrap_or_default(),
        }
    }
}

impl Plan {
    /// Reads the plan in a summary. `has_index` tells whether there is an index for a label (or type, if true) and its properties.
    pub(crate) fn read(plan: &Value, has_index: &HasIndex<'_>) -> Self {
        let mut read = Self::default();
        let mut left = STEPS;
        read.step(plan, 0, &mut left, has_index);
        read
    }

    fn step(&mut self, plan: &Value, depth: usize, left: &mut usize, has_index: &HasIndex<'_>) {
        if depth > DEPTH || *left == 0 {
            return;
        }
        *left -= 1;
        let step = Step::of(plan);
        let details = fingerprint::normalised(step.details);
        self.text.push_str(&"  ".repeat(depth));
        self.text.push_str(step.operator);
        if !details.is_empty() {
            self.text.push(' ');
            self.text.push_str(&details);
        }
        self.text.push('\n');
        self.judge(&step, has_index);
        for child in step.children {
            self.step(child, depth + 1, left, has_index);
        }
    }

    fn judge(&mut self, step: &Step<'_>, has_index: &HasIndex<'_>) {
        match step.operator {
            "CartesianProduct" => self.add(
                "cartesian_product",
                "Two parts of the pattern are not connected, so each row of one meets each of the other: connect them, or match \
                 them one after the other."
                    .to_owned(),
            ),
            "AllNodesScan" | "PartitionedAllNodesScan" => self.add(
                "all_nodes_scan",
                "Every node of the database is looked at: name a label in the pattern.".to_owned(),
            ),
            operator if operator.starts_with("VarLengthExpand") && is_unbounded(step.details) => self.unbounded(),
            operator if operator.starts_with("Repeat") && step.details.contains("*}") => self.unbounded(),
            "Filter" => {
                if let Some((name, relationship, properties)) = missing(step)
                    && has_index(&name, relationship, &properties) != Some(true)
                {
                    let statement = create_index(&name, relationship, &properties);
                    let what = if relationship { "relationship of type" } else { "node with label" };
                    self.add("missing_index", format!("Every {what} {name} is looked at. Create the index: {statement}"));
                }
            }
            _ => {}
        }
    }

    fn unbounded(&mut self) {
        self.add(
            "unbounded_path",
            "A path may have any length: give its largest, such as *1..5, or use SHORTEST.".to_owned(),
        );
    }

    /// Adds what text and answer tell. `varied`: the same text was seen with other values in it.
    pub(crate) fn look_at(&mut self, text: &str, rows: u64, varied: bool) {
        if varied {
            self.add(
                "literals",
                "Values stand in the text, so that each is a text of its own to be planned: pass them as parameters.".to_owned(),
            );
        }
        let tokens = open_cypher::lex(text).tokens;
        let limits = tokens.iter().any(|token| token.kind == TokenKind::Keyword(Keyword::Limit));
        if rows > LARGE && !limits {
            self.add(
                "no_limit",
                format!("It answered {rows} records: ask for those that are needed, with LIMIT."),
            );
        }
    }

    fn add(&mut self, kind: &'static str, text: String) {
        let advice = Advice { kind, text };
        if !self.advice.contains(&advice) {
            self.advice.push(advice);
        }
    }
}

/// What a filter looks for among all that a scan gives: label or type, whether it is a type, and properties.
fn missing(filter: &Step<'_>) -> Option<(String, bool, Vec<String>)> {
    let mut below = filter.children.first()?;
    for _ in 0..DEPTH {
        let step = Step::of(below);
        let (relationship, scanned) = match step.operator {
            operator if operator.contains("RelationshipTypeScan") => (true, relationship_of(step.details)),
            operator if operator.contains("NodeByLabelScan") => (false, node_of(step.details)),
            _ => {
                below = step.children.first()?;
                continue;
            }
        };
        let (variable, name) = scanned?;
        let properties = compared(filter.details, &variable);
        return (!properties.is_empty()).then_some((name, relationship, properties));
    }
    None
}

/// `n:Person` as variable and label.
fn node_of(details: &str) -> Option<(String, String)> {
    let words = words(details);
    let colon = words.iter().position(|(kind, _)| *kind == TokenKind::Colon)?;
    Some((words.get(colon.checked_sub(1)?)?.1.clone(), words.get(colon + 1)?.1.clone()))
}

/// `(a)-[r:KNOWS]->(b)` as variable and type.
fn relationship_of(details: &str) -> Option<(String, String)> {
    let inner = details.split_once('[')?.1.split_once(']')?.0;
    node_of(inner)
}

/// The properties of a variable that are compared in a way that an index helps with.
fn compared(details: &str, variable: &str) -> Vec<String> {
    let words = words(details);
    let mut found = Vec::new();
    for (at, window) in words.windows(3).enumerate() {
        let [(_, owner), (TokenKind::Dot, _), (_, property)] = window else { continue };
        if owner != variable || found.contains(property) {
            continue;
        }
        // `cache[n.p] = …` has a bracket in between.
        let mut next = at + 3;
        while words
            .get(next)
            .is_some_and(|(kind, _)| matches!(kind, TokenKind::RightBracket | TokenKind::RightParen))
        {
            next += 1;
        }
        let helps = words.get(next).is_some_and(|(kind, word)| match kind {
            TokenKind::Equal
            | TokenKind::Less
            | TokenKind::LessEqual
            | TokenKind::Greater
            | TokenKind::GreaterEqual => true,
            _ => ["IN", "STARTS"].iter().any(|known| word.eq_ignore_ascii_case(known)),
        });
        if helps {
            found.push(property.clone());
        }
    }
    found
}

/// The tokens of a text, names out of their back-ticks.
fn words(text: &str) -> Vec<(TokenKind, String)> {
    let tokens = open_cypher::lex(text).tokens;
    let word = |token: &open_cypher::Token| {
        let text = token.text(text).unwrap_or_default();
        let name = text.strip_prefix('`').and_then(|text| text.strip_suffix('`'));
        (token.kind, name.map_or_else(|| text.to_owned(), |name| name.replace("``", "`")))
    };
    tokens.iter().filter(|token| !token.is_trivia()).map(word).collect()
}

/// Whether the lengths of a path, as a plan shows them, have no upper end: `*`, `*..`, `*2..`.
fn is_unbounded(details: &str) -> bool {
    let Some((_, lengths)) = details.split_once('*') else { return false };
    let lengths = lengths.trim_start().trim_start_matches(|c: char| c.is_ascii_digit());
    match lengths.strip_prefix("..") {
        Some(rest) => !rest.starts_with(|c: char| c.is_ascii_digit()),
        None => details
            .split_once('*')
            .is_some_and(|(_, l)| !l.trim_start().starts_with(|c: char| c.is_ascii_digit())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(operator: &str, details: &str, children: Vec<Value>) -> Value {
        Value::map([
            ("operatorType", format!("{operator}@neo4j").into()),
            ("args", Value::map([("Details", details.into())])),
            ("children", Value::List(children)),
        ])
    }

    fn kinds(plan: &Value) -> Vec<&'static str> {
        Plan::read(plan, &|_, _, _| None).advice.iter().map(|advice| advice.kind).collect()
    }

    #[test]
    fn a_filter_over_a_scan_lacks_an_index() {
        let scan = || step("NodeByLabelScan", "n:Person", vec![]);
        for (details, properties) in [
            ("n.name = $name", "n.name"),
            ("cache[n.`first name`] IN $autolist_0", "n.`first name`"),
            ("n.a = $a AND n.b > 4 AND n.c CONTAINS $c", "n.a, n.b"),
            ("n.name STARTS WITH 'secret42'", "n.name"),
        ] {
            let plan = step("ProduceResults", "n", vec![step("Filter", details, vec![scan()])]);
            let read = Plan::read(&plan, &|_, _, _| None);
            let [advice] = read.advice.as_slice() else { panic!("{read:?}") };
            assert!(
                advice
                    .text
                    .ends_with(&format!("CREATE INDEX IF NOT EXISTS FOR (n:Person) ON ({properties})")),
                "{advice:?}"
            );
            assert!(!read.text.contains("secret42"), "{}", read.text);
            assert!(Plan::read(&plan, &|_, _, _| Some(true)).advice.is_empty(), "it is there");
        }
        let deeper =
            step("Filter", "n.x = 1 AND m.y = 2", vec![step("Expand(All)", "(n)--(m)", vec![scan()])]);
        assert!(Plan::read(&deeper, &|_, _, _| None).advice[0].text.contains("ON (n.x)"));
        for details in ["m.name = $name", "n.name CONTAINS $x", "n:Other", "n.name <> $x", ""] {
            assert_eq!(kinds(&step("Filter", details, vec![scan()])), [""; 0], "{details}");
        }
        let links = step("DirectedRelationshipTypeScan", "(a)-[r:KNOWS]->(b)", vec![]);
        let read = Plan::read(&step("Filter", "r.since = $s", vec![links]), &|_, _, _| None);
        assert!(read.advice[0].text.ends_with("FOR ()-[r:KNOWS]-() ON (r.since)"), "{read:?}");
    }

    #[test]
    fn other_sorrows_are_named() {
        let leaf = |operator: &str, details: &str| step(operator, details, vec![]);
        assert_eq!(kinds(&leaf("AllNodesScan", "n")), ["all_nodes_scan"]);
        assert_eq!(kinds(&leaf("CartesianProduct", "")), ["cartesian_product"]);
        for details in ["(a)-[:R*]->(b)", "(a)-[:R*2..]->(b)", "(a)-[:R*..]->(b)", "(a)-[r:R*1..]-(b)"] {
            assert_eq!(kinds(&leaf("VarLengthExpand(All)", details)), ["unbounded_path"], "{details}");
        }
        for details in ["(a)-[:R*2]->(b)", "(a)-[:R*..4]->(b)", "(a)-[:R*1..4]->(b)"] {
            assert_eq!(kinds(&leaf("VarLengthExpand(All)", details)), [""; 0], "{details}");
        }
        assert_eq!(kinds(&leaf("Repeat(Trail)", "(a) ((b)-[r]->(c)){1, *} (d)")), ["unbounded_path"]);
        let mut plan = Plan::default();
        plan.look_at("MATCH (n) RETURN n", 10_001, true);
        plan.look_at("MATCH (n) RETURN n LIMIT 20000", 10_001, false);
        plan.look_at("MATCH (n) RETURN n", 10_000, false);
        assert_eq!(plan.advice.iter().map(|a| a.kind).collect::<Vec<_>>(), ["literals", "no_limit"]);
    }

    #[test]
    fn hostile_plans_end() {
        let mut deep = step("A", "", vec![]);
        for _ in 0..300 {
            deep = step("Filter", "n.x = 1", vec![deep]);
        }
        assert!(Plan::read(&deep, &|_, _, _| None).text.lines().count() <= DEPTH + 1);
        let wide = step("A", "", (0..10_000).map(|_| step("B", "", vec![])).collect());
        assert_eq!(Plan::read(&wide, &|_, _, _| None).text.lines().count(), STEPS);
        assert_eq!(Plan::read(&Value::Null, &|_, _, _| None).advice, []);
    }
}
