use std::time::Duration;

use super::*;
use crate::{ByteSize, ListenAddr};

fn yaml(text: &str) -> Result<Loaded, ConfigError> {
    load(&Inputs { file: Some(("wukongim.yaml", text)), ..Inputs::default() })
}

fn with_env(text: &str, env: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    load(&Inputs { file: Some(("w.yaml", text)), env: Env::from_pairs(env.iter().copied()), ..Inputs::default() })
}

#[test]
fn the_shipped_file_is_the_default() {
    let shipped = yaml(include_str!("../../wukongim.yaml")).unwrap().config;
    let default = load(&Inputs::default()).unwrap().config;
    assert_eq!(shipped, default);
}

/// As a line, or as a comment that shows it.
#[test]
fn every_key_is_in_the_shipped_file() {
    let bare = |line: &'static str| line.trim_start().trim_start_matches("# ").trim_start().to_owned();
    let lines: Vec<String> = include_str!("../../wukongim.yaml").lines().map(bare).collect();
    let shown = |word: &str| lines.iter().any(|line| line.starts_with(&format!("{word}:")));
    // Keys of the original that nothing reads.
    let unread = |key: &String| {
        let of = [
            "pprofOn",
            "wssConfig.",
            "auth.kind",
            "logger.lineNum",
            "channel.",
            "plugin.socketPath",
            "cluster.apiUrl",
            "trace.",
            "benchApi.token",
        ];
        of.iter().any(|part| key.starts_with(part))
    };
    // One daemon stands for all of them.
    let keys = Config::default().entries().into_iter().map(|(key, _)| key);
    let of_one = |key: &String| !key.starts_with("supervisor.daemons.") || key.starts_with("supervisor.daemons.gateway.");
    let hidden: Vec<String> = keys.filter(of_one).filter(|key| !unread(key)).filter(|key| !key.split('.').all(&shown)).collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}

#[test]
fn flag_beats_environment_beats_file() {
    let text = "cluster:\n  nodeid: 7\naddr: tcp://0.0.0.0:1\nworkers: {channel: 3}\nmanager:\n  on: false\n";
    let flags = [("dataDir", "/flag".to_owned(), "--data")];
    let inputs = Inputs {
        file: Some(("w.yaml", text)),
        env: Env::from_pairs([("WK_CLUSTER_NODEID", "8"), ("WK_DATADIR", "/env"), ("WK_EXTERNAL_TCPADDR", "1.2.3.4:5")]),
        flags: &flags,
        strict: true,
    };
    let config = load(&inputs).unwrap().config;
    assert_eq!(config.cluster.node_id, 8);
    assert_eq!(config.addr, ListenAddr::any(1));
    assert_eq!(config.workers.channel, 3);
    assert!(!config.manager.on);
    assert_eq!(config.data_path(), std::path::Path::new("/flag"));
    assert_eq!(config.external.tcp_addr, "1.2.3.4:5");
}

#[test]
fn an_invalid_cluster_address_names_component_and_key() {
    let err = yaml("mode: debug\ncluster:\n  addr: \"invalid-address\"\n").unwrap_err();
    assert_eq!(err.problems.len(), 1);
    let problem = &err.problems[0];
    assert_eq!((problem.component, problem.key.as_str(), problem.place.as_str()), ("cluster", "cluster.addr", "wukongim.yaml:3"));
    assert!(err.to_string().contains("cluster: cluster.addr = \"invalid-address\""), "{err}");
}

#[test]
fn all_problems_at_once() {
    let err =
        yaml("connIdleTime: 5x\ncluster: {nodeId: 5000}\nworkers: {user: 99}\nraft: {hartbeat: 1s}\ntokenAuthOn: maybe\n").unwrap_err();
    let keys: Vec<_> = err.problems.iter().map(|p| p.key.as_str()).collect();
    assert_eq!(keys, ["tokenAuthOn", "connIdleTime", "cluster.nodeId", "workers.user", "raft.hartbeat"]);
    assert!(err.to_string().contains("did you mean raft.heartbeat?"), "{err}");
    assert!(err.to_string().contains("1 to 1023"), "{err}");
}

#[test]
fn unknown_keys_by_kind() {
    let loaded = yaml("ginMode: debug\nreactor: {channel: {x: 1}}\nnonsense: 1\n").unwrap();
    assert!(loaded.warnings.iter().any(|w| w == "no effect: ginMode"));
    assert!(loaded.warnings.iter().any(|w| w.starts_with("unknown key: nonsense (wukongim.yaml:3)")));
    assert!(load(&Inputs { file: Some(("w", "nonsense: 1")), strict: true, ..Inputs::default() }).is_err());
}

