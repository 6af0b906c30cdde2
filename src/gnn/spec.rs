//! What a graph is made of: the arguments of `gnn.graph.project`.

use std::time::Duration;

use bolt_wire::packstream::Value;

use super::Trouble;
use super::features::{self, Feature};
use super::fetch::NOTHING;
use super::queries::Queries;
use super::settings::{Settings, expected, strings};

/// Which way relationships pass messages.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    /// From the start node to the end node.
    Natural,
    /// From the end node to the start node.
    Reverse,
    /// Both ways.
    Undirected,
}

/// The words for it.
const WAYS: &[&str] = &["NATURAL", "REVERSE", "UNDIRECTED"];

impl Way {
    fn of(word: &str) -> Self {
        match word {
            "REVERSE" => Self::Reverse,
            "UNDIRECTED" => Self::Undirected,
            _ => Self::Natural,
        }
    }
}

/// Relationships that are read alike.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Relationships {
    /// Their types; none = all.
    pub(crate) types: Vec<String>,
    pub(crate) way: Way,
    /// The property with their weight.
    pub(crate) weight: Option<String>,
}

/// What a graph is made of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Spec {
    /// Labels of its nodes; none = all nodes.
    pub(crate) labels: Vec<String>,
    pub(crate) relationships: Vec<Relationships>,
    /// What gives its nodes and relationships instead of labels and types.
    pub(crate) queries: Option<Queries>,
    pub(crate) features: Vec<Feature>,
    /// Two more features: the logarithms of the numbers of relationships that come and go.
    pub(crate) degree: bool,
    /// One more feature for each of `labels`.
    pub(crate) one_hot_labels: bool,
    /// How old it may be once Neo4j has changed; none = as configured.
    pub(crate) max_staleness: Option<Duration>,
    /// The arguments, as they are shown.
    pub(crate) shown: [Value; 3],
}

impl Spec {
    /// Reads `nodeProjection`, `relationshipProjection` and `configuration`.
    pub(crate) fn read(
        nodes: Value,
        relationships: Value,
        configuration: Option<Value>,
    ) -> Result<Self, Trouble> {
        Self::of(nodes, relationships, configuration, false)
    }

    /// Reads `nodeQuery`, `relationshipQuery` and `configuration`.
    pub(crate) fn by_queries(
        nodes: Value,
        relationships: Value,
        configuration: Option<Value>,
    ) -> Result<Self, Trouble> {
        Self::of(nodes, relationships, configuration, true)
    }

    fn of(
        nodes: Value,
        relationships: Value,
        configuration: Option<Value>,
        by_queries: bool,
    ) -> Result<Self, Trouble> {
        let configured = configuration.clone().unwrap_or_else(|| Value::Map(Vec::new()));
        let shown = [nodes.clone(), relationships.clone(), configured];
        let mut map = Settings::of(configuration)?;
        let fallback = match map.word("featureFallback", &["zero", "error"])? {
            Some("error") => None,
            _ => Some(0.0),
        };
        let way = map.word("orientation", WAYS)?.map_or(Way::Natural, Way::of);
        let weight = weight_of(&mut map)?;
        let (queries, labels, mut features, relationships) = if by_queries {
            let queries = Queries::read(nodes, relationships, &mut map)?;
            (Some(queries), Vec::new(), Vec::new(), vec![Relationships { types: Vec::new(), way, weight }])
        } else {
            let (labels, features) = nodes_of(nodes, fallback)?;
            (None, labels, features, relationships_of(relationships, way, weight.as_deref())?)
        };
        for key in ["featureProperties", "nodeProperties"] {
            if let Some(value) = map.take(key) {
                features.extend(features::properties(key, value, fallback)?);
            }
        }
        if let Some(twice) = (1..features.len()).find(|at| {
            features
                .iter()
                .take(*at)
                .any(|other| Some(&other.property) == features.get(*at).map(|f| &f.property))
        }) {
            let name = features.get(twice).map(|feature| feature.property.clone()).unwrap_or_default();
            return Err(Trouble::wrong(format!("The property `{name}` is named twice.")));
        }
        let degree = map.boolean("degree", false)?;
        let one_hot_labels = map.boolean("labels", false)?;
        let max_staleness = map.at_least("maxStaleness", -1.0, -1.0)?;
        map.done()?;
        if one_hot_labels && labels.is_empty() {
            return Err(Trouble::wrong(
                "`labels` makes a feature of each label of nodeProjection, and `*` names none: list the labels there.",
            ));
        }
        let max_staleness =
            (max_staleness >= 0.0).then(|| Duration::from_secs_f64(max_staleness.min(86_400.0)));
        Ok(Self { labels, relationships, queries, features, degree, one_hot_labels, max_staleness, shown })
    }

