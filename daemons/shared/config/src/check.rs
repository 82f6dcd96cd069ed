//! Conditions between keys, and warnings. Pure; refuses, never repairs.

use std::time::Duration;

mod policies;

use crate::load::Given;
use crate::problem::{Problem, component_of};
use crate::schema::Config;

/// Some SDKs ping every two minutes.
const IDLE_WARN: Duration = Duration::from_secs(150);

/// What to do as long as the gateway does not speak TLS.
const WSS_INSTEAD: &str = "nothing: this program does not serve WSS; let a proxy end TLS in front of wsAddr (proxyProtocol tells it who the \
                           client is), and set external.wssAddr to the proxy's address for /route";

/// Appends every problem and warning.
pub(crate) fn check(config: &Config, given: &Given, problems: &mut Vec<Problem>, warnings: &mut Vec<String>) {
    let mut refuse = |key: &str, value: String, allowed: &str| {
        let place = given.get(&key.to_ascii_lowercase()).cloned().unwrap_or_else(|| "default".to_owned());
        problems.push(Problem { component: component_of(key), key: key.to_owned(), value, allowed: allowed.to_owned(), place });
    };
    if config.raft.heartbeat * 2 > config.raft.election_min {
        refuse("raft.heartbeat", format!("{:?}", config.raft.heartbeat), "at most half of raft.electionMin");
    }
    if config.raft.election_min >= config.raft.election_max {
        refuse("raft.electionMin", format!("{:?}", config.raft.election_min), "less than raft.electionMax");
    }
    if let Some(addr) = config.wss_addr {
        // A port that is bound and not served would hold clients for ever, and `/route` would send them there.
        refuse("wssAddr", addr.to_string(), WSS_INSTEAD);
    }
    if config.cluster.slot_group_count > config.cluster.slot_count {
        refuse("cluster.slotGroupCount", config.cluster.slot_group_count.to_string(), "at most cluster.slotCount");
    }
    let others = config.cluster.init_nodes.iter().filter(|n| n.id != config.cluster.node_id).count();
    if !config.cluster.init_nodes.is_empty() && others == config.cluster.init_nodes.len() {
        refuse("cluster.initNodes", "a list without this node".into(), "a list with cluster.nodeId in it");
    }
    if config.limits.parse_ahead_bytes < config.limits.bytes_unsettled {
        refuse("limits.parseAheadBytes", config.limits.parse_ahead_bytes.0.to_string(), "at least limits.bytesUnsettled");
    }
    if config.limits.outbound_bytes > config.limits.outbound_total_bytes {
        refuse("limits.outboundBytes", config.limits.outbound_bytes.0.to_string(), "at most limits.outboundTotalBytes");
    }
    for user in &config.auth.users {
        if !auth_user_ok(user.expose(), &config.manager_uid) {
            refuse("auth.users", "***".into(), "user:password:* or user:password:[resource:rw,...], user not the managerUID");
        }
    }
    addresses(config, &mut refuse);
    if config.supervisor.runtime_dir.len() > crate::RUNTIME_BASE_BYTES_MAX {
        refuse(
            "supervisor.runtimeDir",
            config.supervisor.runtime_dir.clone(),
            "a path of at most 60 bytes: socket paths are limited to 107",
        );
    }
    let journal = &config.supervisor.journal;
    if !matches!(journal.as_str(), "" | "auto" | "off") && !journal.starts_with('/') {
        refuse("supervisor.journal", journal.clone(), "auto, off, or the path of a socket");
    }
    policies::check(config, given, problems);
    warn(config, given, warnings);
}

/// No two listeners on one address (port 0 is chosen by the kernel).
fn addresses(config: &Config, refuse: &mut dyn FnMut(&str, String, &str)) {
    let mut all =
        vec![("addr", config.addr), ("wsAddr", config.ws_addr), ("httpAddr", config.http_addr), ("cluster.addr", config.cluster.addr)];
    all.extend(config.manager.on.then_some(("manager.addr", config.manager.addr)));
    all.extend(config.demo.on.then_some(("demo.addr", config.demo.addr)));
    for (i, (key, addr)) in all.iter().enumerate() {
        let clash = all.iter().take(i).find(|(_, other)| {
            let same_ip = other.0.ip() == addr.0.ip() || other.0.ip().is_unspecified() || addr.0.ip().is_unspecified();
            addr.port() != 0 && other.port() == addr.port() && same_ip
        });
        if let Some((other, _)) = clash {
            refuse(key, addr.to_string(), &format!("a port that {other} does not use"));
        }
    }
}

/// `user:password:permissions`.
fn auth_user_ok(text: &str, manager_uid: &str) -> bool {
    let mut parts = text.splitn(3, ':');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(user), Some(password), Some(permissions)) => {
            !user.is_empty()
                && user != manager_uid
                && !password.is_empty()
                && (permissions == "*" || (permissions.starts_with('[') && permissions.ends_with(']')))
        }
        _ => false,
    }
}

fn warn(config: &Config, given: &Given, warnings: &mut Vec<String>) {
    if !config.token_auth_on {
        warnings.push("tokenAuthOn is false: clients connect without a verified token".into());
    }
    if !config.wss_config.cert_file.is_empty() || !config.wss_config.key_file.is_empty() {
        warnings.push("wssConfig has no effect: this program does not serve WSS, see wssAddr".into());
    }
    if config.conn_idle_time < IDLE_WARN {
        warnings.push("connIdleTime is below 150s: some SDKs ping every 2 minutes".into());
    }
    for (key, addr) in [("httpAddr", config.http_addr), ("manager.addr", config.manager.addr)] {
        if given.contains_key(&key.to_ascii_lowercase()) && !addr.0.ip().is_loopback() && config.manager_token.is_empty() {
            warnings.push(format!("{key} is reachable from other machines and managerToken is empty"));
        }
    }
}
