//! From one request to the queues of its channel groups.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use wk_link::codec::Reader;
use wk_link::record::ChannelBatch;
use wk_proto::cluster::v1 as pb;
use wk_types::Bucket;
use wk_types::limits::APPEND_CHANNELS_MAX;

use super::fence::Fences;
use super::pending::PendingAppend;
use super::queue::{Item, Owner};
use crate::answer::Answer;
use crate::channel::command::HEAD_BYTES;
use crate::channel::machine::{check_channel, check_messages};
use crate::error::Refusal;
use crate::limits::ENTRY_BYTES_MAX;
use crate::metrics::{Metrics, Refused};
use crate::node::Shards;

/// Entrance of all appends of this node.
#[derive(Debug)]
pub struct Front {
    shards: Shards,
    fences: Fences,
    /// Set while the disk is nearly full.
    disk_full: Arc<AtomicBool>,
    metrics: Metrics,
}

/// One frame of a request, with what a look at it said.
struct Checked {
    frame: Bytes,
    verdict: Result<(Bucket, usize), Refusal>,
}

impl Front {
    /// An entrance to `shards`.
    #[must_use]
    pub fn new(shards: Shards, disk_full: Arc<AtomicBool>, metrics: Metrics) -> Self {
        Self { shards, fences: Fences::default(), disk_full, metrics }
    }

    /// True while writes are refused because the disk is nearly full.
    #[must_use]
    pub fn disk_full(&self) -> bool {
        self.disk_full.load(Ordering::Relaxed)
    }

    /// Takes a request over. Its answer comes when every channel has a result; channels do not depend on each other.
    pub fn append(&self, request: &pb::AppendRequest, answer: Answer) {
        if self.disk_full() {
            self.metrics.refuse(Refused::Disk);
            return answer.refuse(&Refusal::overloaded("disk is nearly full"));
        }
        let frames = match split(request) {
            Ok(frames) => frames,
            Err(refusal) => {
                self.metrics.refuse(Refused::Invalid);
                return answer.refuse(&refusal);
            }
        };
        let pending = Arc::new(PendingAppend::new(frames.len(), answer));
        for (at, checked) in frames.into_iter().enumerate() {
            match self.admit(checked.verdict, request.owner.as_ref()) {
                Ok((bucket, messages)) => {
                    let owner = Owner::Append(Arc::clone(&pending), at);
                    self.shards.channel_started(bucket).push(Item { frame: checked.frame, messages, owner });
                }
                Err(refusal) => pending.refuse(at, &refusal),
            }
        }
    }

    /// `owner` takes a bucket over: appends of older owners are refused from now on.
    ///
    /// # Errors
    /// It is itself an older one.
    pub fn take_over(&self, bucket: Bucket, owner: &pb::Owner) -> Result<(), Refusal> {
        if self.fences.admit(bucket, owner) {
            return Ok(());
        }
        self.metrics.refuse(Refused::Fenced);
        Err(Refusal::fenced("a newer owner of the bucket was seen"))
    }

    fn admit(&self, verdict: Result<(Bucket, usize), Refusal>, owner: Option<&pb::Owner>) -> Result<(Bucket, usize), Refusal> {
        let (bucket, messages) = verdict.inspect_err(|_| self.metrics.refuse(Refused::Invalid))?;
        owner.map_or(Ok(()), |owner| self.take_over(bucket, owner))?;
        Ok((bucket, messages))
    }
}

/// Cuts the frames of a request apart and looks at each.
fn split(request: &pb::AppendRequest) -> Result<Vec<Checked>, Refusal> {
    let broken = || Refusal::rejected("frames are broken");
    let mut frames = Vec::new();
    let mut r = Reader::new(&request.batches);
    while !r.is_empty() {
        if frames.len() == APPEND_CHANNELS_MAX {
            return Err(Refusal::too_large("too many channels"));
        }
        let before = r.rest();
        let batch = ChannelBatch::read(&mut r).map_err(|_| broken())?;
        let bytes = before.get(..before.len() - r.rest().len()).ok_or_else(broken)?;
        frames.push(Checked { frame: request.batches.slice_ref(bytes), verdict: check(&batch, bytes.len()) });
    }
    if frames.is_empty() || frames.len() != usize::try_from(request.channels).unwrap_or(usize::MAX) {
        return Err(Refusal::rejected("number of channels does not fit the frames"));
    }
    Ok(frames)
}

fn check(batch: &ChannelBatch<'_>, bytes: usize) -> Result<(Bucket, usize), Refusal> {
    if HEAD_BYTES + bytes > ENTRY_BYTES_MAX {
        return Err(Refusal::too_large("batch of the channel is larger than an entry"));
    }
    let bucket = check_channel(batch.channel_id)?;
    Ok((bucket, check_messages(batch)?.len()))
}
