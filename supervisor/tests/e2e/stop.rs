//! `wkctl stop` under load, and start again: nothing acknowledged is lost.

use wk_testkit::node::{Node, Options};

use crate::load::{Load, check};

const PAIRS: usize = 8;

#[tokio::test]
async fn a_stop_under_load_loses_nothing() -> anyhow::Result<()> {
    let mut node = Node::start(&Options::default()).await?;
    let load = Load::start(node.tcp().await?, PAIRS);
    load.reach(200).await?;
    let table = node.must_wkctl(&["stop"]).await?;
    let acked = load.finish().await?;
    assert!(table.contains(" · lost 0 · "), "{table}");
    node.wait_overall("down").await?;
    let started = node.must_wkctl(&["start"]).await?;
    node.wait_overall("ready").await?;
    check(&node.api().await?, PAIRS, &acked).await.map_err(|e| e.context(format!("{table}{started}{}", node.story())))?;
    assert!(acked.len() >= 200);

    assert_eq!(node.stop().await?, Some(0), "{}", node.story());
    assert_eq!(node.leftovers()?, Vec::<u32>::new());
    Ok(())
}
