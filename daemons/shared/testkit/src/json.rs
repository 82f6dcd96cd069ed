//! A plain JSON-RPC client over WebSocket, with the events of [`crate::client::Client`].

use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{self, Message as Ws};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use wk_types::Reason;

use crate::PATIENCE;
use crate::client::{Ack, Event, Login, Message};

/// One connection.
#[derive(Debug)]
pub struct JsonClient {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    client_seq: u32,
    /// Send `recvack` for each `recv` (on by default).
    pub acknowledge: bool,
}

impl JsonClient {
    /// Connects to `ws://host:port` and logs in; a refusal is an error that names the reason.
    ///
    /// # Errors
    /// Sockets, a closed connection, an error answer.
    pub async fn connect(ws: &str, login: &Login) -> anyhow::Result<Self> {
        let (stream, _) = tokio::time::timeout(PATIENCE, tokio_tungstenite::connect_async_with_config(ws, None, true)).await??;
        let mut client = Self { stream, client_seq: 0, acknowledge: true };
        let params = json!({
            "uid": login.uid, "token": login.token, "deviceId": login.device_id, "deviceFlag": login.device_flag, "clientTimestamp": 1_700_000_000_000_u64,
        });
        client.write(&json!({"jsonrpc": "2.0", "id": "connect", "method": "connect", "params": params})).await?;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let answer = client.read(deadline).await?.context("no answer to connect")?.context("closed before the answer to connect")?;
        if answer["result"]["reasonCode"] != 1 {
            bail!("login of {} refused: {answer}", login.uid);
        }
        Ok(client)
    }

    /// Sends a message with a client number (may be empty) and returns its client sequence.
    ///
    /// # Errors
    /// Sockets.
    pub async fn send(&mut self, channel_id: &str, channel_type: u8, client_msg_no: &str, payload: &[u8]) -> anyhow::Result<u32> {
        self.client_seq += 1;
        let params = json!({
            "channelId": channel_id, "channelType": channel_type, "clientMsgNo": client_msg_no,
            "header": {"redDot": true}, "payload": STANDARD.encode(payload),
        });
        self.write(&json!({"jsonrpc": "2.0", "id": self.client_seq.to_string(), "method": "send", "params": params})).await?;
        Ok(self.client_seq)
    }

    /// The next event, or `None` when nothing came within `limit`.
    ///
    /// # Errors
    /// Texts that are no JSON-RPC, error answers.
    ///
    /// # Cancel safety
    /// Not cancel-safe: a receipt may be half written.
    pub async fn next_within(&mut self, limit: Duration) -> anyhow::Result<Option<Event>> {
        let deadline = tokio::time::Instant::now() + limit;
        match self.read(deadline).await? {
            None => Ok(None),
            Some(None) => Ok(Some(Event::Closed)),
            Some(Some(value)) => self.event(&value).await.map(Some),
        }
    }

    async fn event(&mut self, value: &Value) -> anyhow::Result<Event> {
        let params = &value["params"];
        match value["method"].as_str() {
            Some("recv") => {
                let message = message(params)?;
                if self.acknowledge {
                    let receipt = json!({"messageId": params["messageId"], "messageSeq": params["messageSeq"], "header": params["header"]});
                    // The peer may have gone: the next read says so.
                    drop(self.write(&json!({"jsonrpc": "2.0", "method": "recvack", "params": receipt})).await);
                }
                Ok(Event::Message(message))
            }
            Some("disconnect") => {
                let code = params["reasonCode"].as_u64().and_then(|c| u8::try_from(c).ok()).unwrap_or(0);
                Ok(Event::Disconnect(code, params["reason"].as_str().unwrap_or_default().to_owned()))
            }
            None if value["result"]["messageId"].is_string() => {
                let result = &value["result"];
                Ok(Event::Ack(Ack {
                    message_id: result["messageId"].as_str().unwrap_or_default().parse()?,
                    message_seq: result["messageSeq"].as_u64().unwrap_or(0),
                    client_seq: value["id"].as_str().context("an answer without id")?.parse()?,
                    reason: Reason(u8::try_from(result["reasonCode"].as_u64().unwrap_or(0))?),
                }))
            }
            None if value["result"].is_object() => Ok(Event::Pong),
            _ => bail!("unexpected text {value}"),
        }
    }

    async fn write(&mut self, value: &Value) -> anyhow::Result<()> {
        Ok(self.stream.send(Ws::text(value.to_string())).await?)
    }

    /// `None`: nothing until the deadline; `Some(None)`: closed.
    async fn read(&mut self, deadline: tokio::time::Instant) -> anyhow::Result<Option<Option<Value>>> {
        loop {
            match tokio::time::timeout_at(deadline, self.stream.next()).await {
                Err(_) => return Ok(None),
                Ok(
                    None
                    | Some(
                        Ok(Ws::Close(_))
                        | Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::Protocol(_) | tungstenite::Error::Io(_)),
                    ),
                ) => {
                    return Ok(Some(None));
                }
                Ok(Some(Err(err))) => return Err(err.into()),
                Ok(Some(Ok(Ws::Text(text)))) => return Ok(Some(Some(serde_json::from_str(&text).context("a text that is no JSON")?))),
                Ok(Some(Ok(_))) => {}
            }
        }
    }
}

fn message(params: &Value) -> anyhow::Result<Message> {
    let text = |key: &str| params[key].as_str().unwrap_or_default().to_owned();
    let header = &params["header"];
    let flag = |key: &str, bit: u8| if header[key].as_bool().unwrap_or(false) { bit } else { 0 };
    Ok(Message {
        message_id: text("messageId").parse().context("messageId")?,
        message_seq: params["messageSeq"].as_u64().context("messageSeq")?,
        from_uid: text("fromUid"),
        channel_id: text("channelId"),
        channel_type: u8::try_from(params["channelType"].as_u64().context("channelType")?)?,
        client_msg_no: text("clientMsgNo"),
        flags: flag("noPersist", 1) | flag("redDot", 2) | flag("syncOnce", 4),
        payload: STANDARD.decode(text("payload")).context("payload")?,
    })
}
