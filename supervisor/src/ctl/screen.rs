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

/// Parts joined by `gap`, in lines of at most `width` columns; lines after the first begin with `indent`. A part is never cut.
pub(super) fn fill(parts: &[String], gap: &str, indent: &str, width: Option<usize>) -> String {
    let (mut text, mut column) = (String::new(), 0);
    for (index, part) in parts.iter().enumerate() {
        let columns = visible(part);
        if index > 0 && width.is_some_and(|w| column + gap.len() + columns > w) {
            text.push('\n');
            text.push_str(indent);
            column = indent.len();
        } else if index > 0 {
            text.push_str(gap);
            column += gap.len();
        }
        text.push_str(part);
        column += columns;
    }
    text
}

/// Columns of a text, which may have colours.
fn visible(text: &str) -> usize {
    cells(text).filter(|(_, shown)| *shown).count()
}

/// Characters, each with whether it takes a column; those of escape sequences (`ESC [ … letter`) do not.
fn cells(text: &str) -> impl Iterator<Item = (char, bool)> + '_ {
    let mut escape = false;
    text.chars().map(move |c| {
        let shown = !escape && c != '\x1b';
        escape = c == '\x1b' || (escape && !c.is_ascii_alphabetic());
        (c, shown)
    })
}

/// A line cut to `width` columns; colours that were begun are ended.
pub(super) fn fit(line: &str, width: usize) -> String {
    if visible(line) <= width {
        return line.to_owned();
    }
    let (mut text, mut column) = (String::new(), 0);
    for (c, shown) in cells(line) {
        // What follows the cut still ends its colour.
        if !shown || column + 1 < width {
            text.push(c);
            column += usize::from(shown);
        }
    }
    text.push('…');
    text
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
            // A line that wrapped would push the others off the screen.
            let columns = width().unwrap_or(usize::MAX);
            let lines: Vec<String> = picture.lines().take(rows).map(|l| fit(l, columns)).collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_by_what_is_seen_of_them() {
        assert_eq!(fit("abcdef", 6), "abcdef");
        assert_eq!(fit("abcdef", 4), "abc…");
        assert_eq!(fit("\x1b[32mabcdef\x1b[0m", 4), "\x1b[32mabc\x1b[0m…");
        assert_eq!(fit("\x1b[32mab\x1b[0m", 2), "\x1b[32mab\x1b[0m");
    }

    #[test]
    fn parts_are_filled_into_lines() {
        let parts = ["\x1b[1mabc\x1b[0m", "def", "ghi"].map(str::to_owned);
        assert_eq!(fill(&parts, "  ", " ", None), "\x1b[1mabc\x1b[0m  def  ghi");
        assert_eq!(fill(&parts, "  ", " ", Some(8)), "\x1b[1mabc\x1b[0m  def\n ghi");
    }
}
