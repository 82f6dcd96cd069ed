//! What a new connection speaks, decided once from its first bytes (§2.4, §2.5).

use std::net::SocketAddr;

use crate::limits::LEADING_SPACE_BYTES_MAX;
use crate::proxy::{self, Proxy};

/// What to do about PROXY headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProxyMode {
    /// Read one when it is there.
    #[default]
    Auto,
    /// Treat one like any other unknown start: close. Also for peers that are not trusted, and after a header was read.
    Off,
    /// Close without one.
    Required,
}

/// What is allowed on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// PROXY headers.
    pub proxy: ProxyMode,
    /// JSON-RPC is allowed (`disableJSONRPC` is false).
    pub json: bool,
}

impl Default for Options {
    /// PROXY headers when they are there, JSON-RPC allowed.
    fn default() -> Self {
        Self { proxy: ProxyMode::Auto, json: true }
    }
}

/// The decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detect {
    /// The bytes so far do not say. At most [`crate::limits::PROXY_V2_BYTES_MAX`] bytes are needed.
    NeedMore,
    /// A PROXY header: drop `consumed` bytes, then decide again with [`ProxyMode::Off`].
    Proxy {
        /// Bytes of the header.
        consumed: usize,
        /// The client's address, when the header says it.
        source: Option<SocketAddr>,
    },
    /// JSON-RPC, after `skip` bytes of white space.
    Json {
        /// Bytes of white space.
        skip: usize,
    },
    /// A CONNECT starts here.
    Binary,
    /// None of these is possible or allowed: close.
    Close,
}

/// Decides from all bytes that a connection has sent so far.
///
/// For WebSocket listeners: [`proxy::parse`] before the upgrade, then this function with [`ProxyMode::Off`] on the payload bytes.
#[must_use]
pub fn detect(bytes: &[u8], options: Options) -> Detect {
    if options.proxy != ProxyMode::Off {
        match proxy::parse(bytes) {
            Proxy::NeedMore => return Detect::NeedMore,
            Proxy::Header { consumed, source } => return Detect::Proxy { consumed, source },
            Proxy::Invalid => return Detect::Close,
            Proxy::Absent if options.proxy == ProxyMode::Required => return Detect::Close,
            Proxy::Absent => {}
        }
    }
    let skip = bytes.iter().take_while(|byte| is_space(**byte)).count();
    match bytes.get(skip) {
        _ if skip > LEADING_SPACE_BYTES_MAX => Detect::Close,
        None => Detect::NeedMore,
        Some(b'{') if options.json => Detect::Json { skip },
        Some(0x10..=0x1f) if skip == 0 => Detect::Binary,
        Some(_) => Detect::Close,
    }
}

/// JSON's white space.
pub(crate) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFF: Options = Options { proxy: ProxyMode::Off, json: true };

    #[test]
    fn first_bytes_decide() {
        let auto = Options::default();
        let cases: [(&[u8], Detect); 11] = [
            (b"", Detect::NeedMore),
            (b"\x10", Detect::Binary),
            (b"{", Detect::Json { skip: 0 }),
            (b"\r\n  {\"a\"", Detect::Json { skip: 4 }),
            (b"\r\n", Detect::NeedMore),
            (b"\r\n\r\n{", Detect::Json { skip: 4 }),
            (b"PRO", Detect::NeedMore),
            (b"PUT /", Detect::Close),
            (b"\x70", Detect::Close),
            (b" \x10", Detect::Close),
            (b"PROXY UNKNOWN\r\n\x10", Detect::Proxy { consumed: 15, source: None }),
        ];
        for (bytes, expected) in cases {
            assert_eq!(detect(bytes, auto), expected, "{bytes:?}");
        }
    }

    #[test]
    fn options_close_what_they_forbid() {
        assert_eq!(detect(b"{", Options { json: false, ..OFF }), Detect::Close);
        assert_eq!(detect(b"PROXY UNKNOWN\r\n\x10", OFF), Detect::Close);
        assert_eq!(detect(b"\x10", Options { proxy: ProxyMode::Required, json: true }), Detect::Close);
        assert_eq!(detect(&[b' '; LEADING_SPACE_BYTES_MAX + 1], OFF), Detect::Close);
    }
}
