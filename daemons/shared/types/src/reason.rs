//! Reason codes of CONNACK, SENDACK, DISCONNECT and SUBACK (`spec/wire-protocol.md` §7).

/// A reason code as it travels on the wire. Plugins may use any value, so this is a number with names, not an enum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reason(pub u8);

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        impl Reason {
            $($(#[$doc])* pub const $name: Self = Self($code);)*

            /// Name used in JSON-RPC errors; unknown codes are `ReasonUnknown`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self.0 {
                    $($code => $text,)*
                    _ => "ReasonUnknown",
                }
            }
        }
    };
}

reasons! {
    /// Not one of the known reasons.
    UNKNOWN = 0, "ReasonUnknown";
    /// It worked.
    SUCCESS = 1, "ReasonSuccess";
    /// Wrong or missing token, unusable client key or illegal uid.
    AUTH_FAIL = 2, "ReasonAuthFail";
    /// The sender is not a member of the channel.
    SUBSCRIBER_NOT_EXIST = 3, "ReasonSubscriberNotExist";
    /// The sender is on the deny list.
    IN_BLACKLIST = 4, "ReasonInBlacklist";
    /// The channel does not exist.
    CHANNEL_NOT_EXIST = 5, "ReasonChannelNotExist";
    /// msgKey mismatch or undecodable payload.
    PAYLOAD_DECODE_ERROR = 9, "ReasonPayloadDecodeError";
    /// Refused by a plugin.
    NOT_ALLOW_SEND = 11, "ReasonNotAllowSend";
    /// Kicked by another login or by the backend.
    CONNECT_KICK = 12, "ReasonConnectKick";
    /// The sender is not on the allow list.
    NOT_IN_WHITELIST = 13, "ReasonNotInWhitelist";
    /// Storage or lookup failure, or a deadline that passed.
    SYSTEM_ERROR = 15, "ReasonSystemError";
    /// The channel id breaks the rules of §9.
    CHANNEL_ID_ERROR = 16, "ReasonChannelIDError";
    /// The channel, or at CONNECT the user, is banned.
    BAN = 19, "ReasonBan";
    /// Encryption is on and the client sent no key.
    CLIENT_KEY_IS_EMPTY = 21, "ReasonClientKeyIsEmpty";
    /// Too many requests.
    RATE_LIMIT = 22, "ReasonRateLimit";
    /// The channel type cannot be subscribed.
    NOT_SUPPORT_CHANNEL_TYPE = 23, "ReasonNotSupportChannelType";
    /// The channel is disbanded.
    DISBAND = 24, "ReasonDisband";
    /// The sender is muted everywhere.
    SEND_BAN = 25, "ReasonSendBan";
}

impl Reason {
    /// True for [`Reason::SUCCESS`].
    #[must_use]
    pub fn is_success(self) -> bool {
        self == Self::SUCCESS
    }
}
