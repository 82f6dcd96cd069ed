//! JSON-RPC connections (§14): texts in a byte stream, requests, answers and notices.
//!
//! Keys are matched as exact camelCase first, then without regard to case, then in snake_case; a connection whose `connect` used
//! snake_case gets every key in both spellings ([`Dialect::Both`], §14.7). There is no encryption here: payloads are clear.

mod object;
mod params;
mod parse;
mod split;
mod write;

pub mod notices;
pub mod results;

use std::fmt;

use serde_json::value::RawValue;
use wk_types::Reason;

pub use parse::{Method, Request, RpcError, parse};
pub use split::{SplitError, Splitter, Text, split};

/// The id of a request: a string or a number, echoed exactly as it came.
#[derive(Clone)]
pub struct Id(Box<RawValue>);

impl Id {
    /// The JSON text of the id.
    #[must_use]
    pub fn as_json(&self) -> &str {
        self.0.get()
    }

    /// The id `text`, for clients and tests.
    #[must_use]
    pub fn string(text: &str) -> Self {
        let mut json = Vec::new();
        write::string(&mut json, text);
        let json = String::from_utf8_lossy(&json).into_owned();
        Self(RawValue::from_string(json).unwrap_or_else(|_| RawValue::NULL.to_owned()))
    }
}

impl PartialEq for Id {
    fn eq(&self, other: &Self) -> bool {
        self.as_json() == other.as_json()
    }
}

impl Eq for Id {}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Id({})", self.as_json())
    }
}

/// Code of an error answer (§14.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// −32700: not JSON. On TCP the connection cannot continue, on WebSocket the message is skipped.
    Parse,
    /// −32600: not an object, a wrong `jsonrpc`, a null id, no method.
    InvalidRequest,
    /// −32601.
    MethodNotFound,
    /// −32602: missing or wrong params, bad base64.
    InvalidParams,
    /// −32603.
    Internal,
    /// A reason code: a refused `connect`.
    Reason(Reason),
}

impl ErrorCode {
    /// The number.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Parse => -32_700,
            Self::InvalidRequest => -32_600,
            Self::MethodNotFound => -32_601,
            Self::InvalidParams => -32_602,
            Self::Internal => -32_603,
            Self::Reason(reason) => i32::from(reason.0),
        }
    }
}

/// How keys are spelled in what is sent to a connection (§14.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// camelCase.
    #[default]
    Camel,
    /// camelCase, and the snake_case spelling beside it.
    Both,
}

#[cfg(test)]
mod tests;
