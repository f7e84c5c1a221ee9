//! Ends the processes that attempts leave behind, also those that have left their process group.
//!
//! Only what carries the mark of an attempt that has ended is ever killed, so the children of a program
//! that embeds an agent are safe. How they are looked for differs:
//!
//! - An agent that is *alone* in its process has the kernel give it all orphans (`PR_SET_CHILD_SUBREAPER`). Whatever is
//!   left of an attempt whose command has ended is then in the command's group, or a child of the agent, or below one:
//!   one look at each tells at once that nothing is left. The attempt is not done before nothing is.
//! - One that is a part of another program does not touch what is that program's. It looks through all processes,
//!   now and then, after attempts have ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use rustc_hash::FxHashMap;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tracing::{debug, warn};

use super::mark::{Mark, Marked, Owner, children_of, children_of_main_thread};

/// How long an attempt waits for the last of its processes to be gone. The kernel ends nothing that waits for a
/// disk that does not answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// The first and the longest pause between two looks while something dies.
const PAUSES: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(50)];
/// The least time between two looks of which nobody waits for the answer.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// A look through all processes serves whoever asks for one so soon after it began: what has become of an attempt that goes
/// on is not known any better than that.
const SHARED_FOR: Duration = Duration::from_millis(25);
/// Looking through all processes may take this share of the time.
const SHARE_OF_TIME: u32 = 20;

/// The processes of an agent's attempts.
#[derive(Debug)]
pub struct Strays {
    owner: Owner,
    is_alone: bool,
    next: AtomicU32,
    /// The attempts that have not ended, with the process that each began with.
    living: Mutex<FxHashMap<Mark, Option<Pid>>>,
    /// The last look through all processes for one of those, and when it began.
    last_look: Mutex<Option<(Instant, Arc<[Marked]>)>>,
    ended: Notify,
}

/// The processes of one attempt. When this is dropped the attempt has ended, and what is left of it is killed.
#[derive(Debug)]
pub(crate) struct Kin {
    strays: Arc<Strays>,
    mark: Mark,
}

/// From where the processes of one attempt can be seen.
#[derive(Clone, Debug)]
pub(crate) struct Lookout {
    strays: Arc<Strays>,
    mark: Mark,
}

impl Strays {
    /// For an agent that is a part of another program, whose children are not its business.
    pub fn of_a_guest() -> Arc<Self> {
        Arc::new(Self::new(false))
    }

    /// For an agent that has the process for itself. Orphans among the descendants of the process become its
    /// children from now on, if the kernel can do that and tell.
    pub fn of_a_process() -> Arc<Self> {
        let is_alone = children_of_main_thread().is_some() && set_child_subreaper(true).is_ok();
        if !is_alone {
            debug!("this kernel does not tell of orphans: processes left behind are looked for now and then");
        }
        Arc::new(Self::new(is_alone))
    }

    fn new(is_alone: bool) -> Self {
        Self {
            owner: Owner::random(),
            is_alone,
            next: AtomicU32::new(0),
            living: Mutex::default(),
            last_look: Mutex::default(),
            ended: Notify::new(),
        }
    }

    /// By what a watchdog finds them.
    pub(crate) fn owner(&self) -> Owner {
        self.owner
    }

    /// An attempt begins.
    pub(crate) fn begin(self: &Arc<Self>) -> Kin {
        if !self.has_begun_any() && !Mark::is_possible() {
            warn!("the limit of file locks is set: what leaves the process group of its command is not found");
        }
        let mut living = self.living();
        loop {
            let mark = self.owner.mark(self.next.fetch_add(1, Ordering::Relaxed));
            // One that has run while sixteen million others have come and gone keeps its mark.
            if let std::collections::hash_map::Entry::Vacant(entry) = living.entry(mark) {
                entry.insert(None);
                return Kin { strays: self.clone(), mark };
            }
        }
    }

    fn living(&self) -> MutexGuard<'_, FxHashMap<Mark, Option<Pid>>> {
        self.living.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_begun_any(&self) -> bool {
        self.next.load(Ordering::Relaxed) > 0
    }

