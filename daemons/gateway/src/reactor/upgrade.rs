//! HTTP upgrade to WebSocket, sans I/O (RFC 6455 §4.2; wire protocol §2.3, §2.4).

use std::net::IpAddr;

use crate::limits::{UPGRADE_BYTES_MAX, UPGRADE_HEADERS_MAX};

/// What a request head says.
#[derive(Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// The head is incomplete.
    NeedMore,
    /// Answer with these bytes and go on with WebSocket frames after `consumed` bytes.
    Accept {
        /// Bytes of the head.
        consumed: usize,
        /// `101 Switching Protocols`.
        response: Vec<u8>,
        /// Address of the client as a proxy in front of us says.
        forwarded: Option<Box<str>>,
    },
    /// Answer with these bytes and close.
    Refuse(&'static str),
}

const BAD_REQUEST: &str = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
const UPGRADE_REQUIRED: &str = "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n\
    Sec-WebSocket-Version: 13\r\nContent-Length: 0\r\n\r\n";

/// Reads the head at the start of `bytes`. `trust_headers`: the peer may name the client's address.
#[must_use]
pub fn parse(bytes: &[u8], trust_headers: bool) -> Upgrade {
    let mut headers = [httparse::EMPTY_HEADER; UPGRADE_HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let window = bytes.get(..UPGRADE_BYTES_MAX).unwrap_or(bytes);
    let consumed = match request.parse(window) {
        Ok(httparse::Status::Complete(consumed)) => consumed,
        Ok(httparse::Status::Partial) if window.len() < UPGRADE_BYTES_MAX => return Upgrade::NeedMore,
        Ok(httparse::Status::Partial) | Err(_) => return Upgrade::Refuse(BAD_REQUEST),
    };
    let asks = request.method == Some("GET")
        && request.version == Some(1)
        && has_token(request.headers, "Upgrade", "websocket")
        && has_token(request.headers, "Connection", "upgrade");
    if !asks || header(request.headers, "Sec-WebSocket-Version") != Some("13") {
        return Upgrade::Refuse(UPGRADE_REQUIRED);
    }
    let Some(key) = header(request.headers, "Sec-WebSocket-Key").filter(|key| key.len() == 24) else {
        return Upgrade::Refuse(BAD_REQUEST);
    };
    let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
    let response =
        format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n")
            .into_bytes();
    let forwarded = if trust_headers { forwarded(request.headers) } else { None };
    Upgrade::Accept { consumed, response, forwarded }
}

/// Value of the first header with this name.
fn header<'h>(headers: &[httparse::Header<'h>], name: &str) -> Option<&'h str> {
    let header = headers.iter().find(|h| h.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(header.value).ok().map(str::trim)
}

/// True when one of the headers with this name lists the token.
fn has_token(headers: &[httparse::Header<'_>], name: &str, token: &str) -> bool {
    headers
        .iter()
        .filter(|h| h.name.eq_ignore_ascii_case(name))
        .filter_map(|h| std::str::from_utf8(h.value).ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token))
}

/// First element of `X-Forwarded-For`, else `X-Real-IP`; the port from `X-Real-Port`.
fn forwarded(headers: &[httparse::Header<'_>]) -> Option<Box<str>> {
    let listed = header(headers, "X-Forwarded-For").and_then(|v| v.split(',').next());
    let ip: IpAddr = listed.or_else(|| header(headers, "X-Real-IP"))?.trim().parse().ok()?;
    let port = header(headers, "X-Real-Port").and_then(|v| v.parse().ok()).unwrap_or(0);
    Some(std::net::SocketAddr::new(ip, port).to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &str = "GET /any?x=1 HTTP/1.1\r\nHost: h\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nX-Forwarded-For: 203.0.113.7, 10.0.0.1\r\n\r\n";

    #[test]
    fn answers_the_key_of_the_standard() {
        for cut in 0..REQUEST.len() {
            assert_eq!(parse(&REQUEST.as_bytes()[..cut], true), Upgrade::NeedMore);
        }
        let stream = [REQUEST.as_bytes(), b"\x82"].concat();
        let Upgrade::Accept { consumed, response, forwarded } = parse(&stream, true) else { panic!("refused") };
        assert_eq!(consumed, REQUEST.len());
        assert!(String::from_utf8(response).unwrap().contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
        assert_eq!(forwarded.as_deref(), Some("203.0.113.7:0"));
        let Upgrade::Accept { forwarded, .. } = parse(&stream, false) else { panic!("refused") };
        assert_eq!(forwarded, None);
    }

    #[test]
    fn refuses_what_is_no_upgrade() {
        assert_eq!(parse(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", true), Upgrade::Refuse(UPGRADE_REQUIRED));
        assert_eq!(parse(REQUEST.replace("13", "12").as_bytes(), true), Upgrade::Refuse(UPGRADE_REQUIRED));
        assert_eq!(parse(REQUEST.replace("GET", "POST").as_bytes(), true), Upgrade::Refuse(UPGRADE_REQUIRED));
        assert_eq!(parse(REQUEST.replace("dGhl", "x").as_bytes(), true), Upgrade::Refuse(BAD_REQUEST));
        assert_eq!(parse(b"\x10\x20\x30", true), Upgrade::Refuse(BAD_REQUEST));
        assert_eq!(parse(&[b'a'; UPGRADE_BYTES_MAX], true), Upgrade::Refuse(BAD_REQUEST));
    }
}
