//! Clients of further makes: one in C, on Debian's client library, and one in the shell. Both are examples for users.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// An example of the project.
pub fn example(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(path)
}

/// Compiles the client in C into a directory, by its own Makefile. `None` if there is no compiler or no library here;
/// that is said loudly, and on CI (where `CI` is set) it is a failure.
///
/// # Panics
/// If it does not compile although all is there, or if this is CI and something is missing.
pub async fn compiled(directory: &Path) -> Option<PathBuf> {
    if let Err(missing) = tools().await {
        eprintln!("SKIPPED: the client in C was not tried: {missing}");
        assert!(std::env::var_os("CI").is_none(), "on CI nothing is skipped: {missing}");
        return None;
    }
    for source in ["Makefile", "submit.c"] {
        std::fs::copy(example("c").join(source), directory.join(source)).expect("the directory is writable");
    }
    let mut make = Command::new("make");
    make.arg("-C").arg(directory).arg("CFLAGS=-O2 -Wall -Wextra -Werror").stdin(Stdio::null());
    let output = make.output().await.expect("make was there a moment ago");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(directory.join("submit"))
}

/// Looks for what compiling takes.
async fn tools() -> Result<(), String> {
    let mut make = Command::new("make");
    make.arg("--version").stdin(Stdio::null());
    make.output().await.map_err(|error| format!("make: {error}"))?;
    let mut cc = Command::new("cc");
    cc.args(["-xc", "-fsyntax-only", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut cc = cc.spawn().map_err(|error| format!("cc: {error}"))?;
    let mut program = cc.stdin.take().expect("it is piped");
    // A compiler that has ended already says below that it could not do it.
    let _ = program.write_all(b"#include <nats/nats.h>\n").await;
    drop(program);
    let status = cc.wait().await.map_err(|error| format!("cc: {error}"))?;
    if status.success() { Ok(()) } else { Err("there is no nats/nats.h: apt-get install libnats-dev".to_owned()) }
}

/// Runs a client with a body on its standard input, and gives what it printed.
///
/// # Panics
/// If it fails.
pub async fn submit(client: &Path, nats_url: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let mut command = Command::new(client);
    command.arg(kind).env("NATS_URL", nats_url).env_remove("HIVE_MESH").env_remove("NATS_USER");
    command.kill_on_drop(true).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.spawn().expect("it can be started");
    let mut input = running.stdin.take().expect("it is piped");
    input.write_all(body).await.expect("it reads its body");
    drop(input);
    let output = running.wait_with_output().await.expect("it was started");
    assert!(output.status.success(), "{}: {}", client.display(), String::from_utf8_lossy(&output.stderr));
    output.stdout
}
