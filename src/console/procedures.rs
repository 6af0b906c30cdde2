//! Which procedures there are.

use std::fmt::Write as _;

use bolt_wire::message::Failure;
use bolt_wire::packstream::Value;
use serde_json::Value as Shown;

use super::{baselines, cache, coalesce, guard, sight, slow, state};
use crate::gnn::Listed;
use crate::session::Shared;
use crate::sight::Last;
use crate::upstream::Principal;

/// Who asks, and whom.
pub(crate) struct Asking<'a> {
    /// What all sessions share.
    pub(crate) shared: &'a Shared,
    /// The user that is logged in.
    pub(crate) principal: &'a Principal,
    /// The session's last request that is over.
    pub(crate) last: Option<&'a Last>,
}

/// A procedure of Sidebolt's.
#[derive(Clone, Copy)]
pub(super) struct Procedure {
    pub(super) name: &'static str,
    /// Names of its arguments.
    pub(super) arguments: &'static [&'static str],
    pub(super) columns: &'static [Column],
    /// What it shows, in a sentence.
    pub(super) says: &'static str,
    /// Its rows, in the order of the columns.
    pub(super) rows: Rows,
}

/// How rows are made, from the arguments' values.
pub(super) type Rows = fn(&Asking<'_>, &[Value]) -> Result<Vec<Vec<Value>>, Failure>;

/// A column of an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) name: &'static str,
    /// Its Cypher type.
    pub(super) kind: &'static str,
    pub(super) says: &'static str,
}

/// A column.
pub(super) const fn column(name: &'static str, kind: &'static str, says: &'static str) -> Column {
    Column { name, kind, says }
}

/// A count.
pub(super) fn integer(count: u64) -> Value {
    Value::Integer(i64::try_from(count).unwrap_or(i64::MAX))
}

/// What there may be.
pub(super) fn optional(value: Option<impl Into<Value>>) -> Value {
    value.map_or(Value::Null, Into::into)
}

/// The row of these columns in an object that has their names.
pub(super) fn row(columns: &[Column], shown: &Shown) -> Vec<Value> {
    columns.iter().map(|column| shown.get(column.name).map_or(Value::Null, plain)).collect()
}

fn plain(value: &Shown) -> Value {
    match value {
        Shown::Bool(is) => Value::Boolean(*is),
        Shown::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => Value::Integer(number),
            (None, _) if number.is_u64() => Value::Integer(i64::MAX),
            (None, number) => optional(number.map(Value::Float)),
        },
        Shown::String(text) => text.as_str().into(),
        _ => Value::Null,
    }
}

/// All of them.
pub(super) const ALL: &[Procedure] = &[
    coalesce::TEXTS,
    coalesce::LANES,
    cache::TEXTS,
    cache::INVALIDATE,
    guard::LIMITS,
    guard::BREAKERS,
    sight::QUERIES,
    sight::RESET,
    slow::SLOW,
    slow::LAST,
    baselines::BASELINES,
    baselines::ALERTS,
    state::POOLS,
    state::CLIENTS,
    PROCEDURES,
];

const PROCEDURES: Procedure = Procedure {
    name: "sidebolt.procedures",
    arguments: &[],
    columns: &[
        column("name", "STRING", "the name"),
        column("signature", "STRING", "arguments and columns"),
        column("description", "STRING", "what it shows"),
    ],
    says: "What can be called.",
    rows: |_, _| {
        let row = |procedure: &Procedure| {
            let columns: Vec<_> =
                procedure.columns.iter().map(|c| format!("{} :: {}", c.name, c.kind)).collect();
            let signature = format!("{} :: ({})", procedure.signature(), columns.join(", "));
            vec![procedure.name.into(), signature.into(), procedure.says.into()]
        };
        Ok(ALL.iter().map(row).collect())
    },
};

impl Procedure {
    /// Its name and arguments.
    pub(super) fn signature(&self) -> String {
        format!("{}({})", self.name, self.arguments.join(", "))
    }
}

/// The procedure of that name.
pub(super) fn find(name: &str) -> Option<&'static Procedure> {
    ALL.iter().find(|procedure| procedure.name == name)
}

/// All of them, as `SHOW PROCEDURES` has them.
pub(crate) fn listed() -> impl Iterator<Item = Listed> {
    ALL.iter().map(|procedure| Listed {
        name: procedure.name,
        says: procedure.says,
        mode: "DBMS",
        works_on_system: true,
        arguments: procedure.arguments,
        columns: procedure.columns.iter().map(|column| (column.name, column.kind, column.says)).collect(),
    })
}

/// The table of procedures and their columns in Markdown, as the README has it.
pub(crate) fn reference_markdown() -> String {
    let mut table = String::from("| procedure | column | type | meaning |\n|---|---|---|---|\n");
    for procedure in ALL {
        let _ = writeln!(table, "| `{}` | | | {} |", procedure.signature(), procedure.says);
        for Column { name, kind, says } in procedure.columns {
            let _ = writeln!(table, "| | `{name}` | {kind} | {says} |");
        }
    }
    table
}
