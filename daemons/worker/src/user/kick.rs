//! Who is kicked by a login (`spec/wire-protocol.md` §8.4).

use wk_types::{DeviceLevel, Reason};

/// What is done to an older connection of the same uid and device flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// DISCONNECT to send first; `None`: no packet.
    pub disconnect: Option<Reason>,
    /// Its text.
    pub text: &'static str,
    /// Unit: ms.
    pub close_after_ms: u32,
}

/// Pause before a kicked connection is closed. Unit: ms.
pub const CLOSE_AFTER_MS: u32 = 2_000;
/// The same after `POST /user/token`. Unit: ms.
pub const CLOSE_AFTER_TOKEN_MS: u32 = 10_000;
/// Text of the DISCONNECT when another device logs in.
pub const OTHER_DEVICE: &str = "login in other device";
/// Text of the DISCONNECT when a token of level master is set.
pub const NEW_TOKEN: &str = "账号在其他设备上登录";

/// What a new login of `level` on `new_device` does to a connection of `old_device`, both of the same uid and device flag.
#[must_use]
pub fn by_login(level: DeviceLevel, new_device: &str, old_device: &str) -> Option<Order> {
    match (level == DeviceLevel::MASTER, new_device == old_device) {
        (true, false) => Some(Order { disconnect: Some(Reason::CONNECT_KICK), text: OTHER_DEVICE, close_after_ms: CLOSE_AFTER_MS }),
        (_, true) => Some(Order { disconnect: None, text: "", close_after_ms: CLOSE_AFTER_MS }),
        (false, false) => None,
    }
}

/// What `POST /user/token` with level master does to every connection of the flag.
pub const BY_TOKEN: Order = Order { disconnect: Some(Reason::CONNECT_KICK), text: NEW_TOKEN, close_after_ms: CLOSE_AFTER_TOKEN_MS };
/// What `POST /user/device_quit` does to every connection of the flag.
pub const BY_QUIT: Order = Order { disconnect: Some(Reason::CONNECT_KICK), text: "", close_after_ms: CLOSE_AFTER_MS };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_table() {
        let other = by_login(DeviceLevel::MASTER, "new", "old");
        assert_eq!(other, Some(Order { disconnect: Some(Reason(12)), text: "login in other device", close_after_ms: 2000 }));
        let silent = Some(Order { disconnect: None, text: "", close_after_ms: 2000 });
        assert_eq!(by_login(DeviceLevel::MASTER, "same", "same"), silent);
        assert_eq!(by_login(DeviceLevel::SLAVE, "same", "same"), silent);
        assert_eq!(by_login(DeviceLevel::SLAVE, "new", "old"), None);
    }
}
