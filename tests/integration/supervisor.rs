//! What systemd, or whoever else supervises a coordinator or an agent, is told by it.

use std::path::Path;
use std::time::Duration;

use mesh_tests::{Mesh, mesh, program};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::UnixDatagram;
use tokio::process::Child;

/// The supervisor takes a program for dead that is silent for so long.
const LIMIT: Duration = Duration::from_millis(900);

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_is_ready_when_it_stands_by_and_alive_while_its_loop_turns() {
    let mesh = Mesh::start().await;
    let supervisor = Supervisor::listen(mesh.dir());
    let url = mesh.nats_url();

    let coordinator = supervisor.start(&["serve", "--nats", &url, "--http", "127.0.0.1:0"]);

    supervisor.until_told("READY=1\nSTATUS=standing by\n").await;
    supervisor.watches(coordinator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_ready_when_a_coordinator_has_welcomed_it_and_alive_while_its_session_turns() {
    let mesh = Mesh::builder().coordinators(0).start().await;
    let supervisor = Supervisor::listen(mesh.dir());
    let url = mesh.nats_url();

    let agent = supervisor.start(&["agent", "--nats", &url, "--id", "ada"]);
    supervisor.until_told("STATUS=waiting for a coordinator\n").await;
    let coordinator = program::command(&["serve", "--nats", &url, "--http", "127.0.0.1:0"]).spawn().unwrap();

    supervisor.until_told("READY=1\nSTATUS=welcomed by the coordinator of epoch").await;
    supervisor.watches(agent).await;
    drop(coordinator);
}

/// Stands in for systemd.
struct Supervisor {
    socket: UnixDatagram,
    path: std::path::PathBuf,
}

impl Supervisor {
    fn listen(dir: &Path) -> Self {
        let path = dir.join("notify");
        Self { socket: UnixDatagram::bind(&path).unwrap(), path }
    }

    fn start(&self, args: &[&str]) -> Child {
        let mut command = program::command(args);
        command.env("NOTIFY_SOCKET", &self.path).env("WATCHDOG_USEC", LIMIT.as_micros().to_string());
        command.env_remove("WATCHDOG_PID").stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        command.spawn().unwrap()
    }

    async fn told(&self) -> String {
        let mut bytes = [0; 1024];
        let length = self.socket.recv(&mut bytes).await.unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    async fn until_told(&self, beginning: &str) {
        let told = async { while !self.told().await.starts_with(beginning) {} };
        let told = tokio::time::timeout(mesh::PATIENCE, told).await;
        told.unwrap_or_else(|_| panic!("nobody says {beginning:?}"));
    }

    /// Hears signs of life from a program that is ready, none from one that hangs, and a goodbye from one that is asked
    /// to end.
    async fn watches(&self, mut program: Child) {
        for _ in 0..3 {
            tokio::time::timeout(LIMIT, self.until_told("WATCHDOG=1")).await.expect("it would be taken for dead");
        }
        let pid = Pid::from_raw(program.id().expect("it runs").cast_signed());
        kill(pid, Signal::SIGSTOP).unwrap();
        // What was said before it hung.
        while tokio::time::timeout(LIMIT, self.told()).await.is_ok() {}
        kill(pid, Signal::SIGCONT).unwrap();
        self.until_told("WATCHDOG=1").await;

        kill(pid, Signal::SIGTERM).unwrap();
        self.until_told("STOPPING=1").await;
        assert!(program.wait().await.unwrap().success());
    }
}
