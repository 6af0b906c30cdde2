//! Identities: a query runs only as its own user, and credentials are believed no longer than the server vouches for them.

use std::time::Duration;

use bolt_wire::packstream::Value;
use bolt_wire::{Tag, Version};
use sidebolt::config::{self, Action, AuthMode, Rule, Secret, When};

use crate::support::message::*;
use crate::support::neo4j::Neo4j;
use crate::support::raw_client::{Answer, Client};
use crate::support::scripted::Peer;
use crate::support::sidebolt::Sidebolt;
use crate::support::wait::{PATIENCE, in_time, within_async};

const UNAUTHORIZED: &str = "Neo.ClientError.Security.Unauthorized";
const FORBIDDEN: &str = "Neo.ClientError.Security.Forbidden";
const WHO: &str = "SHOW CURRENT USER YIELD user RETURN user";

/// A login that is not expected to succeed: its last answer.
async fn attempt(sidebolt: &Sidebolt, version: Version, user: &str, password: &str) -> Answer {
    let mut client = Client::connect(sidebolt.address, version).await.unwrap();
    let answers = client.ask(&login(version, user, password)).await;
    let failed = answers.iter().find(|answer| !answer.is_success()).cloned();
    if failed.is_some() {
        assert!(client.is_closed().await, "a refused login is followed by a close");
    }
    failed.unwrap_or_else(|| answers.last().cloned().unwrap())
}

/// Three users of the server's own; gone with the value's `remove`.
struct Users<'a> {
    neo4j: &'a Neo4j,
    names: Vec<String>,
}

const PASSWORD: &str = "it-password-1";

impl<'a> Users<'a> {
    async fn create(neo4j: &'a Neo4j, test: &str) -> Self {
        let names: Vec<String> = ["ann", "bob", "cy"].map(|name| format!("it_{test}_{name}")).to_vec();
        for name in &names {
            neo4j
                .system(&format!(
                    "CREATE OR REPLACE USER {name} SET PASSWORD '{PASSWORD}' CHANGE NOT REQUIRED"
                ))
                .await;
        }
        Self { neo4j, names }
    }

