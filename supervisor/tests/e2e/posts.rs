//! Messages of applications, over HTTP: what was answered with 200 is in the history, at once and for good, whoever hangs or dies meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::ensure;
use base64::Engine as _;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use wk_testkit::PATIENCE;
use wk_testkit::http::Api;
use wk_testkit::native::Native;
use wk_types::InstanceName;

use crate::load::users;

const PAIRS: usize = 4;

/// Applications that post one message after the other, and look for each that was accepted.
struct Posts {
    stop: Arc<AtomicBool>,
    accepted: Arc<watch::Sender<u64>>,
    posters: JoinSet<anyhow::Result<Vec<String>>>,
}

impl Posts {
    fn start(node: &Native) -> anyhow::Result<Self> {
        let (stop, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(watch::Sender::new(0)));
        let mut posters = JoinSet::new();
        for pair in 0..PAIRS {
            posters.spawn(post_until(node.api()?, pair, Arc::clone(&stop), Arc::clone(&accepted)));
        }
        Ok(Self { stop, accepted, posters })
    }

    /// Waits until so many more messages were accepted.
    async fn more(&self, count: u64) -> anyhow::Result<()> {
        let mut accepted = self.accepted.subscribe();
        let goal = *accepted.borrow() + count;
        let wait = accepted.wait_for(|&n| n >= goal);
        tokio::time::timeout(PATIENCE, wait).await.map_err(|_| anyhow::anyhow!("not {count} more were accepted"))??;
        Ok(())
    }

    /// Ends the posters and looks again for everything they had accepted.
    async fn finish(mut self, api: &Api) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(texts) = self.posters.join_next().await {
            let texts = texts??;
            let Some(pair) = texts.first().and_then(|t| t.split('/').next()?.parse().ok()) else { continue };
            let (from, to) = users(pair);
            let payloads: Vec<Value> = api.history(&to, &from, 1).await?.iter().map(|m| m["payload"].clone()).collect();
            for text in texts {
                ensure!(payloads.contains(&encoded(&text)), "{text} was accepted and is lost");
            }
        }
        Ok(())
    }
}

fn encoded(text: &str) -> Value {
    base64::engine::general_purpose::STANDARD.encode(text).into()
}

/// Posts until told to stop; each text carries its number. Returns what was accepted. What was not may be there or not.
async fn post_until(api: Api, pair: usize, stop: Arc<AtomicBool>, accepted: Arc<watch::Sender<u64>>) -> anyhow::Result<Vec<String>> {
    let (from, to) = users(pair);
    let mut texts = Vec::new();
    for n in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let text = format!("{pair}/{n}");
        let message = json!({"from_uid": from, "channel_id": to, "channel_type": 1, "payload": encoded(&text)});
        if api.post("/message/send", &message).await?.0 != 200 {
            continue;
        }
        let page = newest(&api, &to, &from).await?;
        ensure!(page.iter().any(|m| m["payload"] == encoded(&text)), "{text} was accepted and is not there: {page:?}");
        texts.push(text);
        accepted.send_modify(|n| *n += 1);
    }
    Ok(texts)
}

/// The last messages of two people. Asked until it is answered: a cluster that is being replaced answers nobody.
async fn newest(api: &Api, login: &str, other: &str) -> anyhow::Result<Vec<Value>> {
    let body = json!({"login_uid": login, "channel_id": other, "channel_type": 1, "limit": 5});
    let ask = async {
        loop {
            let (status, answer) = api.post("/channel/messagesync", &body).await?;
            if status == 200 {
                return Ok(answer["messages"].as_array().cloned().unwrap_or_default());
            }
        }
    };
    tokio::time::timeout(PATIENCE, ask).await?
}

/// The channel worker hangs while a user worker joins, is ended by the host of the table, and is killed once more; so is the cluster.
#[tokio::test]
async fn what_the_api_accepted_survives_hangs_and_deaths_while_a_share_moves() -> anyhow::Result<()> {
    let [channel, user, cluster] =
        ["worker.channel@0", "worker.user@1", "cluster@0"].map(|n| n.parse::<InstanceName>().expect("a name of an instance"));
    let mut node = Native::start("").await?;
    let posts = Posts::start(&node)?;
    let run = async {
        posts.more(50).await?;
        node.spawn(user)?;
        node.stop(channel)?;
        node.ended(channel, Duration::from_secs(15)).await?;
        node.spawn(channel)?;
        node.ready(channel).await?;
        node.ready(user).await?;
        for name in [channel, user, cluster] {
            posts.more(50).await?;
            node.kill_and_restart(name).await?;
        }
        posts.more(50).await?;
        posts.finish(&node.api()?).await
    };
    let outcome = run.await;
    outcome.map_err(|e: anyhow::Error| e.context(node.story()))
}
