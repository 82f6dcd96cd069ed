//! Positions of the journal's consumers, and which journal rows nobody needs any more.
//!
//! A cursor holds the journal back only while there are rows of its bucket above it: a consumer need not move the cursors of quiet buckets.
//! The first message of a bucket creates its dispatch cursor, so that nothing is cut before a dispatcher was ever seen.

use std::collections::BTreeMap;

use super::command::CursorChange;
use super::rows::{CursorRow, CursorsRow};
use crate::limits::{CURSORS_PER_GROUP_MAX, JOURNAL_CUT_STEP};

/// Consumer that distributes messages; its cursors are per bucket.
pub const DISPATCH: &str = "dispatch";
/// Bucket of a cursor that stands for the whole group.
pub const WHOLE_GROUP: u16 = 0xffff;

/// Cursors of one group with what is needed to judge them.
#[derive(Debug, Default)]
pub struct Cursors {
    /// Consumer → bucket → position.
    positions: BTreeMap<Box<str>, BTreeMap<u16, u64>>,
    /// Journal rows up to this index are cut.
    cut: u64,
    /// Newest journal row of each bucket, as far as it lies above the cut.
    newest: BTreeMap<u16, u64>,
    /// Newest journal row.
    newest_any: u64,
    /// Changed since the row was last written.
    dirty: bool,
}

impl Cursors {
    /// State as stored. Journal rows above the cut are reported with [`Cursors::seen`] afterwards.
    #[must_use]
    pub fn load(row: CursorsRow) -> Self {
        let mut positions: BTreeMap<Box<str>, BTreeMap<u16, u64>> = BTreeMap::new();
        for cursor in row.cursors {
            positions.entry(cursor.consumer).or_default().insert(cursor.bucket, cursor.index);
        }
        Self { positions, cut: row.cut, ..Self::default() }
    }

    /// The journal has a row at `index` with messages of `bucket`.
    pub fn seen(&mut self, bucket: u16, index: u64) {
        self.newest.insert(bucket, index);
        self.newest_any = self.newest_any.max(index);
    }

    /// A row of `bucket` is being written at `index`: like [`Cursors::seen`], and the bucket gets its dispatch cursor.
    pub fn written(&mut self, bucket: u16, index: u64) {
        self.seen(bucket, index);
        if self.positions.get(DISPATCH).is_none_or(|buckets| !buckets.contains_key(&bucket)) {
            self.positions.entry(DISPATCH.into()).or_default().insert(bucket, index.saturating_sub(1));
            self.dirty = true;
        }
    }

    /// Carries out a save at log position `index`. Positions never fall and never pass the log. False: there is no room for a new cursor.
    #[must_use]
    pub fn change(&mut self, change: &CursorChange<'_>, index: u64) -> bool {
        self.dirty = true;
        if change.remove {
            if let Some(buckets) = self.positions.get_mut(change.consumer) {
                buckets.remove(&change.bucket);
            }
            return true;
        }
        let position = change.index.min(index);
        if let Some(old) = self.positions.get_mut(change.consumer).and_then(|buckets| buckets.get_mut(&change.bucket)) {
            *old = position.max(*old);
            return true;
        }
        if self.positions.values().map(BTreeMap::len).sum::<usize>() >= CURSORS_PER_GROUP_MAX {
            return false;
        }
        self.positions.entry(change.consumer.into()).or_default().insert(change.bucket, position);
        true
    }

    /// Rows `from..=to` that may be removed now: below every cursor that holds the journal, and enough of them to be worth a tombstone.
    pub fn take_cut(&mut self) -> Option<(u64, u64)> {
        let holds = |(bucket, position): (&u16, &u64)| {
            let newest = if *bucket == WHOLE_GROUP { self.newest_any } else { self.newest.get(bucket).copied().unwrap_or(0) };
            (newest > *position).then_some(*position)
        };
        let to = self.positions.values().flatten().filter_map(holds).min().unwrap_or(self.newest_any);
        if to < self.cut + JOURNAL_CUT_STEP {
            return None;
        }
        let from = self.cut + 1;
        self.cut = to;
        self.dirty = true;
        Some((from, to))
    }

    /// The row to store, when something changed since the last call.
    pub fn take_row(&mut self) -> Option<CursorsRow> {
        std::mem::take(&mut self.dirty).then(|| {
            let mut cursors = Vec::new();
            for (consumer, buckets) in &self.positions {
                cursors.extend(buckets.iter().map(|(bucket, index)| CursorRow {
                    consumer: consumer.clone(),
                    bucket: *bucket,
                    index: *index,
                }));
            }
            CursorsRow { cut: self.cut, cursors }
        })
    }

    /// Journal rows up to this index are cut.
    #[must_use]
    pub fn cut(&self) -> u64 {
        self.cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn save(consumer: &str, bucket: u16, index: u64) -> CursorChange<'_> {
        CursorChange { consumer, bucket, index, remove: false }
    }

    #[test]
    fn the_slowest_consumer_with_work_holds_the_journal() {
        let mut cursors = Cursors::default();
        for index in 1..=1000 {
            cursors.written(if index == 1 { 7 } else { 8 }, index);
        }
        assert_eq!(cursors.take_cut(), None, "both dispatch cursors stand at the beginning");
        assert!(cursors.change(&save(DISPATCH, 8, 900), 1001));
        assert_eq!(cursors.take_cut(), None, "bucket 7 has a row at 1");
        assert!(cursors.change(&save(DISPATCH, 7, 1), 1002));
        assert_eq!(cursors.take_cut(), Some((1, 900)), "bucket 7 is quiet and holds nothing");
        assert!(cursors.change(&save(DISPATCH, 8, 5), 1003), "a smaller position is accepted");
        assert!(cursors.change(&save(DISPATCH, 8, 9_999_999), 1004));
        let row = cursors.take_row().expect("changed");
        assert_eq!(row.cut, 900);
        assert_eq!(row.cursors.iter().map(|c| (c.bucket, c.index)).collect::<Vec<_>>(), [(7, 1), (8, 1004)]);
        assert!(cursors.take_row().is_none());
    }

    #[test]
    fn a_consumer_of_the_whole_group_holds_until_it_is_removed() {
        let mut cursors = Cursors::default();
        assert!(cursors.change(&save("webhook", WHOLE_GROUP, 0), 1));
        (2..600).for_each(|index| cursors.written(3, index));
        assert!(cursors.change(&save(DISPATCH, 3, 599), 600));
        assert_eq!(cursors.take_cut(), None);
        assert!(cursors.change(&CursorChange { remove: true, ..save("webhook", WHOLE_GROUP, 0) }, 601));
        assert_eq!(cursors.take_cut(), Some((1, 599)));
    }
}
