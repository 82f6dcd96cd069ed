//! `kill -9` of the supervisor alone: to clients and daemons nothing happens.

use std::time::{Duration, Instant};

use wk_testkit::client::{Client, Login};
use wk_testkit::node::{Node, Options};

use crate::load::{Load, check};

const PAIRS: usize = 8;

/// Messages go on while there is no supervisor, and after the next one has taken over; both connections stay.
#[tokio::test]
async fn clients_chat_on_while_the_supervisor_dies_and_returns() -> anyhow::Result<()> {
    let mut node = Node::start(&Options::default()).await?;
    let tcp = node.tcp().await?;
    let mut ann = Client::connect(tcp, &Login::new("ann")).await?;
    let mut ben = Client::connect(tcp, &Login::new("ben")).await?;
    let before = node.status().await?;
    for round in 0..3 {
        node.kill_supervisor().await?;
        let alone = format!("alone {round}");
        let seq = ann.send("ben", 1, &alone, alone.as_bytes()).await?;
        assert!(ann.ack(seq).await?.reason.is_success());
        assert_eq!(ben.message().await?.payload, alone.as_bytes());
        let began = Instant::now();
        node.restart().await?;
        // A second is the goal on a quiet machine.
        assert!(began.elapsed() < Duration::from_secs(10), "in control after {:?}", began.elapsed());
        let text = format!("again {round}");
        let seq = ben.send("ann", 1, &text, text.as_bytes()).await?;
        assert!(ben.ack(seq).await?.reason.is_success());
        assert_eq!(ann.message().await?.payload, text.as_bytes());
    }
    let after = node.status().await?;
    let lives = |s: &wk_proto::supervisor::v1::Snapshot| s.instances.iter().map(|i| (i.name.clone(), i.pid)).collect::<Vec<_>>();
    assert_eq!(lives(&after), lives(&before), "{}", node.story());
    assert_eq!((after.epoch, after.addresses), (before.epoch, before.addresses));
    // A newcomer is let in, and the successor is a supervisor like any other.
    drop(Client::connect(node.tcp().await?, &Login::new("cat")).await?);
    node.kill_and_wait("worker.user@0").await?;
    let seq = ann.send("ben", 1, "", b"last").await?;
    assert!(ann.ack(seq).await?.reason.is_success());
    assert_eq!(ben.message().await?.payload, b"last");
    assert_eq!(node.stop().await?, Some(0), "{}", node.story());
    assert!(node.leftovers()?.is_empty());
    Ok(())
}

/// The same under load: no acknowledged message is lost, no sender is disturbed.
#[tokio::test]
async fn nothing_is_lost_under_load_when_the_supervisor_dies() -> anyhow::Result<()> {
    let mut node = Node::start(&Options::default()).await?;
    let load = Load::start(node.tcp().await?, PAIRS);
    load.reach(100).await?;
    for _ in 0..3 {
        node.kill_supervisor().await?;
        load.reach(load.count() + 100).await.map_err(|e| e.context(node.story()))?;
        node.restart().await?;
        load.reach(load.count() + 100).await.map_err(|e| e.context(node.story()))?;
    }
    let acked = load.finish().await?;
    check(&node.api().await?, PAIRS, &acked).await.map_err(|e| e.context(node.story()))
}
