//! What the tests share: clients, peers, servers, deadlines.

pub mod browser;
pub mod message;
pub mod neo4j;
pub mod proxy;
pub mod raw_client;
pub mod scripted;
pub mod sidebolt;
pub mod wait;
