//! What control groups let this process use of CPU and memory, and how much of that is used, in both versions of the
//! kernel's interface.
//!
//! A limit holds for its group and for all below it, so the smallest one between a process and the root counts. Inside
//! of a container the path of a group may be the host's, of which nothing is there but the root, which is then the
//! container's own: groups that are not there are passed over.
//!
//! Everything is read below a directory that is given, and goes by the text of `/proc/self/cgroup`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the kernel shows control groups, as everybody mounts them.
pub(crate) const ROOT: &str = "/sys/fs/cgroup";

/// The groups of this process.
pub(crate) fn own() -> String {
    fs::read_to_string("/proc/self/cgroup").unwrap_or_default()
}

/// What the groups of a process limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// In thousandths of a core.
    pub(crate) cpu: Option<Limit>,
    /// In bytes.
    pub(crate) memory: Option<Limit>,
}

/// The smallest limit of something, and the group that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) amount: u64,
    group: Group,
}

/// A control group.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    version: Version,
    /// Where its hierarchy begins.
    root: PathBuf,
    path: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Limits {
    /// Reads the limits of the groups that `own` names, the text of a `/proc/<pid>/cgroup`, below `root`.
    pub(crate) fn read(root: &Path, own: &str) -> Self {
        let smallest = |controller, limit: fn(&Group) -> Option<u64>| {
            let groups = groups(root, own, controller).into_iter();
            let limits = groups.filter_map(|group| Some(Limit { amount: limit(&group)?, group }));
            limits.min_by_key(|limit| limit.amount)
        };
        Self { cpu: smallest("cpu", Group::cpu_millis), memory: smallest("memory", Group::memory_bytes) }
    }
}

impl Limit {
    /// CPU time that its group has used since it was made.
    pub(crate) fn cpu_used(&self) -> Option<Duration> {
        match self.group.version {
            Version::Two => self.group.entry("cpu.stat", "usage_usec").map(Duration::from_micros),
            Version::One => {
                // Where the two are not one hierarchy, a group of the other that has the same path is the same group.
                let beside = || self.group.in_hierarchy("cpuacct").number("cpuacct.usage");
                self.group.number("cpuacct.usage").or_else(beside).map(Duration::from_nanos)
            }
        }
    }

    /// Bytes of memory that its group uses, without the part of the page cache that is the first to go.
    pub(crate) fn memory_used(&self) -> Option<u64> {
        let group = &self.group;
        let (used, cache) = match group.version {
            Version::Two => (group.number("memory.current")?, group.entry("memory.stat", "inactive_file")),
            Version::One => (group.number("memory.usage_in_bytes")?, group.entry("memory.stat", "total_inactive_file")),
        };
        Some(used.saturating_sub(cache.unwrap_or(0)))
    }
}

impl Group {
    fn cpu_millis(&self) -> Option<u64> {
        let (quota, period) = match self.version {
            Version::Two => {
                let text = self.text("cpu.max")?;
                let mut words = text.split_whitespace();
                (words.next()?.parse::<u64>().ok()?, words.next()?.parse::<u64>().ok()?)
            }
            // Without a limit the quota is -1, which is no number here.
            Version::One => (self.number("cpu.cfs_quota_us")?, self.number("cpu.cfs_period_us")?),
        };
        Some(quota.saturating_mul(1000).checked_div(period)?.max(1))
    }

    fn memory_bytes(&self) -> Option<u64> {
        /// Without a limit version 1 shows the largest number of whole pages.
        const NO_LIMIT: u64 = 1 << 62;
        match self.version {
            Version::Two => self.number("memory.max"),
            Version::One => self.number("memory.limit_in_bytes").filter(|bytes| *bytes < NO_LIMIT),
        }
    }

    /// The group of the same path in another hierarchy.
    fn in_hierarchy(&self, controller: &str) -> Group {
        Group { root: self.root.with_file_name(controller), ..self.clone() }
    }

    fn text(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.root.join(&self.path).join(file)).ok()
    }

    fn number(&self, file: &str) -> Option<u64> {
        self.text(file)?.trim().parse().ok()
    }

    fn entry(&self, file: &str, name: &str) -> Option<u64> {
        entry(&self.text(file)?, name)
    }
}

/// The number after a name in a text that has a line for each.
pub(crate) fn entry(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The group of version 2 that a process is in, as a path below the root of its hierarchy, and that root.
pub(crate) fn unified(root: &Path, own: &str) -> Option<(PathBuf, PathBuf)> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let is_root = |directory: &PathBuf| directory.join("cgroup.controllers").exists();
    let root = [root.to_owned(), root.join("unified")].into_iter().find(is_root)?;
    Some((root, Path::new(path).strip_prefix("/").ok()?.to_owned()))
}

/// The groups that can limit something of a process: its own and all above, in every hierarchy.
fn groups(root: &Path, own: &str, controller: &str) -> Vec<Group> {
    let mut found = Vec::new();
    if let Some((root, path)) = unified(root, own) {
        found.extend(upwards(Version::Two, &root, &path));
    }
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        if controllers.split(',').any(|one| one == controller) {
            let path = path.trim_start_matches('/');
            found.extend(upwards(Version::One, &root.join(controller), Path::new(path)));
        }
    }
    found
}

