//! Binary frames of a client (wire protocol §8.5).

use wk_wire::limits::FRAME_BYTES_MAX;
use wk_wire::{ClientFrame, FrameHead, FrameType, decode_client, encode, frame};

use super::conn::{Conn, Cx, End, Stage};
use crate::exchange::CloseReason;

impl Conn {
    /// Handles all whole frames at the front of `bytes`; returns how many bytes they are.
    pub(super) fn binary_frames(&mut self, bytes: &[u8], cx: &mut Cx<'_>) -> Result<usize, End> {
        debug_assert!(cx.settings.frame_bytes_max <= FRAME_BYTES_MAX, "the decoder's limit holds");
        let mut used = 0;
        while let Some(rest) = bytes.get(used..).filter(|rest| !rest.is_empty()) {
            let split = frame::split(rest, cx.settings.frame_bytes_max).map_err(|_| End::MALFORMED)?;
            let Some((head, total)) = split else { break };
            self.frame(&head, rest.get(..total).unwrap_or_default(), cx)?;
            used += total;
        }
        Ok(used)
    }

    fn frame(&mut self, head: &FrameHead, raw: &[u8], cx: &mut Cx<'_>) -> Result<(), End> {
        let send = self.stage == Stage::Open && head.kind == FrameType::Send;
        if self.stage == Stage::Waiting || (send && (self.parked.is_some() || !self.may_send(raw.len(), cx))) {
            self.park(raw);
            return Ok(());
        }
        if self.stage == Stage::Login && head.kind != FrameType::Connect {
            return Err(End::MALFORMED);
        }
        let body = head.body(raw).unwrap_or_default();
        let frame = decode_client(head, body, self.version).map_err(|_| End::MALFORMED)?;
        match frame {
            ClientFrame::Connect(connect) if self.stage == Stage::Login => {
                self.login(connect, None, wk_wire::jsonrpc::Dialect::Camel, raw.len(), cx)?;
            }
            ClientFrame::Send(_) if self.stage == Stage::Kicked => cx.metrics.sends_ignored.inc(),
            ClientFrame::Send(send) => self.send(&send, None, raw.len(), cx),
            ClientFrame::Recvack(ack) => self.recvack(&ack, raw.len(), cx),
            ClientFrame::Ping => {
                cx.metrics.ping.add(1);
                cx.metrics.pong.add(1);
                self.put_with(cx, encode::pong);
            }
            ClientFrame::Sub(sub) => {
                let suback = Self::suback(sub);
                let version = self.version;
                let mut encoded = Ok(());
                self.put_with(cx, |out| encoded = encode::suback(out, &suback, version));
                // Its strings came from a frame, so they fit one.
                debug_assert!(encoded.is_ok(), "an echo fits a frame");
            }
            ClientFrame::Disconnect(_) => return Err(End::after_flush(CloseReason::Farewell)),
            ClientFrame::Connect(_) | ClientFrame::Ignored(_) => {}
        }
        Ok(())
    }

    /// Hands over the parked SEND at the front of `rest`; returns its length, 0 when it must wait on.
    pub(super) fn unpark_frame(&mut self, rest: &[u8], cx: &mut Cx<'_>) -> Result<usize, End> {
        let split = frame::split(rest, cx.settings.frame_bytes_max).map_err(|_| End::MALFORMED)?;
        let Some((head, total)) = split.filter(|(_, total)| self.may_send(*total, cx)) else { return Ok(0) };
        let body = head.body(rest).unwrap_or_default();
        if let ClientFrame::Send(send) = decode_client(&head, body, self.version).map_err(|_| End::MALFORMED)? {
            self.send(&send, None, total, cx);
        }
        Ok(total)
    }
}
