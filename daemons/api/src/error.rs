//! The one error that leaves the daemon as an HTTP answer (`spec/http-api.md` §2.1).

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::dto::DecodeError;
use crate::limits::RETRY_AFTER_S;

/// Why a request was not carried out, as the caller sees it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// 400 with this text. Texts are part of the interface and reproduced byte for byte.
    #[error("{0}")]
    Refused(Cow<'static, str>),
    /// 413: the body is over [`crate::limits::BODY_BYTES_MAX`].
    #[error("request body is too large")]
    TooLarge,
    /// 503 with `Retry-After`: not admitted yet, stopping, or at a limit.
    #[error("{0}")]
    Unavailable(&'static str),
}

impl ApiError {
    /// 400 with a fixed text.
    #[must_use]
    pub fn text(text: &'static str) -> Self {
        Self::Refused(Cow::Borrowed(text))
    }
}

impl From<DecodeError> for ApiError {
    /// The decoder's own text.
    fn from(err: DecodeError) -> Self {
        Self::Refused(Cow::Owned(err.to_string()))
    }
}

/// Body of an error.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Problem<'a> {
    /// Text for people.
    pub msg: &'a str,
    /// HTTP status, repeated.
    pub status: u16,
}

/// A JSON answer with the content type of the original server.
pub fn json<T: Serialize + ?Sized>(status: StatusCode, body: &T) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => {
            let kind = HeaderValue::from_static("application/json; charset=utf-8");
            (status, [(header::CONTENT_TYPE, kind)], bytes).into_response()
        }
        Err(err) => {
            tracing::error!(%err, "answer could not be encoded");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, text): (_, Cow<'static, str>) = match self {
            Self::Refused(text) => (StatusCode::BAD_REQUEST, text),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, Cow::Borrowed("request body is too large")),
            Self::Unavailable(text) => (StatusCode::SERVICE_UNAVAILABLE, Cow::Borrowed(text)),
        };
        let mut response = json(status, &Problem { msg: &text, status: status.as_u16() });
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
        }
        response
    }
}
