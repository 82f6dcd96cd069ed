//! Changes of rows that are under way through this owner: a bucket moves only when none is, so that the next owner reads what it has to know.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tonic::Status;
use wk_proto::cluster::v1::Code;
use wk_rpc::status::with_code;
use wk_rpc::{Table, TableWatch};
use wk_types::channel::base_id;
use wk_types::{Bucket, Daemon, InstanceName};

use super::check_owner;

/// Changes under way, by bucket. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Calls {
    open: Arc<Mutex<HashMap<Bucket, u32>>>,
}

/// One change; dropped when it is over.
#[derive(Debug)]
pub struct Change {
    calls: Calls,
    bucket: Bucket,
}

impl Calls {
    /// Begins a change of the rows of `key`.
    ///
    /// # Errors
    /// Another worker owns it, or is about to: the caller finds it in a later table.
    pub fn begin(&self, table: &TableWatch, me: InstanceName, key: &str) -> Result<Change, Status> {
        let bucket = Bucket::of(base_id(key));
        // Counted first: whoever looks at the count later than at a new table sees every change that was let in before it.
        *self.open.lock().entry(bucket).or_default() += 1;
        let change = Change { calls: self.clone(), bucket };
        check_owner(table, me, key)?;
        if table.get().moves(me.daemon, bucket) {
            return Err(with_code(Code::NotReady, "the key is moving to another owner"));
        }
        Ok(change)
    }

    /// True when no change of a bucket that moves in the pool of `daemon` is under way.
    #[must_use]
    pub fn have_let_go(&self, table: &Table, daemon: Daemon) -> bool {
        table.next_slots(daemon).is_empty() || !self.open.lock().keys().any(|bucket| table.moves(daemon, *bucket))
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        let mut open = self.calls.open.lock();
        if let Some(count) = open.get_mut(&self.bucket) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.bucket);
            }
        }
    }
}
