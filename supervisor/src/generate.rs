//! `wksupervisor generator`: drop-ins of the units that follow from the configuration, so that an operator says a thing once. systemd runs it at
//! boot and at every `systemctl daemon-reload` (systemd.generator(7)); the files lie in `/run` and are made anew each time.
//!
//! [`drop_ins`] decides; [`run`] reads, asks for the version and writes.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use wk_config::{Config, ConfigError};
use wk_types::{Daemon, InstanceName, Pool};

use crate::installed::{CONFIG, SUPERVISOR, TARGET};
use crate::names::unit;

/// Keys of the supervisor's unit that older versions do not know.
const NEWER: &str = include_str!("../../systemd/wukongim-254.conf");
/// Version that knows them all.
const NEWER_VERSION: u32 = 254;
/// Below `override.conf` of `systemctl edit`: the administrator has the last word.
const NAME: &str = "50-configuration.conf";

/// A file below the folder that systemd gives us, and its text.
type DropIn = (String, String);

/// What a version of systemd can use, whatever the configuration says.
#[must_use]
pub fn by_version(version: u32) -> Option<DropIn> {
    (version >= NEWER_VERSION).then(|| (format!("{SUPERVISOR}.d/50-{NEWER_VERSION}.conf"), NEWER.to_owned()))
}

/// What follows from the configuration: every worker of it belongs to the set, and the sockets listen where it says.
#[must_use]
pub fn drop_ins(config: &Config) -> Vec<DropIn> {
    let pools = [(Pool::User, config.workers.user), (Pool::Channel, config.workers.channel), (Pool::Push, config.workers.push)];
    // The first slot of each pool is in the set itself.
    let further =
        pools.into_iter().flat_map(|(pool, slots)| (1..slots).map(move |slot| InstanceName { daemon: Daemon::Worker(pool), slot }));
    let wants = further.map(|name| format!("Wants={}\n", unit(name))).collect();
    let manager = config.manager.on.then_some(config.manager.addr.0);
    let sockets = [
        ("wk-gateway.socket", vec![config.addr.0, config.ws_addr.0]),
        ("wk-api.socket", std::iter::once(config.http_addr.0).chain(manager).collect()),
    ];
    let mut files = vec![drop_in(TARGET, wants)];
    for (socket, addresses) in sockets {
        let lines: String = addresses.iter().map(|addr| format!("ListenStream={addr}\n")).collect();
        files.push(drop_in(socket, format!("\n[Socket]\nListenStream=\n{lines}")));
    }
    files
}

/// `SourcePath=` makes systemctl say that `daemon-reload` is due when the configuration is newer.
fn drop_in(unit: &str, body: String) -> DropIn {
    let head = format!("# Made by `wksupervisor generator`; {CONFIG} is what to edit.\n[Unit]\nSourcePath={CONFIG}\n");
    (format!("{unit}.d/{NAME}"), head + &body)
}

/// Why there is less than there could be.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The configuration is refused: the units are as shipped.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file was not written.
    #[error("write {path}")]
    Write {
        /// Which.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Writes all files below `dir`, the first folder that systemd passes.
///
/// # Errors
/// [`GenerateError`]; what can be written is written.
pub fn run(dir: &Path) -> Result<(), GenerateError> {
    let newer = by_version(version());
    let config = crate::installed::config();
    let files = newer.into_iter().chain(config.iter().flat_map(drop_ins));
    for (name, text) in files {
        let path = dir.join(&name);
        let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, text));
        written.map_err(|source| GenerateError::Write { path: path.display().to_string(), source })?;
    }
    config.map(drop).map_err(GenerateError::Config)
}

/// Version of systemd; 0: unknown. Its own tool says it without a word to the manager, which waits for us.
fn version() -> u32 {
    let said = Command::new("systemctl").arg("--version").stdin(Stdio::null()).output().map(|o| o.stdout).unwrap_or_default();
    parse_version(&String::from_utf8_lossy(&said))
}

/// `systemd 252 (252.39-1~deb12u1)`, or `systemd 257.7`.
fn parse_version(text: &str) -> u32 {
    let word = text.split_whitespace().nth(1).unwrap_or_default();
    word.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wk_config::Inputs;

    fn config(text: &str) -> Config {
        wk_config::load(&Inputs { file: Some(("w.yaml", text)), ..Inputs::default() }).unwrap().config
    }

    fn text_of<'a>(files: &'a [DropIn], name: &str) -> &'a str {
        files.iter().find(|(n, _)| n == name).map(|(_, text)| text.as_str()).unwrap()
    }

    #[test]
    fn every_configured_worker_is_wanted_and_the_sockets_follow() {
        let files = drop_ins(&config("addr: tcp://0.0.0.0:6100\nworkers: {channel: 3, push: 2}\nmanager: {on: false}\n"));
        let target = text_of(&files, "wukongim.target.d/50-configuration.conf");
        let wants: Vec<&str> = target.lines().filter_map(|l| l.strip_prefix("Wants=")).collect();
        assert_eq!(wants, ["wk-worker-channel@1.service", "wk-worker-channel@2.service", "wk-worker-push@1.service"]);
        assert!(target.contains("SourcePath=/etc/wukongim/wukongim.yaml\n"));
        let gateway = text_of(&files, "wk-gateway.socket.d/50-configuration.conf");
        assert!(gateway.contains("[Socket]\nListenStream=\nListenStream=0.0.0.0:6100\nListenStream=0.0.0.0:5200\n"), "{gateway}");
        let api = text_of(&files, "wk-api.socket.d/50-configuration.conf");
        assert!(api.ends_with("ListenStream=\nListenStream=127.0.0.1:5001\n"), "no manager: {api}");
    }

    #[test]
    fn the_default_configuration_changes_nothing_but_is_watched() {
        let files = drop_ins(&config(""));
        assert!(!text_of(&files, "wukongim.target.d/50-configuration.conf").contains("Wants="));
        let sockets = [("gateway", include_str!("../../systemd/wk-gateway.socket")), ("api", include_str!("../../systemd/wk-api.socket"))];
        for (socket, shipped) in sockets {
            let made = text_of(&files, &format!("wk-{socket}.socket.d/50-configuration.conf"));
            let of =
                |text: &str| text.lines().filter(|l| l.starts_with("ListenStream=") && l.len() > 13).map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(of(made), of(shipped), "the shipped file and the default of the configuration");
        }
    }

    #[test]
    fn newer_keys_are_for_newer_versions_only() {
        for (text, version) in [("systemd 252 (252.39-1~deb12u1)\n+PAM", 252), ("systemd 257.7", 257), ("", 0), ("systemd", 0)] {
            assert_eq!(parse_version(text), version);
        }
        assert_eq!((by_version(252), by_version(0)), (None, None));
        let (name, text) = by_version(254).unwrap();
        assert!(name.ends_with("50-254.conf") && text.contains("Type=notify-reload") && text.contains("DelegateSubgroup=supervisor"));
    }
}
