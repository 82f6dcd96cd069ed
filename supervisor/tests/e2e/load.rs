//! A modest load with a record of every answer, and the check against what the log holds.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;
use tokio::task::JoinSet;
use wk_testkit::client::{Client, Event, Login};
use wk_testkit::http::Api;

/// One acknowledged message: sender pair number, payload, id, sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Acked {
    pub(crate) pair: usize,
    pub(crate) text: String,
    pub(crate) message_id: i64,
    pub(crate) message_seq: u64,
}

/// Pairs of users that send to each other until told to stop, a few in flight.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    acked: Arc<watch::Sender<u64>>,
    senders: JoinSet<anyhow::Result<Vec<Acked>>>,
}

impl Load {
    pub(crate) fn start(tcp: SocketAddr, pairs: usize) -> Self {
        let (stop, acked) = (Arc::new(AtomicBool::new(false)), Arc::new(watch::Sender::new(0)));
        let mut senders = JoinSet::new();
        for pair in 0..pairs {
            senders.spawn(send_until(tcp, pair, Arc::clone(&stop), Arc::clone(&acked)));
        }
        Self { stop, acked, senders }
    }

    /// Waits until this many messages were acknowledged in all.
    pub(crate) async fn reach(&self, count: u64) -> anyhow::Result<()> {
        let mut acked = self.acked.subscribe();
        let wait = acked.wait_for(|&n| n >= count);
        tokio::time::timeout(wk_testkit::PATIENCE, wait).await.map_err(|_| anyhow::anyhow!("only {} acknowledged", self.count()))??;
        Ok(())
    }

    pub(crate) fn count(&self) -> u64 {
        *self.acked.borrow()
    }

    /// Stops the senders and returns everything that was acknowledged.
    pub(crate) async fn finish(mut self) -> anyhow::Result<Vec<Acked>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        while let Some(sender) = self.senders.join_next().await {
            all.extend(sender??);
        }
        Ok(all)
    }
}

pub(crate) fn users(pair: usize) -> (String, String) {
    (format!("left{pair}"), format!("right{pair}"))
}

/// Sends until told to stop or until the server closes the connection; each text carries its number.
async fn send_until(tcp: SocketAddr, pair: usize, stop: Arc<AtomicBool>, acked: Arc<watch::Sender<u64>>) -> anyhow::Result<Vec<Acked>> {
    let (left, right) = users(pair);
    let mut client = Client::connect(tcp, &Login::new(&left)).await?;
    let mut sent: HashMap<u32, String> = HashMap::new();
    let mut record = Vec::new();
    let mut n = 0_u64;
    while !stop.load(Ordering::Relaxed) || !sent.is_empty() {
        while sent.len() < 4 && !stop.load(Ordering::Relaxed) {
            let text = format!("{pair}/{n}");
            n += 1;
            match client.send(&right, 1, &text, text.as_bytes()).await {
                Ok(seq) => sent.insert(seq, text),
                Err(_) => return Ok(record),
            };
        }
        match client.next().await? {
            Event::Ack(ack) => {
                let text = sent.remove(&ack.client_seq).unwrap_or_default();
                if ack.reason.is_success() {
                    acked.send_modify(|n| *n += 1);
                    record.push(Acked { pair, text, message_id: ack.message_id, message_seq: ack.message_seq });
                }
            }
            Event::Closed => return Ok(record),
            _ => {}
        }
    }
    Ok(record)
}

/// Every acknowledged message is in the log with its id and sequence; sequences are dense; nothing stands twice; each sender's order is kept.
pub(crate) async fn check(api: &Api, pairs: usize, acked: &[Acked]) -> anyhow::Result<()> {
    use base64::Engine as _;
    for pair in 0..pairs {
        let (left, right) = users(pair);
        let history = api.history(&right, &left, 1).await?;
        let mut by_text = HashMap::new();
        let mut last = None;
        for (at, message) in history.iter().enumerate() {
            let seq = message["message_seq"].as_u64().unwrap_or(0);
            anyhow::ensure!(seq == at as u64 + 1, "{right}: sequence {seq} at place {at}");
            let text =
                String::from_utf8(base64::engine::general_purpose::STANDARD.decode(message["payload"].as_str().unwrap_or_default())?)?;
            let number: u64 = text.rsplit('/').next().unwrap_or_default().parse()?;
            anyhow::ensure!(last.is_none_or(|l| l < number), "{right}: {number} after {last:?}");
            last = Some(number);
            let id = message["message_id"].as_i64().unwrap_or(0);
            anyhow::ensure!(by_text.insert(text.clone(), (id, seq)).is_none(), "{text} stands twice");
        }
        for ack in acked.iter().filter(|a| a.pair == pair) {
            anyhow::ensure!(
                by_text.get(&ack.text) == Some(&(ack.message_id, ack.message_seq)),
                "acknowledged {ack:?}, but the log has {:?}",
                by_text.get(&ack.text)
            );
        }
    }
    Ok(())
}
