//! Lines of the file as they may be shown in an error: without anything that is or may be a secret.

use super::error::meant;
use super::schema::keys;

/// Longest line that is shown, in bytes.
const MAX_SHOWN: usize = 200;

/// A line of the file to show, without anything that is or may be a secret.
pub(super) fn excerpt(source: &str, line: usize) -> Option<String> {
    let lines: Vec<&str> = source.lines().take(line).collect();
    let shown = lines.get(line.checked_sub(1)?)?.trim_end();
    if shown.trim().is_empty() {
        return None;
    }
    // A secret may also be a block of lines below its key: then the nearest line with less indentation is the key.
    let depth = |line: &str| line.len() - line.trim_start().len();
    let mut above = lines.iter().rev().skip(1).filter(|line| !line.trim().is_empty());
    let parent = above.find(|line| depth(line) < depth(shown)).map_or("", |line| line.trim_start());
    let inside_secret = known_secret(parent.split(':').next().unwrap_or_default());
    (!inside_secret && shown.len() <= MAX_SHOWN).then(|| without_values(shown))
}

/// A key whose value must not be shown, also if it is misspelt.
fn known_secret(name: &str) -> bool {
    let name = name.trim_matches([' ', '"', '\'', '-', '{', ',']);
    let named = |secret: bool| {
        keys().iter().filter(move |key| key.secret == secret).filter_map(|key| key.path.rsplit('.').next())
    };
    !named(false).any(|known| known == name) && meant(name, named(true)).is_some()
}

/// A line with what follows a secret's key replaced, and credentials in URIs too.
fn without_values(line: &str) -> String {
    for (index, _) in line.match_indices(':') {
        let name = line[..index].rsplit(['{', ',', ' ']).next().unwrap_or_default();
        // A section of secrets that is one value is most likely one of them.
        let value = line[index + 1..].trim_start();
        let stray = name == "auth" && !value.is_empty() && !value.starts_with(['{', '[', '#']);
        if stray || known_secret(name) {
            return format!("{}: ***", &line[..index]);
        }
    }
    match line.split_once("://") {
        Some((before, after)) if after.contains('@') => {
            let host = after.rsplit_once('@').map_or("", |(_, host)| host);
            format!("{before}://***@{host}")
        }
        _ => line.to_owned(),
    }
}
