//! When a daemon is activated and clients are admitted.

use wk_types::Daemon;

/// True when a daemon with these edges may be activated. `wanted`: the readiness of each wanted instance of a daemon.
///
/// Before admission every wanted slot of a requirement must be ready, later any: one slot in a crash loop does not keep others from coming
/// back.
#[must_use]
pub fn may_activate<I: Iterator<Item = bool>>(
    edges: impl IntoIterator<Item = Daemon>,
    wanted: impl Fn(Daemon) -> I,
    admitted: bool,
) -> bool {
    edges.into_iter().all(|edge| {
        let mut slots = wanted(edge).peekable();
        slots.peek().is_some() && if admitted { slots.any(|r| r) } else { slots.all(|r| r) }
    })
}

/// True when every wanted slot of every required daemon is ready: clients may be admitted.
#[must_use]
pub fn complete<I: Iterator<Item = bool>>(required: impl IntoIterator<Item = Daemon>, wanted: impl Fn(Daemon) -> I) -> bool {
    may_activate(required, wanted, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wk_types::Pool;

    #[test]
    fn all_slots_count_before_admission_and_any_later() {
        let user = Daemon::Worker(Pool::User);
        let slots = [(Daemon::Cluster, true), (user, true), (user, false)];
        let of = |daemon| slots.into_iter().filter(move |(d, _)| *d == daemon).map(|(_, ready)| ready);
        let may = |edges: &[Daemon], admitted| may_activate(edges.iter().copied(), of, admitted);
        assert!(may(&[], false) && may(&[Daemon::Cluster], false));
        assert!(!may(&[Daemon::Cluster, user], false));
        assert!(may(&[Daemon::Cluster, user], true));
        assert!(!may(&[Daemon::Gateway], true), "nobody is wanted there, so nobody is ready");
        assert!(!complete([Daemon::Cluster, user], of));
        assert!(complete([Daemon::Cluster], of));
    }
}
