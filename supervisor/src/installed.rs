//! What systemd has of this node: its units with their drop-ins, the file of variables, the configuration that they name. Reads only.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use wk_config::{ConfigError, Env, Inputs};

/// Configuration that the packaged units name.
pub const CONFIG: &str = "/etc/wukongim/wukongim.yaml";
/// Variables that the packaged units read (`EnvironmentFile=`).
pub const VARIABLES: &str = "/etc/default/wukongim";
/// The unit that runs the supervisor.
pub const SUPERVISOR: &str = "wukongim.service";
/// The set of units, one for each daemon.
pub const TARGET: &str = "wukongim.target";
/// Where units lie, the strongest first. Source: systemd.unit(5).
pub const FOLDERS: [&str; 6] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
/// There when systemd is PID 1. Source: sd_booted(3).
pub const BOOTED: &str = "/run/systemd/system";

/// Name of the mark that the native set leaves beside the node's runtime folder (`systemd/wk-quiesce.service`), and that a supervisor takes away: the
/// way in which this node ran last.
pub const NATIVE_MARK: &str = "units";
/// Base of the runtime folder in the packaged units.
pub const RUNTIME_BASE: &str = "/run/wukongim";

/// A unit file and its drop-ins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unit {
    /// The file itself.
    pub path: PathBuf,
    /// Assignments in the order in which they hold.
    keys: Vec<Assignment>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Assignment {
    file: PathBuf,
    section: String,
    key: String,
    value: String,
}

impl Unit {
    /// Finds a unit; the first folder wins. Drop-ins hold after it: those for all units of its kind, then its own, each group by name; of two
    /// with one name the stronger folder's.
    #[must_use]
    pub fn find(folders: &[&Path], name: &str) -> Option<Self> {
        let path = folders.iter().map(|dir| dir.join(name)).find(|path| path.exists())?;
        let kind = name.rsplit('.').next().unwrap_or_default();
        let drop_ins = [format!("{kind}.d"), format!("{name}.d")].into_iter().flat_map(|folder| {
            let mut named = BTreeMap::new();
            for dir in folders.iter().rev() {
                let list = fs::read_dir(dir.join(&folder)).into_iter().flatten().flatten();
                named.extend(list.filter(|f| f.path().extension().is_some_and(|e| e == "conf")).map(|f| (f.file_name(), f.path())));
            }
            named.into_values()
        });
        let files = std::iter::once(path.clone()).chain(drop_ins);
        let keys = files.flat_map(|file| assignments(&fs::read_to_string(&file).unwrap_or_default(), &file)).collect();
        Some(Self { path, keys })
    }

    /// Assignments of keys in the order in which they hold, with the files that they stand in.
    pub fn set<'a>(&'a self, section: &'a str, keys: &'a [&str]) -> impl Iterator<Item = (&'a Path, &'a str)> {
        let of = self.keys.iter().filter(move |k| k.section == section && keys.contains(&k.key.as_str()));
        of.map(|k| (k.file.as_path(), k.value.as_str()))
    }

    /// The value of a service's key that holds; `None`: not set, or set to nothing.
    #[must_use]
    pub fn last(&self, key: &str) -> Option<&str> {
        let of = self.keys.iter().rev().find(|k| k.section == "Service" && k.key == key);
        of.map(|k| k.value.as_str()).filter(|value| !value.is_empty())
    }

    /// The words of a service's list: assignments add up, an empty one begins anew.
    #[must_use]
    pub fn list(&self, key: &str) -> Vec<&str> {
        let mut words = Vec::new();
        for assigned in self.keys.iter().filter(|k| k.section == "Service" && k.key == key) {
            if assigned.value.is_empty() {
                words.clear();
            }
            words.extend(assigned.value.split_whitespace());
        }
        words
    }

    /// The file behind `--config` of its program.
    #[must_use]
    pub fn config(&self) -> Option<PathBuf> {
        let words = self.list("ExecStart");
        let at = words.iter().position(|w| *w == "--config")?;
        words.get(at + 1).map(PathBuf::from)
    }

    /// Its variables: files that can be read, then those of the unit itself.
    #[must_use]
    pub fn variables(&self) -> Vec<(String, String)> {
        let file = |path: &&str| fs::read_to_string(path.trim_start_matches('-')).ok();
        let own = self.list("Environment").into_iter().filter_map(|pair| pair.trim_matches('"').split_once('='));
        let own: Vec<(String, String)> = own.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        // A file beats the line. Source: systemd.exec(5).
        own.into_iter().chain(self.list("EnvironmentFile").iter().filter_map(file).flat_map(|text| variables(&text))).collect()
    }
}

/// systemd runs this machine and has the unit of the supervisor.
#[must_use]
pub fn is_installed() -> bool {
    Path::new(BOOTED).exists() && FOLDERS.iter().any(|dir| Path::new(dir).join(SUPERVISOR).exists())
}

/// Drop-in of the set of units that follows from the configuration (`wksupervisor generator`).
pub const MADE: &str = "/run/systemd/generator/wukongim.target.d/50-configuration.conf";

