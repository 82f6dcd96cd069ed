//! Sections of the cluster, and those that only we have.

use std::time::Duration;

use super::{h, ms, s};
use crate::value::{ByteSize, Exact, HostPort, ListenAddr, Orphans, PeerNode, Restart, Role, Secret, named};

section! {
    /// Cluster.
    Cluster {
        /// This node. Default 1001.
        node_id: u16 = 1001, "nodeId", 1..=1023;
        /// Listen address for other nodes. Default `0.0.0.0:11110`.
        addr: ListenAddr = ListenAddr::any(11110), "addr";
        /// Address under which other nodes reach this one; empty: derived from `addr`.
        server_addr: Option<HostPort> = None, "serverAddr";
        /// HTTP base for requests forwarded between nodes.
        api_url: String = String::new(), "apiUrl";
        /// First members; empty: a cluster of one. Read at bootstrap only.
        init_nodes: Vec<PeerNode> = Vec::new(), "initNodes";
        /// Members of an existing cluster to join through.
        seed: Vec<PeerNode> = Vec::new(), "seed";
        /// Default replica.
        role: Role = Role::Replica, "role";
        /// Buckets. Default 1024; read at bootstrap only; fixed in this version.
        slot_count: u32 = 1024, "slotCount", 1024..=1024;
        /// Raft groups that carry the buckets. Default 16; read at bootstrap only.
        slot_group_count: u32 = 16, "slotGroupCount", 1..=1024;
        /// Replicas of a slot group; effective: at most the number of nodes. Default 3.
        slot_replica_count: u32 = 3, "slotReplicaCount", 1..=7;
        /// Replicas of a channel group. Default 3.
        channel_replica_count: u32 = 3, "channelReplicaCount", 1..=7;
        /// Default 10s.
        req_timeout: Duration = s(10), "reqTimeout", ms(100)..=s(60);
        /// Missed pongs before a node counts as offline, in ticks of 150 ms. Default 30.
        pong_max_tick: u32 = 30, "pongMaxTick", 1..=10_000;
        /// No mTLS between nodes. Default false.
        insecure: bool = false, "insecure";
    }
}

section! {
    /// Consensus.
    Raft {
        /// Default 250ms.
        heartbeat: Duration = ms(250), "heartbeat", ms(10)..=s(10);
        /// Default 750ms.
        election_min: Duration = ms(750), "electionMin", ms(20)..=s(60);
        /// Default 1250ms.
        election_max: Duration = ms(1250), "electionMax", ms(30)..=s(120);
        /// Log kept for followers that are behind. Default 256MB.
        log_budget: ByteSize = ByteSize::mib(256), "logBudget", ByteSize::mib(1)..=ByteSize::gib(1024);
    }
}

section! {
    /// Stores.
    Storage {
        /// Folder of the raft log; empty: inside the data folder.
        raft_dir: String = String::new(), "raftDir";
        /// Block cache; not set: chosen by the memory of the machine.
        cache: Option<ByteSize> = None, "cache";
        /// Default 30s.
        flush_every: Duration = s(30), "flushEvery", s(1)..=h(1);
        /// Writes are refused when less disk than this is free. Default 1GB.
        disk_reserve: ByteSize = ByteSize::gib(1), "diskReserve", ByteSize::mib(1)..=ByteSize::gib(1024);
    }
}

section! {
    /// Charts.
    Trace {
        /// Prometheus that the manager's charts ask.
        prometheus_api_url: String = String::new(), "prometheusApiUrl";
    }
}

