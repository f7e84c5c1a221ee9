//! A control group of version 2 for each attempt that has limits: the kernel keeps it to them, counts what it uses,
//! and kills all of it at once.
//!
//! The agent makes them within its own group, which must be its own to divide: of a systemd service with
//! `Delegate=yes`, or of a container with a writable `/sys/fs/cgroup`. A group that passes controllers on may have no
//! processes itself, so the agent moves into a group `agent` beside those of its attempts.
//!
//! Where this was written there was no host whose version 2 has these controllers. What files are written and read is
//! tested on a made-up tree; entering a group, killing it and removing it on the kernel's own; the limits, and what the
//! kernel says when one is met, by its documentation alone (<https://docs.kernel.org/admin-guide/cgroup-v2.html>).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::Pid;
use tracing::debug;

use super::limits::{Excess, Limits};
use super::mark::is_alive;
use crate::cgroup::{self, entry};
use shared::Used;

/// Without each of these no limit would hold.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// Only counts.
const OPTIONAL: &str = "io";
/// Where the agent itself goes.
const LEAF: &str = "agent";
/// What names of attempts' groups begin with; then come the agent's process and a number.
const PREFIX: &str = "hive-";
/// The span in which a quota of CPU time is used up: the kernel's own default.
const PERIOD_US: u64 = 100_000;
/// The kernel takes no smaller quota.
const LEAST_QUOTA_US: u64 = 1_000;

/// Where groups for attempts are made.
#[derive(Debug)]
pub(crate) struct ControlGroups {
    home: PathBuf,
    next: AtomicU64,
    /// Groups that could not be removed yet.
    left: Mutex<Vec<PathBuf>>,
}

/// The group of one attempt. Dropping it kills what is in it.
#[derive(Debug)]
pub(crate) struct ControlGroup {
    groups: Arc<ControlGroups>,
    directory: PathBuf,
}

/// Why there can be no groups for attempts.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unavailable {
    #[error("this host shows no control groups of version 2")]
    NoHierarchy,
    #[error(
        "the controller `{controller}` is not there for `{}`: a systemd service gets it by `Delegate=yes`",
        group.display()
    )]
    NoController { controller: &'static str, group: PathBuf },
    #[error("failed to divide the control group `{}`", group.display())]
    Divide { group: PathBuf, source: io::Error },
}

impl ControlGroups {
    /// Prepares the group of this process, which `own` names as `/proc/self/cgroup` does, below `root`, and removes what
    /// agents before have left there.
    pub(crate) fn prepare(root: &Path, own: &str) -> Result<Self, Unavailable> {
        let (root, path) = cgroup::unified(root, own).ok_or(Unavailable::NoHierarchy)?;
        let home = root.join(&path);
        let offered = fs::read_to_string(home.join("cgroup.controllers")).unwrap_or_default();
        let is_offered = |controller: &str| offered.split_whitespace().any(|one| one == controller);
        if let Some(controller) = CONTROLLERS.into_iter().find(|controller| !is_offered(controller)) {
            return Err(Unavailable::NoController { controller, group: Path::new("/").join(path) });
        }
        let wanted = CONTROLLERS.into_iter().chain(Some(OPTIONAL).filter(|controller| is_offered(controller)));
        pass_on(&home, wanted).map_err(|source| Unavailable::Divide { group: home.clone(), source })?;
        Ok(Self::within(home))
    }

    fn within(home: PathBuf) -> Self {
        let left = stale(&home);
        left.iter().for_each(|directory| kill(directory));
        let groups = Self { home, next: AtomicU64::new(0), left: Mutex::new(left) };
        groups.remove_what_is_left();
        groups
    }

    /// Makes the group of an attempt.
    pub(crate) fn make(self: &Arc<Self>, limits: &Limits) -> io::Result<ControlGroup> {
        self.remove_what_is_left();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let directory = self.home.join(format!("{PREFIX}{}-{number}", Pid::this()));
        fs::create_dir(&directory)?;
        let group = ControlGroup { groups: self.clone(), directory };
        group.limit(limits)?;
        Ok(group)
    }

