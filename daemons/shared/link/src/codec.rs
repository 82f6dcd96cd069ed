//! Fixed little vocabulary of all frames on the links: little-endian integers, `u16`-counted texts, `u32`-counted bytes.
//!
//! Reading never panics and never allocates: texts and bytes are slices of the input.

use bytes::{BufMut, BytesMut};

/// Bytes that are not a frame of ours: a bug or a foreign peer. The whole stream is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The input ends inside a field.
    #[error("frame ends inside field {0}")]
    Short(&'static str),
    /// A text is not UTF-8.
    #[error("field {0} is not UTF-8")]
    Text(&'static str),
    /// A field has a value outside its range.
    #[error("field {0} is out of range")]
    Range(&'static str),
}

/// Reads fields from the front of a slice.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

macro_rules! read_int {
    ($($name:ident: $ty:ty, $n:literal;)*) => {$(
        /// Reads one little-endian integer.
        ///
        /// # Errors
        /// [`DecodeError::Short`] when the input ends before it.
        pub fn $name(&mut self, field: &'static str) -> Result<$ty, DecodeError> {
            let (head, rest) = self.rest.split_first_chunk::<$n>().ok_or(DecodeError::Short(field))?;
            self.rest = rest;
            Ok(<$ty>::from_le_bytes(*head))
        }
    )*};
}

impl<'a> Reader<'a> {
    /// A reader at the start of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What was not read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// True when everything was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    read_int! {
        u8: u8, 1;
        u16: u16, 2;
        u32: u32, 4;
        u64: u64, 8;
        i64: i64, 8;
    }

    /// Reads a fixed array.
    ///
    /// # Errors
    /// [`DecodeError::Short`] when the input ends before it.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Short(field))?;
        self.rest = rest;
        Ok(*head)
    }

    /// Reads `len` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Short`] when the input ends before them.
    pub fn take(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::Short(field))?;
        self.rest = rest;
        Ok(head)
    }

    /// Reads a `u16`-counted text.
    ///
    /// # Errors
    /// [`DecodeError::Short`] or [`DecodeError::Text`].
    pub fn text(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        let len = usize::from(self.u16(field)?);
        std::str::from_utf8(self.take(len, field)?).map_err(|_| DecodeError::Text(field))
    }

    /// Reads `u32`-counted bytes.
    ///
    /// # Errors
    /// [`DecodeError::Short`].
    pub fn blob(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = usize::try_from(self.u32(field)?).map_err(|_| DecodeError::Range(field))?;
        self.take(len, field)
    }
}

/// Appends a `u16`-counted text; a longer one is cut at the limit (callers check lengths at the edge, where an error can still be answered).
pub fn put_text(out: &mut BytesMut, text: &str) {
    let bytes = text.as_bytes();
    let mut len = bytes.len().min(usize::from(u16::MAX));
    while !text.is_char_boundary(len) {
        len -= 1;
    }
    out.put_u16_le(u16::try_from(len).unwrap_or(u16::MAX));
    out.put_slice(bytes.get(..len).unwrap_or_default());
}

/// Appends `u32`-counted bytes.
///
/// # Panics
/// When `bytes` is 4 GiB or longer: every frame was checked against limits far below.
pub fn put_blob(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32_le(u32::try_from(bytes.len()).expect("frames are bounded far below 4 GiB"));
    out.put_slice(bytes);
}

/// Appends a frame with a `u32` byte count that is filled in after `body` has written it.
pub fn put_framed(out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let at = out.len();
    out.put_u32_le(0);
    body(out);
    let len = u32::try_from(out.len() - at - 4).unwrap_or(u32::MAX);
    if let Some(slot) = out.get_mut(at..at + 4) {
        slot.copy_from_slice(&len.to_le_bytes());
    }
}
