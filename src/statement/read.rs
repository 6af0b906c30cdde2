//! From the parser's tree to a form: which clauses there are, in which order, about which names.

use open_cypher::Keyword;
use open_cypher::ast::{
    Clause, ClauseKind, Expr, ExprKind, MatchClause, MergeClause, MergeTrigger, Name, PathFactorKind,
    PatternPart, ProjectionItemKind, QueryKind, RelationshipDirection, RelationshipPattern, RemoveItemKind,
    ReturnClause, SetItemKind, StatementKind,
};

use super::form::{Column, Edge, Form, Item, Map, Node, Returned, Subject};
use super::pattern::{self, Ends};
use super::shape::Kind;
use super::tokens::Tokens;
use super::value::value;

/// Tokens that a shape may have at most; more are not even parsed.
const MOST_TOKENS: usize = 2_000;

type Read<T> = Result<T, &'static str>;

/// The form of a text, or why it has none.
pub(super) fn read(text: &str, tokens: &Tokens<'_>) -> Read<Form> {
    if tokens.len() > MOST_TOKENS {
        return Err("it is too long");
    }
    tokens.only_plain()?;
    let parsed = open_cypher::parse(text).map_err(|_| "the parser does not know this form")?;
    let [statement] = parsed.program.statements.as_slice() else { return Err("it is not one statement") };
    let StatementKind::Query(query) = &statement.kind else { return Err("it is not a query") };
    let QueryKind::Regular(regular) = &query.query.kind else { return Err("it is not a query") };
    if query.mode.is_some() || query.terminator.is_some() || !regular.unions.is_empty() {
        return Err("it is more than one plain query");
    }
    let mut reader = Reader { text, names: Vec::new(), own: Subject::Edge };
    reader.form(&regular.head.kind.clauses)
}

struct Reader<'t> {
    text: &'t str,
    /// The variables and what they stand for.
    names: Vec<(Box<str>, Subject)>,
    /// What SET and REMOVE may touch.
    own: Subject,
}

