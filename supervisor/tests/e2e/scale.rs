//! `wkctl scale` under load: new processes take their share, messages keep flowing in order, nothing is lost, no client notices.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use tokio::sync::watch;
use tokio::task::JoinSet;
use wk_testkit::client::{Ack, Client, Event, Login};
use wk_testkit::node::{Node, Options};

const POOLS: [&str; 3] = ["worker.user", "worker.channel", "worker.push"];
/// Users; each sends to the next one, and to the group of all.
const USERS: usize = 24;
const GROUP: &str = "everybody";
/// SENDs of a user without an answer.
const OPEN_MAX: usize = 4;
/// After the last answer everything has arrived within this.
const ARRIVES_WITHIN: Duration = Duration::from_secs(10);

/// What one user saw.
struct Seen {
    user: usize,
    /// Text → (message id, sequence).
    acked: BTreeMap<String, (i64, u64)>,
    /// Channel → (sequence, text), in order of arrival.
    received: BTreeMap<String, Vec<(u64, String)>>,
}

struct Load {
    stop: Arc<AtomicBool>,
    acks: Arc<watch::Sender<u64>>,
    /// How many of all messages have been sent once everybody has stopped; users wait for their part.
    users: JoinSet<anyhow::Result<Seen>>,
}

fn name(user: usize) -> String {
    format!("s{}", user % USERS)
}

impl Load {
    async fn start(node: &Node) -> anyhow::Result<Self> {
        let names: Vec<String> = (0..USERS).map(name).collect();
        node.api().await?.group(GROUP, &names.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        let (tcp, stop, acks) = (node.tcp().await?, Arc::new(AtomicBool::new(false)), Arc::new(watch::Sender::new(0)));
        let mut clients = Vec::new();
        for user in 0..USERS {
            clients.push(Client::connect(tcp, &Login::new(&name(user))).await?);
        }
        let mut users = JoinSet::new();
        for (user, client) in clients.into_iter().enumerate() {
            users.spawn(talk(client, user, Arc::clone(&stop), Arc::clone(&acks)));
        }
        Ok(Self { stop, acks, users })
    }

    /// Waits for this many more acknowledgements.
    async fn flow(&mut self, count: u64) -> anyhow::Result<()> {
        let mut acks = self.acks.subscribe();
        let goal = *acks.borrow() + count;
        tokio::select! {
            reached = tokio::time::timeout(wk_testkit::PATIENCE, acks.wait_for(|n| *n >= goal)) => {
                reached.context("messages have stopped to flow")??;
                Ok(())
            }
            Some(ended) = self.users.join_next() => Err(ended?.err().context("a user has left without an error")?),
        }
    }

    async fn finish(mut self) -> anyhow::Result<Vec<Seen>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        while let Some(seen) = self.users.join_next().await {
            all.push(seen??);
        }
        all.sort_by_key(|s| s.user);
        Ok(all)
    }
}

/// Sends in turn to the next user and to the group until told to stop, then listens until nothing has come for a while.
async fn talk(mut client: Client, user: usize, stop: Arc<AtomicBool>, acks: Arc<watch::Sender<u64>>) -> anyhow::Result<Seen> {
    let mut seen = Seen { user, acked: BTreeMap::new(), received: BTreeMap::new() };
    let mut open: BTreeMap<u32, String> = BTreeMap::new();
    let mut number = 0_u64;
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        while open.len() < OPEN_MAX && !stopping {
            let text = format!("{user}/{number}");
            let (channel, kind) = if number.is_multiple_of(4) { (GROUP.to_owned(), 2) } else { (name(user + 1), 1) };
            number += 1;
            open.insert(client.send(&channel, kind, &text, text.as_bytes()).await?, text);
        }
        let patience = if stopping && open.is_empty() { Duration::from_secs(2) } else { ARRIVES_WITHIN };
        match client.next_within(patience).await? {
            Some(Event::Ack(Ack { message_id, message_seq, client_seq, reason })) => {
                let text = open.remove(&client_seq).with_context(|| format!("{user}: a second answer to {client_seq}"))?;
                ensure!(reason.is_success(), "{user}: {text} was answered with {}", reason.name());
                seen.acked.insert(text, (message_id, message_seq));
                acks.send_modify(|n| *n += 1);
            }
            Some(Event::Message(m)) => {
                seen.received.entry(m.channel_id).or_default().push((m.message_seq, String::from_utf8(m.payload)?));
            }
            Some(Event::Pong) => {}
            Some(event @ (Event::Closed | Event::Disconnect(..))) => anyhow::bail!("user {user} noticed: {event:?}"),
            None if open.is_empty() && stopping => return Ok(seen),
            None => anyhow::bail!("user {user}: no answer to {open:?}"),
        }
    }
}

