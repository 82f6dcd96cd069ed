//! Whose rights count, and in what surroundings: ours, or those of the installed unit that will run this configuration.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, User};
use rustix::fs::Access;
use wk_config::Env;

use crate::config::Source;
use crate::installed::Unit;

/// A user with its groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Judge {
    pub(super) uid: u32,
    gids: Vec<u32>,
    pub(super) name: String,
}

/// What a user wants to do with a file or folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// Of a file.
    Read,
    /// Of a program.
    Execute,
    /// Make files in a folder.
    Fill,
}

impl Want {
    fn bits(self) -> u32 {
        match self {
            Self::Read => 4,
            Self::Execute => 1,
            Self::Fill => 3,
        }
    }

    fn access(self) -> Access {
        match self {
            Self::Read => Access::READ_OK,
            Self::Execute => Access::EXEC_OK,
            Self::Fill => Access::WRITE_OK | Access::EXEC_OK,
        }
    }
}

impl Judge {
    pub(super) fn caller() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let name = User::from_uid(uid.into()).ok().flatten().map_or_else(|| uid.to_string(), |u| u.name);
        Self { uid, gids: Vec::new(), name }
    }

    /// The user of a unit: `User=`, `Group=`, `SupplementaryGroups=` and the groups it is a member of.
    fn of(unit: &Unit) -> Result<Self, String> {
        let name = unit.last("User").unwrap_or("root");
        let user = User::from_name(name).ok().flatten().ok_or_else(|| format!("User={name} of {} does not exist", unit.path.display()))?;
        let group = |name: &str| Group::from_name(name).ok().flatten().map(|g| g.gid);
        let primary = match unit.last("Group") {
            Some(name) => group(name).ok_or_else(|| format!("Group={name} of {} does not exist", unit.path.display()))?,
            None => user.gid,
        };
        let listed = std::ffi::CString::new(name).ok().and_then(|n| nix::unistd::getgrouplist(&n, primary).ok()).unwrap_or_default();
        let more = unit.list("SupplementaryGroups").into_iter().filter_map(group);
        let gids = std::iter::once(primary).chain(listed).chain(more).map(Gid::as_raw).collect();
        Ok(Self { uid: user.uid.as_raw(), gids, name: name.to_owned() })
    }

    /// By the modes of the path and of all folders above it; lists of access rights beyond modes count for ourselves only.
    pub(super) fn may(&self, path: &Path, want: Want) -> bool {
        if self.uid == rustix::process::geteuid().as_raw() {
            return rustix::fs::accessat(rustix::fs::CWD, path, want.access(), rustix::fs::AtFlags::EACCESS).is_ok();
        }
        // What a link points to counts, not the link.
        let Ok(real) = fs::canonicalize(path) else { return false };
        let has = |path: &Path, bits: u32| fs::metadata(path).is_ok_and(|m| self.has(&m, bits));
        real.ancestors().skip(1).all(|dir| has(dir, Want::Execute.bits())) && has(&real, want.bits())
    }

    fn has(&self, meta: &fs::Metadata, bits: u32) -> bool {
        let mode = meta.permissions().mode();
        let executable = mode & 0o111 != 0 || meta.is_dir();
        let granted = match () {
            () if self.uid == 0 => 6 | u32::from(executable),
            () if meta.uid() == self.uid => mode >> 6,
            () if self.gids.contains(&meta.gid()) => mode >> 3,
            () => mode,
        };
        granted & bits == bits
    }
}

/// Where and as whom the supervisor will run.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) judge: Judge,
    /// The unit that will run this configuration.
    pub(super) unit: Option<Unit>,
}

impl Place {
    /// The unit when it names this configuration, else the caller.
    ///
    /// # Errors
    /// The user of the unit does not exist.
    pub(super) fn of(source: &Source, unit: Option<&Unit>) -> Result<Self, String> {
        let same = |unit: &&Unit| {
            let (own, given) = (unit.config(), source.file.as_deref());
            let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
            source.data.is_none() && source.runtime.is_none() && own.zip(given).is_some_and(|(own, given)| real(&own) == real(given))
        };
        let unit = unit.filter(same).cloned();
        let judge = unit.as_ref().map_or_else(|| Ok(Judge::caller()), Judge::of)?;
        Ok(Self { judge, unit })
    }

