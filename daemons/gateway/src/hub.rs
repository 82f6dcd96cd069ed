//! The hub: session registry, SENDs without answer, message ids; turns events of reactors into items for workers and items of workers into
//! commands for reactors. Runs on the daemon's one runtime thread. No sockets, no waiting: [`crate::service`] drives it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use wk_link::item::{self, Body, Encoder};
use wk_link::sender::Poisoned;
use wk_link::{Keep, Kind};
use wk_types::{Bucket, ConnId, IdRun, IdStock};

use crate::answers::Chunks;
use crate::config::Settings;
use crate::exchange::{At, CloseReason, Command, Event, Handover, Login, Mailbox, Shared};
use crate::inflight::{Entry, InFlight};
use crate::limits::{IDS_LENT, IDS_LOW};
use crate::metrics::Metrics;
use crate::session::{Registry, Session, State};
use crate::uplink::Uplink;

mod clients;

/// What the hub has heard about the reactors themselves.
#[derive(Debug, Default)]
pub struct Reports {
    /// Reactors without an armed accept, since the last [`Command::StopAccept`].
    pub accept_stopped: u32,
    /// Reactors that have ended after their drain.
    pub drained: u32,
    /// A reactor's ring failed.
    pub failed: Option<String>,
}

/// What a hub is built from.
#[derive(Debug)]
pub struct Parts {
    /// Settings.
    pub settings: Arc<Settings>,
    /// Flags for the reactors.
    pub shared: Arc<Shared>,
    /// Counters.
    pub metrics: Metrics,
}

/// The hub.
pub struct Hub {
    settings: Arc<Settings>,
    shared: Arc<Shared>,
    metrics: Metrics,
    uplink: Option<Box<dyn Uplink>>,
    sessions: Registry,
    in_flight: InFlight,
    ids: IdStock,
    desks: Vec<Desk>,
    encoder: Encoder,
    scratch: Vec<u8>,
    chunks: Chunks,
    /// SENDs are held back since a link is full.
    holding: bool,
    /// Monotonic ms of the last item of a worker.
    last_item_ms: u64,
    /// What reactors reported; read and reset by the service.
    pub reports: Reports,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("sessions", &self.sessions.len()).field("in_flight", &self.in_flight.open()).finish_non_exhaustive()
    }
}

/// One reactor as the hub sees it.
struct Desk {
    mailbox: Arc<Mailbox<Command>>,
    /// Commands of this round.
    batch: Vec<Command>,
    /// Ids it was lent and has not used.
    lent: u32,
}

