//! Messages on their way to systemd, in their order. Its queue may be full (`net.unix.max_dgram_qlen` is 10 by default, and a node says more
//! than that while it starts): what must arrive is kept and repeated until it was taken.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::words::Word;

/// Messages kept. At the bound the oldest that only concerns the descriptor store goes.
const WAITING_MAX: usize = 256;
/// First pause before a message is repeated; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How much a message that finds the queue full is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Worth {
    /// Repeated until it was taken.
    Vital,
    /// As [`Self::Vital`], unless too many wait.
    Store,
    /// A newer one takes its place.
    Latest,
    /// Said again soon anyway.
    Passing,
}

impl Word {
    fn worth(&self) -> Worth {
        match self {
            Self::Ready | Self::Stopping | Self::Reloading(_) => Worth::Vital,
            Self::Status(_) => Worth::Latest,
            Self::Extend(_) | Self::Watchdog => Worth::Passing,
        }
    }
}

#[derive(Debug)]
struct Message {
    text: String,
    fd: Option<OwnedFd>,
    worth: Worth,
}

/// The socket and what waits for it.
#[derive(Debug)]
pub(super) struct Outbox {
    socket: UnixDatagram,
    waiting: VecDeque<Message>,
    pause: Duration,
    again: Option<Instant>,
}

impl Outbox {
    /// `socket` is connected.
    pub(super) fn new(socket: UnixDatagram) -> Self {
        Self { socket, waiting: VecDeque::new(), pause: PAUSE_MIN, again: None }
    }

    /// Says a word, now or as soon as there is room.
    pub(super) fn say(&mut self, word: &Word) {
        self.send(word.to_string(), None, word.worth());
    }

    /// A message about the descriptor store.
    pub(super) fn store(&mut self, text: String, fd: Option<BorrowedFd<'_>>) {
        self.send(text, fd, Worth::Store);
    }

    /// When [`Self::flush`] has something to try.
    pub(super) fn next(&self) -> Option<Instant> {
        self.again
    }

    /// Repeats what waits, when its pause is over.
    pub(super) fn flush(&mut self, now: Instant) {
        if self.again.is_none_or(|at| now < at) {
            return;
        }
        while let Some(message) = self.waiting.front() {
            let fd = message.fd.as_ref().map(AsRawFd::as_raw_fd);
            if !self.give(&message.text, fd) {
                self.pause = (self.pause * 2).min(PAUSE_MAX);
                self.again = Some(now + self.pause);
                return;
            }
            self.waiting.pop_front();
        }
        (self.pause, self.again) = (PAUSE_MIN, None);
    }

    fn send(&mut self, text: String, fd: Option<BorrowedFd<'_>>, worth: Worth) {
        // Nothing overtakes what waits, but for what is worth nothing later.
        let free = self.waiting.is_empty() || worth == Worth::Passing;
        if free && self.give(&text, fd.map(|fd| fd.as_raw_fd())) || worth == Worth::Passing {
            return;
        }
        let fd = match fd.map(|fd| fd.try_clone_to_owned()).transpose() {
            Ok(fd) => fd,
            Err(err) => return tracing::warn!(%err, text, "descriptor not kept for systemd"),
        };
        match worth {
            Worth::Latest => self.waiting.retain(|m| m.worth != Worth::Latest),
            _ if self.waiting.len() >= WAITING_MAX => self.make_room(),
            _ => {}
        }
        self.waiting.push_back(Message { text, fd, worth });
        self.again.get_or_insert_with(|| Instant::now() + PAUSE_MIN);
    }

    fn make_room(&mut self) {
        let at = self.waiting.iter().position(|m| m.worth == Worth::Store).unwrap_or(0);
        if let Some(lost) = self.waiting.remove(at) {
            tracing::warn!(text = lost.text, "systemd does not read, not told");
        }
    }

    /// False: there is no room now.
    fn give(&self, text: &str, fd: Option<RawFd>) -> bool {
        let raw = fd.as_slice();
        let rights = [ControlMessage::ScmRights(raw)];
        let control = if raw.is_empty() { &[][..] } else { &rights[..] };
        // Never blocks the engine.
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match sendmsg::<()>(self.socket.as_raw_fd(), &[IoSlice::new(text.as_bytes())], control, flags, None) {
            Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM | Errno::EINTR) => false,
            Err(err) => {
                // A repetition would not help.
                tracing::warn!(err = %io::Error::from(err), text, "systemd not told");
                true
            }
            Ok(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::fd::AsFd;

    /// An outbox, the other end, and how many messages its queue took before it was full.
    fn full() -> (Outbox, UnixDatagram, usize) {
        let (ours, systemd) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        systemd.set_nonblocking(true).unwrap();
        let mut count = 0;
        while ours.send(b"filling").is_ok() {
            count += 1;
        }
        ours.set_nonblocking(false).unwrap();
        (Outbox::new(ours), systemd, count)
    }

    fn heard(systemd: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 256];
        let next = || systemd.recv(&mut buffer).ok().map(|n| String::from_utf8_lossy(&buffer[..n]).into_owned());
        std::iter::from_fn(next).filter(|text| text != "filling").collect()
    }

    fn status(text: &str) -> Word {
        Word::Status(text.into())
    }

    #[test]
    fn what_must_arrive_is_repeated_in_its_order_until_it_was_taken() {
        let (mut out, systemd, _) = full();
        out.store("FDSTORE=1\nFDNAME=p.api@0\n".into(), Some(systemd.as_fd()));
        for word in [status("1/7"), Word::Extend(PAUSE_MAX), Word::Ready, Word::Watchdog, status("7/7")] {
            out.say(&word);
        }
        let again = out.next().expect("it will be repeated");
        out.flush(again);
        assert_eq!(heard(&systemd), [""; 0], "still full");
        assert!(out.next().is_some_and(|at| at > again));
        out.flush(again);
        assert_eq!(heard(&systemd), [""; 0], "not before its pause is over");
        out.flush(again + PAUSE_MAX);
        assert_eq!(heard(&systemd), ["FDSTORE=1\nFDNAME=p.api@0\n", "READY=1\n", "STATUS=7/7\n"]);
        assert_eq!(out.next(), None);
        out.say(&Word::Stopping);
        assert_eq!(heard(&systemd), ["STOPPING=1\n"], "at once again");
    }

    #[test]
    fn readiness_outlives_a_flood_of_other_messages() {
        let (mut out, systemd, _) = full();
        out.say(&Word::Ready);
        for number in 0..WAITING_MAX * 2 {
            out.store(format!("FDSTOREREMOVE=1\nFDNAME={number}\n"), None);
        }
        assert_eq!(out.waiting.len(), WAITING_MAX);
        let mut all = heard(&systemd);
        let mut now = Instant::now();
        while out.next().is_some() {
            now += PAUSE_MAX;
            out.flush(now);
            all.extend(heard(&systemd));
        }
        assert_eq!((all.first().map(String::as_str), all.len()), (Some("READY=1\n"), WAITING_MAX));
    }
}
