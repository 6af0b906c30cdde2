//! Looks through a statement's plan before it runs: refuses what the engine is known to answer wrongly, and works out what each
//! column holds, because the engine gives nodes and relationships inside lists and maps as bare ids.

use std::collections::HashMap;

use bolt_wire::message::Failure;
use grafeo_common::types::Value;
use grafeo_engine::query::LogicalExpression as Expression;
use grafeo_engine::query::LogicalOperator as Operator;
use grafeo_engine::query::plan::{
    AggregateFunction, BinaryOp, CallProcedureOp, ExpandDirection, ExpandOp, MapProjectionEntry,
    SetPropertyOp,
};

use super::refusal::{division_by_zero, syntax, unsupported};

/// What a value is, as far as the plan tells.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Shape {
    /// No entity in it.
    Plain,
    /// A date, time or duration.
    Temporal,
    /// A sum, which the engine leaves null where nothing was added.
    Sum,
    /// The result of arithmetic, which the engine leaves null where Neo4j fails (division by zero, overflow).
    Computed,
    /// A node that the same statement deletes.
    Deleted,
    /// A node.
    Node,
    /// A relationship.
    Relationship,
    /// A path.
    Path,
    /// What a shortest path is bound to: only its length is known.
    ShortestPath,
    /// A list.
    List(Box<Self>),
    /// A map.
    Map(Vec<(String, Self)>),
}

impl Shape {
    /// True if it is, or holds, a node, a relationship or a path.
    pub(super) fn has_entity(&self) -> bool {
        match self {
            Self::Plain | Self::Temporal | Self::Sum | Self::Computed => false,
            Self::Node | Self::Relationship | Self::Path | Self::ShortestPath | Self::Deleted => true,
            Self::List(item) => item.has_entity(),
            Self::Map(entries) => entries.iter().any(|(_, shape)| shape.has_entity()),
        }
    }
}

/// Checks a plan; gives the shapes of its columns (empty if it returns nothing).
pub(super) fn check(root: &Operator, parameters: &HashMap<String, Value>) -> Result<Vec<Shape>, Failure> {
    let mut vet = Vet { parameters, variables: HashMap::new(), writes: root.has_mutations() };
    vet.operator(root)?;
    vet.late_values(root)?;
    vet.columns(root)
}

struct Vet<'a> {
    parameters: &'a HashMap<String, Value>,
    variables: HashMap<String, Shape>,
    writes: bool,
}

