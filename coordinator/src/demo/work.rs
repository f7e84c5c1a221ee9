//! What is done with each file.

use std::path::Path;
use std::process::Stdio;

use anyhow::Context as _;
use bytes::Bytes;
use shared::client::NewTask;
use shared::{Kind, TaskId};

use super::files::Found;

/// Settings of the demo's agents.
pub const AGENT_CONFIG: &str = r#"
[[handler]]
kind = "sha256"
command = ["sha256sum"]
env = ["PATH"]
timeout = "30s"

[[handler]]
kind = "lines"
command = ["wc", "-l"]
env = ["PATH"]
timeout = "30s"

[[handler]]
kind = "words"
command = ["wc", "-w"]
env = ["PATH"]
timeout = "30s"
"#;

/// A kind of task, and the program that does it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Handler {
    pub(super) kind: &'static str,
    command: &'static [&'static str],
}

/// The same as in [`AGENT_CONFIG`].
pub(super) const HANDLERS: [Handler; 3] = [
    Handler { kind: "sha256", command: &["sha256sum"] },
    Handler { kind: "lines", command: &["wc", "-l"] },
    Handler { kind: "words", command: &["wc", "-w"] },
];

impl Handler {
    /// Does the work on a file without the mesh, in the environment that an agent gives to a handler.
    pub(super) async fn run_on(&self, path: &Path) -> anyhow::Result<Bytes> {
        let input = std::fs::File::open(path).with_context(|| format!("failed to open {}", path.display()))?;
        let mut command = tokio::process::Command::new(self.command[0]);
        command.args(&self.command[1..]).stdin(input).stderr(Stdio::null()).kill_on_drop(true);
        // Not ours: what counts as a word depends on the language set there.
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        let output = command.output().await.with_context(|| format!("failed to run `{}`", self.command.join(" ")))?;
        anyhow::ensure!(
            output.status.success(),
            "`{}` on {}: {}",
            self.command.join(" "),
            path.display(),
            output.status
        );
        Ok(output.stdout.into())
    }
}

/// One handler on one file.
#[derive(Debug)]
pub(super) struct Task<'a> {
    pub(super) id: TaskId,
    pub(super) handler: &'static Handler,
    pub(super) file: &'a Found,
}

/// A task for each handler and file.
pub(super) fn tasks(files: &[Found]) -> Vec<Task<'_>> {
    let work = files.iter().flat_map(|file| HANDLERS.iter().map(move |handler| (handler, file)));
    work.map(|(handler, file)| Task { id: TaskId::generate(), handler, file }).collect()
}

impl Task<'_> {
    /// The task with the file's bytes in it.
    pub(super) async fn read(&self) -> anyhow::Result<NewTask> {
        let body = tokio::fs::read(&self.file.path).await;
        let body = body.with_context(|| format!("failed to read {}", self.file.path.display()))?;
        let mut task = NewTask::new(Kind::new(self.handler.kind)?, body);
        task.id = self.id.clone();
        Ok(task.header("Demo-File", &self.file.name)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_told_to_run_what_we_compare_with() {
        let config: toml::Table = AGENT_CONFIG.parse().unwrap();

        let told: Vec<(&str, Vec<&str>)> = config["handler"]
            .as_array()
            .unwrap()
            .iter()
            .map(|h| {
                let command = h["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap());
                (h["kind"].as_str().unwrap(), command.collect())
            })
            .collect();

        assert_eq!(told, HANDLERS.iter().map(|h| (h.kind, h.command.to_vec())).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn the_work_is_done_here_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "two words\n").unwrap();

        let counted = HANDLERS[2].run_on(&path).await.unwrap();

        assert_eq!(String::from_utf8_lossy(&counted).trim(), "2");
        assert!(HANDLERS[2].run_on(&dir.path().join("none")).await.is_err());
    }
}