fn upwards(version: Version, root: &Path, path: &Path) -> Vec<Group> {
    path.ancestors().map(|path| Group { version, root: root.to_owned(), path: path.to_owned() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_core_more_is_1500_millis_in_version_2() {
        let tree = Tree::of_version_2();
        tree.write("service/cpu.max", "150000 100000\n");
        tree.write("service/memory.max", "1073741824\n");

        let limits = tree.limits("0::/service\n");

        assert_eq!(amounts(&limits), (Some(1500), Some(1 << 30)));
    }

    #[test]
    fn the_smallest_limit_on_the_way_up_counts() {
        let tree = Tree::of_version_2();
        tree.write("slice/cpu.max", "50000 100000\n");
        tree.write("slice/service/cpu.max", "max 100000\n");
        tree.write("slice/service/agent/cpu.max", "400000 100000\n");
        tree.write("slice/service/memory.max", "max\n");
        tree.write("slice/service/agent/memory.max", "max\n");
        tree.write("elsewhere/cpu.max", "1000 100000\n");

        let limits = tree.limits("0::/slice/service/agent\n");

        assert_eq!(amounts(&limits), (Some(500), None));
    }

    #[test]
    fn limits_of_version_1_are_read_hierarchy_by_hierarchy() {
        let tree = Tree::empty();
        tree.write("cpu/docker/1/cpu.cfs_quota_us", "150000\n");
        tree.write("cpu/docker/1/cpu.cfs_period_us", "100000\n");
        tree.write("cpu/docker/cpu.cfs_quota_us", "-1\n");
        tree.write("cpu/docker/cpu.cfs_period_us", "100000\n");
        tree.write("memory/pod/memory.limit_in_bytes", "536870912\n");
        tree.write("memory/memory.limit_in_bytes", "9223372036854771712\n");

        let limits = tree.limits("4:memory:/pod\n2:cpu,cpuacct:/docker/1\n1:name=systemd:/\n0::/\n");

        assert_eq!(amounts(&limits), (Some(1500), Some(512 << 20)));
    }

    #[test]
    fn in_a_container_that_does_not_show_the_hosts_groups_the_root_counts() {
        let tree = Tree::empty();
        tree.write("memory/memory.limit_in_bytes", "536870912\n");

        let limits = tree.limits("4:memory:/docker/0123456789ab\n");

        assert_eq!(amounts(&limits), (None, Some(512 << 20)));
    }

    #[test]
    fn where_there_are_no_groups_nothing_is_limited() {
        assert_eq!(Tree::empty().limits(""), Limits::default());
        assert_eq!(Tree::empty().limits("0::/\n"), Limits::default());
    }

    #[test]
    fn the_use_is_that_of_the_group_with_the_limit() {
        let tree = Tree::of_version_2();
        tree.write("service/cpu.max", "100000 100000\n");
        tree.write("service/cpu.stat", "usage_usec 2500000\nuser_usec 1\n");
        tree.write("service/memory.max", "1000000\n");
        tree.write("service/memory.current", "500000\n");
        tree.write("service/memory.stat", "anon 1\ninactive_file 100000\n");
        tree.write("service/agent/cpu.stat", "usage_usec 7\n");

        let limits = tree.limits("0::/service/agent\n");

        assert_eq!(limits.cpu.unwrap().cpu_used(), Some(Duration::from_millis(2500)));
        assert_eq!(limits.memory.unwrap().memory_used(), Some(400_000));
    }

    #[test]
    fn the_use_in_version_1_may_stand_in_another_hierarchy() {
        let tree = Tree::empty();
        tree.write("cpu/pod/cpu.cfs_quota_us", "100000\n");
        tree.write("cpu/pod/cpu.cfs_period_us", "100000\n");
        tree.write("cpuacct/pod/cpuacct.usage", "2500000000\n");
        tree.write("memory/pod/memory.limit_in_bytes", "1000000\n");
        tree.write("memory/pod/memory.usage_in_bytes", "500000\n");
        tree.write("memory/pod/memory.stat", "inactive_file 7\ntotal_inactive_file 100000\n");

        let limits = tree.limits("1:cpu:/pod\n2:cpuacct:/pod\n3:memory:/pod\n");

        assert_eq!(limits.cpu.unwrap().cpu_used(), Some(Duration::from_millis(2500)));
        assert_eq!(limits.memory.unwrap().memory_used(), Some(400_000));
    }

    fn amounts(limits: &Limits) -> (Option<u64>, Option<u64>) {
        let amount = |limit: &Option<Limit>| limit.as_ref().map(|limit| limit.amount);
        (amount(&limits.cpu), amount(&limits.memory))
    }

    /// A made-up `/sys/fs/cgroup`.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn empty() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn of_version_2() -> Self {
            let tree = Self::empty();
            tree.write("cgroup.controllers", "cpu memory pids\n");
            tree
        }

        fn write(&self, file: &str, text: &str) {
            let path = self.0.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn limits(&self, own: &str) -> Limits {
            Limits::read(self.0.path(), own)
        }
    }
}
