//! A set of row changes that become visible and durable together.

use crate::cf::Cf;

/// One row change.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Op {
    Put { cf: Cf, key: Span, value: Span },
    Delete { cf: Cf, key: Span },
    DeleteRange { cf: Cf, from: Span, to: Span },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: usize,
    end: usize,
}

/// Row changes of one state machine step, over any column families. Order matters: a later change of the same key wins.
///
/// Keys and values are copied into one buffer, so building a batch costs no allocation per row.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    ops: Vec<Op>,
    bytes: Vec<u8>,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Write a row.
    pub fn put(&mut self, cf: Cf, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let key = self.keep(key.as_ref());
        let value = self.keep(value.as_ref());
        self.ops.push(Op::Put { cf, key, value });
    }

    /// Remove a row; a missing row is no error.
    pub fn delete(&mut self, cf: Cf, key: impl AsRef<[u8]>) {
        let key = self.keep(key.as_ref());
        self.ops.push(Op::Delete { cf, key });
    }

    /// Remove all rows with `from <= key < to`.
    pub fn delete_range(&mut self, cf: Cf, from: impl AsRef<[u8]>, to: impl AsRef<[u8]>) {
        let from = self.keep(from.as_ref());
        let to = self.keep(to.as_ref());
        self.ops.push(Op::DeleteRange { cf, from, to });
    }

    /// Row changes so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Bytes of keys and values so far.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Forget everything, keep the memory.
    pub fn clear(&mut self) {
        self.ops.clear();
        self.bytes.clear();
    }

    fn keep(&mut self, bytes: &[u8]) -> Span {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        Span { start, end: self.bytes.len() }
    }

    fn slice(&self, span: Span) -> &[u8] {
        // INVARIANT: spans are only made by `keep` and the buffer only grows, so the range always exists.
        self.bytes.get(span.start..span.end).unwrap_or_default()
    }

    /// Hand each change to `sink` in order.
    pub(crate) fn replay(&self, sink: &mut impl BatchSink) {
        for op in &self.ops {
            match *op {
                Op::Put { cf, key, value } => sink.put(cf, self.slice(key), self.slice(value)),
                Op::Delete { cf, key } => sink.delete(cf, self.slice(key)),
                Op::DeleteRange { cf, from, to } => sink.delete_range(cf, self.slice(from), self.slice(to)),
            }
        }
    }
}

/// Receives the changes of a [`Batch`].
pub(crate) trait BatchSink {
    fn put(&mut self, cf: Cf, key: &[u8], value: &[u8]);
    fn delete(&mut self, cf: Cf, key: &[u8]);
    fn delete_range(&mut self, cf: Cf, from: &[u8], to: &[u8]);
}
