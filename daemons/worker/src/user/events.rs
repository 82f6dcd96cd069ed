//! The user pool's task: drains what came in, lets [`Users`] decide, sends the lookups of the drain in one request.

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
use wk_proto::worker::v1::OnlineConn;
use wk_rpc::{ClusterData, Part, Table, TableWatch};
use wk_types::{Bucket, DeviceFlag, InstanceName};

use super::handle::Users;
use super::kick;
use super::out::Links;
use crate::clock::now;
use crate::inbox::{Event, Inbox};
use crate::limits::{DRAIN_MAX, LOOKUP_QUERIES_MAX, TICK};
use crate::metrics::UserMetrics;
use crate::origin::{Now, Origin};
use crate::rpc::calls::Calls;
use crate::state::State;

/// What control calls ask of the pool.
#[derive(Debug)]
pub enum Ask {
    /// Live connections of these uids; `None`: not known yet.
    Online(Vec<String>, oneshot::Sender<Option<Vec<OnlineConn>>>),
    /// Rows of a uid have changed in the cluster: forget what is cached.
    Changed(String, Vec<DeviceFlag>, oneshot::Sender<()>),
    /// Kick the connections of a uid with one of these flags.
    Kick(String, Vec<DeviceFlag>, kick::Order),
}

/// Answer of one lookup.
type Loaded = (usize, Option<Vec<pb::Answer>>);

/// Everything the task owns.
#[derive(Debug)]
pub struct UserPool {
    /// Our name.
    pub me: InstanceName,
    /// What moves of buckets ask of this pool.
    pub part: Part,
    /// Changes of rows under way.
    pub calls: Calls,
    /// What comes in.
    pub inbox: Arc<Inbox<Ask>>,
    /// Decisions.
    pub users: Users,
    /// What goes out.
    pub links: Links,
    /// Rows.
    pub cluster: ClusterData,
    /// Node table.
    pub table: TableWatch,
    /// Readiness and counts for the process.
    pub state: Arc<State>,
    /// Metrics.
    pub metrics: UserMetrics,
    /// Set by the drain: when it ends at the latest. `None` at first.
    pub draining: Option<Instant>,
}

