//! Two people chat through every daemon: with the published SDKs, and with all versions of the binary protocol.

use anyhow::Context;
use serde_json::json;
use wk_testkit::client::{Client, Event, Login};
use wk_testkit::node::{Node, Options};
use wk_testkit::sdk::{Sdk, User};

fn with_tokens() -> Options {
    Options { extra: "tokenAuthOn: true".into() }
}

/// The scenario of `spec/sdks.md`: ann (JS) with a second device (Python), ben (Python), cat (JS).
#[tokio::test]
async fn published_sdks_chat() -> anyhow::Result<()> {
    let node = Node::start(&with_tokens()).await?;
    let (api, ws) = (node.api().await?, node.ws().await?);
    for (uid, flag) in [("ann", 1), ("ann", 2), ("ben", 2), ("cat", 1)] {
        api.token(uid, &format!("{uid}-secret"), flag).await?;
    }
    api.group("g1", &["ann", "ben", "cat", "dan"]).await?;

    let mut stranger = User::start(Sdk::Js, "wrong token, js").await?;
    let refused = stranger.login(&ws, "ann", "wrong", 1).await?;
    assert_eq!((&refused["status"], &refused["reason"]), (&json!(3), &json!(2)), "{}", node.story());
    let mut stranger = User::start(Sdk::Python, "wrong token, python").await?;
    let refused = stranger.login(&ws, "ben", "wrong", 2).await?;
    assert_eq!((&refused["status"], &refused["reason"]), (&json!(3), &json!(2)));

    let mut ann = User::start(Sdk::Js, "ann").await?;
    let mut ann2 = User::start(Sdk::Python, "ann's second device").await?;
    let mut ben = User::start(Sdk::Python, "ben").await?;
    let mut cat = User::start(Sdk::Js, "cat").await?;
    for (user, uid, flag) in [(&mut ann, "ann", 1), (&mut ann2, "ann", 2), (&mut ben, "ben", 2), (&mut cat, "cat", 1)] {
        let status = user.login(&ws, uid, &format!("{uid}-secret"), flag).await?;
        assert_eq!(status["status"], 1, "{uid}: {status}");
    }

    person_messages(&mut ann, &mut ann2, &mut ben).await?;
    group_messages(&mut ann, &mut ann2, &mut ben, &mut cat).await?;

    // ben goes away, misses three, comes back and reads them.
    ben.tell(json!({"cmd": "disconnect"})).await?;
    ben.wait("disconnect-done", |_| true).await?;
    for n in 1..=3 {
        let ack = ann.send("ben", 1, &format!("missed {n}")).await?;
        assert_eq!(ack["reason"], 1);
    }
    let status = ben.login(&ws, "ben", "ben-secret", 2).await?;
    assert_eq!(status["status"], 1);
    let history = api.history("ben", "ann", 1).await?;
    let seqs: Vec<u64> = history.iter().filter_map(|m| m["message_seq"].as_u64()).collect();
    assert_eq!(seqs, (1..=5).collect::<Vec<_>>());
    let texts: Vec<String> = history.iter().skip(2).map(text_of).collect::<anyhow::Result<_>>()?;
    assert_eq!(texts, ["missed 1", "missed 2", "missed 3"]);
    Ok(())
}

fn text_of(message: &serde_json::Value) -> anyhow::Result<String> {
    use base64::Engine as _;
    let payload = base64::engine::general_purpose::STANDARD.decode(message["payload"].as_str().context("payload is text")?)?;
    let payload: serde_json::Value = serde_json::from_slice(&payload)?;
    Ok(payload["content"].as_str().unwrap_or_default().to_owned())
}

