//! The receiving end of all links to this process: the gRPC service, and one inbox per sender.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use wk_proto::link::v1 as pb;
use wk_proto::link::v1::link_server::{Link, LinkServer as Service};
use wk_types::{Incarnation, InstanceName};

use crate::blackbox::Past;
use crate::inbox::Inbox;
use crate::ring::Position;

/// One item handed to the process. Position 0: part of a preamble, nothing to settle.
pub use crate::inbox::Received as Delivery;

/// A sender that dials and says nothing is dropped after this.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// Reports that wait for HTTP/2; what they say is state, so a few are enough.
const REPORT_QUEUE: usize = 2;
/// Largest stream message: a batch of limits plus one item of the largest size, with room for heads.
const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// What a process does with what comes in. Called on the runtime's thread: it must not block.
pub trait Handler: Send + Sync + 'static {
    /// New items of one batch, in order.
    fn deliver(&self, peer: &Peer, items: Vec<Delivery>);
    /// A sender came or went.
    fn peer(&self, peer: &Peer, event: PeerEvent);
}

/// What happened to a sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerEvent {
    /// Its stream is up; `fresh`: this incarnation was not seen before.
    Up {
        /// First stream of this sender incarnation.
        fresh: bool,
    },
    /// Its stream ended; it will probably come back.
    Lost,
    /// A newer incarnation of the same name has replaced it: its items and connections are void.
    Gone,
}

/// A sender, by incarnation. Cheap to clone; settle from anywhere.
#[derive(Clone)]
pub struct Peer {
    inner: Arc<PeerInner>,
}

struct PeerInner {
    name: InstanceName,
    text: String,
    incarnation: Incarnation,
    inbox: Mutex<Inbox>,
    wake: Notify,
    /// Ends the stream in use when a new one comes.
    stream: Mutex<CancellationToken>,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("name", &self.inner.text).field("incarnation", &self.inner.incarnation).finish()
    }
}

impl Peer {
    /// A peer without a stream: for tests of handlers.
    #[must_use]
    pub fn detached(name: InstanceName, incarnation: Incarnation) -> Self {
        let inner =
            PeerInner { text: name.to_string(), name, incarnation, inbox: Mutex::default(), wake: Notify::new(), stream: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// `gateway@0`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.text
    }

    /// The sender's instance.
    #[must_use]
    pub fn instance(&self) -> InstanceName {
        self.inner.name
    }

    /// The sender's slot.
    #[must_use]
    pub fn slot(&self) -> u16 {
        self.inner.name.slot
    }

    /// The sender's incarnation.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.inner.incarnation
    }

    /// The outcome of the item at `position` would survive our death. Position 0 and repeated calls do nothing.
    pub fn settle(&self, position: Position) {
        if position == 0 {
            return;
        }
        self.inner.inbox.lock().settle(position);
        self.inner.wake.notify_one();
    }

    /// Items received and not settled.
    #[must_use]
    pub fn unsettled(&self) -> u64 {
        self.inner.inbox.lock().unsettled()
    }
}

/// The `wk.link.v1.Link` service of this process. Cheap to clone.
#[derive(Clone)]
pub struct LinkServer {
    inner: Arc<ServerInner>,
}

struct ServerInner {
    me: String,
    incarnation: Incarnation,
    handler: Arc<dyn Handler>,
    /// How the life before ended.
    past: Past,
    peers: Mutex<HashMap<String, Peer>>,
    /// Nothing more is taken in.
    closing: CancellationToken,
    streams: TaskTracker,
}

impl std::fmt::Debug for LinkServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkServer").field("me", &self.inner.me).finish_non_exhaustive()
    }
}

impl LinkServer {
    /// A server for the instance `me` in its life `incarnation`.
    #[must_use]
    pub fn new(me: InstanceName, incarnation: Incarnation, handler: Arc<dyn Handler>) -> Self {
        Self::after(me, incarnation, handler, Past::Unknown)
    }

    /// As [`LinkServer::new`], with what is known of the life before: its senders are told, so that they blame the right item.
    #[must_use]
    pub fn after(me: InstanceName, incarnation: Incarnation, handler: Arc<dyn Handler>, past: Past) -> Self {
        let (peers, closing, streams) = (Mutex::default(), CancellationToken::new(), TaskTracker::new());
        let inner = ServerInner { me: me.to_string(), incarnation, handler, past, peers, closing, streams };
        Self { inner: Arc::new(inner) }
    }

    fn welcome(&self, peer: &Peer) -> pb::Welcome {
        let (blameless, died_handling) = match &self.inner.past {
            Past::Died(item) if item.sender == peer.name() && item.incarnation == peer.incarnation() => (false, item.position),
            Past::Died(_) | Past::Drained => (true, 0),
            Past::Unknown => (false, 0),
        };
        let received = peer.inner.inbox.lock().received();
        pb::Welcome { received, blameless, died_handling }
    }

