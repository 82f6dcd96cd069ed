//! Reactors and the test as their hub.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use wk_gateway::config::Settings;
use wk_gateway::exchange::{At, CloseReason, Command, Event, Handover, Login, Mailbox, Shared, Transport};
use wk_gateway::metrics::Metrics;
use wk_gateway::reactor::{Common, Reactors};
use wk_types::{IdRun, Reason};
use wk_wire::jsonrpc::results;
use wk_wire::{Connack, Sendack, Version, encode};

/// Nothing in these tests takes this long unless it is broken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Usual settings, but nobody lingers for seconds.
pub(crate) fn settings() -> Settings {
    Settings { linger_ms: 300, ..Settings::default() }
}

pub(crate) struct Rig {
    pub(crate) tcp: SocketAddr,
    pub(crate) ws: SocketAddr,
    pub(crate) reactors: Reactors,
    pub(crate) shared: Arc<Shared>,
    pub(crate) metrics: Metrics,
    inbox: Arc<Mailbox<Event>>,
    came: Arc<(Mutex<u64>, Condvar)>,
    waiting: Mutex<Vec<Event>>,
    next_id: AtomicU64,
}

impl Rig {
    pub(crate) fn start(settings: Settings) -> Self {
        Self::with(settings, 1)
    }

    pub(crate) fn with(settings: Settings, reactors: u16) -> Self {
        let rig = Self::closed(settings, reactors);
        rig.reactors.main.post_one(Command::Admit);
        rig
    }

    /// Without message ids.
    pub(crate) fn bare(settings: Settings) -> Self {
        let rig = Self::build(settings, 1);
        rig.reactors.main.post_one(Command::Admit);
        rig
    }

    /// Listeners are there, nothing is accepted.
    pub(crate) fn closed(settings: Settings, reactors: u16) -> Self {
        let rig = Self::build(settings, reactors);
        rig.lend(100_000);
        rig
    }

    fn build(settings: Settings, reactors: u16) -> Self {
        let came = Arc::new((Mutex::new(0), Condvar::new()));
        let signal = Arc::clone(&came);
        let inbox = Arc::new(Mailbox::new(move || {
            *signal.0.lock() += 1;
            signal.1.notify_all();
        }));
        let listeners = [Transport::Tcp, Transport::Ws].map(|transport| (transport, TcpListener::bind("127.0.0.1:0").unwrap()));
        let [tcp, ws] = [0, 1].map(|n: usize| listeners[n].1.local_addr().unwrap());
        let metrics = Metrics::new(&wk_telemetry::Metrics::new());
        let shared = Arc::new(Shared::default());
        let common =
            Common { settings: Arc::new(settings), shared: Arc::clone(&shared), metrics: metrics.clone(), hub: Arc::clone(&inbox) };
        let reactors = Reactors::start(reactors, listeners.into(), &common).unwrap();
        Self { tcp, ws, reactors, shared, metrics, inbox, came, waiting: Mutex::default(), next_id: AtomicU64::new(1) }
    }

    pub(crate) fn lend(&self, count: u32) {
        for sub in &self.reactors.subs {
            let first = self.next_id.fetch_add(u64::from(count), Ordering::Relaxed).cast_signed();
            sub.post_one(Command::Ids(vec![IdRun { first, count }]));
        }
    }

