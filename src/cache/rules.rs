//! `cache.rules`: what is wanted of an answer, where that is not what `cache` says for all.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;

use crate::config::{self, CacheRule, Config, Consistency, Store};
use crate::matching::{Asked, Doubt, Rules};

/// How fresh an answer has to be, and whether it is worth its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub(crate) consistency: Consistency,
    pub(crate) max_staleness: Duration,
    pub(crate) ttl: Duration,
    /// It is kept from its first use on, however cheap it is.
    pub(crate) always: bool,
}

impl Policy {
    /// What holds where no rule does.
    fn of(config: &config::Cache) -> Self {
        let config::Cache { consistency, max_staleness, ttl, .. } = *config;
        Self { consistency, max_staleness, ttl, always: false }
    }

    /// With what a rule changes; `None`: nothing is kept.
    fn with(self, rule: &CacheRule) -> Option<Self> {
        (rule.store != Store::Never).then(|| Self {
            consistency: rule.consistency.unwrap_or(self.consistency),
            max_staleness: rule.max_staleness.unwrap_or(self.max_staleness),
            ttl: rule.ttl.unwrap_or(self.ttl),
            always: rule.store == Store::Always,
        })
    }
}

/// The rules of the configuration in force, compiled when they are first needed.
#[derive(Debug, Default)]
pub(super) struct Policies {
    compiled: ArcSwapOption<Compiled>,
}

#[derive(Debug)]
struct Compiled {
    config: Arc<Config>,
    rules: Rules,
}

impl Policies {
    /// What is wanted of an answer; `None`: none is kept.
    pub(super) fn of(&self, config: &Arc<Config>, asked: &Asked<'_>) -> Option<Policy> {
        let usual = Policy::of(&config.cache);
        if config.cache.rules.is_empty() {
            return Some(usual);
        }
        let known = self.compiled.load();
        let holding = match known.as_ref().filter(|known| Arc::ptr_eq(&known.config, config)) {
            Some(known) => known.rules.holding(asked),
            None => {
                let rules = Rules::new(config.cache.rules.iter().map(|rule| (&rule.when, doubt(rule))));
                let holding = rules.holding(asked);
                self.compiled.store(Some(Arc::new(Compiled { config: Arc::clone(config), rules })));
                holding
            }
        };
        match config.cache.rules.get(holding.trailing_zeros() as usize) {
            Some(rule) => usual.with(rule),
            None => Some(usual),
        }
    }
}

/// What a rule makes of a text of which nobody knows which labels it names.
fn doubt(rule: &CacheRule) -> Doubt {
    let restricts = rule.store == Store::Never || rule.consistency == Some(Consistency::Strict);
    if restricts { Doubt::Holds } else { Doubt::Fails }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::When;
    use crate::statement::Statement;

    #[test]
    fn the_first_rule_that_holds_decides() {
        let label = |name: &str| When { label: Some(name.to_owned()), ..When::default() };
        let mut config = Config::default();
        config.cache.rules = vec![
            CacheRule { when: label("Secret"), store: Store::Never, ..CacheRule::default() },
            CacheRule {
                when: label("Airport"),
                store: Store::Always,
                consistency: Some(Consistency::Ttl),
                ttl: Some(Duration::from_secs(5)),
                ..CacheRule::default()
            },
            CacheRule { when: label("Airport"), store: Store::Never, ..CacheRule::default() },
        ];
        let policies = Policies::default();
        let policy = |config: &Arc<Config>, text: &str| {
            let statement = Statement::parse(text);
            policies.of(config, &Asked { statement: Some(&statement), ..Asked::default() })
        };
        let config = Arc::new(config);
        assert!(policy(&config, "MATCH (n:Secret) RETURN n.x").is_none());
        assert!(policy(&config, "MATCH (n:Secret), (m:Airport) RETURN n.x").is_none());
        let airport = policy(&config, "MATCH (n:Airport) RETURN n.x").unwrap();
        assert_eq!(
            (airport.consistency, airport.ttl, airport.always),
            (Consistency::Ttl, Duration::from_secs(5), true)
        );
        let other = policy(&config, "RETURN 1").unwrap();
        assert_eq!((other.consistency, other.always), (Consistency::Strict, false));
        // Who knows which label that is.
        assert!(policy(&config, "MATCH (n:$($label)) RETURN n.x").is_none());
        // Another configuration.
        let plain = Arc::new(Config::default());
        assert!(policy(&plain, "MATCH (n:Secret) RETURN n.x").is_some());
    }
}
