//! The manager token (`spec/http-api.md` §2.4).

use std::hint::black_box;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use wk_config::Secret;

/// Paths that need no token: probes.
const OPEN_PATHS: [&str; 2] = ["/healthz", "/readyz"];

/// Answers 401 with an empty body unless the header `token` is the configured one. Without a configured token everything passes.
pub async fn require_token(State(token): State<Secret>, request: Request, next: Next) -> Response {
    let given = request.headers().get("token").map(|v| v.as_bytes()).unwrap_or_default();
    if token.is_empty() || OPEN_PATHS.contains(&request.uri().path()) || same(token.expose().as_bytes(), given) {
        return next.run(request).await;
    }
    StatusCode::UNAUTHORIZED.into_response()
}

/// Compares in a time that depends only on the length of what was given.
fn same(expected: &[u8], given: &[u8]) -> bool {
    let mut differs = u8::from(expected.len() != given.len());
    for (i, byte) in given.iter().enumerate() {
        // An index past the end compares with the first byte, so that every given byte costs the same.
        let other = expected.get(i).or(expected.first()).copied().unwrap_or(0);
        differs = black_box(differs | (byte ^ other));
    }
    differs == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_the_same() {
        assert!(same(b"secret", b"secret"));
        for given in [&b""[..], b"s", b"secre", b"secrets", b"Secret", b"secreu"] {
            assert!(!same(b"secret", given));
        }
    }
}
