use super::*;

fn slot(index: u16) -> Bucket {
    Bucket::from_index(index).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn encodes_the_golden_keys() {
    let channel = ChannelNumber(7);
    let client = ClientNo::of("alice", "no-1", b"hello world");
    let made = [
        ("sys", sys(SysKind::Applied, GroupId(3)).to_vec()),
        ("chan", chan(slot(1023), 2, b"group-1")),
        ("msg", msg(slot(1023), channel, 9).to_vec()),
        ("idx_message_id", idx_message_id(slot(5), -2).to_vec()),
        ("idx_client_no", idx_client_no(slot(5), channel, client).to_vec()),
        ("idx_sender", idx_sender(slot(5), channel, hash64(&[b"alice"]), 9).to_vec()),
        ("jrnl", jrnl(GroupId(2), 0x0102_0304_0506_0708).to_vec()),
        ("meta", meta(slot(0), 4, b"\0pk")),
        ("log", log(GroupId(33), 1).to_vec()),
        ("rmeta", rmeta(GroupId(33), 2).to_vec()),
        ("hash64", client.number.to_be_bytes().to_vec()),
        ("hash_payload", client.payload.to_be_bytes().to_vec()),
    ];
    let golden = include_str!("../../testdata/keys/v2/keys.txt");
    let lines: Vec<String> = made.iter().map(|(name, key)| format!("{name} {}", hex(key))).collect();
    assert_eq!(golden.lines().collect::<Vec<_>>(), lines);
    let v1 = include_str!("../../testdata/keys/v1/keys.txt");
    let changed: Vec<_> = v1.lines().filter(|line| !golden.lines().any(|l| l == *line)).collect();
    assert!(matches!(changed[..], [line] if line.starts_with("idx_client_no ")), "format 2 changed one key: {changed:?}");
}

#[test]
fn decodes_what_it_encodes() {
    let channel = ChannelNumber(u64::MAX);
    assert_eq!(sys_decode(&sys(SysKind::Cursors, GroupId(9))), Some((SysKind::Cursors, GroupId(9))));
    assert_eq!(chan_decode(&chan(slot(3), 2, b"x")), Some((slot(3), 2, b"x".as_slice())));
    assert_eq!(msg_decode(&msg(slot(3), channel, 4)), Some((slot(3), channel, 4)));
    assert_eq!(jrnl_decode(&jrnl(GroupId(1), 2)), Some((GroupId(1), 2)));
    assert_eq!(meta_decode(&meta(slot(3), 1, b"")), Some((slot(3), 1, b"".as_slice())));
    assert_eq!(rmeta_decode(&rmeta(GroupId(1), 3)), Some((GroupId(1), 3)));
    let message_id = IdxKey::MessageId { slot: slot(1), message_id: -1 };
    assert_eq!(idx_decode(&idx_message_id(slot(1), -1)), Some(message_id));
    let hashes = ClientNo { number: 5, payload: 6 };
    let client = IdxKey::ClientNo { slot: slot(1), channel, client: hashes };
    assert_eq!(idx_decode(&idx_client_no(slot(1), channel, hashes)), Some(client));
    assert!(idx_client_no(slot(1), channel, hashes).starts_with(&idx_client_no_prefix(slot(1), channel, 5)));
    let sender = IdxKey::Sender { slot: slot(1), channel, sender: 6, seq: 7 };
    assert_eq!(idx_decode(&idx_sender(slot(1), channel, 6, 7)), Some(sender));
}

#[test]
fn refuses_broken_keys() {
    assert_eq!(msg_decode(&[0; 17]), None, "too short");
    assert_eq!(msg_decode(&[0; 19]), None, "too long");
    assert_eq!(msg_decode(&[0xff; 18]), None, "no such slot");
    assert_eq!(idx_decode(&[0, 0, 9]), None, "no such index");
    assert_eq!(sys_decode(&[200, 0, 0, 0, 0]), None, "no such kind");
    assert_eq!(chan_decode(&[0]), None);
}

#[test]
fn prefix_end_bounds_exactly_the_prefix() {
    assert_eq!(prefix_end(&[1, 2]), vec![1, 3]);
    assert_eq!(prefix_end(&[1, 0xff]), vec![2]);
    assert!(prefix_end(&[0xff, 0xff]).as_slice() > [0xff; 27].as_slice());
}

#[test]
fn hash_separates_parts() {
    assert_ne!(hash64(&[b"ab", b"c"]), hash64(&[b"a", b"bc"]));
    assert_ne!(hash64(&[]), hash64(&[b""]));
}

#[test]
fn payloads_differ_in_any_byte_and_in_length() {
    let mut seen = std::collections::HashSet::new();
    for len in 0..40_usize {
        assert!(seen.insert(hash_payload(&vec![0; len])), "zeros of length {len}");
        for at in 0..len {
            let mut payload = vec![0; len];
            payload[at] = 1;
            assert!(seen.insert(hash_payload(&payload)), "length {len}, byte {at}");
        }
    }
}