/// Dense sequences, each sender in its own order, everything at everybody; `once`: nothing came twice or out of order.
fn judge(all: &[Seen], once: bool) -> anyhow::Result<()> {
    let mut log: BTreeMap<String, BTreeMap<u64, &str>> = BTreeMap::new();
    for seen in all {
        for (text, (_, seq)) in &seen.acked {
            let number: u64 = text.rsplit('/').next().unwrap_or_default().parse()?;
            let channel = if number.is_multiple_of(4) { GROUP.to_owned() } else { format!("{} to the next", seen.user) };
            let other = log.entry(channel.clone()).or_default().insert(*seq, text);
            ensure!(other.is_none(), "{channel}: {text} and {other:?} both have sequence {seq}");
        }
    }
    for (channel, messages) in &log {
        let mut last: BTreeMap<&str, u64> = BTreeMap::new();
        for (at, (seq, text)) in messages.iter().enumerate() {
            ensure!(*seq == at as u64 + 1, "{channel}: sequence {seq} at place {at}");
            let (sender, number) = text.split_once('/').context("texts have two parts")?;
            let before = last.insert(sender, number.parse()?);
            ensure!(before.is_none_or(|b| b < number.parse().unwrap_or(0)), "{channel}: {text} after number {before:?}");
        }
    }
    for seen in all {
        let previous = (seen.user + USERS - 1) % USERS;
        for (channel, sender) in [(GROUP.to_owned(), None), (name(previous), Some(previous))] {
            let stored = &log[&sender.map_or(GROUP.to_owned(), |s| format!("{s} to the next"))];
            let got = seen.received.get(&channel).map_or(&[][..], Vec::as_slice);
            // The sender's own connection gets no copy.
            let own = format!("{}/", seen.user);
            let expected: Vec<(u64, String)> =
                stored.iter().filter(|(_, t)| !t.starts_with(&own)).map(|(s, t)| (*s, (*t).to_owned())).collect();
            if once {
                let wrong = got.iter().zip(&expected).find(|(g, e)| g != e);
                ensure!(wrong.is_none(), "user {}, {channel}: (got, expected) {wrong:?}", seen.user);
                ensure!(got.len() == expected.len(), "user {}, {channel}: {} of {}", seen.user, got.len(), expected.len());
            } else {
                let missing: BTreeSet<_> = expected.iter().filter(|e| !got.contains(e)).collect();
                ensure!(missing.is_empty(), "user {}, {channel}: never came: {missing:?}", seen.user);
            }
        }
    }
    Ok(())
}

async fn scale(node: &Node, pool: &str, slots: usize) -> anyhow::Result<()> {
    node.must_wkctl(&["scale", &format!("{pool}={slots}")]).await.map(drop)
}

#[tokio::test]
async fn every_pool_scales_up_and_down_under_load_and_no_client_notices() -> anyhow::Result<()> {
    let node = Node::start(&Options::default()).await?;
    let mut load = Load::start(&node).await?;
    let run = async {
        load.flow(200).await?;
        for slots in [4, 1, 2, 3, 1] {
            for pool in POOLS {
                scale(&node, pool, slots).await?;
                load.flow(200).await.with_context(|| format!("after {pool}={slots}"))?;
            }
        }
        judge(&load.finish().await?, true)
    };
    run.await.map_err(|e: anyhow::Error| e.context(node.story()))
}

#[tokio::test]
async fn a_worker_that_is_killed_while_its_share_moves_loses_nothing() -> anyhow::Result<()> {
    let node = Node::start(&Options::default()).await?;
    let mut load = Load::start(&node).await?;
    let run = async {
        load.flow(200).await?;
        for (pool, victims) in POOLS.iter().flat_map(|pool| [(pool, [0, 1]), (pool, [0, 2])]) {
            for (slots, victim) in [3, 1].into_iter().zip(victims) {
                let name = format!("{pool}@{}", if slots == 3 { 0 } else { victim });
                let moving = scale(&node, pool, slots);
                let killing = async {
                    tokio::time::sleep(Duration::from_millis(30 * (victim + 1))).await;
                    // It may not be there yet, or not any more: then the scale is an undisturbed one.
                    node.signal(&name, Signal::SIGKILL).await.ok();
                    anyhow::Ok(())
                };
                let (moved, killed) = tokio::join!(moving, killing);
                moved.and(killed).with_context(|| format!("{pool}={slots} without {name}"))?;
                load.flow(200).await.with_context(|| format!("after {pool}={slots} without {name}"))?;
                // The crash is accounted for.
                node.must_wkctl(&["start"]).await?;
            }
        }
        judge(&load.finish().await?, false)
    };
    run.await.map_err(|e: anyhow::Error| e.context(node.story()))
}

#[tokio::test]
async fn users_log_in_while_their_share_moves() -> anyhow::Result<()> {
    let node = Node::start(&Options::default()).await?;
    let tcp = node.tcp().await?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut comers = JoinSet::new();
    for comer in 0..8 {
        comers.spawn(come_and_go(tcp, comer, Arc::clone(&stop)));
    }
    let run = async {
        for slots in [3, 1, 2, 1] {
            for pool in POOLS {
                scale(&node, pool, slots).await?;
            }
        }
        stop.store(true, Ordering::Relaxed);
        let mut logins = 0;
        while let Some(comer) = comers.join_next().await {
            logins += comer??;
        }
        ensure!(logins > 100, "only {logins} logins");
        Ok(())
    };
    run.await.map_err(|e: anyhow::Error| e.context(node.story()))
}

/// Logs in, sends to itself, hears the answer and the message on a second device, leaves; returns how often.
async fn come_and_go(tcp: SocketAddr, comer: usize, stop: Arc<AtomicBool>) -> anyhow::Result<usize> {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let uid = format!("c{comer}-{count}");
        let mut phone = Client::connect(tcp, &Login::new(&uid)).await.with_context(|| format!("login of {uid}"))?;
        let web = Login { device_flag: 1, device_id: format!("{uid}-web"), ..Login::new(&uid) };
        let mut web = Client::connect(tcp, &web).await.with_context(|| format!("second login of {uid}"))?;
        let seq = phone.send("friend", 1, &uid, uid.as_bytes()).await?;
        let ack = phone.ack(seq).await.with_context(|| format!("answer to {uid}"))?;
        ensure!(ack.reason.is_success(), "{uid} was answered with {}", ack.reason.name());
        let copy = web.message().await.with_context(|| format!("copy at the second device of {uid}"))?;
        ensure!(copy.payload == uid.as_bytes(), "{uid} got {copy:?}");
        count += 1;
    }
    Ok(count)
}
