//! What each side saw, in the smallest form the checker needs.

use std::fmt;
use std::str::FromStr;

/// Names a message for the whole run: it is the start of its payload (`source/number/`), so every record can be matched without the server's help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub source: u16,
    pub number: u32,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.source, self.number)
    }
}

impl FromStr for Key {
    type Err = ();

    /// Reads `source/number`, optionally followed by `/` and anything.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.splitn(3, '/');
        let mut part = || parts.next().ok_or(());
        Ok(Self { source: part()?.parse().map_err(drop)?, number: part()?.parse().map_err(drop)? })
    }
}

impl Key {
    /// The key in a payload, or `None` when it is none of ours.
    pub(crate) fn of_payload(payload: &[u8]) -> Option<Self> {
        std::str::from_utf8(payload).ok()?.parse().ok()
    }
}

/// An answer to a SEND. Times are µs since the run began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub reason: u8,
    pub id: i64,
    /// 0: the answer does not say (the API).
    pub seq: u64,
    pub at_us: u64,
}

impl Answer {
    pub(crate) fn success(&self) -> bool {
        self.reason == 1
    }
}

/// A message as its source sent it; the number in its key is its place in [`Source::sent`].
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub channel: usize,
    pub at_us: u64,
    pub answers: Vec<Answer>,
}

/// A message as a connection received it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Got {
    /// `None`: the payload is none of ours.
    pub key: Option<Key>,
    /// `None`: the channel or the sender shown is not that of any of our channels.
    pub channel: Option<usize>,
    pub id: i64,
    pub seq: u64,
}

/// Everything one source saw.
#[derive(Debug, Clone, Default)]
pub(crate) struct Source {
    pub sent: Vec<Sent>,
    pub got: Vec<Got>,
    /// Answers that match no SEND of this source.
    pub strange_answers: u64,
    /// Why it ended before it was told to.
    pub ended: Option<String>,
}

/// One stored message, as `POST /channel/messagesync` returns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub seq: u64,
    pub id: i64,
    pub key: Option<Key>,
    pub from: String,
}

/// One message as the webhook sink got it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Notified {
    pub key: Option<Key>,
    pub id: i64,
    pub seq: u64,
}
