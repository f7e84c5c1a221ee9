//! A broker in a container, and around it a mesh that is not.

use std::process::Stdio;
use std::time::Duration;

use async_nats::RequestErrorKind;
use mesh_tests::{Docker, program};
use shared::Client;
use shared::connect::{Patience, Settings};
use testcontainers::core::{IntoContainerPort as _, WaitFor};
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{GenericImage, ImageExt as _};
use tokio::process::Child;

use crate::oracle::{Oracle, Submitter};

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_outside_loses_nothing_when_its_broker_in_a_container_stands_still() {
    let Some(_docker) = Docker::start().await else { return };
    // It is started when its own health check finds it well.
    let broker = GenericImage::new("hivemesh/nats-server", "latest")
        .with_exposed_port(4222.tcp())
        .with_wait_for(WaitFor::healthcheck())
        .with_cmd(["--jetstream", "--store_dir", "/data", "--http_port", "8222"])
        .start()
        .await
        .unwrap();
    let url = format!("nats://127.0.0.1:{}", broker.get_host_port_ipv4(4222.tcp()).await.unwrap());
    let _coordinator = spawn(&["serve", "--nats", &url, "--http", "127.0.0.1:0"]);
    let _agent = spawn(&["agent", "--nats", &url, "--id", "ada", "--slots", "8"]);
    let settings = Settings { url, ..Settings::default() };
    let nats = settings.connect("oracle", Patience::Limited(Duration::from_secs(30))).await.unwrap();
    let client = Client::new(nats, settings.mesh.clone());
    let submitter = Submitter(client.clone());
    submitter.until_it_works(Duration::from_secs(60)).await;

    let load = submitter.load();
    submitter.until_it_works(Duration::from_secs(30)).await;
    broker.pause().await.unwrap();
    // Until who asks it something has given up.
    let unanswered = client.nats().request("nobody.listens", "".into()).await.unwrap_err();
    assert_eq!(unanswered.kind(), RequestErrorKind::TimedOut);
    broker.unpause().await.unwrap();
    submitter.until_it_works(Duration::from_secs(60)).await;
    let accepted = load.stop().await;

    Oracle(client).judge(&accepted).await;
}

/// A program of the mesh, that ends with the test.
fn spawn(args: &[&str]) -> Child {
    program::command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}
