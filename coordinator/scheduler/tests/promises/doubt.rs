//! Doubt in ourselves before verdicts on others; agents that cannot be relied on; tasks that take agents down.

use std::time::Duration;

use scheduler::Event;
use shared::AgentId;
use shared::api::AgentState;

use crate::support::{LONGER_THAN_ANY_VERDICT, Mesh, agent, ms, task};

const FIVE: [&str; 5] = ["ada", "bob", "cyd", "dan", "eve"];

fn id(name: &str) -> AgentId {
    AgentId::new(name).expect("tests name agents well")
}

/// Time passes while our own messages come back.
fn pass_with_canary(mesh: &mut Mesh, span: Duration) {
    for _ in 0..span.as_millis() / 100 {
        mesh.tell(Event::CanaryHeard);
        mesh.pass(ms(100));
    }
}

#[test]
fn many_silent_at_once_are_not_declared_lost_at_once() {
    let mut mesh = Mesh::with_agents(FIVE);
    mesh.deliver_all(["resize"; 5]);
    for name in FIVE {
        mesh.agent(name).muted = true;
    }

    mesh.pass(ms(3000));
    assert!(FIVE.iter().all(|name| mesh.state_of(name) == AgentState::Unhealthy));
    assert!(mesh.told().iter().any(|told| told.starts_with("mesh storm-began")), "{:?}", mesh.told());

    for name in FIVE {
        mesh.unmute(name);
    }
    mesh.pass(ms(1000));
    assert!(FIVE.iter().all(|name| mesh.state_of(name) == AgentState::Healthy));
    assert_eq!(mesh.dispatches.len(), 5);
}

#[test]
fn many_that_are_really_gone_are_declared_lost_after_the_storm() {
    let mut mesh = Mesh::with_agents(FIVE);
    for name in &FIVE[..3] {
        mesh.kill(name);
    }

    mesh.pass(ms(6000));

    assert!(FIVE[..3].iter().all(|name| mesh.state_of(name) == AgentState::Offline));
    assert!(FIVE[3..].iter().all(|name| mesh.state_of(name) == AgentState::Healthy));
}

#[test]
fn no_verdict_is_given_while_our_own_messages_do_not_come_back() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    mesh.deliver("resize");
    pass_with_canary(&mut mesh, ms(500));
    mesh.agent("ada").muted = true;

    mesh.pass(ms(10_000));
    assert_eq!(mesh.state_of("ada"), AgentState::Unhealthy);

    // The link is back, and the agent has time to be so as well.
    pass_with_canary(&mut mesh, ms(4000));
    assert_eq!(mesh.state_of("ada"), AgentState::Unhealthy);
    pass_with_canary(&mut mesh, ms(3000));
    assert_eq!(mesh.state_of("ada"), AgentState::Offline);
}

#[test]
fn a_closed_connection_leads_to_a_probe_and_with_its_answer_to_a_quick_verdict() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    mesh.deliver("resize");
    mesh.kill("ada");

    mesh.tell(Event::AgentDisconnected(id("ada")));
    assert_eq!(mesh.probes("ada"), 1);
    mesh.tell(Event::AgentUnreachable(id("ada")));

    assert_eq!(mesh.pass(ms(150)), ["start 1#2 on bob"]);
}

#[test]
fn an_agent_that_reconnects_at_once_keeps_its_work() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    mesh.deliver("resize");

    mesh.tell(Event::AgentDisconnected(id("ada")));
    mesh.tell(Event::AgentUnreachable(id("ada")));
    mesh.say_hello(&id("ada"));

    assert_eq!(mesh.pass(ms(1000)), [""; 0]);
    assert_eq!(mesh.state_of("ada"), AgentState::Healthy);
}

#[test]
fn an_agent_that_comes_and_goes_gets_no_work_for_a_while_and_then_again() {
    let mut mesh = Mesh::with_agents([agent("ada"), agent("bob").kinds(&["count"])]);
    for _ in 0..3 {
        mesh.silence("ada", LONGER_THAN_ANY_VERDICT);
        mesh.unmute("ada");
        mesh.pass(ms(1000));
    }

    assert_eq!(mesh.state_of("ada"), AgentState::Degraded);
    assert_eq!(mesh.deliver("resize"), [""; 0]);

    mesh.pass(ms(30_000));
    assert_eq!(mesh.state_of("ada"), AgentState::Healthy);
    assert_eq!(mesh.given_to("ada"), ["1"]);
}

#[test]
fn an_agent_that_fails_everything_at_once_stops_attracting_work() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    let mut failed = 0;
    for _ in 0..200 {
        mesh.deliver(task("resize").max_attempts(1));
        mesh.finish_all_but("bob");
        for number in mesh.given_to("bob") {
            mesh.fail("bob", &number);
            failed += 1;
        }
    }

    assert!((5..=8).contains(&failed), "{failed} failed at the black hole");
    assert!(mesh.told().contains(&"agent ejected bob".to_owned()));
}

#[test]
fn a_kind_that_fails_everywhere_ejects_nobody() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    for _ in 0..50 {
        mesh.deliver(task("resize").max_attempts(1));
        for name in ["ada", "bob"] {
            for number in mesh.given_to(name) {
                mesh.fail(name, &number);
            }
        }
    }

    assert!(!mesh.told().iter().any(|told| told.starts_with("agent ejected")));
}

#[test]
fn only_the_task_that_is_to_blame_takes_a_third_agent_down() {
    let mut mesh = Mesh::with_agents([agent("ada").slots(4)]);
    mesh.deliver_all(["resize"; 4]);
    // The first one takes every agent down that it runs on.
    for name in ["bob", "cyd", "dan", "eve"] {
        let holder = mesh.holder_of("1");
        let Some(holder) = holder else { break };
        mesh.kill(&holder);
        mesh.pass(LONGER_THAN_ANY_VERDICT);
        mesh.join(agent(name).slots(4));
        mesh.pass(ms(1000));
    }
    for _ in 0..10 {
        mesh.finish_all();
        mesh.pass(ms(500));
    }

    let mut outcomes: Vec<_> = mesh.records.iter().map(|r| (r.id.to_string(), r.outcome.as_str())).collect();
    outcomes.sort();
    let expected = [("1", "dead"), ("2", "succeeded"), ("3", "succeeded"), ("4", "succeeded")];
    assert_eq!(outcomes, expected.map(|(id, outcome)| (id.to_owned(), outcome)));
}

#[test]
fn a_slow_beginning_of_a_reign_is_no_broken_link() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.tell(Event::CanaryHeard);
    mesh.now = mesh.now + ms(1000);
    mesh.take_over();
    mesh.log.clear();

    mesh.tell(Event::CanaryHeard);

    assert_eq!(mesh.told(), [""; 0]);
}
