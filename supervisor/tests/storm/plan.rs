//! Who is there: users, connections, channels and their members, all made from the seed.

use std::collections::BTreeSet;

/// A small generator: the same seed gives the same storm on every machine (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound` (which is not 0).
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap_or(0)
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// Binary protocol over TCP, stating this version.
    Binary(u8),
    /// JSON-RPC over WebSocket.
    Json,
}

/// One connection.
#[derive(Debug, Clone)]
pub(crate) struct Conn {
    /// Index of the user.
    pub user: usize,
    pub device_flag: u8,
    pub speaks: Speaks,
    /// Logs in, then never reads: nothing is promised to it, and it may be closed.
    pub stuck: bool,
}

/// One channel.
#[derive(Debug, Clone)]
pub(crate) enum Channel {
    /// Two users.
    Person(usize, usize),
    /// Members with a connection, and members without.
    Group { id: String, members: Vec<usize>, offline: Vec<String> },
}

impl Channel {
    pub(crate) fn has(&self, user: usize) -> bool {
        match self {
            Self::Person(a, b) => *a == user || *b == user,
            Self::Group { members, .. } => members.contains(&user),
        }
    }

    /// First user of the channel.
    pub(crate) fn someone(&self) -> usize {
        match self {
            Self::Person(a, _) => *a,
            Self::Group { members, .. } => members.first().copied().unwrap_or(0),
        }
    }
}

/// Everything a storm is made of. A *source* is a connection, or, behind the connections, a backend that sends through the API.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub users: Vec<String>,
    pub conns: Vec<Conn>,
    pub channels: Vec<Channel>,
    /// Number of sources that send through the API.
    pub backends: usize,
}

/// Sizes of the storm of issue 3.
const USERS: usize = 48;
const CONNS: usize = 64;
const PERSONS: usize = 120;
const GROUPS: usize = 80;
const BACKENDS: usize = 2;

impl Plan {
    /// 64 connections of 48 users (16 of them with two devices), 120 person channels, 80 groups, 2 backends.
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let users = (0..USERS).map(|n| format!("u{n}")).collect();
        let conns = (0..CONNS)
            .map(|n| Conn {
                user: n % USERS,
                device_flag: u8::from(n >= USERS),
                speaks: if n % 5 == 4 { Speaks::Json } else { Speaks::Binary(u8::try_from(2 + n % 5 + n / 5 % 2).unwrap_or(5)) },
                stuck: false,
            })
            .collect();
        let mut pairs: BTreeSet<(usize, usize)> = (0..USERS).map(|a| (a.min((a + 1) % USERS), a.max((a + 1) % USERS))).collect();
        while pairs.len() < PERSONS {
            let (a, b) = (dice.below(USERS), dice.below(USERS));
            if a != b {
                pairs.insert((a.min(b), a.max(b)));
            }
        }
        let mut channels: Vec<Channel> = pairs.into_iter().map(|(a, b)| Channel::Person(a, b)).collect();
        for n in 0..GROUPS {
            let mut everybody: Vec<usize> = (0..USERS).collect();
            dice.shuffle(&mut everybody);
            let members = everybody.into_iter().take(3 + dice.below(6)).collect();
            let offline = (0..dice.below(3)).map(|m| format!("away{n}x{m}")).collect();
            channels.push(Channel::Group { id: format!("g{n}"), members, offline });
        }
        Self { users, conns, channels, backends: BACKENDS }
    }

    /// Adds a user whose only connection never reads, as a member of every fourth group.
    pub(crate) fn add_stuck(&mut self) {
        let user = self.users.len();
        self.users.push("stuck".into());
        self.conns.push(Conn { user, device_flag: 0, speaks: Speaks::Binary(5), stuck: true });
        let groups = self.channels.iter_mut().filter_map(|c| match c {
            Channel::Group { members, .. } => Some(members),
            Channel::Person(..) => None,
        });
        for members in groups.step_by(4) {
            members.push(user);
        }
    }

    pub(crate) fn sources(&self) -> usize {
        self.conns.len() + self.backends
    }

    /// Channel id and type as `user` names the channel.
    pub(crate) fn name_for(&self, channel: usize, user: usize) -> (String, u8) {
        match &self.channels[channel] {
            Channel::Person(a, b) => (self.users[if *a == user { *b } else { *a }].clone(), 1),
            Channel::Group { id, .. } => (id.clone(), 2),
        }
    }

    /// The channels a user can send to.
    pub(crate) fn channels_of(&self, user: usize) -> Vec<usize> {
        (0..self.channels.len()).filter(|&c| self.channels[c].has(user)).collect()
    }

    /// Connections that must receive what `source` sent to `channel`: all of all members, without the sending connection itself.
    pub(crate) fn receivers(&self, channel: usize, source: usize) -> impl Iterator<Item = usize> + '_ {
        let channel = &self.channels[channel];
        (0..self.conns.len()).filter(move |&n| n != source && !self.conns[n].stuck && channel.has(self.conns[n].user))
    }

    /// Whether a channel's messages also go to a connection that never reads.
    pub(crate) fn feeds_stuck(&self, channel: usize) -> bool {
        self.conns.iter().any(|c| c.stuck && self.channels[channel].has(c.user))
    }
}
