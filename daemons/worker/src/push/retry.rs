//! Frames of one connection that wait for their RECVACK (`spec/semantics.md` §11).

use std::collections::VecDeque;

use bytes::Bytes;
use wk_types::MessageId;

use crate::limits::{RETRY_BYTES_MAX, RETRY_FRAMES_MAX};

/// When frames are sent again.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// From a send to the next one at the earliest. Unit: ms.
    pub interval_ms: u64,
    /// Period of the scan. Unit: ms.
    pub scan_ms: u64,
    /// Resends before the frame is dropped.
    pub max: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self { interval_ms: 60_000, scan_ms: 30_000, max: 5 }
    }
}

#[derive(Debug, Clone)]
struct Entry {
    message_id: MessageId,
    /// Body of the item towards the gateway: connection and frame.
    body: Bytes,
    sent_ms: u64,
    resends: u32,
}

/// Entries of one connection, oldest first. Bounded: a new entry pushes the oldest out.
#[derive(Debug, Default)]
pub struct Unacked {
    entries: VecDeque<Entry>,
    bytes: usize,
}

/// What a scan did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Scanned {
    /// Frames sent again.
    pub resent: u64,
    /// Frames given up.
    pub dropped: u64,
}

impl Unacked {
    /// Remembers a frame that was just sent. Returns how many old ones had to go.
    pub fn push(&mut self, message_id: MessageId, body: Bytes, now_ms: u64) -> u64 {
        self.bytes += body.len();
        self.entries.push_back(Entry { message_id, body, sent_ms: now_ms, resends: 0 });
        let mut dropped = 0;
        while self.entries.len() > 1 && (self.entries.len() > RETRY_FRAMES_MAX || self.bytes > RETRY_BYTES_MAX) {
            if let Some(entry) = self.entries.pop_front() {
                self.bytes -= entry.body.len();
                dropped += 1;
            }
        }
        dropped
    }

    /// The client has it. True when it was waited for.
    pub fn ack(&mut self, message_id: MessageId) -> bool {
        // Clients acknowledge in the order of arrival, so the front is the usual hit.
        let Some(at) = self.entries.iter().position(|e| e.message_id == message_id) else { return false };
        if let Some(entry) = self.entries.remove(at) {
            self.bytes -= entry.body.len();
        }
        true
    }

    /// Sends again what is due, in order, and drops what was sent too often.
    pub fn scan(&mut self, now_ms: u64, policy: Policy, mut resend: impl FnMut(&Bytes)) -> Scanned {
        let mut scanned = Scanned::default();
        let bytes = &mut self.bytes;
        self.entries.retain_mut(|e| {
            if now_ms < e.sent_ms.saturating_add(policy.interval_ms) {
                return true;
            }
            if e.resends >= policy.max {
                *bytes -= e.body.len();
                scanned.dropped += 1;
                return false;
            }
            if e.resends == 0 {
                // The first body shares its memory with many others, which would all be held by this one.
                e.body = Bytes::copy_from_slice(&e.body);
            }
            resend(&e.body);
            e.resends += 1;
            e.sent_ms = now_ms;
            scanned.resent += 1;
            true
        });
        scanned
    }

    /// Entries that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy { interval_ms: 60, scan_ms: 30, max: 2 };

    fn scan(u: &mut Unacked, now: u64) -> (Vec<Bytes>, u64) {
        let mut sent = Vec::new();
        let scanned = u.scan(now, POLICY, |b| sent.push(b.clone()));
        assert_eq!(scanned.resent, u64::try_from(sent.len()).expect("small"));
        (sent, scanned.dropped)
    }

    #[test]
    fn resends_the_same_bytes_until_the_bound() {
        let mut u = Unacked::default();
        u.push(1, Bytes::from_static(b"one"), 0);
        u.push(2, Bytes::from_static(b"two"), 10);
        assert_eq!(scan(&mut u, 59), (vec![], 0));
        assert_eq!(scan(&mut u, 60), (vec![Bytes::from_static(b"one")], 0));
        assert!(u.ack(2) && !u.ack(2));
        assert_eq!(scan(&mut u, 120), (vec![Bytes::from_static(b"one")], 0));
        assert_eq!(scan(&mut u, 180), (vec![], 1));
        assert!(u.is_empty() && u.bytes == 0);
    }

    #[test]
    fn is_bounded_by_count_and_bytes() {
        let mut u = Unacked::default();
        for id in 0..1000 {
            u.push(id, Bytes::from_static(b"x"), 0);
        }
        assert_eq!(u.len(), RETRY_FRAMES_MAX);
        assert!(!u.ack(0) && u.ack(999));
        let big = Bytes::from(vec![0; RETRY_BYTES_MAX]);
        assert!(u.push(2000, big, 0) > 0);
        assert_eq!(u.len(), 1);
    }
}
