//! Column families of `datadb`.

/// A column family of [`crate::DataDb`]. What lies in each: [`crate::keys`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cf {
    /// Applied log ids, memberships, allocators, identity.
    Sys,
    /// One row per channel: number, first and last sequence.
    Chan,
    /// One row per message.
    Msg,
    /// Index rows of messages.
    Idx,
    /// One row per applied entry of a channel group.
    Jrnl,
    /// Metadata tables of the slot groups.
    Meta,
}

impl Cf {
    /// All column families, in the order of their declaration.
    pub const ALL: [Self; 6] = [Self::Sys, Self::Chan, Self::Msg, Self::Idx, Self::Jrnl, Self::Meta];

    /// Name on disk; never changes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sys => "sys",
            Self::Chan => "chan",
            Self::Msg => "msg",
            Self::Idx => "idx",
            Self::Jrnl => "jrnl",
            Self::Meta => "meta",
        }
    }
}
