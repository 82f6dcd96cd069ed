//! The senders this process has met: numbers for [`Origin`], and the way back for settlements.

use hashbrown::{HashMap, HashSet};
use wk_link::{BlackBox, Peer};
use wk_types::{Incarnation, InstanceName};

use crate::origin::{Origin, PEERS_MAX, PeerId, Sender};

/// Senders by number and by name.
#[derive(Debug, Default)]
pub struct Peers {
    ids: HashMap<(InstanceName, Incarnation), PeerId>,
    peers: HashMap<u16, Peer>,
    last: u16,
    black_box: BlackBox,
    /// Replayed items that are not settled: one of them may have ended a life before us.
    suspects: HashSet<Origin>,
    /// One of them is noted as being handled.
    noted: bool,
}

impl Peers {
    /// Nobody yet; what is being handled is noted in `black_box`.
    #[must_use]
    pub fn new(black_box: BlackBox) -> Self {
        Self { black_box, ..Self::default() }
    }

    /// An item is going to be handled. A replayed one is noted, for the case that it ends us: end with [`Peers::rest`].
    pub fn begin(&mut self, origin: Origin, replay: bool) {
        self.rest();
        if replay {
            self.suspects.insert(origin);
        }
        self.resume(origin);
    }

    /// An item that waited for something is handled on: end with [`Peers::rest`].
    pub fn resume(&mut self, origin: Origin) {
        if !self.suspects.is_empty()
            && self.suspects.contains(&origin)
            && let Some(peer) = self.peers.get(&origin.peer().0)
        {
            self.black_box.handling(peer.instance(), peer.incarnation(), origin.position());
            self.noted = true;
        }
    }

    /// No item is being handled.
    pub fn rest(&mut self) {
        if std::mem::take(&mut self.noted) {
            self.black_box.handled();
        }
    }

    /// The pool has drained: what it leaves unsettled is not to blame for its end.
    pub fn drained(&self) {
        self.black_box.drained();
    }

    /// The sender behind a peer; the first call for an incarnation gives it a number.
    pub fn meet(&mut self, peer: &Peer) -> Sender {
        let (name, incarnation) = (peer.instance(), peer.incarnation());
        let id = match self.ids.get(&(name, incarnation)) {
            Some(id) => *id,
            None => {
                // Numbers of the living are skipped when they come round again.
                loop {
                    self.last = if self.last >= PEERS_MAX { 1 } else { self.last + 1 };
                    if !self.peers.contains_key(&self.last) {
                        break;
                    }
                }
                self.ids.insert((name, incarnation), PeerId(self.last));
                self.peers.insert(self.last, peer.clone());
                PeerId(self.last)
            }
        };
        Sender { id, daemon: name.daemon, slot: name.slot, incarnation }
    }

    /// An incarnation has been replaced: nothing is settled towards it any more.
    pub fn gone(&mut self, peer: &Peer) {
        if let Some(id) = self.ids.remove(&(peer.instance(), peer.incarnation())) {
            self.peers.remove(&id.0);
            self.suspects.retain(|origin| origin.peer() != id);
        }
    }

    /// Settles an item; one of a sender that is gone is nobody's business.
    pub fn settle(&mut self, origin: Origin) {
        if !self.suspects.is_empty() {
            self.suspects.remove(&origin);
        }
        if let Some(peer) = self.peers.get(&origin.peer().0) {
            peer.settle(origin.position());
        }
    }

    /// Items of all senders that are received and not settled.
    #[must_use]
    pub fn unsettled(&self) -> u64 {
        self.peers.values().map(Peer::unsettled).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wk_types::Daemon;

    #[test]
    fn one_number_per_life() {
        let mut peers = Peers::default();
        let name = InstanceName { daemon: Daemon::Gateway, slot: 1 };
        let (old, new) = (Peer::detached(name, 5), Peer::detached(name, 6));
        let a = peers.meet(&old);
        assert_eq!(peers.meet(&old), a);
        assert_ne!(peers.meet(&new).id, a.id);
        peers.gone(&old);
        peers.settle(Origin::new(a.id, 3));
        assert_eq!(peers.unsettled(), 0);
    }

    #[test]
    fn only_replays_are_noted_until_they_are_settled() {
        let dir = tempfile::tempdir().expect("temp dir");
        let note = || BlackBox::open(&dir.path().join("note")).expect("a file").1;
        let died = |position| wk_link::Past::Died(wk_link::blackbox::Handled { sender: "gateway@1".into(), incarnation: 5, position });
        let mut peers = Peers::new(BlackBox::open(&dir.path().join("note")).expect("a file").0);
        let sender = peers.meet(&Peer::detached(InstanceName { daemon: Daemon::Gateway, slot: 1 }, 5));
        let (first, again) = (Origin::new(sender.id, 1), Origin::new(sender.id, 2));
        peers.begin(first, false);
        assert_eq!(note(), wk_link::Past::Unknown);
        peers.begin(again, true);
        assert_eq!(note(), died(2));
        peers.begin(Origin::new(sender.id, 3), false);
        assert_eq!(note(), wk_link::Past::Unknown, "what comes behind it is not blamed on it");
        assert_eq!(note(), wk_link::Past::Unknown);
        peers.resume(again);
        assert_eq!(note(), died(2), "it goes on after a lookup");
        peers.rest();
        peers.settle(again);
        peers.resume(again);
        assert_eq!(note(), wk_link::Past::Unknown);
    }
}
