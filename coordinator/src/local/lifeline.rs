//! Tells processes that are nobody's children for how long there is to be a mesh.
//!
//! Agents that a coordinator of a local mesh starts outlive it, as in any mesh: the next one finds them at work. But they are
//! not to outlive the mesh. So whoever has it holds the lock on a file, and agents that know of the file leave when the lock
//! is free: the system frees it when its holder ends, however that ends.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// Tells a coordinator of the file.
pub(crate) const LIFELINE_VARIABLE: &str = "HIVEMESH_LIFELINE";

/// Holds the lock. Dropping it ends the agents.
#[derive(Debug)]
pub(crate) struct Lifeline {
    path: PathBuf,
    _locked: File,
}

impl Lifeline {
    /// Takes the lock. Whoever waits for it gives it back at once.
    pub(crate) fn tie(path: &Path) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = File::create(path)?;
        file.lock()?;
        Ok(Self { path: path.to_owned(), _locked: file })
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Whether nobody holds the lock on this file.
pub(crate) fn is_cut(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return true };
    !matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_cut_when_its_holder_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mesh/lifeline");
        assert!(is_cut(&path));

        let lifeline = Lifeline::tie(&path).unwrap();
        assert!(!is_cut(&path));
        assert!(!is_cut(lifeline.path()), "to ask does not change it");

        drop(lifeline);
        // A process that is just being started by another test may hold it for a moment more.
        while !is_cut(&path) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}
