use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn membership() -> Membership {
    Membership::new_with_defaults(vec![BTreeSet::from([1])], [1, 2])
}

fn entry(payload: openraft::EntryPayload<Command, u64, ()>) -> RawEntry {
    RawEntry { log_id: log_id(3, 7), payload }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn records() -> Vec<(&'static str, Bytes)> {
    let stored = StoredMembership::new(Some(log_id(3, 4)), membership());
    vec![
        ("blank", entry_encode(&entry(EntryPayload::Blank))),
        ("command", entry_encode(&entry(EntryPayload::Normal(Command(Bytes::from_static(b"hi")))))),
        ("membership", entry_encode(&entry(EntryPayload::Membership(membership())))),
        ("vote", vote_encode(&Vote::new_committed(5, 2))),
        ("log_id", log_id_encode(&log_id(3, 9))),
        ("applied", applied_encode(Some(&log_id(3, 9)), &stored)),
    ]
}

#[test]
fn encodes_the_golden_records() {
    let golden = include_str!("../../testdata/raft/v1/records.txt");
    let lines: Vec<String> = records().iter().map(|(name, record)| format!("{name} {}", hex(record))).collect();
    assert_eq!(golden.lines().collect::<Vec<_>>(), lines);
}

#[test]
fn decodes_what_it_encodes() {
    for payload in [EntryPayload::Blank, EntryPayload::Normal(Command(Bytes::from_static(b"hi"))), EntryPayload::Membership(membership())] {
        let entry = entry(payload);
        assert_eq!(entry_decode(7, entry_encode(&entry)), Some(entry));
    }
    assert_eq!(vote_decode(vote_encode(&Vote::new(5, 2))), Some(Vote::new(5, 2)));
    assert_eq!(log_id_decode(log_id_encode(&log_id(1, 2))), Some(log_id(1, 2)));
    let stored = StoredMembership::new(None, membership());
    assert_eq!(applied_decode(applied_encode(None, &stored)), Some((None, stored)));
}

proptest! {
    /// Foreign bytes never panic, and a cut or extended record is never taken for a whole one.
    #[test]
    fn broken_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64), cut in 0_usize..64) {
        let bytes = Bytes::from(bytes);
        drop((entry_decode(0, bytes.clone()), vote_decode(bytes.clone()), log_id_decode(bytes.clone()), applied_decode(bytes)));
        for (name, record) in records() {
            let short = record.slice(..cut.min(record.len() - 1));
            let taken = match name {
                "vote" => vote_decode(short).is_some(),
                "log_id" => log_id_decode(short).is_some(),
                "applied" => applied_decode(short).is_some(),
                // A command ends where its value ends.
                "command" => false,
                _ => entry_decode(0, short).is_some(),
            };
            prop_assert!(!taken, "{name} cut to {cut}");
        }
    }
}
