//! How long systemd waits for a stop.

use std::time::Duration;

use crate::installed::Unit;

/// `DefaultTimeoutStopSec=` of systemd, where nothing else is set.
const DEFAULT: Duration = Duration::from_secs(90);

/// Where `TimeoutStopSec=` of a unit is set, and to what; `None`: systemd waits for ever.
pub(super) fn stop_timeout(unit: Option<&Unit>) -> (String, Option<Duration>) {
    let set = unit.and_then(|unit| {
        let valid = |(file, value): (&std::path::Path, &str)| Some((file.display().to_string(), limit(value)?));
        unit.set("Service", &["TimeoutStopSec", "TimeoutSec"]).filter_map(valid).last()
    });
    set.unwrap_or_else(|| ("systemd's default".to_owned(), Some(DEFAULT)))
}

/// `90`, `1min 30s`, `infinity`.
fn limit(value: &str) -> Option<Option<Duration>> {
    let seconds = |text: &str| text.parse().ok().map(Duration::from_secs);
    match value {
        "infinity" | "0" => Some(None),
        _ => seconds(value).or_else(|| humantime::parse_duration(value).ok()).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn s(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn the_last_word_of_unit_and_drop_ins_counts() {
        let (etc, usr) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let dirs = [etc.path(), usr.path()];
        let read = || stop_timeout(Unit::find(&dirs, "wukongim.service").as_ref());
        assert_eq!(read(), ("systemd's default".to_owned(), s(90)));
        let write = |dir: &tempfile::TempDir, file: &str, value: &str| {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, format!("[Unit]\nTimeoutStopSec=7\n[Service]\n# TimeoutStopSec=8\n{value}\n")).unwrap();
            path.display().to_string()
        };
        write(&usr, "wukongim.service", "TimeoutStopSec=60");
        write(&usr, "wukongim.service.d/20-b.conf", "TimeoutStopSec = 1min 30s");
        assert_eq!(read().1, s(90));
        write(&usr, "service.d/99.conf", "TimeoutStopSec=5");
        assert_eq!(read().1, s(90), "its own are stronger than those for all services");
        let first = write(&etc, "wukongim.service.d/10-a.conf", "TimeoutStopSec=40");
        assert_eq!(read().1, s(90), "sorted by name, whatever the folder");
        write(&etc, "wukongim.service.d/20-b.conf", "RestartSec=1");
        assert_eq!(read(), (first, s(40)), "the file of that name in /etc hides the other");
        write(&etc, "wukongim.service.d/30-c.conf", "TimeoutSec=infinity");
        assert_eq!(read().1, None);
        write(&etc, "wukongim.service", "TimeoutStopSec=1");
        assert_eq!(read().1, None);
    }
}
