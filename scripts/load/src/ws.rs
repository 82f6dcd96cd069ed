//! As much of WebSocket as a login takes: the upgrade, one masked frame out, one frame in.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Upgrades the connection; what came after the answer is left in `inbox`.
pub(crate) async fn upgrade(stream: &mut TcpStream, addr: SocketAddr, inbox: &mut Vec<u8>) -> anyhow::Result<()> {
    let ask = format!(
        "GET / HTTP/1.1\r\nHost: {addr}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    stream.write_all(ask.as_bytes()).await?;
    loop {
        if let Some(end) = inbox.windows(4).position(|w| w == b"\r\n\r\n") {
            if !inbox.starts_with(b"HTTP/1.1 101") {
                bail!("upgrade refused: {}", String::from_utf8_lossy(inbox.get(..end).unwrap_or_default()));
            }
            inbox.drain(..end + 4);
            return Ok(());
        }
        if stream.read_buf(inbox).await? == 0 {
            bail!("closed during the upgrade");
        }
    }
}

/// One binary message from a client; its mask is zero, which is a mask too.
pub(crate) fn masked(payload: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut frame = vec![0x82];
    match u8::try_from(payload.len()) {
        Ok(short) if short < 126 => frame.push(0x80 | short),
        _ => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&u16::try_from(payload.len()).context("a login is short")?.to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    Ok(frame)
}

/// Removes the head of the first message once the message is whole: what is left begins with its payload.
pub(crate) fn strip(inbox: &mut Vec<u8>) -> bool {
    let (head, len) = match inbox.as_slice() {
        [_, 126, a, b, ..] => (4, usize::from(u16::from_be_bytes([*a, *b]))),
        [_, short, ..] if *short < 126 => (2, usize::from(*short)),
        _ => return false,
    };
    let whole = inbox.len() >= head + len;
    if whole {
        inbox.drain(..head);
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames() {
        assert_eq!(masked(b"ab").expect("short"), [0x82, 0x82, 0, 0, 0, 0, b'a', b'b']);
        assert_eq!(masked(&[7; 200]).expect("short").get(..4), Some(&[0x82, 0xfe, 0, 200][..]));
        let mut inbox = vec![0x82, 2, b'a'];
        assert!(!strip(&mut inbox));
        inbox.push(b'b');
        assert!(strip(&mut inbox) && inbox == b"ab");
        let mut long = [&[0x82, 126, 0, 200][..], &[7; 200]].concat();
        assert!(strip(&mut long) && long.len() == 200);
    }
}