    /// What the supervisor will find in its environment.
    pub(super) fn env(&self, ours: &Env) -> Env {
        let Some(unit) = &self.unit else { return ours.clone() };
        let home = User::from_uid(self.judge.uid.into()).ok().flatten().map(|u| ("HOME".to_owned(), u.dir.display().to_string()));
        let bin =
            unit.list("ExecStart").first().and_then(|program| Path::new(program.trim_start_matches(['-', '@', ':', '+', '!'])).parent());
        let bin = bin.map(|dir| ("WK_BIN_DIR".to_owned(), dir.display().to_string()));
        Env::from_pairs(home.into_iter().chain(bin).chain(unit.variables()))
    }

    /// Folders that systemd makes for the user before the program runs.
    pub(super) fn made(&self) -> Vec<PathBuf> {
        let Some(unit) = &self.unit else { return Vec::new() };
        let kinds =
            [("RuntimeDirectory", "/run"), ("StateDirectory", "/var/lib"), ("LogsDirectory", "/var/log"), ("CacheDirectory", "/var/cache")];
        kinds.into_iter().flat_map(|(key, base)| unit.list(key).into_iter().map(move |name| Path::new(base).join(name))).collect()
    }

    /// Why the sandbox of the unit lets nobody write below a path, and what to add to the unit.
    pub(super) fn closed(&self, path: &Path) -> Option<(String, String)> {
        let unit = self.unit.as_ref()?;
        let within = |list: &[PathBuf]| list.iter().any(|dir| path.starts_with(dir));
        let own: Vec<PathBuf> =
            unit.list("ReadWritePaths").iter().map(|p| p.trim_start_matches(['-', '+']).into()).chain(self.made()).collect();
        let open = |list: &[&str]| within(&list.iter().map(PathBuf::from).collect::<Vec<_>>());
        let add = || {
            format!(
                "ReadWritePaths={} in a drop-in (systemctl edit {}), or a folder below {}",
                path.display(),
                unit_name(unit),
                shown(&self.made())
            )
        };
        let home = unit.last("ProtectHome").is_some_and(|v| !["no", "false", "off", "0", "read-only"].contains(&v));
        if home && open(&["/home", "/root", "/run/user"]) {
            return Some(("is hidden by ProtectHome= of the unit".into(), format!("a folder below {}", shown(&self.made()))));
        }
        let strict = unit.last("ProtectSystem") == Some("strict");
        let free =
            within(&own) || open(&["/dev", "/proc", "/sys"]) || (unit.last("PrivateTmp") == Some("yes") && open(&["/tmp", "/var/tmp"]));
        (strict && !free).then(|| ("is read-only by ProtectSystem=strict of the unit".into(), add()))
    }

    /// Limit of open files that the unit sets; `None`: none, or the caller's own counts.
    pub(super) fn files_max(&self) -> Option<u64> {
        let value = self.unit.as_ref()?.last("LimitNOFILE")?;
        let hard = value.rsplit(':').next().unwrap_or(value);
        if hard == "infinity" { Some(u64::MAX) } else { hard.parse().ok() }
    }

    /// Controllers that the unit delegates (empty: processes only); `None`: it delegates nothing.
    pub(super) fn delegated(&self) -> Option<Vec<String>> {
        let words = self.unit.as_ref()?.list("Delegate");
        match words.as_slice() {
            [] | ["no" | "false" | "off" | "0"] => None,
            ["yes" | "true" | "on" | "1"] => Some(["memory", "pids", "cpu", "io"].map(str::to_owned).to_vec()),
            list => Some(list.iter().map(|w| (*w).to_owned()).collect()),
        }
    }

    /// A port below the limit for everybody needs a capability that the unit must give.
    pub(super) fn may_bind(&self, port: u16) -> bool {
        let Some(unit) = &self.unit else { return true };
        let first =
            fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").ok().and_then(|t| t.trim().parse().ok()).unwrap_or(1024u16);
        let ambient = unit.list("AmbientCapabilities").contains(&"CAP_NET_BIND_SERVICE");
        port == 0 || port >= first || ambient || (self.judge.uid == 0 && unit.last("CapabilityBoundingSet").is_none())
    }
}

