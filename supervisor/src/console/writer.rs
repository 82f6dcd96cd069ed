//! Standard output on a thread of its own: a terminal that was stopped (Ctrl-S) or a full pipe holds up its lines, and nothing else.

use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

/// Lines that wait for a reader; more are counted and left out.
const LINES_MAX: usize = 1_024;

/// Pause between two tries to get into a full queue, by who waits for all to be written.
const FULL_PAUSE: Duration = Duration::from_millis(1);

#[derive(Debug)]
enum Word {
    Line(String),
    /// Answered when all before it is written.
    Flush(SyncSender<()>),
}

/// The end of the queue that never blocks.
#[derive(Debug)]
pub(super) struct Writer {
    words: SyncSender<Word>,
    left_out: u64,
}

impl Writer {
    /// Begins the thread, which ends with this.
    pub(super) fn new(out: impl Write + Send + 'static) -> Self {
        let (words, queue) = sync_channel(LINES_MAX);
        if let Err(err) = std::thread::Builder::new().name("console".into()).spawn(move || write(&queue, out)) {
            tracing::warn!(%err, "no thread for standard output, nothing is written to it");
        }
        Self { words, left_out: 0 }
    }

    /// Puts a line behind the others.
    pub(super) fn line(&mut self, text: String) {
        if self.left_out > 0 {
            let note = format!("{} lines are missing here: nobody read this output", self.left_out);
            if self.words.try_send(Word::Line(note)).is_ok() {
                self.left_out = 0;
            }
        }
        // A thread that is gone has met a reader that is gone.
        if let Err(TrySendError::Full(_)) = self.words.try_send(Word::Line(text)) {
            self.left_out += 1;
        }
    }

    /// Waits until all is written, for so long at most.
    pub(super) fn flush(&self, within: Duration) {
        let until = Instant::now() + within;
        let left = || until.saturating_duration_since(Instant::now());
        let (done, written) = sync_channel(1);
        let mut word = Word::Flush(done);
        // A full queue has room as soon as one line was read.
        while let Err(TrySendError::Full(refused)) = self.words.try_send(word) {
            if left().is_zero() {
                return;
            }
            word = refused;
            std::thread::park_timeout(FULL_PAUSE);
        }
        written.recv_timeout(left()).unwrap_or_default();
    }
}

fn write(queue: &Receiver<Word>, mut out: impl Write) {
    for word in queue {
        match word {
            Word::Line(text) => {
                // A reader that is gone is not our problem: the node goes on.
                writeln!(out, "{text}").and_then(|()| out.flush()).unwrap_or_default();
            }
            Word::Flush(done) => done.try_send(()).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read};

    use super::*;

    #[test]
    fn a_reader_that_does_not_read_holds_up_nobody() {
        let (mut reader, out) = io::pipe().unwrap();
        let mut writer = Writer::new(out);
        let text = "x".repeat(1_000);
        let mut lines = 0;
        // A pipe holds 64 lines, the queue a thousand; nobody reads, so both are full before long.
        while lines < 2_000 || writer.left_out == 0 {
            writer.line(text.clone());
            lines += 1;
        }
        let left_out = writer.left_out;
        let missing = |line: &str| line.strip_suffix(" lines are missing here: nobody read this output")?.parse::<u64>().ok();
        let read = std::thread::spawn(move || {
            let mut all = String::new();
            reader.read_to_string(&mut all).unwrap();
            all
        });
        writer.flush(Duration::from_secs(60));
        writer.line("last".into());
        drop(writer);
        let all = read.join().unwrap();
        let tail: Vec<&str> = all.lines().rev().take(2).collect();
        assert_eq!((tail[0], missing(tail[1])), ("last", Some(left_out)));
        // The pipe may have taken some lines after the queue was full: then there is more than one gap.
        let shown = u64::try_from(all.lines().filter(|l| **l == text).count()).unwrap();
        assert_eq!(shown + all.lines().filter_map(missing).sum::<u64>(), lines);
    }
}
