use wk_store::{Batch, Cf, DataDb, Direction, OpenError, Options, keys};

fn open(path: &std::path::Path) -> DataDb {
    DataDb::open(path, &Options::new(8 << 20)).unwrap()
}

#[test]
fn batch_is_visible_at_once_and_survives_a_flush() {
    let dir = tempfile::tempdir().unwrap();
    {
        let db = open(dir.path());
        let mut batch = Batch::new();
        batch.put(Cf::Meta, b"a", b"1");
        batch.put(Cf::Chan, b"b", b"2");
        batch.put(Cf::Meta, b"gone", b"x");
        batch.delete(Cf::Meta, b"gone");
        db.write(&batch).unwrap();
        assert_eq!(db.get(Cf::Meta, b"a").unwrap().unwrap().as_ref(), b"1");
        assert_eq!(db.get(Cf::Meta, b"gone").unwrap(), None);
        assert!(db.unflushed_bytes() > 0);
        db.flush().unwrap();
        assert_eq!(db.unflushed_bytes(), 0);
        assert!(db.stats().files_bytes > 0);
    }
    let db = open(dir.path());
    let rows = db.multi_get(Cf::Meta, &[b"a".as_slice(), b"none".as_slice()]).unwrap();
    assert_eq!(rows[0].as_deref(), Some(b"1".as_slice()));
    assert_eq!(rows[1], None);
    assert_eq!(db.get(Cf::Chan, b"b").unwrap().unwrap().as_ref(), b"2");
}

#[test]
fn range_is_bounded_in_both_directions() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let slot = wk_types::Bucket::from_index(7).unwrap();
    let channel = keys::ChannelNumber(1);
    let mut batch = Batch::new();
    for seq in 1..=10_u64 {
        batch.put(Cf::Msg, keys::msg(slot, channel, seq), seq.to_be_bytes());
        batch.put(Cf::Msg, keys::msg(slot, keys::ChannelNumber(2), seq), b"other");
    }
    db.write(&batch).unwrap();
    let seqs = |direction, limit| -> Vec<u64> {
        let (from, to) = (keys::msg(slot, channel, 3), keys::msg(slot, channel, 9));
        let rows = db.range(Cf::Msg, from, to, direction, limit).unwrap();
        rows.into_iter().map(|(key, _)| keys::msg_decode(&key).unwrap().2).collect()
    };
    assert_eq!(seqs(Direction::Forward, 100), [3, 4, 5, 6, 7, 8]);
    assert_eq!(seqs(Direction::Backward, 2), [8, 7]);
    assert_eq!(seqs(Direction::Forward, 0), Vec::<u64>::new());
    let whole = db.range(Cf::Msg, [], keys::prefix_end(&[0xff; 32]), Direction::Forward, 100).unwrap();
    assert_eq!(whole.len(), 20, "a range may span prefixes");
    let mut cut = Batch::new();
    cut.delete_range(Cf::Msg, keys::msg(slot, channel, 0), keys::msg(slot, channel, 6));
    db.write(&cut).unwrap();
    assert_eq!(seqs(Direction::Forward, 100), [6, 7, 8]);
}

#[test]
fn refuses_another_key_format() {
    let dir = tempfile::tempdir().unwrap();
    {
        let db = open(dir.path());
        let mut batch = Batch::new();
        batch.put(Cf::Sys, keys::format(), 99_u32.to_be_bytes());
        db.write(&batch).unwrap();
        db.flush().unwrap();
    }
    let error = DataDb::open(dir.path(), &Options::default()).unwrap_err();
    assert!(matches!(error, OpenError::Format { found: 99, .. }), "{error}");
}

#[test]
fn refuses_a_folder_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let _db = open(dir.path());
    let error = DataDb::open(dir.path(), &Options::default()).unwrap_err();
    assert!(matches!(error, OpenError::Engine { .. }), "{error}");
}
