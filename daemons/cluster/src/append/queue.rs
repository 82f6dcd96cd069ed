//! What waits for one channel group. Pure: no tasks, no clocks.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;
use wk_raft::Proposed;

use super::pending::PendingAppend;
use crate::channel::command::{HEAD_BYTES, begin_append};
use crate::error::Refusal;
use crate::limits::{ENTRY_BYTES_CLOSE, ENTRY_BYTES_MAX, ENTRY_MESSAGES_CLOSE, QUEUE_BYTES_MAX, QUEUE_MESSAGES_MAX};

/// One channel's frame, or a command of its own, and whom its result belongs to.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) frame: Bytes,
    pub(super) messages: usize,
    pub(super) owner: Owner,
}

/// Who hears the result of an item.
#[derive(Debug)]
pub(super) enum Owner {
    /// The request and the channel's place in it.
    Append(Arc<PendingAppend>, usize),
    /// Who waits for a command: its frame is the whole entry.
    Command(oneshot::Sender<Result<Proposed, Refusal>>),
}

impl Item {
    fn is_command(&self) -> bool {
        matches!(self.owner, Owner::Command(_))
    }
}

/// Frames that wait, oldest first.
#[derive(Debug, Default)]
pub(super) struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    messages: usize,
}

impl Queue {
    /// Takes the item, or gives it back when the queue is full. An empty queue takes anything; a command, of which there are few, always fits.
    pub(super) fn push(&mut self, item: Item) -> Result<(), Item> {
        let full = self.messages + item.messages > QUEUE_MESSAGES_MAX || self.bytes + item.frame.len() > QUEUE_BYTES_MAX;
        if full && !self.items.is_empty() && !item.is_command() {
            return Err(item);
        }
        self.bytes += item.frame.len();
        self.messages += item.messages;
        self.items.push_back(item);
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Everything, for refusal.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Item> {
        (self.bytes, self.messages) = (0, 0);
        std::mem::take(&mut self.items).into_iter()
    }

    /// The next entry: its command, its items in order, its messages. `None` when nothing waits.
    pub(super) fn next_entry(&mut self, now_ms: i64) -> Option<Entry> {
        let (mut count, mut bytes, mut messages) = (0, 0, 0);
        for item in &self.items {
            let fits = HEAD_BYTES + bytes + item.frame.len() <= ENTRY_BYTES_MAX;
            let open = bytes < ENTRY_BYTES_CLOSE && messages < ENTRY_MESSAGES_CLOSE;
            if count > 0 && (!(fits && open) || item.is_command()) {
                break;
            }
            count += 1;
            bytes += item.frame.len();
            messages += item.messages;
            if item.is_command() {
                break;
            }
        }
        let items: Vec<Item> = self.items.drain(..count).collect();
        self.bytes -= bytes;
        self.messages -= messages;
        let command = match items.as_slice() {
            [] => return None,
            [only] if only.is_command() => only.frame.clone(),
            frames => {
                let mut command: BytesMut = begin_append(now_ms, bytes);
                frames.iter().for_each(|item| command.extend_from_slice(&item.frame));
                command.freeze()
            }
        };
        Some(Entry { command, items, messages })
    }
}

/// One raft entry to be.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) command: Bytes,
    pub(super) items: Vec<Item>,
    pub(super) messages: usize,
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::answer::Answer;

    fn item(bytes: usize, messages: usize) -> Item {
        let (sender, _receiver) = mpsc::channel(1);
        let gauge = wk_telemetry::Metrics::new().gauge("wk_test_open", "Test.");
        let answer = Answer::new(1, sender.try_reserve_owned().expect("room"), gauge);
        Item { frame: vec![7; bytes].into(), messages, owner: Owner::Append(Arc::new(PendingAppend::new(1, answer)), 0) }
    }

    #[test]
    fn a_command_is_an_entry_of_its_own_behind_what_came_before() {
        let mut queue = Queue::default();
        queue.push(item(10, QUEUE_MESSAGES_MAX)).expect("room");
        let (done, _wait) = oneshot::channel();
        let command = Item { frame: Bytes::from_static(b"fence"), messages: 0, owner: Owner::Command(done) };
        queue.push(command).expect("a command always fits");
        assert_eq!(queue.next_entry(1).map(|entry| entry.messages), Some(QUEUE_MESSAGES_MAX));
        queue.push(item(10, 1)).expect("room");
        let entry = queue.next_entry(1).expect("the command");
        assert_eq!((&entry.command[..], entry.items.len()), (&b"fence"[..], 1));
        assert_eq!(queue.next_entry(1).map(|entry| entry.messages), Some(1));
        assert!(queue.next_entry(1).is_none());
    }

    #[test]
    fn entries_close_by_messages_and_bytes_and_keep_the_order() {
        let mut queue = Queue::default();
        for _ in 0..3 {
            queue.push(item(10, 200)).expect("room");
        }
        let entry = queue.next_entry(1).expect("work");
        assert_eq!((entry.items.len(), entry.messages, entry.command.len()), (2, 400, HEAD_BYTES + 20));
        assert_eq!(queue.next_entry(1).map(|entry| entry.messages), Some(200));
        assert!(queue.next_entry(1).is_none() && queue.is_empty());
        queue.push(item(ENTRY_BYTES_CLOSE, 1)).expect("room");
        queue.push(item(1, 1)).expect("room");
        assert_eq!(queue.next_entry(1).map(|entry| entry.items.len()), Some(1));
    }

    #[test]
    fn a_full_queue_gives_back_and_one_large_item_always_fits() {
        let mut queue = Queue::default();
        queue.push(item(ENTRY_BYTES_MAX - HEAD_BYTES, QUEUE_MESSAGES_MAX)).expect("an empty queue takes anything");
        assert!(queue.push(item(1, 1)).is_err());
        assert_eq!(queue.next_entry(1).map(|entry| entry.command.len()), Some(ENTRY_BYTES_MAX));
        assert_eq!(queue.drain().count(), 0);
    }
}
