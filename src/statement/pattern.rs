//! Patterns, labels and maps, as parts of the tree.

use open_cypher::ast::{
    Expr, ExprKind, LabelExpression, LabelExpressionKind, Name, NodePattern, PathFactorKind, PatternPart,
    RelationshipPattern,
};

use super::form::{Map, Node, Value};
use super::value::{path, value};

type Read<T> = Result<T, &'static str>;

/// A relationship pattern with what stands at its ends.
pub(super) struct Ends<'a> {
    pub(super) left: &'a PathFactorKind,
    pub(super) edge: &'a RelationshipPattern,
    pub(super) right: &'a PathFactorKind,
}

/// A part that is one node.
pub(super) fn lone_node(part: &PatternPart) -> Read<&NodePattern> {
    if part.kind.binding.is_some() || part.kind.selector.is_some() {
        return Err("a path has a name or a selector");
    }
    match part.kind.path.kind.factors.as_slice() {
        [factor] => match &factor.kind {
            PathFactorKind::Node(node) => Ok(node),
            _ => Err("a pattern is unusual"),
        },
        _ => Err("a pattern is more than one node"),
    }
}

/// A part that is one relationship between two nodes.
pub(super) fn edge(part: &PatternPart) -> Read<Ends<'_>> {
    if part.kind.binding.is_some() || part.kind.selector.is_some() {
        return Err("a path has a name or a selector");
    }
    let [left, middle, right] = part.kind.path.kind.factors.as_slice() else {
        return Err("a pattern is more than one relationship");
    };
    let PathFactorKind::Relationship(edge) = &middle.kind else { return Err("a pattern is unusual") };
    if edge.legacy_quantifier.is_some() || edge.graph_quantifier.is_some() || edge.where_clause.is_some() {
        return Err("its relationship has a quantifier or a condition");
    }
    Ok(Ends { left: &left.kind, edge, right: &right.kind })
}

/// A node with a label.
pub(super) fn node(text: &str, tree: &NodePattern) -> Read<Node> {
    if tree.where_clause.is_some() {
        return Err("a node has a condition");
    }
    let labels = labels(tree.labels.as_ref())?;
    if labels.is_empty() {
        return Err("a node has no label");
    }
    Ok(Node { labels, properties: described(text, tree.properties.as_deref())? })
}

/// Names of labels that are all meant, each once.
pub(super) fn labels(tree: Option<&LabelExpression>) -> Read<Vec<Box<str>>> {
    let mut names = Vec::new();
    if let Some(tree) = tree {
        gather(tree, &mut names)?;
    }
    Ok(names)
}

fn gather(tree: &LabelExpression, names: &mut Vec<Box<str>>) -> Read<()> {
    match &tree.kind {
        LabelExpressionKind::Name(name) => {
            let name = text(name)?;
            if names.contains(&name) {
                return Err("a label stands twice");
            }
            names.push(name);
            Ok(())
        }
        LabelExpressionKind::And(parts) => parts.iter().try_for_each(|part| gather(part, names)),
        _ => Err("a label is an expression"),
    }
}

/// The properties in a pattern.
pub(super) fn described(text: &str, tree: Option<&Expr>) -> Read<Map> {
    match properties(text, tree)? {
        Map::Parameter(path) if path.len() > 1 => {
            Err("a pattern takes its properties from a part of a parameter")
        }
        map => Ok(map),
    }
}

/// A parameter, or entries with each name once. No tree = no entries.
pub(super) fn properties(text: &str, tree: Option<&Expr>) -> Read<Map> {
    let Some(tree) = tree else { return Ok(Map::Entries(Vec::new())) };
    match &tree.kind {
        ExprKind::Map(entries) => {
            let mut list = Vec::new();
            for entry in entries {
                push(&mut list, self::text(&entry.key)?, value(text, &entry.value)?)?;
            }
            Ok(Map::Entries(list))
        }
        ExprKind::Parameter(_) | ExprKind::Property { .. } => path(tree).map(Map::Parameter),
        _ => Err("a map is neither a parameter nor written out"),
    }
}

/// Adds an entry under a new name.
pub(super) fn push(entries: &mut Vec<(Box<str>, Value)>, key: Box<str>, value: Value) -> Read<()> {
    if entries.iter().any(|(known, _)| *known == key) {
        return Err("a property stands twice");
    }
    entries.push((key, value));
    Ok(())
}

/// A name as it is meant.
pub(super) fn text(name: &Name) -> Read<Box<str>> {
    if name.kind.text.is_empty() { Err("a name is empty") } else { Ok(name.kind.text.as_str().into()) }
}