section! {
    /// Channel workers.
    ChannelRuntime {
        /// Channels held in memory. Default 100000.
        cache: u32 = 100_000, "cache", 16..=100_000_000;
        /// Unused for this long, a channel leaves memory. Default 10m.
        idle: Duration = s(600), "idle", s(1)..=h(24);
        /// Messages per append. Default 256.
        batch_messages: u32 = 256, "batchMessages", 1..=1024;
        /// Bytes per append. Default 512KB.
        batch_bytes: ByteSize = ByteSize::kib(512), "batchBytes", ByteSize::kib(1)..=ByteSize::mib(8);
        /// Messages that wait per channel. Default 4096.
        queue_messages: u32 = 4096, "queueMessages", 1..=1_000_000;
    }
}

section! {
    /// Membership.
    Membership {
        /// A new node becomes a voter by itself once it has caught up. Default true.
        auto_join: bool = true, "autoJoin";
    }
}

section! {
    /// Client connections.
    Gateway {
        /// Sub reactors; 0 or not set: max(1, cores / 2).
        sub_reactors: u16 = 0, "subReactors", 0..=256;
    }
}

named! {
    /// PROXY protocol on the client ports.
    ProxyMode {
        /// Taken when it comes, from a trusted address.
        #[default]
        Auto = "auto",
        /// Never expected.
        Off = "off",
        /// Connections without it are closed.
        Required = "required",
    }
}

section! {
    /// PROXY protocol on the client ports.
    ProxyProtocol {
        /// Default auto.
        mode: ProxyMode = ProxyMode::Auto, "mode";
        /// Addresses or networks (CIDR) that may send it, and `X-Forwarded-For`. Default: none named, then everybody may.
        trusted: Vec<String> = Vec::new(), "trusted";
    }
}

section! {
    /// Bounds of client connections.
    Limits {
        /// From accept to a CONNECT. Default 10s.
        handshake_timeout: Duration = s(10), "handshakeTimeout", ms(100)..=s(120);
        /// Largest frame. Default 1MB.
        frame_bytes: ByteSize = ByteSize::mib(1), "frameBytes", ByteSize::kib(1)..=ByteSize::mib(1);
        /// SENDs of a connection without answer. Default 64.
        frames_unsettled: u32 = 64, "framesUnsettled", 1..=4096;
        /// Their bytes. Default 256KB.
        bytes_unsettled: ByteSize = ByteSize::kib(256), "bytesUnsettled", ByteSize::kib(1)..=ByteSize::mib(16);
        /// Parsed ahead while SENDs wait. Default 1MB.
        parse_ahead_bytes: ByteSize = ByteSize::mib(1), "parseAheadBytes", ByteSize::kib(1)..=ByteSize::mib(64);
        /// Waiting for one connection's socket; above: closed. Default 8MB.
        outbound_bytes: ByteSize = ByteSize::mib(8), "outboundBytes", ByteSize::kib(64)..=ByteSize::gib(1);
        /// The same for all connections of a gateway. Default 256MB.
        outbound_total_bytes: ByteSize = ByteSize::mib(256), "outboundTotalBytes", ByteSize::mib(1)..=ByteSize::gib(64);
        /// Connections from one address; 0: no bound.
        connections_per_address: u32 = 0, "connectionsPerAddress";
    }
}

section! {
    /// Sizes of the worker pools.
    Workers {
        /// Default 1.
        user: u16 = 1, "user", 1..=64;
        /// Default 1.
        channel: u16 = 1, "channel", 1..=64;
        /// Default 1.
        push: u16 = 1, "push", 1..=64;
        /// All three pools in each of `user` processes: a little less CPU, and they die together. Default false; read at the start of the supervisor.
        one_process: bool = false, "oneProcess";
    }
}

section! {
    /// Links between the daemons of the node: what may be under way and not yet received.
    Links {
        /// Batches.
        batches: u16 = 2, "batches", 1..=64;
        /// Items in a batch.
        batch_items: u16 = 1024, "batchItems", 1..=1024;
    }
}

