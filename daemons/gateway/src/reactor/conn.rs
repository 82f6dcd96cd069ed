//! One connection as a state machine: bytes and answers in, events and output out. No socket, no clock.
//!
//! Its layers are rooms of their own: [`super::stream`] (what comes before and around the byte stream: PROXY, upgrade, WebSocket),
//! [`super::frames`] (binary) and [`super::json`]. Here is what they share: the stage, the bounds, the answers.
//!
//! INVARIANT: while a SEND is parked, every later SEND of the connection is parked behind it; other frames overtake.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use wk_link::item::{self, Encoder};
use wk_types::{Bucket, ChannelType, IdStock, Reason};
use wk_wire::jsonrpc::{self, Dialect, Id, Splitter};
use wk_wire::{Connack, Connect, Recvack, SendRef, Sub, Suback, Version, encode, ids};

use super::ws::{self, Opcode};
use crate::config::Settings;
use crate::exchange::{At, CloseReason, Event, Handover, Login, Shared, Transport};
use crate::limits::{PARKED_BEFORE_LOGIN_BYTES_MAX, RECVS_OPEN_MAX};
use crate::metrics::Metrics;

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// A PROXY header may come.
    Start,
    /// The head of a WebSocket upgrade comes.
    Upgrade,
    /// The first byte of the client protocol decides: binary or JSON-RPC.
    Detect,
    /// CONNECT comes.
    Login,
    /// CONNECT was handed over; what follows is parked.
    Waiting,
    /// Authenticated.
    Open,
    /// Authenticated, but on its way out: SENDs are ignored.
    Kicked,
    /// Ended: input is discarded.
    Ended,
}

/// The connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    pub(super) reason: CloseReason,
    /// First send what is in the output, then half-close and linger; else close at once.
    pub(super) flush: bool,
}

impl End {
    pub(super) const MALFORMED: Self = Self { reason: CloseReason::Malformed, flush: false };

    pub(super) const fn after_flush(reason: CloseReason) -> Self {
        Self { reason, flush: true }
    }

    pub(super) const fn at_once(reason: CloseReason) -> Self {
        Self { reason, flush: false }
    }
}

/// What a connection needs while it works: all of it belongs to the reactor, except `out`.
pub(super) struct Cx<'a> {
    /// Output of this connection, ready for its socket.
    pub(super) out: &'a mut Vec<u8>,
    pub(super) events: &'a mut Vec<Event>,
    pub(super) encoder: &'a mut Encoder,
    pub(super) ids: &'a mut IdStock,
    pub(super) settings: &'a Settings,
    pub(super) shared: &'a Shared,
    pub(super) metrics: &'a Metrics,
    /// Frame being written, and payload being unmasked.
    pub(super) scratch: &'a mut Vec<u8>,
    pub(super) unmasked: &'a mut Vec<u8>,
    pub(super) now_ms: u64,
    /// No SENDs are handed over any more.
    pub(super) quiesced: bool,
}

/// SENDs held back, as they came.
#[derive(Debug, Default)]
pub(super) struct Parked {
    pub(super) bytes: Vec<u8>,
    /// Start of the first one that is still held back.
    pub(super) at: usize,
}

/// The state machine.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) at: At,
    pub(super) stage: Stage,
    pub(super) listener: Transport,
    pub(super) json: bool,
    /// The hub knows it: its end must be told.
    pub(super) known: bool,
    /// SENDs are held back for want of ids or for a full link: the reactor tries again.
    pub(super) starved: bool,
    pub(super) version: Version,
    pub(super) dialect: Dialect,
    pub(super) bucket: Bucket,
    /// Set by the CONNECT.
    pub(super) uid: Box<str>,
    pub(super) peer: SocketAddr,
    pub(super) forwarded: Option<Box<str>>,
    /// The upgrade is done.
    pub(super) is_ws: bool,
    /// Some after the upgrade, except while it decodes.
    pub(super) ws: Option<Box<ws::Decoder>>,
    /// JSON-RPC over TCP.
    pub(super) splitter: Option<Box<Splitter>>,
    /// Bytes of an incomplete head, frame or text.
    pub(super) input: Vec<u8>,
    pub(super) parked: Option<Box<Parked>>,
    sends_open: u32,
    sends_open_bytes: u32,
    /// RECVs written and not acknowledged, up to [`RECVS_OPEN_MAX`]: bounds what a client can have handed to its push worker.
    recvs_open: u32,
    pub(super) accepted_ms: u64,
    pub(super) active_ms: u64,
    /// When a kicked or lingering connection is closed, or a silent one that is not waited for any more; 0: it has no such time.
    pub(super) close_ms: u64,
}

