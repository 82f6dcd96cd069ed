//! Which node, and how to reach it (`spec/config.md` §5).

use std::fs;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use wk_config::{Config, Env, runtime_bases};
use wk_proto::supervisor::v1 as pb;

use super::patient::{ANSWER_WITHIN, Client};
use super::{EXIT_PERMISSION, EXIT_UNREACHABLE, EXIT_USAGE, Failure};
use crate::installed::is_installed;

const SOCKET: &str = "control.sock";
/// A supervisor whose node is down ends at once; this is for a slow machine.
const REPLACE_TIMEOUT: Duration = Duration::from_secs(5);

/// How to start a node, for messages. `installed`: systemd has its unit.
fn how(installed: bool) -> &'static str {
    match installed {
        true => "start it with `systemctl start wukongim` (or each daemon as a unit: `systemctl start wukongim.target`)",
        false => "start one with `scripts/up`, or `wksupervisor run --config FILE`",
    }
}

/// `--runtime`, else `--node`, else the only node there is.
pub(super) fn node_dir(runtime: Option<&Path>, node: Option<u16>, env: &Env) -> Result<PathBuf, Failure> {
    if let Some(dir) = runtime.filter(|d| d.join(SOCKET).try_exists().is_ok_and(|there| there)) {
        return Ok(dir.to_path_buf());
    }
    let uid = rustix::process::geteuid().as_raw();
    let bases = runtime.map_or_else(|| runtime_bases(&Config::default(), env, uid), |dir| vec![dir.to_path_buf()]);
    let (found, closed) = nodes(&bases);
    let named = |dir: &&PathBuf| node.is_none_or(|node| dir.file_name().is_some_and(|n| n.to_string_lossy() == node.to_string()));
    match found.iter().filter(named).collect::<Vec<_>>().as_slice() {
        [only] => Ok((*only).clone()),
        [] if closed.is_some() => {
            let dir = closed.unwrap_or_default();
            let who = "only root and the user of the node may look there";
            let next = "call wkctl as one of them, or name a group in supervisor.adminGroup, .operatorGroup or .viewerGroup and start the supervisor anew";
            Err(Failure::new(EXIT_PERMISSION, format!("{}: permission denied; {who}: {next}", dir.display())))
        }
        [] if !found.is_empty() => {
            let list: Vec<String> = found.iter().map(|d| d.display().to_string()).collect();
            let node = node.unwrap_or_default();
            Err(Failure::new(EXIT_UNREACHABLE, format!("node {node} does not run here; there are {}", list.join(", "))))
        }
        [] => {
            let looked: Vec<String> = bases.iter().map(|b| b.display().to_string()).collect();
            Err(Failure::new(EXIT_UNREACHABLE, format!("no supervisor runs (looked under {}); {}", looked.join(", "), how(is_installed()))))
        }
        several => {
            let list: Vec<String> = several.iter().map(|d| d.display().to_string()).collect();
            Err(Failure::new(EXIT_USAGE, format!("several nodes run, choose one with --node or --runtime: {}", list.join(", "))))
        }
    }
}

/// Folders with a control socket, one level below the bases; and the first folder that is closed to us.
fn nodes(bases: &[PathBuf]) -> (Vec<PathBuf>, Option<PathBuf>) {
    let (mut found, mut closed) = (Vec::new(), None);
    let denied = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    for base in bases {
        let below = match fs::read_dir(base) {
            Ok(entries) => entries.flatten().map(|e| e.path()).collect(),
            Err(error) => {
                closed = closed.or(denied(&error).then(|| base.clone()));
                Vec::new()
            }
        };
        for dir in below {
            match dir.join(SOCKET).try_exists() {
                Ok(true) => found.push(dir),
                Ok(false) => {}
                Err(error) => closed = closed.or(denied(&error).then_some(dir)),
            }
        }
    }
    found.sort();
    found.dedup();
    (found, closed)
}

/// Connects, with a message that says what to do when that fails. `within`: time for the answer to each call.
pub(super) async fn dial(dir: &Path, within: Duration) -> Result<Client, Failure> {
    let path = dir.join(SOCKET);
    // The plain connect tells a missing supervisor from a missing right; the channel's own error would not.
    if let Err(error) = UnixStream::connect(&path) {
        return Err(match error.kind() {
            io::ErrorKind::PermissionDenied => Failure::new(
                EXIT_PERMISSION,
                format!("{}: permission denied; only root and the user of the node may use it", path.display()),
            ),
            _ => Failure::new(EXIT_UNREACHABLE, format!("no supervisor answers on {} ({error}); {}", path.display(), how(is_installed()))),
        });
    }
    let options = wk_rpc::dial::DialOptions { answer_within: Some(within), ..Default::default() };
    let channel = wk_rpc::dial::dial_with(&path, options)
        .await
        .map_err(|e| Failure::new(EXIT_UNREACHABLE, format!("{e}; {}", how(is_installed()))))?;
    Ok(Client::new(channel))
}

/// Ends the resident supervisor of a node whose daemons are all down, and waits until it is gone. `None` or `false`: it stays.
pub(crate) async fn replace(dir: &Path) -> Option<bool> {
    let mut client = dial(dir, ANSWER_WITHIN).await.ok()?;
    let status = client.status(pb::StatusRequest::default()).await.ok()?.into_inner();
    if status.overall != "down" {
        return Some(false);
    }
    let pid = rustix::process::Pid::from_raw(i32::try_from(status.supervisor_pid).ok()?)?;
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()?;
    let request = pb::OpRequest { supervisor_too: true, ..Default::default() };
    let mut events = client.stop(request).await.ok()?.into_inner();
    while let Ok(Some(_)) = events.message().await {}
    writeln!(io::stdout(), "replacing the resident supervisor, pid {}", status.supervisor_pid).unwrap_or_default();
    let gone = crate::sys::readable(std::os::fd::AsFd::as_fd(&pidfd)).ok()?;
    tokio::time::timeout(REPLACE_TIMEOUT, gone.readable()).await.ok()?.ok()?.retain_ready();
    Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chooses_the_only_node_and_lists_several() {
        let base = tempfile::tempdir().unwrap();
        let env = Env::default();
        let dir = |runtime: &Path, node| node_dir(Some(runtime), node, &env);
        let none = dir(base.path(), None).unwrap_err();
        assert_eq!(none.code, EXIT_UNREACHABLE);
        assert!(none.message.contains(how(is_installed())), "{none}");
        assert!(how(false).contains("scripts/up") && how(true).contains("`systemctl start wukongim`"));
        for id in ["1001", "1002"] {
            fs::create_dir(base.path().join(id)).unwrap();
        }
        fs::write(base.path().join("1001").join(SOCKET), "").unwrap();
        assert_eq!(dir(base.path(), None).unwrap(), base.path().join("1001"));
        assert_eq!(dir(&base.path().join("1001"), None).unwrap(), base.path().join("1001"));
        fs::write(base.path().join("1002").join(SOCKET), "").unwrap();
        let several = dir(base.path(), None).unwrap_err();
        assert_eq!(several.code, EXIT_USAGE);
        assert!(several.message.contains("1001") && several.message.contains("1002"), "{several}");
        assert_eq!(dir(base.path(), Some(1002)).unwrap(), base.path().join("1002"));
        let other = dir(base.path(), Some(7)).unwrap_err();
        assert!(other.code == EXIT_UNREACHABLE && other.message.contains("node 7 does not run here; there are"), "{other}");
    }
}
