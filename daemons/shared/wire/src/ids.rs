//! Rules for the identifiers that clients choose (§8.2, §9.1).

use wk_types::channel::{CMD_SUFFIX, has_special_chars};
use wk_types::{ChannelType, Reason};

use crate::limits::ID_BYTES_MAX;
use crate::{Connect, SendRef};

/// Checks a uid at login: not empty after trimming, none of `@ # &`, at most [`ID_BYTES_MAX`] bytes.
///
/// # Errors
///
/// [`Reason::AUTH_FAIL`], for the CONNACK.
pub fn check_uid(uid: &str) -> Result<(), Reason> {
    let legal = !uid.trim().is_empty() && !has_special_chars(uid) && uid.len() <= ID_BYTES_MAX;
    if legal { Ok(()) } else { Err(Reason::AUTH_FAIL) }
}

/// Checks all ids of a CONNECT.
///
/// # Errors
///
/// [`Reason::AUTH_FAIL`], for the CONNACK.
pub fn check_connect(x: &Connect) -> Result<(), Reason> {
    check_uid(&x.uid)?;
    if x.device_id.len() <= ID_BYTES_MAX { Ok(()) } else { Err(Reason::AUTH_FAIL) }
}

/// Checks the channel id that a client names: not empty, at most [`ID_BYTES_MAX`] bytes, not an internal command channel; without `@ # &`
/// for a person, without `# &` for all other types.
///
/// # Errors
///
/// [`Reason::CHANNEL_ID_ERROR`], for the SENDACK.
pub fn check_channel_id(kind: ChannelType, id: &str) -> Result<(), Reason> {
    let special = if kind == ChannelType::PERSON { has_special_chars(id) } else { id.contains(['#', '&']) };
    let legal = !id.is_empty() && id.len() <= ID_BYTES_MAX && !special && !id.ends_with(CMD_SUFFIX);
    if legal { Ok(()) } else { Err(Reason::CHANNEL_ID_ERROR) }
}

/// Checks all ids of a SEND: the channel, and the lengths of client message number, topic and stream number.
///
/// # Errors
///
/// [`Reason::CHANNEL_ID_ERROR`], for the SENDACK.
pub fn check_send(x: &SendRef<'_>) -> Result<(), Reason> {
    check_channel_id(x.channel_type, x.channel_id)?;
    let legal = [x.client_msg_no, x.topic, x.stream_no].iter().all(|text| text.len() <= ID_BYTES_MAX);
    if legal { Ok(()) } else { Err(Reason::CHANNEL_ID_ERROR) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_illegal_uids() {
        assert_eq!(check_uid(" u 1"), Ok(()));
        for uid in ["", "  ", "a@b", "a#b", "a&b", &"x".repeat(ID_BYTES_MAX + 1)] {
            assert_eq!(check_uid(uid), Err(Reason::AUTH_FAIL), "{uid}");
        }
    }

    #[test]
    fn refuses_illegal_channel_ids() {
        for (kind, id) in [(ChannelType::PERSON, "bob"), (ChannelType::AGENT, "a@b"), (ChannelType::CUSTOMER_SERVICE, "v1|shop")] {
            assert_eq!(check_channel_id(kind, id), Ok(()), "{id}");
        }
        for (kind, id) in
            [(ChannelType::PERSON, "a@b"), (ChannelType::GROUP, "a#b"), (ChannelType::GROUP, ""), (ChannelType::GROUP, "g____cmd")]
        {
            assert_eq!(check_channel_id(kind, id), Err(Reason::CHANNEL_ID_ERROR), "{id}");
        }
    }

    #[test]
    fn refuses_long_strings_of_a_send() {
        let (longest, longer) = ("x".repeat(ID_BYTES_MAX), "x".repeat(ID_BYTES_MAX + 1));
        let with = |field: usize, text: &str| {
            let [client_msg_no, topic, stream_no] = std::array::from_fn(|n| if n == field { text.to_owned() } else { String::new() });
            let send = crate::Send {
                flags: crate::Flags::NONE,
                setting: crate::Setting::NONE,
                client_seq: 0,
                client_msg_no,
                stream_no,
                channel_id: "bob".into(),
                channel_type: ChannelType::PERSON,
                expire: 0,
                msg_key: String::new(),
                topic,
                payload: Vec::new(),
            };
            check_send(&send.view())
        };
        for field in 0..3 {
            assert_eq!(with(field, &longest), Ok(()), "{field}");
            assert_eq!(with(field, &longer), Err(Reason::CHANNEL_ID_ERROR), "{field}");
        }
    }
}
