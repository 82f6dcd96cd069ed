//! PROXY protocol headers, versions 1 and 2 (§2.4).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::limits::PROXY_V1_BYTES_MAX;

const V1_START: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// What the first bytes of a connection say about a PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proxy {
    /// No header starts here.
    Absent,
    /// A header may start here, or has started, and is incomplete. It will take at most [`crate::limits::PROXY_V2_BYTES_MAX`] bytes.
    NeedMore,
    /// A whole header.
    Header {
        /// Its bytes.
        consumed: usize,
        /// The client's address; `None` when the header does not say (LOCAL, UNKNOWN, UNSPEC): then the socket's address holds.
        source: Option<SocketAddr>,
    },
    /// A header that is wrong: close.
    Invalid,
}

/// Reads a PROXY header at the start of `bytes`. Whether the peer may send one is for the caller to decide.
#[must_use]
pub fn parse(bytes: &[u8]) -> Proxy {
    if bytes.is_empty() {
        return Proxy::NeedMore;
    }
    match (starts(bytes, V1_START), starts(bytes, V2_SIGNATURE)) {
        (Some(true), _) => v1(bytes),
        (_, Some(true)) => v2(bytes),
        (None, _) | (_, None) => Proxy::NeedMore,
        _ => Proxy::Absent,
    }
}

/// Does `bytes` start with `start`? `None` while it agrees but is too short to say.
fn starts(bytes: &[u8], start: &[u8]) -> Option<bool> {
    if bytes.len() >= start.len() {
        return Some(bytes.starts_with(start));
    }
    if start.starts_with(bytes) { None } else { Some(false) }
}

fn v1(bytes: &[u8]) -> Proxy {
    let window = bytes.get(..PROXY_V1_BYTES_MAX).unwrap_or(bytes);
    let Some(line_len) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if window.len() < PROXY_V1_BYTES_MAX { Proxy::NeedMore } else { Proxy::Invalid };
    };
    let line = window.get(V1_START.len()..line_len).and_then(|line| std::str::from_utf8(line).ok());
    let Some(line) = line else { return Proxy::Invalid };
    match v1_source(line) {
        Some(source) => Proxy::Header { consumed: line_len + 2, source },
        None => Proxy::Invalid,
    }
}

/// The address in what follows `PROXY `: the outer `None` is a wrong line, the inner one an unknown source.
fn v1_source(line: &str) -> Option<Option<SocketAddr>> {
    let mut words = line.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(None);
    }
    let (source, target): (IpAddr, IpAddr) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let (source_port, _target_port) = (port(words.next()?)?, port(words.next()?)?);
    let right_family = match family {
        "TCP4" => source.is_ipv4() && target.is_ipv4(),
        "TCP6" => source.is_ipv6() && target.is_ipv6(),
        _ => false,
    };
    (right_family && words.next().is_none()).then_some(Some(SocketAddr::new(source, source_port)))
}

/// A port in decimal digits only.
fn port(word: &str) -> Option<u16> {
    if word.bytes().all(|byte| byte.is_ascii_digit()) { word.parse().ok() } else { None }
}

fn v2(bytes: &[u8]) -> Proxy {
    let Some(&[command, family, len_high, len_low]) = bytes.get(V2_SIGNATURE.len()..).and_then(|rest| rest.first_chunk()) else {
        return Proxy::NeedMore;
    };
    let local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Proxy::Invalid,
    };
    let start = V2_SIGNATURE.len() + 4;
    let consumed = start + usize::from(u16::from_be_bytes([len_high, len_low]));
    let Some(rest) = bytes.get(start..consumed) else { return Proxy::NeedMore };
    if local {
        return Proxy::Header { consumed, source: None };
    }
    let source = match family {
        0x11 => v2_tcp4(rest),
        0x21 => v2_tcp6(rest),
        _ => return Proxy::Header { consumed, source: None },
    };
    match source {
        Some(source) => Proxy::Header { consumed, source: Some(source) },
        None => Proxy::Invalid,
    }
}

/// Source address, target address, source port, target port; TLVs may follow.
fn v2_tcp4(rest: &[u8]) -> Option<SocketAddr> {
    let (source, rest) = rest.split_first_chunk::<4>()?;
    let (_target, rest) = rest.split_first_chunk::<4>()?;
    Some(SocketAddr::new(Ipv4Addr::from(*source).into(), v2_ports(rest)?))
}

fn v2_tcp6(rest: &[u8]) -> Option<SocketAddr> {
    let (source, rest) = rest.split_first_chunk::<16>()?;
    let (_target, rest) = rest.split_first_chunk::<16>()?;
    Some(SocketAddr::new(Ipv6Addr::from(*source).into(), v2_ports(rest)?))
}

/// The source port, when both ports are there.
fn v2_ports(rest: &[u8]) -> Option<u16> {
    let [high, low, _, _] = *rest.first_chunk::<4>()?;
    Some(u16::from_be_bytes([high, low]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_at_every_cut_and_then_agrees() {
        let v1: &[u8] = b"PROXY TCP4 203.0.113.7 10.0.0.1 51234 5100\r\n";
        let v2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0e\xcb\x00\x71\x07\x0a\x00\x00\x01\xc8\x22\x13\xec\x04\x00";
        for header in [v1, v2] {
            for cut in 0..header.len() {
                assert_eq!(parse(&header[..cut]), Proxy::NeedMore, "{cut}");
            }
            let source = Some("203.0.113.7:51234".parse().unwrap());
            assert_eq!(parse(header), Proxy::Header { consumed: header.len(), source });
        }
    }

    #[test]
    fn refuses_wrong_headers() {
        let long = [b"PROXY TCP4 ".as_slice(), &[b'1'; 107]].concat();
        let cases: [&[u8]; 8] = [
            &long,
            b"PROXY TCP4 ::1 ::1 1 2\r\n",
            b"PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n",
            b"PROXY TCP4 1.1.1.1 1.1.1.1 1 2 3\r\n",
            b"PROXY TCP4 1.1.1.1 1.1.1.1 +1 2\r\n",
            b"PROXY UDP4 1.1.1.1 1.1.1.1 1 2\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x31\x11\x00\x00",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x04\x01\x01\x01\x01",
        ];
        for case in cases {
            assert_eq!(parse(case), Proxy::Invalid, "{case:?}");
        }
    }

    #[test]
    fn keeps_the_socket_address_of_other_families() {
        assert_eq!(parse(b"PROXY UNKNOWN a b c\r\n"), Proxy::Header { consumed: 21, source: None });
        assert_eq!(parse(b"\r\n\r\n\0\r\nQUIT\n\x21\x31\x00\x02abc"), Proxy::Header { consumed: 18, source: None });
    }
}