    /// `(n:A|B)` and the like.
    pub(crate) fn node(&self, name: &str) -> String {
        format!("({name}{})", alternatives(&self.labels))
    }

    /// True if relationships have weights.
    pub(crate) fn weighted(&self) -> bool {
        self.relationships.iter().any(|relationships| relationships.weight.is_some())
    }

    /// The parameters of both statements, a PackStream map.
    pub(crate) fn parameters(&self) -> &[u8] {
        self.queries.as_ref().map_or(NOTHING, |queries| &queries.parameters)
    }

    /// All statements that read it.
    pub(crate) fn texts(&self) -> impl Iterator<Item = String> {
        let relationships =
            self.relationships.iter().map(|relationships| self.relationships_text(relationships));
        std::iter::once(self.nodes_text()).chain(relationships)
    }

    /// The statement that gives nodes in chunks: their ids, and for each the list of its properties (and labels).
    pub(crate) fn nodes_text(&self) -> String {
        if let Some(queries) = &self.queries {
            let columns: Vec<String> =
                self.features.iter().map(|feature| escaped(&feature.property)).collect();
            return queries.nodes_text(&columns);
        }
        let mut values: Vec<String> =
            self.features.iter().map(|feature| format!("n.{}", escaped(&feature.property))).collect();
        if self.one_hot_labels {
            values.extend(self.labels.iter().map(|label| format!("n:{}", escaped(label))));
        }
        nodes_in_chunks(&format!("MATCH {}", self.node("n")), "id(n)", &values)
    }

    /// The statement that gives relationships in chunks: start nodes, end nodes, and weights if there are any.
    pub(crate) fn relationships_text(&self, relationships: &Relationships) -> String {
        if let Some(queries) = &self.queries {
            return queries.relationships_text(relationships.weight.as_deref());
        }
        let pattern = format!("MATCH {}-[r{}]->(b)", self.node("a"), alternatives(&relationships.types));
        let weight = relationships.weight.as_ref().map(|weight| format!("r.{}", escaped(weight)));
        relationships_in_chunks(&pattern, ["id(a)", "id(b)"], weight.as_deref())
    }
}

/// Nodes that come from this text, in chunks: their ids, and for each the list of its values if there are any.
pub(super) fn nodes_in_chunks(from: &str, id: &str, values: &[String]) -> String {
    if values.is_empty() {
        return format!("{from} WITH {id} AS i WITH i / 5000 AS k, collect(i) AS ii RETURN ii ORDER BY k");
    }
    format!(
        "{from} WITH {id} AS i, [{}] AS f WITH i / 500 AS k, collect(i) AS ii, collect(f) AS ff RETURN ii, ff ORDER BY k",
        values.join(", ")
    )
}

