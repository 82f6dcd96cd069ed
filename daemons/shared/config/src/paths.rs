//! Folders and addresses that follow from others.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::env::Env;
use crate::load::Given;
use crate::schema::Config;
use crate::value::ListenAddr;

/// Fills in what depends on other keys or on the machine: the home folder, and who may reach the API by default.
pub(crate) fn resolve(config: &mut Config, env: &Env, given: &Given) {
    if let Some(rest) = config.root_dir.strip_prefix("~/") {
        let home = env.get("HOME").filter(|h| h.starts_with('/')).unwrap_or("/var/lib");
        config.root_dir = format!("{}/{rest}", home.trim_end_matches('/'));
    }
    // Without a token the API answers this machine only (spec/config.md §5).
    let open = !config.manager_token.is_empty();
    for (key, addr) in [("httpaddr", &mut config.http_addr), ("manager.addr", &mut config.manager.addr)] {
        if !given.contains_key(key) {
            *addr = if open { ListenAddr::any(addr.port()) } else { ListenAddr::local(addr.port()) };
        }
    }
}

impl Config {
    /// Base folder.
    #[must_use]
    pub fn root_path(&self) -> PathBuf {
        PathBuf::from(&self.root_dir)
    }

    /// Data folder: `dataDir`, else `<rootDir>/data`.
    #[must_use]
    pub fn data_path(&self) -> PathBuf {
        if self.data_dir.is_empty() { self.root_path().join("data") } else { PathBuf::from(&self.data_dir) }
    }

    /// Folder of the raft log.
    #[must_use]
    pub fn raft_path(&self) -> PathBuf {
        if self.storage.raft_dir.is_empty() { self.data_path().join("raft") } else { PathBuf::from(&self.storage.raft_dir) }
    }

    /// Log folder: `logger.dir`, relative ones under `rootDir`.
    #[must_use]
    pub fn logs_path(&self) -> PathBuf {
        self.root_path().join(Path::new(&self.logger.dir))
    }

    /// First log filter: by `logger.level`, else by mode.
    #[must_use]
    pub fn log_filter(&self) -> &'static str {
        match (self.logger.level, self.mode) {
            (1, _) | (0, crate::Mode::Debug | crate::Mode::Test) => {
                "debug,h2=info,hyper=info,hyper_util=info,tower=info,tonic=info,openraft=error"
            }
            (3, _) => "warn",
            (4, _) => "error",
            _ => "info,openraft=error",
        }
    }

    /// Sub reactors of a gateway on a machine with `cores` cores.
    #[must_use]
    pub fn sub_reactors(&self, cores: usize) -> usize {
        match self.gateway.sub_reactors {
            0 => (cores / 2).max(1),
            n => usize::from(n),
        }
    }

    /// True when CONNECT tokens are verified.
    #[must_use]
    pub fn token_auth(&self) -> bool {
        self.token_auth_on && !self.stress
    }

    /// Client TCP address for `/route`; `machine_ip` is used when `external.ip` is empty.
    #[must_use]
    pub fn external_tcp_addr(&self, machine_ip: IpAddr) -> String {
        or(&self.external.tcp_addr, || format!("{}:{}", self.external_ip(machine_ip), self.addr.port()))
    }

    /// Client WebSocket address for `/route`.
    #[must_use]
    pub fn external_ws_addr(&self, machine_ip: IpAddr) -> String {
        or(&self.external.ws_addr, || format!("ws://{}:{}", self.external_ip(machine_ip), self.ws_addr.port()))
    }

    /// Client WebSocket address with TLS for `/route`; empty when `wssAddr` is off.
    #[must_use]
    pub fn external_wss_addr(&self, machine_ip: IpAddr) -> String {
        or(&self.external.wss_addr, || match self.wss_addr {
            Some(addr) => format!("wss://{}:{}", self.external_ip(machine_ip), addr.port()),
            None => String::new(),
        })
    }

    /// HTTP base for `/varz` and the demo.
    #[must_use]
    pub fn external_api_url(&self, machine_ip: IpAddr) -> String {
        or(&self.external.api_url, || format!("http://{}:{}", self.external_ip(machine_ip), self.http_addr.port()))
    }

    /// Manager address for `/varz`.
    #[must_use]
    pub fn external_manager_addr(&self, machine_ip: IpAddr) -> String {
        or(&self.external.manager_addr, || format!("{}:{}", self.external_ip(machine_ip), self.manager.addr.port()))
    }

    fn external_ip(&self, machine_ip: IpAddr) -> String {
        or(&self.external.ip, || machine_ip.to_string())
    }
}

fn or(text: &str, other: impl FnOnce() -> String) -> String {
    if text.is_empty() { other() } else { text.to_owned() }
}
