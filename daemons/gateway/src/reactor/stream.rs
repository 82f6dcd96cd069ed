//! From the socket's bytes to the byte stream of the client protocol: PROXY header, HTTP upgrade, WebSocket frames, detection.

use wk_wire::detect::{Detect, Options, ProxyMode, detect};
use wk_wire::jsonrpc::{ErrorCode, SplitError, Splitter, results};
use wk_wire::limits::JSON_BYTES_MAX;
use wk_wire::proxy::{self, Proxy};

use super::conn::{Conn, Cx, End, Stage};
use super::upgrade::{self, Upgrade};
use super::ws::{self, Opcode, Piece};
use crate::exchange::CloseReason;
use crate::limits::{INPUT_BYTES_MAX, JSON_INPUT_BYTES_MAX};

impl Conn {
    /// Bytes came from the socket.
    pub(super) fn on_bytes(&mut self, bytes: &[u8], cx: &mut Cx<'_>) -> Result<(), End> {
        self.active_ms = cx.now_ms;
        match self.stage {
            Stage::Start | Stage::Upgrade => self.before_stream(bytes, cx),
            Stage::Ended => Ok(()),
            _ if self.is_ws => self.ws_bytes(bytes, cx),
            _ => self.stream(bytes, cx),
        }
    }

    /// PROXY header and upgrade: both are whole before anything else is looked at.
    fn before_stream(&mut self, bytes: &[u8], cx: &mut Cx<'_>) -> Result<(), End> {
        let mut input = std::mem::take(&mut self.input);
        input.extend_from_slice(bytes);
        let mut rest = input.as_slice();
        while matches!(self.stage, Stage::Start | Stage::Upgrade) {
            let taken = if self.stage == Stage::Start { self.proxy_header(rest, cx)? } else { self.upgrade(rest, cx)? };
            let Some(taken) = taken else {
                let used = input.len() - rest.len();
                input.drain(..used);
                self.input = input;
                return Ok(());
            };
            rest = rest.get(taken..).unwrap_or_default();
        }
        if self.is_ws { self.ws_bytes(rest, cx) } else { self.stream(rest, cx) }
    }

    /// Bytes of the PROXY header; `None`: more are needed.
    fn proxy_header(&mut self, rest: &[u8], cx: &Cx<'_>) -> Result<Option<usize>, End> {
        let required = cx.settings.proxy == ProxyMode::Required;
        match proxy::parse(rest) {
            Proxy::NeedMore => Ok(None),
            Proxy::Header { consumed, source } if cx.settings.trusts(self.peer.ip()) => {
                self.peer = source.unwrap_or(self.peer);
                self.skip_proxy();
                Ok(Some(consumed))
            }
            Proxy::Absent if !required => {
                self.skip_proxy();
                Ok(Some(0))
            }
            Proxy::Header { .. } | Proxy::Invalid | Proxy::Absent => Err(End::MALFORMED),
        }
    }

    /// Bytes of the request head; `None`: more are needed.
    fn upgrade(&mut self, rest: &[u8], cx: &mut Cx<'_>) -> Result<Option<usize>, End> {
        match upgrade::parse(rest, cx.settings.trusts(self.peer.ip())) {
            Upgrade::NeedMore => Ok(None),
            Upgrade::Accept { consumed, response, forwarded } => {
                cx.out.extend_from_slice(&response);
                self.forwarded = forwarded;
                self.ws = Some(Box::default());
                self.is_ws = true;
                self.stage = Stage::Detect;
                Ok(Some(consumed))
            }
            Upgrade::Refuse(response) => {
                cx.out.extend_from_slice(response.as_bytes());
                Err(End::after_flush(CloseReason::Malformed))
            }
        }
    }

