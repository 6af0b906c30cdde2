//! Who a client is: its credentials, and since when Neo4j has vouched for them.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bolt_wire::Version;
use bolt_wire::packstream::{MapView, Value};
use parking_lot::Mutex;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::config::Auth;

/// The keys of LOGON (and of HELLO up to 5.0) that are credentials.
pub(crate) const AUTH_KEYS: [&str; 5] = ["scheme", "principal", "credentials", "realm", "parameters"];

/// Identities known at once; beyond that those proved longest ago are forgotten (they only have to be proved again).
const KNOWN: usize = 10_000;

/// Characters of a user's name that are kept.
const LONGEST_NAME: usize = 256;

/// One set of credentials.
pub(crate) struct Principal {
    /// Keyed hash of the credentials; equal credentials share a principal.
    pub(crate) id: [u8; 32],
    /// The same of those that Neo4j gets: several users of Sidebolt's own share one account there.
    pub(crate) account: [u8; 32],
    /// The user's name, for logs and metrics.
    pub(crate) name: String,
    /// The credentials as a PackStream map, as the client sent them.
    token: Zeroizing<Vec<u8>>,
    /// What Neo4j has said of the account.
    proof: Arc<Mutex<Proof>>,
}

#[derive(Default)]
struct Proof {
    since: Option<Instant>,
    logon: HashMap<Version, Arc<[u8]>>,
}

impl Principal {
    /// The credentials as a PackStream map.
    pub(crate) fn token(&self) -> &[u8] {
        &self.token
    }

    /// True if Neo4j accepted the credentials within the last `ttl`.
    pub(crate) fn is_proved(&self, ttl: Duration) -> bool {
        self.proof.lock().since.is_some_and(|since| since.elapsed() < ttl)
    }

    /// The metadata of LOGON's SUCCESS for `version`, if the credentials are proved.
    pub(crate) fn logon(&self, version: Version, ttl: Duration) -> Option<Arc<[u8]>> {
        let proof = self.proof.lock();
        proof.since.filter(|since| since.elapsed() < ttl).and_then(|_| proof.logon.get(&version).cloned())
    }

    /// Neo4j accepted the credentials just now and answered LOGON with `meta`.
    pub(crate) fn prove(&self, version: Version, meta: &[u8]) {
        let mut proof = self.proof.lock();
        proof.since = Some(Instant::now());
        if proof.logon.get(&version).is_none_or(|known| **known != *meta) {
            proof.logon.insert(version, meta.into());
        }
    }

    /// Neo4j refused the credentials, or something made them doubtful: they must be proved again.
    pub(crate) fn doubt(&self) {
        self.proof.lock().since = None;
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principal").field("name", &self.name).finish_non_exhaustive()
    }
}

/// All principals that clients have shown.
pub(crate) struct Identities {
    key: [u8; 32],
    known: Mutex<HashMap<[u8; 32], Arc<Principal>>>,
}

impl Default for Identities {
    fn default() -> Self {
        let mut key = [0; 32];
        // The hash only has to be unguessable for as long as this process lives.
        let mut seed = std::hash::DefaultHasher::new();
        for part in key.chunks_mut(8) {
            use std::hash::{BuildHasher, Hasher};
            seed.write_u64(std::hash::RandomState::new().hash_one(std::process::id()));
            part.copy_from_slice(&seed.finish().to_ne_bytes());
        }
        Self { key, known: Mutex::default() }
    }
}

impl Identities {
    /// The principal behind the credentials in `map` (LOGON's map, or HELLO's up to 5.0).
    pub(crate) fn principal(&self, map: &MapView<'_>) -> Arc<Principal> {
        let id = self.hash(map);
        self.find(id, || Principal {
            id,
            account: id,
            name: map.string("principal").unwrap_or_default().chars().take(LONGEST_NAME).collect(),
            token: token(map),
            proof: Arc::default(),
        })
    }

    fn find(&self, id: [u8; 32], make: impl FnOnce() -> Principal) -> Arc<Principal> {
        let mut known = self.known.lock();
        if let Some(principal) = known.get(&id) {
            return Arc::clone(principal);
        }
        if known.len() >= KNOWN {
            forget_oldest(&mut known);
        }
        let principal = Arc::new(make());
        known.insert(id, Arc::clone(&principal));
        principal
    }

    /// The principal of `auth.username` and `auth.password`.
    pub(crate) fn service(&self, auth: &Auth) -> Arc<Principal> {
        let text = |value: Option<&str>| Value::from(value.unwrap_or_default());
        let password = auth.password.as_ref().map(|secret| secret.0.as_str());
        let map = Value::map([
            ("scheme", "basic".into()),
            ("principal", text(auth.username.as_deref())),
            ("credentials", text(password)),
        ]);
        let bytes = Zeroizing::new(map.to_bytes());
        self.principal(&MapView::parse(&bytes).unwrap_or(MapView::EMPTY))
    }

