//! Connections to `control.sock`: who is at the other end, and what it may call.

use std::fs;
use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::server::NamedService;
use tonic::transport::server::Connected;
use tower::Service;
use wk_proto::supervisor::v1 as pb;

use crate::events::{Cause, Hub};
use crate::roles::{Actor, Peer, Policy, needed};
use crate::sys;

/// A connection with the identity of its other end.
#[derive(Debug)]
pub struct Conn {
    stream: UnixStream,
    peer: Arc<Peer>,
}

impl Connected for Conn {
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.peer.clone()
    }
}

impl AsyncRead for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// All connections; a peer without credentials is closed at once, one without a role hears so at its first call.
pub fn accepted(incoming: impl Stream<Item = UnixStream>) -> impl Stream<Item = io::Result<Conn>> {
    incoming.filter_map(|stream| async move {
        match identify(&stream) {
            Ok(peer) => Some(Ok(Conn { stream, peer: Arc::new(peer) })),
            Err(err) => {
                tracing::warn!(%err, "peer without credentials refused");
                None
            }
        }
    })
}

fn identify(stream: &UnixStream) -> io::Result<Peer> {
    let cred = stream.peer_cred()?;
    let mut gids = sys::peer_groups(stream.as_fd())?;
    gids.push(cred.gid());
    let pid = cred.pid().unwrap_or(0);
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Ok(Peer { uid: cred.uid(), gids, pid, comm: comm.trim().chars().filter(|c| !c.is_control()).collect() })
}

/// Who gives a command.
pub(super) fn actor<T>(request: &tonic::Request<T>) -> Actor {
    request.extensions().get::<Arc<Peer>>().map_or_else(Actor::default, |peer| Actor::from(&**peer))
}

/// Lets a call through when the role of its peer suffices; else an audit event and `PERMISSION_DENIED`.
#[derive(Debug, Clone)]
pub struct Guard<S> {
    inner: S,
    policy: Arc<Policy>,
    events: Hub,
}

impl<S> Guard<S> {
    /// Guards a service.
    pub fn new(inner: S, policy: Arc<Policy>, events: Hub) -> Self {
        Self { inner, policy, events }
    }

    fn refusal(&self, peer: Option<&Arc<Peer>>, path: &str) -> Option<Status> {
        let unknown = Peer { uid: u32::MAX, ..Peer::default() };
        let peer = peer.map_or(&unknown, |p| &**p);
        let (role, needed) = (self.policy.role(peer), needed(path));
        if role >= needed {
            return None;
        }
        let method = path.rsplit('/').next().unwrap_or_default();
        let text = format!("{method} needs the role {}, this peer has {}: {}", needed.name(), role.name(), self.policy.who(needed));
        let actor = Actor::from(peer).to_string();
        tracing::warn!(actor, text, "call refused");
        self.events.push(pb::Event {
            wall_ms: wk_rpc::clock::unix_ms(),
            actor,
            kind: "denied".into(),
            cause: Cause::Denied.name().into(),
            text: text.clone(),
            ..Default::default()
        });
        Some(Status::permission_denied(text))
    }
}

impl<S: NamedService> NamedService for Guard<S> {
    const NAME: &'static str = S::NAME;
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<http::Response<Body>, E>> + Send>>;

impl<S> Service<http::Request<Body>> for Guard<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match self.refusal(request.extensions().get::<Arc<Peer>>(), request.uri().path()) {
            Some(status) => {
                let response = status.into_http();
                Box::pin(async move { Ok(response) })
            }
            None => Box::pin(self.inner.call(request)),
        }
    }
}
