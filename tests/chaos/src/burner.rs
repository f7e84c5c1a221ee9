//! Keeps cores busy.

use std::path::Path;
use std::process::Stdio;

use tokio::process::{Child, Command};

/// Burns a core until it is killed; the program's hidden subcommand `burn`.
pub fn burn() -> ! {
    // Whoever started us is gone: then nobody will kill us.
    let parent = nix::unistd::getppid();
    let mut state = 1u64;
    loop {
        for _ in 0..10_000_000u64 {
            state = std::hint::black_box(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
        if nix::unistd::getppid() != parent {
            std::process::exit(0);
        }
    }
}

/// Processes that burn a core each; dropping it ends them.
#[derive(Debug)]
pub struct Burners(Vec<Child>);

impl Burners {
    /// As many as there are cores.
    pub fn light(exe: &Path) -> std::io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let start = |_| Command::new(exe).arg("burn").stdin(Stdio::null()).kill_on_drop(true).spawn();
        Ok(Self((0..cores).map(start).collect::<Result<_, _>>()?))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}
