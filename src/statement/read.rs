//! From the parser's tree to a form: which clauses there are, in which order, about which names.

use open_cypher::Keyword;
use open_cypher::ast::{
    Clause, ClauseKind, Expr, ExprKind, MatchClause, MergeClause, MergeTrigger, Name, Node as Tree,
    NodePattern, PathFactorKind, PatternPart, ProjectionItemKind, QueryKind, RelationshipDirection,
    RelationshipPattern, RemoveItemKind, ReturnClause, SetItemKind, StatementKind,
};

use super::form::{Column, Edge, Element, Form, Item, Map, Node, Part, Returned, Subject, Verb};
use super::pattern::{self, Ends};
use super::shape::Kind;
use super::tokens::Tokens;
use super::value::{assigned, value};

/// Tokens that a shape may have at most; more are not even parsed.
const MOST_TOKENS: usize = 2_000;
/// Nodes and relationships that a shape may have at most.
const MOST_PARTS: usize = 8;

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
    Reader { text, names: Vec::new(), parts: Vec::new() }.form(&regular.head.kind.clauses)
}

struct Reader<'t> {
    text: &'t str,
    /// The variables and what they stand for.
    names: Vec<(Box<str>, Subject)>,
    parts: Vec<Part>,
}

impl Reader<'_> {
    fn form(mut self, clauses: &[Clause]) -> Read<Form> {
        let mut columns = Vec::new();
        for (at, clause) in clauses.iter().enumerate() {
            match &clause.kind {
                ClauseKind::Match(clause) => self.matched(clause)?,
                ClauseKind::Create(create) => self.written(Verb::Create, &create.pattern.parts)?,
                ClauseKind::Merge(merge) => {
                    self.written(Verb::Merge, std::slice::from_ref(&merge.pattern))?;
                    self.actions(merge)?;
                }
                ClauseKind::Set(set) => self.change(&set.items, Self::set)?,
                ClauseKind::Remove(remove) => self.change(&remove.items, Self::remove)?,
                ClauseKind::Return(clause) if at + 1 == clauses.len() => columns = self.columns(clause)?,
                ClauseKind::Delete(_) => return Err("it deletes"),
                _ => return Err("it has more than MATCH, MERGE, CREATE, SET, REMOVE and RETURN"),
            }
        }
        if self.parts.len() > MOST_PARTS {
            return Err("it writes too many things");
        }
        let kind = self.kind()?;
        Ok(Form { kind, parts: self.parts, columns })
    }

    fn kind(&self) -> Read<Kind> {
        let written = |part: &&Part| part.verb != Verb::Match;
        let edge = self.parts.iter().rfind(|part| part.is_edge());
        match edge.or_else(|| self.parts.iter().rfind(written)) {
            Some(part) => Ok(match (part.verb, part.is_edge()) {
                (Verb::Create, true) => Kind::RelationshipCreate,
                (_, true) => Kind::RelationshipMerge,
                (Verb::Create, false) => Kind::NodeCreate,
                (_, false) => Kind::NodeMerge,
            }),
            None if self.parts.iter().any(|part| !part.then.is_empty()) => Ok(Kind::NodeUpdate),
            None => Err("it changes nothing"),
        }
    }

    fn matched(&mut self, clause: &MatchClause) -> Read<()> {
        if clause.optional || clause.mode.is_some() || !clause.hints.is_empty() {
            return Err("its MATCH is optional or has a hint");
        }
        if self.parts.iter().any(|part| part.verb != Verb::Match || !part.then.is_empty()) {
            return Err("it matches after it has written");
        }
        let first = self.parts.len();
        for part in &clause.pattern.parts {
            let tree = pattern::lone_node(part)?;
            if tree.variable.is_none() {
                return Err("its MATCH has a node without a name");
            }
            self.node(Verb::Match, tree)?;
        }
        if let Some(condition) = &clause.where_clause {
            self.condition(condition)?;
        }
        for part in &self.parts[first..] {
            match part.properties() {
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
    fn condition(&mut self, condition: &Expr) -> Read<()> {
        use open_cypher::ast::BinaryOperator::{And, Equal};
        match &condition.kind {
            ExprKind::Parenthesized(inner) => self.condition(inner),
            ExprKind::Binary { left, operator, right } if operator.kind == And => {
                self.condition(left)?;
                self.condition(right)
            }
            ExprKind::Binary { left, operator, right } if operator.kind == Equal => {
                let (subject, key) = self.property(left)?;
                let value = value(self.text, right)?;
                let part = self.parts.iter_mut().find(|part| part.subject == subject);
                match part.map(|part| &mut part.element) {
                    Some(Element::Node(Node { properties: Map::Entries(entries), .. })) => {
                        pattern::push(entries, key, value)
                    }
                    _ => Err("its WHERE is about an unknown node"),
                }
            }
            _ => Err("its WHERE is more than equalities"),
        }
    }

    /// What CREATE and MERGE write.
    fn written(&mut self, verb: Verb, parts: &[PatternPart]) -> Read<()> {
        for part in parts {
            match pattern::lone_node(part) {
                Ok(node) => {
                    let subject = self.node(verb, node)?;
                    let keyed =
                        self.parts.iter().any(|part| part.subject == subject && !part.key().is_empty());
                    if verb == Verb::Merge && !keyed {
                        return Err("its MERGE has no key");
                    }
                }
                Err(_) => self.edge(verb, pattern::edge(part)?)?,
            }
        }
        Ok(())
    }

    fn node(&mut self, verb: Verb, tree: &NodePattern) -> Read<Subject> {
        let subject = Subject::Node(self.parts.len());
        let node = pattern::node(self.text, tree)?;
        if let Some(name) = &tree.variable {
            self.name(name, subject)?;
        }
        self.push(verb, Element::Node(node), subject);
        Ok(subject)
    }

    fn push(&mut self, verb: Verb, element: Element, subject: Subject) {
        let (on_create, on_match, then) = (Vec::new(), Vec::new(), Vec::new());
        self.parts.push(Part { verb, element, subject, on_create, on_match, then, then_of: subject });
    }

    fn edge(&mut self, verb: Verb, ends: Ends<'_>) -> Read<()> {
        let Ends { left, edge, right } = ends;
        let (left, right) = (self.end(verb, left)?, self.end(verb, right)?);
        let (from, to) = match edge.direction.kind {
            RelationshipDirection::Right => (left, right),
            RelationshipDirection::Left => (right, left),
            _ => return Err("its relationship has no direction"),
        };
        if from == to {
            return Err("its relationship begins and ends at one name");
        }
        let RelationshipPattern { variable, labels, properties, .. } = edge;
        let subject = Subject::Edge(self.parts.len());
        if let Some(name) = variable {
            self.name(name, subject)?;
        }
        let labels = pattern::labels(labels.as_ref())?;
        let [name] = labels.as_slice() else { return Err("its relationship has not exactly one type") };
        let properties = pattern::described(self.text, properties.as_deref())?;
        if verb == Verb::Merge && matches!(properties, Map::Parameter(_)) {
            return Err("its MERGE takes its key from a map");
        }
        self.push(verb, Element::Edge(Edge { name: name.clone(), properties, from, to }), subject);
        Ok(())
    }

    /// The end of a relationship: a known node's bare name, or a node that is created with it.
    fn end(&mut self, verb: Verb, factor: &PathFactorKind) -> Read<Subject> {
        let PathFactorKind::Node(node) = factor else { return Err("its relationship has an unusual end") };
        match node.variable.as_ref().map(|name| self.subject(name)) {
            Some(Ok(known))
                if node.labels.is_none() && node.properties.is_none() && node.where_clause.is_none() =>
            {
                Ok(known)
            }
            Some(Ok(_)) => Err("its relationship's end is described twice"),
            _ if verb == Verb::Create => self.node(verb, node),
            _ => Err("its relationship's end is not a known node"),
        }
    }

    fn actions(&mut self, merge: &MergeClause) -> Read<()> {
        let Some(own) = self.parts.last().map(|part| part.subject) else { return Ok(()) };
        for action in &merge.actions {
            let items: Vec<Item> = action
                .set
                .items
                .iter()
                .map(|item| match self.set(&item.kind)? {
                    (subject, item) if subject == own => Ok(item),
                    _ => Err("its MERGE changes something else than what it merges"),
                })
                .collect::<Read<_>>()?;
            let Some(part) = self.parts.last_mut() else { continue };
            match action.trigger.kind {
                MergeTrigger::Create => part.on_create.push(items),
                MergeTrigger::Match => part.on_match.push(items),
                _ => return Err("its MERGE has an unknown action"),
            }
        }
        Ok(())
    }

    /// A clause of SET or REMOVE: it, and those beside it, are about one thing.
    fn change<T>(
        &mut self,
        items: &[Tree<T>],
        read: impl Fn(&Self, &T) -> Read<(Subject, Item)>,
    ) -> Read<()> {
        let mut of = None;
        let mut list = Vec::new();
        for item in items {
            let (subject, item) = read(self, &item.kind)?;
            if of.replace(subject).is_some_and(|known| known != subject) {
                return Err("one SET or REMOVE changes two things");
            }
            list.push(item);
        }
        match (self.parts.last_mut(), of) {
            (Some(part), Some(subject)) if part.then.is_empty() || part.then_of == subject => {
                part.then_of = subject;
                part.then.push(list);
                Ok(())
            }
            _ => Err("its SET and REMOVE change two things in a row"),
        }
    }

    fn set(&self, item: &SetItemKind) -> Read<(Subject, Item)> {
        Ok(match item {
            SetItemKind::Property { target, value } => {
                let (subject, key) = self.property(target)?;
                let is_target =
                    |other: &Expr| self.property(other).is_ok_and(|other| other == (subject, key.clone()));
                let value = assigned(self.text, value, &is_target)?;
                (subject, Item::Set(key, value))
            }
            SetItemKind::MergeProperties { target, value } => {
                (self.subject(target)?, Item::Merge(pattern::properties(self.text, Some(value))?))
            }
            SetItemKind::ReplaceProperties { target, value } => {
                (self.subject(target)?, Item::Replace(pattern::properties(self.text, Some(value))?))
            }
            SetItemKind::Labels { target, labels } => {
                (self.labelled(target)?, Item::Labels(pattern::labels(Some(labels))?))
            }
            _ => return Err("its SET has an unknown form"),
        })
    }

    fn remove(&self, item: &RemoveItemKind) -> Read<(Subject, Item)> {
        Ok(match item {
            RemoveItemKind::Property(target) => {
                let (subject, key) = self.property(target)?;
                (subject, Item::Remove(key))
            }
            RemoveItemKind::Labels { target, labels } => {
                (self.labelled(target)?, Item::RemoveLabels(pattern::labels(Some(labels))?))
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
            let functions: &[&str] = if matches!(subject, Subject::Edge(_)) {
                &["elementId", "id", "type"]
            } else {
                &["elementId", "id"]
            };
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

    fn labelled(&self, target: &Name) -> Read<Subject> {
        match self.subject(target)? {
            Subject::Edge(_) => Err("it sets a label of a relationship"),
            node => Ok(node),
        }
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
