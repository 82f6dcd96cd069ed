//! A plain TCP client of the binary protocol, versions 1 to 6: what our own tests speak beside the published SDKs.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wk_types::limits::FRAME_BODY_BYTES_MAX;
use wk_types::{ChannelType, DeviceFlag, Reason};
use wk_wire::crypto::{KeyPair, Salt, SessionKeys, agree};
use wk_wire::{Connack, Connect, Flags, Recvack, SendRef, ServerFrame, Setting, Version, decode_server, encode};

use crate::PATIENCE;

/// Who logs in, and how.
#[derive(Debug, Clone)]
pub struct Login {
    /// User.
    pub uid: String,
    /// Token, may be empty.
    pub token: String,
    /// Protocol version the client states.
    pub version: u8,
    /// Device class.
    pub device_flag: u8,
    /// Device.
    pub device_id: String,
}

impl Login {
    /// An app login with version 5 and a device id made of the uid.
    #[must_use]
    pub fn new(uid: &str) -> Self {
        Self { uid: uid.into(), token: String::new(), version: 5, device_flag: 0, device_id: format!("dev-{uid}") }
    }
}

/// A message as the client saw it, decrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Id.
    pub message_id: i64,
    /// Sequence.
    pub message_seq: u64,
    /// Sender.
    pub from_uid: String,
    /// Channel as shown to this client.
    pub channel_id: String,
    /// Type.
    pub channel_type: u8,
    /// Client number.
    pub client_msg_no: String,
    /// Header flags.
    pub flags: u8,
    /// Plain payload.
    pub payload: Vec<u8>,
}

/// An answer to a SEND.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// Id.
    pub message_id: i64,
    /// Sequence.
    pub message_seq: u64,
    /// Echo.
    pub client_seq: u32,
    /// Result.
    pub reason: Reason,
}

/// What the server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// RECV; the receipt was sent already.
    Message(Message),
    /// SENDACK.
    Ack(Ack),
    /// PONG.
    Pong,
    /// DISCONNECT: reason code and text.
    Disconnect(u8, String),
    /// The server closed the connection.
    Closed,
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    inbox: Vec<u8>,
    version: Version,
    keys: Option<SessionKeys>,
    client_seq: u32,
    waiting: VecDeque<Event>,
    /// The answer to the login.
    pub connack: Connack,
    /// Send RECVACK for each RECV (on by default).
    pub acknowledge: bool,
}

impl Client {
    /// Connects and logs in; a refusal is an error that names the reason.
    ///
    /// # Errors
    /// Sockets, a closed connection, a failing CONNACK.
    pub async fn connect(addr: SocketAddr, login: &Login) -> anyhow::Result<Self> {
        let client = Self::try_connect(addr, login).await?;
        if !client.connack.reason.is_success() {
            bail!("login of {} refused: {}", login.uid, client.connack.reason.name());
        }
        Ok(client)
    }

    /// Connects and logs in; the reason stands in [`Client::connack`].
    ///
    /// # Errors
    /// Sockets, a closed connection.
    pub async fn try_connect(addr: SocketAddr, login: &Login) -> anyhow::Result<Self> {
        let mut stream = tokio::time::timeout(PATIENCE, TcpStream::connect(addr)).await??;
        stream.set_nodelay(true)?;
        let pair = KeyPair::generate()?;
        let connect = Connect {
            version: login.version,
            device_flag: DeviceFlag(login.device_flag),
            device_id: login.device_id.clone(),
            uid: login.uid.clone(),
            token: login.token.clone(),
            client_timestamp: 1_700_000_000_000,
            client_key: pair.public_b64(),
        };
        let version = Version::negotiate(login.version);
        let mut out = Vec::new();
        encode::connect(&mut out, &connect, version)?;
        stream.write_all(&out).await?;
        let connack = Connack {
            server_version: 0,
            time_diff: 0,
            reason: Reason::UNKNOWN,
            server_key: String::new(),
            salt: String::new(),
            node_id: 0,
        };
        let mut client =
            Self { stream, inbox: Vec::new(), version, keys: None, client_seq: 0, waiting: VecDeque::new(), connack, acknowledge: true };
        client.connack = client.read_connack().await?;
        if client.connack.reason.is_success() && !client.connack.server_key.is_empty() {
            let salt = Salt::parse(&client.connack.salt).context("salt is not 16 characters")?;
            client.keys = Some(agree(&pair, &client.connack.server_key, salt)?);
        }
        Ok(client)
    }

