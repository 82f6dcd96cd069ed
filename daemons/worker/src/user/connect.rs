//! Logins: CONNECT to CONNACK, and kicks (`spec/semantics.md` §2).

use std::sync::Arc;

use smallvec::SmallVec;
use wk_link::item;
use wk_types::{ConnId, DeviceFlag, DeviceLevel, Reason};

use super::cache::{Session, Want};
use super::handle::{Out, Step, Users, Work};
use super::{kick, login};
use crate::origin::{Now, Origin};

impl Users {
    /// One CONNECT.
    pub(super) fn connect(&mut self, work: &Work, c: &item::Connect<'_>, now: Now, out: &mut impl Out) -> Step {
        if self.presence.get(c.conn).is_some() {
            // A replay: the gateway has registered the session, so it has the CONNACK with these very keys.
            out.settle(work.origin);
            return Step::Done;
        }
        if !self.gateways.complete() {
            self.park(work, out);
            return Step::Done;
        }
        let device = match login::needs_device(&self.rules, c.uid).then(|| self.rows.device(c.uid, c.device_flag)) {
            None => None,
            Some(None) => return Step::Need(Want::Device(c.device_flag)),
            Some(Some(row)) => row,
        };
        let Some(info) = self.rows.info(c.uid) else { return Step::Need(Want::Info) };
        let verdict = login::admit(&self.rules, c, device.as_ref(), info);
        match verdict.and_then(|level| Ok((level, login::agree(&self.rules, c)?))) {
            Ok(access) => self.let_in(work, c, &access, now, out),
            Err(reason) => self.refuse_connect(work.origin, c, reason, now, out),
        }
        Step::Done
    }

    fn let_in(&mut self, work: &Work, c: &item::Connect<'_>, access: &(DeviceLevel, login::Keys), now: Now, out: &mut impl Out) {
        let (level, keys) = (access.0, &access.1);
        let same_flag = self.presence.of(c.uid).filter(|s| s.flag == c.device_flag && !s.kicked);
        let orders: SmallVec<[(ConnId, kick::Order); 2]> =
            same_flag.filter_map(|s| Some((s.conn, kick::by_login(level, c.device_id, &s.device_id)?))).collect();
        for (conn, order) in orders {
            self.kick(conn, order, out);
        }
        self.presence.insert(Session {
            conn: c.conn,
            incarnation: work.sender.incarnation,
            uid: Arc::from(c.uid),
            device_id: c.device_id.into(),
            flag: c.device_flag,
            level,
            keys: keys.keys,
            kicked: false,
        });
        self.counts.logins += 1;
        let (aes_key, aes_iv) = keys.keys.map_or(([0; 16], [0; 16]), |k| halves(&k.to_bytes()));
        let x = item::Connack {
            conn: c.conn,
            reason: Reason::SUCCESS,
            device_level: level,
            encrypted: keys.keys.is_some(),
            time_diff_ms: now.unix_ms.saturating_sub(c.client_timestamp_ms),
            aes_key,
            aes_iv,
            server_key: &keys.server_key,
            salt: &keys.salt,
        };
        out.connack(&x, work.origin);
    }

    pub(super) fn refuse_connect(&mut self, origin: Origin, c: &item::Connect<'_>, reason: Reason, now: Now, out: &mut impl Out) {
        self.counts.refused_logins += 1;
        let x = item::Connack {
            conn: c.conn,
            reason,
            device_level: DeviceLevel::SLAVE,
            encrypted: false,
            time_diff_ms: now.unix_ms.saturating_sub(c.client_timestamp_ms),
            aes_key: [0; 16],
            aes_iv: [0; 16],
            server_key: "",
            salt: "",
        };
        out.connack(&x, origin);
    }

    fn kick(&mut self, conn: ConnId, order: kick::Order, out: &mut impl Out) {
        self.counts.kicks += 1;
        self.presence.kicked(conn);
        out.kick(&item::Kick { conn, disconnect: order.disconnect, text: order.text, close_after_ms: order.close_after_ms });
    }

    /// Kicks all connections of a uid with one of these flags; for the api.
    pub fn kick_flags(&mut self, uid: &str, flags: &[DeviceFlag], order: kick::Order, out: &mut impl Out) {
        let conns: SmallVec<[ConnId; 4]> = self.presence.of(uid).filter(|s| flags.contains(&s.flag)).map(|s| s.conn).collect();
        for conn in conns {
            self.kick(conn, order, out);
        }
    }
}

fn halves(bytes: &[u8; 32]) -> ([u8; 16], [u8; 16]) {
    let (key, iv) = bytes.split_at(16);
    (key.try_into().unwrap_or_default(), iv.try_into().unwrap_or_default())
}
