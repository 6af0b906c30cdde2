//! The Bolt handshake: magic, four classic slots, manifest v1. Both sides.

use bytes::{BufMut, BytesMut};

use crate::error::DecodeError;
use crate::version::Version;

/// The first four bytes of every Bolt connection.
pub const MAGIC: [u8; 4] = [0x60, 0x60, 0xB0, 0x17];
/// The slot, and the server's answer, that selects manifest v1.
pub const MANIFEST_V1: [u8; 4] = [0x00, 0x00, 0x01, 0xFF];
/// The server's answer when no slot fits.
pub const NO_VERSION: [u8; 4] = [0; 4];

/// What a server makes of a client's four slots.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Choice {
    /// Answer this version's four bytes and go on.
    Classic(Version),
    /// Answer a manifest and read the client's choice from it.
    Manifest,
    /// Answer four zero bytes and close.
    Nothing,
    /// Close without an answer (a range that is longer than its minor version).
    Malformed,
}

/// Chooses as Neo4j does: the first slot that fits wins, and within a range the highest minor version.
/// One malformed slot spoils all four, wherever it stands; a slot's first byte is not looked at.
pub fn choose(slots: &[u8; 16], offered: &[Version]) -> Choice {
    let slots = slots.as_chunks::<4>().0;
    if slots.iter().any(|[_, range, minor, _]| range > minor) {
        return Choice::Malformed;
    }
    for slot in slots {
        if *slot == MANIFEST_V1 {
            return Choice::Manifest;
        }
        let [_, range, minor, major] = *slot;
        let fits = |v: &&Version| v.major == major && (minor - range..=minor).contains(&v.minor);
        if let Some(version) = offered.iter().filter(fits).max() {
            return Choice::Classic(*version);
        }
    }
    Choice::Nothing
}

/// The four bytes that name a version in an answer.
pub fn version_bytes(version: Version) -> [u8; 4] {
    [0, 0, version.minor, version.major]
}

/// The version that four answer bytes name.
pub fn version_from_bytes(bytes: [u8; 4]) -> Option<Version> {
    match bytes {
        [0, 0, 0, 0] => None,
        [0, 0, minor, major] => Some(Version::new(major, minor)),
        _ => None,
    }
}

/// Magic and slots that ask for exactly one version.
pub fn request_exactly(version: Version) -> [u8; 20] {
    let mut request = [0; 20];
    request[..4].copy_from_slice(&MAGIC);
    request[4..8].copy_from_slice(&version_bytes(version));
    request
}

/// Magic and slots that ask for the manifest, or for the newest version where the server knows no manifest.
pub fn request_manifest() -> [u8; 20] {
    let mut request = [0; 20];
    request[..4].copy_from_slice(&MAGIC);
    request[4..8].copy_from_slice(&MANIFEST_V1);
    request[8..12].copy_from_slice(&[0, 8, 8, 5]);
    request[12..16].copy_from_slice(&[0, 0, 4, 4]);
    request
}

/// Appends the server's manifest: the marker, the version ranges (oldest first) and no capabilities.
pub fn write_manifest(offered: &[Version], out: &mut BytesMut) {
    let ranges = ranges(offered);
    out.put_slice(&MANIFEST_V1);
    write_varint(ranges.len() as u64, out);
    for (version, range) in ranges {
        out.put_slice(&[0, range, version.minor, version.major]);
    }
    write_varint(0, out);
}

/// Contiguous minor versions as (highest, how many below).
fn ranges(offered: &[Version]) -> Vec<(Version, u8)> {
    let mut sorted = offered.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let mut ranges: Vec<(Version, u8)> = Vec::new();
    for version in sorted {
        match ranges.last_mut() {
            Some((last, range)) if last.major == version.major && version.minor - last.minor == 1 => {
                *last = version;
                *range += 1;
            }
            _ => ranges.push((version, 0)),
        }
    }
    ranges
}

/// Reads the server's manifest after its marker. `Ok(None)` = more bytes are needed.
/// Gives the versions that this crate speaks too, and the bytes used.
pub fn read_manifest(buf: &[u8]) -> Result<Option<(Vec<Version>, usize)>, DecodeError> {
    let Some((count, mut at)) = read_varint(buf)? else { return Ok(None) };
    if count > 64 {
        return Err(DecodeError::BadHandshake);
    }
    let mut versions = Vec::new();
    for _ in 0..count {
        let Some(&[_, range, minor, major]) = buf.get(at..).and_then(|rest| rest.first_chunk::<4>()) else {
            return Ok(None);
        };
        at += 4;
        let lowest = minor.checked_sub(range).ok_or(DecodeError::BadHandshake)?;
        versions.extend((lowest..=minor).map(|m| Version::new(major, m)).filter(|v| v.is_known()));
    }
    let Some((_capabilities, used)) = read_varint(buf.get(at..).unwrap_or_default())? else {
        return Ok(None);
    };
    versions.sort_unstable();
    versions.dedup();
    Ok(Some((versions, at + used)))
}

