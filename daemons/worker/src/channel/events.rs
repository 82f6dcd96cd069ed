//! The channel pool's task: drains what came in, lets [`Channels`] decide, makes the calls to the cluster.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use wk_link::PeerEvent;
use wk_proto::cluster::v1 as pb;
use wk_proto::cluster::v1::Code;
use wk_rpc::{CallError, ClusterData, Part, Table, TableWatch};
use wk_types::{ChannelType, Daemon, Incarnation, InstanceName, Pool};

use super::activate::Activation;
use super::handle::Channels;
use super::out::{Call, Links};
use crate::clock::now;
use crate::fault::{Bug, Fault};
use crate::inbox::{Event, Inbox};
use crate::limits::{APPEND_ATTEMPT, CURSOR_SAVE, DRAIN_MAX, SCAN_MEMBERS, SYSTEM_UIDS_REFRESH, TICK, UNDISTRIBUTED_BYTES_MAX};
use crate::metrics::ChannelMetrics;
use crate::origin::{Now, Origin};
use crate::rpc::calls::Calls as Changes;
use crate::state::State;

/// What control calls and the activation ask of the pool.
#[derive(Debug)]
pub enum Ask {
    /// Rows or lists of these channels have changed in the cluster.
    Changed(Vec<(String, ChannelType)>, oneshot::Sender<()>),
    /// Number of an activation, number of groups, and where the distribution of each gained bucket continues.
    Started(u64, u32, Vec<(u16, u64)>),
    /// Journal entries to distribute once more; answered when there is room for more.
    Journal(Vec<pb::JournalEntry>, oneshot::Sender<()>),
    /// Number of an activation: messages of these buckets move.
    Opened(u64, Vec<u16>),
    /// Save the cursors now, those of idle buckets too; answered when it was tried.
    SaveCursors(oneshot::Sender<()>),
}

/// Answer of the cluster.
#[derive(Debug)]
enum Reply {
    Lookup(usize, Option<Vec<pb::Answer>>),
    Members(usize, u32, Option<Vec<String>>),
    SystemUids(Option<Vec<String>>),
    Append(usize, Result<pb::AppendReply, Code>),
    Saved(Vec<pb::Cursor>, bool),
    Activated,
}

type Calls = FuturesUnordered<BoxFuture<'static, Reply>>;

/// Every this many cursor saves also the cursors of idle buckets are moved up.
const ALL_CURSORS_EVERY: u64 = 120;

/// Everything the task owns.
#[derive(Debug)]
pub struct ChannelPool {
    /// What moves of buckets ask of this pool.
    pub part: Part,
    /// Changes of rows under way.
    pub changes: Changes,
    /// Our name.
    pub me: InstanceName,
    /// Spawn counter of our slot.
    pub generation: u64,
    /// Identity of this life.
    pub incarnation: Incarnation,
    /// What comes in.
    pub inbox: Arc<Inbox<Ask>>,
    /// Decisions.
    pub channels: Channels,
    /// What goes out.
    pub links: Links,
    /// Log, rows, journal.
    pub cluster: ClusterData,
    /// Node table.
    pub table: TableWatch,
    /// Readiness and counts for the process.
    pub state: Arc<State>,
    /// Metrics.
    pub metrics: ChannelMetrics,
    /// Test switch.
    pub fault: Fault,
    /// Test switch.
    pub bug: Option<Bug>,
    /// The pool's own state between drains.
    pub run: Run,
}

/// State of the task itself.
#[derive(Debug, Default)]
pub struct Run {
    saving: bool,
    saves: u64,
    last_save: Option<Instant>,
    last_system: Option<Instant>,
    /// Readers of the journal that wait for room.
    journal: Vec<oneshot::Sender<()>>,
    draining: Option<Instant>,
    /// Who waits for a save of the cursors that has not begun, and for the one under way.
    flush: Vec<oneshot::Sender<()>>,
    flushing: Vec<oneshot::Sender<()>>,
    /// Epoch of the first node table.
    born: Option<u64>,
    /// Epoch at which we gained buckets last. A scale lets a slot gain or lose, never both (rendezvous), so what we still send for buckets
    /// that we have lost bears an epoch below that of their new owner.
    gained: u64,
    /// Last epoch that was met.
    met: u64,
}

