//! What a read asks, as far as the cache is concerned: everything that tells one answer from another.

use std::sync::Arc;

use bolt_wire::chunk::{self, Extent};
use bolt_wire::message::Run;
use bolt_wire::packstream::MapView;
use bytes::BytesMut;
use tokio::time::Instant;

use super::Session;
use super::errand::bookmarks;
use super::hints::CacheHint;
use crate::cache::{Ledger, Question, Source};
use crate::matching::Asked;
use crate::statement::Statement;
use crate::upstream::{Access, Need, Principal};

/// Larger parameters are not looked into.
const PARAMETERS: usize = 64 << 10;
/// Keys of RUN's or BEGIN's metadata that an answer does not depend on.
const INDIFFERENT: [&str; 4] = ["bookmarks", "mode", "tx_timeout", "tx_metadata"];

impl Session {
    /// What the RUN at the start of `inbuf` asks, if an answer to it may be kept.
    pub(super) fn question(&self, wire: &[u8], extent: Extent, begin: Option<&[u8]>) -> Option<Question> {
        let asked = Instant::now();
        let config = self.shared.config.load();
        if extent.payload > PARAMETERS || self.hints.cache == Some(CacheHint::Off) || !config.cache.enabled {
            return None;
        }
        // Whoever's credentials are to be proved anew goes to Neo4j for it.
        let principal =
            self.principal.as_ref().filter(|principal| principal.is_proved(config.auth.cache_ttl))?;
        let mut scratch = BytesMut::new();
        let payload = chunk::payload(wire, extent, &mut scratch);
        let run = Run::parse(payload).ok()?;
        let statement = self.shared.coalescer.statements.get(run.text);
        if !statement.reads_only
            || statement.keeps(run.parameters).is_err()
            || !self.shared.upstream.is_single()
        {
            return None;
        }
        if begin.is_some() && !run.extra.is_empty() {
            return None;
        }
        let extra = match begin {
            Some(begin) => MapView::parse(begin).ok()?,
            None => run.extra,
        };
        if !is_well_formed(&extra) {
            return None;
        }
        let source = self.source_of(principal, extra.string("db"))?;
        let reached = newest_own(&extra, source.ledger().as_deref())?;
        let key = self.answer_key(&statement, &extra, run.parameters, begin.is_some())?;
        let database = self.database(&extra);
        let asking = Asked {
            statement: Some(&statement),
            reads: extra.string("mode") == Some("r"),
            principal: &principal.name,
            address: Some(self.registration.address()),
            application: self.application(&extra),
            database: database.as_deref(),
        };
        let mut policy = self.shared.cache.policy(&config, &asking)?;
        if let Some(CacheHint::Fresh(consistency)) = self.hints.cache {
            policy.consistency = consistency;
        }
        Some(Question { key, statement, source, reached, asked, policy })
    }

    /// Where readings of that database come from; none if there are too many.
    fn source_of(&self, principal: &Arc<Principal>, database: Option<&str>) -> Option<Arc<Source>> {
        if let Some(known) = self.reads.source(principal, database) {
            return Some(Arc::clone(known));
        }
        let need = || Need {
            key: Arc::clone(&self.key),
            principal: Arc::clone(principal),
            access: Access { database: database.map(Into::into), ..Access::default() },
        };
        self.shared.cache.source(need, &principal.id, database)
    }

    /// Everything that makes one answer another's.
    fn answer_key(
        &self,
        statement: &Statement,
        extra: &MapView<'_>,
        parameters: &[u8],
        in_transaction: bool,
    ) -> Option<Vec<u8>> {
        let principal = self.principal.as_ref()?;
        let version = self.version();
        let filter = &self.profile.filter;
        let mut key = Vec::with_capacity(96 + filter.len() + parameters.len());
        key.extend_from_slice(&principal.id);
        let read = extra.string("mode") == Some("r");
        key.extend_from_slice(&[
            version.major,
            version.minor,
            u8::from(self.key.utc),
            u8::from(read),
            u8::from(in_transaction),
        ]);
        key.extend_from_slice(&statement.id.to_be_bytes());
        key.extend_from_slice(&(filter.len() as u32).to_be_bytes());
        key.extend_from_slice(filter);
        for (name, value) in extra.iter().filter(|(name, _)| !INDIFFERENT.contains(name)) {
            if !matches!(name, "db" | "imp_user") && !name.starts_with("notifications_") {
                return None;
            }
            put_entry(name, value, &mut key);
        }
        key.push(0xFF);
        let mut entries: Vec<(&str, &[u8])> = MapView::parse(parameters).ok()?.iter().collect();
        if !entries.is_sorted() {
            entries.sort_unstable();
        }
        for (name, value) in entries {
            put_entry(name, value, &mut key);
        }
        Some(key)
    }
}

/// The newest id of a database among the metadata's bookmarks; of any database, while it is not known which one it is. `None` if they
/// are not what Sidebolt can read.
pub(super) fn newest_own(extra: &MapView<'_>, ledger: Option<&Ledger>) -> Option<Option<i64>> {
    let bookmarks = bookmarks(extra)?;
    let own = bookmarks.iter().filter(|own| ledger.is_none_or(|ledger| ledger.database == own.database));
    Some(own.map(|bookmark| bookmark.transaction).max())
}

/// Whether what the key of an answer leaves out is as Neo4j wants it. If not, Neo4j is to say so.
pub(super) fn is_well_formed(extra: &MapView<'_>) -> bool {
    extra.iter().all(|(name, _)| match name {
        "mode" => matches!(extra.string(name), Some("r" | "w")),
        "tx_timeout" => extra.integer(name).is_some_and(|timeout| timeout >= 0),
        "tx_metadata" => extra.map(name).is_some(),
        _ => true,
    })
}

fn put_entry(name: &str, value: &[u8], key: &mut Vec<u8>) {
    key.extend_from_slice(&(name.len() as u32).to_be_bytes());
    key.extend_from_slice(name.as_bytes());
    key.extend_from_slice(&(value.len() as u32).to_be_bytes());
    key.extend_from_slice(value);
}
