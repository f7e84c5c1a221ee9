//! Which files of a directory the demo works on.

use std::collections::VecDeque;
use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::plural;

/// No more files than this.
const MOST_FILES: usize = 2_000;
/// Directories that hold what programs made.
const SKIPPED_DIRECTORIES: [&str; 2] = [".git", "target"];

/// A file as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Where it is.
    pub(super) path: PathBuf,
    /// Its path below the directory, as it is shown.
    pub(super) name: String,
    /// How it looked.
    pub(super) state: State,
}

/// What changes when a file is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    bytes: u64,
    modified: Option<SystemTime>,
}

impl State {
    fn of(metadata: &Metadata) -> Self {
        Self { bytes: metadata.len(), modified: metadata.modified().ok() }
    }
}

impl Found {
    /// Whether it looks different now.
    pub(super) fn has_changed(&self) -> bool {
        fs::metadata(&self.path).map(|m| State::of(&m)).ok() != Some(self.state)
    }
}

/// The files to work on, and how many are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selection {
    pub(super) dir: PathBuf,
    pub(super) files: Vec<Found>,
    pub(super) bytes: u64,
    too_large: usize,
    unreadable: usize,
    not_regular: usize,
    has_more: bool,
}

/// Walks a directory, level by level and in the order of names, and takes the files of at most `limit` bytes.
pub(super) fn select(dir: &Path, limit: usize) -> io::Result<Selection> {
    let mut selection = Selection { dir: dir.to_owned(), ..Selection::default() };
    // That the first one cannot be read is an error; one further down is counted.
    let mut waiting = VecDeque::from([entries(dir)?]);
    while let Some(paths) = waiting.pop_front() {
        for path in paths {
            match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_dir() => {
                    if !is_skipped(&path) {
                        match entries(&path) {
                            Ok(paths) => waiting.push_back(paths),
                            Err(_) => selection.unreadable += 1,
                        }
                    }
                }
                Ok(metadata) => selection.consider(path, &metadata, limit),
                Err(_) => selection.unreadable += 1,
            }
            if selection.has_more {
                return Ok(selection);
            }
        }
    }
    Ok(selection)
}

fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn is_skipped(dir: &Path) -> bool {
    dir.file_name().is_some_and(|name| SKIPPED_DIRECTORIES.iter().any(|skipped| name == *skipped))
}

impl Selection {
    fn consider(&mut self, path: PathBuf, metadata: &Metadata, limit: usize) {
        if !metadata.is_file() {
            self.not_regular += 1;
        } else if metadata.len() > limit as u64 {
            self.too_large += 1;
        } else if fs::File::open(&path).is_err() {
            self.unreadable += 1;
        } else if self.files.len() == MOST_FILES {
            self.has_more = true;
        } else {
            let below = path.strip_prefix(&self.dir).unwrap_or(&path);
            // It goes into a header, where there must be no line break.
            let name = below.to_string_lossy().chars().flat_map(shown).collect();
            self.bytes += metadata.len();
            self.files.push(Found { path, name, state: State::of(metadata) });
        }
    }
}

fn shown(character: char) -> Vec<char> {
    if character.is_control() { character.escape_default().collect() } else { vec![character] }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = indicatif::HumanBytes(self.bytes);
        write!(f, "{} ({bytes}) of {}", plural(self.files.len() as u64, "file"), self.dir.display())?;
        let left_out = [
            (self.too_large, "larger than one message may be"),
            (self.unreadable, "not readable"),
            (self.not_regular, "no regular files"),
        ];
        for (count, why) in left_out.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "; {count} left out: {why}")?;
        }
        if self.has_more {
            write!(f, "; there are more, but {MOST_FILES} are enough for a demo")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        dir
    }

    fn names(selection: &Selection) -> Vec<&str> {
        selection.files.iter().map(|f| f.name.as_str()).collect()
    }

    #[test]
    fn regular_files_are_taken_and_the_rest_is_counted() {
        let dir = tree(&[("b", "1"), ("a/c", "22"), ("a/big", "333333"), (".git/x", "x"), ("a/target/x", "x")]);
        std::os::unix::fs::symlink("b", dir.path().join("link")).unwrap();

        let selection = select(dir.path(), 5).unwrap();

        assert_eq!(names(&selection), ["b", "a/c"]);
        assert_eq!((selection.bytes, selection.too_large, selection.not_regular), (3, 1, 1));
        assert!(selection.to_string().contains("1 left out: larger"), "{selection}");
    }

    #[test]
    fn a_name_with_a_line_break_can_still_be_a_header() {
        let dir = tree(&[("a\nb ü", "1")]);

        assert_eq!(names(&select(dir.path(), 5).unwrap()), ["a\\nb ü"]);
    }

    #[test]
    fn a_file_that_is_written_to_has_changed() {
        let dir = tree(&[("a", "1")]);
        let selection = select(dir.path(), 5).unwrap();
        assert!(!selection.files[0].has_changed());

        fs::write(dir.path().join("a"), "22").unwrap();

        assert!(selection.files[0].has_changed());
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        assert!(select(Path::new("/nonexistent"), 5).is_err());
    }
}
