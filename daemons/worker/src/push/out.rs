//! Carries the push pool's decisions out: frames to the gateways, settlements.

use bytes::Bytes;
use wk_link::item::{Encoder, RecvOut};
use wk_link::{Keep, Kind, LinkSet, Outgoing};
use wk_types::{Bucket, ConnId};

use super::handle::Out;
use crate::origin::Origin;
use crate::peers::Peers;

/// Links of the pool.
#[derive(Debug)]
pub struct Links {
    /// To the gateways.
    pub gateways: LinkSet,
    /// Senders, for settlements.
    pub peers: Peers,
    encoder: Encoder,
}

impl Links {
    /// Links that are already started.
    #[must_use]
    pub fn new(gateways: LinkSet, peers: Peers) -> Self {
        Self { gateways, peers, encoder: Encoder::default() }
    }
}

impl Out for Links {
    fn handling(&mut self, origin: Origin) {
        self.peers.rest();
        self.peers.resume(origin);
    }

    fn rest(&mut self) {
        self.peers.rest();
    }

    fn settle(&mut self, origin: Origin) {
        self.peers.settle(origin);
    }

    fn recv(&mut self, conn: ConnId, frame: &[u8], token: u64) -> Bytes {
        let body = self.encoder.encode(&RecvOut { conn, frame });
        self.gateways.push_slot(conn.gateway_slot(), recv_out(body.clone()), token);
        body
    }

    fn resend(&mut self, conn: ConnId, body: &Bytes) {
        self.gateways.push_slot(conn.gateway_slot(), recv_out(body.clone()), 0);
    }

    fn congested(&self) -> bool {
        self.gateways.congested()
    }
}

fn recv_out(body: Bytes) -> Outgoing {
    Outgoing { bucket: Bucket::default(), kind: Kind::RecvOut, body, keep: Keep::UntilReceived }
}
