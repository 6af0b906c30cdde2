//! What a statement writes: values that Neo4j would not store or would count otherwise.

use bolt_wire::message::Failure;
use grafeo_common::types::Value;
use grafeo_engine::query::LogicalExpression as Expression;
use grafeo_engine::query::LogicalOperator as Operator;
use grafeo_engine::query::plan::SetPropertyOp;

use super::Vet;
use super::shape::Shape;
use crate::demo::refusal::unsupported;

impl Vet<'_> {
    /// Checks a writing operation; false if it is none.
    pub(super) fn writing(&mut self, op: &Operator) -> Result<bool, Failure> {
        match op {
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
            Operator::SetProperty(op) => self.set(op)?,
            Operator::DeleteNode(op) => self.bind(&op.variable, Shape::Deleted),
            Operator::DeleteEdge(op) => self.bind(&op.variable, Shape::Deleted),
            Operator::AddLabel(_) | Operator::RemoveLabel(_) => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn set(&mut self, op: &SetPropertyOp) -> Result<(), Failure> {
        let created = matches!(&*op.input, Operator::CreateNode(create) if create.variable == op.variable);
        if op.replace && !created {
            return Err(unsupported("replacing all properties by SET (use SET … += …)"));
        }
        let removes =
            |op: &SetPropertyOp| op.properties.iter().all(|(_, e)| self.constant(e) == Some(&Value::Null));
        let mixed = |before: &Operator| match before {
            Operator::SetProperty(before) => removes(before) != removes(op),
            _ => false,
        };
        // Alone, a removal is counted as in Neo4j; beside other assignments it is not.
        if !removes(op) || mixed(&op.input) {
            self.no_nulls(&op.properties)?;
        }
        self.assignments(&op.properties)
    }

    /// Over the rows of an UNWIND, Neo4j returns the properties as the last row left them, the engine as each row found them.
    pub(super) fn late_values(&self, root: &Operator) -> Result<(), Failure> {
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