impl Conn {
    pub(super) fn new(at: At, listener: Transport, peer: SocketAddr, settings: &Settings, now_ms: u64) -> Self {
        use wk_wire::detect::ProxyMode;
        let proxy = match settings.proxy {
            ProxyMode::Off => false,
            ProxyMode::Auto => settings.trusts(peer.ip()),
            // Without a header, or from a stranger: closed by the first bytes.
            ProxyMode::Required => true,
        };
        let mut conn = Self {
            at,
            stage: Stage::Start,
            listener,
            json: false,
            known: false,
            starved: false,
            version: Version::default(),
            dialect: Dialect::Camel,
            bucket: Bucket::default(),
            uid: Box::default(),
            peer,
            forwarded: None,
            is_ws: false,
            ws: None,
            splitter: None,
            input: Vec::new(),
            parked: None,
            sends_open: 0,
            sends_open_bytes: 0,
            recvs_open: 0,
            accepted_ms: now_ms,
            active_ms: now_ms,
            close_ms: 0,
        };
        if !proxy {
            conn.skip_proxy();
        }
        conn
    }

    /// What comes after a PROXY header.
    pub(super) fn skip_proxy(&mut self) {
        self.stage = match self.listener {
            Transport::Tcp => Stage::Detect,
            Transport::Ws => Stage::Upgrade,
        };
    }

    /// False while too much of this connection waits: do not read it.
    pub(super) fn wants_read(&self, settings: &Settings) -> bool {
        let bound = match self.stage {
            Stage::Waiting => PARKED_BEFORE_LOGIN_BYTES_MAX,
            Stage::Ended => return true,
            _ => settings.parked_bytes_max,
        };
        self.parked_bytes() < bound
    }

    fn parked_bytes(&self) -> usize {
        self.parked.as_ref().map_or(0, |p| p.bytes.len() - p.at)
    }

    /// The client has not said anything yet.
    pub(super) fn is_silent(&self) -> bool {
        matches!(self.stage, Stage::Start | Stage::Upgrade | Stage::Detect)
            && !self.is_ws
            && self.input.is_empty()
            && self.splitter.is_none()
    }

    /// Nothing new is taken any more: a client that says nothing is not waited for as long as otherwise. Returns when its time is over.
    pub(super) fn hurry(&mut self, settings: &Settings) -> Option<u64> {
        self.is_silent().then(|| {
            self.close_ms = self.accepted_ms + settings.silent_ms;
            self.due_ms(settings)
        })
    }

    /// When [`Conn::on_timer`] has something to say.
    pub(super) fn due_ms(&self, settings: &Settings) -> u64 {
        match self.stage {
            Stage::Start | Stage::Upgrade | Stage::Detect | Stage::Login => {
                let due = (self.active_ms + settings.first_bytes_ms).min(self.accepted_ms + settings.handshake_ms);
                if self.close_ms > 0 && self.is_silent() { due.min(self.close_ms) } else { due }
            }
            Stage::Waiting => (self.active_ms + settings.login_ms).min(self.accepted_ms + settings.handshake_ms),
            Stage::Open => self.active_ms + settings.idle_ms,
            Stage::Kicked | Stage::Ended => self.close_ms,
        }
    }

    /// A timer came. Returns when the next one is due.
    pub(super) fn on_timer(&mut self, reading: bool, cx: &Cx<'_>) -> Result<u64, End> {
        let due = self.due_ms(cx.settings);
        if due > cx.now_ms {
            return Ok(due);
        }
        match self.stage {
            Stage::Start | Stage::Upgrade | Stage::Detect if cx.quiesced && self.is_silent() => Err(End::at_once(CloseReason::Stopping)),
            Stage::Start | Stage::Upgrade | Stage::Detect | Stage::Login => Err(End::at_once(CloseReason::Handshake)),
            Stage::Waiting => {
                let patient = self.accepted_ms + cx.settings.away_ms;
                if cx.shared.is_away(self.bucket) && cx.now_ms < patient {
                    return Ok((cx.now_ms + cx.settings.first_bytes_ms).min(patient));
                }
                Err(End::at_once(CloseReason::Handshake))
            }
            Stage::Open if !reading => {
                // A connection we do not read is not idle.
                self.active_ms = cx.now_ms;
                Ok(self.due_ms(cx.settings))
            }
            Stage::Open => Err(End::at_once(CloseReason::Idle)),
            Stage::Kicked => Err(End::after_flush(CloseReason::Kicked)),
            Stage::Ended => Err(End::at_once(CloseReason::Peer)),
        }
    }

