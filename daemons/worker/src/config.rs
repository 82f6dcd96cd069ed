//! The part of the configuration that the pools use.

use wk_config::Config;

use crate::channel;
use crate::push::retry::Policy;
use crate::user::handle::millis;
use crate::user::login;

/// Rules of the user pool.
#[must_use]
pub fn user(config: &Config) -> login::Rules {
    login::Rules {
        token_auth_on: config.token_auth_on && !config.stress,
        manager_uid: config.manager_uid.as_str().into(),
        manager_token: config.manager_token.expose().into(),
        visitors_suffix: visitors_suffix(config).into(),
        disable_encryption: config.disable_encryption,
    }
}

/// Ending of uids that need no token; empty: everyone needs one.
fn visitors_suffix(config: &Config) -> &str {
    match config.customer_service.visitors_on {
        Some(false) => "",
        Some(true) | None => &config.customer_service.visitors_suffix,
    }
}

/// Rules of the channel pool.
#[must_use]
pub fn channel(config: &Config) -> channel::handle::Rules {
    let runtime = &config.channel_runtime;
    channel::handle::Rules {
        person_allow_off: config.whitelist_off_of_person,
        tag_expire_ms: millis(config.tag.expire),
        idle_ms: millis(runtime.idle),
        channels_max: usize::try_from(runtime.cache).unwrap_or(usize::MAX),
        batch_messages: usize::try_from(runtime.batch_messages).unwrap_or(usize::MAX),
        batch_bytes: usize::try_from(runtime.batch_bytes.0).unwrap_or(usize::MAX),
    }
}

/// Rules of the push pool.
#[must_use]
pub fn push(config: &Config) -> Policy {
    Policy {
        interval_ms: millis(config.message_retry.interval),
        scan_ms: millis(config.message_retry.scan_interval),
        max: config.message_retry.max_count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_original() {
        let config = Config::default();
        assert!(!user(&config).token_auth_on && channel(&config).person_allow_off);
        assert_eq!(&*user(&config).visitors_suffix, "___vstr");
        let closed =
            Config { customer_service: wk_config::CustomerService { visitors_on: Some(false), ..Default::default() }, ..Config::default() };
        assert_eq!(&*user(&closed).visitors_suffix, "");
        let policy = push(&config);
        assert_eq!((policy.interval_ms, policy.scan_ms, policy.max), (60_000, 30_000, 5));
    }
}
