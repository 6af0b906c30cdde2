//! Which requests are traced, and under whose span: W3C's `traceparent`.

/// A span of the client's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Parent {
    pub(crate) trace: [u8; 16],
    pub(crate) span: [u8; 8],
}

/// Whether a request is traced.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Choice {
    /// It is not.
    #[default]
    No,
    /// It begins a trace.
    Begins,
    /// It is a part of its client's trace.
    Under(Parent),
}

/// Chooses by the client's `traceparent`; without one that can be read, by chance.
pub(crate) fn choose(traceparent: Option<&str>, sample: f64) -> Choice {
    match traceparent.and_then(read) {
        Some((parent, true)) => Choice::Under(parent),
        Some((_, false)) => Choice::No,
        // Of 0 and 1 both are meant exactly.
        None if fastrand::f64() < sample => Choice::Begins,
        None => Choice::No,
    }
}

/// `00-<trace>-<span>-<flags>` and whether it is sampled. Later versions may have more behind it.
fn read(text: &str) -> Option<(Parent, bool)> {
    let mut parts = text.trim().split('-');
    let [version] = bytes::<1>(parts.next()?)?;
    let trace = bytes::<16>(parts.next()?)?;
    let span = bytes::<8>(parts.next()?)?;
    let [flags] = bytes::<1>(parts.next()?)?;
    let more = parts.next().is_some();
    let is_right = version != 0xff && !(version == 0 && more) && trace != [0; 16] && span != [0; 8];
    is_right.then_some((Parent { trace, span }, flags & 1 == 1))
}

/// Lower-case hexadecimal digits.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut found = [0; N];
    for (byte, pair) in found.iter_mut().zip(digits.chunks(2)) {
        for digit in pair {
            let digit = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            *byte = *byte << 4 | digit;
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn a_traceparent_decides() {
        let parent = Parent {
            trace: 0x4bf92f3577b34da6a3ce929d0e0e4736_u128.to_be_bytes(),
            span: 0x00f067aa0ba902b7_u64.to_be_bytes(),
        };
        for (text, expected) in [
            (format!("00-{TRACE}-{SPAN}-01"), Choice::Under(parent)),
            (format!("00-{TRACE}-{SPAN}-03"), Choice::Under(parent)),
            (format!("cc-{TRACE}-{SPAN}-01-more"), Choice::Under(parent)),
            (format!("00-{TRACE}-{SPAN}-00"), Choice::No),
        ] {
            for sample in [0.0, 1.0] {
                assert_eq!(choose(Some(&text), sample), expected, "{text}");
            }
        }
    }

    #[test]
    fn without_one_that_can_be_read_chance_decides() {
        let zero = "0".repeat(32);
        for text in [
            String::new(),
            "x".to_owned(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{zero}-{SPAN}-01"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}ä-{SPAN}-01"),
        ] {
            assert_eq!(choose(Some(&text), 1.0), Choice::Begins, "{text}");
            assert_eq!(choose(Some(&text), 0.0), Choice::No, "{text}");
        }
        let chosen = (0..100_000).filter(|_| choose(None, 0.1) == Choice::Begins).count();
        assert!((9_000..11_000).contains(&chosen), "{chosen}");
    }
}
