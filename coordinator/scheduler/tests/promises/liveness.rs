//! Agents that fall silent, vanish, leave, return.

use scheduler::{Action, Event};
use shared::Incarnation;
use shared::api::AgentState;
use shared::message::Beat;

use crate::support::{LONGER_THAN_ANY_VERDICT, Mesh, agent, ms};

/// How long what runs at most once is not given elsewhere, unless set.
const HOLD: std::time::Duration = std::time::Duration::from_secs(6);

#[test]
fn a_dead_agents_task_starts_again_elsewhere() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    mesh.deliver("resize");

    let orders = mesh.silence("ada", LONGER_THAN_ANY_VERDICT);

    assert_eq!(orders, ["start 1#2 on bob"]);
    assert!(mesh.told().contains(&"agent lost ada".to_owned()));
    assert!(mesh.told().contains(&"task reassigned 1".to_owned()));
}

#[test]
fn several_tasks_of_a_dead_agent_start_again_in_their_order() {
    let mut mesh = Mesh::with_agents([agent("ada").slots(3), agent("bob").kinds(&[])]);
    mesh.deliver_all(["resize", "resize", "resize"]);

    mesh.silence("ada", LONGER_THAN_ANY_VERDICT);
    let orders = mesh.join(agent("cyd").slots(3));

    assert_eq!(orders, ["start 1#2 on cyd", "start 2#2 on cyd", "start 3#2 on cyd"]);
}

#[test]
fn silence_leads_to_probes_then_to_suspicion_and_only_then_to_the_verdict() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    mesh.beat("ada");
    mesh.agent("ada").muted = true;

    mesh.pass(ms(700));
    assert_eq!((mesh.state_of("ada"), mesh.probes("ada")), (AgentState::Healthy, 0));

    mesh.pass(ms(125));
    assert_eq!(mesh.state_of("ada"), AgentState::Unhealthy);
    assert!(mesh.probes("ada") > 0);

    mesh.pass(ms(1150));
    assert_eq!(mesh.state_of("ada"), AgentState::Unhealthy);

    mesh.pass(ms(100));
    assert_eq!(mesh.state_of("ada"), AgentState::Offline);
}

#[test]
fn an_answered_probe_is_a_sign_of_life() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    mesh.silence("ada", ms(1500));
    assert_eq!(mesh.state_of("ada"), AgentState::Unhealthy);

    // From now on it answers the next probe.
    mesh.agent("ada").muted = false;
    mesh.pass(ms(125));

    assert_eq!(mesh.state_of("ada"), AgentState::Healthy);
}

#[test]
fn an_agent_that_nobody_listens_for_is_lost_after_its_grace() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    mesh.deliver("resize");
    mesh.kill("ada");

    mesh.tell(scheduler::Event::AgentUnreachable(mesh.agents.values().next().expect("ada").id.clone()));
    assert_eq!(mesh.state_of("ada"), AgentState::Unhealthy);
    assert_eq!(mesh.pass(ms(225)), [""; 0]);

    assert_eq!(mesh.pass(ms(100)), ["start 1#2 on bob"]);
}

#[test]
fn a_beat_within_the_grace_keeps_an_unreachable_agent() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    mesh.deliver("resize");
    let ada = mesh.agent("ada").id.clone();

    mesh.tell(scheduler::Event::AgentUnreachable(ada));
    mesh.pass(ms(200));
    mesh.beat("ada");

    assert_eq!(mesh.pass(ms(1000)), [""; 0]);
    assert_eq!(mesh.state_of("ada"), AgentState::Healthy);
}

#[test]
fn a_suspect_keeps_its_work_and_gets_none() {
    let mut mesh = Mesh::with_agents([agent("ada").slots(2), agent("bob").slots(2)]);
    mesh.deliver("resize");
    mesh.silence("ada", ms(1000));
    assert_eq!(mesh.state_of("ada"), AgentState::Unhealthy);

    assert_eq!(mesh.deliver_all(["resize", "resize", "resize"]), ["start 2#1 on bob", "start 3#1 on bob"]);

    assert_eq!(mesh.given_to("ada"), ["1"]);
    assert_eq!(mesh.unmute("ada"), ["start 4#1 on ada"]);
}

