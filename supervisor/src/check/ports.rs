//! Ports before they are needed: who has them, and whether they may be bound. Binds for a moment and never listens.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::linux::fs::MetadataExt;
use std::path::Path;

use socket2::{Domain, Protocol, Socket, Type};

use super::place::Place;
use super::{Finding, error, fine, warning};
use crate::config::{Config, PublicAddr};
use crate::installed::TARGET;
use crate::limits::LISTEN_BACKLOG;

/// A process that has a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holder {
    pid: u32,
    comm: String,
    /// Unit that it belongs to.
    unit: Option<String>,
    parent: u32,
}

/// Row 16 before it happens. What this node's own supervisor holds is no problem.
pub(super) fn look(config: &Config, place: &Place) -> Vec<Finding> {
    let own = supervisor(&config.runtime_dir);
    let mut found: Vec<Finding> = config.public.iter().map(|addr| port(addr, place, own)).collect();
    found.extend(own.map(|pid| fine("ports", format!("a supervisor runs this node (pid {pid})"))));
    let backlog = fs::read_to_string("/proc/sys/net/core/somaxconn").ok().and_then(|t| t.trim().parse::<i32>().ok()).unwrap_or(0);
    if backlog < LISTEN_BACKLOG {
        let next = format!("sysctl -w net.core.somaxconn={LISTEN_BACKLOG}");
        let text = format!("net.core.somaxconn is {backlog}: that many connections wait while a daemon is exchanged, not {LISTEN_BACKLOG}");
        found.push(warning("ports", text, next));
    }
    found
}

fn port(wanted: &PublicAddr, place: &Place, own: Option<u32>) -> Finding {
    let head = format!("{}: {} = {}", wanted.daemon, wanted.key, wanted.addr);
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    let inodes: Vec<u64> = tables.iter().flat_map(|table| listening(table, wanted.addr)).collect();
    if !inodes.is_empty() && wanted.addr.port() != 0 {
        return taken(&head, wanted, &holders(&inodes), own);
    }
    if !place.may_bind(wanted.addr.port()) {
        let next = format!(
            "AmbientCapabilities=CAP_NET_BIND_SERVICE and CapabilityBoundingSet=CAP_NET_BIND_SERVICE in the unit, or {} above 1023",
            wanted.key
        );
        return error("ports", format!("{head}: the unit gives no right to ports below 1024"), next);
    }
    match bind(wanted.addr) {
        Ok(()) => fine("ports", format!("{} {}", wanted.label, wanted.addr)),
        // The unit has its own rights, judged above.
        Err(err) if err.kind() == io::ErrorKind::PermissionDenied && place.unit.is_some() => {
            fine("ports", format!("{} {}", wanted.label, wanted.addr))
        }
        Err(err) => {
            let next = match err.kind() {
                io::ErrorKind::AddrInUse => format!("end the process that has it, or set {} to another port", wanted.key),
                io::ErrorKind::PermissionDenied => format!("CAP_NET_BIND_SERVICE, or {} above 1023", wanted.key),
                _ => format!("set {} to an address of this machine", wanted.key),
            };
            error("ports", format!("{head} cannot be used: {err}"), next)
        }
    }
}

/// Somebody listens there.
fn taken(head: &str, wanted: &PublicAddr, holders: &[Holder], own: Option<u32>) -> Finding {
    if own.is_some() && holders.iter().any(|h| Some(h.pid) == own || Some(h.parent) == own) {
        return fine("ports", format!("{} {}, held by this node", wanted.label, wanted.addr));
    }
    let native = |h: &&Holder| h.unit.as_deref().is_some_and(|u| u.starts_with("wk-"));
    let daemon = holders.iter().find(native);
    if let Some(holder) = daemon {
        let unit = holder.unit.as_deref().unwrap_or_default();
        let text = format!("{head} is in use (held by pid {}, {} of the native set)", holder.pid, unit);
        return error("ports", text, format!("systemctl stop {TARGET}; a start of wukongim.service does it too"));
    }
    let names: Vec<String> = holders.iter().map(Holder::text).collect();
    let held = if names.is_empty() { "by a process that only root can see".to_owned() } else { format!("by {}", names.join(" and ")) };
    let next = match holders {
        [only] if only.pid == 1 => {
            format!("systemctl stop the socket unit that has it (systemctl list-sockets), {TARGET} when it is wk-*.socket")
        }
        _ => format!("end the process that has it, or set {} to another port", wanted.key),
    };
    error("ports", format!("{head} is in use (held {held})"), next)
}

