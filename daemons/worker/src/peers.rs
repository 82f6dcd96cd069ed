//! The senders this process has met: numbers for [`Origin`], and the way back for settlements.

use hashbrown::HashMap;
use wk_link::Peer;
use wk_types::{Incarnation, InstanceName};

use crate::origin::{Origin, PEERS_MAX, PeerId, Sender};

/// Senders by number and by name.
#[derive(Debug, Default)]
pub struct Peers {
    ids: HashMap<(InstanceName, Incarnation), PeerId>,
    peers: HashMap<u16, Peer>,
    last: u16,
}

impl Peers {
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
        }
    }

    /// Settles an item; one of a sender that is gone is nobody's business.
    pub fn settle(&self, origin: Origin) {
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
}