async fn person_messages(ann: &mut User, ann2: &mut User, ben: &mut User) -> anyhow::Result<()> {
    let ack = ann.send("ben", 1, "hello ben").await?;
    assert_eq!((&ack["reason"], &ack["message_seq"]), (&json!(1), &json!(1)));
    let got = ben.message("hello ben").await?;
    assert_eq!((&got["from_uid"], &got["channel_id"], &got["message_seq"]), (&json!("ann"), &json!("ann"), &json!(1)));
    let got = ann2.message("hello ben").await?;
    assert_eq!((&got["from_uid"], &got["channel_id"]), (&json!("ann"), &json!("ben")), "the second device files it under ben");

    let ack = ben.send("ann", 1, "hello ann").await?;
    assert_eq!((&ack["reason"], &ack["message_seq"]), (&json!(1), &json!(2)));
    for device in [ann, ann2] {
        let got = device.message("hello ann").await?;
        assert_eq!((&got["from_uid"], &got["channel_id"], &got["message_seq"]), (&json!("ben"), &json!("ben"), &json!(2)));
    }
    Ok(())
}

async fn group_messages(ann: &mut User, ann2: &mut User, ben: &mut User, cat: &mut User) -> anyhow::Result<()> {
    let ack = ann.send("g1", 2, "to all").await?;
    assert_eq!((&ack["reason"], &ack["message_seq"]), (&json!(1), &json!(1)));
    for user in [&mut *ann2, &mut *ben, &mut *cat] {
        let got = user.message("to all").await?;
        assert_eq!((&got["channel_id"], &got["channel_type"], &got["from_uid"]), (&json!("g1"), &json!(2), &json!("ann")));
    }
    let ack = ben.send("g1", 2, "from ben").await?;
    assert_eq!((&ack["reason"], &ack["message_seq"]), (&json!(1), &json!(2)));
    for user in [ann, ann2, cat] {
        let got = user.message("from ben").await?;
        assert_eq!(got["message_seq"], 2);
    }
    Ok(())
}

/// The same over plain TCP with every version from 2 to 6.
#[tokio::test]
async fn every_binary_version_chats_over_tcp() -> anyhow::Result<()> {
    let node = Node::start(&Options::default()).await?;
    let (api, tcp) = (node.api().await?, node.tcp().await?);
    for version in 2..=6 {
        let (a, b) = (format!("a{version}"), format!("b{version}"));
        let login = |uid: &str| Login { version, ..Login::new(uid) };
        let mut ann = Client::connect(tcp, &login(&a)).await?;
        let mut ben = Client::connect(tcp, &login(&b)).await?;
        let mut second = Client::connect(tcp, &Login { device_flag: 1, device_id: "web".into(), ..login(&a) }).await?;
        for (round, text) in ["one", "two"].into_iter().enumerate() {
            let seq = ann.send(&b, 1, &format!("{a}-{text}"), text.as_bytes()).await?;
            let ack = ann.ack(seq).await?;
            assert!(ack.reason.is_success(), "version {version}: {ack:?}\n{}", node.story());
            assert_eq!(ack.message_seq, round as u64 + 1);
            let got = ben.message().await?;
            assert_eq!((got.message_id, got.message_seq), (ack.message_id, ack.message_seq));
            assert_eq!((got.payload.as_slice(), got.from_uid.as_str(), got.channel_id.as_str()), (text.as_bytes(), a.as_str(), a.as_str()));
            let got = second.message().await?;
            assert_eq!((got.payload.as_slice(), got.channel_id.as_str()), (text.as_bytes(), b.as_str()));
        }
        let group = format!("g{version}");
        api.group(&group, &[&a, &b]).await?;
        let seq = ben.send(&group, 2, "", b"to the group").await?;
        assert!(ben.ack(seq).await?.reason.is_success());
        assert_eq!(ann.message().await?.channel_id, group);
        ann.ping().await?;
        assert_eq!(ann.next().await?, Event::Pong);
        let history = api.history(&b, &a, 1).await?;
        assert_eq!(history.len(), 2);
    }
    Ok(())
}

