//! The promise after the append: every stored message reaches the backend, also across its outages and our crashes.

use wk_testkit::client::{Client, Login};
use wk_testkit::node::{Node, Options};
use wk_testkit::sink::Sink;

#[tokio::test]
async fn every_stored_message_reaches_the_webhook() -> anyhow::Result<()> {
    let sink = Sink::start().await?;
    let extra = format!("webhook:\n  httpAddr: \"{}\"\n  msgNotifyEventPushInterval: 50ms", sink.url());
    let node = Node::start(&Options { extra }).await?;
    let mut ann = Client::connect(node.tcp().await?, &Login::new("ann")).await?;
    let seq = ann.send("ben", 1, "n1", b"first").await?;
    let ack = ann.ack(seq).await?;
    let got = sink.wait(|m| !m.is_empty()).await.map_err(|e| e.context(node.story()))?;
    assert_eq!(got[0]["message_idstr"], ack.message_id.to_string());
    assert_eq!((got[0]["from_uid"].as_str(), got[0]["channel_id"].as_str()), (Some("ann"), Some("ben")));
    assert_eq!(got[0]["message_seq"], 1);

    // The backend is out; messages go on; the api dies meanwhile.
    sink.answer(500);
    for n in 2..=4 {
        let seq = ann.send("ben", 1, &format!("n{n}"), b"later").await?;
        assert!(ann.ack(seq).await?.reason.is_success());
    }
    node.kill_and_wait("api@0").await?;
    sink.answer(200);
    let got = sink.wait(|m| (1..=4).all(|seq| m.iter().any(|x| x["message_seq"] == seq))).await.map_err(|e| e.context(node.story()))?;
    let mut seqs: Vec<u64> = got.iter().filter_map(|m| m["message_seq"].as_u64()).collect();
    seqs.dedup();
    assert!(seqs.is_sorted(), "commit order: {seqs:?}");
    Ok(())
}
