//! What handlers really did: each process of an agent appends a line to a file of its own when an attempt starts
//! and when it ends. The mesh knows nothing of it, so it cannot be wrong about it in the same way.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::clock::Moment;

/// Names the directory of the files to the agents.
pub const DIR_VARIABLE: &str = "CHAOS_WITNESS";

/// What a handler does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// An attempt starts.
    Start,
    /// It ends.
    End,
}

/// A process of an agent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Doer {
    /// The agent.
    pub agent: String,
    /// The process.
    pub pid: u32,
}

impl std::fmt::Display for Doer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}[{}]", self.agent, self.pid)
    }
}

/// Writes the file of one process.
#[derive(Debug)]
pub struct Writer(File);

impl Writer {
    /// Opens a new file for a process.
    pub fn open(dir: &Path, doer: &Doer) -> io::Result<Self> {
        let path = dir.join(format!("{}.{}.{}", doer.agent, doer.pid, Moment::now().0));
        Ok(Self(OpenOptions::new().create(true).append(true).open(path)?))
    }

    /// Writes a line, by a single write. Without it nothing could be told, so an error ends the process.
    pub fn note(&self, deed: Deed, task: &str, attempt: u32, epoch: u64) {
        let letter = if deed == Deed::Start { 'S' } else { 'E' };
        let line = format!("{letter} {} {task} {attempt} {epoch}\n", Moment::now().0);
        if let Err(error) = (&self.0).write_all(line.as_bytes()) {
            eprintln!("the witness cannot be written: {error}");
            std::process::abort();
        }
    }
}

/// One line.
#[derive(Clone, Debug)]
pub struct Note {
    /// What was done.
    pub deed: Deed,
    /// When.
    pub at: Moment,
    /// Of which task.
    pub task: String,
    /// The attempt's number.
    pub attempt: u32,
    /// The epoch of the order; 0 if the handler is not told.
    pub epoch: u64,
    /// Who did it.
    pub by: Arc<Doer>,
}

/// Reads the files of all processes, as they grow.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    files: BTreeMap<PathBuf, Growing>,
    notes: Vec<Note>,
}

#[derive(Debug)]
struct Growing {
    file: File,
    read: u64,
    by: Arc<Doer>,
}

impl Reader {
    /// Reads what is in a directory.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, files: BTreeMap::new(), notes: Vec::new() }
    }

    /// Reads what is new; the lines of one process are in order, those of different ones are not.
    pub fn read(&mut self) -> io::Result<&[Note]> {
        let known = self.notes.len();
        for entry in std::fs::read_dir(&self.dir)?.flatten() {
            let path = entry.path();
            if !self.files.contains_key(&path)
                && let Some(by) = doer_of(&path)
            {
                self.files.insert(path.clone(), Growing { file: File::open(&path)?, read: 0, by: Arc::new(by) });
            }
        }
        for growing in self.files.values_mut() {
            growing.read(&mut self.notes)?;
        }
        Ok(&self.notes[known..])
    }

    /// Everything that was read so far.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }
}

impl Growing {
    fn read(&mut self, notes: &mut Vec<Note>) -> io::Result<()> {
        if self.file.metadata()?.len() == self.read {
            return Ok(());
        }
        self.file.seek(SeekFrom::Start(self.read))?;
        let mut text = String::new();
        self.file.read_to_string(&mut text)?;
        // A line may be there only in part.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        self.read += whole as u64;
        notes.extend(text[..whole].lines().filter_map(|line| parse(line, &self.by)));
        Ok(())
    }
}

/// `<agent>.<pid>.<moment>`
fn doer_of(path: &Path) -> Option<Doer> {
    let name = path.file_name()?.to_str()?;
    let mut parts = name.split('.');
    let (agent, pid, _moment) = (parts.next()?, parts.next()?, parts.next()?);
    Some(Doer { agent: agent.to_owned(), pid: pid.parse().ok()? })
}

fn parse(line: &str, by: &Arc<Doer>) -> Option<Note> {
    let mut words = line.split(' ');
    let deed = match words.next()? {
        "S" => Deed::Start,
        _ => Deed::End,
    };
    let at = Moment(words.next()?.parse().ok()?);
    let task = words.next()?.to_owned();
    let (attempt, epoch) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some(Note { deed, at, task, attempt, epoch, by: by.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_as_it_grows() {
        let dir = tempfile::tempdir().expect("the temp directory is writable");
        let doer = Doer { agent: "ada".to_owned(), pid: 7 };
        let writer = Writer::open(dir.path(), &doer).expect("it can be written");
        let mut reader = Reader::new(dir.path().to_owned());

        writer.note(Deed::Start, "t1", 2, 9);
        let first = reader.read().expect("it can be read").to_vec();
        writer.note(Deed::End, "t1", 2, 9);
        let second = reader.read().expect("it can be read");

        assert_eq!(
            (first[0].deed, first[0].task.as_str(), first[0].attempt, first[0].epoch),
            (Deed::Start, "t1", 2, 9)
        );
        assert_eq!(*first[0].by, doer);
        assert_eq!((second.len(), second[0].deed), (1, Deed::End));
    }
}
