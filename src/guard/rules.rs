//! Who may run what: `guard.rules` and `guard.read_only`.

use crate::config::{self, Action};
use crate::failure::Refusal;
use crate::matching::{Asked, Doubt, Rules};
use crate::statement::Class;

/// The rules of one configuration.
pub(crate) struct Access {
    rules: Rules,
    list: Box<[Listed]>,
    read_only: bool,
}

/// A rule besides its `when`.
struct Listed {
    action: Action,
    /// It can be decided before the text is known.
    textless: bool,
    name: String,
}

impl Access {
    pub(super) fn new(guard: &config::Guard) -> Self {
        let doubt = |rule: &config::Rule| match rule.action {
            Action::Allow => Doubt::Fails,
            Action::Deny | Action::ReadOnly => Doubt::Holds,
        };
        let listed = |(at, rule): (usize, &config::Rule)| Listed {
            action: rule.action,
            textless: Rules::needs_no_text(&rule.when),
            name: rule.reason.clone().unwrap_or_else(|| format!("guard.rules[{at}]")),
        };
        Self {
            rules: Rules::new(guard.rules.iter().map(|rule| (&rule.when, doubt(rule)))),
            list: guard.rules.iter().enumerate().map(listed).collect(),
            read_only: guard.read_only,
        }
    }

    /// True if everybody may do everything.
    pub(crate) fn is_off(&self) -> bool {
        self.list.is_empty() && !self.read_only
    }

    /// Whether a request may run, and if so whether it may only read. A request whose text is not known yet is not refused for what it
    /// might be.
    pub(crate) fn judge(&self, asked: &Asked<'_>) -> Result<bool, Refusal> {
        let mut read_only = self.read_only;
        let holding = self.rules.holding(asked);
        // A rule about the text, which is not known yet, may allow it.
        let mut perhaps_allowed = false;
        for (at, rule) in self.list.iter().enumerate() {
            let open = asked.statement.is_none() && !rule.textless;
            perhaps_allowed |= open && rule.action == Action::Allow;
            if open || holding & 1 << at == 0 {
                continue;
            }
            match rule.action {
                Action::ReadOnly => read_only = true,
                Action::Allow => break,
                Action::Deny if perhaps_allowed => {}
                Action::Deny => return Err(Refusal::Denied { rule: rule.name.clone() }),
            }
        }
        if read_only
            && asked.statement.is_some_and(|statement| matches!(statement.class, Class::Write { .. }))
        {
            return Err(Refusal::ReadOnly);
        }
        Ok(read_only)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Guard, Rule, When};
    use crate::statement::Statement;

    fn rule(action: Action, change: impl FnOnce(&mut When)) -> Rule {
        let mut when = When::default();
        change(&mut when);
        Rule { action, reason: None, when }
    }

    fn verdict(access: &Access, text: Option<&str>, principal: &str) -> &'static str {
        let statement = text.map(Statement::parse);
        let asked = Asked { statement: statement.as_ref(), principal, ..Asked::default() };
        match access.judge(&asked) {
            Ok(false) => "ok",
            Ok(true) => "reads",
            Err(Refusal::Denied { .. }) => "denied",
            Err(_) => "write",
        }
    }

    fn access(rules: Vec<Rule>) -> Access {
        Access::new(&Guard { rules, ..Guard::default() })
    }

    #[test]
    fn the_first_rule_that_holds_decides() {
        let access = access(vec![
            rule(Action::Allow, |w| w.principal = Some("admin".to_owned())),
            rule(Action::Deny, |w| w.label = Some("Secret".to_owned())),
            rule(Action::ReadOnly, |w| w.principal = Some("report*".to_owned())),
        ]);
        for (text, principal, expected) in [
            (Some("MATCH (n:Secret) RETURN n"), "admin", "ok"),
            (Some("MATCH (n:Secret) RETURN n"), "ada", "denied"),
            (Some("MATCH (n:$($l)) RETURN n"), "ada", "denied"),
            (Some("MATCH (n:Open) RETURN n"), "ada", "ok"),
            (Some("MATCH (n:Open) RETURN n"), "reporter", "reads"),
            (Some("CREATE (:Open)"), "reporter", "write"),
            (Some("CREATE (:Open)"), "ada", "ok"),
            (None, "ada", "ok"),
            (None, "reporter", "reads"),
        ] {
            assert_eq!(verdict(&access, text, principal), expected, "{text:?} {principal}");
        }
    }

    #[test]
    fn an_allow_list_allows_only_what_is_on_it() {
        let access = access(vec![
            rule(Action::Allow, |w| w.text = Some("^MATCH".to_owned())),
            rule(Action::Allow, |w| w.label = Some("Open".to_owned())),
            rule(Action::Deny, |_| ()),
        ]);
        assert_eq!(verdict(&access, Some("MATCH (n) RETURN n"), "ada"), "ok");
        assert_eq!(verdict(&access, Some("CREATE (:Open)"), "ada"), "ok");
        assert_eq!(verdict(&access, Some("CREATE (:$($l))"), "ada"), "denied");
        assert_eq!(verdict(&access, None, "ada"), "ok", "BEGIN waits for the text");
    }
}