    fn remove(&self, directory: PathBuf) {
        if fs::remove_dir(&directory).is_err() {
            self.left.lock().unwrap_or_else(PoisonError::into_inner).push(directory);
        }
    }

    /// What is killed is not gone at once, and until it is, its group stays.
    fn remove_what_is_left(&self) {
        let left = std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner));
        left.into_iter().for_each(|directory| self.remove(directory));
    }
}

/// Has a group pass controllers on to those within.
fn pass_on(home: &Path, controllers: impl Iterator<Item = &'static str>) -> io::Result<()> {
    let wanted: Vec<String> = controllers.map(|controller| format!("+{controller}")).collect();
    let pass_on = || fs::write(home.join("cgroup.subtree_control"), wanted.join(" "));
    match pass_on() {
        Err(error) if is_busy(&error) => {}
        done => return done,
    }
    // It has processes: this one, and maybe others, in which case it is not ours to divide.
    let (leaf, own) = (home.join(LEAF), Pid::this().to_string());
    fs::create_dir_all(&leaf)?;
    fs::write(leaf.join("cgroup.procs"), &own)?;
    pass_on().inspect_err(|_| {
        let _ = fs::write(home.join("cgroup.procs"), &own);
        let _ = fs::remove_dir(&leaf);
    })
}

fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EBUSY as i32)
}

/// Groups of agents that are no more. One that has this process's number is of another before it.
fn stale(home: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(home) else { return Vec::new() };
    let is_stale = |directory: &PathBuf| owner(directory).is_some_and(|pid| pid == Pid::this() || !is_alive(pid));
    entries.flatten().map(|entry| entry.path()).filter(is_stale).collect()
}

/// The agent's process whose group this is.
fn owner(directory: &Path) -> Option<Pid> {
    let name = directory.file_name()?.to_str()?.strip_prefix(PREFIX)?;
    Some(Pid::from_raw(name.split_once('-')?.0.parse().ok()?))
}

fn kill(directory: &Path) {
    // A kernel before 5.14 has no such file. Then what is in the group is found by its mark alone.
    if let Err(error) = OpenOptions::new().write(true).open(directory.join("cgroup.kill")).and_then(write_one) {
        debug!(%error, group = %directory.display(), "a control group could not be killed at once");
    }
}

fn write_one(mut file: File) -> io::Result<()> {
    io::Write::write_all(&mut file, b"1")
}

impl ControlGroup {
    fn limit(&self, limits: &Limits) -> io::Result<()> {
        if let Some(bytes) = limits.memory_bytes {
            self.write("memory.max", &bytes)?;
            // Neither is everywhere; without them it may swap, and only a part of it may be killed.
            let _ = self.write("memory.swap.max", &0);
            let _ = self.write("memory.oom.group", &1);
        }
        if let Some(millis) = limits.cpu_millis {
            let quota = (millis.saturating_mul(PERIOD_US) / 1000).max(LEAST_QUOTA_US);
            self.write("cpu.max", &format_args!("{quota} {PERIOD_US}"))?;
        }
        if let Some(processes) = limits.processes {
            self.write("pids.max", &processes)?;
        }
        Ok(())
    }

    /// What a process writes a zero to in order to enter.
    pub(crate) fn procs(&self) -> io::Result<File> {
        File::create(self.directory.join("cgroup.procs"))
    }

    /// What the kernel has refused it, or killed it for.
    pub(crate) fn excess(&self, limits: &Limits) -> Option<Excess> {
        let has_happened = |file, event| entry(&self.read(file), event).is_some_and(|times| times > 0);
        let memory = limits.memory_bytes.filter(|_| has_happened("memory.events", "oom_kill"));
        let processes = limits.processes.filter(|_| has_happened("pids.events", "max"));
        let of_memory = memory.map(|limit| Excess::Memory { seen: self.memory_peak().unwrap_or(limit), limit });
        of_memory.or(processes.map(|limit| Excess::Processes { seen: u64::from(limit) + 1, limit }))
    }