    /// A user of `auth.users_file`: the account of `auth.username` under a name of its own.
    pub(crate) fn user(&self, auth: &Auth, name: &str) -> Arc<Principal> {
        let service = self.service(auth);
        let id = *blake3::Hasher::new_keyed(&service.account).update(name.as_bytes()).finalize().as_bytes();
        self.find(id, || Principal {
            id,
            account: service.account,
            name: name.chars().take(LONGEST_NAME).collect(),
            token: service.token.clone(),
            proof: Arc::clone(&service.proof),
        })
    }

    /// The principal that Neo4j has accepted last.
    pub(crate) fn proved_last(&self) -> Option<Arc<Principal>> {
        let known = self.known.lock();
        let proved = known.values().filter_map(|principal| Some((principal.proof.lock().since?, principal)));
        proved.max_by_key(|(since, _)| *since).map(|(_, principal)| Arc::clone(principal))
    }

    fn hash(&self, map: &MapView<'_>) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        for key in AUTH_KEYS {
            let value = map.get(key).unwrap_or_default();
            hasher.update(&(value.len() as u64).to_le_bytes());
            hasher.update(value);
        }
        *hasher.finalize().as_bytes()
    }
}

/// The credentials alone, as a map.
fn token(map: &MapView<'_>) -> Zeroizing<Vec<u8>> {
    let entries = || AUTH_KEYS.iter().filter_map(|key| Some((*key, map.get(key)?)));
    let size = entries().map(|(key, value)| key.len() + value.len() + 2).sum::<usize>() + 1;
    // Reserved at once: a growing vector would leave copies of the secret behind.
    let mut token = Zeroizing::new(Vec::with_capacity(size));
    token.push(0xA0 | entries().count() as u8);
    for (key, value) in entries() {
        token.push(0x80 | key.len() as u8);
        token.extend_from_slice(key.as_bytes());
        token.extend_from_slice(value);
    }
    token
}

/// Makes room: half of what is known goes, the longest unproved first.
fn forget_oldest(known: &mut HashMap<[u8; 32], Arc<Principal>>) {
    let mut ages: Vec<_> = known.iter().map(|(id, principal)| (principal.proof.lock().since, *id)).collect();
    ages.sort_unstable();
    for (_, id) in ages.iter().take(KNOWN / 2) {
        known.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(identities: &Identities, entries: &[(&str, &str)]) -> Arc<Principal> {
        let bytes = Value::map(entries.iter().map(|(k, v)| (*k, (*v).into()))).to_bytes();
        identities.principal(&MapView::parse(&bytes).unwrap())
    }

    #[test]
    fn equal_credentials_are_one_principal_whatever_their_order() {
        let identities = Identities::default();
        let a = principal(&identities, &[("scheme", "basic"), ("principal", "a"), ("credentials", "x")]);
        let b = principal(
            &identities,
            &[("principal", "a"), ("credentials", "x"), ("scheme", "basic"), ("user_agent", "z")],
        );
        let c = principal(&identities, &[("scheme", "basic"), ("principal", "a"), ("credentials", "y")]);
        let d = principal(&identities, &[("scheme", "basic"), ("principal", "ax"), ("credentials", "")]);
        assert!(Arc::ptr_eq(&a, &b));
        assert!(!Arc::ptr_eq(&a, &c) && !Arc::ptr_eq(&a, &d));
        assert_eq!(MapView::parse(a.token()).unwrap().string("credentials"), Some("x"));
        assert!(!format!("{a:?}").contains('x'), "no credential in debug output");
    }

    #[tokio::test(start_paused = true)]
    async fn a_proof_ages() {
        let ttl = Duration::from_secs(60);
        let principal = principal(&Identities::default(), &[("scheme", "none")]);
        assert!(!principal.is_proved(ttl));
        principal.prove(Version::V5_8, &[0xA0]);
        assert!(principal.is_proved(ttl));
        assert!(
            principal.logon(Version::V5_8, ttl).is_some() && principal.logon(Version::V6_0, ttl).is_none()
        );
        tokio::time::advance(ttl).await;
        assert!(!principal.is_proved(ttl) && principal.logon(Version::V5_8, ttl).is_none());
        principal.prove(Version::V5_8, &[0xA0]);
        principal.doubt();
        assert!(!principal.is_proved(ttl));
    }

    #[test]
    fn what_is_known_is_bounded() {
        let identities = Identities::default();
        for i in 0..KNOWN + 5 {
            principal(&identities, &[("scheme", "basic"), ("principal", &i.to_string())]);
        }
        assert!(identities.known.lock().len() <= KNOWN);
    }
}
