//! Finds JSON texts in a byte stream (§14.1): white space is skipped, strings and escapes are respected, nothing is allocated.

use crate::detect::is_space;

/// Where a text lies in the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text {
    /// First byte of the text.
    pub start: usize,
    /// One behind its last byte: drop this many bytes from the buffer when done.
    pub end: usize,
}

/// Why a byte stream cannot be split; it cannot be resynchronised, so the connection is closed (−32700 first).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// A text starts with this byte instead of a bracket.
    #[error("json text starts with byte {0:#04x}")]
    Start(u8),
    /// A text, with the white space in front of it, is longer than the limit.
    #[error("json text is over the limit of {0} bytes")]
    OverLimit(usize),
}

/// Splitter that remembers how far it has looked, so that a text which arrives in many pieces is looked at once.
///
/// A text is an object, or an array: the latter is not a legal request, but it has an end, so the connection can go on.
#[derive(Debug, Clone)]
pub struct Splitter {
    bytes_max: usize,
    /// Bytes of the buffer already looked at.
    at: usize,
    start: Option<usize>,
    /// Open brackets of both kinds. That they match is for the parser to check.
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Splitter {
    /// A splitter for texts of at most `bytes_max` bytes, usually [`crate::limits::JSON_BYTES_MAX`].
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, at: 0, start: None, depth: 0, in_string: false, escaped: false }
    }

    /// The first text of `buf`, or `None` while it is incomplete.
    ///
    /// `buf` must start with the same bytes as at the last call that returned `None`. After a text was returned the caller drops
    /// `text.end` bytes from the front, and the next call starts afresh.
    ///
    /// # Errors
    ///
    /// [`SplitError`]; the splitter must not be used any more.
    pub fn next(&mut self, buf: &[u8]) -> Result<Option<Text>, SplitError> {
        let window = buf.get(..self.bytes_max).unwrap_or(buf);
        for &byte in window.get(self.at..).unwrap_or_default() {
            self.at += 1;
            if self.step(byte)? {
                let text = Text { start: self.start.unwrap_or(0), end: self.at };
                *self = Self::new(self.bytes_max);
                return Ok(Some(text));
            }
        }
        if window.len() >= self.bytes_max { Err(SplitError::OverLimit(self.bytes_max)) } else { Ok(None) }
    }

    /// Bytes of white space at the front of the buffer of the last call that can be dropped before the next one: all of it, if no text has
    /// begun. The splitter then starts afresh.
    pub fn drain_space(&mut self) -> usize {
        if self.start.is_some() { 0 } else { std::mem::take(&mut self.at) }
    }

    /// Takes the next byte; true when it ends the text.
    fn step(&mut self, byte: u8) -> Result<bool, SplitError> {
        if self.start.is_none() {
            match byte {
                b'{' | b'[' => {
                    self.start = Some(self.at - 1);
                    self.depth = 1;
                }
                space if is_space(space) => {}
                other => return Err(SplitError::Start(other)),
            }
            return Ok(false);
        }
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return Ok(false);
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth -= 1,
            _ => {}
        }
        Ok(self.depth == 0)
    }
}

/// The first text of `buf`, without memory between calls; for whole messages.
///
/// # Errors
///
/// As [`Splitter::next`].
pub fn split(buf: &[u8], bytes_max: usize) -> Result<Option<Text>, SplitError> {
    Splitter::new(bytes_max).next(buf)
}
