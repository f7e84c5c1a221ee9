//! A mark on every process that an attempt starts, by which they are found again wherever they have gone.
//!
//! A program that forks twice, begins a session of its own and clears its environment has left its process group,
//! its parent and its variables behind. Limits it keeps: they pass to every child and through every `exec`. One of
//! them means nothing: Linux has not enforced `RLIMIT_LOCKS` since 2.4.25 (getrlimit(2)), and still carries it. So
//! its soft limit is the mark. Everybody can read it in `/proc/<pid>/limits`.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;
use std::str::FromStr;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::unistd::Pid;

/// How many bits of a mark tell the attempts of one owner apart.
const ATTEMPT_BITS: u32 = 24;
/// Set in every mark, so that no limit that somebody means is taken for one. The bit above stays clear: some
/// programs read a limit as a signed number.
const MARKED: u64 = 1 << 62;

/// Whose marks they are: one process of an agent, told from all others by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(u64);

/// What every process of one attempt carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Mark(u64);

/// A process that carries a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marked {
    pub(crate) pid: Pid,
    pub(crate) mark: Mark,
}

/// Why a text names no owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this names no owner of processes")]
pub struct BadOwner;

impl Owner {
    pub(crate) fn random() -> Self {
        let chance = fastrand::Rng::new().u64(..MARKED >> ATTEMPT_BITS);
        Self(MARKED | chance << ATTEMPT_BITS)
    }

    /// The mark of an attempt; they come around after 16 million.
    pub(crate) fn mark(self, attempt: u32) -> Mark {
        Mark(self.0 | u64::from(attempt) & ((1 << ATTEMPT_BITS) - 1))
    }

    fn owns(self, mark: Mark) -> bool {
        mark.0 >> ATTEMPT_BITS == self.0 >> ATTEMPT_BITS
    }

    /// The mark of a process, if it has one of this owner. A process that is gone has none.
    pub(crate) fn mark_of(self, pid: Pid) -> Option<Mark> {
        // The kernel makes up this text at once, and it is shorter.
        let mut text = [0; 4096];
        let length = File::open(format!("/proc/{pid}/limits")).and_then(|mut file| file.read(&mut text)).ok()?;
        mark_in(str::from_utf8(&text[..length]).ok()?).filter(|mark| self.owns(*mark))
    }

    /// All processes of this host that carry one of the owner's marks and have not ended.
    pub(crate) fn processes(self) -> Vec<Marked> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw);
        let marked = pids.filter_map(|pid| Some(Marked { pid, mark: self.mark_of(pid)? }));
        marked.filter(|marked| is_alive(marked.pid)).collect()
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl FromStr for Owner {
    type Err = BadOwner;

    fn from_str(text: &str) -> Result<Self, BadOwner> {
        let number = u64::from_str_radix(text, 16).map_err(|_| BadOwner)?;
        let is_owner = number >> 62 == 1 && number & ((1 << ATTEMPT_BITS) - 1) == 0;
        if is_owner { Ok(Self(number)) } else { Err(BadOwner) }
    }
}

impl Mark {
    /// Whether processes can be marked here: not where somebody has limited what means nothing.
    pub(crate) fn is_possible() -> bool {
        getrlimit(Resource::RLIMIT_LOCKS).is_ok_and(|(_, hard)| hard == RLIM_INFINITY)
    }

    /// Marks the process that calls this, for good, and what it starts from now on. One system call.
    pub(crate) fn put_on_this_process(self) -> io::Result<()> {
        Ok(setrlimit(Resource::RLIMIT_LOCKS, self.0, RLIM_INFINITY)?)
    }
}

/// The mark in the text of `/proc/<pid>/limits`.
fn mark_in(limits: &str) -> Option<Mark> {
    let rest = limits.lines().find_map(|line| line.strip_prefix("Max file locks"))?;
    let soft: u64 = rest.split_whitespace().next()?.parse().ok()?;
    (soft >> 62 == 1).then_some(Mark(soft))
}

/// Whether a process has not ended: one that only waits for its parent to take note has.
pub(crate) fn is_alive(pid: Pid) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The name before it, in parentheses, may have any character in it.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// The children of this process that the main thread has: its own, and all that came to it as orphans. `None` where
/// the kernel does not tell.
pub(crate) fn children_of_main_thread() -> Option<Vec<Pid>> {
    let this = Pid::this();
    children_of_thread(Path::new(&format!("/proc/{this}/task/{this}")))
}

/// The children of a process, whichever of its threads has them. None where the kernel does not tell.
pub(crate) fn children_of(pid: Pid) -> Vec<Pid> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    threads.flatten().filter_map(|thread| children_of_thread(&thread.path())).flatten().collect()
}

fn children_of_thread(thread: &Path) -> Option<Vec<Pid>> {
    let text = fs::read_to_string(thread.join("children")).ok()?;
    Some(text.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_mark_is_read_as_the_kernel_writes_it() {
        let owner = Owner::random();
        let mark = owner.mark(7);
        let text = format!(
            "Limit Soft\nMax address space         unlimited unlimited bytes\nMax file locks            {:<20} unlimited            locks\n",
            mark.0
        );

        assert_eq!(mark_in(&text), Some(mark));
        assert_eq!(mark_in("Max file locks            unlimited            unlimited            locks"), None);
        assert_eq!(mark_in("Max file locks            100                  unlimited            locks"), None);
    }

    #[test]
    fn an_owner_knows_its_marks_and_no_other() {
        let (owner, other) = (Owner(MARKED | 1 << ATTEMPT_BITS), Owner(MARKED | 2 << ATTEMPT_BITS));

        assert!(owner.owns(owner.mark(0)) && owner.owns(owner.mark(u32::MAX)));
        assert!(!other.owns(owner.mark(u32::MAX)));
        assert_eq!(owner.to_string().parse(), Ok(owner));
        assert_eq!("17".parse::<Owner>(), Err(BadOwner));
    }

    #[test]
    fn a_process_that_has_ended_is_not_alive_before_it_is_reaped() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());

        while is_alive(pid) {
            std::thread::yield_now();
        }

        child.wait().unwrap();
    }
}
