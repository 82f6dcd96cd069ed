//! Opens buckets: they are taken over, the journal behind their cursors is distributed once more, then new messages move.
//!
//! Why nothing acknowledged can be lost or overtaken: a bucket takes no append before a cursor of it is stored. A bucket without a cursor has
//! therefore never had an append, and may start at the group's applied index. The takeover stores the cursors through the group's log, behind
//! whatever an earlier owner has sent before, and nothing of an earlier owner is taken after it: the journal up to the applied index after it
//! holds everything of earlier owners, and what this life appends comes later.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::sync::oneshot;
use wk_proto::cluster::v1 as pb;
use wk_proto::cluster::v1::Code;
use wk_rpc::backoff::Backoff;
use wk_rpc::{CallError, ClusterData, TableWatch};
use wk_types::{Bucket, InstanceName};

use super::events::Ask;
use crate::fault::Bug;
use crate::inbox::{Event, Inbox};
use crate::limits::{JOURNAL_ENTRIES, JOURNALS_AT_ONCE};

/// Consumer name of the dispatch cursors.
pub const CONSUMER: &str = "dispatch";

/// A step failed with an outcome that may differ next time.
#[derive(Debug, thiserror::Error)]
enum ActivateError {
    #[error("call the cluster")]
    Call(#[from] CallError),
    #[error("the cluster has no channel groups yet")]
    NoGroups,
    #[error("the pool has ended")]
    Ended,
}

/// Buckets on their way to being open.
#[derive(Debug)]
pub struct Activation {
    /// Its number; what a later one has taken up is none of its business.
    pub number: u64,
    /// Log, cursors, journal.
    pub cluster: ClusterData,
    /// The pool.
    pub inbox: Arc<Inbox<Ask>>,
    /// Who owns what.
    pub table: TableWatch,
    /// Our name.
    pub me: InstanceName,
    /// Who we are to the cluster.
    pub owner: pb::Owner,
    /// Test switch.
    pub bug: Option<Bug>,
}

impl Activation {
    /// Opens `buckets`; tries again until it works, as long as the table says that they are ours. Ends early when the pool has ended.
    pub async fn run(self, mut buckets: Vec<u16>) {
        let mut backoff = Backoff::default();
        loop {
            self.cluster.ready().await;
            let table = self.table.get();
            let ours = |bucket: &u16| Bucket::from_index(*bucket).and_then(|b| table.owner(self.me.daemon, b)) == Some(self.me);
            buckets.retain(ours);
            if buckets.is_empty() {
                return;
            }
            // A later epoch may be what it takes: an owner of before, which had heard of this one, has used it.
            let owner = pb::Owner { epoch: self.owner.epoch.max(table.epoch), ..self.owner };
            match self.once(&buckets, owner).await {
                Ok(()) | Err(ActivateError::Ended) => return,
                Err(ActivateError::Call(err)) if err.code() == Code::Fenced => {
                    tracing::error!(
                        ?owner,
                        "the cluster has seen a newer owner of the buckets than the node table names: they stay closed"
                    );
                }
                Err(err) => tracing::warn!(%err, source = ?std::error::Error::source(&err), "buckets cannot be opened yet"),
            }
            tokio::time::sleep(backoff.pause().max(Duration::from_millis(50))).await;
        }
    }

