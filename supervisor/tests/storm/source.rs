//! The load: connections of all kinds and backends, each with one or two messages in flight.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::time::Instant;
use wk_testkit::client::{Client, Event, Login, Message};
use wk_testkit::http::Api;
use wk_testkit::json::JsonClient;

use crate::field::{Field, Phase};
use crate::plan::{Dice, Plan, Speaks};
use crate::record::{Got, Key};

/// Messages of one connection without an answer.
const IN_FLIGHT_MAX: usize = 2;
/// Mean time between two sends of one connection: 64 connections send about 1,600 messages a second, so the machine is not saturated
/// and a pause seen is the server's.
const PACE: Duration = Duration::from_millis(40);
/// The same for a backend.
const BACKEND_PACE: Duration = Duration::from_millis(100);
/// How often an idle connection looks at the phase.
const LOOK: Duration = Duration::from_millis(50);
/// Payload of a message. Unit: bytes.
const PAYLOAD_BYTES: usize = 128;
/// Payload in channels of a connection that never reads, so that its buffers fill soon. Unit: bytes.
const PAYLOAD_BYTES_STUCK: usize = 8 * 1024;
/// How long a backend repeats a request whose connection breaks.
const BACKEND_PATIENCE: Duration = Duration::from_secs(15);

/// A logged-in connection of either kind.
#[derive(Debug)]
pub(crate) enum Wire {
    Binary(Box<Client>),
    Json(Box<JsonClient>),
}

impl Wire {
    /// Logs in as connection `number` of the plan.
    pub(crate) async fn connect(plan: &Plan, number: usize, tcp: std::net::SocketAddr, ws: &str) -> anyhow::Result<Self> {
        let conn = &plan.conns[number];
        let mut login = Login { device_flag: conn.device_flag, ..Login::new(&plan.users[conn.user]) };
        login.device_id = format!("{}-{number}", login.device_id);
        match conn.speaks {
            Speaks::Binary(version) => {
                login.version = version;
                Ok(Self::Binary(Box::new(Client::connect(tcp, &login).await?)))
            }
            Speaks::Json => Ok(Self::Json(Box::new(JsonClient::connect(ws, &login).await?))),
        }
    }

    async fn send(&mut self, to: &(String, u8), client_msg_no: &str, payload: &[u8]) -> anyhow::Result<u32> {
        match self {
            Self::Binary(client) => client.send(&to.0, to.1, client_msg_no, payload).await,
            Self::Json(client) => client.send(&to.0, to.1, client_msg_no, payload).await,
        }
    }

    async fn next_within(&mut self, limit: Duration) -> anyhow::Result<Option<Event>> {
        match self {
            Self::Binary(client) => client.next_within(limit).await,
            Self::Json(client) => client.next_within(limit).await,
        }
    }
}

/// The payload of a message: its key, then dots.
fn payload(plan: &Plan, key: Key, channel: usize) -> Vec<u8> {
    let length = if plan.feeds_stuck(channel) { PAYLOAD_BYTES_STUCK } else { PAYLOAD_BYTES };
    let mut bytes = format!("{key}/").into_bytes();
    bytes.resize(length, b'.');
    bytes
}

/// One connection's task; ends at [`Phase::Stop`] or with the connection.
pub(crate) struct Talker {
    field: Arc<Field>,
    number: usize,
    wire: Wire,
    dice: Dice,
    channels: Vec<usize>,
    /// The channel of a name, for what is received.
    names: HashMap<(String, u8), usize>,
    /// Message number of each client sequence without an answer.
    open: HashMap<u32, u32>,
    due: Instant,
}

impl Talker {
    pub(crate) fn new(field: Arc<Field>, number: usize, wire: Wire, seed: u64) -> Self {
        let user = field.plan.conns[number].user;
        let channels = field.plan.channels_of(user);
        let names = channels.iter().map(|&c| (field.plan.name_for(c, user), c)).collect();
        let mut dice = Dice::new(seed ^ ((number as u64 + 1) << 32));
        let due = Instant::now() + PACE.mul_f64(dice.below(100) as f64 / 100.0);
        Self { field, number, wire, dice, channels, names, open: HashMap::new(), due }
    }

    pub(crate) async fn run(mut self) {
        if let Err(err) = self.talk().await {
            self.field.ended(self.number, format!("{err:#}"));
        }
    }

