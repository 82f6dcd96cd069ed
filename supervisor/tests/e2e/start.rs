//! Starts: the timing table, the rollback with the component named, many slot groups.

use wk_testkit::node::{Node, Options};

#[tokio::test]
async fn an_invalid_cluster_address_is_one_clear_error() -> anyhow::Result<()> {
    let extra = "cluster:\n  addr: \"invalid-address\"\n  nodeId: 1001".to_owned();
    let mut node = Node::spawn(&Options { extra })?;
    let code = node.wait_exit().await?;
    assert!(code.is_some_and(|c| c != 0), "exit {code:?}");
    let story = node.story();
    let naming: Vec<&str> = story.lines().filter(|l| l.contains("cluster.addr")).collect();
    assert_eq!(naming.len(), 1, "one line names the key:\n{story}");
    assert!(naming[0].contains("invalid-address") && naming[0].contains("cluster"), "{naming:?}");
    assert_eq!(node.leftovers()?, Vec::<u32>::new());
    Ok(())
}

#[tokio::test]
async fn a_start_prints_every_component_and_the_addresses() -> anyhow::Result<()> {
    let node = Node::start(&Options::default()).await?;
    let story = std::fs::read_to_string(node.dir().join("supervisor.out"))?;
    for component in ["cluster", "gateway", "api", "worker.user", "worker.channel", "worker.push"] {
        assert!(story.contains(component), "{component} is missing:\n{story}");
    }
    let status = node.must_wkctl(&["status"]).await?;
    assert!(status.contains("ready"), "{status}");
    let json: serde_json::Value = serde_json::from_str(&node.must_wkctl(&["status", "-o", "json"]).await?)?;
    assert!(json["instances"].as_array().is_some_and(|i| i.len() >= 6), "{json}");
    let (code, _) = node.api().await?.get("/health").await?;
    assert_eq!(code, 200);
    let (code, text) = node.manager().await?.get("/metrics").await?;
    assert_eq!(code, 200);
    for name in ["app_conn_count_total", "wk_cluster_", "wk_worker_"] {
        assert!(text.contains(name), "{name} is missing");
    }
    Ok(())
}

#[tokio::test]
async fn a_thousand_slot_groups_start_and_work() -> anyhow::Result<()> {
    let extra = "cluster:\n  nodeId: 1001\n  addr: tcp://127.0.0.1:0\n  slotGroupCount: 1024".to_owned();
    let node = Node::start(&Options { extra }).await?;
    let load = crate::load::Load::start(node.tcp().await?, 4);
    load.reach(100).await?;
    let acked = load.finish().await?;
    crate::load::check(&node.api().await?, 4, &acked).await
}
