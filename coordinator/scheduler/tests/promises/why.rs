//! Why a task waits, and why its agent got it.

use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};
use scheduler::placement::Strategy;
use scheduler::{Config, Event, KindConfig, TenantConfig};
use shared::api::{Explanation, TaskState};
use shared::{Kind, TaskId, TaskOptions};

use crate::support::{Agent, Mesh, agent, ms, task};

fn why(mesh: &Mesh, id: &str) -> Explanation {
    mesh.leader
        .why(&TaskId::new(id).expect("it is a good id"), mesh.now)
        .expect("it is fetched, or was settled of late")
}

#[test]
fn each_filter_tells_how_many_agents_it_removed_and_what_came_nearest() {
    let agents = [
        agent("ada").slots(2).memory(1000),
        agent("bob").slots(2).memory(1000),
        agent("cyd").label("gpu", "a100").slots(2).memory(1000),
        agent("dan").label("gpu", "a100").slots(2).memory(100),
    ];
    let mut mesh = Mesh::with_agents(agents);
    mesh.deliver(task("resize").needs("gpu").memory(700));

    mesh.deliver(task("resize").needs("gpu").memory(500));

    let explanation = why(&mesh, "2");
    let filters: Vec<(&str, u32)> =
        explanation.filters.iter().map(|step| (step.filter.as_str(), step.removed)).collect();
    assert_eq!(filters, [("labels", 2), ("size", 1), ("reserved", 1)]);
    let nearest = explanation.nearest.unwrap();
    assert_eq!((nearest.agent.as_str(), nearest.filter.as_str()), ("cyd", "reserved"));
    assert_eq!(nearest.detail, "has 300 B of memory left, and 500 B are asked for");
    let summary = "none of the 4 agents that can do `resize` can take it: 2 do not meet `gpu`, 1 have less than memory \
                   500 B altogether, 1 lack memory 500 B";
    assert_eq!(explanation.summary, summary);
}

#[test]
fn what_goes_before_a_task_is_told_and_when_it_may_start() {
    let mut mesh = Mesh::with_agents(["ada"]);
    mesh.deliver("resize");
    mesh.pass(ms(100));
    mesh.succeed("ada", "1");
    mesh.deliver_all([task("resize"), task("resize"), task("resize").cpu(1), task("resize")]);

    let explanation = why(&mesh, "5");

    let ahead = explanation.ahead.unwrap();
    assert_eq!((ahead.in_line, ahead.in_other_lines), (1, 1));
    assert!(explanation.starts_in_ms.is_some());
}

#[test]
fn a_limit_that_holds_a_task_is_named() {
    let mut config = Config::default();
    config.kinds.insert("resize".into(), KindConfig { max_running: Some(1), ..KindConfig::default() });
    let mut mesh = Mesh::with_config(config, [agent("ada").slots(4)]);
    mesh.deliver_all(["resize", "resize", "count"]);

    assert!(why(&mesh, "2").limit.unwrap().contains("`max-running` of the kind"));
    assert_eq!(why(&mesh, "3").summary, "it runs on ada", "another kind is not held up");
    mesh.succeed("ada", "1");
    assert_eq!(mesh.given_to("ada"), ["2", "3"]);
}

#[test]
fn what_spoke_for_an_agent_is_told_while_its_task_runs_and_afterwards() {
    let mut mesh = Mesh::with_agents([agent("ada").slots(2), agent("bob").slots(4)]);
    mesh.deliver_all(["resize", "resize"]);
    mesh.deliver("resize");

    let chosen = why(&mesh, "3").chosen.unwrap();
    assert_eq!((chosen.agent.as_str(), chosen.strategy.as_str(), chosen.score), ("bob", "least-connections", 0.25));
    let runner_up = chosen.runner_up.clone().unwrap();
    assert_eq!((runner_up.agent.as_str(), runner_up.score), ("ada", 0.5));
    mesh.succeed("bob", "3");
    assert_eq!(why(&mesh, "3").chosen, Some(chosen));
}

#[test]
fn it_can_be_asked_beforehand() {
    let mesh = Mesh::with_agents(["ada"]);
    let options = TaskOptions { needs: "gpu".parse().unwrap(), ..TaskOptions::default() };

    let explanation = mesh.leader.why_would(&Kind::new("resize").unwrap(), &options, mesh.now);

    assert_eq!(explanation.summary, "only one agent can do `resize`, and ada does not meet `gpu`");
}

fn is_waiting(mesh: &Mesh, sequence: u64) -> bool {
    mesh.view(&sequence.to_string()).is_some_and(|task| task.state == TaskState::Waiting)
}

