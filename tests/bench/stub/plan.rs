//! What the stub answers to a statement: everything is built once, when the text is first seen.

use std::time::Duration;

use bolt_wire::Tag;
use bolt_wire::packstream::{Value, value};
use bytes::{Bytes, BytesMut};

/// Records are sent in blocks of about this size.
const BLOCK: usize = 256 * 1024;
/// Largest value that may be asked for.
const LARGEST: usize = 1 << 30;

/// The answer to one statement.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// SUCCESS to RUN.
    pub(crate) run_success: Bytes,
    /// One record.
    pub(crate) record: Bytes,
    /// As many records as make a block.
    pub(crate) block: Bytes,
    /// How many records `block` holds.
    pub(crate) per_block: u64,
    /// Records of the whole result.
    pub(crate) records: u64,
    /// Wait before the answer to PULL.
    pub(crate) delay: Duration,
}

/// What a statement asks the stub for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Wish {
    records: u64,
    size: Option<usize>,
    delay: Duration,
}

impl Plan {
    /// Reads `stub:key=value,…`; any other statement is answered with one record that holds the number 1.
    pub(crate) fn of(text: &str) -> Result<Self, String> {
        let wish = match text.strip_prefix("stub:") {
            Some(wish) => Wish::parse(wish)?,
            None => Wish::DEFAULT,
        };
        let mut run_success = BytesMut::new();
        let fields = Value::List(vec!["1".into()]);
        let meta = Value::map([("t_first", 0.into()), ("fields", fields)]);
        value::put_message(Tag::SUCCESS.0, &[meta], &mut run_success);
        let content = wish.size.map_or(Value::Integer(1), |size| "x".repeat(size).into());
        let mut record = BytesMut::new();
        value::put_message(Tag::RECORD.0, &[Value::List(vec![content])], &mut record);
        let record = record.freeze();
        let per_block = (BLOCK / record.len()).clamp(1, 10_000) as u64;
        let block = if wish.records < per_block {
            record.clone()
        } else {
            Bytes::from(record.repeat(usize::try_from(per_block).unwrap_or(1)))
        };
        let per_block = if block.len() == record.len() { 1 } else { per_block };
        let run_success = run_success.freeze();
        Ok(Self { run_success, record, block, per_block, records: wish.records, delay: wish.delay })
    }
}

impl Wish {
    const DEFAULT: Self = Self { records: 1, size: None, delay: Duration::ZERO };

    fn parse(text: &str) -> Result<Self, String> {
        let mut wish = Self::DEFAULT;
        for pair in text.split(',').filter(|pair| !pair.is_empty()) {
            let (key, given) = pair.split_once('=').ok_or_else(|| format!("{pair:?} is not key=value"))?;
            match key {
                "records" => {
                    wish.records = given.parse().map_err(|_| format!("records={given}: not a number"))?;
                }
                "size" => wish.size = Some(size(given)?),
                "value" => (wish.records, wish.size) = (1, Some(size(given)?)),
                "delay" => wish.delay = delay(given)?,
                _ => return Err(format!("{key}: the stub knows records, size, value and delay")),
            }
        }
        Ok(wish)
    }
}

fn size(text: &str) -> Result<usize, String> {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("", 1)];
    let found = units.iter().find_map(|(unit, bytes)| {
        let number: usize = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*bytes).filter(|size| *size <= LARGEST)
    });
    found.ok_or_else(|| format!("{text}: not a size up to 1GiB such as 100, 64KiB or 40MiB"))
}

fn delay(text: &str) -> Result<Duration, String> {
    let units = [("us", 1), ("ms", 1_000), ("s", 1_000_000)];
    let found = units.iter().find_map(|(unit, micros)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*micros).map(Duration::from_micros)
    });
    found.ok_or_else(|| format!("{text}: not a time such as 500us, 5ms or 1s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_read() {
        let wish = |text| Wish::parse(text);
        assert_eq!(wish(""), Ok(Wish::DEFAULT));
        let stream = Wish { records: 1_000_000, size: Some(100), delay: Duration::ZERO };
        assert_eq!(wish("records=1000000,size=100"), Ok(stream));
        let big = Wish { records: 1, size: Some(40 << 20), delay: Duration::from_millis(5) };
        assert_eq!(wish("value=40MiB,delay=5ms"), Ok(big));
        for wrong in ["rows=1", "records=x", "size=2GiB", "size=-1", "delay=5", "records"] {
            assert!(wish(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn blocks_hold_whole_records() {
        for (text, records) in
            [("RETURN 1", 1), ("stub:records=0", 0), ("stub:records=1000000,size=100", 1_000_000)]
        {
            let plan = Plan::of(text).unwrap();
            assert_eq!(plan.records, records);
            assert_eq!(plan.block.len() as u64, plan.per_block * plan.record.len() as u64);
        }
        let big = Plan::of("stub:value=40MiB").unwrap();
        assert!(big.per_block == 1 && big.record.len() > 40 << 20);
    }
}
