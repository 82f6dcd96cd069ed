//! Vectors `batches`, `varint`, `varint_bad`: the splitter.

use wk_wire::frame::{FrameHead, split};
use wk_wire::limits::{BODY_BYTES_MAX, LENGTH_MAX};
use wk_wire::{FrameError, FrameType};

use crate::fixture::*;

#[test]
fn chunks_give_the_frames() {
    let vectors = vectors();
    for batch in list(&vectors, "batches") {
        let (mut buf, mut frames) = (Vec::new(), Vec::new());
        for chunk in list(batch, "chunks") {
            buf.extend(hex(chunk.as_str().unwrap()));
            while let Some((_, total)) = split(&buf, BODY_BYTES_MAX).unwrap() {
                frames.push(to_hex(&buf[..total]));
                buf.drain(..total);
            }
        }
        let expected: Vec<_> = list(batch, "frames")
            .iter()
            .map(|id| text(list(&vectors, "frames").iter().find(|frame| frame["id"] == *id).unwrap(), "hex").to_owned())
            .collect();
        assert_eq!(frames, expected, "{}", text(batch, "id"));
        assert!(buf.is_empty());
    }
}

/// The head of a SEND with this remaining length.
fn head(length: &str) -> Result<Option<FrameHead>, FrameError> {
    FrameHead::parse(&[vec![0x30], hex(length)].concat(), LENGTH_MAX)
}

#[test]
fn remaining_lengths() {
    let vectors = vectors();
    for vector in list(&vectors, "varint") {
        let length = text(vector, "hex");
        let head = head(length).unwrap().unwrap();
        assert_eq!((head.kind, head.body_len, head.head_len), (FrameType::Send, number(vector, "value"), 1 + length.len() / 2));
    }
    for vector in list(&vectors, "varint_bad") {
        let result = head(text(vector, "hex"));
        match text(vector, "expect") {
            "error" => assert_eq!(result, Err(FrameError::LongLength)),
            "need more data" => assert_eq!(result, Ok(None)),
            zero => {
                assert!(zero.starts_with("0 "));
                assert_eq!(result.unwrap().unwrap().body_len, 0);
            }
        }
    }
}