section! {
    /// Supervisor.
    Supervisor {
        /// Base of the runtime folder; empty: see [`crate::runtime_dir`].
        runtime_dir: String = String::new(), "runtimeDir";
        /// From spawn to ready. Default 60s.
        start_timeout: Duration = s(60), "startTimeout", ms(100)..=h(1);
        /// A stop of everything that has taken this long goes on with deadlines of 1s; a store that flushes keeps its time. Default 75s.
        stop_timeout: Duration = s(75), "stopTimeout", ms(100)..=h(1);
        /// Attempts after a failed start. Default 0.
        start_retries: u16 = 0, "startRetries", 0..=100;
        /// Processes that are on their way to ready at once, each begun when what it requires is ready; 0: all, and at once. Default 0.
        start_parallelism: u16 = 0, "startParallelism", 0..=1000;
        /// Control groups (v2) for the daemons: `auto` (those that systemd delegates), `off`, or a folder of the tree. Default auto.
        cgroup: String = "auto".into(), "cgroup";
        /// Events as entries of the systemd journal: `auto` (when systemd runs the supervisor), `off`, or the path of a journal's socket. Default auto.
        journal: String = "auto".into(), "journal";
        /// Daemons may write only where they have to (Landlock, where the kernel has it). A core file in a folder needs it off. Default true.
        sandbox: bool = true, "sandbox";
        /// A log of a daemon, or the supervisor's own, that is larger gives its older lines to `<name>.log.1`. Default 64MB.
        log_bytes: ByteSize = ByteSize::mib(64), "logBytes", ByteSize::kib(64)..=ByteSize::gib(64);
        /// Group whose members may do everything on the control socket, beside root and the own user. Default: none.
        admin_group: String = String::new(), "adminGroup";
        /// Group whose members may start, stop, restart, scale, roll, hold and reset. Default: none.
        operator_group: String = String::new(), "operatorGroup";
        /// Group whose members may look. Default: none.
        viewer_group: String = String::new(), "viewerGroup";
    }
    sections {
        /// Per daemon, `supervisor.daemons.<name>.*`.
        daemons: Daemons = "daemons";
    }
}

section! {
    /// Settings of each daemon.
    Daemons {}
    sections {
        /// Cluster.
        cluster: DaemonPolicy = "cluster";
        /// Gateway.
        gateway: DaemonPolicy = "gateway";
        /// Api.
        api: DaemonPolicy = "api";
        /// User workers.
        worker_user: DaemonPolicy = "worker.user";
        /// Channel workers.
        worker_channel: DaemonPolicy = "worker.channel";
        /// Push workers.
        worker_push: DaemonPolicy = "worker.push";
        /// Plugin host.
        plugin_host: DaemonPolicy = "plugin-host";
    }
}

section! {
    /// Settings of one daemon; not set: the supervisor's default.
    DaemonPolicy {
        /// Default always.
        restart: Restart = Restart::Always, "restart";
        /// From spawn to ready; not set: `supervisor.startTimeout`.
        start_timeout: Option<Duration> = None, "startTimeout";
        /// From TERM to the end; not set: 10s (30s cluster, 45s gateway).
        stop_timeout: Option<Duration> = None, "stopTimeout";
        /// From spawn to ready for one that is seen to work (CPU, input, output); not set: 10m.
        start_timeout_max: Option<Duration> = None, "startTimeoutMax";
        /// At the end of its start timeout it leaves a core file (SIGABRT) instead of being asked to end (SIGTERM). Default false.
        abort_on_timeout: bool = false, "abortOnTimeout";
        /// Set: at its stop deadline it is killed only when it does not work, and after this time. Not set: 5m for cluster, none for others.
        hard_stop_timeout: Option<Duration> = None, "hardStopTimeout";
        /// Restarts in a row before it is given up, forgotten after `backoff.resetAfter` of ready and by `wkctl start` or `restart`; 0: never
        /// given up.
        max_restarts: u32 = 0, "maxRestarts";
        /// Restart of a daemon that has said for this long that it cannot take work, while all it requires is ready; not set: it is left alone.
        unready_restart: Option<Duration> = None, "unreadyRestart";
        /// A crash loop (five crashes in a minute, not ready for `backoff.resetAfter` since) that lasts for this long ends the node and the
        /// supervisor with code 101; not set: it is tried again for ever.
        escalate_after: Option<Duration> = None, "escalateAfter";
        /// What becomes of it when the supervisor dies. Default adopt.
        orphans: Orphans = Orphans::Adopt, "orphans";
        /// Memory limit of the daemon's cgroup; not set: none.
        memory_max: Option<ByteSize> = None, "memoryMax";
        /// Processes and threads in the daemon's cgroup; not set: no limit.
        pids_max: Option<u32> = None, "pidsMax";
        /// CPU weight of the daemon's cgroup, 1 to 10000; not set: 100.
        cpu_weight: Option<u16> = None, "cpuWeight";
        /// Limit of open descriptors; not set: that of the supervisor.
        files_max: Option<u64> = None, "filesMax";
    }
    sections {
        /// Pauses between its restarts.
        backoff: BackoffPolicy = "backoff";
        /// How it is asked whether it lives.
        liveness: LivenessPolicy = "liveness";
    }
}

