//! Channels to a Unix socket.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::limits::{CONNECT_TIMEOUT, FRAME_BYTES, WINDOW_BYTES};

/// The socket could not be reached.
#[derive(Debug, thiserror::Error)]
#[error("connect to {}", path.display())]
pub struct DialError {
    /// Socket that was dialled.
    pub path: PathBuf,
    /// What failed.
    #[source]
    pub source: tonic::transport::Error,
}

/// How a channel behaves.
#[derive(Debug, Clone, Copy, Default)]
pub struct DialOptions {
    /// Interval and timeout of HTTP/2 pings, also while idle; `None`: no pings.
    pub keep_alive: Option<(Duration, Duration)>,
    /// A call without an answer, or the beginning of its stream, for so long fails; `None`: it waits.
    pub answer_within: Option<Duration>,
}

/// Connects now.
///
/// The channel reconnects on later calls when the connection is lost; a call under way at that moment fails.
///
/// # Errors
/// [`DialError`] when nobody accepts within [`CONNECT_TIMEOUT`].
///
/// # Cancel safety
/// Cancelling drops the attempt.
pub async fn dial(path: impl Into<PathBuf>) -> Result<Channel, DialError> {
    dial_with(path, DialOptions::default()).await
}

/// Connects now, with options.
///
/// # Errors
/// [`DialError`] when nobody accepts within [`CONNECT_TIMEOUT`].
pub async fn dial_with(path: impl Into<PathBuf>, options: DialOptions) -> Result<Channel, DialError> {
    let path = path.into();
    let connector = Connector { path: path.clone() };
    endpoint(options).connect_with_connector(connector).await.map_err(|source| DialError { path, source })
}

/// A channel that connects with its first call.
#[must_use]
pub fn dial_lazy(path: impl Into<PathBuf>) -> Channel {
    dial_lazy_with(path, DialOptions::default())
}

/// A channel that connects with its first call, with options.
#[must_use]
pub fn dial_lazy_with(path: impl Into<PathBuf>, options: DialOptions) -> Channel {
    endpoint(options).connect_with_connector_lazy(Connector { path: path.into() })
}

fn endpoint(options: DialOptions) -> Endpoint {
    let endpoint = Endpoint::from_static("http://unix")
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES);
    let endpoint = match options.answer_within {
        Some(within) => endpoint.timeout(within),
        None => endpoint,
    };
    match options.keep_alive {
        Some((interval, timeout)) => endpoint.http2_keep_alive_interval(interval).keep_alive_timeout(timeout).keep_alive_while_idle(true),
        None => endpoint,
    }
}

/// Opens the Unix socket whatever the URI says.
#[derive(Debug, Clone)]
struct Connector {
    path: PathBuf,
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<UnixStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let path = self.path.clone();
        Box::pin(async move { UnixStream::connect(Path::new(&path)).await.map(TokioIo::new) })
    }
}