    async fn once(&self, buckets: &[u16], owner: pb::Owner) -> Result<(), ActivateError> {
        let (cluster, inbox) = (&self.cluster, &*self.inbox);
        let mut loaded = cluster.load_cursors(CONSUMER).await?;
        if self.bug == Some(Bug::NoCursor) {
            loaded.cursors.clear();
        }
        let groups = u32::try_from(loaded.applied.len()).unwrap_or(0);
        if groups == 0 {
            return Err(ActivateError::NoGroups);
        }
        let starts = starts(&loaded, groups, buckets);
        let cursors = starts.iter().map(|(bucket, index)| cursor(*bucket, groups, *index)).collect();
        let applied = match self.bug {
            Some(Bug::NoFence) => loaded.applied,
            _ => cluster.take_over(cursors, owner).await?,
        };
        inbox.push(Event::Ask(Ask::Started(self.number, groups, starts.iter().map(|(b, i)| (*b, *i)).collect())));
        let mut by_group: BTreeMap<u32, Vec<(u16, u64)>> = BTreeMap::new();
        for (bucket, index) in &starts {
            by_group.entry(u32::from(*bucket) % groups).or_default().push((*bucket, *index));
        }
        // A channel has one group: its entries come in order however the groups overlap.
        let reads = by_group.into_iter().map(|(group, starts)| {
            let upto = usize::try_from(group).ok().and_then(|g| applied.get(g)).copied().unwrap_or(0);
            read_group(cluster, inbox, group, starts, upto)
        });
        stream::iter(reads).buffer_unordered(JOURNALS_AT_ONCE).try_collect::<()>().await?;
        inbox.push(Event::Ask(Ask::Opened(self.number, buckets.to_vec())));
        tracing::info!(buckets = buckets.len(), groups, "buckets are open");
        Ok(())
    }
}

/// Where the distribution of each bucket continues.
fn starts(loaded: &pb::LoadCursorsReply, groups: u32, buckets: &[u16]) -> BTreeMap<u16, u64> {
    let applied = |bucket: u16| usize::try_from(u32::from(bucket) % groups).ok().and_then(|g| loaded.applied.get(g)).copied();
    let mut starts: BTreeMap<u16, u64> = buckets.iter().map(|b| (*b, applied(*b).unwrap_or(0))).collect();
    for cursor in &loaded.cursors {
        let bucket = u16::try_from(cursor.bucket).ok();
        if let Some(start) = bucket.and_then(|b| starts.get_mut(&b)) {
            *start = cursor.index;
        }
    }
    starts
}

fn cursor(bucket: u16, groups: u32, index: u64) -> pb::Cursor {
    let bucket = u32::from(bucket);
    pb::Cursor { consumer: CONSUMER.to_owned(), group: bucket % groups, bucket, index, remove: false }
}

/// Hands the journal of one group to the pool, page by page, as fast as the pool can distribute it. `starts`: its buckets and where each of
/// them continues; quiet ones lie far behind.
async fn read_group(
    cluster: &ClusterData,
    inbox: &Inbox<Ask>,
    group: u32,
    starts: Vec<(u16, u64)>,
    upto: u64,
) -> Result<(), ActivateError> {
    let mut after = starts.iter().map(|(_, index)| *index).min().unwrap_or(upto);
    while after < upto {
        let buckets = starts.iter().map(|(bucket, _)| u32::from(*bucket)).collect();
        let after_each = starts.iter().map(|(_, index)| *index).collect();
        let request = pb::JournalRequest { group, after, limit: JOURNAL_ENTRIES, buckets, after_each, wait_ms: 0 };
        let reply = cluster.journal(request).await?;
        let next = reply.upto.max(reply.entries.last().map_or(0, |e| e.index));
        if !reply.entries.is_empty() {
            let (taken, wait) = oneshot::channel();
            inbox.push(Event::Ask(Ask::Journal(reply.entries, taken)));
            wait.await.map_err(|_| ActivateError::Ended)?;
        }
        if next <= after {
            // Nothing more to look at below the applied index.
            return Ok(());
        }
        after = next;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_without_a_cursor_starts_at_the_applied_index() {
        let loaded = pb::LoadCursorsReply { cursors: vec![cursor(1, 2, 7), cursor(900, 2, 3)], applied: vec![10, 20] };
        let starts = starts(&loaded, 2, &[0, 1, 2, 3]);
        assert_eq!(starts, BTreeMap::from([(0, 10), (1, 7), (2, 10), (3, 20)]));
    }
}