    async fn read_connack(&mut self) -> anyhow::Result<Connack> {
        let wait = async {
            loop {
                if let Some(frame) = wk_wire::Frame::next(&self.inbox, FRAME_BODY_BYTES_MAX)? {
                    let used = frame.head.head_len + frame.head.body_len;
                    let ServerFrame::Connack(connack) = decode_server(&frame.head, frame.body, self.version)? else {
                        bail!("the first frame is {:?}", frame.head.kind);
                    };
                    self.inbox.drain(..used);
                    return Ok(connack);
                }
                if self.stream.read_buf(&mut self.inbox).await? == 0 {
                    bail!("closed before CONNACK");
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.context("no CONNACK")?
    }

    /// Sends a message with a client number and returns its client sequence.
    ///
    /// # Errors
    /// Sockets.
    pub async fn send(&mut self, channel_id: &str, channel_type: u8, client_msg_no: &str, payload: &[u8]) -> anyhow::Result<u32> {
        self.send_with(Flags::RED_DOT, channel_id, channel_type, client_msg_no, payload).await
    }

    /// As [`Client::send`], with header flags.
    ///
    /// # Errors
    /// Sockets.
    pub async fn send_with(
        &mut self,
        flags: Flags,
        channel_id: &str,
        channel_type: u8,
        client_msg_no: &str,
        payload: &[u8],
    ) -> anyhow::Result<u32> {
        self.client_seq += 1;
        let frame = self.encode_send(flags, (channel_id, channel_type), client_msg_no, payload)?;
        self.stream.write_all(&frame).await?;
        Ok(self.client_seq)
    }

    /// The bytes of a SEND, not sent: for tests that cut them.
    ///
    /// # Errors
    /// A field is too long for its place.
    pub fn encode(&mut self, channel_id: &str, channel_type: u8, client_msg_no: &str, payload: &[u8]) -> anyhow::Result<Vec<u8>> {
        self.client_seq += 1;
        self.encode_send(Flags::RED_DOT, (channel_id, channel_type), client_msg_no, payload)
    }

    fn encode_send(&self, flags: Flags, channel: (&str, u8), no: &str, payload: &[u8]) -> anyhow::Result<Vec<u8>> {
        let send = SendRef {
            flags,
            setting: Setting::default(),
            client_seq: self.client_seq,
            client_msg_no: no,
            stream_no: "",
            channel_id: channel.0,
            channel_type: ChannelType(channel.1),
            expire: 0,
            msg_key: "",
            topic: "",
            payload,
        };
        let mut out = Vec::new();
        match &self.keys {
            Some(keys) => encode::send_sealed(&mut out, &send, self.version, keys)?,
            None => encode::send(&mut out, &send, self.version)?,
        }
        Ok(out)
    }

    /// Writes bytes as they are: for tests of bad input.
    ///
    /// # Errors
    /// Sockets.
    pub async fn write_raw(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// Sends PING.
    ///
    /// # Errors
    /// Sockets.
    pub async fn ping(&mut self) -> anyhow::Result<()> {
        let mut out = Vec::new();
        encode::ping(&mut out);
        self.write_raw(&out).await
    }

    /// The next thing the server says, in order of arrival.
    ///
    /// # Errors
    /// Undecodable frames, or nothing within [`PATIENCE`].
    pub async fn next(&mut self) -> anyhow::Result<Event> {
        match self.waiting.pop_front() {
            Some(event) => Ok(event),
            None => self.read_event(PATIENCE).await?.context("nothing came in time"),
        }
    }

    /// The next event, or `None` when nothing came within `limit`: for tests that nothing comes.
    ///
    /// # Errors
    /// Undecodable frames.
    pub async fn next_within(&mut self, limit: Duration) -> anyhow::Result<Option<Event>> {
        match self.waiting.pop_front() {
            Some(event) => Ok(Some(event)),
            None => self.read_event(limit).await,
        }
    }

    /// Waits for the answer to a SEND; other events wait for later calls.
    ///
    /// # Errors
    /// The connection ended, or nothing within [`PATIENCE`].
    pub async fn ack(&mut self, client_seq: u32) -> anyhow::Result<Ack> {
        self.find(|e| matches!(e, Event::Ack(ack) if ack.client_seq == client_seq)).await.map(|e| match e {
            Event::Ack(ack) => ack,
            _ => unreachable!("the filter passes acks only"),
        })
    }

    /// Waits for the next message; other events wait for later calls.
    ///
    /// # Errors
    /// The connection ended, or nothing within [`PATIENCE`].
    pub async fn message(&mut self) -> anyhow::Result<Message> {
        self.find(|e| matches!(e, Event::Message(_))).await.map(|e| match e {
            Event::Message(message) => message,
            _ => unreachable!("the filter passes messages only"),
        })
    }

    /// Waits until the server has closed the connection and returns what it said before.
    ///
    /// # Errors
    /// Still open after [`PATIENCE`].
    pub async fn closed(&mut self) -> anyhow::Result<Vec<Event>> {
        let mut before = Vec::new();
        loop {
            match self.next().await? {
                Event::Closed => return Ok(before),
                event => before.push(event),
            }
        }
    }

    async fn find(&mut self, wanted: impl Fn(&Event) -> bool) -> anyhow::Result<Event> {
        if let Some(at) = self.waiting.iter().position(&wanted) {
            return self.waiting.remove(at).context("the position was just found");
        }
        loop {
            let event = self.read_event(PATIENCE).await?.context("nothing came in time")?;
            if wanted(&event) {
                return Ok(event);
            }
            if event == Event::Closed {
                bail!("the server closed the connection");
            }
            self.waiting.push_back(event);
        }
    }

    async fn read_event(&mut self, limit: Duration) -> anyhow::Result<Option<Event>> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            if let Some(event) = self.take_frame().await? {
                return Ok(Some(event));
            }
            match tokio::time::timeout_at(deadline, self.stream.read_buf(&mut self.inbox)).await {
                Err(_) => return Ok(None),
                Ok(Ok(0)) => return Ok(Some(Event::Closed)),
                Ok(Ok(_)) => {}
                Ok(Err(err)) if err.kind() == std::io::ErrorKind::ConnectionReset => return Ok(Some(Event::Closed)),
                Ok(Err(err)) => return Err(err.into()),
            }
        }
    }

    async fn take_frame(&mut self) -> anyhow::Result<Option<Event>> {
        let Some(frame) = wk_wire::Frame::next(&self.inbox, FRAME_BODY_BYTES_MAX * 2)? else { return Ok(None) };
        let used = frame.head.head_len + frame.head.body_len;
        let mut receipt = None;
        let event = match decode_server(&frame.head, frame.body, self.version)? {
            ServerFrame::Sendack(ack) => {
                Event::Ack(Ack { message_id: ack.message_id, message_seq: ack.message_seq, client_seq: ack.client_seq, reason: ack.reason })
            }
            ServerFrame::Recv(recv) => {
                let mut payload = Vec::new();
                match &self.keys {
                    Some(keys) => keys.open_recv(&recv, &mut payload)?,
                    None => payload.extend_from_slice(recv.payload),
                }
                receipt = Some(Recvack { flags: recv.flags, message_id: recv.message_id, message_seq: recv.message_seq });
                Event::Message(Message {
                    message_id: recv.message_id,
                    message_seq: recv.message_seq,
                    from_uid: recv.from_uid.into(),
                    channel_id: recv.channel_id.into(),
                    channel_type: recv.channel_type.0,
                    client_msg_no: recv.client_msg_no.into(),
                    flags: recv.flags.get(),
                    payload,
                })
            }
            ServerFrame::Pong => Event::Pong,
            ServerFrame::Disconnect(d) => Event::Disconnect(d.reason.0, d.text),
            other => bail!("unexpected frame {other:?}"),
        };
        self.inbox.drain(..used);
        if let Some(receipt) = receipt.filter(|_| self.acknowledge) {
            let mut out = Vec::new();
            encode::recvack(&mut out, &receipt, self.version);
            self.stream.write_all(&out).await?;
        }
        Ok(Some(event))
    }
}