/// A step by which something stops being in the way.
fn remove(mesh: &mut Mesh, name: &str, filter: &str) {
    let id: shared::AgentId = name.parse().expect("it is there");
    match filter {
        "state" => {
            mesh.agents.get_mut(&id).expect("it is there").draining = false;
            let restarted = mesh.restart(name);
            drop(restarted);
            mesh.beat(name);
        }
        "labels" => {
            mesh.agents.get_mut(&id).expect("it is there").labels.insert("gpu".into(), "a100".into());
            mesh.say_hello(&id);
        }
        "size" => {
            mesh.agents.get_mut(&id).expect("it is there").capacity.cpu_millis = 8000;
            mesh.say_hello(&id);
        }
        "slots" | "reserved" => {
            for task in mesh.given_to(name) {
                mesh.succeed(name, &task);
            }
        }
        other => panic!("{other} was not to be expected"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is named as being in the way of the agent that comes nearest is so: it is taken away, one after the
    /// other, and when nothing is left the task has been placed, not before.
    #[test]
    fn what_is_named_as_being_in_the_way_is_in_the_way(
        agents in proptest::collection::vec((1..3u32, 0..3u64, proptest::bool::ANY, proptest::bool::ANY), 1..4),
        before in proptest::collection::vec(0..3u64, 0..6),
        cpu in 0..3u64,
        gpu in proptest::bool::ANY,
    ) {
        let agents = agents.into_iter().enumerate().map(|(i, (slots, cpu, gpu, draining))| {
            let agent = agent(["ada", "bob", "cyd"][i]).kinds(&["resize"]).slots(slots).cpu(cpu * 500);
            let mut agent: Agent = if gpu { agent.label("gpu", "a100") } else { agent };
            agent.draining = draining;
            agent
        });
        let mut mesh = Mesh::with_agents(agents.collect::<Vec<_>>());
        mesh.deliver_all(before.iter().map(|cpu| task("resize").cpu(cpu * 400)));
        // What waits too would take up the room that is made.
        (1..=before.len() as u64).filter(|n| is_waiting(&mesh, *n)).collect::<Vec<_>>().into_iter().for_each(|n| drop(mesh.cancel(n)));
        let wanted = if gpu { task("resize").needs("gpu") } else { task("resize") };
        mesh.deliver(wanted.cpu(cpu * 400).priority(shared::Priority::Urgent).id("wanted"));

        let mut past: Option<String> = None;
        for _ in 0..8 {
            let explanation = why(&mesh, "wanted");
            let state = mesh.view("wanted").map(|task| task.state);
            if state == Some(TaskState::Running) {
                prop_assert!(explanation.chosen.is_some());
                return Ok(());
            }
            let removed: u32 = explanation.filters.iter().map(|step| step.removed).sum();
            prop_assert_eq!(removed, explanation.agents, "it waits, so something is in the way everywhere");
            let nearest = explanation.nearest.expect("something is in the way");
            let named = format!("{} {}", nearest.agent, nearest.filter);
            prop_assert!(past.as_ref() != Some(&named), "{named} was taken out of the way");
            remove(&mut mesh, nearest.agent.as_str(), &nearest.filter);
            past = Some(named);
        }
        prop_assert!(false, "it is not placed although everything named was taken out of the way");
    }
}

#[test]
fn settings_that_change_hold_for_what_waits_already() {
    let mut config = Config::default();
    config.kinds.insert("resize".into(), KindConfig { max_running: Some(1), ..KindConfig::default() });
    let mut mesh = Mesh::with_config(config, [agent("ada").slots(4), agent("bob").slots(4)]);
    mesh.deliver_all(["resize"; 4]);
    assert_eq!(mesh.dispatches.len(), 1);

    let packed = KindConfig { max_running: Some(3), strategy: Some(Strategy::BinPack), ..KindConfig::default() };
    mesh.tell(Event::KindConfigured("resize".to_owned(), packed));

    assert_eq!((mesh.given_to("ada").len(), mesh.given_to("bob").len()), (3, 0));
}

#[test]
fn a_tenant_whose_limit_is_reached_does_not_hold_up_the_others() {
    let mut config = Config::default();
    config.tenants.insert("acme".into(), TenantConfig { max_running: Some(1), ..TenantConfig::default() });
    let mut mesh = Mesh::with_config(config, [agent("ada").slots(3)]);

    mesh.deliver_all([task("resize").tenant("acme"), task("resize").tenant("acme"), task("resize").tenant("other")]);

    assert_eq!(mesh.given_to("ada"), ["1", "3"]);
    assert!(why(&mesh, "2").summary.contains("tenant `acme`"), "{:?}", why(&mesh, "2"));
    mesh.succeed("ada", "1");
    assert_eq!(mesh.given_to("ada"), ["2", "3"]);
}

#[test]
fn a_rate_is_kept_to_and_told() {
    let mut config = Config::default();
    config.kinds.insert("resize".into(), KindConfig { rate: Some("10/s".parse().unwrap()), ..KindConfig::default() });
    let mut mesh = Mesh::with_config(config, [agent("ada").slots(50)]);
    mesh.deliver_all(["resize"; 40]);

    assert!(why(&mesh, "40").limit.unwrap().contains("rate of `resize`"));
    let at_once = mesh.dispatches.len();
    mesh.pass(ms(2000));

    let later = mesh.dispatches.len() - at_once;
    assert!(at_once <= 2 && (19..=21).contains(&later), "{at_once} at once, {later} in the two seconds after");
}

#[test]
fn tasks_with_one_key_go_to_one_agent_as_long_as_it_has_not_too_much() {
    let agents = ["ada", "bob", "cyd", "dan"].map(|name| agent(name).slots(8));
    let mut mesh = Mesh::with_agents(agents);

    let mut homes = Vec::new();
    for _ in 0..5 {
        mesh.deliver(task("resize").affinity("user 7"));
        homes.push(mesh.dispatches.last().unwrap().agent.clone());
        let (home, id) = (mesh.dispatches.last().unwrap().agent.clone(), mesh.dispatches.len().to_string());
        mesh.succeed(home.as_str(), &id);
    }
    homes.dedup();
    assert_eq!(homes.len(), 1);

    // Of many at once no agent gets more than a quarter more than its share.
    mesh.deliver_all((0..16).map(|_| task("resize").affinity("user 7")));
    assert!(["ada", "bob", "cyd", "dan"].iter().all(|name| mesh.given_to(name).len() <= 5));
}

#[test]
fn attempts_are_spread_over_the_values_of_a_label() {
    let zones = [("ada", "a", 8), ("bob", "a", 8), ("cyd", "b", 4), ("dan", "c", 2)];
    let agents = zones.map(|(name, zone, slots)| agent(name).slots(slots).label("zone", zone));
    let mut mesh = Mesh::with_strategy(Strategy::Spread, agents);

    mesh.deliver_all(["resize"; 6]);

    let given = ["ada", "bob", "cyd", "dan"].map(|name| mesh.given_to(name).len());
    assert_eq!((given[0] + given[1], given[2], given[3]), (2, 2, 2));
}

#[test]
fn bin_pack_fills_one_agent_before_the_next() {
    let mut mesh = Mesh::with_strategy(Strategy::BinPack, ["ada", "bob", "cyd"].map(|name| agent(name).slots(4)));

    mesh.deliver_all(["resize"; 6]);

    let mut given = ["ada", "bob", "cyd"].map(|name| mesh.given_to(name).len());
    given.sort_unstable();
    assert_eq!(given, [0, 2, 4]);
}

#[test]
fn power_of_two_is_nearly_even() {
    let names = ["ada", "bob", "cyd", "dan"];
    let mut mesh = Mesh::with_strategy(Strategy::PowerOfTwo, names.map(|name| agent(name).slots(100)));

    mesh.deliver_all(["resize"; 200]);

    assert!(
        names.iter().all(|name| (44..=56).contains(&mesh.given_to(name).len())),
        "{:?}",
        names.map(|n| mesh.given_to(n).len())
    );
}

#[test]
fn preferred_labels_count_with_their_weights() {
    let mut config = Config::default();
    let prefer = [("ssd".to_owned(), 1.0), ("region=eu".to_owned(), 0.4)].into();
    let kind = KindConfig { strategy: Some(Strategy::CapabilityBased), prefer: Some(prefer), ..KindConfig::default() };
    config.kinds.insert("default".into(), kind);
    let agents = [
        agent("ada").label("region", "eu"),
        agent("bob").label("ssd", ""),
        agent("cyd").label("ssd", "").label("region", "eu"),
    ];
    let mut mesh = Mesh::with_config(config, agents);

    mesh.deliver_all(["resize"; 3]);

    let order: Vec<&str> = mesh.dispatches.iter().map(|dispatch| dispatch.agent.as_str()).collect();
    assert_eq!(order, ["cyd", "bob", "ada"]);
}
