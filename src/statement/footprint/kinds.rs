//! What the names of a text may stand for: plain values, nodes and relationships, or maps that have some in them.

use std::collections::HashMap;

use open_cypher::ast::visit::{self, Visitor};
use open_cypher::ast::{
    BinaryOperator, Clause, ClauseKind, Expr, ExprKind, Name, NodePattern, PathFactor, PathFactorKind,
    PatternPart, ProjectionClause, ProjectionItemKind, Query, QueryKind, SubqueryExpressionKind,
};

use super::functions::{self, Use};

/// What a value may be, from the least to the most.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Kind {
    /// Neither a node nor a relationship, nor anything with one in it.
    #[default]
    Plain,
    /// A node, a relationship, a path, or a list of such: a property of it is plain.
    Graph,
    /// Anything, such as a map with a node in it.
    Any,
}

/// How often a text is gone through at most until no name stands for more than was known.
const MOST_ROUNDS: usize = 8;

/// What each name of a text may stand for, wherever it stands.
#[derive(Debug, Default)]
pub(super) struct Kinds<'a> {
    names: HashMap<&'a str, Kind>,
    grown: bool,
    /// What a name is that nothing in the text defines, as far as it was gone through.
    unknown: Kind,
    /// True if the end was not reached, and every name may be anything.
    lost: bool,
    /// True if a name is such as `is_odd` tells.
    pub(super) is_odd: bool,
}

impl<'a> Kinds<'a> {
    pub(super) fn of(queries: &'a [Query]) -> Self {
        let mut kinds = Self::default();
        for _ in 0..MOST_ROUNDS {
            kinds.grown = false;
            queries.iter().for_each(|query| kinds.visit_query(query));
            if !kinds.grown && kinds.unknown == Kind::Any {
                return kinds;
            }
            // Once all definitions are known, a name without one may be anything.
            if !kinds.grown {
                kinds.unknown = Kind::Any;
            }
        }
        kinds.lost = true;
        kinds
    }

    /// The most that any name may be.
    pub(super) fn most(&self) -> Kind {
        if self.lost { Kind::Any } else { self.names.values().copied().max().unwrap_or_default() }
    }

    pub(super) fn name(&self, name: &Name) -> Kind {
        match self.names.get(name.kind.text.as_str()) {
            _ if self.lost => Kind::Any,
            Some(kind) => *kind,
            None => self.unknown,
        }
    }

    /// What an expression may be.
    pub(super) fn of_expr(&self, expr: &Expr) -> Kind {
        match &expr.kind {
            ExprKind::Variable(name) => self.name(name),
            ExprKind::Parenthesized(inner) => self.of_expr(inner),
            ExprKind::Literal(_)
            | ExprKind::Parameter(_)
            | ExprKind::Wildcard
            | ExprKind::Unary { .. }
            | ExprKind::Is { .. }
            | ExprKind::QuantifiedPredicate(_) => Kind::Plain,
            ExprKind::List(items) => self.most_of(items),
            ExprKind::Map(entries) => self.inside(entries.iter().map(|entry| &entry.value)),
            ExprKind::MapProjection(projection) => {
                // Entries of a projected map may be nodes.
                if self.of_expr(&projection.base) == Kind::Any {
                    Kind::Any
                } else {
                    self.projected(projection)
                }
            }
            ExprKind::Binary { .. } => self.binary(expr),
            ExprKind::Property { expression, .. } => match self.of_expr(expression) {
                Kind::Any => Kind::Any,
                _ => Kind::Plain,
            },
            ExprKind::DynamicProperty { expression, .. }
            | ExprKind::Index { expression, .. }
            | ExprKind::Slice { expression, .. } => self.of_expr(expression),
            ExprKind::Function(call) => match functions::usage(&functions::name(call)) {
                Use::Blind | Use::Labels | Use::Properties => Kind::Plain,
                Use::Give => Kind::Graph.max(self.most_of(&call.arguments)),
                Use::Carry | Use::Open => self.most_of(&call.arguments),
            },
            ExprKind::Case(case) => {
                let thens = case.alternatives.iter().map(|alternative| &alternative.then);
                self.join(thens.chain(case.else_expression.as_deref()))
            }
            ExprKind::ListComprehension(list) => {
                self.of_expr(list.projection.as_deref().unwrap_or(&list.list))
            }
            ExprKind::PatternComprehension(list) => self.of_expr(&list.projection),
            ExprKind::Reduce(reduce) => self.join([&*reduce.initial, &*reduce.expression]),
            ExprKind::Subquery(subquery) => match subquery.kind.kind {
                SubqueryExpressionKind::Exists | SubqueryExpressionKind::Count => Kind::Plain,
                _ => self.collected(&subquery.query),
            },
            ExprKind::Pattern(_) => Kind::Graph,
            _ => Kind::Any,
        }
    }

