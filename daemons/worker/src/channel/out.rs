//! Carries the channel pool's decisions out: links to gateways and push workers, settlements, calls to the cluster.

use bytes::Bytes;
use wk_link::item::{self, Encoder};
use wk_link::{Keep, Kind, LinkSet, Outgoing};
use wk_proto::cluster::v1 as pb;
use wk_types::Bucket;

use super::handle::Out;
use crate::origin::Origin;
use crate::peers::Peers;

/// A call to the cluster that the pool's task makes.
#[derive(Debug)]
pub enum Call {
    /// Number and queries.
    Lookup(usize, Vec<pb::Query>),
    /// Place and epoch of a channel, and its list of members.
    Members(usize, u32, pb::ListKey),
    /// List of system accounts.
    SystemUids,
    /// Number, channels and batches.
    Append(usize, u32, Bytes),
    /// Number, and buckets that are ours now.
    Activate(u64, Vec<u16>),
}

/// Links of the pool.
#[derive(Debug)]
pub struct Links {
    /// To the gateways: SENDACKs.
    pub gateways: LinkSet,
    /// To the push workers.
    pub pushes: LinkSet,
    /// Senders, for settlements.
    pub peers: Peers,
    /// Calls that wait for the pool's task to make them.
    pub calls: Vec<Call>,
    encoder: Encoder,
}

impl Links {
    /// Links that are already started.
    #[must_use]
    pub fn new(gateways: LinkSet, pushes: LinkSet, peers: Peers) -> Self {
        Self { gateways, pushes, peers, calls: Vec::new(), encoder: Encoder::default() }
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

    fn sendack(&mut self, x: &item::Sendack<'_>, done: Origin) {
        let body = self.encoder.encode(x);
        let item = Outgoing { bucket: Bucket::default(), kind: Kind::Sendack, body, keep: Keep::UntilReceived };
        self.gateways.push_slot(x.conn.gateway_slot(), item, done.token());
    }

    fn deliver(&mut self, slot: u16, bucket: Bucket, x: &item::Deliver<'_>, keep: Keep, token: u64) {
        let body = self.encoder.encode(x);
        self.pushes.push_slot(slot, Outgoing { bucket, kind: Kind::Deliver, body, keep }, token);
    }

    fn lookup(&mut self, load: usize, queries: Vec<pb::Query>) {
        self.calls.push(Call::Lookup(load, queries));
    }

    fn members(&mut self, chan: usize, epoch: u32, list: pb::ListKey) {
        self.calls.push(Call::Members(chan, epoch, list));
    }

    fn system_uids(&mut self) {
        self.calls.push(Call::SystemUids);
    }

    fn append(&mut self, request: usize, channels: u32, batches: Bytes) {
        self.calls.push(Call::Append(request, channels, batches));
    }

    fn activate(&mut self, number: u64, buckets: Vec<u16>) {
        self.calls.push(Call::Activate(number, buckets));
    }

    fn congested(&self) -> bool {
        self.pushes.congested()
    }
}
