//! Workers die and come back; drains.

use wk_link::ring::Window;
use wk_types::{ChannelType, Pool, Reason};

use crate::gateway::{Ack, Client};
use crate::node::{Node, eventually};

const PERSON: ChannelType = ChannelType::PERSON;

async fn start() -> (Node, Client, Client) {
    let node = Node::start(Window::default(), |_| {}).await;
    let u1 = node.gateway.login(1, "u1", "d", "").await.unwrap();
    let u2 = node.gateway.login(2, "u2", "d", "").await.unwrap();
    (node, u1, u2)
}

/// All of `1..=last` are answered with success, stored once in order, and received at least once, first times in order.
async fn all_arrive(node: &Node, to: &Client, last: i64) {
    for id in 1..=last {
        assert_eq!(node.gateway.ack(id).await, Ack { stored_id: id, seq: u64::try_from(id).unwrap(), reason: Reason::SUCCESS });
    }
    assert_eq!(node.cluster.ids("u2@u1", 1), (1..=last).collect::<Vec<_>>());
    let first_times = eventually(|| {
        let mut seen = Vec::new();
        for (recv, _) in node.gateway.received(to) {
            if !seen.contains(&recv.message_id) {
                seen.push(recv.message_id);
            }
        }
        (seen.len() == usize::try_from(last).unwrap()).then_some(seen)
    })
    .await;
    assert_eq!(first_times, (1..=last).collect::<Vec<_>>());
}

fn send(node: &Node, from: &Client, ids: std::ops::RangeInclusive<i64>) {
    for id in ids {
        node.gateway.send(from, id, ("u2", PERSON), 2, format!("m{id}").as_bytes());
    }
}

async fn a_pool_dies(pool: Pool) {
    let (mut node, u1, u2) = start().await;
    send(&node, &u1, 1..=30);
    node.gateway.ack(10).await;
    node.kill(pool);
    send(&node, &u1, 31..=60);
    node.spawn(pool);
    send(&node, &u1, 61..=70);
    all_arrive(&node, &u2, 70).await;
}

#[tokio::test]
async fn nothing_is_lost_when_the_user_worker_dies() {
    a_pool_dies(Pool::User).await;
}

#[tokio::test]
async fn nothing_is_lost_when_the_channel_worker_dies() {
    a_pool_dies(Pool::Channel).await;
}

#[tokio::test]
async fn nothing_is_lost_when_the_push_worker_dies() {
    a_pool_dies(Pool::Push).await;
}

#[tokio::test]
async fn a_stored_message_whose_worker_died_before_the_reply_is_delivered() {
    let (mut node, u1, u2) = start().await;
    node.cluster.0.lock().swallow_appends = true;
    send(&node, &u1, 1..=1);
    eventually(|| (node.cluster.ids("u2@u1", 1).len() == 1).then_some(())).await;
    node.kill(Pool::Channel);
    node.cluster.0.lock().swallow_appends = false;
    node.spawn(Pool::Channel);
    all_arrive(&node, &u2, 1).await;
}

#[tokio::test]
async fn a_message_stored_while_no_push_worker_lived_is_delivered_after_both_came_back() {
    let (mut node, u1, u2) = start().await;
    let other = node.gateway.login(3, "u1", "d2", "").await.unwrap();
    node.kill(Pool::Push);
    send(&node, &u1, 1..=5);
    for id in 1..=5 {
        node.gateway.ack(id).await;
    }
    // The channel worker dies with the undelivered messages: only the journal knows of them.
    node.kill(Pool::Channel);
    node.spawn(Pool::Channel);
    node.spawn(Pool::Push);
    all_arrive(&node, &u2, 5).await;
    // A second device of the sender gets them, the connection that sent them does not.
    all_arrive(&node, &other, 5).await;
    assert_eq!(node.gateway.received(&u1).len(), 0, "the sending connection got its own messages back");
}

#[tokio::test]
async fn a_drain_leaves_nothing_behind_and_saves_the_cursors() {
    let (mut node, u1, u2) = start().await;
    send(&node, &u1, 1..=50);
    node.gateway.ack(1).await;
    node.stop(Pool::Channel).await;
    node.spawn(Pool::Channel);
    all_arrive(&node, &u2, 50).await;
    node.stop(Pool::Channel).await;
    let state = node.cluster.0.lock();
    let bucket = wk_types::Bucket::of("u2@u1").index();
    let group = u32::from(bucket) % 4;
    let last = state.journal.keys().filter(|(g, _)| *g == group).map(|(_, i)| *i).max().unwrap();
    assert!(state.cursors[&("dispatch".to_owned(), group, u32::from(bucket))] >= last);
}
