//! Power cuts under load: what a mesh has kept when it starts again from the disk.
//!
//! [`power_cut`] runs a mesh whose broker has a [`Disk`] of its own, submits tasks to it, cuts the power at an instant
//! that the seed draws, and starts another mesh on what the disk has kept. It counts by itself what was promised: a
//! task whose publish was confirmed, and a result that could be read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, Write as _};
use std::ops::AddAssign;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use bytes::Bytes;
use coordinator::local::{Launcher, Process, Program};
use futures_util::StreamExt as _;
use shared::client::{NewTask, TaskResult};
use shared::{Client, Outcome, TaskId};
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use crate::disk::{self, Disk};
use crate::mesh::PATIENCE;
use crate::{BUILTINS, Builder, Mesh, new_task, program, results, tasks};

/// How many tasks are on their way to the broker at once.
const SUBMITTERS: u64 = 48;
/// When the power is cut, counted from the first result that was read.
const INSTANT: std::ops::Range<u64> = 50..1500;
/// How long the client may go on reading what the broker had sent before it was halted.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// A power cut to be made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether the broker syncs each message before it confirms it.
    pub sync_always: bool,
    /// Draws the instant and the tasks.
    pub seed: u64,
}

/// What came of power cuts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// How many cuts.
    pub cuts: u64,
    /// Tasks whose acceptance was confirmed before the cut.
    pub accepted: u64,
    /// Of these, tasks that have no result after everything has run again.
    pub lost: u64,
    /// Results that were read before the cut.
    pub results: u64,
    /// Of these, results that are not there afterwards.
    pub results_lost: u64,
    /// Of these, results that are there and are not the same.
    pub results_changed: u64,
    /// Tasks with two results.
    pub repeated: u64,
    /// Results that are not what the task should give, or of tasks that were never submitted.
    pub wrong: u64,
    /// Tasks that had no result at the cut, and were run afterwards.
    pub finished_later: u64,
}

impl Figures {
    /// Whether nothing that was promised is broken.
    pub fn kept_everything(&self) -> bool {
        let Self { lost, results_lost, results_changed, .. } = self;
        lost + results_lost + results_changed == 0 && self.kept_order()
    }

    /// Whether what is there is right, even if something is missing.
    pub fn kept_order(&self) -> bool {
        self.repeated + self.wrong == 0
    }
}

impl AddAssign for Figures {
    fn add_assign(&mut self, other: Self) {
        self.cuts += other.cuts;
        self.accepted += other.accepted;
        self.lost += other.lost;
        self.results += other.results;
        self.results_lost += other.results_lost;
        self.results_changed += other.results_changed;
        self.repeated += other.repeated;
        self.wrong += other.wrong;
        self.finished_later += other.finished_later;
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cuts, accepted, lost, results, results_lost, results_changed, repeated, wrong, finished_later } =
            self;
        write!(
            f,
            "{cuts} power cuts: {accepted} tasks accepted, {lost} lost; {results} results read before, {results_lost} \
             lost, {results_changed} changed; {repeated} tasks with two results, {wrong} wrong results; \
             {finished_later} tasks finished afterwards"
        )
    }
}

/// Whether the power can be cut here: that takes root, loop devices and mounts. If not, that is said loudly, and on CI
/// (where `CI` is set) it is a failure.
///
/// # Panics
/// If this is CI, the machine looks as if it could, and it cannot.
pub async fn possible() -> bool {
    static TRIED: OnceCell<Result<(), String>> = OnceCell::const_new();
    match TRIED.get_or_init(async || try_disk().await.map_err(|error| error.to_string())).await {
        Ok(()) => true,
        Err(problem) => {
            // CI leaves out nothing that its machine has.
            let is_root = std::fs::metadata("/proc/self").is_ok_and(|this| this.uid() == 0);
            let is_expected = is_root && Path::new("/dev/loop-control").exists();
            let may_be_skipped = std::env::var_os("CI").is_none() || !is_expected;
            assert!(may_be_skipped, "on CI nothing is skipped: {problem}");
            // Not by a macro: what those print is not shown of a test that passes.
            let _ = writeln!(io::stderr(), "SKIPPED: no power is cut, for that takes root and loop devices: {problem}");
            false
        }
    }
}

/// Formats a disk, mounts it and cuts its power.
async fn try_disk() -> io::Result<()> {
    let directory = tempfile::tempdir()?;
    let mounted = Mounted::new(&Disk::format(directory.path().join("image"))?, directory.path()).await?;
    mounted.cut()?;
    mounted.end().await;
    Ok(())
}

/// A disk that is mounted for nobody but us.
#[derive(Debug)]
pub struct Mounted {
    holder: Process,
    image: PathBuf,
    mount_point: PathBuf,
}

