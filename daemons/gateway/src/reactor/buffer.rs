//! Output buffers that go round: an idle connection has none, a busy one borrows its memory from the pool.

use crate::limits::{POOLED_BUFFER_BYTES_MAX, POOLED_BUFFERS_MAX};

/// Spare buffers of one reactor.
#[derive(Debug, Default)]
pub struct Pool {
    spare: Vec<Vec<u8>>,
}

impl Pool {
    /// An empty buffer, with memory when there is a spare one.
    #[must_use]
    pub fn get(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes a buffer back; large ones and those above the bound are freed.
    pub fn put(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() > 0 && buffer.capacity() <= POOLED_BUFFER_BYTES_MAX && self.spare.len() < POOLED_BUFFERS_MAX {
            buffer.clear();
            self.spare.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_small_buffers_only() {
        let mut pool = Pool::default();
        pool.put(vec![1; 10]);
        pool.put(vec![1; POOLED_BUFFER_BYTES_MAX + 1]);
        pool.put(Vec::new());
        assert_eq!(pool.spare.len(), 1);
        let buffer = pool.get();
        assert!(buffer.is_empty() && buffer.capacity() >= 10);
        assert_eq!(pool.get().capacity(), 0);
    }
}