    async fn remove(self) {
        for name in &self.names {
            self.neo4j.system(&format!("DROP USER {name} IF EXISTS")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_ever_runs_as_somebody_else() {
    for neo4j in Neo4j::all("isolation::nobody_ever_runs_as_somebody_else") {
        for version in [Version::V5_8, Version::V4_4] {
            let users = Users::create(&neo4j, &format!("load_{}", version.major)).await;
            let sidebolt =
                Sidebolt::start(&neo4j.address, |config| config.pool.max_connection_pool_size = 2).await;
            let mut busy = Vec::new();
            for name in users.names.iter().cycle().take(12) {
                let (address, name) = (sidebolt.address, name.clone());
                busy.push(tokio::spawn(async move {
                    let mut client = Client::login(address, version, &name, PASSWORD).await;
                    for round in 0..15 {
                        assert_eq!(client.value(WHO).await, name.as_str().into(), "auto-commit {round}");
                        let answers = client.ask_all(&[begin(), run(WHO), pull_all(), commit()]).await;
                        let shown = answers.iter().find_map(|answer| match answer {
                            Answer::Record(row) => row.first().cloned(),
                            _ => None,
                        });
                        assert_eq!(shown, Some(name.as_str().into()), "transaction {round}: {answers:?}");
                    }
                }));
            }
            for client in busy {
                client.await.unwrap();
            }
            sidebolt.at_rest().await;
            let relogons = sidebolt.metric("sidebolt_pool_relogons_total", "").await;
            let opened = sidebolt.metric("sidebolt_pool_opened_total", "").await;
            println!(
                "Bolt {version}: 360 statements of 3 users on 2 connections, {relogons} re-logons, {opened} connections made"
            );
            assert_eq!(relogons > 0.0, version.features().reauth);
            users.remove().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_password_stops_working_within_the_ttl() {
    const TTL: Duration = Duration::from_secs(1);
    for neo4j in Neo4j::all("isolation::a_changed_password_stops_working_within_the_ttl") {
        for version in [Version::V5_8, Version::V4_4] {
            let users = Users::create(&neo4j, &format!("ttl_{}", version.major)).await;
            let name = users.names[0].as_str();
            let sidebolt = Sidebolt::start(&neo4j.address, |config| config.auth.cache_ttl = TTL).await;
            let mut old = Client::login(sidebolt.address, version, name, PASSWORD).await;
            assert!(old.query("RETURN 1").await.is_ok());
            neo4j
                .system(&format!("ALTER USER {name} SET PASSWORD 'it-password-2' CHANGE NOT REQUIRED"))
                .await;
            let changed = tokio::time::Instant::now();
            // The new one works at once: it is proved anew.
            let mut new = Client::login(sidebolt.address, version, name, "it-password-2").await;
            assert!(new.query("RETURN 1").await.is_ok());
            // The old one works no longer than its proof. What ran until then began within the TTL.
            let refused = async {
                loop {
                    let asked = tokio::time::Instant::now();
                    match old.query("RETURN 1").await {
                        Ok(_) => assert!(
                            asked < changed + TTL,
                            "{version}: worked {:?} after the change",
                            asked - changed
                        ),
                        Err(answer) => return answer,
                    }
                }
            };
            let answer = in_time("the old password is refused", refused).await;
            assert!(matches!(answer.code(), UNAUTHORIZED | ""), "{answer:?}");
            let login = attempt(&sidebolt, version, name, PASSWORD).await;
            assert_eq!(login.code(), UNAUTHORIZED, "{login:?}");
            assert!(new.query("RETURN 1").await.is_ok(), "who shows the new password is untouched");
            sidebolt.at_rest().await;
            users.remove().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_refused_in_the_servers_words() {
    let peer = Peer::start(|settings| {
        settings.users = [("ann".to_owned(), "right".to_owned())].into();
    })
    .await;
    let sidebolt = Sidebolt::start(peer.address, |_| ()).await;
    for version in Version::ALL {
        // Also while the right password is believed.
        drop(Client::login(sidebolt.address, version, "ann", "right").await);
        for (user, password) in [("ann", "wrong"), ("ann", ""), ("", "right"), ("bob", "right")] {
            let answer = attempt(&sidebolt, version, user, password).await;
            assert_eq!(answer.code(), UNAUTHORIZED, "{version} {user} {password}");
            assert_eq!(answer.text(), "scripted", "the peer's own words");
        }
        drop(Client::login(sidebolt.address, version, "ann", "right").await);
    }
    sidebolt.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_proved_is_believed_and_then_asked_again() {
    let peer = Peer::start(|_| ()).await;
    let sidebolt = Sidebolt::start(peer.address, |_| ()).await;
    for version in [Version::V5_8, Version::V4_4] {
        let proofs = || match version.features().reauth {
            true => peer.count(Tag::LOGON),
            false => peer.count(Tag::HELLO),
        };
        drop(Client::login(sidebolt.address, version, "ann", "x").await);
        let proved = proofs();
        for _ in 0..10 {
            drop(Client::login(sidebolt.address, version, "ann", "x").await);
        }
        assert_eq!(proofs(), proved, "{version}: ten logins within the TTL cost the server nothing");
        sidebolt.reconfigure(|config| config.auth.cache_ttl = Duration::ZERO);
        drop(Client::login(sidebolt.address, version, "ann", "x").await);
        assert!(proofs() > proved, "{version}: without a TTL every login is proved");
        sidebolt.reconfigure(|config| config.auth.cache_ttl = Duration::from_secs(60));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_security_error_ends_the_belief() {
    let peer = Peer::start(|_| ()).await;
    let sidebolt = Sidebolt::start(peer.address, |_| ()).await;
    for code in ["AuthorizationExpired", "TokenExpired", "Unauthorized", "Forbidden", "CredentialsExpired"] {
        let mut client = Client::login(sidebolt.address, Version::V5_8, "ann", "x").await;
        assert!(client.query("RETURN 1").await.is_ok());
        let proved = peer.count(Tag::LOGON);
        let failed = client.query(&format!("fail Neo.ClientError.Security.{code} |")).await.unwrap_err();
        assert_eq!(failed.code(), format!("Neo.ClientError.Security.{code}"));
        assert!(client.query("ok | who").await.is_ok());
        assert!(peer.count(Tag::LOGON) > proved, "{code}: proved again before the next statement");
        sidebolt.at_rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_is_refused_on_the_way_is_told_and_closed() {
    let peer = Peer::start(|settings| settings.users = [("ann".to_owned(), "x".to_owned())].into()).await;
    let sidebolt = Sidebolt::start(peer.address, |_| ()).await;
    for version in [Version::V5_8, Version::V4_4] {
        let mut client = Client::login(sidebolt.address, version, "ann", "x").await;
        assert!(client.query("RETURN 1").await.is_ok());
        peer.set(|settings| settings.users = [("ann".to_owned(), "changed".to_owned())].into());
        sidebolt.reconfigure(|config| config.auth.cache_ttl = Duration::ZERO);
        let answers = client.ask(&[run("RETURN 1"), pull_all()]).await;
        assert_eq!(answers[0].code(), UNAUTHORIZED, "{version}: {answers:?}");
        assert_eq!(answers[1], Answer::Closed);
        peer.set(|settings| settings.users = [("ann".to_owned(), "x".to_owned())].into());
        sidebolt.reconfigure(|config| config.auth.cache_ttl = Duration::from_secs(60));
        sidebolt.at_rest().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logoff_and_logon_change_the_user() {
    let peer = Peer::start(|settings| {
        settings.users = [("ann".to_owned(), "a".to_owned()), ("bob".to_owned(), "b".to_owned())].into();
    })
    .await;
    let sidebolt = Sidebolt::start(peer.address, |config| config.pool.max_connection_pool_size = 1).await;
    let mut client = Client::login(sidebolt.address, Version::V5_8, "ann", "a").await;
    for _ in 0..3 {
        assert_eq!(client.value("ok | who").await, "ann".into());
        let rows = client.ask_all(&[logoff(), logon("bob", "b"), run("ok | who"), pull_all()]).await;
        assert!(rows.contains(&Answer::Record(vec!["bob".into()])), "{rows:?}");
        let rows = client.ask_all(&[logoff(), logon("ann", "a"), run("ok | who"), pull_all()]).await;
        assert!(rows.contains(&Answer::Record(vec!["ann".into()])), "{rows:?}");
    }
    // Nothing runs between LOGOFF and LOGON, nor after a LOGON that was refused.
    peer.forget();
    let answers = client.ask(&[logoff(), logon("bob", "wrong"), run("ok | who"), pull_all()]).await;
    assert_eq!(answers[1].code(), UNAUTHORIZED);
    assert_eq!(answers[2], Answer::Closed);
    assert!(peer.statements().is_empty());
    sidebolt.at_rest().await;
}

/// A server that knows the service user only.
async fn service_peer() -> Peer {
    Peer::start(|settings| settings.users = [("service".to_owned(), "secret".to_owned())].into()).await
}

/// Everybody is that user.
fn serve_as_service(config: &mut config::Config) {
    config.auth.mode = AuthMode::Service;
    config.auth.username = Some("service".to_owned());
    config.auth.password = Some(Secret("secret".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn service_mode_uses_its_own_user_for_everybody() {
    let peer = service_peer().await;
    for token in [None, Some("open sesame")] {
        let sidebolt = Sidebolt::start(peer.address, |config| {
            serve_as_service(config);
            config.auth.client_token = token.map(|token| Secret(token.to_owned()));
        })
        .await;
        for version in [Version::V4_4, Version::V5_0, Version::V5_8, Version::V6_1] {
            let shown = token.unwrap_or("whatever");
            let mut client = Client::login(sidebolt.address, version, "anybody", shown).await;
            assert_eq!(client.value("ok | who").await, "service".into());
            if token.is_some() {
                let answer = attempt(&sidebolt, version, "anybody", "wrong").await;
                assert_eq!(answer.code(), UNAUTHORIZED);
                assert!(answer.text().starts_with("Sidebolt: "), "{answer:?}");
            }
        }
        if token.is_some() {
            // A bearer token is the same thing.
            let mut client = Client::connect(sidebolt.address, Version::V5_8).await.unwrap();
            let bearer = map([("scheme", Value::from("bearer")), ("credentials", "open sesame".into())]);
            let answers = client.ask(&[hello(Version::V5_8, "", ""), message(Tag::LOGON, &[bearer])]).await;
            assert!(answers.iter().all(Answer::is_success), "{answers:?}");
            assert_eq!(client.value("ok | who").await, "service".into());
        }
        sidebolt.at_rest().await;
    }
    let shown = format!("{:?}", peer.log());
    assert!(!shown.contains("open sesame") && !shown.contains("whatever"), "clients' tokens stay here");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_of_sidebolts_own_share_an_account_and_keep_their_names() {
    let peer = service_peer().await;
    let sidebolt = Sidebolt::start(peer.address, |config| {
        serve_as_service(config);
        config.auth.users = Some(config::Users::parse("ada:one\nbob:two\n").expect("two users"));
        config.pool.max_connection_pool_size = 1;
        config.guard.rules = vec![Rule {
            action: Action::Deny,
            reason: None,
            when: When {
                principal: Some("bob".to_owned()),
                text: Some("sleep".to_owned()),
                ..When::default()
            },
        }];
    })
    .await;
    for version in [Version::V4_4, Version::V5_0, Version::V5_8, Version::V6_1] {
        for (name, password) in
            [("ada", "two"), ("ada", ""), ("eve", "one"), ("service", "secret"), ("", "one")]
        {
            let answer = attempt(&sidebolt, version, name, password).await;
            assert_eq!(answer.code(), UNAUTHORIZED, "{name} {password}");
            assert!(answer.text().starts_with("Sidebolt: "), "{answer:?}");
        }
        let mut ada = Client::login(sidebolt.address, version, "ada", "one").await;
        let mut bob = Client::login(sidebolt.address, version, "bob", "two").await;
        assert_eq!(ada.value("ok | who").await, "service".into());
        assert_eq!(bob.value("ok | who").await, "service".into());
        assert!(ada.query("ok | sleep 1").await.is_ok());
        assert_eq!(bob.ask(&[run("ok | sleep 1"), pull_all()]).await[0].code(), FORBIDDEN);
        drop((ada, bob));
        sidebolt.at_rest().await;
    }
    let shown = format!("{:?}", peer.log());
    for secret in ["one", "two", "ada", "bob"] {
        assert!(!shown.contains(&format!("\"{secret}\"")), "{secret} stays here: {shown}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_user_keeps_connections_warm() {
    let peer = service_peer().await;
    let sidebolt = Sidebolt::start(peer.address, |config| {
        serve_as_service(config);
        config.pool.min_idle = 3;
    })
    .await;
    // The warm ones are of the version that clients last used.
    assert!(Client::login(sidebolt.address, Version::V5_8, "a", "b").await.query("RETURN 1").await.is_ok());
    within_async(PATIENCE, "three connections are warm", || async { sidebolt.pool().await.1 >= 3 }).await;
}
