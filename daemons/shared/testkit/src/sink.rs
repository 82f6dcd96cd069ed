//! A webhook receiver that records what it gets and fails on demand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::post;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;

use crate::PATIENCE;

/// What the sink does and saw.
#[derive(Debug)]
pub struct Sink {
    addr: SocketAddr,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    status: AtomicU16,
    events: Mutex<Vec<(String, Value)>>,
    changed: Notify,
}

#[derive(serde::Deserialize)]
struct EventQuery {
    event: String,
}

impl Sink {
    /// Listens on a free port of this machine.
    ///
    /// # Errors
    /// No socket.
    pub async fn start() -> anyhow::Result<Self> {
        let inner = Arc::new(Inner { status: AtomicU16::new(200), events: Mutex::default(), changed: Notify::new() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let router = Router::new().route("/hook", post(take)).with_state(Arc::clone(&inner));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { addr, inner })
    }

    /// Value for `webhook.httpAddr`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.addr)
    }

    /// Status of the next answers; anything but 200 is a failure and records nothing.
    pub fn answer(&self, status: u16) {
        self.inner.status.store(status, Ordering::SeqCst);
    }

    /// Messages of all `msg.notify` events so far, in order of arrival.
    #[must_use]
    pub fn messages(&self) -> Vec<Value> {
        let events = self.inner.events.lock();
        events.iter().filter(|(name, _)| name == "msg.notify").flat_map(|(_, body)| body.as_array().cloned().unwrap_or_default()).collect()
    }

    /// Waits until the recorded messages satisfy `ready`.
    ///
    /// # Errors
    /// Not within [`PATIENCE`].
    pub async fn wait(&self, ready: impl Fn(&[Value]) -> bool) -> anyhow::Result<Vec<Value>> {
        let wait = async {
            loop {
                let messages = self.messages();
                if ready(&messages) {
                    return messages;
                }
                self.inner.changed.notified().await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.map_err(|_| anyhow::anyhow!("the sink has only {:?}", self.messages()))
    }
}

async fn take(State(inner): State<Arc<Inner>>, Query(query): Query<EventQuery>, body: String) -> StatusCode {
    let status = inner.status.load(Ordering::SeqCst);
    if status == 200 {
        inner.events.lock().push((query.event, serde_json::from_str(&body).unwrap_or(Value::Null)));
        inner.changed.notify_one();
    }
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
