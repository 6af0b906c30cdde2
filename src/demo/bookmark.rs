//! Bookmarks in the form of Neo4j Community: `FB:` and the base64 of `91 CC 10 <database id> <transaction id> 90`.

use bolt_wire::message::Failure;
use bolt_wire::packstream::{Value, Walker};

/// Makes and reads the bookmarks of one database.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bookmarks {
    database: [u8; 16],
}

impl Bookmarks {
    /// The bookmarks of a new database.
    pub(super) fn new() -> Self {
        Self { database: fastrand::u128(..).to_be_bytes() }
    }

    /// The bookmark of a commit.
    pub(super) fn write(&self, commit: u64) -> String {
        let mut bytes = vec![0x91, 0xCC, 0x10];
        bytes.extend(self.database);
        bytes.extend(Value::Integer(i64::try_from(commit).unwrap_or(i64::MAX)).to_bytes());
        bytes.push(0x90);
        format!("FB:{}", encode(&bytes))
    }

    /// Checks the bookmarks of a request against the newest commit. Those of other databases do not count, as in Neo4j.
    pub(super) fn check(&self, given: Option<&Value>, newest: u64) -> Result<(), Failure> {
        let Some(Value::List(given)) = given else { return Ok(()) };
        for bookmark in given {
            let text = bookmark.as_str().unwrap_or_default();
            let Some((database, commit)) = read(text) else {
                let code = "Neo.ClientError.Transaction.InvalidBookmark";
                return Err(Failure::new(
                    code,
                    "08N12",
                    format!("Parsing of supplied bookmarks failed: {text}"),
                ));
            };
            if database == self.database && commit > newest {
                let code = "Neo.TransientError.Transaction.BookmarkTimeout";
                let message = format!("Database is at transaction {newest}, not yet at bookmark {commit}");
                return Err(Failure::new(code, "08N13", message));
            }
        }
        Ok(())
    }
}

fn read(text: &str) -> Option<([u8; 16], u64)> {
    let bytes = decode(text.strip_prefix("FB:")?)?;
    let database = *bytes.strip_prefix(&[0x91, 0xCC, 0x10])?.first_chunk::<16>()?;
    let mut walker = Walker::new(bytes.get(19..)?);
    let commit = u64::try_from(walker.integer().ok()?).ok()?;
    (walker.rest() == [0x90]).then_some((database, commit))
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn encode(bytes: &[u8]) -> String {
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |all, b| all << 8 | u32::from(*b)) << (8 * (3 - group.len()));
        for at in 0..4 {
            let index = (bits >> (18 - 6 * at)) & 63;
            let letter = ALPHABET.get(index as usize).copied().unwrap_or(b'=');
            out.push(if at <= group.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let letters = text.trim_end_matches('=').as_bytes();
    let mut out = Vec::with_capacity(letters.len() * 3 / 4);
    for group in letters.chunks(4) {
        let mut bits = 0u32;
        for letter in group {
            bits = bits << 6 | u32::try_from(ALPHABET.iter().position(|l| l == letter)?).ok()?;
        }
        let bytes = (bits << (6 * (4 - group.len()))).to_be_bytes();
        out.extend(bytes.get(1..group.len())?);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bookmarks: &Bookmarks, text: &str, newest: u64) -> Option<&'static str> {
        let given = Value::List(vec![text.into()]);
        bookmarks.check(Some(&given), newest).err().map(|failure| failure.code)
    }

    #[test]
    fn bookmarks_are_read_as_they_were_written() {
        let bookmarks = Bookmarks::new();
        for commit in [0, 1, 15, 127, 128, 40_000, u64::from(u32::MAX) * 7] {
            let text = bookmarks.write(commit);
            assert_eq!(read(&text), Some((bookmarks.database, commit)));
            assert_eq!(check(&bookmarks, &text, commit), None);
        }
        let ahead = bookmarks.write(9);
        assert_eq!(check(&bookmarks, &ahead, 8), Some("Neo.TransientError.Transaction.BookmarkTimeout"));
        assert_eq!(check(&bookmarks, &Bookmarks { database: [7; 16] }.write(9), 8), None);
        for bad in ["", "FB:", "FB:!!!!", "neo4j:bookmark:v1:tx42", &ahead[..ahead.len() - 3]] {
            assert_eq!(check(&bookmarks, bad, 8), Some("Neo.ClientError.Transaction.InvalidBookmark"));
        }
    }

    #[test]
    fn base64_is_base64() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode(text).as_deref(), Some(bytes.as_bytes()));
        }
    }
}