#[test]
fn an_agent_that_returns_gets_work_again() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.silence("ada", LONGER_THAN_ANY_VERDICT);
    assert_eq!(mesh.state_of("ada"), AgentState::Offline);
    assert_eq!(mesh.deliver("resize"), [""; 0]);

    assert_eq!(mesh.unmute("ada"), ["start 1#1 on ada"]);
}

#[test]
fn an_agent_that_returns_with_its_work_keeps_it_if_nobody_else_has_it() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver("resize");
    mesh.silence("ada", LONGER_THAN_ANY_VERDICT);

    assert_eq!(mesh.unmute("ada"), [""; 0]);

    assert_eq!(mesh.given_to("ada"), ["1"]);
    assert_eq!(mesh.succeed("ada", "1"), ["record 1 succeeded", "settled 1#1 to ada"]);
}

#[test]
fn an_agent_that_returns_with_work_that_another_has_is_told_to_stop() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    mesh.deliver("resize");
    mesh.silence("ada", LONGER_THAN_ANY_VERDICT);

    assert_eq!(mesh.unmute("ada"), ["cancel 1#1 on ada", "cancel 1#1 on ada"]);
}

#[test]
fn a_restarted_agent_has_lost_its_old_attempts() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver("resize");

    assert_eq!(mesh.restart("ada"), ["start 1#2 on ada"]);
}

#[test]
fn a_word_of_an_older_process_is_ignored() {
    let mut mesh = Mesh::with_agents(["ada"]);
    let (mut old, id) = (mesh.agent("ada").clone(), mesh.agent("ada").id.clone());
    mesh.restart("ada");
    mesh.deliver("resize");

    mesh.tell(scheduler::Event::AgentBeat(id.clone(), old.beat()));
    mesh.tell(scheduler::Event::AgentBye(id.clone(), old.bye()));
    mesh.tell(scheduler::Event::AgentHello(id.clone(), old.hello()));

    let shown = mesh.leader.agent(&id, mesh.now).expect("it is known");
    assert_eq!((shown.state, shown.incarnation), (AgentState::Healthy, Incarnation(2)));
    assert_eq!(mesh.given_to("ada"), ["1"]);
}

#[test]
fn an_older_beat_that_comes_late_is_ignored() {
    let mut mesh = Mesh::with_agents(["ada"]);
    let id = mesh.agent("ada").id.clone();
    let before = mesh.agent("ada").beat();
    mesh.deliver("resize");
    mesh.beat("ada");

    // Twice, and long after the order: it would count as lost on the way.
    mesh.pass(ms(800));
    mesh.tell(scheduler::Event::AgentBeat(id.clone(), before.clone()));
    mesh.tell(scheduler::Event::AgentBeat(id, before));

    assert_eq!(mesh.dispatches.len(), 1);
}

#[test]
fn an_agent_that_leaves_hands_back_what_it_has_not_started() {
    let mut mesh = Mesh::with_agents([agent("ada").queue(1), agent("bob").kinds(&[])]);
    mesh.deliver_all(["resize", "resize"]);
    assert_eq!(mesh.given_to("ada"), ["1", "2"]);
    mesh.leave("ada");

    // Neither is charged with a loss: two more do not kill them.
    for name in ["cyd", "dan"] {
        mesh.join(agent(name).slots(2));
        mesh.kill(name);
        mesh.pass(LONGER_THAN_ANY_VERDICT);
    }

    let outcomes: Vec<_> = mesh.records.iter().map(|record| (record.id.as_str(), record.outcome.as_str())).collect();
    assert_eq!(outcomes, []);
}

#[test]
fn a_drained_agent_gets_no_new_work_and_keeps_what_it_has() {
    let mut mesh = Mesh::with_agents([agent("ada").slots(2)]);
    mesh.deliver("resize");

    assert_eq!(mesh.drain("ada"), ["drain ada"]);

    assert_eq!(mesh.deliver("resize"), [""; 0]);
    assert_eq!(mesh.pass(ms(1000)), [""; 0]);
    assert_eq!((mesh.state_of("ada"), mesh.given_to("ada")), (AgentState::Stopping, vec!["1".to_owned()]));
    assert_eq!(mesh.succeed("ada", "1"), ["record 1 succeeded", "settled 1#1 to ada"]);
}

#[test]
fn an_order_to_drain_that_was_lost_is_repeated() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.agent("ada").muted = true;
    mesh.drain("ada");

    assert_eq!(mesh.unmute("ada"), ["drain ada"]);
    assert_eq!(mesh.beat("ada"), [""; 0]);
}

