//! Message ids fetched ahead, so that a message does not wait for its number.

use std::collections::VecDeque;

use crate::MessageId;

/// Ids that follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRun {
    /// First id.
    pub first: MessageId,
    /// How many.
    pub count: u32,
}

/// Ids in stock, handed out in the order they came.
#[derive(Debug, Default)]
pub struct IdStock {
    runs: VecDeque<IdRun>,
    left: u64,
}

impl IdStock {
    /// Adds runs.
    pub fn add(&mut self, runs: impl IntoIterator<Item = IdRun>) {
        for run in runs.into_iter().filter(|run| run.count > 0) {
            self.left += u64::from(run.count);
            self.runs.push_back(run);
        }
    }

    /// The next id.
    pub fn take(&mut self) -> Option<MessageId> {
        let run = self.runs.front_mut()?;
        let id = run.first;
        run.first += 1;
        run.count -= 1;
        self.left -= 1;
        if run.count == 0 {
            self.runs.pop_front();
        }
        Some(id)
    }

    /// Takes `count` ids out as runs; fewer when there are fewer.
    pub fn lend(&mut self, count: u32) -> Vec<IdRun> {
        let mut lent = Vec::new();
        let mut want = count;
        while want > 0
            && let Some(run) = self.runs.front_mut()
        {
            let part = run.count.min(want);
            lent.push(IdRun { first: run.first, count: part });
            run.first += i64::from(part);
            run.count -= part;
            want -= part;
            self.left -= u64::from(part);
            if run.count == 0 {
                self.runs.pop_front();
            }
        }
        lent
    }

    /// Ids left.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.left
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_comes_once_and_in_order() {
        let mut ids = IdStock::default();
        ids.add([IdRun { first: 10, count: 2 }, IdRun { first: 5, count: 0 }, IdRun { first: 20, count: 3 }]);
        assert_eq!(ids.take(), Some(10));
        assert_eq!(ids.lend(2), [IdRun { first: 11, count: 1 }, IdRun { first: 20, count: 1 }]);
        assert_eq!(ids.len(), 2);
        assert_eq!([ids.take(), ids.take(), ids.take()], [Some(21), Some(22), None]);
        assert!(ids.is_empty() && ids.lend(1).is_empty());
    }
}
