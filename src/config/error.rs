//! What is wrong with a configuration, where, and what to do about it.

use std::fmt;
use std::path::PathBuf;

/// Most errors that one look at a configuration reports.
pub(super) const MAX_ERRORS: usize = 20;

/// How a source on the command line is introduced.
pub(super) const COMMAND_LINE: &str = "command line";

/// One thing wrong with the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, when the fault is in it.
    pub file: Option<PathBuf>,
    /// Line in `file`, from 1; 0 = the file as a whole.
    pub line: usize,
    /// Column in `line`, from 1.
    pub column: usize,
    /// The environment variable or command-line flag, when the fault is there.
    pub source: Option<String>,
    /// Dotted key, such as `pool.min_idle`; empty when no key is concerned.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
    /// The line of the file, without secrets.
    pub excerpt: Option<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}", file.display())?;
            if self.line > 0 {
                write!(f, ":{}:{}", self.line, self.column)?;
            }
            f.write_str(": ")?;
        } else if let Some(source) = &self.source {
            write!(f, "{source}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        if let Some(excerpt) = &self.excerpt {
            let number = self.line.to_string();
            let margin = " ".repeat(number.len());
            // Tabs are kept, so that the caret stands below its column on any terminal.
            let before = excerpt.chars().take(self.column.saturating_sub(1));
            let indent: String = before.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            write!(f, "\n  {number} | {excerpt}\n  {margin} | {indent}^")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Longest key or message, in characters.
const MAX_TEXT: usize = 300;

/// Longest word that is compared with the known ones; the rest of a longer one does not count.
const MAX_COMPARED: usize = 100;

/// Everything wrong with a configuration, in the order of the file, then environment, then command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// At most twenty are kept; `errors` must not be empty.
    pub(super) fn new(mut errors: Vec<ConfigError>) -> Self {
        debug_assert!(!errors.is_empty(), "an error report needs an error");
        let flag = |e: &ConfigError| e.source.as_ref().is_some_and(|source| source.starts_with(COMMAND_LINE));
        errors.sort_by_key(|e| (e.file.is_none(), flag(e), e.line, e.column));
        errors.dedup();
        errors.truncate(MAX_ERRORS);
        for error in &mut errors {
            clip(&mut error.key);
            clip(&mut error.message);
        }
        Self(errors)
    }

    /// The errors one by one.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Cuts a text that repeats something endless.
fn clip(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(MAX_TEXT) {
        text.truncate(end);
        text.push('…');
    }
}

/// The candidate with the fewest edits from `word`, and their number.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<(&'a str, usize)> {
    let measured = candidates.into_iter().map(|candidate| (candidate, edits(word, candidate)));
    measured.min_by_key(|&(_, edits)| edits)
}

/// As `nearest`, but only if it is near enough to be what was meant.
pub(crate) fn meant<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (candidate, edits) = nearest(word, candidates)?;
    (edits <= (word.chars().count() / 3).max(2) && edits < candidate.len()).then_some(candidate)
}

/// Insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b` (case is free).
fn edits(a: &str, b: &str) -> usize {
    let letters =
        |text: &str| text.chars().take(MAX_COMPARED).flat_map(char::to_lowercase).collect::<Vec<char>>();
    let (a, b) = (letters(a), letters(b));
    let mut older = Vec::new();
    let mut old: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut cost = (old[j] + usize::from(x != y)).min(old[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                cost = cost.min(older[j - 1] + 1);
            }
            row.push(cost);
        }
        older = std::mem::replace(&mut old, row);
    }
    old[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        for (a, b, n) in
            [("", "", 0), ("abc", "", 3), ("pool", "Pool", 0), ("pol", "pool", 1), ("polo", "pool", 1)]
        {
            assert_eq!((edits(a, b), edits(b, a)), (n, n), "{a} {b}");
        }
        assert_eq!(meant("adress", ["address", "tls"]), Some("address"));
        assert_eq!(meant("x", ["address", "tls"]), None);
    }

    #[test]
    fn a_caret_stands_below_its_column() {
        let error = ConfigError {
            file: Some("proxy.yaml".into()),
            line: 12,
            column: 3,
            key: "pool.min".into(),
            message: "no such key".into(),
            hint: Some("did you mean `min_idle`?".into()),
            excerpt: Some("  min: 3".into()),
            ..ConfigError::default()
        };
        let shown = "proxy.yaml:12:3: pool.min: no such key\n  12 |   min: 3\n     |   ^\n  hint: did you mean `min_idle`?";
        assert_eq!(error.to_string(), shown);
    }

    #[test]
    fn reports_are_ordered_and_bounded() {
        let at = |line| ConfigError { file: Some("f".into()), line, ..ConfigError::default() };
        let flag = ConfigError { source: Some("--set".into()), ..ConfigError::default() };
        let report = ConfigErrors::new(vec![flag.clone(), at(2), at(1), at(2)]);
        assert_eq!(report.0, [at(1), at(2), flag]);
        assert_eq!(ConfigErrors::new((1..100).map(at).collect()).iter().count(), MAX_ERRORS);
    }
}
