//! Vectors `frames`, of all versions.

use serde_json::Value;
use wk_wire::{decode_client, decode_server};

use crate::fixture::*;

fn check(vector: &Value) {
    let (id, version, fixture) = (text(vector, "id"), version(vector), Fixture::new(vector));
    assert_eq!(fixture.bytes.len(), number::<usize>(vector, "length"), "{id}");
    let frame = whole(&fixture.bytes);
    if text(vector, "dir") == "c2s" {
        let expected = fixture.client_frame();
        assert_eq!(decode_client(&frame.head, frame.body, version), Ok(expected.clone()), "{id}");
        assert_eq!(to_hex(&encode_client(&expected, version)), text(vector, "hex"), "{id}");
    } else {
        let expected = fixture.server_frame();
        assert_eq!(decode_server(&frame.head, frame.body, version), Ok(expected.clone()), "{id}");
        assert_eq!(to_hex(&encode_server(&expected, version)), text(vector, "hex"), "{id}");
    }
}

/// The frame's payload opens with the session's keys, and sealing it again gives the same bytes.
fn check_sealed(vector: &Value, vectors: &Value) {
    let Some(session_id) = vector["session"].as_str() else { return };
    let Some(plain) = vector["plain_utf8"].as_str() else { return };
    let (id, version, fixture) = (text(vector, "id"), version(vector), Fixture::new(vector));
    let keys = session(vectors, session_id);
    let (mut opened, mut sealed) = (Vec::new(), Vec::new());
    match text(vector, "type") {
        "SEND" => {
            keys.open_send(&fixture.send(), &mut opened).unwrap();
            let clear = wk_wire::SendRef { payload: plain.as_bytes(), msg_key: "", ..fixture.send() };
            wk_wire::encode::send_sealed(&mut sealed, &clear, version, &keys).unwrap();
        }
        "RECV" => {
            keys.open_recv(&fixture.recv(), &mut opened).unwrap();
            let clear = wk_wire::RecvRef { payload: plain.as_bytes(), msg_key: "", ..fixture.recv() };
            wk_wire::encode::recv_sealed(&mut sealed, &clear, version, &keys).unwrap();
        }
        _ => return,
    }
    assert_eq!(String::from_utf8(opened).unwrap(), plain, "{id}");
    assert_eq!(to_hex(&sealed), text(vector, "hex"), "{id}");
}

#[test]
fn every_vector_encodes_and_decodes() {
    let vectors = vectors();
    assert!(list(&vectors, "frames").len() >= 66);
    for vector in list(&vectors, "frames") {
        check(vector);
        check_sealed(vector, &vectors);
    }
}

#[test]
fn every_vector_of_version_6_encodes_and_decodes() {
    let (vectors, v6) = (vectors(), vectors_v6());
    assert!(list(&v6, "frames").len() >= 20);
    for vector in list(&v6, "frames") {
        check(vector);
        check_sealed(vector, &vectors);
    }
}

#[test]
fn the_copy_of_the_vectors_is_the_specification() {
    // A plain clone has no specification beside it; then there is nothing to compare with.
    if let Ok(shared) = std::fs::read(shared_vectors()) {
        assert_eq!(shared, std::fs::read(crate_dir().join("testdata/vectors/v1/wire-vectors.json")).unwrap());
    }
}

#[test]
fn a_cut_body_is_an_error_and_never_a_frame() {
    for vectors in [vectors(), vectors_v6()] {
        for vector in list(&vectors, "frames") {
            // Frames that end in all remaining bytes, and the optional end of SENDACK at version 6, have shorter forms that are legal.
            if ["SEND", "RECV", "EVENT"].contains(&text(vector, "type")) || text(vector, "id").starts_with("sendack-v6") {
                continue;
            }
            let fixture = Fixture::new(vector);
            let frame = whole(&fixture.bytes);
            for cut in 0..frame.body.len() {
                let body = &frame.body[..cut];
                if text(vector, "dir") == "c2s" {
                    assert!(decode_client(&frame.head, body, version(vector)).is_err(), "{} {cut}", text(vector, "id"));
                } else {
                    assert!(decode_server(&frame.head, body, version(vector)).is_err(), "{} {cut}", text(vector, "id"));
                }
            }
        }
    }
}
