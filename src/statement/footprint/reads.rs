//! What the answer to a text depends on, and whether it may be kept.

use open_cypher::ast::visit::{self, Visitor};
use open_cypher::ast::{
    CallTarget, Clause, ClauseKind, Expr, ExprKind, LabelExpression, LabelExpressionKind, LiteralKind,
    MapProjection, MapProjectionItemKind, NodePattern, PathFactor, PathFactorKind, PathPattern, PatternPart,
    Quantifier, QuantifierKind, Query, QueryKind, RelationshipPattern, UnaryOperator,
};

use super::functions::{self, Use};
use super::kinds::{Kind, Kinds, is_odd, walk_chain};
use super::mark::{Mark, Marks};
use crate::statement::form::Path;

/// What was found in a text.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) marks: Marks,
    /// Why an answer may not be kept.
    pub(super) refusal: Option<&'static str>,
    /// Parameters that must not be maps: what they are given to would tell the time of the call then.
    pub(super) moments: Vec<Path>,
    /// True if a clause writes, or nobody knows what it does.
    pub(super) writes: bool,
}

/// Goes through a text; the first query is the one that answers.
pub(super) fn find(queries: &[Query]) -> Found {
    let kinds = Kinds::of(queries);
    let found = Found { marks: Marks::default(), refusal: None, moments: Vec::new(), writes: false };
    let mut reader = Reader { kinds: &kinds, found };
    queries.iter().for_each(|query| reader.visit_query(query));
    queries.iter().take(1).for_each(|query| reader.answer(query));
    if kinds.is_odd {
        reader.unknown();
    }
    reader.found
}

struct Reader<'a> {
    kinds: &'a Kinds<'a>,
    found: Found,
}

impl Reader<'_> {
    fn refuse(&mut self, reason: &'static str) {
        self.found.refusal.get_or_insert(reason);
    }

    /// A clause or a form that is not known: it may do anything.
    fn unknown(&mut self) {
        self.found.writes = true;
        self.refuse("it has a form that is not known");
    }

    /// Whole nodes in the answer show all that they carry.
    fn answer(&mut self, query: &Query) {
        let QueryKind::Regular(regular) = &query.kind else { return self.unknown() };
        let branches = std::iter::once(&regular.head).chain(regular.unions.iter().map(|union| &union.query));
        for branch in branches {
            if let Some(ClauseKind::Return(clause)) = branch.kind.clauses.last().map(|clause| &clause.kind)
                && self.kinds.of_projection(&clause.projection) != Kind::Plain
            {
                self.found.marks.read_whole();
            }
        }
    }

    fn look(&mut self, expr: &Expr) {
        match &expr.kind {
            ExprKind::Property { expression, key } if self.kinds.of_expr(expression) != Kind::Plain => {
                self.found.marks.read_key(&key.kind.text);
            }
            ExprKind::DynamicProperty { expression, .. } if self.kinds.of_expr(expression) != Kind::Plain => {
                self.found.marks.add(Mark::AnyKey);
            }
            ExprKind::Index { expression, index }
                if !is_number(index) && self.kinds.of_expr(expression) != Kind::Plain =>
            {
                self.found.marks.add(Mark::AnyKey);
            }
            ExprKind::MapProjection(projection) => self.projection(projection),
            ExprKind::Function(call) => {
                match functions::judge(call, self.kinds) {
                    Ok(moment) => self.found.moments.extend(moment),
                    Err(reason) => self.refuse(reason),
                }
                let usage = functions::usage(&functions::name(call));
                let plain = call.arguments.iter().all(|argument| self.kinds.of_expr(argument) == Kind::Plain);
                match usage {
                    Use::Labels => self.found.marks.add(Mark::AnyLabel),
                    Use::Properties if !plain => self.found.marks.add(Mark::AnyKey),
                    Use::Open if !plain => self.found.marks.read_whole(),
                    _ => {}
                }
            }
            ExprKind::Error(_) => self.unknown(),
            ExprKind::Variable(name) if is_odd(name) => self.unknown(),
            _ => {}
        }
    }

    fn projection(&mut self, projection: &MapProjection) {
        if self.kinds.of_expr(&projection.base) == Kind::Plain {
            return;
        }
        for item in &projection.items {
            match &item.kind {
                MapProjectionItemKind::Property(key) => self.found.marks.read_key(&key.kind.text),
                MapProjectionItemKind::AllProperties => self.found.marks.add(Mark::AnyKey),
                _ => {}
            }
        }
    }

    /// The keys of a pattern's properties.
    fn described(&mut self, properties: Option<&Expr>) {
        match properties.map(|properties| &properties.kind) {
            None => {}
            Some(ExprKind::Map(entries)) => {
                entries.iter().for_each(|entry| self.found.marks.read_key(&entry.key.kind.text));
            }
            Some(_) => self.found.marks.add(Mark::AnyKey),
        }
    }

    fn relationship(&mut self, edge: &RelationshipPattern) {
        match &edge.labels {
            Some(types) if is_named(types) => {
                for name in names(types).0 {
                    self.found.marks.read_type(name);
                }
            }
            _ => self.found.marks.add(Mark::AnyType),
        }
        self.described(edge.properties.as_deref());
        if let Some(properties) = &edge.properties {
            self.visit_expr(properties);
        }
        if let Some(condition) = &edge.where_clause {
            self.visit_expr(condition);
        }
    }
}