#[test]
fn unknown_variables_are_named_once() {
    let env = [("WK_INSTANCE", "x"), ("WK_LOG", "debug"), ("WK_GATEWY_SUBREACTORS", "2"), ("WK_LOGGER_LEVEL", "2")];
    let loaded = with_env("tokenAuthOn: true", &env).unwrap();
    assert_eq!(loaded.warnings, ["no effect: environment WK_GATEWY_SUBREACTORS"]);
    assert_eq!(loaded.config.logger.level, 2);
}

#[test]
fn two_spellings_are_an_error() {
    let err = yaml("httpAddr: 127.0.0.1:1\nhttpaddr: 127.0.0.1:2\n").unwrap_err();
    assert!(err.to_string().contains("stands in line 1"), "{err}");
}

#[test]
fn zero_and_empty_are_not_set() {
    let config = yaml("connIdleTime: 0\naddr: \"\"\nlimits: {frameBytes: 0}\ncluster: {nodeId: 0}\nmanager: {on: 0}\n").unwrap().config;
    assert_eq!(config.conn_idle_time, Duration::from_secs(180));
    assert_eq!(config.addr, ListenAddr::any(5100));
    assert_eq!(config.limits.frame_bytes, ByteSize::mib(1));
    assert!(!config.manager.on);
}

#[test]
fn api_is_local_until_there_is_a_token() {
    assert!(load(&Inputs::default()).unwrap().config.http_addr.0.ip().is_loopback());
    let open = yaml("managerToken: t\n").unwrap().config;
    assert_eq!(open.http_addr, ListenAddr::any(5001));
    assert_eq!(open.manager.addr, ListenAddr::any(5300));
    let loaded = yaml("httpAddr: 0.0.0.0:5001\n").unwrap();
    assert_eq!(loaded.config.http_addr, ListenAddr::any(5001));
    assert!(loaded.warnings.iter().any(|w| w.starts_with("httpAddr is reachable")));
}

#[test]
fn lists_from_yaml_and_from_the_environment() {
    let nodes = "1001@10.0.0.1:11110 1002@10.0.0.2:11110";
    let from_env = with_env("mode: release", &[("WK_CLUSTER_INITNODES", nodes)]).unwrap().config;
    let from_file = yaml("cluster:\n  initNodes:\n    - 1001@10.0.0.1:11110\n    - \"1002@10.0.0.2\"\n").unwrap().config;
    assert_eq!(from_env.cluster.init_nodes, from_file.cluster.init_nodes);
    assert_eq!(from_env.cluster.init_nodes.len(), 2);
    let seeds = yaml("cluster: {seed: \"1002@10.0.0.2:1\"}").unwrap().config.cluster.seed;
    assert_eq!(seeds.len(), 1);
}

#[test]
fn json_round_trip_keeps_everything_and_entries_hide_secrets() {
    let text = "managerToken: hunter2\nauth: {users: [\"a:b:*\"]}\nwssConfig: {certFile: c, keyFile: k}\n\
                supervisor: {daemons: {worker.user: {stopTimeout: 7s}, gateway: {restart: never, memoryMax: 1GB}}}\nmanager: {on: false}\n";
    let config = yaml(text).unwrap().config;
    assert_eq!(Config::from_json(&config.to_json()).unwrap(), config);
    assert_eq!(config.supervisor.daemons.worker_user.stop_timeout, Some(Duration::from_secs(7)));
    let shown: String = config.entries().into_iter().map(|(k, v)| format!("{k}={v}\n")).collect();
    assert!(!shown.contains("hunter2") && !shown.contains("a:b"), "{shown}");
    assert!(!format!("{config:?}").contains("hunter2"));
    assert!(matches!(Config::from_json("{}"), Err(JsonError::Key(_))));
}

#[test]
fn scalars_are_taken_as_typed() {
    let text =
        "managerToken: 00123\nmanager:\n  on: no\nmanagerUID: 0x1f\njwt: {issuer: 1e3, secret: on}\nwebhook: {focusEvents: [007, yes]}\n";
    let config = yaml(text).unwrap().config;
    assert_eq!(config.manager_token.expose(), "00123");
    assert_eq!(config.manager_uid, "0x1f");
    assert_eq!((config.jwt.issuer.as_str(), config.jwt.secret.expose()), ("1e3", "on"));
    assert_eq!(config.webhook.focus_events, ["007", "yes"]);
    assert!(!config.manager.on);
}

#[test]
fn broken_yaml_has_a_line() {
    let err = yaml("mode: debug\n  bad: [1\n").unwrap_err();
    assert!(err.problems[0].place.starts_with("wukongim.yaml:"), "{err}");
    assert!(yaml("# nothing\n").is_ok());
    assert!(yaml("").is_ok());
    assert!(yaml("- a\n- b\n").is_err());
}

