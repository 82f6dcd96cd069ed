//! The sending end of a link as a pure state machine: which items are owed to a slot, which of them are under way, what to send next.
//!
//! An entry's life: *waiting* (position at or above `next`), *sent*, *received* (in the receiver's hands), *done* (settled, or received where
//! receipt is enough). Done entries at the front are dropped.
//!
//! INVARIANT: `base <= received + 1 <= next <= base + entries.len()` for the stream in use, see [`Ring::check`].

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use wk_types::Bucket;
use wk_types::limits::{BATCH_BYTES_MAX, BATCH_ITEMS_MAX, BATCHES_IN_FLIGHT};

use crate::item::Kind;
use crate::routes::BucketSet;

/// Position of an item on a link, from 1, never used twice by one sender incarnation. 0: outside the ring (a preamble).
pub type Position = u64;

/// When an item is done and forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// As soon as it is in the receiver's hands: its loss with the receiver costs little.
    UntilReceived,
    /// Only when its outcome would survive the receiver's death.
    UntilSettled,
}

/// An item on its way out.
#[derive(Debug)]
pub struct Outgoing {
    /// Bucket it belongs to.
    pub bucket: Bucket,
    /// What it is.
    pub kind: Kind,
    /// Its encoded body.
    pub body: Bytes,
    /// When it is done.
    pub keep: Keep,
}

/// Receivers that may die while they hold an item before it is judged (architecture §4a). One that was being handled at the last death is
/// refused then. Without that knowledge the items held at so many deaths are isolated: first [`SUSPECTS_TOGETHER`] at a time, after one more
/// death one at a time, and the one that was out alone when another receiver died is refused. All others are innocent: they were only there.
pub const DEATHS_MAX: u8 = 2;
/// Items under suspicion that go together, each group after the one before it is settled.
const SUSPECTS_TOGETHER: usize = 32;

/// Which life of the receiver a stream meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meets {
    /// The same as the stream before.
    Same,
    /// A new one; nothing of ours is to blame for the end of the one before: it drained, or it died of an item of another sender.
    Blameless,
    /// A new one; the one before died, while it was handling the item at this position as far as is known.
    AfterDeath(Option<Position>),
}

/// Bytes of an item's head in a batch: length, kind, flags, bucket, gap.
const ITEM_HEAD_BYTES: usize = 4 + 1 + 1 + 2 + 2;
/// Flag: a receiver may have seen this item before.
pub(crate) const FLAG_REPLAY: u8 = 1;
/// Kind number of a gap: no item, `gap` more positions to skip.
pub(crate) const KIND_GAP: u8 = 0;

/// What the owner hears of when an entry is done.
#[derive(Debug)]
pub enum Then {
    /// Nothing.
    Silence,
    /// This token, never 0.
    Token(u64),
    /// A waiting task.
    Waiter(tokio::sync::oneshot::Sender<()>),
}

#[derive(Debug)]
struct Entry {
    kind: Kind,
    bucket: Bucket,
    keep: Keep,
    /// Receivers that died holding it.
    deaths: u8,
    done: bool,
    /// It is for whoever owns the bucket, not for this slot alone.
    routed: bool,
    /// An owner before this one may have seen it.
    seen: bool,
    body: Bytes,
    then: Then,
}

/// A batch ready for the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Position of the first item.
    pub first: Position,
    /// Items, gaps not counted.
    pub count: u32,
    /// Their frames.
    pub items: Bytes,
}

/// An item that two receivers died of.
#[derive(Debug)]
pub struct PoisonedItem {
    /// What it is.
    pub kind: Kind,
    /// Its bucket.
    pub bucket: Bucket,
    /// Its body.
    pub body: Bytes,
    /// Whom to tell.
    pub then: Then,
}

/// Items owed to one slot.
#[derive(Debug)]
pub struct Ring {
    entries: VecDeque<Entry>,
    /// Position of `entries[0]`.
    base: Position,
    /// Next position to send on the current stream.
    next: Position,
    /// Everything up to here was sent at least once in some stream.
    sent_ever: Position,
    /// Confirmed by the current receiver incarnation.
    received: Position,
    /// Last positions of the batches under way.
    in_flight: VecDeque<Position>,
    /// Items up to here go a few at a time: one of them may be what several receivers died of.
    suspect_to: Position,
    /// How many at a time.
    suspects_together: usize,
    bytes: usize,
    unsettled: u64,
    window: Window,
}

