//! Appends PackStream values to a buffer, each in its shortest form.

use bytes::{BufMut, BytesMut};

/// Appends null.
pub fn null(out: &mut BytesMut) {
    out.put_u8(0xC0);
}

/// Appends a boolean.
pub fn boolean(value: bool, out: &mut BytesMut) {
    out.put_u8(if value { 0xC3 } else { 0xC2 });
}

/// Appends an integer.
pub fn integer(value: i64, out: &mut BytesMut) {
    if let Ok(small) = i8::try_from(value) {
        if small < -16 {
            out.put_u8(0xC8);
        }
        out.put_i8(small);
    } else if let Ok(value) = i16::try_from(value) {
        out.put_u8(0xC9);
        out.put_i16(value);
    } else if let Ok(value) = i32::try_from(value) {
        out.put_u8(0xCA);
        out.put_i32(value);
    } else {
        out.put_u8(0xCB);
        out.put_i64(value);
    }
}

/// Appends a float.
pub fn float(value: f64, out: &mut BytesMut) {
    out.put_u8(0xC1);
    out.put_f64(value);
}

/// Appends a string.
pub fn string(value: &str, out: &mut BytesMut) {
    header(value.len(), Some(0x80), [0xD0, 0xD1, 0xD2], out);
    out.put_slice(value.as_bytes());
}

/// Appends bytes.
pub fn bytes(value: &[u8], out: &mut BytesMut) {
    header(value.len(), None, [0xCC, 0xCD, 0xCE], out);
    out.put_slice(value);
}

/// Appends the head of a list; its items follow.
pub fn list_header(items: usize, out: &mut BytesMut) {
    header(items, Some(0x90), [0xD4, 0xD5, 0xD6], out);
}

/// Appends the head of a map; its keys and values follow.
pub fn map_header(entries: usize, out: &mut BytesMut) {
    header(entries, Some(0xA0), [0xD8, 0xD9, 0xDA], out);
}

/// Appends the head of a struct (at most 15 fields); its fields follow.
pub fn struct_header(signature: u8, fields: u8, out: &mut BytesMut) {
    debug_assert!(fields < 16, "PackStream structs have at most 15 fields");
    out.put_slice(&[0xB0 | (fields & 0x0F), signature]);
}

/// Appends a UUID (Bolt 6.1).
pub fn uuid(value: [u8; 16], out: &mut BytesMut) {
    out.put_u8(super::UUID);
    out.put_slice(&value);
}

fn header(length: usize, tiny: Option<u8>, markers: [u8; 3], out: &mut BytesMut) {
    let [small, medium, large] = markers;
    match (tiny, u8::try_from(length), u16::try_from(length)) {
        (Some(tiny), Ok(length @ 0..16), _) => out.put_u8(tiny | length),
        (_, Ok(length), _) => out.put_slice(&[small, length]),
        (_, _, Ok(length)) => {
            out.put_u8(medium);
            out.put_u16(length);
        }
        _ => {
            debug_assert!(u32::try_from(length).is_ok(), "PackStream sizes have 32 bits");
            out.put_u8(large);
            out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        }
    }
}
