//! The receiving end of a link as a pure state machine: what is new, what is owed, what to report.

use std::collections::VecDeque;

use bytes::Bytes;
use wk_types::Bucket;

use crate::codec::{DecodeError, Reader};
use crate::item::Kind;
use crate::ring::{FLAG_REPLAY, KIND_GAP, Position};

/// One item as it came off a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Position; 0 for a preamble.
    pub position: Position,
    /// What it is.
    pub kind: Kind,
    /// A receiver may have seen it before.
    pub replay: bool,
    /// Its bucket.
    pub bucket: Bucket,
    /// Its body.
    pub body: Bytes,
}

/// Most positions that a sender may leave out at once: its ring is far smaller.
const SKIP_MAX: u64 = 1 << 24;

/// State kept for one sender incarnation, across its streams.
#[derive(Debug, Default)]
pub struct Inbox {
    /// Highest position in our hands.
    received: Position,
    /// Position of `open[0]`; everything below is settled.
    base: Position,
    /// True: received and not settled.
    open: VecDeque<bool>,
    open_count: u64,
    /// Settled since the last report, as (first, count).
    fresh: Vec<(Position, u64)>,
    /// `received` changed since the last report.
    dirty: bool,
}

impl Inbox {
    /// Highest position received from this sender.
    #[must_use]
    pub fn received(&self) -> Position {
        self.received
    }

    /// Items received and not settled.
    #[must_use]
    pub fn unsettled(&self) -> u64 {
        self.open_count
    }

    /// A stream begins; the sender holds everything from `first` on. What we settled of it is reported again: the last report may be lost.
    pub fn on_hello(&mut self, first: Position) {
        self.fresh.clear();
        if self.open.is_empty() && self.received < first.saturating_sub(1) {
            self.received = first - 1;
            self.base = first;
        }
        let first = first.max(1);
        let settled = self.base.min(self.received + 1).saturating_sub(first);
        if settled > 0 {
            self.fresh.push((first, settled));
        }
        for (position, open) in (self.base..).zip(&self.open) {
            if position >= first && !*open {
                push_range(&mut self.fresh, position);
            }
        }
        self.dirty = true;
    }

    /// Decodes a batch and takes what is new; items seen before are dropped.
    ///
    /// # Errors
    /// When the bytes are no items: nothing was taken, the stream must be refused.
    pub fn on_batch(&mut self, first: Position, items: &Bytes) -> Result<Vec<Received>, DecodeError> {
        let (mut taken, end) = decode(first, items)?;
        if first == 0 {
            return Ok(taken);
        }
        if end.saturating_sub(self.received) > SKIP_MAX {
            return Err(DecodeError::Range("position"));
        }
        taken.retain(|item| item.position > self.received);
        for item in &taken {
            self.skip_to(item.position - 1);
            self.open.push_back(true);
            self.open_count += 1;
            self.received = item.position;
        }
        self.skip_to(end - 1);
        self.dirty = true;
        Ok(taken)
    }

    /// Positions up to `last` that the sender has no item for any more.
    fn skip_to(&mut self, last: Position) {
        if self.open.is_empty() {
            self.received = self.received.max(last);
            self.base = self.received + 1;
        }
        while self.received < last {
            self.open.push_back(false);
            self.received += 1;
        }
    }

    /// The outcome of an item would survive our death.
    pub fn settle(&mut self, position: Position) {
        let Some(index) = position.checked_sub(self.base).and_then(|i| usize::try_from(i).ok()) else { return };
        match self.open.get_mut(index) {
            Some(open) if *open => *open = false,
            _ => return,
        }
        self.open_count -= 1;
        push_range(&mut self.fresh, position);
        while self.open.front() == Some(&false) {
            self.open.pop_front();
            self.base += 1;
        }
    }

    /// True when the sender should hear something.
    #[must_use]
    pub fn has_report(&self) -> bool {
        self.dirty || !self.fresh.is_empty()
    }

    /// What the sender should hear now, if anything: (received, settled ranges).
    pub fn take_report(&mut self) -> Option<(Position, Vec<(Position, u64)>)> {
        if !self.has_report() {
            return None;
        }
        self.dirty = false;
        Some((self.received, std::mem::take(&mut self.fresh)))
    }
}

/// The items of a batch whose first position is `first` (0: items without positions), and the position behind the batch.
fn decode(first: Position, items: &Bytes) -> Result<(Vec<Received>, Position), DecodeError> {
    let mut taken = Vec::new();
    let mut r = Reader::new(items);
    let mut position = first;
    while !r.is_empty() {
        let len = usize::try_from(r.u32("length")?).map_err(|_| DecodeError::Range("length"))?;
        let kind = r.u8("kind")?;
        let flags = r.u8("flags")?;
        let bucket = r.u16("bucket")?;
        let gap = r.u16("gap")?;
        let body = items.slice_ref(r.take(len, "body")?);
        let step = if kind == KIND_GAP { u64::from(gap) } else { 1 };
        if kind != KIND_GAP {
            let kind = Kind::from_u8(kind).ok_or(DecodeError::Range("kind"))?;
            let bucket = Bucket::from_index(bucket).ok_or(DecodeError::Range("bucket"))?;
            taken.push(Received { position, kind, replay: flags & FLAG_REPLAY != 0, bucket, body });
        }
        if first != 0 {
            position = position.checked_add(step).ok_or(DecodeError::Range("position"))?;
        }
    }
    Ok((taken, position))
}

/// Adds one position to ranges, widening the last one where it fits.
fn push_range(ranges: &mut Vec<(Position, u64)>, position: Position) {
    match ranges.last_mut() {
        Some((first, count)) if *first + *count == position => *count += 1,
        _ => ranges.push((position, 1)),
    }
}
