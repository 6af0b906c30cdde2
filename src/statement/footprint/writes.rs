//! What a text may change.

use std::collections::{HashMap, HashSet};

use open_cypher::ast::visit::{self, Visitor};
use open_cypher::ast::{
    Clause, ClauseKind, Expr, ExprKind, LabelExpression, LabelExpressionKind, Name, NodePattern, PathFactor,
    PathFactorKind, PathPattern, PatternPart, ProjectionClause, ProjectionItemKind, Query, QueryKind,
    RelationshipPattern, RemoveItemKind, SetClause, SetItemKind, SingleQuery,
};

use super::kinds::walk_chain;
use super::mark::{Mark, Marks};
use super::reads::{Whole, names};
use super::split::{ENTER, LEAVE, Part};
use super::touches::{Source, Writes};
use crate::statement::form::Path;
use crate::statement::value::path;

/// What stands for `give up`: the whole database.
type Follow = Option<()>;

/// What the parts of a text may change together.
pub(super) fn writes(parts: &[Part], queries: &[Query]) -> Writes {
    let mut names = Names::default();
    queries.iter().for_each(|query| names.visit_query(query));
    let mut writer = Writer {
        names,
        marks: Marks::default(),
        sources: Vec::new(),
        scope: HashSet::new(),
        outer: Vec::new(),
    };
    let followed = parts.iter().zip(queries).try_for_each(|(part, query)| {
        let imported = part.imported.iter().map(String::as_str).collect();
        writer.query(query, &imported)
    });
    match followed {
        Some(()) => Writes::Known { marks: writer.marks.into_marks(), sources: writer.sources.into() },
        None => Writes::Whole,
    }
}

struct Writer<'a> {
    names: Names<'a>,
    marks: Marks,
    sources: Vec<Source>,
    /// Names that stand for something at this place: a pattern that has no more than such a name creates no node.
    scope: HashSet<&'a str>,
    /// The scopes around each FOREACH that the text is in.
    outer: Vec<HashSet<&'a str>>,
}

impl<'a> Writer<'a> {
    fn query(&mut self, query: &'a Query, imported: &HashSet<&'a str>) -> Follow {
        let QueryKind::Regular(regular) = &query.kind else { return None };
        self.single(&regular.head, imported)?;
        regular.unions.iter().try_for_each(|union| self.single(&union.query, imported))
    }

    fn single(&mut self, query: &'a SingleQuery, imported: &HashSet<&'a str>) -> Follow {
        self.scope.clone_from(imported);
        query.kind.clauses.iter().try_for_each(|clause| self.clause(clause))
    }

    fn clause(&mut self, clause: &'a Clause) -> Follow {
        match &clause.kind {
            ClauseKind::Match(clause) => clause.pattern.parts.iter().for_each(|part| self.matched(part)),
            ClauseKind::Unwind(clause) => self.bind(&clause.variable),
            ClauseKind::With(clause) if is_marked(&clause.projection, ENTER) => {
                self.outer.push(self.scope.clone());
            }
            ClauseKind::With(clause) if is_marked(&clause.projection, LEAVE) => {
                self.scope = self.outer.pop()?
            }
            ClauseKind::With(clause) => self.projected(&clause.projection),
            ClauseKind::Return(_) | ClauseKind::Finish => {}
            ClauseKind::Create(clause) => {
                return clause.pattern.parts.iter().try_for_each(|part| self.made(part));
            }
            ClauseKind::Merge(clause) => {
                self.made(&clause.pattern)?;
                return clause.actions.iter().try_for_each(|action| self.set(&action.set));
            }
            ClauseKind::Set(clause) => return self.set(clause),
            ClauseKind::Remove(clause) => {
                return clause.items.iter().try_for_each(|item| match &item.kind {
                    RemoveItemKind::Property(target) => self.property(target),
                    RemoveItemKind::Labels { labels, .. } => self.labels(labels),
                    _ => None,
                });
            }
            ClauseKind::Delete(clause) => {
                return clause.expressions.iter().try_for_each(|expression| self.delete(expression));
            }
            _ => return None,
        }
        Some(())
    }

    fn bind(&mut self, name: &'a Name) {
        self.scope.insert(&name.kind.text);
    }

    fn matched(&mut self, part: &'a PatternPart) {
        if let Some(name) = &part.kind.binding {
            self.bind(name);
        }
        self.matched_path(&part.kind.path);
    }

    fn matched_path(&mut self, path: &'a PathPattern) {
        for factor in &path.kind.factors {
            match &factor.kind {
                PathFactorKind::Node(NodePattern { variable: Some(name), .. })
                | PathFactorKind::Relationship(RelationshipPattern { variable: Some(name), .. }) => {
                    self.bind(name);
                }
                PathFactorKind::Parenthesized { pattern, .. }
                | PathFactorKind::Subpath { pattern, .. }
                | PathFactorKind::LegacyShortest { pattern, .. } => self.matched_path(pattern),
                _ => {}
            }
        }
    }

