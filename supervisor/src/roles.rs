//! Who may do what on the control socket: the kernel says who a peer is, a table says what its role may call.

use std::collections::BTreeSet;
use std::fmt;

/// Role of a peer; each may do all that the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Nothing at all.
    Nobody,
    /// Looks.
    Viewer,
    /// Starts, stops, restarts, scales, rolls.
    Operator,
    /// Everything.
    Admin,
}

impl Role {
    /// Its word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// A peer as the kernel describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// Effective user when it connected.
    pub uid: u32,
    /// Primary and supplementary groups.
    pub gids: Vec<u32>,
    /// Process, 0: unknown.
    pub pid: i32,
    /// Its name.
    pub comm: String,
}

/// Who gave a command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actor {
    /// User.
    pub uid: u32,
    /// Process.
    pub pid: i32,
    /// Its name.
    pub comm: String,
}

impl From<&Peer> for Actor {
    fn from(peer: &Peer) -> Self {
        Self { uid: peer.uid, pid: peer.pid, comm: peer.comm.clone() }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {} pid {} {}", self.uid, self.pid, self.comm)
    }
}

/// Which groups have which role, beside root and our own user, who are admins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Our own user.
    pub uid: u32,
    /// Groups of admins.
    pub admins: BTreeSet<u32>,
    /// Groups of operators.
    pub operators: BTreeSet<u32>,
    /// Groups of viewers.
    pub viewers: BTreeSet<u32>,
    /// Names of all these groups with their roles.
    pub names: Vec<(Role, String)>,
}

impl Policy {
    /// Strongest role of a peer.
    #[must_use]
    pub fn role(&self, peer: &Peer) -> Role {
        let member = |groups: &BTreeSet<u32>| peer.gids.iter().any(|g| groups.contains(g));
        if peer.uid == 0 || peer.uid == self.uid || member(&self.admins) {
            Role::Admin
        } else if member(&self.operators) {
            Role::Operator
        } else if member(&self.viewers) {
            Role::Viewer
        } else {
            Role::Nobody
        }
    }

    /// Who has a role, and how one comes to it, in words.
    #[must_use]
    pub fn who(&self, needed: Role) -> String {
        let groups: Vec<&str> = self.names.iter().filter(|(role, _)| *role >= needed).map(|(_, name)| name.as_str()).collect();
        match groups.first() {
            None => "only root and the user of the node have it".to_owned(),
            Some(first) => {
                let list = groups.join(" or ");
                format!("root and members of {list} have it; `usermod -aG {first} NAME`, and a new login, makes one")
            }
        }
    }

    /// Some group beside our own user may connect.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !(self.admins.is_empty() && self.operators.is_empty() && self.viewers.is_empty())
    }
}

/// Weakest role that may call a method. Methods that are not in the table are for admins: a new one is closed until it is listed.
const RIGHTS: [(&str, Role); 20] = [
    ("Hello", Role::Viewer),
    ("Status", Role::Viewer),
    ("WatchStatus", Role::Viewer),
    ("Why", Role::Viewer),
    ("Plan", Role::Viewer),
    ("Ops", Role::Viewer),
    ("WaitOp", Role::Viewer),
    ("Events", Role::Viewer),
    ("Logs", Role::Viewer),
    ("Graph", Role::Viewer),
    ("Analyze", Role::Viewer),
    ("Metrics", Role::Viewer),
    ("Start", Role::Operator),
    ("Stop", Role::Operator),
    ("Restart", Role::Operator),
    ("Scale", Role::Operator),
    ("Roll", Role::Operator),
    ("CancelOp", Role::Operator),
    ("Hold", Role::Operator),
    ("Reset", Role::Operator),
];

/// Weakest role that may call `path` (`/wk.supervisor.v1.Supervisor/Start`).
#[must_use]
pub fn needed(path: &str) -> Role {
    let method = path.rsplit('/').next().unwrap_or_default();
    RIGHTS.iter().find(|(name, _)| *name == method).map_or(Role::Admin, |(_, role)| *role)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, gids: &[u32]) -> Peer {
        Peer { uid, gids: gids.to_vec(), ..Peer::default() }
    }

    #[test]
    fn the_strongest_group_decides_and_root_and_we_are_admins() {
        let policy = Policy { uid: 7, admins: [10].into(), operators: [20].into(), viewers: [30].into(), names: Vec::new() };
        let cases = [
            (peer(0, &[]), Role::Admin),
            (peer(7, &[]), Role::Admin),
            (peer(8, &[10]), Role::Admin),
            (peer(8, &[30, 20]), Role::Operator),
            (peer(8, &[30]), Role::Viewer),
            (peer(8, &[99]), Role::Nobody),
            (peer(65534, &[65534]), Role::Nobody),
        ];
        for (peer, role) in cases {
            assert_eq!(policy.role(&peer), role, "{peer:?}");
        }
        assert_eq!(Policy::default().role(&peer(8, &[0])), Role::Nobody, "group 0 is no role by itself");
    }

    #[test]
    fn who_is_refused_hears_how_to_come_to_the_role() {
        let names = vec![(Role::Admin, "adm".to_owned()), (Role::Viewer, "staff".to_owned())];
        let policy = Policy { names, ..Policy::default() };
        assert!(policy.who(Role::Operator).contains("members of adm have it; `usermod -aG adm NAME`"));
        assert!(policy.who(Role::Viewer).contains("members of adm or staff"));
        assert!(Policy::default().who(Role::Viewer).starts_with("only root"));
    }

    #[test]
    fn every_method_has_the_role_of_the_design() {
        let path = |method: &str| format!("/wk.supervisor.v1.Supervisor/{method}");
        for (method, role) in [("Status", Role::Viewer), ("Scale", Role::Operator), ("Reload", Role::Admin), ("Signal", Role::Admin)] {
            assert_eq!(needed(&path(method)), role);
        }
        assert_eq!(needed("/grpc.reflection/Anything"), Role::Admin, "what is not listed is closed");
        assert_eq!(needed(""), Role::Admin);
    }
}
