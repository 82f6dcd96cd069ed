//! A webhook receiver that records what it gets and fails or hangs on demand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::post;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::{Notify, watch};

use crate::PATIENCE;

/// Called with the name and the body of each event, in order of arrival.
pub type Take = dyn Fn(&str, Value) + Send + Sync;

/// What the sink does and saw.
#[derive(Debug)]
pub struct Sink {
    addr: SocketAddr,
    inner: Arc<Inner>,
}

struct Inner {
    status: AtomicU16,
    /// True: requests are read and never answered until it becomes false.
    held: watch::Sender<bool>,
    events: Mutex<Vec<(String, Value)>>,
    take: Option<Box<Take>>,
    changed: Notify,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("status", &self.status).finish_non_exhaustive()
    }
}

#[derive(serde::Deserialize)]
struct EventQuery {
    event: String,
}

impl Sink {
    /// Listens on a free port of this machine and keeps every event.
    ///
    /// # Errors
    /// No socket.
    pub async fn start() -> anyhow::Result<Self> {
        Self::listen(None).await
    }

    /// As [`Sink::start`], but events go to `take` and are not kept: for loads whose bodies would fill the memory.
    ///
    /// # Errors
    /// No socket.
    pub async fn start_with(take: Box<Take>) -> anyhow::Result<Self> {
        Self::listen(Some(take)).await
    }

    async fn listen(take: Option<Box<Take>>) -> anyhow::Result<Self> {
        let inner = Arc::new(Inner {
            status: AtomicU16::new(200),
            held: watch::Sender::new(false),
            events: Mutex::default(),
            take,
            changed: Notify::new(),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let router = Router::new().route("/hook", post(receive)).with_state(Arc::clone(&inner));
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

    /// While true, requests are taken and get no answer: a backend that hangs. What was held is recorded and answered when it becomes false,
    /// unless the caller has gone.
    pub fn hold(&self, held: bool) {
        self.inner.held.send_replace(held);
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

async fn receive(State(inner): State<Arc<Inner>>, Query(query): Query<EventQuery>, body: String) -> StatusCode {
    // An error means the sink is gone, and nobody waits for the answer.
    drop(inner.held.subscribe().wait_for(|held| !held).await);
    let status = inner.status.load(Ordering::SeqCst);
    if status == 200 {
        let event = serde_json::from_str(&body).unwrap_or(Value::Null);
        match &inner.take {
            Some(take) => take(&query.event, event),
            None => inner.events.lock().push((query.event, event)),
        }
        inner.changed.notify_one();
    }
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