    fn projected(&mut self, projection: &'a ProjectionClause) {
        if !projection.items.iter().any(|item| matches!(item.kind, ProjectionItemKind::Wildcard)) {
            self.scope.clear();
        }
        for item in &projection.items {
            match &item.kind {
                ProjectionItemKind::Expression { alias: Some(alias), .. } => self.bind(alias),
                ProjectionItemKind::Expression { expression, .. } => {
                    if let ExprKind::Variable(name) = &expression.kind {
                        self.bind(name);
                    }
                }
                _ => {}
            }
        }
    }

    /// A pattern of CREATE or MERGE.
    fn made(&mut self, part: &'a PatternPart) -> Follow {
        self.made_path(&part.kind.path)?;
        if let Some(name) = &part.kind.binding {
            self.bind(name);
        }
        Some(())
    }

    fn made_path(&mut self, path: &'a PathPattern) -> Follow {
        path.kind.factors.iter().try_for_each(|factor| match &factor.kind {
            PathFactorKind::Node(node) => self.made_node(node),
            PathFactorKind::Relationship(edge) => self.made_edge(edge),
            _ => None,
        })
    }

    fn made_node(&mut self, node: &'a NodePattern) -> Follow {
        let known = node.variable.as_ref().is_some_and(|name| self.scope.contains(name.kind.text.as_str()));
        if known && node.labels.is_none() && node.properties.is_none() {
            return Some(());
        }
        self.marks.add(Mark::AnyNode);
        if let Some(labels) = &node.labels {
            let (names, Whole::Named) = names(labels) else { return None };
            names.into_iter().for_each(|name| self.marks.add(Mark::Label(name.into())));
        }
        if let Some(name) = &node.variable {
            self.bind(name);
        }
        Some(())
    }

    fn made_edge(&mut self, edge: &'a RelationshipPattern) -> Follow {
        self.types(edge.labels.as_ref()?)?;
        if let Some(name) = &edge.variable {
            self.bind(name);
        }
        Some(())
    }

    /// Relationships of these types come or go.
    fn types(&mut self, types: &LabelExpression) -> Follow {
        let (names, Whole::Named) = names(types) else { return None };
        names.into_iter().for_each(|name| self.marks.add(Mark::Type(name.into())));
        self.marks.add(Mark::AnyType);
        Some(())
    }

    /// Nodes get or lose these labels.
    fn labels(&mut self, labels: &LabelExpression) -> Follow {
        let (names, Whole::Named) = names(labels) else { return None };
        names.into_iter().for_each(|name| self.marks.add(Mark::Label(name.into())));
        self.marks.add(Mark::AnyLabel);
        Some(())
    }

    fn set(&mut self, clause: &'a SetClause) -> Follow {
        for item in &clause.items {
            match &item.kind {
                SetItemKind::Property { target, .. } => self.property(target)?,
                SetItemKind::ReplaceProperties { .. } => self.marks.write_keys(),
                SetItemKind::MergeProperties { value, .. } => self.merged(value),
                SetItemKind::Labels { labels, .. } => self.labels(labels)?,
                _ => return None,
            }
        }
        Some(())
    }

    /// One property is set or removed.
    fn property(&mut self, target: &Expr) -> Follow {
        match &target.kind {
            ExprKind::Property { key, .. } => self.marks.write_key(&key.kind.text),
            ExprKind::DynamicProperty { .. } | ExprKind::Index { .. } => self.marks.write_keys(),
            ExprKind::Parenthesized(inner) => return self.property(inner),
            _ => return None,
        }
        Some(())
    }

    /// The value of `SET n += value`.
    fn merged(&mut self, value: &'a Expr) {
        if let ExprKind::Map(entries) = &value.kind {
            entries.iter().for_each(|entry| self.marks.write_key(&entry.key.kind.text));
            return;
        }
        match self.source(value) {
            Some(source) if self.sources.contains(&source) => {}
            Some(source) => self.sources.push(source),
            None => self.marks.write_keys(),
        }
    }

    /// A parameter, or a row of one, with names below.
    fn source(&self, value: &'a Expr) -> Option<Source> {
        if let Ok(path) = path(value) {
            return Some(Source::Map(path));
        }
        let (mut below, mut at) = (Vec::new(), value);
        while let ExprKind::Property { expression, key } = &at.kind {
            below.push(Box::from(key.kind.text.as_str()));
            at = expression;
        }
        let ExprKind::Variable(row) = &at.kind else { return None };
        below.reverse();
        let row = row.kind.text.as_str();
        let rows = self.names.rows.get(row).filter(|_| self.names.is_bound_once(row))?;
        Some(Source::Rows { list: rows.clone(), below: below.into() })
    }