    /// CONNECT was understood.
    pub(super) fn login(&mut self, connect: Connect, id: Option<Id>, dialect: Dialect, len: usize, cx: &mut Cx<'_>) -> Result<(), End> {
        cx.metrics.connect.add(len);
        self.version = Version::negotiate(connect.version);
        self.dialect = dialect;
        if let Err(reason) = ids::check_connect(&connect) {
            self.refuse(&connect, id.as_ref(), reason, cx);
            return Err(End::after_flush(CloseReason::Refused));
        }
        self.uid = connect.uid.as_str().into();
        self.bucket = Bucket::of(&self.uid);
        self.stage = Stage::Waiting;
        self.known = true;
        let peer = self.forwarded.take().map_or_else(|| self.peer.to_string(), String::from);
        cx.events.push(Event::Login(Box::new(Login {
            at: self.at,
            connect,
            version: self.version,
            json: self.json,
            dialect,
            id,
            peer,
            accepted_ms: self.accepted_ms,
            bucket: self.bucket,
        })));
        Ok(())
    }

    /// Writes a failing CONNACK.
    fn refuse(&mut self, connect: &Connect, id: Option<&Id>, reason: Reason, cx: &mut Cx<'_>) {
        let time_diff = wk_rpc::clock::unix_ms().saturating_sub(connect.client_timestamp);
        let frame = refusal(self.json, self.version, id, reason, time_diff, cx.settings);
        cx.metrics.connack.add(frame.len());
        self.put(&frame, cx);
    }

    /// The login succeeded and its CONNACK is on its way: what was parked is handled now.
    pub(super) fn open(&mut self, cx: &mut Cx<'_>) -> Result<(), End> {
        self.stage = Stage::Open;
        match self.parked.take() {
            Some(parked) if self.json => self.json_texts(parked.bytes.get(parked.at..).unwrap_or_default(), cx),
            Some(parked) => self.binary_frames(parked.bytes.get(parked.at..).unwrap_or_default(), cx).map(drop),
            None => Ok(()),
        }
    }

    /// An answer has left: its room is free again.
    pub(super) fn release(&mut self, cost: u32, cx: &mut Cx<'_>) -> Result<(), End> {
        debug_assert!(self.sends_open > 0, "an answer belongs to an open send");
        self.sends_open = self.sends_open.saturating_sub(1);
        self.sends_open_bytes = self.sends_open_bytes.saturating_sub(cost);
        self.unpark(cx)
    }

    /// Hands over parked SENDs as far as the bounds allow.
    pub(super) fn unpark(&mut self, cx: &mut Cx<'_>) -> Result<(), End> {
        self.starved = false;
        let Some(mut parked) = self.parked.take_if(|_| self.stage == Stage::Open) else { return Ok(()) };
        while let Some(rest) = parked.bytes.get(parked.at..).filter(|rest| !rest.is_empty()) {
            let taken = if self.json { self.unpark_text(rest, cx)? } else { self.unpark_frame(rest, cx)? };
            if taken == 0 {
                break;
            }
            parked.at += taken;
        }
        if parked.at < parked.bytes.len() {
            if parked.at > parked.bytes.len() / 2 {
                parked.bytes.drain(..parked.at);
                parked.at = 0;
            }
            self.parked = Some(parked);
        }
        Ok(())
    }

    /// Holds a frame or text back.
    pub(super) fn park(&mut self, raw: &[u8]) {
        self.parked.get_or_insert_default().bytes.extend_from_slice(raw);
    }

    /// True when a SEND of this cost may be handed over now.
    pub(super) fn may_send(&mut self, cost: usize, cx: &Cx<'_>) -> bool {
        let room = self.sends_open < cx.settings.sends_open_max;
        let bytes = cost.saturating_add(self.sends_open_bytes as usize) <= cx.settings.sends_open_bytes_max as usize;
        if !(room && (bytes || self.sends_open == 0)) {
            return false;
        }
        let held = cx.quiesced || cx.shared.hold.load(Ordering::Relaxed) || cx.ids.is_empty();
        if held && !self.starved {
            self.starved = true;
            cx.metrics.sends_starved.inc();
        }
        !held
    }

