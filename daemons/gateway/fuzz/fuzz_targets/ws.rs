//! Any bytes through the WebSocket decoder: it must not panic, must use up its input, and must not depend on how the bytes are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wk_gateway::reactor::ws::{Decoder, Piece};

fn run<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut decoder = Decoder::default();
    let (mut all, mut out) = (Vec::new(), Vec::new());
    for mut input in chunks {
        loop {
            match decoder.next(&mut input, &mut out).ok()? {
                Piece::NeedMore => break,
                Piece::Data | Piece::Ping => all.extend_from_slice(&out),
                Piece::MessageEnd | Piece::Pong => all.push(0xff),
                Piece::Close => return Some(all),
            }
        }
        assert!(input.is_empty());
    }
    Some(all)
}

fuzz_target!(|bytes: &[u8]| {
    let cut = usize::from(bytes.first().copied().unwrap_or(1) % 16 + 1);
    assert_eq!(run([bytes]), run(bytes.chunks(cut)));
});
