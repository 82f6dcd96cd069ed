//! Logins, messages and control calls while everybody lives.

use prost::Message as _;
use wk_link::ring::Window;
use wk_proto::cluster::v1 as pb;
use wk_proto::worker::v1::channel_admin_client::ChannelAdminClient;
use wk_proto::worker::v1::user_admin_client::UserAdminClient;
use wk_proto::worker::v1::{ChangeRequest, OnlineRequest, QuitRequest, SetTokenRequest};
use wk_types::{ChannelType, Pool, Reason};

use crate::gateway::Ack;
use crate::node::{Node, eventually};

const GROUP: ChannelType = ChannelType::GROUP;
const PERSON: ChannelType = ChannelType::PERSON;
const GROUP_NUMBER: u32 = 2;

fn ok(id: i64, seq: u64) -> Ack {
    Ack { stored_id: id, seq, reason: Reason::SUCCESS }
}

fn add(list: pb::List, id: &str, kind: u32, members: &[&str]) -> ChangeRequest {
    let channel = Some(pb::ChannelRef { id: id.to_owned(), r#type: kind });
    let list = Some(pb::ListKey { list: list.into(), channel });
    let change = pb::command::Change::Add(pb::ListChange { list, members: members.iter().map(|m| (*m).to_owned()).collect() });
    ChangeRequest { commands: vec![pb::Command { routing_id: id.to_owned(), change: Some(change) }] }
}

async fn everything_settles(node: &Node) {
    eventually(|| {
        let workers = Pool::ALL.iter().map(|p| node.unsettled(*p)).sum::<u64>();
        (workers + node.gateway.unsettled() == 0).then_some(())
    })
    .await;
}

async fn two_people_and_a_group(window: Window) {
    let node = Node::start(window, |_| {}).await;
    let g = &node.gateway;
    let u1 = g.login(1, "u1", "phone", "").await.unwrap();
    let u1b = g.login(2, "u1", "pc", "").await.unwrap();
    let u2 = g.login(3, "u2", "phone", "").await.unwrap();
    for id in 1..=20 {
        g.send(&u1, id, ("u2", PERSON), 2, format!("hello {id}").as_bytes());
    }
    for id in 1..=20 {
        assert_eq!(g.ack(id).await, ok(id, u64::try_from(id).unwrap()));
    }
    let got = g.receive(&u2, 20).await;
    for (id, (recv, plain)) in (1..).zip(&got) {
        assert_eq!((recv.message_id, recv.channel_id.as_str(), recv.from_uid.as_str()), (id, "u1", "u1"));
        assert_eq!(*plain, format!("hello {id}").into_bytes());
        g.recvack(&u2, recv);
    }
    // The sender's other device has them too, named after the peer; the sending connection has none.
    let own = g.receive(&u1b, 20).await;
    assert_eq!((own.len(), own[0].0.channel_id.as_str(), own[0].0.flags.red_dot()), (20, "u2", false));
    assert_eq!(g.received(&u1).len(), 0);
    // A group, without and with membership; an unstored message.
    g.send(&u1, 101, ("g1", GROUP), 2, b"nobody");
    assert_eq!(g.ack(101).await.reason, Reason::SUBSCRIBER_NOT_EXIST);
    let channel = wk_rpc::dial(node.socket(Pool::Channel)).await.unwrap();
    let mut admin = ChannelAdminClient::new(channel);
    admin.change(add(pb::List::Subscribers, "g1", GROUP_NUMBER, &["u1", "u2", "u3"])).await.unwrap();
    g.send(&u1, 102, ("g1", GROUP), 2, b"all");
    g.send(&u1, 103, ("g1", GROUP), 3, b"fleeting");
    assert_eq!((g.ack(102).await, g.ack(103).await), (ok(102, 1), ok(103, 0)));
    let got = g.receive(&u2, 22).await;
    let tail: Vec<_> = got[20..].iter().map(|(r, p)| (r.message_id, r.message_seq, p.as_slice())).collect();
    assert_eq!(tail, [(102, 1, b"all".as_slice()), (103, 0, b"fleeting")]);
    assert_eq!(node.cluster.ids("u2@u1", 1), (1..=20).collect::<Vec<_>>());
    assert_eq!(node.cluster.ids("g1", 2), [102]);
    everything_settles(&node).await;
    assert_eq!(g.received(&u2).len(), 22);
}

#[tokio::test]
async fn people_chat() {
    two_people_and_a_group(Window::default()).await;
}

#[tokio::test]
async fn people_chat_with_all_windows_at_one() {
    two_people_and_a_group(Window { batches: 1, items: 1 }).await;
}

#[tokio::test]
async fn tokens_kicks_and_presence() {
    let node = Node::start(Window::default(), |c| c.token_auth_on = true).await;
    let g = &node.gateway;
    assert_eq!(g.login(1, "u1", "old", "t1").await.err(), Some(Reason::AUTH_FAIL));
    let mut admin = UserAdminClient::new(wk_rpc::dial(node.socket(Pool::User)).await.unwrap());
    let token = |token: &str| SetTokenRequest { uid: "u1".into(), token: token.into(), device_flag: 1, device_level: 1 };
    assert_eq!(admin.set_token(token("t1")).await.unwrap().into_inner().status, 200);
    let old = g.login(2, "u1", "old", "t1").await.unwrap();
    assert_eq!(g.login(3, "u1", "new", "x").await.err(), Some(Reason::AUTH_FAIL));
    g.login(4, "u1", "new", "t1").await.unwrap();
    assert_eq!(g.state.lock().kicks, [(old.conn, "login in other device".to_owned())]);
    let online = admin.online(OnlineRequest { uids: vec!["u1".into(), "u9".into()] }).await.unwrap().into_inner().conns;
    assert_eq!(online.iter().map(|c| (c.uid.as_str(), c.device_flag, c.device_level)).collect::<Vec<_>>(), [("u1", 1, 1), ("u1", 1, 1)]);
    // A new token kicks; a quit blanks it.
    admin.set_token(token("t2")).await.unwrap();
    eventually(|| (g.state.lock().kicks.len() >= 3).then_some(())).await;
    admin.quit(QuitRequest { uid: "u1".into(), device_flag: -1 }).await.unwrap();
    assert_eq!(g.login(5, "u1", "new", "t2").await.err(), Some(Reason::AUTH_FAIL));
    // A banned user gets neither token nor connection.
    let key = Some(pb::RowKey { table: pb::Table::ChannelInfo.into(), id: "u1".into(), sub: 1 });
    let row = pb::ChannelInfoRow { ban: true, ..pb::ChannelInfoRow::default() };
    let put = pb::command::Change::Put(pb::PutRow { key, value: row.encode_to_vec() });
    let command = pb::Command { routing_id: "u1".into(), change: Some(put) };
    admin.change(ChangeRequest { commands: vec![command] }).await.unwrap();
    assert_eq!(admin.set_token(token("t3")).await.unwrap().into_inner().status, 19);
}

#[tokio::test]
async fn a_deny_list_counts_from_its_answer_on() {
    let node = Node::start(Window::default(), |_| {}).await;
    let g = &node.gateway;
    let u1 = g.login(1, "u1", "d", "").await.unwrap();
    g.send(&u1, 1, ("u2", PERSON), 2, b"one");
    assert_eq!(g.ack(1).await, ok(1, 1));
    let mut admin = UserAdminClient::new(wk_rpc::dial(node.socket(Pool::User)).await.unwrap());
    admin.change(add(pb::List::Deny, "u2", 1, &["u1"])).await.unwrap();
    g.send(&u1, 2, ("u2", PERSON), 2, b"two");
    assert_eq!(g.ack(2).await.reason, Reason::IN_BLACKLIST);
    everything_settles(&node).await;
}