    fn ws_bytes(&mut self, bytes: &[u8], cx: &mut Cx<'_>) -> Result<(), End> {
        let Some(mut decoder) = self.ws.take() else { return Ok(()) };
        let mut unmasked = std::mem::take(cx.unmasked);
        let mut input = bytes;
        let result = loop {
            let Ok(piece) = decoder.next(&mut input, &mut unmasked) else { break Err(End::MALFORMED) };
            match self.ws_piece(&piece, &unmasked, cx) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(end) => break Err(end),
            }
        };
        self.ws = Some(decoder);
        *cx.unmasked = unmasked;
        result
    }

    /// Handles one piece; false when the input is used up.
    fn ws_piece(&mut self, piece: &Piece, payload: &[u8], cx: &mut Cx<'_>) -> Result<bool, End> {
        match piece {
            Piece::NeedMore => return Ok(false),
            Piece::Data => self.stream(payload, cx)?,
            Piece::MessageEnd if self.json => self.json_message(cx)?,
            Piece::MessageEnd | Piece::Pong => {}
            Piece::Ping => {
                ws::put_head(cx.out, Opcode::Pong, payload.len());
                cx.out.extend_from_slice(payload);
            }
            Piece::Close => return Err(End::after_flush(CloseReason::Farewell)),
        }
        Ok(self.stage != Stage::Ended)
    }

    /// Bytes of the client protocol's stream.
    fn stream(&mut self, bytes: &[u8], cx: &mut Cx<'_>) -> Result<(), End> {
        if self.json && self.is_ws {
            // A message boundary ends a text: it is looked at there.
            self.input.extend_from_slice(bytes);
        } else if self.input.is_empty() {
            let used = self.parse(bytes, cx)?;
            self.input.extend_from_slice(bytes.get(used..).unwrap_or_default());
        } else {
            let mut input = std::mem::take(&mut self.input);
            input.extend_from_slice(bytes);
            let used = self.parse(&input, cx)?;
            if used < input.len() {
                input.drain(..used);
                self.input = input;
            }
        }
        match self.input.len() {
            len if self.json && len > JSON_INPUT_BYTES_MAX => Err(self.broken_stream(SplitError::OverLimit(JSON_BYTES_MAX), cx)),
            len if len > INPUT_BYTES_MAX => Err(End::MALFORMED),
            _ => Ok(()),
        }
    }

    /// Handles all whole frames or texts at the front of `bytes`; returns how many bytes they are.
    fn parse(&mut self, bytes: &[u8], cx: &mut Cx<'_>) -> Result<usize, End> {
        let mut skipped = 0;
        if self.stage == Stage::Detect {
            match detect(bytes, Options { proxy: ProxyMode::Off, json: cx.settings.json }) {
                Detect::NeedMore => return Ok(0),
                Detect::Binary => {}
                Detect::Json { skip } => {
                    skipped = skip;
                    self.json = true;
                    if !self.is_ws {
                        self.splitter = Some(Box::new(Splitter::new(JSON_BYTES_MAX)));
                    }
                }
                Detect::Proxy { .. } | Detect::Close => return Err(End::MALFORMED),
            }
            self.stage = Stage::Login;
        }
        let rest = bytes.get(skipped..).unwrap_or_default();
        let used = match (self.json, self.is_ws) {
            (false, _) => self.binary_frames(rest, cx)?,
            (true, false) => self.json_stream(rest, cx)?,
            (true, true) => 0,
        };
        Ok(skipped + used)
    }

    /// A WebSocket message of JSON-RPC is complete: it holds whole texts, or an error is answered and the rest of it skipped.
    fn json_message(&mut self, cx: &mut Cx<'_>) -> Result<(), End> {
        let input = std::mem::take(&mut self.input);
        let mut splitter = Splitter::new(JSON_BYTES_MAX);
        let mut rest = input.as_slice();
        loop {
            match splitter.next(rest) {
                Ok(Some(text)) => {
                    self.json_text(rest.get(text.start..text.end).unwrap_or_default(), cx)?;
                    rest = rest.get(text.end..).unwrap_or_default();
                }
                Ok(None) if splitter.drain_space() == rest.len() => return Ok(()),
                Ok(None) | Err(_) => break,
            }
        }
        if self.stage == Stage::Waiting {
            // Nothing may be said before the answer to CONNECT (§14.5).
            return Err(End::MALFORMED);
        }
        self.put_with(cx, |out| results::error(out, None, ErrorCode::Parse, "parse error"));
        if self.stage == Stage::Login { Err(End::after_flush(CloseReason::Malformed)) } else { Ok(()) }
    }
}
