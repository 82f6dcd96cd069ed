//! RocksDB options of both databases. Numbers: [`crate::limits`]; reasons: `design/cluster.md` §3.4.

use std::fs::DirEntry;
use std::path::Path;

use rocksdb::{BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode, Options as DbOptions, SliceTransform};

use crate::cf::Cf;
use crate::limits::{
    DATA_WRITE_BUFFER_BYTES, DATA_WRITE_BUFFERS, FILES_PER_OPENING_THREAD, OPENING_THREADS_MAX, RAFT_CACHE_BYTES, RAFT_WAL_BYTES_MAX,
    RAFT_WRITE_BUFFER_BYTES, RAFT_WRITE_BUFFERS,
};
use crate::options::Options;

/// The engine handle used by both databases.
pub(crate) type Db = rocksdb::DBWithThreadMode<rocksdb::SingleThreaded>;

/// Names of the column families of `raftdb`.
pub(crate) const LOG: &str = "log";
/// Column family of votes, committed ids and purge marks.
pub(crate) const RMETA: &str = "rmeta";

/// Length of the prefix of `msg` keys: slot and channel number.
const MSG_PREFIX_BYTES: usize = 10;
/// Level of zstd: the fastest. Its window: what the engine takes by default.
const ZSTD_LEVEL: i32 = 1;
const ZSTD_WINDOW_BITS: i32 = -14;
/// Share of a write buffer that its bloom filter takes: about 10 bits for each index row.
const IDX_MEMTABLE_BLOOM: f64 = 0.02;

/// Threads that open the table files of a database of `files` of them. The engine begins as many for every column family, however little they
/// find to do: ten families and its 16 were 150 threads at each start of a fresh node.
fn opening_threads(files: usize) -> i32 {
    i32::try_from(files.div_ceil(FILES_PER_OPENING_THREAD)).unwrap_or(i32::MAX).clamp(1, OPENING_THREADS_MAX)
}

/// Table files in the folder of a database; a folder that cannot be read is the business of the open that follows.
fn table_files(path: &Path) -> usize {
    let is_table = |entry: &DirEntry| entry.path().extension().is_some_and(|e| e == "sst");
    std::fs::read_dir(path).map_or(0, |entries| entries.filter_map(Result::ok).filter(is_table).count())
}

fn common(options: &Options, path: &Path) -> DbOptions {
    let mut db = DbOptions::default();
    db.create_if_missing(true);
    db.create_missing_column_families(true);
    db.set_max_background_jobs(options.background_jobs);
    db.set_max_file_opening_threads(opening_threads(table_files(path)));
    db.set_paranoid_checks(true);
    db.set_write_buffer_manager(&options.buffers);
    db.set_keep_log_file_num(4);
    db.set_max_log_file_size(8 << 20);
    db.set_stats_dump_period_sec(0);
    db.set_stats_persist_period_sec(0);
    db.set_bytes_per_sync(1 << 20);
    db
}

/// Database options of `raftdb` in folder `path`.
pub(crate) fn raft_options(options: &Options, path: &Path) -> DbOptions {
    let mut db = common(options, path);
    db.set_max_total_wal_size(RAFT_WAL_BYTES_MAX);
    db.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    db
}

/// Column families of `raftdb`.
pub(crate) fn raft_families() -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(RAFT_CACHE_BYTES);
    [LOG, RMETA]
        .into_iter()
        .map(|name| {
            let mut cf = family_near(4);
            cf.set_write_buffer_size(RAFT_WRITE_BUFFER_BYTES);
            cf.set_max_write_buffer_number(RAFT_WRITE_BUFFERS);
            cf.set_compression_type(DBCompressionType::None);
            let mut table = BlockBasedOptions::default();
            table.set_block_cache(&cache);
            cf.set_block_based_table_factory(&table);
            ColumnFamilyDescriptor::new(name, cf)
        })
        .collect()
}

/// Database options of `datadb` in folder `path`.
pub(crate) fn data_options(options: &Options, path: &Path) -> DbOptions {
    let mut db = common(options, path);
    db.set_atomic_flush(true);
    db.set_ratelimiter(options.background_bytes_per_s, 100_000, 10);
    db
}

/// Column families of `datadb`.
pub(crate) fn data_families(options: &Options) -> Vec<ColumnFamilyDescriptor> {
    Cf::ALL.into_iter().map(|cf| ColumnFamilyDescriptor::new(cf.name(), data_family(cf, options))).collect()
}

fn data_family(cf: Cf, options: &Options) -> DbOptions {
    let mut family = family_near(near_bytes(cf));
    family.set_write_buffer_size(DATA_WRITE_BUFFER_BYTES);
    family.set_max_write_buffer_number(DATA_WRITE_BUFFERS);
    if cf == Cf::Idx {
        // Hashes do not compress, and each row is written twice: by a flush and by the first compaction.
        family.set_compression_type(DBCompressionType::None);
    } else {
        family.set_compression_type(DBCompressionType::Lz4);
        family.set_bottommost_compression_type(DBCompressionType::Zstd);
        // Every compaction of a young database writes the bottommost level, so its speed counts more than the last percent of size.
        family.set_bottommost_compression_options(ZSTD_WINDOW_BITS, ZSTD_LEVEL, 0, 0, true);
    }
    family.set_level_compaction_dynamic_level_bytes(true);
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&options.cache);
    if matches!(cf, Cf::Chan | Cf::Idx | Cf::Meta) {
        table.set_bloom_filter(10.0, false);
    }
    family.set_block_based_table_factory(&table);
    if cf == Cf::Idx {
        // Nearly every lookup by client number finds nothing: the filter answers it without a walk through the memtable.
        family.set_memtable_prefix_bloom_ratio(IDX_MEMTABLE_BLOOM);
        family.set_memtable_whole_key_filtering(true);
    }
    if cf == Cf::Msg {
        family.set_prefix_extractor(SliceTransform::create_fixed_prefix(MSG_PREFIX_BYTES));
    }
    family
}

/// First bytes of a key that two rows share when one is likely to be written next to the other.
fn near_bytes(cf: Cf) -> usize {
    match cf {
        Cf::Msg => MSG_PREFIX_BYTES,
        // Slot, kind, channel number.
        Cf::Idx => 11,
        // Group.
        Cf::Jrnl => 4,
        // The whole key: a row is overwritten again and again.
        Cf::Chan | Cf::Sys | Cf::Meta => 64,
    }
}

/// Options of a column family whose memtable remembers, for each prefix of `bytes`, where it inserted last: a sequential insert of one channel or
/// group costs a step from there instead of a walk from the head of the whole list, which misses the cache at every level.
fn family_near(bytes: usize) -> DbOptions {
    let hint = format!("memtable_insert_with_hint_prefix_extractor=rocksdb.CappedPrefix.{bytes}");
    // The text is a constant but for its number, and the library is the one this crate was built with.
    DbOptions::default().get_options_from_string(hint).expect("the engine knows its option")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_files_are_opened_by_one_thread_and_many_by_sixteen() {
        assert_eq!([0, 1, 32, 33, 512, 513, usize::MAX].map(opening_threads), [1, 1, 1, 2, 16, 16, 16]);
        let dir = tempfile::tempdir().unwrap();
        for name in ["000001.sst", "000002.log", "CURRENT", "000003.sst"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!((table_files(dir.path()), table_files(&dir.path().join("none"))), (2, 0));
    }
}