impl Vet<'_> {
    fn columns(&mut self, root: &Operator) -> Result<Vec<Shape>, Failure> {
        match root {
            Operator::Return(op) => op.items.iter().map(|item| self.shape(&item.expression)).collect(),
            Operator::Union(op) => {
                let mut shapes = op.inputs.iter().map(|input| self.columns(input));
                let first = shapes.next().unwrap_or_else(|| Ok(Vec::new()))?;
                for other in shapes {
                    if other? != first {
                        return Err(unsupported("UNION of different kinds of columns"));
                    }
                }
                Ok(first)
            }
            Operator::Aggregate(op) => {
                let keys = op.group_by.iter().map(|key| self.shape(key));
                let mut shapes = keys.collect::<Result<Vec<_>, _>>()?;
                let bound =
                    |name: &Option<String>| name.as_ref().and_then(|n| self.variables.get(n)).cloned();
                shapes.extend(op.aggregates.iter().map(|a| bound(&a.alias).unwrap_or(Shape::Plain)));
                Ok(shapes)
            }
            Operator::CallProcedure(_) | Operator::Empty => Ok(Vec::new()),
            other => match other.children().as_slice() {
                [only] => self.columns(only),
                _ => Ok(Vec::new()),
            },
        }
    }

    /// Over the rows of an UNWIND, Neo4j returns the properties as the last row left them, the engine as each row found them.
    fn late_values(&self, root: &Operator) -> Result<(), Failure> {
        let Operator::Return(op) = root else { return Ok(()) };
        let mut seen = Written::default();
        seen.look(root);
        let late = |expression: &Expression| match expression {
            Expression::Variable(name) => seen.variables.contains(name),
            Expression::Property { variable, property } => {
                seen.variables.contains(variable)
                    && !seen.keys.contains(&(variable.clone(), property.clone()))
            }
            _ => false,
        };
        if seen.unwinds && op.items.iter().any(|item| late(&item.expression)) {
            return Err(unsupported("returning properties that the rows of an UNWIND write"));
        }
        Ok(())
    }

    fn bind(&mut self, variable: &str, shape: Shape) {
        self.variables.insert(variable.to_owned(), shape);
    }

    /// Children first, so that variables are known where they are used.
    fn operator(&mut self, op: &Operator) -> Result<(), Failure> {
        for child in op.children() {
            self.operator(child)?;
        }
        match op {
            Operator::NodeScan(op) => self.bind(&op.variable, Shape::Node),
            Operator::EdgeScan(op) => self.bind(&op.variable, Shape::Relationship),
            Operator::Expand(op) => self.expand(op)?,
            Operator::ShortestPath(op) => {
                if op.all_paths {
                    return Err(unsupported("allShortestPaths"));
                }
                self.bind(&op.path_alias, Shape::ShortestPath);
            }
            Operator::CreateNode(op) => {
                self.assignments(&op.properties)?;
                self.bind(&op.variable, Shape::Node);
            }
            Operator::CreateEdge(op) => {
                self.assignments(&op.properties)?;
                if let Some(variable) = &op.variable {
                    self.bind(variable, Shape::Relationship);
                }
            }
            Operator::Merge(op) => {
                self.merge(&op.match_properties, &op.on_create, &op.on_match)?;
                self.bind(&op.variable, Shape::Node);
            }
            Operator::MergeRelationship(op) => {
                self.merge(&op.match_properties, &op.on_create, &op.on_match)?;
                self.bind(&op.variable, Shape::Relationship);
            }
            Operator::SetProperty(op) => {
                let created =
                    matches!(&*op.input, Operator::CreateNode(create) if create.variable == op.variable);
                if op.replace && !created {
                    return Err(unsupported("replacing all properties by SET (use SET … += …)"));
                }
                let removes = |op: &SetPropertyOp| {
                    op.properties.iter().all(|(_, e)| self.constant(e) == Some(&Value::Null))
                };
                let mixed = |before: &Operator| match before {
                    Operator::SetProperty(before) => removes(before) != removes(op),
                    _ => false,
                };
                // Alone, a removal is counted as in Neo4j; beside other assignments it is not.
                if !removes(op) || mixed(&op.input) {
                    self.no_nulls(&op.properties)?;
                }
                self.assignments(&op.properties)?;
            }
            Operator::Unwind(op) => {
                let shape = match self.expression(&op.expression)? {
                    Shape::List(item) => *item,
                    shape if shape.has_entity() => return Err(unsupported("UNWIND of this expression")),
                    _ => Shape::Plain,
                };
                self.bind(&op.variable, shape);
            }
            Operator::Filter(op) => drop(self.expression(&op.predicate)?),
            Operator::Bind(op) => {
                let shape = self.expression(&op.expression)?;
                self.bind(&op.variable, shape);
            }
            Operator::Project(op) => {
                for projection in &op.projections {
                    let shape = self.expression(&projection.expression)?;
                    if let Some(alias) = &projection.alias {
                        self.bind(alias, shape);
                    }
                }
            }
            Operator::Return(op) => {
                for item in &op.items {
                    self.expression(&item.expression)?;
                }
            }
            Operator::Sort(op) => {
                for key in &op.keys {
                    self.expression(&key.expression)?;
                }
            }
            Operator::Aggregate(op) => self.aggregate(op)?,
            Operator::CallProcedure(op) => procedure(op)?,
            Operator::DeleteNode(op) => self.bind(&op.variable, Shape::Deleted),
            Operator::DeleteEdge(op) => self.bind(&op.variable, Shape::Deleted),
            Operator::Join(_)
            | Operator::LeftJoin(_)
            | Operator::AntiJoin(_)
            | Operator::Apply(_)
            | Operator::Limit(_)
            | Operator::Skip(_)
            | Operator::Distinct(_)
            | Operator::AddLabel(_)
            | Operator::RemoveLabel(_)
            | Operator::Union(_)
            | Operator::ParameterScan(_)
            | Operator::Empty => {}
            other => return Err(unsupported(format!("the operation {}", name_of(other)))),
        }
        Ok(())
    }

    fn expand(&mut self, op: &ExpandOp) -> Result<(), Failure> {
        let single = op.min_hops == 1 && op.max_hops == Some(1);
        // The engine walks a relationship twice where Neo4j never does. From the second hop of an undirected pattern, and from the third
        // of a directed one, that can show.
        let safe = if op.direction == ExpandDirection::Both { 1 } else { 2 };
        if !single && op.max_hops.is_none_or(|most| most > safe) {
            return Err(unsupported(format!("a variable-length pattern of more than {safe} hops in MATCH")));
        }
        self.bind(&op.from_variable, Shape::Node);
        self.bind(&op.to_variable, Shape::Node);
        if let Some(variable) = &op.edge_variable {
            let list = Shape::List(Box::new(Shape::Relationship));
            self.bind(variable, if single { Shape::Relationship } else { list });
        }
        if let Some(path) = &op.path_alias {
            self.bind(path, Shape::Path);
        }
        Ok(())
    }

    fn aggregate(&mut self, op: &grafeo_engine::query::plan::AggregateOp) -> Result<(), Failure> {
        for key in &op.group_by {
            self.expression(key)?;
            // Values of other expressions were seen to come back as their raw bits.
            if !matches!(key, Expression::Variable(_) | Expression::Property { .. } | Expression::Type(_)) {
                return Err(unsupported("grouping by an expression (compute it in a WITH before)"));
            }
        }
        let far = hops(&op.input) > 1;
        for aggregate in &op.aggregates {
            if aggregate.distinct && far {
                return Err(unsupported(
                    "DISTINCT in an aggregation over more than one hop (write `WITH DISTINCT x RETURN count(x)`)",
                ));
            }
            let shape = match &aggregate.expression {
                Some(expression) => self.expression(expression)?,
                None => Shape::Plain,
            };
            use AggregateFunction::{Collect, Count, CountNonNull, Sum};
            let result = match aggregate.function {
                Count | CountNonNull => Shape::Plain,
                Collect => Shape::List(Box::new(shape)),
                _ if shape.has_entity() => {
                    return Err(unsupported("this aggregation of nodes or relationships"));
                }
                Sum => Shape::Sum,
                AggregateFunction::PercentileDisc => return Err(unsupported("percentileDisc")),
                _ => Shape::Plain,
            };
            if let Some(alias) = &aggregate.alias {
                self.bind(alias, result);
            }
        }
        op.having.iter().try_for_each(|having| self.expression(having).map(drop))
    }

    fn merge(
        &mut self,
        keys: &[(String, Expression)],
        on_create: &[(String, Expression)],
        on_match: &[(String, Expression)],
    ) -> Result<(), Failure> {
        for (key, expression) in keys {
            if matches!(self.constant(expression), Some(Value::Null)) {
                let code = "Neo.ClientError.Statement.SemanticError";
                let message = format!("Cannot merge with a null property value for '{key}'");
                return Err(Failure::new(code, "22N31", message));
            }
        }
        for properties in [keys, on_create, on_match] {
            self.assignments(properties)?;
        }
        self.no_nulls(on_create)?;
        self.no_nulls(on_match)
    }

    /// Neo4j counts a property that is set to null; the engine does so only if it was there.
    fn no_nulls(&self, of: &[(String, Expression)]) -> Result<(), Failure> {
        let of_rows = self.parameters.values().any(|value| match value {
            Value::List(rows) => rows.iter().any(has_null),
            _ => false,
        });
        for (key, expression) in of {
            let null = match expression {
                Expression::Map(entries) => {
                    entries.iter().any(|(_, e)| self.constant(e) == Some(&Value::Null))
                }
                other => self.constant(other).is_some_and(has_null),
            };
            if null || key == "*" && of_rows && self.constant(expression).is_none() {
                return Err(unsupported("setting a property to null (use REMOVE)"));
            }
        }
        Ok(())
    }

    fn assignments(&mut self, of: &[(String, Expression)]) -> Result<(), Failure> {
        for (key, expression) in of {
            if self.expression(expression)?.has_entity() {
                return Err(unsupported("setting properties from a node or relationship as a whole"));
            }
            let whole = key == "*";
            match self.constant(expression) {
                Some(Value::Map(entries)) if whole => entries.values().try_for_each(storable)?,
                Some(value) if !whole => storable(value)?,
                _ => {}
            }
            if !whole && matches!(expression, Expression::Map(_)) {
                return Err(not_storable());
            }
        }
        Ok(())
    }

    /// Checks an expression and all within it; gives its shape.
    fn expression(&mut self, expression: &Expression) -> Result<Shape, Failure> {
        match expression {
            Expression::Binary { left, op, right } => {
                let shapes = [self.expression(left)?, self.expression(right)?];
                self.operation(left, *op, right, &shapes)?;
            }
            Expression::Unary { operand, .. } => drop(self.expression(operand)?),
            Expression::FunctionCall { name, args, .. } => {
                let mut shapes = Vec::new();
                for arg in args {
                    shapes.push(self.expression(arg)?);
                }
                let list = matches!(shapes.first(), Some(Shape::List(_)))
                    || matches!(args.first().and_then(|a| self.constant(a)), Some(Value::List(_)));
                if name.eq_ignore_ascii_case("size") && !list {
                    return Err(unsupported("size() of anything but a list"));
                }
                function(name, args)?;
            }
            Expression::List(items) => items.iter().try_for_each(|i| self.expression(i).map(drop))?,
            Expression::Map(entries) => {
                entries.iter().try_for_each(|(_, value)| self.expression(value).map(drop))?;
            }
            Expression::IndexAccess { base, index } => {
                self.expression(index)?;
                if self.expression(base)?.has_entity() {
                    return Err(unsupported("an index into a list of nodes or relationships"));
                }
            }
            Expression::MapAccess { base, key } => self.map_access(base, key)?,
            Expression::SliceAccess { base, start, end } => {
                let negative = |e: &Expression| match e {
                    Expression::Literal(Value::Int64(at)) => *at < 0,
                    Expression::Literal(_) => false,
                    _ => true,
                };
                if [start, end].into_iter().flatten().any(|part| negative(part)) {
                    return Err(unsupported("a slice with bounds that are no plain numbers"));
                }
                for part in [Some(base), start.as_ref(), end.as_ref()].into_iter().flatten() {
                    self.expression(part)?;
                }
            }
            Expression::Case { operand, when_clauses, else_clause } => {
                for (when, then) in when_clauses {
                    self.expression(when)?;
                    self.expression(then)?;
                }
                for part in [operand, else_clause].into_iter().flatten() {
                    self.expression(part)?;
                }
            }
            Expression::ListComprehension { variable, list_expr, filter_expr, map_expr } => {
                self.bind_item(variable, list_expr)?;
                for part in filter_expr.iter().chain([map_expr]) {
                    self.expression(part)?;
                }
            }
            Expression::ListPredicate { variable, list_expr, predicate, .. } => {
                self.bind_item(variable, list_expr)?;
                self.expression(predicate)?;
            }
            Expression::Reduce { accumulator, initial, variable, list, expression } => {
                let shape = self.expression(initial)?;
                self.bind(accumulator, shape);
                self.bind_item(variable, list)?;
                self.expression(expression)?;
            }
            Expression::MapProjection { entries, .. } => {
                for entry in entries {
                    if let MapProjectionEntry::LiteralEntry(_, value) = entry {
                        self.expression(value)?;
                    }
                }
            }
            Expression::ExistsSubquery(plan)
            | Expression::CountSubquery(plan)
            | Expression::ValueSubquery(plan) => self.operator(plan)?,
            Expression::PatternComprehension { subplan, projection } => {
                self.operator(subplan)?;
                self.expression(projection)?;
            }
            Expression::Property { variable, property } => self.property(variable, property)?,
            Expression::Literal(_)
            | Expression::Variable(_)
            | Expression::Parameter(_)
            | Expression::Labels(_)
            | Expression::Type(_)
            | Expression::Id(_) => {}
            _ => return Err(unsupported("this expression")),
        }
        self.shape(expression)
    }

    fn bind_item(&mut self, variable: &str, list: &Expression) -> Result<(), Failure> {
        let shape = match self.expression(list)? {
            Shape::List(item) => *item,
            _ => Shape::Plain,
        };
        self.bind(variable, shape);
        Ok(())
    }

    fn operation(
        &self,
        left: &Expression,
        op: BinaryOp,
        right: &Expression,
        shapes: &[Shape; 2],
    ) -> Result<(), Failure> {
        let is_float = |e: &Expression| matches!(self.constant(e), Some(Value::Float64(_)));
        match op {
            BinaryOp::Div | BinaryOp::Mod => match self.constant(right) {
                Some(Value::Int64(0)) if is_float(left) => Ok(()),
                Some(Value::Int64(0)) => Err(division_by_zero()),
                Some(_) => Ok(()),
                // The engine gives null where Neo4j fails.
                None if self.writes => Err(unsupported("a division by anything but a constant in a write")),
                None => Ok(()),
            },
            BinaryOp::Lt | BinaryOp::Le | BinaryOp::Gt | BinaryOp::Ge => {
                let zoned = |e: &Expression| matches!(self.constant(e), Some(Value::ZonedDatetime(_)));
                if zoned(left) || zoned(right) {
                    return Err(unsupported("comparing date-times with a zone"));
                }
                if shapes.iter().any(|shape| matches!(shape, Shape::List(_))) {
                    return Err(unsupported("comparing lists by < or >"));
                }
                Ok(())
            }
            BinaryOp::Add => {
                let lists = shapes.iter().filter(|s| matches!(s, Shape::List(_))).count();
                if lists == 1 {
                    return Err(unsupported("adding a single value to a list (write `list + [value]`)"));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn constant<'e>(&'e self, expression: &'e Expression) -> Option<&'e Value> {
        match expression {
            Expression::Literal(value) => Some(value),
            Expression::Parameter(name) => self.parameters.get(name),
            _ => None,
        }
    }

    fn property(&self, variable: &str, property: &str) -> Result<(), Failure> {
        match self.variables.get(variable) {
            Some(Shape::Temporal) => Err(unsupported(format!("the component .{property} of a date or time"))),
            Some(Shape::ShortestPath) => Err(unsupported("a shortest path but for length(path)")),
            _ => Ok(()),
        }
    }

    /// `x.y` of anything but a variable. The engine gives null for the components of dates and times.
    fn map_access(&mut self, base: &Expression, key: &str) -> Result<(), Failure> {
        let shape = self.expression(base)?;
        let of_entity = match base {
            Expression::Property { variable, .. } => {
                matches!(self.variables.get(variable), Some(Shape::Node | Shape::Relationship))
            }
            _ => false,
        };
        if of_entity || shape == Shape::Temporal {
            return Err(unsupported(format!("the component .{key} of a date or time")));
        }
        if shape.has_entity() {
            return Err(unsupported("a property of this expression (name it with WITH or MATCH first)"));
        }
        Ok(())
    }

    /// The shape of an expression that was checked.
    fn shape(&mut self, expression: &Expression) -> Result<Shape, Failure> {
        Ok(match expression {
            Expression::Variable(name) => self.variables.get(name).cloned().unwrap_or(Shape::Plain),
            Expression::List(items) => {
                let shapes = items.iter().map(|i| self.shape(i)).collect::<Result<Vec<_>, _>>()?;
                Shape::List(Box::new(common(shapes)?))
            }
            Expression::Map(entries) => {
                let entry = |(key, value): &(String, Expression)| Ok((key.clone(), self.shape(value)?));
                Shape::Map(entries.iter().map(entry).collect::<Result<_, _>>()?)
            }
            Expression::MapProjection { entries, .. } => {
                let mut shapes = Vec::new();
                for entry in entries {
                    if let MapProjectionEntry::LiteralEntry(key, value) = entry {
                        shapes.push((key.clone(), self.shape(value)?));
                    }
                }
                Shape::Map(shapes)
            }
            Expression::Case { when_clauses, else_clause, .. } => {
                let results = when_clauses.iter().map(|(_, then)| then).chain(else_clause.as_deref());
                let shapes = results.map(|e| self.shape(e)).collect::<Result<Vec<_>, _>>()?;
                common(shapes)?
            }
            Expression::ListComprehension { map_expr, .. } => Shape::List(Box::new(self.shape(map_expr)?)),
            Expression::SliceAccess { base, .. } => self.shape(base)?,
            Expression::FunctionCall { name, args, .. } => self.result_of(name, args)?,
            Expression::PatternComprehension { projection, .. } => {
                Shape::List(Box::new(self.shape(projection)?))
            }
            Expression::Binary { op, left, .. } if is_arithmetic(*op) => match self.shape(left)? {
                list @ Shape::List(_) => list,
                Shape::Temporal => Shape::Temporal,
                _ => Shape::Computed,
            },
            Expression::ValueSubquery(_) => return Err(unsupported("a subquery as a value")),
            _ => Shape::Plain,
        })
    }

    fn result_of(&mut self, name: &str, args: &[Expression]) -> Result<Shape, Failure> {
        let first = match args.first() {
            Some(arg) => self.shape(arg)?,
            None => Shape::Plain,
        };
        let list = |shape| Shape::List(Box::new(shape));
        Ok(match name.to_lowercase().as_str() {
            "nodes" | "relationships" | "length" if first == Shape::ShortestPath => {
                return Err(unsupported("a shortest path but for length(path)"));
            }
            "nodes" => list(Shape::Node),
            "relationships" => list(Shape::Relationship),
            "startnode" | "endnode" => Shape::Node,
            "tail" | "reverse" => first,
            "head" | "last" => match first {
                Shape::List(item) => *item,
                _ => Shape::Plain,
            },
            "coalesce" => common(args.iter().map(|arg| self.shape(arg)).collect::<Result<Vec<_>, _>>()?)?,
            "date" | "time" | "localtime" | "datetime" | "localdatetime" | "duration" => Shape::Temporal,
            "tointeger" | "tofloat" => Shape::Computed,
            "split" | "range" | "keys" | "labels" => list(Shape::Plain),
            _ => Shape::Plain,
        })
    }
}

/// What a plan writes, for `late_values`.
#[derive(Default)]
struct Written {
    unwinds: bool,
    variables: Vec<String>,
    keys: Vec<(String, String)>,
}

impl Written {
    fn look(&mut self, op: &Operator) {
        match op {
            Operator::Unwind(_) => self.unwinds = true,
            Operator::SetProperty(op) => self.variables.push(op.variable.clone()),
            Operator::Merge(op) => {
                self.merge(&op.variable, &op.match_properties, &op.on_create, &op.on_match)
            }
            Operator::MergeRelationship(op) => {
                self.merge(&op.variable, &op.match_properties, &op.on_create, &op.on_match);
            }
            _ => {}
        }
        op.children().into_iter().for_each(|child| self.look(child));
    }

    fn merge(
        &mut self,
        variable: &str,
        keys: &[(String, Expression)],
        on_create: &[(String, Expression)],
        on_match: &[(String, Expression)],
    ) {
        if !(on_create.is_empty() && on_match.is_empty()) {
            self.variables.push(variable.to_owned());
        }
        self.keys.extend(keys.iter().map(|(key, _)| (variable.to_owned(), key.clone())));
    }
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Map(entries) => entries.values().any(has_null),
        _ => false,
    }
}

fn is_arithmetic(op: BinaryOp) -> bool {
    use BinaryOp::{Add, Div, Mod, Mul, Pow, Sub};
    matches!(op, Add | Sub | Mul | Div | Mod | Pow)
}

/// How many relationships the patterns of one plan walk along.
fn hops(op: &Operator) -> usize {
    let own = usize::from(matches!(op, Operator::Expand(_)));
    own + op.children().into_iter().map(hops).sum::<usize>()
}

/// Neo4j stores no maps, and lists of one type only.
fn storable(value: &Value) -> Result<(), Failure> {
    let scalar = |v: &Value| !matches!(v, Value::Map(_) | Value::List(_) | Value::Null);
    match value {
        Value::Map(_) => Err(not_storable()),
        Value::List(items) => {
            let kind = items.first().map(std::mem::discriminant);
            let fine = items.iter().all(|i| scalar(i) && Some(std::mem::discriminant(i)) == kind);
            if fine { Ok(()) } else { Err(not_storable()) }
        }
        _ => Ok(()),
    }
}

fn not_storable() -> Failure {
    Failure::new(
        "Neo.ClientError.Statement.TypeError",
        "22G03",
        "Property values can only be of primitive types or arrays thereof",
    )
}

/// The one shape of several values; plain ones mix freely, entities with nothing else.
fn common(shapes: Vec<Shape>) -> Result<Shape, Failure> {
    let mut shapes = shapes.into_iter();
    let Some(first) = shapes.next() else { return Ok(Shape::Plain) };
    for other in shapes {
        if other != first {
            if other.has_entity() || first.has_entity() {
                return Err(unsupported("nodes or relationships mixed with other values"));
            }
            return Ok(Shape::Plain);
        }
    }
    Ok(first)
}

/// Functions that give what Neo4j gives, by name in lower case.
const FUNCTIONS: &[&str] = &[
    "abs",
    "acos",
    "asin",
    "atan",
    "atan2",
    "ceil",
    "coalesce",
    "cos",
    "cot",
    "date",
    "degrees",
    "duration",
    "e",
    "elementid",
    "endnode",
    "exists",
    "exp",
    "floor",
    "haslabel",
    "head",
    "id",
    "keys",
    "labels",
    "last",
    "left",
    "length",
    "localdatetime",
    "log",
    "log10",
    "ltrim",
    "nodes",
    "pi",
    "properties",
    "radians",
    "rand",
    "range",
    "relationships",
    "replace",
    "reverse",
    "right",
    "round",
    "rtrim",
    "sign",
    "sin",
    "size",
    "split",
    "sqrt",
    "startnode",
    "substring",
    "tail",
    "tan",
    "time",
    "timestamp",
    "toboolean",
    "tofloat",
    "tointeger",
    "tolower",
    "tostring",
    "toupper",
    "trim",
    "type",
];

/// Functions of Neo4j that the engine lacks or gets wrong.
const OTHERS: &[&str] = &[
    "avg",
    "btrim",
    "char_length",
    "collect",
    "count",
    "max",
    "min",
    "sum",
    "stdev",
    "percentilecont",
    "character_length",
    "cosh",
    "coth",
    "datetime",
    "elementid",
    "file",
    "haversin",
    "isempty",
    "isnan",
    "linenumber",
    "localtime",
    "lower",
    "nullif",
    "point",
    "randomuuid",
    "sinh",
    "tanh",
    "tobooleanlist",
    "tobooleanornull",
    "tofloatlist",
    "tofloatornull",
    "tointegerlist",
    "tointegerornull",
    "tostringlist",
    "tostringornull",
    "upper",
    "valuetype",
    "normalize",
    "vector",
    "uuid",
];

fn function(name: &str, args: &[Expression]) -> Result<(), Failure> {
    let lower = name.to_lowercase();
    let literal = |arg: Option<&Expression>| {
        matches!(arg, Some(Expression::Literal(Value::Int64(_) | Value::String(_)) | Expression::Id(_)))
    };
    match lower.as_str() {
        "tostring" if !literal(args.first()) => Err(unsupported("toString of anything but a literal")),
        "round" if args.len() > 1 => Err(unsupported("round with a precision")),
        known if FUNCTIONS.contains(&known) => Ok(()),
        known if OTHERS.contains(&known) || known.contains('.') => {
            Err(unsupported(format!("the function {name}()")))
        }
        _ => Err(syntax(format!("Unknown function '{name}'"))),
    }
}

fn procedure(op: &CallProcedureOp) -> Result<(), Failure> {
    let name = op.name.join(".");
    let known = ["db.relationshipTypes", "db.propertyKeys"];
    if name.starts_with("grafeo.") || (name.starts_with("db.") && !known.contains(&name.as_str())) {
        return Err(unsupported(format!("the procedure {name}")));
    }
    Ok(())
}

fn name_of(op: &Operator) -> String {
    let label = format!("{op:?}");
    label.split(['(', ' ', '{']).next().unwrap_or_default().to_owned()
}
