//! Clients that speak plain bytes.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use wk_types::{ChannelType, DeviceFlag};
use wk_wire::{Connect, Flags, SendRef, Setting, Version, encode, frame};

use crate::rig::DEADLINE;

pub(crate) struct Client {
    pub(crate) socket: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        let socket = TcpStream::connect(addr).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.set_write_timeout(Some(DEADLINE)).unwrap();
        Self { socket, buffer: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    pub(crate) fn finish(&self) {
        self.socket.shutdown(Shutdown::Write).unwrap();
    }

    fn fill(&mut self) -> bool {
        let mut chunk = [0; 16 << 10];
        let got = self.socket.read(&mut chunk).expect("bytes or the end within the deadline");
        self.buffer.extend_from_slice(&chunk[..got]);
        got > 0
    }

    /// The next `len` bytes.
    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        while self.buffer.len() < len {
            assert!(self.fill(), "the stream ended after {:?}", self.buffer);
        }
        self.buffer.drain(..len).collect()
    }

    /// The next binary frame, whole.
    pub(crate) fn frame(&mut self) -> Vec<u8> {
        loop {
            if let Some((_, total)) = frame::split(&self.buffer, 1 << 20).unwrap() {
                return self.bytes(total);
            }
            assert!(self.fill(), "the stream ended after {:?}", self.buffer);
        }
    }

    /// The next JSON text.
    pub(crate) fn json(&mut self) -> serde_json::Value {
        loop {
            if let Some(text) = wk_wire::jsonrpc::split(&self.buffer, 1 << 21).unwrap() {
                let bytes = self.bytes(text.end);
                return serde_json::from_slice(&bytes).unwrap();
            }
            assert!(self.fill(), "the stream ended after {:?}", self.buffer);
        }
    }

    /// The next WebSocket frame of the server: opcode and payload.
    pub(crate) fn ws(&mut self) -> (u8, Vec<u8>) {
        let head = self.bytes(2);
        assert_eq!(head[0] & 0x80, 0x80, "unfragmented");
        let len = match head[1] {
            126 => u64::from(u16::from_be_bytes(self.bytes(2).try_into().unwrap())),
            127 => u64::from_be_bytes(self.bytes(8).try_into().unwrap()),
            len => u64::from(len),
        };
        (head[0] & 0x0f, self.bytes(usize::try_from(len).unwrap()))
    }

    /// All bytes up to the end of the stream. A reset is an end too: the server does not linger for those it throws out.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut chunk = [0; 64 << 10];
        loop {
            match self.socket.read(&mut chunk) {
                Ok(0) => break,
                Ok(got) => self.buffer.extend_from_slice(&chunk[..got]),
                Err(err) if err.kind() == std::io::ErrorKind::ConnectionReset => break,
                Err(err) => panic!("no end of the stream: {err}"),
            }
        }
        std::mem::take(&mut self.buffer)
    }

    /// All bytes up to a clean end of the stream.
    pub(crate) fn clean_rest(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.buffer)
    }
}

pub(crate) fn connect_frame(uid: &str) -> Vec<u8> {
    connect_version(uid, 5)
}

pub(crate) fn connect_version(uid: &str, version: u8) -> Vec<u8> {
    let mut out = Vec::new();
    let connect = Connect {
        version,
        device_flag: DeviceFlag(0),
        device_id: "dev".into(),
        uid: uid.into(),
        token: String::new(),
        client_timestamp: 0,
        client_key: String::new(),
    };
    encode::connect(&mut out, &connect, Version::V5).unwrap();
    out
}

pub(crate) fn send_frame(client_seq: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let send = SendRef {
        flags: Flags::NONE,
        setting: Setting::NONE,
        client_seq,
        client_msg_no: "no",
        stream_no: "",
        channel_id: "ben",
        channel_type: ChannelType::PERSON,
        expire: 0,
        msg_key: "",
        topic: "",
        payload,
    };
    encode::send(&mut out, &send, Version::V5).unwrap();
    out
}

/// A masked WebSocket frame.
pub(crate) fn ws_frame(fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [7, 11, 13, 17];
    let mut out = vec![if fin { 0x80 } else { 0 } | opcode];
    match payload.len() {
        len @ 0..=125 => out.push(0x80 | u8::try_from(len).unwrap()),
        len => {
            out.push(0x80 | 126);
            out.extend_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
        }
    }
    out.extend_from_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
    out
}

pub(crate) const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
