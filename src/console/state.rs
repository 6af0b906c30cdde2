//! `sidebolt.pools()` and `sidebolt.clients()`: who is there, and what is lent.

use bolt_wire::packstream::Value;

use super::procedures::{Procedure, column};
use super::sight::{integer, viewer};
use crate::session::Pin;
use crate::sight::moment;
use crate::statement::fingerprint;

/// Rows of one answer.
const ROWS: usize = 10_000;

/// `sidebolt.pools()`.
pub(super) const POOLS: Procedure = Procedure {
    name: "sidebolt.pools",
    arguments: &[],
    columns: &[
        column("server", "STRING", "the address of a Neo4j server"),
        column("open", "INTEGER", "connections to it"),
        column("idle", "INTEGER", "of these, those that nobody uses"),
        column("lent", "INTEGER", "of these, those that are in use"),
        column("waiting", "INTEGER", "requests that wait for one"),
        column("most", "INTEGER", "how many there may be (`pool.max_connection_pool_size`)"),
    ],
    says: "The pools of connections to Neo4j.",
    rows: |asking, _| {
        let most = asking.shared.config.load().pool.max_connection_pool_size;
        let row = |pool: &std::sync::Arc<crate::upstream::Pool>| {
            let (open, idle, waiting) = pool.counts();
            let counts = [open, idle, open.saturating_sub(idle), waiting, most];
            let mut row: Vec<Value> = vec![pool.address().into()];
            row.extend(counts.map(|count| integer(count as u64)));
            row
        };
        Ok(asking.shared.upstream.pools().iter().map(row).collect())
    },
};

/// `sidebolt.clients()`.
pub(super) const CLIENTS: Procedure = Procedure {
    name: "sidebolt.clients",
    arguments: &[],
    columns: &[
        column("id", "STRING", "Sidebolt's name for the connection, as in HELLO's answer"),
        column("user", "STRING", "who is logged in"),
        column("application", "STRING", "what the application calls itself"),
        column("address", "STRING", "the client's address"),
        column(
            "state",
            "STRING",
            "`idle`, `running` (an answer is due), `result` (not read to its end), `transaction` (open)",
        ),
        column("since", "STRING", "when it connected, in UTC"),
        column("fingerprint", "STRING", "of what it asked last; null = nothing yet"),
    ],
    says: "Client connections, the oldest first (at most 10,000): the user's own, or for `sight.observers` all.",
    rows: |asking, _| {
        let viewer = viewer(asking);
        let mut clients = asking.shared.registry.all();
        clients.sort_unstable_by_key(|client| client.id);
        let row = |client: &std::sync::Arc<crate::session::Handle>| {
            let who = client.who().filter(|who| viewer.sees(&who.id))?;
            let state = if client.pin() == Pin::None { "idle" } else { client.pin().label() };
            Some(vec![
                format!("sidebolt-{}", client.id).into(),
                who.name.as_str().into(),
                client.application().into(),
                client.peer.to_string().into(),
                state.into(),
                moment(client.since).into(),
                client.asked().map_or(Value::Null, |asked| fingerprint::shown(asked).into()),
            ])
        };
        Ok(clients.iter().filter_map(row).take(ROWS).collect())
    },
};
