//! A gateway: sends items of its clients, keeps their sessions, notes what comes back.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use wk_link::item::{Body as _, Connack, Connect, Encoder, Kick, RecvOut, Recvack, Send, Sendack, Session};
use wk_link::ring::Window;
use wk_link::sender::Ticket;
use wk_link::{Delivery, Handler, Keep, Kind, LinkHooks, LinkServer, LinkSet, LinkSetConfig, Outgoing, Peer, PeerEvent, Preamble};
use wk_rpc::TableWatch;
use wk_rpc::clock::monotonic_ms;
use wk_types::{Bucket, ChannelType, ConnId, Daemon, DeviceFlag, DeviceLevel, NodeId, Pool, Reason};
use wk_wire::crypto::{self, KeyPair, Salt, SessionKeys};
use wk_wire::{Flags, Frame, Recv, SendRef, ServerFrame, Setting, Version, decode_server};

use crate::node::{eventually, name};

/// One client of the gateway.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) conn: ConnId,
    pub(crate) uid: String,
    pub(crate) keys: SessionKeys,
}

/// A SENDACK as the client hears it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) stored_id: i64,
    pub(crate) seq: u64,
    pub(crate) reason: Reason,
}

/// Sessions and everything that came.
#[derive(Default)]
pub(crate) struct State {
    sessions: BTreeMap<ConnId, (String, Bytes)>,
    connacks: BTreeMap<ConnId, (Reason, String, String, Bytes)>,
    pub(crate) acks: BTreeMap<i64, Ack>,
    pub(crate) kicks: Vec<(ConnId, String)>,
    recvs: Vec<(ConnId, Vec<u8>)>,
    tickets: BTreeMap<i64, Ticket>,
}

#[derive(Clone)]
pub(crate) struct Gateway {
    pub(crate) state: Arc<Mutex<State>>,
    users: LinkSet,
    pushes: LinkSet,
}

struct Receiver {
    state: Arc<Mutex<State>>,
}

impl Handler for Receiver {
    fn deliver(&self, peer: &Peer, items: Vec<Delivery>) {
        let mut state = self.state.lock();
        for d in items {
            match d.kind {
                Kind::Connack => {
                    let x = Connack::decode(&d.body).unwrap();
                    let what = (x.reason, x.server_key.to_owned(), x.salt.to_owned(), d.body.clone());
                    state.connacks.insert(x.conn, what);
                }
                Kind::Sendack => {
                    let x = Sendack::decode(&d.body).unwrap();
                    let ack = Ack { stored_id: x.stored_id, seq: x.message_seq, reason: x.reason };
                    // The first answer counts; the SEND need not be kept any longer.
                    state.acks.entry(x.message_id).or_insert(ack);
                }
                Kind::Kick => {
                    let x = Kick::decode(&d.body).unwrap();
                    state.kicks.push((x.conn, x.text.to_owned()));
                }
                Kind::RecvOut => {
                    let x = RecvOut::decode(&d.body).unwrap();
                    state.recvs.push((x.conn, x.frame.to_vec()));
                }
                other => unreachable!("{other:?}"),
            }
            peer.settle(d.position);
        }
    }

    fn peer(&self, _peer: &Peer, _event: PeerEvent) {}
}

struct Snapshot(Arc<Mutex<State>>);

impl Preamble for Snapshot {
    fn items(&self, _slot: u16) -> Vec<(Kind, Bucket, Bytes)> {
        let mut items = vec![(Kind::SnapshotBegin, Bucket::default(), Bytes::new())];
        items.extend(self.0.lock().sessions.values().map(|(uid, body)| (Kind::SessionUp, Bucket::of(uid), body.clone())));
        items.push((Kind::SnapshotEnd, Bucket::default(), Bytes::new()));
        items
    }
}

impl Gateway {
    pub(crate) fn start(table: TableWatch, incarnation: u64, socket: &Path, window: Window) -> Self {
        let state: Arc<Mutex<State>> = Arc::default();
        let me = name(Daemon::Gateway);
        let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
        let server = LinkServer::new(me, incarnation, Arc::new(Receiver { state: Arc::clone(&state) }));
        let routes = Routes::new(server.into_service());
        tokio::spawn(wk_rpc::serve(listener, routes, wk_rpc::ServeOptions::default(), std::future::pending()));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let link = |target| {
            let config = LinkSetConfig { window, ..LinkSetConfig::new(target, me, incarnation) };
            let preamble: Option<Arc<dyn Preamble>> = Some(Arc::new(Snapshot(Arc::clone(&state))));
            let hooks = LinkHooks {
                preamble,
                on_done: Arc::new(|_| {}),
                on_lost: None,
                quarantine: None,
                on_poison: Arc::new(|p| unreachable!("{p:?}")),
            };
            LinkSet::start(config, table.clone(), hooks, &tasks, stop.clone())
        };
        let (users, pushes) = (link(Daemon::Worker(Pool::User)), link(Daemon::Worker(Pool::Push)));
        Self { state, users, pushes }
    }