    /// Looks after attempts that have ended, for as long as it is polled.
    pub(crate) async fn watch(self: Arc<Self>) {
        // Without the signal, what has ended is taken note of when the next attempt ends.
        let mut child_ended = self.is_alone.then(|| signal(SignalKind::child()).ok()).flatten();
        loop {
            tokio::select! {
                () = self.ended.notified() => {}
                () = async { match &mut child_ended {
                    Some(signal) => drop(signal.recv().await),
                    None => std::future::pending().await,
                }} => {}
            }
            let took = self.until_nothing_is_left().await;
            tokio::time::sleep(LOOK_INTERVAL.max(took * SHARE_OF_TIME)).await;
        }
    }

    /// Kills until there is nothing left to kill; how long the longest look took.
    async fn until_nothing_is_left(self: &Arc<Self>) -> Duration {
        let (began, mut took, mut pauses) = (Instant::now(), Duration::ZERO, Pauses::default());
        loop {
            let looked = Instant::now();
            let left = if self.is_alone { self.look_at_children() } else { self.kill_ended_everywhere().await };
            took = took.max(looked.elapsed());
            if left == 0 {
                return took;
            }
            if began.elapsed() > PATIENCE {
                warn!(processes = left, "what attempts have left behind does not die");
                return took;
            }
            pauses.pause().await;
        }
    }

    /// Takes note of orphans that have ended, and kills those that are left of attempts that have ended. How many.
    fn look_at_children(&self) -> usize {
        let Some(children) = children_of_main_thread() else { return 0 };
        children.into_iter().filter(|child| self.look_at(*child)).count()
    }

    /// Whether a child is left of an attempt that has ended, and is killed.
    fn look_at(&self, child: Pid) -> bool {
        let living = self.living();
        if living.values().any(|leader| *leader == Some(child)) {
            return false;
        }
        let attempt = self.owner.mark_of(child).map(|mark| living.get(&mark));
        match attempt {
            // Its attempt has just begun with it, and is waited for by somebody else.
            Some(Some(None)) => false,
            // An orphan of an attempt that goes on, or one that is not of an attempt at all.
            Some(Some(Some(_))) | None => {
                reap(child);
                false
            }
            Some(None) => {
                debug!(pid = %child, "killing what an attempt has left behind");
                let _ = kill(child, Signal::SIGKILL);
                !reap(child)
            }
        }
    }

    async fn kill_ended_everywhere(self: &Arc<Self>) -> usize {
        let this = self.clone();
        tokio::task::spawn_blocking(move || this.kill_ended()).await.unwrap_or(0)
    }

    /// Looks through all processes; how many it has killed.
    fn kill_ended(&self) -> usize {
        let marked = self.owner.processes();
        let living = self.living();
        let ended = |process: &&Marked| !living.contains_key(&process.mark);
        marked.iter().filter(ended).map(|process| kill_stray(process.pid)).count()
    }

