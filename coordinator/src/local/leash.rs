//! Ties a program to the life of the process that starts it, even if that one gets SIGKILL.
//!
//! The parent starts its own executable with the hidden subcommand `leash -- program args...`. That asks the
//! kernel for a SIGKILL when the parent is gone and then *becomes* the program: no process stays in between,
//! and the pid is the program's. Asking between `fork` and `exec` would need unsafe code; this does not.
//!
//! The kernel means the *thread* that started the child (prctl(2), `PR_SET_PDEATHSIG`), so children are
//! started by one thread that lives as long as the process: [`Launcher`](super::Launcher) sees to that.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Tells the leash who its parent must be.
pub(super) const PARENT_VARIABLE: &str = "HIVEMESH_LEASH_PARENT";

/// Why the program was not started.
#[derive(Debug, thiserror::Error)]
pub enum LeashError {
    /// There is nothing to start.
    #[error("`leash` needs a program to start; it is for `coordinator dev` and its like, not for people")]
    NoProgram,
    /// The parent died before the leash was tied.
    #[error("the process that wanted `{0}` is gone already")]
    ParentGone(String),
    /// The kernel does not do what it is asked.
    #[error("failed to tie `{program}` to its parent")]
    Tie {
        /// The program.
        program: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// The program cannot be run.
    #[error("failed to run `{program}`")]
    Run {
        /// The program.
        program: String,
        /// What the kernel says.
        source: io::Error,
    },
}

/// Becomes the program that the arguments name, on the leash of the parent. Returns only if that fails.
///
/// To be called before the process has other threads or has opened anything.
pub fn exec(arguments: impl IntoIterator<Item = OsString>) -> LeashError {
    let mut arguments = arguments.into_iter();
    let Some(program) = arguments.next() else { return LeashError::NoProgram };
    let shown = program.to_string_lossy().into_owned();
    if let Err(source) = tie() {
        return LeashError::Tie { program: shown, source };
    }
    // A parent that died before the leash was tied will not be noticed by the kernel any more.
    if parent_is_gone() {
        return LeashError::ParentGone(shown);
    }
    let source = Command::new(program).args(arguments).env_remove(PARENT_VARIABLE).exec();
    LeashError::Run { program: shown, source }
}

fn parent_is_gone() -> bool {
    let expected = std::env::var(PARENT_VARIABLE).ok().and_then(|pid| pid.parse().ok());
    expected.is_some_and(|pid: i32| nix::unistd::getppid().as_raw() != pid)
}

#[cfg(target_os = "linux")]
fn tie() -> io::Result<()> {
    Ok(nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?)
}

/// Other systems have no such thing: there a parent that gets SIGKILL leaves its children behind.
#[cfg(not(target_os = "linux"))]
fn tie() -> io::Result<()> {
    Ok(())
}
