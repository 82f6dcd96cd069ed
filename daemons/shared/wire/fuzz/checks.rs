//! What must hold for any bytes, one function per parser. Used by the fuzz targets and, on stable, by `tests/it/corpus.rs`.

use wk_wire::detect::{Detect, Options, ProxyMode};
use wk_wire::jsonrpc::{Method, Splitter, results};
use wk_wire::limits::{BODY_BYTES_MAX, JSON_BYTES_MAX};
use wk_wire::proxy::Proxy;
use wk_wire::{ClientFrame, Frame, ServerFrame, Version, decode_client, decode_server, encode, frame};

/// Every frame of the buffer: what decodes encodes, and decodes to the same again.
pub(crate) fn frame(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(Some((head, total))) = frame::split(rest, BODY_BYTES_MAX) {
        assert!(total <= rest.len() && total > 0);
        let body = head.body(rest).expect("a split frame is whole");
        for version in (0..=6).map(Version::negotiate) {
            if let Ok(found) = decode_client(&head, body, version) {
                client_again(&found, version);
            }
            if let Ok(found) = decode_server(&head, body, version) {
                server_again(&found, version);
            }
        }
        rest = rest.get(total..).expect("the frame is inside the buffer");
    }
}

fn client_again(found: &ClientFrame<'_>, version: Version) {
    let mut out = Vec::new();
    let encoded = match found {
        ClientFrame::Connect(x) => encode::connect(&mut out, x, version),
        ClientFrame::Send(x) => encode::send(&mut out, x, version),
        ClientFrame::Disconnect(x) => encode::disconnect(&mut out, x, version),
        ClientFrame::Sub(x) => encode::sub(&mut out, x, version),
        ClientFrame::Recvack(x) => {
            encode::recvack(&mut out, x, version);
            Ok(())
        }
        ClientFrame::Ping => {
            encode::ping(&mut out);
            Ok(())
        }
        ClientFrame::Ignored(_) => return,
    };
    encoded.expect("what was decoded fits a frame");
    let again = Frame::next(&out, usize::MAX).expect("our own frame").expect("a whole frame");
    assert_eq!(&decode_client(&again.head, again.body, version).expect("our own body"), found);
}

fn server_again(found: &ServerFrame<'_>, version: Version) {
    let mut out = Vec::new();
    // A CONNACK says itself whether it has the fields of version 4.
    let encoded = match found {
        ServerFrame::Connack(x) if x.server_version == 0 && x.node_id == 0 => encode::connack(&mut out, x, Version::V1),
        ServerFrame::Connack(x) => encode::connack(&mut out, x, Version::V5),
        ServerFrame::Sendack(x) => encode::sendack(&mut out, x, version),
        ServerFrame::Recv(x) => encode::recv(&mut out, x, version),
        ServerFrame::Disconnect(x) => encode::disconnect(&mut out, x, version),
        ServerFrame::Suback(x) => encode::suback(&mut out, x, version),
        ServerFrame::Event(x) => encode::event(&mut out, x, version),
        ServerFrame::Pong => {
            encode::pong(&mut out);
            Ok(())
        }
        ServerFrame::Ignored(_) => return,
    };
    encoded.expect("what was decoded fits a frame");
    let again = Frame::next(&out, usize::MAX).expect("our own frame").expect("a whole frame");
    assert_eq!(&decode_server(&again.head, again.body, version).expect("our own body"), found);
}

/// Every text of the stream: splitting in two pieces finds the same, parsing ends in a request or in an answer that is a JSON text itself.
pub(crate) fn jsonrpc(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(Some(text)) = wk_wire::jsonrpc::split(rest, JSON_BYTES_MAX) {
        assert!(text.start < text.end && text.end <= rest.len());
        let mut pieces = Splitter::new(JSON_BYTES_MAX);
        let cut = rest.get(..text.end / 2).expect("half of the text is inside");
        assert_eq!(pieces.next(cut), Ok(None));
        assert_eq!(pieces.next(rest), Ok(Some(text)));
        parse(rest.get(text.start..text.end).expect("the text is inside"));
        rest = rest.get(text.end..).expect("the text is inside");
    }
    parse(bytes);
}

fn parse(text: &[u8]) {
    let mut out = Vec::new();
    match wk_wire::jsonrpc::parse(text) {
        Ok(request) => {
            if let Method::Send(send) = &request.method {
                assert!(send.payload.len() <= text.len());
            }
            let Some(id) = &request.id else { return };
            results::empty(&mut out, id);
        }
        Err(error) => {
            if !results::rpc_error(&mut out, &error) {
                return;
            }
        }
    }
    let found = wk_wire::jsonrpc::split(&out, usize::MAX).expect("our own text").expect("a whole text");
    assert_eq!((found.start, found.end), (0, out.len()));
}

/// A header is inside the bytes, and no shorter prefix says anything else than to wait.
pub(crate) fn proxy(bytes: &[u8]) {
    let result = wk_wire::proxy::parse(bytes);
    if let Proxy::Header { consumed, .. } = result {
        assert!(consumed <= bytes.len());
        for cut in 0..consumed {
            assert_eq!(wk_wire::proxy::parse(bytes.get(..cut).expect("a prefix")), Proxy::NeedMore);
        }
    }
}

/// A decision does not change when more bytes arrive.
pub(crate) fn detect(bytes: &[u8]) {
    for proxy in [ProxyMode::Auto, ProxyMode::Off, ProxyMode::Required] {
        for json in [true, false] {
            let options = Options { proxy, json };
            let decided = wk_wire::detect::detect(bytes, options);
            match decided {
                Detect::Proxy { consumed, .. } => assert!(consumed <= bytes.len()),
                Detect::Json { skip } => assert_eq!(bytes.get(skip), Some(&b'{')),
                Detect::Binary => assert_eq!(bytes.first().map(|byte| byte >> 4), Some(1)),
                Detect::NeedMore | Detect::Close => {}
            }
            for cut in 0..bytes.len().min(300) {
                let early = wk_wire::detect::detect(bytes.get(..cut).expect("a prefix"), options);
                assert!(early == Detect::NeedMore || early == decided, "{early:?} became {decided:?}");
            }
        }
    }
}
