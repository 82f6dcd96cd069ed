//! Takes HTTP connections off a listener, a bounded number at a time, and closes those that stay silent.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, Sleep, sleep};
use wk_telemetry::IntGauge;

use crate::limits::{CONNECTION_IDLE_MAX, CONNECTIONS_MAX};

/// Pause after an accept error such as EMFILE, so that the loop does not spin.
const ACCEPT_ERROR_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// Serves `router` on a copy of `listener` until `stop` completes. Returns the serving itself, which ends when the requests under way are
/// finished and the connections closed, and a watch that becomes true when no accept is armed any more. The listener itself stays open, so
/// clients wait in its queue.
///
/// # Errors
/// When the listener cannot be used with the runtime.
pub fn serve(
    listener: &std::net::TcpListener,
    router: Router,
    connections: IntGauge,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<(impl Future<Output = io::Result<()>> + Send + 'static, watch::Receiver<bool>)> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener.try_clone()?)?;
    let (disarmed, watch) = watch::channel(false);
    let bounded = Bounded { listener, permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)), connections, disarmed: Disarmed(disarmed) };
    Ok((axum::serve(bounded, router).with_graceful_shutdown(stop).into_future(), watch))
}

/// Says so when it is dropped.
struct Disarmed(watch::Sender<bool>);

impl Drop for Disarmed {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

/// A listener that accepts only while fewer than [`CONNECTIONS_MAX`] connections are open.
struct Bounded {
    // Dropped first: the copy of the listener is closed before `disarmed` says so.
    listener: TcpListener,
    permits: Arc<Semaphore>,
    connections: IntGauge,
    #[expect(dead_code, reason = "acts when it is dropped")]
    disarmed: Disarmed,
}

impl Listener for Bounded {
    type Io = Conn;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Conn, SocketAddr) {
        loop {
            let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
                // The semaphore is never closed.
                return std::future::pending().await;
            };
            match self.listener.accept().await {
                Ok((stream, addr)) => {
                    if let Err(err) = stream.set_nodelay(true) {
                        tracing::debug!(%err, "nodelay");
                    }
                    return (Conn::new(stream, permit, self.connections.clone()), addr);
                }
                Err(err) => {
                    tracing::warn!(%err, "accept failed");
                    sleep(ACCEPT_ERROR_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// One connection: holds its permit, and fails a read that brings nothing for [`CONNECTION_IDLE_MAX`].
struct Conn {
    stream: TcpStream,
    idle: Pin<Box<Sleep>>,
    connections: IntGauge,
    _permit: OwnedSemaphorePermit,
}

impl Conn {
    fn new(stream: TcpStream, permit: OwnedSemaphorePermit, connections: IntGauge) -> Self {
        connections.inc();
        Self { stream, idle: Box::pin(sleep(CONNECTION_IDLE_MAX)), connections, _permit: permit }
    }

    fn alive(&mut self) {
        self.idle.as_mut().reset(Instant::now() + CONNECTION_IDLE_MAX);
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.connections.dec();
    }
}

impl AsyncRead for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        match Pin::new(&mut this.stream).poll_read(cx, buf) {
            Poll::Ready(result) => {
                this.alive();
                Poll::Ready(result)
            }
            Poll::Pending => match this.idle.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                Poll::Pending => Poll::Pending,
            },
        }
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if written.is_ready() {
            self.alive();
        }
        written
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        if written.is_ready() {
            self.alive();
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
