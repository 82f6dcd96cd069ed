//! CONNECTs that wait until the sessions of all gateways are known, and SENDs that wait for those of their own.

use wk_link::Kind;
use wk_link::item::{self, Body as _};
use wk_types::Reason;

use super::handle::{Out, Users, Work};
use crate::limits::PARKED_MAX;
use crate::origin::Now;

impl Users {
    /// Forgets the sessions of users who are not ours.
    pub fn keep(&mut self, owned: impl Fn(&str) -> bool) {
        self.presence.keep(owned);
    }

    /// Waits for sessions to become known. Above the bound the item is refused.
    pub(super) fn park(&mut self, work: &Work, out: &mut impl Out) {
        if self.parked.len() < PARKED_MAX {
            let Work { origin, sender, kind, ref body, stored } = *work;
            self.parked.push_back(Work { origin, sender, kind, body: body.clone(), stored });
            return;
        }
        match (item::Connect::decode(&work.body), item::Send::decode(&work.body)) {
            (Ok(c), _) if work.kind == Kind::Connect => {
                self.refuse_connect(work.origin, &c, Reason::SYSTEM_ERROR, Now { mono_ms: 0, unix_ms: c.client_timestamp_ms }, out);
            }
            (_, Ok(s)) => {
                self.refuse_send(work, &s, Reason::SYSTEM_ERROR, out);
            }
            _ => out.settle(work.origin),
        }
    }

    /// A connection ended before its CONNECT was handled: both are settled. True when it was so.
    pub(super) fn unpark_closed(&mut self, closed: &Work, out: &mut impl Out) -> bool {
        if self.parked.is_empty() {
            return false;
        }
        let Ok(c) = item::Closed::decode(&closed.body) else { return false };
        let is_it = |w: &Work| w.kind == Kind::Connect && item::Connect::decode(&w.body).is_ok_and(|x| x.conn == c.conn);
        let Some(at) = self.parked.iter().position(is_it) else { return false };
        if let Some(work) = self.parked.remove(at) {
            out.settle(work.origin);
        }
        out.settle(closed.origin);
        true
    }

    /// Handles what waited for sessions, as far as they are known now.
    pub(super) fn unpark(&mut self, now: Now, out: &mut impl Out) {
        if self.parked.is_empty() {
            return;
        }
        let complete = self.gateways.complete();
        let parked = std::mem::take(&mut self.parked);
        for work in parked {
            let ready = match work.kind {
                Kind::Send => self.gateways.slot_complete(work.sender.slot),
                _ => complete,
            };
            if ready {
                // What was asked before it was parked has been answered.
                self.admit(work, now, out);
            } else {
                self.parked.push_back(work);
            }
        }
    }
}
