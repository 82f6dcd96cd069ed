//! The business backend's side: HTTP calls on the API.

use anyhow::Context;
use serde_json::{Value, json};

/// A client of one node's API.
#[derive(Debug, Clone)]
pub struct Api {
    base: String,
    http: reqwest::Client,
}

/// Longest answer a test looks at. Unit: bytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;

async fn text(mut answer: reqwest::Response) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        bytes.extend_from_slice(&chunk);
        anyhow::ensure!(bytes.len() <= ANSWER_BYTES_MAX, "answer is over {ANSWER_BYTES_MAX} bytes");
    }
    Ok(String::from_utf8(bytes)?)
}

impl Api {
    /// A client for `http://host:port`.
    ///
    /// # Errors
    /// The HTTP client cannot be built.
    pub fn new(base: impl Into<String>) -> anyhow::Result<Self> {
        // Already installed by another test of the same process: fine.
        drop(rustls::crypto::ring::default_provider().install_default());
        Ok(Self { base: base.into(), http: reqwest::Client::builder().timeout(crate::PATIENCE).build()? })
    }

    /// POST with a JSON body: status and JSON answer (`null` when the answer is no JSON).
    ///
    /// # Errors
    /// Transport failures.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<(u16, Value)> {
        let answer = self.http.post(format!("{}{path}", self.base)).json(body).send().await.with_context(|| format!("POST {path}"))?;
        let status = answer.status().as_u16();
        Ok((status, serde_json::from_str(&text(answer).await?).unwrap_or(Value::Null)))
    }

    /// GET: status and text.
    ///
    /// # Errors
    /// Transport failures.
    pub async fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let answer = self.http.get(format!("{}{path}", self.base)).send().await.with_context(|| format!("GET {path}"))?;
        let status = answer.status().as_u16();
        Ok((status, text(answer).await?))
    }

    /// POST that must answer 200.
    ///
    /// # Errors
    /// Transport failures, or another status (with the answer).
    pub async fn must(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let (status, answer) = self.post(path, body).await?;
        anyhow::ensure!(status == 200, "POST {path} {body} answered {status}: {answer}");
        Ok(answer)
    }

    /// Sets a user's token, level slave.
    ///
    /// # Errors
    /// As [`Api::must`].
    pub async fn token(&self, uid: &str, token: &str, device_flag: u8) -> anyhow::Result<()> {
        let body = json!({"uid": uid, "token": token, "device_flag": device_flag, "device_level": 0});
        self.must("/user/token", &body).await.map(drop)
    }

    /// Creates a group with these members.
    ///
    /// # Errors
    /// As [`Api::must`].
    pub async fn group(&self, id: &str, members: &[&str]) -> anyhow::Result<()> {
        let body = json!({"channel_id": id, "channel_type": 2, "subscribers": members});
        self.must("/channel", &body).await.map(drop)
    }

    /// All messages of a channel as `login_uid` sees it, ascending.
    ///
    /// # Errors
    /// As [`Api::must`].
    pub async fn history(&self, login_uid: &str, channel_id: &str, channel_type: u8) -> anyhow::Result<Vec<Value>> {
        let mut all: Vec<Value> = Vec::new();
        loop {
            let start = all.last().map_or(1, |m| m["message_seq"].as_u64().unwrap_or(0) + 1);
            let body = json!({
                "login_uid": login_uid, "channel_id": channel_id, "channel_type": channel_type,
                "start_message_seq": start, "end_message_seq": 0, "limit": 1000, "pull_mode": 1,
            });
            let answer = self.must("/channel/messagesync", &body).await?;
            let page = answer["messages"].as_array().cloned().unwrap_or_default();
            let full = page.len() == 1000;
            all.extend(page);
            if !full {
                return Ok(all);
            }
        }
    }
}
