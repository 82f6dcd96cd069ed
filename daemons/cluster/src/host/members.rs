//! Who is in the node, who may work, who owns which share. Pure: facts in, table out.
//!
//! The slots that a pool is to have are those of the configuration and every further one that joined and does not leave; buckets follow step by
//! step ([`wk_node::shares`]). A further one that is asked to stop says that it leaves, goes on until its buckets have moved, and is told so by
//! its row (DRAINING). When they cannot move, because another owner of the pool is not there, it is told at once: then its end is the release,
//! and so it is when it stays away. A crash moves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wk_node::graph;
use wk_node::rules;
use wk_node::shares::{Seen, Shares, Turn, Wish};
use wk_node::table::Head;
use wk_proto::node::v1 as pb;
use wk_types::{Daemon, Incarnation, InstanceName};

/// Members of an earlier life of the host have this long to join again. They dial at once; a loaded machine needs a moment.
pub const REJOIN: Duration = Duration::from_secs(5);
/// A slot beyond the configuration that went without good-bye is waited for this long: systemd restarts it within a second, or gave up.
pub const ABSENT: Duration = Duration::from_secs(60);

/// A daemon cannot join.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No instance of this node.
    #[error("{0:?} is no instance of this node")]
    Name(String),
    /// The place is held by another life that is still there.
    #[error("{name} runs already (pid {pid})")]
    Taken {
        /// Which.
        name: InstanceName,
        /// Its process.
        pid: u32,
    },
}

/// A place in the table, held by one life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// Whose.
    pub name: InstanceName,
    /// Spawn counter of the slot.
    pub generation: u64,
    /// The life.
    pub incarnation: Incarnation,
    /// Its stream: one that joins again is not taken for gone when its older stream ends.
    pub stream: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    /// Its stream is open.
    Here,
    /// Of an earlier life of the host; expected until then.
    Away(Duration),
    /// Ended. A slot beyond the configuration is expected until then.
    Gone(Duration),
}

#[derive(Debug, Clone)]
struct Member {
    seat: Seat,
    pid: u32,
    link_socket: String,
    health_socket: String,
    serving: bool,
    draining: bool,
    leaving: bool,
    activated: bool,
    was_ready: bool,
    probing: bool,
    /// Highest epoch whose demands this life has met.
    met: u64,
    presence: Presence,
}

impl Member {
    fn new(seat: Seat, report: &pb::JoinReport) -> Self {
        Self {
            seat,
            pid: report.pid,
            link_socket: report.link_socket.clone(),
            health_socket: report.health_socket.clone(),
            serving: report.serving,
            draining: report.draining,
            leaving: report.leaving,
            activated: false,
            was_ready: false,
            probing: false,
            met: 0,
            presence: Presence::Here,
        }
    }

    fn live(&self) -> bool {
        !matches!(self.presence, Presence::Gone(_))
    }

    fn ready(&self) -> bool {
        self.live() && self.activated && self.serving && !self.draining
    }

    fn state(&self) -> pb::State {
        match self.presence {
            Presence::Gone(_) => pb::State::Exited,
            _ if self.draining => pb::State::Draining,
            _ if !self.activated => pb::State::Waiting,
            Presence::Away(_) => pb::State::Suspect,
            Presence::Here if self.serving => pb::State::Ready,
            Presence::Here if self.was_ready => pb::State::Degraded,
            Presence::Here => pb::State::Starting,
        }
    }

