//! What an attempt may take of its host, and what keeps its command from taking more.
//!
//! Best is the kernel: a control group for each attempt that has limits (`control_groups`). Where the host does not let
//! the agent make any, the agent watches the memory and the number of processes of each (`watcher`), and kills what has
//! too much; then the use of CPU is measured and not limited. Only commands are kept to their limits: what runs within
//! the agent, or in a service, cannot be told from the rest.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use shared::message::Needed;
use tracing::{info, warn};

use super::control_groups::{ControlGroup, ControlGroups};
use crate::cgroup;
use shared::Used;

/// What somebody wants to keep commands to their limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Setting {
    /// The best that the host has.
    #[default]
    Enforce,
    /// The agent watches them, whatever else the host has.
    Watch,
    /// Nothing does.
    Off,
}

/// What keeps commands to their limits here.
#[derive(Debug)]
pub struct Enforcement {
    means: Means,
    /// Why it is not control groups.
    why_no_better: String,
}

#[derive(Debug)]
enum Means {
    ControlGroups(Arc<ControlGroups>),
    Watch,
    Off,
}

/// The most that an attempt may have at a time of each; `None` is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) cpu_millis: Option<u64>,
    /// With their threads.
    pub(crate) processes: Option<u32>,
}

/// An attempt has had more than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Excess {
    Memory { seen: u64, limit: u64 },
    Processes { seen: u64, limit: u32 },
}

/// What keeps one attempt to its limits.
#[derive(Debug)]
pub(crate) struct Bounds {
    limits: Limits,
    holder: Holder,
}

#[derive(Debug)]
enum Holder {
    Kernel(ControlGroup),
    Agent,
    Nobody,
}

/// What a process that is about to become a command does to itself.
#[derive(Debug)]
pub(crate) struct Entry {
    procs: Option<File>,
    data_bytes: Option<u64>,
}

impl Enforcement {
    /// For an agent that has its process for itself, and may put it into another control group.
    pub fn of_a_process(setting: Setting) -> Arc<Self> {
        if setting != Setting::Enforce {
            return Arc::new(Self::without_groups(setting, "the agent's settings say so"));
        }
        let groups = ControlGroups::prepare(Path::new(cgroup::ROOT), &cgroup::own());
        Arc::new(groups.map_or_else(|error| Self::without_groups(setting, &chain(&error)), Self::with_groups))
    }

    /// For an agent that is a part of another program, whose control group is not its business.
    pub fn of_a_guest(setting: Setting) -> Arc<Self> {
        Arc::new(Self::without_groups(setting, "the agent is a part of another program"))
    }

    pub(crate) fn with_groups(groups: ControlGroups) -> Self {
        Self { means: Means::ControlGroups(Arc::new(groups)), why_no_better: String::new() }
    }

    fn without_groups(setting: Setting, why: &str) -> Self {
        let means = if setting == Setting::Off { Means::Off } else { Means::Watch };
        Self { means, why_no_better: why.to_owned() }
    }

