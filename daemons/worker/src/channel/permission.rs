//! May this sender write to this channel (`spec/semantics.md` §4). The order of the rows is observable and kept exactly.

use wk_types::channel::{base_id, person_parts, person_peer};
use wk_types::{ChannelType, Reason};

/// Who wants to write where.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Channel type.
    pub kind: ChannelType,
    /// Internal id as processed: with the command suffix.
    pub channel_id: &'a str,
    /// Sender.
    pub from_uid: &'a str,
    /// Sent through the HTTP API (device `____device`).
    pub system_device: bool,
}

/// Stored state of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Info {
    /// Nobody may write.
    pub ban: bool,
    /// Nobody may write any more.
    pub disband: bool,
}

/// What is known; `None`: must be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts {
    /// Stored state of the id as processed.
    pub info: Option<Info>,
    /// The sender is a system account.
    pub system_sender: Option<bool>,
    /// Person channels: the receiver is a system account.
    pub system_receiver: Option<bool>,
    /// On the deny list: of the receiver for person channels, else of the channel.
    pub denied: Option<bool>,
    /// Member of the channel.
    pub member: Option<bool>,
    /// The channel's allow list has entries.
    pub allow_any: Option<bool>,
    /// On the allow list: of the receiver for person channels, else of the channel.
    pub allowed: Option<bool>,
    /// Rule of the configuration: allow lists of persons are not checked.
    pub person_allow_off: bool,
}

/// Set of facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs(u8);

impl Needs {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// [`Facts::info`].
    pub const INFO: Self = Self(1);
    /// [`Facts::system_sender`] and [`Facts::system_receiver`].
    pub const SYSTEM: Self = Self(2);
    /// [`Facts::denied`].
    pub const DENIED: Self = Self(4);
    /// [`Facts::member`].
    pub const MEMBER: Self = Self(8);
    /// [`Facts::allow_any`].
    pub const ALLOW_ANY: Self = Self(16);
    /// [`Facts::allowed`].
    pub const ALLOWED: Self = Self(32);

    /// Both sets.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This set without the other.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// True when all of `other` is in here.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// True when empty.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// Walks the rows in order; remembers what is missing on the way.
struct Walk {
    missing: Needs,
}

impl Walk {
    /// The value, or false with a note that it is missing: the walk goes on as if the row did not match.
    fn ask(&mut self, fact: Option<bool>, need: Needs) -> bool {
        if fact.is_none() {
            self.missing = self.missing.with(need);
        }
        fact.unwrap_or(false)
    }

