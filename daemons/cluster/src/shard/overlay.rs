//! Rows of the batch under construction: reads go here first, so that results never depend on where the batch began.

use std::collections::HashMap;

use bytes::Bytes;
use wk_store::{Batch, Cf, DataDb, StoreError, keys};

/// Changes of one batch over the `meta` rows of the database.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    batch: Batch,
    rows: HashMap<Vec<u8>, Option<Bytes>>,
    /// Prefixes whose stored rows are removed; later puts are in `rows`.
    cleared: Vec<Vec<u8>>,
}

impl Overlay {
    pub(super) fn begin(&mut self) {
        self.batch.clear();
        self.rows.clear();
        self.cleared.clear();
    }

    /// The batch, for rows of other column families and for the write.
    pub(super) fn batch(&mut self) -> &mut Batch {
        &mut self.batch
    }

    pub(super) fn get(&self, db: &DataDb, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        if let Some(row) = self.rows.get(key) {
            return Ok(row.clone());
        }
        if self.cleared.iter().any(|prefix| key.starts_with(prefix)) {
            return Ok(None);
        }
        db.get(Cf::Meta, key)
    }

    pub(super) fn put(&mut self, key: Vec<u8>, value: &[u8]) {
        self.batch.put(Cf::Meta, &key, value);
        self.rows.insert(key, Some(Bytes::copy_from_slice(value)));
    }

    pub(super) fn delete(&mut self, key: Vec<u8>) {
        self.batch.delete(Cf::Meta, &key);
        self.rows.insert(key, None);
    }

    /// Removes every row whose key begins with `prefix`.
    pub(super) fn clear(&mut self, prefix: Vec<u8>) {
        self.batch.delete_range(Cf::Meta, &prefix, keys::prefix_end(&prefix));
        self.rows.retain(|key, _| !key.starts_with(&prefix));
        self.cleared.push(prefix);
    }
}
