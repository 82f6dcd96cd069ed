//! JSON-RPC texts of a client (wire protocol §14).

use wk_wire::jsonrpc::{self, Dialect, ErrorCode, Id, Method, Request, SplitError, results};
use wk_wire::limits::JSON_BYTES_MAX;
use wk_wire::{Send, crypto};

use super::conn::{Conn, Cx, End, Stage};
use crate::exchange::CloseReason;

impl Conn {
    /// Texts of a byte stream; returns how many bytes were used up.
    pub(super) fn json_stream(&mut self, bytes: &[u8], cx: &mut Cx<'_>) -> Result<usize, End> {
        let mut used = 0;
        loop {
            let rest = bytes.get(used..).unwrap_or_default();
            let Some(splitter) = &mut self.splitter else { return Ok(bytes.len()) };
            match splitter.next(rest) {
                Ok(Some(text)) => {
                    self.json_text(rest.get(text.start..text.end).unwrap_or_default(), cx)?;
                    used += text.end;
                }
                Ok(None) => return Ok(used + splitter.drain_space()),
                Err(error) => return Err(self.broken_stream(error, cx)),
            }
        }
    }

    /// Whole texts, back to back: what was parked.
    pub(super) fn json_texts(&mut self, bytes: &[u8], cx: &mut Cx<'_>) -> Result<(), End> {
        let mut rest = bytes;
        while let Ok(Some(text)) = jsonrpc::split(rest, JSON_BYTES_MAX) {
            self.json_text(rest.get(text.start..text.end).unwrap_or_default(), cx)?;
            rest = rest.get(text.end..).unwrap_or_default();
        }
        Ok(())
    }

    /// A stream that cannot be split any more is answered once and closed; without a word before the answer to CONNECT (§14.5).
    pub(super) fn broken_stream(&mut self, error: SplitError, cx: &mut Cx<'_>) -> End {
        if self.stage == Stage::Waiting {
            return End::MALFORMED;
        }
        let (code, message) = match error {
            SplitError::Start(_) => (ErrorCode::Parse, "parse error"),
            SplitError::OverLimit(_) => (ErrorCode::InvalidRequest, "text too long"),
        };
        self.put_with(cx, |out| results::error(out, None, code, message));
        End::after_flush(CloseReason::Malformed)
    }

    /// One text.
    pub(super) fn json_text(&mut self, text: &[u8], cx: &mut Cx<'_>) -> Result<(), End> {
        if self.stage == Stage::Waiting {
            self.park(text);
            return Ok(());
        }
        match jsonrpc::parse(text) {
            Ok(request) => self.request(request, text, cx),
            Err(error) => {
                self.put_with(cx, |out| {
                    results::rpc_error(out, &error);
                });
                let lost = error.code == ErrorCode::Parse && !self.is_ws;
                if lost || self.stage == Stage::Login { Err(End::after_flush(CloseReason::Malformed)) } else { Ok(()) }
            }
        }
    }

    fn request(&mut self, request: Request, text: &[u8], cx: &mut Cx<'_>) -> Result<(), End> {
        let Request { id, method, dialect } = request;
        match method {
            Method::Connect(connect) if self.stage == Stage::Login => self.login(connect, id, dialect, text.len(), cx),
            _ if self.stage == Stage::Login => {
                self.put_with(cx, |out| results::error(out, id.as_ref(), ErrorCode::InvalidRequest, "connect first"));
                Err(End::after_flush(CloseReason::Malformed))
            }
            Method::Connect(_) | Method::Unknown => Ok(()),
            Method::Send(_) if self.stage == Stage::Kicked => {
                cx.metrics.sends_ignored.inc();
                Ok(())
            }
            Method::Send(send) => {
                if self.parked.is_some() || !self.may_send(text.len(), cx) {
                    self.park(text);
                } else {
                    self.json_send(send, id, text.len(), cx);
                }
                Ok(())
            }
            Method::Recvack(ack) => {
                self.recvack(&ack, text.len(), cx);
                self.answer(id, cx, results::empty);
                Ok(())
            }
            Method::Ping => {
                cx.metrics.ping.add(text.len());
                cx.metrics.pong.add(1);
                self.answer(id, cx, results::pong);
                Ok(())
            }
            Method::Disconnect(_) => {
                self.answer(id, cx, results::empty);
                Err(End::after_flush(CloseReason::Farewell))
            }
            Method::Subscribe(sub) | Method::Unsubscribe(sub) => {
                let (suback, dialect): (_, Dialect) = (Self::suback(sub), self.dialect);
                self.answer(id, cx, |out, id| results::subscription(out, id, &suback, dialect));
                Ok(())
            }
        }
    }

    /// Answers a request; a notification gets nothing.
    fn answer(&self, id: Option<Id>, cx: &mut Cx<'_>, write: impl FnOnce(&mut Vec<u8>, &Id)) {
        if let Some(id) = id {
            self.put_with(cx, |out| write(out, &id));
        }
    }

    /// Hands over the parked `send` at the front of `rest`; returns its length, 0 when it must wait on.
    pub(super) fn unpark_text(&mut self, rest: &[u8], cx: &mut Cx<'_>) -> Result<usize, End> {
        let Ok(Some(text)) = jsonrpc::split(rest, JSON_BYTES_MAX) else { return Err(End::MALFORMED) };
        let bytes = rest.get(text.start..text.end).unwrap_or_default();
        if !self.may_send(bytes.len(), cx) {
            return Ok(0);
        }
        if let Ok(Request { id, method: Method::Send(send), .. }) = jsonrpc::parse(bytes) {
            self.json_send(send, id, bytes.len(), cx);
        }
        Ok(text.end)
    }

    /// Hands a `send` over; without a message number of the client it gets one of ours (wire protocol §11.1).
    fn json_send(&mut self, mut send: Send, id: Option<Id>, cost: usize, cx: &mut Cx<'_>) {
        if send.client_msg_no.is_empty() {
            // A kernel without randomness is the one error: the send goes without, as before there were numbers.
            send.client_msg_no = crypto::random_msg_no().unwrap_or_default();
        }
        self.send(&send.view(), id, cost, cx);
    }
}