impl Hub {
    /// A hub without reactors and links; both are attached before the first event.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { settings, shared, metrics } = parts;
        Self {
            settings,
            shared,
            metrics,
            uplink: None,
            sessions: Registry::default(),
            in_flight: InFlight::default(),
            ids: IdStock::default(),
            desks: Vec::new(),
            encoder: Encoder::default(),
            scratch: Vec::new(),
            chunks: Chunks::default(),
            holding: false,
            last_item_ms: 0,
            reports: Reports::default(),
        }
    }

    /// The reactors that hold connections, in the order of their index.
    pub fn attach_reactors(&mut self, mailboxes: Vec<Arc<Mailbox<Command>>>) {
        self.desks = mailboxes.into_iter().map(|mailbox| Desk { mailbox, batch: Vec::new(), lent: 0 }).collect();
        self.lend();
    }

    /// The way to the workers.
    pub fn attach_uplink(&mut self, uplink: Box<dyn Uplink>) {
        self.uplink = Some(uplink);
    }

    /// An event of a reactor.
    pub fn on_event(&mut self, event: Event) {
        match event {
            Event::Login(login) => self.on_login(*login),
            Event::Send(send) => self.on_send(send),
            Event::Recvack(bucket, body) => self.to_push(bucket, Kind::Recvack, body, 0),
            Event::Closed(at, _) => self.on_closed(at.conn),
            Event::AcceptStopped(_) => self.reports.accept_stopped += 1,
            Event::Drained(_) => self.reports.drained += 1,
            Event::Failed(reactor, text) => self.reports.failed = Some(format!("reactor {reactor}: {text}")),
        }
    }

    /// A batch of items of a worker begins.
    pub fn on_batch(&mut self, now_ms: u64) {
        self.last_item_ms = now_ms;
    }

    /// Every SEND and CONNECT is answered, and no worker has sent anything for `quiet_ms`.
    #[must_use]
    pub fn is_quiet(&self, now_ms: u64, quiet_ms: u64) -> bool {
        self.open_work() == 0 && now_ms >= self.last_item_ms.saturating_add(quiet_ms)
    }

    /// An item of a worker.
    pub fn on_item(&mut self, kind: Kind, body: &Bytes) {
        let result = match kind {
            Kind::Connack => item::Connack::decode(body).map(|x| self.on_connack(&x)),
            Kind::Kick => item::Kick::decode(body).map(|x| self.on_kick(&x)),
            Kind::Sendack => item::Sendack::decode(body).map(|x| self.on_sendack(&x)),
            Kind::RecvOut => item::RecvOut::decode(body).map(|x| self.on_recv_out(&x, body)),
            other => {
                self.metrics.item_errors.inc();
                return tracing::error!(kind = ?other, "item is not for a gateway");
            }
        };
        if let Err(err) = result {
            self.metrics.item_errors.inc();
            tracing::error!(?kind, %err, "item of a worker cannot be read");
        }
    }

    /// Items with these tokens were received by their push worker: their connections are known there.
    pub fn on_push_done(&mut self, tokens: &[u64]) {
        for &token in tokens {
            self.open(ConnId(token));
        }
    }

    /// Items with these tokens are settled by their user worker.
    pub fn on_user_done(&mut self, tokens: &[u64]) {
        for &token in tokens {
            self.in_flight.done(token.cast_signed());
        }
    }

    /// An item is refused because two workers died of it; it is in quarantine by now.
    pub fn on_poison(&mut self, item: &Poisoned) {
        self.metrics.poisoned.inc();
        match item.kind {
            Kind::Send => self.answer_self(item.token.cast_signed()),
            Kind::Connect => {
                if let Ok(connect) = item::Connect::decode(&item.body) {
                    self.close(connect.conn, CloseReason::Refused);
                }
            }
            Kind::SessionUp => self.close(ConnId(item.token), CloseReason::Refused),
            _ => {}
        }
    }

    /// Sessions of a share, for a new incarnation of the worker that owns it: those that wait for an answer first.
    #[must_use]
    pub fn snapshot(&mut self, owned: &dyn Fn(Bucket) -> bool) -> Vec<(Kind, Bucket, Bytes)> {
        let mark = |kind| std::iter::once((kind, Bucket::default(), Bytes::new()));
        mark(Kind::SnapshotBegin).chain(self.sessions_of(owned)).chain(mark(Kind::SnapshotEnd)).collect()
    }

    /// Sessions of these buckets: those that wait for an answer first.
    #[must_use]
    pub fn sessions_of(&mut self, buckets: &dyn Fn(Bucket) -> bool) -> Vec<(Kind, Bucket, Bytes)> {
        let waiting: HashSet<ConnId> = self.in_flight.conns().collect();
        let mine = || self.sessions.values().filter(|s| s.is_authenticated() && buckets(s.bucket));
        let first = mine().filter(|s| waiting.contains(&s.at.conn));
        let then = mine().filter(|s| !waiting.contains(&s.at.conn));
        first.chain(then).map(|s| (Kind::SessionUp, s.bucket, self.encoder.encode(&s.item()))).collect()
    }

    /// Message ids came from the cluster.
    pub fn add_ids(&mut self, runs: impl IntoIterator<Item = IdRun>) {
        self.metrics.id_blocks.inc();
        self.ids.add(runs);
        self.lend();
    }

    /// More message ids should be fetched.
    #[must_use]
    pub fn wants_ids(&self) -> bool {
        self.ids.len() < u64::from(IDS_LOW)
    }

    /// Answers SENDs whose deadline has passed.
    pub fn expire(&mut self, now_ms: u64) {
        while let Some((id, overdue)) = self.in_flight.expire(now_ms) {
            self.metrics.sends_late.inc();
            self.write_overdue(id, overdue);
        }
    }

    /// When [`Hub::expire`] has something to do next. Monotonic ms.
    #[must_use]
    pub fn next_due_ms(&self) -> Option<u64> {
        self.in_flight.next_due_ms()
    }

    /// Ends a round: looks at the links, lends ids, hands the commands over.
    pub fn flush(&mut self) {
        let congested = self.uplink.as_ref().is_some_and(|u| u.congested());
        if congested != self.holding {
            self.holding = congested;
            self.shared.hold.store(congested, Ordering::Relaxed);
            self.metrics.held.set(i64::from(congested));
            if !congested {
                self.broadcast(|| Command::Resume);
            }
        }
        self.lend();
        for desk in &mut self.desks {
            desk.mailbox.post(&mut desk.batch);
        }
        self.metrics.in_flight.set(self.in_flight.open().try_into().unwrap_or(i64::MAX));
        self.metrics.ids.set(self.ids.len().try_into().unwrap_or(i64::MAX));
        self.metrics.output_bytes.set(self.shared.output.get().try_into().unwrap_or(i64::MAX));
    }

    /// SENDs are held back: look again soon.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        self.holding
    }

    /// A command for every reactor that holds connections.
    pub fn broadcast(&mut self, command: impl Fn() -> Command) {
        for desk in &mut self.desks {
            desk.batch.push(command());
        }
    }

    /// Items without settlement, and SENDs without an answer.
    #[must_use]
    pub fn unsettled(&self) -> u64 {
        self.uplink.as_ref().map_or(0, |u| u.unsettled()).max(self.in_flight.open())
    }

    /// SENDs and CONNECTs without an answer.
    #[must_use]
    pub fn open_work(&self) -> u64 {
        let logins = self.sessions.values().filter(|s| matches!(s.state, State::Waiting { .. } | State::Registering { .. })).count();
        self.in_flight.open() + logins as u64
    }

    /// Connections that have not sent their CONNECT.
    #[must_use]
    pub fn newcomers(&self) -> u64 {
        self.shared.newcomers()
    }

    /// Connections the workers know of.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    fn on_login(&mut self, mut login: Login) {
        self.shared.newcomer_left();
        let connect = &login.connect;
        let body = self.encoder.encode(&item::Connect {
            conn: login.at.conn,
            accepted_ms: login.accepted_ms,
            version: login.version.get(),
            json: login.json,
            device_flag: connect.device_flag,
            client_timestamp_ms: connect.client_timestamp,
            device_id: &connect.device_id,
            uid: &connect.uid,
            token: &connect.token,
            client_key: &connect.client_key,
            peer: &login.peer,
        });
        let bucket = login.bucket;
        self.sessions.insert(login.at.conn, Session::of(&mut login));
        if let Some(uplink) = &self.uplink {
            uplink.user(bucket, Kind::Connect, body, Keep::UntilSettled, 0);
        }
    }

    fn on_send(&mut self, send: Handover) {
        if let Some(desk) = self.desks.get_mut(usize::from(send.at.reactor)) {
            desk.lent = desk.lent.saturating_sub(1);
        }
        let token = send.message_id.cast_unsigned();
        let ticket = self.uplink.as_ref().and_then(|u| u.user(send.bucket, Kind::Send, send.body.clone(), Keep::UntilSettled, token));
        let entry = Entry {
            at: send.at,
            ticket,
            client_seq: send.client_seq,
            flags: send.flags,
            id: send.id,
            cost: send.cost,
            body: send.body,
            answered: false,
        };
        self.in_flight.insert(send.message_id, entry, send.accepted_ms);
    }

    fn on_closed(&mut self, conn: ConnId) {
        let Some(session) = self.sessions.remove(&conn) else { return };
        if session.is_authenticated() {
            self.metrics.sessions.dec();
            let body = self.encoder.encode(&item::Closed { conn, uid: &session.uid });
            self.to_push(session.bucket, Kind::SessionDown, body, 0);
        }
        if matches!(session.state, State::Refused) {
            // The user worker refused it: it has nothing to forget.
            return;
        }
        let body = self.encoder.encode(&item::Closed { conn, uid: &session.uid });
        if let Some(uplink) = &self.uplink {
            uplink.user(session.bucket, Kind::Closed, body, Keep::UntilSettled, 0);
        }
    }

    fn to_push(&self, bucket: Bucket, kind: Kind, body: Bytes, token: u64) {
        if let Some(uplink) = &self.uplink {
            uplink.push(bucket, kind, body, Keep::UntilReceived, token);
        }
    }

    /// Fills up the reactors' stocks of ids.
    fn lend(&mut self) {
        for desk in self.desks.iter_mut().filter(|desk| desk.lent <= IDS_LENT / 2) {
            let runs = self.ids.lend(IDS_LENT - desk.lent);
            if !runs.is_empty() {
                desk.lent += runs.iter().map(|run| run.count).sum::<u32>();
                desk.batch.push(Command::Ids(runs));
            }
        }
    }
}

fn send_to(desks: &mut [Desk], at: At, command: Command) {
    if let Some(desk) = desks.get_mut(usize::from(at.reactor)) {
        desk.batch.push(command);
    }
}

#[cfg(test)]
mod tests;
