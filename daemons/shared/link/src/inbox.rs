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
        let mut position = first.max(1);
        while position <= self.received {
            if !self.is_open(position) {
                push_range(&mut self.fresh, position);
            }
            position += 1;
        }
        self.dirty = true;
    }

    fn is_open(&self, position: Position) -> bool {
        position.checked_sub(self.base).and_then(|i| usize::try_from(i).ok()).and_then(|i| self.open.get(i)).copied().unwrap_or(false)
    }

    /// Decodes a batch and takes what is new; items seen before are dropped.
    ///
    /// # Errors
    /// When the bytes are no items: the stream must be refused.
    pub fn on_batch(&mut self, first: Position, items: &Bytes) -> Result<Vec<Received>, DecodeError> {
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
            if kind == KIND_GAP {
                self.skip(position, u64::from(gap));
                position += u64::from(gap) * u64::from(first != 0);
                continue;
            }
            let kind = Kind::from_u8(kind).ok_or(DecodeError::Range("kind"))?;
            let bucket = Bucket::from_index(bucket).ok_or(DecodeError::Range("bucket"))?;
            let replay = flags & FLAG_REPLAY != 0;
            if first == 0 {
                taken.push(Received { position: 0, kind, replay, bucket, body });
                continue;
            }
            if position > self.received {
                self.skip(self.received + 1, position - self.received - 1);
                self.open.push_back(true);
                self.open_count += 1;
                self.received = position;
                taken.push(Received { position, kind, replay, bucket, body });
            }
            position += 1;
        }
        self.dirty |= first != 0;
        Ok(taken)
    }

    /// Positions the sender has no item for any more.
    fn skip(&mut self, from: Position, count: u64) {
        for position in from..from.saturating_add(count) {
            if position != self.received + 1 {
                continue;
            }
            if self.open.is_empty() {
                self.base = position + 1;
            } else {
                self.open.push_back(false);
            }
            self.received = position;
        }
        if self.open.is_empty() {
            self.base = self.received + 1;
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

/// Adds one position to ranges, widening the last one where it fits.
fn push_range(ranges: &mut Vec<(Position, u64)>, position: Position) {
    match ranges.last_mut() {
        Some((first, count)) if *first + *count == position => *count += 1,
        _ => ranges.push((position, 1)),
    }
}