    async fn talk(&mut self) -> anyhow::Result<()> {
        loop {
            let phase = self.field.phase();
            let may_send = phase == Phase::Send && self.open.len() < IN_FLIGHT_MAX && !self.channels.is_empty();
            if phase == Phase::Stop {
                return Ok(());
            }
            if may_send && Instant::now() >= self.due {
                self.send().await?;
                continue;
            }
            let limit = if may_send { self.due.duration_since(Instant::now()).min(LOOK) } else { LOOK };
            match self.wire.next_within(limit).await? {
                None | Some(Event::Pong) => {}
                Some(Event::Ack(ack)) => {
                    let number = self.open.remove(&ack.client_seq);
                    self.field.answered(self.number, number, ack.reason.0, ack.message_id, ack.message_seq);
                }
                Some(Event::Message(message)) => self.take(&message),
                Some(Event::Disconnect(code, text)) => anyhow::bail!("disconnected with reason {code} {text}"),
                Some(Event::Closed) => anyhow::bail!("closed by the server"),
            }
        }
    }

    async fn send(&mut self) -> anyhow::Result<()> {
        let plan = &self.field.plan;
        let channel = self.channels[self.dice.below(self.channels.len())];
        let key = Key { source: u16::try_from(self.number)?, number: self.field.sending(self.number, channel) };
        // Every fourth message has no client number: then only its id guards it against being stored twice.
        let client_msg_no = if key.number % 4 == 3 { String::new() } else { format!("no-{key}") };
        let to = plan.name_for(channel, plan.conns[self.number].user);
        let payload = payload(plan, key, channel);
        self.due = Instant::now() + PACE.mul_f64(0.5 + self.dice.below(100) as f64 / 100.0);
        let client_seq = self.wire.send(&to, &client_msg_no, &payload).await?;
        self.open.insert(client_seq, key.number);
        Ok(())
    }

    fn take(&mut self, message: &Message) {
        let key = Key::of_payload(&message.payload);
        let channel = self.names.get(&(message.channel_id.clone(), message.channel_type)).copied();
        let from_fits = key.is_some_and(|k| sender_fits(&self.field.plan, k, &message.from_uid));
        let channel = channel.filter(|_| from_fits);
        self.field.got(self.number, Got { key, channel, id: message.message_id, seq: message.message_seq });
    }
}

/// Whether a message of this source may name this sender.
fn sender_fits(plan: &Plan, key: Key, from: &str) -> bool {
    match plan.conns.get(usize::from(key.source)) {
        Some(conn) => plan.users[conn.user] == from,
        None => plan.users.iter().any(|u| u == from),
    }
}

/// A connection that logs in and never reads; lives until [`Phase::Stop`].
pub(crate) async fn stuck(field: Arc<Field>, wire: Wire) {
    while field.phase() != Phase::Stop {
        tokio::time::sleep(LOOK).await;
    }
    drop(wire);
}

/// A backend that sends through the API, one message at a time, repeating a request that got no answer.
pub(crate) async fn backend(field: Arc<Field>, number: usize, api: Api, seed: u64) {
    let mut dice = Dice::new(seed ^ ((number as u64 + 1) << 32));
    let mut pace = tokio::time::interval(BACKEND_PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while field.phase() == Phase::Send {
        pace.tick().await;
        let plan = &field.plan;
        let channel = dice.below(plan.channels.len());
        let user = plan.channels[channel].someone();
        let (channel_id, channel_type) = plan.name_for(channel, user);
        let key = Key { source: u16::try_from(number).unwrap_or(u16::MAX), number: field.sending(number, channel) };
        let body = json!({
            "header": {"red_dot": 1}, "client_msg_no": format!("no-{key}"), "from_uid": plan.users[user],
            "channel_id": channel_id, "channel_type": channel_type, "payload": STANDARD.encode(payload(plan, key, channel)),
        });
        let started = Instant::now();
        let answer = loop {
            match api.post("/message/send", &body).await {
                Ok((200, answer)) => break Some(answer),
                // The API died with the request, or says that it cannot know: the client number makes the repeat harmless.
                _ if started.elapsed() < BACKEND_PATIENCE => tokio::time::sleep(Duration::from_millis(20)).await,
                _ => break None,
            }
        };
        let id = answer.as_ref().and_then(|a: &Value| a["data"]["message_id"].as_i64());
        if let Some(id) = id {
            field.answered(number, Some(key.number), 1, id, 0);
        }
    }
}