section! {
    /// Pauses between the restarts of a daemon: none after its first crash, then `base`, and each `factor` times the one before, up to `cap`.
    /// Holds from its next crash on; a pause under way ends as it was begun. The supervisor's alone: systemd restarts the native units.
    BackoffPolicy {
        /// First pause; also after a crash before it was ready. Default 200ms.
        base: Exact<Duration> = Exact(ms(200)), "base", Exact(ms(1))..=Exact(h(1));
        /// Growth. Default 2.
        factor: Exact<f64> = Exact(2.0), "factor", Exact(1.0)..=Exact(100.0);
        /// Longest pause, at least `base`. Default 30s.
        cap: Exact<Duration> = Exact(s(30)), "cap", Exact(ms(1))..=Exact(h(24));
        /// Share of a pause by which it is longer or shorter at random. Default 0.2.
        jitter: Exact<f64> = Exact(0.2), "jitter", Exact(0.0)..=Exact(1.0);
        /// Ready for so long, and for twice the last pause, it has no crashes behind it. Default 60s.
        reset_after: Exact<Duration> = Exact(s(60)), "resetAfter", Exact(s(1))..=Exact(h(24 * 7));
    }
}

section! {
    /// Liveness checks of a daemon. Holds at once. Daemons of the same period are asked together; a period of its own is a wake-up of its own.
    LivenessPolicy {
        /// From one check to the next. Default 10s.
        period: Exact<Duration> = Exact(s(10)), "period", Exact(ms(100))..=Exact(h(1));
        /// Deadline of one check, less than `period`. Default 2s.
        timeout: Exact<Duration> = Exact(s(2)), "timeout", Exact(ms(10))..=Exact(s(600));
        /// Checks missed in a row that make it hung: it is ended and restarted. Default 3.
        failures: Exact<u16> = Exact(3), "failures", Exact(1)..=Exact(100);
    }
}

section! {
    /// API of the load generator.
    BenchApi {
        /// Default false.
        on: bool = false, "on";
        /// Required header when set.
        token: Secret = Secret::default(), "token";
    }
}

impl Daemons {
    /// Settings of a daemon.
    #[must_use]
    pub fn of(&self, daemon: wk_types::Daemon) -> &DaemonPolicy {
        use wk_types::{Daemon, Pool};
        match daemon {
            Daemon::Cluster => &self.cluster,
            Daemon::Gateway => &self.gateway,
            Daemon::Api => &self.api,
            Daemon::Worker(Pool::User) => &self.worker_user,
            Daemon::Worker(Pool::Channel) => &self.worker_channel,
            Daemon::Worker(Pool::Push) => &self.worker_push,
            Daemon::PluginHost => &self.plugin_host,
        }
    }
}