impl Reader<'_> {
    fn form(&mut self, clauses: &[Clause]) -> Read<Form> {
        let matches = clauses.iter().take_while(|clause| matches!(clause.kind, ClauseKind::Match(_))).count();
        let (matches, rest) = clauses.split_at(matches);
        let mut form = Form {
            kind: Kind::NodeUpdate,
            nodes: Vec::new(),
            edge: None,
            on_create: Vec::new(),
            on_match: Vec::new(),
            then: Vec::new(),
            columns: Vec::new(),
        };
        for clause in matches {
            let ClauseKind::Match(clause) = &clause.kind else { return Err("it has an unknown clause") };
            self.matched(clause, &mut form.nodes)?;
        }
        let rest = match (form.nodes.len(), rest) {
            (1, rest) => {
                self.own = Subject::Node(0);
                rest
            }
            (nodes @ (0 | 2), [first, rest @ ..]) => {
                self.own = if nodes == 0 { Subject::Node(0) } else { Subject::Edge };
                self.written(&first.kind, &mut form)?;
                rest
            }
            _ => return Err("it matches more than two nodes"),
        };
        self.after(rest, &mut form)?;
        if form.kind == Kind::NodeUpdate && form.then.is_empty() {
            return Err("its MATCH is not followed by SET or REMOVE");
        }
        Ok(form)
    }

    fn matched(&mut self, clause: &MatchClause, nodes: &mut Vec<Node>) -> Read<()> {
        if clause.optional || clause.mode.is_some() || !clause.hints.is_empty() {
            return Err("its MATCH is optional or has a hint");
        }
        let first = nodes.len();
        for part in &clause.pattern.parts {
            let tree = pattern::lone_node(part)?;
            let name = tree.variable.as_ref().ok_or("its MATCH has a node without a name")?;
            self.name(name, Subject::Node(nodes.len()))?;
            nodes.push(pattern::node(self.text, tree)?);
        }
        if let Some(condition) = &clause.where_clause {
            self.condition(condition, nodes)?;
        }
        for node in &nodes[first..] {
            match &node.properties {
                Map::Entries(entries) if entries.is_empty() => {
                    return Err("its MATCH has a node without a key");
                }
                Map::Entries(_) => {}
                Map::Parameter(_) => return Err("its MATCH takes its key from a map"),
            }
        }
        Ok(())
    }

    /// Equalities of properties with values, joined by AND.
    fn condition(&self, condition: &Expr, nodes: &mut [Node]) -> Read<()> {
        use open_cypher::ast::BinaryOperator::{And, Equal};
        match &condition.kind {
            ExprKind::Parenthesized(inner) => self.condition(inner, nodes),
            ExprKind::Binary { left, operator, right } if operator.kind == And => {
                self.condition(left, nodes)?;
                self.condition(right, nodes)
            }
            ExprKind::Binary { left, operator, right } if operator.kind == Equal => {
                let (subject, key) = self.property(left)?;
                let Subject::Node(at) = subject else { return Err("its WHERE is about a relationship") };
                let value = value(self.text, right)?;
                match nodes.get_mut(at).map(|node| &mut node.properties) {
                    Some(Map::Entries(entries)) => pattern::push(entries, key, value),
                    _ => Err("its WHERE is about an unknown node"),
                }
            }
            _ => Err("its WHERE is more than equalities"),
        }
    }

    /// The clause that creates, merges or begins to change.
    fn written(&mut self, clause: &ClauseKind, form: &mut Form) -> Read<()> {
        let parts = match clause {
            ClauseKind::Create(create) => create.pattern.parts.as_slice(),
            ClauseKind::Merge(merge) => std::slice::from_ref(&merge.pattern),
            _ => return Err("it does not go on with CREATE or MERGE"),
        };
        let [part] = parts else { return Err("it creates more than one thing") };
        let merges = matches!(clause, ClauseKind::Merge(_));
        if form.nodes.is_empty() {
            form.kind = if merges { Kind::NodeMerge } else { Kind::NodeCreate };
            self.new_node(part, form)?;
        } else {
            form.kind = if merges { Kind::RelationshipMerge } else { Kind::RelationshipCreate };
            self.new_edge(part, form)?;
        }
        match clause {
            ClauseKind::Merge(merge) => self.actions(merge, form),
            _ => Ok(()),
        }
    }

    fn new_node(&mut self, part: &PatternPart, form: &mut Form) -> Read<()> {
        let tree = pattern::lone_node(part)?;
        if let Some(name) = &tree.variable {
            self.name(name, Subject::Node(0))?;
        }
        let node = pattern::node(self.text, tree)?;
        let keyed = !node.properties.entries().is_empty();
        if form.kind == Kind::NodeMerge && !keyed {
            return Err("its MERGE has no key");
        }
        form.nodes.push(node);
        Ok(())
    }

    fn new_edge(&mut self, part: &PatternPart, form: &mut Form) -> Read<()> {
        let Ends { left, edge, right } = pattern::edge(part)?;
        let (left, right) = (self.end(left)?, self.end(right)?);
        let (from, to) = match edge.direction.kind {
            RelationshipDirection::Right => (left, right),
            RelationshipDirection::Left => (right, left),
            _ => return Err("its relationship has no direction"),
        };
        if from == to {
            return Err("its relationship begins and ends at one name");
        }
        let RelationshipPattern { variable, labels, properties, .. } = edge;
        if let Some(name) = variable {
            self.name(name, Subject::Edge)?;
        }
        let labels = pattern::labels(labels.as_ref())?;
        let [name] = labels.as_slice() else { return Err("its relationship has not exactly one type") };
        let properties = pattern::described(self.text, properties.as_deref())?;
        if form.kind == Kind::RelationshipMerge && matches!(properties, Map::Parameter(_)) {
            return Err("its MERGE takes its key from a map");
        }
        form.edge = Some(Edge { name: name.clone(), properties, from, to });
        Ok(())
    }

    /// The end of a relationship: a matched node's bare name.
    fn end(&self, factor: &PathFactorKind) -> Read<usize> {
        let PathFactorKind::Node(node) = factor else { return Err("its relationship has an unusual end") };
        if node.labels.is_some() || node.properties.is_some() || node.where_clause.is_some() {
            return Err("its relationship's ends are described twice");
        }
        match node.variable.as_ref().map(|name| self.subject(name)) {
            Some(Ok(Subject::Node(at))) => Ok(at),
            _ => Err("its relationship's end is not a matched node"),
        }
    }

    fn actions(&self, merge: &MergeClause, form: &mut Form) -> Read<()> {
        for action in &merge.actions {
            let items = action.set.items.iter().map(|item| self.set(&item.kind)).collect::<Read<_>>()?;
            match action.trigger.kind {
                MergeTrigger::Create => form.on_create.push(items),
                MergeTrigger::Match => form.on_match.push(items),
                _ => return Err("its MERGE has an unknown action"),
            }
        }
        Ok(())
    }

    /// SET, REMOVE and RETURN.
    fn after(&self, clauses: &[Clause], form: &mut Form) -> Read<()> {
        let (last, clauses) = match clauses {
            [clauses @ .., last] if matches!(last.kind, ClauseKind::Return(_)) => (Some(last), clauses),
            clauses => (None, clauses),
        };
        for clause in clauses {
            let items = match &clause.kind {
                ClauseKind::Set(set) => {
                    set.items.iter().map(|item| self.set(&item.kind)).collect::<Read<_>>()?
                }
                ClauseKind::Remove(remove) => {
                    remove.items.iter().map(|item| self.remove(&item.kind)).collect::<Read<_>>()?
                }
                ClauseKind::Delete(_) => return Err("it deletes"),
                _ => return Err("it has more clauses than one write, SET, REMOVE and RETURN"),
            };
            form.then.push(items);
        }
        if let Some(ClauseKind::Return(clause)) = last.map(|clause| &clause.kind) {
            form.columns = self.columns(clause)?;
        }
        Ok(())
    }

    fn set(&self, item: &SetItemKind) -> Read<Item> {
        Ok(match item {
            SetItemKind::Property { target, value: to } => {
                Item::Set(self.own(target)?, value(self.text, to)?)
            }
            SetItemKind::MergeProperties { target, value } => {
                self.mine(target)?;
                Item::Merge(pattern::properties(self.text, Some(value))?)
            }
            SetItemKind::ReplaceProperties { target, value } => {
                self.mine(target)?;
                Item::Replace(pattern::properties(self.text, Some(value))?)
            }
            SetItemKind::Labels { target, labels } => {
                self.mine_is_node(target)?;
                Item::Labels(pattern::labels(Some(labels))?)
            }
            _ => return Err("its SET has an unknown form"),
        })
    }

    fn remove(&self, item: &RemoveItemKind) -> Read<Item> {
        Ok(match item {
            RemoveItemKind::Property(target) => Item::Remove(self.own(target)?),
            RemoveItemKind::Labels { target, labels } => {
                self.mine_is_node(target)?;
                Item::RemoveLabels(pattern::labels(Some(labels))?)
            }
            _ => return Err("its REMOVE has an unknown form"),
        })
    }

    fn columns(&self, clause: &ReturnClause) -> Read<Vec<Column>> {
        let projection = &clause.projection;
        let ordered =
            projection.order_by.is_some() || projection.skip.is_some() || projection.offset.is_some();
        if projection.quantifier.is_some() || ordered || projection.limit.is_some() {
            return Err("its RETURN sorts, cuts or folds rows");
        }
        let mut columns: Vec<Column> = Vec::new();
        for item in &projection.items {
            let ProjectionItemKind::Expression { expression, alias } = &item.kind else {
                return Err("its RETURN has a wildcard");
            };
            let name: Box<str> = match alias {
                Some(alias) => pattern::text(alias)?,
                None => expression.span.text(self.text).ok_or("a column has no source")?.into(),
            };
            if columns.iter().any(|column| column.name == name) {
                return Err("its RETURN has one name twice");
            }
            columns.push(Column { name, value: self.returned(expression)? });
        }
        Ok(columns)
    }

    fn returned(&self, expression: &Expr) -> Read<Returned> {
        if let ExprKind::Function(call) = &expression.kind
            && let [Expr { kind: ExprKind::Variable(variable), .. }] = call.arguments.as_slice()
        {
            let subject = self.subject(variable)?;
            let [name] = call.name.parts.as_slice() else {
                return Err("its RETURN calls a function of a library");
            };
            let functions: &[&str] =
                if subject == Subject::Edge { &["elementId", "id", "type"] } else { &["elementId", "id"] };
            let known = functions.iter().find(|known| known.eq_ignore_ascii_case(&name.kind.text));
            return match known {
                Some(known) if !name.kind.escaped && call.quantifier.is_none() => {
                    Ok(Returned::Of(known, subject))
                }
                _ => Err("its RETURN calls a function"),
            };
        }
        if let Ok((subject, key)) = self.property(expression) {
            return Ok(Returned::Property(subject, key));
        }
        value(self.text, expression).map(Returned::Value).map_err(|_| "its RETURN has more than plain values")
    }

    /// `n.x` of any known name.
    fn property(&self, expression: &Expr) -> Read<(Subject, Box<str>)> {
        match &expression.kind {
            ExprKind::Property { expression, key } => match &expression.kind {
                ExprKind::Variable(name) => Ok((self.subject(name)?, pattern::text(key)?)),
                _ => Err("it has more than a property of a name"),
            },
            _ => Err("it has more than a property of a name"),
        }
    }

    /// `n.x` of what is written.
    fn own(&self, target: &Expr) -> Read<Box<str>> {
        let (subject, key) = self.property(target)?;
        if subject == self.own { Ok(key) } else { Err(NOT_OWN) }
    }

    fn mine(&self, target: &Name) -> Read<()> {
        if self.subject(target)? == self.own { Ok(()) } else { Err(NOT_OWN) }
    }

    fn mine_is_node(&self, target: &Name) -> Read<()> {
        self.mine(target)?;
        if self.own == Subject::Edge { Err("it sets a label of a relationship") } else { Ok(()) }
    }

    fn name(&mut self, name: &Name, subject: Subject) -> Read<()> {
        let text = pattern::text(name)?;
        if !name.kind.escaped && Keyword::from_ascii_case_insensitive(&text).is_some() {
            return Err("a name is a keyword");
        }
        if self.names.iter().any(|(known, _)| *known == text) {
            return Err("a name stands for two things");
        }
        self.names.push((text, subject));
        Ok(())
    }

    fn subject(&self, name: &Name) -> Read<Subject> {
        let found = self.names.iter().find(|(known, _)| **known == *name.kind.text);
        found.map(|(_, subject)| *subject).ok_or("a name stands for nothing")
    }
}

const NOT_OWN: &str = "it changes something else than what it writes";
