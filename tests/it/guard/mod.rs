//! The guard: breakers, limits, access.

mod access;
mod bounds;
mod breaker;
mod limits;
mod retry;

use bolt_wire::Version;
use sidebolt::config::{Limit, Per, Rate, Unit, When};

use crate::support::message::*;
use crate::support::raw_client::{Client, kinds};
use crate::support::sidebolt::Sidebolt;

const V: Version = Version::V5_8;
const SHED: &str = "Neo.TransientError.Request.NoThreadsAvailable";

/// A limit that limits nothing yet.
fn limit(name: &str, per: Per) -> Limit {
    Limit { name: name.to_owned(), per, rate: None, burst: None, max_in_flight: None, when: When::default() }
}

/// So many at once, and one more in an hour.
fn at_once(name: &str, per: Per, burst: u32) -> Limit {
    let rate = Some(Rate { count: 1, per: Unit::Hour });
    Limit { rate, burst: Some(burst), ..limit(name, per) }
}

async fn login(sidebolt: &Sidebolt, user: &str) -> Client {
    Client::login(sidebolt.address, V, user, "password").await
}

/// One request that is refused in words that drivers retry; the connection stays. Gives the message.
async fn refused(client: &mut Client) -> String {
    refused_as(client, &[run("RETURN 1"), pull_all()], SHED).await
}

async fn refused_as(client: &mut Client, requests: &[Vec<u8>], code: &str) -> String {
    let answers = client.ask(requests).await;
    let mut expected = vec!["IGNORED"; requests.len()];
    expected[0] = "FAILURE";
    assert_eq!((kinds(&answers), answers[0].code()), (expected, code), "{answers:?}");
    assert!(client.one(reset()).await.is_success());
    answers[0].text().to_owned()
}