    fn row(&self) -> pb::Instance {
        pb::Instance {
            name: self.seat.name.to_string(),
            generation: self.seat.generation,
            incarnation: self.seat.incarnation,
            state: self.state().into(),
            link_socket: self.link_socket.clone(),
            health_socket: self.health_socket.clone(),
            pid: if self.live() { self.pid } else { 0 },
        }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Members {
    node_id: u32,
    epoch: u64,
    configured: BTreeMap<Daemon, u16>,
    /// Slots beyond the configuration.
    further: BTreeSet<InstanceName>,
    members: BTreeMap<InstanceName, Member>,
    admitted: bool,
    /// What the table says; each list is sorted.
    shares: Shares<Vec<u16>>,
    /// Streams so far.
    streams: u64,
}

impl Members {
    /// A node where nobody is yet. `configured`: slots of each daemon.
    #[must_use]
    pub fn new(node_id: u32, epoch: u64, configured: impl IntoIterator<Item = (Daemon, u16)>) -> Self {
        let configured: BTreeMap<Daemon, u16> = configured.into_iter().collect();
        let shares = configured.iter().map(|(daemon, slots)| (*daemon, (0..*slots).collect())).collect();
        Self { node_id, epoch, configured, further: BTreeSet::new(), members: BTreeMap::new(), admitted: false, shares, streams: 0 }
    }

    /// Begins with the table of an earlier life of the host; `lives` says whose process is still there. Returns how many are.
    pub fn restore(&mut self, now: Duration, table: pb::Table, lives: impl Fn(&pb::Instance) -> bool) -> usize {
        for row in table.instances.iter().filter(|row| row.pid != 0 && lives(row)) {
            let Some(name) = row.name.parse::<InstanceName>().ok().filter(|n| n.daemon != Daemon::Cluster) else { continue };
            let seat = Seat { name, generation: row.generation, incarnation: row.incarnation, stream: 0 };
            let ready = matches!(row.state(), pb::State::Ready | pb::State::Suspect);
            let report = pb::JoinReport {
                pid: row.pid,
                link_socket: row.link_socket.clone(),
                health_socket: row.health_socket.clone(),
                serving: ready,
                draining: row.state() == pb::State::Draining,
                ..pb::JoinReport::default()
            };
            let known = Member { presence: Presence::Away(now + REJOIN), activated: ready, was_ready: ready, ..Member::new(seat, &report) };
            self.members.insert(name, known);
            if self.beyond(name) && !report.draining {
                self.further.insert(name);
            }
        }
        self.admitted = table.admitted && !self.members.is_empty();
        let sorted =
            |slots: Vec<u32>| slots.into_iter().filter_map(|slot| slot.try_into().ok()).collect::<BTreeSet<u16>>().into_iter().collect();
        for pool in table.pools {
            let (slots, next): (Vec<u16>, Vec<u16>) = (sorted(pool.slots), sorted(pool.next));
            let Some(daemon) = pool.daemon.parse().ok().filter(|d| self.configured.contains_key(d) && !slots.is_empty()) else { continue };
            self.shares.set(daemon, slots);
            if !next.is_empty() {
                self.shares.call_off(now, daemon, next);
            }
        }
        self.members.len()
    }

    /// Our own place: always here, always serving.
    pub fn host(&mut self, now: Duration, report: pb::JoinReport) {
        let name = InstanceName { daemon: Daemon::Cluster, slot: 0 };
        // Epochs grow with each life of the host, so they count its lives.
        let seat = Seat { name, generation: self.epoch, incarnation: report.incarnation, stream: 0 };
        self.members.insert(name, Member { serving: true, ..Member::new(seat, &report) });
        self.settle(now);
    }

    /// Takes a daemon in, or takes it back.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn join(&mut self, now: Duration, report: &pb::JoinReport) -> Result<Seat, Refused> {
        let unknown = || Refused::Name(report.instance.clone());
        let name: InstanceName = report.instance.parse().map_err(|_| unknown())?;
        let single = !matches!(name.daemon, Daemon::Worker(_)) && name.slot > 0;
        if name.daemon == Daemon::Cluster || single || report.incarnation == 0 {
            return Err(unknown());
        }
        let last = self.members.get(&name);
        let same = last.filter(|m| m.seat.incarnation == report.incarnation);
        if let Some(other) = last.filter(|m| same.is_none() && m.presence == Presence::Here) {
            return Err(Refused::Taken { name, pid: other.pid });
        }
        let last_generation = last.map_or(0, |m| m.seat.generation);
        let generation = match (same, report.generation) {
            (Some(known), _) => known.seat.generation,
            (None, 0) => last_generation + 1,
            (None, given) => given.max(last_generation + 1),
        };
        self.streams += 1;
        let seat = Seat { name, generation, incarnation: report.incarnation, stream: self.streams };
        let mut member = Member::new(seat, report);
        if let Some(known) = same {
            (member.activated, member.was_ready) = (known.activated, known.was_ready);
        }
        self.members.insert(name, member);
        if self.beyond(name) && !report.draining && !report.leaving {
            self.further.insert(name);
        }
        self.tick(now);
        Ok(seat)
    }

    /// How the holder of a seat is. Returns false when the seat is not its any more.
    pub fn report(&mut self, now: Duration, seat: Seat, report: &pb::JoinReport) -> bool {
        let Some(member) = self.members.get_mut(&seat.name).filter(|m| m.seat == seat && m.live()) else { return false };
        // Neither is ever taken back; what we have said of a drain, it may not have heard yet.
        member.serving = report.serving;
        member.draining |= report.draining;
        member.leaving |= report.leaving;
        if member.draining || member.leaving {
            self.further.remove(&seat.name);
        }
        self.settle(now);
        true
    }

    /// A process has done what the table of this epoch asks.
    pub fn met(&mut self, now: Duration, name: InstanceName, incarnation: Incarnation, epoch: u64) {
        if let Some(member) = self.members.get_mut(&name).filter(|m| m.seat.incarnation == incarnation) {
            member.met = member.met.max(epoch);
            self.settle(now);
        }
    }

    /// The holder of a seat has ended.
    pub fn gone(&mut self, now: Duration, seat: Seat) {
        if let Some(member) = self.members.get_mut(&seat.name).filter(|m| m.seat == seat) {
            member.presence = Presence::Gone(now + ABSENT);
            member.serving = false;
        }
        self.tick(now);
    }

    /// Does what is due at `now`.
    pub fn tick(&mut self, now: Duration) {
        for member in self.members.values_mut() {
            if matches!(member.presence, Presence::Away(until) if until <= now) {
                // It had its time to come back.
                member.presence = Presence::Gone(now);
                member.serving = false;
            }
        }
        let over = |m: &Member| matches!(m.presence, Presence::Gone(until) if until <= now);
        let left: Vec<InstanceName> = self.further.iter().filter(|n| self.members.get(n).is_none_or(over)).copied().collect();
        for name in left {
            self.further.remove(&name);
        }
        // What was beyond the configuration and ended needs no row any more.
        let unwanted: Vec<InstanceName> =
            self.members.values().filter(|m| !m.live()).map(|m| m.seat.name).filter(|n| !self.wanted(*n)).collect();
        for name in unwanted {
            self.members.remove(&name);
        }
        self.settle(now);
    }

    /// Earliest time at which [`Self::tick`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        let of = |m: &Member| match m.presence {
            Presence::Away(until) => Some(until),
            Presence::Gone(until) if self.further.contains(&m.seat.name) => Some(until),
            _ => None,
        };
        self.members.values().filter_map(of).chain(self.shares.deadline(self.agreed())).min()
    }

    /// Begins a probe: process and health socket of this life, unless a probe runs already.
    pub fn probing(&mut self, name: InstanceName, incarnation: Incarnation) -> Option<(u32, std::path::PathBuf)> {
        let own = name.daemon == Daemon::Cluster;
        let here = |m: &&mut Member| !own && m.seat.incarnation == incarnation && m.presence == Presence::Here && !m.probing;
        let member = self.members.get_mut(&name).filter(here)?;
        member.probing = true;
        Some((member.pid, member.health_socket.clone().into()))
    }

    /// A probe is over.
    pub fn probed(&mut self, name: InstanceName, incarnation: Incarnation) {
        if let Some(member) = self.members.get_mut(&name).filter(|m| m.seat.incarnation == incarnation) {
            member.probing = false;
        }
    }

    /// Nobody but the host is here.
    #[must_use]
    pub fn alone(&self) -> bool {
        self.members.values().all(|m| m.seat.name.daemon == Daemon::Cluster || !m.live())
    }

    /// Present epoch.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Clients were admitted: once, for good.
    #[must_use]
    pub fn admitted(&self) -> bool {
        self.admitted
    }

    /// Who is configured and not here: while one is missing, clients are not admitted.
    #[must_use]
    pub fn missing(&self) -> Vec<InstanceName> {
        let here = |name: &InstanceName| self.members.get(name).is_some_and(Member::live);
        self.configured
            .iter()
            .flat_map(|(daemon, slots)| (0..*slots).map(|slot| InstanceName { daemon: *daemon, slot }))
            .filter(|n| !here(n))
            .collect()
    }

    /// The table to publish.
    #[must_use]
    pub fn table(&self) -> pb::Table {
        let head = Head { epoch: self.epoch, node_id: self.node_id, admitted: self.admitted, quiescing: false };
        let pools = self.shares.iter().map(|(daemon, slots)| {
            let (next, held) = self.shares.next(daemon).map_or((Vec::new(), false), |(next, held)| (next.clone(), held));
            wk_node::table::Share { daemon, slots: slots.clone(), next, held }
        });
        wk_node::table::build(head, self.members.values().map(Member::row), pools)
    }

    fn beyond(&self, name: InstanceName) -> bool {
        name.slot >= self.configured.get(&name.daemon).copied().unwrap_or(0)
    }

    fn wanted(&self, name: InstanceName) -> bool {
        !self.beyond(name) || self.further.contains(&name)
    }

    /// Every wanted instance, here or not.
    fn names(&self) -> impl Iterator<Item = InstanceName> + Clone + '_ {
        let configured = self.configured.iter().flat_map(|(daemon, slots)| (0..*slots).map(|slot| InstanceName { daemon: *daemon, slot }));
        configured.chain(self.further.iter().copied())
    }

    fn readiness(&self, daemon: Daemon) -> impl Iterator<Item = bool> + '_ {
        self.names().filter(move |name| name.daemon == daemon).map(|name| self.members.get(&name).is_some_and(Member::ready))
    }

    /// Every process that has links has met the present epoch.
    fn agreed(&self) -> bool {
        self.members.values().filter(|m| m.live() && graph::linked(m.seat.name.daemon)).all(|m| m.met >= self.epoch)
    }

    fn slots_wanted(&self, pool: Daemon) -> Vec<u16> {
        self.names().filter(|n| n.daemon == pool).map(|n| n.slot).collect()
    }

    fn all_ready(&self, pool: Daemon, slots: &[u16]) -> bool {
        slots.iter().all(|slot| self.members.get(&InstanceName { daemon: pool, slot: *slot }).is_some_and(Member::ready))
    }

    /// Pools whose share is not what is wanted.
    fn wishes(&self) -> Vec<Wish<Vec<u16>>> {
        let wishes = self.shares.iter().map(|(pool, owned)| {
            let slots = self.slots_wanted(pool);
            // An owner that is gone for good is not waited for: its end is its release.
            let there: Vec<u16> = owned.iter().copied().filter(|slot| !self.vacant(InstanceName { daemon: pool, slot: *slot })).collect();
            Wish { pool, ready: self.all_ready(pool, &there) && self.all_ready(pool, &slots), slots }
        });
        wishes.filter(|wish| self.shares.get(wish.pool) != Some(&wish.slots)).collect()
    }

    /// Activates whoever may work, admits clients, lets go who has nothing left, and moves buckets on.
    fn settle(&mut self, now: Duration) {
        self.activate();
        loop {
            self.release();
            let seen = Seen { now, admitted: self.admitted, quiescing: false, agreed: self.agreed() };
            let wishes = self.wishes();
            if self.shares.turn(seen, wishes) == Turn::Still {
                break;
            }
            self.epoch += 1;
        }
    }

    /// Not there, and not expected: it has no row either, which tells the others that it is gone for good.
    fn vacant(&self, name: InstanceName) -> bool {
        !self.wanted(name) && !self.members.contains_key(&name)
    }

    /// Tells who leaves that it may: nothing is its, or nobody can take it over.
    fn release(&mut self) {
        let holds = |name: InstanceName| {
            let next = self.shares.next(name.daemon).map(|(slots, _)| slots);
            self.shares.get(name.daemon).into_iter().chain(next).any(|slots| slots.contains(&name.slot))
        };
        // A slot of the configuration keeps its share: its next life goes on with it.
        let hands_over = |name: InstanceName| self.beyond(name) && self.all_ready(name.daemon, &self.slots_wanted(name.daemon));
        let leaving = self.members.values().filter(|m| m.leaving && !m.draining);
        let free = leaving.filter(|m| !m.ready() || !holds(m.seat.name) || !hands_over(m.seat.name));
        let released: Vec<InstanceName> = free.map(|m| m.seat.name).collect();
        for name in released {
            self.members.entry(name).and_modify(|m| m.draining = true);
        }
    }

    /// Activates whoever may work and admits clients, until nothing changes.
    fn activate(&mut self) {
        loop {
            let may = |m: &Member| {
                let edges = graph::requires(m.seat.name.daemon).iter().copied();
                !m.activated && rules::may_activate(edges, |d| self.readiness(d), self.admitted)
            };
            let next: Vec<InstanceName> = self.members.values().filter(|m| m.live() && may(m)).map(|m| m.seat.name).collect();
            let complete = rules::complete(Daemon::ALL.into_iter().filter(|d| graph::required(*d)), |d| self.readiness(d));
            let changed = !next.is_empty() || (complete && !self.admitted);
            self.admitted |= complete;
            for name in next {
                self.members.entry(name).and_modify(|m| m.activated = true);
            }
            if !changed {
                break;
            }
        }
        for member in self.members.values_mut() {
            member.was_ready |= member.ready();
        }
    }
}

#[cfg(test)]
mod tests;