impl Holder {
    fn text(&self) -> String {
        let unit = self.unit.as_ref().map_or_else(String::new, |u| format!(" of {u}"));
        format!("pid {}, {}{unit}", self.pid, self.comm)
    }

    fn of(pid: u32) -> Self {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let parent = read("status").lines().find_map(|l| l.strip_prefix("PPid:")?.trim().parse().ok()).unwrap_or(0);
        Self { pid, comm: read("comm").trim().to_owned(), unit: unit_of(&read("cgroup")), parent }
    }
}

/// The last part of a process's control group that is a service.
fn unit_of(cgroup: &str) -> Option<String> {
    // In a mixed hierarchy the other one says nothing.
    let paths = cgroup.lines().filter(|l| l.starts_with("0::") || l.contains(":name=systemd:"));
    paths.flat_map(|path| path.rsplit('/')).find(|part| part.ends_with(".service")).map(str::to_owned)
}

/// Processes that have one of these sockets, as far as we may look.
fn holders(inodes: &[u64]) -> Vec<Holder> {
    let wanted: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|p| p.file_name().to_string_lossy().parse::<u32>().ok());
    let has = |pid: &u32| {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        fds.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|to| wanted.iter().any(|w| to.as_os_str() == w.as_str()))
    };
    pids.filter(has).map(Holder::of).collect()
}

/// Sockets in state LISTEN that are in the way of an address, from the text of `/proc/net/tcp` or `tcp6`. Source: proc_net(5).
fn listening(table: &str, wanted: SocketAddr) -> Vec<u64> {
    let rows = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (ip, port) = fields.get(1)?.split_once(':')?;
        let here = *fields.get(3)? == "0A" && u16::from_str_radix(port, 16).ok()? == wanted.port();
        (here && overlap(address(ip)?, wanted.ip())).then(|| fields.get(9)?.parse().ok()).flatten()
    });
    rows.collect()
}

fn overlap(held: IpAddr, wanted: IpAddr) -> bool {
    held == wanted || held.is_unspecified() || wanted.is_unspecified()
}

/// 32-bit words in the byte order of the machine.
fn address(hex: &str) -> Option<IpAddr> {
    let words: Vec<u32> = (0..hex.len()).step_by(8).map(|at| u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()).collect::<Option<_>>()?;
    let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
    if let Ok(four) = <[u8; 4]>::try_from(bytes.as_slice()) {
        return Some(Ipv4Addr::from(four).into());
    }
    let ip = Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?);
    Some(ip.to_canonical())
}

fn bind(addr: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // As the listener itself: one that only binds is in nobody's way.
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())
}

/// Who has the lock of this node. Looked up: to take it for a moment would refuse a supervisor that starts just then.
pub(super) fn supervisor(dir: &Path) -> Option<u32> {
    let meta = fs::metadata(dir.join("lock")).ok()?;
    locked_by(&fs::read_to_string("/proc/locks").ok()?, meta.st_dev(), meta.st_ino())
}

