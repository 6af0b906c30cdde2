//! What the guard is told by a session, and what it lets pass.  [hot path]

use super::Session;

impl Session {
    /// Neo4j has answered the running exchange for the first time, with this code if it failed.
    pub(super) fn count_call(&mut self, failure: Option<&str>) {
        if std::mem::replace(&mut self.exchange.answered, true)
            || !self.shared.config.load().breaker.counts_shares()
        {
            return;
        }
        if let Some(lease) = &self.lease {
            lease.pool().counted(failure, self.exchange.leased.elapsed());
        }
    }
}
