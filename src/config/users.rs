//! `auth.users_file`: users of Sidebolt's own, for `auth.mode: service`.

use std::collections::BTreeMap;

/// Names and what stands for their passwords. The passwords themselves are not kept.
#[derive(Clone, Default, PartialEq)]
pub struct Users(BTreeMap<String, blake3::Hash>);

impl Users {
    /// Reads lines of `name:password`; empty ones and those that begin with `#` are left out. The error says which line is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut users = BTreeMap::new();
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            if line.starts_with('#') {
                continue;
            }
            let wrong = |what: &str| format!("line {}: {what}", at + 1);
            let (name, password) = line.split_once(':').ok_or_else(|| wrong("has no `:`"))?;
            if name.is_empty() || name.trim() != name {
                return Err(wrong("a name is empty or has space around it"));
            }
            if password.is_empty() {
                return Err(wrong("a password is empty"));
            }
            if users.insert(name.to_owned(), blake3::hash(password.as_bytes())).is_some() {
                return Err(wrong("names a user again"));
            }
        }
        if users.is_empty() { Err("names no user".to_owned()) } else { Ok(Self(users)) }
    }

    /// Whether this user has this password. The time taken says nothing about either.
    pub(crate) fn knows(&self, name: &str, password: &str) -> bool {
        let shown = blake3::hash(password.as_bytes());
        // Hashes are compared in constant time; a user who is not there costs the same.
        let (known, nobody) = (self.0.get(name), blake3::Hash::from_bytes([0; 32]));
        (*known.unwrap_or(&nobody) == shown) & known.is_some()
    }
}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_a_password_of_its_own() {
        let users = Users::parse("# who may come in\n\nada:a:b \r\nbob:x\n").expect("two users");
        assert!(users.knows("ada", "a:b ") && users.knows("bob", "x"));
        for (name, password) in
            [("ada", "x"), ("bob", "a:b "), ("eve", ""), ("", ""), ("ada", "a:b"), ("#", "x")]
        {
            assert!(!users.knows(name, password), "{name} {password}");
        }
        assert_eq!(format!("{users:?}"), r#"{"ada", "bob"}"#, "nothing of a password in debug output");
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, error) in [
            ("", "names no user"),
            ("# nobody\n", "names no user"),
            ("ada:x\nbob\n", "line 2: has no `:`"),
            ("ada:x\n\nada:y\n", "line 3: names a user again"),
            (":x", "line 1: a name is empty or has space around it"),
            (" ada:x", "line 1: a name is empty or has space around it"),
            ("ada:", "line 1: a password is empty"),
        ] {
            assert_eq!(Users::parse(text), Err(error.to_owned()));
        }
    }
}
