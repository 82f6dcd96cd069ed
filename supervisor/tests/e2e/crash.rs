//! `kill -9`: of each daemon while clients stay connected, and of the whole node.

use wk_testkit::node::{Node, Options};

use crate::load::{Load, check};

const PAIRS: usize = 8;

async fn survives(instance: &str) -> anyhow::Result<()> {
    let node = Node::start(&Options::default()).await?;
    let load = Load::start(node.tcp().await?, PAIRS);
    load.reach(100).await?;
    node.kill_and_wait(instance).await?;
    load.reach(load.count() + 100).await.map_err(|e| e.context(node.story()))?;
    let acked = load.finish().await?;
    check(&node.api().await?, PAIRS, &acked).await.map_err(|e| e.context(node.story()))
}

#[tokio::test]
async fn acknowledged_messages_survive_the_death_of_the_cluster_daemon() -> anyhow::Result<()> {
    survives("cluster@0").await
}

#[tokio::test]
async fn clients_stay_when_a_user_worker_dies() -> anyhow::Result<()> {
    survives("worker.user@0").await
}

#[tokio::test]
async fn clients_stay_when_a_channel_worker_dies() -> anyhow::Result<()> {
    survives("worker.channel@0").await
}

#[tokio::test]
async fn clients_stay_when_a_push_worker_dies() -> anyhow::Result<()> {
    survives("worker.push@0").await
}

#[tokio::test]
async fn acknowledged_messages_survive_the_death_of_the_node() -> anyhow::Result<()> {
    let mut node = Node::start(&Options::default()).await?;
    let load = Load::start(node.tcp().await?, PAIRS);
    load.reach(200).await?;
    node.kill_all().await?;
    let acked = load.finish().await?;
    node.restart().await?;
    check(&node.api().await?, PAIRS, &acked).await.map_err(|e| e.context(node.story()))?;
    // The log goes on without gap or duplicate.
    let load = Load::start(node.tcp().await?, PAIRS);
    load.reach(8).await?;
    drop(load.finish().await?);
    Ok(())
}
