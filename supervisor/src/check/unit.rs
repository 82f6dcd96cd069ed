//! What systemd would read of a unit: the file, and the drop-ins that change it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `DefaultTimeoutStopSec=` of systemd, where nothing else is set.
const DEFAULT: Duration = Duration::from_secs(90);

/// Where `TimeoutStopSec=` of a unit is set, and to what; `None`: systemd waits for ever. `dirs`: folders of units, the strongest first.
pub(super) fn stop_timeout(unit: &str, dirs: &[&Path]) -> (String, Option<Duration>) {
    let mut set = ("systemd's default".to_owned(), Some(DEFAULT));
    for path in files(unit, dirs) {
        let text = fs::read_to_string(&path).unwrap_or_default();
        if let Some(limit) = last_limit(&text) {
            set = (path.display().to_string(), limit);
        }
    }
    set
}

/// The unit, then its drop-ins: those for all services before its own, each group by name; of two with one name the stronger folder's.
fn files(unit: &str, dirs: &[&Path]) -> Vec<PathBuf> {
    let main = dirs.iter().map(|dir| dir.join(unit)).find(|path| path.exists());
    let drop_ins = ["service.d".to_owned(), format!("{unit}.d")].into_iter().flat_map(|folder| {
        let mut named = BTreeMap::new();
        for dir in dirs.iter().rev() {
            let list = fs::read_dir(dir.join(&folder)).into_iter().flatten().flatten();
            named.extend(list.filter(|f| f.path().extension().is_some_and(|e| e == "conf")).map(|f| (f.file_name(), f.path())));
        }
        named.into_values()
    });
    main.into_iter().chain(drop_ins).collect()
}

/// The last assignment in section `[Service]` that can be read; `Some(None)`: no limit.
fn last_limit(text: &str) -> Option<Option<Duration>> {
    let mut section = "";
    let mut last = None;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        }
        let Some((key, value)) = line.split_once('=').filter(|_| section == "[Service]") else { continue };
        if matches!(key.trim_end(), "TimeoutStopSec" | "TimeoutSec") {
            last = limit(value.trim()).or(last);
        }
    }
    last
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

    fn s(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn the_last_word_of_unit_and_drop_ins_counts() {
        let (etc, usr) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let dirs = [etc.path(), usr.path()];
        let read = || stop_timeout("wukongim.service", &dirs);
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
