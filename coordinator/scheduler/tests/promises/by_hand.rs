//! What somebody who runs the mesh does by hand: a kind paused or purged, an agent put into quarantine.

use scheduler::{AgentConfig, Event, KindConfig};
use shared::api::AgentState;
use shared::{AgentId, Kind};

use crate::support::{LONGER_THAN_ANY_VERDICT, Mesh, agent, ms, task};

#[test]
fn nothing_of_a_paused_kind_starts_and_what_runs_goes_on() {
    let mut mesh = Mesh::with_agents([agent("ada").slots(2)]);
    mesh.deliver("resize");
    pause(&mut mesh, true);

    assert_eq!(mesh.deliver_all(["resize", "count"]), ["start 3#1 on ada"]);
    assert_eq!(mesh.pass(ms(1000)), [""; 0]);

    assert!(mesh.succeed("ada", "1").contains(&"record 1 succeeded".to_owned()));
    assert_eq!(mesh.given_to("ada"), ["3"]);
}

#[test]
fn what_was_paused_starts_as_soon_as_it_is_resumed() {
    let mut mesh = Mesh::with_agents(["ada"]);
    pause(&mut mesh, true);
    mesh.deliver("resize");

    assert_eq!(pause(&mut mesh, false), ["start 1#1 on ada"]);
}

#[test]
fn a_paused_task_says_that_its_kind_is_paused() {
    let mut mesh = Mesh::with_agents(["ada"]);
    pause(&mut mesh, true);
    mesh.deliver("resize");

    let why = mesh.leader.why(&"1".parse().unwrap(), mesh.now).unwrap();

    assert!(why.summary.contains("`resize` is paused"), "{}", why.summary);
    assert!(mesh.view("1").unwrap().reason.unwrap().contains("is paused"));
}

#[test]
fn a_paused_kind_is_not_fetched() {
    let mut mesh = Mesh::with_agents(["ada"]);
    let served = |mesh: &Mesh| mesh.leader.served_kinds().map(ToString::to_string).collect::<Vec<_>>();
    let before = mesh.leader.served_version();
    assert_eq!(served(&mesh), ["resize", "count"]);

    pause(&mut mesh, true);

    assert_eq!(served(&mesh), ["count"]);
    assert!(mesh.leader.served_version() > before, "who fetches is told that something has changed");
}

#[test]
fn a_paused_task_still_expires_and_can_be_cancelled() {
    let mut mesh = Mesh::with_agents(["ada"]);
    pause(&mut mesh, true);
    mesh.deliver(task("resize").deadline(ms(1000)));
    mesh.deliver("resize");

    assert_eq!(mesh.cancel(2), ["record 2 cancelled"]);
    assert_eq!(mesh.pass(ms(1100)), ["record 1 expired"]);
}

#[test]
fn a_purge_ends_what_does_not_run_and_nothing_else() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver_all(["resize", "resize", "count", "resize"]);

    let orders = purge(&mut mesh);

    assert_eq!(orders, ["record 2 cancelled", "record 4 cancelled"]);
    assert_eq!(mesh.records.last().unwrap().error.as_deref(), Some("its queue was purged"));
    assert_eq!(mesh.given_to("ada"), ["1"]);
    assert!(mesh.succeed("ada", "1").contains(&"start 3#1 on ada".to_owned()));
}

#[test]
fn a_purge_ends_what_waits_for_its_next_attempt() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver(task("resize").backoff(ms(10_000), ms(10_000)));
    mesh.fail("ada", "1");

    assert_eq!(purge(&mut mesh), ["record 1 cancelled"]);

    assert_eq!(mesh.pass(ms(12_000)), [""; 0]);
}

#[test]
fn an_agent_in_quarantine_gets_nothing_and_keeps_what_it_has() {
    let mut mesh = Mesh::with_agents([agent("ada").slots(2)]);
    mesh.deliver("resize");
    quarantine(&mut mesh, true);

    assert_eq!(mesh.deliver("resize"), [""; 0]);
    assert_eq!(mesh.pass(ms(60_000)), [""; 0]);

    assert_eq!(mesh.state_of("ada"), AgentState::Degraded);
    assert_eq!(mesh.given_to("ada"), ["1"]);
    assert_eq!(quarantine(&mut mesh, false), ["start 2#1 on ada"]);
    assert_eq!(mesh.state_of("ada"), AgentState::Healthy);
}

#[test]
fn a_quarantine_by_hand_outlives_the_agents_process() {
    let mut mesh = Mesh::with_agents(["ada"]);
    quarantine(&mut mesh, true);

    mesh.silence("ada", LONGER_THAN_ANY_VERDICT);
    mesh.restart("ada");

    assert_eq!(mesh.state_of("ada"), AgentState::Degraded);
    assert_eq!(mesh.deliver("resize"), [""; 0]);
}

#[test]
fn a_quarantine_is_told_once() {
    let mut mesh = Mesh::with_agents(["ada"]);

    quarantine(&mut mesh, true);
    quarantine(&mut mesh, true);
    quarantine(&mut mesh, false);

    let about = |what: &str| mesh.told().iter().filter(|told| *told == what).count();
    assert_eq!((about("agent quarantined ada"), about("agent released ada")), (1, 1));
}

/// Says whether `resize` is paused.
fn pause(mesh: &mut Mesh, paused: bool) -> Vec<String> {
    mesh.tell(Event::KindConfigured("resize".to_owned(), KindConfig { paused: Some(paused), ..KindConfig::default() }))
}

fn purge(mesh: &mut Mesh) -> Vec<String> {
    mesh.tell(Event::KindPurged(Kind::new("resize").expect("it is a good name")))
}

/// Says whether ada is to get no work.
fn quarantine(mesh: &mut Mesh, quarantined: bool) -> Vec<String> {
    mesh.tell(Event::AgentConfigured(AgentId::new("ada").expect("it is a good name"), AgentConfig { quarantined }))
}
