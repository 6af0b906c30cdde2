//! Sidebolt as a whole, from outside: against a scripted peer (always) and against real Neo4j (where there is one).
//!
//! Real servers are named by `NEO4J_5_ADDRESS` and `NEO4J_2026_ADDRESS` (`host:port`, user `neo4j`, `NEO4J_PASSWORD`); tests that
//! need one say that they are skipped without, and fail under `SIDEBOLT_TEST_NO_SKIP=1`.

#![expect(
    unreachable_pub,
    reason = "nothing outside sees a test binary; `pub` says what the modules offer each other"
)]

mod support;

mod cache;
mod chaos;
mod coalesce;
mod console;
mod dashboard;
mod drain;
mod faults;
mod gnn;
mod guard;
mod hostile;
mod indexes;
mod isolation;
mod pool;
mod process;
mod review;
mod session;
mod sight;
mod sight_admin;
mod sight_history;
mod traces;
mod transparency;