impl ChannelPool {
    /// Runs until `stop`, then finishes what it holds and saves the cursors. What is not finished then stays unsettled and is replayed to the
    /// next life.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut calls = Calls::new();
        let mut events = Vec::new();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut taken = self.take_table();
        loop {
            // Cancel safe: waiting takes nothing out of any queue; a finished call is returned by the same poll that removes it.
            tokio::select! {
                () = self.inbox.wait() => {}
                Some(reply) = calls.next(), if !calls.is_empty() => self.reply(reply),
                _ = tick.tick() => self.tick(&calls),
                _ = self.table.changed() => taken = self.take_table(),
                () = stop.cancelled(), if self.run.draining.is_none() => self.run.draining = Some(Instant::now() + DRAIN_MAX),
            }
            self.inbox.take(&mut events);
            let at = now();
            for event in events.drain(..) {
                self.event(event, at);
            }
            self.channels.unblock_all(at, &mut self.links);
            self.channels.flush(at, &mut self.links);
            self.make_calls(&calls);
            self.let_journal_go_on();
            self.flush_cursors(&calls);
            self.state.set_ready(self.channels.is_open());
            self.meet(&taken, &calls);
            if self.drained() {
                break;
            }
        }
        self.last_cursors().await;
        self.links.peers.drained();
    }

    fn take_table(&mut self) -> Arc<Table> {
        let table = self.table.get();
        if table.epoch > 0 {
            self.run.born.get_or_insert(table.epoch);
        }
        if self.channels.table(&table, self.me.slot, &mut self.links) {
            self.run.gained = table.epoch;
        }
        table
    }

    /// Says what has been done about a move of buckets.
    fn meet(&mut self, table: &Table, calls: &Calls) {
        if self.run.met == table.epoch {
            return;
        }
        let pushes = if table.next_slots(Daemon::Worker(Pool::Push)).is_empty() { 0 } else { self.links.pushes.owed() };
        if self.channels.have_let_go(table, pushes) && self.changes.have_let_go(table, self.me.daemon) {
            self.run.met = table.epoch;
            self.part.meet(table.epoch);
        } else if table.held(self.me.daemon) {
            self.save_cursors(calls, false);
        }
    }

    fn event(&mut self, event: Event<Ask>, at: Now) {
        match event {
            // While draining nothing new is taken: it is replayed to the next life, in order.
            Event::Items(..) if self.run.draining.is_some() => {}
            Event::Items(peer, items) => {
                let sender = self.links.peers.meet(&peer);
                self.metrics.items.inc_by(u64::try_from(items.len()).unwrap_or(0));
                for item in items {
                    self.links.peers.begin(Origin::new(sender.id, item.position), item.replay);
                    self.fault.check(&item.body);
                    self.channels.deliver(sender, item, at, &mut self.links);
                }
                self.links.peers.rest();
            }
            Event::Peer(peer, PeerEvent::Up { fresh: true }) => {
                let sender = self.links.peers.meet(&peer);
                self.channels.met(sender);
            }
            Event::Peer(peer, PeerEvent::Gone) => self.links.peers.gone(&peer),
            Event::Peer(..) => {}
            Event::Done(tokens) => {
                for token in tokens {
                    self.done(token);
                }
            }
            Event::Lost(tokens) => {
                for token in tokens {
                    if let Some(job) = Channels::job_of(token) {
                        self.channels.job_lost(job, &mut self.links);
                    }
                    self.done(token);
                }
            }
            Event::Poisoned(item) => {
                // A Deliver that two push workers died of: the others go on without it. A SENDACK that two gateways died of: nobody waits.
                self.metrics.poisoned.inc();
                self.done(item.token);
            }
            Event::Ask(ask) => self.ask(ask, at),
        }
    }

    fn done(&mut self, token: u64) {
        if let Some(job) = Channels::job_of(token) {
            self.channels.job_done(job, &mut self.links);
        } else if let Some(origin) = Origin::from_token(token) {
            self.links.peers.settle(origin);
        }
    }

    fn ask(&mut self, ask: Ask, at: Now) {
        match ask {
            Ask::Changed(channels, reply) => {
                for (id, kind) in channels {
                    if id.is_empty() {
                        self.run.last_system = None;
                    }
                    self.channels.changed(&id, kind);
                }
                // A caller that has given up does not hear it: nothing is lost.
                if reply.send(()).is_err() {
                    tracing::debug!("the caller has given up");
                }
            }
            Ask::Started(activation, groups, starts) => self.channels.started(activation, groups, &starts),
            Ask::Journal(entries, reply) => {
                for entry in entries {
                    self.channels.replay(&entry, at);
                }
                self.run.journal.push(reply);
            }
            Ask::Opened(activation, buckets) => self.channels.open(activation, &buckets),
            Ask::SaveCursors(reply) => self.run.flush.push(reply),
        }
    }

    fn let_journal_go_on(&mut self) {
        if !self.run.journal.is_empty() && self.channels.sizes().2 <= UNDISTRIBUTED_BYTES_MAX {
            tell(&mut self.run.journal);
        }
    }

    fn reply(&mut self, reply: Reply) {
        let at = now();
        match reply {
            Reply::Lookup(load, answers) => self.channels.loaded(load, answers),
            Reply::Members(chan, epoch, members) => self.channels.members(chan, epoch, members, at),
            Reply::SystemUids(Some(uids)) => self.channels.system_uids(uids),
            // Tried again with the next tick.
            Reply::SystemUids(None) => self.run.last_system = None,
            Reply::Append(request, result) => {
                self.channels.appended(request, result, at, &mut self.links);
            }
            Reply::Saved(cursors, saved) => {
                self.run.saving = false;
                if saved {
                    self.channels.cursors_saved(&cursors);
                }
                tell(&mut self.run.flushing);
            }
            Reply::Activated => {}
        }
    }

    /// Who we are to the cluster, which refuses older owners of a bucket.
    fn owner(&self) -> pb::Owner {
        let epoch = self.run.gained;
        pb::Owner {
            slot: u32::from(self.me.slot),
            generation: self.generation,
            epoch,
            born: self.run.born.unwrap_or(epoch),
            incarnation: self.incarnation,
        }
    }

    fn make_calls(&mut self, calls: &Calls) {
        let owner = self.owner();
        for call in self.links.calls.drain(..) {
            let cluster = self.cluster.clone();
            calls.push(match call {
                Call::Lookup(load, queries) => Box::pin(async move {
                    let answers = cluster.lookup(queries).await;
                    Reply::Lookup(load, answers.inspect_err(|err| tracing::debug!(%err, "lookup failed, it is made again")).ok())
                }),
                Call::Members(chan, epoch, list) => Box::pin(async move {
                    let members = members(&cluster, list).await;
                    Reply::Members(chan, epoch, members.inspect_err(|err| tracing::debug!(%err, "members cannot be read")).ok())
                }),
                Call::SystemUids => Box::pin(async move {
                    let channel = pb::ChannelRef { id: String::new(), r#type: 0 };
                    let list = pb::ListKey { list: pb::List::SystemUids.into(), channel: Some(channel) };
                    let uids = members(&cluster, list).await;
                    Reply::SystemUids(uids.inspect_err(|err| tracing::debug!(%err, "system accounts cannot be read")).ok())
                }),
                Call::Append(request, channels, batches) => {
                    let append = pb::AppendRequest { channels, batches, owner: Some(owner) };
                    Box::pin(async move {
                        let reply = cluster.append(append, APPEND_ATTEMPT).await;
                        Reply::Append(request, reply.inspect_err(|err| tracing::debug!(%err, "append failed")).map_err(|err| code(&err)))
                    })
                }
                Call::Activate(number, buckets) => {
                    let (table, me, bug) = (self.table.clone(), self.me, self.bug);
                    let activation = Activation { number, cluster, inbox: Arc::clone(&self.inbox), table, me, owner, bug };
                    Box::pin(async move {
                        activation.run(buckets).await;
                        Reply::Activated
                    })
                }
            });
        }
    }

    fn tick(&mut self, calls: &Calls) {
        let at = now();
        self.channels.tick(at, &mut self.links);
        let instant = Instant::now();
        let due = |last: Option<Instant>, period| last.is_none_or(|l| instant.duration_since(l) >= period);
        if due(self.run.last_system, SYSTEM_UIDS_REFRESH) {
            self.run.last_system = Some(instant);
            self.links.calls.push(Call::SystemUids);
        }
        if due(self.run.last_save, CURSOR_SAVE) {
            self.run.saves += 1;
            self.save_cursors(calls, self.run.saves.is_multiple_of(ALL_CURSORS_EVERY));
        }
        let unsettled = self.links.peers.unsettled();
        self.state.unsettled.store(u64::try_from(self.channels.under_way()).unwrap_or(0), Ordering::Relaxed);
        self.metrics.update(&self.channels, unsettled);
    }

    /// Saves what has moved; one save at a time.
    fn save_cursors(&mut self, calls: &Calls, all: bool) {
        if self.run.saving {
            return;
        }
        self.run.last_save = Some(Instant::now());
        let cursors = self.channels.unsaved_cursors(all);
        if cursors.is_empty() {
            return;
        }
        self.run.saving = true;
        let cluster = self.cluster.clone();
        calls.push(Box::pin(async move {
            let saved = cluster.save_cursors(cursors.clone()).await;
            if let Err(err) = &saved {
                tracing::debug!(%err, "cursors are not saved, the next save tries again");
            }
            Reply::Saved(cursors, saved.is_ok())
        }));
    }

    /// Begins the save that a quiesce waits for, once the one under way has ended.
    fn flush_cursors(&mut self, calls: &Calls) {
        if self.run.flush.is_empty() || self.run.saving {
            return;
        }
        self.run.flushing.append(&mut self.run.flush);
        self.save_cursors(calls, true);
        if !self.run.saving {
            tell(&mut self.run.flushing);
        }
    }

    /// True when a drain is over: nothing is under way, or its time has passed.
    fn drained(&self) -> bool {
        self.run.draining.is_some_and(|until| {
            let links = self.links.gateways.owed() + self.links.pushes.owed();
            (self.channels.under_way() == 0 && links == 0) || Instant::now() >= until
        })
    }

    /// The last act: cursors of everything that is settled.
    async fn last_cursors(&mut self) {
        let cursors = self.channels.unsaved_cursors(true);
        let under_way = self.channels.under_way();
        if !cursors.is_empty()
            && let Err(err) = self.cluster.save_cursors(cursors).await
        {
            tracing::warn!(%err, "last cursors are not saved: the next life distributes some messages once more");
        }
        tracing::info!(under_way, "channel pool has drained");
    }
}

/// Answers everybody who waits. Who has given up does not hear it: nothing is lost.
fn tell(waiting: &mut Vec<oneshot::Sender<()>>) {
    for waiter in waiting.drain(..) {
        if waiter.send(()).is_err() {
            tracing::debug!("the caller has given up");
        }
    }
}

/// All members of a list.
async fn members(cluster: &ClusterData, list: pb::ListKey) -> Result<Vec<String>, CallError> {
    let mut all = Vec::new();
    loop {
        let after = all.last().cloned().unwrap_or_default();
        let page = cluster.scan(pb::ScanRequest { list: Some(list.clone()), after, limit: SCAN_MEMBERS }).await?;
        let empty = page.members.is_empty();
        all.extend(page.members.into_iter().map(|m| m.uid));
        if !page.more || empty {
            return Ok(all);
        }
    }
}

/// What an append's failure means. A reply that cannot be read says nothing about the log.
fn code(err: &CallError) -> Code {
    match err {
        CallError::Mismatch => Code::UnknownOutcome,
        other => other.code(),
    }
}