#[test]
fn wss_is_refused_with_what_to_do_instead() {
    let err = yaml("wssAddr: wss://0.0.0.0:5210\nwssConfig: {certFile: c, keyFile: k}").unwrap_err();
    assert!(err.problems.iter().any(|p| p.key == "wssAddr" && p.allowed.contains("external.wssAddr")), "{err}");
    let proxied = yaml("external: {wssAddr: \"wss://im.example.com\"}").unwrap();
    assert_eq!(proxied.config.external_wss_addr([127, 0, 0, 1].into()), "wss://im.example.com");
    assert!(yaml("wssConfig: {certFile: c}").unwrap().warnings.iter().any(|w| w.starts_with("wssConfig has no effect")));
}

/// Everything wrong with the numbers of a policy at once, each with its key, its value, what would be taken, and its line.
#[test]
fn numbers_of_a_policy_that_make_no_sense_are_refused_together() {
    let text = "supervisor:\n  daemons:\n    api:\n      backoff: {base: 0, factor: 0.5, jitter: 1.5, resetAfter: 0s}\n      \
                liveness: {period: 0, failures: 0}\n    gateway:\n      backoff: {base: 1m}\n      liveness: {period: 500ms, tiemout: 1s}\n    \
                worker.push:\n      backoff: {base: 10s, cap: 1s}\n      liveness: {timeout: 10s}\n";
    let error = yaml(text).unwrap_err().to_string();
    let at = "supervisor: supervisor.daemons";
    for told in [
        "api.backoff.base = \"0\" is refused: expected 1ms to 1h (wukongim.yaml:4)",
        "api.backoff.factor = \"0.5\" is refused: expected 1 to 100 (wukongim.yaml:4)",
        "api.backoff.jitter = \"1.5\" is refused: expected 0 to 1 (wukongim.yaml:4)",
        "api.backoff.resetAfter = \"0s\" is refused: expected 1s to 168h (wukongim.yaml:4)",
        "api.liveness.period = \"0\" is refused: expected 100ms to 1h (wukongim.yaml:5)",
        "api.liveness.failures = \"0\" is refused: expected 1 to 100 (wukongim.yaml:5)",
        "gateway.backoff.base = \"1m\" is refused: expected at most supervisor.daemons.gateway.backoff.cap, which is 30s by default (wukongim.yaml:7)",
        "gateway.liveness.period = \"500ms\" is refused: expected more than supervisor.daemons.gateway.liveness.timeout, which is 2s by default \
         (wukongim.yaml:8)",
        "gateway.liveness.tiemout = \"1s\" is refused: expected a known key, did you mean supervisor.daemons.gateway.liveness.timeout? \
         (wukongim.yaml:8)",
        "worker.push.backoff.base = \"10s\" is refused: expected at most supervisor.daemons.worker.push.backoff.cap, which is 1s (wukongim.yaml:10)",
        "worker.push.liveness.timeout = \"10s\" is refused: expected less than supervisor.daemons.worker.push.liveness.period, which is 10s by \
         default (wukongim.yaml:11)",
    ] {
        assert!(error.contains(&format!("{at}.{told}")), "{told} is missing in\n{error}");
    }
    assert_eq!(error.matches("is refused").count(), 11, "nothing is told twice: {error}");
}

#[test]
fn numbers_of_a_policy_are_taken_zero_included() {
    let text = "supervisor: {daemons: {api: {backoff: {base: 10ms, factor: 1.5, cap: 10ms, jitter: 0}, liveness: {period: 500ms, timeout: 200ms}}}}";
    let config = with_env(text, &[("WK_SUPERVISOR_DAEMONS_API_LIVENESS_FAILURES", "2")]).unwrap().config;
    let api = &config.supervisor.daemons.api;
    assert_eq!((api.backoff.base.0, api.backoff.cap.0), (Duration::from_millis(10), Duration::from_millis(10)));
    assert_eq!((api.backoff.factor.0, api.backoff.jitter.0, api.backoff.reset_after.0), (1.5, 0.0, Duration::from_secs(60)));
    assert_eq!((api.liveness.timeout.0, api.liveness.failures.0), (Duration::from_millis(200), 2));
    assert_eq!(config.supervisor.daemons.cluster, Config::default().supervisor.daemons.cluster, "each daemon has its own");
    assert_eq!(Config::from_json(&config.to_json()).unwrap(), config);
}

#[test]
fn conditions_between_keys() {
    for (text, key) in [
        ("raft: {heartbeat: 700ms}", "raft.heartbeat"),
        ("wsAddr: 0.0.0.0:5100", "wsAddr"),
        ("wssAddr: 0.0.0.0:5210", "wssAddr"),
        ("cluster: {initNodes: [\"7@a:1\"]}", "cluster.initNodes"),
        ("auth: {users: [\"____manager:x:*\"]}", "auth.users"),
    ] {
        let err = yaml(text).unwrap_err();
        assert_eq!(err.problems[0].key, key, "{err}");
    }
}
