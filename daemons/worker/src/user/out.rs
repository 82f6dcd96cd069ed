//! Carries the user pool's decisions out: links to gateways and channel workers, settlements, lookups.

use wk_link::item::{self, Body, Encoder};
use wk_link::{Keep, Kind, LinkSet, Outgoing};
use wk_proto::cluster::v1 as pb;
use wk_types::{Bucket, ConnId};

use super::handle::Out;
use crate::fault::Fault;
use crate::origin::Origin;
use crate::peers::Peers;

/// Links of the pool.
#[derive(Debug)]
pub struct Links {
    /// To the gateways: CONNACK, kicks, failing SENDACKs.
    pub gateways: LinkSet,
    /// To the channel workers.
    pub channels: LinkSet,
    /// Senders, for settlements.
    pub peers: Peers,
    /// Lookups that wait for the pool's task to send them.
    pub lookups: Vec<(usize, Vec<pb::Query>)>,
    encoder: Encoder,
    fault: Fault,
}

impl Links {
    /// Links that are already started.
    #[must_use]
    pub fn new(gateways: LinkSet, channels: LinkSet, peers: Peers, fault: Fault) -> Self {
        Self { gateways, channels, peers, lookups: Vec::new(), encoder: Encoder::default(), fault }
    }

    fn answer<'a>(&mut self, conn: ConnId, kind: Kind, body: &impl Body<'a>, token: u64) {
        let body = self.encoder.encode(body);
        let item = Outgoing { bucket: Bucket::default(), kind, body, keep: Keep::UntilReceived };
        self.gateways.push_slot(conn.gateway_slot(), item, token);
    }
}

impl Out for Links {
    fn settle(&mut self, origin: Origin) {
        self.peers.settle(origin);
    }

    fn connack(&mut self, x: &item::Connack<'_>, done: Origin) {
        self.answer(x.conn, Kind::Connack, x, done.token());
    }

    fn kick(&mut self, x: &item::Kick<'_>) {
        self.answer(x.conn, Kind::Kick, x, 0);
    }

    fn sendack(&mut self, x: &item::Sendack<'_>, done: Origin) {
        self.answer(x.conn, Kind::Sendack, x, done.token());
    }

    fn channel_send(&mut self, bucket: Bucket, x: &item::ChannelSend<'_>, done: Origin) {
        self.peers.resume(done);
        self.fault.check(x.message.payload);
        let body = self.encoder.encode(x);
        self.channels.push(bucket, Kind::ChannelSend, body, Keep::UntilSettled, done.token());
        self.peers.rest();
    }

    fn lookup(&mut self, load: usize, queries: Vec<pb::Query>) {
        self.lookups.push((load, queries));
    }
}
