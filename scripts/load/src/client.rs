//! One benchmark client: logs in, then reads frames without an allocation per message.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::ws;
use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use wk_types::limits::FRAME_BODY_BYTES_MAX;
use wk_types::{ChannelType, DeviceFlag};
use wk_wire::crypto::{KeyPair, Salt, SessionKeys, agree};
use wk_wire::{Connect, Flags, Frame, SendRef, ServerFrame, Setting, Version, decode_server, encode};

/// Connections from one source address before the next one is used. Source: machine-limits §1, the port search gets slow beyond 14,000.
const PER_SOURCE: usize = 10_000;

async fn read(stream: &mut TcpStream, inbox: &mut Vec<u8>, uid: &str) -> anyhow::Result<()> {
    if stream.read_buf(inbox).await? == 0 {
        bail!("{uid}: closed before CONNACK");
    }
    Ok(())
}

/// First source addresses that processes spread over.
const SOURCES: usize = 200;

/// A logged-in connection. One over WebSocket only logs in: it says and hears nothing afterwards.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pub(crate) inbox: Vec<u8>,
    pub(crate) outbox: Vec<u8>,
    keys: Option<SessionKeys>,
    client_seq: u32,
}

/// Protocol version of the load: what current clients speak.
pub(crate) const VERSION: Version = Version::V5;

impl Client {
    /// Connects as `uid`; `index` spreads connections over source addresses 127.0.0.x
    pub(crate) async fn connect(addr: SocketAddr, index: usize, uid: &str, web_socket: bool) -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        if addr.ip().is_loopback() {
            // Ports of runs before this one rest in TIME_WAIT: other addresses for other processes, and the same ports again.
            let base = usize::try_from(std::process::id())? % SOURCES;
            let host = u8::try_from(2 + base + index / PER_SOURCE).context("too many connections for one /24")?;
            socket.set_reuseaddr(true)?;
            socket.bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, host)), 0))?;
        }
        let mut stream = socket.connect(addr).await.with_context(|| format!("connect {uid}"))?;
        stream.set_nodelay(true)?;
        let pair = KeyPair::generate()?;
        let connect = Connect {
            version: VERSION.get(),
            device_flag: DeviceFlag(0),
            device_id: format!("load-{uid}"),
            uid: uid.to_owned(),
            token: String::new(),
            client_timestamp: 0,
            client_key: pair.public_b64(),
        };
        let mut out = Vec::new();
        encode::connect(&mut out, &connect, VERSION)?;
        let mut inbox = Vec::new();
        if web_socket {
            ws::upgrade(&mut stream, addr, &mut inbox).await?;
            out = ws::masked(&out)?;
        }
        stream.write_all(&out).await?;
        let keys = loop {
            if web_socket && !ws::strip(&mut inbox) {
                read(&mut stream, &mut inbox, uid).await?;
                continue;
            }
            if let Some(frame) = Frame::next(&inbox, FRAME_BODY_BYTES_MAX)? {
                let used = frame.head.head_len + frame.head.body_len;
                let ServerFrame::Connack(ack) = decode_server(&frame.head, frame.body, VERSION)? else { bail!("no CONNACK first") };
                if !ack.reason.is_success() {
                    bail!("login of {uid} refused: {}", ack.reason.name());
                }
                let keys = match Salt::parse(&ack.salt) {
                    Some(salt) => Some(agree(&pair, &ack.server_key, salt)?),
                    None => None,
                };
                inbox.drain(..used);
                break keys;
            }
            read(&mut stream, &mut inbox, uid).await?;
        };
        inbox.shrink_to_fit();
        Ok(Self { stream, inbox, outbox: Vec::new(), keys, client_seq: 0 })
    }

    /// Puts a SEND into the outbox and returns its sequence.
    pub(crate) fn queue_send(
        &mut self,
        channel_id: &str,
        channel_type: ChannelType,
        client_msg_no: &str,
        payload: &[u8],
    ) -> anyhow::Result<u32> {
        self.client_seq += 1;
        let send = SendRef {
            flags: Flags::RED_DOT,
            setting: Setting::default(),
            client_seq: self.client_seq,
            client_msg_no,
            stream_no: "",
            channel_id,
            channel_type,
            expire: 0,
            msg_key: "",
            topic: "",
            payload,
        };
        match &self.keys {
            Some(keys) => encode::send_sealed(&mut self.outbox, &send, VERSION, keys)?,
            None => encode::send(&mut self.outbox, &send, VERSION)?,
        }
        Ok(self.client_seq)
    }

    /// Writes the outbox.
    pub(crate) async fn flush(&mut self) -> anyhow::Result<()> {
        if !self.outbox.is_empty() {
            self.stream.write_all(&self.outbox).await?;
            self.outbox.clear();
        }
        Ok(())
    }

    /// Reads once, then hands every whole frame to `on_frame` together with the outbox for answers.
    pub(crate) async fn read(
        &mut self,
        mut on_frame: impl FnMut(ServerFrame<'_>, &mut Vec<u8>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        if self.stream.read_buf(&mut self.inbox).await? == 0 {
            bail!("the server closed the connection");
        }
        let mut at = 0;
        while let Some(frame) = Frame::next(self.inbox.get(at..).unwrap_or_default(), FRAME_BODY_BYTES_MAX * 2)? {
            at += frame.head.head_len + frame.head.body_len;
            on_frame(decode_server(&frame.head, frame.body, VERSION)?, &mut self.outbox)?;
        }
        self.inbox.drain(..at);
        Ok(())
    }
}
