//! Python programs with packages of others, each set of them in a directory of its own in the user's cache: nats-py, a
//! client of another make, above all.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

/// The version of nats-py that the tests run with.
const NATS_PY: &str = "nats-py==2.15.0";

/// Runs a script with nats-py, and gives what it printed: see [`run_with`].
pub async fn run(script: &Path, args: &[&str]) -> Option<String> {
    run_with(&[NATS_PY], script, args).await
}

/// Runs a script with packages, each named with its version, and gives what it printed. `None` if there is no Python or pip
/// here; that is said loudly, and on CI (where `CI` is set) it is a failure.
///
/// # Panics
/// If the script fails, or if this is CI and there is no Python or pip.
pub async fn run_with(wanted: &[&str], script: &Path, args: &[&str]) -> Option<String> {
    let packages = packages_with(wanted).await?;
    let mut command = Command::new("python3");
    command.arg(script).args(args).env("PYTHONPATH", packages).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.expect("python3 was there a moment ago");
    let [said, errors] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(output.status.success(), "{}: {said}{errors}", script.display());
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The directory with nats-py, for `PYTHONPATH`: see [`packages_with`].
pub async fn packages() -> Option<PathBuf> {
    packages_with(&[NATS_PY]).await
}

/// The directory with packages, for `PYTHONPATH`. `None` if there is no Python or pip here; that is said loudly, and on CI
/// (where `CI` is set) it is a failure.
///
/// # Panics
/// If this is CI and there is no Python or pip.
pub async fn packages_with(wanted: &[&str]) -> Option<PathBuf> {
    match installed(wanted).await {
        Ok(packages) => Some(packages),
        Err(problem) => {
            eprintln!("SKIPPED: nothing was run with Python, because {wanted:?} cannot be had: {problem}");
            assert!(std::env::var_os("CI").is_none(), "on CI nothing is skipped: {problem}");
            None
        }
    }
}

/// Installs them if they are not there yet.
async fn installed(packages: &[&str]) -> Result<PathBuf, String> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let cache = cache.ok_or("neither XDG_CACHE_HOME nor HOME is set")?.join("hivemesh");
    let wanted = cache.join(packages.join("+").replace("==", "-"));
    if wanted.is_dir() {
        return Ok(wanted);
    }
    std::fs::create_dir_all(&cache).map_err(|error| error.to_string())?;
    // Installed beside its place and then moved there: who finds it finds all of it.
    let fresh = tempfile::tempdir_in(&cache).map_err(|error| error.to_string())?;
    install(packages, fresh.path()).await?;
    match std::fs::rename(fresh.path(), &wanted) {
        // Another test program may have been faster.
        Err(error) if !wanted.is_dir() => Err(error.to_string()),
        _ => Ok(wanted),
    }
}

async fn install(packages: &[&str], directory: &Path) -> Result<(), String> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]);
    pip.arg(directory).args(packages).stdin(Stdio::null());
    let output = pip.output().await.map_err(|error| format!("python3: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}
