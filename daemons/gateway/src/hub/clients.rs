//! What workers say to clients: CONNACK, kicks, SENDACK, RECV, and the answers that the hub gives itself.

use bytes::Bytes;
use wk_link::Kind;
use wk_link::item::{self, Body as _};
use wk_types::{ConnId, MessageId, Reason};
use wk_wire::Sendack;
use wk_wire::jsonrpc::Id;

use super::{Hub, send_to};
use crate::answers;
use crate::exchange::{At, CloseReason, Command};
use crate::inflight::Answer;
use crate::reactor::refusal;
use crate::session::State;

impl Hub {
    pub(super) fn on_connack(&mut self, connack: &item::Connack<'_>) {
        let Some(session) = self.sessions.get_mut(&connack.conn) else { return };
        let State::Waiting { id } = &mut session.state else { return };
        let id = id.take();
        if !connack.reason.is_success() {
            session.state = State::Refused;
            let frame = refusal(session.json, session.version, id.as_ref(), connack.reason, connack.time_diff_ms, &self.settings);
            self.metrics.connack.add(frame.len());
            return send_to(&mut self.desks, session.at, Command::Connack(session.at, frame.into(), false));
        }
        session.device_level = connack.device_level;
        session.encrypted = connack.encrypted;
        session.aes_key = connack.aes_key;
        session.aes_iv = connack.aes_iv;
        session.since_ms = wk_rpc::clock::monotonic_ms();
        self.scratch.clear();
        answers::connack(&mut self.scratch, session, id.as_ref(), connack, &self.settings);
        let frame = self.chunks.put(&self.scratch);
        session.state = State::Registering { connack: frame };
        let (bucket, body) = (session.bucket, self.encoder.encode(&session.item()));
        self.metrics.sessions.inc();
        self.to_push(bucket, Kind::SessionUp, body, connack.conn.0);
    }

    /// The push worker knows the connection: its CONNACK may be written.
    pub(super) fn open(&mut self, conn: ConnId) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        if let State::Registering { connack } = &mut session.state {
            let connack = std::mem::take(connack);
            session.state = State::Open;
            self.metrics.connack.add(connack.len());
            send_to(&mut self.desks, session.at, Command::Connack(session.at, connack, true));
        }
    }

    pub(super) fn on_kick(&mut self, kick: &item::Kick<'_>) {
        let Some(session) = self.sessions.get(&kick.conn) else { return self.metrics.output_orphans.inc() };
        self.scratch.clear();
        if let Some(reason) = kick.disconnect {
            answers::disconnect(&mut self.scratch, session, reason, kick.text);
        }
        let frame = self.chunks.put(&self.scratch);
        send_to(&mut self.desks, session.at, Command::Kick(session.at, frame, kick.close_after_ms));
    }

    pub(super) fn on_sendack(&mut self, ack: &item::Sendack<'_>) {
        match self.in_flight.answer(ack.message_id) {
            Answer::First(entry) => {
                if let (Some(ticket), Some(uplink)) = (entry.ticket, &self.uplink) {
                    uplink.settle_user(ticket);
                }
                let sendack = Sendack {
                    flags: entry.flags,
                    message_id: ack.stored_id,
                    client_seq: entry.client_seq,
                    message_seq: ack.message_seq,
                    reason: ack.reason,
                    client_msg_no: ack.client_msg_no,
                };
                self.write_sendack(entry.at, entry.id.as_deref(), &sendack, entry.cost);
            }
            Answer::Late(ticket) => {
                self.metrics.answers_late.inc();
                if let (Some(ticket), Some(uplink)) = (ticket, &self.uplink) {
                    uplink.settle_user(ticket);
                }
            }
            Answer::Unknown => self.metrics.answers_late.inc(),
        }
    }

    pub(super) fn on_recv_out(&mut self, recv: &item::RecvOut<'_>, body: &Bytes) {
        // A push worker sends only to connections it was told of, so a CONNACK that still waits for its receipt need not wait any more.
        self.open(recv.conn);
        let Some(session) = self.sessions.get(&recv.conn).filter(|s| s.is_authenticated()) else {
            return self.metrics.output_orphans.inc();
        };
        let at = session.at;
        self.metrics.recv.add(recv.frame.len());
        // Whether too much waits is for the reactor to say: it knows for whom.
        self.shared.output.add(recv.frame.len());
        send_to(&mut self.desks, at, Command::Write(at, body.slice_ref(recv.frame)));
    }

    /// Answers a SEND with reason 15 now.
    pub(super) fn answer_self(&mut self, id: MessageId) {
        if let Some(overdue) = self.in_flight.overdue(id) {
            self.write_overdue(id, overdue);
        }
    }

    pub(super) fn write_overdue(&mut self, id: MessageId, overdue: crate::inflight::Overdue) {
        let client_msg_no = item::Send::decode(&overdue.body).map_or("", |send| send.client_msg_no);
        let sendack = Sendack {
            flags: overdue.flags,
            message_id: id,
            client_seq: overdue.client_seq,
            message_seq: 0,
            reason: Reason::SYSTEM_ERROR,
            client_msg_no,
        };
        self.write_sendack(overdue.at, overdue.id.as_deref(), &sendack, overdue.cost);
    }

    fn write_sendack(&mut self, at: At, id: Option<&Id>, sendack: &Sendack<'_>, cost: u32) {
        let Some(session) = self.sessions.get(&at.conn) else { return };
        self.scratch.clear();
        answers::sendack(&mut self.scratch, session, id, sendack);
        self.metrics.sendack.add(self.scratch.len());
        let frame = self.chunks.put(&self.scratch);
        send_to(&mut self.desks, at, Command::Sendack(at, frame, cost));
    }

    pub(super) fn close(&mut self, conn: ConnId, reason: CloseReason) {
        if let Some(session) = self.sessions.get(&conn) {
            send_to(&mut self.desks, session.at, Command::Close(session.at, reason));
        }
    }
}
