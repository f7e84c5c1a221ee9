//! Prometheus and its tool, where they are (Debian: `prometheus`); and what a scrape says, read.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

use crate::program::Output;

/// Runs `promtool`, with a text on its standard input. `None` if there is none here; that is said loudly, and on CI (where
/// `CI` is set) it is a failure.
///
/// # Panics
/// If this is CI and it is missing.
pub async fn promtool(args: &[&str], input: &str) -> Option<Output> {
    let mut command = Command::new("promtool");
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut running = spawn(command, "promtool")?;
    let mut stdin = running.stdin.take().expect("it is piped");
    // One that has ended says below what it did not like.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let ended = running.wait_with_output().await.expect("it was started");
    Some(Output {
        code: ended.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&ended.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&ended.stderr).into_owned(),
    })
}

/// Starts a Prometheus with these settings, that keeps its samples in this directory. It ends when what is returned is
/// dropped; `None` as for [`promtool`].
///
/// # Panics
/// If this is CI and it is missing.
pub async fn prometheus(dir: &Path, settings: &str, listen: SocketAddr) -> Option<Child> {
    let file = dir.join("prometheus.yml");
    tokio::fs::write(&file, settings).await.expect("the directory is writable");
    let mut command = Command::new("prometheus");
    command
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.tsdb.path={}", dir.join("samples").display()))
        .arg(format!("--web.listen-address={listen}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    spawn(command, "prometheus")
}

fn spawn(mut command: Command, program: &str) -> Option<Child> {
    match command.spawn() {
        Ok(running) => Some(running),
        Err(error) => {
            // Past the test runner, which shows what is printed by tests that fail only.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: what is for Prometheus was not checked by it: {program}: {error} (Debian: prometheus)"
            );
            assert!(std::env::var_os("CI").is_none(), "on CI nothing is skipped: {program}: {error}");
            None
        }
    }
}

/// What a scrape said.
#[derive(Clone, Debug)]
pub struct Scrape(pub String);

impl Scrape {
    /// The sum of the samples of a name that have these labels, among others; zero if there are none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let matches = |(named, shown, _): &(&str, &str, f64)| {
            let has = |(label, value): &(&str, &str)| shown.contains(&format!("{label}=\"{value}\""));
            *named == name && labels.iter().all(has)
        };
        self.samples().filter(matches).map(|(_, _, value)| value).sum()
    }

    /// The values that a label has, in samples of this name.
    pub fn values(&self, name: &str, label: &str) -> BTreeSet<String> {
        let opening = format!("{label}=\"");
        let value = |(_, shown, _): (&str, &str, f64)| {
            let (_, rest) = shown.split_once(&opening)?;
            Some(rest.split_once('"')?.0.to_owned())
        };
        self.samples().filter(|(named, _, _)| *named == name).filter_map(value).collect()
    }

    /// The names of all families, as the older text format has them.
    pub fn families(&self) -> BTreeSet<String> {
        let typed = self.0.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        typed.filter_map(|typed| Some(typed.split_once(' ')?.0.to_owned())).collect()
    }

    /// Name, labels and value of each sample. No value of a label has a blank in it.
    fn samples(&self) -> impl Iterator<Item = (&str, &str, f64)> {
        let lines = self.0.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            Some((name, labels, value.parse().ok()?))
        })
    }
}

/// Asks for metrics at an address, in the older text format.
///
/// # Errors
/// If nobody answers there, or not with metrics.
pub async fn scrape(address: SocketAddr) -> Result<Scrape, String> {
    let answer = reqwest::get(format!("http://{address}/metrics")).await.map_err(|error| error.to_string())?;
    let status = answer.status();
    let text = answer.text().await.map_err(|error| error.to_string())?;
    if status.is_success() { Ok(Scrape(text)) } else { Err(format!("{status}: {text}")) }
}