/// Reads the client's answer to a manifest that offered no capabilities. `Ok(None)` = more bytes are needed.
pub fn read_manifest_choice(
    buf: &[u8],
    offered: &[Version],
) -> Result<Option<(Version, usize)>, DecodeError> {
    let Some(&[_, range, minor, major]) = buf.first_chunk::<4>() else { return Ok(None) };
    let Some((capabilities, used)) = read_varint(&buf[4..])? else { return Ok(None) };
    let version = Version::new(major, minor);
    if range != 0 || capabilities != 0 || !offered.contains(&version) {
        return Err(DecodeError::BadHandshake);
    }
    Ok(Some((version, 4 + used)))
}

/// LEB128.
fn write_varint(mut value: u64, out: &mut BytesMut) {
    loop {
        let low = (value & 0x7F) as u8;
        value >>= 7;
        if value == 0 {
            out.put_u8(low);
            return;
        }
        out.put_u8(low | 0x80);
    }
}

/// LEB128; at most nine bytes are followed.
fn read_varint(buf: &[u8]) -> Result<Option<(u64, usize)>, DecodeError> {
    let mut value = 0u64;
    for (at, byte) in buf.iter().enumerate() {
        if at == 9 {
            return Err(DecodeError::BadHandshake);
        }
        value |= u64::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((value, at + 1)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(slots: &[[u8; 4]]) -> [u8; 16] {
        let mut all = [0; 16];
        for (to, from) in all.as_chunks_mut::<4>().0.iter_mut().zip(slots) {
            *to = *from;
        }
        all
    }

    /// What Neo4j 5.26.30 (to 5.8) and 2026.08.1 (to 6.1) were seen to answer.
    #[test]
    fn slots_are_chosen_as_neo4j_chooses() {
        let a: Vec<Version> = Version::ALL.into_iter().filter(|v| *v <= Version::V5_8).collect();
        let b = Version::ALL;
        let c = |v| Choice::Classic(v);
        let table: &[(&[[u8; 4]], Choice, Choice)] = &[
            (&[[0, 0, 4, 4]], c(Version::V4_4), c(Version::V4_4)),
            (&[[0, 0, 0, 3]], Choice::Nothing, Choice::Nothing),
            (&[[0, 0, 8, 5]], c(Version::V5_8), c(Version::V5_8)),
            (&[[0, 0, 5, 5]], Choice::Nothing, Choice::Nothing),
            (&[[0, 1, 5, 5]], c(Version::new(5, 4)), c(Version::new(5, 4))),
            (&[[0, 9, 9, 5]], c(Version::V5_8), c(Version::V5_8)),
            (&[[0, 0, 9, 5]], Choice::Nothing, Choice::Nothing),
            (&[[0, 0, 0, 6]], Choice::Nothing, c(Version::V6_0)),
            (&[[0, 2, 2, 6]], Choice::Nothing, c(Version::V6_1)),
            (&[[0, 0, 4, 4], [0, 0, 8, 5]], c(Version::V4_4), c(Version::V4_4)),
            (&[[0, 8, 4, 5]], Choice::Malformed, Choice::Malformed),
            (&[[0, 0, 2, 0xFF]], Choice::Nothing, Choice::Nothing),
            (&[[0, 0, 2, 0xFF], MANIFEST_V1, [0, 0, 4, 5]], Choice::Manifest, Choice::Manifest),
        ];
        for (given, on_a, on_b) in table {
            assert_eq!(choose(&slots(given), &a), *on_a, "{given:x?}");
            assert_eq!(choose(&slots(given), &b), *on_b, "{given:x?}");
        }
    }

    #[test]
    fn the_manifest_is_the_servers_own_but_for_versions_before_4_4() {
        let mut out = BytesMut::new();
        write_manifest(&Version::ALL, &mut out);
        let expected = [0, 0, 1, 0xFF, 4, 0, 0, 4, 4, 0, 4, 4, 5, 0, 2, 8, 5, 0, 1, 1, 6, 0];
        assert_eq!(out[..], expected);
        let (versions, used) = read_manifest(&out[4..]).unwrap().unwrap();
        assert_eq!((versions.as_slice(), used), (Version::ALL.as_slice(), out.len() - 4));
        for cut in 4..out.len() {
            assert_eq!(read_manifest(&out[4..cut]), Ok(None));
        }
    }

    #[test]
    fn a_manifest_choice_must_have_been_offered() {
        let offered = &Version::ALL;
        assert_eq!(read_manifest_choice(&[0, 0, 1, 6, 0], offered), Ok(Some((Version::V6_1, 5))));
        assert_eq!(read_manifest_choice(&[0, 0, 1, 6], offered), Ok(None));
        for bad in [[0, 0, 5, 5, 0], [0, 0, 1, 6, 1], [0, 1, 1, 6, 0]] {
            assert_eq!(read_manifest_choice(&bad, offered), Err(DecodeError::BadHandshake));
        }
        assert_eq!(read_varint(&[0x80; 10]), Err(DecodeError::BadHandshake));
    }
}
