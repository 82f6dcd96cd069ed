//! The schema: one struct per section. Unless a field says otherwise, a change takes effect at the next start of the daemons that read it.

use std::time::Duration;

use crate::value::{ListenAddr, Secret, named};

mod own;

pub use own::*;

const fn s(n: u64) -> Duration {
    Duration::from_secs(n)
}
const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
const fn h(n: u64) -> Duration {
    Duration::from_secs(n * 3600)
}

named! {
    /// Mode of the node: chooses the log level and hides the API pages in release.
    Mode {
        /// Logs at debug level.
        #[default]
        Debug = "debug",
        /// Logs at info level.
        Release = "release",
        /// Like release.
        Bench = "bench",
        /// Like debug.
        Test = "test",
    }
}

section! {
    /// The whole file.
    Config {
        /// Mode. Default debug.
        mode: Mode = Mode::Debug, "mode";
        /// Base folder. Default `~/wukongim` (resolved while loading).
        root_dir: String = "~/wukongim".into(), "rootDir";
        /// Data folder; empty: `<rootDir>/data`. `--data DIR` overrides it. See [`Config::data_path`].
        data_dir: String = String::new(), "dataDir";
        /// Business API. Default: port 5001, on this machine only while `managerToken` is empty, else on all addresses.
        http_addr: ListenAddr = ListenAddr::local(5001), "httpAddr";
        /// Client TCP. Default `0.0.0.0:5100`.
        addr: ListenAddr = ListenAddr::any(5100), "addr";
        /// Client WebSocket. Default `0.0.0.0:5200`.
        ws_addr: ListenAddr = ListenAddr::any(5200), "wsAddr";
        /// Client WebSocket with TLS. Default: off. Not served yet: a value is refused.
        wss_addr: Option<ListenAddr> = None, "wssAddr";
        /// Verify CONNECT tokens. Default false.
        token_auth_on: bool = false, "tokenAuthOn";
        /// When set: required header `token` on the API, manager login, CONNECT token of the manager uid.
        manager_token: Secret = Secret::default(), "managerToken";
        /// Uid of the manager account.
        manager_uid: String = "____manager".into(), "managerUID";
        /// True: allow lists of persons are not checked. Default true.
        whitelist_off_of_person: bool = true, "whitelistOffOfPerson";
        /// No payload encryption. Default false.
        disable_encryption: bool = false, "disableEncryption";
        /// Refuse JSON-RPC sessions. Default false.
        disable_json_rpc: bool = false, "disableJSONRPC";
        /// `/message/sync` answers with nothing. Default false.
        disable_cmd_message_sync: bool = false, "disableCMDMessageSync";
        /// A connection without data for this long is closed. Default 3m; 1s to 24h.
        conn_idle_time: Duration = s(180), "connIdleTime", s(1)..=h(24);
        /// Stress API; switches token checks off. Default false.
        stress: bool = false, "stress";
        /// Profiling routes. Default false.
        pprof_on: bool = false, "pprofOn";
    }
    sections {
        /// TLS of `wssAddr`.
        wss_config: WssConfig = "wssConfig";
        /// Addresses told to clients.
        external: External = "external";
        /// Addresses told to the own network.
        intranet: Intranet = "intranet";
        /// Manager pages.
        manager: Manager = "manager";
        /// Demo page.
        demo: Demo = "demo";
        /// Manager logins.
        auth: Auth = "auth";
        /// Manager session tokens.
        jwt: Jwt = "jwt";
        /// Logs.
        logger: Logger = "logger";
        /// Channels.
        channel: Channel = "channel";
        /// Recent conversations.
        conversation: Conversation = "conversation";
        /// Resends to a connection without RECVACK.
        message_retry: MessageRetry = "messageRetry";
        /// Receiver tags.
        tag: Tag = "tag";
        /// Customer service.
        customer_service: CustomerService = "customerService";
        /// Business backend.
        webhook: Webhook = "webhook";
        /// Business backend as a source of rows.
        datasource: Datasource = "datasource";
        /// Agent channels.
        agent: Agent = "agent";
        /// Plugins.
        plugin: Plugin = "plugin";
        /// Cluster.
        cluster: Cluster = "cluster";
        /// Consensus.
        raft: Raft = "raft";
        /// Stores.
        storage: Storage = "storage";
        /// Charts.
        trace: Trace = "trace";
        /// Channel workers.
        channel_runtime: ChannelRuntime = "channelRuntime";
        /// Membership.
        membership: Membership = "membership";
        /// Client connections.
        gateway: Gateway = "gateway";
        /// PROXY protocol on the client ports.
        proxy_protocol: ProxyProtocol = "proxyProtocol";
        /// Bounds of client connections.
        limits: Limits = "limits";
        /// Sizes of the worker pools.
        workers: Workers = "workers";
        /// Links between daemons.
        links: Links = "links";
        /// Supervisor.
        supervisor: Supervisor = "supervisor";
        /// API of the load generator.
        bench_api: BenchApi = "benchApi";
    }
}

section! {
    /// TLS of `wssAddr`; no effect yet.
    WssConfig {
        /// Certificate chain, PEM.
        cert_file: String = String::new(), "certFile";
        /// Private key, PEM.
        key_file: String = String::new(), "keyFile";
    }
}