/// Process with an exclusive lock on a file, from the text of `/proc/locks`. Source: proc_locks(5).
fn locked_by(table: &str, device: u64, inode: u64) -> Option<u32> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let place = format!("{major:02x}:{minor:02x}:{inode}");
    let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.find(|f| f.get(1) == Some(&"FLOCK") && f.get(5) == Some(&place.as_str()))?.get(4)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wk_types::Daemon;

    #[test]
    fn a_listener_in_the_way_is_found_by_address_and_port() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
        let row = |ip: &str, state: &str, inode: u64| {
            format!("   0: {ip} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  1000        0 {inode} 1\n")
        };
        let table = format!(
            "{head}{}{}{}{}",
            row("0100007F:13EC", "0A", 1),
            row("00000000:1450", "0A", 2),
            row("0100007F:1389", "01", 3),
            row("0200000A:14B4", "0A", 4)
        );
        let find = |addr: &str| listening(&table, addr.parse().unwrap());
        assert_eq!((find("0.0.0.0:5100"), find("127.0.0.1:5100"), find("10.0.0.9:5100")), (vec![1], vec![1], vec![]));
        assert_eq!((find("127.0.0.1:5200"), find("127.0.0.1:5001"), find("127.0.0.1:5300")), (vec![2], vec![], vec![]));
        let six = format!("{head}{}", row("0000000000000000FFFF00000100007F:13EC", "0A", 9));
        assert_eq!(listening(&six, "127.0.0.1:5100".parse().unwrap()), [9], "a mapped address is the same");
    }

    fn holder(pid: u32, parent: u32, unit: Option<&str>) -> Holder {
        Holder { pid, comm: "x".into(), unit: unit.map(str::to_owned), parent }
    }

    #[test]
    fn only_what_our_own_supervisor_holds_is_fine() {
        let wanted = PublicAddr { daemon: Daemon::Gateway, name: "tcp", label: "tcp", key: "addr", addr: "0.0.0.0:5100".parse().unwrap() };
        let taken = |holders: &[Holder], own| super::taken("gateway: addr", &wanted, holders, own);
        let ok = |f: Finding| f.next.is_empty();
        assert!(ok(taken(&[holder(70, 1, Some("wukongim.service"))], Some(70))));
        assert!(ok(taken(&[holder(71, 70, None)], Some(70))), "only its daemon has it");
        assert!(!ok(taken(&[holder(72, 1, Some("nginx.service"))], Some(70))), "the node is down, another program came");
        let native = taken(&[holder(1, 0, None), holder(80, 1, Some("wk-gateway.service"))], None);
        assert!(
            native.text.contains("wk-gateway.service of the native set") && native.next.starts_with("systemctl stop wukongim.target"),
            "{native:?}"
        );
        let other = taken(&[holder(72, 1, Some("nginx.service"))], None);
        assert!(other.text.contains("pid 72, x of nginx.service") && other.next.contains("addr"), "{other:?}");
        assert!(taken(&[holder(1, 0, None)], None).next.contains("socket unit"));
        assert!(taken(&[], None).text.contains("only root can see"));
    }

    #[test]
    fn the_unit_of_a_process_is_in_its_control_group() {
        assert_eq!(unit_of("0::/system.slice/nginx.service\n").as_deref(), Some("nginx.service"));
        assert_eq!(unit_of("0::/wukongim.slice/wukongim.service/api@0\n").as_deref(), Some("wukongim.service"));
        assert_eq!(unit_of("1:name=systemd:/\n0::/wukongim.slice/wk-api.service\n").as_deref(), Some("wk-api.service"));
        assert_eq!(unit_of("0::/user.slice/session-1.scope\n"), None);
    }

    #[test]
    fn the_holder_of_the_lock_is_read_and_the_lock_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(supervisor(dir.path()), None);
        let file = fs::File::create(dir.path().join("lock")).unwrap();
        assert_eq!(supervisor(dir.path()), None);
        file.try_lock().unwrap();
        assert_eq!(supervisor(dir.path()), Some(std::process::id()));
        // Explicitly: a child that another test is just making has a copy of the descriptor.
        file.unlock().unwrap();
        assert_eq!(supervisor(dir.path()), None);
    }
}
