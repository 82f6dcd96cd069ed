//! What a receiver was doing when it died, told by the life after it.
//!
//! Before a life handles an item that was replayed, it notes the item in a small file; the note outlives the process in the kernel's memory. So
//! the sender learns of which item a receiver died, and needs neither guess nor refuse what was only there. Items that come for the first time
//! are not noted: an item must meet two deaths before it is refused, and at the second it is a replay.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use wk_types::{Incarnation, InstanceName};

use crate::ring::Position;

/// Format of the note. A note of another version says nothing.
const VERSION: u8 = 1;
const NOTE_BYTES: usize = 64;
const NAME_BYTES_MAX: usize = NOTE_BYTES - HEAD_BYTES;
/// Version, state, length of the name, then incarnation and position.
const HEAD_BYTES: usize = 3 + 8 + 8;

/// An item, as the life that handled it knew it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handled {
    /// Sender.
    pub sender: String,
    /// Its life.
    pub incarnation: Incarnation,
    /// Place on its link.
    pub position: Position,
}

/// How the life before this one ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Past {
    /// Nothing is known: it was the first, or it died while it handled no replayed item.
    #[default]
    Unknown,
    /// It drained.
    Drained,
    /// It died while it handled this.
    Died(Handled),
}

impl Past {
    /// The same, when the supervisor knows that somebody else killed that life (`WK_LAST_END=killed`): what it was handling is not to blame.
    #[must_use]
    pub fn or_killed(self, killed: bool) -> Self {
        match self {
            Self::Died(_) if killed => Self::Unknown,
            past => past,
        }
    }

    fn encode(&self) -> [u8; NOTE_BYTES] {
        let mut note = [0; NOTE_BYTES];
        let (state, name, incarnation, position) = match self {
            Self::Unknown => (0, "", 0, 0),
            Self::Drained => (1, "", 0, 0),
            Self::Died(item) => (2, item.sender.as_str(), item.incarnation, item.position),
        };
        let name = name.as_bytes().get(..name.len().min(NAME_BYTES_MAX)).unwrap_or_default();
        let fields = [VERSION, state, u8::try_from(name.len()).unwrap_or(0)].into_iter();
        let fields = fields.chain(incarnation.to_le_bytes()).chain(position.to_le_bytes()).chain(name.iter().copied());
        note.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        note
    }

    fn decode(note: &[u8]) -> Self {
        let number = |at: usize| note.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
        match note {
            [VERSION, 1, ..] => Self::Drained,
            [VERSION, 2, len, ..] => {
                let name = note.get(HEAD_BYTES..HEAD_BYTES + usize::from(*len)).and_then(|name| std::str::from_utf8(name).ok());
                let item = |sender: &str| Handled { sender: sender.to_owned(), incarnation: number(3), position: number(11) };
                name.map_or(Self::Unknown, |sender| Self::Died(item(sender)))
            }
            _ => Self::Unknown,
        }
    }
}

/// The note of one instance, across its lives. Never waits: the file lies in the kernel's memory.
#[derive(Debug, Default)]
pub struct BlackBox {
    file: Option<File>,
}

impl BlackBox {
    /// Opens the note at `path`, which is made with its folder, and says what the life before left in it.
    ///
    /// # Errors
    /// The file cannot be used.
    pub fn open(path: &Path) -> io::Result<(Self, Past)> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut note = [0; NOTE_BYTES];
        let read = file.read_at(&mut note, 0)?;
        let past = Past::decode(note.get(..read).unwrap_or_default());
        let this = Self { file: Some(file) };
        if past == Past::Drained {
            this.write(&Past::Unknown);
        }
        // A death stays noted until this life handles something: it may die before it has told anyone.
        Ok((this, past))
    }

    /// This life begins to handle a replayed item.
    pub fn handling(&self, sender: InstanceName, incarnation: Incarnation, position: Position) {
        if self.file.is_some() {
            self.write(&Past::Died(Handled { sender: sender.to_string(), incarnation, position }));
        }
    }

    /// It has handled it.
    pub fn handled(&self) {
        self.write(&Past::Unknown);
    }

    /// This life ends with a drain.
    pub fn drained(&self) {
        self.write(&Past::Drained);
    }

    fn write(&self, note: &Past) {
        if let Some(file) = &self.file
            && let Err(err) = file.write_all_at(&note.encode(), 0)
        {
            // Without the note a culprit is found by isolation: slower.
            tracing::debug!(%err, "black box cannot be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_killed_blames_nothing() {
        let died = Past::Died(Handled { sender: "api@0".into(), incarnation: 1, position: 2 });
        assert_eq!((died.clone().or_killed(true), died.clone().or_killed(false)), (Past::Unknown, died));
        assert_eq!(Past::Drained.or_killed(true), Past::Drained);
    }
    use wk_types::{Daemon, Pool};

    #[test]
    fn the_next_life_knows_what_the_last_one_did() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("boxes/worker.user@0");
        let open = || BlackBox::open(&path).expect("a file");
        let name = InstanceName { daemon: Daemon::Worker(Pool::Channel), slot: 12 };
        let (first, past) = open();
        assert_eq!(past, Past::Unknown);
        first.handling(name, u64::MAX, 7);
        let died = Past::Died(Handled { sender: name.to_string(), incarnation: u64::MAX, position: 7 });
        assert_eq!(open().1, died);
        let (third, past) = open();
        assert_eq!(past, died, "the second life died before it handled anything");
        third.handled();
        assert_eq!(open().1, Past::Unknown);
        third.drained();
        assert_eq!(open().1, Past::Drained);
        assert_eq!(open().1, Past::Unknown, "the life after the drain died");
    }

    #[test]
    fn foreign_bytes_say_nothing() {
        for note in [&b""[..], &[9; 64], &[VERSION, 2, 200], &[VERSION, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]] {
            assert_eq!(Past::decode(note), Past::Unknown);
        }
        assert_eq!(Past::decode(&Past::Drained.encode()), Past::Drained);
    }
}
