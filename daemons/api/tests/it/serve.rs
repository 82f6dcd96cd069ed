//! A whole process at work.

use std::sync::atomic::Ordering;

use serde_json::json;
use wk_testkit::sink::Sink;

use crate::process::{Node, eventually};

#[tokio::test]
async fn requests_reach_owners_log_and_webhook() {
    let sink = Sink::start().await.unwrap();
    let mut node = Node::start(&sink.url()).await;
    node.admit().await;
    assert_eq!(node.http.get("/health").await.unwrap(), (200, r#"{"status":"ok"}"#.into()));
    node.http.token("u1", "t1", 0).await.unwrap();
    assert_eq!(node.neighbours.state.tokens.lock()[0].token, "t1");
    node.http.group("g1", &["u1", "u2"]).await.unwrap();
    assert!(!node.neighbours.state.changes.lock().is_empty());
    let online = node.http.post("/user/onlinestatus", &json!(["u1"])).await.unwrap();
    assert_eq!(online, (200, json!([{"uid": "u1", "device_flag": 1, "online": 1}])));

    let mut ids = Vec::new();
    for n in 0..5 {
        let send = json!({"from_uid": "u1", "channel_id": "u2", "channel_type": 1, "payload": "aGk=", "client_msg_no": format!("n{n}")});
        let answer = node.http.must("/message/send", &send).await.unwrap();
        ids.push(answer["data"]["message_id"].as_i64().unwrap());
    }
    let history = node.http.history("u2", "u1", 1).await.unwrap();
    assert_eq!(history.iter().map(|m| m["message_id"].as_i64().unwrap()).collect::<Vec<_>>(), ids);
    assert_eq!(history[4]["message_seq"], 5);
    assert_eq!(history[0]["channel_id"], "u2");

    let told = sink.wait(|messages| messages.len() == 5).await.unwrap();
    assert_eq!(told.iter().map(|m| m["message_id"].as_i64().unwrap()).collect::<Vec<_>>(), ids);
    eventually(|| (node.neighbours.state.cursors.lock().get(&0) == Some(&5)).then_some(())).await;
    let (status, page) = node.manager.get("/metrics").await.unwrap();
    assert_eq!(status, 200);
    assert!(page.contains("wk_api_webhook_messages_total{daemon=\"api\",slot=\"0\"} 5\n"), "{page}");
    node.terminate();
    assert_eq!(node.exit_code().await, Some(0));
}

#[tokio::test]
async fn an_owner_that_changes_is_asked_again() {
    let mut node = Node::start("").await;
    node.admit().await;
    node.neighbours.state.fenced.store(3, Ordering::SeqCst);
    node.http.token("u1", "t1", 0).await.unwrap();
    assert_eq!(node.neighbours.state.tokens.lock().len(), 1);
    let (_, page) = node.manager.get("/metrics").await.unwrap();
    assert!(page.contains("wk_api_owner_retries_total{daemon=\"api\",slot=\"0\"} 3\n"), "{page}");
}

#[tokio::test]
async fn a_killed_process_goes_on_at_its_cursor() {
    let sink = Sink::start().await.unwrap();
    let mut node = Node::start(&sink.url()).await;
    node.admit().await;
    sink.hold(true);
    let send = json!({"from_uid": "u1", "channel_id": "g1", "channel_type": 2, "payload": "aGk="});
    for _ in 0..3 {
        node.http.must("/message/send", &send).await.unwrap();
    }
    assert!(sink.messages().is_empty());
    let mut node = node.kill_and_restart(&sink.url()).await;
    sink.hold(false);
    node.admit().await;
    node.http.must("/message/send", &send).await.unwrap();
    let distinct = |messages: &[serde_json::Value]| {
        let mut seqs: Vec<i64> = messages.iter().filter_map(|m| m["message_seq"].as_i64()).collect();
        seqs.sort_unstable();
        seqs.dedup();
        seqs
    };
    let told = sink.wait(|messages| distinct(messages).len() == 4).await.unwrap();
    assert_eq!(distinct(&told), [1, 2, 3, 4]);
}