impl Mounted {
    /// Mounts a disk at `mounted` in a directory; the files for that are put there as well.
    pub async fn new(disk: &Disk, directory: &Path) -> io::Result<Self> {
        let (mount_point, path) = (directory.join("mounted"), directory.join("holder"));
        disk.mount_for(Path::new("sleep"), &mount_point, &path)?;
        let log = directory.join("holder.log");
        let program = Program {
            name: "sleep".to_owned(),
            path,
            args: vec!["infinity".into()],
            env: Vec::new(),
            log: log.clone(),
        };
        let holder = Launcher::new(program::exe()).spawn(program).map_err(io::Error::other)?;
        let mounted = Self { holder, image: disk.image().to_owned(), mount_point };
        // A new file system has a directory of its own, which the mount point has not.
        while !mounted.path("lost+found").is_dir() {
            if !mounted.holder.is_running() {
                return Err(io::Error::other(mounted.holder.log_tail(3)));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(mounted)
    }

    /// A file on it.
    pub fn path(&self, name: &str) -> PathBuf {
        format!("/proc/{}/root{}/{name}", self.holder.pid(), self.mount_point.display()).into()
    }

    /// Cuts its power.
    pub fn cut(&self) -> io::Result<()> {
        disk::cut(self.holder.pid(), &self.mount_point)
    }

    /// Takes it down. Files on it that are still open keep it.
    pub async fn end(self) {
        self.holder.kill9();
        self.holder.wait().await;
        until_no_loop_device(&self.image).await;
    }
}

/// Runs a mesh under load, cuts its power, and counts what is there when it has run again from what the disk has kept.
///
/// # Panics
/// If one of the two meshes does not do its work.
pub async fn power_cut(options: &Options) -> Figures {
    let mut rng = fastrand::Rng::with_seed(options.seed);
    let directory =
        tempfile::Builder::new().prefix("hivemesh-power-").tempdir().expect("the temp directory is writable");
    let disk = Disk::format(directory.path().join("before")).expect("a disk can be made");
    let mesh = mesh_on(&disk, options).await;

    let load = Load::start(&mesh, &mut rng).await;
    mesh.until(results(1)).await;
    // The instant is random, so there is no state to be waited for.
    tokio::time::sleep(Duration::from_millis(rng.u64(INSTANT))).await;
    let broker = mesh.broker();
    broker.process().pause();
    disk::cut(broker.pid(), &broker.store_dir()).expect("a mounted disk can be shut down");
    let after = disk.copy(directory.path().join("after")).expect("a file can be copied");
    tokio::time::sleep(LAST_WORDS).await;
    let ledger = load.stop().await;
    drop(mesh);

    let mesh = mesh_on(&after, options).await;
    mesh.within(2 * PATIENCE, tasks(0)).await;
    let figures = ledger.compare(mesh.read_stream("RESULTS").await.into_iter().map(Recorded::read));
    drop(mesh);
    until_no_loop_device(directory.path()).await;
    figures
}

async fn mesh_on(disk: &Disk, options: &Options) -> Mesh {
    let mesh = ["ada", "bob"].into_iter().fold(Mesh::builder(), |mesh: Builder, id| mesh.agent(id, 16, BUILTINS));
    let mesh = mesh.on_disk(disk);
    if options.sync_always { mesh.sync_always().start().await } else { mesh.start().await }
}

/// The kernel takes mount and loop device down when the last process that sees them has ended, a moment later.
async fn until_no_loop_device(path: &Path) {
    let started = Instant::now();
    loop {
        let left = disk::loop_devices_of(path).expect("this is Linux");
        if left.is_empty() {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "loop devices are left: {left:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What clients were told.
#[derive(Debug, Default)]
struct Ledger {
    sent: BTreeMap<TaskId, Bytes>,
    accepted: BTreeSet<TaskId>,
    results: BTreeMap<TaskId, Recorded>,
}

/// A result as it stands in its stream.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Recorded {
    sequence: u64,
    headers: Option<HeaderMap>,
    body: Bytes,
}

impl Recorded {
    fn read(message: async_nats::jetstream::Message) -> (TaskId, Self) {
        let sequence = message.info().expect("it comes from a stream").stream_sequence;
        let (headers, body) = (message.message.headers, message.message.payload);
        let id = TaskResult::parse(headers.as_ref(), body.clone()).expect("only results are in there").id;
        (id, Self { sequence, headers, body })
    }

    fn is_success(&self) -> bool {
        let result = TaskResult::parse(self.headers.as_ref(), self.body.clone());
        result.is_some_and(|result| result.outcome == Outcome::Succeeded)
    }
}

impl Ledger {
    fn compare(&self, recorded: impl Iterator<Item = (TaskId, Recorded)>) -> Figures {
        let mut figures = Figures {
            cuts: 1,
            accepted: self.accepted.len() as u64,
            results: self.results.len() as u64,
            ..Figures::default()
        };
        let mut after = BTreeMap::new();
        for (id, recorded) in recorded {
            let is_right = self.sent.get(&id) == Some(&recorded.body) && recorded.is_success();
            figures.wrong += u64::from(!is_right);
            figures.finished_later += u64::from(!self.results.contains_key(&id));
            figures.repeated += u64::from(after.insert(id, recorded).is_some());
        }
        figures.lost = self.accepted.iter().filter(|id| !after.contains_key(*id)).count() as u64;
        for (id, before) in &self.results {
            match after.get(id) {
                None => figures.results_lost += 1,
                Some(after) => figures.results_changed += u64::from(after != before),
            }
        }
        figures
    }
}

/// Clients that submit tasks as fast as these are accepted, and one that reads the results.
#[derive(Debug)]
struct Load {
    ledger: Arc<Mutex<Ledger>>,
    clients: JoinSet<()>,
}

impl Load {
    async fn start(mesh: &Mesh, rng: &mut fastrand::Rng) -> Self {
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let mut clients = JoinSet::new();
        let stream = mesh.client().jetstream().get_stream("HIVE_RESULTS").await.expect("a coordinator has made it");
        let consumer = stream.create_consumer(OrderedConfig::default()).await.expect("a stream can be read");
        let mut recorded = consumer.messages().await.expect("a stream can be read");
        let shared_ledger = ledger.clone();
        clients.spawn(async move {
            while let Some(Ok(message)) = recorded.next().await {
                let (id, recorded) = Recorded::read(message);
                locked(&shared_ledger).results.insert(id, recorded);
            }
        });
        for _ in 0..SUBMITTERS {
            clients.spawn(submit(mesh.client().clone(), ledger.clone(), rng.fork()));
        }
        Self { ledger, clients }
    }

    async fn stop(mut self) -> Ledger {
        self.clients.shutdown().await;
        std::mem::take(&mut *locked(&self.ledger))
    }
}

fn locked(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn submit(client: Client, ledger: Arc<Mutex<Ledger>>, mut rng: fastrand::Rng) {
    loop {
        let task = draw_task(&mut rng);
        locked(&ledger).sent.insert(task.id.clone(), task.body.clone());
        if client.submit(&task).await.is_err() {
            return;
        }
        locked(&ledger).accepted.insert(task.id);
    }
}

/// Mostly small ones; the large ones make the broker begin new files under the load.
fn draw_task(rng: &mut fastrand::Rng) -> NewTask {
    let length = if rng.u8(..16) == 0 { rng.usize(..64 << 10) } else { 256 };
    let mut body = vec![0; length];
    rng.fill(&mut body);
    new_task("echo", body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_power_cut_breaks_is_counted() {
        let (ada, bob, cid) = (id("ada"), id("bob"), id("cid"));
        let ledger = Ledger {
            sent: [&ada, &bob, &cid].map(|id| (id.clone(), Bytes::from(id.to_string()))).into(),
            accepted: [ada.clone(), bob.clone()].into(),
            results: [(ada.clone(), result(&ada, 1, "ada"))].into(),
        };
        let compare = |after: &[(&TaskId, Recorded)]| {
            ledger.compare(after.iter().map(|(id, recorded)| ((*id).clone(), recorded.clone())))
        };

        let good = compare(&[(&ada, result(&ada, 1, "ada")), (&bob, result(&bob, 2, "bob"))]);
        assert!(good.kept_everything() && good.finished_later == 1, "{good}");
        // It was not confirmed that this one is accepted: it may be there or not.
        let more =
            compare(&[(&ada, result(&ada, 1, "ada")), (&bob, result(&bob, 2, "bob")), (&cid, result(&cid, 3, "cid"))]);
        assert!(more.kept_everything(), "{more}");

        let lost = compare(&[(&ada, result(&ada, 1, "ada"))]);
        assert!(!lost.kept_everything() && lost.lost == 1, "{lost}");
        let result_lost = compare(&[(&bob, result(&bob, 2, "bob"))]);
        assert!(!result_lost.kept_everything() && result_lost.results_lost == 1, "{result_lost}");
        let changed = compare(&[(&ada, result(&ada, 4, "ada")), (&bob, result(&bob, 2, "bob"))]);
        assert!(!changed.kept_everything() && changed.results_changed == 1, "{changed}");
        let twice = [(&bob, result(&bob, 2, "bob")), (&bob, result(&bob, 3, "bob"))];
        assert_eq!((compare(&twice).kept_order(), compare(&twice).repeated), (false, 1));
        let other = [(&bob, result(&bob, 2, "ada")), (&id("dan"), result(&id("dan"), 3, "dan"))];
        assert_eq!((compare(&other).kept_order(), compare(&other).wrong), (false, 2));
    }

    fn id(name: &str) -> TaskId {
        name.parse().expect("a test names its tasks well")
    }

    fn result(id: &TaskId, sequence: u64, body: &'static str) -> Recorded {
        let mut headers = HeaderMap::new();
        headers.insert("Hive-Task", id.as_str());
        headers.insert("Hive-Outcome", "succeeded");
        Recorded { sequence, headers: Some(headers), body: body.into() }
    }
}
