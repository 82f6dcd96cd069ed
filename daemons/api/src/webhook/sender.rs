//! HTTP client of the webhooks: one POST per batch; only 200 is success.

use bytes::Bytes;
use reqwest::header::CONTENT_TYPE;

use crate::config::{MSG_NOTIFY, Target};
use crate::limits::{WEBHOOK_DIAL_TIMEOUT, WEBHOOK_IDLE_PER_HOST, WEBHOOK_IDLE_TIMEOUT, WEBHOOK_READ_TIMEOUT, WEBHOOK_TOTAL_TIMEOUT};

/// Bytes of an answer that are read so that its connection can be used again; longer answers close it. Unit: bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Why a webhook did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum SenderError {
    /// The client cannot be made, or the request failed.
    #[error("http")]
    Http(#[from] reqwest::Error),
    /// The backend answered something else than 200.
    #[error("backend answered {0}")]
    Status(u16),
}

/// Where batches go. A trait so that tests can count and fail.
#[tonic::async_trait]
pub(super) trait Sender: Send + Sync + 'static {
    /// Sends one body; `agent`: to the target of agent channels.
    async fn send(&self, body: Bytes, agent: bool) -> Result<(), SenderError>;
}

/// The real one.
#[derive(Debug)]
pub(super) struct HttpSender {
    client: reqwest::Client,
    url: String,
    agent_url: String,
}

impl HttpSender {
    pub(super) fn new(target: &Target) -> Result<Self, SenderError> {
        // A second installation is refused and means that there is one.
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = reqwest::Client::builder()
            .connect_timeout(WEBHOOK_DIAL_TIMEOUT)
            .read_timeout(WEBHOOK_READ_TIMEOUT)
            .timeout(WEBHOOK_TOTAL_TIMEOUT)
            .pool_idle_timeout(WEBHOOK_IDLE_TIMEOUT)
            .pool_max_idle_per_host(WEBHOOK_IDLE_PER_HOST)
            .no_proxy()
            .build()?;
        let url = event_url(&target.url);
        let agent_url = target.agent_url.as_deref().map_or_else(|| url.clone(), event_url);
        Ok(Self { client, url, agent_url })
    }
}

/// The target with the event in its query.
fn event_url(target: &str) -> String {
    let join = if target.contains('?') { '&' } else { '?' };
    format!("{target}{join}event={MSG_NOTIFY}")
}

#[tonic::async_trait]
impl Sender for HttpSender {
    async fn send(&self, body: Bytes, agent: bool) -> Result<(), SenderError> {
        let url = if agent { &self.agent_url } else { &self.url };
        let mut response = self.client.post(url).header(CONTENT_TYPE, "application/json").body(body).send().await?;
        let status = response.status().as_u16();
        let mut read = 0;
        while let Ok(Some(chunk)) = response.chunk().await {
            read += chunk.len();
            if read > ANSWER_BYTES_MAX {
                break;
            }
        }
        if status == 200 { Ok(()) } else { Err(SenderError::Status(status)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_joins_an_existing_query() {
        assert_eq!(event_url("http://b/hook"), "http://b/hook?event=msg.notify");
        assert_eq!(event_url("http://b/hook?k=v"), "http://b/hook?k=v&event=msg.notify");
    }
}
