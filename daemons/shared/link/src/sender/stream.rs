//! One slot's stream: dial, greeting, batches, reports, stalls, from the first life of its receiver to the end of the set.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use wk_proto::link::v1 as pb;
use wk_proto::link::v1::link_client::LinkClient;
use wk_rpc::Row;
use wk_types::Incarnation;
use wk_types::limits::LINK_STALL;

use super::{Poisoned, Shared, Slot};
use crate::ring::{Batch, Meets, PoisonedItem, Position, Then, put_item};

/// Messages that wait for HTTP/2; the ring's window bounds what is inside them.
const STREAM_QUEUE: usize = 4;
/// A receiver that does not answer a Hello within this is dialled again.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(2);
/// Interval of the stall check and of pings.
const TICK: Duration = Duration::from_millis(500);
/// Pause before a failed dial is repeated; a table change ends it early.
const REDIAL_PAUSE: Duration = Duration::from_millis(20);
/// Items in one preamble batch.
const PREAMBLE_ITEMS: usize = 1024;

/// Keeps one slot connected for the life of the set.
pub(super) async fn run_slot(shared: Arc<Shared>, link: Arc<Slot>) {
    let mut table = shared.table.clone();
    let mut met = Met::default();
    loop {
        let row = tokio::select! {
            row = table.wait_for(|t| t.instance(link.name).filter(|row| row.dialable()).cloned()) => row,
            () = shared.stop.cancelled() => return,
        };
        let end = tokio::select! {
            end = run_stream(&shared, &link, &row, &mut met) => end,
            () = shared.stop.cancelled() => return,
        };
        if let Err(err) = end {
            tracing::debug!(receiver = %link.name, incarnation = row.incarnation, %err, "link stream ended");
        }
        tokio::select! {
            _ = table.changed() => {}
            () = tokio::time::sleep(REDIAL_PAUSE) => {}
            () = shared.stop.cancelled() => return,
        }
    }
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error(transparent)]
    Dial(#[from] wk_rpc::dial::DialError),
    #[error(transparent)]
    Status(#[from] Box<tonic::Status>),
    #[error("receiver did not welcome us in time")]
    NoWelcome,
    #[error("receiver closed the stream")]
    Closed,
    #[error("the table names another incarnation")]
    Replaced,
}

/// The life of the receiver that was last connected.
#[derive(Debug, Default)]
struct Met {
    incarnation: Incarnation,
    /// It has the whole preamble.
    greeted: bool,
}

/// One stream, from dial to end. `met` is what was last connected.
async fn run_stream(shared: &Arc<Shared>, link: &Slot, row: &Row, met: &mut Met) -> Result<(), StreamError> {
    let (up, outgoing) = mpsc::channel(STREAM_QUEUE);
    let hello = pb::Hello {
        sender: shared.config.me.to_string(),
        sender_incarnation: shared.config.incarnation,
        receiver: link.name.to_string(),
        receiver_incarnation: row.incarnation,
        first_position: link.ring.lock().first(),
    };
    send(&up, pb::up::Message::Hello(hello)).await?;
    let channel = wk_rpc::dial(row.link_socket.clone()).await?;
    let mut client = LinkClient::new(channel);
    let open = async {
        let mut down = client.open(ReceiverStream::new(outgoing)).await.map_err(Box::new)?.into_inner();
        match down.message().await.map_err(Box::new)?.and_then(|m| m.message) {
            Some(pb::down::Message::Welcome(welcome)) => Ok((down, welcome)),
            _ => Err(StreamError::Closed),
        }
    };
    let (mut down, welcome) = tokio::time::timeout(WELCOME_TIMEOUT, open).await.map_err(|_| StreamError::NoWelcome)??;
    let meets = match met.incarnation != row.incarnation {
        false => Meets::Same,
        true if welcome.blameless => Meets::Blameless,
        true => Meets::AfterDeath(Some(welcome.died_handling).filter(|position| *position > 0)),
    };
    let poisoned = link.ring.lock().on_stream(welcome.received, meets);
    *met = Met { incarnation: row.incarnation, greeted: met.greeted && meets == Meets::Same };
    if let Some(item) = poisoned {
        tell_poisoned(shared, link, item);
    }
    if !met.greeted {
        send_preamble(shared, link, &up).await?;
        // Its answer tells that all before it has arrived. Without one the next stream greets again.
        send(&up, pb::up::Message::Ping(pb::Ping { nonce: row.incarnation })).await?;
    }
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut progress = Progress::new(link);
    let mut complaint: Option<JoinHandle<()>> = None;
    let mut table = shared.table.clone();
    loop {
        loop {
            let batch = link.ring.lock().next_batch();
            let Some(batch) = batch else { break };
            send(&up, pb::up::Message::Batch(to_proto(batch))).await?;
        }
        tokio::select! {
            // Cancel safe: all keep their state outside the future.
            () = link.wake.notified() => {}
            now = table.changed() => if now.instance(link.name).is_none_or(|r| r.incarnation != row.incarnation) {
                return Err(StreamError::Replaced);
            },
            message = down.message() => match message.map_err(Box::new)?.ok_or(StreamError::Closed)?.message {
                Some(pb::down::Message::Report(report)) => on_report(shared, link, &report),
                Some(pb::down::Message::Pong(_)) => met.greeted = true,
                Some(pb::down::Message::Welcome(_)) | None => {}
            },
            _ = tick.tick() => if let Some(stalled) = progress.stalled_for(link).filter(|_| complaint.as_ref().is_none_or(JoinHandle::is_finished)) {
                // Beside the stream: a supervisor that does not answer must not stop a link that moves again.
                let (table, name, incarnation) = (shared.table.clone(), link.name, row.incarnation);
                complaint = Some(shared.tasks.spawn(async move { table.report_stall(name, incarnation, stalled).await }));
            },
        }
    }
}

fn on_report(shared: &Shared, link: &Slot, report: &pb::Report) {
    let settled: Vec<(Position, u64)> = report
        .settled
        .chunks_exact(2)
        .filter_map(|pair| match pair {
            [first, count] => Some((*first, *count)),
            _ => None,
        })
        .collect();
    let mut done = Vec::new();
    link.ring.lock().on_report(report.received, &settled, &mut done);
    shared.tell_done(done);
}

/// Keeps an item that receivers died of, then tells its owner. Beside the stream: a slow disk must not stop a link that moves again. Where we end
/// in between, whoever sent it to us has heard of nothing and replays it.
fn tell_poisoned(shared: &Arc<Shared>, link: &Slot, item: PoisonedItem) {
    tracing::error!(receiver = %link.name, kind = ?item.kind, "receivers died of this item, it is refused");
    let token = if let Then::Token(token) = item.then { token } else { 0 };
    let poisoned = Poisoned { slot: link.name.slot, kind: item.kind, bucket: item.bucket, body: item.body, token };
    let hooks = shared.hooks.clone();
    shared.tasks.spawn(async move {
        let poisoned = match &hooks.quarantine {
            Some(quarantine) => quarantine.keep(poisoned).await,
            None => poisoned,
        };
        (hooks.on_poison)(poisoned);
        // A waiter hears by this that its item will never be done.
        drop(item.then);
    });
}

async fn send_preamble(shared: &Shared, link: &Slot, up: &mpsc::Sender<pb::Up>) -> Result<(), StreamError> {
    let Some(preamble) = &shared.hooks.preamble else { return Ok(()) };
    for chunk in preamble.items(link.name.slot).chunks(PREAMBLE_ITEMS) {
        let mut items = bytes::BytesMut::new();
        for (kind, bucket, body) in chunk {
            put_item(&mut items, *kind as u8, 0, *bucket, body);
        }
        let count = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
        send(up, pb::up::Message::Batch(pb::Batch { first: 0, count, items: items.freeze() })).await?;
    }
    Ok(())
}

async fn send(up: &mpsc::Sender<pb::Up>, message: pb::up::Message) -> Result<(), StreamError> {
    up.send(pb::Up { message: Some(message) }).await.map_err(|_| StreamError::Closed)
}

fn to_proto(batch: Batch) -> pb::Batch {
    pb::Batch { first: batch.first, count: batch.count, items: batch.items }
}

/// Watches whether a link that owes something moves.
struct Progress {
    first: Position,
    unsettled: u64,
    since: Instant,
}

impl Progress {
    fn new(link: &Slot) -> Self {
        let ring = link.ring.lock();
        Self { first: ring.first(), unsettled: ring.unsettled(), since: Instant::now() }
    }

    /// Time without any item done while something is owed, once it is too long.
    fn stalled_for(&mut self, link: &Slot) -> Option<Duration> {
        let ring = link.ring.lock();
        let now = (ring.first(), ring.unsettled());
        if ring.is_empty() || now.0 != self.first || now.1 < self.unsettled {
            *self = Self { first: now.0, unsettled: now.1, since: Instant::now() };
            return None;
        }
        self.unsettled = now.1;
        Some(self.since.elapsed()).filter(|t| *t >= LINK_STALL)
    }
}