    /// A row matched. It decides only when nothing before it is missing.
    fn end(&self, reason: Reason) -> Result<Reason, Needs> {
        if self.missing.is_none() { Ok(reason) } else { Err(self.missing) }
    }
}

/// The verdict: [`Reason::SUCCESS`] or the reason that refuses.
///
/// # Errors
/// The facts that are missing for a verdict; all that can be told at once, so that one lookup brings them.
pub fn check(q: &Question<'_>, f: &Facts) -> Result<Reason, Needs> {
    let mut walk = Walk { missing: Needs::NONE };
    // 4.1, the channel.
    if !matches!(q.kind, ChannelType::INFO | ChannelType::CUSTOMER_SERVICE | ChannelType::VISITORS | ChannelType::AGENT) {
        match f.info {
            Some(info) if info.ban => return walk.end(Reason::BAN),
            Some(info) if info.disband => return walk.end(Reason::DISBAND),
            Some(_) => {}
            None => walk.missing = Needs::INFO,
        }
    }
    // 4.2, the sender; rows 1 to 5.
    let base = base_id(q.channel_id);
    let is_part = || person_parts(base).is_some_and(|(a, b)| a == q.from_uid || b == q.from_uid);
    if matches!(q.kind, ChannelType::INFO | ChannelType::CUSTOMER_SERVICE)
        || (q.kind == ChannelType::AGENT && is_part())
        || (q.kind == ChannelType::VISITORS && q.from_uid == base)
        || q.system_device
        || walk.ask(f.system_sender, Needs::SYSTEM)
    {
        return walk.end(Reason::SUCCESS);
    }
    if q.kind == ChannelType::PERSON { person(q, f, walk) } else { members(f, walk) }
}

/// Rows 6 to 9.
fn person(q: &Question<'_>, f: &Facts, mut walk: Walk) -> Result<Reason, Needs> {
    if person_peer(q.channel_id, q.from_uid).is_none() {
        // Not a pair with the sender in it: nobody could receive it.
        return walk.end(Reason::CHANNEL_ID_ERROR);
    }
    if walk.ask(f.system_receiver, Needs::SYSTEM) {
        return walk.end(Reason::SUCCESS);
    }
    if walk.ask(f.denied, Needs::DENIED) {
        return walk.end(Reason::IN_BLACKLIST);
    }
    if !f.person_allow_off {
        let allowed = walk.ask(f.allowed, Needs::ALLOWED);
        if f.allowed.is_some() && !allowed {
            return walk.end(Reason::NOT_IN_WHITELIST);
        }
    }
    walk.end(Reason::SUCCESS)
}

/// Rows 10 to 13.
fn members(f: &Facts, mut walk: Walk) -> Result<Reason, Needs> {
    if walk.ask(f.denied, Needs::DENIED) {
        return walk.end(Reason::IN_BLACKLIST);
    }
    let member = walk.ask(f.member, Needs::MEMBER);
    if f.member.is_some() && !member {
        return walk.end(Reason::SUBSCRIBER_NOT_EXIST);
    }
    let any = walk.ask(f.allow_any, Needs::ALLOW_ANY);
    if any || f.allow_any.is_none() {
        let allowed = walk.ask(f.allowed, Needs::ALLOWED);
        if any && f.allowed.is_some() && !allowed {
            return walk.end(Reason::NOT_IN_WHITELIST);
        }
    }
    walk.end(Reason::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn free() -> Facts {
        Facts {
            info: Some(Info::default()),
            system_sender: Some(false),
            system_receiver: Some(false),
            denied: Some(false),
            member: Some(true),
            allow_any: Some(false),
            allowed: Some(false),
            person_allow_off: true,
        }
    }

    fn ask(kind: u8, id: &str, from: &str, f: Facts) -> Reason {
        check(&Question { kind: ChannelType(kind), channel_id: id, from_uid: from, system_device: false }, &f).expect("all facts are known")
    }

    #[test]
    fn channel_rows() {
        let ban = Facts { info: Some(Info { ban: true, disband: true }), ..free() };
        let disband = Facts { info: Some(Info { ban: false, disband: true }), ..free() };
        for kind in [1, 2, 4, 5, 7, 8, 9, 12, 77] {
            assert_eq!(ask(kind, "u2@u1", "u1", ban), Reason::BAN);
            assert_eq!(ask(kind, "u2@u1", "u1", disband), Reason::DISBAND);
        }
        for (kind, id) in [(6, "i"), (3, "v|s"), (10, "u1"), (11, "u1@bot")] {
            assert_eq!(ask(kind, id, "u1", ban), Reason::SUCCESS);
        }
        // The ban holds for the API and for system accounts too.
        let q = Question { kind: ChannelType::GROUP, channel_id: "g", from_uid: "u1", system_device: true };
        assert_eq!(check(&q, &Facts { system_sender: Some(true), ..ban }), Ok(Reason::BAN));
    }

    #[test]
    fn person_rows() {
        let denied = Facts { denied: Some(true), ..free() };
        assert_eq!(ask(1, "u2@u1", "u1", free()), Reason::SUCCESS);
        assert_eq!(ask(1, "u2@u1", "u1", denied), Reason::IN_BLACKLIST);
        assert_eq!(ask(1, "u2@u1", "u1", Facts { system_receiver: Some(true), ..denied }), Reason::SUCCESS);
        assert_eq!(ask(1, "u2@u1", "u1", Facts { system_sender: Some(true), ..denied }), Reason::SUCCESS);
        assert_eq!(ask(1, "u2@u1____cmd", "u1", denied), Reason::IN_BLACKLIST);
        let strict = Facts { person_allow_off: false, ..free() };
        assert_eq!(ask(1, "u2@u1", "u1", strict), Reason::NOT_IN_WHITELIST);
        assert_eq!(ask(1, "u2@u1", "u1", Facts { allowed: Some(true), ..strict }), Reason::SUCCESS);
        assert_eq!(ask(1, "u2@u1", "u1", Facts { denied: Some(true), ..strict }), Reason::IN_BLACKLIST);
        assert_eq!(ask(1, "u2@u1", "eve", free()), Reason::CHANNEL_ID_ERROR);
        // Scenario 5: the deny list does not stop the API.
        let api = Question { kind: ChannelType::PERSON, channel_id: "u2@u1", from_uid: "u1", system_device: true };
        assert_eq!(check(&api, &denied), Ok(Reason::SUCCESS));
    }

    #[test]
    fn member_rows() {
        let stranger = Facts { member: Some(false), ..free() };
        assert_eq!(ask(2, "g1", "u1", free()), Reason::SUCCESS);
        // Scenario 3.
        assert_eq!(ask(2, "g1", "u1", stranger), Reason::SUBSCRIBER_NOT_EXIST);
        assert_eq!(ask(2, "g1", "u1", Facts { denied: Some(true), ..stranger }), Reason::IN_BLACKLIST);
        let listed = Facts { allow_any: Some(true), ..free() };
        assert_eq!(ask(2, "g1", "u1", listed), Reason::NOT_IN_WHITELIST);
        assert_eq!(ask(2, "g1", "u1", Facts { allowed: Some(true), ..listed }), Reason::SUCCESS);
        assert_eq!(ask(8, "t", "u1", stranger), Reason::SUBSCRIBER_NOT_EXIST);
        // Visitors and agents: their own part passes, others are members or not.
        assert_eq!(ask(10, "v1", "v1", stranger), Reason::SUCCESS);
        assert_eq!(ask(10, "v1", "u1", stranger), Reason::SUBSCRIBER_NOT_EXIST);
        assert_eq!(ask(11, "u1@bot", "bot", stranger), Reason::SUCCESS);
        assert_eq!(ask(11, "u1@bot", "eve", stranger), Reason::SUBSCRIBER_NOT_EXIST);
        assert_eq!(ask(3, "v|s", "eve", stranger), Reason::SUCCESS);
        assert_eq!(ask(6, "i", "eve", stranger), Reason::SUCCESS);
    }

    #[test]
    fn asks_for_everything_at_once() {
        let q = Question { kind: ChannelType::GROUP, channel_id: "g", from_uid: "u", system_device: false };
        let all = Needs::INFO.with(Needs::SYSTEM).with(Needs::DENIED).with(Needs::MEMBER).with(Needs::ALLOW_ANY).with(Needs::ALLOWED);
        assert_eq!(check(&q, &Facts::default()), Err(all));
        let known = Facts { info: Some(Info::default()), system_sender: Some(false), ..Facts::default() };
        assert_eq!(check(&q, &Facts { denied: Some(true), ..known }), Ok(Reason::IN_BLACKLIST));
        let api = Question { system_device: true, ..q };
        assert_eq!(check(&api, &Facts::default()), Err(Needs::INFO));
        let person = Question { kind: ChannelType::PERSON, channel_id: "b@a", from_uid: "a", system_device: false };
        let off = Facts { person_allow_off: true, ..Facts::default() };
        assert_eq!(check(&person, &off), Err(Needs::INFO.with(Needs::SYSTEM).with(Needs::DENIED)));
    }

    fn fact() -> impl Strategy<Value = Option<bool>> {
        proptest::option::of(any::<bool>())
    }

    proptest! {
        /// Whatever is filled in for what was missing, a verdict that was possible before stays the same; and asking always ends.
        #[test]
        fn missing_facts_never_change_a_verdict(
            kind in 0_u8..14,
            info in proptest::option::of((any::<bool>(), any::<bool>())),
            flags in (fact(), fact(), fact(), fact(), fact(), fact(), any::<bool>(), any::<bool>()),
            fill in any::<[bool; 8]>(),
        ) {
            let (system_sender, system_receiver, denied, member, allow_any, allowed, person_allow_off, system_device) = flags;
            let info = info.map(|(ban, disband)| Info { ban, disband });
            let partial = Facts { info, system_sender, system_receiver, denied, member, allow_any, allowed, person_allow_off };
            let full = Facts {
                info: info.or(Some(Info { ban: fill[0], disband: fill[1] })),
                system_sender: system_sender.or(Some(fill[2])),
                system_receiver: system_receiver.or(Some(fill[3])),
                denied: denied.or(Some(fill[4])),
                member: member.or(Some(fill[5])),
                allow_any: allow_any.or(Some(fill[6])),
                allowed: allowed.or(Some(fill[7])),
                person_allow_off,
            };
            let q = Question { kind: ChannelType(kind), channel_id: "b@a", from_uid: "a", system_device };
            let verdict = check(&q, &full);
            prop_assert!(verdict.is_ok());
            if let Ok(early) = check(&q, &partial) {
                prop_assert_eq!(Ok(early), verdict);
            }
        }
    }
}