    /// What it is called in a `hello`.
    pub fn as_str(&self) -> &'static str {
        match self.means {
            Means::ControlGroups(_) => "cgroup",
            Means::Watch => "watch",
            Means::Off => "off",
        }
    }

    /// Tells what commands are kept to here.
    pub(crate) fn log(&self) {
        let (enforcement, why_no_better) = (self.as_str(), self.why_no_better.as_str());
        match self.means {
            Means::ControlGroups(_) => {
                info!(enforcement, "commands are kept to their memory, CPU and number of processes");
            }
            Means::Watch => {
                info!(enforcement, why_no_better, "commands with too much memory are ended; their CPU is not limited");
            }
            Means::Off => info!(enforcement, why_no_better, "commands may take what there is"),
        }
    }

    /// An attempt begins.
    pub(crate) fn begin(&self, limits: Limits) -> Bounds {
        let holder = match &self.means {
            Means::ControlGroups(groups) if limits != Limits::default() => match groups.make(&limits) {
                Ok(group) => Holder::Kernel(group),
                Err(error) => {
                    warn!(%error, "failed to make a control group for an attempt, which is watched instead");
                    Holder::Agent
                }
            },
            Means::Watch => Holder::Agent,
            Means::ControlGroups(_) | Means::Off => Holder::Nobody,
        };
        Bounds { limits, holder }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |error| error.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

impl Limits {
    /// Those of an attempt for which this is reserved.
    pub(crate) fn of(reserved: &Needed, processes: Option<u32>) -> Self {
        let limit = |amount: u64| Some(amount).filter(|amount| *amount > 0);
        let reserved = reserved.resources;
        Self { memory_bytes: limit(reserved.memory_bytes), cpu_millis: limit(reserved.cpu_millis), processes }
    }
}

impl Bounds {
    /// What the agent itself has to see to.
    pub(crate) fn watched(&self) -> Limits {
        match self.holder {
            Holder::Agent => self.limits,
            Holder::Kernel(_) | Holder::Nobody => Limits::default(),
        }
    }

    /// What the command does to itself before it is executed.
    pub(crate) fn entry(&self) -> io::Result<Entry> {
        Ok(match &self.holder {
            Holder::Kernel(group) => Entry { procs: Some(group.procs()?), data_bytes: None },
            Holder::Agent => Entry { procs: None, data_bytes: self.limits.memory_bytes.map(backstop) },
            Holder::Nobody => Entry { procs: None, data_bytes: None },
        })
    }

    /// Whether the kernel has kept it from having more than it may.
    pub(crate) fn excess(&self) -> Option<Excess> {
        if let Holder::Kernel(group) = &self.holder { group.excess(&self.limits) } else { None }
    }

    /// What it has used, as far as the kernel counts that in one place.
    pub(crate) fn used(&self) -> Used {
        if let Holder::Kernel(group) = &self.holder { group.used() } else { Used::default() }
    }

    /// Kills everything that it keeps within limits, where that can be done at once.
    pub(crate) fn kill(&self) {
        if let Holder::Kernel(group) = &self.holder {
            group.kill();
        }
    }
}

impl Entry {
    /// Two system calls at most, and nothing is allocated: async-signal-safe.
    pub(crate) fn enter(&self) -> io::Result<()> {
        if let Some(procs) = &self.procs {
            // Zero is whoever writes it.
            nix::unistd::write(procs, b"0")?;
        }
        if let Some(bytes) = self.data_bytes {
            setrlimit(Resource::RLIMIT_DATA, bytes, bytes)?;
        }
        Ok(())
    }
}

/// How many bytes of its own a process of a watched attempt may ask for: far more than it may use, since programs ask
/// for much that they never touch. It is for what is faster than the watch.
fn backstop(limit: u64) -> u64 {
    const LEAST_ROOM: u64 = 1 << 30;
    let bytes = limit.saturating_add(limit.max(LEAST_ROOM));
    // Who may not raise the limit that there is already can still lower it.
    getrlimit(Resource::RLIMIT_DATA).map_or(bytes, |(_, hard)| bytes.min(hard))
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        match *self {
            Excess::Memory { seen, limit } => {
                let (seen, limit) = (mebibytes(seen), mebibytes(limit));
                write!(f, "out of memory: {seen:.1} MiB in use, and the limit is {limit:.1} MiB")
            }
            Excess::Processes { seen, limit } => {
                write!(f, "too many processes: {seen} with their threads, and the limit is {limit}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::Resources;

    use super::*;

    #[test]
    fn what_was_seen_and_the_limit_are_told() {
        let memory = Excess::Memory { seen: 120 << 20, limit: 64 << 20 };
        let processes = Excess::Processes { seen: 70, limit: 64 };

        assert_eq!(memory.to_string(), "out of memory: 120.0 MiB in use, and the limit is 64.0 MiB");
        assert_eq!(processes.to_string(), "too many processes: 70 with their threads, and the limit is 64");
    }

    #[test]
    fn what_is_not_reserved_is_not_limited() {
        let resources = Resources { memory_bytes: 7, ..Resources::ZERO };
        let limits = Limits::of(&Needed { resources, ..Needed::default() }, None);

        assert_eq!(limits, Limits { memory_bytes: Some(7), ..Limits::default() });
        assert_eq!(Enforcement::of_a_guest(Setting::Off).begin(limits).watched(), Limits::default());
        assert_eq!(Enforcement::of_a_guest(Setting::Watch).begin(limits).watched(), limits);
    }

    #[test]
    fn the_backstop_leaves_room_for_what_is_asked_for_and_never_touched() {
        assert!(backstop(64 << 20) > 1 << 30);
        assert!(backstop(8 << 30) >= 16 << 30);
    }
}
