//! `healthcheck` of both programs: what is asked where there is no shell, as in an image made from nothing.

use std::net::{SocketAddr, TcpListener};
use std::time::Instant;

use coordinator::local::AgentSpec;
use mesh_tests::{BUILTINS, Mesh, Output, agent, mesh, program};

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_is_well_until_it_has_lost_its_broker() {
    let monitor = free_address();
    let mesh = Mesh::builder().broker(&format!("http: \"{monitor}\"")).start().await;
    let (api, monitor) = (mesh.http_address(0).to_string(), format!("http://{monitor}"));
    let (coordinator, broker) = (["healthcheck", "--http", &api], ["healthcheck", "--monitor", &monitor]);

    let well = [program::run(&coordinator).await, program::run(&broker).await];
    mesh.broker().kill9().await;
    let unwell = [until_unwell(&coordinator).await, until_unwell(&broker).await];

    assert!(well[0].stdout.starts_with("well: leading in epoch "), "{well:?}");
    assert!(well[1].stdout.starts_with("well: ") && well.iter().all(|output| output.code == 0), "{well:?}");
    assert_eq!(unwell[0].stdout, "unwell: there is no connection to the NATS server\n");
    assert!(unwell[1].stdout.starts_with("unwell: nobody answers on "), "{unwell:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_well_while_its_loop_answers_and_it_is_connected() {
    let mut mesh = Mesh::builder().start().await;
    let address = free_address().to_string();
    let check = ["agent", "--health", &address, "healthcheck"];
    let mut spec = AgentSpec::new("ada".parse().unwrap(), 1, BUILTINS);
    spec.env.push(("HIVE_HEALTH".to_owned(), address.clone()));
    mesh.local().add_agent(spec).unwrap();
    mesh.until(agent("ada").healthy()).await;

    let well = program::run(&check).await;
    mesh.agent("ada").pause();
    let hung = program::run(&check).await;
    mesh.agent("ada").resume();
    mesh.broker().kill9().await;
    let cut_off = until_unwell(&check).await;

    assert!(well.code == 0 && well.stdout.starts_with("well: welcomed in epoch "), "{well:?}");
    assert!(hung.code == 1 && hung.stderr.contains("unwell: no answer from"), "{hung:?}");
    assert!(cut_off.stderr.contains("unwell: there is no connection to the NATS server"), "{cut_off:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_is_nobody_is_well() {
    let address = free_address().to_string();

    for check in [&["healthcheck", "--http", &address][..], &["agent", "--health", &address, "healthcheck"]] {
        assert_eq!(program::run(check).await.code, 1, "{check:?}");
    }
}

/// What it says once it says that something is wrong.
async fn until_unwell(check: &[&str]) -> Output {
    let started = Instant::now();
    loop {
        let output = program::run(check).await;
        if output.code == 1 {
            return output;
        }
        assert!(started.elapsed() < mesh::PATIENCE, "{check:?} finds nothing wrong: {output:?}");
    }
}

/// An address on which nobody listened a moment ago.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
