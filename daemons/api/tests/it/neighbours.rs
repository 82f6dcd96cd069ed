//! Node table, cluster, user worker and channel worker of the test: just enough state to answer, and switches that make them fail.

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};

use bytes::{BufMut as _, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use wk_link::item::{Body as _, ChannelSend};
use wk_link::record::{Stored, encode_message, encode_row};
use wk_link::{Delivery, Handler, LinkServer, Peer, PeerEvent};
use wk_proto::cluster::v1 as cluster;
use wk_proto::cluster::v1::data_server::{Data, DataServer};
use wk_proto::node::v1 as node;
use wk_proto::node::v1::node_table_server::{NodeTable, NodeTableServer};
use wk_proto::worker::v1 as worker;
use wk_proto::worker::v1::channel_admin_server::{ChannelAdmin, ChannelAdminServer};
use wk_proto::worker::v1::user_admin_server::{UserAdmin, UserAdminServer};
use wk_rpc::{ServeOptions, serve};

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// One stored message: (channel id, type, sequence, frame of `Stored`, message id).
type Entry = (String, u32, u64, Vec<u8>, i64);

#[derive(Default)]
pub(crate) struct State {
    pub(crate) log: Mutex<Vec<Entry>>,
    pub(crate) grew: Notify,
    pub(crate) ids: AtomicI64,
    pub(crate) cursors: Mutex<BTreeMap<u32, u64>>,
    pub(crate) tokens: Mutex<Vec<worker::SetTokenRequest>>,
    pub(crate) changes: Mutex<Vec<cluster::Command>>,
    /// Calls on owners that are answered FENCED before one goes through.
    pub(crate) fenced: AtomicU32,
    /// Items are received and not settled while true.
    pub(crate) held: AtomicBool,
    held_items: Mutex<Vec<(Peer, Delivery)>>,
}

/// The neighbours. Cheap to clone; clones share the state.
#[derive(Clone)]
pub(crate) struct Neighbours {
    pub(crate) state: Arc<State>,
}

impl Neighbours {
    pub(crate) fn start(dir: &Path) -> Self {
        let neighbours = Self { state: Arc::default() };
        neighbours.serve_in(dir);
        neighbours
    }

    /// Serves the sockets of all neighbours inside `dir`, until the test's runtime ends.
    pub(crate) fn serve_in(&self, dir: &Path) {
        let serve_on = |name: &str, routes: Routes| {
            let listener = UnixListener::bind(dir.join(name)).unwrap();
            tokio::spawn(serve(listener, routes, ServeOptions::default(), std::future::pending()));
        };
        let path = |name: &str| dir.join(name).display().to_string();
        let row = |name: &str, incarnation, socket: &str| node::Instance {
            name: name.into(),
            generation: 1,
            incarnation,
            state: node::State::Ready.into(),
            link_socket: path(socket),
            health_socket: String::new(),
            pid: 0,
        };
        let pool = |daemon: &str| node::PoolSlots { daemon: daemon.into(), slots: vec![0], ..Default::default() };
        let table = node::Table {
            epoch: 1,
            node_id: 1001,
            admitted: false,
            quiescing: false,
            instances: vec![
                row("cluster@0", 1, "cluster.sock"),
                row("worker.user@0", 2, "user.sock"),
                row("worker.channel@0", 3, "channel.sock"),
            ],
            pools: vec![pool("worker.user"), pool("worker.channel")],
        };
        let link = LinkServer::new("worker.channel@0".parse().unwrap(), 3, Arc::new(self.clone()));
        serve_on("node.sock", Routes::new(NodeTableServer::new(TableOf(table))));
        serve_on("cluster.sock", Routes::new(DataServer::new(self.clone())));
        serve_on("user.sock", Routes::new(UserAdminServer::new(self.clone())));
        serve_on("channel.sock", Routes::new(link.into_service()).add_service(ChannelAdminServer::new(self.clone())));
    }

    /// Settles what was held, and everything from now on.
    pub(crate) fn release(&self) {
        self.state.held.store(false, Ordering::SeqCst);
        for (peer, item) in std::mem::take(&mut *self.state.held_items.lock()) {
            self.store(&peer, &item);
        }
    }

    pub(crate) fn held(&self) -> usize {
        self.state.held_items.lock().len()
    }

    /// Appends one message as the channel worker and the cluster would, once per message id.
    fn store(&self, peer: &Peer, item: &Delivery) {
        let send = ChannelSend::decode(&item.body).unwrap();
        let mut log = self.state.log.lock();
        if send.message.flags & 1 == 0 && !log.iter().any(|(.., id)| *id == send.message.message_id) {
            let kind = u32::from(send.channel_type.0);
            let seq = log.iter().filter(|(id, k, ..)| id == send.channel_id && *k == kind).count() as u64 + 1;
            let mut frame = BytesMut::new();
            Stored::encode_from_row(&mut frame, seq, &encode_row(1_700_000_000, &encode_message(&send.message)));
            log.push((send.channel_id.to_owned(), kind, seq, frame.to_vec(), send.message.message_id));
            self.state.grew.notify_waiters();
        }
        peer.settle(item.position);
    }

    fn fence(&self) -> Result<(), Status> {
        let fenced = self.state.fenced.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        if fenced { Err(wk_rpc::status::with_code(cluster::Code::Fenced, "not the owner any more")) } else { Ok(()) }
    }

    async fn answer(&self, request: cluster::Request) -> cluster::Reply {
        use cluster::reply::Result as R;
        use cluster::request::Op;
        let result = match request.op.unwrap() {
            Op::Lookup(lookup) => R::Lookup(cluster::LookupReply { answers: lookup.queries.iter().map(|q| self.look(q)).collect() }),
            Op::Read(read) => R::Read(self.read(&read)),
            Op::AllocIds(alloc) => {
                let first = self.state.ids.fetch_add(i64::from(alloc.count), Ordering::SeqCst) + 1;
                R::AllocIds(cluster::AllocIdsReply { runs: vec![cluster::IdRun { first, count: alloc.count }] })
            }
            Op::Journal(journal) => R::Journal(self.journal(&journal).await),
            Op::SaveCursors(save) => {
                for cursor in save.cursors {
                    self.state.cursors.lock().insert(cursor.group, cursor.index);
                }
                R::SaveCursors(cluster::SaveCursorsReply::default())
            }
            Op::LoadCursors(load) => {
                let cursor = |(&group, &index): (&u32, &u64)| cluster::Cursor {
                    consumer: load.consumer.clone(),
                    group,
                    bucket: 0xffff,
                    index,
                    remove: false,
                };
                let cursors = self.state.cursors.lock().iter().map(cursor).collect();
                R::LoadCursors(cluster::LoadCursorsReply { cursors, applied: vec![self.state.log.lock().len() as u64] })
            }
            other => unreachable!("{other:?}"),
        };
        cluster::Reply { id: request.id, error: None, result: Some(result) }
    }

    fn look(&self, query: &cluster::Query) -> cluster::Answer {
        let number = match query.of.as_ref().unwrap() {
            cluster::query::Of::LastSeq(channel) => {
                self.state.log.lock().iter().filter(|(id, kind, ..)| *id == channel.id && *kind == channel.r#type).count() as u64
            }
            _ => 0,
        };
        cluster::Answer { number, ..Default::default() }
    }

    fn read(&self, read: &cluster::ReadRequest) -> cluster::ReadReply {
        let channel = read.channel.clone().unwrap();
        let log = self.state.log.lock();
        let all: Vec<_> = log.iter().filter(|(id, kind, ..)| *id == channel.id && *kind == channel.r#type).collect();
        let last_seq = all.len() as u64;
        let wanted: Vec<_> =
            all.into_iter().filter(|(_, _, seq, ..)| *seq >= read.first && (read.last == 0 || *seq <= read.last)).collect();
        let limit = usize::try_from(read.limit).unwrap().min(wanted.len());
        let page = if read.newest { &wanted[wanted.len() - limit..] } else { &wanted[..limit] };
        let mut records = BytesMut::new();
        page.iter().for_each(|(_, _, _, frame, _)| records.put_slice(frame));
        cluster::ReadReply { count: u32::try_from(limit).unwrap(), records: records.to_vec().into(), last_seq }
    }

    async fn journal(&self, journal: &cluster::JournalRequest) -> cluster::JournalReply {
        let look = async {
            loop {
                let grew = self.state.grew.notified();
                let entries: Vec<_> = {
                    let log = self.state.log.lock();
                    let entry = |(index, (id, kind, _, frame, _)): (u64, &Entry)| cluster::JournalEntry {
                        index,
                        channel: Some(cluster::ChannelRef { id: id.clone(), r#type: *kind }),
                        count: 1,
                        records: frame.clone().into(),
                        ..Default::default()
                    };
                    (1..).zip(log.iter()).filter(|(index, _)| *index > journal.after).map(entry).collect()
                };
                if !entries.is_empty() {
                    return entries;
                }
                grew.await;
            }
        };
        let wait = std::time::Duration::from_millis(journal.wait_ms);
        let entries = tokio::time::timeout(wait, look).await.unwrap_or_default();
        let upto = entries.last().map_or(journal.after, |e| e.index);
        cluster::JournalReply { entries, upto, groups: 1 }
    }
}

struct TableOf(node::Table);

#[tonic::async_trait]
impl NodeTable for TableOf {
    type WatchStream = Boxed<node::Table>;

    async fn watch(&self, _: Request<node::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let table = self.0.clone();
        Ok(Response::new(Box::pin(stream::once(async { Ok(table) }).chain(stream::pending()))))
    }

    type JoinStream = Boxed<node::Table>;

    async fn join(&self, _: Request<tonic::Streaming<node::JoinReport>>) -> Result<Response<Self::JoinStream>, Status> {
        Err(Status::unimplemented("fixed members"))
    }

    async fn report_stall(&self, _: Request<node::StallReport>) -> Result<Response<node::StallReply>, Status> {
        Ok(Response::new(node::StallReply {}))
    }

    async fn report_epoch(&self, _: Request<node::EpochReport>) -> Result<Response<node::EpochReply>, Status> {
        Ok(Response::new(node::EpochReply {}))
    }
}

#[tonic::async_trait]
impl Data for Neighbours {
    type OpenStream = Boxed<cluster::Reply>;

    async fn open(&self, requests: Request<Streaming<cluster::Request>>) -> Result<Response<Self::OpenStream>, Status> {
        let me = self.clone();
        let replies = requests.into_inner().filter_map(|r| async { r.ok() }).map(move |request| {
            let me = me.clone();
            async move { Ok(me.answer(request).await) }
        });
        Ok(Response::new(Box::pin(replies.buffer_unordered(256))))
    }
}

impl Handler for Neighbours {
    fn deliver(&self, peer: &Peer, items: Vec<Delivery>) {
        for item in items {
            if self.state.held.load(Ordering::SeqCst) {
                self.state.held_items.lock().push((peer.clone(), item));
            } else {
                self.store(peer, &item);
            }
        }
    }

    fn peer(&self, _: &Peer, _: PeerEvent) {}
}

#[tonic::async_trait]
impl UserAdmin for Neighbours {
    async fn set_token(&self, request: Request<worker::SetTokenRequest>) -> Result<Response<worker::SetTokenReply>, Status> {
        self.fence()?;
        self.state.tokens.lock().push(request.into_inner());
        Ok(Response::new(worker::SetTokenReply { status: 200 }))
    }

    async fn quit(&self, _: Request<worker::QuitRequest>) -> Result<Response<worker::QuitReply>, Status> {
        self.fence()?;
        Ok(Response::new(worker::QuitReply {}))
    }

    async fn online(&self, request: Request<worker::OnlineRequest>) -> Result<Response<worker::OnlineReply>, Status> {
        self.fence()?;
        let conn = |uid: &String| worker::OnlineConn { uid: uid.clone(), device_flag: 1, device_level: 0, conn: 9 };
        Ok(Response::new(worker::OnlineReply { conns: request.get_ref().uids.iter().map(conn).collect() }))
    }

    async fn change(&self, request: Request<worker::ChangeRequest>) -> Result<Response<worker::ChangeReply>, Status> {
        self.fence()?;
        self.state.changes.lock().extend(request.into_inner().commands);
        Ok(Response::new(worker::ChangeReply { index: 1 }))
    }
}

#[tonic::async_trait]
impl ChannelAdmin for Neighbours {
    async fn change(&self, request: Request<worker::ChangeRequest>) -> Result<Response<worker::ChangeReply>, Status> {
        self.fence()?;
        self.state.changes.lock().extend(request.into_inner().commands);
        Ok(Response::new(worker::ChangeReply { index: 1 }))
    }
}
