//! Switch for storm tests: a disk that takes its time. Off unless the configuration's mode is `test`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use wk_config::{Env, Mode};
use wk_store::{Faults, IoPoint, NoFaults};

/// Name of the environment variable: ms that each synced write of the log takes longer.
pub const ENV: &str = "WK_FAULT_WRITE_DELAY_MS";
/// Longest delay: above it the node could not even start. Unit: ms.
const DELAY_MS_MAX: u64 = 5_000;

/// The delay the environment asks for; zero outside mode `test`.
#[must_use]
pub fn write_delay(mode: Mode, env: &Env) -> Duration {
    let ms = env.get(ENV).filter(|_| mode == Mode::Test).and_then(|text| text.parse().ok()).unwrap_or(0);
    Duration::from_millis(DELAY_MS_MAX.min(ms))
}

/// What the databases are opened with.
#[must_use]
pub fn faults(write_delay: Duration) -> Arc<dyn Faults> {
    if write_delay.is_zero() { Arc::new(NoFaults) } else { Arc::new(SlowSync(write_delay)) }
}

#[derive(Debug)]
struct SlowSync(Duration);

impl Faults for SlowSync {
    fn check(&self, point: IoPoint) -> io::Result<()> {
        if point == IoPoint::LogSync {
            take_time(self.0);
        }
        Ok(())
    }
}

#[expect(clippy::disallowed_methods, reason = "the log writer's own thread stands still, as with a slow disk")]
fn take_time(time: Duration) {
    std::thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_in_mode_test() {
        let env = Env::from_pairs([(ENV, "500")]);
        assert_eq!(write_delay(Mode::Test, &env), Duration::from_millis(500));
        assert_eq!(write_delay(Mode::Release, &env), Duration::ZERO);
        assert_eq!(write_delay(Mode::Test, &Env::from_pairs::<&str, &str>([])), Duration::ZERO);
    }
}