    fn projected(&self, projection: &open_cypher::ast::MapProjection) -> Kind {
        use open_cypher::ast::MapProjectionItemKind::{AllProperties, Entry, Property, Variable};
        let kinds = projection.items.iter().map(|item| match &item.kind {
            Property(_) | AllProperties => Kind::Plain,
            Variable(name) => self.name(name),
            Entry(entry) => self.of_expr(&entry.value),
            _ => Kind::Any,
        });
        kinds.max().map_or(Kind::Plain, within)
    }

    /// Lists can be joined; everything else that is computed is plain. Long sums are gone through without recursion.
    fn binary(&self, expr: &Expr) -> Kind {
        let mut most = Kind::Plain;
        let mut at = expr;
        while let ExprKind::Binary { left, operator, right } = &at.kind {
            if !matches!(operator.kind, BinaryOperator::Add | BinaryOperator::Concat) {
                return most;
            }
            most = most.max(self.of_expr(right));
            at = left;
        }
        most.max(self.of_expr(at))
    }

    fn join<'e>(&self, exprs: impl IntoIterator<Item = &'e Expr>) -> Kind {
        exprs.into_iter().map(|expr| self.of_expr(expr)).max().unwrap_or_default()
    }

    fn most_of(&self, exprs: &[Expr]) -> Kind {
        self.join(exprs)
    }

    fn inside<'e>(&self, exprs: impl IntoIterator<Item = &'e Expr>) -> Kind {
        within(self.join(exprs))
    }

    /// What `COLLECT { … }` gathers.
    fn collected(&self, query: &Query) -> Kind {
        let QueryKind::Regular(regular) = &query.kind else { return Kind::Any };
        let branches = std::iter::once(&regular.head).chain(regular.unions.iter().map(|union| &union.query));
        let kinds = branches.map(|branch| match branch.kind.clauses.last().map(|clause| &clause.kind) {
            Some(ClauseKind::Return(clause)) => self.of_projection(&clause.projection),
            _ => Kind::Any,
        });
        kinds.max().unwrap_or(Kind::Any)
    }

    /// The most of all columns.
    pub(super) fn of_projection(&self, projection: &ProjectionClause) -> Kind {
        let kinds = projection.items.iter().map(|item| match &item.kind {
            ProjectionItemKind::Expression { expression, .. } => self.of_expr(expression),
            _ => self.most(),
        });
        kinds.max().unwrap_or_default()
    }

    fn bind(&mut self, name: &'a Name, kind: Kind) {
        self.is_odd |= is_odd(name);
        let known = self.names.get(name.kind.text.as_str()).copied();
        if known.is_none_or(|known| known < kind) {
            self.names.insert(&name.kind.text, kind);
            self.grown = true;
        }
    }

    fn bind_projection(&mut self, projection: &'a ProjectionClause) {
        for item in &projection.items {
            if let ProjectionItemKind::Expression { expression, alias: Some(alias) } = &item.kind {
                self.bind(alias, self.of_expr(expression));
            }
        }
    }
}

/// What a map of such values is.
fn within(kind: Kind) -> Kind {
    if kind == Kind::Plain { Kind::Plain } else { Kind::Any }
}

