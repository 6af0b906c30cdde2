//! Looks through a statement's plan before it runs: refuses what the engine is known to answer wrongly, and works out what each
//! column holds, because the engine gives nodes and relationships inside lists and maps as bare ids.

mod expression;
mod functions;
mod shape;
mod writes;

use std::collections::HashMap;

use bolt_wire::message::Failure;
use grafeo_common::types::Value;
use grafeo_engine::query::LogicalExpression as Expression;
use grafeo_engine::query::LogicalOperator as Operator;
use grafeo_engine::query::plan::{AggregateFunction, AggregateOp, ExpandDirection, ExpandOp};

use self::functions::procedure;
pub(super) use self::shape::Shape;
use super::refusal::unsupported;

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

    fn bind(&mut self, variable: &str, shape: Shape) {
        self.variables.insert(variable.to_owned(), shape);
    }

    /// Children first, so that variables are known where they are used.
    fn operator(&mut self, op: &Operator) -> Result<(), Failure> {
        for child in op.children() {
            self.operator(child)?;
        }
        if self.reading(op)? || self.writing(op)? || self.shaping(op)? {
            return Ok(());
        }
        Err(unsupported(format!("the operation {}", name_of(op))))
    }

    /// Checks an operation that finds something; false if it is none.
    fn reading(&mut self, op: &Operator) -> Result<bool, Failure> {
        match op {
            Operator::NodeScan(op) => self.bind(&op.variable, Shape::Node),
            Operator::EdgeScan(op) => self.bind(&op.variable, Shape::Relationship),
            Operator::Expand(op) => self.expand(op)?,
            Operator::ShortestPath(op) if op.all_paths => return Err(unsupported("allShortestPaths")),
            Operator::ShortestPath(op) => self.bind(&op.path_alias, Shape::ShortestPath),
            Operator::CallProcedure(op) => procedure(op)?,
            Operator::ParameterScan(_) | Operator::Empty => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Checks an operation that works on rows; false if it is none.
    fn shaping(&mut self, op: &Operator) -> Result<bool, Failure> {
        match op {
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
                op.items.iter().try_for_each(|item| self.expression(&item.expression).map(drop))?;
            }
            Operator::Sort(op) => {
                op.keys.iter().try_for_each(|key| self.expression(&key.expression).map(drop))?;
            }
            Operator::Aggregate(op) => self.aggregate(op)?,
            Operator::Join(_)
            | Operator::LeftJoin(_)
            | Operator::AntiJoin(_)
            | Operator::Apply(_)
            | Operator::Limit(_)
            | Operator::Skip(_)
            | Operator::Distinct(_)
            | Operator::Union(_) => {}
            _ => return Ok(false),
        }
        Ok(true)
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

    fn aggregate(&mut self, op: &AggregateOp) -> Result<(), Failure> {
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
}

/// How many relationships the patterns of one plan walk along.
fn hops(op: &Operator) -> usize {
    let own = usize::from(matches!(op, Operator::Expand(_)));
    own + op.children().into_iter().map(hops).sum::<usize>()
}

fn name_of(op: &Operator) -> String {
    let label = format!("{op:?}");
    label.split(['(', ' ', '{']).next().unwrap_or_default().to_owned()
}
