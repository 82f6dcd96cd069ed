//! May this CONNECT in, and with which level (`spec/wire-protocol.md` §8.3).

use wk_link::item::Connect;
use wk_types::{DeviceLevel, Reason};
use wk_wire::crypto::{self, SessionKeys};

use super::cache::{Device, Info};

/// Rules of the configuration.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Tokens are checked.
    pub token_auth_on: bool,
    /// Uid of the manager account.
    pub manager_uid: Box<str>,
    /// Its token; empty: not checked. Never logged.
    pub manager_token: Box<str>,
    /// Uids with this ending are visitors: no token.
    pub visitors_suffix: Box<str>,
    /// No payload encryption on any connection.
    pub disable_encryption: bool,
}

/// Which stored rows a CONNECT needs besides the user's info.
#[must_use]
pub fn needs_device(rules: &Rules, uid: &str) -> bool {
    uid != &*rules.manager_uid && rules.token_auth_on && !is_visitor(rules, uid)
}

/// Checks 1 to 4: level, or the reason that refuses. `device` is the stored row of (uid, flag), when [`needs_device`].
///
/// # Errors
/// 2 for a wrong uid or token, 19 for a banned user.
pub fn admit(rules: &Rules, c: &Connect<'_>, device: Option<&Device>, info: Info) -> Result<DeviceLevel, Reason> {
    wk_wire::ids::check_uid(c.uid)?;
    if c.device_id.len() > wk_types::limits::ID_BYTES_MAX {
        return Err(Reason::AUTH_FAIL);
    }
    let level = if c.uid == &*rules.manager_uid {
        if !rules.manager_token.is_empty() && !same(c.token, &rules.manager_token) {
            return Err(Reason::AUTH_FAIL);
        }
        DeviceLevel::SLAVE
    } else if needs_device(rules, c.uid) {
        let device = device.filter(|d| !c.token.is_empty() && same(c.token, &d.token)).ok_or(Reason::AUTH_FAIL)?;
        device.level
    } else {
        DeviceLevel::SLAVE
    };
    if info.ban { Err(Reason::BAN) } else { Ok(level) }
}

/// Keys of a connection: `None` when it is not encrypted.
#[derive(Debug, Default)]
pub struct Keys {
    /// Session keys.
    pub keys: Option<SessionKeys>,
    /// For the CONNACK.
    pub server_key: String,
    /// For the CONNACK.
    pub salt: String,
}

/// Check 5: agrees on keys.
///
/// # Errors
/// 21 for an empty key, 2 for an unusable one, 15 without random numbers.
pub fn agree(rules: &Rules, c: &Connect<'_>) -> Result<Keys, Reason> {
    if c.json || rules.disable_encryption {
        return Ok(Keys::default());
    }
    let accepted = crypto::accept(c.client_key).map_err(crypto::KeyError::reason)?;
    Ok(Keys { keys: Some(accepted.keys), server_key: accepted.server_key, salt: accepted.salt.as_str().to_owned() })
}

fn is_visitor(rules: &Rules, uid: &str) -> bool {
    !rules.visitors_suffix.is_empty() && uid.ends_with(&*rules.visitors_suffix)
}

/// Compares secrets in a time that depends on their lengths only.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && std::hint::black_box(a.bytes().zip(b.bytes()).fold(0, |diff, (x, y)| diff | (x ^ y))) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use wk_types::{ConnId, DeviceFlag};

    fn connect<'a>(uid: &'a str, token: &'a str) -> Connect<'a> {
        Connect {
            conn: ConnId(1),
            accepted_ms: 0,
            version: 5,
            json: false,
            device_flag: DeviceFlag(0),
            client_timestamp_ms: 0,
            device_id: "d",
            uid,
            token,
            client_key: "",
            peer: "",
        }
    }

    fn rules() -> Rules {
        Rules {
            token_auth_on: true,
            manager_uid: "____manager".into(),
            manager_token: "secret".into(),
            visitors_suffix: "___vstr".into(),
            disable_encryption: false,
        }
    }

    fn stored(token: &str) -> Device {
        Device { token: token.into(), level: DeviceLevel::MASTER }
    }

    #[test]
    fn order_of_checks() {
        let (rules, free, banned) = (rules(), Info::default(), Info { ban: true, ..Info::default() });
        let row = stored("t");
        assert_eq!(admit(&rules, &connect("u", "t"), Some(&row), free), Ok(DeviceLevel::MASTER));
        assert_eq!(admit(&rules, &connect("u", "x"), Some(&row), free), Err(Reason::AUTH_FAIL));
        assert_eq!(admit(&rules, &connect("u", ""), Some(&stored("")), free), Err(Reason::AUTH_FAIL));
        assert_eq!(admit(&rules, &connect("u", "t"), None, free), Err(Reason::AUTH_FAIL));
        // The token comes before the ban.
        assert_eq!(admit(&rules, &connect("u", "x"), Some(&row), banned), Err(Reason::AUTH_FAIL));
        assert_eq!(admit(&rules, &connect("u", "t"), Some(&row), banned), Err(Reason::BAN));
        assert_eq!(admit(&rules, &connect("____manager", "x"), None, free), Err(Reason::AUTH_FAIL));
        assert_eq!(admit(&rules, &connect("____manager", "secret"), None, free), Ok(DeviceLevel::SLAVE));
        assert_eq!(admit(&rules, &connect("v1___vstr", ""), None, free), Ok(DeviceLevel::SLAVE));
        assert_eq!(admit(&rules, &connect("v1___vstr", ""), None, banned), Err(Reason::BAN));
        let off = Rules { token_auth_on: false, ..rules };
        assert_eq!(admit(&off, &connect("u", ""), None, free), Ok(DeviceLevel::SLAVE));
        assert_eq!(admit(&off, &connect("a@b", ""), None, free), Err(Reason::AUTH_FAIL));
    }

    #[test]
    fn keys_only_for_encrypted_connections() {
        let pair = crypto::KeyPair::generate().expect("random numbers");
        let public = pair.public_b64();
        let mut c = connect("u", "");
        assert_eq!(agree(&rules(), &c).map(|_| ()), Err(Reason::CLIENT_KEY_IS_EMPTY));
        c.client_key = "AAAA";
        assert_eq!(agree(&rules(), &c).map(|_| ()), Err(Reason::AUTH_FAIL));
        c.client_key = &public;
        let keys = agree(&rules(), &c).expect("a usable key");
        let salt = crypto::Salt::parse(&keys.salt).expect("16 characters");
        assert_eq!(keys.keys, Some(crypto::agree(&pair, &keys.server_key, salt).expect("a usable key")));
        c.json = true;
        assert!(agree(&rules(), &c).expect("no keys needed").keys.is_none());
        c.json = false;
        let off = Rules { disable_encryption: true, ..rules() };
        assert!(agree(&off, &c).expect("no keys needed").keys.is_none());
    }
}