impl<'a> Visitor<'a> for Kinds<'a> {
    fn visit_clause(&mut self, clause: &'a Clause) {
        match &clause.kind {
            ClauseKind::Unwind(unwind) => self.bind(&unwind.variable, self.of_expr(&unwind.expression)),
            ClauseKind::Let(bindings) => {
                for binding in &bindings.bindings {
                    self.bind(&binding.variable, self.of_expr(&binding.expression));
                }
            }
            ClauseKind::LoadCsv(load) => self.bind(&load.variable, Kind::Plain),
            _ => {}
        }
        visit::walk_clause(self, clause);
        match &clause.kind {
            ClauseKind::With(with) => self.bind_projection(&with.projection),
            ClauseKind::Return(clause) => self.bind_projection(&clause.projection),
            _ => {}
        }
    }

    fn visit_pattern_part(&mut self, part: &'a PatternPart) {
        if let Some(name) = &part.kind.binding {
            self.bind(name, Kind::Graph);
        }
        visit::walk_pattern_part(self, part);
    }

    fn visit_path_factor(&mut self, factor: &'a PathFactor) {
        let name = match &factor.kind {
            PathFactorKind::Node(NodePattern { variable, .. })
            | PathFactorKind::QuantifiedNode { pattern: NodePattern { variable, .. }, .. } => {
                variable.as_ref()
            }
            PathFactorKind::Relationship(edge) => edge.variable.as_ref(),
            PathFactorKind::Subpath { binding, .. } => Some(binding),
            _ => None,
        };
        if let Some(name) = name {
            self.bind(name, Kind::Graph);
        }
        visit::walk_path_factor(self, factor);
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        walk_chain(self, expr, |kinds, expr| match &expr.kind {
            ExprKind::ListComprehension(list) => kinds.bind(&list.variable, kinds.of_expr(&list.list)),
            ExprKind::QuantifiedPredicate(all) => kinds.bind(&all.variable, kinds.of_expr(&all.list)),
            ExprKind::Reduce(reduce) => {
                kinds.bind(&reduce.variable, kinds.of_expr(&reduce.list));
                kinds.bind(&reduce.accumulator, kinds.of_expr(&reduce.initial));
                kinds.bind(&reduce.accumulator, kinds.of_expr(&reduce.expression));
            }
            ExprKind::PatternComprehension(list) => {
                if let Some(name) = &list.binding {
                    kinds.bind(name, Kind::Graph);
                }
            }
            _ => {}
        });
    }
}

/// True for a variable with the name of a clause: the parser tries that when it does not understand a text, and perhaps it is
/// a clause.
pub(super) fn is_odd(name: &Name) -> bool {
    !name.kind.escaped && CLAUSES.iter().any(|word| word.eq_ignore_ascii_case(&name.kind.text))
}

const CLAUSES: [&str; 25] = [
    "CALL", "CASE", "CREATE", "DELETE", "DETACH", "ELSE", "EXISTS", "FINISH", "FOREACH", "INSERT", "LOAD",
    "MATCH", "MERGE", "ON", "OPTIONAL", "REMOVE", "RETURN", "SET", "THEN", "UNION", "UNWIND", "WHEN",
    "WHERE", "WITH", "YIELD",
];

/// Goes through an expression; what a long chain hangs on is followed without recursion.
pub(super) fn walk_chain<'a, V: Visitor<'a>>(
    visitor: &mut V,
    expr: &'a Expr,
    mut look: impl FnMut(&mut V, &'a Expr),
) {
    let mut at = expr;
    loop {
        look(visitor, at);
        let Some((inner, other)) = step(at) else { return visit::walk_expr(visitor, at) };
        if let Some(other) = other {
            visitor.visit_expr(other);
        }
        at = inner;
    }
}

/// The operand of which a long chain can hang, and the other one.
fn step(expr: &Expr) -> Option<(&Expr, Option<&Expr>)> {
    match &expr.kind {
        ExprKind::Binary { left, right, .. } => Some((left, Some(right))),
        ExprKind::Unary { operand, .. } | ExprKind::Parenthesized(operand) => Some((operand, None)),
        ExprKind::Property { expression, .. } => Some((expression, None)),
        ExprKind::Index { expression, index } => Some((expression, Some(index))),
        _ => None,
    }
}
