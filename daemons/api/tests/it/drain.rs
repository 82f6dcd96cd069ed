//! Nothing that was taken is lost by a stop.

use std::sync::atomic::Ordering;

use serde_json::json;

use crate::process::{Node, eventually};

#[tokio::test]
async fn a_send_under_way_is_answered_before_the_end() {
    let mut node = Node::start("").await;
    node.admit().await;
    node.neighbours.state.held.store(true, Ordering::SeqCst);
    let sending = tokio::spawn({
        let http = node.http.clone();
        async move { http.post("/message/send", &json!({"channel_id": "g1", "channel_type": 2, "payload": "aGk="})).await }
    });
    eventually(|| (node.neighbours.held() == 1).then_some(())).await;
    assert!(node.in_flight().await.unsettled >= 1);
    node.quiesce().await;
    let (status, body) = node.http.get("/route").await.unwrap();
    assert_eq!((status, body.as_str()), (503, r#"{"msg":"server is stopping","status":503}"#));
    assert_eq!(node.manager.get("/healthz").await.unwrap().0, 200);
    node.terminate();
    node.neighbours.release();
    let (status, answer) = sending.await.unwrap().unwrap();
    assert_eq!((status, answer["data"]["message_id"].as_i64()), (200, Some(1)));
    assert_eq!(node.exit_code().await, Some(0));
    assert_eq!(node.neighbours.state.log.lock().len(), 1);
}

#[tokio::test]
async fn a_listener_is_left_to_the_next_generation() {
    let mut node = Node::start("").await;
    node.admit().await;
    assert_eq!(node.http.get("/route").await.unwrap().0, 200);
    node.stop_accept().await;
    // Nobody accepts: the request waits in the listener's queue, it is not refused.
    let waiting = tokio::time::timeout(std::time::Duration::from_millis(300), node.http.get("/route")).await;
    assert!(waiting.is_err(), "{waiting:?}");
    node.terminate();
    assert_eq!(node.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_stop_before_readiness_is_a_clean_end() {
    let mut node = Node::start("").await;
    node.terminate();
    assert_eq!(node.exit_code().await, Some(0));
}
