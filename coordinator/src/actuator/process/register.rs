//! Writes down which agents there are on this host, so that any coordinator on it finds them: a file for each.

use std::cmp::Reverse;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use shared::AgentId;

use super::Error;

/// So many logs of agents that have ended are kept.
const KEPT_LOGS: usize = 20;

/// An agent on this host.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Entry {
    pub(super) agent: AgentId,
    pub(super) pid: i32,
    /// When its process began, in ticks since the host did: another process that has the id later began later.
    began: Option<u64>,
    /// The order that it was started by.
    pub(super) order: u64,
}

impl Entry {
    /// Of an agent that has just been started.
    pub(super) fn of(agent: AgentId, pid: i32, order: u64) -> Self {
        Self { agent, pid, began: began(pid), order }
    }

    /// Whether its process is there, and is its own.
    pub(super) fn runs(&self) -> bool {
        self.began.is_some() && began(self.pid) == self.began
    }

    /// Sends its process a signal.
    pub(super) fn signal(&self, signal: Signal) {
        if self.runs() {
            // One that ends meanwhile needs none; one that may not be signalled is seen to go on.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

/// When the process of this id began, if it runs.
fn began(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Its name comes second, and may hold anything; what follows it begins with the state.
    let rest = stat.rsplit_once(") ")?.1;
    let is_running = !rest.starts_with(['Z', 'X']);
    rest.split(' ').nth(19).filter(|_| is_running)?.parse().ok()
}

/// The files of one pool.
#[derive(Debug)]
pub(super) struct Register {
    directory: PathBuf,
}

impl Register {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Those of all pools of all meshes in a directory.
    pub(super) fn all_below(directory: &Path) -> Vec<Self> {
        let below = |path: &Path| {
            let listed = fs::read_dir(path).into_iter().flatten().flatten();
            listed.map(|entry| entry.path()).collect::<Vec<_>>()
        };
        below(directory).iter().flat_map(|mesh| below(mesh)).map(Self::new).collect()
    }

    /// Where the output of an agent goes.
    pub(super) fn log_of(&self, agent: &AgentId) -> PathBuf {
        self.directory.join(format!("{agent}.log"))
    }

    /// Makes a file, to be written at its end.
    pub(super) fn make(&self, path: &Path) -> Result<File, Error> {
        fs::create_dir_all(&self.directory).map_err(|source| failed(&self.directory, source))?;
        OpenOptions::new().create(true).append(true).open(path).map_err(|source| failed(path, source))
    }

    pub(super) fn note(&self, entry: &Entry) -> Result<(), Error> {
        let path = self.file_of(&entry.agent);
        let text = serde_json::to_vec(entry).expect("it is plain data");
        fs::write(&path, text).map_err(|source| failed(&path, source))
    }

    pub(super) fn find(&self, agent: &AgentId) -> Result<Option<Entry>, Error> {
        read(&self.file_of(agent))
    }

    /// Everybody who is written down.
    pub(super) fn entries(&self) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        for path in self.files("json")? {
            entries.extend(read(&path)?);
        }
        Ok(entries)
    }

    pub(super) fn forget(&self, agent: &AgentId) -> Result<(), Error> {
        remove(&self.file_of(agent))
    }

    /// Takes away what is there of agents that have ended, but for the newest logs.
    pub(super) fn clear_away(&self) -> Result<(), Error> {
        let entries = self.entries()?;
        let (running, ended): (Vec<_>, Vec<_>) = entries.into_iter().partition(Entry::runs);
        for entry in &ended {
            self.forget(&entry.agent)?;
        }
        let logs = self.files("log")?.into_iter();
        let mut logs: Vec<PathBuf> =
            logs.filter(|log| running.iter().all(|entry| self.log_of(&entry.agent) != *log)).collect();
        logs.sort_by_key(|log| Reverse(changed(log)));
        logs.iter().skip(KEPT_LOGS).try_for_each(|log| remove(log))
    }

    fn file_of(&self, agent: &AgentId) -> PathBuf {
        self.directory.join(format!("{agent}.json"))
    }

    fn files(&self, extension: &str) -> Result<Vec<PathBuf>, Error> {
        let listed = match fs::read_dir(&self.directory) {
            Ok(listed) => listed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(failed(&self.directory, source)),
        };
        let paths = listed.filter_map(|entry| Some(entry.ok()?.path()));
        Ok(paths.filter(|path| path.extension().is_some_and(|found| found == extension)).collect())
    }
}

/// What a file says; nothing if it is gone, or was not written to its end.
fn read(path: &Path) -> Result<Option<Entry>, Error> {
    match fs::read(path) {
        Ok(text) => Ok(serde_json::from_slice(&text).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed(path, source)),
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path, error)),
        _ => Ok(()),
    }
}

fn changed(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn failed(path: &Path, source: io::Error) -> Error {
    Error::Register { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> AgentId {
        AgentId::new(text).unwrap()
    }

    #[test]
    fn who_is_written_down_is_found_by_anybody_with_the_same_directory() {
        let dir = tempfile::tempdir().unwrap();
        let register = Register::new(dir.path().join("hive/workers"));
        let entry = Entry::of(id("workers-1"), std::process::id().cast_signed(), 7);
        assert_eq!(register.entries().unwrap(), []);

        register.make(&register.log_of(&entry.agent)).unwrap();
        register.note(&entry).unwrap();

        let other = Register::new(dir.path().join("hive/workers"));
        assert_eq!(other.find(&id("workers-1")).unwrap(), Some(entry.clone()));
        assert_eq!(other.entries().unwrap(), std::slice::from_ref(&entry));
        assert!(entry.runs());
        assert_eq!(Register::all_below(dir.path()).len(), 1);
        other.forget(&entry.agent).unwrap();
        other.forget(&entry.agent).unwrap();
        assert_eq!(register.find(&id("workers-1")).unwrap(), None);
    }

    #[test]
    fn another_process_that_has_the_same_id_is_not_taken_for_it() {
        let own = std::process::id().cast_signed();
        let earlier = Entry { began: Some(1), ..Entry::of(id("a"), own, 1) };

        assert!(!earlier.runs());
        assert!(!Entry { began: None, ..earlier }.runs(), "one of which nothing is known");
        // Had it reached us, this test would have ended here.
        Entry { began: Some(1), ..Entry::of(id("a"), own, 1) }.signal(Signal::SIGKILL);
    }

    #[test]
    fn logs_of_the_dead_are_kept_for_a_while_and_those_of_the_living_always() {
        let dir = tempfile::tempdir().unwrap();
        let register = Register::new(dir.path().to_owned());
        let living = Entry::of(id("living"), std::process::id().cast_signed(), 1);
        let dead = Entry { began: Some(1), ..Entry::of(id("dead"), 1, 1) };
        register.note(&living).unwrap();
        register.note(&dead).unwrap();
        register.make(&register.log_of(&living.agent)).unwrap();
        for number in 0..KEPT_LOGS + 5 {
            register.make(&register.log_of(&id(&format!("agent-{number}")))).unwrap();
        }

        register.clear_away().unwrap();

        assert_eq!(register.entries().unwrap(), std::slice::from_ref(&living));
        assert_eq!(register.files("log").unwrap().len(), KEPT_LOGS + 1);
        assert!(register.log_of(&living.agent).exists());
    }
}
