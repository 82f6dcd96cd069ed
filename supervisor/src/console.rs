//! Foreground output for people, and the copy for a caller that waits for the start of a detached supervisor.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use wk_proto::supervisor::v1 as pb;
use wk_types::InstanceName;

use crate::report;
use writer::Writer;

mod writer;

/// How long last words may take.
const FLUSH_WITHIN: Duration = Duration::from_millis(500);

/// Colours; never the only carrier of a fact.
#[derive(Debug, Clone, Copy, Default)]
pub struct Paint {
    /// Escape sequences are written.
    pub on: bool,
}

impl Paint {
    /// Green.
    #[must_use]
    pub fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// Yellow.
    #[must_use]
    pub fn warn(self, text: &str) -> String {
        self.wrap("33", text)
    }

    /// Red.
    #[must_use]
    pub fn bad(self, text: &str) -> String {
        self.wrap("31", text)
    }

    /// Bold.
    #[must_use]
    pub fn strong(self, text: &str) -> String {
        self.wrap("1", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Standard output of the supervisor. Nothing here blocks; a drop waits a moment for what was said last.
#[derive(Debug)]
pub struct Console {
    paint: Paint,
    terminal: bool,
    out: Writer,
    waiter: Option<File>,
}

impl Console {
    /// `waiter`: gets the same lines, then `exit <code>`, and is closed when the first start is over.
    #[must_use]
    pub fn new(no_color: bool, waiter: Option<File>) -> Self {
        let terminal = io::stdout().is_terminal();
        if let Some(Err(err)) = waiter.as_ref().map(|w| rustix::io::ioctl_fionbio(w, true)) {
            tracing::debug!(%err, "a caller that does not read can hold us up");
        }
        Self { paint: Paint { on: terminal && !no_color }, terminal, out: Writer::new(io::stdout()), waiter }
    }

    /// Standard output is a terminal.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Standard output is a terminal that has not been hung up.
    #[must_use]
    pub fn has_terminal(&self) -> bool {
        rustix::termios::tcgetattr(io::stdout()).is_ok()
    }

    /// One line or paragraph.
    pub fn line(&mut self, text: &str) {
        self.out.line(text.to_owned());
        self.to_waiter(text);
    }

    /// Waits a moment until all that was said is written: before an exec, whose thread has no others.
    pub fn flush(&self) {
        self.out.flush(FLUSH_WITHIN);
    }

    /// Only to the caller that waits. What a full pipe does not take is left out.
    pub fn to_waiter(&mut self, text: &str) {
        if let Some(waiter) = &mut self.waiter {
            writeln!(waiter, "{text}").unwrap_or_default();
        }
    }

    /// First lines.
    pub fn banner(&mut self, node_id: u16, pid: u32, data: &str) {
        let name = self.paint.strong("WuKongIM");
        self.line(&format!("{name} {} · node {node_id} · supervisor {pid} · data {data}", env!("CARGO_PKG_VERSION")));
    }

    /// News about one instance.
    pub fn instance(&mut self, name: InstanceName, bad: bool, text: &str) {
        let mark = match (bad, text.starts_with("ready")) {
            (true, _) => self.paint.bad("✗"),
            (false, true) => self.paint.good("●"),
            (false, false) => self.paint.warn("○"),
        };
        self.line(&format!("{mark} {name} {text}"));
    }

    /// News about an operation.
    pub fn op(&mut self, instance: Option<InstanceName>, text: &str) {
        self.line(&instance.map_or_else(|| text.to_owned(), |name| format!("{name}: {text}")));
    }

    /// End of an operation.
    pub fn end(&mut self, end: &pb::OpEnd, addresses: &[String]) {
        let text = report::end_text(end);
        if !text.is_empty() {
            self.line(&format!("\n{text}\n"));
        }
        if end.code == 0 {
            let message = self.paint.good(&end.message);
            self.line(&message);
            if end.message == "ready" {
                for address in addresses {
                    self.line(&format!("  {address}"));
                }
            }
        } else {
            self.failed(&end.message, &[]);
        }
    }

    /// A failure with its details, on standard error as well when that goes elsewhere.
    pub fn failed(&mut self, message: &str, details: &[String]) {
        let text = self.paint.bad(message);
        self.line(&text);
        for detail in details {
            self.line(&format!("  {detail}"));
        }
    }

    /// The first start is over: the waiting caller may go.
    pub fn detached(&mut self, code: u8) {
        if let Some(mut waiter) = self.waiter.take() {
            writeln!(waiter, "exit {code}").unwrap_or_default();
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.flush();
    }
}
