//! The published SDKs, each user a child process that reads commands and writes one JSON object per event.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::Context;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use wk_config::Env;

use crate::PATIENCE;

/// Which SDK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sdk {
    /// npm `wukongimjssdk`: binary protocol version 2 over WebSocket, encrypted.
    Js,
    /// PyPI `wukong-easy-sdk`: JSON-RPC over WebSocket.
    Python,
}

/// One user.
#[derive(Debug)]
pub struct User {
    name: String,
    _child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    seen: Vec<Value>,
}

impl User {
    /// Starts a driver; `name` is for messages of failing tests.
    ///
    /// # Errors
    /// `WK_SDK_DIR` is not set (run `scripts/sdks`), or the driver does not come up.
    pub async fn start(sdk: Sdk, name: &str) -> anyhow::Result<Self> {
        let dir = PathBuf::from(Env::process().get("WK_SDK_DIR").context("WK_SDK_DIR is not set: eval \"$(scripts/sdks)\" first")?);
        let mut command = match sdk {
            Sdk::Js => {
                let mut command = Command::new(dir.join("node"));
                command.arg(dir.join("driver.mjs"));
                command
            }
            Sdk::Python => {
                let mut command = Command::new(dir.join("venv/bin/python"));
                command.arg(dir.join("driver.py"));
                command
            }
        };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start the driver of {name}"))?;
        let stdin = child.stdin.take().context("stdin was piped")?;
        let stdout = child.stdout.take().context("stdout was piped")?;
        let mut user = Self { name: name.into(), _child: child, stdin, lines: BufReader::new(stdout).lines(), seen: Vec::new() };
        user.wait("up", |_| true).await?;
        Ok(user)
    }

    /// Gives a command: an object with `cmd`.
    ///
    /// # Errors
    /// The driver is gone.
    pub async fn tell(&mut self, command: Value) -> anyhow::Result<()> {
        let line = format!("{command}\n");
        self.stdin.write_all(line.as_bytes()).await.with_context(|| format!("{}: driver is gone", self.name))
    }

    /// Logs in and waits for the status.
    ///
    /// # Errors
    /// No status in time.
    pub async fn login(&mut self, addr: &str, uid: &str, token: &str, device_flag: u8) -> anyhow::Result<Value> {
        self.tell(json!({"cmd": "connect", "addr": addr, "uid": uid, "token": token, "device_flag": device_flag})).await?;
        self.wait("status", |e| e["status"] == 1 || e["status"] == 3).await
    }

    /// Sends a text and waits for its SENDACK.
    ///
    /// # Errors
    /// No answer in time.
    pub async fn send(&mut self, channel_id: &str, channel_type: u8, text: &str) -> anyhow::Result<Value> {
        self.tell(json!({"cmd": "send", "channel_id": channel_id, "channel_type": channel_type, "text": text})).await?;
        self.wait("sendack", |_| true).await
    }

    /// Waits for a message with this text.
    ///
    /// # Errors
    /// It does not come in time.
    pub async fn message(&mut self, text: &str) -> anyhow::Result<Value> {
        self.wait("message", |e| e["text"] == text).await
    }

    /// Waits for an event; events that do not fit wait for later calls.
    ///
    /// # Errors
    /// It does not come within [`PATIENCE`]; the text lists what came instead.
    pub async fn wait(&mut self, event: &str, fits: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let wanted = |e: &Value| e["event"] == event && fits(e);
        if let Some(at) = self.seen.iter().position(wanted) {
            return Ok(self.seen.remove(at));
        }
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let line = tokio::time::timeout_at(deadline, self.lines.next_line())
                .await
                .with_context(|| format!("{}: no {event} came, but {:?}", self.name, self.seen))??
                .with_context(|| format!("{}: driver ended before {event}; it said {:?}", self.name, self.seen))?;
            let value: Value = serde_json::from_str(&line).with_context(|| format!("{}: not JSON: {line}", self.name))?;
            if value["event"] == "failed" {
                anyhow::bail!("{}: driver failed: {}", self.name, value["error"]);
            }
            if wanted(&value) {
                return Ok(value);
            }
            self.seen.push(value);
        }
    }
}