    /// The gRPC service.
    #[must_use]
    pub fn into_service(self) -> Service<Self> {
        Service::new(self).max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Items of all senders that are received and not settled.
    #[must_use]
    pub fn unsettled(&self) -> u64 {
        self.inner.peers.lock().values().map(Peer::unsettled).sum()
    }

    /// Tells every sender what is left to tell, ends its stream, and waits until it has read that, at most `within`: what was settled and not
    /// heard of would be sent again to our next life.
    pub async fn close(&self, within: Duration) {
        self.inner.closing.cancel();
        self.inner.streams.close();
        if tokio::time::timeout(within, self.inner.streams.wait()).await.is_err() {
            tracing::debug!(streams = self.inner.streams.len(), "senders do not read the end of their links");
        }
    }

    /// The peer of a Hello, the end of its stream, and the peer it replaces.
    fn admit(&self, hello: &pb::Hello) -> Result<Admitted, Status> {
        let inner = &self.inner;
        if inner.closing.is_cancelled() {
            return Err(Status::unavailable(format!("this life of {} ends", inner.me)));
        }
        if hello.receiver != inner.me || hello.receiver_incarnation != inner.incarnation {
            return Err(Status::failed_precondition(format!("this is {} in another life", inner.me)));
        }
        let name: InstanceName = hello.sender.parse().map_err(|_| Status::invalid_argument("sender is no instance name"))?;
        let mut peers = inner.peers.lock();
        let known = peers.get(&hello.sender).filter(|p| p.incarnation() == hello.sender_incarnation).cloned();
        let (peer, fresh, gone) = match known {
            Some(peer) => (peer, false, None),
            None => {
                let peer = Peer::detached(name, hello.sender_incarnation);
                let gone = peers.insert(hello.sender.clone(), peer.clone());
                (peer, true, gone)
            }
        };
        let stream = CancellationToken::new();
        std::mem::replace(&mut *peer.inner.stream.lock(), stream.clone()).cancel();
        if let Some(gone) = &gone {
            gone.inner.stream.lock().cancel();
        }
        peer.inner.inbox.lock().on_hello(hello.first_position);
        Ok(Admitted { peer, stream, fresh, gone })
    }
}

struct Admitted {
    peer: Peer,
    stream: CancellationToken,
    fresh: bool,
    gone: Option<Peer>,
}

type DownStream = Pin<Box<dyn tokio_stream::Stream<Item = Result<pb::Down, Status>> + Send>>;

#[tonic::async_trait]
impl Link for LinkServer {
    type OpenStream = DownStream;

    async fn open(&self, request: Request<Streaming<pb::Up>>) -> Result<Response<Self::OpenStream>, Status> {
        let mut up = request.into_inner();
        let first = tokio::time::timeout(HELLO_TIMEOUT, up.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no hello"))??
            .and_then(|m| m.message);
        let Some(pb::up::Message::Hello(hello)) = first else {
            return Err(Status::invalid_argument("the first message must be a hello"));
        };
        let admitted = self.admit(&hello)?;
        let handler = Arc::clone(&self.inner.handler);
        let peer = admitted.peer.clone();
        if let Some(gone) = &admitted.gone {
            handler.peer(gone, PeerEvent::Gone);
        }
        handler.peer(&peer, PeerEvent::Up { fresh: admitted.fresh });
        let (down, reports) = mpsc::channel(REPORT_QUEUE);
        let welcome = pb::down::Message::Welcome(self.welcome(&peer));
        down.try_send(Ok(pb::Down { message: Some(welcome) })).map_err(|_| Status::internal("a new queue is full"))?;
        let closing = self.inner.closing.clone();
        self.inner.streams.spawn(async move {
            let end = serve_stream(&peer, handler.as_ref(), &mut up, down, [&admitted.stream, &closing]).await;
            if let Err(err) = end {
                tracing::debug!(sender = peer.name(), %err, "link stream ended");
            }
            handler.peer(&peer, PeerEvent::Lost);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(reports))))
    }
}

/// Moves one stream until it ends, or until we close. Taking items in never waits for the reports to get out.
async fn serve_stream(
    peer: &Peer,
    handler: &dyn Handler,
    up: &mut Streaming<pb::Up>,
    down: mpsc::Sender<Result<pb::Down, Status>>,
    [stop, closing]: [&CancellationToken; 2],
) -> Result<(), Status> {
    loop {
        let owes_report = peer.inner.inbox.lock().has_report();
        tokio::select! {
            // The end first: what a newer stream was told must not be told to this one.
            biased;
            () = stop.cancelled() => return Err(Status::aborted("replaced by a newer stream")),
            // Cancel safe: a permit, a message and a wake-up are taken whole or not at all.
            permit = down.reserve(), if owes_report => {
                let permit = permit.map_err(|_| Status::cancelled("the sender went away"))?;
                let report = peer.inner.inbox.lock().take_report();
                if let Some((received, settled)) = report {
                    let settled = settled.into_iter().flat_map(|(first, count)| [first, count]).collect();
                    permit.send(Ok(pb::Down { message: Some(pb::down::Message::Report(pb::Report { received, settled })) }));
                }
            }
            () = closing.cancelled(), if !owes_report => {
                // Something may have been settled since we looked.
                if !peer.inner.inbox.lock().has_report() {
                    break;
                }
            }
            message = up.message() => match message?.and_then(|m| m.message) {
                Some(pb::up::Message::Batch(batch)) => {
                    let items = peer.inner.inbox.lock().on_batch(batch.first, &batch.items);
                    let items = items.map_err(|e| Status::invalid_argument(e.to_string()))?;
                    handler.deliver(peer, items);
                }
                Some(pb::up::Message::Ping(ping)) => {
                    let pong = pb::down::Message::Pong(pb::Pong { nonce: ping.nonce });
                    // A full queue means that reports are on their way: the sender sees life anyway.
                    drop(down.try_send(Ok(pb::Down { message: Some(pong) })));
                }
                Some(pb::up::Message::Hello(_)) => return Err(Status::invalid_argument("a second hello")),
                None => return Ok(()),
            },
            () = peer.inner.wake.notified() => {}
        }
    }
    drop(down);
    // It ends its side when it has read all of ours. What it sends meanwhile is not received: it goes to our next life.
    while up.message().await?.is_some() {}
    Ok(())
}
