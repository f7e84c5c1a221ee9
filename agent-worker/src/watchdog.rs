//! A small process beside an agent, which kills what the agent's commands have started when the agent is killed
//! itself.
//!
//! It reads a pipe that the agent holds open and never writes to; so it sleeps until the agent is gone, however that
//! went. It is in a process group of its own, takes no notice of signals that ask it to end, and holds nothing of the
//! agent's open but that pipe. Whom to kill it knows by the [owner](Owner) of their marks. If both are killed together,
//! the kernel still kills the commands themselves; for what these have started, run agents under something that ends
//! whole groups of processes, as systemd and containers do.

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::SigSet;
use tokio::process::{Child, Command};
use tracing::{debug, warn};

use crate::executor::Owner;
use crate::executor::strays::end_all_of;

/// How long it tries to kill what does not die.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the agent waits until it starts another one after one has ended, the first time and at most.
const RESTART_PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(600)];

/// The hidden subcommand of an agent's program.
pub(crate) const SUBCOMMAND: &str = "watchdog";

/// What the watchdog does: waits until its standard input is closed, kills all processes of the owner, and returns.
///
/// To be called before the process has other threads.
pub fn run(owner: Owner) -> io::Result<()> {
    SigSet::all().thread_block()?;
    nix::sys::prctl::set_name(c"agent-watchdog")?;
    // Nobody writes, so what ends this is that nobody could any more.
    io::stdin().read_to_end(&mut Vec::new())?;
    end_all_of(owner, PATIENCE);
    Ok(())
}

/// Keeps a watchdog for as long as this is polled. `subcommand` is what comes before the arguments of an agent on the
/// command line of this program.
pub(crate) async fn keep(owner: Owner, subcommand: Vec<OsString>) {
    let [mut pause, longest] = RESTART_PAUSES;
    loop {
        match start(owner, &subcommand) {
            Ok(mut watchdog) => {
                debug!(pid = watchdog.id(), "the watchdog runs");
                // Its pipe is closed when it is waited for, unless it is taken out first.
                let pipe = watchdog.stdin.take();
                let status = watchdog.wait().await;
                drop(pipe);
                warn!(?status, "the watchdog has ended: another one is started");
            }
            Err(error) => warn!(%error, "no watchdog: if the agent is killed, what its commands have started may stay"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

fn start(owner: Owner, subcommand: &[OsString]) -> io::Result<Child> {
    // It is there even when the file has been replaced by a newer one.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("agent-watchdog").args(subcommand).arg(SUBCOMMAND).arg(owner.to_string());
    command.env_clear().stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // What is typed at a terminal, or sent to the agent's group, is not for the watchdog; nor is the agent's directory.
    command.process_group(0).current_dir("/").spawn()
}
