//! Measures what processes use: those that run, by `/proc`; one that has ended, by what the kernel keeps until it is
//! waited for.

use std::fs;
use std::mem::MaybeUninit;
use std::sync::LazyLock;
use std::time::Duration;

use nix::libc;
use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::{Pid, SysconfVar, sysconf};

use shared::Used;

/// The size of a block in the counts of the kernel, whatever the disk's.
const BLOCK_BYTES: u64 = 512;
/// The units of sizes and of CPU times in `/proc/<pid>/stat`.
static PAGE_BYTES: LazyLock<u64> = LazyLock::new(|| system_constant(SysconfVar::PAGE_SIZE, 4096));
static TICKS_PER_SECOND: LazyLock<u64> = LazyLock::new(|| system_constant(SysconfVar::CLK_TCK, 100));

fn system_constant(name: SysconfVar, usual: u64) -> u64 {
    let value = sysconf(name).ok().flatten().and_then(|value| u64::try_from(value).ok());
    value.filter(|value| *value > 0).unwrap_or(usual)
}

/// What some processes use at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// With their threads.
    pub(crate) processes: u64,
    /// Resident memory. What several of them share is counted for each.
    pub(crate) memory_bytes: u64,
    /// CPU time so far, with that of children that have ended.
    pub(crate) cpu: Duration,
}

impl Usage {
    /// Of these processes. One that is gone uses nothing.
    pub(crate) fn of(pids: &[Pid]) -> Self {
        let each = pids.iter().filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok());
        each.filter_map(|stat| Self::in_stat(&stat)).fold(Self::default(), |sum, one| Self {
            processes: sum.processes + one.processes,
            memory_bytes: sum.memory_bytes + one.memory_bytes,
            cpu: sum.cpu + one.cpu,
        })
    }

    /// Reads the text of a `/proc/<pid>/stat` (proc_pid_stat(5)).
    fn in_stat(stat: &str) -> Option<Self> {
        // The name before it, in parentheses, may have any character in it. The next is the third field.
        let (_, rest) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        let field = |number: usize| fields.get(number - 3)?.trim().parse::<u64>().ok();
        let ticks: u64 = (14..=17).filter_map(field).sum();
        Some(Self {
            processes: field(20)?,
            memory_bytes: field(24)? * *PAGE_BYTES,
            cpu: Duration::from_millis(ticks * 1000 / *TICKS_PER_SECOND),
        })
    }
}

/// Bytes of memory of these processes, with each that is shared counted once. The kernel looks at every page: it takes
/// milliseconds where there are many.
pub(crate) fn proportional_memory(pids: &[Pid]) -> u64 {
    // Of another user's we are not told.
    pids.iter().map(|pid| proportional_memory_of(*pid).unwrap_or_else(|| Usage::of(&[*pid]).memory_bytes)).sum()
}

fn proportional_memory_of(pid: Pid) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let kibibytes = text.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB"))?;
    Some(kibibytes.trim().parse::<u64>().ok()? * 1024)
}

/// What a child that has ended has used, with all children that it has waited for itself; `None` if it has not ended,
/// or was waited for.
///
/// The memory is the most that one of them had, and it is not known where that is less than this process has had: a
/// process begins as a copy of it.
#[allow(unsafe_code)]
pub(crate) fn used_by_ended(child: Pid) -> Option<Used> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the kernel writes to these two and to nothing else, and both are plain numbers, for which zeros will do.
    let (result, info, usage) = unsafe {
        let pid = child.as_raw();
        let result = libc::syscall(libc::SYS_waitid, libc::P_PID, pid, info.as_mut_ptr(), options, usage.as_mut_ptr());
        (result, info.assume_init(), usage.assume_init())
    };
    (result == 0 && info.si_signo == libc::SIGCHLD).then(|| to_used(&usage))
}

fn to_used(usage: &libc::rusage) -> Used {
    let number = |number: i64| u64::try_from(number).unwrap_or(0);
    let span =
        |time: libc::timeval| Duration::from_secs(number(time.tv_sec)) + Duration::from_micros(number(time.tv_usec));
    let of_this_process = getrusage(UsageWho::RUSAGE_SELF).map_or(i64::MAX, |own| own.max_rss());
    let memory = Some(usage.ru_maxrss).filter(|kibibytes| *kibibytes > of_this_process);
    Used {
        cpu: Some(span(usage.ru_utime) + span(usage.ru_stime)),
        memory_peak: memory.map(|kibibytes| number(kibibytes) * 1024),
        io_bytes: Some((number(usage.ru_inblock) + number(usage.ru_oublock)) * BLOCK_BYTES),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::super::mark::is_alive;
    use super::*;

    #[test]
    fn the_kernels_account_of_a_process_is_read() {
        let rest = ["0"; 30].join(" ");
        let stat = format!("7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 100 20 3 0 20 0 5 0 123 4096 256 {rest}");

        let usage = Usage::in_stat(&stat).unwrap();

        assert_eq!((usage.processes, usage.memory_bytes), (5, 256 * *PAGE_BYTES));
        assert_eq!(usage.cpu, Duration::from_millis(123 * 1000 / *TICKS_PER_SECOND));
        assert_eq!(Usage::in_stat("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_uses_memory() {
        let this = [Pid::this()];

        let usage = Usage::of(&this);

        assert!(usage.processes > 0 && usage.memory_bytes > 1 << 20, "{usage:?}");
        let proportional = proportional_memory(&this);
        assert!(proportional > 1 << 18 && proportional <= usage.memory_bytes * 2, "{proportional} of {usage:?}");
    }

    #[test]
    fn a_child_that_has_ended_is_measured_before_it_is_waited_for() {
        let mut child = shell("i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done");
        let pid = Pid::from_raw(child.id().cast_signed());
        assert_eq!(used_by_ended(pid), None);

        while is_alive(pid) {
            std::thread::yield_now();
        }
        let used = used_by_ended(pid).unwrap();

        assert!(used.cpu.unwrap() > Duration::from_millis(5), "{used:?}");
        assert!(child.wait().unwrap().success());
        assert_eq!(used_by_ended(pid), None);
    }

    fn shell(script: &str) -> Child {
        Command::new("sh").args(["-c", script]).spawn().unwrap()
    }
}
