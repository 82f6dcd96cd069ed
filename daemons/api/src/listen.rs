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
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;
use wk_telemetry::IntGauge;

use crate::limits::{CONNECTION_IDLE_MAX, CONNECTIONS_MAX, FIRST_BYTES_MAX};

/// Pause after an accept error such as EMFILE, so that the loop does not spin.
const ACCEPT_ERROR_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// Serves `router` on a copy of `listener` until `stop` is cancelled. Returns the serving itself, which ends when the requests under way are
/// finished and the connections closed, and what can be seen of its end. The listener itself stays open, so clients wait in its queue.
///
/// Connections that were accepted are not closed before their first bytes came, for [`FIRST_BYTES_MAX`] from then: a stop refuses nobody, and does
/// not wait for who has nothing to say.
///
/// # Errors
/// When the listener cannot be used with the runtime.
pub fn serve(
    listener: &std::net::TcpListener,
    router: Router,
    connections: IntGauge,
    stop: CancellationToken,
) -> io::Result<(impl Future<Output = io::Result<()>> + Send + 'static, Ending)> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener.try_clone()?)?;
    let (disarmed, is_disarmed) = watch::channel(false);
    let (silent, are_silent) = watch::channel(0);
    let ending = Ending { disarmed: is_disarmed, silent: are_silent };
    let armed = Armed { listener, _disarmed: Disarmed(disarmed) };
    let bounded = Bounded { armed: Some(armed), stop, permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)), connections, silent };
    // The shutdown of the server closes connections without a byte at once, so it begins when there are none.
    let mut ready = ending.clone();
    let shutdown = async move { ready.heard_all().await };
    Ok((axum::serve(bounded, router).with_graceful_shutdown(shutdown).into_future(), ending))
}

/// How far a port has come with its end.
#[derive(Debug, Clone)]
pub struct Ending {
    disarmed: watch::Receiver<bool>,
    /// Connections that have not sent a byte and are to be waited for.
    silent: watch::Receiver<usize>,
}

impl Ending {
    /// Waits until no accept is armed any more.
    ///
    /// # Cancel safety
    /// It only waits.
    pub async fn disarmed(&mut self) {
        // An error means that the listener is gone altogether; so in the next function.
        drop(self.disarmed.wait_for(|done| *done).await);
    }

    /// Waits until, after that, every connection has sent something or had [`FIRST_BYTES_MAX`] for it since its accept.
    ///
    /// # Cancel safety
    /// It only waits.
    pub async fn heard_all(&mut self) {
        self.disarmed().await;
        drop(timeout(FIRST_BYTES_MAX, self.silent.wait_for(|count| *count == 0)).await);
    }
}

/// A connection that has not sent a byte and had no time to: counted until it is dropped.
struct Silent(watch::Sender<usize>);

impl Silent {
    fn new(count: watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Says so when it is dropped.
struct Disarmed(watch::Sender<bool>);

impl Drop for Disarmed {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

/// A listener that is accepted from.
struct Armed {
    // Dropped first: the copy of the listener is closed before `Disarmed` says so.
    listener: TcpListener,
    _disarmed: Disarmed,
}

/// A listener that accepts only while fewer than [`CONNECTIONS_MAX`] connections are open, and until it is stopped.
struct Bounded {
    /// `None` once stopped.
    armed: Option<Armed>,
    stop: CancellationToken,
    permits: Arc<Semaphore>,
    connections: IntGauge,
    silent: watch::Sender<usize>,
}

impl Bounded {
    /// The next connection; pends for ever once stopped.
    async fn next(&mut self) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
        loop {
            let Some(armed) = &self.armed else { return std::future::pending().await };
            let next = async {
                // The semaphore is never closed.
                let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else { return std::future::pending().await };
                armed.listener.accept().await.map(|(stream, addr)| (stream, addr, permit))
            };
            // Cancel-safe: a connection that is not returned stays in the queue, a permit goes back.
            let result = tokio::select! {
                () = self.stop.cancelled() => None,
                result = next => Some(result),
            };
            match result {
                None => self.armed = None,
                Some(Ok(next)) => return next,
                Some(Err(err)) => {
                    tracing::warn!(%err, "accept failed");
                    sleep(ACCEPT_ERROR_PAUSE).await;
                }
            }
        }
    }
}

impl Listener for Bounded {
    type Io = Conn;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Conn, SocketAddr) {
        let (stream, addr, permit) = self.next().await;
        if let Err(err) = stream.set_nodelay(true) {
            tracing::debug!(%err, "nodelay");
        }
        (Conn::new(stream, permit, self.connections.clone(), Silent::new(self.silent.clone())), addr)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.armed.as_ref().ok_or(io::ErrorKind::NotConnected)?.listener.local_addr()
    }
}

/// One connection: holds its permit, and fails a read that brings nothing for [`CONNECTION_IDLE_MAX`].
struct Conn {
    stream: TcpStream,
    /// While it is counted as silent: the end of that. Then the end of its life, unless something happens before.
    idle: Pin<Box<Sleep>>,
    connections: IntGauge,
    silent: Option<Silent>,
    _permit: OwnedSemaphorePermit,
}

impl Conn {
    fn new(stream: TcpStream, permit: OwnedSemaphorePermit, connections: IntGauge, silent: Silent) -> Self {
        connections.inc();
        Self { stream, idle: Box::pin(sleep(FIRST_BYTES_MAX)), connections, silent: Some(silent), _permit: permit }
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
                this.silent = None;
                this.alive();
                Poll::Ready(result)
            }
            Poll::Pending => {
                if this.silent.is_some() && this.idle.as_mut().poll(cx).is_ready() {
                    this.silent = None;
                    this.alive();
                }
                match this.idle.as_mut().poll(cx) {
                    Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                    Poll::Pending => Poll::Pending,
                }
            }
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

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::{JoinHandle, yield_now};

    use super::*;

    /// A served port, and a client of it that was accepted and has said nothing.
    async fn with_client() -> (TcpStream, CancellationToken, Ending, JoinHandle<io::Result<()>>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (gauge, stop) = (wk_telemetry::Metrics::new().gauge("wk_api_test", "Open."), CancellationToken::new());
        let router = Router::new().route("/", get(|| async { "hello" }));
        let (serving, ending) = serve(&listener, router, gauge.clone(), stop.clone()).unwrap();
        let serving = tokio::spawn(serving);
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        while gauge.get() == 0 {
            yield_now().await;
        }
        (client, stop, ending, serving)
    }

    #[tokio::test]
    async fn who_was_accepted_before_a_stop_is_answered() {
        let (mut client, stop, mut ending, serving) = with_client().await;
        stop.cancel();
        ending.disarmed().await;
        for _ in 0..100 {
            yield_now().await;
        }
        client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer:?}");
        ending.heard_all().await;
        serving.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_does_not_hold_a_stop() {
        let (mut client, stop, _, serving) = with_client().await;
        let start = Instant::now();
        stop.cancel();
        serving.await.unwrap().unwrap();
        assert!(start.elapsed() >= FIRST_BYTES_MAX && start.elapsed() < FIRST_BYTES_MAX * 2, "{:?}", start.elapsed());
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_said_nothing_for_long_is_not_waited_for_at_all() {
        let (mut client, stop, mut ending, serving) = with_client().await;
        sleep(FIRST_BYTES_MAX * 2).await;
        let start = Instant::now();
        stop.cancel();
        ending.heard_all().await;
        serving.await.unwrap().unwrap();
        assert!(start.elapsed() < FIRST_BYTES_MAX / 10, "{:?}", start.elapsed());
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    }
}