    /// CONNECT; the reason of the CONNACK, and the client on success.
    pub(crate) async fn login(&self, counter: u64, uid: &str, device: &str, token: &str) -> Result<Client, Reason> {
        let conn = ConnId::new(NodeId(1), 0, counter);
        let pair = KeyPair::generate().unwrap();
        let body = Encoder::default().encode(&Connect {
            conn,
            accepted_ms: monotonic_ms(),
            version: 5,
            json: false,
            device_flag: DeviceFlag(1),
            client_timestamp_ms: 0,
            device_id: device,
            uid,
            token,
            client_key: &pair.public_b64(),
            peer: "test",
        });
        self.users.push(Bucket::of(uid), Kind::Connect, body, Keep::UntilSettled, 0);
        let (reason, server_key, salt, body) = eventually(|| self.state.lock().connacks.get(&conn).cloned()).await;
        if !reason.is_success() {
            return Err(reason);
        }
        let x = Connack::decode(&body).unwrap();
        let session = Session {
            conn,
            version: 5,
            json: false,
            encrypted: x.encrypted,
            snake_case: false,
            device_flag: DeviceFlag(1),
            device_level: x.device_level,
            aes_key: x.aes_key,
            aes_iv: x.aes_iv,
            since_ms: 0,
            uid,
            device_id: device,
        };
        let session = Encoder::default().encode(&session);
        self.state.lock().sessions.insert(conn, (uid.to_owned(), session.clone()));
        let known =
            self.pushes.push_wait(0, Outgoing { bucket: Bucket::of(uid), kind: Kind::SessionUp, body: session, keep: Keep::UntilReceived });
        known.await.unwrap();
        assert!(x.device_level == DeviceLevel::SLAVE || !token.is_empty());
        let keys = crypto::agree(&pair, &server_key, Salt::parse(&salt).unwrap()).unwrap();
        Ok(Client { conn, uid: uid.to_owned(), keys })
    }

    /// SEND, encrypted as a client does.
    pub(crate) fn send(&self, client: &Client, id: i64, to: (&str, ChannelType), flags: u8, payload: &[u8]) {
        let (channel, kind) = to;
        let mut wire = Vec::new();
        client.keys.encrypt_payload(payload, &mut wire);
        let number = format!("no-{id}");
        let mut view = SendRef {
            flags: Flags::from_byte(flags),
            setting: Setting::NONE,
            client_seq: 1,
            client_msg_no: &number,
            stream_no: "",
            channel_id: channel,
            channel_type: kind,
            expire: 0,
            msg_key: "",
            topic: "",
            payload: &wire,
        };
        let key = client.keys.send_key(&view);
        view.msg_key = key.as_str();
        let body = Encoder::default().encode(&Send {
            conn: client.conn,
            message_id: id,
            accepted_ms: monotonic_ms(),
            flags,
            setting: 0,
            client_seq: 1,
            expire: 0,
            channel_type: kind,
            uid: &client.uid,
            channel_id: channel,
            client_msg_no: &number,
            stream_no: "",
            topic: "",
            msg_key: view.msg_key,
            payload: &wire,
        });
        let ticket = self.users.push(Bucket::of(&client.uid), Kind::Send, body, Keep::UntilSettled, 0);
        // Without a table, or while its bucket moves, an item has no place yet.
        self.state.lock().tickets.extend(ticket.map(|ticket| (id, ticket)));
    }

    pub(crate) async fn ack(&self, id: i64) -> Ack {
        let ack = eventually(|| self.state.lock().acks.get(&id).copied()).await;
        let ticket = self.state.lock().tickets.remove(&id);
        if let Some(ticket) = ticket {
            self.users.settle(ticket);
        }
        ack
    }

    /// RECVs of a client so far, opened.
    pub(crate) fn received(&self, client: &Client) -> Vec<(Recv, Vec<u8>)> {
        let state = self.state.lock();
        let mine = state.recvs.iter().filter(|(conn, _)| *conn == client.conn);
        mine.map(|(_, bytes)| {
            let frame = Frame::next(bytes, 1 << 20).unwrap().unwrap();
            let ServerFrame::Recv(recv) = decode_server(&frame.head, frame.body, Version::V5).unwrap() else { unreachable!("not a RECV") };
            let mut plain = Vec::new();
            client.keys.open_recv(&recv, &mut plain).unwrap();
            (recv.to_owned(), plain)
        })
        .collect()
    }

    /// Waits for at least `count` RECVs of a client.
    pub(crate) async fn receive(&self, client: &Client, count: usize) -> Vec<(Recv, Vec<u8>)> {
        eventually(|| Some(self.received(client)).filter(|r| r.len() >= count)).await
    }

    pub(crate) fn recvack(&self, client: &Client, recv: &Recv) {
        let ack = Recvack { conn: client.conn, message_id: recv.message_id, message_seq: recv.message_seq, flags: 0, uid: &client.uid };
        let body = Encoder::default().encode(&ack);
        self.pushes.push(Bucket::of(&client.uid), Kind::Recvack, body, Keep::UntilReceived, 0);
    }

    /// Items the workers still owe us.
    pub(crate) fn unsettled(&self) -> u64 {
        self.users.unsettled()
    }
}