/// Relationships that come from this text, in chunks: start nodes, end nodes, and weights if there are any.
pub(super) fn relationships_in_chunks(from: &str, [start, end]: [&str; 2], weight: Option<&str>) -> String {
    let ends = format!("{from} WITH {start} AS s, {end} AS t");
    match weight {
        None => {
            format!("{ends} WITH s / 1000 AS k, collect(s) AS ss, collect(t) AS tt RETURN ss, tt ORDER BY k")
        }
        Some(weight) => format!(
            "{ends}, coalesce({weight}, 1.0) AS w \
             WITH s / 1000 AS k, collect(s) AS ss, collect(t) AS tt, collect(w) AS ww RETURN ss, tt, ww ORDER BY k"
        ),
    }
}

/// A name in back-ticks.
pub(crate) fn escaped(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// `:A|B`; nothing if there are none.
pub(crate) fn alternatives(names: &[String]) -> String {
    if names.is_empty() {
        return String::new();
    }
    let names: Vec<String> = names.iter().map(|name| escaped(name)).collect();
    format!(":{}", names.join("|"))
}

/// `relationshipWeightProperty`, or the one of `relationshipProperties`.
fn weight_of(map: &mut Settings) -> Result<Option<String>, Trouble> {
    let weight = map.string("relationshipWeightProperty")?;
    let listed = map.strings("relationshipProperties")?.unwrap_or_default();
    match (weight, listed.as_slice()) {
        (Some(weight), []) => Ok(Some(weight)),
        (Some(weight), [only]) if weight == *only => Ok(Some(weight)),
        (None, []) => Ok(None),
        (None, [only]) => Ok(Some(only.clone())),
        _ => Err(Trouble::wrong(
            "`relationshipProperties` can name one property here, the weight; `relationshipWeightProperty` says which.",
        )),
    }
}

/// `'*'`, a label, a list of labels, or a map of labels to `{label, properties}`.
fn nodes_of(value: Value, fallback: Option<f32>) -> Result<(Vec<String>, Vec<Feature>), Trouble> {
    const KEY: &str = "nodeProjection";
    let (mut labels, mut features) = (Vec::new(), Vec::new());
    match value {
        Value::Map(entries) => {
            for (alias, value) in entries {
                let mut map = match value {
                    Value::Map(_) => Settings::of(Some(value))?,
                    other => return Err(expected(&format!("{KEY}.{alias}"), "MAP", &other)),
                };
                labels.push(map.string("label")?.unwrap_or(alias));
                if let Some(value) = map.take("properties") {
                    for feature in features::properties("properties", value, fallback)? {
                        if !features.contains(&feature) {
                            features.push(feature);
                        }
                    }
                }
                map.done()?;
            }
        }
        other => labels = strings(KEY, other)?,
    }
    all_or_some(KEY, &mut labels)?;
    Ok((labels, features))
}

/// `'*'`, a type, a list of types, or a map of types to `{type, orientation, properties}`.
fn relationships_of(value: Value, way: Way, weight: Option<&str>) -> Result<Vec<Relationships>, Trouble> {
    const KEY: &str = "relationshipProjection";
    let Value::Map(entries) = value else {
        let mut types = strings(KEY, value)?;
        all_or_some(KEY, &mut types)?;
        return Ok(vec![Relationships { types, way, weight: weight.map(str::to_owned) }]);
    };
    let mut all: Vec<Relationships> = Vec::new();
    for (alias, value) in entries {
        let mut map = match value {
            Value::Map(_) => Settings::of(Some(value))?,
            other => return Err(expected(&format!("{KEY}.{alias}"), "MAP", &other)),
        };
        let mut types = vec![map.string("type")?.unwrap_or(alias)];
        all_or_some(KEY, &mut types)?;
        let way = map.word("orientation", WAYS)?.map_or(way, Way::of);
        let own = map.strings("properties")?.unwrap_or_default();
        map.done()?;
        let weight = match own.as_slice() {
            [] => weight.map(str::to_owned),
            [only] => Some(only.clone()),
            _ => {
                return Err(Trouble::wrong(
                    "`properties` of a relationship can name one property here, the weight.",
                ));
            }
        };
        match all
            .iter_mut()
            .find(|known| known.way == way && known.weight == weight && !known.types.is_empty())
        {
            Some(known) if !types.is_empty() => known.types.append(&mut types),
            _ => all.push(Relationships { types, way, weight }),
        }
    }
    if all.is_empty() {
        return Err(Trouble::wrong(format!("`{KEY}` names no relationship type: write '*' for all.")));
    }
    Ok(all)
}

/// `*` stands for all, and alone.
fn all_or_some(key: &str, names: &mut Vec<String>) -> Result<(), Trouble> {
    if names.iter().any(|name| name == "*") {
        if names.len() > 1 {
            return Err(Trouble::wrong(format!("`{key}` has `*` beside names: write '*' alone for all.")));
        }
        names.clear();
        return Ok(());
    }
    if names.is_empty() || names.iter().any(String::is_empty) {
        return Err(Trouble::wrong(format!("`{key}` must name something: write '*' for all.")));
    }
    names.dedup();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Value {
        Value::List(names.iter().map(|name| Value::from(*name)).collect())
    }

    #[test]
    fn projections_are_read_as_gds_writes_them() {
        let spec = Spec::read("Person".into(), "*".into(), None).unwrap();
        assert_eq!(
            (spec.labels.as_slice(), spec.relationships[0].types.len()),
            (&["Person".to_owned()][..], 0)
        );
        assert_eq!(
            spec.nodes_text(),
            "MATCH (n:`Person`) WITH id(n) AS i WITH i / 5000 AS k, collect(i) AS ii RETURN ii ORDER BY k"
        );
        let nodes =
            Value::map([("P", Value::map([("label", "A`b".into()), ("properties", list(&["x", "y"]))]))]);
        let types = Value::map([
            ("KNOWS", Value::map([("orientation", "undirected".into())])),
            ("L", Value::map([("type", "LIKES".into()), ("properties", "w".into())])),
            ("HATES", Value::map([("orientation", "UNDIRECTED".into())])),
        ]);
        let configuration = Value::map([
            ("degree", true.into()),
            ("labels", true.into()),
            ("maxStaleness", Value::Float(0.5)),
        ]);
        let spec = Spec::read(nodes, types, Some(configuration)).unwrap();
        assert!(
            spec.nodes_text().contains("MATCH (n:`A``b`)")
                && spec.nodes_text().contains("[n.`x`, n.`y`, n:`A``b`] AS f")
        );
        assert_eq!(spec.relationships.len(), 2);
        assert_eq!(spec.relationships[0].types, ["KNOWS", "HATES"]);
        assert!(spec.relationships_text(&spec.relationships[1]).contains("coalesce(r.`w`, 1.0)"));
        assert_eq!(spec.max_staleness, Some(Duration::from_millis(500)));
    }

    #[test]
    fn nonsense_is_named() {
        for (nodes, types, configuration, expected) in [
            (list(&["*", "A"]), "*".into(), Value::Null, "`*` beside names"),
            (list(&[]), "*".into(), Value::Null, "must name something"),
            (Value::Integer(1), "*".into(), Value::Null, "`nodeProjection`"),
            ("A".into(), Value::map([("T", Value::Integer(1))]), Value::Null, "`relationshipProjection.T`"),
            (
                "A".into(),
                "*".into(),
                Value::map([("orientation", "sideways".into())]),
                "NATURAL, REVERSE, UNDIRECTED",
            ),
            ("*".into(), "*".into(), Value::map([("labels", true.into())]), "list the labels"),
            ("A".into(), "*".into(), Value::map([("featureProperties", list(&["x", "x"]))]), "`x` twice"),
            (
                "A".into(),
                "*".into(),
                Value::map([("nodePropertys", list(&["x"]))]),
                "Did you mean [nodeProperties]?",
            ),
        ] {
            let Err(Trouble::Wrong(words)) = Spec::read(nodes, types, Some(configuration)) else {
                panic!("{expected}")
            };
            assert!(words.contains(expected), "{words}");
        }
    }
}
