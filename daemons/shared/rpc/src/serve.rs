//! Serving gRPC on an inherited or own Unix listener.

use std::future::Future;
use std::io;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::time::Duration;

use futures_util::{Stream, stream};
use nix::unistd::Uid;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tonic::codegen::http;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tower::util::MapResponseLayer;

use crate::limits::{FRAME_BYTES, WINDOW_BYTES};

/// Response header that carries the identity of the serving process (`supervisor.md` §4.5): `<instance>/<generation>/<nonce>`.
pub const INSTANCE_HEADER: &str = "wk-instance";

/// Pause after an accept error such as EMFILE, so that the loop does not spin.
const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(50);

/// From the end of the last call to the close of connections whose peer does not say good-bye: it may hang.
const LINGER: Duration = Duration::from_secs(5);

/// What a server adds to its routes.
#[derive(Debug, Clone, Default)]
pub struct ServeOptions {
    /// Value of the response header [`INSTANCE_HEADER`]; `None`: the header is not sent.
    pub identity: Option<String>,
}

/// Why serving ended early.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener cannot be used with the runtime.
    #[error("take over the listener")]
    Listener(#[source] io::Error),
    /// The identity is not a header value.
    #[error("identity {0:?} is not a header value")]
    Identity(String),
    /// The HTTP/2 server failed.
    #[error("serve")]
    Serve(#[source] tonic::transport::Error),
}

/// Serves `routes` on `listener` until `shutdown` completes, then waits for the calls under way, at most [`LINGER`] (long streams must end before `shutdown`
/// completes).
///
/// Connections of other users than root and our own are closed at once and counted in the log.
///
/// # Errors
/// [`ServeError`] for an unusable listener or a failed server.
///
/// # Cancel safety
/// Dropping the future closes all connections.
pub async fn serve<F>(listener: StdUnixListener, routes: Routes, options: ServeOptions, shutdown: F) -> Result<(), ServeError>
where
    F: Future<Output = ()>,
{
    listener.set_nonblocking(true).map_err(ServeError::Listener)?;
    let listener = UnixListener::from_std(listener).map_err(ServeError::Listener)?;
    serve_incoming(accepted(listener), routes, options, shutdown).await
}

/// [`serve`] for connections that the caller has accepted and judged itself.
///
/// # Errors
/// [`ServeError`] for a failed server.
///
/// # Cancel safety
/// Dropping the future closes all connections.
pub async fn serve_incoming<S, C, F>(incoming: S, routes: Routes, options: ServeOptions, shutdown: F) -> Result<(), ServeError>
where
    S: Stream<Item = io::Result<C>>,
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    F: Future<Output = ()>,
{
    let identity = match options.identity {
        Some(text) => Some(http::HeaderValue::from_str(&text).map_err(|_| ServeError::Identity(text))?),
        None => None,
    };
    let stamp = MapResponseLayer::new(move |mut response: http::Response<_>| {
        if let Some(identity) = &identity {
            response.headers_mut().insert(INSTANCE_HEADER, identity.clone());
        }
        response
    });
    let ending = CancellationToken::new();
    let shutdown = {
        let ending = ending.clone();
        async move {
            shutdown.await;
            ending.cancel();
        }
    };
    let serving = Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .layer(stamp)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, shutdown);
    let overdue = async {
        ending.cancelled().await;
        tokio::time::sleep(LINGER).await;
    };
    tokio::select! {
        served = serving => served.map_err(ServeError::Serve),
        () = overdue => {
            tracing::warn!(waited_s = LINGER.as_secs(), "peers do not close their connections");
            Ok(())
        }
    }
}

/// Connections whose peer may talk to us.
fn accepted(listener: UnixListener) -> impl Stream<Item = io::Result<UnixStream>> {
    stream::unfold(listener, |listener| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) if peer_allowed(&stream) => return Some((Ok(stream), listener)),
                Ok(_) => {}
                Err(err) => {
                    tracing::warn!(%err, "accept failed");
                    tokio::time::sleep(ACCEPT_ERROR_PAUSE).await;
                }
            }
        }
    })
}

/// True when the peer runs as root or as our own user.
fn peer_allowed(stream: &UnixStream) -> bool {
    match stream.peer_cred() {
        Ok(cred) => {
            let allowed = cred.uid() == 0 || cred.uid() == Uid::effective().as_raw();
            if !allowed {
                tracing::warn!(uid = cred.uid(), pid = cred.pid(), "peer of another user refused");
            }
            allowed
        }
        Err(err) => {
            tracing::warn!(%err, "peer without credentials refused");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_hangs_does_not_hold_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = StdUnixListener::bind(&path).unwrap();
        let mut hung = std::os::unix::net::UnixStream::connect(&path).unwrap();
        // The preface and empty SETTINGS: a connection like any other, but nobody reads what the server says.
        hung.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
        let began = tokio::time::Instant::now();
        let accepted = async { tokio::time::sleep(Duration::from_secs(1)).await };
        serve(listener, Routes::default(), ServeOptions::default(), accepted).await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 1 + LINGER.as_secs());
    }
}