    /// A reactor that has an event for us stands still as long as this is held.
    pub(crate) fn hold_up(&self) -> parking_lot::MutexGuard<'_, u64> {
        assert!(self.inbox.may_sleep(), "there are events already");
        self.came.0.lock()
    }

    /// The next event that `pick` takes; others stay.
    pub(crate) fn wait<T>(&self, pick: impl Fn(&Event) -> Option<T>) -> T {
        let until = Instant::now() + DEADLINE;
        loop {
            {
                let mut waiting = self.waiting.lock();
                let mut batch = Vec::new();
                self.inbox.take(&mut batch);
                waiting.append(&mut batch);
                if let Some((index, got)) = waiting.iter().enumerate().find_map(|(i, e)| pick(e).map(|got| (i, got))) {
                    waiting.remove(index);
                    return got;
                }
            }
            let seen = *self.came.0.lock();
            if self.inbox.may_sleep() {
                let mut count = self.came.0.lock();
                while *count == seen {
                    assert!(!self.came.1.wait_until(&mut count, until).timed_out(), "no such event; there are {:?}", self.waiting.lock());
                }
            }
        }
    }

    /// True when no event that `pick` takes is there. Use after something that proves that the reactor has gone on.
    pub(crate) fn none(&self, pick: impl Fn(&Event) -> bool) -> bool {
        let mut waiting = self.waiting.lock();
        let mut batch = Vec::new();
        self.inbox.take(&mut batch);
        waiting.append(&mut batch);
        !waiting.iter().any(pick)
    }

    /// Waits for something that makes no event.
    pub(crate) fn until(&self, done: impl Fn() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !done() {
            assert!(Instant::now() < deadline, "it does not come");
            std::thread::yield_now();
        }
    }

    pub(crate) fn login(&self) -> Login {
        // Events are not Clone: take the parts the tests need.
        self.wait(|event| match event {
            Event::Login(login) => Some(Login {
                at: login.at,
                connect: login.connect.clone(),
                version: login.version,
                json: login.json,
                dialect: login.dialect,
                id: login.id.clone(),
                peer: login.peer.clone(),
                accepted_ms: login.accepted_ms,
                bucket: login.bucket,
            }),
            _ => None,
        })
    }

    pub(crate) fn send(&self) -> Handover {
        self.wait(|event| match event {
            Event::Send(send) => Some(Handover {
                at: send.at,
                bucket: send.bucket,
                body: send.body.clone(),
                message_id: send.message_id,
                client_seq: send.client_seq,
                flags: send.flags,
                id: send.id.clone(),
                cost: send.cost,
                accepted_ms: send.accepted_ms,
            }),
            _ => None,
        })
    }

    pub(crate) fn closed_reason(&self) -> CloseReason {
        self.wait(|event| match event {
            Event::Closed(_, reason) => Some(*reason),
            _ => None,
        })
    }

    pub(crate) fn post(&self, at: At, command: Command) {
        self.reactors.subs[usize::from(at.reactor)].post_one(command);
    }

    /// Accepts a login.
    pub(crate) fn accept(&self, login: &Login) {
        self.connack(login, Reason::SUCCESS);
    }

    pub(crate) fn connack(&self, login: &Login, reason: Reason) {
        let mut frame = Vec::new();
        let connack =
            Connack { server_version: login.version.get(), time_diff: 0, reason, server_key: "k".into(), salt: "s".into(), node_id: 1 };
        if login.json {
            results::connect(&mut frame, login.id.as_ref().unwrap(), &connack, login.dialect);
        } else {
            encode::connack(&mut frame, &connack, login.version).unwrap();
        }
        self.post(login.at, Command::Connack(login.at, frame.into(), reason.is_success()));
    }

    /// Answers a SEND with success.
    pub(crate) fn sendack(&self, send: &Handover) {
        let mut frame = Vec::new();
        let ack = Sendack {
            flags: send.flags,
            message_id: send.message_id,
            client_seq: send.client_seq,
            message_seq: 1,
            reason: Reason::SUCCESS,
            client_msg_no: "",
        };
        match &send.id {
            Some(id) => results::send(&mut frame, id, &ack, wk_wire::jsonrpc::Dialect::Camel),
            None => encode::sendack(&mut frame, &ack, Version::V5).unwrap(),
        }
        self.post(send.at, Command::Sendack(send.at, frame.into(), send.cost));
    }

    /// As a worker's RECV.
    pub(crate) fn write(&self, at: At, frame: impl Into<Bytes>) {
        let frame = frame.into();
        self.shared.output.add(frame.len());
        self.post(at, Command::Write(at, frame));
    }

    /// Drains and joins; every connection must be gone.
    pub(crate) fn stop(self) {
        self.reactors.drain();
        for _ in 0..self.reactors.len() {
            self.wait(|event| matches!(event, Event::Drained(_)).then_some(()));
        }
        assert_eq!(self.metrics.conns.get(), 0);
        assert_eq!(self.shared.output.get(), 0);
        self.reactors.join();
    }
}
