//! One JSON text → one request, or the error to answer with (§14.2, §14.6).

use serde_json::error::Category;
use serde_json::value::RawValue;

use super::object::Object;
use super::params::{self, Wrong};
use super::{Dialect, ErrorCode, Id};
use crate::limits::{JSON_BYTES_MAX, JSON_ID_BYTES_MAX};
use crate::{Connect, Disconnect, Recvack, Send, Sub, SubAction};

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// Login.
    Connect(Connect),
    /// Message; the payload is clear. An empty client message number is filled in by the server.
    Send(Send),
    /// Receipt of a message.
    Recvack(Recvack),
    /// Heartbeat.
    Ping,
    /// Farewell: answer if there is an id, then close.
    Disconnect(Disconnect),
    /// Subscribe.
    Subscribe(Sub),
    /// Unsubscribe.
    Unsubscribe(Sub),
    /// A notification with a method nobody knows: ignore it.
    Unknown,
}

/// A request, or a notification when it has no id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Answer with this id; `None` for a notification.
    pub id: Option<Id>,
    /// Method and params.
    pub method: Method,
    /// [`Dialect::Both`] when a key was found only in its snake_case spelling. Of a `connect` it holds for the whole connection.
    pub dialect: Dialect,
}

/// A text that is not a request we can serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RpcError {
    /// Id to answer with, when it could be read.
    pub id: Option<Id>,
    /// Code.
    pub code: ErrorCode,
    /// Constant text for the answer.
    pub message: &'static str,
    /// It was a notification: do not answer.
    pub notification: bool,
}

/// Reads one text. Both a whole WebSocket message and what [`super::Splitter`] found may be given; white space around it is allowed.
///
/// # Errors
///
/// The error to answer with, unless it is a notification's. Before `connect` has succeeded the connection is closed after it.
pub fn parse(text: &[u8]) -> Result<Request, RpcError> {
    let refuse = |code, message| RpcError { id: None, code, message, notification: false };
    if text.len() > JSON_BYTES_MAX {
        return Err(refuse(ErrorCode::InvalidRequest, "text too long"));
    }
    let text = std::str::from_utf8(text).map_err(|_| refuse(ErrorCode::Parse, "not utf-8"))?;
    let envelope: Object<'_> = serde_json::from_str(text).map_err(|error| match error.classify() {
        Category::Data => refuse_data(text),
        Category::Syntax | Category::Eof | Category::Io => refuse(ErrorCode::Parse, "parse error"),
    })?;
    let id = match envelope.get_exact("id").or_else(|| envelope.get("id")) {
        Some(raw) => Some(id(raw).ok_or_else(|| refuse(ErrorCode::InvalidRequest, "id must be a string or a number"))?),
        None => None,
    };
    let refuse = |code, message| RpcError { id: id.clone(), code, message, notification: false };
    if envelope.get("jsonrpc").is_some_and(|version| version.get() != "\"2.0\"") {
        return Err(refuse(ErrorCode::InvalidRequest, "jsonrpc must be \"2.0\""));
    }
    let method = envelope.get("method").and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
    let method = method.ok_or_else(|| refuse(ErrorCode::InvalidRequest, "method missing"))?;
    let read = read(&method, &envelope, id.is_some());
    let (method, dialect) = read.map_err(|(code, message)| RpcError { notification: id.is_none(), ..refuse(code, message) })?;
    Ok(Request { id, method, dialect })
}

/// A value that is no object is an invalid request only if the whole text is JSON: `[1` is not.
fn refuse_data(text: &str) -> RpcError {
    let whole = serde_json::from_str::<&RawValue>(text).is_ok();
    let (code, message) =
        if whole { (ErrorCode::InvalidRequest, "not an object of a reasonable size") } else { (ErrorCode::Parse, "parse error") };
    RpcError { id: None, code, message, notification: false }
}

/// A string or a number of bounded length.
fn id(raw: &RawValue) -> Option<Id> {
    let text = raw.get();
    let legal = text.starts_with(|first: char| first == '"' || first == '-' || first.is_ascii_digit());
    (legal && text.len() <= JSON_ID_BYTES_MAX).then(|| Id(raw.to_owned()))
}

type Refusal = (ErrorCode, &'static str);

fn read(method: &str, envelope: &Object<'_>, has_id: bool) -> Result<(Method, Dialect), Refusal> {
    let params = || -> Result<Object<'_>, Refusal> {
        let raw = envelope.get("params").ok_or((ErrorCode::InvalidParams, "params missing"))?;
        serde_json::from_str(raw.get()).map_err(|_| (ErrorCode::InvalidParams, "params must be an object"))
    };
    let with = |read: &dyn Fn(&Object<'_>) -> Result<Method, Wrong>| {
        let params = params()?;
        let method = read(&params).map_err(|Wrong(member)| (ErrorCode::InvalidParams, wrong_text(member)))?;
        let dialect = if params.used_snake_case() { Dialect::Both } else { Dialect::Camel };
        Ok((method, dialect))
    };
    match method {
        // A farewell needs no words.
        "disconnect" if envelope.get("params").is_none() => {
            Ok((Method::Disconnect(Disconnect { reason: wk_types::Reason::UNKNOWN, text: String::new() }), Dialect::Camel))
        }
        "connect" => with(&|o| params::connect(o).map(Method::Connect)),
        "send" => with(&|o| params::send(o).map(Method::Send)),
        "recvack" => with(&|o| params::recvack(o).map(Method::Recvack)),
        "ping" => Ok((Method::Ping, Dialect::Camel)),
        "disconnect" => with(&|o| params::disconnect(o).map(Method::Disconnect)),
        "subscribe" => with(&|o| params::sub(o, SubAction::SUBSCRIBE).map(Method::Subscribe)),
        "unsubscribe" => with(&|o| params::sub(o, SubAction::UNSUBSCRIBE).map(Method::Unsubscribe)),
        _ if has_id => Err((ErrorCode::MethodNotFound, "unknown method")),
        _ => Ok((Method::Unknown, Dialect::Camel)),
    }
}

/// Constant text for a wrong member, so that nothing of the request is echoed.
fn wrong_text(member: &'static str) -> &'static str {
    match member {
        "uid" => "wrong or missing param: uid",
        "channelId" => "wrong or missing param: channelId",
        "channelType" => "wrong or missing param: channelType",
        "payload" => "wrong or missing param: payload",
        "messageId" => "wrong or missing param: messageId",
        "messageSeq" => "wrong or missing param: messageSeq",
        _ => "wrong param",
    }
}
