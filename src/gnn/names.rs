//! Whether what a graph is made of exists, and what element ids begin with.

use super::Trouble;
use super::fetch::{Caller, NOTHING};
use super::project::broken;
use super::spec::Spec;
use crate::upstream::Lease;

/// Whether the names that the graph is made of exist, and what element ids begin with.
pub(super) async fn check_names(
    caller: &Caller,
    lease: &mut Lease,
    spec: &Spec,
) -> Result<Box<str>, Trouble> {
    if spec.queries.is_some() {
        let prefix = prefix_of(caller, lease, "MATCH (n) RETURN elementId(n) LIMIT 1", NOTHING).await?;
        return prefix
            .ok_or_else(|| Trouble::wrong("Node-Query returned no nodes: there is none that you may see."));
    }
    let wanted = [
        ("label", "labels", "CALL db.labels() YIELD label RETURN collect(label)", spec.labels.clone()),
        (
            "relationship type",
            "types",
            "CALL db.relationshipTypes() YIELD relationshipType RETURN collect(relationshipType)",
            spec.relationships.iter().flat_map(|relationships| relationships.types.clone()).collect(),
        ),
    ];
    for (what, many, text, names) in wanted {
        if names.is_empty() {
            continue;
        }
        let mut known: Vec<String> = Vec::new();
        caller
            .read(lease, text, NOTHING, |walker| {
                for _ in 0..walker.list_header().map_err(broken)? {
                    known.push(walker.string().map_err(broken)?.to_owned());
                }
                Ok(())
            })
            .await?;
        if let Some(name) = names.iter().find(|name| !known.contains(name)) {
            let near = crate::config::meant(name, known.iter().map(String::as_str));
            let mean = near.map(|near| format!(" (Did you mean '{near}'?)")).unwrap_or_default();
            return Err(Trouble::wrong(format!(
                "Invalid projection, one or more {many} not found: '{name}'{mean}. The {what} must exist in the database, and be one that you may see."
            )));
        }
    }
    let text = format!("MATCH {} RETURN elementId(n) LIMIT 1", spec.node("n"));
    let prefix = prefix_of(caller, lease, &text, NOTHING).await?;
    prefix.ok_or_else(|| {
        Trouble::wrong(format!(
            "Node-Query returned no nodes: there is none that matches {}.",
            spec.node("n")
        ))
    })
}

/// What element ids begin with, by the one that a statement gives.
pub(super) async fn prefix_of(
    caller: &Caller,
    lease: &mut Lease,
    text: &str,
    parameters: &[u8],
) -> Result<Option<Box<str>>, Trouble> {
    let mut prefix = None;
    caller
        .read(lease, text, parameters, |walker| {
            let id = walker.string().map_err(broken)?;
            prefix = id.rsplit_once(':').map(|(prefix, _)| format!("{prefix}:").into());
            Ok(())
        })
        .await?;
    Ok(prefix)
}