/// The units follow an older configuration than the one on disk: `systemctl daemon-reload` makes them follow. systemd itself sees that only
/// while the target is loaded. False when the configuration may not be looked at.
#[must_use]
pub fn is_behind() -> bool {
    older(Path::new(MADE), &[Path::new(CONFIG), Path::new(VARIABLES)])
}

fn older(made: &Path, than: &[&Path]) -> bool {
    let time = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
    time(made).is_some_and(|made| than.iter().filter_map(|path| time(path)).any(|changed| changed > made))
}

/// The node ran as a set of units the last time, since the machine was booted.
#[must_use]
pub fn was_native() -> bool {
    Path::new(RUNTIME_BASE).join(NATIVE_MARK).exists()
}

/// From now on the node runs below a supervisor. `base`: where its runtime folder lies.
pub fn supervised(base: &Path) {
    match fs::remove_file(base.join(NATIVE_MARK)) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => tracing::warn!(%err, "mark of the native set not removed"),
        _ => {}
    }
}

/// The configuration as the packaged units read it.
///
/// # Errors
/// It is refused, or cannot be read by this user.
pub fn config() -> Result<wk_config::Config, ConfigError> {
    let vars = fs::read_to_string(VARIABLES).map(|text| variables(&text)).unwrap_or_default();
    let inputs = Inputs { env: Env::from_pairs(vars), ..Inputs::default() };
    wk_config::load_file(Some(Path::new(CONFIG)), false, &inputs).map(|loaded| loaded.config)
}

/// `Key=value` with its section; a line that ends in `\` goes on in the next one.
fn assignments(text: &str, file: &Path) -> Vec<Assignment> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in text.replace("\\\n", " ").lines().map(str::trim).filter(|l| !l.starts_with(['#', ';'])) {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
        } else if let Some((key, value)) = line.split_once('=') {
            let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
            found.push(Assignment { file: file.to_path_buf(), section: section.clone(), key, value });
        }
    }
    found
}

/// `NAME=value` of a file of variables, quotes taken off. Source: systemd.exec(5), `EnvironmentFile=`.
fn variables(text: &str) -> Vec<(String, String)> {
    let bare = |value: &str| {
        let quoted = ['"', '\''].into_iter().find_map(|q| value.strip_prefix(q)?.strip_suffix(q));
        quoted.unwrap_or(value).to_owned()
    };
    assignments(text, Path::new("")).into_iter().map(|a| (a.key, bare(&a.value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: PathBuf, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn drop_ins_hold_in_the_order_of_their_names_and_the_administrator_is_the_strongest() {
        let dir = tempfile::tempdir().unwrap();
        let (admin, shipped) = (dir.path().join("etc"), dir.path().join("usr"));
        write(
            shipped.join("x.service"),
            "# LimitNOFILE=1\n[Service]\nUser=im\nLimitNOFILE=10\nDelegate=cpu memory\nReadWritePaths=/a\nExecStart=/bin/x run \\\n  --config /etc/x.yaml\n",
        );
        write(shipped.join("x.service.d/10.conf"), "[Service]\nLimitNOFILE=20\nReadWritePaths=/b /c\n");
        write(shipped.join("x.service.d/20.conf"), "[Service]\nLimitNOFILE=30\n");
        write(admin.join("x.service.d/20.conf"), "[Service]\nDelegate=\n");
        write(admin.join("x.service.d/30.conf.off"), "[Service]\nUser=root\n");
        let unit = Unit::find(&[&admin, &shipped], "x.service").unwrap();
        assert_eq!((unit.last("User"), unit.last("LimitNOFILE"), unit.last("Delegate")), (Some("im"), Some("20"), None));
        assert_eq!(unit.list("ReadWritePaths"), ["/a", "/b", "/c"]);
        assert_eq!(unit.config(), Some("/etc/x.yaml".into()));
        assert_eq!(unit.path, shipped.join("x.service"));
        assert_eq!(Unit::find(&[&admin], "x.service"), None, "drop-ins alone are no unit");
    }

    #[test]
    fn what_was_made_before_a_change_is_behind() {
        let dir = tempfile::tempdir().unwrap();
        let [made, config, none] = ["made", "config", "none"].map(|name| dir.path().join(name));
        let at = |path: &Path, seconds: u64| {
            let file = fs::File::create(path).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap();
        };
        at(&config, 10);
        assert!(!older(&made, &[&config]), "never made: no generator here");
        at(&made, 11);
        assert!(!older(&made, &[&config, &none]));
        at(&made, 9);
        assert!(older(&made, &[&none, &config]));
    }

    #[test]
    fn variables_lose_their_quotes() {
        let text = "# a comment\nWK_WORKERS_CHANNEL=2\n; another\nWK_MODE=\"release\"\nTZ='UTC'\nnothing\n";
        let pairs = variables(text);
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(pairs, [("WK_WORKERS_CHANNEL", "2"), ("WK_MODE", "release"), ("TZ", "UTC")]);
    }
}
