//! Starts and refusals of the real binary.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use wk_proto::cluster::v1 as pb;
use wk_proto::cluster::v1::admin_client::AdminClient;

use crate::client::{Client, Text, append};

/// A running `wk-cluster`. Killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) socket: PathBuf,
    runtime: tempfile::TempDir,
}

impl Daemon {
    /// Starts the binary on the data in `folder` with `extra` lines of configuration.
    pub(crate) fn start(folder: &Path, extra: &str) -> Self {
        let runtime = tempfile::Builder::new().prefix("wkc").tempdir_in("/tmp").expect("a runtime folder");
        let file = runtime.path().join("wukongim.yaml");
        let root = folder.display();
        fs::write(&file, format!("rootDir: \"{root}\"\nstorage:\n  diskReserve: 1MB\n{extra}")).expect("a config file");
        // A file, not a pipe: nobody reads while the daemon runs.
        let log = fs::File::create(runtime.path().join("log")).expect("a log file");
        let child = Command::new(env!("CARGO_BIN_EXE_wk-cluster"))
            .args(["--config".as_ref(), file.as_os_str(), "--runtime".as_ref(), runtime.path().as_os_str()])
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let socket = runtime.path().join("s/cluster@0.0.sock");
        let until = Instant::now() + crate::client::PATIENCE;
        let mut this = Self { child, socket, runtime };
        while !this.socket.exists() && this.child.try_wait().expect("our child").is_none() {
            assert!(Instant::now() < until, "the socket does not appear");
            std::thread::yield_now();
        }
        this
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("our child");
        self.child.wait().expect("our child");
    }

    /// SIGTERM; the exit code. What the daemon said goes to the test's output.
    #[expect(clippy::print_stderr, reason = "shown with a failed test only")]
    pub(crate) async fn stop(self) -> i32 {
        kill(Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")), Signal::SIGTERM).expect("our child");
        // On a thread of its own: clients of this runtime have a good-bye to say.
        let (code, text) = tokio::task::spawn_blocking(|| self.end()).await.expect("no panic");
        eprintln!("{text}");
        code
    }

    /// Waits for an end of its own: exit code and standard error.
    fn end(mut self) -> (i32, String) {
        let code = self.child.wait().expect("our child").code().expect("an exit code");
        (code, fs::read_to_string(self.runtime.path().join("log")).expect("text"))
    }

    fn rss_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("our child");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a number");
        line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[test]
fn an_invalid_address_is_named_and_ends_with_78() {
    let folder = tempfile::tempdir().unwrap();
    let (code, text) = Daemon::start(folder.path(), "cluster:\n  addr: \"invalid-address\"\n").end();
    assert_eq!(code, 78, "{text}");
    assert!(text.contains("cluster.addr") && text.contains("invalid-address"), "{text}");
}

#[tokio::test]
async fn a_second_process_on_the_same_data_is_told_the_holder() {
    let folder = tempfile::tempdir().unwrap();
    let first = Daemon::start(folder.path(), "");
    let client = Client::connect(&first.socket).await;
    let (code, text) = Daemon::start(folder.path(), "").end();
    assert_eq!(code, 75, "{text}");
    assert!(text.contains(&first.pid().to_string()), "{text}");
    drop(client);
    assert_eq!(first.stop().await, 0);
    let (code, text) = Daemon::start(folder.path(), "cluster:\n  slotGroupCount: 17\n").end();
    assert_eq!(code, 78, "{text}");
    assert!(text.contains("cluster.slotGroupCount is 17") && text.contains("made with 16"), "{text}");
    let (code, text) = Daemon::start(folder.path(), "cluster:\n  nodeId: 7\n").end();
    assert_eq!(code, 78, "{text}");
    assert!(text.contains("cluster.nodeId"), "{text}");
}

#[tokio::test]
async fn a_group_for_every_slot_starts_and_works() {
    let folder = tempfile::tempdir().unwrap();
    let extra = "cluster:\n  slotGroupCount: 1024\n";
    for life in ["first start", "restart"] {
        let began = Instant::now();
        let daemon = Daemon::start(folder.path(), extra);
        let mut client = Client::connect(&daemon.socket).await;
        let ready = began.elapsed();
        for n in 0..64 {
            let channel = format!("channel{n}");
            let stored = client.append(append(&[(&channel, vec![Text::new(n + 1, "u", "no", b"x")])])).await.unwrap();
            assert_eq!(stored[0].message_seqs, [1]);
        }
        let mut admin = AdminClient::new(wk_rpc::dial(&daemon.socket).await.unwrap());
        let status = admin.status(pb::StatusRequest {}).await.unwrap().into_inner();
        assert_eq!((status.slot_groups, status.groups.len()), (1024, 2049));
        assert!(status.groups.iter().filter(|group| group.kind == "slot").all(|group| group.leader == 1001));
        eprintln!("{life}: ready after {ready:?}, {} MiB resident", daemon.rss_kib() / 1024);
        drop((client, admin));
        assert_eq!(daemon.stop().await, 0);
    }
}
