//! The whole path in other shapes than the usual one: every window at one item, so that no cycle of processes may block, whatever is full;
//! all pools in one process.

use serde_json::json;
use wk_testkit::client::{Client, Login};
use wk_testkit::node::{Node, Options};

use crate::load::{Load, check};

const PAIRS: usize = 8;
const MEMBERS: usize = 24;
const GROUP_MESSAGES: usize = 20;

#[tokio::test]
async fn everything_flows_with_windows_of_one() -> anyhow::Result<()> {
    flows("links: {batches: 1, batchItems: 1}\nworkers: {user: 2, channel: 2, push: 2}").await
}

#[tokio::test]
async fn everything_flows_with_all_pools_in_one_process() -> anyhow::Result<()> {
    flows("workers: {user: 2, oneProcess: true}").await
}

async fn flows(extra: &str) -> anyhow::Result<()> {
    let mut node = Node::start(&Options { extra: extra.into() }).await?;
    let (tcp, api) = (node.tcp().await?, node.api().await?);
    let uids: Vec<String> = (0..MEMBERS).map(|n| format!("member{n}")).collect();
    api.group("crowd", &uids.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    let mut members = Vec::new();
    for uid in &uids {
        members.push(Client::connect(tcp, &Login::new(uid)).await?);
    }
    let load = Load::start(tcp, PAIRS);
    for n in 0..GROUP_MESSAGES {
        let body =
            json!({"from_uid": "backend", "channel_id": "crowd", "channel_type": 2, "payload": "aGk=", "client_msg_no": format!("n{n}")});
        api.must("/message/send", &body).await?;
    }
    for member in &mut members {
        for seq in 1..=GROUP_MESSAGES {
            assert_eq!(member.message().await?.message_seq, seq as u64, "{}", node.story());
        }
    }
    load.reach(500).await?;
    let acked = load.finish().await?;
    check(&api, PAIRS, &acked).await?;
    assert_eq!(node.stop().await?, Some(0), "{}", node.story());
    Ok(())
}
