//! `sidebolt.pools()` and `sidebolt.clients()`: who is there, and what is lent.

use super::procedures::{Procedure, column, row};
use super::sight::viewer;
use crate::shown;

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
    rows: |asking, _| Ok(shown::pools(asking.shared).iter().map(|pool| row(POOLS.columns, pool)).collect()),
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
        let clients = shown::clients(asking.shared);
        let seen = clients.iter().filter(|client| client.who().is_some_and(|who| viewer.sees(&who.id)));
        Ok(seen.take(ROWS).map(|client| row(CLIENTS.columns, &shown::client(client))).collect())
    },
};
