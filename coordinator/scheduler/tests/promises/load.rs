//! What is told of a pool's agents and of what waits for them.

use scheduler::scaling::Policy;
use scheduler::{AgentLoad, Config, KindConfig, KindLoad, PoolLoad};
use shared::Kind;

use crate::support::{Mesh, agent, ms, task};

#[test]
fn the_time_of_slots_that_are_taken_adds_up() {
    let mut mesh = Mesh::with_agents([agent("ada").slots(2)]);
    let before = of_agent(&load(&mesh), "ada").slot_time;

    mesh.deliver("resize");
    mesh.pass(ms(4000));
    mesh.deliver("resize");
    mesh.pass(ms(1000));
    let at_work = of_agent(&load(&mesh), "ada");
    mesh.finish_all();
    mesh.pass(ms(5000));
    let afterwards = of_agent(&load(&mesh), "ada");

    assert_eq!((at_work.slot_time - before, at_work.agent.running), (ms(6000), 2));
    assert_eq!((afterwards.slot_time - before, afterwards.agent.running), (ms(6000), 0));
    assert_eq!((afterwards.succeeded, afterwards.failed), (2, 0));
}

#[test]
fn what_waits_and_how_long_what_started_has_waited_is_told() {
    let mut mesh = Mesh::with_agents([agent("ada")]);
    mesh.deliver_all(["resize", "resize"]);
    mesh.pass(ms(2000));

    let waiting = of_kind(&load(&mesh), "resize");
    mesh.succeed("ada", "1");
    let started = of_kind(&load(&mesh), "resize");

    assert_eq!((waiting.fetched, waiting.waiting, waiting.oldest), (2, 1, ms(2000)));
    let ages = waiting.ages.p95();
    assert!((ms(1900)..ms(2150)).contains(&ages), "{ages:?}");
    assert_eq!((started.fetched, started.waiting, started.runs, started.run_time), (1, 0, 1, ms(10)));
    let waited = started.started.unwrap().since(&waiting.started.unwrap()).p95();
    assert!((ms(1900)..ms(2150)).contains(&waited), "{waited:?}");
}

#[test]
fn what_none_of_its_agents_could_ever_run_is_not_told_to_wait_for_one_more_like_them() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver(task("resize").needs("gpu"));
    mesh.pass(ms(1500));

    let with_agents = of_kind(&load(&mesh), "resize");
    let policy = Policy { kinds: vec![kind("resize")], labels: "gpu".parse().unwrap(), ..Policy::default() };
    let without = mesh.leader.pool_load(&policy, mesh.now);

    assert_eq!((with_agents.fetched, with_agents.waiting), (1, 0));
    assert_eq!((without.agents.len(), of_kind(&without, "resize").waiting), (0, 1));
}

#[test]
fn a_kind_that_has_reached_its_limit_has_no_room() {
    let mut config = Config::default();
    config.kinds.insert("resize".into(), KindConfig { max_running: Some(1), ..KindConfig::default() });
    let mut mesh = Mesh::with_config(config, [agent("ada").slots(4)]);
    assert_eq!(of_kind(&load(&mesh), "resize").room, Some(1));

    mesh.deliver_all(["resize", "resize"]);

    assert_eq!(of_kind(&load(&mesh), "resize").room, Some(0));
    assert_eq!(of_kind(&load(&mesh), "count").room, None);
}

#[test]
fn the_only_one_that_could_run_what_waits_is_pinned() {
    let mut mesh = Mesh::with_agents([agent("ada").label("gpu", "a100"), agent("bob")]);
    mesh.deliver(task("resize").needs("gpu"));
    mesh.deliver(task("resize").needs("gpu"));
    mesh.pass(ms(100));

    let load = load(&mesh);

    assert_eq!((of_agent(&load, "ada").agent.pinned, of_agent(&load, "bob").agent.pinned), (true, false));
}

#[test]
fn who_runs_something_has_as_long_to_go_as_others_of_its_kind_have_run() {
    let mut mesh = Mesh::with_agents(["ada", "bob"]);
    mesh.deliver("resize");
    mesh.finish_all();
    mesh.deliver("resize");
    let (busy, idle) = if mesh.given_to("ada").is_empty() { ("bob", "ada") } else { ("ada", "bob") };

    let before = load(&mesh);
    mesh.pass(ms(5000));
    let after = load(&mesh);

    assert_eq!((of_agent(&before, busy).agent.remaining, of_agent(&before, idle).agent.remaining), (ms(10), ms(0)));
    assert_eq!(of_agent(&after, busy).agent.remaining, ms(5000), "it is as long as it has been, for all that is known");
}

#[test]
fn a_new_leader_is_in_doubt_for_a_moment() {
    let mut mesh = Mesh::with_agents(["ada"]);
    assert!(!load(&mesh).in_doubt);

    mesh.take_over();
    let at_first = load(&mesh);
    mesh.pass(ms(3000));

    assert!(at_first.in_doubt && at_first.epoch == mesh.leader.epoch());
    assert!(!load(&mesh).in_doubt);
}

#[test]
fn a_pool_has_the_agents_with_its_labels_and_kinds() {
    let mesh = Mesh::with_agents([agent("ada").label("pool", "big"), agent("bob")]);
    let policy = |labels: &str, kinds: &[&str]| Policy {
        labels: labels.parse().unwrap(),
        kinds: kinds.iter().map(|name| kind(name)).collect(),
        ..Policy::default()
    };
    let agents = |policy: Policy| mesh.leader.pool_load(&policy, mesh.now).agents.len();

    assert_eq!(agents(policy("pool=big", &[])), 1);
    assert_eq!(agents(policy("pool=big", &["resize", "paint"])), 1);
    assert_eq!(agents(policy("pool=big", &["paint"])), 0);
    assert_eq!(agents(policy("", &["count"])), 2);
}

/// The load of a pool of everybody.
fn load(mesh: &Mesh) -> PoolLoad {
    mesh.leader.pool_load(&Policy::default(), mesh.now)
}

fn of_agent(load: &PoolLoad, id: &str) -> AgentLoad {
    load.agents.iter().find(|load| load.agent.id.as_str() == id).cloned().expect("it is there")
}

fn of_kind(load: &PoolLoad, name: &str) -> KindLoad {
    load.kinds.iter().find(|load| load.kind.as_str() == name).cloned().expect("it is known")
}

fn kind(name: &str) -> Kind {
    Kind::new(name).expect("tests name kinds well")
}
