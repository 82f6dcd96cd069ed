//! Writes JSON objects key by key, in the given order and dialect.

use super::Dialect;
use super::object::snake_case;
use crate::crypto::B64;
use base64::Engine as _;

/// An object being written.
pub(super) struct Writer<'o> {
    out: &'o mut Vec<u8>,
    dialect: Dialect,
    first: bool,
}

/// Writes `{…}` around what `body` puts in.
pub(super) fn object(out: &mut Vec<u8>, dialect: Dialect, body: impl FnOnce(&mut Writer<'_>)) {
    out.push(b'{');
    body(&mut Writer { out, dialect, first: true });
    out.push(b'}');
}

impl Writer<'_> {
    /// A member whose value `value` writes; it runs once per spelling of the key.
    pub(super) fn member(&mut self, key: &str, value: impl Fn(&mut Vec<u8>)) {
        self.key(key.bytes());
        value(self.out);
        if self.dialect == Dialect::Both && key.bytes().any(|byte| byte.is_ascii_uppercase()) {
            self.key(snake_case(key));
            value(self.out);
        }
    }

    pub(super) fn str(&mut self, key: &str, text: &str) {
        self.member(key, |out| string(out, text));
    }

    pub(super) fn str_if(&mut self, key: &str, text: &str) {
        if !text.is_empty() {
            self.str(key, text);
        }
    }

    pub(super) fn int(&mut self, key: &str, value: impl Into<i128>) {
        let text = value.into().to_string();
        self.member(key, |out| out.extend_from_slice(text.as_bytes()));
    }

    pub(super) fn int_if(&mut self, key: &str, value: impl Into<i128>) {
        let value = value.into();
        if value != 0 {
            self.int(key, value);
        }
    }

    /// A 64-bit id as a string of digits (§11.1).
    pub(super) fn id(&mut self, key: &str, value: impl Into<i128>) {
        self.str(key, &value.into().to_string());
    }

    /// The member `key: true`, when `on`.
    pub(super) fn bool_if(&mut self, key: &str, on: bool) {
        if on {
            self.member(key, |out| out.extend_from_slice(b"true"));
        }
    }

    pub(super) fn b64(&mut self, key: &str, bytes: &[u8]) {
        self.member(key, |out| {
            let start = out.len();
            out.push(b'"');
            out.resize(start + 1 + bytes.len().div_ceil(3) * 4, 0);
            let place = out.get_mut(start + 1..).unwrap_or_default();
            let len = B64.encode_slice(bytes, place).unwrap_or(0);
            out.truncate(start + 1 + len);
            out.push(b'"');
        });
    }

    pub(super) fn object(&mut self, key: &str, body: impl Fn(&mut Writer<'_>)) {
        let dialect = self.dialect;
        self.member(key, |out| object(out, dialect, &body));
    }

    fn key(&mut self, key: impl Iterator<Item = u8>) {
        if !self.first {
            self.out.push(b',');
        }
        self.first = false;
        self.out.push(b'"');
        self.out.extend(key);
        self.out.extend_from_slice(b"\":");
    }
}

/// Writes a JSON string.
pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..=0x1f => {
                let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
                out.extend_from_slice(b"\\u00");
                out.extend([digit(byte >> 4), digit(byte & 0xf)]);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}
