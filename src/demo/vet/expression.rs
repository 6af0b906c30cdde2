//! Expressions: checked from the inside out.

use bolt_wire::message::Failure;
use grafeo_common::types::Value;
use grafeo_engine::query::LogicalExpression as Expression;
use grafeo_engine::query::plan::{BinaryOp, MapProjectionEntry};

use super::Vet;
use super::functions::function;
use super::shape::Shape;
use crate::demo::refusal::{division_by_zero, unsupported};

impl Vet<'_> {
    /// Checks an expression and all within it; gives its shape.
    pub(super) fn expression(&mut self, expression: &Expression) -> Result<Shape, Failure> {
        match expression {
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
            Expression::ExistsSubquery(plan)
            | Expression::CountSubquery(plan)
            | Expression::ValueSubquery(plan) => self.operator(plan)?,
            Expression::PatternComprehension { subplan, projection } => {
                self.operator(subplan)?;
                self.expression(projection)?;
            }
            other => {
                let parts = parts(other)?;
                let shapes =
                    parts.into_iter().map(|part| self.expression(part)).collect::<Result<Vec<_>, _>>()?;
                self.judge(other, &shapes)?;
            }
        }
        self.shape(expression)
    }

    /// What is known to go wrong with an expression whose parts have these shapes.
    fn judge(&self, expression: &Expression, shapes: &[Shape]) -> Result<(), Failure> {
        match expression {
            Expression::Binary { left, op, right } => self.operation(left, *op, right, shapes),
            Expression::FunctionCall { name, args, .. } => {
                let list = matches!(shapes.first(), Some(Shape::List(_)))
                    || matches!(args.first().and_then(|a| self.constant(a)), Some(Value::List(_)));
                if name.eq_ignore_ascii_case("size") && !list {
                    return Err(unsupported("size() of anything but a list"));
                }
                function(name, args)
            }
            Expression::IndexAccess { .. } if shapes.first().is_some_and(Shape::has_entity) => {
                Err(unsupported("an index into a list of nodes or relationships"))
            }
            Expression::MapAccess { base, key } => {
                self.map_access(base, key, shapes.first().unwrap_or(&Shape::Plain))
            }
            Expression::SliceAccess { start, end, .. } => {
                let plain = |e: &Expression| match e {
                    Expression::Literal(Value::Int64(at)) => *at >= 0,
                    Expression::Literal(_) => true,
                    _ => false,
                };
                let bounds = [start, end];
                if bounds.into_iter().flatten().all(|bound| plain(bound)) {
                    return Ok(());
                }
                Err(unsupported("a slice with bounds that are no plain numbers"))
            }
            Expression::Property { variable, property } => self.property(variable, property),
            _ => Ok(()),
        }
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
        shapes: &[Shape],
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

    pub(super) fn constant<'e>(&'e self, expression: &'e Expression) -> Option<&'e Value> {
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
    fn map_access(&self, base: &Expression, key: &str, shape: &Shape) -> Result<(), Failure> {
        let of_entity = match base {
            Expression::Property { variable, .. } => {
                matches!(self.variables.get(variable), Some(Shape::Node | Shape::Relationship))
            }
            _ => false,
        };
        if of_entity || *shape == Shape::Temporal {
            return Err(unsupported(format!("the component .{key} of a date or time")));
        }
        if shape.has_entity() {
            return Err(unsupported("a property of this expression (name it with WITH or MATCH first)"));
        }
        Ok(())
    }
}

/// The expressions directly within one that binds no variable.
fn parts(expression: &Expression) -> Result<Vec<&Expression>, Failure> {
    Ok(match expression {
        Expression::Binary { left, right, .. } => vec![left, right],
        Expression::Unary { operand, .. } => vec![operand],
        Expression::FunctionCall { args, .. } => args.iter().collect(),
        Expression::List(items) => items.iter().collect(),
        Expression::Map(entries) => entries.iter().map(|(_, value)| value).collect(),
        Expression::IndexAccess { base, index } => vec![base, index],
        Expression::MapAccess { base, .. } => vec![base],
        Expression::SliceAccess { base, start, end } => {
            [Some(base), start.as_ref(), end.as_ref()].into_iter().flatten().map(|e| &**e).collect()
        }
        Expression::Case { operand, when_clauses, else_clause } => {
            let whens = when_clauses.iter().flat_map(|(when, then)| [when, then]);
            whens.chain([operand, else_clause].into_iter().flatten().map(|e| &**e)).collect()
        }
        Expression::MapProjection { entries, .. } => entries
            .iter()
            .filter_map(|entry| match entry {
                MapProjectionEntry::LiteralEntry(_, value) => Some(value),
                _ => None,
            })
            .collect(),
        Expression::Property { .. }
        | Expression::Literal(_)
        | Expression::Variable(_)
        | Expression::Parameter(_)
        | Expression::Labels(_)
        | Expression::Type(_)
        | Expression::Id(_) => Vec::new(),
        _ => return Err(unsupported("this expression")),
    })
}
