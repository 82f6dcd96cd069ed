//! Every bound of the supervisor. Source, where none is given: `design/supervisor.md` §4.

use std::time::Duration;

/// Backlog of the public listeners: nobody is refused while the gateway is not armed. Source: architecture §3a.
pub const LISTEN_BACKLOG: i32 = 16_384;
/// The same of the sockets between the processes of a node.
pub const LINK_BACKLOG: i32 = 4_096;
/// First delay of the backoff that is not zero; this and the next four where the configuration says nothing else (`backoff` of a daemon).
pub const BACKOFF_BASE: Duration = Duration::from_millis(200);
/// Each delay is so many times the one before.
pub const BACKOFF_FACTOR: f64 = 2.0;
/// Longest delay of the backoff.
pub const BACKOFF_CAP: Duration = Duration::from_secs(30);
/// Share of a delay by which it is longer or shorter at random.
pub const BACKOFF_JITTER: f64 = 0.2;
/// The crash counter is forgotten after this time in Ready (or twice the last delay, if that is longer).
pub const BACKOFF_RESET: Duration = Duration::from_secs(60);
/// Crashes within [`CRASH_LOOP_WINDOW`] that raise the flag `crash_loop`.
pub const CRASH_LOOP_COUNT: usize = 5;
/// Window of [`CRASH_LOOP_COUNT`].
pub const CRASH_LOOP_WINDOW: Duration = Duration::from_secs(60);
/// Restarts of all instances together within [`RESTART_WINDOW`]; the first restart of an instance is exempt.
pub const RESTART_BUCKET: usize = 10;
/// Window of [`RESTART_BUCKET`].
pub const RESTART_WINDOW: Duration = Duration::from_secs(10);
/// Crashes before Ready after which a start transaction is rolled back.
pub const START_ATTEMPTS: u32 = 3;
/// How long a start that has admitted clients waits for optional daemons before it reports.
pub const OPTIONAL_GRACE: Duration = Duration::from_secs(2);
/// Time to leave a core file between SIGABRT and SIGKILL.
pub const ABORT_GRACE: Duration = Duration::from_secs(5);
/// A process that is not gone this long after SIGKILL is Stuck.
pub const KILL_GRACE: Duration = Duration::from_secs(10);
/// Deadline of everything after a second signal or `--fast`.
pub const FAST_DEADLINE: Duration = Duration::from_secs(1);
/// Longest wait for accepted work at a stop.
pub const QUIESCE_DEADLINE: Duration = Duration::from_secs(15);
/// Longest wait for connections to close after the work was settled. Source: architecture §8a (2 s of discarded input) and a margin.
pub const CLOSE_DEADLINE: Duration = Duration::from_secs(3);
/// Pause between two questions for work in flight.
pub const INFLIGHT_EVERY: Duration = Duration::from_millis(25);
/// Deadline of a drain, SIGTERM to exit.
pub const TERM_DEADLINE: Duration = Duration::from_secs(10);
/// The same for the cluster daemon, which flushes memory to disk.
pub const TERM_DEADLINE_CLUSTER: Duration = Duration::from_secs(30);
/// The same for the gateway, which waits for its clients. Source: config schema, `stopTimeout`.
pub const TERM_DEADLINE_GATEWAY: Duration = Duration::from_secs(45);
/// Of a stop of everything; then deadlines are [`FAST_DEADLINE`]. Source: config schema, `supervisor.stopTimeout`.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(75);
/// Period of the liveness check; this and the next two where the configuration says nothing else (`liveness` of a daemon).
pub const LIVE_EVERY: Duration = Duration::from_secs(10);
/// Deadline of one liveness check.
pub const LIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Liveness checks missed in a row that make a hang.
pub const LIVE_MISSES: u16 = 3;
/// A lost health connection is dialled again this long before it counts as a hang.
pub const HEALTH_GRACE: Duration = Duration::from_secs(5);
/// Pause before a lost health stream is opened again.
pub const HEALTH_RETRY: Duration = Duration::from_millis(100);
/// Deadline of one lifecycle call (`Activate`, `Admit`, ...). Source: DESIGN, control calls.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Deadline for one daemon's metrics page.
pub const METRICS_TIMEOUT: Duration = Duration::from_secs(2);
/// Log lines shown of a component that failed.
pub const LOG_TAIL_LINES: usize = 20;
/// Bytes read from the end of a log to find them. Unit: bytes.
pub const LOG_TAIL_BYTES: u64 = 64 << 10;
/// Pause between two looks for logs over `supervisor.logBytes`: a log may be over its bound by what is written in this time.
pub const LOG_LOOK_EVERY: Duration = Duration::from_secs(10);
/// Commands waiting for the engine; more are refused with `RESOURCE_EXHAUSTED`.
pub const COMMANDS_MAX: usize = 64;
/// Facts on their way from the watching tasks to the engine; a task waits when it is full.
pub const FACTS_MAX: usize = 1024;
/// Pause after the first of some ends until their numbers are let go: other things come first.
pub const BURY_DELAY: Duration = Duration::from_millis(10);
/// Facts that come within this time are one piece of news.
pub const GATHER: Duration = Duration::from_millis(2);
/// Pause between two pieces of news to the watchers, of which there may be many in a start or stop.
pub const TELL_EVERY: Duration = Duration::from_millis(1);
/// Events of one operation kept for a slow reader; then it is dropped, the operation goes on.
pub const OP_EVENTS_MAX: usize = 1024;
/// Operations that wait for others; more are refused (75).
pub const OPS_WAITING_MAX: usize = 16;
/// Finished operations that are remembered: their keys join, their end can be asked for.
pub const OPS_DONE_MAX: usize = 64;
/// Events of one operation that a later caller still sees.
pub const OP_HISTORY_MAX: usize = 64;
/// A generation of a roll must be Ready for this long before the next one is replaced. Source: `design/supervisor.md` §4.12.
pub const MIN_READY: Duration = Duration::from_secs(2);
/// Starts whose times are kept for expectations. Source: `design/supervisor.md` §4.9.
pub const STARTS_KEPT: usize = 5;
/// Events kept in memory. Source: `design/supervisor.md` §4.11.
pub const EVENT_RING: usize = 4096;
/// Events on their way from the engine to the control thread; more are dropped and counted.
pub const EVENTS_QUEUE_MAX: usize = 1024;
/// Events that a subscriber may be behind; then it hears how much it missed and is let go.
pub const EVENT_SUBSCRIBER_MAX: usize = 512;
/// The event file is moved to `.1` above this size. Unit: bytes.
pub const EVENT_FILE_BYTES_MAX: u64 = 16 << 20;
/// How long the last events wait for a journal that is behind. Less than the end of the engine waits for the control thread.
pub const JOURNAL_LAST_WORDS: Duration = Duration::from_millis(500);
/// Pause between two tries of it.
pub const JOURNAL_LAST_PAUSE: Duration = Duration::from_millis(2);
/// Messages of one event or log stream on their way to its reader; the stream waits when it is full.
pub const STREAM_QUEUE: usize = 64;
/// Pause between two looks at a log that is followed.
pub const LOG_FOLLOW_EVERY: Duration = Duration::from_millis(150);
/// Bytes taken from a followed log at a time. Unit: bytes.
pub const LOG_FOLLOW_BYTES: u64 = 256 << 10;
/// Lines that may be asked of the end of a log.
pub const LOG_LINES_MAX: usize = 10_000;
/// Bytes read from the end of a log for them. Unit: bytes.
pub const LOG_LAST_BYTES: u64 = 4 << 20;
/// A watcher of the status gets a new picture at least this often: CPU, memory and binaries change without a word to us.
pub const STATUS_EVERY: Duration = Duration::from_secs(1);
/// Delay between a SIGCHLD and the look for orphans and stopped daemons: whose end we watch is told by its handle, earlier.
pub const CHILDREN_DELAY: Duration = Duration::from_millis(2);