/// Credit of a link: how much may be under way to the receiver, not yet received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Batches, at least 1.
    pub batches: usize,
    /// Items in a batch, at least 1.
    pub items: usize,
}

impl Window {
    /// A window of at least one item.
    #[must_use]
    pub fn new(batches: u16, items: u16) -> Self {
        Self { batches: usize::from(batches.max(1)), items: usize::from(items.max(1)) }
    }
}

impl Default for Window {
    fn default() -> Self {
        Self { batches: BATCHES_IN_FLIGHT, items: BATCH_ITEMS_MAX }
    }
}

impl Default for Ring {
    fn default() -> Self {
        Self::new(Window::default())
    }
}

impl Ring {
    /// An empty ring.
    #[must_use]
    pub fn new(window: Window) -> Self {
        Self {
            entries: VecDeque::new(),
            base: 1,
            next: 1,
            sent_ever: 0,
            received: 0,
            in_flight: VecDeque::new(),
            suspect_to: 0,
            suspects_together: SUSPECTS_TOGETHER,
            bytes: 0,
            unsettled: 0,
            window,
        }
    }

    /// Appends an item and returns its position.
    pub fn push(&mut self, item: Outgoing, then: Then) -> Position {
        self.append(item, then, (false, false))
    }

    /// Appends an item for the owner of its bucket. `seen`: an owner that is gone may have seen it.
    pub fn push_routed(&mut self, item: Outgoing, then: Then, seen: bool) -> Position {
        self.append(item, then, (true, seen))
    }

    fn append(&mut self, item: Outgoing, then: Then, (routed, seen): (bool, bool)) -> Position {
        let Outgoing { bucket, kind, body, keep } = item;
        self.bytes += body.len();
        self.unsettled += u64::from(keep == Keep::UntilSettled);
        self.entries.push_back(Entry { kind, bucket, keep, deaths: 0, done: false, routed, seen, body, then });
        self.end() - 1
    }

    /// The receiver is gone for good: what was for the owners of buckets leaves the ring, in order, and whether it may have been seen.
    pub fn take_back(&mut self) -> Vec<(Outgoing, Then, bool)> {
        let mut back = Vec::new();
        for position in self.base..self.end() {
            let sent = position <= self.sent_ever;
            let Some(entry) = self.entry(position).filter(|e| !e.done && e.routed) else { continue };
            let item = Outgoing { bucket: entry.bucket, kind: entry.kind, body: entry.body.clone(), keep: entry.keep };
            let seen = sent || entry.seen;
            back.push((item, self.finish(position), seen));
        }
        self.drop_done();
        back
    }

    /// First position that was never used.
    fn end(&self) -> Position {
        self.base + self.entries.len() as u64
    }

    /// Bytes of the bodies held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Entries held, done ones behind an undone one included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when nothing is owed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Items that wait for settlement.
    #[must_use]
    pub fn unsettled(&self) -> u64 {
        self.unsettled
    }

    /// True when an item of one of these buckets is not done.
    #[must_use]
    pub fn owes(&self, buckets: &BucketSet) -> bool {
        self.entries.iter().any(|e| !e.done && buckets.has(e.bucket))
    }

    /// Items that the present receiver has confirmed and not settled.
    #[must_use]
    pub fn held(&self) -> u64 {
        let count = usize::try_from((self.received + 1).saturating_sub(self.base)).unwrap_or(usize::MAX);
        self.entries.iter().take(count).filter(|e| !e.done).count() as u64
    }

    /// Lowest position still held: everything below is done.
    #[must_use]
    pub fn first(&self) -> Position {
        self.base
    }

