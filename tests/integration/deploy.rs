//! What is in `deploy/` is what systemd, Kubernetes, nats-server and Nomad read: checked by their own programs or schemas,
//! as far as these can be had here.

use std::path::{Path, PathBuf};

use mesh_tests::{mesh, program, python};
use tokio::process::Command;

/// The schemas of Kubernetes, and the grammar of HCL.
const PACKAGES: [&str; 2] = ["kubernetes-validate==1.37.0", "python-hcl2==8.1.4"];
/// Units that need a program of ours at its place.
const UNITS: [&str; 3] = ["hivemesh-coordinator.service", "hivemesh-agent.service", "hivemesh-nats.service"];

#[tokio::test(flavor = "multi_thread")]
async fn the_manifests_and_the_nomad_job_are_well_formed_and_fit_together() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/manifests.py");
    let (deploy, nats_server) = (deploy().display().to_string(), mesh::nats_server().await.display().to_string());

    let said = python::run_with(&PACKAGES, &script, &[&deploy, &nats_server]).await;

    if let Some(said) = said {
        assert!(
            said.contains("StatefulSet") && said.contains("nats.conf") && said.contains("hivemesh.nomad.hcl"),
            "{said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_takes_the_units() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no", "--recursive-errors=no"]);
    for unit in UNITS {
        command.arg(unit_without_programs(unit, dir.path()));
    }

    let Ok(output) = command.output().await else {
        eprintln!("SKIPPED: the units of systemd were not checked, because there is no systemd-analyze");
        assert!(std::env::var_os("CI").is_none(), "on CI nothing is skipped");
        return;
    };

    let said = String::from_utf8_lossy(&output.stderr);
    // What it does not know, such as a misspelt setting, it only tells.
    assert!(output.status.success() && !said.contains("hivemesh-"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_settings_of_the_debian_packages_are_read() {
    let config = |name: &str| deploy().join("debian").join(name).display().to_string();

    let coordinator = program::run(&["serve", "--print-config", "--config", &config("coordinator.toml")]).await;
    let agent = program::run(&["agent", "--print-config", "--config", &config("agent.toml")]).await;

    assert!(coordinator.succeeded().stdout.contains("[http]"));
    assert!(agent.succeeded().stdout.contains("echo"));
}

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("deploy")
}

/// A copy of a unit whose programs are there, and whose suggestions hold: it is checked whether it makes sense, not whether
/// this host has what it starts.
fn unit_without_programs(unit: &str, dir: &Path) -> PathBuf {
    let text = std::fs::read_to_string(deploy().join("systemd").join(unit)).unwrap();
    let mut lines = Vec::new();
    for line in text.lines() {
        let suggested = line.strip_prefix("# ").filter(|line| line.starts_with("LoadCredential="));
        let line = suggested.unwrap_or(line);
        match line.split_once('=') {
            Some(("ExecStart" | "ExecCondition", command)) => {
                let arguments = command.split_once(' ').map_or("", |(_, arguments)| arguments);
                lines.push(line.replace(command, &format!("/bin/true {arguments}")));
            }
            _ => lines.push(line.to_owned()),
        }
    }
    let copy = dir.join(unit);
    std::fs::write(&copy, lines.join("\n") + "\n").unwrap();
    copy
}