/// How long a child may take from its birth to its program, in which it has copies of our descriptors.
pub const BIRTH_WAIT: Duration = Duration::from_secs(1);

/// From the end of an operation until the memory that it needed is given back: what follows on its heels needs it again.
pub const TIDY_DELAY: Duration = Duration::from_millis(500);
/// Logs in one stream.
pub const LOG_STREAM_MAX: usize = 256;
/// Slots of one pool. Bound by the gateway slot field of connection ids (6 bits).
pub const SLOTS_MAX: u16 = 64;
/// Numbers of descriptors below this are for what a child is given: ours are moved out of the way before.
pub const LOW_FDS: i32 = 32;
/// Soft limit of descriptors the supervisor asks for itself and its children.
pub const NOFILE: u64 = 1 << 20;
/// Leftovers of a killed supervisor get this long after SIGTERM.
pub const LEFTOVER_DEADLINE: Duration = Duration::from_secs(5);
/// The cluster daemon among them.
pub const LEFTOVER_DEADLINE_CLUSTER: Duration = Duration::from_secs(15);

const _: () = assert!(FAST_DEADLINE.as_millis() < TERM_DEADLINE.as_millis(), "fast shortens");
const _: () = assert!(TERM_DEADLINE.as_millis() <= TERM_DEADLINE_CLUSTER.as_millis(), "the store gets the longest time");
/// How long what a dead daemon left in its control group may take to end. Source: 2 ms, `design/supervisor.md` §2.6.
pub const LEAF_EMPTY_WAIT: Duration = Duration::from_millis(500);
/// Lines of the record of our children before it is written anew.
pub const LEDGER_LINES_MAX: usize = 2048;
/// How long the node table of a predecessor stands while the health of adopted processes is asked.
pub const ADOPT_HOLD: Duration = Duration::from_secs(1);
/// How long a fork that a killed supervisor had begun may take to show its marker.
pub const INTENT_WAIT: Duration = Duration::from_millis(500);
/// How long the exit status of a process that is not our child may take to be taken by its parent.
pub const EXIT_STATUS_WAIT: Duration = Duration::from_millis(200);
/// Trial run of a new supervisor binary.
pub const TRIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Descriptors kept for the moment when there are no others. Source: `design/supervisor.md`, row 29.
pub const SPARE_FDS: usize = 16;
/// Descriptors that an instance costs the supervisor: pidfd, two connections and their halves, and those of its spawn.
pub const FDS_PER_INSTANCE: usize = 8;
/// Period in which the work of a process is read while a deadline depends on it.
pub const WORK_EVERY: Duration = Duration::from_millis(500);
/// Units of work (1 ms of CPU, 64 KiB of input or output) within [`WORK_EVERY`] that count as progress: an idle daemon does one or two.
pub const WORK_MIN: u64 = 20;
/// Progress older than this counts no more.
pub const WORK_WINDOW: Duration = Duration::from_millis(2500);
/// Spawn to Ready for who is seen to work.
pub const START_TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// A cluster daemon that flushes and flushes is killed after this time.
pub const HARD_STOP: Duration = Duration::from_secs(300);
/// Period in which the sockets of the runtime folder are looked for: together with the logs, so that an idle control thread wakes once.
pub const MEND_EVERY: Duration = LOG_LOOK_EVERY;
/// Pause after an accept that failed, for want of descriptors mostly.
pub const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(50);