    /// A stream to the receiver is up. `received` is what this receiver incarnation has of us. Whatever an earlier life held without settling
    /// goes again. An item that receivers died of leaves the ring and is returned.
    pub fn on_stream(&mut self, received: Position, meets: Meets) -> Option<PoisonedItem> {
        self.in_flight.clear();
        let mut poisoned = None;
        if let Meets::AfterDeath(handling) = meets {
            poisoned = self.count_deaths(handling);
        }
        if meets == Meets::Same {
            let received = received.min(self.sent_ever).max(self.base - 1);
            self.received = received;
            self.next = received + 1;
        } else {
            self.received = self.base - 1;
            self.next = self.base;
        }
        self.drop_done();
        self.check();
        poisoned
    }

    /// Counts a receiver's death for everything that was out, and judges.
    fn count_deaths(&mut self, handling: Option<Position>) -> Option<PoisonedItem> {
        // Whatever was sent may have been held: a receiver can die of an item before its receipt gets out.
        let sent = self.received.max(self.next.saturating_sub(1)).min(self.end().saturating_sub(1));
        let (mut held, mut worst, mut last) = (0_usize, 0, 0);
        for position in self.base..=sent {
            let Some(entry) = self.entry(position).filter(|e| !e.done) else { continue };
            entry.deaths = entry.deaths.saturating_add(1);
            if entry.deaths >= worst {
                (worst, last) = (entry.deaths, position);
            }
            held += 1;
        }
        let alone = (held == 1 && worst > DEATHS_MAX).then_some(last);
        let guilty = handling.filter(|position| self.deaths(*position) >= DEATHS_MAX).or(alone);
        self.suspect_to = if guilty.is_none() && worst >= DEATHS_MAX { last } else { 0 };
        self.suspects_together = if worst > DEATHS_MAX { 1 } else { SUSPECTS_TOGETHER };
        self.poison(guilty?)
    }

    /// Deaths that an undone entry has met.
    fn deaths(&self, position: Position) -> u8 {
        let index = position.checked_sub(self.base).and_then(|index| usize::try_from(index).ok());
        index.and_then(|index| self.entries.get(index)).filter(|e| !e.done).map_or(0, |e| e.deaths)
    }

    /// Takes an undone entry out.
    fn poison(&mut self, position: Position) -> Option<PoisonedItem> {
        let entry = self.entry(position).filter(|e| !e.done)?;
        let (kind, bucket, body) = (entry.kind, entry.bucket, entry.body.clone());
        let then = std::mem::replace(&mut entry.then, Then::Silence);
        self.finish(position);
        Some(PoisonedItem { kind, bucket, body, then })
    }

    fn entry(&mut self, position: Position) -> Option<&mut Entry> {
        let index = usize::try_from(position.checked_sub(self.base)?).ok()?;
        self.entries.get_mut(index)
    }

    /// The next batch, when fewer than two are under way and something waits. Suspects go a few at a time, after those before are settled.
    pub fn next_batch(&mut self) -> Option<Batch> {
        if self.in_flight.len() >= self.window.batches {
            return None;
        }
        while self.next < self.end() && self.entry(self.next).is_some_and(|e| e.done) {
            self.next += 1;
        }
        let first = self.next;
        if first >= self.end() {
            return None;
        }
        let items_max = if first <= self.suspect_to { self.suspects_together.min(self.window.items) } else { self.window.items };
        let last_max = if first <= self.suspect_to { self.suspect_to } else { Position::MAX };
        if self.base <= self.suspect_to && self.suspect_is_out(first) {
            return None;
        }
        let mut items = BytesMut::new();
        let mut gap_at = None;
        let mut count: u32 = 0;
        let mut position = first;
        while position < self.end() && position <= last_max && (count as usize) < items_max && items.len() < BATCH_BYTES_MAX {
            let sent = position <= self.sent_ever;
            let Some(entry) = self.entry(position) else { break };
            if entry.done {
                put_gap(&mut items, &mut gap_at);
            } else {
                if count > 0 && items.len() + entry.body.len() > BATCH_BYTES_MAX {
                    break;
                }
                put_item(&mut items, entry.kind as u8, if sent || entry.seen { FLAG_REPLAY } else { 0 }, entry.bucket, &entry.body);
                gap_at = None;
                count += 1;
            }
            position += 1;
        }
        let last = position - 1;
        self.next = position;
        self.sent_ever = self.sent_ever.max(last);
        self.in_flight.push_back(last);
        self.check();
        Some(Batch { first, count, items: items.freeze() })
    }