impl UserPool {
    /// Runs until `stop`, then until what was handed on is done. What is not done then stays unsettled and is replayed to the next life.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut lookups: FuturesUnordered<BoxFuture<'static, Loaded>> = FuturesUnordered::new();
        let mut events = Vec::new();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut taken = self.take_table(&Table::default());
        loop {
            // Cancel safe: waiting takes nothing out of any queue; a finished lookup is returned by the same poll that removes it.
            tokio::select! {
                () = self.inbox.wait() => {}
                Some((load, answers)) = lookups.next(), if !lookups.is_empty() => {
                    self.users.loaded(load, answers, now(), &mut self.links);
                }
                _ = tick.tick() => self.tick(),
                _ = self.table.changed() => taken = self.take_table(&taken),
                () = stop.cancelled(), if self.draining.is_none() => self.draining = Some(Instant::now() + DRAIN_MAX),
            }
            self.inbox.take(&mut events);
            let at = now();
            for event in events.drain(..) {
                self.event(event, at);
            }
            self.users.flush(&mut self.links);
            self.send_lookups(&lookups);
            self.state.set_ready(self.users.complete());
            self.meet(&taken);
            if self.drained() {
                break;
            }
        }
        self.links.peers.drained();
    }

    fn take_table(&mut self, before: &Table) -> Arc<Table> {
        let (table, pool) = (self.table.get(), self.me.daemon);
        let changed = table.pool_slots(pool) != before.pool_slots(pool);
        self.users.table(&table, changed, now(), &mut self.links);
        if table.next_slots(pool).is_empty() && (changed || !before.next_slots(pool).is_empty()) {
            // What moved away, or was on its way here when the move was called off.
            self.users.keep(|uid| table.owner(pool, Bucket::of(uid)).is_none_or(|owner| owner == self.me));
        }
        table
    }

    /// Says what has been done about a move of buckets: nothing of them is on its way here, and in the end their sessions are known.
    fn meet(&self, table: &Table) {
        let pool = self.me.daemon;
        if self.calls.have_let_go(table, pool) && (!table.held(pool) || self.users.complete()) {
            self.part.meet(table.epoch);
        }
    }

    fn event(&mut self, event: Event<Ask>, at: Now) {
        match event {
            // While draining nothing new is taken: it is replayed to the next life, in order.
            Event::Items(..) if self.draining.is_some() => {}
            Event::Items(peer, items) => {
                let sender = self.links.peers.meet(&peer);
                self.metrics.items.inc_by(u64::try_from(items.len()).unwrap_or(0));
                for item in items {
                    self.links.peers.begin(Origin::new(sender.id, item.position), item.replay);
                    self.users.deliver(sender, item, at, &mut self.links);
                }
                self.links.peers.rest();
            }
            Event::Peer(peer, PeerEvent::Up { fresh: true }) => {
                let sender = self.links.peers.meet(&peer);
                self.users.met(sender);
            }
            Event::Peer(peer, PeerEvent::Gone) => self.links.peers.gone(&peer),
            Event::Peer(..) => {}
            Event::Done(tokens) | Event::Lost(tokens) => {
                for origin in tokens.into_iter().filter_map(Origin::from_token) {
                    self.links.peers.settle(origin);
                }
            }
            Event::Poisoned(item) => {
                self.metrics.poisoned.inc();
                self.users.poisoned(&item.body, Origin::from_token(item.token), &mut self.links);
            }
            Event::Ask(ask) => self.ask(ask),
        }
    }

    /// A caller that has given up does not hear the answer: nothing is lost.
    fn ask(&mut self, ask: Ask) {
        match ask {
            Ask::Online(uids, reply) => drop(reply.send(self.online(&uids))),
            Ask::Changed(uid, flags, reply) => {
                self.users.changed(&uid, &flags);
                if reply.send(()).is_err() {
                    tracing::debug!("the caller has given up");
                }
            }
            Ask::Kick(uid, flags, order) => self.users.kick_flags(&uid, &flags, order, &mut self.links),
        }
    }

    fn online(&self, uids: &[String]) -> Option<Vec<OnlineConn>> {
        self.users.complete().then(|| {
            let sessions = uids.iter().flat_map(|uid| self.users.presence().of(uid));
            sessions
                .map(|s| OnlineConn {
                    uid: s.uid.to_string(),
                    device_flag: u32::from(s.flag.0),
                    device_level: u32::from(s.level.0),
                    conn: s.conn.0,
                })
                .collect()
        })
    }

    fn send_lookups(&mut self, lookups: &FuturesUnordered<BoxFuture<'static, Loaded>>) {
        for (load, queries) in self.links.lookups.drain(..) {
            let cluster = self.cluster.clone();
            self.metrics.lookups.inc();
            lookups.push(Box::pin(async move {
                let mut answers = Vec::with_capacity(queries.len());
                for part in queries.chunks(LOOKUP_QUERIES_MAX) {
                    match cluster.lookup(part.to_vec()).await {
                        Ok(part) => answers.extend(part),
                        Err(err) => {
                            tracing::debug!(%err, "lookup failed, it is made again");
                            return (load, None);
                        }
                    }
                }
                (load, Some(answers))
            }));
        }
    }

    /// True when a drain is over: everything that was handed on is done, or its time has passed.
    fn drained(&self) -> bool {
        self.draining.is_some_and(|until| {
            let links = self.links.gateways.owed() + self.links.channels.owed();
            (links == 0 && self.users.waiting() == 0) || Instant::now() >= until
        })
    }

    fn tick(&mut self) {
        self.users.tick(now(), &mut self.links);
        let unsettled = self.links.peers.unsettled();
        self.state.connections.store(u64::try_from(self.users.presence().len()).unwrap_or(0), Ordering::Relaxed);
        self.metrics.update(&self.users, unsettled);
    }
}
