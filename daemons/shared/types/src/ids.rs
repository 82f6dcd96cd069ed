//! Numbers that identify nodes, connections and messages.

use std::fmt;

/// Cluster node, 1..=1023. It is also the node part of message ids and of connection ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct NodeId(pub u16);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Message id: a snowflake, always positive (41 bits milliseconds since 1288834974657, 10 bits node, 12 bits sequence). 0 means "none".
pub type MessageId = i64;

/// Position of a message in its channel's log, from 1, dense; 0 for messages that are not stored.
pub type MessageSeq = u64;

/// One life of a process that can be an end of a link: random, never 0, new at each start.
pub type Incarnation = u64;

/// Client connection: node 10 bits, gateway slot 6 bits, counter 48 bits (architecture §6a). 0 means "none" (a message of the HTTP API).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ConnId(pub u64);

impl ConnId {
    /// No connection: the sender is the HTTP API or the system.
    pub const NONE: Self = Self(0);
    /// Largest counter value.
    pub const COUNTER_MAX: u64 = (1 << 48) - 1;

    /// Packs the parts; each is cut to its width.
    #[must_use]
    pub fn new(node: NodeId, gateway_slot: u16, counter: u64) -> Self {
        Self(u64::from(node.0 & 0x3ff) << 54 | u64::from(gateway_slot & 0x3f) << 48 | (counter & Self::COUNTER_MAX))
    }

    /// Node that holds the socket.
    #[must_use]
    pub fn node(self) -> NodeId {
        NodeId(u16::try_from(self.0 >> 54).unwrap_or(0))
    }

    /// Slot of the gateway that holds the socket.
    #[must_use]
    pub fn gateway_slot(self) -> u16 {
        u16::try_from(self.0 >> 48 & 0x3f).unwrap_or(0)
    }

    /// Counter within the gateway slot.
    #[must_use]
    pub fn counter(self) -> u64 {
        self.0 & Self::COUNTER_MAX
    }

    /// True for [`ConnId::NONE`].
    #[must_use]
    pub fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.node(), self.gateway_slot(), self.counter())
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conn_id_keeps_its_parts() {
        let id = ConnId::new(NodeId(1001), 63, ConnId::COUNTER_MAX);
        assert_eq!((id.node(), id.gateway_slot(), id.counter()), (NodeId(1001), 63, ConnId::COUNTER_MAX));
        assert_eq!(id.to_string(), "1001.63.281474976710655");
    }
}