section! {
    /// Addresses told to clients; empty ones are derived, see [`Config::external_tcp_addr`] and its neighbours.
    External {
        /// Base of the derived addresses; empty: the first address of this machine in its own network.
        ip: String = String::new(), "ip";
        /// Answered by `/route`.
        tcp_addr: String = String::new(), "tcpAddr";
        /// `ws://...`
        ws_addr: String = String::new(), "wsAddr";
        /// `wss://...`
        wss_addr: String = String::new(), "wssAddr";
        /// Shown by `/varz`.
        manager_addr: String = String::new(), "managerAddr";
        /// `http://...`
        api_url: String = String::new(), "apiUrl";
    }
}

section! {
    /// Addresses told to the own network.
    Intranet {
        /// `/route?intranet=1`.
        tcp_addr: String = String::new(), "tcpAddr";
    }
}

section! {
    /// Manager pages.
    Manager {
        /// Default true.
        on: bool = true, "on";
        /// Default: port 5300, on this machine only while `managerToken` is empty, else on all addresses.
        addr: ListenAddr = ListenAddr::local(5300), "addr";
    }
}

section! {
    /// Demo page.
    Demo {
        /// Default true.
        on: bool = true, "on";
        /// Default `0.0.0.0:5172`.
        addr: ListenAddr = ListenAddr::any(5172), "addr";
    }
}

section! {
    /// Manager logins.
    Auth {
        /// Default true.
        on: bool = true, "on";
        /// Unused by the original too; accepted.
        kind: String = String::new(), "kind";
        /// `user:password:*` or `user:password:[resource:rw,...]`. Default: none (the original has a guest with a known password).
        users: Vec<Secret> = Vec::new(), "users";
    }
}

section! {
    /// Manager session tokens.
    Jwt {
        /// Signing key; empty: generated into `<rootDir>/jwt.secret`.
        secret: Secret = Secret::default(), "secret";
        /// Default 720h.
        expire: Duration = h(720), "expire", s(60)..=h(24 * 3650);
        /// Default wukongim.
        issuer: String = "wukongim".into(), "issuer";
    }
}

section! {
    /// Logs.
    Logger {
        /// 0: by mode; 1 debug, 2 info, 3 warn, 4 error.
        level: u16 = 0, "level", 0..=4;
        /// Relative to `rootDir`. Default logs.
        dir: String = "logs".into(), "dir";
        /// Source line in each log line. Default false.
        line_num: bool = false, "lineNum";
        /// Trace of each message. Default false.
        trace_on: bool = false, "traceOn";
    }
}

section! {
    /// Channels.
    Channel {
        /// Compress `to_uids` in webhooks above this count; 0: never.
        subscriber_compress_of_count: u32 = 0, "subscriberCompressOfCount";
        /// Channel of commands for online users.
        online_cmd_channel_id: String = "systemcmdonline".into(), "onlineCmdChannelId";
    }
}

section! {
    /// Recent conversations.
    Conversation {
        /// Default true.
        on: bool = true, "on";
        /// Flush period. Default 1m.
        sync_interval: Duration = s(60), "syncInterval", ms(100)..=h(24);
        /// Rows per flush. Default 100.
        sync_once: u32 = 100, "syncOnce", 1..=100_000;
        /// Rows considered per user. Default 1000.
        user_max_count: u32 = 1000, "userMaxCount", 1..=100_000;
    }
}

section! {
    /// Resends to a connection without RECVACK.
    MessageRetry {
        /// First pause. Default 60s.
        interval: Duration = s(60), "interval", ms(100)..=h(1);
        /// Period of the scan. Default 30s.
        scan_interval: Duration = s(30), "scanInterval", ms(100)..=h(1);
        /// Attempts. Default 5.
        max_count: u32 = 5, "maxCount", 1..=1000;
    }
}

section! {
    /// Receiver tags.
    Tag {
        /// Idle expiry. Default 20m.
        expire: Duration = s(1200), "expire", s(1)..=h(24);
    }
}

section! {
    /// Customer service.
    CustomerService {
        /// Suffix of visitors' uids.
        visitors_suffix: String = "___vstr".into(), "visitorsSuffix";
        /// False: nobody is a visitor, everyone needs a token. Not set or true: visitors need none.
        visitors_on: Option<bool> = None, "visitorsOn";
    }
}

section! {
    /// Business backend.
    Webhook {
        /// URL; empty: no webhooks over HTTP.
        http_addr: String = String::new(), "httpAddr";
        /// Preferred over HTTP when set.
        grpc_addr: String = String::new(), "grpcAddr";
        /// Default 500ms.
        msg_notify_event_push_interval: Duration = ms(500), "msgNotifyEventPushInterval", ms(1)..=h(1);
        /// Default 100.
        msg_notify_event_count_per_push: u32 = 100, "msgNotifyEventCountPerPush", 1..=10_000;
        /// Default 5.
        msg_notify_event_retry_max_count: u32 = 5, "msgNotifyEventRetryMaxCount", 1..=1000;
        /// Only these events; empty: all.
        focus_events: Vec<String> = Vec::new(), "focusEvents";
    }
}

section! {
    /// Business backend as a source of rows.
    Datasource {
        /// URL; empty: none.
        addr: String = String::new(), "addr";
    }
}

section! {
    /// Agent channels.
    Agent {
        /// `msg.notify` of agent channels goes here.
        webhook_http_addr: String = String::new(), "webhook.httpAddr";
    }
}

section! {
    /// Plugins.
    Plugin {
        /// Deadline of a hook. Default 1s.
        timeout: Duration = s(1), "timeout", ms(10)..=s(60);
        /// Socket plugins connect to; empty: inside the runtime folder.
        socket_path: String = String::new(), "socketPath";
        /// Plugins to install at start: URLs.
        install: Vec<String> = Vec::new(), "install";
    }
}
