//! Clients that misbehave are closed or told why, and nobody else notices.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use wk_testkit::PATIENCE;
use wk_testkit::client::{Client, Event, Login};
use wk_testkit::node::{Node, Options};

/// Reads until the server closes, and returns what it said.
async fn until_closed(stream: &mut TcpStream) -> anyhow::Result<Vec<u8>> {
    let mut said = Vec::new();
    let read = async {
        loop {
            match stream.read_buf(&mut said).await {
                Ok(0) => return,
                Ok(_) => {}
                Err(_) => return,
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.context("still open")?;
    Ok(said)
}

async fn closed_after(addr: SocketAddr, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(addr).await?;
    // The server may close while we still write: that is what the test wants to see.
    drop(stream.write_all(bytes).await);
    until_closed(&mut stream).await
}

async fn chat_works(ann: &mut Client, ben: &mut Client) -> anyhow::Result<()> {
    let seq = ann.send("ben", 1, "", b"still here").await?;
    assert!(ann.ack(seq).await?.reason.is_success());
    assert_eq!(ben.message().await?.payload, b"still here");
    Ok(())
}

#[tokio::test]
async fn misbehaving_clients_are_closed_and_others_unaffected() -> anyhow::Result<()> {
    let node = Node::start(&Options::default()).await?;
    let tcp = node.tcp().await?;
    let ws: SocketAddr = node.ws().await?.trim_start_matches("ws://").parse()?;
    let mut ann = Client::connect(tcp, &Login::new("ann")).await?;
    let mut ben = Client::connect(tcp, &Login::new("ben")).await?;
    chat_works(&mut ann, &mut ben).await?;

    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../../../daemons/shared/wire/testdata/vectors/v1/wire-vectors.json"))?;
    for (n, vector) in vectors["malformed"].as_array().context("malformed")?.iter().enumerate() {
        let bytes = hex(vector["hex"].as_str().context("hex")?)?;
        let ours = vector["ours"].as_str().unwrap_or_default();
        if vector["state"] == "authenticated" && ours == "close" {
            let version = u8::try_from(vector["proto_version"].as_u64().unwrap_or(5))?;
            let mut client = Client::connect(tcp, &Login { version, ..Login::new(&format!("bad{n}")) }).await?;
            client.write_raw(&bytes).await?;
            client.closed().await.with_context(|| format!("vector {}", vector["id"]))?;
        } else if ours == "close" {
            closed_after(tcp, &bytes).await.with_context(|| format!("vector {}", vector["id"]))?;
        }
    }

    let noise: Vec<u8> = (0..1_u64 << 20).map(|i| u8::try_from(i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56).unwrap_or(0)).collect();
    closed_after(tcp, &noise).await.context("a megabyte of noise")?;
    let over = [0x30, 0x81, 0x80, 0x80, 0x01, 0x00];
    let mut client = Client::connect(tcp, &Login::new("big")).await?;
    client.write_raw(&over).await?;
    client.closed().await.context("a frame over the limit")?;
    let answer = closed_after(ws, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.context("no upgrade")?;
    assert!(answer.starts_with(b"HTTP/1.1 4"), "{:?}", String::from_utf8_lossy(&answer));

    // Half frames with pauses: each byte of a PING-framed SEND alone still makes one message.
    half_frames(tcp, &mut ben).await?;
    chat_works(&mut ann, &mut ben).await
}

async fn half_frames(tcp: SocketAddr, ben: &mut Client) -> anyhow::Result<()> {
    let mut slow = Client::connect(tcp, &Login::new("slow")).await?;
    slow.ping().await?;
    assert_eq!(slow.next().await?, Event::Pong);
    let frame = slow.encode("ben", 1, "", b"in pieces")?;
    for byte in frame {
        slow.write_raw(&[byte]).await?;
        tokio::task::yield_now().await;
    }
    assert_eq!(ben.message().await?.payload, b"in pieces");
    Ok(())
}

#[tokio::test]
async fn silent_connections_are_closed_and_cost_nothing_that_stays() -> anyhow::Result<()> {
    let node = Node::start(&Options::default()).await?;
    let tcp = node.tcp().await?;
    let mut ann = Client::connect(tcp, &Login::new("ann")).await?;
    let mut ben = Client::connect(tcp, &Login::new("ben")).await?;
    chat_works(&mut ann, &mut ben).await?;
    let before = node.instance("gateway@0").await?.memory_bytes;
    let mut silent = Vec::new();
    // From addresses of their own: the ports of 127.0.0.1 belong to everybody on this machine.
    for host in 1..=2 {
        for _ in 0..5_000 {
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::from(([127, 0, 7, host], 0)))?;
            silent.push(socket.connect(tcp).await?);
        }
    }
    chat_works(&mut ann, &mut ben).await?;
    for mut stream in silent {
        until_closed(&mut stream).await?;
    }
    chat_works(&mut ann, &mut ben).await?;
    let after = node.instance("gateway@0").await?.memory_bytes;
    assert!(after < before + (32 << 20), "memory grew from {before} to {after}");
    assert!(ann.next_within(Duration::from_millis(1)).await?.is_none());
    Ok(())
}

fn hex(text: &str) -> anyhow::Result<Vec<u8>> {
    (0..text.len()).step_by(2).map(|i| Ok(u8::from_str_radix(text.get(i..i + 2).context("even length")?, 16)?)).collect()
}
