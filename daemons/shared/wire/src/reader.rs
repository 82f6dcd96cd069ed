//! Cursor over the body of a frame: every read is checked, strings are borrowed (§1).

use crate::FrameError;

/// What is left of a body.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], FrameError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(FrameError::Short(field))?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, FrameError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, FrameError> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(crate) fn i32(&mut self, field: &'static str) -> Result<i32, FrameError> {
        self.array(field).map(i32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, FrameError> {
        self.array(field).map(u64::from_be_bytes)
    }

    pub(crate) fn i64(&mut self, field: &'static str) -> Result<i64, FrameError> {
        self.array(field).map(i64::from_be_bytes)
    }

    /// A sequence number: 8 bytes when `wide`, else 4.
    pub(crate) fn seq(&mut self, field: &'static str, wide: bool) -> Result<u64, FrameError> {
        if wide { self.u64(field) } else { self.u32(field).map(u64::from) }
    }

    /// A string; a count of 0x8000 and more is negative and thus an error.
    pub(crate) fn str(&mut self, field: &'static str) -> Result<&'a str, FrameError> {
        let count = self.array(field).map(i16::from_be_bytes)?;
        let count = usize::try_from(count).map_err(|_| FrameError::Short(field))?;
        let (text, rest) = self.rest.split_at_checked(count).ok_or(FrameError::Short(field))?;
        self.rest = rest;
        std::str::from_utf8(text).map_err(|_| FrameError::NotUtf8(field))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// All bytes up to the end.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }
}