/// A resent SEND is stored once and answered with the first id; a stranger to a group is refused and stays connected.
#[tokio::test]
async fn resends_and_refusals_are_answered() -> anyhow::Result<()> {
    let node = Node::start(&Options::default()).await?;
    let (api, tcp) = (node.api().await?, node.tcp().await?);
    let mut ann = Client::connect(tcp, &Login::new("ann")).await?;
    let mut ben = Client::connect(tcp, &Login::new("ben")).await?;
    let first = ann.send("ben", 1, "same-number", b"once").await?;
    let first = ann.ack(first).await?;
    let again = ann.send("ben", 1, "same-number", b"once").await?;
    let again = ann.ack(again).await?;
    assert_eq!((again.message_id, again.message_seq), (first.message_id, first.message_seq));
    // Another payload under the number is another message; both are found again.
    for (payload, seq) in [(b"more", 2), (b"once", 1), (b"more", 2)] {
        let sent = ann.send("ben", 1, "same-number", payload).await?;
        assert_eq!(ann.ack(sent).await?.message_seq, seq);
    }
    assert_eq!((ben.message().await?.payload, ben.message().await?.payload), (b"once".to_vec(), b"more".to_vec()));
    assert_eq!(api.history("ben", "ann", 1).await?.len(), 2);

    api.group("closed", &["ben"]).await?;
    let seq = ann.send("closed", 2, "", b"let me in").await?;
    assert_eq!(ann.ack(seq).await?.reason.0, 3);
    api.must("/channel/subscriber_add", &json!({"channel_id": "closed", "channel_type": 2, "subscribers": ["ann"]})).await?;
    let seq = ann.send("closed", 2, "", b"now").await?;
    assert_eq!(ann.ack(seq).await?.reason.0, 1);
    assert_eq!(ben.message().await?.payload, b"now");

    api.must("/channel/blacklist_add", &json!({"channel_id": "ben", "channel_type": 1, "uids": ["ann"]})).await?;
    let seq = ann.send("ben", 1, "", b"denied").await?;
    assert_eq!(ann.ack(seq).await?.reason.0, 4);
    api.must("/channel/blacklist_remove", &json!({"channel_id": "ben", "channel_type": 1, "uids": ["ann"]})).await?;
    let seq = ann.send("ben", 1, "", b"forgiven").await?;
    assert_eq!(ann.ack(seq).await?.reason.0, 1);
    Ok(())
}

/// Messages of the HTTP API reach clients, and presence is told.
#[tokio::test]
async fn the_api_sends_and_sees_who_is_online() -> anyhow::Result<()> {
    let node = Node::start(&Options::default()).await?;
    let (api, tcp) = (node.api().await?, node.tcp().await?);
    let mut ben = Client::connect(tcp, &Login::new("ben")).await?;
    let sent = api
        .must(
            "/message/send",
            &json!({"from_uid": "ann", "channel_id": "ben", "channel_type": 1, "payload": "aGVsbG8=", "header": {"red_dot": 1}}),
        )
        .await?;
    let got = ben.message().await?;
    assert_eq!((got.payload.as_slice(), got.from_uid.as_str()), (b"hello".as_slice(), "ann"));
    assert_eq!(sent["data"]["message_id"], json!(got.message_id));
    let command = json!({"header": {"no_persist": 1, "sync_once": 1}, "subscribers": ["ben", "dan"], "payload": "Z28="});
    assert_eq!(api.must("/message/send", &command).await?, json!({"status": 200}));
    let got = ben.message().await?;
    assert_eq!((got.payload.as_slice(), got.channel_id.as_str(), got.channel_type), (b"go".as_slice(), "systemcmdonline", 8));
    assert_eq!(got.message_seq, 0);
    let online = api.must("/user/onlinestatus", &json!(["ann", "ben"])).await?;
    assert_eq!(online, json!([{"uid": "ben", "device_flag": 0, "online": 1}]));

    api.must("/user/device_quit", &json!({"uid": "ben", "device_flag": 0})).await?;
    let said = ben.closed().await?;
    assert!(said.contains(&Event::Disconnect(12, String::new())), "{said:?}");
    Ok(())
}
