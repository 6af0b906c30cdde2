//! What a value is, as far as the plan tells.

use bolt_wire::message::Failure;
use grafeo_engine::query::LogicalExpression as Expression;
use grafeo_engine::query::plan::{BinaryOp, MapProjectionEntry};

use super::Vet;
use crate::demo::refusal::unsupported;

/// What a value is, as far as the plan tells.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::demo) enum Shape {
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
    pub(in crate::demo) fn has_entity(&self) -> bool {
        match self {
            Self::Plain | Self::Temporal | Self::Sum | Self::Computed => false,
            Self::Node | Self::Relationship | Self::Path | Self::ShortestPath | Self::Deleted => true,
            Self::List(item) => item.has_entity(),
            Self::Map(entries) => entries.iter().any(|(_, shape)| shape.has_entity()),
        }
    }
}

impl Vet<'_> {
    /// The shape of an expression that was checked.
    pub(super) fn shape(&mut self, expression: &Expression) -> Result<Shape, Failure> {
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

fn is_arithmetic(op: BinaryOp) -> bool {
    use BinaryOp::{Add, Div, Mod, Mul, Pow, Sub};
    matches!(op, Add | Sub | Mul | Div | Mod | Pow)
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