impl<'a> Visitor<'a> for Reader<'_> {
    fn visit_clause(&mut self, clause: &'a Clause) {
        match &clause.kind {
            ClauseKind::Create(_)
            | ClauseKind::Insert(_)
            | ClauseKind::Merge(_)
            | ClauseKind::Delete(_)
            | ClauseKind::Set(_)
            | ClauseKind::Remove(_)
            | ClauseKind::Foreach(_) => {
                self.found.writes = true;
                self.refuse("it writes");
            }
            ClauseKind::Call(call) => {
                self.found.writes = true;
                match &call.target {
                    CallTarget::Procedure { .. } => self.refuse("it calls a procedure"),
                    _ => self.unknown(),
                }
            }
            ClauseKind::LoadCsv(_) => self.refuse("it loads a file"),
            ClauseKind::Match(_)
            | ClauseKind::Unwind(_)
            | ClauseKind::With(_)
            | ClauseKind::Return(_)
            | ClauseKind::Finish => {}
            _ => self.unknown(),
        }
        visit::walk_clause(self, clause);
    }

    fn visit_pattern_part(&mut self, part: &'a PatternPart) {
        if !is_anchored(&part.kind.path) {
            self.found.marks.add(Mark::AnyNode);
        }
        visit::walk_pattern_part(self, part);
    }

    fn visit_path_factor(&mut self, factor: &'a PathFactor) {
        match &factor.kind {
            PathFactorKind::Relationship(edge) => return self.relationship(edge),
            PathFactorKind::Node(NodePattern { properties, .. })
            | PathFactorKind::QuantifiedNode { pattern: NodePattern { properties, .. }, .. } => {
                self.described(properties.as_deref());
            }
            PathFactorKind::Parenthesized { .. }
            | PathFactorKind::Subpath { .. }
            | PathFactorKind::LegacyShortest { .. } => {}
            _ => self.unknown(),
        }
        visit::walk_path_factor(self, factor);
    }

    /// Labels of nodes; types of relationships do not come here, but in a predicate, where they cannot change.
    fn visit_label_expression(&mut self, labels: &'a LabelExpression) {
        let (names, whole) = names(labels);
        names.into_iter().for_each(|name| self.found.marks.read_label(name));
        match whole {
            Whole::Named => {}
            Whole::Wild => self.found.marks.add(Mark::AnyLabel),
            Whole::Unknown => self.unknown(),
        }
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        walk_chain(self, expr, |reader, expr| reader.look(expr));
    }

    fn visit_error(&mut self, _: open_cypher::Span) {
        self.unknown();
    }
}

/// What else than names a label expression has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Whole {
    Named,
    Wild,
    Unknown,
}

/// All names in a label expression.
pub(super) fn names(labels: &LabelExpression) -> (Vec<&str>, Whole) {
    let (mut names, mut whole) = (Vec::new(), Whole::Named);
    let mut open = vec![labels];
    while let Some(labels) = open.pop() {
        match &labels.kind {
            LabelExpressionKind::Name(name) => names.push(name.kind.text.as_str()),
            LabelExpressionKind::Wildcard if whole == Whole::Named => whole = Whole::Wild,
            LabelExpressionKind::Wildcard => {}
            LabelExpressionKind::Not(inner) | LabelExpressionKind::Parenthesized(inner) => open.push(inner),
            LabelExpressionKind::And(parts) | LabelExpressionKind::Or(parts) => open.extend(parts),
            _ => whole = Whole::Unknown,
        }
    }
    (names, whole)
}

/// True if whatever has these labels has one of those that are named without a negation.
fn is_named(labels: &LabelExpression) -> bool {
    match &labels.kind {
        LabelExpressionKind::Name(_) => true,
        LabelExpressionKind::Parenthesized(inner) => is_named(inner),
        // Chains hang on the first part.
        LabelExpressionKind::And(parts) => parts.iter().any(is_named),
        LabelExpressionKind::Or(parts) => parts.iter().all(is_named),
        _ => false,
    }
}

/// True if a path has something in it that a new node without labels and relationships is not.
fn is_anchored(path: &PathPattern) -> bool {
    path.kind.factors.iter().any(|factor| match &factor.kind {
        PathFactorKind::Node(node) => node.labels.as_ref().is_some_and(is_named),
        PathFactorKind::Relationship(edge) => {
            !edge.legacy_quantifier.as_ref().is_some_and(|quantifier| may_be_zero(quantifier, true))
                && !edge.graph_quantifier.as_ref().is_some_and(|quantifier| may_be_zero(quantifier, false))
        }
        PathFactorKind::Parenthesized { pattern, quantifier, .. }
        | PathFactorKind::Subpath { pattern, quantifier, .. } => {
            !quantifier.as_ref().is_some_and(|quantifier| may_be_zero(quantifier, false))
                && is_anchored(pattern)
        }
        PathFactorKind::LegacyShortest { pattern, .. } => is_anchored(pattern),
        _ => false,
    })
}

/// True if a quantifier allows no step at all. The old ones begin at one.
fn may_be_zero(quantifier: &Quantifier, old: bool) -> bool {
    let is_zero = |text: &String| !text.bytes().any(|digit| matches!(digit, b'1'..=b'9'));
    match &quantifier.kind {
        QuantifierKind::OneOrMore => false,
        QuantifierKind::ZeroOrMore => !old,
        QuantifierKind::Fixed(times) => is_zero(times),
        QuantifierKind::Range { lower: Some(lower), .. } => is_zero(lower),
        QuantifierKind::Range { lower: None, .. } => !old,
        _ => true,
    }
}

/// True for a whole number as it is written: what has places, not properties.
fn is_number(index: &Expr) -> bool {
    match &index.kind {
        ExprKind::Literal(literal) => matches!(literal.kind, LiteralKind::Integer(_)),
        ExprKind::Unary { operator, operand } => {
            matches!(operator.kind, UnaryOperator::Minus | UnaryOperator::Plus) && is_number(operand)
        }
        _ => false,
    }
}