fn shown(list: &[PathBuf]) -> String {
    list.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn unit_name(unit: &Unit) -> String {
    unit.path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(text: &str) -> Unit {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("x.service"), format!("[Service]\n{text}")).unwrap();
        Unit::find(&[dir.path()], "x.service").unwrap()
    }

    fn place(text: &str) -> Place {
        Place { judge: Judge { uid: 4711, gids: vec![4712], name: "im".into() }, unit: Some(unit(text)) }
    }

    #[test]
    fn modes_of_the_whole_path_decide() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("file"), "").unwrap();
        let other = Judge { uid: 4711, gids: vec![4712], name: "im".into() };
        mode(dir.path(), 0o755);
        for (folder, file, fill, read) in [(0o755, 0o644, false, true), (0o757, 0o600, true, false), (0o754, 0o644, false, false)] {
            mode(&inner, folder);
            mode(&inner.join("file"), file);
            assert_eq!((other.may(&inner, Want::Fill), other.may(&inner.join("file"), Want::Read)), (fill, read), "{folder:o} {file:o}");
        }
        mode(&inner, 0o757);
        mode(dir.path(), 0o700);
        assert!(!other.may(&inner, Want::Fill), "the folder above is closed");
        assert!(Judge::caller().may(&inner, Want::Fill));
        let member = Judge { gids: vec![fs::metadata(&inner).unwrap().gid()], ..other };
        mode(dir.path(), 0o710);
        mode(&inner, 0o070);
        assert!(member.may(&inner, Want::Fill), "by its group");
        mode(&inner, 0o700);
        mode(dir.path(), 0o755);
        let root = Judge { uid: 0, ..member };
        assert!(root.has(&fs::metadata(&inner).unwrap(), 3) && !root.has(&fs::metadata(inner.join("file")).unwrap(), 1));
    }

    #[test]
    fn the_sandbox_of_the_unit_is_said_with_what_opens_it() {
        let place = place(
            "StateDirectory=im\nRuntimeDirectory=im\nReadWritePaths=-/srv/im\nProtectSystem=strict\nProtectHome=yes\nPrivateTmp=yes\n",
        );
        for open in ["/var/lib/im/data", "/run/im", "/srv/im/data", "/tmp/x"] {
            assert_eq!(place.closed(Path::new(open)), None, "{open}");
        }
        let (why, next) = place.closed(Path::new("/data/im")).unwrap();
        assert!(
            why.contains("ProtectSystem=strict") && next.contains("ReadWritePaths=/data/im") && next.contains("/var/lib/im"),
            "{why} {next}"
        );
        assert!(place.closed(Path::new("/home/im")).unwrap().0.contains("ProtectHome"));
        let ours = Place { judge: Judge::caller(), unit: None };
        assert_eq!(ours.closed(Path::new("/data/im")), None);
    }

    #[test]
    fn limits_delegation_and_ports_are_those_of_the_unit() {
        let shipped = place("LimitNOFILE=1000:2000\nDelegate=cpu memory\nCapabilityBoundingSet=\n");
        assert_eq!((shipped.files_max(), shipped.delegated()), (Some(2000), Some(vec!["cpu".into(), "memory".into()])));
        assert!(!shipped.may_bind(1) && shipped.may_bind(5100) && shipped.may_bind(0));
        let other = place("LimitNOFILE=infinity\nDelegate=no\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n");
        assert_eq!((other.files_max(), other.delegated()), (Some(u64::MAX), None));
        assert!(other.may_bind(1));
        assert_eq!(place("Delegate=yes\n").delegated().unwrap().len(), 4);
    }

    #[test]
    fn a_unit_counts_for_the_configuration_that_it_names() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("w.yaml");
        fs::write(&file, "").unwrap();
        let unit = unit(&format!("ExecStart=/opt/im/wksupervisor run --config {}\nEnvironment=WK_MODE=release\n", file.display()));
        let of = |source: Source| Place::of(&source, Some(&unit)).unwrap().unit.is_some();
        let source = Source { file: Some(file.clone()), ..Source::default() };
        assert!(of(source.clone()));
        assert!(!of(Source { data: Some(dir.path().into()), ..source.clone() }) && !of(Source::default()));
        assert!(!of(Source { file: Some(dir.path().join("other.yaml")), ..Source::default() }));
        let env = Place::of(&source, Some(&unit)).unwrap().env(&Env::from_pairs([("WK_MODE", "debug"), ("WK_BIN_DIR", "/ours")]));
        assert_eq!((env.get("WK_MODE"), env.get("WK_BIN_DIR"), env.get("HOME")), (Some("release"), Some("/opt/im"), Some("/root")));
    }
}