    /// Hands a SEND over. The caller has asked [`Conn::may_send`].
    pub(super) fn send(&mut self, send: &SendRef<'_>, id: Option<Id>, cost: usize, cx: &mut Cx<'_>) {
        let Some(message_id) = cx.ids.take() else { return };
        let body: Bytes = cx.encoder.encode(&item::Send {
            conn: self.at.conn,
            message_id,
            accepted_ms: cx.now_ms,
            flags: send.flags.get(),
            setting: send.setting.get(),
            client_seq: send.client_seq,
            expire: send.expire,
            channel_type: send.channel_type,
            uid: &self.uid,
            channel_id: send.channel_id,
            client_msg_no: send.client_msg_no,
            stream_no: send.stream_no,
            topic: send.topic,
            msg_key: send.msg_key,
            payload: send.payload,
        });
        cx.metrics.send.add(cost);
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        self.sends_open += 1;
        self.sends_open_bytes = self.sends_open_bytes.saturating_add(cost);
        cx.events.push(Event::Send(Handover {
            at: self.at,
            bucket: self.bucket,
            body,
            message_id,
            client_seq: send.client_seq,
            flags: send.flags,
            id: id.map(Box::new),
            cost,
            accepted_ms: cx.now_ms,
        }));
    }

    /// Writes a RECV: one RECVACK may come for it.
    pub(super) fn recv(&mut self, frame: &[u8], cx: &mut Cx<'_>) {
        self.recvs_open = (self.recvs_open + 1).min(RECVS_OPEN_MAX);
        self.put(frame, cx);
    }

    /// A RECVACK for more than was written can only name something unknown, which is ignored (wire protocol §8.7).
    pub(super) fn recvack(&mut self, ack: &Recvack, len: usize, cx: &mut Cx<'_>) {
        let Some(left) = self.recvs_open.checked_sub(1) else { return cx.metrics.recvacks_ignored.inc() };
        self.recvs_open = left;
        cx.metrics.recvack.add(len);
        let body = cx.encoder.encode(&item::Recvack {
            conn: self.at.conn,
            message_id: ack.message_id,
            message_seq: ack.message_seq,
            flags: ack.flags.get(),
            uid: &self.uid,
        });
        cx.events.push(Event::Recvack(self.bucket, body));
    }

    /// Answer to a SUB: data channels are confirmed, other types refused (wire protocol §6.8).
    pub(super) fn suback(sub: Sub) -> Suback {
        let reason = if sub.channel_type == ChannelType::DATA { Reason::SUCCESS } else { Reason::NOT_SUPPORT_CHANNEL_TYPE };
        Suback { sub_no: sub.sub_no, channel_id: sub.channel_id, channel_type: sub.channel_type, action: sub.action, reason }
    }

    /// Writes one frame or text, in its own WebSocket message where there is WebSocket.
    pub(super) fn put(&self, frame: &[u8], cx: &mut Cx<'_>) {
        put_framed(cx.out, self.is_ws, self.json, frame);
    }

    /// Writes what `write` puts into the scratch buffer, as [`Conn::put`].
    pub(super) fn put_with(&self, cx: &mut Cx<'_>, write: impl FnOnce(&mut Vec<u8>)) {
        cx.scratch.clear();
        write(cx.scratch);
        put_framed(cx.out, self.is_ws, self.json, cx.scratch);
    }

    /// Forgets what an ended connection does not need.
    pub(super) fn end(&mut self, close_ms: u64) {
        self.stage = Stage::Ended;
        self.close_ms = close_ms;
        self.input = Vec::new();
        self.parked = None;
        self.splitter = None;
    }

    /// A worker asked to close it later. Of several times the earliest holds.
    pub(super) fn kick(&mut self, close_ms: u64, metrics: &Metrics) {
        self.close_ms = if self.stage == Stage::Kicked { close_ms.min(self.close_ms) } else { close_ms };
        self.stage = Stage::Kicked;
        if self.parked.take().is_some() {
            metrics.sends_ignored.inc();
        }
    }
}

/// Appends a frame for a socket.
pub(super) fn put_framed(out: &mut Vec<u8>, ws: bool, json: bool, frame: &[u8]) {
    if frame.is_empty() {
        return;
    }
    if ws {
        ws::put_head(out, if json { Opcode::Text } else { Opcode::Binary }, frame.len());
    }
    out.extend_from_slice(frame);
}

/// A failing CONNACK in the layout of the client's version, or the JSON-RPC error.
pub(crate) fn refusal(json: bool, version: Version, id: Option<&Id>, reason: Reason, time_diff: i64, settings: &Settings) -> Vec<u8> {
    let mut frame = Vec::new();
    if json {
        jsonrpc::results::refused(&mut frame, id, reason);
        return frame;
    }
    let connack = Connack {
        server_version: version.get(),
        time_diff,
        reason,
        server_key: String::new(),
        salt: String::new(),
        node_id: u64::from(settings.node.0),
    };
    // Its strings are empty: it cannot fail.
    if let Err(err) = encode::connack(&mut frame, &connack, version) {
        tracing::error!(%err, "failing connack was not encoded");
    }
    frame
}

#[cfg(test)]
mod tests;
