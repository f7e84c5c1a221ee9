//! What is told in numbers is so.

use scheduler::{Gauges, KindGauges};
use shared::api::AgentState;

use crate::support::{LONGER_THAN_ANY_VERDICT, Mesh, agent, ms, task};

#[test]
fn an_agent_is_lost_that_went_without_a_goodbye_and_is_not_back() {
    let mut mesh = Mesh::with_agents(["ada", "bob", "cyd"]);
    mesh.leave("ada");
    mesh.kill("bob");
    mesh.pass(LONGER_THAN_ANY_VERDICT);

    let gauges = mesh.leader.gauges(mesh.now);
    assert_eq!((offline(&gauges), gauges.agents_lost, gauges.slots), (2, 1, 1));

    mesh.restart("bob");
    assert_eq!(mesh.leader.gauges(mesh.now).agents_lost, 0);
}

#[test]
fn a_kind_tells_what_waits_for_how_long_and_what_became_of_the_rest() {
    let mut mesh = Mesh::with_agents([agent("ada").countable("gpus", 1)]);
    mesh.deliver_all([task("resize"), task("resize").max_attempts(1)]);
    mesh.pass(ms(5000));
    mesh.deliver_all([task("resize"), task("resize").countable("gpus", 4)]);

    let resize = of_kind(&mesh, "resize");
    assert_eq!((resize.agents, resize.unmet, mesh.leader.gauges(mesh.now).slots_taken), (1, 1, 1));
    assert!(resize.oldest_waiting.is_some_and(|age| (ms(5000)..ms(5100)).contains(&age)), "{resize:?}");

    mesh.succeed("ada", "1");
    mesh.fail("ada", "2");
    let resize = of_kind(&mesh, "resize");
    assert_eq!((resize.settled[0], resize.settled[1], resize.settled[2..].iter().sum::<u64>()), (1, 1, 0));
    assert!(resize.oldest_waiting.is_some_and(|age| age < ms(100)), "{resize:?}");
}

#[test]
fn what_another_leader_has_settled_is_not_counted() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver("resize");
    mesh.succeed("ada", "1");

    assert_eq!(of_kind(&mesh, "resize").settled[0], 1);
    mesh.take_over();
    // The one that led before leads again.
    mesh.take_over();

    let kinds = mesh.leader.gauges(mesh.now).kinds;
    assert_eq!(kinds.iter().flat_map(|kind| kind.settled).sum::<u64>(), 0);
}

fn offline(gauges: &Gauges) -> u64 {
    gauges.agents.iter().filter(|(state, _)| *state == AgentState::Offline).map(|(_, count)| count).sum()
}

fn of_kind(mesh: &Mesh, name: &str) -> KindGauges {
    let kinds = mesh.leader.gauges(mesh.now).kinds;
    kinds.into_iter().find(|kind| kind.kind.as_str() == name).expect("it is known")
}
