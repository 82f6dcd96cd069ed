//! Redraws a view in place, and gives the terminal back as it was.

use std::io::{self, IsTerminal, Write};

/// Columns of the terminal; `None`: standard output is none.
pub(super) fn width() -> Option<usize> {
    rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_col)).filter(|w| *w > 0)
}

/// Rows of the terminal.
pub(super) fn height() -> Option<usize> {
    rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_row)).filter(|h| *h > 0)
}

/// A view that is drawn again and again. On a pipe each picture is printed once, when it differs from the last.
#[derive(Debug)]
pub(super) struct Screen {
    terminal: bool,
    last: String,
}

impl Screen {
    pub(super) fn open() -> io::Result<Self> {
        let terminal = io::stdout().is_terminal();
        if terminal {
            // Alternate screen, no cursor: what was there before comes back at the end.
            write!(io::stdout(), "\x1b[?1049h\x1b[?25l")?;
        }
        Ok(Self { terminal, last: String::new() })
    }

    /// Shows a picture, cut to the height of the terminal.
    pub(super) fn draw(&mut self, picture: &str) -> io::Result<()> {
        if picture == self.last {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        if self.terminal {
            let rows = height().unwrap_or(usize::MAX);
            let lines: Vec<&str> = picture.lines().take(rows).collect();
            // Line by line over the old picture: no flicker, and what was longer is wiped.
            write!(out, "\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\r\n"))?;
        } else {
            writeln!(out, "{picture}")?;
        }
        out.flush()?;
        picture.clone_into(&mut self.last);
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.terminal {
            // Where the terminal is gone, nothing needs to be given back.
            let mut out = io::stdout();
            write!(out, "\x1b[?25h\x1b[?1049l").and_then(|()| out.flush()).unwrap_or_default();
        }
    }
}