    /// The processes of an attempt that goes on, wherever they have gone.
    fn processes_of(&self, mark: Mark) -> Vec<Pid> {
        let leader = self.living().get(&mark).copied().flatten();
        let mut found: Vec<Pid> = leader.into_iter().chain(self.orphans_of(mark, leader)).collect();
        let mut looked_at = 0;
        while let Some(parent) = found.get(looked_at) {
            found.extend(children_of(*parent));
            looked_at += 1;
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Those that are not below the process that it began with any more; all, where that takes looking at all.
    fn orphans_of(&self, mark: Mark, leader: Option<Pid>) -> Vec<Pid> {
        if !self.is_alone {
            return self.everywhere().iter().filter(|found| found.mark == mark).map(|found| found.pid).collect();
        }
        let children = children_of_main_thread().unwrap_or_default().into_iter();
        children.filter(|child| Some(*child) != leader && self.owner.mark_of(*child) == Some(mark)).collect()
    }

    /// The processes of all attempts, by a look through all that there are. Those who ask at a time share it.
    fn everywhere(&self) -> Arc<[Marked]> {
        let asked = Instant::now();
        let mut last_look = self.last_look.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((began, found)) = &*last_look
            && *began + SHARED_FOR >= asked
        {
            return found.clone();
        }
        let (began, found) = (Instant::now(), Arc::from(self.owner.processes()));
        *last_look = Some((began, Arc::clone(&found)));
        found
    }

    /// The agent leaves: kills whatever its attempts have started and waits until it is gone.
    pub(crate) async fn end_all(&self) {
        if self.has_begun_any() {
            let owner = self.owner;
            let _ = tokio::task::spawn_blocking(move || end_all_of(owner, PATIENCE)).await;
        }
    }

    /// The same for who cannot wait.
    pub(crate) fn end_all_behind(&self) {
        if self.has_begun_any() {
            let owner = self.owner;
            // Without a thread there is still the watchdog, or nothing.
            let _ = std::thread::Builder::new().name("strays".to_owned()).spawn(move || end_all_of(owner, PATIENCE));
        }
    }
}

/// Kills all processes of an owner, until there are none or the time is over.
pub(crate) fn end_all_of(owner: Owner, patience: Duration) {
    let (began, mut quiet, mut pauses) = (Instant::now(), 0, Pauses::default());
    // What one look kills may have started something behind its back: twice nothing is nothing.
    while quiet < 2 && began.elapsed() < patience {
        let processes = owner.processes();
        quiet = if processes.is_empty() { quiet + 1 } else { 0 };
        processes.iter().for_each(|process| kill_stray(process.pid));
        std::thread::sleep(pauses.next());
    }
}

fn kill_stray(pid: Pid) {
    debug!(%pid, "killing what an attempt has left behind");
    // It may have ended by itself, or belong to another user.
    let _ = kill(pid, Signal::SIGKILL);
}

/// Takes note of a child's end; whether it has ended. One that is not ours has ended, as far as we are concerned.
fn reap(child: Pid) -> bool {
    match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
        Ok(status) => status.pid().is_some(),
        Err(_) => true,
    }
}

impl Kin {
    /// What its processes are to be marked with.
    pub(crate) fn mark(&self) -> Mark {
        self.mark
    }

    /// The process that it begins with, which the caller waits for.
    pub(crate) fn led_by(&self, leader: Option<Pid>) {
        self.strays.living().insert(self.mark, leader);
    }

    /// For looking at its processes while it goes on.
    pub(crate) fn lookout(&self) -> Lookout {
        Lookout { strays: self.strays.clone(), mark: self.mark }
    }

    /// The process that it began with has ended and is waited for, and its group is killed. Where that can be told
    /// at little cost, this returns when nothing else is left of it either.
    pub(crate) async fn end(&self, group: Option<Pid>) {
        let strays = &self.strays;
        strays.living().remove(&self.mark);
        if !strays.is_alone {
            return;
        }
        let (began, mut pauses) = (Instant::now(), Pauses::default());
        while strays.look_at_children() > 0 || group.is_some_and(is_there) {
            if began.elapsed() > PATIENCE {
                // Whoever watches goes on.
                return;
            }
            pauses.pause().await;
            if pauses.taken > 2 {
                // It is more than the last breath of what was killed: whole trees are ended rather than their roots.
                strays.kill_ended_everywhere().await;
            }
        }
    }
}

impl Lookout {
    /// Looks at the processes that there are, which may take a while.
    pub(crate) async fn look<T: Send + 'static>(&self, look: impl FnOnce(&[Pid]) -> T + Send + 'static) -> Option<T> {
        let Self { strays, mark } = self.clone();
        tokio::task::spawn_blocking(move || look(&strays.processes_of(mark))).await.ok()
    }
}

impl Drop for Kin {
    fn drop(&mut self) {
        self.strays.living().remove(&self.mark);
        self.strays.ended.notify_one();
    }
}

/// Whether anybody is in the process group, even if they have ended and nobody has taken note.
fn is_there(group: Pid) -> bool {
    killpg(group, None) != Err(Errno::ESRCH)
}

/// Pauses that grow.
#[derive(Debug, Default)]
struct Pauses {
    taken: u32,
}

impl Pauses {
    fn next(&mut self) -> Duration {
        let [first, longest] = PAUSES;
        let pause = (first * (1 << self.taken.min(8))).min(longest);
        self.taken += 1;
        pause
    }

    async fn pause(&mut self) {
        tokio::time::sleep(self.next()).await;
    }
}
