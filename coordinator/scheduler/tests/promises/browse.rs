//! Pages of agents and tasks, and what is taken from second to second.

use scheduler::{AgentQuery, AgentSort, TaskQuery};
use shared::api::{AgentState, TaskState};

use crate::support::{LONGER_THAN_ANY_VERDICT, Mesh, agent, ms, task};

fn agents(mesh: &Mesh, query: AgentQuery) -> (Vec<String>, usize) {
    let page = mesh.leader.agent_page(&AgentQuery { limit: 10, ..query }, mesh.now);
    (page.items.iter().map(|agent| agent.id.to_string()).collect(), page.total)
}

fn tasks(mesh: &Mesh, query: TaskQuery) -> (Vec<String>, usize) {
    let page = mesh.leader.task_page(&TaskQuery { limit: 10, ..query }, mesh.now);
    (page.items.iter().map(|task| task.id.to_string()).collect(), page.total)
}

#[test]
fn agents_are_found_by_state_kind_name_and_label() {
    let all = [agent("ada").label("region", "eu"), agent("bob").kinds(&["train"]), agent("cyd").label("region", "us")];
    let mut mesh = Mesh::with_agents(all);
    mesh.silence("cyd", LONGER_THAN_ANY_VERDICT);

    let offline = agents(&mesh, AgentQuery { state: Some(AgentState::Offline), ..AgentQuery::default() });
    let trains = agents(&mesh, AgentQuery { kind: Some("train".parse().unwrap()), ..AgentQuery::default() });
    let unknown = agents(&mesh, AgentQuery { kind: Some("sing".parse().unwrap()), ..AgentQuery::default() });
    let named = agents(&mesh, AgentQuery { text: "d".to_owned(), ..AgentQuery::default() });
    let in_europe = agents(&mesh, AgentQuery { text: "region=eu".to_owned(), ..AgentQuery::default() });

    assert_eq!(offline.0, ["cyd"]);
    assert_eq!(trains.0, ["bob"]);
    assert_eq!(unknown.1, 0);
    assert_eq!(named.0, ["ada", "cyd"]);
    assert_eq!(in_europe.0, ["ada"]);
}

#[test]
fn agents_come_a_page_at_a_time_in_the_order_asked_for() {
    let mut mesh = Mesh::with_agents(["ada", "bob", "cyd", "dan"].map(|id| agent(id).slots(2)));
    mesh.report("bob", 0.9);
    mesh.report("dan", 0.5);

    let by_cpu = AgentQuery { sort: AgentSort::Cpu, descending: true, ..AgentQuery::default() };
    let second = mesh.leader.agent_page(&AgentQuery { offset: 1, limit: 1, ..by_cpu.clone() }, mesh.now);

    assert_eq!(agents(&mesh, by_cpu).0[..2], ["bob", "dan"]);
    assert_eq!((second.items[0].id.as_str(), second.total), ("dan", 4));
}

#[test]
fn tasks_are_found_by_state_kind_agent_and_id() {
    let mut mesh = Mesh::with_agents([agent("ada").slots(1).queue(0)]);
    mesh.deliver_all([task("resize").id("first"), task("resize").id("second"), task("train").id("third")]);

    let running = tasks(&mesh, TaskQuery { state: Some(TaskState::Running), ..TaskQuery::default() });
    let waiting = tasks(&mesh, TaskQuery { state: Some(TaskState::Waiting), ..TaskQuery::default() });
    let trains = tasks(&mesh, TaskQuery { kind: Some("train".parse().unwrap()), ..TaskQuery::default() });
    let with_ada = tasks(&mesh, TaskQuery { agent: Some("ada".parse().unwrap()), ..TaskQuery::default() });
    let named = tasks(&mesh, TaskQuery { text: "sec".to_owned(), ..TaskQuery::default() });

    assert_eq!(running.0, ["first"]);
    assert_eq!(waiting.0, ["second", "third"]);
    assert_eq!(trains.0, ["third"]);
    assert_eq!(with_ada.0, ["first"]);
    assert_eq!(named.0, ["second"]);
}

#[test]
fn each_task_on_a_page_says_why_it_waits_as_it_would_alone() {
    let mut mesh = Mesh::with_agents([agent("ada").slots(1).queue(0)]);
    mesh.deliver_all([task("resize"), task("resize"), task("resize").needs("gpu"), task("train")]);

    let page = mesh.leader.task_page(&TaskQuery { limit: 10, ..TaskQuery::default() }, mesh.now);

    assert_eq!(page.items.len(), 4);
    for shown in page.items {
        assert_eq!(Some(&shown), mesh.view(shown.id.as_str()).as_ref());
    }
}

#[test]
fn the_pulse_tells_how_long_tasks_waited_for_their_first_start_and_how_busy_hosts_are() {
    let mut mesh = Mesh::with_agents([agent("ada").slots(1).queue(0)]);
    mesh.report("ada", 0.25);
    mesh.deliver_all(["resize", "resize"]);
    let before = mesh.leader.pulse();
    mesh.pass(ms(900));
    mesh.succeed("ada", "1");

    let after = mesh.leader.pulse();

    assert_eq!((before.slots.slots, before.slots.taken, before.waiting, before.running), (1, 1, 1, 1));
    assert_eq!(after.cpu, Some(0.25));
    let waited = after.waits.since(&before.waits);
    assert_eq!(waited.count(), 1);
    assert!((ms(900)..ms(1200)).contains(&waited.quantile(0.5).unwrap()), "{waited:?}");
    let oldest = mesh.leader.oldest_waiting(mesh.now);
    assert!(oldest.is_empty(), "{oldest:?}");
}