    /// What all that was ever in it has used. Memory includes the page cache.
    pub(crate) fn used(&self) -> Used {
        Used {
            cpu: entry(&self.read("cpu.stat"), "usage_usec").map(Duration::from_micros),
            memory_peak: self.memory_peak(),
            io_bytes: fs::read_to_string(self.directory.join("io.stat")).ok().map(|text| io_bytes(&text)),
        }
    }

    fn memory_peak(&self) -> Option<u64> {
        self.read("memory.peak").trim().parse().ok()
    }

    /// Kills everything in it.
    pub(crate) fn kill(&self) {
        kill(&self.directory);
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.directory.join(file)).unwrap_or_default()
    }

    fn write(&self, file: &str, value: &impl ToString) -> io::Result<()> {
        fs::write(self.directory.join(file), value.to_string())
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        self.kill();
        self.groups.remove(std::mem::take(&mut self.directory));
    }
}

/// Bytes read and written, of the text of an `io.stat`: a line for each disk, with `rbytes=` and `wbytes=` in it.
fn io_bytes(text: &str) -> u64 {
    let amount = |word: &str| word.strip_prefix("rbytes=").or(word.strip_prefix("wbytes="))?.parse::<u64>().ok();
    text.split_whitespace().filter_map(amount).sum()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn an_attempts_group_is_told_its_limits() {
        let tree = Tree::new("cpu io memory pids");
        let groups = tree.prepare().unwrap();
        let limits = Limits { memory_bytes: Some(64 << 20), cpu_millis: Some(1500), processes: Some(9) };

        let group = groups.make(&limits).unwrap();

        assert_eq!(tree.read("service/cgroup.subtree_control"), "+cpu +memory +pids +io");
        let told = ["memory.max", "memory.swap.max", "memory.oom.group", "cpu.max", "pids.max"];
        assert_eq!(told.map(|file| group.read(file)), ["67108864", "0", "1", "150000 100000", "9"]);
    }

    #[test]
    fn what_is_not_limited_is_not_touched() {
        let tree = Tree::new("cpu memory pids");
        let groups = tree.prepare().unwrap();

        let group = groups.make(&Limits { cpu_millis: Some(1), ..Limits::default() }).unwrap();

        assert_eq!(tree.read("service/cgroup.subtree_control"), "+cpu +memory +pids");
        assert_eq!(group.read("cpu.max"), "1000 100000");
        assert_eq!(fs::read_dir(&group.directory).unwrap().count(), 1);
    }

    #[test]
    fn a_controller_that_is_not_there_is_told() {
        let unavailable = Tree::new("cpu pids").prepare().unwrap_err();

        assert!(matches!(&unavailable, Unavailable::NoController { controller: "memory", .. }), "{unavailable}");
        let nothing = tempfile::tempdir().unwrap();
        assert!(matches!(ControlGroups::prepare(nothing.path(), "0::/"), Err(Unavailable::NoHierarchy)));
    }

    #[test]
    fn the_kernels_account_is_read() {
        let tree = Tree::new("cpu memory pids");
        let limits = Limits { memory_bytes: Some(64 << 20), processes: Some(9), ..Limits::default() };
        let group = tree.prepare().unwrap().make(&limits).unwrap();
        group.write("cpu.stat", &"usage_usec 210000\nuser_usec 200000\n").unwrap();
        group.write("memory.peak", &"52428800\n").unwrap();
        group.write("io.stat", &"8:0 rbytes=4096 wbytes=1024 rios=1 wios=1\n259:0 rbytes=1 wbytes=0\n").unwrap();
        group.write("memory.events", &"low 0\noom 0\noom_kill 0\n").unwrap();
        group.write("pids.events", &"max 0\n").unwrap();

        let cpu = Some(Duration::from_millis(210));
        assert_eq!(group.used(), Used { cpu, memory_peak: Some(50 << 20), io_bytes: Some(5121) });
        assert_eq!(group.excess(&limits), None);

        group.write("pids.events", &"max 3\n").unwrap();
        assert_eq!(group.excess(&limits), Some(Excess::Processes { seen: 10, limit: 9 }));
        group.write("memory.events", &"low 0\noom 1\noom_kill 2\n").unwrap();
        assert_eq!(group.excess(&limits), Some(Excess::Memory { seen: 50 << 20, limit: 64 << 20 }));
    }

    #[test]
    fn groups_of_agents_that_are_gone_are_removed_and_others_stay() {
        let tree = Tree::new("cpu memory pids");
        let parent = nix::unistd::getppid();
        let gone = ended_process();
        let names =
            [format!("hive-{gone}-3"), format!("hive-{parent}-3"), format!("hive-{}-3", Pid::this()), "x".into()];
        names.iter().for_each(|name| fs::create_dir(tree.service().join(name)).unwrap());

        tree.prepare().unwrap();

        let is_there = names.map(|name| tree.service().join(name).exists());
        assert_eq!(is_there, [false, true, false, true]);
    }

    /// On the kernel's own groups, without the controllers: what does not depend on them.
    #[test]
    fn a_program_enters_its_group_and_is_killed_with_it() {
        let Some(home) = Own::make() else {
            eprintln!("SKIPPED: there are no control groups of version 2 to write to");
            return;
        };
        let groups = Arc::new(ControlGroups::within(home.0.clone()));
        let group = groups.make(&Limits::default()).unwrap();
        let script = format!("echo 0 >{}; exec sleep 60", group.directory.join("cgroup.procs").display());
        let mut sleeper = Command::new("sh").args(["-c", &script]).spawn().unwrap();
        while group.read("cgroup.procs").trim() != sleeper.id().to_string() {
            assert!(sleeper.try_wait().unwrap().is_none(), "it cannot enter");
        }
        assert!(group.used().cpu.is_some());

        let directory = group.directory.clone();
        drop(group);

        let killed = std::iter::repeat_with(|| {
            std::thread::sleep(Duration::from_millis(10));
            sleeper.try_wait().unwrap()
        });
        assert!(killed.take(500).flatten().next().is_some_and(|status| !status.success()), "it lives on");
        groups.remove_what_is_left();
        assert!(!directory.exists());
    }

    /// A group of the kernel's that is made for a test.
    struct Own(PathBuf);

    impl Own {
        fn make() -> Option<Self> {
            let (root, path) = cgroup::unified(Path::new(cgroup::ROOT), &cgroup::own())?;
            let home = root.join(path).join(format!("test-{}", Pid::this()));
            fs::create_dir(&home).ok().map(|()| Self(home))
        }
    }

    impl Drop for Own {
        fn drop(&mut self) {
            let _ = fs::remove_dir(&self.0);
        }
    }

    fn ended_process() -> u32 {
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        child.id()
    }

    /// A made-up `/sys/fs/cgroup` with a group `service` that is the agent's.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new(controllers: &str) -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            fs::create_dir(tree.service()).unwrap();
            for directory in [tree.0.path(), &tree.service()] {
                fs::write(directory.join("cgroup.controllers"), controllers).unwrap();
            }
            tree
        }

        fn service(&self) -> PathBuf {
            self.0.path().join("service")
        }

        fn prepare(&self) -> Result<Arc<ControlGroups>, Unavailable> {
            ControlGroups::prepare(self.0.path(), "0::/service\n").map(Arc::new)
        }

        fn read(&self, file: &str) -> String {
            fs::read_to_string(self.0.path().join(file)).unwrap()
        }
    }
}
