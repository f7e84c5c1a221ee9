//! `compose/local.yaml`, as the README has it used.

use std::time::{Duration, Instant};

use mesh_tests::Docker;
use mesh_tests::docker::{Container, free_port};

/// How long it may take from `up` to the first result.
const UP_LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn the_local_mesh_comes_up_by_one_command_does_work_and_goes_by_one() {
    let Some(docker) = Docker::start().await else { return };
    let project = docker.project("local.yaml");
    let project = project.env("HIVE_NATS_PORT", &free_port().to_string());
    let project = project.env("HIVE_API_PORT", &free_port().to_string());

    project.up(&[]).await;
    let (nats, coordinator) = (only(project.containers("nats").await), only(project.containers("coordinator").await));
    let agents = project.containers("agent").await;
    let printed = first_result(&coordinator).await;
    for container in [&nats, &coordinator].into_iter().chain(&agents) {
        container.until("healthy").await;
    }
    // Names are looked up in an image that has nothing but the program: the coordinator knows its broker by one.
    nats.kill().await;
    coordinator.until("unhealthy").await;
    agents[0].until("unhealthy").await;
    nats.start().await;
    nats.until("healthy").await;
    coordinator.until("healthy").await;
    project.down().await;

    assert_eq!((printed.trim(), agents.len()), ("hello", 3));
    assert!(project.containers("nats").await.is_empty() && project.containers("agent").await.is_empty());
}

/// What the command of the README prints.
async fn first_result(coordinator: &Container) -> String {
    let started = Instant::now();
    loop {
        let output = coordinator.exec(&["coordinator", "call", "echo", "hello"]).await;
        if output.code == 0 {
            return output.stdout;
        }
        assert!(started.elapsed() < UP_LIMIT, "{output:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn only(containers: Vec<Container>) -> Container {
    let [container] = <[Container; 1]>::try_from(containers).unwrap();
    container
}