    /// True when a suspect before `position` was sent to this receiver and is not settled yet.
    fn suspect_is_out(&mut self, position: Position) -> bool {
        (self.base..position).any(|p| self.entry(p).is_some_and(|e| !e.done))
    }

    /// The receiver's report. `done` gets what the owner must hear.
    pub fn on_report(&mut self, received: Position, settled: &[(Position, u64)], done: &mut Vec<Then>) {
        let received = received.min(self.next.saturating_sub(1));
        for position in self.received.max(self.base - 1) + 1..=received {
            if self.entry(position).is_some_and(|e| !e.done && e.keep == Keep::UntilReceived) {
                done.push(self.finish(position));
            }
        }
        self.received = self.received.max(received);
        while self.in_flight.front().is_some_and(|&last| last <= self.received) {
            self.in_flight.pop_front();
        }
        for &(first, count) in settled {
            let last = first.saturating_add(count).min(self.end());
            for position in first.max(self.base)..last {
                if self.entry(position).is_some_and(|e| !e.done) {
                    done.push(self.finish(position));
                }
            }
        }
        self.drop_done();
        self.check();
    }

    /// The owner settles an item itself; true when it was still owed.
    pub fn settle(&mut self, position: Position) -> bool {
        let owed = self.entry(position).is_some_and(|e| !e.done);
        if owed {
            self.finish(position);
            self.drop_done();
        }
        owed
    }

    /// Marks an entry done, frees its body and hands out what its owner waits for.
    fn finish(&mut self, position: Position) -> Then {
        let Some(entry) = self.entry(position) else { return Then::Silence };
        entry.done = true;
        let body = std::mem::take(&mut entry.body);
        let then = std::mem::replace(&mut entry.then, Then::Silence);
        let kept = u64::from(entry.keep == Keep::UntilSettled);
        self.bytes -= body.len();
        self.unsettled -= kept;
        then
    }

    /// The receiver has left for good: everything is done.
    pub fn clear(&mut self) -> Vec<Then> {
        let done = (self.base..self.end()).filter(|p| self.entry(*p).is_some_and(|e| !e.done)).collect::<Vec<_>>();
        let done = done.into_iter().map(|position| self.finish(position)).collect();
        self.in_flight.clear();
        self.drop_done();
        done
    }

    fn drop_done(&mut self) {
        while self.entries.front().is_some_and(|e| e.done) {
            self.entries.pop_front();
            self.base += 1;
        }
        self.next = self.next.max(self.base);
        self.received = self.received.max(self.base - 1);
    }

    /// Asserts the invariants; cheap, run after each step in debug builds.
    fn check(&self) {
        debug_assert!(self.base <= self.received + 1, "received points before the ring");
        debug_assert!(self.received < self.next, "received more than was sent");
        debug_assert!(self.next <= self.end(), "sent more than was pushed");
    }
}

/// Appends one item frame: `u32` body length, kind, flags, bucket, `u16` gap (0), body.
pub(crate) fn put_item(out: &mut BytesMut, kind: u8, flags: u8, bucket: Bucket, body: &[u8]) {
    out.reserve(ITEM_HEAD_BYTES + body.len());
    out.put_u32_le(u32::try_from(body.len()).unwrap_or(u32::MAX));
    out.put_u8(kind);
    out.put_u8(flags);
    out.put_u16_le(bucket.index());
    out.put_u16_le(0);
    out.put_slice(body);
}

/// Appends a gap of one position, or widens the gap that ends the batch; `gap_at` is where that one begins. The bytes alone do not tell:
/// the end of a body may look like a gap.
fn put_gap(out: &mut BytesMut, gap_at: &mut Option<usize>) {
    if let Some(tail) = gap_at.and_then(|at| out.get_mut(at..))
        && let Some(count) = tail.last_chunk_mut::<2>()
        && let Some(wider) = u16::from_le_bytes(*count).checked_add(1)
    {
        *count = wider.to_le_bytes();
        return;
    }
    *gap_at = Some(out.len());
    out.put_slice(&[0; ITEM_HEAD_BYTES - 2]);
    out.put_u16_le(1);
}

#[cfg(test)]
mod tests;