    /// Relationships whose types their one pattern tells. A node would take with it what nobody knows.
    fn delete(&mut self, expression: &'a Expr) -> Follow {
        let ExprKind::Variable(name) = &expression.kind else { return None };
        let name = name.kind.text.as_str();
        let types = *self.names.edges.get(name).filter(|_| self.names.is_bound_once(name))?;
        if !is_choice(types) {
            return None;
        }
        self.types(types)
    }
}

/// True if the last column has this name, which no text can have.
fn is_marked(projection: &ProjectionClause, name: &str) -> bool {
    match projection.items.last().map(|item| &item.kind) {
        Some(ProjectionItemKind::Expression { alias: Some(alias), .. }) => alias.kind.text == name,
        _ => false,
    }
}

/// True for a name, or several of which one is meant.
fn is_choice(types: &LabelExpression) -> bool {
    let mut open = vec![types];
    while let Some(types) = open.pop() {
        match &types.kind {
            LabelExpressionKind::Name(_) => {}
            LabelExpressionKind::Parenthesized(inner) => open.push(inner),
            LabelExpressionKind::Or(parts) => open.extend(parts),
            _ => return false,
        }
    }
    true
}

/// The names of a text, and what binds them.
#[derive(Debug, Default)]
struct Names<'a> {
    bound: Vec<&'a str>,
    /// Rows of a parameter: `UNWIND $rows AS row`.
    rows: HashMap<&'a str, Path>,
    edges: HashMap<&'a str, &'a LabelExpression>,
}

impl<'a> Names<'a> {
    fn is_bound_once(&self, name: &str) -> bool {
        self.bound.iter().filter(|bound| **bound == name).count() == 1
    }

    fn bind(&mut self, name: Option<&'a Name>) {
        self.bound.extend(name.map(|name| name.kind.text.as_str()));
    }
}

impl<'a> Visitor<'a> for Names<'a> {
    fn visit_clause(&mut self, clause: &'a Clause) {
        match &clause.kind {
            ClauseKind::Unwind(unwind) => {
                self.bind(Some(&unwind.variable));
                if let Ok(path) = path(&unwind.expression) {
                    self.rows.insert(&unwind.variable.kind.text, path);
                }
            }
            ClauseKind::With(with) => self.projected(&with.projection),
            ClauseKind::Return(clause) => self.projected(&clause.projection),
            ClauseKind::LoadCsv(load) => self.bind(Some(&load.variable)),
            ClauseKind::Let(bindings) => {
                bindings.bindings.iter().for_each(|binding| self.bind(Some(&binding.variable)));
            }
            _ => {}
        }
        visit::walk_clause(self, clause);
    }

    fn visit_pattern_part(&mut self, part: &'a PatternPart) {
        self.bind(part.kind.binding.as_ref());
        visit::walk_pattern_part(self, part);
    }

    fn visit_path_factor(&mut self, factor: &'a PathFactor) {
        match &factor.kind {
            PathFactorKind::Node(node) | PathFactorKind::QuantifiedNode { pattern: node, .. } => {
                self.bind(node.variable.as_ref());
            }
            PathFactorKind::Relationship(edge) => {
                self.bind(edge.variable.as_ref());
                if let (Some(name), Some(types)) = (&edge.variable, &edge.labels) {
                    self.edges.insert(&name.kind.text, types);
                }
            }
            PathFactorKind::Subpath { binding, .. } => self.bind(Some(binding)),
            _ => {}
        }
        visit::walk_path_factor(self, factor);
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        walk_chain(self, expr, |names, expr| match &expr.kind {
            ExprKind::ListComprehension(list) => names.bind(Some(&list.variable)),
            ExprKind::QuantifiedPredicate(all) => names.bind(Some(&all.variable)),
            ExprKind::PatternComprehension(list) => names.bind(list.binding.as_ref()),
            ExprKind::Reduce(reduce) => {
                names.bind(Some(&reduce.accumulator));
                names.bind(Some(&reduce.variable));
            }
            _ => {}
        });
    }
}

impl<'a> Names<'a> {
    /// `WITH row` and `WITH row AS row` leave a name what it is.
    fn projected(&mut self, projection: &'a ProjectionClause) {
        for item in &projection.items {
            if let ProjectionItemKind::Expression { expression, alias: Some(alias) } = &item.kind {
                let same =
                    matches!(&expression.kind, ExprKind::Variable(name) if name.kind.text == alias.kind.text);
                if !same {
                    self.bind(Some(alias));
                }
            }
        }
    }
}
