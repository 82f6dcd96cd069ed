//! Channel types, reserved names and the internal ids of person, agent and command channels (`spec/semantics.md` §1).

use std::borrow::Cow;
use std::fmt;

/// Built-in system account.
pub const SYSTEM_UID: &str = "____system";
/// Device id of messages that come from the HTTP API.
pub const SYSTEM_DEVICE_ID: &str = "____device";
/// Suffix of command channels: `<internal id>____cmd` has a log of its own.
pub const CMD_SUFFIX: &str = "____cmd";
/// Channel of commands for online users only, type 8.
pub const ONLINE_CMD_CHANNEL: &str = "systemcmdonline";

/// Channel type as it travels on the wire. Unknown types behave like groups, so this is a number with names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelType(pub u8);

impl ChannelType {
    /// One to one; stored under the pair's internal id.
    pub const PERSON: Self = Self(1);
    /// Group.
    pub const GROUP: Self = Self(2);
    /// Customer service: `visitor|anything`.
    pub const CUSTOMER_SERVICE: Self = Self(3);
    /// Community.
    pub const COMMUNITY: Self = Self(4);
    /// Topic of a community: `parent@topic`.
    pub const COMMUNITY_TOPIC: Self = Self(5);
    /// Information channel.
    pub const INFO: Self = Self(6);
    /// Data channel: subscribed per connection, no conversation.
    pub const DATA: Self = Self(7);
    /// Temporary channel of the API.
    pub const TEMP: Self = Self(8);
    /// Live channel: no conversation.
    pub const LIVE: Self = Self(9);
    /// Visitors channel: the id is the visitor's uid.
    pub const VISITORS: Self = Self(10);
    /// Agent channel: `uid@agent`.
    pub const AGENT: Self = Self(11);
    /// Group of agents.
    pub const AGENT_GROUP: Self = Self(12);
}

/// Internal identity of a channel: the id it is stored under and its type.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelKey {
    /// Internal id: the pair's id for person and agent channels, with [`CMD_SUFFIX`] for command channels.
    pub id: Box<str>,
    /// Channel type.
    pub kind: ChannelType,
}

impl ChannelKey {
    /// A key of an id that is already internal.
    #[must_use]
    pub fn new(id: impl Into<Box<str>>, kind: ChannelType) -> Self {
        Self { id: id.into(), kind }
    }

    /// The id that decides bucket and owner: the id without [`CMD_SUFFIX`], so that a command channel lives beside its base channel.
    #[must_use]
    pub fn routing_id(&self) -> &str {
        base_id(&self.id)
    }

    /// The bucket of the channel.
    #[must_use]
    pub fn bucket(&self) -> crate::Bucket {
        crate::Bucket::of(self.routing_id())
    }

    /// True for a command channel.
    #[must_use]
    pub fn is_cmd(&self) -> bool {
        self.id.ends_with(CMD_SUFFIX)
    }
}

impl fmt::Debug for ChannelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.0, self.id)
    }
}

/// The id without [`CMD_SUFFIX`].
#[must_use]
pub fn base_id(id: &str) -> &str {
    id.strip_suffix(CMD_SUFFIX).unwrap_or(id)
}

/// Internal id of the person channel of two users: the uid with the larger CRC-32 first, `big@small`; equal sums are ordered by bytes, larger
/// first. The order of the arguments does not matter.
#[must_use]
pub fn person_channel_id(a: &str, b: &str) -> String {
    let rank = |s: &str| (crc32fast::hash(s.as_bytes()), s.to_owned());
    if rank(a) >= rank(b) { format!("{a}@{b}") } else { format!("{b}@{a}") }
}

/// The two uids of a person channel's internal id (command suffix allowed), or `None` when it does not have exactly two parts.
#[must_use]
pub fn person_parts(internal_id: &str) -> Option<(&str, &str)> {
    let mut parts = base_id(internal_id).split('@');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(a), Some(b), None) => Some((a, b)),
        _ => None,
    }
}

/// The other user of a person channel, seen from `uid`; `None` when the id is not one of a pair with `uid`.
#[must_use]
pub fn person_peer<'a>(internal_id: &'a str, uid: &str) -> Option<&'a str> {
    match person_parts(internal_id)? {
        (a, b) if a == uid => Some(b),
        (a, b) if b == uid => Some(a),
        _ => None,
    }
}

/// Internal id for the id a sender named: person and agent channels become pairs, everything else stays as it is
/// (`spec/wire-protocol.md` §9.2, §9.3).
#[must_use]
pub fn internal_id<'a>(kind: ChannelType, named: &'a str, sender: &str) -> Cow<'a, str> {
    match kind {
        ChannelType::PERSON => Cow::Owned(person_channel_id(named, sender)),
        ChannelType::AGENT => match person_parts(named) {
            Some((a, b)) if a == sender || b == sender => Cow::Borrowed(named),
            _ => Cow::Owned(format!("{sender}@{named}")),
        },
        _ => Cow::Borrowed(named),
    }
}

/// True when an id holds one of the characters that the protocol reserves: `@`, `#`, `&`.
#[must_use]
pub fn has_special_chars(id: &str) -> bool {
    id.contains(['@', '#', '&'])
}

/// Device flag of a login: 0 app, 1 web, 2 PC, 99 system; other values are further classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct DeviceFlag(pub u8);

/// Level of a device: 0 slave, 1 master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct DeviceLevel(pub u8);

impl DeviceLevel {
    /// Several at a time; kicks only its own device id.
    pub const SLAVE: Self = Self(0);
    /// One at a time; its presence means "not offline" for the backend.
    pub const MASTER: Self = Self(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn person_ids_do_not_depend_on_the_order() {
        for (a, b, id) in
            [("u1", "u2", "u2@u1"), ("alice", "bob", "bob@alice"), ("u1", SYSTEM_UID, "u1@____system"), ("l98cu", "pvdba", "pvdba@l98cu")]
        {
            assert_eq!(person_channel_id(a, b), id);
            assert_eq!(person_channel_id(b, a), id);
        }
    }

    #[test]
    fn peers_and_commands() {
        assert_eq!(person_peer("bob@alice____cmd", "bob"), Some("alice"));
        assert_eq!(person_peer("bob@alice", "eve"), None);
        let key = ChannelKey::new("bob@alice____cmd", ChannelType::PERSON);
        assert!(key.is_cmd());
        assert_eq!(key.bucket(), crate::Bucket::of("bob@alice"));
    }

    #[test]
    fn agent_ids_are_kept_when_the_sender_is_a_part() {
        assert_eq!(internal_id(ChannelType::AGENT, "ann@bot", "bot"), "ann@bot");
        assert_eq!(internal_id(ChannelType::AGENT, "bot", "ann"), "ann@bot");
    }
}
