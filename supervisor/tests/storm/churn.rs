//! Users come, are kicked and log in on a second device while the processes that know about them die; afterwards presence is what it must be.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use wk_testkit::client::{Client, Event, Login};
use wk_testkit::http::Api;
use wk_testkit::node::{Node, Options};

use crate::plan::Dice;
use crate::report::say;

/// Users that come and go; every second one keeps a second device.
const USERS: usize = 16;
/// From the new login to the old connection's end: 2 s by the kick rule, and the repair of what died.
const KICKED_WITHIN: Duration = Duration::from_secs(12);
const APP: u8 = 0;
const WEB: u8 = 1;
/// Device level of a token: a master's login ends the other logins of its device class.
const MASTER: u8 = 1;
/// DISCONNECT reason of a kicked connection.
const KICKED: u8 = 12;

/// What one user did, with the connections it has at the end.
struct Ended {
    uid: String,
    app: Client,
    web: Option<Client>,
    kicks: usize,
}

/// Runs `rounds` faults beside the churn and checks presence, kicks and delivery afterwards.
pub(crate) async fn run(seed: u64, rounds: usize) -> anyhow::Result<()> {
    let node = Node::start(&Options { extra: "tokenAuthOn: true".into() }).await?;
    churn(&node, seed, rounds).await.map_err(|e| e.context(node.story()))
}

async fn churn(node: &Node, seed: u64, rounds: usize) -> anyhow::Result<()> {
    let (api, tcp) = (node.api().await?, node.tcp().await?);
    for n in 0..USERS {
        for (device_flag, level) in [(APP, MASTER), (WEB, 0)] {
            let body = json!({"uid": format!("c{n}"), "token": "secret", "device_flag": device_flag, "device_level": level});
            api.must("/user/token", &body).await?;
        }
    }
    let stop = Arc::new(watch::Sender::new(false));
    let mut users = JoinSet::new();
    for n in 0..USERS {
        users.spawn(come_and_go(tcp, n, stop.subscribe()));
    }
    let mut dice = Dice::new(seed);
    for round in 0..rounds {
        // A random moment of the churn.
        tokio::time::sleep(Duration::from_millis(300 + dice.below(1500) as u64)).await;
        let victim = ["worker.user@0", "worker.push@0", "worker.channel@0"][round % 3];
        let generation = node.instance(victim).await?.generation;
        node.signal(victim, Signal::SIGKILL).await?;
        let back = |s: &wk_proto::supervisor::v1::Snapshot| {
            s.instances.iter().any(|i| i.name == victim && i.generation > generation && i.state() == wk_proto::node::v1::State::Ready)
        };
        node.wait_status("back", back).await?;
        // The operator's word that this crash is accounted for: restarts stay without delay, however many rounds there are.
        node.must_wkctl(&["start"]).await?;
    }
    stop.send_replace(true);
    let mut ended = Vec::new();
    while let Some(user) = users.join_next().await {
        ended.push(user??);
    }
    let kicks: usize = ended.iter().map(|e| e.kicks).sum();
    say(&format!("storm churn seed {seed} rounds {rounds}: {kicks} kicks of {USERS} users"));
    presence(&api, &ended).await?;
    deliveries(&api, ended).await
}

fn login(n: usize, device_flag: u8, device: &str) -> Login {
    let uid = format!("c{n}");
    Login { token: "secret".into(), device_flag, device_id: format!("{uid}-{device}"), ..Login::new(&uid) }
}

