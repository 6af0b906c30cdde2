//! A graph by Cypher: one query for its nodes, one for its relationships, each wrapped so that its rows come in chunks of columns.

use bolt_wire::packstream::Value;

use super::Trouble;
use super::call::Call;
use super::fetch::NOTHING;
use super::procedures::Runs;
use super::settings::{Settings, expected, kind};
use super::spec::{Spec, escaped, nodes_in_chunks, relationships_in_chunks};

/// The queries of `gnn.graph.project.cypher`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Queries {
    nodes: String,
    relationships: String,
    /// Their parameters, a PackStream map.
    pub(crate) parameters: Vec<u8>,
    /// A relationship whose start or end is none of the nodes is an error; else it is left out.
    pub(crate) validate: bool,
}

impl Queries {
    /// Reads both queries, and `parameters` and `validateRelationships` of the configuration.
    pub(super) fn read(nodes: Value, relationships: Value, map: &mut Settings) -> Result<Self, Trouble> {
        let parameters = match map.take("parameters") {
            None => NOTHING.to_vec(),
            Some(parameters @ Value::Map(_)) => parameters.to_bytes().to_vec(),
            Some(other) => return Err(expected("parameters", "MAP", &other)),
        };
        let validate = map.boolean("validateRelationships", true)?;
        Ok(Self {
            nodes: query("nodeQuery", nodes)?,
            relationships: query("relationshipQuery", relationships)?,
            parameters,
            validate,
        })
    }

    /// Nodes in chunks. No id is -1, for `collect` would leave null out.
    pub(super) fn nodes_text(&self, columns: &[String]) -> String {
        nodes_in_chunks(&format!("CALL {{\n{}\n}}", self.nodes), "coalesce(id, -1)", columns)
    }

    /// Relationships in chunks.
    pub(super) fn relationships_text(&self, weight: Option<&str>) -> String {
        let rows = format!("CALL {{\n{}\n}}", self.relationships);
        let ends = ["coalesce(source, -1)", "coalesce(target, -1)"];
        relationships_in_chunks(&rows, ends, weight.map(escaped).as_deref())
    }

    /// What is wrong with a relationship between these two; none = it may be left out.
    pub(super) fn stray(&self, source: i64, target: i64, known: bool) -> Option<Trouble> {
        let (end, id) = if known { ("target", target) } else { ("source", source) };
        let id = if id < 0 { "null".to_owned() } else { id.to_string() };
        self.validate.then(|| {
            Trouble::wrong(format!(
                "Failed to load a relationship because its {end}-node with id {id} is not part of the node query. \
                 Let the relationship query give nodes of the node query alone, or set `validateRelationships: false` to leave such relationships out."
            ))
        })
    }
}

/// What a call that reads a graph asks Neo4j for; `None` if it reads none, or cannot.
pub(crate) fn queries(call: &Call, values: &[Value]) -> Option<String> {
    let read = match call.procedure.runs {
        Runs::Project => Spec::read,
        Runs::ProjectCypher => Spec::by_queries,
        _ => return None,
    };
    let mut values = values.iter().skip(1).cloned();
    let spec = read(values.next()?, values.next()?, values.next()).ok()?;
    let mut texts = vec![spec.nodes_text()];
    texts.extend(spec.relationships.iter().map(|relationships| spec.relationships_text(relationships)));
    Some(texts.join("\n"))
}

/// An id that the node query gave.
pub(super) fn not_an_id(value: Option<i64>) -> Trouble {
    let what = if value.is_some() { "null or less than 0" } else { "no INTEGER" };
    Trouble::wrong(format!(
        "The node query gave an `id` that is {what}: it must return what `id(n)` gives, as `id`."
    ))
}

/// One query, without a semicolon at its end.
fn query(key: &str, value: Value) -> Result<String, Trouble> {
    let Value::String(text) = value else {
        return Err(Trouble::wrong(format!(
            "`{key}` must be a STRING, the query in Cypher, but is {}.",
            kind(&value)
        )));
    };
    let text = text.trim().trim_end_matches(';').trim_end();
    if text.is_empty() {
        return Err(Trouble::wrong(format!("`{key}` is empty: write a query in Cypher.")));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(nodes: Value, relationships: Value, configuration: Value) -> Result<Spec, Trouble> {
        Spec::by_queries(nodes, relationships, Some(configuration))
    }

    #[test]
    fn queries_are_wrapped_into_chunks() {
        let configuration = Value::map([
            ("featureProperties", "age".into()),
            ("relationshipWeightProperty", "w`".into()),
            ("parameters", Value::map([("least", 3.into())])),
        ]);
        let spec = spec(
            "MATCH (n) RETURN id(n) AS id, n.age AS age ; ".into(),
            "MATCH (a)-->(b) RETURN id(a) AS source, id(b) AS target // all".into(),
            configuration,
        )
        .unwrap();
        assert_eq!(
            spec.nodes_text(),
            "CALL {\nMATCH (n) RETURN id(n) AS id, n.age AS age\n} WITH coalesce(id, -1) AS i, [`age`] AS f \
             WITH i / 500 AS k, collect(i) AS ii, collect(f) AS ff RETURN ii, ff ORDER BY k"
        );
        let text = spec.relationships_text(&spec.relationships[0]);
        assert!(text.contains("// all\n}") && text.contains("coalesce(`w```, 1.0) AS w"), "{text}");
        let queries = spec.queries.as_ref().unwrap();
        assert_eq!(queries.parameters, Value::map([("least", 3.into())]).to_bytes());
        for (known, words) in [(true, "target-node with id 7"), (false, "source-node with id null")] {
            let Some(Trouble::Wrong(text)) = queries.stray(-1, 7, known) else { panic!() };
            assert!(text.contains(words), "{text}");
        }
        let lenient = Queries { validate: false, ..queries.clone() };
        assert!(lenient.stray(1, 2, true).is_none());
    }

    #[test]
    fn nonsense_is_named() {
        for (nodes, relationships, configuration, words) in [
            (1.into(), "RETURN 1".into(), Value::Null, "`nodeQuery` must be a STRING"),
            ("RETURN 1".into(), " ; ".into(), Value::Null, "`relationshipQuery` is empty"),
            (
                "RETURN 1".into(),
                "RETURN 1".into(),
                Value::map([("parameters", 1.into())]),
                "must be of type `MAP`",
            ),
            ("RETURN 1".into(), "RETURN 1".into(), Value::map([("labels", true.into())]), "list the labels"),
        ] {
            let Err(Trouble::Wrong(text)) = spec(nodes, relationships, configuration) else {
                panic!("{words}")
            };
            assert!(text.contains(words), "{text}");
        }
    }
}
