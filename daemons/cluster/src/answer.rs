//! One answer of a data stream, owed to one request.

use tokio::sync::mpsc;
use tonic::Status;
use wk_proto::cluster::v1 as pb;
use wk_proto::cluster::v1::reply::Result as ReplyResult;
use wk_telemetry::IntGauge;

use crate::error::Refusal;

/// What a stream of answers carries.
pub type StreamItem = Result<pb::Reply, Status>;

/// The right, and the duty, to answer one request. It holds the request's place among those in flight; an answer that is dropped unsent says
/// "unknown outcome".
#[derive(Debug)]
pub struct Answer {
    id: u64,
    place: Option<mpsc::OwnedPermit<StreamItem>>,
    open: IntGauge,
}

impl Answer {
    /// The answer to request `id`, to be sent through `place`. `open` counts answers that are owed.
    #[must_use]
    pub fn new(id: u64, place: mpsc::OwnedPermit<StreamItem>, open: IntGauge) -> Self {
        open.inc();
        Self { id, place: Some(place), open }
    }

    /// Sends the result.
    pub fn done(self, result: ReplyResult) {
        self.send(None, Some(result));
    }

    /// Sends a refusal of the whole request.
    pub fn refuse(self, refusal: &Refusal) {
        self.send(Some(refusal.to_proto()), None);
    }

    /// Sends either.
    pub fn finish(self, outcome: Result<ReplyResult, Refusal>) {
        match outcome {
            Ok(result) => self.done(result),
            Err(refusal) => self.refuse(&refusal),
        }
    }

    fn send(mut self, error: Option<pb::Error>, result: Option<ReplyResult>) {
        let reply = pb::Reply { id: self.id, error, result };
        if let Some(place) = self.place.take() {
            // The stream may have ended: then nobody waits.
            drop(place.send(Ok(reply)));
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.open.dec();
        if let Some(place) = self.place.take() {
            let error = Some(Refusal::unknown("request was dropped").to_proto());
            drop(place.send(Ok(pb::Reply { id: self.id, error, result: None })));
        }
    }
}
