//! Serving gRPC on an inherited or own Unix listener.

use std::future::Future;
use std::io;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::time::Duration;

use futures_util::{Stream, stream};
use nix::unistd::Uid;
use tokio::net::{UnixListener, UnixStream};
use tonic::codegen::http;
use tonic::service::Routes;
use tonic::transport::Server;
use tower::util::MapResponseLayer;

use crate::limits::{FRAME_BYTES, WINDOW_BYTES};

/// Response header that carries the identity of the serving process (`supervisor.md` §4.5): `<instance>/<generation>/<nonce>`.
pub const INSTANCE_HEADER: &str = "wk-instance";

/// Pause after an accept error such as EMFILE, so that the loop does not spin.
const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(50);

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

/// Serves `routes` on `listener` until `shutdown` completes, then waits for the calls under way (long streams must end by themselves).
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
    Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .layer(stamp)
        .add_routes(routes)
        .serve_with_incoming_shutdown(accepted(listener), shutdown)
        .await
        .map_err(ServeError::Serve)
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
