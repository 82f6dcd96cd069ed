use proptest::prelude::*;

use super::*;

/// A client frame.
fn client(fin: bool, opcode: u8, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut out = vec![if fin { 0x80 } else { 0 } | opcode];
    match payload.len() {
        n @ 0..=125 => out.push(0x80 | u8::try_from(n).unwrap()),
        n @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&u16::try_from(n).unwrap().to_be_bytes());
        }
        n => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
    out
}

#[derive(Debug, PartialEq, Eq, Clone)]
enum Seen {
    Message(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Close(Vec<u8>),
}

/// Feeds the chunks and collects what came out.
fn run<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Seen>, WsError> {
    let mut decoder = Decoder::default();
    let (mut seen, mut message, mut out) = (Vec::new(), Vec::new(), Vec::new());
    for chunk in chunks {
        let mut input = chunk;
        loop {
            match decoder.next(&mut input, &mut out)? {
                Piece::NeedMore => break,
                Piece::Data => message.extend_from_slice(&out),
                Piece::MessageEnd => seen.push(Seen::Message(std::mem::take(&mut message))),
                Piece::Ping => seen.push(Seen::Ping(out.clone())),
                Piece::Pong => seen.push(Seen::Pong),
                Piece::Close => {
                    seen.push(Seen::Close(out.clone()));
                    return Ok(seen);
                }
            }
        }
        assert!(input.is_empty(), "need more means that everything was taken");
    }
    Ok(seen)
}

#[test]
fn joins_fragments_with_control_frames_between() {
    let mask = [1, 2, 3, 4];
    let stream = [
        client(false, 2, mask, b"ab"),
        client(true, 9, mask, b"ping"),
        client(false, 0, mask, b""),
        client(true, 0, mask, b"cd"),
        client(true, 1, mask, b""),
        client(true, 10, mask, b"x"),
        client(true, 8, mask, &[0x03, 0xe8]),
        client(true, 2, mask, b"never seen"),
    ]
    .concat();
    let expected = [
        Seen::Ping(b"ping".to_vec()),
        Seen::Message(b"abcd".to_vec()),
        Seen::Message(Vec::new()),
        Seen::Pong,
        Seen::Close(vec![0x03, 0xe8]),
    ];
    assert_eq!(run([stream.as_slice()]).unwrap(), expected);
    assert_eq!(run(stream.chunks(1)).unwrap(), expected);
}

#[test]
fn refuses_what_clients_may_not_send() {
    let mask = [9, 9, 9, 9];
    let cases: [(&[u8], WsError); 8] = [
        (&[0x82, 0x01, 0x00], WsError::Unmasked),
        (&[0xc2, 0x81], WsError::Reserved),
        (&[0x83], WsError::Opcode(3)),
        (&[0x8f], WsError::Opcode(15)),
        (&client(false, 9, mask, b""), WsError::Control),
        (&client(true, 9, mask, &[0; 126]), WsError::Control),
        (&client(true, 0, mask, b""), WsError::Fragments),
        (&[client(false, 2, mask, b"a"), client(true, 2, mask, b"b")].concat(), WsError::Fragments),
    ];
    for (bytes, error) in cases {
        assert_eq!(run([bytes]), Err(error), "{bytes:?}");
    }
    let long = [&[0x82, 0xff][..], &(WS_MESSAGE_BYTES_MAX + 1).to_be_bytes(), &mask].concat();
    assert_eq!(run([long.as_slice()]), Err(WsError::TooLong));
    let overflow = [&[0x02, 0x81][..], &mask, &[0], &[0x80, 0xff][..], &[0xff; 8], &mask].concat();
    assert_eq!(run([overflow.as_slice()]), Err(WsError::TooLong));
}

#[test]
fn heads_have_the_shortest_form() {
    for (len, head) in [(0, vec![0x82, 0]), (125, vec![0x82, 125]), (126, vec![0x82, 126, 0, 126]), (65_535, vec![0x82, 126, 0xff, 0xff])] {
        let mut out = Vec::new();
        put_head(&mut out, Opcode::Binary, len);
        assert_eq!(out, head);
    }
    let mut out = Vec::new();
    put_head(&mut out, Opcode::Text, 65_536);
    assert_eq!(out, [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
}

/// The corpus of the fuzz target runs here too, whole and in pieces.
#[test]
fn fuzz_corpus_replays() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/ws");
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let whole = run([bytes.as_slice()]);
        let pieces = run(bytes.chunks(3));
        if let (Ok(whole), Ok(pieces)) = (&whole, &pieces) {
            assert_eq!(whole, pieces);
        }
        assert_eq!(whole.is_ok(), pieces.is_ok());
        files += 1;
    }
    assert!(files > 0, "the corpus is there");
}

proptest! {
    #[test]
    fn messages_survive_any_cut(
        messages in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..300), any::<[u8; 4]>(), 1usize..5), 0..8),
        cut in 1usize..40,
    ) {
        let mut stream = Vec::new();
        for (payload, mask, parts) in &messages {
            let size = payload.len().div_ceil(*parts).max(1);
            let chunks: Vec<&[u8]> = if payload.is_empty() { vec![&[]] } else { payload.chunks(size).collect() };
            for (n, chunk) in chunks.iter().enumerate() {
                stream.extend(client(n + 1 == chunks.len(), if n == 0 { 2 } else { 0 }, *mask, chunk));
            }
        }
        let expected: Vec<_> = messages.into_iter().map(|(payload, ..)| Seen::Message(payload)).collect();
        prop_assert_eq!(run(stream.chunks(cut)).unwrap(), expected);
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 1usize..50) {
        let whole = run([bytes.as_slice()]);
        let pieces = run(bytes.chunks(cut));
        prop_assert_eq!(whole.is_ok(), pieces.is_ok());
    }
}