/// Logs in on one app after another: each login must end the one before; the web login must stay.
async fn come_and_go(tcp: SocketAddr, n: usize, stop: watch::Receiver<bool>) -> anyhow::Result<Ended> {
    let uid = format!("c{n}");
    let mut app = Client::connect(tcp, &login(n, APP, "app0")).await.with_context(|| format!("first login of {uid}"))?;
    let mut web = None;
    let mut kicks = 0;
    let mut leaving = JoinSet::new();
    while !*stop.borrow() {
        if let Some(mut web) = web.take() {
            let said: Option<Event> = Client::next_within(&mut web, Duration::from_millis(1)).await?;
            ensure!(said.is_none(), "{uid}: the web login, which nobody ended, got {said:?}");
        }
        web = Some(Client::connect(tcp, &login(n, WEB, "web")).await.with_context(|| format!("web login of {uid}"))?);
        kicks += 1;
        let next = Client::connect(tcp, &login(n, APP, &format!("app{kicks}"))).await.with_context(|| format!("login {kicks} of {uid}"))?;
        let old = std::mem::replace(&mut app, next);
        leaving.spawn(kicked(uid.clone(), kicks, old));
        // Bounded: the old connections of a user end before more are made.
        if leaving.len() > 2 {
            leaving.join_next().await.context("there are some")???;
        }
    }
    while let Some(left) = leaving.join_next().await {
        left??;
    }
    let web = web.filter(|_| n.is_multiple_of(2));
    Ok(Ended { uid, app, web, kicks })
}

/// The old connection must be told and closed.
async fn kicked(uid: String, number: usize, mut old: Client) -> anyhow::Result<()> {
    let mut told = false;
    let deadline = tokio::time::Instant::now() + KICKED_WITHIN;
    loop {
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        match old.next_within(left).await? {
            Some(Event::Disconnect(KICKED, _)) => told = true,
            Some(Event::Closed) => {
                ensure!(told, "{uid}: connection before login {number} was closed without a word");
                return Ok(());
            }
            None => anyhow::bail!("{uid}: {KICKED_WITHIN:?} after login {number} the connection before it lives (told: {told})"),
            Some(other) => anyhow::bail!("{uid}: {other:?} on a connection that is being kicked"),
        }
    }
}

/// The API must see exactly the connections that are there; ends of connections may take a moment to arrive.
async fn presence(api: &Api, ended: &[Ended]) -> anyhow::Result<()> {
    let mut expected: BTreeMap<(String, u64), u64> = BTreeMap::new();
    for user in ended {
        expected.insert((user.uid.clone(), u64::from(APP)), 1);
        if user.web.is_some() {
            expected.insert((user.uid.clone(), u64::from(WEB)), 1);
        }
    }
    let uids: Vec<&str> = ended.iter().map(|e| e.uid.as_str()).collect();
    let deadline = tokio::time::Instant::now() + wk_testkit::PATIENCE;
    let mut look = tokio::time::interval(Duration::from_millis(200));
    loop {
        look.tick().await;
        let answer = api.must("/user/onlinestatus", &json!(uids)).await?;
        let mut seen: BTreeMap<(String, u64), u64> = BTreeMap::new();
        for row in answer.as_array().context("onlinestatus answers an array")? {
            *seen.entry((row["uid"].as_str().unwrap_or_default().to_owned(), row["device_flag"].as_u64().unwrap_or(99))).or_default() += 1;
        }
        if seen == expected {
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            let wrong: Vec<_> = seen.iter().filter(|(k, v)| expected.get(k) != Some(v)).collect();
            let missing: Vec<_> = expected.keys().filter(|k| !seen.contains_key(k)).collect();
            anyhow::bail!("presence is wrong: too many {wrong:?}, missing {missing:?}");
        }
    }
}

/// A message to each user must reach each of its connections once.
async fn deliveries(api: &Api, ended: Vec<Ended>) -> anyhow::Result<()> {
    for mut user in ended {
        let body =
            json!({"from_uid": "backend", "channel_id": user.uid, "channel_type": 1, "payload": "aGVsbG8=", "header": {"red_dot": 1}});
        api.must("/message/send", &body).await?;
        for (device, client) in [("app", Some(&mut user.app)), ("web", user.web.as_mut())] {
            let Some(client) = client else { continue };
            let got = client.message().await.with_context(|| format!("{} {device}", user.uid))?;
            ensure!(got.payload == b"hello", "{} {device} got {got:?}", user.uid);
        }
    }
    Ok(())
}