#[test]
fn an_agent_that_drains_by_itself_gets_no_new_work() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.agent("ada").draining = true;
    mesh.beat("ada");

    assert_eq!(mesh.deliver("resize"), [""; 0]);
}

#[test]
fn a_blip_of_our_own_link_condemns_nobody() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    mesh.deliver_all(["resize", "resize"]);
    for name in ["ada", "bob"] {
        mesh.agent(name).muted = true;
    }
    mesh.pass(ms(1900));
    mesh.tell(scheduler::Event::LinkRestored);

    assert_eq!(mesh.pass(ms(1900)), [""; 0]);
    mesh.unmute("ada");
    mesh.unmute("bob");

    assert_eq!((mesh.state_of("ada"), mesh.state_of("bob")), (AgentState::Healthy, AgentState::Healthy));
    assert_eq!(mesh.dispatches.len(), 2);
}

#[test]
fn an_agent_that_is_gone_for_long_is_forgotten() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);

    mesh.kill("ada");
    mesh.pass(ms(603_000));

    assert_eq!(mesh.leader.agents(mesh.now).len(), 1);
    assert_eq!(mesh.restart("ada"), [""; 0]);
    assert_eq!(mesh.state_of("ada"), AgentState::Healthy);
}

#[test]
fn what_runs_at_most_once_starts_elsewhere_only_when_its_agent_must_have_stopped_it() {
    let mut mesh = Mesh::with_agents([agent("ada").at_most_once(), agent("bob").at_most_once()]);
    mesh.pass(HOLD);
    mesh.deliver("resize");
    mesh.beat("ada");

    assert_eq!(mesh.silence("ada", LONGER_THAN_ANY_VERDICT), [""; 0]);
    assert_eq!(mesh.state_of("ada"), AgentState::Offline);
    assert_eq!(mesh.pass(HOLD - LONGER_THAN_ANY_VERDICT - ms(100)), [""; 0]);
    assert_eq!(mesh.pass(ms(700)), ["start 1#2 on bob"]);
}

#[test]
fn an_agent_that_was_lost_twice_holds_what_runs_at_most_once_from_the_second_time_on() {
    let mut mesh = Mesh::with_agents([agent("ada").at_most_once(), agent("bob").at_most_once()]);
    mesh.pass(HOLD);
    mesh.deliver("resize");
    mesh.beat("ada");

    mesh.silence("ada", ms(4000));
    mesh.unmute("ada");
    mesh.beat("ada");

    assert_eq!(mesh.silence("ada", HOLD - ms(600)), [""; 0], "the wait of the first time is void");
    assert_eq!(mesh.pass(ms(1200)), ["start 1#2 on bob"]);
}

#[test]
fn a_new_leader_gives_nobody_what_runs_at_most_once_before_a_stranger_must_have_stopped_it() {
    let mut mesh = Mesh::with_agents([agent("ada").at_most_once()]);
    mesh.pass(HOLD);
    mesh.take_over();
    mesh.deliver("resize");

    assert_eq!(
        mesh.pass(scheduler::STEP_DOWN + HOLD - ms(100)),
        [""; 0],
        "who led before may have heard it until then"
    );
    assert_eq!(mesh.pass(ms(200)), ["start 1#1 on ada"]);
}

#[test]
fn a_beat_that_wants_an_answer_gets_it_after_what_it_leads_to() {
    let mut mesh = Mesh::with_agents([agent("ada").at_most_once(), agent("bob").at_most_once()]);
    mesh.pass(HOLD);
    mesh.deliver("resize");
    let beat = mesh.agent("ada").beat();

    // Another attempt has replaced the one that it says it holds.
    mesh.silence("ada", HOLD * 2);
    let mut actions = Vec::new();
    mesh.tell_leader(Event::AgentBeat("ada".parse().unwrap(), Beat { sequence: 1_000, ..beat }), &mut actions);

    let place = |is_wanted: fn(&Action) -> bool| actions.iter().position(is_wanted);
    let cancelled = place(|action| matches!(action, Action::Cancel { .. }));
    let heard = place(|action| matches!(action, Action::Heard { sequence: 1_000, .. }));
    assert!(cancelled.is_some() && cancelled < heard, "{actions:?}");
}
