//! Time of the machine, read at the edges and passed inwards.

use nix::time::{ClockId, clock_gettime};

/// Milliseconds of `CLOCK_MONOTONIC`: never falls, comparable between the processes of one machine, meaningless after a reboot and on
/// another node. For deadlines that travel on links.
#[must_use]
pub fn monotonic_ms() -> u64 {
    u64::try_from(read_ms(ClockId::CLOCK_MONOTONIC)).unwrap_or(0)
}

/// Milliseconds since 1970 by the wall clock: may jump. For what people and backends see.
#[must_use]
pub fn unix_ms() -> i64 {
    read_ms(ClockId::CLOCK_REALTIME)
}

fn read_ms(clock: ClockId) -> i64 {
    // Both clocks exist on every Linux.
    clock_gettime(clock).map_or(0, |t| t.tv_sec() * 1000 + t.tv_nsec() / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_run() {
        let before = monotonic_ms();
        assert!(before > 0 && monotonic_ms() >= before);
        assert!(unix_ms() > 1_700_000_000_000);
    }
}
