//! Receiver tags: who gets the messages of a channel, grouped by push worker and encoded once (`spec/semantics.md` §10).

use bytes::Bytes;
use wk_link::item::Receivers;
use wk_types::channel::{SYSTEM_UID, base_id, person_parts};
use wk_types::{BUCKETS, Bucket, ChannelType, owner_slot};

use crate::limits::RECEIVERS_PER_DELIVER;

/// Where a channel's receivers come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source<'a> {
    /// These uids alone.
    Fixed(Vec<&'a str>),
    /// The members of the base channel, and perhaps one uid that the id names.
    Members(Option<&'a str>),
}

/// The source for a channel.
#[must_use]
pub fn source(kind: ChannelType, channel_id: &str) -> Source<'_> {
    let base = base_id(channel_id);
    match kind {
        ChannelType::PERSON | ChannelType::AGENT => match person_parts(base) {
            Some((a, b)) if a == b => Source::Fixed(vec![a]),
            Some((a, b)) => Source::Fixed(vec![a, b]),
            None => Source::Fixed(Vec::new()),
        },
        ChannelType::CUSTOMER_SERVICE => Source::Members(base.split('|').next()),
        ChannelType::VISITORS => Source::Members(Some(base)),
        _ => Source::Members(None),
    }
}

/// Push worker of each bucket.
#[derive(Debug, Clone)]
pub struct Owners {
    /// Grows with each change; 0: no table yet.
    pub version: u32,
    slots: Box<[u16]>,
    of_bucket: Box<[u16]>,
}

impl Default for Owners {
    fn default() -> Self {
        Self { version: 0, slots: Box::default(), of_bucket: vec![0; usize::from(BUCKETS)].into() }
    }
}

impl Owners {
    /// Takes over the pool's slots. True when they differ.
    pub fn set(&mut self, slots: &[u16]) -> bool {
        if slots.is_empty() || *self.slots == *slots {
            return false;
        }
        self.slots = slots.into();
        for (owner, bucket) in self.of_bucket.iter_mut().zip(Bucket::all()) {
            *owner = owner_slot(bucket, slots).unwrap_or(0);
        }
        self.version += 1;
        true
    }

    fn of(&self, uid: &str) -> u16 {
        self.of_bucket.get(usize::from(Bucket::of(uid).index())).copied().unwrap_or(0)
    }
}

/// Receivers for one push worker, at most [`RECEIVERS_PER_DELIVER`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Slot of the push worker.
    pub slot: u16,
    /// Number of uids.
    pub count: u32,
    /// Encoded list.
    pub bytes: Bytes,
}

/// Receivers of a channel. Immutable: a change makes a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// All receivers.
    pub parts: Box<[Part]>,
    /// Number of uids.
    pub uids: usize,
    /// [`Owners::version`] it was made for.
    pub version: u32,
}

impl Tag {
    /// Groups `uids`, which hold no uid twice. The system account is nobody's receiver.
    #[must_use]
    pub fn build<'a>(uids: impl IntoIterator<Item = &'a str>, owners: &Owners) -> Self {
        let mut groups: Vec<(u16, Vec<&str>)> = Vec::new();
        let mut total = 0;
        for uid in uids {
            if uid == SYSTEM_UID {
                continue;
            }
            total += 1;
            let slot = owners.of(uid);
            match groups.iter_mut().find(|(s, _)| *s == slot) {
                Some((_, group)) => group.push(uid),
                None => groups.push((slot, vec![uid])),
            }
        }
        let chunks = groups.iter().flat_map(|(slot, group)| group.chunks(RECEIVERS_PER_DELIVER).map(move |chunk| (*slot, chunk)));
        let parts = chunks
            .map(|(slot, chunk)| {
                let (count, bytes) = Receivers::encode_list(chunk.iter().copied());
                Part { slot, count, bytes }
            })
            .collect();
        Self { parts, uids: total, version: owners.version }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources() {
        let members = Source::Members;
        assert_eq!(source(ChannelType::PERSON, "bob@alice"), Source::Fixed(vec!["bob", "alice"]));
        assert_eq!(source(ChannelType::PERSON, "bob@alice____cmd"), Source::Fixed(vec!["bob", "alice"]));
        assert_eq!(source(ChannelType::PERSON, "bob@bob"), Source::Fixed(vec!["bob"]));
        assert_eq!(source(ChannelType::AGENT, "bob@bot"), Source::Fixed(vec!["bob", "bot"]));
        assert_eq!(source(ChannelType::CUSTOMER_SERVICE, "v1|shop____cmd"), members(Some("v1")));
        assert_eq!(source(ChannelType::VISITORS, "v1"), members(Some("v1")));
        assert_eq!(source(ChannelType::GROUP, "g"), members(None));
    }

    #[test]
    fn groups_by_owner_and_cuts_long_lists() {
        let mut owners = Owners::default();
        assert!(owners.set(&[0, 1]) && !owners.set(&[0, 1]) && !owners.set(&[]));
        let uids: Vec<String> = (0..5000).map(|n| format!("u{n}")).collect();
        let tag = Tag::build(uids.iter().map(String::as_str).chain([SYSTEM_UID]), &owners);
        assert_eq!((tag.uids, tag.version), (5000, 1));
        assert_eq!(tag.parts.iter().map(|p| p.count).sum::<u32>(), 5000);
        for part in &tag.parts {
            assert!(part.count <= 1000);
            let list = Receivers::new(part.count, &part.bytes);
            assert!(list.iter().all(|uid| owner_slot(Bucket::of(uid), &[0, 1]) == Some(part.slot)));
        }
    }
}
