//! Users who talk to each other and to a group without a pause, and the judgement of what they saw: nobody notices, nothing is lost, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::sync::watch;
use tokio::task::JoinSet;
use wk_testkit::client::{Ack, Client, Event, Login};
use wk_testkit::http::Api;
use wk_testkit::node::Node;

pub(crate) const POOLS: [&str; 3] = ["worker.user", "worker.channel", "worker.push"];
/// Users; each sends to the next one, and to the group of all.
const USERS: usize = 24;
const GROUP: &str = "everybody";
/// SENDs of a user without an answer.
const OPEN_MAX: usize = 4;
/// After the last answer everything has arrived within this.
const ARRIVES_WITHIN: Duration = Duration::from_secs(10);

/// What one user saw.
pub(crate) struct Seen {
    user: usize,
    /// Text → (message id, sequence).
    acked: BTreeMap<String, (i64, u64)>,
    /// Channel → (sequence, text), in order of arrival.
    received: BTreeMap<String, Vec<(u64, String)>>,
}

pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    acks: Arc<watch::Sender<u64>>,
    /// How many of all messages have been sent once everybody has stopped; users wait for their part.
    users: JoinSet<anyhow::Result<Seen>>,
}

fn name(user: usize) -> String {
    format!("s{}", user % USERS)
}

impl Load {
    pub(crate) async fn start(node: &Node) -> anyhow::Result<Self> {
        Self::on(node.api().await?, node.tcp().await?).await
    }

    pub(crate) async fn on(api: Api, tcp: SocketAddr) -> anyhow::Result<Self> {
        let names: Vec<String> = (0..USERS).map(name).collect();
        api.group(GROUP, &names.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        let (stop, acks) = (Arc::new(AtomicBool::new(false)), Arc::new(watch::Sender::new(0)));
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
    pub(crate) async fn flow(&mut self, count: u64) -> anyhow::Result<()> {
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

    pub(crate) async fn finish(mut self) -> anyhow::Result<Vec<Seen>> {
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
pub(crate) fn judge(all: &[Seen], once: bool) -> anyhow::Result<()> {
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
