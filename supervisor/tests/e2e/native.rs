//! The set of units of `systemd/wukongim.target` without systemd: the test passes sockets, hears READY and starts again what died.

use std::time::Duration;

use nix::sys::signal::Signal;
use wk_testkit::client::{Client, Login};
use wk_testkit::native::Native;
use wk_types::{Daemon, InstanceName, Pool};

use crate::load::{Load, check};

const PAIRS: usize = 8;

/// Where a life is told that somebody else killed the one before it.
fn note_of(node: &Native, name: InstanceName) -> std::path::PathBuf {
    node.runtime().join("ends").join(name.to_string())
}

fn named(text: &str) -> InstanceName {
    text.parse().expect("a name of an instance")
}

/// Two people chat; nothing is left over after a stop in the order of the units.
#[tokio::test]
async fn two_people_chat_and_a_stop_leaves_nothing() -> anyhow::Result<()> {
    let mut node = Native::start("").await?;
    node.row_ready(named("plugin-host@0")).await?;
    let epoch = node.table().wait_for(|t| t.admitted.then_some(t.epoch)).await;
    assert_eq!(epoch, 1);
    let mut ann = Client::connect(node.tcp()?, &Login::new("ann")).await?;
    let mut ben = Client::connect(node.tcp()?, &Login::new("ben")).await?;
    let seq = ann.send("ben", 1, "n1", b"hello").await?;
    assert!(ann.ack(seq).await?.reason.is_success(), "{}", node.story());
    assert_eq!(ben.message().await?.payload, b"hello");
    assert_eq!(node.api()?.history("ben", "ann", 1).await?.len(), 1);
    drop((ann, ben));
    for daemon in Daemon::ALL.into_iter().rev() {
        let name = InstanceName { daemon, slot: 0 };
        let code = node.end(name, Signal::SIGTERM).await?;
        assert_eq!(code, Some(0), "{name}\n{}", node.story());
    }
    assert!(node.leftovers()?.is_empty());
    let left: Vec<_> = ["h", "s"].iter().flat_map(|d| std::fs::read_dir(node.runtime().join(d)).into_iter().flatten()).collect();
    assert!(left.is_empty() && !node.runtime().join("node.sock").exists() && !node.runtime().join("node.table").exists(), "{left:?}");
    Ok(())
}

/// Each daemon dies under load and is started again as systemd does it: clients stay, nothing acknowledged is lost.
#[tokio::test]
async fn acknowledged_messages_survive_the_death_of_each_daemon() -> anyhow::Result<()> {
    let mut node = Native::start("").await?;
    let load = Load::start(node.tcp()?, PAIRS);
    for name in ["worker.channel@0", "worker.user@0", "worker.push@0", "cluster@0", "plugin-host@0"] {
        load.reach(load.count() + 50).await.map_err(|e| e.context(format!("before {name}\n{}", node.story())))?;
        let before = node.row_ready(named(name)).await?;
        node.kill_and_restart(named(name)).await?;
        let after = node.row(named(name), "back", |row| row.incarnation != before.incarnation).await?;
        assert!(after.generation > before.generation, "{name}: {before:?} {after:?}");
    }
    load.reach(load.count() + 100).await.map_err(|e| e.context(node.story()))?;
    let acked = load.finish().await?;
    check(&node.api()?, PAIRS, &acked).await.map_err(|e| e.context(node.story()))
}

/// A further process of a pool takes a share when it joins and gives it back when it leaves, under load.
#[tokio::test]
async fn a_further_worker_takes_a_share_and_gives_it_back() -> anyhow::Result<()> {
    let mut node = Native::start("").await?;
    let load = Load::start(node.tcp()?, PAIRS);
    load.reach(50).await?;
    let (further, pool) = (named("worker.push@1"), Daemon::Worker(Pool::Push));
    let first = node.table().wait_for(|t| Some(t.epoch).filter(|e| *e > 0)).await;
    node.spawn(further)?;
    node.ready(further).await?;
    let table = node.table().wait_for(|t| (t.pool_slots(pool) == [0, 1]).then_some(t.epoch)).await;
    assert!(table > first);
    load.reach(load.count() + 100).await.map_err(|e| e.context(node.story()))?;
    assert_eq!(node.end(further, Signal::SIGTERM).await?, Some(0), "{}", node.story());
    node.table().wait_for(|t| (t.pool_slots(pool) == [0] && t.epoch > table).then_some(())).await;
    load.reach(load.count() + 100).await.map_err(|e| e.context(node.story()))?;
    let acked = load.finish().await?;
    check(&node.api()?, PAIRS, &acked).await.map_err(|e| e.context(node.story()))
}

/// What `wk-quiesce.service` runs before the stop: everything sent is answered, then connections close; nothing is lost.
#[tokio::test]
async fn a_quiesce_answers_what_was_sent_and_closes_the_connections() -> anyhow::Result<()> {
    let mut node = Native::start("").await?;
    let load = Load::start(node.tcp()?, PAIRS);
    load.reach(200).await?;
    let mut command = tokio::process::Command::new(wk_testkit::node::bin_dir()?.join("wkctl"));
    let output = command.arg("--runtime").arg(node.runtime()).arg("quiesce").output().await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.starts_with("quiesced: lost 0 ") && text.trim_end().ends_with("connections 0"), "{text}{output:?}\n{}", node.story());
    let acked = load.finish().await?;
    for daemon in Daemon::ALL.into_iter().rev() {
        node.end(InstanceName { daemon, slot: 0 }, Signal::SIGTERM).await?;
    }
    for daemon in Daemon::ALL {
        node.spawn(InstanceName { daemon, slot: 0 })?;
        node.ready(InstanceName { daemon, slot: 0 }).await?;
    }
    check(&node.api()?, PAIRS, &acked).await.map_err(|e| e.context(node.story()))
}

/// A worker that was stopped (SIGSTOP) is found by its neighbours, killed by the host of the table, and started again by systemd.
#[tokio::test]
async fn a_hung_worker_is_found_and_killed() -> anyhow::Result<()> {
    let mut node = Native::start("").await?;
    let load = Load::start(node.tcp()?, PAIRS);
    load.reach(50).await?;
    let name = named("worker.channel@0");
    node.stop(name)?;
    node.ended(name, Duration::from_secs(15)).await.map_err(|e| e.context(node.story()))?;
    assert!(!note_of(&node, name).exists(), "who hangs is to blame itself");
    node.spawn(name)?;
    node.ready(name).await?;
    load.reach(load.count() + 100).await.map_err(|e| e.context(node.story()))?;
    let acked = load.finish().await?;
    check(&node.api()?, PAIRS, &acked).await.map_err(|e| e.context(node.story()))
}

/// What `ExecStopPost=` of a worker leaves for its next life, and that this one takes it away.
#[tokio::test]
async fn a_kill_from_outside_is_told_to_the_next_life_and_only_to_it() -> anyhow::Result<()> {
    let mut node = Native::start("").await?;
    let name = named("worker.user@0");
    for (signal, code, told) in [(Signal::SIGKILL, None, true), (Signal::SIGTERM, Some(0), false), (Signal::SIGABRT, None, false)] {
        assert_eq!(node.end(name, signal).await?, code, "{}", node.story());
        assert_eq!(note_of(&node, name).exists(), told, "{signal}");
        node.spawn(name)?;
        node.ready(name).await?;
        assert!(!note_of(&node, name).exists(), "{signal}");
    }
    Ok(())
}
