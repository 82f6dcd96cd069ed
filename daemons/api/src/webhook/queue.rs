//! What one group still has to tell the backend: a pure queue between journal and requests.

use std::collections::VecDeque;

use bytes::{BufMut as _, Bytes, BytesMut};
use wk_link::record::Stored;
use wk_proto::cluster::v1::JournalEntry;
use wk_types::ChannelType;

use crate::dto::MessageResp;
use crate::limits::WEBHOOK_BODY_BYTES_MAX;

/// One message, or the trace of an entry without any.
#[derive(Debug)]
struct Item {
    /// Index of its entry.
    index: u64,
    /// The last one of its entry: confirming it confirms the entry.
    last: bool,
    /// Goes to the target of agent channels.
    agent: bool,
    /// Encoded message; `None`: nothing to send.
    json: Option<Bytes>,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batch {
    /// JSON array.
    pub(super) body: Bytes,
    /// For the target of agent channels.
    pub(super) agent: bool,
    /// Messages in it.
    pub(super) messages: usize,
    /// Items it stands for.
    items: usize,
}

/// Messages of one group in commit order.
#[derive(Debug)]
pub(super) struct Queue {
    items: VecDeque<Item>,
    messages: usize,
    /// Agent channels have a target of their own.
    split_agents: bool,
}

impl Queue {
    pub(super) fn new(split_agents: bool) -> Self {
        Self { items: VecDeque::new(), messages: 0, split_agents }
    }

    /// Messages that are not confirmed.
    pub(super) fn messages(&self) -> usize {
        self.messages
    }

    /// Takes over an entry. Returns false when its records cannot be read: it is passed over.
    pub(super) fn push(&mut self, entry: &JournalEntry) -> bool {
        let channel = entry.channel.clone().unwrap_or_default();
        let kind = ChannelType(u8::try_from(channel.r#type).unwrap_or(0));
        let stored = Stored::read_all(&entry.records);
        let agent = self.split_agents && kind == ChannelType::AGENT;
        let readable = stored.is_ok();
        for message in stored.iter().flatten() {
            let json = serde_json::to_vec(&MessageResp::new(&channel.id, kind, message)).ok().map(Bytes::from);
            self.messages += usize::from(json.is_some());
            self.items.push_back(Item { index: entry.index, last: false, agent, json });
        }
        match self.items.back_mut() {
            Some(item) if item.index == entry.index => item.last = true,
            _ => self.items.push_back(Item { index: entry.index, last: true, agent, json: None }),
        }
        readable
    }

    /// The next request: the longest run of messages for one target within the bounds. `None` when there is nothing.
    pub(super) fn batch(&self, messages_max: usize) -> Option<Batch> {
        let agent = self.items.iter().find(|item| item.json.is_some())?.agent;
        let mut body = BytesMut::from(&b"["[..]);
        let (mut messages, mut items) = (0, 0);
        for item in &self.items {
            if let Some(json) = &item.json {
                let full = messages >= messages_max || messages > 0 && body.len() + json.len() > WEBHOOK_BODY_BYTES_MAX;
                if full || item.agent != agent {
                    break;
                }
                if messages > 0 {
                    body.put_u8(b',');
                }
                body.put_slice(json);
                messages += 1;
            }
            items += 1;
        }
        body.put_u8(b']');
        Some(Batch { body: body.freeze(), agent, messages, items })
    }

    /// A batch was confirmed. Returns the index up to which everything is, if that moved.
    pub(super) fn confirm(&mut self, batch: &Batch) -> Option<u64> {
        self.messages = self.messages.saturating_sub(batch.messages);
        let mut upto = None;
        for item in self.items.drain(..batch.items.min(self.items.len())) {
            if item.last {
                upto = Some(item.index);
            }
        }
        upto
    }

    /// Drops what stands for entries without messages from the front. Returns the index up to which everything is done, if that moved.
    pub(super) fn skip_empty(&mut self) -> Option<u64> {
        let mut upto = None;
        let empty = self.items.iter().take_while(|item| item.json.is_none()).count();
        for item in self.items.drain(..empty) {
            upto = item.last.then_some(item.index).or(upto);
        }
        upto
    }
}
